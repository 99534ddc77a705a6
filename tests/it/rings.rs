//! Event managers that dial each other's subscribers: events reach each of them, and don't go round.

use std::time::Instant;

use event_manager_wire::api::Ring;
use event_manager_wire::model::Endpoint;
use serde_json::{Value, json};

use super::notable::wait_for;
use super::support::bus::own_host;
use super::support::peers::{connected, is_silent, publish, received};
use super::support::program::Site;
use super::support::{PATIENCE, TestDaemon, tunnel};

/// So many daemons, each of which dials the next one's subscribers, and the last one the first one's.
fn ring(daemons: usize) -> Vec<TestDaemon> {
    let addresses: Vec<_> = (0..daemons).map(|_| free_address()).collect();
    let each = addresses.iter().enumerate();
    each.map(|(n, address)| {
        TestDaemon::with(|config| {
            config.sub_addresses = vec![address.clone()];
            config.connect_publishers = vec![addresses[(n + 1) % daemons].clone().into()];
        })
    })
    .collect()
}

fn free_address() -> Endpoint {
    let host = own_host();
    let listener = std::net::TcpListener::bind((host.as_str(), 0)).expect("a port");
    let address = Endpoint::tcp(&host, listener.local_addr().expect("it is bound").port());
    tunnel::is_daemon([&address]);
    address
}

fn ring_of(daemon: &TestDaemon) -> Option<Ring> {
    daemon.status().publishers.dialled[0].ring
}

/// Waits until one of them takes no events from the one that it dials, and the others are subscribed
/// to theirs; its index.
fn held_by(daemons: &[TestDaemon]) -> usize {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let rings: Vec<_> = daemons.iter().map(ring_of).collect();
        let mut held = (0..rings.len()).filter(|n| rings[*n].is_some_and(|ring| ring.held));
        let subscriptions = daemons
            .iter()
            .map(|daemon| daemon.status().subscribers.subscriptions);
        let subscribed: u64 = subscriptions.sum();
        if let (Some(index), None) = (held.next(), held.next())
            && subscribed == daemons.len() as u64 - 1
        {
            return index;
        }
        assert!(
            Instant::now() < deadline,
            "{rings:?}, {subscribed} subscriptions"
        );
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

fn events(daemon: &TestDaemon) -> u64 {
    daemon.status().publishers.events
}

/// Each event goes along the ring, from the one that is held to those that dial it in turn, and stops
/// before that one.
fn assert_goes_round_once(daemons: &[TestDaemon]) -> usize {
    let held = held_by(daemons);
    let count = daemons.len();
    let subscribers: Vec<_> = daemons
        .iter()
        .map(|daemon| {
            let subscriber = connected(&daemon.context, zmq::SUB, &daemon.subscribers());
            subscriber.set_subscribe(b"Order").expect("an option");
            subscriber
        })
        .collect();
    let wanted = 2 * count as u64 - 1;
    let deadline = Instant::now() + PATIENCE;
    while daemons
        .iter()
        .map(|d| d.status().subscribers.subscriptions)
        .sum::<u64>()
        < wanted
    {
        assert!(Instant::now() < deadline, "not all are subscribed");
    }
    let before: Vec<_> = daemons.iter().map(events).collect();
    // The one that is held is dialled by the one before it, and so on.
    let publisher = daemons[held].publisher();
    for n in 0..100 {
        publish(&publisher, "Order", &n.to_string());
    }
    for subscriber in &subscribers {
        for n in 0..100 {
            assert_eq!(received(subscriber), n.to_string());
        }
    }
    for subscriber in &subscribers {
        assert!(is_silent(subscriber, 50));
    }
    for (daemon, before) in daemons.iter().zip(before) {
        assert_eq!(events(daemon), before + 100);
    }
    held
}

#[test]
fn two_that_dial_each_other_hear_each_event_once() {
    let daemons = ring(2);
    let held = assert_goes_round_once(&daemons);
    let daemon = &daemons[held];
    let noted = wait_for(daemon, "EM-0613");
    assert_eq!(
        (&noted.fields["daemons"], &noted.fields["held"]),
        (&json!(2), &json!(true))
    );
    let ended = Site::of(daemon).run(&["doctor", "--json"]);
    let report: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("a list");
    let found = findings.iter().find(|finding| finding["code"] == "EM-9025");
    let found = found.expect("a finding");
    assert_eq!(found["severity"], "warning");
    assert!(
        found["text"]
            .as_str()
            .expect("a text")
            .contains("takes no events from there")
    );
}

#[test]
fn a_longer_ring_is_found_and_heals_when_it_opens() {
    let mut daemons = ring(4);
    let held = assert_goes_round_once(&daemons);
    // The one that dials the held one goes: there is a chain.
    daemons.rotate_left((held + 3) % 4);
    daemons.remove(0).stop();
    let held = &daemons[0];
    held.wait_for("events from the one that it dials", |status| {
        status.publishers.dialled[0].ring.is_none()
    });
    daemons[1].wait_for("the subscription", |status| {
        status.subscribers.subscriptions >= 1
    });
    let subscriber = held.subscriber(&["Order"]);
    publish(&daemons[1].publisher(), "Order", "heard");
    assert_eq!(received(&subscriber), "heard");
}

#[test]
fn one_that_dials_itself_hears_each_event_once() {
    let daemons = ring(1);
    assert_eq!(assert_goes_round_once(&daemons), 0);
    let alone = Ring {
        daemons: 1,
        held: true,
    };
    assert_eq!(ring_of(&daemons[0]), Some(alone));
}
