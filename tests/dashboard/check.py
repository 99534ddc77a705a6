"""What the dashboard shows, in a real browser, beside what `/stats` says.

    check.py                     all checks
    check.py --screenshot FILE   a picture of a lively daemon, and nothing else
"""

import argparse
import os
import re
import shutil
import signal
import tempfile
from collections import Counter
from pathlib import Path

from playwright.sync_api import sync_playwright

from load import EVIL, ROOT, Daemon, Load, wait_for

PICTURES = ROOT / "target/dashboard"
WIDE = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}

# What was ever shown: texts with a negative number, rates; and violations of the policy.
WATCH = """
window.seen = {negative: [], rates: [], violations: []};
document.addEventListener("securitypolicyviolation", (event) =>
    seen.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
new MutationObserver((changes) => changes.forEach(({target}) => {
    if (/(^|[^\\w.])[-−]\\d|NaN|undefined|Infinity/.test(target.textContent)
        && !target.closest?.("#events, main, body, html")) seen.negative.push(target.textContent);
    if (/\\/s$/.test(target.textContent) && target.closest?.("td, .tile, .figures")) seen.rates.push(target.textContent);
})).observe(document, {subtree: true, childList: true, characterData: true});
"""

# The table as it is seen.
TABLE = """() => [...document.querySelectorAll("#services tr")].map((row) => Object.fromEntries(
    [...row.cells].map((cell) => [cell.classList[0], {
        main: cell.firstElementChild.textContent,
        note: cell.querySelector("small")?.textContent ?? "",
        who: cell.querySelector(".who")?.textContent ?? "", title: cell.title,
        meter: cell.querySelector("meter")?.value,
    }])))"""


# Some service drops, while events come for it.
BUSY = """[...document.querySelectorAll("#services tr")].some((row) =>
    row.querySelector(".drops span").textContent !== "0"
    && /^[1-9]/.test(row.querySelector(".in span").textContent))"""


def number(text):
    return int(text.replace(",", ""))


def counts(text):
    """`queue-full 1,200, expired 3` by name."""
    return {name: number(count) for name, count in re.findall(r"([\w-]+) ([\d,]+\d|\d)", text)}


def figures(service):
    """What the table has to show of a service."""
    counters, queue, workers = service["counters"], service["queue"], service["workers"]
    durable = service["durable"] or {}
    drops = dict(counters["dropped"])
    if counters["expired"]:
        drops["expired"] = counters["expired"]
    waiting = {"memory": queue["events"]}
    if durable:
        waiting["disk"] = durable["onDiskOnlyEvents"]
    return {
        "matched": counters["matched"], "delivered": counters["delivered"],
        "queued": counters["queued"], "waiting": waiting,
        "full": round(max(queue["bytes"] / queue["budgetBytes"], queue["events"] / queue["budgetEvents"]), 4),
        "in flight": counters["inFlight"], "retries": counters["retries"],
        "workers": f"{workers['ready']}/{workers['connected']}", "stalled": workers["stalled"],
        "dead": counters["deadLettered"], "drops": sum(counters["dropped"].values()), "reasons": drops,
        "who": who(workers["named"]), "each": [about(worker) for worker in workers["named"]],
    }


def about(worker):
    """A worker in the tooltip."""
    parts = [worker["name"], worker["client"], worker["address"], "ready" if worker["ready"] else "not ready"]
    if worker["credit"] is not None:
        parts.append(f"holds {worker['heldEvents']} of {worker['credit']}")
    return " · ".join(filter(None, parts))


def who(named):
    """What the table calls the workers."""
    labels = Counter(worker["name"] or worker["client"] for worker in named)
    texts = [label if count == 1 else f"{label} ×{count}" for label, count in sorted(labels.items())]
    return ", ".join(texts[:3] + ([f"{len(texts) - 3} more"] if len(texts) > 3 else []))


def shown_figures(row):
    """The same, read from the table."""
    first = lambda text, word: next((number(n) for n in re.findall(rf"([\d,]+) {word}", text)), 0)
    return {
        "matched": number(row["in"]["note"]), "delivered": number(row["out"]["note"]),
        "queued": number(row["queued"]["main"]), "waiting": counts(row["queued"]["note"]),
        "full": round(row["queued"]["meter"], 4),
        "in flight": number(row["flight"]["main"]), "retries": first(row["flight"]["note"], "retries"),
        "workers": row["workers"]["main"], "stalled": first(row["workers"]["note"], "stalled"),
        "dead": number(row["dead"]["main"]), "drops": number(row["drops"]["main"]),
        "reasons": counts(row["drops"]["note"]),
        "who": row["workers"]["who"], "each": row["workers"]["title"].splitlines(),
    }


class Page:
    """The dashboard in a tab that must not complain."""

    def __init__(self, browser, daemon, viewport=WIDE, **options):
        self.complaints = []
        self.tab = browser.new_context(viewport=viewport, **options).new_page()
        self.tab.add_init_script(WATCH)
        self.tab.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("dialog", lambda dialog: self.complaints.append(f"a dialog: {dialog.message}"))
        assert self.tab.goto(daemon.url).status == 200

    def state(self):
        return self.tab.locator("#state").text_content()

    def wait_for(self, script):
        # Playwright's own way to wait needs eval, which the policy forbids.
        wait_for(script, lambda: self.tab.evaluate(script))

    def wait_for_state(self, begin):
        self.wait_for(f"document.getElementById('state').textContent.startsWith({begin!r})")

    def table(self):
        return {row["name"]["main"]: row for row in self.tab.evaluate(TABLE)}

    def names(self):
        return self.tab.locator("#services td.name b").all_text_contents()

    def is_as_wide_as_the_window(self):
        return self.tab.evaluate("document.documentElement.scrollWidth <= innerWidth")

    def picture(self, name):
        self.tab.screenshot(path=PICTURES / f"{name}.png", full_page=True)

    def close(self):
        """Ends it, and looks back."""
        seen = self.tab.evaluate("seen")
        assert not seen["negative"] and not seen["violations"], seen
        assert not self.complaints, self.complaints
        self.tab.context.close()


def is_as_stats_say(page, daemon):
    """Every figure of every service, once nothing moves any more."""
    last = None

    def compared():
        nonlocal last
        stats = {service["name"]: figures(service) for service in daemon.stats()["services"]}
        shown = {name: shown_figures(row) for name, row in page.table().items()}
        last = stats, shown
        return stats == shown and stats
    try:
        return wait_for("the same figures", compared)
    except AssertionError:
        stats, shown = last
        for name in stats.keys() | shown.keys():
            if stats.get(name) != shown.get(name):
                print(f"{name}: /stats {stats.get(name)}\n  shown {shown.get(name)}")
        raise


def check_nothing_yet(browser, daemon):
    page = Page(browser, daemon)
    page.wait_for_state("ready")
    assert page.names() == ["Archive"]
    assert "Open to every machine on the local networks: tcp://*." in page.tab.locator("#open").text_content()
    assert page.tab.locator("#open").is_visible()
    wait_for("one start", lambda: page.tab.locator("#events li b").all_text_contents().count("started") == 1)
    page.close()


def is_lively(page):
    page.wait_for(BUSY)
    page.wait_for("document.querySelector('.tile[data-tile=dead] b').textContent !== '0'")
    page.wait_for("document.querySelectorAll('#slow .slow, #slow .bad').length >= 2")


def take_screenshot(browser, daemon, path):
    """For the README: after three minutes, so that the courses have something to tell."""
    page = Page(browser, daemon, {"width": 1200, "height": 1600})
    load = Load(daemon)
    load.begin(for_picture=True)
    page.tab.wait_for_timeout(180_000)
    bottom = page.tab.evaluate("document.querySelector('table').closest('section').getBoundingClientRect().bottom")
    page.tab.screenshot(path=path, clip={"x": 0, "y": 0, "width": 1200, "height": bottom + 12})
    page.close()
    load.close()


def check_under_load(browser, daemon):
    """Lively figures in each scheme and width; leaves the page open."""
    page = Page(browser, daemon)
    load = Load(daemon)
    load.begin()
    is_lively(page)
    rates = page.tab.locator("#services td.in span").all_text_contents()
    assert any(re.match(r"[1-9]", rate) for rate in rates), rates
    moving = "[...document.querySelectorAll('#edges .drops')].some((path) => path.checkVisibility({visibilityProperty: true}))"
    assert page.tab.evaluate(moving)
    page.picture("light")
    for name, viewport, options in [
        ("dark", WIDE, {"color_scheme": "dark"}), ("still", WIDE, {"reduced_motion": "reduce"}),
        ("phone", PHONE, {}), ("phone-dark", PHONE, {"color_scheme": "dark"}), ("tablet", {"width": 800, "height": 900}, {}),
    ]:
        other = Page(browser, daemon, viewport, **options)
        other.wait_for(BUSY)
        assert other.is_as_wide_as_the_window(), name
        ground = other.tab.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, re.findall(r"\d+", ground)[:3])) / 3
        assert (brightness < 60) == ("dark" in name), (name, ground)
        assert other.tab.evaluate(moving) == (name != "still"), name
        other.picture(name)
        other.close()
    load.stop()
    return page, load


def check_at_rest(page, daemon):
    stats = is_as_stats_say(page, daemon)
    reasons = {reason for service in stats.values() for reason in service["reasons"]}
    assert "queue-full" in reasons and stats["Kitchen"]["dead"] > 0, stats
    assert stats["Labels"]["stalled"] == 1 and stats["Archive"]["queued"] > 0, stats
    assert EVIL in stats and EVIL in page.names()
    assert stats["Billing"]["who"] == "till-0, till-1, till-2" and stats["Stock"]["who"] == "python/3 ×2", stats
    assert EVIL in stats[EVIL]["who"], stats
    assert page.tab.locator("main img").count() == 0
    page.wait_for("document.querySelector('.tile[data-tile=published] b').textContent === '0/s'")
    slow = lambda: [" ".join(filter(None, (peer["role"], peer["service"], peer["address"])))
                    for peer in daemon.stats()["peers"]["slow"]]
    shown = lambda: page.tab.locator("#slow .slow span:first-child").all_text_contents()
    wait_for("the same slow peers", lambda: shown() == slow())
    assert {"subscriber", "worker"} <= {name.split()[0] for name in slow()}, slow()
    assert any(code.startswith("EM-03") for code in page.tab.locator("#events li span").all_text_contents())


def check_sorting_and_filter(page):
    column = lambda name: page.tab.locator("#columns button", has_text=name)
    queued = lambda: [number(text) for text in page.tab.locator("#services td.queued > span").all_text_contents()]
    column("Queued").click()
    assert queued() == sorted(queued(), reverse=True) and len(set(queued())) > 2
    column("Queued").press("Enter")
    assert queued() == sorted(queued())
    assert page.tab.locator("th[aria-sort=ascending]").text_content() == "Queued"
    column("Service").press("Space")
    assert page.names() == sorted(page.names())
    page.tab.get_by_label("Filter").fill("bill")
    assert page.names() == ["Billing"]
    page.tab.get_by_label("Filter").fill("ORDERPAID")
    assert page.names() == ["Billing", "Labels", "Mail", "Reports"]
    page.tab.get_by_label("Filter").fill("")


def check_theme(page):
    ground = lambda: page.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    light, button = ground(), page.tab.locator("#theme")
    button.click()
    assert ground() == light and button.text_content() == "Theme: light"
    button.press("Enter")
    assert ground() != light and button.text_content() == "Theme: dark"
    page.tab.reload()
    assert ground() != light, "it is remembered"
    page.tab.locator("#theme").click()
    assert ground() == light


def check_pause(page):
    asked = []
    page.tab.on("request", lambda request: asked.append(request.url))
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});" \
        "document.dispatchEvent(new Event('visibilitychange'))"
    page.wait_for_state("ready")
    page.tab.evaluate(hide % "true")
    # What was under way may end.
    page.tab.wait_for_timeout(500)
    asked.clear()
    page.tab.wait_for_timeout(2500)
    assert not asked, asked
    page.tab.evaluate(hide % "false")
    page.tab.wait_for_timeout(500)
    assert asked


def bridges(stats):
    """Some that the daemon of this check doesn't have: an engine away, one that brings in, and evil."""
    archive = next(one for one in stats["services"] if one["name"] == "Archive")
    for name in ["bridge.orders", "bridge.stock"]:
        stats["services"].append({**archive, "name": name})
    one = {"engine": "main", "direction": "out", "required": False, "problem": None, "bytes": 0, "known": 0,
           "inFlight": 0, "failures": 0, "refused": 0, "events": 4711, "state": "running"}
    return [
        {**one, "name": "orders", "state": "failing", "problem": f"no stream takes {EVIL}", "refused": 1200},
        {**one, "name": "stock", "direction": "in", "events": 12345},
        {**one, "name": EVIL, "engine": EVIL, "state": "connecting"},
    ]


def shown_bridge(bridge, services):
    """What the list has to say of a bridge at rest."""
    arrow = {"in": "←", "out": "→"}[bridge["direction"]]
    counters = services.get(f"bridge.{bridge['name']}", {}).get("counters")
    waits_here = counters and bridge["direction"] == "out"
    waiting = [f"{counters['queued'] + counters['inFlight']:,} waiting"] if waits_here else []
    refused = [f"{bridge['refused']:,} refused"] if bridge["refused"] else []
    return [f"{bridge['name']} {arrow} {bridge['engine']}", bridge["state"], "0/s",
            ", ".join([f"{bridge['events']:,} in all", *waiting, *refused]), bridge["problem"] or ""]


def check_bridges(browser, daemon):
    """Which engines there are depends on how the daemon was built: here its answer gets some."""
    told = {}

    def answer(route):
        stats = route.fetch().json()
        stats["bridges"] = bridges(stats)
        told.update(stats)
        route.fulfill(json=stats)

    for name, viewport in [("bridges", WIDE), ("bridges-phone", PHONE)]:
        page = Page(browser, daemon, viewport)
        assert not page.tab.locator("#bridges-of").is_visible()
        page.tab.route("**/stats", answer)
        page.wait_for("document.querySelectorAll('#bridges .bridge').length === 3")
        items = page.tab.locator("#bridges .bridge")
        shown = lambda: [items.nth(n).locator(":scope > *").all_text_contents() for n in range(3)]
        services = lambda: {one["name"]: one for one in told["services"]}
        wait_for("the same bridges", lambda: shown() == [shown_bridge(one, services()) for one in told["bridges"]])
        assert page.is_as_wide_as_the_window(), name
        page.picture(name)
        page.tab.unroute("**/stats")
        page.close()


def check_opening(browser, daemon):
    """What a queue kept from before counts as matched when that is known: it did not come at that moment."""
    answers = []

    def answer(route):
        stats = route.fetch().json()
        archive = next(one for one in stats["services"] if one["name"] == "Archive")
        assert archive["counters"]["matched"] > 100
        if len(answers) < 3:
            archive["durable"]["state"] = "opening"
            archive["counters"] = {**archive["counters"], "matched": 0, "queued": 0}
        answers.append(stats)
        route.fulfill(json=stats)

    page = Page(browser, daemon, WIDE)
    page.tab.route("**/stats", answer)
    wait_for("looks after it was opened", lambda: page.tab.evaluate("true") and len(answers) > 6)
    rates = set(page.tab.evaluate("seen.rates"))
    assert rates == {"0/s"}, rates
    page.tab.unroute("**/stats")
    page.close()


def check_ninety_services(browser, daemon, load):
    for n in range(84):
        load.subscribe(f"Site {n + 1:02} of many with a long name", f"site.{n}")
    for name, viewport in [("many", WIDE), ("many-phone", PHONE)]:
        page = Page(browser, daemon, viewport)
        page.wait_for("document.querySelectorAll('#services tr').length >= 90")
        assert page.tab.locator(".lane").count() == 9
        assert page.is_as_wide_as_the_window(), name
        is_as_stats_say(page, daemon)
        page.picture(name)
        page.close()


def check_hang_and_restart(page, daemon):
    page.tab.evaluate("seen.rates = []")
    daemon.signal(signal.SIGSTOP)
    page.wait_for_state("no answer from the daemon since")
    assert "no answer within 4 s" in page.state()
    daemon.signal(signal.SIGCONT)
    page.wait_for_state("ready")
    before = daemon.stats()["startedAtMs"]
    started = "[...document.querySelectorAll('#events li')].filter((item) => " \
        "item.querySelector('b').textContent === 'started').map((item) => Date.parse(item.querySelector('time').dateTime))"
    daemon.kill()
    page.wait_for_state("no answer from the daemon since")
    page.wait_for("document.getElementById('state').textContent.includes('no connection')")
    page.picture("lost")
    daemon.start()
    page.wait_for_state("ready")
    run = daemon.stats()["startedAtMs"]
    assert run > before + 1000
    is_as_stats_say(page, daemon)
    page.wait_for(f"{started}.some((at) => at > {run - 1000})")
    # Nobody published meanwhile: a counter that begins anew is no rate.
    page.wait_for("document.querySelector('.tile[data-tile=published] b').textContent === '0/s'")
    rates = set(page.tab.evaluate("seen.rates"))
    assert rates == {"0/s"}, rates
    # The browser itself complains of what did not answer.
    page.complaints = [said for said in page.complaints if "ERR_CONNECTION_REFUSED" not in said and "ERR_CONNECTION_RESET" not in said and "ERR_EMPTY_RESPONSE" not in said]


def check_all(browser, daemon):
    check_nothing_yet(browser, daemon)
    page, load = check_under_load(browser, daemon)
    check_at_rest(page, daemon)
    check_sorting_and_filter(page)
    check_theme(page)
    check_pause(page)
    check_bridges(browser, daemon)
    check_opening(browser, daemon)
    check_ninety_services(browser, daemon, load)
    check_hang_and_restart(page, daemon)
    page.close()
    load.close()
    print(f"the dashboard shows what /stats says; pictures are in {PICTURES}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--screenshot", help="only write a picture of a lively daemon here")
    screenshot = parser.parse_args().screenshot
    PICTURES.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp())
    daemon = Daemon(work)
    try:
        with sync_playwright() as playwright:
            # As root, as in containers, Chromium has no sandbox.
            options = ["--no-sandbox"] if os.geteuid() == 0 else []
            browser = playwright.chromium.launch(executable_path=os.environ["CHROMIUM"], args=options)
            if screenshot:
                take_screenshot(browser, daemon, screenshot)
            else:
                check_all(browser, daemon)
            browser.close()
        assert daemon.stop() == 0, daemon.log.read_text()
    finally:
        daemon.kill()
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
