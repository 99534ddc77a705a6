//! Spans, before they are written.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::ambient::{now, wall_clock_ms};
use event_manager_wire::model::TraceContext;

/// The part that we play in what a span is about, with OTLP's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// A request to us.
    Server = 2,
    /// A request of ours.
    Client = 3,
    /// An event that is handed on.
    Producer = 4,
}

/// Something that happened to an event, from when to when.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    pub trace_id: [u8; 16],
    /// Its own id.
    pub span_id: [u8; 8],
    /// The span that it is a part of.
    pub parent_id: Option<[u8; 8]>,
    /// The event's own span in the trace, if it carries one.
    pub link: Option<TraceContext>,
    /// What happened: one of few texts for each service.
    pub name: String,
    /// Our part.
    pub kind: SpanKind,
    /// When it began, in nanoseconds since 1970.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// What else is known.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it went wrong, if it did.
    pub error: Option<String>,
}

/// Relates the clock to the wall clock, which is read once for spans that belong together: so none
/// begins before what it is a part of.
#[derive(Debug, Clone, Copy)]
pub struct Anchor {
    at: Instant,
    wall_ns: u64,
}

impl Anchor {
    /// Both clocks as they are.
    pub fn now() -> Self {
        Self {
            at: now(),
            wall_ns: wall_clock_ms().saturating_mul(1_000_000),
        }
    }

    /// When it was made.
    pub fn at(self) -> Instant {
        self.at
    }

    /// A time by the wall clock, in nanoseconds since 1970.
    pub fn ns(self, time: Instant) -> u64 {
        let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let since = ns(time.saturating_duration_since(self.at));
        let until = ns(self.at.saturating_duration_since(time));
        self.wall_ns.saturating_add(since).saturating_sub(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_the_anchor() {
        let anchor = Anchor {
            at: now() + Duration::from_secs(9),
            wall_ns: 5_000_000_000,
        };
        let ms = Duration::from_millis(3);
        assert_eq!(anchor.ns(anchor.at), 5_000_000_000);
        assert_eq!(anchor.ns(anchor.at + ms), 5_003_000_000);
        assert_eq!(anchor.ns(anchor.at - ms), 4_997_000_000);
    }
}
