//! `event-manager health`: what a container or a script is told of the daemon.

use std::time::Instant;

use event_manager_wire::model::Endpoint;
use serde_json::json;

use super::support::peers::publish;
use super::support::program::{Ended, Site};
use super::support::raw::{RawPeer, command};
use super::support::{PATIENCE, TestDaemon, tunnel};

fn health(address: &str, wait: &str) -> Ended {
    Site::new().run(&["health", "--address", address, "--wait", wait])
}

#[test]
fn a_daemon_that_answers_is_healthy() {
    let daemon = TestDaemon::start();
    let address = daemon.requests();
    let said = health(&address, "10").done();
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!("healthy: EventManager {version} answers at {address}, up for ");
    assert!(said.starts_with(&expected), "{said}");
    assert_eq!(said.lines().count(), 1);
}

#[test]
fn a_daemon_that_does_not_answer_is_not_healthy() {
    let daemon = TestDaemon::serving(&Site::configured(&json!({})));
    let address = daemon.requests();
    // Its kernel still takes connections.
    daemon.program().signal("STOP");
    let begun = Instant::now();
    let complaint = health(&address, "0.3").failed(69);
    assert!(begun.elapsed() < PATIENCE / 4);
    let expected = format!("no event manager answers at {address}");
    assert!(complaint.contains(&expected), "{complaint}");
    daemon.program().signal("CONT");
    health(&address, "10").done();
    assert!(daemon.stop());
    let complaint = health(&address, "0.3").failed(69);
    assert!(complaint.contains(&expected), "{complaint}");
}

#[test]
fn a_daemon_that_drains_is_not_healthy() {
    let site = Site::configured(&json!({"drainTimeout": 60}));
    let daemon = TestDaemon::serving(&site);
    let address = daemon.requests();
    let mut stuck = RawPeer::met(&daemon.subscribers(), "SUB");
    stuck.send(&command("SUBSCRIBE", b""));
    daemon.wait_for_subscriptions(1);
    let publisher = daemon.publisher();
    // More than the kernel's buffers take, and a tunnel's.
    let data = "x".repeat(64 << 10);
    let events = if tunnel::is_on() { 800 } else { 300 };
    (0..events).for_each(|_| publish(&publisher, "Order", &data));
    daemon.wait_for("the events", |s| s.publishers.events == events);
    health(&address, "10").done();

    let program = daemon.into_program();
    program.signal("TERM");
    program.logged("a second signal ends at once");
    // The signal was heard; that the reactor drains comes after it.
    let deadline = Instant::now() + PATIENCE;
    let complaint = loop {
        let ended = health(&address, "10");
        if ended.code != Some(0) {
            break ended.failed(1);
        }
        assert!(Instant::now() < deadline, "it is healthy still");
    };
    assert!(complaint.contains(&address), "{complaint}");
    assert!(complaint.contains("is stopping"), "{complaint}");
    program.signal("TERM");
    program.end();
}

#[test]
fn without_an_address_the_daemon_of_this_configuration_is_asked() {
    let daemon = TestDaemon::with(|config| {
        config.request_addresses = vec![Endpoint::tcp("127.0.0.1", 0)];
    });
    let port = daemon.bound().requests[0].port().expect("TCP");
    let address = format!("tcp://*:{port}");
    let site = Site::configured(&json!({"requestAddress": [address, "tcp://127.0.0.1:1"]}));
    let said = site.run(&["health"]).done();
    let expected = format!("answers at tcp://127.0.0.1:{port}, ");
    assert!(said.contains(&expected), "{said}");
    let by_variable = Site::new().with("EVENT_MANAGER_REQUEST_ADDRESS", &address);
    by_variable.run(&["health"]).done();
    let config = site.path("config.json");
    let by_path = Site::new().with("CONFIG_PATH", &config.display().to_string());
    by_path.run(&["health"]).done();
    // An address of its own goes first.
    let other = by_path.run(&["health", "--address", "tcp://127.0.0.1:1", "--wait", "0.2"]);
    assert!(other.failed(69).contains("tcp://127.0.0.1:1"));

    let unknown = Site::configured(&json!({})).run(&["health"]).failed(1);
    assert!(unknown.contains("give it with --address"), "{unknown}");
    site.write("config.json", "{\"drainTimeuot\": 1}");
    let wrong = site.run(&["health"]).failed(78);
    assert!(wrong.starts_with("config.json:1: unknown key"), "{wrong}");
}
