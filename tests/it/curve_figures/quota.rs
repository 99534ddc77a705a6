//! A client that publishes ten times what its quota allows: what it gets, and what the others notice.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use event_manager_client::ConnectionEvent;
use event_manager_zmtp::LocalSocket;
use serde_json::json;

use crate::support::TestDaemon;
use crate::support::keys::{Keys, Peer, Spread, latencies, publisher, subscriber};
use crate::support::peers::{connect, publish, socket};

const QUOTA: u64 = 5000;
const OFFERED: u64 = 50_000;
const TIME: Duration = Duration::from_secs(60);
/// The pair of all but the greedy one, which has none.
const OTHERS: u8 = 2;

/// Publishes numbers at this rate until it is told to stop; how many a second it was. As a PUB socket does,
/// it drops what its own high-water mark doesn't allow.
fn offer(greedy: &mut zmq::Socket, per_second: u64, next: &mut u64, stop: &AtomicBool) -> f64 {
    const TICK: Duration = Duration::from_millis(10);
    let (begun, first) = (Instant::now(), *next);
    let mut due = begun;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..per_second / 100 {
            publish(greedy, "Greedy", &format!("{next:0100}"));
            *next += 1;
        }
        due += TICK;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    (*next - first) as f64 / begun.elapsed().as_secs_f64()
}

/// Counts numbers, which only grow, until the word comes that ends them.
fn count(mut subscriber: Peer, counted: &AtomicU64) {
    let mut last = None;
    loop {
        let message = subscriber.message();
        let text = std::str::from_utf8(&message[1]).expect("text");
        if text == "end" {
            return;
        }
        let number: u64 = text.parse().expect("a number");
        assert!(last < Some(number), "{number} after {last:?}");
        last = Some(number);
        counted.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
#[ignore = "a figure: just curve-figures"]
fn a_client_above_its_quota_gets_just_that() {
    let keys = Keys::new();
    keys.admit(OTHERS);
    let mut security = keys.security(&["null", "curve"]);
    security["anonymous"] = json!({"publish": ["Greedy"], "quotas": {"eventsPerSecond": QUOTA}});
    let daemon = TestDaemon::in_own_process(&json!({ "security": security }));
    let mut to = subscriber(&daemon, OTHERS);
    let mut from = publisher(&daemon, OTHERS);
    let mut listener = Peer::met(&daemon.subscribers(), LocalSocket::Sub, OTHERS);
    listener.connection.subscribe(b"Greedy");
    while listener.next().expect("it goes on") != ConnectionEvent::Sent {}
    daemon.wait_for_subscriptions(2);
    let mut greedy = socket(&daemon.context, zmq::PUB);
    greedy.set_sndhwm(1000).expect("an option");
    connect(&greedy, &daemon.publishers());
    daemon.wait_for("it is there", |status| status.publishers.connected == 2);

    let (counted, mut next) = (AtomicU64::new(0), 0);
    let mut others = 0;
    std::thread::scope(|scope| {
        let counting = scope.spawn(|| count(listener, &counted));
        let mut beside = |per_second: u64, time: Duration| {
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let offering = scope.spawn(|| offer(&mut greedy, per_second, &mut next, &stop));
                // The first second is free.
                others += latencies(&mut from, &mut to, Duration::from_secs(2)).len();
                let (begun, before) = (Instant::now(), counted.load(Ordering::Relaxed));
                let taken = latencies(&mut from, &mut to, time);
                let came = counted.load(Ordering::Relaxed) - before;
                let rate = came as f64 / begun.elapsed().as_secs_f64();
                stop.store(true, Ordering::Relaxed);
                let offered = offering.join().expect("no panic");
                others += taken.len();
                println!(
                    "{offered:.0} a second offered, {rate:.0} came; others' {}",
                    Spread(taken)
                );
                rate
            })
        };
        beside(0, TIME / 4);
        beside(QUOTA * 9 / 10, TIME / 4);
        let rate = beside(OFFERED, TIME);
        // What it has sent and the daemon has not read yet is read as the quota allows.
        drop(greedy);
        daemon.wait_for("all is read", |status| status.publishers.connected == 1);
        // The other one was silent meanwhile.
        publisher(&daemon, OTHERS).publish("Greedy", b"end");
        counting.join().expect("no panic");
        let status = daemon.status();
        let came = counted.load(Ordering::Relaxed) + others as u64 + 1;
        assert_eq!(status.publishers.events, came, "each that was read came");
        assert_eq!(status.subscribers.counters.dropped_total(), 0);
        let wanted = QUOTA as f64 * 0.95..QUOTA as f64 * 1.05;
        assert!(wanted.contains(&rate), "{rate}");
    });
}
