//! Who gives no sign of life is found, and nobody else.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use event_manager_wire::model::Endpoint;

use super::support::TestDaemon;
use super::support::other_machine::OtherMachine;
use super::support::peers::{connect, publish, received};
use super::support::process::signal;
use super::support::raw::{COMMAND, MORE, RawPeer, command, frame, greeting, message, ready};

/// Short, for tests that wait for several.
const SHORT: Duration = Duration::from_millis(200);

fn daemon(heartbeat: Duration) -> TestDaemon {
    TestDaemon::with(|config| {
        config.heartbeat_interval = heartbeat;
        config.locator.embedded = true;
        config.locator.address = Endpoint::tcp("127.0.0.1", 0);
    })
}

/// A subscriber to everything.
fn subscriber(daemon: &TestDaemon) -> RawPeer {
    let mut peer = RawPeer::met(&daemon.subscribers(), "SUB");
    peer.send(&command("SUBSCRIBE", b""));
    daemon.wait_for_subscriptions(1);
    peer
}

fn is_ping(body: &[u8]) -> bool {
    body.starts_with(b"\x04PING")
}

/// Reads the frames of a message, with PINGs before and between them left out.
fn read_message_among_pings(peer: &mut RawPeer) -> Vec<Vec<u8>> {
    let mut frames = vec![];
    loop {
        let (flags, body) = peer.read_frame();
        if flags & COMMAND != 0 {
            assert!(is_ping(&body), "{body:?}");
            continue;
        }
        frames.push(body);
        if flags & MORE == 0 {
            return frames;
        }
    }
}

#[test]
fn a_half_open_peer_is_found_on_each_socket() {
    const HEARTBEAT: Duration = Duration::from_millis(500);
    let publisher = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let port = publisher.local_addr().expect("it is bound").port();
    let daemon = TestDaemon::with(|config| {
        config.heartbeat_interval = HEARTBEAT;
        config.locator.embedded = true;
        config.locator.address = Endpoint::tcp("127.0.0.1", 0);
        config.connect_publishers = vec![Endpoint::tcp("127.0.0.1", port).into()];
    });
    let service = daemon.subscribe("silent", "Silent", &["none"]);
    // Each with the time when it said its last.
    let since = |peer: RawPeer| (Instant::now(), peer);
    let mut dialled = RawPeer(publisher.accept().expect("it is dialled").0);
    dialled.send(&[greeting(), ready("PUB", "")].concat());
    let dialled = since(dialled);
    let mut worker = RawPeer::met(&service.pull_address, "DEALER");
    worker.send(&frame(0, b"READY"));
    let worker = since(worker);
    let met = |address: &str, kind: &str| since(RawPeer::met(address, kind));
    let half_open = [
        ("publisher", met(&daemon.publishers(), "PUB")),
        ("subscriber", since(subscriber(&daemon))),
        ("worker", worker),
        ("requester", met(&daemon.requests(), "DEALER")),
        ("locator's client", met(&daemon.locator(), "REQ")),
        ("dialled publisher", dialled),
    ];
    let count = half_open.len() as u64;
    std::thread::scope(|scope| {
        for (name, (begun, mut peer)) in half_open {
            scope.spawn(move || {
                let said = peer.read_to_end();
                let found = begun.elapsed();
                // The daemon heard of it a moment before or after; a busy machine takes its time.
                let in_time = HEARTBEAT * 2..HEARTBEAT * 10;
                assert!(in_time.contains(&found), "{name}: {found:?}");
                assert!(said.windows(5).any(is_ping), "{name}");
            });
        }
    });
    daemon.wait_for("all of them counted", |status| {
        status.refused("heartbeat-timeout") == count && status.connections.open == 0
    });
    assert_eq!(daemon.service("Silent").workers.connected, 0);
}

#[test]
fn a_peer_that_answers_stays_and_an_old_one_is_not_asked() {
    let daemon = daemon(SHORT);
    let publisher = daemon.publisher();
    let mut old = RawPeer::met_as(&daemon.subscribers(), "SUB", "", 0);
    old.send(&frame(0, b"\x01"));
    daemon.wait_for_subscriptions(1);
    let mut peer = RawPeer::met(&daemon.subscribers(), "SUB");
    peer.send(&command("SUBSCRIBE", b""));
    daemon.wait_for_subscriptions(2);
    for _ in 0..6 {
        let (flags, body) = peer.read_frame();
        assert!(flags == COMMAND && is_ping(&body), "{body:?}");
        // Its time to live, in tenths of a second, is longer than we take a silence for death.
        let ttl = u16::from_be_bytes(body[5..7].try_into().expect("two bytes"));
        assert!(Duration::from_millis(ttl.into()) * 100 > SHORT * 3);
        peer.send(&command("PONG", &body[7..]));
    }
    peer.send(&command("PING", b"\x00\x0acontext"));
    assert_eq!(peer.read_frame(), (COMMAND, b"\x04PONGcontext".to_vec()));
    publish(&publisher, "a", "b");
    assert_eq!(read_message_among_pings(&mut peer), [b"a", b"b"]);
    // Had it been asked, that would come first.
    assert_eq!(old.read_message(), [b"a", b"b"]);
    assert_eq!(daemon.refused("heartbeat-timeout"), 0);
}

/// What it is told of by PINGs only: that somebody is there.
#[test]
fn a_publisher_that_was_asked_is_asked_on_while_it_sends() {
    let daemon = daemon(SHORT);
    let mut peer = RawPeer::met(&daemon.publishers(), "PUB");
    let mut hears = RawPeer(peer.0.try_clone().expect("another descriptor"));
    let (asked, pings) = std::sync::mpsc::channel();
    let listening = std::thread::spawn(move || {
        while asked.send(()).is_ok() {
            while !is_ping(&hears.read_frame().1) {}
        }
    });
    // The first says that it listens.
    for _ in 0..2 {
        pings
            .recv_timeout(Duration::from_secs(20))
            .expect("it is silent");
    }
    let begun = Instant::now();
    for _ in 0..5 {
        while pings.try_recv().is_err() {
            peer.send(&message(&["a", "b"]));
            assert!(begun.elapsed() < Duration::from_secs(20), "no PING comes");
            std::thread::sleep(SHORT / 20);
        }
    }
    drop(pings);
    listening.join().expect("it read what came");
}

#[test]
fn an_idle_publisher_of_libzmq_that_sends_again_loses_nothing() {
    const COUNT: usize = 300;
    let daemon = daemon(SHORT);
    let (publisher, subscriber) = (daemon.publisher(), daemon.subscriber(&["n"]));
    // It is idle for so long that it is asked; then it sends for longer than the time to live.
    std::thread::sleep(SHORT * 4);
    for n in 0..COUNT {
        publish(&publisher, "n", &n.to_string());
        std::thread::sleep(SHORT / 20);
    }
    for n in 0..COUNT {
        assert_eq!(received(&subscriber), n.to_string());
    }
}

#[test]
fn who_sends_a_huge_message_slowly_is_alive() {
    const BYTES: usize = 1 << 20;
    let daemon = daemon(SHORT);
    let subscriber = daemon.subscriber(&["huge"]);
    let mut publisher = RawPeer::met(&daemon.publishers(), "PUB");
    let mut requester = RawPeer::met(&daemon.requests(), "DEALER");
    let long = [&[2][..], &(BYTES as u64).to_be_bytes()].concat();
    let body = [&b"huge"[..], &vec![7; BYTES - 4]].concat();
    let bytes = [&long[..], &body].concat();
    let slowly = 24;
    for byte in &bytes[..slowly] {
        publisher.send(&[*byte]);
        requester.send(&[*byte]);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(daemon.refused("heartbeat-timeout"), 0);
    publisher.send(&bytes[slowly..]);
    requester.send(&bytes[slowly..]);
    assert!(subscriber.recv_bytes(0).expect("an event") == body);
    // On a slow machine it may be asked for a sign of life in between.
    let (_, nak) = std::iter::repeat_with(|| requester.read_frame())
        .find(|(flags, _)| flags & COMMAND == 0)
        .expect("an answer");
    assert!(!nak.is_empty());
}

/// A subscriber that does not answer while it has events to read, of this size.
fn is_busy_with(count: usize, bytes: usize) {
    let daemon = daemon(SHORT);
    let publisher = daemon.publisher();
    let mut busy = subscriber(&daemon);
    let data = "x".repeat(bytes);
    for n in 0..count {
        publish(&publisher, &n.to_string(), &data);
    }
    daemon.wait_for("its events", |status| {
        status.publishers.events == count as u64
    });
    // Long enough to find who is dead.
    std::thread::sleep(SHORT * 5);
    assert_eq!(daemon.refused("heartbeat-timeout"), 0);
    for n in 0..count {
        let event = read_message_among_pings(&mut busy);
        assert_eq!(event, [n.to_string().as_bytes(), data.as_bytes()]);
    }
    // It speaks once more; silence without events to read is death.
    busy.send(&command("PONG", b""));
    busy.read_to_end();
    assert_eq!(daemon.refused("heartbeat-timeout"), 1);
}

/// Else it could never show again that it is alive, and a connection that breaks later is never found.
#[test]
fn who_was_busy_is_asked_again() {
    let daemon = daemon(SHORT);
    let publisher = daemon.publisher();
    let mut busy = subscriber(&daemon);
    publish(&publisher, "a", "b");
    assert_eq!(read_message_among_pings(&mut busy), [b"a", b"b"]);
    for _ in 0..8 {
        let (flags, body) = busy.read_frame();
        assert!(flags == COMMAND && is_ping(&body), "{body:?}");
    }
    busy.send(&command("PONG", b""));
    busy.read_to_end();
    assert_eq!(daemon.refused("heartbeat-timeout"), 1);
}

#[test]
fn who_has_a_few_events_to_read_is_not_taken_for_dead() {
    is_busy_with(10, 100);
}

#[test]
fn who_has_more_to_read_than_its_socket_holds_is_not_taken_for_dead() {
    is_busy_with(100, 100 << 10);
}

/// It has an event in hand for longer than three heartbeats, and its socket is full of those behind it.
#[test]
fn a_worker_that_acknowledges_may_be_busy_too() {
    let daemon = daemon(SHORT);
    let service = daemon.subscribe("1", "Billing", &["Order"]);
    let mut worker = RawPeer::met(&service.pull_address, "DEALER");
    worker.send(&message(&[r#"READY {"ack": true, "credit": 10}"#]));
    daemon.wait_for_service("Billing", "a worker", |found| found.workers.ready == 1);
    let publisher = daemon.publisher();
    for n in 0..10 {
        publish(&publisher, "Order", &n.to_string());
    }
    daemon.wait_for_service("Billing", "events in hand", |found| {
        found.counters.in_flight == 10
    });
    std::thread::sleep(SHORT * 5);
    assert_eq!(daemon.refused("heartbeat-timeout"), 0);
    for n in 0..10 {
        let [word, .., data] = &read_message_among_pings(&mut worker)[..] else {
            panic!("an event has a word and data");
        };
        assert_eq!(data, n.to_string().as_bytes());
        let word = String::from_utf8_lossy(word);
        let delivery = word.split(' ').nth(1).expect("its number");
        worker.send(&message(&[&format!("ACK {delivery}")]));
    }
    daemon.wait_for_service("Billing", "the end of all", |found| {
        found.counters.in_flight == 0 && found.counters.queued == 0
    });
}

/// It asks much, and does something else before it reads the answers.
#[test]
fn who_has_answers_to_read_is_not_taken_for_dead() {
    let daemon = daemon(SHORT);
    let mut requester = RawPeer::met(&daemon.requests(), "DEALER");
    for _ in 0..10 {
        requester.send(&message(&["", r#"{"token": "status"}"#]));
    }
    assert_eq!(read_message_among_pings(&mut requester).len(), 2);
    std::thread::sleep(SHORT * 5);
    assert_eq!(daemon.refused("heartbeat-timeout"), 0);
    for _ in 1..10 {
        assert_eq!(read_message_among_pings(&mut requester).len(), 2);
    }
}

/// Holds the address that [`libzmq_subscriber`] is to connect to.
const CONNECT_TO: &str = "EVENT_MANAGER_TEST_CONNECT_TO";
/// The time to live that it names.
const TTL: Duration = Duration::from_millis(500);

#[test]
#[ignore = "what the process of a subscriber runs"]
fn libzmq_subscriber() {
    let Ok(address) = std::env::var(CONNECT_TO) else {
        return;
    };
    let context = zmq::Context::new();
    let socket = context.socket(zmq::SUB).expect("a socket");
    socket.set_heartbeat_ivl(100).expect("an option");
    let ttl = i32::try_from(TTL.as_millis()).expect("it fits");
    socket.set_heartbeat_ttl(ttl).expect("an option");
    socket.set_heartbeat_timeout(60_000).expect("an option");
    socket.set_subscribe(b"").expect("an option");
    connect(&socket, &address);
    let _ = std::io::stdin().read_line(&mut String::new());
}

/// The process of [`libzmq_subscriber`]. It ends with this, also while it is stopped.
struct Subscriber(Child);

impl Subscriber {
    fn start(address: &str) -> Self {
        let child = Command::new(std::env::current_exe().expect("a path"))
            .args(["--exact", "heartbeat::libzmq_subscriber", "--ignored"])
            .env(CONNECT_TO, address)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        Self(child.expect("a process"))
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_peer_of_libzmq_is_given_up_when_its_time_to_live_is_over() {
    let daemon = TestDaemon::start();
    let subscriber = Subscriber::start(&daemon.subscribers());
    daemon.wait_for_subscriptions(1);
    // It lives, though we don't ask it.
    std::thread::sleep(TTL * 2);
    assert_eq!(daemon.status().subscribers.connected, 1);
    signal(subscriber.0.id(), "STOP");
    let begun = Instant::now();
    // It doesn't read this, and that is no excuse.
    publish(&daemon.publisher(), "a", "b");
    daemon.wait_for("its end", |status| status.subscribers.connected == 0);
    let found = begun.elapsed();
    // Its last PING may be as old as their interval, and there are four looks in a second.
    assert!(found > TTL - Duration::from_millis(150), "{found:?}");
    assert!(found < TTL + Duration::from_millis(900), "{found:?}");
    assert_eq!(daemon.refused("heartbeat-timeout"), 1);
}

#[test]
fn the_last_time_to_live_that_was_named_counts() {
    // No heartbeats, and still what the peer asks for.
    let daemon = daemon(Duration::ZERO);
    let named = |ttl: &[u8; 2]| {
        let mut peer = RawPeer::met(&daemon.subscribers(), "SUB");
        peer.send(&command("PING", ttl));
        assert_eq!(peer.read_frame(), (COMMAND, b"\x04PONG".to_vec()));
        peer
    };
    let (mut taken_back, mut never) = (named(&[0, 2]), named(&[0, 0]));
    taken_back.send(&command("PING", &[0, 0]));
    assert_eq!(taken_back.read_frame(), (COMMAND, b"\x04PONG".to_vec()));
    let begun = Instant::now();
    assert_eq!(named(&[0, 2]).read_to_end(), b"");
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert_eq!(daemon.refused("heartbeat-timeout"), 1);
    taken_back.settle();
    never.settle();
}

#[test]
#[ignore = "needs root: just netns"]
fn a_machine_that_vanishes_under_traffic_is_found() {
    // The kernel needs 1.4 s at least to see that nobody answers.
    const HEARTBEAT: Duration = Duration::from_secs(1);
    let machine = OtherMachine::in_network("198.18.7");
    let daemon = TestDaemon::with(|config| {
        config.heartbeat_interval = HEARTBEAT;
        config.sub_addresses = vec![Endpoint::tcp(&machine.ours, 0)];
    });
    let publisher = daemon.publisher();
    let mut connection = machine.connect(&daemon.subscribers());
    let hello = [greeting(), ready("SUB", ""), command("SUBSCRIBE", b"")].concat();
    let input = connection.stdin.as_mut().expect("it is piped");
    input.write_all(&hello).expect("a write");
    daemon.wait_for_subscriptions(1);
    publish(&publisher, "before", "");
    daemon.wait_for("delivery", |status| {
        status.subscribers.counters.delivered == 1
    });
    std::thread::sleep(HEARTBEAT * 4);
    assert_eq!(
        daemon.refused("heartbeat-timeout"),
        0,
        "it is busy, not dead"
    );

    machine.vanish();
    let begun = Instant::now();
    while daemon.refused("heartbeat-timeout") == 0 {
        publish(&publisher, "after", "");
        std::thread::sleep(Duration::from_millis(10));
        assert!(begun.elapsed() < HEARTBEAT * 7 / 2, "it was not found");
    }
    println!("found after {:?}", begun.elapsed());
    assert_eq!(daemon.status().subscribers.connected, 0);
    connection.kill().expect("a child");
    connection.wait().expect("a child");
}
