//! The screen, and the same as plain lines.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Clear, Paragraph, Row, Table as Grid, TableState};

use super::super::bridges::{arrow, waiting};
use super::state::{Mode, Top};
use super::table::{Column, Table, cut, drops, shown};
use event_manager_wire::api::{Bridge, BridgeState, ServiceStatus, SlowPeer, Status};

/// Slow peers that a screen shows.
const SLOW_SHOWN: usize = 5;
/// Bridges that a screen shows.
const BRIDGES_SHOWN: usize = 5;
/// Below this height the screen has no room for slow peers.
const HEIGHT_FOR_SLOW: u16 = 16;

const HELP: &str = "\
up, down, j, k   select a service
page up, down    move by ten services
s                sort by the next column
r                reverse the order
/                show services whose name contains this
Esc              show all services
q, Ctrl-C        quit

LAG      queued events, including those on disk
ON DISK  of those, events that are only on disk
READY    ready workers of all connected ones
DEAD     dead letters since the start

Press any key to return.";

/// Draws everything.
pub(super) fn render(frame: &mut Frame<'_>, top: &Top, now: Instant) {
    let area = frame.area();
    let width = usize::from(area.width);
    let head = head(top, now, BRIDGES_SHOWN);
    let slow = slow_lines(top, area.height);
    let [head_area, table_area, slow_area, foot_area] = Layout::vertical([
        Constraint::Length(head.len() as u16),
        Constraint::Min(0),
        Constraint::Length(slow.len() as u16),
        Constraint::Length(1),
    ])
    .areas(area);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let head = head.into_iter().enumerate().map(|(n, line)| {
        let style = if n == 0 { bold } else { Style::new() };
        Line::styled(cut(&line, width), style)
    });
    frame.render_widget(Paragraph::new(Text::from_iter(head)), head_area);
    services(frame, top, table_area);
    let slow = slow.into_iter().map(|line| Line::raw(cut(&line, width)));
    frame.render_widget(Paragraph::new(Text::from_iter(slow)), slow_area);
    let foot = Line::styled(cut(&foot(top), width), Modifier::DIM);
    frame.render_widget(Paragraph::new(foot), foot_area);
    if top.mode == Mode::Help {
        frame.render_widget(Clear, area);
        frame.render_widget(Paragraph::new(HELP), area);
    }
}

fn services(frame: &mut Frame<'_>, top: &Top, area: Rect) {
    let rows = top.rows();
    let table = Table::new(&rows, usize::from(area.width));
    let cells = |texts: Vec<String>| {
        let cells = texts.into_iter().zip(&table.columns).map(|(text, column)| {
            let text = Text::raw(text);
            Cell::new(if column.is_figure() {
                text.right_aligned()
            } else {
                text
            })
        });
        Row::new(cells.collect::<Vec<_>>())
    };
    let headings = table
        .headings
        .iter()
        .map(|text| (*text).to_owned())
        .collect();
    let name_width = table.widths.first().copied().unwrap_or(0);
    let body = table.cells.iter().map(|texts| {
        let mut texts = texts.clone();
        if let (Some(name), Some(Column::Name)) = (texts.first_mut(), table.columns.first()) {
            *name = cut(name, name_width);
        }
        cells(texts)
    });
    let widths = table.widths.iter().map(|width| *width as u16);
    let grid = Grid::new(body, widths.map(Constraint::Length))
        .header(cells(headings).style(Modifier::BOLD))
        .row_highlight_style(Modifier::REVERSED);
    let mut state = TableState::new().with_selected(top.selected(&rows));
    frame.render_stateful_widget(grid, area, &mut state);
}

/// What goes for the whole daemon.
fn head(top: &Top, now: Instant, bridges_max: usize) -> Vec<String> {
    let mut lines = vec![];
    match &top.status {
        None => lines.push(format!("event-manager top: {}", top.address)),
        Some(status) => {
            let draining = if status.draining { ", stopping" } else { "" };
            let (name, version, address) = (&status.service, &status.version, &top.address);
            let uptime = status.uptime_seconds.clamp(0.0, 1e12);
            let uptime = span(Duration::from_secs_f64(uptime));
            lines.push(format!(
                "{name} {version} at {address}: up {uptime}{draining}"
            ));
            lines.extend(totals(top, status));
            lines.extend(mesh(top, status));
            lines.extend(bridges(top, status, bridges_max));
        }
    }
    if let Some(trouble) = &top.trouble {
        let age = top.age(now);
        let age = age.map_or(String::new(), |age| {
            format!("; the figures are {} old", span(age))
        });
        lines.push(format!("{trouble}; trying again{age}"));
    }
    lines
}

fn totals(top: &Top, status: &Status) -> [String; 2] {
    let rates = top.rates.as_ref();
    let published = rates.map_or("-".into(), |rates| shown(rates.published));
    let to_plain = rates.map_or("-".into(), |rates| shown(rates.plain.delivered));
    let dropped = rates.map_or("-".into(), |rates| drops(&rates.plain));
    let services = &status.services;
    let out = rates.map_or("-".into(), |rates| {
        let all = rates.services.values();
        shown(all.fold(0.0, |sum, rates| sum + rates.delivered))
    });
    [
        format!(
            "publishers {}: {published}/s   subscribers {}: {to_plain}/s, drop/s {dropped}",
            status.publishers.connected, status.subscribers.connected
        ),
        format!(
            "services {}: {out}/s   connections {} of {}   subscriptions {}",
            services.len(),
            status.connections.open,
            status.connections.max,
            status.subscribers.subscriptions
        ),
    ]
}

/// The hubs of the mesh, if there is one.
fn mesh(top: &Top, status: &Status) -> Option<String> {
    let (links, hubs) = (&status.mesh.links, status.mesh.hubs.len());
    if links.is_empty() && hubs == 0 {
        return None;
    }
    let linked = links.iter().filter(|link| link.connected).count();
    let rates = top.rates.as_ref().map(|rates| rates.mesh.map(shown));
    let [came, went] = rates.unwrap_or_else(|| ["-".into(), "-".into()]);
    let of = links.len();
    Some(format!(
        "mesh {linked} of {of} linked: {came}/s   hubs {hubs}: {went}/s"
    ))
}

/// A line for each bridge; if there are too many, for those that don't work first.
fn bridges(top: &Top, status: &Status, max: usize) -> Vec<String> {
    let mut all: Vec<_> = status.bridges.iter().collect();
    let left = all.len().saturating_sub(max);
    if left > 0 {
        all.sort_by_key(|bridge| bridge.state == BridgeState::Running);
    }
    let shown = all.into_iter().take(max);
    let mut lines: Vec<_> = shown.map(|one| bridge_line(top, status, one)).collect();
    if left > 0 {
        lines.push(format!("and {left} bridges more"));
    }
    lines
}

fn bridge_line(top: &Top, status: &Status, bridge: &Bridge) -> String {
    let rate = top
        .rates
        .as_ref()
        .and_then(|all| all.bridges.get(&bridge.name));
    let rate = rate.map_or("-".into(), |rate| shown(*rate));
    let waiting = waiting(status, bridge).map(|waiting| format!(", {waiting} waiting"));
    let problem = bridge.problem.as_ref().map(|why| format!("; {why}"));
    format!(
        "bridge {} {} {}: {}, {rate}/s{}{}",
        bridge.name,
        arrow(bridge),
        bridge.engine,
        bridge.state.name(),
        waiting.unwrap_or_default(),
        problem.unwrap_or_default()
    )
}

/// The bottom line: what is being typed, or the marked service and what the keys do.
fn foot(top: &Top) -> String {
    if top.mode == Mode::Filter {
        return format!("/{}_", top.filter);
    }
    let mut parts = vec![];
    if !top.filter.is_empty() {
        parts.push(format!("/{}", top.filter));
    }
    let order = if top.reversed { ", reversed" } else { "" };
    parts.push(format!("by {}{order}", top.sort.name()));
    parts.push("? help".into());
    let rows = top.rows();
    let marked = top.selected(&rows).and_then(|at| rows.get(at));
    parts.extend(marked.map(|row| about(row.service)));
    parts.join("  ")
}

fn about(service: &ServiceStatus) -> String {
    let port = service.port.map(|port| format!("port {port}"));
    let port = port.unwrap_or_else(|| "no port".to_owned());
    let subjects = service.subjects.iter().map(|subject| match &**subject {
        "" => "(all)",
        subject => subject,
    });
    let subjects: Vec<_> = subjects.collect();
    let mut text = format!("{}: {port}, subjects {}", service.name, subjects.join(" "));
    for (why, events) in &service.counters.dropped {
        text.push_str(&format!(", {why} {events}"));
    }
    let workers = workers(service);
    if !workers.is_empty() {
        text.push_str(&format!(", workers {workers}"));
    }
    text
}

/// Those that say who they are; who says the same is counted.
fn workers(service: &ServiceStatus) -> String {
    let mut labels = BTreeMap::<&str, u64>::new();
    for worker in &service.workers.named {
        *labels.entry(worker.label()).or_default() += 1;
    }
    let shown = labels.iter().map(|(label, count)| match count {
        1 => (*label).to_owned(),
        _ => format!("{label} ×{count}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn slow_lines(top: &Top, height: u16) -> Vec<String> {
    let slow = top.status.iter().flat_map(|status| &status.peers.slow);
    let lines: Vec<_> = slow.take(SLOW_SHOWN).map(slow_line).collect();
    if lines.is_empty() || height < HEIGHT_FOR_SLOW {
        return vec![];
    }
    [vec!["SLOW PEERS".into()], lines].concat()
}

fn slow_line(peer: &SlowPeer) -> String {
    let SlowPeer {
        role,
        address,
        bytes,
        budget_bytes,
        ..
    } = peer;
    let service = peer.service.iter().map(|service| format!(" {service}"));
    let service: String = service.collect();
    format!("{role}{service} {address}: {bytes} of {budget_bytes} bytes queued")
}

/// The same without a screen: lines, and an empty one at the end.
pub(super) fn plain(top: &Top, now: Instant) -> String {
    let mut lines = head(top, now, usize::MAX);
    if top.trouble.is_none() {
        let rows = top.rows();
        match rows.is_empty() {
            true => lines.push("no service is subscribed".into()),
            false => lines.extend(Table::new(&rows, usize::MAX).lines()),
        }
        let slow = top.status.iter().flat_map(|status| &status.peers.slow);
        lines.extend(slow.map(|peer| format!("slow: {}", slow_line(peer))));
    }
    lines.push(String::new());
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// A time in its two largest units.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}
