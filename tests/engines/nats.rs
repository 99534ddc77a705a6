//! Bridges to NATS JetStream.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use event_manager_wire::api::{Bridge, BridgeState};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::server::Nats;
use super::support::peers::{connected, probe, publish, received};
use super::support::{TestDaemon, assert_law};

fn settings(directory: &TempDir, nats: &Nats, more: &Value) -> Value {
    let mut settings = json!({
        "stateDir": directory.path(),
        "engines": {"main": {"type": "nats", "servers": [nats.url()]}},
        "bridges": {"orders": {
            "engine": "main", "direction": "out", "subjects": ["Order"], "to": "pos.", "stallTimeout": 1,
        }},
    });
    for (key, value) in more.as_object().expect("an object") {
        settings["bridges"]["orders"][key] = value.clone();
    }
    settings
}

fn daemon(directory: &TempDir, nats: &Nats) -> TestDaemon {
    TestDaemon::in_own_process(&settings(directory, nats, &json!({})))
}

fn wait_for(daemon: &TestDaemon, what: &str, wanted: impl Fn(&Bridge) -> bool) -> Bridge {
    let status = daemon.wait_for(what, |status| status.bridges.iter().any(&wanted));
    status.bridges[0].clone()
}

fn wait_until_empty(daemon: &TestDaemon) {
    daemon.wait_for_service("bridge.orders", "all of it gone", |found| {
        let counters = &found.counters;
        counters.queued + counters.in_flight == 0 && counters.matched > 0
    });
    assert_law(&daemon.status());
}

fn texts<'a>(messages: &'a Value, of: impl Fn(&'a Value) -> &'a Value) -> Vec<&'a str> {
    let all = messages.as_array().expect("a list").iter();
    all.map(|message| of(message).as_str().expect("a text"))
        .collect()
}

#[test]
fn events_go_to_a_stream_with_ids_of_their_own() {
    let nats = Nats::started();
    nats.client(&["create", "POS", "pos.>"]);
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &nats);
    let publisher = daemon.publisher();
    (0..1000).for_each(|n| publish(&publisher, "Order.Created", &n.to_string()));
    publish(&publisher, "Refund", "stays here");
    let messages = nats.client(&["read", "POS", "1000"]);
    let bodies = texts(&messages, |message| &message["body"]);
    assert_eq!(bodies, (0..1000).map(|n| n.to_string()).collect::<Vec<_>>());
    let ids = texts(&messages, |message| &message["headers"]["x-em-id"]);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 1000);
    let first = &messages[0];
    assert_eq!(first["subject"], "pos.Order.Created");
    assert_eq!(first["headers"]["x-em-subject"], "Order.Created");
    assert_eq!(first["headers"]["nats-msg-id"], first["headers"]["x-em-id"]);
    wait_until_empty(&daemon);
    let bridge = wait_for(&daemon, "its count", |bridge| bridge.events == 1000);
    assert_eq!((bridge.state, bridge.problem), (BridgeState::Running, None));
    assert!(daemon.stop());
}

#[test]
fn what_waits_while_the_server_is_away_goes_when_it_is_there() {
    let mut nats = Nats::new();
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &nats);
    let publisher = daemon.publisher();
    (0..100).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    let bridge = wait_for(&daemon, "its problem", |bridge| bridge.problem.is_some());
    assert_eq!(bridge.state, BridgeState::Connecting);
    assert!(bridge.problem.expect("a sentence").contains(&nats.url()));
    daemon.wait_for_counter("bridge.orders", |c| c.matched, 100);
    nats.start();
    // There is a server, and no stream yet.
    let bridge = wait_for(&daemon, "no stream", |bridge| {
        bridge.state == BridgeState::Failing
    });
    let problem = bridge.problem.expect("a sentence");
    assert!(
        problem.contains("no stream takes the subject pos.Order"),
        "{problem}"
    );
    nats.client(&["create", "POS", "pos.>"]);
    let messages = nats.client(&["read", "POS", "100"]);
    let bodies = texts(&messages, |message| &message["body"]);
    assert_eq!(bodies, (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
    wait_until_empty(&daemon);
}

#[test]
fn what_the_server_never_takes_is_a_dead_letter_and_holds_up_nobody() {
    let nats = Nats::started();
    nats.client(&["create", "POS", "pos.>"]);
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &nats);
    let publisher = daemon.publisher();
    let large = "x".repeat(2 << 20);
    for n in 0..10 {
        publish(&publisher, "Order", &n.to_string());
        publish(&publisher, "Order", &large);
    }
    let messages = nats.client(&["read", "POS", "10"]);
    let bodies = texts(&messages, |message| &message["body"]);
    assert_eq!(bodies, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
    daemon.wait_for_counter("bridge.orders", |c| c.dead_lettered, 10);
    wait_until_empty(&daemon);
    let bridge = wait_for(&daemon, "its refusals", |bridge| bridge.refused == 10);
    assert_eq!(bridge.events, 10);
}

#[test]
fn a_server_that_stands_still_is_named_and_left_for_another_try() {
    let nats = Nats::started();
    nats.client(&["create", "POS", "pos.>"]);
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &nats);
    let publisher = daemon.publisher();
    publish(&publisher, "Order", "0");
    wait_for(&daemon, "the first", |bridge| bridge.events == 1);
    nats.stand_still();
    publish(&publisher, "Order", "1");
    let begun = Instant::now();
    wait_for(&daemon, "its problem", |bridge| {
        bridge.state != BridgeState::Running
    });
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    nats.go_on();
    let messages = nats.client(&["read", "POS", "2"]);
    assert_eq!(texts(&messages, |message| &message["body"]), ["0", "1"]);
    wait_until_empty(&daemon);
}

/// It must not be sent again and again behind one that can't go.
#[test]
fn an_event_that_no_stream_takes_has_nothing_behind_it_stored_twice() {
    let nats = Nats::started();
    nats.client(&["create", "POS", "pos.OrderX"]);
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &nats);
    let publisher = daemon.publisher();
    publish(&publisher, "OrderX", "0");
    publish(&publisher, "OrderY", "nobody takes it");
    (1..200).for_each(|n| publish(&publisher, "OrderX", &n.to_string()));
    wait_for(&daemon, "some tries", |bridge| bridge.failures >= 4);
    let bridge = daemon.status().bridges[0].clone();
    assert_eq!(bridge.state, BridgeState::Failing);
    let stored = nats.client(&["count", "POS"]).as_u64().expect("a number");
    assert_eq!((bridge.events, bridge.known), (stored, 0));
    nats.client(&["create", "OTHER", "pos.OrderY"]);
    wait_until_empty(&daemon);
    assert_eq!(nats.client(&["count", "POS"]), 200);
    let bridge = wait_for(&daemon, "all", |bridge| bridge.events == 201);
    assert_eq!((bridge.state, bridge.known), (BridgeState::Running, 0));
}

#[test]
fn a_subject_that_is_too_long_there_is_a_dead_letter() {
    let nats = Nats::started();
    nats.client(&["create", "POS", "pos.>"]);
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &nats);
    let publisher = daemon.publisher();
    publish(&publisher, &format!("Order{}", "a".repeat(5000)), "long");
    publish(&publisher, "Order.next", "goes");
    let messages = nats.client(&["read", "POS", "1"]);
    assert_eq!(texts(&messages, |message| &message["body"]), ["goes"]);
    daemon.wait_for_counter("bridge.orders", |c| c.dead_lettered, 1);
}

#[test]
fn a_lost_server_is_noticed_while_nothing_is_sent_and_holds_up_no_stop() {
    let mut nats = Nats::started();
    nats.client(&["create", "POS", "pos.>"]);
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &nats);
    wait_for(&daemon, "a connection", |bridge| {
        bridge.state == BridgeState::Running
    });
    nats.kill();
    wait_for(&daemon, "its loss", |bridge| {
        bridge.state == BridgeState::Connecting
    });
    publish(&daemon.publisher(), "Order", "waits");
    daemon.wait_for_counter("bridge.orders", |c| c.in_flight, 1);
    let begun = Instant::now();
    assert!(daemon.stop());
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn nobody_else_is_a_worker_of_a_bridge_or_says_what_it_gets() {
    let nats = Nats::new();
    let directory = TempDir::new().expect("a directory");
    let daemon = daemon(&directory, &nats);
    let (token, why) = daemon.ask(
        "TK_EVENT_MANAGER_SUBSCRIBE",
        &["x", "bridge.orders", "Secret"],
    );
    assert_eq!(token, "TK_SYS_NAK", "{why}");
    assert!(why.contains("is a bridge's"), "{why}");
    let before = daemon.refused("forbidden");
    let worker = connected(
        &daemon.context,
        zmq::DEALER,
        &daemon.address_of("bridge.orders"),
    );
    worker.send(r#"READY {"ack": true}"#, 0).expect("a send");
    daemon.wait_for("a refusal", |status| status.refused("forbidden") > before);
}

/// Each event goes out where it was published.
#[test]
fn of_two_hubs_of_a_mesh_with_the_same_bridge_one_sends_an_event() {
    let nats = Nats::started();
    nats.client(&["create", "POS", "pos.>"]);
    let directories = [(); 2].map(|()| TempDir::new().expect("a directory"));
    let first = daemon(&directories[0], &nats);
    let mut second = settings(&directories[1], &nats, &json!({}));
    second["mesh"] = json!({"peers": [first.subscribers()]});
    let second = TestDaemon::in_own_process(&second);
    // One that wants the same, so that it comes over the link.
    let subscriber = second.subscriber(&["Order"]);
    let publisher = first.publisher();
    probe(&publisher, &subscriber, "Order");
    (0..100).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    for _ in 0..100 {
        received(&subscriber);
    }
    // With those by which it was found that the link is there.
    let sent = first.status().publishers.events;
    nats.client(&["read", "POS", &sent.to_string()]);
    wait_until_empty(&first);
    assert_eq!(nats.client(&["count", "POS"]), sent);
    assert_eq!(second.service("bridge.orders").counters.matched, 0);
}

/// The short form of 20 kills each of 100,000 events.
#[test]
fn kills_of_the_server_and_of_the_daemon_lose_nothing_and_store_nothing_twice() {
    let mut nats = Nats::started();
    nats.client(&["create", "POS", "pos.>"]);
    let directory = TempDir::new().expect("a directory");
    let (rounds, events) = (4, 1500);
    let mut published = 0;
    for round in 0..rounds {
        let daemon = daemon(&directory, &nats);
        let publisher = daemon.publisher();
        for n in 0..events {
            publish(&publisher, "Order", &(published + n).to_string());
            if n == events / 2 {
                nats.kill();
                nats.start();
            }
        }
        published += events;
        // What it was sent is on disk; some of it is on its way out.
        daemon.wait_for("all of it on disk", |status| {
            let found = status.service("bridge.orders").expect("a service");
            let disk = found.durable.as_ref().expect("a queue on disk");
            status.publishers.events == events && disk.pending_events == 0
        });
        if round + 1 < rounds {
            daemon.kill();
        } else {
            wait_until_empty(&daemon);
        }
    }
    let messages = nats.client(&["read", "POS", &published.to_string()]);
    let bodies = texts(&messages, |message| &message["body"]);
    assert_eq!(
        bodies,
        (0..published).map(|n| n.to_string()).collect::<Vec<_>>()
    );
}
