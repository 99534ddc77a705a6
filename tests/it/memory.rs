//! What a storm took of memory is given back when nothing waits any more.

use std::time::{Duration, Instant};

use event_manager_wire::api::Status;
use serde_json::json;

use super::support::peers::{publish, received};
use super::support::program::Site;
use super::support::raw::{RawPeer, command};
use super::support::{PATIENCE, TestDaemon};

const MIB: u64 = 1 << 20;

/// Memory of the program that is resident, in bytes.
fn resident_bytes(daemon: &TestDaemon) -> u64 {
    let path = format!("/proc/{}/status", daemon.program().pid());
    let status = std::fs::read_to_string(path).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    kib.and_then(|kib| kib.parse::<u64>().ok())
        .expect("a number")
        * 1024
}

fn waiting(status: &Status) -> u64 {
    status.memory.waiting_bytes
}

/// Events of many sizes wait for a service without a worker, and for a subscriber that doesn't read,
/// until there is no room for more; then both go.
fn storm(daemon: &TestDaemon, round: usize) {
    const EVENTS: usize = 120_000;
    let service = format!("Storm-{round}");
    daemon.subscribe("storm", &service, &["Storm"]);
    let stalled = daemon.subscriber(&["Storm"]);
    let publisher = daemon.publisher();
    let body = "x".repeat(4000);
    for n in 0..EVENTS {
        let len_max = if n % 100 == 0 { body.len() } else { 600 };
        let subject = format!("Storm.{}", n % 1000);
        publish(&publisher, &subject, &body[..n * 7919 % len_max]);
    }
    daemon.wait_for_counter(&service, |c| c.matched, EVENTS as u64);
    drop(stalled);
    daemon.unsubscribe("storm");
    // The next one's subscriber is counted from none.
    daemon.wait_for("an end of the storm", |status| {
        waiting(status) == 0 && status.subscribers.subscriptions == 0
    });
}

#[test]
fn what_a_storm_took_is_given_back() {
    let daemon = TestDaemon::serving(&Site::configured(&json!({
        "memoryLimit": 32 * MIB,
        "limits": {"maxMessageBytes": MIB},
    })));
    let before = resident_bytes(&daemon);
    for round in 0..6 {
        storm(&daemon, round);
    }
    let allowed = before + before / 5 + 16 * MIB;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let resident = resident_bytes(&daemon);
        if resident <= allowed {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{before} bytes were resident before, {resident} are now"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Forty subscribers want more than all together may have. Nobody has more than it leaves to others, so there
/// is room for who comes last.
#[test]
fn what_all_are_subscribed_to_is_bounded() {
    const BUDGET: usize = 1 << 20;
    const PREFIXES: u64 = 300;
    let daemon = TestDaemon::with(|config| config.budgets.subscription_bytes = BUDGET);
    let all: Vec<_> = (0..40)
        .map(|peer| {
            let prefix = |n: u64| format!("{peer}-{n}-{}", "x".repeat(235));
            let wanted: Vec<u8> = (0..PREFIXES)
                .flat_map(|n| command("SUBSCRIBE", prefix(n).as_bytes()))
                .collect();
            let mut greedy = RawPeer::met(&daemon.subscribers(), "SUB");
            greedy.send(&wanted);
            greedy
        })
        .collect();
    // Each needs 0.24 MB: there is room for three, and half as much again.
    let status = daemon.wait_for("three of them", |status| {
        status.refused("too-many-subscriptions") == 37
            && status.subscribers.subscriptions == 3 * PREFIXES
    });
    assert_eq!(status.subscribers.connected, 3);
    assert!(status.subscribers.prefix_bytes < BUDGET as u64);
    let modest = daemon.subscriber(&["Order"]);
    publish(&daemon.publisher(), "Order", "x");
    assert_eq!(received(&modest), "x");
    drop((all, modest));
    daemon.wait_for("none", |status| status.subscribers.prefix_bytes == 0);
}

/// Clients that are cut off together leave millions of prefixes, which take seconds to go. Everybody else is
/// served meanwhile.
#[test]
fn subscribers_that_go_hold_nobody_up() {
    const PREFIXES: u64 = 2_000;
    let daemon = TestDaemon::start();
    let modest = daemon.subscriber(&["Order"]);
    let publisher = daemon.publisher();
    let all: Vec<_> = (0..40)
        .map(|peer| {
            let wanted: Vec<u8> = (0..PREFIXES)
                .flat_map(|n| command("SUBSCRIBE", format!("{peer}-{n}").as_bytes()))
                .collect();
            let mut many = RawPeer::met(&daemon.subscribers(), "SUB");
            many.send(&wanted);
            many
        })
        .collect();
    daemon.wait_for("all of them", |status| {
        status.subscribers.subscriptions == 40 * PREFIXES + 1
    });
    drop(all);
    // All connections are gone, and not all prefixes: we are answered in between.
    daemon.wait_for("a turn in between", |status| {
        status.subscribers.connected == 1 && status.subscribers.prefix_bytes > 100_000
    });
    publish(&publisher, "Order", "x");
    assert_eq!(received(&modest), "x");
    daemon.wait_for("all prefixes gone", |status| {
        status.subscribers.prefix_bytes < 1_000
    });
    publish(&publisher, "3-17", "to nobody");
    let status = daemon.wait_for("it", |status| status.publishers.events == 2);
    assert_eq!(status.publishers.unmatched, 1);
}
