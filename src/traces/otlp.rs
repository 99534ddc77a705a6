//! Spans as OTLP writes them in JSON.

use serde_json::{Value, json};

use super::span::Span;

/// Who makes the spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The daemon's name at the ServiceLocator.
    pub service: String,
    /// This run of it.
    pub instance: String,
}

/// The body of a request to a collector: `ExportTraceServiceRequest`.
pub(super) fn request(resource: &Resource, spans: &[Span]) -> String {
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    let about = [
        ("service.name", json!(resource.service)),
        ("service.version", json!(version)),
        ("service.instance.id", json!(resource.instance)),
    ];
    let spans: Vec<Value> = spans.iter().map(span).collect();
    json!({"resourceSpans": [{
        "resource": {"attributes": attributes(&about)},
        "scopeSpans": [{"scope": {"name": name, "version": version}, "spans": spans}],
    }]})
    .to_string()
}

/// Ids are hexadecimal, and numbers of 64 bits are texts: so OTLP's JSON differs from protobuf's.
fn span(span: &Span) -> Value {
    let mut written = json!({
        "traceId": hex(&span.trace_id),
        "spanId": hex(&span.span_id),
        "name": span.name,
        "kind": span.kind as u8,
        "startTimeUnixNano": span.start_ns.to_string(),
        "endTimeUnixNano": span.end_ns.to_string(),
        "attributes": attributes(&span.attributes),
    });
    if let Some(parent_id) = span.parent_id {
        written["parentSpanId"] = json!(hex(&parent_id));
    }
    if let Some(link) = span.link {
        let link = json!({"traceId": hex(&link.trace_id), "spanId": hex(&link.span_id)});
        written["links"] = json!([link]);
    }
    if let Some(error) = &span.error {
        written["status"] = json!({"code": STATUS_ERROR, "message": error});
    }
    written
}

const STATUS_ERROR: u8 = 2;

fn attributes(attributes: &[(&'static str, Value)]) -> Value {
    let attributes = attributes.iter().map(|(key, value)| {
        let value = match value {
            Value::String(text) => json!({"stringValue": text}),
            other => json!({"intValue": other.to_string()}),
        };
        json!({"key": key, "value": value})
    });
    attributes.collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How many spans a collector that took a request refused in it: what `partialSuccess` says, a number
/// or its text.
pub(super) fn rejected(response: &[u8]) -> u64 {
    let response: Value = serde_json::from_slice(response).unwrap_or_default();
    let count = &response["partialSuccess"]["rejectedSpans"];
    let written = count.as_str().and_then(|text| text.parse().ok());
    count.as_u64().or(written).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traces::SpanKind;
    use event_manager_wire::model::TraceContext;

    #[test]
    fn a_request_is_as_the_standard_has_it() {
        let resource = Resource {
            service: "EventManager".into(),
            instance: "em-1".into(),
        };
        let link = TraceContext {
            trace_id: [0xab; 16],
            span_id: [1; 8],
            flags: 1,
        };
        let whole = Span {
            trace_id: [0xab; 16],
            span_id: [0xcd; 8],
            parent_id: Some([1; 8]),
            link: Some(link),
            name: "redeliver Billing".into(),
            kind: SpanKind::Producer,
            start_ns: 1_700_000_000_000_000_001,
            end_ns: 1_700_000_000_000_000_002,
            attributes: vec![("a", json!("text")), ("n", json!(7))],
            error: Some("nak".into()),
        };
        let bare = Span {
            parent_id: None,
            link: None,
            attributes: vec![],
            error: None,
            ..whole.clone()
        };
        let written: Value = serde_json::from_str(&request(&resource, &[whole, bare])).unwrap();
        let spans = &written["resourceSpans"][0]["scopeSpans"][0]["spans"];
        let mut expected = json!({
            "traceId": "ab".repeat(16),
            "spanId": "cd".repeat(8),
            "parentSpanId": "01".repeat(8),
            "name": "redeliver Billing",
            "kind": 4,
            "startTimeUnixNano": "1700000000000000001",
            "endTimeUnixNano": "1700000000000000002",
            "attributes": [
                {"key": "a", "value": {"stringValue": "text"}},
                {"key": "n", "value": {"intValue": "7"}},
            ],
            "links": [{"traceId": "ab".repeat(16), "spanId": "01".repeat(8)}],
            "status": {"code": 2, "message": "nak"},
        });
        assert_eq!(spans[0], expected);
        for absent in ["parentSpanId", "links", "status"] {
            expected.as_object_mut().unwrap().remove(absent);
        }
        expected["attributes"] = json!([]);
        assert_eq!(spans[1], expected);
        let resource = &written["resourceSpans"][0]["resource"]["attributes"][0];
        assert_eq!(
            *resource,
            json!({"key": "service.name", "value": {"stringValue": "EventManager"}})
        );
    }

    #[test]
    fn what_a_collector_refused() {
        assert_eq!(rejected(b"{}"), 0);
        assert_eq!(rejected(b""), 0);
        assert_eq!(
            rejected(br#"{"partialSuccess": {"rejectedSpans": "3"}}"#),
            3
        );
        assert_eq!(rejected(br#"{"partialSuccess": {"rejectedSpans": 3}}"#), 3);
    }
}
