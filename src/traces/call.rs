//! The spans of a sync event.

use serde_json::json;

use super::span::{Anchor, Span, SpanKind};
use super::tracer::{Spot, Tracer};
use crate::ambient::now;
use event_manager_wire::model::ServiceName;

/// One span for the request and a child for each service that is called. Whatever ends it, they are
/// recorded when it is dropped.
#[derive(Debug)]
pub struct CallTrace {
    tracer: Tracer,
    spot: Spot,
    anchor: Anchor,
    request: Span,
    /// Those that have not answered.
    waiting: Vec<ServiceName>,
}

impl CallTrace {
    /// The services are called now. None if that is not to be traced.
    pub fn begin(
        tracer: &Tracer,
        subject: &str,
        payload: &[u8],
        services: &[ServiceName],
    ) -> Option<Self> {
        let spot = tracer.spot(|frame| field_of(payload, frame))?;
        let anchor = Anchor::now();
        let mut request = spot.span("PUBLISH".into(), SpanKind::Server, anchor);
        request.attributes = vec![
            ("messaging.destination.name", json!(subject)),
            ("event_manager.services", json!(services.len())),
        ];
        request.error = Some("nobody waits for it any more".into());
        Some(Self {
            tracer: tracer.clone(),
            spot,
            anchor,
            request,
            waiting: services.to_vec(),
        })
    }

    /// A service answered, or can't: `ack`, `nak`, `timeout`, `unreachable`.
    pub fn answered(&mut self, service: &str, status: &str) {
        let waiting = self
            .waiting
            .iter()
            .position(|name| name.as_str() == service);
        if let Some(index) = waiting {
            let service = self.waiting.swap_remove(index);
            self.record_child(&service, status, (status != "ack").then(|| status.into()));
        }
    }

    /// The request is answered.
    pub fn finish(mut self, acked: bool) {
        self.request.error = (!acked).then(|| "not every service acknowledged".into());
    }

    fn record_child(&self, service: &ServiceName, status: &str, error: Option<String>) {
        let name = format!("call {service}");
        let child = self.spot.span(name, SpanKind::Client, self.anchor);
        self.tracer.record(Span {
            parent_id: Some(self.request.span_id),
            link: None,
            end_ns: self.anchor.ns(now()),
            attributes: vec![
                ("event_manager.service", json!(service.as_str())),
                ("event_manager.status", json!(status)),
            ],
            error,
            ..child
        });
    }
}

impl Drop for CallTrace {
    fn drop(&mut self) {
        for service in &self.waiting {
            self.record_child(service, "not-awaited", None);
        }
        self.request.end_ns = self.anchor.ns(now());
        self.tracer.record(self.request.clone());
    }
}

/// A sync event's payload as the frames of an event: the subject first, then the data, then the other
/// fields in their order.
fn field_of(payload: &[u8], frame: usize) -> Option<&[u8]> {
    let field = match frame {
        0 => 1,
        1 => 0,
        other => other,
    };
    payload.split(|byte| *byte == 0).nth(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(names: &[&str]) -> Vec<ServiceName> {
        let names = names.iter().map(|name| ServiceName::new(name));
        names.collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn each_service_has_its_span_even_if_nobody_waited_for_it() {
        let (tracer, mut spans) = Tracer::channel(None, 8);
        let called = services(&["Billing", "Kitchen", "Audit"]);
        let mut trace = CallTrace::begin(&tracer, "Order", b"{}\0Order", &called).unwrap();
        trace.answered("Kitchen", "ack");
        trace.answered("Billing", "timeout");
        trace.finish(true);
        let mut all = vec![];
        spans.blocking_recv_many(&mut all, 8);
        let root = all.pop().unwrap();
        assert_eq!(
            (root.name.as_str(), root.parent_id, root.error),
            ("PUBLISH", None, None)
        );
        let shown: Vec<_> = all
            .iter()
            .map(|span| {
                (
                    span.name.as_str(),
                    span.attributes[1].1.as_str(),
                    span.error.as_deref(),
                )
            })
            .collect();
        let expected = [
            ("call Kitchen", Some("ack"), None),
            ("call Billing", Some("timeout"), Some("timeout")),
            ("call Audit", Some("not-awaited"), None),
        ];
        assert_eq!(shown, expected);
        for span in &all {
            assert_eq!(
                (span.trace_id, span.parent_id),
                (root.trace_id, Some(root.span_id))
            );
            assert!(root.start_ns <= span.start_ns && span.end_ns <= root.end_ns);
        }
    }

    #[test]
    fn the_fields_of_a_payload_count_as_frames() {
        let payload = b"data\0Subject\0type\0sync\0source\0more";
        let fields: Vec<_> = (0..7).map(|frame| field_of(payload, frame)).collect();
        let expected = ["Subject", "data", "type", "sync", "source", "more"];
        let expected: Vec<_> = expected
            .iter()
            .map(|field| Some(field.as_bytes()))
            .collect();
        assert_eq!(fields[..6], expected);
        assert_eq!(fields[6], None);
    }
}
