//! Peers that publish more than they may: they are heard again soon. When they hang up meanwhile, that is noticed,
//! and what they had sent is not forgotten.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use event_manager_wire::api::{ClientStatus, Status};
use serde_json::{Value, json};

use super::support::TestDaemon;
use super::support::peers::received;
use super::support::raw::{RawPeer, greeting, message, ready};

fn daemon(quotas: Value) -> TestDaemon {
    let anonymous =
        json!({"publish": [""], "subscribe": [""], "requests": ["*"], "quotas": quotas});
    let security = serde_json::from_value(json!({ "anonymous": anonymous }));
    TestDaemon::with(|config| config.security = security.expect("a configuration"))
}

fn anonymous(status: &Status) -> ClientStatus {
    let mut clients = status.security.clients.iter();
    let found = clients.find(|client| client.name == "anonymous");
    found.cloned().unwrap_or_default()
}

/// A publisher that has sent so many events.
fn publisher(daemon: &TestDaemon, events: usize) -> RawPeer {
    let mut publisher = RawPeer::met(&daemon.publishers(), "PUB");
    publisher.send(&message(&["order", "x"]).repeat(events));
    publisher
}

fn wait_until_paused(daemon: &TestDaemon) {
    daemon.wait_for("it is paused", |status| anonymous(status).paused);
}

/// It pauses often and for a moment, and its connections take turns: small events were read by the MiB, and
/// paid off for as long as that took.
#[test]
fn who_publishes_more_than_its_rate_is_heard_again_soon() {
    let daemon = daemon(json!({"eventsPerSecond": 5000}));
    let mut publisher = RawPeer::met(&daemon.publishers(), "PUB");
    // Twenty times what it may in a second: it waits for all of it.
    let events = message(&["order", "x"]).repeat(100_000);
    let sending = std::thread::spawn(move || {
        publisher.send_while_heard(&events);
        publisher
    });
    wait_until_paused(&daemon);
    for _ in 0..3 {
        let asked = Instant::now();
        let (token, _) = daemon.ask("status", &[]);
        assert_eq!(token, "TK_SYS_ACK");
        assert!(
            asked.elapsed() < Duration::from_secs(3),
            "{:?}",
            asked.elapsed()
        );
    }
    assert!(
        daemon.status().publishers.events < 60_000,
        "it was all read at once"
    );
    drop(sending.join().expect("no panic"));
}

#[test]
fn who_hangs_up_while_it_is_paused_makes_room_at_once() {
    let daemon = daemon(json!({"connections": 1, "eventsPerSecond": 10}));
    // It is read again in half a minute.
    let first = publisher(&daemon, 10_000);
    wait_until_paused(&daemon);
    drop(first);
    daemon.wait_for("its place is free", |status| {
        anonymous(status).connections == 0
    });
    let _second = RawPeer::met(&daemon.publishers(), "PUB");
    daemon.wait_for("the next is served", |status| {
        anonymous(status).connections == 1
    });
    assert_eq!(daemon.refused("quota"), 0);
}

#[test]
fn what_was_sent_before_is_read_as_the_rate_allows() {
    let daemon = daemon(json!({"connections": 3, "eventsPerSecond": 100}));
    let subscriber = daemon.subscriber(&["late"]);
    let mut first = publisher(&daemon, 700);
    let mut requester = RawPeer::met(&daemon.requests(), "DEALER");
    wait_until_paused(&daemon);
    first.send(&message(&["late", "1"]));
    requester.send(&message(&[
        "TK_EVENT_MANAGER_EMIT",
        "PARAM",
        &["", "memory", "late", "2"].join("\0"),
    ]));
    drop((first, requester));
    let status = daemon.wait_for("they are leaving", |status| anonymous(status).leaving == 2);
    assert!(
        anonymous(&status).paused,
        "it was paid too soon for this test"
    );
    assert_eq!(anonymous(&status).connections, 1);
    let _others = [(); 2].map(|()| RawPeer::met(&daemon.publishers(), "PUB"));
    daemon.wait_for("others are there", |status| {
        anonymous(status).connections == 3
    });
    let mut late = [received(&subscriber), received(&subscriber)];
    late.sort();
    assert_eq!(late, ["1", "2"]);
    let status = daemon.wait_for("they are gone", |status| anonymous(status).leaving == 0);
    assert_eq!((status.refused("quota"), status.refused("unread")), (0, 0));
}

#[test]
fn what_came_with_the_handshake_is_not_forgotten() {
    let daemon = daemon(json!({"connections": 3, "eventsPerSecond": 100}));
    let subscriber = daemon.subscriber(&["late"]);
    let _first = publisher(&daemon, 700);
    wait_until_paused(&daemon);
    let mut second = RawPeer::connect(&daemon.publishers());
    second.send(&greeting());
    second.read_exactly(64);
    // The daemon reads all of it at once.
    second.send(&[ready("PUB", ""), message(&["late", "1"])].concat());
    second.read_frame();
    drop(second);
    daemon.wait_for("it is leaving", |status| anonymous(status).leaving == 1);
    assert_eq!(received(&subscriber), "1");
}

/// Who comes, sends and goes again and again would have any number of connections otherwise.
#[test]
fn what_is_lost_of_too_many_that_hang_up_is_named() {
    let daemon = daemon(json!({"connections": 2, "eventsPerSecond": 10}));
    let _first = publisher(&daemon, 10_000);
    wait_until_paused(&daemon);
    for times in 1..=5 {
        let next = publisher(&daemon, 1);
        if times % 2 == 0 {
            // Half closed, as a program does that says all it has to say first.
            next.0.shutdown(Shutdown::Write).expect("an option");
            daemon.wait_for("its end", |status| {
                anonymous(status).leaving + status.refused("unread") == times
            });
        }
        drop(next);
        daemon.wait_for("its end", |status| {
            anonymous(status).leaving + status.refused("unread") == times
        });
    }
    let status = daemon.status();
    assert_eq!(anonymous(&status).leaving, 2);
    assert_eq!(anonymous(&status).connections, 1);
    assert_eq!((status.refused("unread"), status.refused("quota")), (3, 0));
    assert_eq!(status.publishers.connected, 3);
}
