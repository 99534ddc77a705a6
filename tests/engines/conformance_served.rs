//! What each engine has to pass at which services have their queues, which daemons share.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use event_manager_wire::api::{Bridge, BridgeState, Status};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::conformance::Broker;
pub use super::conformance_emit::*;
pub use super::conformance_killed::*;
use super::support::peers::{connected, is_silent, publish};
use super::support::{TestDaemon, assert_law};

/// A server with queues of services.
pub trait Queues: Broker {
    /// One that has its own process, runs, and listens at this address.
    fn started_at(host: &str) -> Self;

    /// How many events of a service are there, given to a daemon or not.
    fn waiting(&self, service: &str) -> u64;

    /// A public client writes messages to the queue of a service that is there, whose bodies are these
    /// numbers.
    fn put(&self, service: &str, numbers: Range<u64>, headers: &Value);

    /// What is said when the queue of `Billing` is full.
    const FULL: &str;

    /// From now on the queue of `Billing`, which has something, takes no more; or it takes all again.
    fn fill(&self, is_full: bool);
}

/// All of it as tests of one engine.
macro_rules! conforms_served {
    ($broker:ty) => {
        crate::conformance_served::conforms_served! { $broker:
            what_one_daemon_takes_goes_to_the_workers_of_all
            a_daemon_that_is_killed_leaves_its_events_to_others
            a_killed_daemon_s_event_is_found_behind_those_of_others
            a_daemon_that_stops_gives_back_what_it_has
            workers_have_the_same_words_as_of_any_service
            what_no_worker_can_do_is_a_dead_letter_that_can_be_replayed
            what_ends_its_worker_takes_no_other_event_along
            work_that_lasts_is_not_given_to_others
            workers_go_on_while_the_server_is_away
            what_waits_while_the_server_is_away_goes_there_when_it_is_back
            an_event_is_confirmed_when_the_engine_has_it
            what_the_engine_never_takes_is_refused_at_once
            what_the_engine_doesn_t_take_now_is_answered_with_its_words
            kills_of_daemons_lose_nothing
            others_have_a_killed_daemon_s_events_soon
            both_ways_are_known_to_work_before_an_event_comes
        }
    };
    ($broker:ty: $($name:ident)+) => {
        mod conformance_served {
            use super::*;
            $(
                #[test]
                fn $name() {
                    crate::conformance_served::$name::<$broker>();
                }
            )+
        }
    };
}
pub(crate) use conforms_served;

/// Three machines, of which one is cut off or has its daemon killed by turns, at one engine.
macro_rules! goes_on_at_machines {
    ($broker:ty, after_ack_timeout: $after:expr) => {
        mod machines {
            use super::*;
            use crate::conformance_cut::{Run, machines_are_cut_off_and_daemons_killed};

            #[test]
            fn one_is_cut_off_and_another_s_daemon_is_killed() {
                machines_are_cut_off_and_daemons_killed::<$broker>(&Run {
                    rounds: 2,
                    calm: 100,
                    after_ack_timeout: None,
                });
            }

            #[test]
            #[ignore = "it takes seconds for each of EVENT_MANAGER_ROUNDS, and root (just engines-cut)"]
            fn cut_off_and_killed_again_and_again() {
                machines_are_cut_off_and_daemons_killed::<$broker>(&Run {
                    rounds: crate::faults::rounds(),
                    calm: 1000,
                    after_ack_timeout: Some($after),
                });
            }
        }
    };
}
pub(crate) use goes_on_at_machines;

/// A daemon that serves `Billing` from the engine. `more` is said of the service, too.
pub struct Served {
    pub daemon: TestDaemon,
    _directory: TempDir,
}

impl Served {
    pub fn start<B: Queues>(broker: &B, more: &Value) -> Self {
        let directory = TempDir::new().expect("a directory");
        let daemon = TestDaemon::in_own_process(&settings(&directory, broker, more));
        Self {
            daemon,
            _directory: directory,
        }
    }

    pub fn worker(&self, credit: u32) -> Worker {
        let before = self.daemon.service("Billing").workers.ready;
        let address = self.daemon.address_of("Billing");
        let worker = Worker(connected(&self.daemon.context, zmq::DEALER, &address));
        worker.say(&format!(
            r#"READY {{"ack": true, "ids": true, "credit": {credit}}}"#
        ));
        self.daemon.wait_for_ready("Billing", before + 1);
        worker
    }

    /// All of it is on this daemon's disk, or further.
    pub fn publish(&self, numbers: Range<u64>) {
        let publisher = self.daemon.publisher();
        let before = self.daemon.service("engine.Billing").counters.matched;
        let count = numbers.end - numbers.start;
        numbers.for_each(|n| publish(&publisher, "Order", &n.to_string()));
        self.daemon
            .wait_for_counter("engine.Billing", |c| c.matched, before + count);
    }

    fn letters(&self) -> Vec<Value> {
        let (token, listed) = self.daemon.ask("dlq", &["list", "Billing"]);
        assert_eq!(token, "TK_SYS_ACK", "{listed}");
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        listed["letters"].as_array().expect("letters").clone()
    }
}

pub fn settings<B: Queues>(directory: &TempDir, broker: &B, more: &Value) -> Value {
    let mut billing = json!({
        "delivery": "engine",
        "engine": "main",
        "subjects": ["Order"],
        "ackTimeout": 1,
        "retry": {"initialMs": 0, "maxMs": 0, "maxDeliveries": 3},
    });
    for (key, value) in more.as_object().expect("an object") {
        billing[key] = value.clone();
    }
    json!({
        "stateDir": directory.path(),
        "engines": {"main": broker.engine()},
        "services": {"Billing": billing},
    })
}

/// A worker that acknowledges, over libzmq.
pub struct Worker(pub zmq::Socket);

#[derive(Debug)]
pub struct Delivered {
    pub delivery: String,
    pub attempt: u32,
    pub id: String,
    pub data: String,
}

impl Worker {
    pub fn say(&self, word: &str) {
        self.0.send(word, 0).expect("a send");
    }

    pub fn receive(&self) -> Delivered {
        let frames = self.0.recv_multipart(0).expect("an event");
        let text = |frame: &[u8]| String::from_utf8(frame.to_vec()).expect("text");
        let word = text(&frames[0]);
        let words: Vec<&str> = word.split(' ').collect();
        assert_eq!((words[0], words.len()), ("EVENT", 4), "{word}");
        assert_eq!((&*frames[1], frames.len()), (&b"Order"[..], 3));
        Delivered {
            delivery: words[1].into(),
            attempt: words[2].parse().expect("a number"),
            id: words[3].into(),
            data: text(&frames[2]),
        }
    }

    pub fn ack(&self, event: &Delivered) {
        self.say(&format!("ACK {}", event.delivery));
    }

    /// Gets so many and acknowledges each.
    pub fn work(&self, count: u64) -> Vec<String> {
        let one = |_| {
            let event = self.receive();
            self.ack(&event);
            event.data
        };
        (0..count).map(one).collect()
    }
}

pub fn way(status: &Status, direction: &str) -> Bridge {
    let mut ways = status.bridges.iter();
    let found =
        ways.find(|way| way.service.as_deref() == Some("Billing") && way.direction == direction);
    // It is not told before there is something to tell.
    found.cloned().unwrap_or_default()
}

/// Both laws: of each daemon, and, if none was killed, over all of them once the engine has heard of all that
/// is done. Others have put so many events there.
pub fn assert_laws<B: Queues>(broker: &B, daemons: &[&Served], others: u64) {
    let begun = Instant::now();
    loop {
        let (mut forwarded, mut ended) = (others, 0);
        for served in daemons {
            let (out, into) = settled(&served.daemon);
            forwarded += out.events - out.known;
            ended += into.events + into.refused;
        }
        let waiting = broker.waiting("Billing");
        if forwarded == ended + waiting {
            return;
        }
        // Something may have happened between two looks.
        let books = format!("{forwarded} forwarded, {ended} ended, {waiting} there");
        assert!(begun.elapsed() < Duration::from_secs(10), "{books}");
    }
}

/// Both ways of the service at a daemon, once all that is here is forwarded, and all that is done is told.
fn settled(daemon: &TestDaemon) -> (Bridge, Bridge) {
    let status = daemon.wait_for("all to be told", |status| {
        let service = |name: &str| {
            let mut services = status.services.iter();
            let found = services.find(|found| found.name == name);
            found.expect("it").counters.clone()
        };
        let (out, into) = (way(status, "out"), way(status, "in"));
        let (spool, billing) = (service("engine.Billing"), service("Billing"));
        spool.queued + spool.in_flight == 0
            && out.events == spool.delivered
            && into.events == billing.delivered
            && into.refused == billing.dead_lettered
            && into.returned == billing.returned
            && into.in_flight == billing.queued + billing.in_flight
    });
    assert_law(&status);
    let (out, into) = (way(&status, "out"), way(&status, "in"));
    let known = into.events + into.returned + into.refused + into.in_flight;
    assert_eq!(into.taken, known, "{into:?}");
    (out, into)
}

pub fn asked(requester: &zmq::Socket, request: &Value) -> Value {
    requester.send(&request.to_string(), 0).expect("a send");
    let answer = requester.recv_bytes(0).expect("an answer");
    serde_json::from_slice(&answer).expect("JSON")
}

pub fn all(numbers: Range<u64>) -> BTreeSet<String> {
    numbers.map(|n| n.to_string()).collect()
}

pub fn what_one_daemon_takes_goes_to_the_workers_of_all<B: Queues>() {
    let broker = B::shared();
    let daemons = [(); 2].map(|()| Served::start(&broker, &json!({"ackTimeout": 20})));
    let workers = [daemons[0].worker(5), daemons[1].worker(5)];
    daemons[0].publish(0..10);
    // Each has as many as it wants, and no daemon holds more than its worker does.
    let events = workers
        .each_ref()
        .map(|worker| [(); 5].map(|()| worker.receive()));
    let data: BTreeSet<_> = events
        .iter()
        .flatten()
        .map(|event| event.data.clone())
        .collect();
    let ids: BTreeSet<_> = events
        .iter()
        .flatten()
        .map(|event| event.id.clone())
        .collect();
    assert_eq!((data, ids.len()), (all(0..10), 10));
    assert!(events.iter().flatten().all(|event| event.attempt == 1));
    daemons[1].publish(10..20);
    assert!(workers.iter().all(|worker| is_silent(&worker.0, 50)));
    while broker.waiting("Billing") != 20 {}
    for (worker, events) in workers.iter().zip(&events) {
        events.iter().for_each(|event| worker.ack(event));
    }
    let more = workers
        .each_ref()
        .map(|worker| [(); 5].map(|()| worker.receive()));
    let data: BTreeSet<_> = more
        .iter()
        .flatten()
        .map(|event| event.data.clone())
        .collect();
    assert_eq!(data, all(10..20));
    for (worker, events) in workers.iter().zip(&more) {
        events.iter().for_each(|event| worker.ack(event));
    }
    assert_laws(&broker, &[&daemons[0], &daemons[1]], 0);
    assert_eq!(broker.waiting("Billing"), 0);
}

pub fn a_daemon_that_stops_gives_back_what_it_has<B: Queues>() {
    let broker = B::shared();
    let long = json!({"ackTimeout": 60});
    let daemons = [(); 2].map(|()| Served::start(&broker, &long));
    let holder = daemons[0].worker(3);
    daemons[0].publish(0..3);
    let held = [(); 3].map(|()| holder.receive());
    let [stopped, other] = daemons;
    let worker = other.worker(3);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| stopped.daemon.stop());
        holder.ack(&held[0]);
        let data: BTreeSet<_> = worker.work(2).into_iter().collect();
        assert_eq!(data, all(1..3));
        assert!(stopping.join().expect("no panic"));
    });
    assert!(begun.elapsed() < Duration::from_secs(30));
    while broker.waiting("Billing") > 0 {}
    assert!(is_silent(&worker.0, 50));
}

pub fn workers_have_the_same_words_as_of_any_service<B: Queues>() {
    let broker = B::shared();
    let served = Served::start(
        &broker,
        &json!({"retry": {"initialMs": 0, "maxMs": 0, "maxDeliveries": 9}}),
    );
    let worker = served.worker(1);
    served.publish(0..1);
    let first = worker.receive();
    assert!(first.id.contains(".engine.Billing."), "{first:?}");
    let again = |word: &str, attempt| {
        worker.say(word);
        let event = worker.receive();
        assert_eq!((&event.id, event.attempt), (&first.id, attempt));
        event
    };
    let second = again(&format!("NAK {}", first.delivery), 2);
    let begun = Instant::now();
    let third = again(&format!("NAK {} 300", second.delivery), 3);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    // Nothing is said of it: it comes again after ackTimeout.
    let fourth = worker.receive();
    assert_eq!((&fourth.id, fourth.attempt), (&third.id, 4));
    // A worker is lost: its events go to another of the same daemon at once.
    let other = served.worker(1);
    drop(worker);
    let begun = Instant::now();
    let fifth = other.receive();
    assert_eq!((&fifth.id, fifth.attempt), (&first.id, 5));
    assert!(begun.elapsed() < Duration::from_millis(900));
    // The last worker is lost: nobody here has them.
    drop(other);
    served.daemon.wait_for_counter("Billing", |c| c.returned, 1);
    let last = served.worker(1);
    let event = last.receive();
    assert_eq!(event.id, first.id);
    assert!(event.attempt > 1);
    last.ack(&event);
    assert_laws(&broker, &[&served], 0);
    assert_eq!(broker.waiting("Billing"), 0);
}

pub fn what_no_worker_can_do_is_a_dead_letter_that_can_be_replayed<B: Queues>() {
    let broker = B::shared();
    let served = Served::start(&broker, &json!({}));
    let worker = served.worker(1);
    served.publish(0..2);
    let event = worker.receive();
    worker.say(&format!("TERM {} not mine", event.delivery));
    for attempt in 1..4 {
        let event = worker.receive();
        assert_eq!((&*event.data, event.attempt), ("1", attempt));
        worker.say(&format!("NAK {}", event.delivery));
    }
    // What is no event.
    broker.put("Billing", 7..8, &json!({"x-em-lengths": "9,9"}));
    served
        .daemon
        .wait_for_counter("Billing", |c| c.dead_lettered, 3);
    assert_laws(&broker, &[&served], 1);
    assert_eq!(broker.waiting("Billing"), 0);
    let letters = served.letters();
    let reasons: Vec<_> = letters
        .iter()
        .map(|letter| letter["reason"].as_str())
        .collect();
    let expected = ["terminated", "max-deliveries", "terminated"].map(Some);
    assert_eq!(reasons, expected, "{letters:?}");
    // They go to the queue again, for whoever has a worker.
    let seq = letters[0]["seq"].to_string();
    let seqs: Value = serde_json::from_str(&format!("[{seq}]")).expect("JSON");
    let request = json!({"token": "dlq", "op": "replay", "service": "Billing", "seqs": seqs});
    let answer = asked(&served.daemon.requester(), &request);
    assert!(answer["data"].is_object(), "{answer}");
    assert_eq!(worker.work(1), ["0"]);
    assert_laws(&broker, &[&served], 1);
}

pub fn work_that_lasts_is_not_given_to_others<B: Queues>() {
    let broker = B::shared();
    let daemons = [(); 2].map(|()| Served::start(&broker, &json!({"ackTimeout": 1})));
    let worker = daemons[0].worker(1);
    daemons[0].publish(0..1);
    let event = worker.receive();
    let other = daemons[1].worker(1);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(2500) {
        worker.say(&format!("WIP {}", event.delivery));
        assert!(is_silent(&worker.0, 100) && is_silent(&other.0, 1));
    }
    worker.ack(&event);
    assert_laws(&broker, &[&daemons[0], &daemons[1]], 0);
    assert_eq!(broker.waiting("Billing"), 0);
}

pub fn workers_go_on_while_the_server_is_away<B: Queues>() {
    let mut broker = B::started();
    // Longer than a server may take to start again: nothing comes twice because of that.
    let served = Served::start(&broker, &json!({"ackTimeout": 120}));
    let worker = served.worker(4);
    served.publish(0..4);
    let events = [(); 4].map(|()| worker.receive());
    worker.ack(&events[0]);
    while broker.waiting("Billing") != 3 {}
    broker.kill();
    served
        .daemon
        .wait_for("its loss", |status| way(status, "in").problem.is_some());
    worker.ack(&events[1]);
    served
        .daemon
        .wait_for_counter("Billing", |c| c.delivered, 2);
    broker.start();
    served.daemon.wait_for("the way back", |status| {
        way(status, "in").problem.is_none() && way(status, "out").problem.is_none()
    });
    worker.ack(&events[2]);
    worker.ack(&events[3]);
    while broker.waiting("Billing") > 0 {}
    assert!(is_silent(&worker.0, 50));
    served.publish(4..8);
    assert_eq!(worker.work(4).len(), 4);
    while broker.waiting("Billing") > 0 {}
    assert_law(&served.daemon.status());
}

pub fn what_waits_while_the_server_is_away_goes_there_when_it_is_back<B: Queues>() {
    let mut broker = B::started();
    broker.kill();
    let served = Served::start(&broker, &json!({}));
    let worker = served.worker(10);
    served.publish(0..50);
    let status = served.daemon.wait_for("the problem", |status| {
        way(status, "out").problem.is_some() && way(status, "in").problem.is_some()
    });
    let problem = way(&status, "in").problem.expect("a sentence");
    assert!(problem.contains(&broker.url()), "{problem}");
    broker.start();
    let data: BTreeSet<_> = worker.work(50).into_iter().collect();
    assert_eq!(data, all(0..50));
    assert_laws(&broker, &[&served], 0);
}

pub fn what_ends_its_worker_takes_no_other_event_along<B: Queues>() {
    let broker = B::shared();
    let retry = json!({"initialMs": 0, "maxMs": 0, "maxDeliveries": 2});
    let served = Served::start(&broker, &json!({"ackTimeout": 20, "retry": retry}));
    served.publish(0..5);
    // With each worker all that it holds goes back to the engine.
    for n in 1..=2 {
        let worker = served.worker(5);
        (0..5).for_each(|_| assert_eq!(worker.receive().attempt, n));
        drop(worker);
        let back = u64::from(n) * 5;
        served
            .daemon
            .wait_for_counter("Billing", |c| c.returned, back);
    }
    let (mut worker, mut data) = (served.worker(5), BTreeSet::new());
    for _ in 0..5 {
        let event = worker.receive();
        // What waits for its turn when its worker is lost has gone back once more.
        assert!(event.attempt >= 3, "{event:?}");
        assert!(is_silent(&worker.0, 20), "it goes alone");
        match &*event.data {
            "2" => {
                drop(worker);
                served
                    .daemon
                    .wait_for_counter("Billing", |c| c.dead_lettered, 1);
                worker = served.worker(5);
            }
            _ => worker.ack(&event),
        }
        data.insert(event.data);
    }
    assert_eq!(data, all(0..5));
    served
        .daemon
        .wait_for_counter("Billing", |c| c.delivered, 4);
    let letters = served.letters();
    assert_eq!((letters.len(), &letters[0]["attempts"]), (1, &json!(3)));
    assert_laws(&broker, &[&served], 0);
}

pub fn both_ways_are_known_to_work_before_an_event_comes<B: Queues>() {
    let broker = B::started();
    let served = Served::start(&broker, &json!({}));
    let status = served.daemon.wait_for("both ways", |status| {
        let states = status.bridges.iter().map(|bridge| bridge.state);
        states.eq([BridgeState::Running; 2])
    });
    let failures = status.bridges.iter().map(|bridge| bridge.failures);
    assert_eq!(failures.sum::<u64>(), 0);
}
