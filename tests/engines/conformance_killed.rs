//! What becomes of the events of daemons that are killed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use event_manager_wire::api::BridgeState;
use serde_json::json;
use tempfile::TempDir;

use super::conformance_served::{Queues, Served, Worker, all, asked, settings, way};
use super::faults;
use super::support::peers::{connected, is_silent};
use super::support::{TestDaemon, assert_law};

pub fn a_daemon_that_is_killed_leaves_its_events_to_others<B: Queues>() {
    let broker = B::shared();
    let daemons = [(); 2].map(|()| {
        Served::start(
            &broker,
            &json!({"retry": {"initialMs": 0, "maxDeliveries": 100}}),
        )
    });
    let lost = daemons[0].worker(5);
    daemons[0].publish(0..5);
    let held: BTreeSet<_> = (0..5).map(|_| lost.receive().data).collect();
    assert_eq!(held, all(0..5));
    let worker = daemons[1].worker(5);
    daemons[1].publish(5..8);
    let had: BTreeSet<_> = worker.work(3).into_iter().collect();
    assert_eq!(had, all(5..8));
    // What the other works on is its own for as long as it is there.
    assert!(is_silent(&worker.0, 1500));
    let [killed, other] = daemons;
    killed.daemon.kill();
    let begun = Instant::now();
    let events = [(); 5].map(|()| worker.receive());
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    assert!(events.iter().all(|event| event.attempt > 1), "{events:?}");
    events.iter().for_each(|event| worker.ack(event));
    let data: BTreeSet<_> = events.into_iter().map(|event| event.data).collect();
    assert_eq!(data, held);
    other.daemon.wait_for_counter("Billing", |c| c.delivered, 8);
    while broker.waiting("Billing") > 0 {}
}

/// However many others are worked on that were taken before.
pub fn a_killed_daemon_s_event_is_found_behind_those_of_others<B: Queues>() {
    let broker = B::shared();
    let daemons = [(); 3].map(|()| Served::start(&broker, &json!({})));
    let holder = daemons[0].worker(30);
    daemons[0].publish(0..30);
    let held = [(); 30].map(|()| holder.receive());
    let lost = daemons[1].worker(1);
    daemons[0].publish(30..31);
    assert_eq!(lost.receive().data, "30");
    let worker = daemons[2].worker(1);
    let [busy, killed, other] = daemons;
    killed.daemon.kill();
    let begun = Instant::now();
    while is_silent(&worker.0, 100) {
        held.iter()
            .for_each(|event| holder.say(&format!("WIP {}", event.delivery)));
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    let event = worker.receive();
    assert_eq!(event.data, "30");
    worker.ack(&event);
    held.iter().for_each(|event| holder.ack(event));
    for (served, done) in [(&busy, 30), (&other, 1)] {
        served
            .daemon
            .wait_for_counter("Billing", |c| c.delivered, done);
    }
    while broker.waiting("Billing") > 0 {}
}

/// The short form of 50 kills: three daemons, one of which is killed each time, with the same directory.
pub fn kills_of_daemons_lose_nothing<B: Queues>() {
    let broker = B::shared();
    let directories = [(); 3].map(|()| TempDir::new().expect("a directory"));
    let start = |index: usize| {
        let settings = settings(
            &directories[index],
            &broker,
            &json!({"retry": {"maxDeliveries": 100}}),
        );
        let daemon = TestDaemon::in_own_process(&settings);
        daemon.wait_for("its queue", |status| {
            way(status, "in").state == BridgeState::Running
        });
        daemon
    };
    let worker_of = |daemon: &TestDaemon| {
        let address = daemon.address_of("Billing");
        let worker = Worker(connected(&daemon.context, zmq::DEALER, &address));
        worker.say(r#"READY {"ack": true, "ids": true, "credit": 20}"#);
        worker
    };
    let mut daemons: Vec<_> = (0..3).map(|index| Some(start(index))).collect();
    let (rounds, events) = (3_u64, 150);
    let mut done = BTreeSet::new();
    for round in 0..rounds {
        let index = (round % 3) as usize;
        let workers: Vec<_> = daemons.iter().flatten().map(worker_of).collect();
        let publisher = daemons[index].take().expect("it runs");
        let numbers = round * events..(round + 1) * events;
        let emitted = std::thread::scope(|scope| {
            let requester = publisher.requester();
            let emitting = scope.spawn(move || {
                // Confirmed on the disk of the daemon that is killed then.
                let mut emitted = 0;
                for number in numbers {
                    let request = json!({
                        "token": "emit", "subject": "Order", "payload": number.to_string(), "level": "disk",
                    });
                    emitted += u64::from(asked(&requester, &request)["data"].is_object());
                }
                emitted
            });
            for worker in &workers {
                // A part is done, and a part in hands.
                for _ in 0..10 {
                    let event = worker.receive();
                    worker.ack(&event);
                    done.insert(event.data);
                }
            }
            emitting.join().expect("no panic")
        });
        assert_eq!(emitted, events);
        publisher.kill();
        drop(workers);
        daemons[index] = Some(start(index));
    }
    let workers: Vec<_> = daemons.iter().flatten().map(worker_of).collect();
    let begun = Instant::now();
    // An engine that doesn't know events again may have some twice.
    while done.len() as u64 != rounds * events || broker.waiting("Billing") > 0 {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{} are done, {} are there",
            done.len(),
            broker.waiting("Billing"),
        );
        for worker in &workers {
            while !is_silent(&worker.0, 1) {
                let event = worker.receive();
                worker.ack(&event);
                done.insert(event.data);
            }
        }
    }
    assert!(daemons.iter().flatten().all(|daemon| {
        assert_law(&daemon.status());
        true
    }));
}

/// [`faults::kills`] of one of three daemons, which has had all its events in the hands of its four workers, and
/// was told that they are at the engine; others have them after `ackTimeout` and a second.
#[expect(clippy::print_stderr, reason = "a figure for people")]
pub fn others_have_a_killed_daemon_s_events_soon<B: Queues>() {
    let kills = faults::kills(2);
    let broker = B::shared();
    let directories = [(); 3].map(|()| TempDir::new().expect("a directory"));
    let more = json!({"retry": {"initialMs": 0, "maxDeliveries": 100}});
    let start = |index: usize| {
        let daemon = TestDaemon::in_own_process(&settings(&directories[index], &broker, &more));
        daemon.wait_for("its queue", |status| {
            way(status, "in").state == BridgeState::Running
        });
        daemon
    };
    let workers_of = |daemon: &TestDaemon| {
        let address = daemon.address_of("Billing");
        let workers = [(); 4].map(|()| Worker(connected(&daemon.context, zmq::DEALER, &address)));
        for worker in &workers {
            worker.say(r#"READY {"ack": true, "ids": true, "credit": 5}"#);
        }
        daemon.wait_for_ready("Billing", 4);
        workers
    };
    let mut daemons = [0, 1, 2].map(|index| Some(start(index)));
    let (mut number, mut slowest) = (0_u64, Duration::ZERO);
    for kill in 0..kills {
        let index = kill % 3;
        let killed = daemons[index].take().expect("it runs");
        // Only its workers are there: it has them all.
        let lost = workers_of(&killed);
        let requester = killed.requester();
        let numbers = number..number + 20;
        number = numbers.end;
        for number in numbers.clone() {
            let request = json!({
                "token": "emit", "subject": "Order", "payload": number.to_string(), "level": "engine",
            });
            let answer = asked(&requester, &request);
            assert_eq!(answer["data"]["level"], "engine", "{answer}");
        }
        // Where the engine doesn't know events again, some may be of before.
        lost.iter()
            .for_each(|worker| (0..5).for_each(|_| drop(worker.receive())));
        let others: Vec<_> = daemons.iter().flatten().flat_map(workers_of).collect();
        killed.kill();
        let begun = Instant::now();
        let mut done = BTreeSet::new();
        let work = |done: &mut BTreeSet<_>| {
            for worker in &others {
                while !is_silent(&worker.0, 1) {
                    let event = worker.receive();
                    worker.ack(&event);
                    done.insert(event.data);
                }
            }
        };
        while !all(numbers.clone()).is_subset(&done) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{done:?}");
            work(&mut done);
        }
        slowest = slowest.max(begun.elapsed());
        while broker.waiting("Billing") > 0 {
            work(&mut done);
        }
        drop((lost, others));
        daemons[index] = Some(start(index));
    }
    eprintln!("{}: others had them after at most {slowest:?}", B::TYPE);
    assert!(
        kills < 10 || slowest < Duration::from_secs(2),
        "{slowest:?}"
    );
}
