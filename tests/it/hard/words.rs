//! Workers that say anything, and are gone at any moment.

use std::time::Instant;

use serde_json::json;
use tempfile::TempDir;

use super::bed::{Chance, Worker, sealed, unsealed};
use crate::support::peers::publish;
use crate::support::raw::{RawPeer, greeting, message, ready};
use crate::support::{PATIENCE, TestDaemon};

const CONNECTIONS: u64 = 1000;
const SERVICES: [&str; 3] = ["Live", "Kept", "Ordered"];
/// Most say that they are ready.
const WORDS: [&str; 17] = [
    "READY",
    "READY",
    "READY",
    "READY",
    "READY",
    r#"READY {"ack": true}"#,
    r#"READY {"ack": true, "credit": 3}"#,
    r#"READY {"ack": true, "ids": true}"#,
    r#"READY {"ack": tru"#,
    "BYE",
    "ACK 1",
    "NAK 2",
    "TERM 3",
    "WIP 4",
    "ACK x",
    "nonsense",
    "",
];
/// What proxies and sockets put before a word.
const BEFORE: [&[&str]; 5] = [&[], &[], &[""], &["one", ""], &["other"]];
/// What ends a connection, beside its end.
const MALFORMED: [u8; 2] = [0x80, 0];

/// Some words, each with something before it.
fn words(chance: &mut Chance) -> Vec<u8> {
    let mut said = [greeting(), ready("DEALER", "")].concat();
    for _ in 0..=chance.below(7) {
        let before = BEFORE[chance.below(BEFORE.len() as u64) as usize];
        let word = WORDS[chance.below(WORDS.len() as u64) as usize];
        said.extend(message(&[before, &[word]].concat()));
    }
    if chance.one_in(3) {
        said.extend(MALFORMED);
    }
    said
}

#[test]
fn events_stay_whole_and_in_the_books_whatever_workers_say_and_when_they_go() {
    let mut chance = Chance::new();
    let directory = TempDir::new().expect("a directory");
    let retry = json!({"initialMs": 1, "maxMs": 10, "maxDeliveries": 1000});
    let kept =
        json!({"delivery": "queue", "queueEvents": 6, "subjects": ["Order"], "retry": retry});
    let mut ordered = kept.clone();
    ordered["orderBy"] = "subject".into();
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "services": {"Live": {"retry": retry}, "Kept": kept, "Ordered": ordered},
    }));
    daemon.subscribe("sub-1", "Live", &["Order"]);
    let addresses = SERVICES.map(|service| daemon.address_of(service));
    let publisher = daemon.publisher();
    let (mut published, mut there) = (0, vec![]);
    for _ in 0..CONNECTIONS {
        for _ in 0..chance.below(3) {
            publish(
                &publisher,
                &format!("Order.{}", chance.below(4)),
                &sealed(published),
            );
            published += 1;
        }
        let mut peer = RawPeer::connect(&addresses[chance.below(3) as usize]);
        peer.send_while_heard(&words(&mut chance));
        // Some stay for a while.
        there.push(peer);
        if there.len() > 8 || !chance.one_in(8) {
            there.swap_remove(chance.below(there.len() as u64) as usize);
        }
    }
    drop(there);
    daemon.wait_for("all events, and nobody who works", |status| {
        let mut services = status.services.iter();
        status.publishers.events == published
            && services.all(|service| service.workers.connected == 0)
    });
    for (service, address) in SERVICES.iter().zip(&addresses) {
        let worker = Worker::join(&daemon.context, address, 100);
        let begun = Instant::now();
        loop {
            while let Some(event) = worker.hold(20) {
                unsealed(&event.data);
                worker.ack(&event);
            }
            let left = daemon.service(service).counters;
            if left.queued + left.in_flight == 0 {
                assert_eq!(left.matched, published, "{service}");
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{service}: {left:?}");
        }
    }
}
