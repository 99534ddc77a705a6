//! What CURVE costs, and how soon keys are changed: figures, which `just curve-figures` prints.

mod quota;
mod restart;

use std::time::{Duration, Instant};

use event_manager_client::{ConnectionEvent, Ended};
use event_manager_zmtp::LocalSocket;
use serde_json::json;

use super::support::TestDaemon;
use super::support::keys::{Keys, NOTICED, Peer, SERVER, publisher, server_key, subscriber};
use super::support::manager::Manager;
use super::support::process::settings;
use super::support::raw::RawPeer;
use super::support::raw_curve::{CurvePeer, INNER_COMMAND, any_frame};

const KNOWN: u8 = 2;

fn known() -> (Keys, TestDaemon) {
    let keys = Keys::new();
    keys.admit(KNOWN);
    let daemon = keys.daemon(&["null", "curve"]);
    (keys, daemon)
}

#[test]
#[ignore = "a figure: just curve-figures"]
fn what_a_handshake_costs() {
    const COUNT: u32 = 1000;
    let (_keys, daemon) = known();
    let address = daemon.subscribers();
    let cost = |what, meet: &dyn Fn()| {
        meet();
        let threads = || ["reactor", "handshakes"].map(|name| daemon.process().thread_time(name));
        let before = threads();
        (0..COUNT).for_each(|_| meet());
        let [reactor, handshakes] = std::array::from_fn(|n| (threads()[n] - before[n]) / COUNT);
        println!(
            "{what}: {reactor:?} of the reactor for a connection, {handshakes:?} of handshakes"
        );
    };
    cost("NULL", &|| drop(RawPeer::met(&address, "SUB")));
    cost("CURVE", &|| drop(CurvePeer::met(&address, KNOWN, "SUB")));
}

#[test]
#[ignore = "a figure: just curve-figures"]
fn what_an_idle_peer_takes() {
    const COUNT: usize = 1000;
    let (_keys, daemon) = known();
    let address = daemon.subscribers();
    let warm: Vec<_> = (0..COUNT)
        .map(|_| CurvePeer::met(&address, KNOWN, "SUB"))
        .collect();
    drop(warm);
    daemon.wait_for("their end", |status| status.subscribers.connected == 0);
    let grown = |connect: &dyn Fn() -> Box<dyn std::any::Any>| {
        let before = daemon.process().resident_bytes();
        let peers: Vec<_> = (0..COUNT).map(|_| connect()).collect();
        daemon.wait_for("all", |status| status.subscribers.connected == COUNT as u64);
        let grown = daemon.process().resident_bytes().saturating_sub(before);
        drop(peers);
        daemon.wait_for("their end", |status| status.subscribers.connected == 0);
        grown / COUNT as u64
    };
    let null = grown(&|| Box::new(RawPeer::met(&address, "SUB")));
    let curve = grown(&|| Box::new(CurvePeer::met(&address, KNOWN, "SUB")));
    println!("{null} bytes for a peer, {curve} for one with a key");
    assert!(curve < null + 2048, "{null} {curve}");
}

/// Beside its outbox, which it shares with the others, a peer that doesn't read takes one batch.
#[test]
#[ignore = "a figure: just curve-figures"]
fn what_a_stalled_peer_takes() {
    const COUNT: u64 = 100;
    let (_keys, daemon) = known();
    let stalled: Vec<_> = (0..COUNT)
        .map(|_| {
            let mut peer = CurvePeer::met(&daemon.subscribers(), KNOWN, "SUB");
            peer.send(INNER_COMMAND, b"\x09SUBSCRIBE");
            peer
        })
        .collect();
    daemon.wait_for_subscriptions(COUNT);
    let before = daemon.process().resident_bytes();
    let mut publisher = publisher(&daemon, KNOWN);
    for _ in 0..800 {
        publisher.publish("Order", &[7; 10_000]);
    }
    let waiting = daemon.wait_for("that they are full", |status| {
        status.connections.outbox_bytes > COUNT * 1_000_000
    });
    let grown = daemon.process().resident_bytes().saturating_sub(before);
    println!(
        "{grown} bytes for {COUNT} stalled peers, to which {} wait",
        waiting.connections.outbox_bytes
    );
    assert!(
        grown < 800 * 10_000 + COUNT * (64 << 10) + (4 << 20),
        "{grown}"
    );
    drop(stalled);
}

#[test]
fn the_largest_message_passes_and_a_larger_one_is_refused_by_its_header() {
    const BYTES_MAX: usize = 64 << 20;
    let keys = Keys::new();
    keys.admit(KNOWN);
    let daemon = TestDaemon::in_own_process(&json!({
        "security": keys.security(&["curve"]),
        "budgets": {"subscriberOutboxBytes": 2 * BYTES_MAX},
    }));
    // With its headers: as large as the daemon allows without being told.
    let body: Vec<u8> = [7, 1, 9, 4].repeat((BYTES_MAX - 16) / 4);
    let mut subscriber = subscriber(&daemon, KNOWN);
    let listening = std::thread::spawn(move || {
        let message = subscriber.message();
        (message, subscriber)
    });
    let mut publisher = publisher(&daemon, KNOWN);
    publisher.connection.send([&b"Order"[..], &body]);
    while publisher.next().expect("it goes on") != ConnectionEvent::Sent {}
    let (message, _subscriber) = listening.join().expect("it came");
    assert!(message[1] == body, "as it was");

    let before = daemon.process().resident_bytes();
    let mut peer = CurvePeer::met(&daemon.publishers(), KNOWN, "PUB");
    peer.read();
    let frame = any_frame(0, &vec![0; 33 + BYTES_MAX + 1]);
    peer.raw.send(&frame[..9]);
    assert_eq!(peer.raw.read_to_end(), b"");
    assert_eq!(daemon.refused("message-too-large"), 1);
    let grown = daemon.process().resident_bytes().saturating_sub(before);
    assert!(grown < 1 << 20, "{grown}");
}

/// A client whose file is gone gets and gives nothing later than a second after, and nobody else notices.
fn revoked(at_once: u8, rounds: usize) {
    let keys = Keys::new();
    keys.admit(KNOWN);
    let daemon = keys.daemon(&["curve"]);
    let mut stays = subscriber(&daemon, KNOWN);
    let mut publisher = publisher(&daemon, KNOWN);
    let numbers = 10..10 + at_once;
    let (mut sent, mut longest) = (0u32, Duration::ZERO);
    for _ in 0..rounds {
        numbers.clone().for_each(|number| keys.admit(number));
        let mut open: Vec<_> = numbers
            .clone()
            .map(|own| subscriber(&daemon, own))
            .collect();
        numbers.clone().for_each(|number| keys.revoke(number));
        let revoked = Instant::now();
        while !open.is_empty() {
            sent += 1;
            publisher.publish("Order", &sent.to_be_bytes());
            open.retain_mut(|peer| match peer.next() {
                Ok(_) => {
                    assert!(revoked.elapsed() < NOTICED * 2, "{:?}", revoked.elapsed());
                    true
                }
                Err(Ended::Closed | Ended::Io(_)) => false,
                Err(other) => panic!("{other:?}"),
            });
        }
        longest = longest.max(revoked.elapsed());
    }
    for n in 1..=sent {
        assert_eq!(stays.message()[1], n.to_be_bytes());
    }
    let times = usize::from(at_once) * rounds;
    println!("{times} revocations, the last of a round after {longest:?} at most");
    assert_eq!(daemon.status().subscribers.connected, 1);
}

#[test]
fn who_is_revoked_gets_nothing_more() {
    revoked(5, 1);
}

#[test]
#[ignore = "takes a minute: just curve-figures"]
fn a_thousand_are_revoked() {
    revoked(50, 20);
}

/// The daemon gets another key, and clients one by one: none of them loses anything.
#[test]
fn a_hundred_clients_are_given_another_server_key() {
    const CLIENTS: usize = 100;
    const NEXT: u8 = 9;
    let keys = Keys::new();
    keys.admit(KNOWN);
    keys.write_secret("next", NEXT);
    let configured = |secrets: &[&str]| {
        let mut security = keys.security(&["curve", "null"]);
        let secrets = secrets.iter().map(|name| keys.secret(name));
        security["secretKey"] = json!(secrets.collect::<Vec<_>>());
        json!({"security": security})
    };
    let manager = Manager::new();
    let site = manager.site(&configured(&["server"]));
    let daemon = TestDaemon::serving(&site);
    manager.ready();
    let reload = |secrets: &[&str]| {
        site.write("config.json", &settings(&configured(secrets)).to_string());
        manager.reload(daemon.program());
    };
    let connect = |server| {
        let address = daemon.subscribers();
        let peer = Peer::open(&address, LocalSocket::Sub, KNOWN, server_key(server));
        let mut peer = peer.expect("it is admitted");
        peer.connection.subscribe(b"Order");
        while peer.next().expect("it goes on") != ConnectionEvent::Sent {}
        peer
    };
    let mut olds: Vec<_> = (0..CLIENTS).map(|_| connect(SERVER)).collect();
    daemon.wait_for_subscriptions(CLIENTS as u64);
    let publisher = daemon.publisher();
    let mut sent = 0;
    let mut publish_to = |peers: &mut dyn Iterator<Item = &mut Peer>| {
        sent += 1;
        let body = sent.to_string();
        super::support::peers::publish(&publisher, "Order", &body);
        peers.for_each(|peer| assert_eq!(peer.message()[1], body.as_bytes()));
    };
    publish_to(&mut olds.iter_mut());
    reload(&["server", "next"]);
    publish_to(&mut olds.iter_mut());
    // Each connects with the new key before it gives up the old connection.
    let mut news = vec![];
    while let Some(old) = olds.pop() {
        news.push(connect(NEXT));
        daemon.wait_for_subscriptions(CLIENTS as u64 + 1);
        drop(old);
        daemon.wait_for_subscriptions(CLIENTS as u64);
        if olds.len() % 10 == 1 {
            publish_to(&mut olds.iter_mut().chain(&mut news));
        }
        if olds.len() == 1 {
            break;
        }
    }
    let changed = Instant::now();
    reload(&["next"]);
    let ended = olds[0].next();
    assert!(
        matches!(ended, Err(Ended::Closed | Ended::Io(_))),
        "{ended:?}"
    );
    println!("the last old one ended after {:?}", changed.elapsed());
    publish_to(&mut news.iter_mut());
    assert_eq!(daemon.status().subscribers.counters.dropped_total(), 0);
}
