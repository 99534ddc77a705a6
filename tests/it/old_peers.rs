//! Clients of ZMTP 2.0 (libzmq 3.x, JeroMQ 0.3): each kind is served as one of today is, and those of
//! ZMTP 1.0 are told from them and refused, with a word in the log.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use event_manager_wire::api::{OldPeer, ZmtpVersions};
use event_manager_wire::model::Endpoint;

use super::support::TestDaemon;
use super::support::logs;
use super::support::old::{Listening, greeting, number};
use super::support::peers::{publish, received};
use super::support::raw::{COMMAND, MORE, RawPeer, command, frame, message};

fn zmtp(daemon: &TestDaemon) -> ZmtpVersions {
    daemon.status().peers.zmtp
}

fn counts(of: &[(&str, u64)]) -> BTreeMap<String, u64> {
    of.iter()
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

fn subscription(wish: u8, prefix: &str) -> Vec<u8> {
    frame(0, &[&[wish], prefix.as_bytes()].concat())
}

fn texts(frames: &[Vec<u8>]) -> Vec<&str> {
    let text = |frame| std::str::from_utf8(frame).expect("text");
    frames.iter().map(|frame| text(frame)).collect()
}

/// Asks for something that is always answered, so that all that was sent before has been read.
fn settle(requester: &mut RawPeer) {
    requester.send(&message(&["", "TK_EVENT_MANAGER_STATUS", "STRING", ""]));
    assert_eq!(texts(&requester.read_message())[..2], ["", "TK_SYS_ACK"]);
}

#[test]
fn a_publisher_of_zmtp_2_is_heard() {
    for kind in ["PUB", "XPUB"] {
        let daemon = TestDaemon::start();
        let subscriber = daemon.subscriber(&["Order"]);
        let address = daemon.publishers();
        let mut publisher = RawPeer::connect(&address).meet_old(kind, "", number("SUB"));
        // A message, because ZMTP 2.0 has no commands.
        assert_eq!(publisher.read_frame(), (0, vec![1]));
        publisher.send(&message(&["OrderCreated", "one"]));
        let large = "x".repeat(70_000);
        let len = (large.len() as u64).to_be_bytes();
        let large_frame = [&[2][..], &len, large.as_bytes()].concat();
        publisher.send(&[frame(MORE, b"OrderCreated"), large_frame].concat());
        publisher.send(&message(&["Unwanted", "two"]));
        publisher.send(&message(&["OrderPaid", "three"]));
        for expected in ["one", &large, "three"] {
            assert_eq!(received(&subscriber), expected, "{kind}");
        }
    }
}

#[test]
fn a_subscriber_of_zmtp_2_hears_what_it_wants_until_it_does_not() {
    for kind in ["SUB", "XSUB"] {
        let daemon = TestDaemon::start();
        let publisher = daemon.publisher();
        let address = daemon.subscribers();
        let mut subscriber = RawPeer::connect(&address).meet_old(kind, "", number("PUB"));
        subscriber.send(&subscription(1, "Order"));
        subscriber.send(&subscription(1, "Stock"));
        daemon.wait_for_subscriptions(2);
        publish(&publisher, "OrderCreated", "one");
        publish(&publisher, "Other", "two");
        publish(&publisher, "Stock", "three");
        assert_eq!(texts(&subscriber.read_message()), ["OrderCreated", "one"]);
        assert_eq!(texts(&subscriber.read_message()), ["Stock", "three"]);
        subscriber.send(&subscription(0, "Order"));
        daemon.wait_for_subscriptions(1);
        publish(&publisher, "OrderCreated", "four");
        publish(&publisher, "Stock", "five");
        assert_eq!(
            texts(&subscriber.read_message()),
            ["Stock", "five"],
            "{kind}"
        );
        let large = "x".repeat(70_000);
        publish(&publisher, "Stock", &large);
        assert_eq!(texts(&subscriber.read_message()), ["Stock", &large]);
    }
}

#[test]
fn workers_of_zmtp_2_get_their_events() {
    let daemon = TestDaemon::start();
    let plain = daemon.subscribe("sub-1", "Plain", &["Plain"]);
    let acked = daemon.subscribe("sub-2", "Acked", &["Acked"]);
    let lockstep = daemon.subscribe("sub-3", "Lockstep", &["Lockstep"]);
    let publisher = daemon.publisher();

    let router = number("ROUTER");
    let mut worker = RawPeer::connect(&plain.pull_address).meet_old("DEALER", "till-1", router);
    worker.send(&message(&["READY"]));
    daemon.wait_for_ready("Plain", 1);
    publish(&publisher, "Plain", "one");
    assert_eq!(texts(&worker.read_message()), ["Plain", "one"]);

    let mut worker = RawPeer::met_old(&acked.pull_address, "DEALER");
    worker.send(&message(&["", r#"READY {"ack": true, "credit": 1}"#]));
    daemon.wait_for_ready("Acked", 1);
    publish(&publisher, "Acked", "one");
    publish(&publisher, "Acked", "two");
    for (data, word) in [("one", "NAK"), ("two", "ACK"), ("one", "ACK")] {
        let frames = worker.read_message();
        let frames = texts(&frames);
        let id = frames[1].split(' ').nth(1).expect("an id");
        assert_eq!((frames[0], frames[3]), ("", data));
        let delay = if word == "NAK" { " 10" } else { "" };
        worker.send(&message(&["", &format!("{word} {id}{delay}")]));
    }
    daemon.wait_for_counter("Acked", |c| c.delivered, 2);

    let mut worker = RawPeer::met_old(&lockstep.pull_address, "REQ");
    for data in ["one", "two"] {
        worker.send(&message(&["", "READY"]));
        publish(&publisher, "Lockstep", data);
        assert_eq!(texts(&worker.read_message()), ["", "Lockstep", data]);
    }
}

#[test]
fn the_newer_of_two_workers_with_one_identity_stays() {
    let daemon = TestDaemon::start();
    let service = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let met = || RawPeer::connect(&service.pull_address).meet_old("DEALER", "till-1", 0);
    let mut older = met();
    older.send(&message(&["READY"]));
    daemon.wait_for_ready("Billing", 1);
    let mut newer = met();
    assert_eq!(older.read_to_end(), b"");
    newer.send(&message(&["READY"]));
    daemon.wait_for_ready("Billing", 1);
    publish(&daemon.publisher(), "Order", "one");
    assert_eq!(texts(&newer.read_message()), ["Order", "one"]);
}

#[test]
fn requesters_of_zmtp_2_are_answered() {
    let daemon = TestDaemon::with(|config| {
        config.locator.embedded = true;
        config.locator.address = Endpoint::tcp("127.0.0.1", 0);
    });
    for kind in ["REQ", "DEALER", "ROUTER"] {
        let mut requester = RawPeer::met_old(&daemon.requests(), kind);
        let id = format!("sub-{kind}");
        let fields = format!("{id}\0Billing\0Order");
        requester.send(&message(&["", "TK_EVENT_MANAGER_SUBSCRIBE", "2", &fields]));
        let answer = requester.read_message();
        let answer = texts(&answer);
        assert_eq!((answer[0], answer[1]), ("", "TK_SYS_ACK"), "{kind}");
        assert!(answer[3].starts_with(&id), "{answer:?}");
        settle(&mut requester);

        let mut asks = RawPeer::met_old(&daemon.locator(), kind);
        asks.send(&message(&["", "3.4", "2", ""]));
        assert_eq!(texts(&asks.read_message())[0], "", "{kind}");
    }
}

#[test]
fn a_publisher_of_zmtp_2_that_binds_is_dialled() {
    for kind in ["PUB", "XPUB"] {
        let binds = Listening::bind();
        let daemon =
            TestDaemon::with(|config| config.connect_publishers = vec![binds.endpoint().into()]);
        let subscriber = daemon.subscriber(&["Order"]);
        let mut publisher = binds.accept().meet_old(kind, "", number("SUB"));
        assert_eq!(publisher.read_frame(), (0, vec![1]));
        publisher.send(&message(&["OrderCreated", "one"]));
        assert_eq!(received(&subscriber), "one", "{kind}");
        assert_eq!(zmtp(&daemon).versions, counts(&[("2.0", 1), ("3.1", 1)]));
    }
}

/// The old and the new hear the same, byte for byte.
#[test]
fn old_and_new_peers_hear_each_other() {
    let daemon = TestDaemon::start();
    let mut old = RawPeer::met_old(&daemon.subscribers(), "SUB");
    old.send(&subscription(1, ""));
    let mut new = RawPeer::met(&daemon.subscribers(), "SUB");
    new.send(&command("SUBSCRIBE", b""));
    daemon.wait_for_subscriptions(2);
    let mut old_publisher = RawPeer::met_old(&daemon.publishers(), "PUB");
    let new_publisher = daemon.publisher();
    for n in 0..20 {
        old_publisher.send(&message(&["Old", &n.to_string()]));
        publish(&new_publisher, "New", &n.to_string());
    }
    let heard = |peer: &mut RawPeer| -> Vec<Vec<Vec<u8>>> {
        let mut heard: Vec<_> = (0..40).map(|_| peer.read_message()).collect();
        heard.sort();
        heard
    };
    assert_eq!(heard(&mut old), heard(&mut new));
}

#[test]
fn who_speaks_which_zmtp_is_said() {
    let daemon = TestDaemon::with(|config| {
        config.http_address = Some(Endpoint::tcp("127.0.0.1", 0));
    });
    let service = daemon.subscribe("sub-1", "Billing", &["Order"]);
    let old = [
        ("publisher", "PUB", daemon.publishers()),
        ("subscriber", "SUB", daemon.subscribers()),
        ("worker", "DEALER", service.pull_address),
        ("requester", "REQ", daemon.requests()),
    ];
    let old = old.map(|(role, kind, address)| {
        let peer = RawPeer::connect(&address).meet_old(kind, "till \x1b[31m", 0);
        let local = peer.0.local_addr().expect("connected").to_string();
        let identity = r"till \x1b[31m";
        let said = OldPeer {
            address: local,
            role: role.to_owned(),
            service: (role == "worker").then(|| "Billing".to_owned()),
            socket_type: kind.to_owned(),
            identity: identity.to_owned(),
        };
        (peer, said)
    });
    let newer = RawPeer::met_as(&daemon.subscribers(), "SUB", "", 0);
    let newest = RawPeer::met(&daemon.subscribers(), "SUB");
    let expected: Vec<_> = old.iter().map(|(_, said)| said.clone()).collect();
    let status = daemon.wait_for("all of them", |status| {
        status.peers.zmtp.versions == counts(&[("2.0", 4), ("3.0", 1), ("3.1", 1)])
    });
    let listed = status.peers.zmtp.old;
    assert_eq!(listed.len(), 4, "{listed:#?}");
    for said in &expected {
        assert!(listed.contains(said), "{said:?} {listed:#?}");
    }
    let metrics = daemon.metrics();
    for (version, count) in [("2.0", 4.0), ("3.0", 1.0), ("3.1", 1.0)] {
        let labels = [("zmtp", version)];
        assert_eq!(
            metrics.value("event_manager_peers_connected", &labels),
            count
        );
    }
    drop((old, newer, newest));
    daemon.wait_for("nobody", |status| {
        status.peers.zmtp == ZmtpVersions::default()
    });
}

#[test]
fn a_peer_of_zmtp_2_gets_no_commands_and_may_send_none() {
    let daemon = TestDaemon::with(|config| {
        config.heartbeat_interval = Duration::from_millis(100);
    });
    let mut old = RawPeer::met_old(&daemon.subscribers(), "SUB");
    old.send(&subscription(1, ""));
    let mut new = RawPeer::met(&daemon.subscribers(), "SUB");
    // A PING that comes to one is due to the other.
    for _ in 0..3 {
        let (flags, body) = new.read_frame();
        assert!(
            flags == COMMAND && body.starts_with(b"\x04PING"),
            "{body:?}"
        );
        new.send(&command("PONG", b""));
    }
    daemon.wait_for_subscriptions(1);
    publish(&daemon.publisher(), "Order", "still here");
    assert_eq!(texts(&old.read_message()), ["Order", "still here"]);
    old.send_while_heard(&command("PING", b"\0\0"));
    assert_eq!(old.read_to_end(), b"");
    assert_eq!(daemon.status().peers.refused, counts(&[("malformed", 1)]));
}

#[test]
fn a_wrong_handshake_of_zmtp_2_is_refused_without_a_command() {
    let daemon = TestDaemon::start();
    let with_identity = |identity: &[u8]| [&greeting("DEALER", "")[..12], identity].concat();
    let long = [&[2][..], &256u64.to_be_bytes(), &[0; 256]].concat();
    for (what, reason, bytes) in [
        ("a PUSH", "wrong-socket-type", greeting("PUSH", "")),
        (
            "no type",
            "wrong-socket-type",
            [&greeting("PUB", "")[..11], &[77, 0, 0]].concat(),
        ),
        ("a long identity", "handshake-failed", with_identity(&long)),
        (
            "an identity of two frames",
            "malformed",
            with_identity(&[MORE, 0, 0, 0]),
        ),
        ("a command", "malformed", with_identity(&[COMMAND, 0])),
        ("reserved flags", "malformed", with_identity(&[8, 0])),
    ] {
        let before = daemon.refused(reason);
        let mut peer = RawPeer::connect(&daemon.requests());
        peer.send_while_heard(&bytes);
        let said = peer.read_to_end();
        assert!(!said.windows(5).any(|bytes| bytes == b"ERROR"), "{what}");
        assert_eq!(daemon.refused(reason), before + 1, "{what}");
    }
}

/// Such a peer may be gone before it is told: what it has sent is read all the same.
#[test]
fn a_peer_of_zmtp_1_is_named_although_it_hangs_up() {
    logs::keep();
    let daemon = TestDaemon::start();
    let mut addresses = vec![];
    for _ in 0..20 {
        let mut peer = RawPeer::connect(&daemon.requests());
        addresses.push(peer.0.local_addr().expect("connected").to_string());
        peer.0.write_all(&[1, 0]).expect("a write");
        // What it never reads makes its end a reset.
        drop(peer);
    }
    daemon.wait_for("the count", |status| status.refused("zmtp-too-old") == 20);
    let lines: Vec<_> = addresses
        .iter()
        .flat_map(|address| logs::lines_with(&format!("\"{address}\"")))
        // The port may have been another test's.
        .filter(|line| line.contains("zmtp-too-old"))
        .collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    let sentence = "it speaks ZMTP 1.0; 2.0 or later is needed (libzmq 3.2, 2012)";
    assert!(lines[0].contains(sentence), "{lines:#?}");
}

#[test]
fn who_hangs_up_within_its_handshake_is_counted() {
    logs::keep();
    let daemon = TestDaemon::start();
    // A port scan, or a balancer that looks whether somebody listens.
    drop(RawPeer::connect(&daemon.requests()));
    let mut told = String::new();
    for (n, len) in (1u64..).zip([3, 11, 13]) {
        let mut peer = RawPeer::connect(&daemon.requests());
        peer.send(&greeting("REQ", "till")[..len]);
        if told.is_empty() {
            told = peer.0.local_addr().expect("connected").to_string();
        }
        peer.0.shutdown(Shutdown::Write).expect("it is open");
        peer.read_to_end();
        assert_eq!(daemon.status().peers.refused, counts(&[("hung-up", n)]));
    }
    // The port may have been that of another test's peer, of which other things are told.
    let mut lines = logs::lines_with(&format!("\"{told}\""));
    lines.retain(|line| line.contains("it hung up in the middle of its handshake"));
    assert_eq!(lines.len(), 1, "{lines:#?}");
}
