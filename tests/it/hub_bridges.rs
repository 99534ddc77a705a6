//! Bridges to another event manager: stored here, and forwarded.

use std::collections::BTreeSet;

use event_manager_wire::api::{Bridge, BridgeState};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::keys::{Keys, SERVER, pair};
use super::support::peers::{is_silent, probe, publish, received};
use super::support::{TestDaemon, assert_law};

/// One that has nothing but a queue of what comes.
fn receiver(directory: &TempDir, requests: &str) -> TestDaemon {
    TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "requestAddress": requests,
        "services": {"Shop": {"delivery": "queue", "subjects": ["Order"]}},
    }))
}

fn settings(directory: &TempDir, requests: &str, more: &Value) -> Value {
    let mut settings = json!({
        "stateDir": directory.path(),
        "engines": {"office": {"type": "hub", "servers": [requests]}},
        "bridges": {"orders": {
            "engine": "office", "direction": "out", "subjects": ["Order"], "stallTimeout": 1,
        }},
    });
    for (key, value) in more.as_object().expect("an object") {
        settings[key] = value.clone();
    }
    settings
}

fn sender(directory: &TempDir, requests: &str) -> TestDaemon {
    TestDaemon::in_own_process(&settings(directory, requests, &json!({})))
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

fn worked(daemon: &TestDaemon, count: usize) -> Vec<String> {
    let worker = daemon.worker("Shop", &daemon.address_of("Shop"));
    let bodies = (0..count).map(|_| received(&worker)).collect();
    daemon.dismiss("Shop", worker);
    bodies
}

#[test]
fn events_go_to_another_daemon_s_services_and_subscribers_as_they_are() {
    let directories = [(); 2].map(|()| TempDir::new().expect("a directory"));
    let office = receiver(&directories[0], "tcp://127.0.0.1:0");
    let shop = sender(&directories[1], &office.requests());
    let subscriber = office.subscriber(&["Order", "probe"]);
    let here = office.publisher();
    probe(&here, &subscriber, "probe");
    let publisher = shop.publisher();
    let events: [Vec<Vec<u8>>; 3] = [
        vec![b"Order.Created".to_vec(), b"{}".to_vec()],
        vec![b"Order\0\xff".to_vec(), vec![], vec![7; 300]],
        vec![b"Order".to_vec()],
    ];
    for event in &events {
        publisher.send_multipart(event, 0).expect("a send");
    }
    for event in &events {
        assert_eq!(subscriber.recv_multipart(0).expect("an event"), *event);
    }
    wait_until_empty(&shop);
    let bridge = wait_for(&shop, "all", |bridge| bridge.events == 3);
    assert_eq!((bridge.state, bridge.known), (BridgeState::Running, 0));
    office.wait_for_counter("Shop", |c| c.matched, 3);
    assert_law(&office.status());
}

#[test]
fn what_waits_while_the_other_is_away_goes_when_it_is_there() {
    let directories = [(); 2].map(|()| TempDir::new().expect("a directory"));
    let office = receiver(&directories[0], "tcp://127.0.0.1:0");
    let address = office.requests();
    let shop = sender(&directories[1], &address);
    let publisher = shop.publisher();
    publish(&publisher, "Order", "0");
    office.wait_for_counter("Shop", |c| c.matched, 1);
    office.kill();
    wait_for(&shop, "its loss", |bridge| {
        bridge.state == BridgeState::Connecting
    });
    (1..300).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    shop.wait_for_counter("bridge.orders", |c| c.matched, 300);
    let office = receiver(&directories[0], &address);
    wait_until_empty(&shop);
    let bodies = worked(&office, 300);
    assert_eq!(bodies, (0..300).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_law(&office.status());
}

/// Each has a bridge to the other, and a mesh link too: an event goes one way only.
#[test]
fn bridges_both_ways_send_no_event_round() {
    let directories = [(); 2].map(|()| TempDir::new().expect("a directory"));
    let first = receiver(&directories[0], "tcp://127.0.0.1:0");
    let address = first.requests();
    assert!(first.stop());
    let second = sender(&directories[1], &address);
    let more = json!({"requestAddress": address, "services": {"Shop": {"delivery": "queue", "subjects": ["Order"]}}});
    let first = TestDaemon::in_own_process(&settings(&directories[0], &second.requests(), &more));
    let daemons = [first, second];
    let subscribers = [0, 1].map(|index: usize| daemons[index].subscriber(&["Order", "probe"]));
    let publishers = [0, 1].map(|index: usize| {
        let publisher = daemons[index].publisher();
        probe(&publisher, &subscribers[index], "probe");
        publisher
    });
    for publisher in &publishers {
        (0..100).for_each(|n| publish(publisher, "Order", &n.to_string()));
    }
    for subscriber in &subscribers {
        let mut all: Vec<_> = (0..200).map(|_| received(subscriber)).collect();
        all.sort();
        let distinct: BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), 100, "each twice: {all:?}");
    }
    daemons.iter().for_each(wait_until_empty);
    assert!(
        subscribers
            .iter()
            .all(|subscriber| is_silent(subscriber, 50))
    );
    for daemon in &daemons {
        let bridge = wait_for(daemon, "all", |bridge| bridge.events == 100);
        assert_eq!(bridge.known, 0);
    }
}

#[test]
fn a_daemon_that_dials_itself_is_told_so() {
    let directory = TempDir::new().expect("a directory");
    let first = receiver(&directory, "tcp://127.0.0.1:0");
    let address = first.requests();
    assert!(first.stop());
    // By this address the configuration can't tell.
    let port = address.rsplit(':').next().expect("a port");
    let more = json!({"requestAddress": format!("tcp://*:{port}")});
    let address = format!("tcp://127.0.0.9:{port}");
    let own = TestDaemon::in_own_process(&settings(&directory, &address, &more));
    let publisher = own.publisher();
    publish(&publisher, "Order", "waits");
    let bridge = wait_for(&own, "its problem", |bridge| bridge.problem.is_some());
    let problem = bridge.problem.expect("a sentence");
    assert!(problem.contains("it is this daemon itself"), "{problem}");
    own.wait_for_counter("bridge.orders", |c| c.in_flight, 1);
}

/// A sync event is a call. A bridge has nobody who answers.
#[test]
fn a_sync_event_doesn_t_call_bridges() {
    let directory = TempDir::new().expect("a directory");
    let daemon = sender(&directory, "tcp://127.0.0.1:1");
    let (token, said) = daemon.ask("TK_EVENT_MANAGER_PUBLISH", &["x", "Order", "", "true"]);
    assert_eq!(token, "TK_SYS_ACK", "{said}");
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(said["results"], json!([]));
}

/// The other wants keys: until it knows ours, and lets us publish this, events wait here.
#[test]
fn keys_and_rights_of_the_other_are_kept() {
    let directories = [(); 2].map(|()| TempDir::new().expect("a directory"));
    let (theirs, ours) = (Keys::new(), Keys::new());
    ours.write_secret("server", 9);
    let mut security = theirs.security(&["curve"]);
    security["clients"] = json!({"client-9": {"publish": ["Order.Paid"], "requests": ["EMIT"]}});
    let office = TestDaemon::in_own_process(&json!({
        "stateDir": directories[0].path(),
        "security": security,
        "services": {"Shop": {"delivery": "queue", "subjects": ["Order"]}},
    }));
    let mut own = ours.security(&["null", "curve"]);
    own["open"] = json!(true);
    let more = json!({"security": own});
    let mut settings = settings(&directories[1], &office.requests(), &more);
    settings["engines"]["office"]["serverKey"] = json!(pair(SERVER).public().to_string());
    let shop = TestDaemon::in_own_process(&settings);
    let publisher = shop.publisher();
    publish(&publisher, "Order.Paid", "0");
    let bridge = wait_for(&shop, "its problem", |bridge| bridge.problem.is_some());
    let problem = bridge.problem.expect("a sentence");
    assert!(problem.contains("is not known there"), "{problem}");
    theirs.admit(9);
    office.wait_for_counter("Shop", |c| c.matched, 1);
    publish(&publisher, "Order.Open", "1");
    let bridge = wait_for(&shop, "no right", |bridge| {
        bridge.state == BridgeState::Failing
    });
    let problem = bridge.problem.expect("a sentence");
    assert!(problem.contains("forbidden"), "{problem}");
    shop.wait_for_counter("bridge.orders", |c| c.in_flight, 1);
    assert_law(&shop.status());
}

#[test]
fn what_the_other_never_takes_is_a_dead_letter_and_holds_up_nobody() {
    let directories = [(); 2].map(|()| TempDir::new().expect("a directory"));
    let office = TestDaemon::in_own_process(&json!({
        "stateDir": directories[0].path(),
        "limits": {"maxMessageBytes": 10_000},
        "services": {"Shop": {"delivery": "queue", "subjects": ["Order"]}},
    }));
    let shop = sender(&directories[1], &office.requests());
    let publisher = shop.publisher();
    for n in 0..10 {
        publish(&publisher, "Order", &n.to_string());
        publish(&publisher, "Order", &"x".repeat(9_990));
    }
    shop.wait_for_counter("bridge.orders", |c| c.dead_lettered, 10);
    wait_until_empty(&shop);
    let bodies = worked(&office, 10);
    assert_eq!(bodies, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
}

/// The short form of 20 kills each of 100,000 events.
#[test]
fn kills_of_both_lose_nothing_and_bring_nothing_twice() {
    let directories = [(); 2].map(|()| TempDir::new().expect("a directory"));
    let mut office = receiver(&directories[0], "tcp://127.0.0.1:0");
    let address = office.requests();
    let (rounds, events) = (4, 500);
    for round in 0..rounds {
        let shop = sender(&directories[1], &address);
        let publisher = shop.publisher();
        for n in 0..events {
            publish(&publisher, "Order", &(round * events + n).to_string());
            if n == events / 2 {
                office.kill();
                office = receiver(&directories[0], &address);
            }
        }
        shop.wait_for("all of it on disk", |status| {
            let found = status.service("bridge.orders").expect("a service");
            let disk = found.durable.as_ref().expect("a queue on disk");
            status.publishers.events == events && disk.pending_events == 0
        });
        shop.kill();
    }
    let shop = sender(&directories[1], &address);
    shop.wait_for_service("bridge.orders", "all of it gone", |found| {
        found.counters.queued + found.counters.in_flight == 0
    });
    let bodies = worked(&office, (rounds * events) as usize);
    assert_eq!(
        bodies,
        (0..rounds * events)
            .map(|n| n.to_string())
            .collect::<Vec<_>>()
    );
    let worker = connected_worker(&office);
    assert!(is_silent(&worker, 50));
    assert_law(&office.status());
}

fn connected_worker(daemon: &TestDaemon) -> zmq::Socket {
    daemon.worker("Shop", &daemon.address_of("Shop"))
}
