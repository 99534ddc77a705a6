//! Leases: what a subscription that isn't kept alive leaves behind, which is nothing.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::support::TestDaemon;
use super::support::bus::{own_host, services_on};
use super::support::peers::{Subscribed, is_silent, publish, received};
use super::support::program::wait_until;
use super::support::raw::{RawPeer, frame, tcp_address};

const TTL: Duration = Duration::from_millis(800);
const SUBSCRIBE: &str = "TK_EVENT_MANAGER_SUBSCRIBE";
const UNSUBSCRIBE: &str = "TK_EVENT_MANAGER_UNSUBSCRIBE";
const KEEP_ALIVE: &str = "TK_EVENT_MANAGER_KEEP_ALIVE";

fn with_ttl(ttl: Duration) -> TestDaemon {
    let host = own_host();
    TestDaemon::with(|config| {
        services_on(&host)(config);
        config.subscription_ttl = ttl;
    })
}

fn wait_for_end(daemon: &TestDaemon, service: &str) {
    daemon.wait_for("the service's end", |status| {
        status.service(service).is_none()
    });
}

/// Closed now or in a moment: a process that another test starts has a copy of our listeners until it
/// runs its own program.
fn assert_closed(pull_address: &str) {
    let refused = wait_until(|| TcpStream::connect(tcp_address(pull_address)).err());
    let refused = refused.expect("a closed port");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

/// A worker whose connection can be seen to end; its subscription is as fresh as it.
fn raw_worker(daemon: &TestDaemon, service: &str, subscribed: &Subscribed) -> RawPeer {
    let mut worker = RawPeer::met(&subscribed.pull_address, "DEALER");
    worker.send(&frame(0, b"READY"));
    daemon.wait_for("a worker", |_| {
        daemon.ask(KEEP_ALIVE, &[&subscribed.id]);
        daemon.service(service).workers.ready == 1
    });
    worker
}

#[test]
fn a_subscription_that_is_not_kept_alive_leaves_nothing() {
    let daemon = with_ttl(TTL);
    let publisher = daemon.publisher();
    let subscribed = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let subscribed_at = Instant::now();
    let mut worker = raw_worker(&daemon, "Billing", &subscribed);
    publish(&publisher, "Order", "1");
    assert_eq!(worker.read_message(), [b"Order".to_vec(), b"1".to_vec()]);

    assert_eq!(worker.read_to_end(), b"", "its connection is closed");
    assert!(subscribed_at.elapsed() >= TTL - Duration::from_millis(50));
    assert_eq!(daemon.find_service("Billing"), None);
    assert_closed(&subscribed.pull_address);
    assert_eq!(
        daemon.refusal(KEEP_ALIVE, &["sub-1"]),
        "unknown-subscription"
    );
    assert_eq!(
        daemon.refusal(UNSUBSCRIBE, &["sub-1"]),
        "unknown-subscription"
    );
    publish(&publisher, "Order", "2");
    daemon.wait_for("an unmatched event", |status| {
        status.publishers.unmatched == 1
    });

    let again = daemon.subscribe("sub-1", "Billing", &["Order"]);
    assert_eq!(again.pull_address, subscribed.pull_address);
    let worker = daemon.worker("Billing", &again.pull_address);
    publish(&publisher, "Order", "3");
    assert_eq!(received(&worker), "3");
}

#[test]
fn events_that_wait_when_a_lease_ends_are_counted() {
    let daemon = with_ttl(TTL);
    let publisher = daemon.publisher();
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    for n in 0..10 {
        publish(&publisher, "Order", &n.to_string());
    }
    wait_for_end(&daemon, "Billing");
    let retired = daemon.status().retired_services;
    assert_eq!(retired.matched, 10);
    assert_eq!(retired.dropped, [("service-ended".to_owned(), 10)].into());
}

#[test]
fn a_keep_alive_within_the_lease_keeps_it() {
    let daemon = with_ttl(TTL);
    let publisher = daemon.publisher();
    let subscribed = daemon.subscribe("kept", "Billing", &["Order"]);
    daemon.subscribe("left", "Kitchen", &["Order"]);
    let started_at = Instant::now();
    let mut kept_at = started_at;
    while started_at.elapsed() < 3 * TTL {
        let (token, data) = daemon.ask(KEEP_ALIVE, &["kept"]);
        // A busy machine may hold this thread up for longer than the lease.
        if token != "TK_SYS_ACK" {
            assert!(kept_at.elapsed() >= TTL, "{data}");
            daemon.subscribe("kept", "Billing", &["Order"]);
        }
        kept_at = Instant::now();
        is_silent(&publisher, 10);
    }
    assert_eq!(daemon.find_service("Kitchen"), None);
    assert_eq!(daemon.address_of("Billing"), subscribed.pull_address);
}

#[test]
fn each_subscription_of_a_service_has_its_own_lease() {
    let daemon = with_ttl(TTL);
    let publisher = daemon.publisher();
    daemon.subscribe("left", "Billing", &["Order", "Refund"]);
    let subscribed = daemon.subscribe("kept", "Billing", &["Refund"]);
    let mut worker = raw_worker(&daemon, "Billing", &subscribed);
    daemon.wait_for_service("Billing", "the other's end", |found| {
        daemon.subscribe("kept", "Billing", &["Refund"]);
        found.subjects == ["Refund"]
    });
    publish(&publisher, "Order", "1");
    publish(&publisher, "Refund", "2");
    assert_eq!(worker.read_message(), [b"Refund".to_vec(), b"2".to_vec()]);
}

#[test]
fn status_says_how_long_a_lease_still_is() {
    let daemon = with_ttl(Duration::from_secs(60));
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    let seconds =
        |daemon: &TestDaemon| daemon.service("Billing").subscriptions[0].expires_in_seconds;
    let first = seconds(&daemon);
    assert!(first > 30.0 && first <= 60.0, "{first}");
    daemon.wait_for("time to pass", |_| seconds(&daemon) < first - 0.02);
    let before = seconds(&daemon);
    let asked = Instant::now();
    daemon.ask(KEEP_ALIVE, &["sub-1"]);
    let after = seconds(&daemon) + asked.elapsed().as_secs_f64();
    assert!(after > before && after >= 59.99, "{before}, then {after}");
}

#[test]
fn the_same_id_replaces_its_subjects() {
    let daemon = with_ttl(Duration::from_secs(60));
    let publisher = daemon.publisher();
    let first = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let worker = daemon.worker("Billing", &first.pull_address);
    let second = daemon.subscribe("sub-1", "Billing", &["Refund"]);
    assert_eq!(second.pull_address, first.pull_address);
    assert_eq!(daemon.service("Billing").subscriptions.len(), 1);
    publish(&publisher, "Order", "1");
    publish(&publisher, "Refund", "2");
    assert_eq!(received(&worker), "2");
}

#[test]
fn the_same_id_moves_to_another_service() {
    let daemon = with_ttl(Duration::from_secs(60));
    let publisher = daemon.publisher();
    let first = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let mut old_worker = raw_worker(&daemon, "Billing", &first);
    let second = daemon.subscribe("sub-1", "Kitchen", &["Order"]);
    assert_ne!(second.pull_address, first.pull_address);
    assert_eq!(daemon.find_service("Billing"), None);
    assert_eq!(old_worker.read_to_end(), b"");
    assert_closed(&first.pull_address);
    let worker = daemon.worker("Kitchen", &second.pull_address);
    publish(&publisher, "Order", "1");
    assert_eq!(received(&worker), "1");
}

#[test]
fn a_move_leaves_a_service_with_other_subscriptions_alone() {
    let daemon = with_ttl(Duration::from_secs(60));
    let publisher = daemon.publisher();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order", "Refund"]);
    daemon.subscribe("sub-2", "Billing", &["Refund"]);
    let worker = daemon.worker("Billing", &billing.pull_address);
    daemon.subscribe("sub-1", "Kitchen", &["Order"]);
    publish(&publisher, "Order", "1");
    publish(&publisher, "Refund", "2");
    assert_eq!(received(&worker), "2");
}

/// A refused move or replacement leaves the subscription as it was.
#[test]
fn a_refused_replacement_changes_nothing() {
    let daemon = with_ttl(Duration::from_secs(60));
    let publisher = daemon.publisher();
    let subscribed = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let worker = daemon.worker("Billing", &subscribed.pull_address);
    for fields in [
        &["sub-1", "Billing"][..],
        &["sub-1", "Billing", "glob:"],
        &["sub-1", "", "Refund"],
        &["sub-1", "Kit\tchen", "Refund"],
    ] {
        daemon.refusal(SUBSCRIBE, fields);
    }
    publish(&publisher, "Order", "1");
    assert_eq!(received(&worker), "1");
}

#[test]
fn a_stall_of_the_daemon_is_not_held_against_its_clients() {
    let daemon = TestDaemon::in_own_process(&json!({"subscriptionTtl": 1}));
    for id in ["asks-first", "asks-later"] {
        daemon.subscribe(id, "Billing", &["Order"]);
    }
    daemon.process().signal("STOP");
    // Time itself is the point: longer than the leases.
    std::thread::sleep(Duration::from_millis(2500));
    daemon.process().signal("CONT");
    for id in ["asks-first", "asks-later"] {
        let (token, data) = daemon.ask(KEEP_ALIVE, &[id]);
        assert_eq!(token, "TK_SYS_ACK", "{data}");
    }
}
