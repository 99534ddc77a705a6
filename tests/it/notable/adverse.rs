//! What the machine may do to a daemon: no descriptor is left, its clock is set, a thread panics.

use super::super::support::disk_of;
use event_manager_wire::api::QueueState;
use std::fs;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;

use event_manager_client::blocking::Client;
use serde_json::json;
use tempfile::TempDir;

use super::{in_file, wait_for};
use crate::support::clock::Clock;
use crate::support::peers::{connected, publish};
use crate::support::program::{Site, wait_until};
use crate::support::{PATIENCE, TestDaemon};

#[test]
fn without_a_descriptor_connections_are_refused_and_what_is_on_disk_alone_waits() {
    const FDS_MAX: u64 = 128;
    let directory = TempDir::new().expect("a directory");
    let daemon = TestDaemon::in_own_process_with_fds(
        &json!({
            "stateDir": directory.path(),
            "maxConnections": 1000,
            "handshakeTimeout": 600,
            "services": {"Billing": {"delivery": "queue", "subjects": ["Order"], "queueEvents": 1}},
        }),
        FDS_MAX,
    );
    let worker = connected(&daemon.context, zmq::DEALER, &daemon.address_of("Billing"));
    let ready = r#"READY {"ack": true, "credit": 1}"#;
    worker.send(ready, 0).expect("a send");
    daemon.wait_for_ready("Billing", 1);
    let publisher = daemon.publisher();
    publish(&publisher, "Order", "dead");
    let (number, _) = delivered(&worker);
    worker.send(&format!("TERM {number}"), 0).expect("a send");
    // Header and record: it is kept.
    let letters = directory.path().join("queues/Billing.DLQ");
    let is_kept = || {
        let mut files = fs::read_dir(&letters).ok()?.filter_map(Result::ok);
        let length = |file: fs::DirEntry| {
            let is_segment = file.path().extension().is_some_and(|end| end == "log");
            file.metadata()
                .map_or(0, |found| found.len() * u64::from(is_segment))
        };
        files.any(|file| length(file) > 512).then_some(())
    };
    wait_until(is_kept).expect("the letter");
    publish(&publisher, "Order", "0");
    let held = delivered(&worker);
    // Connected before it is too late.
    let mut client = daemon.client(PATIENCE);
    client.events(None, 1).expect("an answer");

    let address = daemon.publishers().replace("tcp://", "");
    let mut crowd = Vec::new();
    wait_until(|| {
        while is_greeted(&mut crowd, &address) {}
        // A transaction that was under way gives its descriptor back when it ends. None begins.
        let journal = directory.path().join("state.db-journal");
        (!journal.exists() && !is_greeted(&mut crowd, &address)).then_some(())
    })
    .expect("no descriptor is left");
    for n in 1..5 {
        publish(&publisher, "Order", &n.to_string());
    }
    daemon.wait_for_service("Billing", "one in memory, three on disk", |found| {
        found.queue.events == 1 && disk_of(found).on_disk_only_events == 3
    });
    acknowledge(&worker, &held);
    let held = delivered(&worker);
    daemon.wait_for_service("Billing", "that it can't be read", |found| {
        disk_of(found).state == QueueState::Unreadable
    });
    let found = daemon.service("Billing");
    assert_eq!(found.counters.dropped.len(), 0);
    assert_eq!(found.counters.queued, 3);
    let all = client.events(None, 512).expect("an answer").events;
    let of = |code: &str| all.iter().filter(|event| event.code == code).count();
    assert_eq!([of("EM-0501"), of("EM-0503"), of("EM-0506")], [0, 0, 1]);
    let refused = all.iter().find(|event| event.code == "EM-0601");
    let refused = refused.expect("it is noted");
    assert_eq!(refused.fields["reason"], "out-of-descriptors");
    let letters = |client: &mut Client| client.dead_letters("list", "Billing", &json!({}));
    let unread = letters(&mut client).expect_err("a refusal").to_string();
    assert!(unread.contains("store-failed"), "{unread}");

    drop(crowd);
    daemon.wait_for_service("Billing", "that it can be read", |found| {
        disk_of(found).state == QueueState::Ok
    });
    assert_eq!(wait_for(&daemon, "EM-0502").fields["queue"], "Billing");
    assert_eq!(held.1, "1");
    acknowledge(&worker, &held);
    for n in 2..5 {
        let held = delivered(&worker);
        assert_eq!(held.1, n.to_string());
        acknowledge(&worker, &held);
    }
    daemon.wait_for_counter("Billing", |c| c.delivered, 5);
    let letters = letters(&mut client).expect("an answer");
    assert_eq!(letters.letters.len(), 1);
}

/// Connects one more: whether it was accepted, or turned away.
fn is_greeted(crowd: &mut Vec<TcpStream>, address: &str) -> bool {
    let mut peer = TcpStream::connect(address).expect("the system accepts it");
    peer.set_read_timeout(Some(PATIENCE)).expect("an option");
    let is_greeted = match peer.read(&mut [0]) {
        Ok(length) => length > 0,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
            false
        }
    };
    if is_greeted {
        crowd.push(peer);
    }
    is_greeted
}

/// The next event of a worker that acknowledges: its number, and its data.
fn delivered(worker: &zmq::Socket) -> (String, String) {
    let frames = worker.recv_multipart(0).expect("an event");
    let text = |frame: &[u8]| String::from_utf8(frame.to_vec()).expect("text");
    let head = text(&frames[0]);
    (
        head.split(' ').nth(1).expect("a number").to_owned(),
        text(&frames[2]),
    )
}

fn acknowledge(worker: &zmq::Socket, (number, _): &(String, String)) {
    worker.send(&format!("ACK {number}"), 0).expect("a send");
}

/// A daemon with a clock that can be set.
fn with_a_clock() -> (Clock, Site, TestDaemon) {
    let (clock, site) = Clock::of(Site::configured(&json!({"stateDir": "state"})));
    let daemon = TestDaemon::serving(&site);
    (clock, site, daemon)
}

#[test]
fn a_wall_clock_that_is_set_is_noted_and_costs_no_lease() {
    let (clock, _site, daemon) = with_a_clock();
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    let last_jump = || {
        let all = super::noted(&daemon);
        super::with_code(&all, "EM-0010").pop()?.fields["jump_ms"].as_i64()
    };
    // The first look only tells what the clock is; it comes soon after the start.
    let mut hours = 0;
    let forward = wait_until(|| {
        hours += 1;
        clock.set(hours * 3600);
        last_jump()
    });
    let forward = forward.expect("it is noted");
    let from_hours = (forward + 1000) % 3_600_000;
    assert!(forward > 0 && from_hours < 2000, "{forward}");
    clock.set(0);
    wait_until(|| last_jump().filter(|by| *by < 0)).expect("it was set back");
    assert_eq!(daemon.service("Billing").subscriptions[0].id, "sub-1");
}

#[test]
fn a_panic_of_its_own_ends_the_daemon_and_is_noted_in_the_file() {
    let (clock, site, daemon) = with_a_clock();
    let program = daemon.into_program();
    clock.break_it();
    let ended = program.end();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("panicked"), "{}", ended.stderr);
    let last = in_file(&site, "state/events.jsonl").pop();
    let last = last.expect("an event");
    assert_eq!([&last.code, &last.name], ["EM-0006", "died"]);
}
