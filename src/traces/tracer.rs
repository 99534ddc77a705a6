//! What makes spans, and counts what becomes of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::carried::carried;
use super::span::{Anchor, Span, SpanKind};
use crate::ambient::random;
use crate::config::Carrier;
use event_manager_wire::api::Traces;
use event_manager_wire::model::TraceContext;

/// Takes spans, and never waits. The default one is off.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    carrier: Option<Carrier>,
    spans: mpsc::Sender<Span>,
    counts: Counts,
}

/// What became of spans; each ends in one of the first three.
#[derive(Debug, Default)]
struct Counts {
    exported: AtomicU64,
    dropped: AtomicU64,
    refused: AtomicU64,
    malformed: AtomicU64,
}

/// Where in which trace an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    trace_id: [u8; 16],
    carried: Option<TraceContext>,
}

impl Tracer {
    /// One that is on, and what comes out of it: at most this many spans wait.
    pub(super) fn channel(
        carrier: Option<Carrier>,
        spans_max: usize,
    ) -> (Self, mpsc::Receiver<Span>) {
        let (spans, receiver) = mpsc::channel(spans_max);
        let shared = Shared {
            carrier,
            spans,
            counts: Counts::default(),
        };
        (Self(Some(Arc::new(shared))), receiver)
    }

    /// Whether anybody wants spans.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Where an event with these frames is, counted from 0 for its subject: in the trace that it says,
    /// or a new one. None if it is not to be traced: nobody wants spans, its own trace is not
    /// recorded, or too many spans wait, which counts as one that was dropped.
    pub fn spot<'a>(&self, frame: impl FnOnce(usize) -> Option<&'a [u8]>) -> Option<Spot> {
        let shared = self.0.as_ref()?;
        if shared.spans.capacity() == 0 {
            self.dropped(1);
            return None;
        }
        let found = shared
            .carrier
            .as_ref()
            .map(|carrier| carried(carrier, frame));
        let carried = found.unwrap_or(Ok(None)).unwrap_or_else(|_| {
            shared.counts.malformed.fetch_add(1, Ordering::Relaxed);
            None
        });
        match carried {
            Some(context) if !context.is_sampled() => None,
            Some(context) => Some(Spot {
                trace_id: context.trace_id,
                carried,
            }),
            None => Some(Spot {
                trace_id: new_trace(),
                carried,
            }),
        }
    }

    /// Has a span exported, or drops and counts it if too many wait.
    pub fn record(&self, span: Span) {
        if let Some(shared) = &self.0
            && shared.spans.try_send(span).is_err()
        {
            self.dropped(1);
        }
    }

    /// Spans that were given up: there was no room, or no time at the end.
    pub(super) fn dropped(&self, spans: u64) {
        self.count(|counts| &counts.dropped, spans);
    }

    /// Spans that a collector took.
    pub(super) fn exported(&self, spans: u64) {
        self.count(|counts| &counts.exported, spans);
    }

    /// Spans that a collector did not want.
    pub(super) fn refused(&self, spans: u64) {
        self.count(|counts| &counts.refused, spans);
    }

    fn count(&self, which: fn(&Counts) -> &AtomicU64, spans: u64) {
        if let Some(shared) = &self.0 {
            which(&shared.counts).fetch_add(spans, Ordering::Relaxed);
        }
    }

    /// What became of spans, for STATUS; `None` if it is off.
    pub fn status(&self) -> Option<Traces> {
        let Shared { counts, .. } = self.0.as_deref()?;
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Some(Traces {
            exported: count(&counts.exported),
            dropped: count(&counts.dropped),
            refused: count(&counts.refused),
            malformed: count(&counts.malformed),
        })
    }
}

impl Spot {
    /// A span here, a part of what the event says it is a part of, that ends when it begins.
    pub fn span(self, name: String, kind: SpanKind, anchor: Anchor) -> Span {
        let at_ns = anchor.ns(anchor.at());
        Span {
            trace_id: self.trace_id,
            span_id: new_span(),
            parent_id: self.carried.map(|context| context.span_id),
            link: self.carried,
            name,
            kind,
            start_ns: at_ns,
            end_ns: at_ns,
            attributes: vec![],
            error: None,
        }
    }
}

/// The standard forbids zeros only.
fn new_span() -> [u8; 8] {
    random().max(1).to_be_bytes()
}

fn new_trace() -> [u8; 16] {
    (u128::from(random()) << 64 | u128::from(random().max(1))).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn spot(tracer: &Tracer, header: &str) -> Option<Spot> {
        tracer.spot(|frame| (frame == 1).then_some(header.as_bytes()))
    }

    #[test]
    fn a_span_is_in_the_trace_that_its_event_says() {
        let (tracer, _spans) = Tracer::channel(Some(Carrier::Header(1)), 1);
        let spot = spot(&tracer, EXAMPLE).unwrap();
        let span = spot.span("PUBLISH".into(), SpanKind::Server, Anchor::now());
        let context = TraceContext::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(span.trace_id, context.trace_id);
        assert_eq!(span.parent_id, Some(context.span_id));
        assert_eq!(span.link, Some(context));
        assert_ne!(span.span_id, context.span_id);
    }

    #[test]
    fn traces_of_events_that_say_nothing_differ() {
        let (tracer, _spans) = Tracer::channel(Some(Carrier::Header(1)), 1);
        let (one, other) = (spot(&tracer, ""), spot(&tracer, ""));
        assert!(one.is_some() && one != other);
        assert_eq!(one.and_then(|spot| spot.carried), None);
        assert_eq!(tracer.status().unwrap().malformed, 0);
    }

    #[test]
    fn what_is_malformed_is_ignored_and_counted() {
        let (tracer, _spans) = Tracer::channel(Some(Carrier::Header(1)), 1);
        assert_eq!(
            spot(&tracer, "nonsense").and_then(|spot| spot.carried),
            None
        );
        assert_eq!(tracer.status().unwrap().malformed, 1);
    }

    #[test]
    fn what_its_trace_does_not_record_is_not_traced() {
        let (tracer, _spans) = Tracer::channel(Some(Carrier::Header(1)), 1);
        assert_eq!(spot(&tracer, &EXAMPLE.replace("-01", "-00")), None);
        assert_eq!(spot(&Tracer::default(), EXAMPLE), None);
    }

    #[test]
    fn spans_without_room_are_dropped_and_counted() {
        let (tracer, mut spans) = Tracer::channel(None, 2);
        let of_room = spot(&tracer, "").unwrap();
        let span = || of_room.span("PUBLISH".into(), SpanKind::Server, Anchor::now());
        (0..4).for_each(|_| tracer.record(span()));
        assert_eq!(spot(&tracer, ""), None);
        assert_eq!(tracer.status().unwrap().dropped, 3);
        assert!(spans.try_recv().is_ok() && spans.try_recv().is_ok());
        assert!(spans.try_recv().is_err());
        drop(spans);
        tracer.record(span());
        assert_eq!(tracer.status().unwrap().dropped, 4);
    }
}
