//! What the database of subscriptions and ports brings back, and how it fails.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use event_manager::state::{self, Changes, KeptService, KeptSubscription};
use event_manager::telemetry::Journal;
use serde_json::json;

use super::super::support::peers::{connected, publish, received};
use super::super::support::program::Site;
use super::super::support::{PATIENCE, TestDaemon};
use super::{Home, KEEP_ALIVE, KILL, TERM, assert_kept_alive, end};

#[test]
fn what_ended_or_changed_before_the_restart_is_so_after_it() {
    let mut home = Home::new();
    let daemon = home.start();
    daemon.subscribe("ended", "Ended", &["A"]);
    daemon.subscribe("moved", "Billing", &["A"]);
    daemon.subscribe("moved", "Kitchen", &["A", "B"]);
    daemon.subscribe("stays", "Kitchen", &["C"]);
    daemon.unsubscribe("ended");
    let (token, data) = daemon.ask("TK_EVENT_MANAGER_UNSUBSCRIBE", &["moved", "B"]);
    assert_eq!(token, "TK_SYS_ACK", "{data}");
    let daemon = home.restart(daemon, KILL);
    let status = daemon.status();
    assert_eq!(status.services.len(), 1);
    assert_eq!(daemon.service("Kitchen").subjects, ["A", "C"]);
    assert_eq!(
        daemon.refusal(KEEP_ALIVE, &["ended"]),
        "unknown-subscription"
    );
    assert_kept_alive(&daemon, "moved");
}

#[test]
fn thousands_of_subscriptions_at_once_are_kept() {
    const COUNT: usize = 3000;
    let mut home = Home::new();
    let daemon = home.start();
    let client = connected(&daemon.context, zmq::DEALER, &daemon.requests());
    for n in 0..COUNT {
        let subscribe =
            json!({"token": "subscribe", "data": [format!("sub-{n}"), "Billing", "Order"]});
        client.send(&subscribe.to_string(), 0).expect("a send");
    }
    for _ in 0..COUNT {
        let answer = client.recv_string(0).expect("an answer").expect("text");
        assert!(answer.contains("TK_SYS_ACK"), "{answer}");
    }
    let daemon = home.restart(daemon, KILL);
    let subscriptions = daemon.service("Billing").subscriptions;
    let ids: BTreeSet<&str> = subscriptions.iter().map(|s| &*s.id).collect();
    assert_eq!(ids.len(), COUNT);
}

/// Leaves a state as a daemon would have that ended long ago.
fn leave_expired(directory: &Path, id: &str, service: &str, port: u16) {
    let mut state = state::open(directory, &Journal::default()).expect("a database");
    let subscription = KeptSubscription {
        service: service.into(),
        subjects: vec!["Order".into()],
        expires_at_ms: 1_000_000,
        told_port: None,
        owner: None,
    };
    let changes = Changes {
        subscriptions: [(id.into(), Some(subscription))].into(),
        services: [(
            service.into(),
            Some(KeptService {
                port,
                ..KeptService::default()
            }),
        )]
        .into(),
        ..Changes::default()
    };
    assert!(state.writer.take(changes));
    drop(state.writer);
    assert!(state.thread.join(PATIENCE));
}

#[test]
fn a_subscription_that_expired_meanwhile_is_not_restored() {
    let mut home = Home::new();
    leave_expired(&home.site.path("state"), "sub-1", "Billing", 1);
    let daemon = home.start();
    assert_eq!(daemon.status().services, []);
    assert_eq!(
        daemon.refusal(KEEP_ALIVE, &["sub-1"]),
        "unknown-subscription"
    );
    let line = daemon.program().logged("not restored");
    assert!(line.contains("expired"), "{line}");
    let daemon = home.restart(daemon, TERM);
    assert!(
        !daemon.program().log().contains("not restored"),
        "it is forgotten"
    );
}

#[test]
fn a_port_that_another_took_is_named_and_its_client_subscribes_again() {
    let mut home = Home::new();
    let daemon = home.start();
    let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
    daemon.subscribe("sub-2", "Billing", &["Refund"]);
    daemon.subscribe("sub-3", "Kitchen", &["Order"]);
    let address = billing.pull_address.trim_start_matches("tcp://");
    end(daemon, KILL);
    let _other = TcpListener::bind(address).expect("it is free");
    let daemon = home.start();
    let line = daemon.program().logged("code=\"EM-0107\"");
    let (_, port) = address.split_once(':').expect("a port");
    let named = format!("former_port={port}");
    assert!(
        line.contains("service=Billing") && line.contains(&named),
        "{line}"
    );
    // Nothing is lost until its clients come.
    assert_eq!(daemon.service("Billing").subjects, ["Order", "Refund"]);
    publish(&daemon.publisher(), "Refund", "1");
    assert_eq!(
        daemon.refusal(KEEP_ALIVE, &["sub-1"]),
        "unknown-subscription"
    );
    assert_kept_alive(&daemon, "sub-3");
    let again = daemon.subscribe("sub-1", "Billing", &["Order"]);
    assert_ne!(again.pull_address, billing.pull_address);
    let worker = daemon.worker("Billing", &again.pull_address);
    assert_eq!(received(&worker), "1");
    let daemon = home.restart(daemon, KILL);
    assert_eq!(daemon.address_of("Billing"), again.pull_address);
    // It has not told this one's client yet.
    assert_eq!(
        daemon.refusal(KEEP_ALIVE, &["sub-2"]),
        "unknown-subscription"
    );
    assert_kept_alive(&daemon, "sub-1");
}

#[test]
fn a_damaged_database_is_moved_aside_and_named() {
    let mut home = Home::new();
    let daemon = home.start();
    daemon.subscribe("sub-1", "Billing", &["Order"]);
    end(daemon, KILL);
    std::fs::write(home.database(), "damaged").expect("a file");
    let daemon = home.start();
    let line = daemon.program().logged("is damaged and was moved aside");
    let aside = std::fs::read_dir(home.site.path("state")).expect("a directory");
    let aside = aside.map(|entry| entry.expect("an entry").path());
    let is_aside = |path: &PathBuf| path.to_string_lossy().contains("state.db.damaged-");
    let aside: Vec<_> = aside.filter(is_aside).collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(
        std::fs::read_to_string(&aside[0]).expect("a file"),
        "damaged"
    );
    let name = aside[0].file_name().and_then(|name| name.to_str());
    assert!(line.contains(name.expect("a name")), "{line}");
    daemon.subscribe("sub-2", "Billing", &["Order"]);
    let daemon = home.restart(daemon, KILL);
    assert_kept_alive(&daemon, "sub-2");
}

#[test]
fn without_a_database_everything_else_is_served() {
    let mut first = Home::new();
    let held = first.start();
    let taken = first.site.path("state");
    let taken = taken.to_str().expect("text");
    // Nobody may write to the second one, not even the superuser.
    let directories = [
        (taken, "another process has it open"),
        ("/sys/event-manager", "stateDir has to be a directory"),
        ("/dev/null/below", "stateDir has to be a directory"),
    ];
    for (directory, hint) in directories {
        let site = Site::configured(&json!({ "stateDir": directory }));
        let daemon = TestDaemon::serving(&site);
        let line = daemon
            .program()
            .logged("subscriptions are not kept over a restart");
        assert!(line.contains(directory) && line.contains(hint), "{line}");
        assert!(!daemon.status().state.kept);
        let billing = daemon.subscribe("sub-1", "Billing", &["Order"]);
        let worker = daemon.worker("Billing", &billing.pull_address);
        publish(&daemon.publisher(), "Order", "x");
        assert_eq!(received(&worker), "x");
    }
    assert!(held.stop());
}
