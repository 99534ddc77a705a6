//! The books, looked into at any moment.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use super::bed::{Chance, End, Worker, readable};
use crate::support::peers::{connected, is_silent, publish};
use crate::support::{TestDaemon, assert_law};

/// For how long the books are looked into.
const LOOKS_FOR: Duration = Duration::from_secs(2);

/// Workers of one service, which come, go, die, acknowledge, refuse and give up at random.
fn work(context: &zmq::Context, address: &str, until: Instant, mut chance: Chance) {
    let mut workers = vec![];
    while Instant::now() < until {
        if workers.is_empty() || workers.len() < 4 && chance.one_in(50) {
            workers.push(Worker::join(context, address, 1 + chance.below(50) as u32));
        }
        for at in readable(&workers, 1) {
            let event = workers[at].hold(0).expect("it is readable");
            match chance.below(20) {
                0..14 => workers[at].ack(&event),
                14..18 => workers[at].nak(&event),
                18 => workers[at].say(&format!("TERM {} of no use", event.id)),
                _ => {}
            }
        }
        if chance.one_in(200) {
            workers.swap_remove(chance.below(workers.len() as u64) as usize);
        }
    }
}

/// One that doesn't acknowledge, and comes and goes.
fn work_plainly(context: &zmq::Context, address: &str, until: Instant, mut chance: Chance) {
    while Instant::now() < until {
        let worker = Worker(connected(context, zmq::DEALER, address));
        worker.say("READY");
        for _ in 0..chance.below(500) {
            if !is_silent(&worker.0, 1) {
                worker.0.recv_multipart(0).expect("an event");
            }
        }
    }
}

#[test]
fn the_law_holds_at_every_moment() {
    let directory = TempDir::new().expect("a directory");
    let retry = json!({"initialMs": 1, "maxMs": 20, "maxDeliveries": 3});
    let daemon = TestDaemon::in_own_process(&json!({
        "stateDir": directory.path(),
        "services": {
            "Kept": {"delivery": "queue", "subjects": ["Order"], "queueEvents": 50, "retry": retry},
            "Live": {"queueEvents": 500, "retry": retry},
        },
    }));
    daemon.subscribe("sub-1", "Live", &["Order"]);
    let mut chance = Chance::new();
    let until = Instant::now() + LOOKS_FOR;
    let publisher = daemon.publisher();
    let mut looks = 0;
    std::thread::scope(|scope| {
        for service in ["Kept", "Live"] {
            let (context, address) = (daemon.context.clone(), daemon.address_of(service));
            let (working, plain) = (chance.fork(), chance.fork());
            scope.spawn(move || {
                std::thread::scope(|scope| {
                    scope.spawn(|| work(&context, &address, until, working));
                    scope.spawn(|| work_plainly(&context, &address, until, plain));
                });
            });
        }
        let mut pause = chance.fork();
        scope.spawn(move || {
            while Instant::now() < until {
                (0..pause.below(100)).for_each(|n| publish(&publisher, "Order", &n.to_string()));
                std::thread::sleep(Duration::from_millis(pause.below(5)));
            }
        });
        while Instant::now() < until {
            let status = daemon.status();
            assert_law(&status);
            for service in &status.services {
                assert_eq!(
                    service.counters.matched, status.publishers.events,
                    "{status:#?}"
                );
            }
            looks += 1;
        }
    });
    println!("{looks} looks");
    for service in ["Kept", "Live"] {
        let counters = daemon.service(service).counters;
        for count in [
            counters.delivered,
            counters.dead_lettered,
            counters.retries,
            counters.redelivered,
        ] {
            assert!(count > 0, "{service}: {counters:#?}");
        }
    }
    assert!(looks > 20);
}

/// They are so many that they aren't looked at in one turn. And each of a flood of small events goes to all of
/// them: what is read of it in one turn must be little, or nobody else is answered.
#[test]
fn what_was_published_has_matched_in_every_look() {
    const SERVICES: usize = 60;
    let daemon = TestDaemon::start();
    for n in 0..SERVICES {
        daemon.subscribe(&format!("sub-{n}"), &format!("Service{n}"), &["Order"]);
    }
    let ends = AtomicBool::new(false);
    let publisher = daemon.publisher();
    std::thread::scope(|scope| {
        let ended = &ends;
        scope.spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                publish(&publisher, "Order", "x");
            }
        });
        let _end = End(&ends);
        for _ in 0..10 {
            let status = daemon.status();
            assert_law(&status);
            assert_eq!(status.services.len(), SERVICES);
            let least = status.services.iter().map(|s| s.counters.matched).min();
            assert!(least >= Some(status.publishers.events), "{least:?}");
        }
    });
    assert!(daemon.status().publishers.events > 1000);
}
