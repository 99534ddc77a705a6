//! Events that no worker can do among those that all can.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::bed::{Worker, readable};
use crate::support::TestDaemon;
use crate::support::peers::{is_silent, publish};

const EVENTS: u64 = 5_000;
/// One in so many events is poison.
const POISON_EVERY: u64 = 100;
const DELIVERIES_MAX: u32 = 3;

fn settings(directory: &TempDir, delivery: &str) -> Value {
    let mut billing = json!({
        "queueEvents": 100_000,
        "retry": {"initialMs": 1, "maxMs": 5, "maxDeliveries": DELIVERIES_MAX},
    });
    if delivery == "queue" {
        billing["delivery"] = "queue".into();
        billing["subjects"] = json!(["Order"]);
    }
    json!({"stateDir": directory.path(), "services": {"Billing": billing}})
}

fn start(directory: &TempDir, delivery: &str) -> TestDaemon {
    let daemon = TestDaemon::in_own_process(&settings(directory, delivery));
    if delivery == "live" {
        daemon.subscribe("sub-1", "Billing", &["Order"]);
    }
    daemon
}

/// Publishes all and works until all others are done: how often each poison event was delivered.
fn work(daemon: &TestDaemon) -> BTreeMap<String, u32> {
    let address = daemon.address_of("Billing");
    let workers: Vec<_> = (0..2)
        .map(|_| Worker::join(&daemon.context, &address, 100))
        .collect();
    daemon.wait_for_ready("Billing", 2);
    let publisher = daemon.publisher();
    let is_poison = |n: u64| n.is_multiple_of(POISON_EVERY);
    for n in 0..EVENTS {
        let kind = if is_poison(n) { "poison" } else { "good" };
        publish(&publisher, "Order", &format!("{kind} {n}"));
    }
    let mut left: BTreeSet<_> = (0..EVENTS).filter(|n| !is_poison(*n)).collect();
    let mut poisoned = BTreeMap::new();
    loop {
        let ready = readable(&workers, if left.is_empty() { 100 } else { 5000 });
        if ready.is_empty() {
            assert!(left.is_empty(), "{} are not served", left.len());
            return poisoned;
        }
        for worker in ready.into_iter().map(|at| &workers[at]) {
            let event = worker.hold(0).expect("it is readable");
            let (kind, n) = event.data.split_once(' ').expect("two words");
            if kind == "poison" {
                let times = poisoned.entry(event.data.clone()).or_insert(0);
                *times += 1;
                assert_eq!(event.attempt, *times);
                worker.nak(&event);
                continue;
            }
            assert!(left.remove(&n.parse().expect("a number")), "{n} came again");
            worker.ack(&event);
        }
    }
}

fn poison_is_dead_once(delivery: &str) {
    let directory = TempDir::new().expect("a directory");
    let daemon = start(&directory, delivery);
    let watcher = daemon.subscriber(&["Billing.DLQ"]);
    let poisoned = work(&daemon);
    let dead = EVENTS / POISON_EVERY;
    let mut letters = BTreeSet::new();
    for _ in 0..dead {
        let frames = watcher.recv_multipart(0).expect("a dead letter");
        let account: Value = serde_json::from_slice(&frames[1]).expect("JSON");
        assert_eq!(account["reason"], "max-deliveries");
        assert_eq!(account["attempts"], DELIVERIES_MAX);
        letters.insert(String::from_utf8(frames[3].clone()).expect("text"));
    }
    assert!(is_silent(&watcher, 50));
    assert_eq!(poisoned.len() as u64, dead);
    assert!(poisoned.values().all(|times| *times == DELIVERIES_MAX));
    assert!(letters.iter().eq(poisoned.keys()));
    let counters = daemon.service("Billing").counters;
    assert_eq!(counters.delivered, EVENTS - dead);
    assert_eq!(counters.dead_lettered, dead);
    assert!(daemon.stop());
    if delivery == "queue" {
        let again = start(&directory, delivery);
        let worker = Worker::join(&again.context, &again.address_of("Billing"), 100);
        assert!(worker.hold(100).is_none(), "what was dead is served");
        assert_eq!(again.service("Billing").counters.matched, 0);
    }
}

#[test]
fn poison_of_a_live_service_is_dead_once_and_all_others_are_done() {
    poison_is_dead_once("live");
}

#[test]
fn poison_of_a_durable_service_is_dead_once_and_all_others_are_done() {
    poison_is_dead_once("queue");
}
