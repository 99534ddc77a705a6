//! What `top` shows and how: answers and keys in, rows out. It owns no socket, clock or terminal.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::rates::{AllRates, Rates, made_safe};
use event_manager_wire::api::{ServiceStatus, Status};

/// Rows that a page has.
const PAGE: usize = 10;

/// By what services are sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Name,
    In,
    Out,
    Lag,
    InFlight,
    DropRate,
    Dropped,
    Dead,
}

impl Sort {
    const ALL: [Self; 8] = [
        Self::Name,
        Self::In,
        Self::Out,
        Self::Lag,
        Self::InFlight,
        Self::DropRate,
        Self::Dropped,
        Self::Dead,
    ];

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self);
        let next = at.map_or(0, |at| (at + 1) % Self::ALL.len());
        Self::ALL[next]
    }

    /// As the bottom line names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::In => "in/s",
            Self::Out => "out/s",
            Self::Lag => "lag",
            Self::InFlight => "in flight",
            Self::DropRate => "drop/s",
            Self::Dropped => "dropped",
            Self::Dead => "dead",
        }
    }
}

/// What keys mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    List,
    /// The filter is being typed.
    Filter,
    Help,
}

/// One service with its rates, which are not known at first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) service: &'a ServiceStatus,
    pub(super) rates: Option<&'a Rates>,
}

/// All that `top` knows.
#[derive(Debug, Default)]
pub(super) struct Top {
    /// Where the daemon is asked.
    pub(super) address: String,
    /// The last answer; its texts are made safe.
    pub(super) status: Option<Status>,
    pub(super) rates: Option<AllRates>,
    /// Why the last question got no answer.
    pub(super) trouble: Option<String>,
    answered_at: Option<Instant>,
    pub(super) sort: Sort,
    pub(super) reversed: bool,
    pub(super) filter: String,
    pub(super) mode: Mode,
    /// The service that is marked.
    selected: Option<String>,
}

impl Top {
    pub(super) fn new(address: String) -> Self {
        Self {
            address,
            ..Self::default()
        }
    }

    /// The daemon answered, or did not.
    pub(super) fn observe(&mut self, at: Instant, answer: Result<Status, String>) {
        match answer {
            Err(why) => {
                self.trouble = Some(why);
                self.rates = None;
            }
            Ok(status) => {
                let status = made_safe(status);
                self.trouble = None;
                self.answered_at = Some(at);
                let before = self.status.as_ref();
                self.rates = before.and_then(|before| AllRates::between(before, &status));
                self.status = Some(status);
            }
        }
    }

    /// How old what is shown is.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.answered_at?))
    }

    /// The services that the filter lets through, in order.
    pub(super) fn rows(&self) -> Vec<Row<'_>> {
        let wanted = self.filter.to_lowercase();
        let services = self.status.iter().flat_map(|s| &s.services);
        let mut rows: Vec<Row<'_>> = services
            .filter(|service| service.name.to_lowercase().contains(&wanted))
            .map(|service| Row {
                service,
                rates: self
                    .rates
                    .as_ref()
                    .and_then(|all| all.services.get(&service.name)),
            })
            .collect();
        rows.sort_by(|a, b| {
            let order = self.compare(a, b);
            let order = if self.reversed {
                order.reverse()
            } else {
                order
            };
            order.then_with(|| a.service.name.cmp(&b.service.name))
        });
        rows
    }

    /// Names from A on, figures from the largest on.
    fn compare(&self, a: &Row<'_>, b: &Row<'_>) -> Ordering {
        let figure = |row: &Row<'_>| {
            let service = row.service;
            let rate = |of: fn(&Rates) -> f64| row.rates.map_or(0.0, of);
            match self.sort {
                Sort::Name => 0.0,
                Sort::In => rate(|rates| rates.matched),
                Sort::Out => rate(|rates| rates.delivered),
                Sort::Lag => service.counters.queued as f64,
                Sort::InFlight => service.counters.in_flight as f64,
                Sort::DropRate => rate(Rates::dropped_total),
                Sort::Dropped => service.counters.dropped_total() as f64,
                Sort::Dead => service.counters.dead_lettered as f64,
            }
        };
        match self.sort {
            Sort::Name => a.service.name.cmp(&b.service.name),
            _ => figure(b).total_cmp(&figure(a)),
        }
    }

    /// Which of the rows is marked; the first if the marked service is not among them.
    pub(super) fn selected(&self, rows: &[Row<'_>]) -> Option<usize> {
        let marked = rows
            .iter()
            .position(|row| Some(&row.service.name) == self.selected.as_ref());
        marked.or((!rows.is_empty()).then_some(0))
    }

    /// Takes a key; false if that ends it.
    pub(super) fn key(&mut self, key: KeyEvent) -> bool {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && key.code == KeyCode::Char('c') {
            return false;
        }
        match self.mode {
            Mode::Help => self.mode = Mode::List,
            Mode::Filter => self.type_filter(key.code),
            Mode::List => return self.command(key.code),
        }
        true
    }

    fn type_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.mode = Mode::List,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::List;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if !c.is_control() => self.filter.push(c),
            _ => {}
        }
    }

    fn command(&mut self, key: KeyCode) -> bool {
        match key {
            KeyCode::Char('q') => return false,
            KeyCode::Char('?') => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Up | KeyCode::Char('k') => self.mark(|at, _| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.mark(|at, last| (at + 1).min(last)),
            KeyCode::PageUp => self.mark(|at, _| at.saturating_sub(PAGE)),
            KeyCode::PageDown => self.mark(|at, last| (at + PAGE).min(last)),
            KeyCode::Home => self.mark(|_, _| 0),
            KeyCode::End => self.mark(|_, last| last),
            _ => {}
        }
        true
    }

    /// Marks another row, by the marked one and the last.
    fn mark(&mut self, to: impl FnOnce(usize, usize) -> usize) {
        let rows = self.rows();
        let Some(at) = self.selected(&rows) else {
            return;
        };
        let marked = rows.get(to(at, rows.len() - 1));
        self.selected = marked.map(|row| row.service.name.clone());
    }
}
