//! Confirmed publishing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use event_manager_wire::api::QueueState;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::disk_of;
use super::support::peers::{is_silent, received};
use super::support::raw::{RawPeer, message};
use super::support::{TestDaemon, tunnel};

fn durable(directory: &TempDir) -> TestDaemon {
    TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "services": {"Billing": {"delivery": "queue", "subjects": ["Order"]}},
    }))
}

/// Asks in JSON: the answer's data, or its code.
pub(super) fn emit(daemon: &TestDaemon, mut request: Value) -> Result<Value, String> {
    request["token"] = "emit".into();
    let requester = daemon.requester();
    requester.send(&request.to_string(), 0).expect("a send");
    let answer = requester.recv_bytes(0).expect("an answer");
    let answer: Value = serde_json::from_slice(&answer).expect("JSON");
    match answer["code"].as_str() {
        Some(code) => Err(code.to_owned()),
        None => Ok(answer["data"].clone()),
    }
}

fn queued(daemon: &TestDaemon) -> u64 {
    daemon.service("Billing").counters.queued
}

#[test]
fn an_event_is_confirmed_when_it_is_on_disk() {
    let directory = TempDir::new().expect("a directory");
    let first = durable(&directory);
    let request = json!({"id": "a-1", "level": "disk", "subject": "Order", "payload": "x"});
    let answer = emit(&first, request.clone()).expect("an ACK");
    assert_eq!(
        answer,
        json!({"id": "a-1", "services": 1, "level": "disk", "duplicate": false})
    );
    first.kill();
    let second = durable(&directory);
    second.wait_for("the event", |status| {
        status.services[0].counters.queued == 1
    });
    // Its publisher may not have heard the answer: the same again is no second event.
    let mut expected = answer;
    expected["duplicate"] = true.into();
    for _ in 0..2 {
        let again = emit(&second, request.clone()).expect("an ACK");
        assert_eq!(again, expected);
        assert_eq!(queued(&second), 1);
    }
    let again = json!({"id": "a-2", "level": "disk", "subject": "Order", "payload": "x"});
    let answer = emit(&second, again).expect("an ACK");
    assert_eq!(answer["duplicate"], false);
    assert_eq!(queued(&second), 2);
}

#[test]
fn of_two_that_wait_with_one_id_one_is_a_duplicate() {
    let directory = TempDir::new().expect("a directory");
    let daemon = durable(&directory);
    // Both arrive in one read, before the disk can have said anything.
    let request = json!({
        "token": "emit", "id": "a-1", "level": "disk", "subject": "Order", "payload": "x",
    });
    let mut peer = RawPeer::met(&daemon.requests(), "DEALER");
    peer.send(&message(&["", &request.to_string()]).repeat(3));
    let mut duplicates = (0..3).map(|_| {
        let frames = peer.read_message();
        let answer: Value = serde_json::from_slice(&frames[1]).expect("JSON");
        assert_eq!(answer["data"]["services"], 1, "{answer}");
        answer["data"]["duplicate"]
            .as_bool()
            .expect("true or false")
    });
    assert_eq!(
        [(); 3].map(|()| duplicates.next()),
        [false, true, true].map(Some)
    );
    assert_eq!(queued(&daemon), 1);
}

#[test]
fn an_id_that_reached_nobody_can_be_used_again() {
    let daemon = TestDaemon::start();
    let request = json!({"id": "a-1", "subject": "Order", "payload": "x"});
    let nobody = json!({"id": "a-1", "services": 0, "level": "memory", "duplicate": false});
    for _ in 0..2 {
        assert_eq!(emit(&daemon, request.clone()).expect("an ACK"), nobody);
    }
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    let mut expected = json!({"id": "a-1", "services": 1, "level": "memory", "duplicate": false});
    assert_eq!(emit(&daemon, request.clone()).expect("an ACK"), expected);
    expected["duplicate"] = true.into();
    assert_eq!(emit(&daemon, request).expect("an ACK"), expected);
    assert_eq!(queued(&daemon), 1);

    // A plain subscriber is somebody, though no service.
    let subscriber = daemon.subscriber(&["Stock"]);
    let request = json!({"id": "a-2", "subject": "Stock", "payload": "once"});
    for duplicate in [false, true] {
        let answer = emit(&daemon, request.clone()).expect("an ACK");
        assert_eq!(
            (&answer["services"], &answer["duplicate"]),
            (&json!(0), &json!(duplicate))
        );
    }
    assert_eq!(received(&subscriber), "once");
    assert!(is_silent(&subscriber, 30));
}

#[test]
fn events_of_one_time_come_in_the_order_in_which_they_were_sent() {
    const EVENTS: usize = 300;
    let daemon = TestDaemon::start();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let subscriber = daemon.subscriber(&["Order"]);
    let at = SystemTime::now() + Duration::from_millis(1500);
    let at_ms = at.duration_since(UNIX_EPOCH).expect("a time").as_millis() as u64;
    let mut requester = RawPeer::met(&daemon.requests(), "DEALER");
    for n in 0..EVENTS {
        let payload = n.to_string();
        let request =
            json!({"token": "emit", "subject": "Order", "payload": payload, "deliverAt": at_ms});
        requester.send(&message(&["", &request.to_string()]));
    }
    (0..EVENTS).for_each(|_| drop(requester.read_message()));
    let worker = daemon.worker("Billing", &billing.pull_address);
    for receiver in [&subscriber, &worker] {
        let heard: Vec<_> = (0..EVENTS).map(|_| received(receiver)).collect();
        let sent: Vec<_> = (0..EVENTS).map(|n| n.to_string()).collect();
        assert_eq!(heard, sent);
    }
}

#[test]
fn the_same_id_is_accepted_once_and_answered_the_same() {
    let daemon = TestDaemon::start();
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    let request = json!({"id": "a-1", "subject": "Order", "payload": "x"});
    let first = emit(&daemon, request.clone()).expect("an ACK");
    assert_eq!(
        first,
        json!({"id": "a-1", "services": 1, "level": "memory", "duplicate": false})
    );
    let again = emit(&daemon, request).expect("an ACK");
    assert_eq!(
        again,
        json!({"id": "a-1", "services": 1, "level": "memory", "duplicate": true})
    );
    let without = json!({"subject": "Order", "payload": "x"});
    (0..2).for_each(|_| drop(emit(&daemon, without.clone()).expect("an ACK")));
    assert_eq!(queued(&daemon), 3);
}

#[test]
fn frames_and_positions_come_through() {
    let daemon = TestDaemon::start();
    let subscriber = daemon.subscriber(&["Order"]);
    emit(&daemon, json!({"framesBase64": ["T3JkZXI=", "AAH/", ""]})).expect("an ACK");
    let frames = subscriber.recv_multipart(0).expect("an event");
    assert_eq!(frames, [b"Order".to_vec(), vec![0, 1, 0xFF], vec![]]);
    emit(&daemon, json!({"frames": ["Order alone"]})).expect("an ACK");
    assert_eq!(
        subscriber.recv_multipart(0).expect("an event"),
        [b"Order alone".to_vec()]
    );
    let (token, data) = daemon.ask(
        "TK_EVENT_MANAGER_EMIT",
        &["id-1", "memory", "Order", "a\0b"],
    );
    assert_eq!(token, "TK_SYS_ACK", "{data}");
    let frames = subscriber.recv_multipart(0).expect("an event");
    assert_eq!(frames, [b"Order".to_vec(), b"a\0b".to_vec()]);
}

#[test]
fn any_frames_may_stand_behind_the_message() {
    let daemon = TestDaemon::start();
    let subscriber = daemon.subscriber(&["Order"]);
    let requester = daemon.requester();
    let ask = |frames: &[&[u8]]| {
        requester.send_multipart(frames, 0).expect("a send");
        let answer = requester.recv_multipart(0).expect("an answer");
        String::from_utf8(answer[2].clone()).expect("a text")
    };
    // An empty frame, and one that reads as a request, are not mistaken for an envelope.
    let large = vec![0xFF; 100_000];
    let data = b"a-1\0memory\0{\"ttl\": 5}";
    for duplicate in [false, true] {
        let answer = ask(&[b"emit", b"", data, b"", b"Order\0x", b"", b"2.4", &large]);
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(answer["duplicate"], duplicate, "{answer}");
    }
    let frames = subscriber.recv_multipart(0).expect("an event");
    assert_eq!(frames, [&b"Order\0x"[..], b"", b"2.4", &large]);
    assert!(is_silent(&subscriber, 30));
    ask(&[b"emit", b"", b"", b"", b"Order alone"]);
    assert_eq!(received(&subscriber), "Order alone");

    for (data, code) in [
        ("a\0tape", "invalid-field"),
        ("a\0\0{\"colour\": 1}", "unknown-field"),
        ("a\0\0{\"subject\": \"x\"}", "invalid-field"),
        ("a\0\0nonsense", "invalid-field"),
    ] {
        let answer = ask(&[b"emit", b"", data.as_bytes(), b"", b"Order"]);
        assert!(answer.starts_with(&format!("{code}: ")), "{answer}");
    }
    let answer = ask(&[b"status", b"", b"", b"", b"Order"]);
    assert!(answer.starts_with("malformed-message: "), "{answer}");
}

#[test]
fn an_event_that_is_too_old_is_not_served() {
    let daemon = TestDaemon::start();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    emit(
        &daemon,
        json!({"subject": "Order", "payload": "old", "ttl": 0.05}),
    )
    .expect("an ACK");
    emit(&daemon, json!({"subject": "Order", "payload": "new"})).expect("an ACK");
    daemon.wait_for("its end", |status| status.services[0].counters.expired == 1);
    let worker = daemon.worker("Billing", &billing.pull_address);
    assert_eq!(received(&worker), "new");
    assert!(is_silent(&worker, 30));
}

#[test]
fn an_event_comes_when_its_time_has_come() {
    const DELAY: Duration = Duration::from_millis(300);
    let daemon = TestDaemon::start();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let worker = daemon.worker("Billing", &billing.pull_address);
    let subscriber = daemon.subscriber(&["Order"]);
    let at = SystemTime::now() + DELAY;
    let at_ms = at.duration_since(UNIX_EPOCH).expect("a time").as_millis() as u64;
    emit(
        &daemon,
        json!({"subject": "Order", "payload": "later", "deliverAt": at_ms}),
    )
    .expect("an ACK");
    emit(&daemon, json!({"subject": "Order", "payload": "now"})).expect("an ACK");
    for receiver in [&worker, &subscriber] {
        assert_eq!(received(receiver), "now");
        assert_eq!(received(receiver), "later");
    }
    // The wall clock may have been read a millisecond before ours.
    assert!(SystemTime::now() + Duration::from_millis(2) >= at);
}

#[test]
fn nonsense_is_refused_by_name() {
    let daemon = TestDaemon::start();
    for (request, code) in [
        (json!({"payload": "x"}), "missing-field"),
        (json!({"subject": "x", "level": "tape"}), "invalid-field"),
        (json!({"subject": "x", "colour": "red"}), "unknown-field"),
        (json!({"subject": "x", "frames": ["x"]}), "invalid-field"),
        (json!({"frames": []}), "invalid-field"),
        (json!({"framesBase64": ["?"]}), "invalid-field"),
        (json!({"subject": "x", "ttl": 0}), "invalid-field"),
        (
            json!({"subject": "x", "deliverAt": "soon"}),
            "invalid-field",
        ),
        (json!({"subject": "x".repeat(2000)}), "invalid-subject"),
        (
            json!({"subject": "x", "id": "i".repeat(256)}),
            "invalid-field",
        ),
        (json!({"frames": vec!["f"; 2000]}), "too-large"),
    ] {
        assert_eq!(
            emit(&daemon, request.clone()),
            Err(code.to_owned()),
            "{request}"
        );
    }
    let (_, data) = daemon.ask("TK_EVENT_MANAGER_EMIT", &["id", "memory"]);
    assert!(data.starts_with("missing-field: field 3"), "{data}");
}

fn hour_from_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("after 1970").as_millis() as u64 + 3_600_000
}

#[test]
fn the_latest_time_is_a_time_too() {
    let directory = TempDir::new().expect("a directory");
    let first = durable(&directory);
    let latest = 100_000_000_000_000_u64;
    for time in [latest, latest - 1, latest / 2] {
        let request = json!({"level": "disk", "subject": "Order", "payload": "x",
            "deliverAt": time, "ttl": 31_000_000});
        emit(&first, request).expect("an ACK");
    }
    // What is later is in another unit.
    let request = json!({"subject": "Order", "payload": "x", "deliverAt": latest + 1});
    assert_eq!(emit(&first, request), Err("invalid-field".to_owned()));
    first.kill();
    let second = durable(&directory);
    second.wait_for("the events", |status| {
        let counters = &status.services[0].counters;
        counters.queued == 3 && counters.expired == 0
    });
}

#[test]
fn what_waits_for_its_time_for_subscribers_is_bounded_in_bytes() {
    let daemon = TestDaemon::start();
    let _subscriber = daemon.subscriber(&["Order"]);
    let payload = "x".repeat(3 << 20);
    let request = json!({"subject": "Order", "payload": payload, "deliverAt": hour_from_now()});
    // Where clients have names, as in a tunnel, one leaves as much as it has.
    let room = if tunnel::is_on() { 11 } else { 21 };
    for _ in 0..room {
        emit(&daemon, request.clone()).expect("an ACK");
    }
    assert_eq!(emit(&daemon, request), Err("busy".to_owned()));
    // For services they wait in queues of their own bounds.
    let request = json!({"subject": "Refund", "payload": "x", "deliverAt": hour_from_now()});
    emit(&daemon, request).expect("an ACK");
    let publishers = &daemon.status().publishers;
    assert_eq!((publishers.events, publishers.unmatched), (room + 1, 1));
}

#[test]
fn confirmed_events_are_within_the_memory_limit_too() {
    const LIMIT: usize = 1 << 20;
    let daemon = TestDaemon::with(|config| {
        config.limits.message_bytes_max = LIMIT / 8;
        config.memory_limit = LIMIT;
    });
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    let request = json!({"subject": "Order", "payload": "x".repeat(LIMIT / 16)});
    for _ in 0..40 {
        emit(&daemon, request.clone()).expect("an ACK");
    }
    let service = daemon.service("Billing");
    let waiting = service.queue.bytes as usize;
    assert!(waiting <= LIMIT + LIMIT / 8, "{waiting} bytes wait");
}

/// The service's queue fails with its first event, until what is in its place is gone. There is a durable
/// service `Probe`.
fn break_queue(daemon: &TestDaemon, directory: &TempDir, service: &str) -> impl Fn() {
    // The store does all in its order: it has opened the queue when it has taken this.
    let probe = json!({"level": "disk", "subject": "Probe", "payload": "x"});
    emit(daemon, probe).expect("an ACK");
    let queue = directory.path().join("queues").join(service);
    std::fs::remove_dir_all(&queue).expect("it is there");
    std::fs::write(&queue, "in the way").expect("a file");
    move || std::fs::remove_file(&queue).expect("it is there")
}

fn acknowledging(daemon: &TestDaemon, service: &str) -> zmq::Socket {
    let address = daemon.address_of(service);
    daemon.worker(service, &address)
}

#[test]
fn what_failed_in_one_service_is_sent_again_to_that_one_alone() {
    let directory = TempDir::new().expect("a directory");
    let queue = json!({"delivery": "queue", "subjects": ["Order"]});
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "services": {
            "Archive": queue, "Billing": queue, "Cellar": queue,
            "Probe": {"delivery": "queue", "subjects": ["Probe"]},
        },
    }));
    let subscriber = daemon.subscriber(&["Order"]);
    let live = daemon.subscribe("sub-1", "Live", &["Order"]);
    let live = daemon.worker("Live", &live.pull_address);
    let workers = ["Archive", "Billing", "Cellar"].map(|name| acknowledging(&daemon, name));
    daemon.wait_for_subscriptions(1);
    for name in ["Live", "Archive", "Billing", "Cellar"] {
        daemon.wait_for_ready(name, 1);
    }
    let mend = ["Billing", "Cellar"].map(|name| break_queue(&daemon, &directory, name));
    let request = json!({"id": "a-1", "level": "disk", "subject": "Order", "payload": "x"});
    let refused = || Err("store-failed".to_owned());
    assert_eq!(emit(&daemon, request.clone()), refused());
    // Those that have it are not asked to take it again while others still fail.
    assert_eq!(emit(&daemon, request.clone()), refused());
    for (mend, name) in mend.iter().zip(["Billing", "Cellar"]) {
        mend();
        daemon.wait_for_service(name, "that it works", |found| {
            disk_of(found).state == QueueState::Ok
        });
    }
    let answer = emit(&daemon, request.clone()).expect("an ACK");
    assert_eq!(
        answer,
        json!({"id": "a-1", "services": 4, "level": "disk", "duplicate": false})
    );
    let again = emit(&daemon, request).expect("an ACK");
    assert_eq!(
        again,
        json!({"id": "a-1", "services": 4, "level": "disk", "duplicate": true})
    );
    let last = json!({"level": "disk", "subject": "Order", "payload": "last"});
    emit(&daemon, last).expect("an ACK");
    for receiver in workers.iter().chain([&live, &subscriber]) {
        assert_eq!(received(receiver), "x");
        assert_eq!(received(receiver), "last");
    }
    let probes = 2;
    assert_eq!(daemon.status().publishers.events, probes + 2);
}

#[test]
fn who_failed_and_is_gone_is_not_waited_for() {
    let directory = TempDir::new().expect("a directory");
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "services": {
            "Billing": {"delivery": "queue"},
            "Probe": {"delivery": "queue", "subjects": ["Probe"]},
        },
    }));
    let live = daemon.subscribe("sub-1", "Live", &["Order"]);
    let live = daemon.worker("Live", &live.pull_address);
    daemon.wait_for_ready("Live", 1);
    daemon.subscribe("sub-2", "Billing", &["Order"]);
    let _mend = break_queue(&daemon, &directory, "Billing");
    let request = json!({"id": "a-1", "level": "disk", "subject": "Order", "payload": "x"});
    assert_eq!(
        emit(&daemon, request.clone()),
        Err("store-failed".to_owned())
    );
    daemon.unsubscribe("sub-2");
    let (token, _) = daemon.ask("TK_EVENT_MANAGER_END", &["Billing"]);
    assert_eq!(token, "TK_SYS_ACK");
    // It comes too late for this event.
    daemon.subscribe("sub-3", "Late", &["Order"]);
    let answer = emit(&daemon, request).expect("an ACK");
    assert_eq!(
        answer,
        json!({"id": "a-1", "services": 1, "level": "memory", "duplicate": false})
    );
    emit(&daemon, json!({"subject": "Order", "payload": "last"})).expect("an ACK");
    assert_eq!(received(&live), "x");
    assert_eq!(received(&live), "last");
    assert_eq!(daemon.service("Late").counters.matched, 1);
}
