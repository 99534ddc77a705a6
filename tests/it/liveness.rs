//! Nothing that is due waits while somebody ready could take it.

use std::collections::BTreeSet;
use std::fs::DirEntry;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use event_manager_wire::api::Counters;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::emit::emit;
use super::support::TestDaemon;
use super::support::clock::Clock;
use super::support::disk_of;
use super::support::peers::{connected, is_silent, publish};
use super::support::program::{Site, wait_until};

const HOUR_MS: u64 = 3_600_000;

/// A daemon with a durable service, Billing, that wants orders and is configured so.
fn start(directory: &TempDir, billing: Value) -> TestDaemon {
    TestDaemon::in_own_process(&settings(directory, billing))
}

fn settings(directory: &TempDir, mut billing: Value) -> Value {
    billing["delivery"] = "queue".into();
    billing["subjects"] = json!(["Order"]);
    json!({
        "stateDir": directory.path(),
        "limits": {"maxMessageBytes": 1024},
        "services": {"Billing": billing},
    })
}

fn counters(daemon: &TestDaemon) -> Counters {
    daemon.service("Billing").counters
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_millis() as u64
}

/// Puts an event on disk.
fn put(daemon: &TestDaemon, payload: &str, more: Value) {
    let mut request = json!({"level": "disk", "subject": "Order", "payload": payload});
    for (key, value) in more.as_object().expect("an object") {
        request[key] = value.clone();
    }
    let answer = emit(daemon, request).expect("an ACK");
    assert_eq!(answer["level"], "disk");
}

/// A worker that acknowledges.
struct Worker(zmq::Socket);

impl Worker {
    fn join(daemon: &TestDaemon, credit: u32) -> Self {
        Self::of(daemon, "Billing", credit)
    }

    fn of(daemon: &TestDaemon, service: &str, credit: u32) -> Self {
        let address = daemon.address_of(service);
        let socket = connected(&daemon.context, zmq::DEALER, &address);
        let ready = json!({"ack": true, "credit": credit});
        socket.send(&format!("READY {ready}"), 0).expect("a send");
        Self(socket)
    }

    /// The next event: its delivery id, attempt and data.
    fn receive(&self) -> (String, u32, String) {
        let frames = self.0.recv_multipart(0).expect("an event");
        let text = |frame: &[u8]| String::from_utf8(frame.to_vec()).expect("text");
        let word = text(&frames[0]);
        let words: Vec<&str> = word.split(' ').collect();
        let attempt = words[2].parse().expect("a number");
        (words[1].to_owned(), attempt, text(&frames[2]))
    }

    fn say(&self, word: &str, id: &str) {
        self.0.send(&format!("{word} {id}"), 0).expect("a send");
    }

    /// Does so many events: their data.
    fn work(&self, events: u64) -> Vec<String> {
        let one = |_| {
            let (id, _, data) = self.receive();
            self.say("ACK", &id);
            data
        };
        (0..events).map(one).collect()
    }
}

#[test]
fn what_is_on_disk_alone_goes_on_when_retention_took_what_was_in_memory() {
    let directory = TempDir::new().expect("a directory");
    let retention = json!({"maxBytes": 40_000});
    let billing = json!({"queueEvents": 50, "retention": retention});
    let daemon = start(&directory, billing);
    let publisher = daemon.publisher();
    (0..2000).for_each(|n| publish(&publisher, "Order", &n.to_string()));
    daemon.wait_for_service("Billing", "all on disk", |found| {
        let queued = found.counters.queued;
        let dropped = found.counters.dropped.get("retention-bytes");
        disk_of(found).pending_events == 0
            && queued < 1000
            && dropped.is_some_and(|dropped| queued + dropped == 2000)
    });
    let queued = counters(&daemon).queued;
    let worker = Worker::join(&daemon, 32);
    let done = worker.work(queued);
    let expected: Vec<_> = (2000 - queued..2000).map(|n| n.to_string()).collect();
    assert_eq!(done, expected);
    // And what comes later.
    publish(&publisher, "Order", "later");
    assert_eq!(worker.work(1), ["later"]);
}

#[test]
fn what_is_on_disk_alone_goes_on_when_what_was_in_memory_has_expired() {
    let directory = TempDir::new().expect("a directory");
    let daemon = start(&directory, json!({"queueEvents": 10}));
    for n in 0..10 {
        put(&daemon, &n.to_string(), json!({"ttl": 1}));
    }
    for n in 10..60 {
        put(&daemon, &n.to_string(), json!({}));
    }
    daemon.wait_for_counter("Billing", |c| c.expired, 10);
    let done = Worker::join(&daemon, 32).work(50);
    assert_eq!(done, (10..60).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn what_expires_on_disk_alone_expires_in_time() {
    let directory = TempDir::new().expect("a directory");
    let daemon = start(&directory, json!({"queueEvents": 5}));
    for n in 0..20 {
        put(&daemon, &n.to_string(), json!({"ttl": 0.5}));
    }
    put(&daemon, "lasts", json!({}));
    // Nobody is there.
    daemon.wait_for_counter("Billing", |c| c.expired, 20);
    assert_eq!(Worker::join(&daemon, 1).work(1), ["lasts"]);
}

/// The read that the free memory calls for must not find again what has expired on disk.
#[test]
fn what_expires_in_memory_and_on_disk_at_once_expires_once() {
    let directory = TempDir::new().expect("a directory");
    let daemon = start(&directory, json!({"queueEvents": 5}));
    let client = connected(&daemon.context, zmq::DEALER, &daemon.requests());
    for n in 0..60 {
        let request = json!({
            "token": "emit", "level": "disk", "subject": "Order", "payload": n.to_string(),
            "ttl": 0.3,
        });
        client.send(&request.to_string(), 0).expect("a send");
    }
    for _ in 0..60 {
        client.recv_multipart(0).expect("an answer");
    }
    put(&daemon, "lasts", json!({}));
    daemon.wait_for_counter("Billing", |c| c.expired, 60);
    let worker = Worker::join(&daemon, 32);
    assert_eq!(worker.work(1), ["lasts"]);
    daemon.wait_for_counter("Billing", |c| c.delivered, 1);
    assert_eq!(counters(&daemon).queued, 0);
}

#[test]
fn what_should_go_later_holds_up_nothing_whether_in_memory_or_on_disk() {
    let directory = TempDir::new().expect("a directory");
    let daemon = start(&directory, json!({"queueEvents": 10, "orderBy": "subject"}));
    let later = now_ms() + HOUR_MS;
    for n in 0..25 {
        put(&daemon, &format!("later {n}"), json!({"deliverAt": later}));
    }
    for n in 0..15 {
        put(&daemon, &n.to_string(), json!({}));
    }
    let worker = Worker::join(&daemon, 32);
    let expected: Vec<_> = (0..15).map(|n| n.to_string()).collect();
    assert_eq!(worker.work(15), expected);
    assert_eq!(counters(&daemon).queued, 25);
}

#[test]
fn what_was_given_back_for_later_holds_up_nothing() {
    for billing in [
        json!({"queueEvents": 10}),
        json!({"queueEvents": 10, "orderBy": "subject"}),
    ] {
        let directory = TempDir::new().expect("a directory");
        let daemon = start(&directory, billing);
        let publisher = daemon.publisher();
        let put = |n: usize| publish(&publisher, &format!("Order.{n}"), &n.to_string());
        let worker = Worker::join(&daemon, 1);
        for n in 0..30 {
            put(n);
            let (id, _, data) = worker.receive();
            assert_eq!(data, n.to_string());
            worker.say("NAK", &format!("{id} {HOUR_MS}"));
        }
        // Most of those are on disk alone.
        (30..60).for_each(put);
        let expected: Vec<_> = (30..60).map(|n| n.to_string()).collect();
        assert_eq!(worker.work(30), expected);
        assert_eq!(counters(&daemon).queued, 30);
    }
}

#[test]
fn keys_whose_first_is_tried_again_go_on_though_memory_is_small_and_over_a_restart() {
    const KEYS: usize = 6;
    for is_killed in [false, true] {
        let directory = TempDir::new().expect("a directory");
        let billing = json!({"queueEvents": 4, "orderBy": "subject"});
        let mut daemon = start(&directory, billing.clone());
        let worker = Worker::join(&daemon, 1);
        let publisher = daemon.publisher();
        let put = |key: usize, n: usize| {
            publish(&publisher, &format!("Order.{key}"), &format!("{key} {n}"));
        };
        for key in 0..KEYS {
            put(key, 0);
            let (id, _, data) = worker.receive();
            assert_eq!(data, format!("{key} 0"));
            worker.say("NAK", &format!("{id} 700"));
        }
        // All of memory is theirs who wait for these.
        (0..KEYS * 3).for_each(|n| put(n % KEYS, 1 + n / KEYS));
        daemon.wait_for_service("Billing", "all on disk", |found| {
            disk_of(found).pending_events == 0 && found.counters.queued == KEYS as u64 * 4
        });
        drop(worker);
        if is_killed {
            daemon.kill();
            daemon = start(&directory, billing);
        }
        let mut done = Worker::join(&daemon, 3).work(KEYS as u64 * 4);
        // The order of each key.
        done.sort_by_key(|data| data.split(' ').next().map(str::to_owned));
        let expected: Vec<_> = (0..KEYS * 4)
            .map(|n| format!("{} {}", n / 4, n % 4))
            .collect();
        assert_eq!(done, expected);
    }
}

#[test]
fn what_was_given_back_for_a_moment_comes_again_from_the_disk() {
    let directory = TempDir::new().expect("a directory");
    let daemon = start(&directory, json!({"queueEvents": 4}));
    let publisher = daemon.publisher();
    let worker = Worker::join(&daemon, 40);
    for n in 0..40 {
        publish(&publisher, "Order", &n.to_string());
    }
    let mut given_back = BTreeSet::new();
    let mut done = BTreeSet::new();
    while done.len() < 40 {
        let (id, attempt, data) = worker.receive();
        if given_back.insert(data.clone()) {
            assert_eq!(attempt, 1);
            worker.say("NAK", &format!("{id} 300"));
        } else {
            assert_eq!(attempt, 2, "{data}");
            worker.say("ACK", &id);
            done.insert(data);
        }
    }
    daemon.wait_for_counter("Billing", |c| c.delivered, 40);
}

/// On a slow disk what is put may be due before all of it is there: then it is given more time.
#[test]
fn times_are_kept_over_a_restart() {
    for is_killed in [false, true] {
        let are_kept = [3_000, 12_000, 48_000]
            .into_iter()
            .any(|delay_ms| times_are_kept(is_killed, delay_ms));
        assert!(are_kept, "57 events were not put within 48 s");
    }
}

/// False if the time was over before the daemon had started again.
fn times_are_kept(is_killed: bool, delay_ms: u64) -> bool {
    let directory = TempDir::new().expect("a directory");
    let billing = json!({"orderBy": "subject"});
    let first = start(&directory, billing.clone());
    let due = now_ms() + delay_ms;
    for n in 0..50 {
        put(&first, &n.to_string(), json!({"deliverAt": due}));
    }
    put(&first, "tomorrow", json!({"deliverAt": due + 24 * HOUR_MS}));
    for n in 0..5 {
        put(&first, &format!("short {n}"), json!({"ttl": 1}));
    }
    put(&first, "now", json!({}));
    if is_killed {
        first.kill();
    } else {
        assert!(first.stop());
    }
    let second = start(&directory, billing);
    // Whoever expires does so without a worker, and without anything else that happens.
    second.wait_for_counter("Billing", |c| c.expired, 5);
    let worker = Worker::join(&second, 100);
    // The first is not held up by the key of those that wait for their time.
    let next = worker.work(1);
    if now_ms() >= due {
        return false;
    }
    assert_eq!(next, ["now"]);
    let expected: Vec<_> = (0..50).map(|n| n.to_string()).collect();
    assert_eq!(worker.work(50), expected);
    assert!(now_ms() >= due);
    assert_eq!(counters(&second).queued, 1);
    true
}

#[test]
fn a_restart_is_no_try() {
    for is_killed in [false, true] {
        let directory = TempDir::new().expect("a directory");
        let retry = json!({"maxDeliveries": 2, "initialMs": 1, "maxMs": 1});
        let billing = json!({"retry": retry});
        let mut daemon = start(&directory, billing.clone());
        let publisher = daemon.publisher();
        for n in 0..3 {
            publish(&publisher, "Order", &n.to_string());
        }
        daemon.wait_for_service("Billing", "all on disk", |found| {
            disk_of(found).pending_events == 0 && found.counters.queued == 3
        });
        for _ in 0..3 {
            if is_killed {
                daemon.kill();
            } else {
                assert!(daemon.stop());
            }
            daemon = start(&directory, billing.clone());
            daemon.wait_for_counter("Billing", |c| c.queued, 3);
        }
        let worker = Worker::join(&daemon, 1);
        for n in 0..3 {
            for tried in 1..=2 {
                let (id, attempt, data) = worker.receive();
                assert_eq!((data, attempt), (n.to_string(), tried));
                match tried {
                    1 => worker.say("NAK", &format!("{id} 0")),
                    _ => worker.say("ACK", &id),
                }
            }
        }
        daemon.wait_for_counter("Billing", |c| c.delivered, 3);
        assert_eq!(counters(&daemon).dead_lettered, 0);
    }
}

#[test]
fn what_a_worker_had_comes_again_after_an_orderly_stop_and_the_rest_for_the_first_time() {
    let directory = TempDir::new().expect("a directory");
    let settings = settings(&directory, json!({}));
    let mut quick = settings.clone();
    quick["drainTimeout"] = json!(0.2);
    let first = TestDaemon::in_own_process(&quick);
    let publisher = first.publisher();
    let worker = Worker::join(&first, 2);
    for n in 0..5 {
        publish(&publisher, "Order", &n.to_string());
    }
    let had = [worker.receive().2, worker.receive().2];
    assert_eq!(had, ["0", "1"]);
    drop(worker);
    assert!(first.stop());
    let second = TestDaemon::in_own_process(&settings);
    let worker = Worker::join(&second, 9);
    let attempts: Vec<_> = (0..5).map(|_| worker.receive().1).collect();
    assert_eq!(attempts, [2, 2, 1, 1, 1]);
}

/// A machine without a clock of its own: it is 1970 or long ago at the start, until somebody sets it.
#[test]
fn a_time_to_come_is_one_of_the_clock_that_is_set() {
    let directory = TempDir::new().expect("a directory");
    let keys = settings(&directory, json!({}));
    let (clock, site) = Clock::of(Site::configured(&keys));
    clock.set(-10 * 365 * 24 * 3600);
    let daemon = TestDaemon::serving(&site);
    let subscriber = daemon.subscriber(&["Order"]);
    let due = now_ms() + 1000;
    put(&daemon, "real", json!({"deliverAt": due}));
    let worker = Worker::join(&daemon, 1);
    assert!(is_silent(&worker.0, 50));
    clock.set(0);
    assert_eq!(worker.work(1), ["real"]);
    assert!(now_ms() >= due);
    let frames = subscriber.recv_multipart(0).expect("an event");
    assert_eq!(frames[1], b"real");
}

/// The daemon looks at the clock now and then; what is emitted before it does so is planned by the clock as
/// it is, too.
#[test]
fn a_time_to_come_is_right_just_after_the_clock_was_set() {
    let directory = TempDir::new().expect("a directory");
    let keys = settings(&directory, json!({}));
    let (clock, site) = Clock::of(Site::configured(&keys));
    clock.set(0);
    let daemon = TestDaemon::serving(&site);
    daemon.subscribe("one", "Live", &["Order"]);
    let subscriber = daemon.subscriber(&["Order"]);
    let workers = ["Billing", "Live"].map(|service| Worker::of(&daemon, service, 9));
    let mut set_to = 0;
    for seconds in [-20, 40, -20, 20] {
        set_to += seconds;
        clock.set(set_to);
        let there_ms = || now_ms().saturating_add_signed(set_to * 1000);
        let due = there_ms() + 200;
        let name = format!("after {seconds} s");
        put(&daemon, &name, json!({"deliverAt": due}));
        // It also ends by that clock.
        put(&daemon, "short", json!({"deliverAt": due, "ttl": 5}));
        for worker in &workers {
            assert_eq!(worker.work(1), [&*name]);
            assert!(there_ms() >= due, "{name}: a worker has it too early");
            assert_eq!(worker.work(1), ["short"]);
        }
        for event in [&*name, "short"] {
            let frames = subscriber.recv_multipart(0).expect("an event");
            assert_eq!(frames[1], event.as_bytes());
        }
        assert!(there_ms() >= due && there_ms() < due + 5_000, "{name}");
    }
}

/// The daemon ends the connections of workers itself: that is no failure of theirs.
#[test]
fn an_orderly_stop_is_nobodys_last_try() {
    let directory = TempDir::new().expect("a directory");
    let retry = json!({"maxDeliveries": 1});
    let mut keys = settings(&directory, json!({"retry": retry}));
    keys["drainTimeout"] = json!(0.2);
    let first = TestDaemon::in_own_process(&keys);
    let worker = Worker::join(&first, 1);
    publish(&first.publisher(), "Order", "a");
    let (_, attempt, _) = worker.receive();
    assert_eq!(attempt, 1);
    assert!(first.stop());
    drop(worker);
    let second = TestDaemon::in_own_process(&keys);
    let worker = Worker::join(&second, 1);
    let (id, attempt, data) = worker.receive();
    assert_eq!((attempt, data.as_str()), (2, "a"));
    worker.say("ACK", &id);
    second.wait_for_counter("Billing", |c| c.delivered, 1);
    assert_eq!(counters(&second).dead_lettered, 0);
    assert!(!directory.path().join("queues/Billing.DLQ").exists());
}

#[test]
fn a_key_waits_for_its_retry_though_memory_is_small_and_over_a_restart() {
    let directory = TempDir::new().expect("a directory");
    let billing = json!({"orderBy": "subject", "queueEvents": 2});
    let first = start(&directory, billing.clone());
    let publisher = first.publisher();
    let worker = Worker::join(&first, 3);
    publish(&publisher, "Order", "0");
    let (id, _, _) = worker.receive();
    worker.say("NAK", &format!("{id} 1500"));
    for n in 1..9 {
        publish(&publisher, "Order", &n.to_string());
    }
    first.wait_for_service("Billing", "all on disk", |found| {
        disk_of(found).pending_events == 0 && found.counters.queued == 9
    });
    assert!(is_silent(&worker.0, 200));
    drop(worker);
    // What was said last is on disk when an orderly stop is over.
    assert!(first.stop());
    let second = start(&directory, billing);
    let expected: Vec<_> = (0..9).map(|n| n.to_string()).collect();
    assert_eq!(Worker::join(&second, 3).work(9), expected);
}

/// How many attempts a queue has on disk, by docs/log-format.md.
fn attempts_noted(queue: &Path) -> usize {
    const ATTEMPTS: [u8; 4] = [0xE4, 0, 0, 0];
    const ATTEMPT_BYTES: usize = 12;
    let files = std::fs::read_dir(queue).expect("a directory");
    let noted = |file: DirEntry| {
        let bytes = std::fs::read(file.path()).unwrap_or_default();
        let records = bytes.windows(8).filter(|head| head[..4] == ATTEMPTS);
        let payloads = records.map(|head| u32::from_le_bytes([head[4], head[5], head[6], head[7]]));
        payloads
            .map(|bytes| bytes as usize / ATTEMPT_BYTES)
            .sum::<usize>()
    };
    files
        .map(|file| noted(file.expect("an entry")))
        .sum::<usize>()
}

#[test]
fn retention_leaves_alone_what_workers_hold() {
    let directory = TempDir::new().expect("a directory");
    let billing = json!({"retention": {"maxBytes": 20_000}});
    let first = start(&directory, billing.clone());
    let publisher = first.publisher();
    let worker = Worker::join(&first, 4);
    for n in 0..4 {
        publish(&publisher, "Order", &n.to_string());
        assert_eq!(worker.receive().2, n.to_string());
    }
    let filling = "x".repeat(900);
    let queue = directory.path().join("queues/Billing");
    wait_until(|| (attempts_noted(&queue) >= 4).then_some(())).expect("all are noted as tried");
    for _ in 0..100 {
        publish(&publisher, "Order", &filling);
    }
    first.wait_for_service("Billing", "dropped ones", |found| {
        let dropped = found.counters.dropped.get("retention-bytes");
        disk_of(found).pending_events == 0 && dropped.is_some_and(|dropped| *dropped > 50)
    });
    first.kill();
    let second = start(&directory, billing);
    let worker = Worker::join(&second, 4);
    let again: Vec<_> = (0..4).map(|_| worker.receive()).collect();
    for (n, (_, attempt, data)) in again.iter().enumerate() {
        assert_eq!((data, *attempt), (&n.to_string(), 2));
    }
}
