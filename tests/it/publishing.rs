//! `event-manager pub` knows what the daemon has taken.

use std::net::TcpListener;

use serde_json::json;

use super::support::program::{Program, Site};
use super::support::raw::{COMMAND, RawPeer, command, frame, greeting_of, ready};
use super::support::{TestDaemon, tunnel};

/// What a publisher takes for a daemon.
struct Taker(TcpListener);

impl Taker {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").expect("a socket"))
    }

    fn publisher(&self) -> Program {
        let port = self.0.local_addr().expect("it is bound").port();
        let address = tunnel::before(&format!("tcp://127.0.0.1:{port}"));
        Site::new().start(&["pub", "Order", "--wait", "2", "--pub-address", &address])
    }

    /// The next connection, after the handshake, with a subscription to everything.
    fn met(&self, minor: u8, subscription: &[u8]) -> RawPeer {
        let mut peer = RawPeer(self.0.accept().expect("a connection").0);
        peer.send(&[greeting_of(minor), ready("SUB", "")].concat());
        peer.read_exactly(64);
        let (flags, ready) = peer.read_frame();
        assert!(flags == COMMAND && ready.starts_with(b"\x05READY"));
        peer.send(subscription);
        peer
    }

    /// A publisher that has sent event a, and a PING behind it.
    fn asked(&self) -> (Program, RawPeer) {
        let mut publisher = self.publisher();
        publisher.types("a\n");
        let mut peer = self.met(1, &command("SUBSCRIBE", b""));
        read_event(&mut peer, "a");
        read_ping(&mut peer);
        (publisher, peer)
    }
}

fn read_event(peer: &mut RawPeer, data: &str) {
    assert_eq!(peer.read_message(), [b"Order", data.as_bytes()]);
}

fn read_ping(peer: &mut RawPeer) {
    let (flags, body) = peer.read_frame();
    assert!(
        flags == COMMAND && body.starts_with(b"\x04PING"),
        "{body:?}"
    );
}

#[test]
fn what_was_not_confirmed_may_be_lost_with_the_connection() {
    let taker = Taker::new();
    let (mut publisher, mut peer) = taker.asked();
    peer.send(&command("PONG", b""));
    publisher.types("b\n");
    read_event(&mut peer, "b");
    read_ping(&mut peer);
    // It doesn't answer, but asks itself, and what comes meanwhile waits behind the PING.
    peer.send(&command("PING", b"\0\0context"));
    assert_eq!(peer.read_frame(), (COMMAND, b"\x04PONGcontext".to_vec()));
    publisher.types("c\nd\n");
    read_event(&mut peer, "c");
    drop((peer, taker));
    publisher.ends_input();
    let complaint = publisher.end().failed(1);
    assert!(
        complaint.contains("3 of 4 events may be lost"),
        "{complaint}"
    );
}

#[test]
fn all_is_confirmed_before_it_ends() {
    let taker = Taker::new();
    let (mut publisher, mut peer) = taker.asked();
    publisher.types("b\n");
    publisher.ends_input();
    read_event(&mut peer, "b");
    peer.send(&command("PONG", b""));
    // That was the answer for the first alone.
    read_ping(&mut peer);
    peer.send(&command("PONG", b""));
    assert_eq!(publisher.end().done(), "");
    // Who knows no PING closes the connection when it has read all.
    let mut publisher = taker.publisher();
    publisher.types("a\n");
    let mut peer = taker.met(0, &frame(0, b"\x01"));
    read_event(&mut peer, "a");
    publisher.ends_input();
    assert_eq!(peer.read_to_end(), b"");
    drop(peer);
    assert_eq!(publisher.end().done(), "");
}

#[test]
fn a_daemon_that_is_killed_has_not_taken_all() {
    let daemon = TestDaemon::in_own_process(&json!({}));
    let site = Site::of(&daemon);
    let mut publisher = site.start(&["pub", "Order", "--wait", "2"]);
    publisher.types("1\n");
    daemon.wait_for("the first event", |status| status.publishers.events == 1);
    daemon.process().signal("STOP");
    publisher.types("2\n3\n");
    daemon.kill();
    publisher.ends_input();
    let complaint = publisher.end().failed(1);
    assert!(complaint.contains("of 3 events may be lost"), "{complaint}");
    assert!(!complaint.contains("0 of 3"), "{complaint}");
}
