//! Workers that acknowledge: credit, retries, dead letters, side by side with those that don't.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use event_manager_wire::api::Counters;
use serde_json::{Value, json};

use super::support::TestDaemon;
use super::support::peers::{connected, is_silent, publish, received};
use super::support::raw::{RawPeer, message};

/// An event in the hands of a worker that acknowledges.
struct Delivered {
    id: String,
    attempt: u32,
    subject: String,
    data: String,
}

/// A worker that acknowledges, over libzmq.
struct Worker(zmq::Socket);

impl Worker {
    fn start(daemon: &TestDaemon, service: &str, address: &str, options: &str) -> Self {
        let before = daemon.service(service).workers.ready;
        let socket = connected(&daemon.context, zmq::DEALER, address);
        let worker = Self(socket);
        worker.say(&format!("READY {options}"));
        daemon.wait_for_ready(service, before + 1);
        worker
    }

    fn say(&self, word: &str) {
        self.0.send(word, 0).expect("a send");
    }

    fn receive(&self) -> Delivered {
        let frames = self.0.recv_multipart(0).expect("an event");
        let text = |frame: &[u8]| String::from_utf8(frame.to_vec()).expect("text");
        let word = text(&frames[0]);
        let words: Vec<&str> = word.split(' ').collect();
        assert_eq!((words[0], words.len()), ("EVENT", 3), "{word}");
        Delivered {
            id: words[1].into(),
            attempt: words[2].parse().expect("a number"),
            subject: text(&frames[1]),
            data: text(&frames[2]),
        }
    }

    fn ack(&self, event: &Delivered) {
        self.say(&format!("ACK {}", event.id));
    }

    fn is_silent(&self) -> bool {
        is_silent(&self.0, 50)
    }
}

fn counters(daemon: &TestDaemon, service: &str) -> Counters {
    daemon.service(service).counters
}

#[test]
fn an_event_is_in_flight_until_it_is_acknowledged() {
    let daemon = TestDaemon::start();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let worker = Worker::start(
        &daemon,
        "Billing",
        &billing.pull_address,
        r#"{"ack": true}"#,
    );
    let publisher = daemon.publisher();
    publish(&publisher, "OrderCreated", "first");
    let event = worker.receive();
    assert_eq!(
        (event.subject.as_str(), event.data.as_str(), event.attempt),
        ("OrderCreated", "first", 1)
    );
    assert_eq!(counters(&daemon, "Billing").in_flight, 1);
    assert_eq!(counters(&daemon, "Billing").delivered, 0);
    worker.ack(&event);
    daemon.wait_for_counter("Billing", |c| c.delivered, 1);
    assert_eq!(counters(&daemon, "Billing").in_flight, 0);
}

#[test]
fn a_worker_holds_no_more_than_its_credit() {
    let daemon = TestDaemon::start();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let worker = Worker::start(
        &daemon,
        "Billing",
        &billing.pull_address,
        r#"{"ack": true, "credit": 2}"#,
    );
    let publisher = daemon.publisher();
    (0..5).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    let (first, second) = (worker.receive(), worker.receive());
    assert_eq!((first.data.as_str(), second.data.as_str()), ("0", "1"));
    assert!(worker.is_silent());
    assert_eq!(counters(&daemon, "Billing").queued, 3);
    worker.ack(&second);
    assert_eq!(worker.receive().data, "2");
    assert!(worker.is_silent());
    worker.say(r#"READY {"ack": true, "credit": 4}"#);
    assert_eq!(
        (worker.receive().data, worker.receive().data),
        ("3".into(), "4".into())
    );
}

#[test]
fn what_a_worker_held_when_it_died_goes_to_another_with_its_attempt_raised() {
    let daemon = TestDaemon::start();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let dying = Worker::start(
        &daemon,
        "Billing",
        &billing.pull_address,
        r#"{"ack": true}"#,
    );
    let publisher = daemon.publisher();
    (0..3).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    let held: Vec<_> = (0..3).map(|_| dying.receive()).collect();
    dying.ack(&held[1]);
    daemon.wait_for_counter("Billing", |c| c.delivered, 1);
    let other = Worker::start(
        &daemon,
        "Billing",
        &billing.pull_address,
        r#"{"ack": true}"#,
    );
    drop(dying);
    let again: Vec<_> = (0..2).map(|_| other.receive()).collect();
    let seen: Vec<_> = again
        .iter()
        .map(|event| (event.data.as_str(), event.attempt))
        .collect();
    assert_eq!(seen, [("0", 2), ("2", 2)]);
    again.iter().for_each(|event| other.ack(event));
    daemon.wait_for_counter("Billing", |c| c.delivered, 3);
    let counters = counters(&daemon, "Billing");
    assert_eq!((counters.redelivered, counters.unconfirmed), (2, 0));
}

#[test]
fn what_is_naked_comes_again_and_holds_nobody_up() {
    let daemon = TestDaemon::start();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let worker = Worker::start(
        &daemon,
        "Billing",
        &billing.pull_address,
        r#"{"ack": true, "credit": 1}"#,
    );
    let publisher = daemon.publisher();
    ["bad", "good"]
        .iter()
        .for_each(|data| publish(&publisher, "Order", data));
    let bad = worker.receive();
    worker.say(&format!("NAK {} 200 no stock", bad.id));
    let good = worker.receive();
    assert_eq!(good.data, "good");
    worker.ack(&good);
    let again = worker.receive();
    assert_eq!((again.data.as_str(), again.attempt), ("bad", 2));
    assert_ne!(again.id, bad.id);
    // The first delivery is over: nothing comes of a word on it.
    worker.ack(&bad);
    worker.ack(&again);
    daemon.wait_for_counter("Billing", |c| c.delivered, 2);
    assert_eq!(daemon.refused("unknown-delivery"), 1);
    assert_eq!(counters(&daemon, "Billing").retries, 1);
}

#[test]
fn a_poisoned_event_is_dead_after_eight_deliveries_and_others_hear_of_it() {
    let daemon = TestDaemon::start();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let watcher = daemon.subscriber(&["Billing.DLQ"]);
    let worker = Worker::start(
        &daemon,
        "Billing",
        &billing.pull_address,
        r#"{"ack": true}"#,
    );
    let publisher = daemon.publisher();
    publish(&publisher, "OrderCreated", "poison");
    for attempt in 1..=8 {
        let event = worker.receive();
        assert_eq!(event.attempt, attempt);
        worker.say(&format!("NAK {} 1 no stock", event.id));
    }
    let frames = watcher.recv_multipart(0).expect("a dead letter");
    assert_eq!(frames[0], b"Billing.DLQ");
    let what: Value = serde_json::from_slice(&frames[1]).expect("JSON");
    assert_eq!(what["reason"], "max-deliveries");
    assert_eq!(what["detail"], "no stock");
    assert_eq!(what["attempts"], 8);
    assert_eq!(what["subject"], "OrderCreated");
    assert_eq!(&frames[2..], [b"OrderCreated".to_vec(), b"poison".to_vec()]);
    assert!(worker.is_silent());
    assert_eq!(counters(&daemon, "Billing").dead_lettered, 1);
}

#[test]
fn a_terminated_event_is_dead_at_once() {
    let daemon = TestDaemon::start();
    // It hears of its own dead letters, which must not make new ones for ever.
    let all = daemon.subscribe("sub-1", "All", &[""]);
    let worker = Worker::start(&daemon, "All", &all.pull_address, r#"{"ack": true}"#);
    publish(&daemon.publisher(), "Order", "x");
    let event = worker.receive();
    worker.say(&format!("TERM {} of no use", event.id));
    let letter = worker.receive();
    assert_eq!(letter.subject, "All.DLQ");
    assert!(letter.data.contains("of no use"), "{}", letter.data);
    worker.say(&format!("TERM {}", letter.id));
    assert!(worker.is_silent());
    assert_eq!(counters(&daemon, "All").dead_lettered, 2);
}

#[test]
fn workers_of_both_kinds_serve_side_by_side() {
    const EVENTS: usize = 200;
    let daemon = TestDaemon::start();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let acknowledging = Worker::start(
        &daemon,
        "Billing",
        &billing.pull_address,
        r#"{"ack": true}"#,
    );
    let plain = daemon.worker("Billing", &billing.pull_address);
    let publisher = daemon.publisher();
    (0..EVENTS).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    let mut got = BTreeSet::new();
    let mut by_kind = BTreeMap::new();
    while got.len() < EVENTS {
        let mut items = [
            acknowledging.0.as_poll_item(zmq::POLLIN),
            plain.as_poll_item(zmq::POLLIN),
        ];
        assert!(
            zmq::poll(&mut items, 5000).expect("a poll") > 0,
            "only {} arrived",
            got.len()
        );
        let ready = items.each_ref().map(zmq::PollItem::is_readable);
        if ready[0] {
            let event = acknowledging.receive();
            acknowledging.ack(&event);
            got.insert(event.data);
            *by_kind.entry("acknowledging").or_insert(0) += 1;
        }
        if ready[1] {
            got.insert(received(&plain));
            *by_kind.entry("plain").or_insert(0) += 1;
        }
    }
    assert_eq!(by_kind.len(), 2, "{by_kind:?}");
    daemon.wait_for_counter("Billing", |c| c.delivered, EVENTS as u64);
}

#[test]
fn who_says_bye_gets_no_more_and_may_finish_what_it_holds() {
    let daemon = TestDaemon::start();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let leaving = Worker::start(
        &daemon,
        "Billing",
        &billing.pull_address,
        r#"{"ack": true}"#,
    );
    let publisher = daemon.publisher();
    publish(&publisher, "Order", "held");
    let held = leaving.receive();
    leaving.say("BYE");
    daemon.wait_for_ready("Billing", 0);
    publish(&publisher, "Order", "for another");
    leaving.ack(&held);
    daemon.wait_for_counter("Billing", |c| c.delivered, 1);
    assert!(leaving.is_silent());
    let other = Worker::start(
        &daemon,
        "Billing",
        &billing.pull_address,
        r#"{"ack": true}"#,
    );
    assert_eq!(other.receive().data, "for another");
}

#[test]
fn an_envelope_is_kept() {
    let daemon = TestDaemon::start();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let worker = connected(&daemon.context, zmq::DEALER, &billing.pull_address);
    worker
        .send_multipart(["", r#"READY {"ack": true}"#], 0)
        .expect("a send");
    daemon.wait_for_ready("Billing", 1);
    publish(&daemon.publisher(), "Order", "x");
    let frames = worker.recv_multipart(0).expect("an event");
    assert_eq!((frames.len(), frames[0].len()), (4, 0));
    assert_eq!(&frames[2..], [b"Order".to_vec(), b"x".to_vec()]);
    let word = String::from_utf8(frames[1].clone()).expect("text");
    let id = word.split(' ').nth(1).expect("an id");
    worker
        .send_multipart(["", &format!("ACK {id}")], 0)
        .expect("a send");
    daemon.wait_for_counter("Billing", |c| c.delivered, 1);
}

#[test]
fn nonsense_is_answered_to_those_who_acknowledge() {
    let daemon = TestDaemon::start();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let worker = Worker::start(
        &daemon,
        "Billing",
        &billing.pull_address,
        r#"{"ack": true}"#,
    );
    worker.say("ACK seven");
    let answer = worker.0.recv_string(0).expect("an answer").expect("text");
    assert!(
        answer.starts_with("ERROR \"seven\" is not a delivery id"),
        "{answer}"
    );
    for delay in ["-5", "86400001", "99999999999999999999"] {
        worker.say(&format!("NAK 7 {delay} no stock"));
        let answer = worker.0.recv_string(0).expect("an answer").expect("text");
        let bound = format!("ERROR a NAK's delay must be 0 to 86400000 ms, not {delay}");
        assert_eq!(answer, bound);
    }
    worker.say("ACK 7");
    daemon.wait_for("the word on nothing", |status| {
        status.refused("unknown-delivery") == 1
    });
    // One that doesn't would take an answer for an event.
    let plain = daemon.worker("Billing", &billing.pull_address);
    plain.send("ACK 1", 0).expect("a send");
    daemon.wait_for("it is counted", |status| {
        status.refused("unknown-worker-message") == 5
    });
    assert!(is_silent(&plain, 50));
}

#[test]
fn a_worker_that_does_not_read_its_errors_gets_no_more_of_them() {
    const WORDS: u64 = 200_000;
    const BUDGET: usize = 64 << 10;
    let daemon = TestDaemon::with(|config| config.budgets.worker_outbox_bytes = BUDGET);
    let pull = daemon
        .subscribe("sub-1", "Billing", &["Order"])
        .pull_address;
    let mut worker = RawPeer::met(&pull, "DEALER");
    let socket = socket2::SockRef::from(&worker.0);
    socket.set_recv_buffer_size(4096).expect("an option");
    worker.send(&message(&[r#"READY {"ack": true}"#]));
    let nonsense = message(&[&format!("ACK {}", "x".repeat(40))]).repeat(100);
    (0..WORDS / 100).for_each(|_| worker.send(&nonsense));
    daemon.wait_for("all that was said", |status| {
        status.refused("unknown-worker-message") == WORDS
    });
    let waiting = daemon.status().connections.outbox_bytes;
    assert!(waiting <= 2 * BUDGET as u64, "{waiting}");
}

/// What a worker takes at once is not late while it does one after the other: the last of its credit
/// waits in its hands for longer than `ackTimeout`.
#[test]
fn a_slow_worker_with_much_credit_gets_each_event_once() {
    let services = json!({"Billing": {"ackTimeout": 0.4, "retry": {"maxDeliveries": 2}}});
    let daemon = TestDaemon::in_own_process(&json!({"services": services}));
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let options = r#"{"ack": true, "credit": 32}"#;
    let worker = Worker::start(&daemon, "Billing", &billing.pull_address, options);
    let publisher = daemon.publisher();
    let events = 60;
    for event in 0..events {
        publish(&publisher, "Order", &event.to_string());
    }
    for event in 0..events {
        let delivered = worker.receive();
        let what = (delivered.data.clone(), delivered.attempt);
        assert_eq!(what, (event.to_string(), 1));
        // Its work: 32 of them take twice as long as ackTimeout.
        std::thread::sleep(Duration::from_millis(25));
        worker.ack(&delivered);
    }
    daemon.wait_for_counter("Billing", |c| c.delivered, events);
    let counters = counters(&daemon, "Billing");
    let again = [
        counters.redelivered,
        counters.retries,
        counters.dead_lettered,
    ];
    assert_eq!(again, [0; 3], "{counters:#?}");
    assert_eq!(daemon.refused("unknown-delivery"), 0);
}

/// It hangs: what it holds goes to the other, which then is asked first.
#[test]
fn a_worker_that_hangs_is_found_and_gets_nothing_more_while_another_is_ready() {
    let services = json!({"Billing": {"ackTimeout": 0.3}});
    let daemon = TestDaemon::in_own_process(&json!({"services": services}));
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let options = r#"{"ack": true, "credit": 2}"#;
    let hung = Worker::start(&daemon, "Billing", &billing.pull_address, options);
    let publisher = daemon.publisher();
    for event in ["a", "b"] {
        publish(&publisher, "Order", event);
    }
    daemon.wait_for_counter("Billing", |c| c.in_flight, 2);
    let healthy = Worker::start(&daemon, "Billing", &billing.pull_address, options);
    let mut done = vec![];
    for _ in 0..2 {
        let event = healthy.receive();
        assert_eq!(event.attempt, 2);
        healthy.ack(&event);
        done.push(event.data);
    }
    done.sort();
    assert_eq!(done, ["a", "b"]);
    for event in ["c", "d", "e"] {
        publish(&publisher, "Order", event);
        let delivered = healthy.receive();
        assert_eq!((delivered.data.as_str(), delivered.attempt), (event, 1));
        healthy.ack(&delivered);
    }
    daemon.wait_for_counter("Billing", |c| c.delivered, 5);
    // It comes to itself, and says so: what it says is late, and it takes part again.
    let late = [hung.receive(), hung.receive()];
    late.iter().for_each(|event| hung.ack(event));
    for event in ["f", "g"] {
        publish(&publisher, "Order", event);
    }
    healthy.ack(&healthy.receive());
    hung.ack(&hung.receive());
    daemon.wait_for_counter("Billing", |c| c.delivered, 7);
}

/// Too late, and nobody else is there: the event has gone back to the same worker when it answers.
#[test]
fn a_late_acknowledgement_counts_though_the_event_went_back_to_the_worker() {
    let retry = json!({"initialMs": 1, "maxDeliveries": 2});
    let services = json!({"Billing": {"ackTimeout": 0.1, "retry": retry}});
    let daemon = TestDaemon::in_own_process(&json!({"services": services}));
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let options = r#"{"ack": true, "credit": 1}"#;
    let worker = Worker::start(&daemon, "Billing", &billing.pull_address, options);
    publish(&daemon.publisher(), "Order", "a");
    let first = worker.receive();
    let second = worker.receive();
    assert_eq!((first.attempt, second.attempt), (1, 2));
    worker.ack(&first);
    // It gives the second one back; that it was the last try means nothing now.
    worker.say(&format!("NAK {}", second.id));
    daemon.wait_for_counter("Billing", |c| c.delivered, 1);
    assert_eq!(counters(&daemon, "Billing").dead_lettered, 0);
}

/// Name and client of each, sorted.
fn named(daemon: &TestDaemon, service: &str) -> Vec<[String; 2]> {
    let named = daemon.service(service).workers.named.into_iter();
    let text = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let mut named: Vec<_> = named
        .map(|worker| [text(worker.name), text(worker.client)])
        .collect();
    named.sort();
    named
}

#[test]
fn workers_say_who_they_are() {
    let daemon = TestDaemon::start();
    let address = daemon
        .subscribe("sub-1", "Billing", &["Order"])
        .pull_address;
    let options = r#"{"ack": true, "credit": 2, "name": "till-1", "client": "lib/1.0"}"#;
    let first = Worker::start(&daemon, "Billing", &address, options);
    publish(&daemon.publisher(), "Order", "x");
    let event = first.receive();
    daemon.wait_for_counter("Billing", |c| c.in_flight, 1);
    let shown = daemon.service("Billing").workers.named.remove(0);
    assert_eq!(
        (shown.ready, shown.credit, shown.held_events),
        (true, Some(2), 1)
    );
    assert!(shown.address.starts_with("127.0.0.1:"), "{shown:?}");
    // What it doesn't say again stays; what it says again is changed.
    first.say(r#"READY {"ack": true, "credit": 3}"#);
    first.say(r#"READY {"ack": true, "credit": 4, "name": "till-2"}"#);
    daemon.wait_for("its credit", |status| {
        status.services[0].workers.named[0].credit == Some(4)
    });
    assert_eq!(named(&daemon, "Billing"), [["till-2", "lib/1.0"]]);
    first.ack(&event);
    first.say("BYE");
    daemon.wait_for("its BYE", |status| {
        !status.services[0].workers.named[0].ready
    });
    // One that doesn't acknowledge, one behind a proxy, one that says nothing, one that says nonsense.
    let plain = connected(&daemon.context, zmq::DEALER, &address);
    plain.send(r#"READY {"name": "plain"}"#, 0).expect("a send");
    let proxied = connected(&daemon.context, zmq::DEALER, &address);
    let behind = |route: &str| {
        let ready = format!(r#"READY {{"ack": true, "name": "behind {route}"}}"#);
        proxied.send_multipart([route, &ready], 0).expect("a send");
    };
    behind("a");
    behind("b");
    let nobody = connected(&daemon.context, zmq::DEALER, &address);
    nobody.send("READY", 0).expect("a send");
    let odd = connected(&daemon.context, zmq::DEALER, &address);
    let options = json!({"name": ["x"], "client": format!("a\u{1b}\n{}", "y".repeat(9_00))});
    odd.send(&format!("READY {options}"), 0).expect("a send");
    daemon.wait_for_ready("Billing", 5);
    let client = format!("a\u{fffd}\u{fffd}{}…", "y".repeat(61));
    let expected = [
        ["-", &client],
        ["behind a", "-"],
        ["behind b", "-"],
        ["plain", "-"],
        ["till-2", "lib/1.0"],
    ];
    assert_eq!(named(&daemon, "Billing"), expected);
    // Whose connection ends is forgotten; of very many, only some are named.
    drop((first, plain, proxied, odd));
    daemon.wait_for("their end", |status| {
        status.services[0].workers.named.is_empty()
    });
    let many: Vec<_> = (0..40)
        .map(|n| {
            let worker = connected(&daemon.context, zmq::DEALER, &address);
            let ready = format!(r#"READY {{"name": "{n}"}}"#);
            worker.send(&ready, 0).expect("a send");
            worker
        })
        .collect();
    daemon.wait_for_ready("Billing", 41);
    assert_eq!(named(&daemon, "Billing").len(), 32);
    drop(many);
}

/// Read as JSON they would take a multiple of it.
#[test]
fn a_ready_of_megabytes_is_refused() {
    let daemon = TestDaemon::start();
    let address = daemon
        .subscribe("sub-1", "Billing", &["Order"])
        .pull_address;
    let worker = Worker::start(&daemon, "Billing", &address, r#"{"ack": true}"#);
    let options = json!({"ack": true, "name": "x".repeat(1 << 20)});
    worker.say(&format!("READY {options}"));
    let told = worker.0.recv_string(0).expect("a text").expect("UTF-8");
    assert!(told.contains("the limit is 4096"), "{told}");
    assert_eq!(named(&daemon, "Billing"), [] as [[String; 2]; 0]);
}
