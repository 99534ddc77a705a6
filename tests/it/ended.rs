//! Durable services that are ended while their events are on their way to the disk.

use event_manager_wire::api::Status;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::TestDaemon;
use super::support::disk_of;
use super::support::peers::{connected, publish, received};

fn daemon(directory: &TempDir) -> TestDaemon {
    TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "services": {"Kitchen*": {"delivery": "queue"}},
    }))
}

fn send(requester: &zmq::Socket, token: &str, fields: &[&str]) {
    let data = fields.join("\0");
    requester
        .send_multipart(["", token, "PARAM", &data], 0)
        .expect("a send");
}

/// An answer's data in JSON; the text of a NAK.
fn answer(requester: &zmq::Socket) -> Value {
    let frames = requester.recv_multipart(0).expect("an answer");
    let text = String::from_utf8(frames[3].clone()).expect("text");
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

#[test]
fn a_service_that_follows_one_of_its_name_has_nothing_of_it() {
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory);
    let requester = connected(&daemon.context, zmq::DEALER, &daemon.requests());
    let emit = |id: &str| send(&requester, "2.0101", &[id, "disk", "Meal", id]);
    for round in 0..20 {
        daemon.subscribe("sub-1", "Kitchen", &["Meal"]);
        let (old, new) = (format!("old-{round}"), format!("new-{round}"));
        send(&requester, "2.2", &["sub-1"]);
        (0..3).for_each(|n| emit(&format!("{old}-{n}")));
        send(&requester, "2.0102", &["Kitchen"]);
        send(&requester, "2.1", &["sub-1", "Kitchen", "Meal"]);
        (0..3).for_each(|n| emit(&format!("{new}-{n}")));
        let mut confirmed = vec![];
        for _ in 0..9 {
            let answer = answer(&requester);
            confirmed.extend(answer["id"].as_str().map(str::to_owned));
        }
        confirmed.retain(|id| id.starts_with(&new));
        assert_eq!(confirmed.len(), 3, "{confirmed:?}");
        daemon.wait_for_service("Kitchen", "the new events alone", |found| {
            found.counters.matched == 3
                && found.counters.queued == 3
                && disk_of(found).pending_events == 0
        });
        daemon.unsubscribe("sub-1");
        daemon.ask("TK_EVENT_MANAGER_END", &["Kitchen"]);
    }
}

#[test]
fn what_was_on_its_way_to_the_disk_holds_up_nobody_after_the_end() {
    const EVENT_BYTES: usize = 8 << 20;
    const ROUNDS: usize = 8;
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory);
    let requester = connected(&daemon.context, zmq::DEALER, &daemon.requests());
    let large = "x".repeat(EVENT_BYTES);
    for round in 0..ROUNDS {
        let name = format!("Kitchen-{round}");
        send(&requester, "2.1", &["sub-1", &name, "Meal"]);
        send(&requester, "2.2", &["sub-1"]);
        send(&requester, "2.0101", &["", "memory", "Meal", &large]);
        (0..2).for_each(|_| drop(answer(&requester)));
        let accepted = answer(&requester);
        assert_eq!(accepted["services"], 1, "round {round}: {accepted}");
        send(&requester, "2.0102", &[&name]);
        assert_eq!(answer(&requester)["deadLetters"], 0);
    }
    let live = daemon.subscribe("sub-2", "Bakery", &["Meal"]);
    let worker = daemon.worker("Bakery", &live.pull_address);
    publish(&daemon.publisher(), "Meal", "small");
    assert_eq!(received(&worker), "small");
}

#[test]
fn a_service_that_was_ended_is_not_there_after_a_kill() {
    let directory = TempDir::new().expect("a directory");
    for round in 0..6 {
        let first = daemon(&directory);
        assert_eq!(first.status().services, [], "round {round}");
        first.subscribe("sub-1", "Kitchen", &["Meal"]);
        let id = format!("id-{round}");
        let (token, _) = first.ask("TK_EVENT_MANAGER_EMIT", &[&id, "disk", "Meal", "soup"]);
        assert_eq!(token, "TK_SYS_ACK");
        first.unsubscribe("sub-1");
        let is_kept = |status: &Status| status.state.written;
        first.wait_for("the service is kept", is_kept);
        let (token, answer) = first.ask("TK_EVENT_MANAGER_END", &["Kitchen"]);
        first.kill();
        assert_eq!(token, "TK_SYS_ACK", "{answer}");
        let queue = directory.path().join("queues/Kitchen");
        assert!(!queue.exists(), "round {round}");
    }
    assert_eq!(daemon(&directory).status().services, []);
}
