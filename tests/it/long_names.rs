//! Durable services whose names are too long for the disk, by themselves or with that of their dead letters.

use std::fs;
use std::path::Path;

use event_manager::state::{self, Changes, KeptService, KeptSubscription};
use event_manager::telemetry::Journal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::emit::emit;
use super::requests::ask_json;
use super::support::peers::connected;
use super::support::program::{Site, wait_until};
use super::support::{PATIENCE, TestDaemon};

/// As a service of the release before, which took any name.
const TAKEN_BEFORE: u64 = 9_999_999_999_999;

/// Names that have no file, or whose dead letters have none.
fn too_long() -> [String; 5] {
    [
        "a/".repeat(100),
        "%".repeat(86),
        format!("https://example.org/{}", "a/".repeat(60)),
        "x".repeat(252),
        "x".repeat(255),
    ]
}

fn subscribe(daemon: &TestDaemon, service: &str, delivery: &Value) -> Value {
    let request = json!({"token": "subscribe", "id": format!("of {}", &service[..9]),
        "service": service, "subjects": [""], "delivery": delivery});
    ask_json(&daemon.requester(), &request)
}

fn on_disk(daemon: &TestDaemon, data: &str) -> u64 {
    let request = json!({"level": "disk", "subject": "Order", "payload": data});
    let answer = emit(daemon, request).expect("an ACK");
    answer["services"].as_u64().expect("a number")
}

#[test]
fn no_durable_service_gets_a_name_that_is_too_long_for_the_disk() {
    let directory = TempDir::new().expect("a directory");
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "services": {"x*": {"delivery": "queue"}},
    }));
    let answer = subscribe(&daemon, "Billing 1", &json!("queue"));
    assert_eq!(answer["token"], "TK_SYS_ACK", "{answer}");
    for name in too_long() {
        let asked = match name.starts_with('x') {
            // The configuration makes it durable.
            true => Value::Null,
            false => json!("queue"),
        };
        let refused = subscribe(&daemon, &name, &asked);
        assert_eq!(refused["code"], "invalid-name", "{refused}");
        let sentence = refused["error"].as_str().expect("a sentence");
        assert!(sentence.contains("bytes; the limit is 251"), "{sentence}");
        assert!(sentence.contains("choose a shorter name"), "{sentence}");
    }
    assert_eq!(on_disk(&daemon, "1"), 1);
    // It is a service's name all the same.
    let live = subscribe(&daemon, &too_long()[0], &json!("live"));
    assert_eq!(live["token"], "TK_SYS_ACK", "{live}");
    assert_eq!(on_disk(&daemon, "2"), 2);
    assert_eq!(daemon.status().store.failed.len(), 0);
}

#[test]
fn the_longest_names_keep_their_dead_letters() {
    let directory = TempDir::new().expect("a directory");
    let daemon = TestDaemon::in_own_process(&json!({"stateDir": directory.path()}));
    for name in ["x".repeat(251), "%".repeat(83), "a/".repeat(62)] {
        let answer = subscribe(&daemon, &name, &json!("queue"));
        assert_eq!(answer["token"], "TK_SYS_ACK", "{answer}");
        let address = daemon.address_of(&name);
        let worker = connected(&daemon.context, zmq::DEALER, &address);
        worker
            .send(r#"READY {"ack": true, "credit": 9}"#, 0)
            .expect("a send");
        assert!(on_disk(&daemon, "1") > 0);
        let event = worker.recv_multipart(0).expect("an event");
        let head = String::from_utf8_lossy(&event[0]).into_owned();
        let id = head.split(' ').nth(1).expect("an id");
        worker.send(&format!("TERM {id}"), 0).expect("a send");
        daemon.wait_for_counter(&name, |c| c.dead_lettered, 1);
        let letters = wait_until(|| {
            let asked = daemon
                .client(PATIENCE)
                .dead_letters("list", &name, &json!({}));
            Some(asked.expect("an answer").letters).filter(|letters| letters.len() == 1)
        });
        assert!(letters.is_some(), "{name}");
    }
    assert_eq!(daemon.status().store.failed.len(), 0);
}

/// Leaves in a state directory what an earlier release would have: a durable service with a subscription,
/// or without one, and wants.
fn leave(state_dir: &Path, services: &[(&str, bool)]) {
    let mut state = state::open(state_dir, &Journal::default()).expect("a database");
    let mut changes = Changes::default();
    for (name, is_subscribed) in services {
        let subjects = vec![String::new()];
        let service = KeptService {
            durable: Some(true),
            subjects: if *is_subscribed {
                vec![]
            } else {
                subjects.clone()
            },
            ..KeptService::default()
        };
        changes.services.insert((*name).into(), Some(service));
        if *is_subscribed {
            let subscription = KeptSubscription {
                service: (*name).into(),
                subjects,
                expires_at_ms: TAKEN_BEFORE,
                ..KeptSubscription::default()
            };
            changes
                .subscriptions
                .insert(format!("of {}", &name[..9]), Some(subscription));
        }
    }
    assert!(state.writer.take(changes));
    drop(state.writer);
    assert!(state.thread.join(PATIENCE));
}

#[test]
fn what_an_earlier_release_took_is_named_once_and_stops_nobody() {
    let site = Site::configured(&json!({"stateDir": "state"}));
    let [slashes, percents, .., longest] = too_long();
    let served = "x".repeat(253);
    let services = [
        ("Billing 1", true),
        (&*slashes, true),
        (&*percents, false),
        // There is no queue of its own: nothing of it is lost.
        (&*longest, true),
        (&*served, false),
    ];
    leave(&site.path("state"), &services);
    fs::create_dir_all(site.path("state/queues").join(&served)).expect("a directory");
    for is_first in [true, false] {
        let daemon = TestDaemon::serving(&site);
        assert_eq!(
            on_disk(&daemon, "1"),
            2,
            "Billing, and the one with a queue"
        );
        let status = daemon.status();
        let mut names: Vec<_> = status.services.iter().map(|found| &*found.name).collect();
        names.sort_unstable();
        assert_eq!(names, ["Billing 1", &served]);
        assert_eq!(status.store.failed.len(), 0);
        let log = daemon.program().log();
        for name in [&slashes, &percents, &longest] {
            let named =
                |line: &&str| line.contains("EM-0522") && line.contains(&format!("{name}:"));
            let lines = log.lines().filter(named).count();
            assert_eq!(lines, usize::from(is_first), "{log}");
        }
        let again = subscribe(&daemon, &slashes, &json!("queue"));
        assert_eq!(again["code"], "invalid-name", "{again}");
    }
}
