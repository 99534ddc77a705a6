//! Services as a table of texts, for a screen of any width and for plain lines.

use ratatui::text::Span;

use super::rates::Rates;
use super::state::Row;
use event_manager_wire::api::{ServiceStatus, Workers};

/// The widest that a service's name may make its column.
const NAME_MAX: usize = 40;
/// The least that is left to a name before a column gives way to it; on a wide screen a quarter.
const NAME_MIN: usize = 10;
/// The widest that reasons for drops may make their column, which is the last.
const DROPS_MAX: usize = 30;
/// Between two columns.
const GAP: usize = 1;

/// A column. The screen shows them in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Column {
    Name,
    In,
    Out,
    Lag,
    OnDisk,
    InFlight,
    Workers,
    Dead,
    Dropped,
    DropRate,
}

impl Column {
    /// Those that a narrow screen keeps longest come first.
    const BY_WORTH: [Self; 10] = [
        Self::Name,
        Self::Lag,
        Self::Workers,
        Self::In,
        Self::Out,
        Self::DropRate,
        Self::Dropped,
        Self::InFlight,
        Self::Dead,
        Self::OnDisk,
    ];

    fn heading(self) -> &'static str {
        match self {
            Self::Name => "SERVICE",
            Self::In => "IN/S",
            Self::Out => "OUT/S",
            Self::Lag => "LAG",
            Self::OnDisk => "ON DISK",
            Self::InFlight => "IN FLIGHT",
            Self::Workers => "READY",
            Self::Dead => "DEAD",
            Self::Dropped => "DROPPED",
            Self::DropRate => "DROP/S",
        }
    }

    /// Figures stand to the right, texts to the left.
    pub(super) fn is_figure(self) -> bool {
        !matches!(self, Self::Name | Self::Workers | Self::DropRate)
    }

    fn cell(self, row: &Row<'_>) -> String {
        let service = row.service;
        let rate = |of: fn(&Rates) -> f64| row.rates.map_or("-".into(), |rates| shown(of(rates)));
        match self {
            Self::Name => cut(&service.name, NAME_MAX),
            Self::In => rate(|rates| rates.matched),
            Self::Out => rate(|rates| rates.delivered),
            Self::Lag => service.counters.queued.to_string(),
            Self::OnDisk => on_disk(service).to_string(),
            Self::InFlight => service.counters.in_flight.to_string(),
            Self::Workers => workers(&service.workers),
            Self::Dead => service.counters.dead_lettered.to_string(),
            Self::Dropped => service.counters.dropped_total().to_string(),
            Self::DropRate => row.rates.map_or("-".into(), drops),
        }
    }
}

/// Some columns of all rows, and how wide each is.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) columns: Vec<Column>,
    pub(super) widths: Vec<usize>,
    pub(super) headings: Vec<&'static str>,
    pub(super) cells: Vec<Vec<String>>,
}

impl Table {
    /// As many columns as this width has room for, the name at least.
    pub(super) fn new(rows: &[Row<'_>], width: usize) -> Self {
        let cells_of = |column: Column| rows.iter().map(move |row| column.cell(row));
        let width_of = |column: Column| {
            let widest = cells_of(column).map(|cell| width_of(&cell)).max();
            let width = widest.unwrap_or(0).max(column.heading().len());
            match column {
                Column::DropRate => width.min(DROPS_MAX),
                _ => width,
            }
        };
        let [name, others @ ..] = Column::BY_WORTH;
        let mut columns = vec![name];
        let mut left = width.saturating_sub(width_of(name).min(NAME_MIN.max(width / 4)));
        for column in others {
            let needed = width_of(column) + GAP;
            if needed <= left {
                left -= needed;
                columns.push(column);
            }
        }
        columns.sort();
        let mut widths: Vec<_> = columns.iter().map(|column| width_of(*column)).collect();
        let taken: usize = widths[1..].iter().map(|width| width + GAP).sum();
        widths[0] = widths[0].min(width.saturating_sub(taken));
        Self {
            headings: columns.iter().map(|column| column.heading()).collect(),
            cells: rows
                .iter()
                .map(|row| columns.iter().map(|column| column.cell(row)).collect())
                .collect(),
            widths,
            columns,
        }
    }

    /// The heading and the rows as lines of text.
    pub(super) fn lines(&self) -> Vec<String> {
        let headings: Vec<_> = self
            .headings
            .iter()
            .map(|text| (*text).to_owned())
            .collect();
        let all = [headings].into_iter().chain(self.cells.iter().cloned());
        all.map(|cells| self.line(&cells)).collect()
    }

    fn line(&self, cells: &[String]) -> String {
        let mut line = String::new();
        for ((cell, width), column) in cells.iter().zip(&self.widths).zip(&self.columns) {
            let space = " ".repeat(width.saturating_sub(width_of(cell)));
            let gap = if line.is_empty() { "" } else { "  " };
            let (before, after) = if column.is_figure() {
                (&*space, "")
            } else {
                ("", &*space)
            };
            line.extend([gap, before, cell, after]);
        }
        line.trim_end().to_owned()
    }
}

/// How many cells of a terminal a text takes.
pub(super) fn width_of(text: &str) -> usize {
    Span::raw(text).width()
}

/// A text that takes no more cells than this, with a mark where it was cut.
pub(super) fn cut(text: &str, width: usize) -> String {
    if width_of(text) <= width {
        return text.to_owned();
    }
    if width == 0 {
        return String::new();
    }
    let mut cut = String::new();
    for c in text.chars() {
        cut.push(c);
        if width_of(&cut) >= width {
            cut.pop();
            break;
        }
    }
    cut.push('…');
    cut
}

/// Events in a second, with a fraction only where that matters.
pub(super) fn shown(rate: f64) -> String {
    if rate > 0.0 && rate < 10.0 {
        format!("{rate:.1}")
    } else {
        format!("{rate:.0}")
    }
}

/// All that is dropped, and the reasons, the most frequent first.
pub(super) fn drops(rates: &Rates) -> String {
    let mut reasons: Vec<_> = rates.dropped.iter().collect();
    reasons.sort_by(|a, b| b.1.total_cmp(a.1));
    let names: Vec<_> = reasons.iter().map(|(why, _)| why.as_str()).collect();
    format!("{} {}", shown(rates.dropped_total()), names.join(","))
        .trim_end()
        .to_owned()
}

/// Events that are on disk alone.
fn on_disk(service: &ServiceStatus) -> u64 {
    let durable = service.durable.as_ref();
    durable.map_or(0, |durable| durable.on_disk_only_events)
}

fn workers(workers: &Workers) -> String {
    let stalled = match workers.stalled {
        0 => String::new(),
        stalled => format!(" {stalled} stalled"),
    };
    format!("{}/{}{stalled}", workers.ready, workers.connected)
}
