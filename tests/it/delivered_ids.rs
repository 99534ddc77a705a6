//! `READY {"ids": true}`: ids of events in queues on disk, which stay the same whatever happens.

use std::collections::BTreeSet;

use serde_json::json;
use tempfile::TempDir;

use super::support::TestDaemon;
use super::support::peers::{connected, is_silent, publish};

const READY: &str = r#"READY {"ack": true, "credit": 1000, "ids": true}"#;

fn daemon(directory: &TempDir) -> TestDaemon {
    TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "services": {"Till 7": {"delivery": "queue", "subjects": ["Order"]}},
    }))
}

fn worker(daemon: &TestDaemon, ready: &str) -> zmq::Socket {
    let worker = connected(&daemon.context, zmq::DEALER, &daemon.address_of("Till 7"));
    worker.send(ready, 0).expect("a send");
    worker
}

struct Held {
    delivery: String,
    event: Option<String>,
    data: String,
}

fn hold(worker: &zmq::Socket) -> Held {
    let frames = worker.recv_multipart(0).expect("an event");
    let text = |frame: &[u8]| String::from_utf8(frame.to_vec()).expect("text");
    let word = text(&frames[0]);
    let mut parts = word.splitn(4, ' ');
    assert_eq!(parts.next(), Some("EVENT"), "{word}");
    let delivery = parts.next().expect("a delivery").to_owned();
    parts.next().expect("an attempt");
    Held {
        delivery,
        event: parts.next().map(str::to_owned),
        data: text(&frames[2]),
    }
}

fn ids(worker: &zmq::Socket, count: usize) -> Vec<String> {
    (0..count)
        .map(|n| {
            let held = hold(worker);
            assert_eq!(held.data, n.to_string());
            held.event.expect("an id")
        })
        .collect()
}

#[test]
fn an_event_keeps_its_id_over_a_nak_a_kill_and_another_worker() {
    let directory = TempDir::new().expect("a directory");
    let first = daemon(&directory);
    let asking = worker(&first, READY);
    let publisher = first.publisher();
    (0..3).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    let known = ids(&asking, 3);
    assert_eq!(known.iter().collect::<BTreeSet<_>>().len(), 3);
    let instance = std::fs::read_to_string(directory.path().join("instance")).expect("a file");
    let beginning = format!("{}.Till 7.", instance.trim());
    assert!(
        known.iter().all(|id| id.starts_with(&beginning)),
        "{known:?}"
    );
    first.kill();

    let second = daemon(&directory);
    let asking = worker(&second, READY);
    let held: Vec<_> = (0..3).map(|_| hold(&asking)).collect();
    let again: Vec<_> = held
        .iter()
        .map(|held| held.event.clone().expect("an id"))
        .collect();
    assert_eq!(again, known);
    asking
        .send(&format!("NAK {} 1", held[0].delivery), 0)
        .expect("a send");
    assert_eq!(hold(&asking).event.as_ref(), Some(&known[0]));
    drop(asking);
    // One that doesn't ask for them is sent what it always was.
    let plain = worker(&second, r#"READY {"ack": true, "credit": 1000}"#);
    (0..3).for_each(|_| assert_eq!(hold(&plain).event, None));
}

#[test]
fn a_queue_that_begins_anew_has_other_ids() {
    let directory = TempDir::new().expect("a directory");
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "services": {"Kitchen": {"delivery": "queue"}},
    }));
    let publisher = daemon.publisher();
    let mut all = BTreeSet::new();
    for _ in 0..3 {
        let subscribed = daemon.subscribe("sub-1", "Kitchen", &["Meal"]);
        let asking = connected(&daemon.context, zmq::DEALER, &subscribed.pull_address);
        asking.send(READY, 0).expect("a send");
        daemon.wait_for_ready("Kitchen", 1);
        publish(&publisher, "Meal", "0");
        all.extend(ids(&asking, 1));
        daemon.unsubscribe("sub-1");
        daemon.ask("TK_EVENT_MANAGER_END", &["Kitchen"]);
    }
    assert_eq!(all.len(), 3, "{all:?}");
}

#[test]
fn ids_without_acknowledgements_are_refused() {
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory);
    let asking = worker(&daemon, r#"READY {"ids": true}"#);
    // It didn't say that it acknowledges, so it is told nothing that it could take for an event.
    assert!(is_silent(&asking, 20));
    assert_eq!(daemon.service("Till 7").workers.ready, 0);
}
