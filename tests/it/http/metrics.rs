//! What the metrics say: the same as the books.

use event_manager_wire::api::Status;
use serde_json::{Value, json};

use super::super::support::http::{HttpClient, Metrics};
use super::super::support::peers::{connected, publish, received};
use super::super::support::{TestDaemon, assert_law};
use super::watched;

const LAW: [&str; 7] = [
    "event_manager_events_delivered_total",
    "event_manager_events_queued",
    "event_manager_events_in_flight",
    "event_manager_events_dead_lettered_total",
    "event_manager_events_expired_total",
    "event_manager_events_returned_total",
    "event_manager_events_dropped_total",
];

/// The law holds by the metrics too, and they say what the status says.
fn assert_books(metrics: &Metrics, status: &Status) {
    for service in &status.services {
        let (name, counters) = (&*service.name, &service.counters);
        let of = Some(("service", name));
        let matched = metrics.sum("event_manager_events_matched_total", of);
        let ends: f64 = LAW.iter().map(|name| metrics.sum(name, of)).sum();
        assert_eq!(matched, ends, "{name}");
        for (metric, count) in [
            ("event_manager_events_matched_total", counters.matched),
            ("event_manager_events_delivered_total", counters.delivered),
            ("events_consumed_total", counters.delivered),
            ("events_retried_total", counters.retries),
            ("events_dlq_total", counters.dead_lettered),
            (
                "event_manager_dead_letters_lost_total",
                counters.letters_lost,
            ),
            ("event_manager_events_queued", counters.queued),
        ] {
            let value = metrics.value(metric, &[("service", name)]);
            assert_eq!(value as u64, count, "{metric}");
        }
        let workers = metrics.sum("event_manager_workers", of);
        assert_eq!(workers as u64, service.workers.connected);
    }
    let published = status.publishers.events;
    let by_subject = metrics.sum("events_published_total", None);
    assert_eq!(by_subject as u64, published);
    let all = metrics.value("event_manager_published_events_total", &[]);
    assert_eq!(all as u64, published);
}

/// The next event of a worker that acknowledges: its number.
fn held(worker: &zmq::Socket) -> String {
    let frames = worker.recv_multipart(0).expect("an event");
    let word = String::from_utf8(frames[0].clone()).expect("text");
    word.split(' ').nth(1).expect("a number").to_owned()
}

fn emit(daemon: &TestDaemon, request: &Value) {
    let requester = daemon.requester();
    requester.send(&request.to_string(), 0).expect("a send");
    requester.recv_bytes(0).expect("an answer");
}

#[test]
fn figures_equal_the_books_at_rest() {
    let daemon = watched();
    let kitchen = daemon.subscribe("sub-1", "Kitchen", &["Meal"]);
    let billing = daemon.subscribe("sub-2", "Bil\"ling\\", &["Order"]);
    daemon.subscribe("sub-3", "Idle", &["Order"]);
    let cook = daemon.worker("Kitchen", &kitchen.pull_address);
    let subscriber = daemon.subscriber(&[""]);
    let clerk = connected(&daemon.context, zmq::DEALER, &billing.pull_address);
    clerk
        .send(r#"READY {"ack": true, "credit": 4}"#, 0)
        .expect("a send");
    daemon.wait_for_ready("Bil\"ling\\", 1);
    let publisher = daemon.publisher();
    // The first of a subject is counted with the others, until it is shown for the first time.
    for subject in ["Meal", "Order"] {
        publish(&publisher, subject, "0");
    }
    assert_eq!(received(&cook), "0");
    let word = format!("ACK {}", held(&clerk));
    clerk.send(&word, 0).expect("a send");
    daemon.wait_for("names", |status| {
        status.publishers.subjects.named.len() == 2
    });
    (0..10).for_each(|n| publish(&publisher, "Meal", &n.to_string()));
    (0..10).for_each(|n| assert_eq!(received(&cook), n.to_string()));
    (0..4).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    for said in ["ACK", "TERM", "NAK", "ACK", "ACK"] {
        let id = held(&clerk);
        let more = if said == "NAK" { " 1 later" } else { "" };
        clerk
            .send(&format!("{said} {id}{more}"), 0)
            .expect("a send");
    }
    emit(
        &daemon,
        &json!({"token": "emit", "id": "a", "subject": "Meal", "payload": "x"}),
    );
    emit(
        &daemon,
        &json!({"token": "emit", "id": "b", "level": "moon", "subject": "Meal"}),
    );
    assert_eq!(received(&cook), "x");
    // The dead letter is an event too, which the daemon publishes itself.
    (0..18).for_each(|_| _ = received(&subscriber));
    let status = daemon.wait_for("rest", |status| {
        let mut services = status.services.iter();
        services.all(|service| service.counters.in_flight == 0)
            && status.subscribers.counters.delivered == 18
    });
    let metrics = daemon.metrics();
    let stats = daemon.stats().status;
    assert_law(&stats);
    assert_eq!(stats.services.len(), 3);
    for service in 0..3 {
        let counters = |from: &Status| from.services[service].counters.clone();
        assert_eq!(counters(&stats), counters(&status));
    }
    assert_eq!(stats.subscribers.counters, status.subscribers.counters);
    assert_books(&metrics, &status);
    let billing = [("service", "Bil\"ling\\")];
    assert_eq!(
        metrics.value("event_consume_duration_seconds_count", &billing),
        4.0
    );
    assert_eq!(metrics.value("events_retried_total", &billing), 1.0);
    assert_eq!(metrics.value("events_dlq_total", &billing), 1.0);
    let subject = |name: &str| metrics.value("events_published_total", &[("subject", name)]);
    assert_eq!(
        (subject("Meal"), subject("Order"), subject("other")),
        (12.0, 5.0, 0.0)
    );
    let answered = |answer: &str| {
        let labels = [("kind", "emit"), ("answer", answer)];
        metrics.value("event_publish_duration_seconds_count", &labels)
    };
    assert_eq!((answered("ack"), answered("nak")), (1.0, 1.0));
    let subscribers = metrics.value("event_manager_subscriber_events_delivered_total", &[]);
    assert_eq!(subscribers, 18.0);
    assert!(metrics.value("process_cpu_seconds_total", &[]) > 0.0);
}

#[test]
fn subjects_that_are_no_labels_are_written_as_labels() {
    let daemon = watched();
    let publisher = daemon.publisher();
    let long = "Long.".repeat(2000);
    let subjects: [&[u8]; 14] = [
        br#"{"type": "heartbeat", "instance_id": "1"}"#,
        br#" [1, 2]"#,
        b"<event/>",
        b"\x08\x96\x01",
        b"\xff\xfe",
        b"",
        b"other",
        b"Best\xe4tigung",
        "Bestätigung".as_bytes(),
        b"Till/7: \"opened\"",
        b"Till/7:",
        b"a\\b\x1b[31m",
        long.as_bytes(),
        &long.as_bytes()[..200],
    ];
    for subject in subjects {
        for _ in 0..2 {
            publisher.send(subject, 0).expect("a send");
        }
    }
    daemon.wait_for("all", |status| status.publishers.events == 28);
    let metrics = daemon.metrics();
    let samples = metrics.samples.iter();
    let mut shown: Vec<_> = samples
        .filter(|((name, _), _)| name == "events_published_total")
        .map(|((_, labels), events)| (labels["subject"].as_str(), *events))
        .collect();
    shown.sort_by(|a, b| a.0.cmp(b.0));
    assert_eq!(
        shown,
        [
            ("Best", 2.0),
            ("Bestätigung", 2.0),
            (&long[..64], 4.0),
            ("Till/7:", 4.0),
            ("a\\b", 2.0),
            ("other", 14.0),
        ]
    );
    let listed = daemon.status().publishers.subjects.named.len();
    assert_eq!(listed, shown.len(), "`other` is a subject, too");
}

#[test]
fn the_first_event_of_a_subject_counts_under_its_name_while_names_are_free() {
    let daemon = watched();
    let publisher = daemon.publisher();
    for n in 0..20 {
        publish(&publisher, &format!("Subject{n}"), "x");
    }
    daemon.wait_for("all", |status| status.publishers.events == 20);
    let metrics = daemon.metrics();
    let subject = |name: &str| metrics.value("events_published_total", &[("subject", name)]);
    for n in 0..16 {
        assert_eq!(subject(&format!("Subject{n}")), 1.0);
    }
    assert_eq!(subject("other"), 4.0);
}

#[test]
fn a_flood_of_subjects_is_no_flood_of_series() {
    let daemon = watched();
    let publisher = daemon.publisher();
    for n in 0..10_000 {
        publish(&publisher, &format!("Subject{n}"), "x");
        if n % 4 == 0 {
            publish(&publisher, "Large", "x");
        }
    }
    daemon.wait_for("all", |status| status.publishers.events == 12_500);
    let first = daemon.metrics();
    (0..100).for_each(|_| publish(&publisher, "Large", "x"));
    daemon.wait_for("all", |status| status.publishers.events == 12_600);
    let metrics = daemon.metrics();
    let series = metrics
        .samples
        .keys()
        .filter(|(name, _)| name == "events_published_total");
    assert!(series.count() <= 17);
    assert_eq!(metrics.sum("events_published_total", None), 12_600.0);
    let large =
        |metrics: &Metrics| metrics.value("events_published_total", &[("subject", "Large")]);
    assert_eq!(large(&metrics) - large(&first), 100.0);
}

#[test]
fn the_format_is_the_one_that_was_asked_for() {
    let daemon = watched();
    let mut client = HttpClient::connect(daemon.http());
    let mut kind = |accept: &str| {
        let answer = client.request("GET", "/metrics", accept);
        (answer.headers["content-type"].clone(), answer.body)
    };
    let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let prometheus =
        "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2\r\n";
    for accept in ["", "Accept: */*\r\n", prometheus] {
        let (content_type, body) = kind(accept);
        assert_eq!(content_type, openmetrics);
        Metrics::parse(&body);
    }
    let (content_type, body) = kind("Accept: text/plain;version=0.0.4\r\n");
    assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
    assert!(body.contains("# TYPE event_manager_published_events_total counter\n"));
    assert!(!body.contains("# EOF"));
}
