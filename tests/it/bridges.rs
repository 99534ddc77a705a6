//! Bridges to other brokers, as operators see them. What goes over them, `tests/engines` shows.

#![cfg(feature = "nats")]

use std::net::TcpListener;

use event_manager_wire::api::{BridgeState, Status};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::TestDaemon;
use super::support::peers::publish;
use super::support::program::Site;

/// A daemon with a bridge whose server isn't there.
struct Away {
    daemon: TestDaemon,
    url: String,
    _directory: TempDir,
}

/// A port on which nothing listens.
fn nobody() -> String {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("nats://{}", taken.local_addr().expect("an address"))
}

fn away(bridge: &Value) -> Away {
    let (directory, url) = (TempDir::new().expect("a directory"), nobody());
    let mut settings = json!({
        "stateDir": directory.path(),
        "engines": {"main": {"type": "nats", "servers": [url]}},
        "bridges": {"orders": {
            "engine": "main", "direction": "out", "subjects": ["Order"], "to": "pos.",
        }},
    });
    for (key, value) in bridge.as_object().expect("an object") {
        settings["bridges"]["orders"][key] = value.clone();
    }
    let daemon = TestDaemon::in_own_process(&settings);
    daemon.wait_for("a problem", |status| {
        let mut bridges = status.bridges.iter();
        bridges.any(|bridge| bridge.problem.is_some())
    });
    Away {
        daemon,
        url,
        _directory: directory,
    }
}

impl Away {
    /// With so many events that wait.
    fn publish(&self, events: u64) -> Status {
        let publisher = self.daemon.publisher();
        (0..events).for_each(|n| publish(&publisher, "Order", &n.to_string()));
        self.daemon.wait_for("all events", |status| {
            let service = status.service("bridge.orders");
            service.is_some_and(|found| found.counters.queued + found.counters.in_flight == events)
        })
    }
}

#[test]
fn bridges_are_shown_with_what_waits_and_why() {
    let away = away(&json!({}));
    away.publish(3);
    let site = Site::of(&away.daemon);
    let printed = site.run(&["bridges"]).done();
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 2, "{printed}");
    let headings = "BRIDGE ENGINE DIRECTION STATE EVENTS REFUSED KNOWN FAILURES WAITING PROBLEM";
    assert_eq!(words(lines[0]).join(" "), headings);
    let row = words(lines[1]);
    assert_eq!(
        row[..7],
        ["orders", "main", "out", "connecting", "0", "0", "0"]
    );
    assert!(row[7].parse::<u64>().expect("a number") > 0, "{printed}");
    assert_eq!(row[8], "3");
    assert!(lines[1].contains(&away.url), "{printed}");

    let told: Value = serde_json::from_str(&site.run(&["bridges", "--json"]).done()).expect("JSON");
    let told = &told["bridges"][0];
    assert_eq!(
        (&told["name"], &told["waiting"]),
        (&json!("orders"), &json!(3))
    );
    let bridge = away.daemon.status().bridges[0].clone();
    assert_eq!(bridge.state, BridgeState::Connecting);
    assert_eq!(told["problem"], json!(bridge.problem));
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}
