//! Workers: how they come, share the work, and go.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use event_manager_wire::api::Counters;

use super::support::peers::{connect, connected, is_silent, publish, received};
use super::support::raw::{MORE, RawPeer, frame, message};
use super::support::{PATIENCE, TestDaemon};

const SERVICE: &str = "Billing";

/// A daemon with one service that wants subjects with the prefix `Order`.
fn start() -> (TestDaemon, String) {
    let daemon = TestDaemon::start();
    let subscribed = daemon.subscribe("sub-1", SERVICE, &["Order"]);
    (daemon, subscribed.pull_address)
}

/// A worker by hand that has said READY.
fn worker_by_hand(daemon: &TestDaemon, address: &str, identity: &str) -> RawPeer {
    let before = daemon.service(SERVICE).workers.ready;
    let mut worker = RawPeer::met_as(address, "DEALER", identity, 1);
    worker.send(&message(&["READY"]));
    daemon.wait_for_ready(SERVICE, before + 1);
    worker
}

fn publish_numbers(publisher: &zmq::Socket, numbers: std::ops::Range<u32>) {
    for n in numbers {
        publish(publisher, "OrderCreated", &n.to_string());
    }
}

fn wait_for_queue(daemon: &TestDaemon, events: u64) {
    daemon.wait_for("the queue", |status| {
        status.services[0].queue.events == events
    });
}

fn counters(daemon: &TestDaemon, service: &str) -> Counters {
    daemon.service(service).counters
}

#[test]
fn events_come_in_the_envelope_of_the_ready() {
    let daemon = TestDaemon::start();
    let addresses: Vec<_> = ["Plain", "Delimited", "Asking"]
        .map(|name| daemon.subscribe(name, name, &[""]).pull_address)
        .into();
    let plain = daemon.worker("Plain", &addresses[0]);
    let delimited = connected(&daemon.context, zmq::DEALER, &addresses[1]);
    delimited.send_multipart(["", "READY"], 0).expect("a send");
    daemon.wait_for_ready("Delimited", 1);
    let asking = connected(&daemon.context, zmq::REQ, &addresses[2]);
    asking.send("READY", 0).expect("a send");
    daemon.wait_for_ready("Asking", 1);
    let publisher = daemon.publisher();
    for event in [&["Order", "", "data"][..], &["one frame"], &["", "data"]] {
        publisher.send_multipart(event, 0).expect("a send");
        let frames: Vec<Vec<u8>> = event.iter().map(|f| f.as_bytes().to_vec()).collect();
        assert_eq!(plain.recv_multipart(0).as_ref(), Ok(&frames));
        assert_eq!(asking.recv_multipart(0).as_ref(), Ok(&frames));
        asking.send("READY", 0).expect("a send");
        let with_delimiter = [vec![vec![]], frames].concat();
        assert_eq!(delimited.recv_multipart(0), Ok(with_delimiter));
    }
}

#[test]
fn ready_again_is_harmless() {
    let (daemon, address) = start();
    let worker = daemon.worker(SERVICE, &address);
    for _ in 0..10 {
        worker.send("READY", 0).expect("a send");
    }
    let publisher = daemon.publisher();
    publish_numbers(&publisher, 0..20);
    for n in 0..20 {
        assert_eq!(received(&worker), n.to_string());
        worker.send("READY", 0).expect("a send");
        worker.send_multipart(["", "READY"], 0).expect("a send");
        worker.send("READY", 0).expect("a send");
    }
    assert!(is_silent(&worker, 50));
    assert_eq!(daemon.service(SERVICE).workers.ready, 1);
    assert_eq!(daemon.refused("unknown-worker-message"), 0);
}

#[test]
fn workers_that_say_ready_once_get_events_in_turn() {
    let (daemon, address) = start();
    let workers: Vec<_> = (0..3).map(|_| daemon.worker(SERVICE, &address)).collect();
    publish_numbers(&daemon.publisher(), 0..300);
    for n in 0..300 {
        assert_eq!(received(&workers[n % 3]), n.to_string());
    }
}

#[test]
fn workers_that_say_ready_after_each_are_served_least_busy_first() {
    let (daemon, address) = start();
    let mut workers: Vec<_> = (0..3)
        .map(|_| worker_by_hand(&daemon, &address, ""))
        .collect();
    let publisher = daemon.publisher();
    let data = |worker: &mut RawPeer| {
        let event = worker.read_message();
        String::from_utf8(event[1].clone()).expect("text")
    };
    publish_numbers(&publisher, 0..3);
    for (n, worker) in workers.iter_mut().enumerate() {
        assert_eq!(data(worker), n.to_string());
    }
    // Two of three are done: the next events are theirs, in the order in which they were done.
    for n in [2, 1] {
        workers[n].send(&message(&["READY"]));
        workers[n].settle();
    }
    publish_numbers(&publisher, 3..5);
    assert_eq!(data(&mut workers[2]), "3");
    assert_eq!(data(&mut workers[1]), "4");
    // One does all while the others are busy.
    for n in 5..20 {
        workers[1].send(&message(&["READY"]));
        workers[1].settle();
        publish_numbers(&publisher, n..n + 1);
        assert_eq!(data(&mut workers[1]), n.to_string());
    }
}

#[test]
fn a_req_worker_gets_one_event_for_each_ready() {
    let (daemon, address) = start();
    let worker = connected(&daemon.context, zmq::REQ, &address);
    worker.send("READY", 0).expect("a send");
    daemon.wait_for_ready(SERVICE, 1);
    let publisher = daemon.publisher();
    publish_numbers(&publisher, 0..10);
    for n in 0..10 {
        assert_eq!(received(&worker), n.to_string());
        wait_for_queue(&daemon, 9 - n);
        worker.send("READY", 0).expect("a send");
    }
    // Beside one that takes as many as there are, it still gets one at a time.
    let dealer = daemon.worker(SERVICE, &address);
    publish_numbers(&publisher, 10..20);
    let first = received(&worker);
    let others = (10..20).map(|n| n.to_string()).filter(|n| *n != first);
    others.for_each(|n| assert_eq!(received(&dealer), n));
}

#[test]
fn events_before_the_first_ready_wait_in_order() {
    let (daemon, address) = start();
    let worker = connected(&daemon.context, zmq::DEALER, &address);
    daemon.wait_for("a worker", |status| {
        status.services[0].workers.connected == 1
    });
    let publisher = daemon.publisher();
    publish_numbers(&publisher, 0..1000);
    wait_for_queue(&daemon, 1000);
    assert!(is_silent(&worker, 50));
    worker.send("READY", 0).expect("a send");
    for n in 0..1000 {
        assert_eq!(received(&worker), n.to_string());
    }
    publish_numbers(&publisher, 1000..1001);
    assert_eq!(received(&worker), "1000");
}

#[test]
fn each_service_gets_an_event_once_however_many_subscriptions_match() {
    let daemon = TestDaemon::start();
    let many = ["Order", "OrderC", "", "exact:OrderCreated", "glob:Order*"];
    let address = daemon.subscribe("sub-1", SERVICE, &many).pull_address;
    for id in ["sub-2", "sub-3"] {
        let again = daemon.subscribe(id, SERVICE, &["Order", "glob:**"]);
        assert_eq!(again.pull_address, address);
    }
    let other = daemon.subscribe("sub-4", "Kitchen", &["Order"]);
    assert_ne!(other.pull_address, address);
    let worker = daemon.worker(SERVICE, &address);
    let cook = daemon.worker("Kitchen", &other.pull_address);
    let publisher = daemon.publisher();
    publish_numbers(&publisher, 0..100);
    publish(&publisher, "Invoice", "100");
    for n in 0..100 {
        assert_eq!(received(&worker), n.to_string());
        assert_eq!(received(&cook), n.to_string());
    }
    assert_eq!(received(&worker), "100");
    assert_eq!(counters(&daemon, SERVICE).matched, 101);
    assert_eq!(counters(&daemon, "Kitchen").matched, 100);
}

#[test]
fn a_worker_that_leaves_gets_nothing_more() {
    let (daemon, address) = start();
    let stays = daemon.worker(SERVICE, &address);
    let leaves = daemon.worker(SERVICE, &address);
    let publisher = daemon.publisher();
    publish_numbers(&publisher, 0..2);
    assert_eq!(received(&stays), "0");
    assert_eq!(received(&leaves), "1");
    drop(leaves);
    daemon.wait_for_ready(SERVICE, 1);
    publish_numbers(&publisher, 2..10);
    for n in 2..10 {
        assert_eq!(received(&stays), n.to_string());
    }
    drop(stays);
    daemon.wait_for_ready(SERVICE, 0);
    publish_numbers(&publisher, 10..12);
    wait_for_queue(&daemon, 2);
    let next = daemon.worker(SERVICE, &address);
    assert_eq!(received(&next), "10");
    assert_eq!(received(&next), "11");
}

/// Events so large that a few hundred fill all buffers of a connection.
const LARGE: usize = 50_000;
const LARGE_EVENTS: u64 = 600;

fn publish_large(publisher: &zmq::Socket, n: u64) {
    let mut data = n.to_be_bytes().to_vec();
    data.resize(LARGE, 0);
    let event = [b"Order", &data[..]];
    publisher.send_multipart(event, 0).expect("a send");
}

/// The number of a large event that has two frames and is whole.
fn large(socket: &zmq::Socket) -> u64 {
    let event = socket.recv_multipart(0).expect("an event");
    assert_eq!((event.len(), &event[0][..]), (2, &b"Order"[..]));
    assert_eq!(event[1].len(), LARGE);
    u64::from_be_bytes(event[1][..8].try_into().expect("8 bytes"))
}

/// A worker that says READY in some envelopes, reads nothing, and dies. What it had not been written
/// goes to another, whole and in order.
/// A worker that says this, and reads nothing: of large events some are written to it, some are in its
/// outbox, and some wait.
fn stalled(ready: &[u8]) -> (TestDaemon, String, RawPeer) {
    let (daemon, address) = start();
    let mut stalled = RawPeer::met(&address, "DEALER");
    stalled.send(ready);
    daemon.wait_for_ready(SERVICE, 1);
    let publisher = daemon.publisher();
    (0..LARGE_EVENTS).for_each(|n| publish_large(&publisher, n));
    daemon.wait_for("a full service", |status| {
        let service = &status.services[0];
        service.workers.stalled == 1 && service.counters.matched == LARGE_EVENTS
    });
    (daemon, address, stalled)
}

fn what_was_not_written_goes_to_another(envelopes: &[Vec<u8>]) {
    let (daemon, address, mut stalled) = stalled(&envelopes[0]);
    for (n, envelope) in envelopes.iter().enumerate().skip(1) {
        stalled.send(envelope);
        // What is discarded is counted, so it tells that what came before was taken.
        stalled.send(&message(&["settle"]));
        daemon.wait_for("a discarded message", |status| {
            status.refused("unknown-worker-message") == n as u64
        });
    }
    let Counters {
        queued, in_flight, ..
    } = counters(&daemon, SERVICE);
    assert!(in_flight > 0 && queued > 0);
    let healthy = daemon.worker(SERVICE, &address);
    let from_queue: Vec<u64> = (0..queued).map(|_| large(&healthy)).collect();
    let first_queued = LARGE_EVENTS - queued;
    assert!(from_queue.into_iter().eq(first_queued..LARGE_EVENTS));

    drop(stalled);
    daemon.wait_for_ready(SERVICE, 1);
    let confirmed = envelopes.len() as u64 - 1;
    let lost = counters(&daemon, SERVICE).unconfirmed + confirmed;
    assert!(lost > confirmed);
    for n in lost..first_queued {
        assert_eq!(large(&healthy), n);
    }
    assert!(is_silent(&healthy, 50));
    assert_eq!(counters(&daemon, SERVICE).delivered, LARGE_EVENTS);
}

#[test]
fn what_was_not_written_to_a_lost_worker_goes_to_another() {
    what_was_not_written_goes_to_another(&[message(&["READY"])]);
}

#[test]
fn what_was_not_written_goes_on_without_the_lost_workers_envelope() {
    what_was_not_written_goes_to_another(&[message(&["", "READY"])]);
}

#[test]
fn the_first_ready_decides_on_the_envelope() {
    let (plain, delimited) = (message(&["READY"]), message(&["", "READY"]));
    what_was_not_written_goes_to_another(&[plain.clone(), delimited.clone()]);
    what_was_not_written_goes_to_another(&[delimited, plain]);
}

/// What its first worker was sent before there were others on its connection, and before it spoke otherwise.
#[test]
fn what_was_not_written_to_a_connection_that_became_a_proxys_is_whole() {
    let plain = message(&["READY"]);
    let delimited = message(&["", "READY"]);
    let behind = message(&["id", "", "READY"]);
    for envelopes in [
        [plain.clone(), behind.clone(), delimited.clone()],
        [delimited, behind, plain],
    ] {
        let (daemon, address, mut stalled) = stalled(&envelopes[0]);
        stalled.send(&envelopes[1..].concat());
        daemon.wait_for_ready(SERVICE, 2);
        drop(stalled);
        daemon.wait_for_ready(SERVICE, 0);
        let found = counters(&daemon, SERVICE);
        assert!(found.delivered > 0 && found.queued > 0 && found.in_flight == 0);
        let healthy = daemon.worker(SERVICE, &address);
        for n in found.delivered..LARGE_EVENTS {
            assert_eq!(large(&healthy), n);
        }
        assert!(is_silent(&healthy, 50));
    }
}

const REPLACEMENTS: usize = 50;

/// What all workers of a service together do to a stream of numbers.
struct Crew<'a> {
    context: &'a zmq::Context,
    address: &'a str,
    received: Mutex<Vec<u64>>,
    replaced: AtomicUsize,
    finished: AtomicBool,
}

impl Crew<'_> {
    fn take(&self, event: &[Vec<u8>]) {
        let text = String::from_utf8(event[1].clone()).expect("text");
        let number = text.parse().expect("a number");
        self.received.lock().expect("no panic").push(number);
    }

    /// One worker after another: each works a while, then dies with what it was sent meanwhile.
    fn work(&self, index: usize) {
        for turn in 0..REPLACEMENTS {
            let events = 1 + (turn * 7 + index * 3) % 20;
            if (turn + index).is_multiple_of(2) {
                self.work_by_hand(events);
            } else {
                self.work_over_libzmq(events);
            }
            self.replaced.fetch_add(1, Ordering::Relaxed);
        }
        self.work_to_the_end();
    }

    fn work_by_hand(&self, events: usize) {
        let mut worker = RawPeer::met(self.address, "DEALER");
        worker.send(&message(&["READY"]));
        for _ in 0..events {
            let event = worker.read_message();
            self.take(&event);
            worker.send(&message(&["READY"]));
        }
    }

    fn work_over_libzmq(&self, events: usize) {
        let worker = connected(self.context, zmq::DEALER, self.address);
        worker.send("READY", 0).expect("a send");
        for _ in 0..events {
            self.take(&worker.recv_multipart(0).expect("an event"));
            worker.send("READY", 0).expect("a send");
        }
    }

    fn work_to_the_end(&self) {
        let worker = connected(self.context, zmq::DEALER, self.address);
        worker.send("READY", 0).expect("a send");
        while !self.finished.load(Ordering::Relaxed) {
            if !is_silent(&worker, 5) {
                self.take(&worker.recv_multipart(0).expect("an event"));
                worker.send("READY", 0).expect("a send");
            }
        }
    }
}

#[test]
fn replaced_workers_lose_nothing_but_what_was_written_to_them() {
    let (daemon, address) = start();
    let crew = Crew {
        context: &daemon.context,
        address: &address,
        received: Mutex::default(),
        replaced: AtomicUsize::new(0),
        finished: AtomicBool::new(false),
    };
    let published = AtomicU64::new(0);
    let publisher = daemon.publisher();
    std::thread::scope(|scope| {
        let crew = &crew;
        for index in 0..4 {
            scope.spawn(move || crew.work(index));
        }
        while crew.replaced.load(Ordering::Relaxed) < 4 * REPLACEMENTS {
            for _ in 0..4 {
                let n = published.fetch_add(1, Ordering::Relaxed);
                publish(&publisher, "OrderCreated", &n.to_string());
            }
            // The stream is steady; how fast is no matter.
            std::thread::sleep(Duration::from_micros(200));
        }
        let all = published.load(Ordering::Relaxed);
        daemon.wait_for("every event's end", |status| {
            let counters = &status.services[0].counters;
            let received = crew.received.lock().expect("no panic").len() as u64;
            counters.delivered == all && received + counters.unconfirmed >= all
        });
        crew.finished.store(true, Ordering::Relaxed);
    });
    let all = published.into_inner();
    let received = crew.received.into_inner().expect("no panic");
    let once: BTreeSet<_> = received.iter().copied().collect();
    assert_eq!(once.len(), received.len(), "an event came twice");
    assert!(once.last() < Some(&all));
    let counters = counters(&daemon, SERVICE);
    assert_eq!(counters.matched, all);
    let unconfirmed = counters.unconfirmed;
    assert!(all - once.len() as u64 <= unconfirmed && unconfirmed < all);
}

#[test]
fn of_two_workers_with_one_identity_the_newest_stays() {
    let (daemon, address) = start();
    let other = daemon.subscribe("sub-2", "Kitchen", &["Order"]);
    let mut elsewhere = RawPeer::met_as(&other.pull_address, "DEALER", "worker-1", 1);
    let mut oldest = worker_by_hand(&daemon, &address, "worker-1");
    let another = daemon.worker(SERVICE, &address);
    let mut older = RawPeer::met_as(&address, "DEALER", "worker-1", 1);
    assert_eq!(oldest.read_to_end(), b"");
    daemon.wait_for_ready(SERVICE, 1);
    older.send(&message(&["READY"]));
    daemon.wait_for_ready(SERVICE, 2);

    let newest = daemon.context.socket(zmq::DEALER).expect("a socket");
    newest.set_identity(b"worker-1").expect("an option");
    let patience = i32::try_from(PATIENCE.as_millis()).expect("it fits");
    newest.set_rcvtimeo(patience).expect("an option");
    newest.set_linger(0).expect("an option");
    connect(&newest, &address);
    assert_eq!(older.read_to_end(), b"");
    newest.send("READY", 0).expect("a send");
    daemon.wait_for_ready(SERVICE, 2);
    publish_numbers(&daemon.publisher(), 0..10);
    for n in 0..10 {
        let worker = if n % 2 == 0 { &another } else { &newest };
        assert_eq!(received(worker), n.to_string());
    }
    // The end of an older connection is not the end of the newest's claim.
    RawPeer::met_as(&address, "DEALER", "worker-1", 1);
    daemon.wait_for_ready(SERVICE, 1);
    elsewhere.settle();
}

#[test]
fn unknown_messages_of_workers_are_discarded_and_counted() {
    let (daemon, address) = start();
    let mut worker = RawPeer::met(&address, "DEALER");
    let unknown = [
        message(&["ready"]),
        message(&["READYREADY"]),
        message(&["READY", "more"]),
        message(&["", "", "READY"]),
        message(&[""]),
        message(&["", ""]),
        [frame(MORE, b"READY"), frame(0, b"")].concat(),
        message(&["OrderCreated", "an event"]),
        message(&["GET / HTTP/1.1"]),
    ];
    worker.send(&unknown.concat());
    worker.settle();
    assert_eq!(
        daemon.refused("unknown-worker-message"),
        unknown.len() as u64
    );
    assert_eq!(daemon.service(SERVICE).workers.ready, 0);
    worker.send(&message(&["READY"]));
    daemon.wait_for_ready(SERVICE, 1);
    publish(&daemon.publisher(), "OrderCreated", "data");
    assert_eq!(worker.read_message(), [&b"OrderCreated"[..], b"data"]);
}
