//! Events with one key: in one hand at a time, and in their order, whatever workers do.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::json;
use tempfile::TempDir;

use super::bed::{Chance, Held, Worker, readable};
use crate::support::peers::publish;
use crate::support::{PATIENCE, TestDaemon};

const EVENTS: u64 = 2_000;
const KEYS: u64 = 7;

/// What happened to the events of one key.
#[derive(Default)]
struct OfKey {
    /// The last that was received, and whether it is in a hand.
    last: Option<u64>,
    in_hand: bool,
    /// An ACK was sent for the last one.
    acked: bool,
}

/// Checks what workers receive against what they said.
#[derive(Default)]
struct History(BTreeMap<String, OfKey>);

impl History {
    fn receive(&mut self, event: &Held) {
        let n: u64 = event.data.parse().expect("a number");
        let of_key = self.0.entry(event.subject.clone()).or_default();
        let (subject, attempt) = (&event.subject, event.attempt);
        assert!(!of_key.in_hand, "{subject}: {n} while another is in a hand");
        if of_key.last == Some(n) {
            // The ACK may have died with its worker.
            assert!(attempt > 1, "{subject}: {n} came twice for the first time");
        } else {
            let next = of_key.last.map_or(0, |last| last + 1);
            assert_eq!(n, next, "{subject}: an inversion");
            assert!(
                of_key.last.is_none() || of_key.acked,
                "{subject}: {n} before its turn"
            );
        }
        (of_key.last, of_key.in_hand, of_key.acked) = (Some(n), true, false);
    }

    fn let_go(&mut self, event: &Held, acked: bool) {
        let of_key = self.0.get_mut(&event.subject).expect("it was received");
        (of_key.in_hand, of_key.acked) = (false, acked);
    }
}

/// A worker, and what it holds.
struct Hand {
    held: Vec<Held>,
    is_leaving: bool,
}

struct Crowd {
    workers: Vec<Worker>,
    hands: Vec<Hand>,
    history: History,
    chance: Chance,
    joins: u32,
    leaves: u32,
    deaths: u32,
}

impl Crowd {
    fn join(&mut self, context: &zmq::Context, address: &str) {
        let credit = 1 + self.chance.below(20) as u32;
        self.workers.push(Worker::join(context, address, credit));
        self.hands.push(Hand {
            held: vec![],
            is_leaving: false,
        });
        self.joins += 1;
    }

    fn receive(&mut self) {
        for at in readable(&self.workers, 1) {
            while let Some(event) = self.workers[at].hold(0) {
                self.history.receive(&event);
                self.hands[at].held.push(event);
            }
        }
    }

    /// Some of what a worker holds is done or refused, in any order.
    fn work(&mut self, at: usize) {
        let mut kept = vec![];
        for event in self.hands[at].held.drain(..) {
            let acked = match self.chance.below(10) {
                0..6 => {
                    self.workers[at].ack(&event);
                    true
                }
                6 => {
                    self.workers[at].nak(&event);
                    false
                }
                _ => {
                    kept.push(event);
                    continue;
                }
            };
            self.history.let_go(&event, acked);
        }
        self.hands[at].held = kept;
    }

    /// The worker's connection ends, with whatever it holds or has not read.
    fn die(&mut self, at: usize) {
        self.workers.swap_remove(at);
        for event in self.hands.swap_remove(at).held {
            self.history.let_go(&event, false);
        }
        self.deaths += 1;
    }

    fn live(&mut self, context: &zmq::Context, address: &str) {
        let staying = self.hands.iter().filter(|hand| !hand.is_leaving).count();
        if staying == 0 || self.workers.len() < 5 && self.chance.one_in(10) {
            self.join(context, address);
        }
        self.receive();
        (0..self.workers.len()).for_each(|at| self.work(at));
        let at = self.chance.below(self.workers.len() as u64) as usize;
        if self.chance.one_in(40) {
            self.die(at);
        } else if self.chance.one_in(40) && !self.hands[at].is_leaving {
            self.workers[at].say("BYE");
            self.hands[at].is_leaving = true;
            self.leaves += 1;
        }
    }
}

fn keys_keep_their_order(delivery: &str) {
    let directory = TempDir::new().expect("a directory");
    let mut billing = json!({
        "orderBy": "subject",
        "queueEvents": 100_000,
        "retry": {"initialMs": 1, "maxMs": 5, "maxDeliveries": 1000},
    });
    if delivery == "queue" {
        billing["delivery"] = "queue".into();
        billing["subjects"] = json!(["Order"]);
    }
    let daemon = TestDaemon::in_own_process(
        &json!({"stateDir": directory.path(), "services": {"Billing": billing}}),
    );
    if delivery == "live" {
        daemon.subscribe("sub-1", "Billing", &["Order"]);
    }
    let address = daemon.address_of("Billing");
    let publisher = daemon.publisher();
    let mut crowd = Crowd {
        workers: vec![],
        hands: vec![],
        history: History::default(),
        chance: Chance::new(),
        joins: 0,
        leaves: 0,
        deaths: 0,
    };
    let mut numbers = [0_u64; KEYS as usize];
    let deadline = Instant::now() + PATIENCE;
    let mut published = 0;
    loop {
        while published < EVENTS && !crowd.chance.one_in(30) {
            let key = crowd.chance.below(KEYS) as usize;
            publish(
                &publisher,
                &format!("Order.{key}"),
                &numbers[key].to_string(),
            );
            numbers[key] += 1;
            published += 1;
        }
        crowd.live(&daemon.context, &address);
        let is_due = published == EVENTS && crowd.chance.one_in(50);
        if is_due && daemon.service("Billing").counters.delivered == EVENTS {
            break;
        }
        assert!(Instant::now() < deadline, "not all are done");
    }
    println!(
        "{delivery}: {} joins, {} leaves, {} deaths",
        crowd.joins, crowd.leaves, crowd.deaths
    );
    for (key, number) in numbers.iter().enumerate() {
        let of_key = &crowd.history.0[&format!("Order.{key}")];
        assert_eq!(of_key.last, Some(number - 1));
    }
    assert!(crowd.leaves > 0 && crowd.deaths > 0);
}

#[test]
fn keys_of_a_live_service_keep_their_order() {
    keys_keep_their_order("live");
}

#[test]
fn keys_of_a_durable_service_keep_their_order() {
    keys_keep_their_order("queue");
}
