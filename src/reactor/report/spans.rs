//! Spans of events that are tried again, or given up.

use serde_json::json;

use crate::traces::{Anchor, Span, SpanKind, Tracer};
use event_manager_core::broker::{DeadLetter, Delivery};
use event_manager_wire::model::{ServiceName, subject_of};
use event_manager_zmtp::frames;

/// An event goes to a worker; not for the first time, or it isn't notable.
#[inline]
pub(crate) fn trace_attempt(
    tracer: &Tracer,
    subject_bytes_max: usize,
    service: &ServiceName,
    delivery: &Delivery,
) {
    if delivery.attempt < 2 || !tracer.is_on() {
        return;
    }
    let of = EventSpan {
        tracer,
        subject_bytes_max,
        service,
        body: &delivery.body,
    };
    if let Some(mut span) = of.span("redeliver", Anchor::now()) {
        let attempt = ("event_manager.attempt", json!(delivery.attempt));
        span.attributes.push(attempt);
        tracer.record(span);
    }
}

/// No worker could do an event: the span is from its first delivery until now.
pub(crate) fn trace_dead(
    tracer: &Tracer,
    subject_bytes_max: usize,
    service: &ServiceName,
    letter: &DeadLetter,
) {
    if !tracer.is_on() {
        return;
    }
    let of = EventSpan {
        tracer,
        subject_bytes_max,
        service,
        body: &letter.item.body,
    };
    let anchor = Anchor::now();
    if let Some(mut span) = of.span("dead-letter", anchor) {
        span.start_ns = anchor.ns(letter.item.first_at.unwrap_or(letter.last_at));
        let attempts = ("event_manager.attempts", json!(letter.item.attempt));
        let reason = ("event_manager.reason", json!(letter.reason.name()));
        span.attributes.extend([attempts, reason]);
        span.error = Some(match letter.detail.as_str() {
            "" => letter.reason.to_string(),
            detail => format!("{}: {detail}", letter.reason),
        });
        tracer.record(span);
    }
}

struct EventSpan<'a> {
    tracer: &'a Tracer,
    subject_bytes_max: usize,
    service: &'a ServiceName,
    body: &'a [u8],
}

impl EventSpan<'_> {
    fn span(&self, what: &str, anchor: Anchor) -> Option<Span> {
        let (body, service) = (self.body, self.service);
        let spot = self.tracer.spot(|index| frames(body).nth(index))?;
        let subject = frames(body).next().map(subject_of).unwrap_or_default();
        let shown = String::from_utf8_lossy(&subject[..subject.len().min(self.subject_bytes_max)]);
        let mut span = spot.span(format!("{what} {service}"), SpanKind::Producer, anchor);
        span.attributes = vec![
            ("messaging.destination.name", json!(shown)),
            ("event_manager.service", json!(service.as_str())),
        ];
        Some(span)
    }
}
