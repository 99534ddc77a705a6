//! What is exported, what isn't, and what a collector that fails does to the rest: nothing.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use event_manager::config::Carrier;
use event_manager_wire::api::{Status, Traces};
use event_manager_wire::model::Endpoint;
use serde_json::{Value, json};

use super::collector::Collector;
use crate::support::peers::{connected, socket};
use crate::support::responder::register;
use crate::support::{TestDaemon, logs, tunnel};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";
const PUBLISH: &str = "TK_EVENT_MANAGER_PUBLISH";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{SPAN}-{flags}")
}

fn tracing_to(endpoint: Endpoint, carrier: Option<Carrier>) -> TestDaemon {
    TestDaemon::with(|config| {
        config.locator.embedded = true;
        config.locator.address = Endpoint::tcp("127.0.0.1", 0);
        config.traces.endpoint = Some(endpoint);
        config.traces.traceparent = carrier;
    })
}

/// The values of a span's attributes, as texts.
fn attribute(span: &Value, key: &str) -> String {
    let attributes = span["attributes"].as_array().expect("a list");
    let found = attributes.iter().find(|attribute| attribute["key"] == key);
    let value = &found.unwrap_or_else(|| panic!("{span} has no {key}"))["value"];
    let text = value["stringValue"].as_str().or(value["intValue"].as_str());
    text.expect("a text").to_owned()
}

fn names(spans: &[Value]) -> Vec<&str> {
    let names = spans.iter().map(|span| span["name"].as_str());
    names.collect::<Option<_>>().expect("texts")
}

/// A service at the locator, to be answered for by the test.
fn service(daemon: &TestDaemon, name: &str) -> zmq::Socket {
    let service = socket(&daemon.context, zmq::REP);
    service.bind("tcp://127.0.0.1:*").expect("a free port");
    let address = service.get_last_endpoint().expect("it is bound");
    daemon.subscribe(&format!("sub-{name}"), name, &["Order"]);
    let address = tunnel::before(&address.expect("a text"));
    register(&daemon.locator(), name, &address);
    service
}

fn answer(service: &zmq::Socket, token: &str) -> Vec<Vec<u8>> {
    let request = service.recv_multipart(0).expect("a request");
    service
        .send_multipart([token, "STRING", ""], 0)
        .expect("a send");
    request
}

/// Sync events for nobody: one span each.
fn call_nobody(daemon: &TestDaemon, count: usize, header: &str) {
    let dealer = connected(&daemon.context, zmq::DEALER, &daemon.requests());
    let payload = format!("{{}}\0Nobody\0type\x001\0till-7\0{header}");
    for _ in 0..count {
        dealer
            .send_multipart([PUBLISH, "PARAM", &payload], 0)
            .expect("a send");
    }
    for _ in 0..count {
        let answer = dealer.recv_multipart(0).expect("an answer");
        assert_eq!(answer[0], b"TK_SYS_ACK");
    }
}

fn traces(status: &Status) -> &Traces {
    status.traces.as_ref().expect("spans are exported")
}

fn wait_for_count(daemon: &TestDaemon, count: fn(&Traces) -> u64, spans: u64) {
    daemon.wait_for("a count of spans", |status| count(traces(status)) == spans);
}

#[test]
fn a_sync_event_is_a_span_with_a_child_for_each_service() {
    let collector = Collector::answering(&[]);
    let daemon = tracing_to(collector.endpoint(), Some(Carrier::Header(5)));
    let (billing, kitchen) = (service(&daemon, "Billing"), service(&daemon, "Kitchen"));
    let requester = daemon.requester();
    let payload = format!("{{}}\0Order\0type\x001\0till-7\0{}", traceparent("01"));
    requester
        .send_multipart([PUBLISH, "PARAM", &payload], 0)
        .expect("a send");
    for (service, token) in [(&billing, "TK_SYS_ACK"), (&kitchen, "TK_SYS_NAK")] {
        let request = answer(service, token);
        assert_eq!(request[2], payload.as_bytes(), "it is passed on untouched");
    }
    let answer = requester.recv_multipart(0).expect("an answer");
    assert_eq!(answer[0], b"TK_SYS_NAK");

    let spans = collector.spans(3);
    assert_eq!(names(&spans), ["PUBLISH", "call Billing", "call Kitchen"]);
    let root = &spans[0];
    assert_eq!(
        (&root["traceId"], &root["parentSpanId"]),
        (&json!(TRACE), &json!(SPAN))
    );
    assert_eq!(root["links"], json!([{"traceId": TRACE, "spanId": SPAN}]));
    assert_eq!(
        (&root["kind"], &root["status"]["code"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(attribute(root, "messaging.destination.name"), "Order");
    assert_eq!(attribute(root, "event_manager.services"), "2");
    for (child, status) in [(&spans[1], "ack"), (&spans[2], "nak")] {
        assert_eq!(child["traceId"], TRACE);
        assert_eq!(child["parentSpanId"], root["spanId"]);
        assert_eq!((&child["kind"], &child["links"]), (&json!(3), &Value::Null));
        assert_eq!(attribute(child, "event_manager.status"), status);
    }
    assert_eq!(spans[1]["status"], Value::Null);
    wait_for_count(&daemon, |traces| traces.exported, 3);
}

#[test]
fn an_event_that_is_tried_again_and_dies_is_linked_to_its_trace() {
    let collector = Collector::answering(&[]);
    let carrier = Carrier::Json("tp".into());
    let daemon = tracing_to(collector.endpoint(), Some(carrier));
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let worker = connected(&daemon.context, zmq::DEALER, &billing.pull_address);
    worker.send(r#"READY {"ack": true}"#, 0).expect("a send");
    daemon.wait_for_ready("Billing", 1);
    let data = format!("{{\"tp\" : \"{}\",\"n\":1.0}}", traceparent("01"));
    let event = ["OrderCreated", &data, "\u{1}more"];
    daemon.publisher().send_multipart(event, 0).expect("a send");
    for word in ["NAK {} 1 no stock", "TERM {} of no use"] {
        let frames = worker.recv_multipart(0).expect("an event");
        let expected: Vec<_> = event.iter().map(|frame| frame.as_bytes()).collect();
        assert_eq!(frames[1..], expected, "it is passed on untouched");
        let head = String::from_utf8(frames[0].clone()).expect("text");
        let id = head.split(' ').nth(1).expect("an id");
        worker.send(&word.replace("{}", id), 0).expect("a send");
    }

    let spans = collector.spans(2);
    assert_eq!(names(&spans), ["dead-letter Billing", "redeliver Billing"]);
    for span in &spans {
        assert_eq!(
            (&span["traceId"], &span["parentSpanId"]),
            (&json!(TRACE), &json!(SPAN))
        );
        assert_eq!(span["links"], json!([{"traceId": TRACE, "spanId": SPAN}]));
        assert_eq!(span["kind"], 4);
        assert_eq!(
            attribute(span, "messaging.destination.name"),
            "OrderCreated"
        );
        assert_eq!(attribute(span, "event_manager.service"), "Billing");
    }
    let (dead, again) = (&spans[0], &spans[1]);
    assert_ne!(dead["spanId"], again["spanId"]);
    assert_eq!(attribute(again, "event_manager.attempt"), "2");
    assert_eq!(again["status"], Value::Null);
    assert_eq!(attribute(dead, "event_manager.attempts"), "2");
    assert_eq!(attribute(dead, "event_manager.reason"), "terminated");
    assert_eq!(dead["status"]["message"], "terminated: of no use");
    let ns = |span: &Value, key: &str| span[key].as_str().and_then(|ns| ns.parse::<u64>().ok());
    assert!(ns(dead, "startTimeUnixNano") < ns(dead, "endTimeUnixNano"));
}

#[test]
fn events_without_a_trace_begin_one_and_unrecorded_ones_make_no_span() {
    let collector = Collector::answering(&[]);
    let daemon = tracing_to(collector.endpoint(), Some(Carrier::Header(5)));
    call_nobody(&daemon, 1, &traceparent("00"));
    call_nobody(&daemon, 1, "");
    call_nobody(&daemon, 1, "00-nonsense");
    let spans = collector.spans(2);
    for span in &spans {
        assert_eq!(
            (&span["parentSpanId"], &span["links"]),
            (&Value::Null, &Value::Null)
        );
        assert_ne!(span["traceId"], TRACE);
    }
    assert_ne!(spans[0]["traceId"], spans[1]["traceId"]);
    wait_for_count(&daemon, |traces| traces.malformed, 1);
    wait_for_count(&daemon, |traces| traces.exported, 2);
}

#[test]
fn first_deliveries_make_no_span() {
    let collector = Collector::answering(&[]);
    let daemon = tracing_to(collector.endpoint(), None);
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let worker = connected(&daemon.context, zmq::DEALER, &billing.pull_address);
    worker.send(r#"READY {"ack": true}"#, 0).expect("a send");
    daemon.wait_for_ready("Billing", 1);
    daemon
        .publisher()
        .send_multipart(["Order", "1"], 0)
        .expect("a send");
    let frames = worker.recv_multipart(0).expect("an event");
    let head = String::from_utf8(frames[0].clone()).expect("text");
    let id = head.split(' ').nth(1).expect("an id");
    worker.send(&format!("ACK {id}"), 0).expect("a send");
    daemon.wait_for_counter("Billing", |c| c.delivered, 1);
    drop(daemon);
    assert!(collector.is_silent());
}

#[test]
fn what_waits_is_sent_when_the_daemon_stops() {
    let collector = Collector::answering(&[]);
    let daemon = tracing_to(collector.endpoint(), None);
    call_nobody(&daemon, 600, "");
    drop(daemon);
    collector.spans(600);
}

#[test]
fn a_collector_that_is_busy_gets_them_again_and_one_that_refuses_does_not() {
    let collector = Collector::answering(&[
        "503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        "400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        "200 OK\r\nContent-Length: 42\r\n\r\n{\"partialSuccess\": {\"rejectedSpans\": \"1\"}}",
    ]);
    let daemon = tracing_to(collector.endpoint(), None);
    call_nobody(&daemon, 1, "");
    let first = collector.next();
    assert_eq!(collector.next(), first);
    wait_for_count(&daemon, |traces| traces.refused, 1);
    assert_eq!(traces(&daemon.status()).exported, 0);
    call_nobody(&daemon, 1, "");
    assert_ne!(collector.next(), first);
    wait_for_count(&daemon, |traces| traces.refused, 2);
    call_nobody(&daemon, 1, "");
    wait_for_count(&daemon, |traces| traces.exported, 1);
}

#[test]
fn a_collector_that_hangs_harms_nothing() {
    logs::keep();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    let daemon = tracing_to(Endpoint::tcp("127.0.0.1", port), None);
    // More than may wait: those without room are dropped, and counted.
    call_nobody(&daemon, 5000, "");
    let status = daemon.status();
    let traces = traces(&status);
    let dropped = traces.dropped;
    assert!((1..=5000 - 4096).contains(&dropped), "{traces:?}");
    assert_eq!(traces.exported, 0);
    let begun = Instant::now();
    drop(daemon);
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    let lines = logs::lines_with(&format!("http://127.0.0.1:{port} accepts no spans"));
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[test]
fn a_collector_that_is_not_there_harms_nothing() {
    logs::keep();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    drop(listener);
    let daemon = tracing_to(Endpoint::tcp("127.0.0.1", port), None);
    let of_ours = format!("http://127.0.0.1:{port} accepts no spans");
    for _ in 0..3 {
        call_nobody(&daemon, 1, "");
    }
    daemon.wait_for("a line", |_| !logs::lines_with(&of_ours).is_empty());
    call_nobody(&daemon, 1, "");
    drop(daemon);
    assert_eq!(logs::lines_with(&of_ours).len(), 1, "a line each burst");
}
