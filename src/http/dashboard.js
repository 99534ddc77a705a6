"use strict";
// What peers chose (names, subjects, addresses) becomes text, never markup.

const POLL_MS = 1000;
const PATIENCE_MS = 4000;
const BACKOFF_MAX_MS = 15_000;
const TREND_MS = 300_000;
const TREND_STEP_MS = 3000;
/** Services in the picture; the others are one lane together. */
const LANES_MAX = 8;
const LANES_STAY_MS = 10_000;
/** Workers whose names are in the table; the others' are in its tooltip. */
const WHO_MAX = 3;
const EVENTS_MAX = 200;
const EVENT_COLUMNS = ["ts", "code", "type", "level", "instance", "seq", "message"];

const $ = (id) => document.getElementById(id);
const SVG = $("edges").namespaceURI;

/** An element with texts and other elements in it. */
function make(tag, className = "", ...content) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...content);
  return element;
}

function draw(parent, className, tag = "path") {
  const shape = document.createElementNS(SVG, tag);
  shape.setAttribute("class", className);
  return parent.appendChild(shape);
}

/** Changes only what differs, lest selections and screen readers are disturbed. */
function say(element, text, className) {
  const said = String(text);
  if (element.textContent !== said) element.textContent = said;
  if (className !== undefined && element.className !== className) element.className = className;
}

function pairs(map) {
  return Object.entries(map).map(([name, count]) => `${name} ${whole(count)}`);
}

const total = (list, of) => list.reduce((sum, item) => sum + of(item), 0);
const also = (count, what) => (count > 0 ? `, ${whole(count)} ${what}` : "");
const dropsOf = (counters) => total(Object.values(counters.dropped), (events) => events);

const grouped = new Intl.NumberFormat("en");
const whole = (number) => grouped.format(number);

function perSecond(rate) {
  if (rate === null) return "–";
  if (rate >= 1e6) return `${(rate / 1e6).toFixed(2)}M/s`;
  if (rate >= 1e4) return `${(rate / 1e3).toFixed(1)}k/s`;
  return `${rate > 0 && rate < 9.95 ? rate.toFixed(1) : whole(Math.round(rate))}/s`;
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const unit = Math.min(units.length - 1, bytes > 0 ? Math.floor(Math.log2(bytes) / 10) : 0);
  const number = bytes / 1024 ** unit;
  return `${number < 10 && unit > 0 ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}

function span(seconds) {
  const units = [["d", 86_400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = Math.max(0, units.findIndex(([, length]) => seconds >= length));
  const [name, length] = units[seconds < 1 ? 3 : first];
  const rest = seconds < 3600 ? "" : ` ${Math.floor((seconds % length) / units[first + 1][1])} ${units[first + 1][0]}`;
  return `${Math.floor(seconds / length)} ${name}${rest}`;
}

const timeOfDay = (date) => date.toLocaleTimeString("en-GB");

/** A figure over the last minutes. */
class Course {
  points = [];
  rate = null;
  #last = null;
  #mark = null;

  /** Of a counter: its rate. None over a restart, or where the counter began anew. */
  count(value, stats) {
    const figure = { value, at: stats.uptimeSeconds, run: stats.startedAtMs, clock: performance.now() };
    const since = (from) => {
      const goesOn = from && from.run === figure.run && value >= from.value && figure.at > from.at;
      return goesOn ? (value - from.value) / (figure.at - from.at) : null;
    };
    if (this.#last && this.#last.run === figure.run && this.#last.at === figure.at) return;
    this.rate = since(this.#last);
    this.#last = figure;
    this.#note(figure, () => since(this.#mark));
  }

  /** Begins anew. */
  forget() {
    this.rate = this.#last = this.#mark = null;
  }

  /** Of a level. */
  hold(value) {
    this.rate = value;
    this.#note({ clock: performance.now() }, () => value);
  }

  #note(figure, value) {
    if (this.#mark && figure.clock - this.#mark.clock < TREND_STEP_MS) return;
    if (this.#mark) this.points.push([figure.clock, value()]);
    this.#mark = figure;
    const begin = figure.clock - TREND_MS;
    while (this.points.length > 0 && this.points[0][0] < begin) this.points.shift();
  }

  /** As a path in a box of 100 by 26; gaps where nothing is known. */
  path(top) {
    const now = performance.now();
    let pen = "M";
    return [...this.points, [now, this.rate]].map(([clock, value]) => {
      const command = value === null ? "" : pen;
      pen = value === null ? "M" : "L";
      return command && `${command}${(100 - (now - clock) / TREND_MS * 100).toFixed(1)} ${(25 - value / top * 23).toFixed(1)}`;
    }).join("");
  }

  get top() {
    return Math.max(1e-9, this.rate ?? 0, ...this.points.map(([, value]) => value ?? 0));
  }
}

/** Shows courses on one scale. */
class Trend {
  constructor(svg, classes) {
    svg.setAttribute("viewBox", "0 0 100 26");
    svg.setAttribute("preserveAspectRatio", "none");
    this.paths = classes.map((className) => draw(svg, className));
  }

  show(...courses) {
    const top = Math.max(...courses.map((course) => course.top));
    courses.forEach((course, n) => this.paths[n].setAttribute("d", course.path(top)));
  }
}

/** A line of the picture, as wide and as quick as what flows. */
class Stream {
  constructor(from, to, className = "") {
    Object.assign(this, { from, to });
    this.bed = draw($("edges"), className);
    this.drops = draw($("edges"), `drops ${className}`);
    this.className = className;
    this.motion = this.drops.animate([{ strokeDashoffset: 16 }, { strokeDashoffset: 0 }], { duration: 1000, iterations: Infinity });
    this.flow(0);
  }

  flow(rate) {
    const decades = Math.log10(1 + (rate ?? 0));
    this.bed.setAttribute("class", rate > 0 ? this.className : "still");
    this.bed.style.strokeWidth = rate > 0 ? `${2 + 1.9 * decades}px` : "";
    this.drops.style.strokeWidth = `${2 + .8 * decades}px`;
    this.drops.style.visibility = rate > 0 ? "visible" : "hidden";
    this.motion.updatePlaybackRate(rate > 0 ? .5 + .55 * decades : 0);
  }

  /** Lays it out; of all that leave a node, this leaves at a part of its height. */
  lay(origin, part) {
    const [from, to] = [this.from, this.to].map((node) => node.getBoundingClientRect());
    const [left, top] = [to.left - origin.left, to.top + to.height / 2 - origin.top];
    let path;
    if (to.left > from.right) {
      const [x, y] = [from.right - origin.left, from.top + from.height * part - origin.top];
      const bend = (left - x) / 2;
      path = `M${x} ${y}C${x + bend} ${y} ${left - bend} ${top} ${left} ${top}`;
    } else if (to.left - from.left < 8) {
      path = `M${left + to.width / 2} ${from.bottom - origin.top}V${to.top - origin.top}`;
    } else {
      const x = from.left + 13 - origin.left;
      path = `M${x} ${from.bottom - origin.top}V${top - 10}Q${x} ${top} ${x + 10} ${top}H${left}`;
    }
    for (const shape of [this.bed, this.drops]) shape.setAttribute("d", path);
  }

  remove() {
    this.motion.cancel();
    this.bed.remove();
    this.drops.remove();
  }
}

/** A service of the picture with its workers. */
class Lane {
  constructor() {
    this.element = make("div", "lane");
    [this.service, this.workers] = ["service", "workers"].map((kind) => {
      const node = this.element.appendChild(make("div", `node ${kind}`));
      const parts = { title: make("b"), figures: make("span", "figures"), note: make("small") };
      node.append(...Object.values(parts));
      return Object.assign(parts, { node });
    });
    this.meter = gauge();
    this.service.note.before(this.meter);
    $("targets").append(this.element);
    this.streams = [
      new Stream($("forwarder"), this.service.node),
      new Stream(this.service.node, this.workers.node, "out"),
    ];
  }

  show(name, shown) {
    const sum = (of) => total(shown, of);
    const rates = ["in", "out"].map((way) => sum((one) => one[way].rate ?? 0));
    const [connected, ready, stalled] = ["connected", "ready", "stalled"]
      .map((state) => sum(({ now }) => now.workers[state]));
    const [queued, dropped] = [sum(({ now }) => now.counters.queued), sum(({ now }) => dropsOf(now.counters))];
    say(this.service.title, name);
    this.service.node.title = name;
    say(this.service.figures, perSecond(rates[0]));
    const fullest = shown.reduce((a, b) => (fullness(b.now) > fullness(a.now) ? b : a)).now;
    fill(this.meter, fullness(fullest), "", whenFull(fullest));
    const lost = also(dropped, "dropped");
    say(this.service.note, `${whole(queued)} queued${lost}`, lost && "bad");
    say(this.workers.title, connected > 0 ? `${ready}/${connected} ready` : "no worker", connected > 0 ? "" : "warn");
    say(this.workers.figures, perSecond(rates[1]));
    this.dots(Math.min(stalled, 12), Math.min(ready - stalled, 12), Math.min(connected - ready, 12), stalled);
    this.streams.forEach((stream, n) => stream.flow(rates[n]));
  }

  dots(stalled, busy, away, stalledInAll) {
    const dots = [["stalled", "■", stalled], ["", "●", busy], ["away", "○", away]]
      .map(([className, dot, count]) => make("span", className, dot.repeat(Math.max(0, count))));
    this.workers.note.className = "dots";
    this.workers.note.replaceChildren(...dots, make("span", "bad", stalledInAll > 0 ? ` ${stalledInAll} stalled` : ""));
  }

  remove() {
    this.streams.forEach((stream) => stream.remove());
    this.element.remove();
  }
}

function gauge() {
  const meter = document.createElement("meter");
  Object.assign(meter, { min: 0, max: 1, optimum: 0 });
  return meter;
}

function fill(meter, part, title = "", whenFull = "drops") {
  meter.value = part;
  // What goes on to the disk when memory is full is nothing to warn of.
  Object.assign(meter, whenFull === "drops" ? { low: .6, high: .85 } : { low: 1, high: 1 });
  meter.title = title || `${Math.round(part * 100)} % of the budget`;
  meter.setAttribute("aria-label", meter.title);
}

const fullness = ({ queue }) => Math.max(queue.bytes / queue.budgetBytes, queue.events / queue.budgetEvents);

/** A worker that says who it is. */
const aboutWorker = ({ name, client, address, ready, credit, heldEvents }) => [
  name, client, address, ready ? "ready" : "not ready", credit === null ? null : `holds ${heldEvents} of ${credit}`,
].filter((part) => part !== null).join(" · ");

/** The first of them; those that say the same are counted. */
function whoIsWho(named) {
  const labels = new Map();
  for (const { name, client } of named) labels.set(name ?? client, (labels.get(name ?? client) ?? 0) + 1);
  const texts = [...labels].sort(([a], [b]) => (a < b ? -1 : 1)).map(([label, count]) => (count > 1 ? `${label} ×${count}` : label));
  const more = texts.length > WHO_MAX ? [`${texts.length - WHO_MAX} more`] : [];
  return [...texts.slice(0, WHO_MAX), ...more].join(", ");
}

const whenFull = ({ durable }) => (durable ? "spills" : "drops");

const COLUMNS = [
  { name: "name", label: "Service", by: ({ now }) => now.name },
  { name: "in", label: "In", by: (row) => row.in.rate ?? -1 },
  { name: "out", label: "Out", by: (row) => row.out.rate ?? -1 },
  { name: "trends", label: "5 minutes", head: "In, out (dashed), 5 min" },
  { name: "queued", label: "Queued", by: ({ now }) => now.counters.queued },
  { name: "flight", label: "In flight", by: ({ now }) => now.counters.inFlight },
  { name: "workers", label: "Workers", by: ({ now }) => now.workers.ready },
  { name: "dead", label: "Dead letters", by: ({ now }) => now.counters.deadLettered },
  { name: "drops", label: "Dropped", by: ({ now }) => dropsOf(now.counters) },
];

/** A service of the table. */
class Row {
  in = new Course();
  out = new Course();
  /** Decides who is in the picture; forgets slowly. */
  activity = 0;

  constructor() {
    this.element = make("tr");
    this.element.setAttribute("role", "row");
    this.cells = {};
    for (const { name, label } of COLUMNS) {
      const cell = this.element.appendChild(make("td", name));
      cell.setAttribute("role", name === "name" ? "rowheader" : "cell");
      if (name !== "name") cell.dataset.label = label;
      const [main, note] = [cell.appendChild(make(name === "name" ? "b" : "span")), cell.appendChild(make("small"))];
      this.cells[name] = { cell, main, note };
    }
    this.meter = gauge();
    this.cells.queued.main.after(this.meter);
    this.who = this.cells.workers.cell.appendChild(make("small", "who"));
    this.cells.trends.cell.replaceChildren();
    const svg = draw(this.cells.trends.cell, "trend", "svg");
    svg.setAttribute("aria-hidden", "true");
    this.trend = new Trend(svg, ["in", "out"]);
  }

  show(now, stats) {
    this.now = now;
    const { counters, queue, workers, durable } = now;
    // Opening it, what it kept from earlier runs counts as matched at once: that is no rate.
    if (durable?.state === "opening") this.in.forget();
    else this.in.count(counters.matched, stats);
    this.out.count(counters.delivered, stats);
    this.activity = this.activity * .95 + (this.in.rate ?? 0) + (this.out.rate ?? 0);
    const cell = (name, main, note, noteClass = "", mainClass = "") => {
      say(this.cells[name].main, main, mainClass);
      say(this.cells[name].note, note, noteClass);
    };
    const more = now.subjectCount - now.subjects.length;
    const subjects = now.subjects.map((subject) => subject || "(everything)").join(" ") + (more > 0 ? ` and ${whole(more)} more` : "");
    const trouble = { failed: "takes no events", unreadable: "can't be read, events wait" }[durable?.state];
    const failed = trouble ? `${trouble}: ${durable.reason}` : "";
    cell("name", now.name, failed || `${now.port || "no port"} · ${durable ? "durable · " : ""}${subjects}`, failed && "bad");
    this.cells.name.cell.title = `${now.name}\n${subjects}`;
    cell("in", perSecond(this.in.rate), whole(counters.matched));
    cell("out", perSecond(this.out.rate), whole(counters.delivered));
    this.trend.show(this.in, this.out);
    const disk = durable ? `, disk ${whole(durable.onDiskOnlyEvents)}` : "";
    cell("queued", whole(counters.queued), `memory ${whole(queue.events)}${disk}`);
    fill(this.meter, fullness(now), `${size(queue.bytes)} of ${size(queue.budgetBytes)}, ${whole(queue.events)} of ${whole(queue.budgetEvents)} events`, whenFull(now));
    cell("flight", whole(counters.inFlight), counters.retries > 0 ? `${whole(counters.retries)} retries` : "");
    const stalled = workers.stalled > 0 ? `${workers.stalled} stalled` : "";
    const able = workers.ready > 0 ? "ready" : workers.connected > 0 ? "none ready" : "none";
    cell("workers", `${workers.ready}/${workers.connected}`, stalled || able, stalled ? "bad" : able === "ready" ? "" : "warn");
    say(this.who, whoIsWho(workers.named));
    this.cells.workers.cell.title = workers.named.map(aboutWorker).join("\n");
    const unkept = counters.lettersLost > 0 ? `${whole(counters.lettersLost)} lost` : "";
    cell("dead", whole(counters.deadLettered), unkept, "bad", counters.deadLettered > 0 ? "bad" : "none");
    const expired = counters.expired > 0 ? [`expired ${whole(counters.expired)}`] : [];
    const drops = dropsOf(counters);
    cell("drops", whole(drops), [...pairs(counters.dropped), ...expired].join(", "), "warn", drops > 0 ? "bad" : "none");
  }
}

const rows = new Map();
const sorting = { column: COLUMNS[0], down: false };
const names = new Intl.Collator("en", { numeric: true });

function addColumns() {
  for (const column of COLUMNS) {
    const head = $("columns").appendChild(make("th"));
    head.setAttribute("role", "columnheader");
    head.scope = "col";
    column.cell = head;
    if (!column.by) {
      head.append(make("small", "", column.head));
      continue;
    }
    const button = head.appendChild(make("button", "", column.label));
    button.type = "button";
    button.addEventListener("click", () => {
      sorting.down = sorting.column === column ? !sorting.down : column.name !== "name";
      sorting.column = column;
      arrange();
    });
  }
}

/** Sorts and filters the table. Rows that stay where they are are not touched. */
function arrange() {
  const { column, down } = sorting;
  for (const { cell } of COLUMNS) cell.removeAttribute("aria-sort");
  column.cell.setAttribute("aria-sort", down ? "descending" : "ascending");
  const wanted = $("filter").value.trim().toLowerCase();
  const isWanted = ({ now }) => [now.name, ...now.subjects].some((text) => text.toLowerCase().includes(wanted));
  const byName = (a, b) => names.compare(a.now.name, b.now.name);
  const by = column.name === "name" ? byName : (a, b) => column.by(a) - column.by(b);
  const shown = [...rows.values()].filter(isWanted);
  shown.sort((a, b) => (down ? by(b, a) : by(a, b)) || byName(a, b));
  const elements = shown.map((row) => row.element);
  if (elements.length !== $("services").children.length || elements.some((element, n) => $("services").children[n] !== element)) {
    $("services").replaceChildren(...elements);
  }
  say($("count"), shown.length === rows.size ? rows.size : `${shown.length} of ${rows.size}`);
  $("none").hidden = shown.length > 0;
  say($("none"), rows.size === 0 ? "No service yet. “event-manager worker NAME SUBJECT” is one." : "No service has such a name or subject.");
}

function showServices(stats) {
  const there = new Set(stats.services.map(({ name }) => name));
  for (const name of rows.keys()) if (!there.has(name)) rows.delete(name);
  for (const now of stats.services) {
    if (!rows.has(now.name)) rows.set(now.name, new Row());
    rows.get(now.name).show(now, stats);
  }
  arrange();
}

const lanes = new Map();
const flow = { chosenAt: -Infinity, chosen: [], published: new Course(), unmatched: new Course(), heard: new Course() };
const trunk = new Stream($("publishers"), $("forwarder"));
const heard = new Stream($("forwarder"), $("subscribers"));

/** A lane for others stands for two at least. */
const lanesWanted = () => (rows.size > LANES_MAX + 1 ? LANES_MAX : rows.size);

/** Who is in the picture: the busiest, but not others every second. */
function choose() {
  const isThere = flow.chosen.every((name) => rows.has(name));
  const isFull = flow.chosen.length === lanesWanted();
  if (isThere && isFull && performance.now() - flow.chosenAt < LANES_STAY_MS) return;
  flow.chosenAt = performance.now();
  const busiest = [...rows.values()].sort((a, b) => b.activity - a.activity).slice(0, lanesWanted());
  flow.chosen = busiest.map(({ now }) => now.name).sort(names.compare);
}

function showFlow(stats) {
  choose();
  const others = [...rows.values()].filter(({ now }) => !flow.chosen.includes(now.name));
  const wanted = flow.chosen.map((name) => [`=${name}`, name, [rows.get(name)]]);
  if (others.length > 0) wanted.push(["others", `${others.length} more`, others]);
  const keys = wanted.map(([key]) => key);
  if (keys.join("\n") !== [...lanes.keys()].join("\n")) {
    lanes.forEach((lane) => lane.remove());
    lanes.clear();
    keys.forEach((key) => lanes.set(key, new Lane()));
  }
  for (const [key, name, shown] of wanted) lanes.get(key).show(name, shown);

  const { publishers, subscribers, connections, memory } = stats;
  flow.published.count(publishers.events, stats);
  flow.unmatched.count(publishers.unmatched, stats);
  flow.heard.count(subscribers.counters.delivered, stats);
  trunk.flow(flow.published.rate);
  heard.flow(flow.heard.rate);
  const node = (id, figures, note, noteClass = "") => {
    say($(id).querySelector(".figures"), figures);
    say($(id).querySelector("small"), note, noteClass);
  };
  const { links, hubs } = stats.mesh;
  const linked = links.filter(({ connected }) => connected).length;
  const ofMesh = links.length > 0 ? `\n${whole(linked)} of ${whole(links.length)} hubs linked` : "";
  node("publishers", perSecond(flow.published.rate), `${whole(publishers.connected)} connected\n${size(publishers.bytes)} in all${ofMesh}`, linked < links.length ? "bad" : "");
  const limit = memory.limitBytes > 0 ? ` of ${size(memory.limitBytes)}` : "";
  node("forwarder", perSecond(tiles.get("delivered").course.rate), `${perSecond(flow.unmatched.rate)} unmatched\n${whole(connections.open)} connections\n${size(memory.waitingBytes)}${limit} waiting`);
  const drops = also(dropsOf(subscribers.counters), "dropped");
  const asHubs = hubs.length > 0 ? ` (${whole(hubs.length)} as hubs)` : "";
  node("subscribers", perSecond(flow.heard.rate), `${whole(subscribers.connected)} connected${asHubs}, ${size(subscribers.outbox.bytes)} waiting${drops}`, drops && "bad");
  layFlow();
}

function layFlow() {
  const origin = $("flow").getBoundingClientRect();
  const out = [heard, ...[...lanes.values()].map((lane) => lane.streams[0])];
  trunk.lay(origin, .5);
  out.forEach((stream, n) => stream.lay(origin, (n + 1) / (out.length + 1)));
  lanes.forEach((lane) => lane.streams[1].lay(origin, .5));
}

const tiles = new Map([...document.querySelectorAll(".tile")].map((element) => [element.dataset.tile, {
  element, main: element.querySelector("b"), note: element.querySelector("small"),
  course: new Course(), trend: new Trend(element.querySelector("svg"), ["in"]),
}]));

function showTotals(stats) {
  const accounts = [...stats.services.map(({ counters }) => counters), stats.retiredServices, stats.subscribers.counters];
  const sum = (of) => total(accounts, of);
  const tile = (name, course, main, note, className = "tile") => {
    const shown = tiles.get(name);
    course(shown.course);
    say(shown.main, main(shown.course));
    say(shown.note, note);
    shown.element.className = className;
    shown.trend.show(shown.course);
  };
  const counted = (value) => (course) => course.count(value, stats);
  const [delivered, dead, dropped] = [sum((one) => one.delivered), sum((one) => one.deadLettered), sum(dropsOf)];
  const waiting = sum((one) => one.queued + one.inFlight);
  const { events } = stats.publishers;
  tile("published", counted(events), ({ rate }) => perSecond(rate), `${whole(events)} in all`);
  tile("delivered", counted(delivered), ({ rate }) => perSecond(rate), `${whole(delivered)} in all`);
  tile("waiting", (course) => course.hold(waiting), () => whole(waiting), size(stats.memory.waitingBytes));
  tile("dead", counted(dead), () => whole(dead), perSecond(tiles.get("dead").course.rate), dead > 0 ? "tile bad" : "tile");
  tile("dropped", counted(dropped), () => whole(dropped), perSecond(tiles.get("dropped").course.rate), dropped > 0 ? "tile bad" : "tile");
}

/** What went over each bridge, by its name. */
const bridgeCourses = new Map();

function showBridges(stats) {
  const { bridges, services } = stats;
  $("bridges-of").hidden = bridges.length === 0;
  const there = new Set(bridges.map(({ name }) => name));
  for (const name of bridgeCourses.keys()) if (!there.has(name)) bridgeCourses.delete(name);
  $("bridges").replaceChildren(...bridges.map((bridge) => {
    if (!bridgeCourses.has(bridge.name)) bridgeCourses.set(bridge.name, new Course());
    const course = bridgeCourses.get(bridge.name);
    course.count(bridge.events, stats);
    return bridgeItem(bridge, course, services.find(({ name }) => name === `bridge.${bridge.name}`));
  }));
}

/** What is to come in waits at the engine. */
function bridgeItem({ name, engine, direction, state, events, refused, problem }, { rate }, service) {
  const waiting = direction === "out" && service && `${whole(service.counters.queued + service.counters.inFlight)} waiting`;
  const figures = [`${whole(events)} in all`, waiting, refused > 0 && `${whole(refused)} refused`].filter((part) => part);
  return make("li", "bridge",
    make("b", "", `${name} ${direction === "in" ? "←" : "→"} ${engine}`),
    make("span", state === "running" ? "good" : "bad", state),
    make("span", "figures", perSecond(rate)),
    make("span", "", figures.join(", ")),
    make("span", "problem bad", problem ?? ""));
}

function showInstances({ instances }) {
  const { observed, known, leaders, counts } = instances;
  $("instances-of").hidden = !observed;
  if (!observed) return;
  const is = { alive: "good", gone: "none", unknown: "none" };
  const shown = known.map(({ id, state, pid, leads, address }) => make("li", "bridge",
    make("b", "", id),
    make("span", is[state] ?? "bad", state),
    make("span", "", leads ? "leads" : ""),
    make("span", "", [pid === null ? "" : `process ${pid}`, address ?? ""].filter((part) => part).join(", "))));
  const all = Object.values(counts).reduce((sum, count) => sum + count, 0);
  const more = all > known.length ? [make("li", "none", `and ${whole(all - known.length)} more`)] : [];
  const two = leaders.length > 1 ? [make("li", "bad", `Each of ${leaders.join(", ")} takes itself for the leader.`)] : [];
  const nobody = all === 0 ? [make("li", "none", "No heartbeat has come.")] : [];
  $("instances").replaceChildren(...two, ...nobody, ...shown, ...more);
}

function showSlow({ services, peers, security }) {
  const waiting = peers.slow.map(({ role, service, address, bytes, budgetBytes }) => {
    const meter = gauge();
    fill(meter, bytes / budgetBytes, `${size(bytes)} of ${size(budgetBytes)}`);
    const name = [role, service, address].filter((part) => part).join(" ");
    return make("li", "slow", make("span", "", name), make("span", "", size(bytes)), meter);
  });
  const stalled = services.filter(({ workers }) => workers.stalled > 0)
    .map(({ name, workers }) => make("li", "bad", `${name}: ${workers.stalled} of ${workers.connected} workers stalled`));
  const refused = Object.keys(peers.refused).length > 0
    ? [make("li", "none", `refused since the start: ${pairs(peers.refused).join(", ")}`)] : [];
  const mechanisms = Object.keys(peers.mechanisms).length > 0
    ? [make("li", "none", `connected by mechanism: ${pairs(peers.mechanisms).join(", ")}`)] : [];
  const denied = security.clients.filter(({ denied }) => Object.keys(denied).length > 0)
    .map(({ name, denied }) => make("li", "bad", `denied to ${name}: ${pairs(denied).join(", ")}`));
  const nobody = waiting.length + stalled.length > 0 ? [] : [make("li", "none", "Nobody is slow: peers take what they are sent.")];
  $("slow").replaceChildren(...nobody, ...stalled, ...waiting, ...denied, ...refused, ...mechanisms);
}

function showReadiness({ checks }) {
  $("ready").replaceChildren(...Object.entries(checks).map(([name, { ok, reason }]) =>
    make("li", "", make("b", ok ? "good" : "bad", `${ok ? "✓" : "✗"} ${name}`), `  ${reason}`)));
}

function showOpen({ openListeners }) {
  $("open").hidden = openListeners.length === 0;
  say($("open"), `Open to every machine on the local networks: ${openListeners.join(", ")}. ` +
    "The setting \"security\" restricts or confirms that.", "warn");
}

function showState(text, className) {
  say($("state"), text, className);
  document.title = className === "good" ? "event-manager" : `(!) ${text} – event-manager`;
}

function show(stats) {
  $("main").classList.remove("stale");
  say($("about"), `${stats.instance} ${stats.version}, up ${span(stats.uptimeSeconds)}`);
  const failing = Object.entries(stats.readiness.checks).filter(([, { ok }]) => !ok).map(([name]) => name);
  if (stats.draining) showState("stopping", "warn");
  else if (stats.readiness.ready) showState("ready", "good");
  else showState(`not ready: ${failing.join(", ")}`, "warn");
  showOpen(stats.security);
  showServices(stats);
  showTotals(stats);
  showFlow(stats);
  showBridges(stats);
  showInstances(stats);
  showSlow(stats);
  showReadiness(stats.readiness);
}

const journal = { run: null, after: null };

async function showEvents() {
  const page = await ask(journal.after === null ? "/events" : `/events?after=${journal.after}`);
  const isAnotherRun = journal.after !== null && page.startedMs !== journal.run;
  journal.run = page.startedMs;
  journal.after = isAnotherRun ? null : page.eventsAfter;
  if (isAnotherRun) return showEvents();
  const items = page.events.map(eventItem);
  if (page.missed > 0) items.unshift(make("li", "none", `${whole(page.missed)} earlier events are no longer kept`));
  $("events").prepend(...items.reverse());
  while ($("events").children.length > EVENTS_MAX) $("events").lastChild.remove();
}

function eventItem(event) {
  const time = make("time", "", timeOfDay(new Date(event.ts)));
  time.dateTime = time.title = event.ts;
  const grave = { warn: "warn", error: "bad" }[event.level] ?? "none";
  const fields = Object.entries(event).filter(([name, value]) => !EVENT_COLUMNS.includes(name) && !(name === "suppressed" && value === 0))
    .map(([name, value]) => `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`);
  const text = make("span", "", make("span", "message", event.message), ` ${fields.join(" ")}`);
  return make("li", "", time, make("span", grave, event.level), make("span", "none", event.code), make("b", grave === "none" ? "" : grave, event.type), text);
}

async function ask(path) {
  const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  const answer = await response.json();
  if (!response.ok && path !== "/readyz") throw Object.assign(new Error(answer.error), { isAnswer: true });
  return answer;
}

const polling = { now: false, timer: null, failures: 0, since: null };

async function poll() {
  clearTimeout(polling.timer);
  if (polling.now || document.hidden) return;
  polling.now = true;
  try {
    await look();
  } finally {
    polling.now = false;
    polling.timer = setTimeout(poll, Math.min(POLL_MS * 2 ** polling.failures, BACKOFF_MAX_MS));
  }
}

async function look() {
  let stats;
  try {
    stats = await ask("/stats");
  } catch (error) {
    return lost(error);
  }
  Object.assign(polling, { failures: 0, since: null });
  show(stats);
  // What is noted can wait: the figures are there.
  return showEvents().catch(() => {});
}

async function lost(error) {
  polling.failures += 1;
  polling.since ??= new Date();
  const known = { TimeoutError: `no answer within ${PATIENCE_MS / 1000} s`, TypeError: "no connection" };
  showState(`no answer from the daemon since ${timeOfDay(polling.since)}: ${known[error.name] ?? error.message}`, "bad");
  $("main").classList.add("stale");
  [trunk, heard, ...[...lanes.values()].flatMap((lane) => lane.streams)].forEach((stream) => stream.flow(0));
  if (error.isAnswer) await ask("/readyz").then(showReadiness).catch(() => {});
}

const THEMES = ["auto", "light", "dark"];

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  say($("theme"), `Theme: ${theme}`);
}

/** What the browser keeps, unless it keeps nothing. */
function kept(act) {
  try {
    return act(localStorage);
  } catch {
    return null;
  }
}

function switchTheme() {
  const theme = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % THEMES.length];
  setTheme(theme);
  kept((storage) => storage.setItem("theme", theme));
}

setTheme(THEMES.find((theme) => theme === kept((storage) => storage.getItem("theme"))) ?? "auto");
addColumns();
$("theme").addEventListener("click", switchTheme);
$("filter").addEventListener("input", arrange);
document.addEventListener("visibilitychange", poll);
new ResizeObserver(layFlow).observe($("flow"));
poll();
