//! Attacks after READY, and with what was recorded.

use serde_json::json;

use super::{Attacked, KNOWN, UNKNOWN, end_in_silence};
use crate::support::TestDaemon;
use crate::support::keys::Keys;
use crate::support::raw::{COMMAND, MORE, RawPeer, command, frame};
use crate::support::raw_curve::{
    CurvePeer, INNER_COMMAND, INNER_MORE, RawCurve, any_frame, curve_greeting,
};

/// A publisher that has read what the daemon wants.
fn publisher(attacked: &Attacked) -> CurvePeer {
    let mut peer = CurvePeer::met(&attacked.daemon.publishers(), KNOWN, "PUB");
    assert_eq!(peer.read(), (INNER_COMMAND, b"\x09SUBSCRIBE".to_vec()));
    peer
}

/// The frames of an event, each in its box.
fn event(curve: &mut RawCurve, body: &[u8]) -> Vec<u8> {
    [curve.message(INNER_MORE, b"Order"), curve.message(0, body)].concat()
}

fn hears(attacked: &mut Attacked, body: &[u8]) {
    assert_eq!(
        attacked.subscriber.message(),
        [b"Order".to_vec(), body.to_vec()]
    );
}

/// A request for an event, without an id: nothing but the cookie tells it from a new one.
fn emit(curve: &mut RawCurve) -> Vec<u8> {
    let data = "\0memory\0Order\0recorded";
    let mut request = vec![];
    for text in ["", "TK_EVENT_MANAGER_EMIT", "2"] {
        request.extend_from_slice(&curve.message(INNER_MORE, text.as_bytes()));
    }
    request.extend_from_slice(&curve.message(0, data.as_bytes()));
    request
}

/// GHSA-qq65-x72m-9wr8, GHSA-4p5v and GHSA-wfr2: memory by subscriptions, by messages to who publishes,
/// and by messages that never end.
#[test]
fn c07_what_should_not_take_memory() {
    let keys = Keys::new();
    let mut attacked = Attacked::of(keys, |keys| keys.daemon(&["curve"]));
    let before = attacked.daemon.process().resident_bytes();
    let long = vec![b'a'; 1 << 20];
    for name in [&b"\x09SUBSCRIBE"[..], b"\x06CANCEL"] {
        let mut peer = CurvePeer::met(&attacked.daemon.subscribers(), KNOWN, "SUB");
        let message = peer.curve.message(INNER_COMMAND, &[name, &long].concat());
        peer.raw.send_while_heard(&message);
        if name.starts_with(b"\x09") {
            attacked.refuses(&[("subscription-too-long", 1)]);
        }
    }
    let mut peer = CurvePeer::met(&attacked.daemon.subscribers(), KNOWN, "SUB");
    for _ in 0..100 {
        peer.send(0, b"to whom?");
    }
    attacked.refuses(&[("message-to-publisher", 100)]);
    for _ in 0..100 {
        let mut half = publisher(&attacked);
        half.send(INNER_MORE, b"Order");
        half.send(INNER_MORE, &[7; 40_000]);
        let mut rest = half.curve.message(0, b"never as a whole");
        rest.pop();
        half.raw.send(&rest);
    }
    attacked
        .daemon
        .wait_for("their end", |status| status.connections.open <= 4);
    let grown = attacked
        .daemon
        .process()
        .resident_bytes()
        .saturating_sub(before);
    assert!(grown < 16 << 20, "{grown}");
    attacked.goes_on();
}

/// CVE-2014-7203 and CVE-2014-9721: nothing is taken twice.
#[test]
fn c09_messages_again_and_older_ones() {
    let mut attacked = Attacked::new();
    let mut again = publisher(&attacked);
    let once = event(&mut again.curve, b"once");
    again.raw.send(&[&once[..], &once].concat());
    hears(&mut attacked, b"once");
    attacked.refuses(&[("curve-replayed", 1)]);

    let mut older = publisher(&attacked);
    let first = event(&mut older.curve, b"first");
    let second = event(&mut older.curve, b"second");
    older.raw.send(&[second, first].concat());
    hears(&mut attacked, b"second");
    attacked.refuses(&[("curve-replayed", 1)]);
    end_in_silence(vec![
        ("again".into(), again.raw),
        ("older".into(), older.raw),
    ]);
    attacked.goes_on();
}

/// A cookie's key that outlived a connection took recordings (omq before 0.24).
#[test]
fn c09_a_recorded_connection_delivers_nothing() {
    let mut attacked = Attacked::new();
    for address in [attacked.daemon.publishers(), attacked.daemon.requests()] {
        let is_publisher = address == attacked.daemon.publishers();
        let socket_type = if is_publisher { "PUB" } else { "DEALER" };
        // What the client said, as it went over the wire.
        let mut curve = RawCurve::new(KNOWN, crate::support::keys::SERVER);
        let mut raw = RawPeer::connect(&address);
        let mut recorded = [curve_greeting(), any_frame(COMMAND, &curve.hello())].concat();
        raw.send(&recorded);
        raw.read_exactly(64);
        let (_, welcome) = raw.read_frame();
        let socket_type = [("Socket-Type", socket_type.as_bytes())];
        let metadata = crate::support::raw_curve::metadata(&socket_type);
        let says = curve.welcomed(&welcome, &metadata);
        let initiate = curve.initiate(&says);
        let said = match is_publisher {
            true => |curve: &mut RawCurve| event(curve, b"recorded"),
            false => emit,
        };
        let rest = [any_frame(COMMAND, &initiate), said(&mut curve)].concat();
        raw.send(&rest);
        recorded.extend_from_slice(&rest);
        hears(&mut attacked, b"recorded");
        attacked.refuses(&[]);

        // On new connections: at once, in its turns, while the first lives, and after it.
        let mut first = Some(raw);
        for _ in 0..2 {
            let mut at_once = RawPeer::connect(&address);
            at_once.send(&recorded);
            at_once.read_exactly(64 + 170);
            let mut in_turns = RawPeer::connect(&address);
            in_turns.send(&recorded[..64 + 202]);
            in_turns.read_exactly(64 + 170);
            in_turns.send(&recorded[64 + 202..]);
            attacked.refuses(&[("curve-forged", 2)]);
            end_in_silence(vec![
                ("at once".into(), at_once),
                ("in turns".into(), in_turns),
            ]);
            first.take();
        }
    }
    attacked.goes_on();
}

#[test]
fn c09_messages_of_other_connections_and_our_own() {
    let mut attacked = Attacked::new();
    let (mut one, mut other) = (publisher(&attacked), publisher(&attacked));
    let of_one = event(&mut one.curve, b"of one");
    other.raw.send(&of_one);
    attacked.refuses(&[("curve-forged", 1)]);
    one.raw.send(&of_one);
    hears(&mut attacked, b"of one");

    // What the daemon says to a subscriber that says it to the publishers' port, and to its own.
    let mut reflecting = CurvePeer::met(&attacked.daemon.subscribers(), KNOWN, "SUB");
    reflecting.send(INNER_COMMAND, b"\x09SUBSCRIBEOrder");
    attacked.daemon.wait_for_subscriptions(2);
    attacked.publisher.publish("Order", b"to be sent back");
    hears(&mut attacked, b"to be sent back");
    let (flags, body) = reflecting.raw.read_frame();
    let mut counted_up = body.clone();
    counted_up[8..16].copy_from_slice(&1000u64.to_be_bytes());
    reflecting.raw.send(&any_frame(flags, &counted_up));
    attacked.refuses(&[("curve-forged", 1)]);
    attacked.goes_on();
}

#[test]
fn c09_nothing_comes_after_the_last_counter() {
    let mut attacked = Attacked::new();
    let mut peer = publisher(&attacked);
    let sealed = |peer: &CurvePeer, counter, content: &[u8]| {
        any_frame(0, &peer.curve.sealed(counter, content))
    };
    let last = [
        sealed(&peer, u64::MAX - 1, b"\x01Order"),
        sealed(&peer, u64::MAX, b"\0the last"),
    ];
    peer.raw.send(&last.concat());
    hears(&mut attacked, b"the last");
    for counter in [0, 1, u64::MAX] {
        let bytes = sealed(&peer, counter, b"\0one more");
        peer.raw.send_while_heard(&bytes);
    }
    attacked.refuses(&[("curve-replayed", 1)]);
    attacked.goes_on();
}

/// A session that began in boxes goes on in boxes (omq 9cce84d).
#[test]
fn c10_plaintext_after_the_handshake() {
    let mut attacked = Attacked::new();
    for bytes in [
        command("SUBSCRIBE", b""),
        command("PING", b"\0\0ctx"),
        frame(0, b"\x01A"),
        [frame(MORE, b"Order"), frame(0, b"plain")].concat(),
        command("READY", b"\x0bSocket-Type\0\0\0\x03PUB"),
        command("ERROR", b"\x02no"),
    ] {
        let addresses = [attacked.daemon.publishers(), attacked.daemon.subscribers()];
        for (address, kind) in addresses.iter().zip(["PUB", "SUB"]) {
            let mut peer = CurvePeer::met(address, KNOWN, kind);
            if kind == "PUB" {
                peer.read();
            }
            peer.raw.send(&bytes);
            attacked.refuses(&[("curve-plaintext", 1)]);
            end_in_silence(vec![(format!("{bytes:?}"), peer.raw)]);
        }
    }
    attacked.daemon.wait_for_subscriptions(1);
    attacked.goes_on();
}

/// Both forms of subscriptions are read (omq PR#42), and an empty one (netmq#910).
#[test]
fn c11_subscriptions_of_both_forms() {
    let mut attacked = Attacked::new();
    for (flags, subscribe, cancel) in [
        (INNER_COMMAND, &b"\x09SUBSCRIBE"[..], &b"\x06CANCEL"[..]),
        (0, b"\x01", b"\0"),
    ] {
        for prefix in [&b""[..], b"Order", b"Order\0key"] {
            let mut peer = CurvePeer::met(&attacked.daemon.subscribers(), KNOWN, "SUB");
            peer.send(flags, &[subscribe, prefix].concat());
            attacked.daemon.wait_for_subscriptions(2);
            let subject = "Order\0key";
            attacked.publisher.publish(subject, b"1");
            assert_eq!(peer.read(), (INNER_MORE, subject.as_bytes().to_vec()));
            assert_eq!(peer.read(), (0, b"1".to_vec()));
            assert_eq!(attacked.subscriber.message()[0], subject.as_bytes());
            peer.send(flags, &[cancel, prefix].concat());
            attacked.daemon.wait_for_subscriptions(1);
        }
    }
    attacked.refuses(&[]);
    attacked.goes_on();
}

#[test]
fn c12_frames_and_boxes_with_unknown_flags() {
    let mut attacked = Attacked::new();
    let sealed = |content: &[u8]| {
        let peer = publisher(&attacked);
        let body = peer.curve.sealed(peer.curve.counter + 1, content);
        (peer, body)
    };
    let mut peers = vec![];
    let mut expected = vec![];
    for inner in [3, 4, 0x80] {
        let (mut peer, body) = sealed(&[inner, b'x']);
        peer.raw.send(&any_frame(0, &body));
        peers.push((format!("inner {inner}"), peer.raw));
        expected.push(("curve-malformed", 1));
    }
    let (mut peer, body) = sealed(b"");
    assert_eq!(body.len(), 16 + 16);
    peer.raw.send(&any_frame(0, &body));
    peers.push(("no flags".into(), peer.raw));
    expected.push(("curve-malformed", 1));
    for (outer, reason) in [(1, "curve-plaintext"), (5, "malformed"), (8, "malformed")] {
        let (mut peer, body) = sealed(b"\0x");
        peer.raw.send(&any_frame(outer, &body));
        peers.push((format!("outer {outer}"), peer.raw));
        expected.push((reason, 1));
    }
    attacked.refuses(&expected);
    end_in_silence(peers);
    // An empty body is fine, and so is RFC 37's way to send.
    let mut peer = publisher(&attacked);
    let frames = [
        any_frame(COMMAND, &peer.curve.sealed(3, b"\x01Order")),
        any_frame(0, &peer.curve.sealed(4, b"\0")),
    ];
    peer.raw.send(&frames.concat());
    hears(&mut attacked, b"");
    attacked.goes_on();
}

/// March 2026, libzmq ba63f037: what came with an INITIATE was read before it was refused.
#[test]
fn c15_an_unknown_key_with_much_to_say() {
    let mut attacked = Attacked::new();
    let mut peers = vec![];
    let (mut peer, says) = CurvePeer::welcomed_as(&attacked.daemon.publishers(), UNKNOWN, "PUB");
    let mut bytes = any_frame(COMMAND, &peer.curve.initiate(&says));
    for n in 0..1000u32 {
        bytes.extend_from_slice(&event(&mut peer.curve, &n.to_be_bytes()));
    }
    peer.raw.send(&bytes);
    peers.push(("a publisher".to_owned(), peer.raw));
    let (mut peer, says) = CurvePeer::welcomed_as(&attacked.daemon.subscribers(), UNKNOWN, "SUB");
    let mut bytes = any_frame(COMMAND, &peer.curve.initiate(&says));
    bytes.extend_from_slice(&peer.curve.message(INNER_COMMAND, b"\x09SUBSCRIBE"));
    peer.raw.send(&bytes);
    peers.push(("a subscriber".to_owned(), peer.raw));
    attacked.refuses(&[("unknown-key", 2)]);
    attacked.publisher.publish("Order", b"not for them");
    hears(&mut attacked, b"not for them");
    end_in_silence(peers);
    let status = attacked.daemon.status();
    assert_eq!(status.subscribers.subscriptions, 1);
    assert_eq!(status.subscribers.counters.matched, 1);
    attacked.goes_on();
}

/// libzmq 4.0 counts in little-endian numbers (libzmq#1551).
#[test]
fn c16_counters_in_the_other_order() {
    let mut attacked = Attacked::of(Keys::new(), |keys| {
        TestDaemon::in_own_process(&json!({"security": keys.security(&["curve"])}))
    });
    let address = attacked.daemon.publishers();
    let (mut peer, mut says) = CurvePeer::welcomed_as(&address, KNOWN, "PUB");
    says.counter = 2u64.swap_bytes();
    peer.initiate(&says);
    peer.is_ready();
    for counter in 3..=256u64 {
        let flags = if counter % 2 == 1 { INNER_MORE } else { 0 };
        let content = [&[flags][..], b"Order"].concat();
        let sealed = peer.curve.sealed(counter.swap_bytes(), &content);
        peer.raw.send(&any_frame(0, &sealed));
    }
    attacked.refuses(&[("curve-replayed", 1)]);
    for _ in (3..255).step_by(2) {
        hears(&mut attacked, b"Order");
    }
    attacked.goes_on();
}
