//! Peers that send what they should not: each loses its connection, or only its message, with a
//! reason that is counted; nobody else notices.

use std::io::Write;
use std::time::{Duration, Instant};

use event_manager_wire::api::Status;
use event_manager_wire::model::Endpoint;

use super::support::healthy::Healthy;
use super::support::peers::{publish, received};
use super::support::raw::{COMMAND, MORE, RawPeer, command, frame, greeting, greeting_of, ready};
use super::support::{TestDaemon, logs};

/// A fault that needs no deadline to be seen ends the connection this soon, on a busy machine too.
const AT_ONCE: Duration = Duration::from_secs(2);
const MESSAGE_BYTES_MAX: usize = 64 << 10;
const PARTS_MAX: usize = 100;
const SUBJECT_BYTES_MAX: usize = 64;
const SUBSCRIPTIONS_MAX: usize = 20;
/// A frame with a length of eight bytes.
const LONG: u8 = 2;

fn daemon(handshake_timeout: Duration) -> TestDaemon {
    TestDaemon::with(|config| {
        config.handshake_timeout = handshake_timeout;
        config.locator.embedded = true;
        config.locator.address = Endpoint::tcp("127.0.0.1", 0);
        config.limits.message_bytes_max = MESSAGE_BYTES_MAX;
        config.limits.message_parts_max = PARTS_MAX;
        config.limits.subject_bytes_max = SUBJECT_BYTES_MAX;
        config.limits.subscriptions_per_peer_max = SUBSCRIPTIONS_MAX;
    })
}

/// One of the daemon's sockets.
struct Door {
    name: &'static str,
    address: String,
    /// A socket type that may connect, and one that may not.
    welcome: &'static str,
    wrong: &'static str,
}

/// A socket of each kind.
fn doors(daemon: &TestDaemon) -> [Door; 5] {
    let service = daemon.subscribe("attacked", "Attacked", &["attacked"]);
    let door = |name, address, welcome, wrong| Door {
        name,
        address,
        welcome,
        wrong,
    };
    [
        door("publishers", daemon.publishers(), "PUB", "SUB"),
        door("subscribers", daemon.subscribers(), "SUB", "PUB"),
        door("requests", daemon.requests(), "DEALER", "SUB"),
        door("workers", service.pull_address, "DEALER", "PULL"),
        door("locator", daemon.locator(), "REQ", "REP"),
    ]
}

impl Door {
    fn peer(&self) -> RawPeer {
        RawPeer::connect(&self.address)
    }

    fn met_peer(&self) -> RawPeer {
        RawPeer::met(&self.address, self.welcome)
    }

    /// The daemon ends the connection for this reason and no other; what it said before.
    fn assert_ends(
        &self,
        daemon: &TestDaemon,
        what: &str,
        reason: &str,
        mut peer: RawPeer,
        bytes: &[u8],
    ) -> Vec<u8> {
        let (before, begun) = (refusals(daemon), Instant::now());
        peer.send_while_heard(bytes);
        let said = peer.read_to_end();
        assert!(begun.elapsed() < AT_ONCE, "{what} at {}", self.name);
        let mut expected = before;
        *expected.entry(reason.to_owned()).or_default() += 1;
        assert_eq!(refusals(daemon), expected, "{what} at {}", self.name);
        said
    }
}

type Refusals = std::collections::BTreeMap<String, u64>;

fn refusals(daemon: &TestDaemon) -> Refusals {
    daemon.status().peers.refused
}

fn greeting_with_mechanism(name: &str) -> Vec<u8> {
    let mut greeting = greeting();
    greeting[12..32].fill(0);
    greeting[12..12 + name.len()].copy_from_slice(name.as_bytes());
    greeting
}

fn long_frame(flags: u8, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u64).to_be_bytes();
    [&[flags | LONG], &len[..], body].concat()
}

/// A frame that announces more than there is on earth.
fn huge_frame(flags: u8) -> Vec<u8> {
    [&[flags | LONG][..], &[0xFF; 8]].concat()
}

/// Noise that is the same in each run.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let bytes = (0..len).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    });
    bytes.collect()
}

fn holds_error(said: &[u8]) -> bool {
    said.windows(6).any(|window| window == b"\x05ERROR")
}

#[test]
fn who_speaks_no_zmtp_is_sent_away() {
    let daemon = daemon(Duration::from_secs(60));
    let doors = doors(&daemon);
    let healthy = Healthy::start(&daemon);
    let tls_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and random bytes";
    let no_mechanism = greeting_with_mechanism("");
    let others = [
        ("HTTP", &b"GET / HTTP/1.1\r\nHost: events\r\n\r\n"[..]),
        ("TLS", tls_hello),
        ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n"),
        ("zeros", &[0; 100]),
        ("no mechanism", &no_mechanism),
    ];
    for door in &doors {
        for (what, bytes) in others {
            door.assert_ends(&daemon, what, "not-zmtp", door.peer(), bytes);
        }
        for seed in 1..=20 {
            let before: u64 = refusals(&daemon).values().sum();
            let mut peer = door.peer();
            peer.send_while_heard(&noise(seed, 4096));
            peer.read_to_end();
            let after: u64 = refusals(&daemon).values().sum();
            assert_eq!(after, before + 1, "noise {seed} at {}", door.name);
        }
    }
    healthy.finish();
}

#[test]
fn old_zmtp_is_refused_with_one_log_line() {
    logs::keep();
    let signature = [&[0xFF][..], &[0; 8], &[0x7F]].concat();
    let anonymous = vec![1, 0];
    let named = b"\x06\x00hello".to_vec();
    let unversioned = [&signature[..], &[0, 1]].concat();
    let versioned_later = [&[0xFF][..], &[0; 7], &[6, 0], b"hello"].concat();
    for greetings in [
        vec![anonymous, named],
        vec![unversioned],
        vec![versioned_later],
    ] {
        let daemon = daemon(Duration::from_secs(60));
        let mut addresses = vec![];
        for door in &doors(&daemon) {
            for greeting in &greetings {
                let peer = door.peer();
                addresses.push(peer.0.local_addr().expect("connected").to_string());
                door.assert_ends(&daemon, "ZMTP 1.0", "zmtp-too-old", peer, greeting);
            }
        }
        let lines: Vec<_> = addresses
            .iter()
            .flat_map(|address| logs::lines_with(&format!("\"{address}\"")))
            .collect();
        assert_eq!(lines.len(), 1, "{lines:#?}");
        assert!(lines[0].contains(&addresses[0]), "{lines:#?}");
        let sentence = "it speaks ZMTP 1.0; 2.0 or later is needed";
        assert!(lines[0].contains(sentence), "{lines:#?}");
    }
}

#[test]
fn a_wrong_handshake_ends_the_connection() {
    let daemon = daemon(Duration::from_secs(60));
    let doors = doors(&daemon);
    let healthy = Healthy::start(&daemon);
    let endless_property = b"\x0bSocket-Type\xff\xff\xff\xffSUB";
    let long_identity = "x".repeat(256);
    for door in &doors {
        let property = [&[8][..], b"Identity", &256u32.to_be_bytes()].concat();
        let identity = [b"\x05READY", &property[..], long_identity.as_bytes()].concat();
        for (what, reason, bytes) in [
            ("a huge command", "handshake-too-long", huge_frame(COMMAND)),
            ("a huge message", "malformed", huge_frame(0)),
            ("reserved flags", "malformed", vec![0x08, 0]),
            ("a command with more", "malformed", vec![COMMAND | MORE, 0]),
            ("a message before READY", "malformed", frame(0, b"hello")),
            ("an empty command", "handshake-failed", frame(COMMAND, b"")),
            (
                "a command's name cut off",
                "handshake-failed",
                frame(COMMAND, b"\x09PING"),
            ),
            (
                "a command before READY",
                "handshake-failed",
                command("SUBSCRIBE", b"a"),
            ),
            (
                "metadata cut off",
                "handshake-failed",
                command("READY", endless_property),
            ),
            (
                "a long identity",
                "handshake-failed",
                long_frame(COMMAND, &identity),
            ),
            ("an ERROR", "handshake-failed", command("ERROR", b"\x02no")),
            ("no socket type", "wrong-socket-type", command("READY", b"")),
        ] {
            let bytes = [greeting(), bytes].concat();
            door.assert_ends(&daemon, what, reason, door.peer(), &bytes);
        }
    }
    healthy.finish();
}

#[test]
fn a_peer_of_the_wrong_kind_is_told() {
    let daemon = daemon(Duration::from_secs(60));
    let doors = doors(&daemon);
    let healthy = Healthy::start(&daemon);
    for door in &doors {
        for kind in [door.wrong, "PAIR", "NONSENSE"] {
            let hello = [greeting(), ready(kind, "")].concat();
            let said = door.assert_ends(&daemon, kind, "wrong-socket-type", door.peer(), &hello);
            assert!(holds_error(&said), "{kind} at {}", door.name);
        }
    }
    healthy.finish();
}

#[test]
fn another_mechanism_is_refused_without_a_word() {
    let daemon = daemon(Duration::from_secs(60));
    let doors = doors(&daemon);
    let healthy = Healthy::start(&daemon);
    let mut peers = Vec::new();
    for door in &doors {
        for mechanism in ["CURVE", "PLAIN", "GSSAPI"] {
            let mut peer = door.peer();
            peer.send_while_heard(&greeting_with_mechanism(mechanism));
            peers.push((door.name, mechanism, peer));
        }
    }
    let count = peers.len() as u64;
    for (door, mechanism, mut peer) in peers {
        // No more than our version: a peer of libzmq would never connect again.
        assert_eq!(peer.read_to_end().len(), 11, "{mechanism} at {door}");
    }
    assert_eq!(daemon.refused("mechanism"), count);
    healthy.finish();
}

/// It did so without a line in the log, too: it left as soon as it had read of another mechanism.
#[test]
fn a_client_of_another_mechanism_is_named_and_tries_again_at_a_bounded_rate() {
    let daemon = daemon(Duration::from_secs(60));
    let publisher = zmq::Context::new().socket(zmq::PUB).expect("a socket");
    let set = |result: zmq::Result<()>| result.expect("libzmq has PLAIN");
    set(publisher.set_plain_username(Some("user")));
    set(publisher.set_plain_password(Some("secret")));
    let start = Instant::now();
    publisher
        .connect(&daemon.publishers())
        .expect("a connection");
    daemon.wait_for("three connections of one client", |_| {
        daemon.refused("mechanism") >= 3
    });
    // Each is kept for a second: without that it would come seven times a second.
    assert!(start.elapsed() >= Duration::from_secs(2));
}

#[test]
fn a_peer_that_waits_for_our_mechanism_is_told_it_after_a_while() {
    let daemon = daemon(Duration::from_secs(60));
    let mut peer = doors(&daemon)[0].peer();
    let hello = greeting();
    peer.send(&hello[..11]);
    assert_eq!(peer.read_exactly(64)[12..17], *b"NULL\0");
}

#[test]
fn a_fault_after_the_handshake_ends_the_connection() {
    let daemon = daemon(Duration::from_secs(60));
    let doors = doors(&daemon);
    let healthy = Healthy::start(&daemon);
    for door in &doors {
        for (what, reason, bytes) in [
            ("a huge frame", "message-too-large", huge_frame(0)),
            ("a huge command", "message-too-large", huge_frame(COMMAND)),
            (
                "just too large",
                "message-too-large",
                long_frame(0, &[1; MESSAGE_BYTES_MAX]),
            ),
            (
                "endless frames",
                "message-too-large",
                long_frame(MORE, &[1; 1000]).repeat(PARTS_MAX - 1),
            ),
            (
                "endless parts",
                "too-many-parts",
                [MORE, 0].repeat(PARTS_MAX + 1),
            ),
            (
                "endless commands in a message",
                "interrupted-message",
                [vec![MORE, 0], command("PONG", b"").repeat(65)].concat(),
            ),
            ("reserved flags", "malformed", vec![0x80, 0]),
            ("a command with more", "malformed", vec![COMMAND | MORE, 0]),
            ("an empty command", "malformed", frame(COMMAND, b"")),
            (
                "a command's name cut off",
                "malformed",
                frame(COMMAND, b"\x09PING"),
            ),
            ("a PING without a TTL", "malformed", command("PING", b"")),
            ("half a TTL", "malformed", command("PING", b"\0")),
            ("an ERROR", "peer-error", command("ERROR", b"\x02no")),
        ] {
            door.assert_ends(&daemon, what, reason, door.met_peer(), &bytes);
        }
    }
    healthy.finish();
}

#[test]
fn the_context_of_a_ping_comes_back_cut_to_16_bytes() {
    let daemon = daemon(Duration::from_secs(60));
    for door in &doors(&daemon) {
        let mut peer = door.met_peer();
        if door.name == "publishers" {
            peer.read_frame();
        }
        for context in [
            &b""[..],
            b"sixteen bytes!!!",
            b"and seventeen, or many more",
        ] {
            peer.send(&command("PING", &[b"\0\0", context].concat()));
            let cut = &context[..context.len().min(16)];
            let pong = [b"\x04PONG", cut].concat();
            assert_eq!(peer.read_frame(), (COMMAND, pong), "at {}", door.name);
        }
    }
    assert_eq!(refusals(&daemon), Refusals::new());
}

/// As libzmq's XPUB has it: each frame is a subscription of its own.
#[test]
fn subscriptions_may_come_as_frames_of_one_message() {
    let daemon = daemon(Duration::from_secs(60));
    let publisher = daemon.publisher();
    let mut subscriber = RawPeer::met_as(&daemon.subscribers(), "SUB", "", 0);
    subscriber.send(&[frame(MORE, b"\x01a"), frame(0, b"\x01b")].concat());
    daemon.wait_for_subscriptions(2);
    subscriber.send(&[frame(MORE, b"\0b"), frame(MORE, b"?"), frame(0, b"\x01c")].concat());
    daemon.wait_for("the one between discarded", |status| {
        status.refused("message-to-publisher") == 1
    });
    for subject in ["a", "b", "c"] {
        publish(&publisher, subject, "data");
    }
    assert_eq!(subscriber.read_message()[0], b"a");
    assert_eq!(subscriber.read_message()[0], b"c");
}

#[test]
fn subscriptions_are_bounded() {
    let daemon = daemon(Duration::from_secs(60));
    let [_, subscribers, ..] = doors(&daemon);
    let healthy = Healthy::start(&daemon);
    let before = daemon.status().subscribers.subscriptions;
    type Form = fn(&[u8]) -> Vec<u8>;
    let as_command: Form = |prefix| command("SUBSCRIBE", prefix);
    let as_message: Form = |prefix| frame(0, &[&[1], prefix].concat());
    for (form, minor) in [(as_command, 1), (as_message, 0)] {
        let met = || RawPeer::met_as(&subscribers.address, "SUB", "", minor);
        let long = form(&[b'a'; SUBJECT_BYTES_MAX + 1]);
        subscribers.assert_ends(&daemon, "long", "subscription-too-long", met(), &long);
        let many = |count: usize| (0..count).flat_map(|n| form(n.to_string().as_bytes()));
        let too_many: Vec<u8> = many(SUBSCRIPTIONS_MAX + 1).collect();
        subscribers.assert_ends(&daemon, "many", "too-many-subscriptions", met(), &too_many);
        assert_eq!(daemon.status().subscribers.subscriptions, before);

        let mut modest = met();
        modest.send(&form(&[b'a'; SUBJECT_BYTES_MAX]));
        let most: Vec<u8> = many(SUBSCRIPTIONS_MAX - 1).collect();
        modest.send(&most);
        // Twice is once.
        modest.send(&most);
        let wanted = before + SUBSCRIPTIONS_MAX as u64;
        daemon.wait_for_subscriptions(wanted);
        drop(modest);
        daemon.wait_for_subscriptions(wanted - SUBSCRIPTIONS_MAX as u64);
    }
    healthy.finish();
}

#[test]
fn a_message_without_meaning_is_discarded() {
    let daemon = daemon(Duration::from_secs(60));
    let [publishers, subscribers, _, workers, _] = doors(&daemon);
    let publisher = daemon.publisher();
    let large = long_frame(0, &[b'x'; MESSAGE_BYTES_MAX / 2]);
    let upstream = [
        frame(0, b""),
        frame(0, b"\x02hello"),
        [frame(MORE, b"a"), frame(0, b"b")].concat(),
        large,
    ];
    let mut subscriber = subscribers.met_peer();
    let mut worker = workers.met_peer();
    for (n, message) in (1..).zip(&upstream) {
        subscriber.send(message);
        worker.send(message);
        daemon.wait_for("discarded messages", |status| {
            status.refused("message-to-publisher") == n
                && status.refused("unknown-worker-message") == n
        });
    }
    let mut chatty = publishers.met_peer();
    chatty.send(&command("SUBSCRIBE", b"attacked"));
    chatty.send(&command("NONSENSE", b"\xff\xff"));
    chatty.send(&frame(0, b"attacked by a publisher"));
    daemon.wait_for("its event", |status| status.publishers.events == 1);

    subscriber.send(&command("SUBSCRIBE", b"attacked"));
    worker.send(&frame(0, b"READY"));
    daemon.wait_for_subscriptions(1);
    daemon.wait_for_ready("Attacked", 1);
    assert_eq!(worker.read_message(), [b"attacked by a publisher"]);
    publish(&publisher, "attacked", "still here");
    let event = [&b"attacked"[..], b"still here"];
    assert_eq!(subscriber.read_message(), event);
    assert_eq!(worker.read_message(), event);
}

#[test]
fn a_handshake_has_a_deadline() {
    const DEADLINE: Duration = Duration::from_millis(400);
    let daemon = daemon(DEADLINE);
    let doors = doors(&daemon);
    let healthy = Healthy::start(&daemon);
    let unfinished = [
        vec![],
        greeting()[..1].to_vec(),
        greeting()[..63].to_vec(),
        greeting(),
        [greeting(), ready("SUB", "")[..10].to_vec()].concat(),
    ];
    let begun = Instant::now();
    let mut count = 0;
    let mut peers = vec![];
    for door in &doors {
        for bytes in &unfinished {
            let mut peer = door.peer();
            peer.send(bytes);
            peers.push(peer);
            count += 1;
        }
    }
    let connected = begun.elapsed();
    // These never stop, at a pace that has them at it when their time is up.
    let mut dripping: Vec<_> = doors.iter().map(Door::peer).collect();
    for byte in greeting_of(1) {
        if begun.elapsed() >= DEADLINE {
            break;
        }
        dripping.iter_mut().for_each(|peer| peer.send(&[byte]));
        std::thread::sleep(DEADLINE / 30);
    }
    count += dripping.len() as u64;
    for mut peer in peers.into_iter().chain(dripping) {
        peer.read_to_end();
    }
    let ended = begun.elapsed();
    assert!(
        (DEADLINE..connected + AT_ONCE).contains(&ended),
        "{ended:?}"
    );
    assert_eq!(daemon.refused("handshake-timeout"), count);
    healthy.finish();
}

#[test]
fn a_greeting_may_come_byte_by_byte() {
    let daemon = daemon(Duration::from_secs(60));
    let publisher = daemon.publisher();
    let [_, subscribers, ..] = doors(&daemon);
    let mut peer = subscribers.peer();
    let all = [greeting(), ready("SUB", ""), command("SUBSCRIBE", b"POS")].concat();
    for byte in all {
        peer.send(&[byte]);
        std::thread::sleep(Duration::from_millis(1));
    }
    daemon.wait_for_subscriptions(1);
    publish(&publisher, "POS1", "data");
    peer.read_exactly(64);
    assert_eq!(peer.read_frame().0, COMMAND);
    assert_eq!(peer.read_message(), [b"POS1", b"data".as_slice()]);
}

#[test]
fn what_a_peer_left_unfinished_goes_with_it() {
    let daemon = daemon(Duration::from_secs(60));
    let doors = doors(&daemon);
    let healthy = Healthy::start(&daemon);
    let only_healthy = |status: &Status| status.connections.open == Healthy::CONNECTIONS;
    daemon.wait_for("only the healthy", only_healthy);
    let begun = [frame(MORE, b"attacked"), vec![MORE, 200, 1, 2, 3]].concat();
    for _ in 0..10 {
        let peers = doors.iter().map(|door| {
            let mut peer = door.met_peer();
            peer.send(&begun);
            peer
        });
        drop(peers.collect::<Vec<_>>());
    }
    daemon.wait_for("their end", only_healthy);
    assert_eq!(daemon.service("Attacked").counters.matched, 0);
    assert_eq!(refusals(&daemon), Refusals::new());
    healthy.finish();
}

/// Sends what is answered, and reads no answer.
#[test]
fn answers_that_nobody_reads_are_bounded() {
    const SENT: usize = 32 << 20;
    let daemon = daemon(Duration::from_secs(60));
    let doors = doors(&daemon);
    let healthy = Healthy::start(&daemon);
    let pings = command("PING", &[&[0, 0][..], &[7; 16]].concat()).repeat(4096);
    for door in &doors {
        let mut peer = door.met_peer();
        let impatient = Some(Duration::from_millis(500));
        peer.0.set_write_timeout(impatient).expect("an option");
        let mut sent = 0;
        // A requester isn't heard until it reads; others are.
        while sent < SENT && peer.0.write_all(&pings).is_ok() {
            sent += pings.len();
        }
        let waiting = daemon.status().connections.outbox_bytes;
        assert!(waiting < 4 << 20, "{waiting}");
    }
    healthy.finish();
}

#[test]
fn garbage_for_requests_is_answered() {
    let daemon = daemon(Duration::from_secs(60));
    let healthy = Healthy::start(&daemon);
    let requester = daemon.requester();
    for seed in 1..=50 {
        requester.send(noise(seed, 100), 0).expect("a send");
        let answer = requester.recv_multipart(0).expect("an answer");
        let text = answer.concat();
        assert!(!text.is_empty(), "noise {seed}");
    }
    assert_eq!(refusals(&daemon).values().sum::<u64>(), 50);
    let subscriber = daemon.subscriber(&["after"]);
    publish(&daemon.publisher(), "after", "all");
    assert_eq!(received(&subscriber), "all");
    healthy.finish();
}
