//! Spans of events that are tried again, or given up.

use serde_json::json;

use super::hub::Hub;
use crate::broker::{DeadLetter, Delivery, ServiceKey};
use crate::model::{ServiceName, subject_of};
use crate::traces::{Anchor, Span, SpanKind};
use crate::zmtp::frames;

impl Hub {
    /// An event goes to a worker; not for the first time, or it isn't notable.
    pub(super) fn trace_attempt(&self, key: ServiceKey, delivery: &Delivery) {
        if delivery.attempt < 2 || !self.notes.tracer().is_on() {
            return;
        }
        let Some(service) = self.broker.service(key) else {
            return;
        };
        let span = self.event_span("redeliver", service.name(), &delivery.body, Anchor::now());
        if let Some(mut span) = span {
            let attempt = ("event_manager.attempt", json!(delivery.attempt));
            span.attributes.push(attempt);
            self.notes.tracer().record(span);
        }
    }

    /// No worker could do an event: the span is from its first delivery until now.
    pub(super) fn trace_dead(&self, service: &ServiceName, letter: &DeadLetter) {
        if !self.notes.tracer().is_on() {
            return;
        }
        let anchor = Anchor::now();
        let span = self.event_span("dead-letter", service, &letter.item.body, anchor);
        if let Some(mut span) = span {
            span.start_ns = anchor.ns(letter.item.first_at.unwrap_or(letter.last_at));
            let attempts = ("event_manager.attempts", json!(letter.item.attempt));
            let reason = ("event_manager.reason", json!(letter.reason.name()));
            span.attributes.extend([attempts, reason]);
            span.error = Some(match letter.detail.as_str() {
                "" => letter.reason.to_string(),
                detail => format!("{}: {detail}", letter.reason),
            });
            self.notes.tracer().record(span);
        }
    }

    fn event_span(
        &self,
        what: &str,
        service: &ServiceName,
        body: &[u8],
        anchor: Anchor,
    ) -> Option<Span> {
        let spot = self.notes.tracer().spot(|index| frames(body).nth(index))?;
        let subject = frames(body).next().map(subject_of).unwrap_or_default();
        let shown_max = self.config.limits.subject_bytes_max;
        let shown = String::from_utf8_lossy(&subject[..subject.len().min(shown_max)]);
        let name = format!("{what} {service}");
        let mut span = spot.span(name, SpanKind::Producer, anchor);
        span.attributes = vec![
            ("messaging.destination.name", json!(shown)),
            ("event_manager.service", json!(service.as_str())),
        ];
        Some(span)
    }
}
