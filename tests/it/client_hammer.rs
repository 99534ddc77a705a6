//! One hub of the client library, used by many threads at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use event_manager_client::Error;

use super::client_hub::{blocking_hub, daemon};
use super::support::PATIENCE;

const THREADS: usize = 32;
/// What memory may grow by after the first third: what an allocator keeps differs from moment to moment.
const GROWTH_BYTES_MAX: u64 = 8 << 20;

/// What this process has: resident memory in bytes, descriptors.
fn taken() -> (u64, usize) {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split(' ').nth(1).expect("a field");
    let pages: u64 = pages.parse().expect("a number");
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("Linux").count();
    (pages * 4096, descriptors)
}

/// `just clients-hammer SECONDS`
#[test]
#[ignore = "takes as long as it is told, and counts what the whole process has"]
fn many_threads_hammer_one_hub() {
    let seconds = std::env::var("EVENT_MANAGER_HAMMER_SECONDS");
    let seconds = seconds.map_or(60, |text| text.parse().expect("seconds"));
    hammer(Duration::from_secs(seconds), true);
}

#[test]
fn many_threads_share_one_hub() {
    hammer(Duration::from_secs(1), false);
}

fn hammer(time: Duration, is_alone: bool) {
    let daemon = daemon().durable().start().expect("a daemon");
    let hub = blocking_hub(&daemon);
    let answers = hub.answers("Prices").subjects(["exact:price"]);
    let mut answers = answers.start().expect("it answers");
    let stop_answers = answers.stopper();
    let service = hub.service("Billing").subjects(["order."]).durable();
    let mut service = service.credit(256).start().expect("a service");
    let stop_service = service.stopper();
    let mut events = hub.subscribe(["order."]).expect("a subscription");
    let is_over = AtomicBool::new(false);
    let (published, emitted, called) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let mut samples = vec![];
    thread::scope(|scope| {
        let answering = scope.spawn(move || {
            for question in &mut answers {
                let question = question.expect("no error");
                let number: u64 = question.json().expect("a number");
                question.answer(&number).expect("JSON");
            }
            answers.drain(PATIENCE).expect("no runtime").unanswered
        });
        let working = scope.spawn(move || {
            let mut count = 0_u64;
            for delivery in &mut service {
                delivery.expect("no error").ack();
                count += 1;
            }
            assert_eq!(service.drain(PATIENCE).expect("no runtime").unanswered, 0);
            count
        });
        let watching = scope.spawn(|| {
            let mut count = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                let event = events.next_within(Duration::from_millis(20));
                count += u64::from(event.expect("no runtime").is_some());
            }
            count
        });
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (hub, is_over) = (hub.clone(), &is_over);
                let (published, emitted, called) = (&published, &emitted, &called);
                scope.spawn(move || -> Result<(), Error> {
                    for n in 0_u64.. {
                        if is_over.load(Ordering::Relaxed) {
                            return Ok(());
                        }
                        match (n + thread as u64) % 8 {
                            0 => {
                                hub.emit("order.emitted", &n).send()?;
                                emitted.fetch_add(1, Ordering::Relaxed);
                            }
                            1 => {
                                let same: u64 = hub.call("price", &n).first()?;
                                assert_eq!(same, n);
                                called.fetch_add(1, Ordering::Relaxed);
                            }
                            2 => drop(hub.status()?),
                            3 => drop(hub.flush()?),
                            4 if n % 64 == 4 => {
                                // Those that come and go.
                                let mut events = hub.subscribe(["nothing"])?;
                                assert!(events.next_within(Duration::ZERO)?.is_none());
                                let service = hub.service(format!("Thread{thread}"));
                                let service = service.subjects(["exact:nothing"]).start()?;
                                service.unsubscribe(PATIENCE)?;
                            }
                            _ => {
                                hub.publish("order.published", &n)?;
                                published.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        let begun = Instant::now();
        for third in 1..=3_u32 {
            thread::sleep((time * third / 3).saturating_sub(begun.elapsed()));
            samples.push(taken());
        }
        is_over.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().expect("no panic").expect("no error");
        }
        hub.flush().expect("all taken");
        daemon.wait_idle().expect("idle");
        stop_service.stop();
        stop_answers.stop();
        let (worked, watched) = (
            working.join().expect("no panic"),
            watching.join().expect("no panic"),
        );
        assert_eq!(answering.join().expect("no panic"), 0);
        let sent = published.load(Ordering::Relaxed) + emitted.load(Ordering::Relaxed);
        assert_eq!(worked, sent);
        println!(
            "{THREADS} threads, {time:?}: {published:?} published, {emitted:?} emitted, {called:?} calls, {worked} acknowledged, {watched} watched; memory and descriptors {samples:?}"
        );
    });
    if is_alone {
        let [(before, open), .., (after, still_open)] = samples[..] else {
            panic!("{samples:?}")
        };
        assert!(after <= before + GROWTH_BYTES_MAX, "{samples:?}");
        // Some come and go.
        assert!(still_open <= open + THREADS, "{samples:?}");
    }
}
