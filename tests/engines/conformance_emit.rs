//! What publishers hear of events that go to the queues of services at engines.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::conformance_served::{Queues, Served, asked, assert_laws};
use super::support::TestDaemon;
use super::support::peers::is_silent;

pub fn an_event_is_confirmed_when_the_engine_has_it<B: Queues>() {
    let mut broker = B::started();
    let served = Served::start(&broker, &json!({}));
    let requester = served.daemon.requester();
    let emit = |id: &str, subject: &str| {
        let request = json!({
            "token": "emit", "id": id, "subject": subject, "payload": "x", "level": "engine",
        });
        let data = asked(&requester, &request)["data"].clone();
        (data["level"].clone(), data["services"].clone())
    };
    for n in 0..10 {
        assert_eq!(emit(&n.to_string(), "Order"), (json!("engine"), json!(1)));
        assert_eq!(broker.waiting("Billing"), n + 1);
    }
    // It is known, and there is nobody who wants the other.
    assert_eq!(emit("9", "Order"), (json!("engine"), json!(1)));
    assert_eq!(emit("other", "Refund"), (json!("memory"), json!(0)));
    // The answer waits for the engine.
    broker.kill();
    let other = served.daemon.requester();
    let request = json!({
        "token": "emit", "id": "10", "subject": "Order", "payload": "x", "level": "engine",
    });
    let begun = Instant::now();
    other.send(&request.to_string(), 0).expect("a send");
    assert!(is_silent(&other, 100));
    broker.start();
    let answer = other.recv_bytes(0).expect("an answer");
    // A server that takes so long to start is not waited for: it is on the daemon's disk.
    let level = match begun.elapsed() < Duration::from_secs(10) {
        true => "engine",
        false => "disk",
    };
    let answer: Value = serde_json::from_slice(&answer).expect("JSON");
    assert_eq!(answer["data"]["level"], level, "{answer}");
    while broker.waiting("Billing") != 11 {}
}

/// EMIT with the level `engine`; its answer, and how long that took.
fn emitted(daemon: &TestDaemon, id: &str, payload: &str) -> (Value, Duration) {
    let begun = Instant::now();
    let request = json!({
        "token": "emit", "id": id, "subject": "Order", "payload": payload, "level": "engine",
    });
    (asked(&daemon.requester(), &request), begun.elapsed())
}

pub fn what_the_engine_never_takes_is_refused_at_once<B: Queues>() {
    let broker = B::shared();
    let served = Served::start(&broker, &json!({}));
    assert_eq!(
        emitted(&served.daemon, "0", "x").0["data"]["level"],
        "engine"
    );
    let large = "x".repeat(broker.too_many_bytes());
    // The second time it is known.
    for _ in 0..2 {
        let (answer, taken) = emitted(&served.daemon, "large", &large);
        assert!(taken < Duration::from_secs(5), "{taken:?}");
        let said = answer["data"].as_str().expect("a sentence");
        assert!(said.starts_with("engine-refused: Billing: "), "{answer}");
        assert!(said.contains("bytes are more than"), "{answer}");
        assert!(
            said.contains("event-manager dlq list engine.Billing"),
            "{answer}"
        );
    }
    served
        .daemon
        .wait_for_counter("engine.Billing", |c| c.dead_lettered, 1);
    assert_eq!(
        emitted(&served.daemon, "1", "x").0["data"]["level"],
        "engine"
    );
    assert_eq!(broker.waiting("Billing"), 2);
    assert_laws(&broker, &[&served], 0);
}

pub fn what_the_engine_doesn_t_take_now_is_answered_with_its_words<B: Queues>() {
    let broker = B::shared();
    let served = Served::start(&broker, &json!({}));
    let mut sent = 1;
    assert_eq!(
        emitted(&served.daemon, "0", "x").0["data"]["level"],
        "engine"
    );
    broker.fill(true);
    let refused = loop {
        // It may look at its length from time to time only.
        assert!(sent < 1000);
        let (answer, taken) = emitted(&served.daemon, &sent.to_string(), "x");
        sent += 1;
        assert!(taken < Duration::from_secs(5), "{taken:?}: {answer}");
        if answer["data"]["level"] != "engine" {
            break answer["data"].clone();
        }
        assert_eq!(answer["data"].get("reason"), None);
    };
    assert_eq!(refused["level"], "disk");
    let reason = refused["reason"].as_str().expect("a sentence");
    assert!(reason.starts_with("Billing: "), "{reason}");
    assert!(reason.contains(B::FULL), "{reason}");
    // While that is known, nobody waits.
    let (answer, taken) = emitted(&served.daemon, "last", "x");
    assert!(taken < Duration::from_secs(1), "{taken:?}: {answer}");
    assert_eq!(answer["data"]["reason"], reason);
    broker.fill(false);
    while broker.waiting("Billing") != sent + 1 {}
    assert_laws(&broker, &[&served], 0);
}
