//! Peers that don't read: what they miss is counted, and costs nobody else anything but the memory
//! of their budgets.

use std::time::Duration;

use event_manager_wire::api::{Counters, Status};
use serde_json::json;

use super::support::TestDaemon;
use super::support::peers::{connect, publish, received, socket};
use super::support::process::DaemonProcess;
use super::support::raw::{RawPeer, command, message};

const MIB: u64 = 1 << 20;
/// What a daemon may need beside its budgets and its code.
const OVERHEAD: u64 = 16 * MIB;

#[test]
fn a_daemon_in_a_process_of_its_own_can_be_measured_and_stopped() {
    let daemon = TestDaemon::in_own_process_with_fds(&json!({}), 100);
    let subscriber = daemon.subscriber(&[""]);
    publish(&daemon.publisher(), "subject", "data");
    assert_eq!(received(&subscriber), "data");
    let process = daemon.process();
    assert!(process.resident_bytes() > MIB);
    // In this order: it may grow in between.
    let resident = process.resident_bytes();
    assert!(process.peak_resident_bytes() >= resident);
    assert!((5..100).contains(&process.open_fds()));
    process.signal("STOP");
    let used = process.cpu_time();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(process.cpu_time(), used);
    process.signal("CONT");
    assert!(daemon.stop());
}

/// Fails if the daemon ever held more than this in its outboxes and queues.
fn assert_memory(process: &DaemonProcess, budgets: u64) {
    // A debug build's code is large, and grows with each dependency.
    let peak = process.peak_resident_bytes() - process.code_bytes();
    assert!(
        peak <= budgets + OVERHEAD,
        "{} MiB for budgets of {} MiB",
        peak / MIB,
        budgets / MIB
    );
}

/// How many events were dropped, for this reason alone.
fn dropped_for(counters: &Counters, reason: &str) -> u64 {
    let dropped = &counters.dropped;
    assert!(dropped.keys().eq([reason]), "{dropped:?}");
    dropped[reason]
}

const FLOOD: u64 = 65_536;
const BATCH: u64 = 512;

/// An event of 1 KiB.
fn numbered(n: u64) -> [Vec<u8>; 2] {
    let mut data = n.to_be_bytes().to_vec();
    data.resize(1024, 0);
    [b"Order".to_vec(), data]
}

fn number(event: &[Vec<u8>]) -> u64 {
    assert_eq!((event.len(), event[1].len()), (2, 1024));
    u64::from_be_bytes(event[1][..8].try_into().expect("8 bytes"))
}

fn next_number(socket: &zmq::Socket) -> u64 {
    number(&socket.recv_multipart(0).expect("an event"))
}

/// Reads what a peer was sent while it did not read, up to the last event; how many there were.
fn catch_up(peer: &mut RawPeer) -> u64 {
    let (mut events, mut last) = (0, None);
    while last != Some(FLOOD - 1) {
        let n = number(&peer.read_message());
        assert!(Some(n) > last, "{n} came after {last:?}");
        (events, last) = (events + 1, Some(n));
    }
    events
}

#[test]
fn stalled_peers_cost_the_healthy_ones_nothing() {
    let daemon = TestDaemon::in_own_process(&json!({
        "budgets": {"subscriberOutboxBytes": 16 * MIB, "serviceQueueBytes": 16 * MIB},
        "limits": {"maxMessageBytes": 16 * MIB},
    }));
    let shared = daemon.subscribe("sub-1", "Shared", &["Order"]).pull_address;
    let stuck = daemon.subscribe("sub-2", "Stuck", &["Order"]).pull_address;
    let ready = |address: &str, service| {
        let mut worker = RawPeer::met(address, "DEALER");
        worker.send(&message(&["READY"]));
        daemon.wait_for_ready(service, 1);
        worker
    };
    let (stalled_worker, mut stuck_worker) = (ready(&shared, "Shared"), ready(&stuck, "Stuck"));
    let healthy_worker = daemon.worker("Shared", &shared);
    let healthy = daemon.subscriber(&["Order"]);
    let mut stalled = RawPeer::met(&daemon.subscribers(), "SUB");
    stalled.send(&command("SUBSCRIBE", b"Order"));
    let full = socket(&daemon.context, zmq::SUB);
    full.set_rcvhwm(10).expect("an option");
    full.set_subscribe(b"Order").expect("an option");
    connect(&full, &daemon.subscribers());
    daemon.wait_for_subscriptions(3);

    let publisher = daemon.publisher();
    for n in 0..FLOOD {
        publisher.send_multipart(numbered(n), 0).expect("a send");
        if (n + 1).is_multiple_of(BATCH) {
            let batch = n + 1 - BATCH..n + 1;
            assert!(batch.eq((0..BATCH).map(|_| next_number(&healthy))));
        }
    }
    let status = daemon.wait_for("the end of the flood", |status| {
        status.publishers.events == FLOOD
    });
    let process = daemon.process();
    assert_memory(process, 2 * 16 * MIB + 16 * MIB + 2 * MIB);
    let subscribers = &status.subscribers.counters;
    assert_eq!(subscribers.matched, 3 * FLOOD);
    assert!(dropped_for(subscribers, "slow-subscriber") > 0);
    let queue = daemon.service("Stuck");
    assert_eq!(queue.workers.stalled, 1);
    let given_up = dropped_for(&queue.counters, "queue-full");
    assert!(queue.queue.bytes <= 16 * MIB);

    // The other worker of the service gets all that the stalled one could not be given.
    let service = daemon.service("Shared");
    assert_eq!(service.workers.stalled, 1);
    assert_eq!(service.counters.dropped.len(), 0);
    drop(stalled_worker);
    daemon.wait_for_ready("Shared", 1);
    let counters = daemon.service("Shared").counters;
    let lost = counters.unconfirmed - service.counters.unconfirmed;
    let mut numbers: Vec<_> = (lost..FLOOD)
        .map(|_| next_number(&healthy_worker))
        .collect();
    // What the stalled one gave back comes behind what went to this one in turn, each in order.
    let in_turn = numbers
        .windows(2)
        .take_while(|pair| pair[0] < pair[1])
        .count()
        + 1;
    let given_back = &numbers[in_turn..];
    assert!(!given_back.is_empty() && given_back.is_sorted());
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len() as u64, FLOOD - lost);

    assert_eq!(catch_up(&mut stuck_worker), FLOOD - given_up);
    drop(full);
    let missed = daemon.wait_for("its end", |s| s.subscribers.connected == 2);
    let missed = &missed.subscribers.counters;
    let kept = catch_up(&mut stalled);
    assert!(kept < FLOOD && FLOOD - kept < missed.dropped_for("slow-subscriber"));
}

/// A subscriber that reads nothing.
fn deaf_subscriber(daemon: &TestDaemon, prefix: &str) -> RawPeer {
    let mut subscriber = RawPeer::met(&daemon.subscribers(), "SUB");
    subscriber.send(&command("SUBSCRIBE", prefix.as_bytes()));
    subscriber
}

fn publisher_by_hand(daemon: &TestDaemon) -> RawPeer {
    let mut publisher = RawPeer::met(&daemon.publishers(), "PUB");
    publisher.read_frame();
    publisher
}

#[test]
fn tiny_events_that_wait_stay_within_the_budgets() {
    let daemon = TestDaemon::in_own_process(&json!({
        "budgets": {"subscriberOutboxBytes": 4 * MIB},
    }));
    // Consecutive events have different receivers, so none shares its way with the next.
    let deaf = [deaf_subscriber(&daemon, ""), deaf_subscriber(&daemon, "A")];
    daemon.wait_for_subscriptions(2);
    let mut publisher = publisher_by_hand(&daemon);
    let event = |subject| message(&[subject, "some twenty bytes"]);
    let block = [event("A"), event("B")].concat().repeat(10_000);
    let blocks = 75;
    (0..blocks).for_each(|_| publisher.send(&block));
    let events = blocks * 20_000u64;
    let status = daemon.wait_for("the end of the flood", |status| {
        status.publishers.events == events
    });
    assert!(dropped_for(&status.subscribers.counters, "slow-subscriber") > 0);
    assert_memory(daemon.process(), 2 * 4 * MIB);
    drop(deaf);
}

#[test]
fn what_waits_does_not_keep_the_memory_of_what_does_not() {
    let daemon = TestDaemon::in_own_process(&json!({}));
    daemon.subscribe("sub-1", "Waiting", &["wanted"]);
    let deaf = deaf_subscriber(&daemon, "wanted");
    daemon.wait_for_subscriptions(1);
    let mut publisher = publisher_by_hand(&daemon);
    let data = "x".repeat(250);
    let events = |subject, bytes: usize| {
        let event = message(&[subject, &data, &data, &data, &data]);
        event.repeat(bytes / event.len())
    };
    let block = [events("wanted", 150_000), events("unwanted", 106_000)].concat();
    (0..600).for_each(|_| publisher.send(&block));
    daemon.wait_for("a full queue", |status| {
        !status.services[0].counters.dropped.is_empty()
    });
    assert_memory(daemon.process(), (64 + 16) * MIB);
    drop(deaf);
}

/// A large message leaves nothing behind in its connection.
#[test]
fn an_idle_peer_does_not_keep_the_memory_of_what_it_sent() {
    const PEERS: usize = 20;
    const BYTES: usize = 8 << 20;
    let daemon = TestDaemon::in_own_process(&json!({}));
    let large = vec![b'x'; BYTES];
    let before = daemon.process().resident_bytes();
    let requesters: Vec<_> = (0..PEERS)
        .map(|_| {
            let requester = daemon.requester();
            requester.send(&large, 0).expect("a send");
            requester.recv_multipart(0).expect("an answer");
            requester
        })
        .collect();
    let grown = daemon.process().resident_bytes().saturating_sub(before);
    assert!(grown < (PEERS * BYTES / 3) as u64, "{grown} bytes");
    drop(requesters);
}

#[test]
fn a_slow_subscriber_may_be_disconnected_instead() {
    let daemon = TestDaemon::in_own_process(&json!({
        "slowSubscriber": "disconnect",
        "budgets": {"subscriberOutboxBytes": MIB},
    }));
    let mut stalled = RawPeer::met(&daemon.subscribers(), "SUB");
    stalled.send(&command("SUBSCRIBE", b"Order"));
    daemon.wait_for_subscriptions(1);
    let publisher = daemon.publisher();
    let mut sent = 0;
    while daemon.status().subscribers.connected == 1 {
        for _ in 0..BATCH {
            publisher.send_multipart(numbered(sent), 0).expect("a send");
            sent += 1;
        }
        assert!(sent < FLOOD, "it is still there");
    }
    assert_eq!(daemon.refused("slow-subscriber"), 1);
    let status = daemon.status();
    assert!(dropped_for(&status.subscribers.counters, "subscriber-lost") > 0);
}

#[test]
fn messages_that_are_never_finished_are_bounded_together() {
    const LIMIT: u64 = 64 * MIB;
    const ANNOUNCED: u64 = 16 * MIB;
    const OTHERS: u64 = 100;
    let daemon = TestDaemon::in_own_process(&json!({
        "memoryLimit": LIMIT,
        "limits": {"maxMessageBytes": 17 * MIB},
    }));
    let begun = |body_bytes: u64, sent: u64| {
        let header = [&[2][..], &body_bytes.to_be_bytes()].concat();
        [header, vec![b'x'; sent as usize]].concat()
    };
    let subscriber = daemon.subscriber(&["x"]);
    // It sends its message slowly, but it is not the one that has sent the most.
    let mut slow = publisher_by_hand(&daemon);
    slow.send(&begun(3 * MIB, 2 * MIB));
    let half_received = |status: &Status| status.memory.half_received_bytes;
    daemon.wait_for("its beginning", |status| {
        half_received(status) == 2 * MIB + 9
    });
    let addresses = [(daemon.publishers(), "PUB"), (daemon.requests(), "DEALER")];
    let mut others = vec![];
    for n in 0..OTHERS {
        let (address, socket_type) = &addresses[n as usize % 2];
        let mut other = RawPeer::met(address, socket_type);
        other.send_while_heard(&begun(ANNOUNCED, 4 * MIB));
        others.push(other);
    }
    let status = daemon.wait_for("all that was sent", |status| {
        let ended = status.refused("half-received");
        half_received(status) == 2 * MIB + 9 + (OTHERS - ended) * (4 * MIB + 9)
    });
    assert!(half_received(&status) <= LIMIT + LIMIT / 16, "{status:#?}");
    // They were to take 400 MiB, and twice that with the room in which their buffers grow. On a busy
    // machine 221 MiB were seen.
    assert_memory(daemon.process(), LIMIT * 4);
    slow.send(&vec![b'x'; MIB as usize]);
    let event = subscriber.recv_bytes(0).expect("an event");
    assert_eq!(event.len() as u64, 3 * MIB);
    drop(others);
    daemon.wait_for("nothing half received", |status| half_received(status) == 0);
}

#[test]
fn the_largest_makes_room_and_not_who_sends_a_smaller_message() {
    let daemon = TestDaemon::in_own_process(&json!({
        "memoryLimit": 8 * MIB,
        "limits": {"maxMessageBytes": 4 * MIB},
        "budgets": {"subscriberOutboxBytes": 64 * MIB},
    }));
    let large = daemon.subscriber(&["x"]);
    let deaf = deaf_subscriber(&daemon, "Order");
    daemon.wait_for_subscriptions(2);
    let mut slow = publisher_by_hand(&daemon);
    slow.send(
        &[
            &[2][..],
            &(2 * MIB).to_be_bytes(),
            &vec![b'x'; MIB as usize],
        ]
        .concat(),
    );
    let publisher = daemon.publisher();
    for n in 0..24 << 10 {
        publisher.send_multipart(numbered(n), 0).expect("a send");
    }
    let status = daemon.wait_for("all events", |status| status.publishers.events == 24 << 10);
    assert!(dropped_for(&status.subscribers.counters, "memory-limit") > 0);
    assert_eq!(daemon.refused("half-received"), 0);
    slow.send(&vec![b'x'; MIB as usize]);
    let event = large.recv_bytes(0).expect("an event");
    assert_eq!(event.len() as u64, 2 * MIB);
    drop(deaf);
}

#[test]
fn all_that_waits_together_is_bounded_too() {
    const LIMIT: u64 = 64 * MIB;
    let daemon = TestDaemon::in_own_process(&json!({
        "memoryLimit": LIMIT,
        "limits": {"maxMessageBytes": 4 * MIB},
        "budgets": {"subscriberOutboxBytes": 32 * MIB, "serviceQueueBytes": 32 * MIB},
    }));
    // Together they may hold four times the limit.
    for n in 0..8 {
        daemon.subscribe(&format!("sub-{n}"), &format!("Service{n}"), &["Order"]);
    }
    let publisher = daemon.publisher();
    for n in 0..FLOOD {
        publisher.send_multipart(numbered(n), 0).expect("a send");
    }
    daemon.wait_for("all events", |status| status.publishers.events == FLOOD);
    assert_memory(daemon.process(), LIMIT + LIMIT / 16);
    let status = daemon.status();
    let services = status.services;
    let held = services.iter().map(|s| s.queue.bytes).sum::<u64>();
    assert!(held > LIMIT / 4, "{held}");
    assert!(
        services
            .iter()
            .all(|s| dropped_for(&s.counters, "memory-limit") > 0)
    );
}
