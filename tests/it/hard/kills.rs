//! A daemon that is killed again and again under load.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::bed::{Chance, End, Heard, Worker, sealed, unsealed};
use crate::support::peers::{connected, is_silent, publish};
use crate::support::{TestDaemon, assert_law, disk_of};

/// Events of one cycle that may be under way.
const WINDOW: u64 = 500;
/// After so many looks, each of which finds on disk what came after the one before it, all that was
/// acknowledged before the first is on disk too: the second shows that it was handed to the store, if
/// maybe after those events, and the third that the store wrote what it was handed later.
const LOOKS_UNTIL_SETTLED: usize = 3;

/// What was seen over all cycles.
#[derive(Default)]
struct History {
    served: BTreeSet<u64>,
    /// Acknowledged, and that on disk, before a kill.
    done: BTreeSet<u64>,
    /// Known to be on disk before a kill.
    durable: BTreeSet<u64>,
    /// A kill came before the answer to their publisher.
    unanswered: BTreeSet<u64>,
    repeated: u64,
}

impl History {
    fn serve(&mut self, n: u64, attempt: u32) {
        assert!(!self.done.contains(&n), "event {n} was done, and came back");
        if !self.served.insert(n) {
            self.repeated += 1;
            assert!(attempt > 1, "event {n} came again as if for the first time");
        }
    }
}

/// One run of the daemon.
struct Cycle<'a> {
    address: String,
    context: zmq::Context,
    history: &'a Mutex<History>,
    /// When each event's acknowledgement had been counted.
    acked: Mutex<BTreeMap<u64, Instant>>,
    published: AtomicU64,
    answered: AtomicU64,
    ends: AtomicBool,
}

impl Cycle<'_> {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().expect("no panic")
    }

    /// Works until the cycle ends. Leaves and comes back now and then with events in its hands.
    fn work(&self, mut chance: Chance) {
        while !self.ends.load(Ordering::Relaxed) {
            let worker = Worker::join(&self.context, &self.address, 100);
            let stays = 50 + chance.below(500);
            self.serve(&worker, stays, &mut chance);
        }
    }

    fn serve(&self, worker: &Worker, stays: u64, chance: &mut Chance) {
        let (mut said, mut asked) = (vec![], None);
        let mut heard = 0;
        while heard < stays && !self.ends.load(Ordering::Relaxed) {
            match worker.hear(5) {
                Some(Heard::Event(event)) => {
                    heard += 1;
                    let n = unsealed(&event.data);
                    self.history().serve(n, event.attempt);
                    if chance.one_in(20) {
                        worker.nak(&event);
                    } else if !chance.one_in(100) {
                        worker.ack(&event);
                        said.push(n);
                    }
                    self.answered.fetch_add(1, Ordering::Relaxed);
                }
                Some(Heard::Answer) => {
                    let now = Instant::now();
                    let counted = asked.take().into_iter().flatten().map(|n| (n, now));
                    self.acked.lock().expect("no panic").extend(counted);
                }
                None => {}
            }
            if asked.is_none() && !said.is_empty() {
                asked = Some(std::mem::take(&mut said));
                worker.ask();
            }
        }
    }

    fn publish(&self, publisher: &zmq::Socket, first: u64) {
        while !self.ends.load(Ordering::Relaxed) {
            let published = self.published.load(Ordering::Relaxed);
            if published > self.answered.load(Ordering::Relaxed) + WINDOW {
                std::thread::yield_now();
                continue;
            }
            publish(publisher, "Order", &sealed(first + published));
            self.published.store(published + 1, Ordering::Relaxed);
        }
    }

    /// Publishes one event after the other, each when the one before is confirmed. What a kill left
    /// unanswered is published again, by the same name.
    fn emit(&self, requests: &str, first: u64) {
        let requester = connected(&self.context, zmq::REQ, requests);
        while !self.ends.load(Ordering::Relaxed) {
            let again = self.history().unanswered.pop_first();
            let n = again.unwrap_or_else(|| first + self.published.fetch_add(1, Ordering::Relaxed));
            let request = json!({
                "token": "emit", "level": "disk", "id": n.to_string(),
                "subject": "Order", "payload": sealed(n),
            });
            requester.send(&request.to_string(), 0).expect("a send");
            let mut is_answered = false;
            while !is_answered && !self.ends.load(Ordering::Relaxed) {
                is_answered = !is_silent(&requester, 5);
            }
            if !is_answered {
                self.history().unanswered.insert(n);
                return;
            }
            let answer = requester.recv_bytes(0).expect("an answer");
            let answer: Value = serde_json::from_slice(&answer).expect("JSON");
            assert_eq!(answer["data"]["services"], 1, "{answer}");
            self.history().durable.insert(n);
        }
    }

    /// Looks at the daemon until a kill is due.
    fn watch(&self, daemon: &TestDaemon, until: Instant) -> Looks {
        let mut looks = Looks::default();
        while Instant::now() < until {
            let asked = Instant::now();
            let status = daemon.status();
            assert_law(&status);
            let service = status.service("Billing").expect("it is durable");
            assert_eq!(service.counters.dropped_total(), 0);
            let came = status.publishers.events;
            looks.on_disk = came - disk_of(service).pending_events;
            if looks.on_disk > looks.came {
                looks.came = came;
                looks.asked.push(asked);
            }
        }
        looks
    }
}

/// What was seen of the events of one cycle.
#[derive(Default)]
struct Looks {
    /// The first so many were on disk at the last look.
    on_disk: u64,
    /// When those looks began that found on disk what came after the one before.
    asked: Vec<Instant>,
    /// How many had come at the last of these.
    came: u64,
}

fn start(directory: &TempDir) -> TestDaemon {
    let retry = json!({"initialMs": 1, "maxMs": 5, "maxDeliveries": 1000});
    TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "services": {"Billing": {"delivery": "queue", "subjects": ["Order"], "retry": retry}},
    }))
}

/// How events come to the daemon.
#[derive(Clone, Copy)]
enum Publishing {
    /// As from any publisher.
    Plain,
    /// With EMIT.
    Confirmed,
}

/// One run under load, and its kill; how many events were published.
fn run_and_kill(
    directory: &TempDir,
    history: &Mutex<History>,
    publishing: Publishing,
    first: u64,
    chance: &mut Chance,
) -> u64 {
    let daemon = start(directory);
    let cycle = Cycle {
        address: daemon.address_of("Billing"),
        context: daemon.context.clone(),
        history,
        acked: Mutex::default(),
        published: AtomicU64::new(1),
        answered: AtomicU64::new(0),
        ends: AtomicBool::new(false),
    };
    let publisher = daemon.publisher();
    // A long queue takes its time to be opened.
    publish(&publisher, "Order", &sealed(first));
    daemon.wait_for("the first event on disk", |status| {
        let service = status.service("Billing").expect("it is durable");
        status.publishers.events == 1 && disk_of(service).pending_events == 0
    });
    let until = Instant::now() + Duration::from_millis(250 + chance.below(250));
    let looks = std::thread::scope(|scope| {
        for chance in [chance.fork(), chance.fork()] {
            scope.spawn(|| cycle.work(chance));
        }
        let (running, requests) = (&cycle, daemon.requests());
        match publishing {
            Publishing::Plain => {
                scope.spawn(move || running.publish(&publisher, first));
            }
            Publishing::Confirmed => (0..4).for_each(|_| {
                let requests = requests.clone();
                scope.spawn(move || running.emit(&requests, first));
            }),
        }
        let _end = End(&cycle.ends);
        let looks = cycle.watch(&daemon, until);
        daemon.kill();
        looks
    });
    let mut history = history.lock().expect("no panic");
    if let Publishing::Plain = publishing {
        history.durable.extend(first..first + looks.on_disk);
    }
    if let Some(settled) = looks.asked.iter().nth_back(LOOKS_UNTIL_SETTLED - 1) {
        let acked = cycle.acked.into_inner().expect("no panic");
        let before = acked.iter().filter(|(_, at)| *at < settled);
        history.done.extend(before.map(|(n, _)| *n));
    }
    cycle.published.into_inner()
}

/// Serves what is left.
fn drain(directory: &TempDir, history: &mut History) {
    let daemon = start(directory);
    let worker = Worker::join(&daemon.context, &daemon.address_of("Billing"), 1000);
    let is_done = |daemon: &TestDaemon| {
        let counters = &daemon.service("Billing").counters;
        // Before the queue is open nothing matched.
        counters.matched != 0 && counters.queued == 0 && counters.in_flight == 0
    };
    loop {
        while let Some(event) = worker.hold(50) {
            history.serve(unsealed(&event.data), event.attempt);
            worker.ack(&event);
        }
        if is_done(&daemon) {
            return;
        }
    }
}

/// Kills it so often, and on a slow machine until it was seen to have done something.
fn kill_often(publishing: Publishing, cycles: u32) {
    const DONE_MIN: usize = 20;
    const TOO_MANY: u32 = 10;
    let directory = TempDir::new().expect("a directory");
    let mut chance = Chance::new();
    let history = Mutex::<History>::default();
    let mut published = 0;
    let is_enough = || history.lock().expect("no panic").done.len() > DONE_MIN;
    let mut kills = 0;
    while kills < cycles || !is_enough() && kills < cycles * TOO_MANY {
        kills += 1;
        published += run_and_kill(&directory, &history, publishing, published, &mut chance);
    }
    let mut history = history.into_inner().expect("no panic");
    drain(&directory, &mut history);
    println!(
        "{kills} kills, {published} published, {} known to be on disk, {} known to be done, {} served, {} more than once",
        history.durable.len(),
        history.done.len(),
        history.served.len(),
        history.repeated,
    );
    let mut lost = history.durable.difference(&history.served);
    assert_eq!(lost.next(), None, "on disk, and not served");
    assert!(history.done.len() > DONE_MIN && history.repeated > 0);
}

#[test]
fn kills_lose_nothing_that_was_on_disk_and_bring_nothing_back_that_was_done() {
    kill_often(Publishing::Plain, 5);
}

#[test]
fn kills_lose_nothing_that_was_confirmed() {
    kill_often(Publishing::Confirmed, 5);
}

#[test]
#[ignore = "takes six minutes"]
fn two_hundred_kills_lose_nothing_either() {
    kill_often(Publishing::Plain, 200);
}

#[test]
#[ignore = "takes three minutes"]
fn two_hundred_kills_lose_nothing_that_was_confirmed() {
    kill_often(Publishing::Confirmed, 200);
}
