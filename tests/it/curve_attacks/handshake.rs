//! Attacks before READY.

use std::time::Duration;

use crypto_box::{PublicKey, SalsaBox, SecretKey};
use serde_json::json;

use super::{Attacked, KNOWN, end_in_silence};
use crate::support::TestDaemon;
use crate::support::keys::{Keys, SERVER, pair};
use crate::support::raw::{COMMAND, RawPeer, frame};
use crate::support::raw_curve::{
    CurvePeer, INNER_COMMAND, Initiate, RawCurve, any_frame, curve_greeting, metadata,
};

/// A peer that said this after its greeting, and has read the daemon's.
fn greeted(address: &str, bytes: &[u8]) -> RawPeer {
    let mut peer = RawPeer::connect(address);
    peer.send(&curve_greeting());
    peer.send(bytes);
    assert_eq!(peer.read_exactly(64)[12..18], *b"CURVE\0");
    peer
}

fn hello(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut hello = RawCurve::new(KNOWN, SERVER).hello();
    change(&mut hello);
    any_frame(COMMAND, &hello)
}

/// A publisher whose INITIATE is changed after it was made.
fn initiated(address: &str, change: impl Fn(&mut Vec<u8>)) -> RawPeer {
    let (mut peer, says) = CurvePeer::welcomed_as(address, KNOWN, "PUB");
    let mut initiate = peer.curve.initiate(&says);
    change(&mut initiate);
    peer.raw.send(&any_frame(COMMAND, &initiate));
    peer.raw
}

/// A publisher that says something else than an honest one.
fn lied(address: &str, change: impl Fn(&mut Initiate)) -> RawPeer {
    let (mut peer, mut says) = CurvePeer::welcomed_as(address, KNOWN, "PUB");
    change(&mut says);
    peer.initiate(&says);
    peer.raw
}

/// libzmq's own tests of its security (test_security_curve).
#[test]
fn c01_changed_commands_of_the_handshake() {
    let mut attacked = Attacked::new();
    for address in [attacked.daemon.publishers(), attacked.daemon.requests()] {
        let greeted = |bytes: Vec<u8>| greeted(&address, &bytes);
        let peers = [
            ("HELLO cut off", greeted(frame(COMMAND, b"\x05HELLO"))),
            ("HELLX", greeted(hello(|hello| hello[5] = b'X'))),
            ("version 2", greeted(hello(|hello| hello[6] = 2))),
            ("INITIATE first", greeted(frame(COMMAND, b"\x08INITIATE"))),
            ("INITIXTE", initiated(&address, |body| body[5] = b'X')),
            (
                "INITIATE cut off",
                initiated(&address, |body| body.truncate(256)),
            ),
            ("the cookie", initiated(&address, |body| body[30] ^= 1)),
            ("its content", initiated(&address, |body| body[150] ^= 1)),
            (
                "its end",
                initiated(&address, |body| *body.last_mut().unwrap() ^= 1),
            ),
        ];
        attacked.refuses(&[("curve-malformed", 6), ("curve-forged", 3)]);
        end_in_silence(peers.map(|(what, peer)| (what.into(), peer)).into());
    }
    attacked.goes_on();
}

#[test]
fn c02_what_is_not_zmtp_3_or_noise() {
    let mut attacked = Attacked::new();
    let address = attacked.daemon.publishers();
    let mut old = RawPeer::connect(&address);
    old.send_while_heard(b"\x01\0\x08\0sneaky\0");
    attacked.refuses(&[("zmtp-too-old", 1)]);
    let mut version_2 = RawPeer::connect(&address);
    version_2.send_while_heard(&[&[0xFF][..], &[0; 7], &[1, 0x7F, 1, 1, 0, 0]].concat());
    attacked.refuses(&[("mechanism", 1)]);
    let mut plain = RawPeer::connect(&address);
    plain.send_while_heard(&crate::support::raw::greeting());
    attacked.refuses(&[("mechanism", 1)]);
    for n in 0..8u64 {
        let before: u64 = attacked.refused.values().sum();
        let mut peer = RawPeer::connect(&address);
        let mut noise = vec![0; 1 << 20];
        noise.iter_mut().fold(n + 1, |state, byte| {
            let state = state.wrapping_mul(6_364_136_223_846_793_005) + 1;
            *byte = (state >> 33) as u8;
            state
        });
        if n % 2 == 1 {
            noise[..64].copy_from_slice(&curve_greeting());
        }
        peer.send_while_heard(&noise);
        let more = |status: &event_manager_wire::api::Status| {
            status.peers.refused.values().sum::<u64>() == before + 1
        };
        attacked.refused = attacked.daemon.wait_for("a refusal", more).peers.refused;
    }
    assert_eq!(attacked.refused.values().sum::<u64>(), 11);
    attacked.goes_on();
}

/// CVE-2019-13132: libzmq copied as much metadata as was announced.
#[test]
fn c03_metadata_of_every_size() {
    let mut attacked = Attacked::new();
    let address = attacked.daemon.publishers();
    let of_bytes = |bytes: usize| {
        let socket_type = metadata(&[("Socket-Type", b"PUB")]);
        let padding = vec![b'x'; bytes - socket_type.len() - 10];
        [socket_type, metadata(&[("X-Pad", &padding)])].concat()
    };
    // The limit is 8,192 bytes for the frame: 9 of its header, 257 of INITIATE beside the metadata.
    for bytes in [512, 2048, 8192 - 9 - 257] {
        let (mut peer, says) = CurvePeer::welcomed(&address, KNOWN, &of_bytes(bytes));
        assert_eq!(says.metadata.len(), bytes);
        peer.initiate(&says);
        peer.is_ready();
    }
    let mut peers = vec![];
    for bytes in [8192 - 9 - 256, 8193, 1 << 20] {
        let (mut peer, says) = CurvePeer::welcomed(&address, KNOWN, &of_bytes(bytes));
        let initiate = peer.curve.initiate(&says);
        peer.raw.send_while_heard(&any_frame(COMMAND, &initiate));
        peers.push((bytes.to_string(), peer.raw));
    }
    let (mut peer, _) = CurvePeer::welcomed_as(&address, KNOWN, "PUB");
    peer.raw
        .send(&[&[6][..], &(1u64 << 31).to_be_bytes()].concat());
    attacked.refuses(&[("handshake-too-long", 4)]);
    // A property whose value is said to be longer than the metadata.
    peers.push((
        "cut off".into(),
        lied(&address, |says| says.metadata[12] = 0x80),
    ));
    attacked.refuses(&[("handshake-failed", 1)]);
    end_in_silence(peers);
    attacked.goes_on();
}

/// CVE-2019-6250, and rzmq's frames of 2^63 bytes.
#[test]
fn c04_lengths_that_nobody_has_memory_for() {
    let mut attacked = Attacked::new();
    let address = attacked.daemon.publishers();
    let mut peers = vec![];
    let before = attacked.daemon.process().resident_bytes();
    for (flags, length) in [
        (2, [0xFF; 8]),
        (6, [0xFF; 8]),
        (2, [0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]),
        (2, [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x98]),
    ] {
        let bytes = [&[flags][..], &length].concat();
        let reason = match flags {
            2 => "malformed",
            _ => "handshake-too-long",
        };
        peers.push((format!("{bytes:?}"), greeted(&address, &bytes)));
        attacked.refuses(&[(reason, 1)]);
        // And where messages are expected.
        let mut met = CurvePeer::met(&address, KNOWN, "PUB");
        met.raw.send(&bytes);
        attacked.refuses(&[("message-too-large", 1)]);
    }
    let grown = attacked
        .daemon
        .process()
        .resident_bytes()
        .saturating_sub(before);
    assert!(grown < 8 << 20, "{grown}");
    end_in_silence(peers);
    attacked.goes_on();
}

/// libzmq#1488.
#[test]
fn c05_a_signature_of_another_length() {
    let mut attacked = Attacked::new();
    let mut peer = RawPeer::connect(&attacked.daemon.publishers());
    peer.send_while_heard(&[&[0xFF; 8][..], &[0xDA, 0], &[b'A'; 5000]].concat());
    attacked.refuses(&[("zmtp-too-old", 1)]);
    attacked.goes_on();
}

/// libsodium's list of points of low order: whoever names one agrees with anybody.
fn low_order() -> Vec<[u8; 32]> {
    let mut points = vec![];
    for hex in [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ] {
        let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex");
        let point: [u8; 32] = std::array::from_fn(byte);
        let mut with_highest_bit = point;
        with_highest_bit[31] |= 0x80;
        points.extend([point, with_highest_bit]);
    }
    points
}

#[test]
fn c13_keys_of_low_order() {
    let mut attacked = Attacked::new();
    let address = attacked.daemon.publishers();
    let mut peers = vec![];
    for point in low_order() {
        let short_term = hello(|hello| hello[80..112].copy_from_slice(&point));
        peers.push((format!("C' {point:?}"), greeted(&address, &short_term)));
        // Any secret key agrees with it on the same: this vouch is as good as the owner's.
        let forged = lied(&address, |says| {
            says.named = PublicKey::from(point);
            says.vouching = SalsaBox::new(&says.named, &SecretKey::from([9; 32]));
        });
        peers.push((format!("C {point:?}"), forged));
    }
    attacked.refuses(&[("curve-low-order", peers.len() as u64)]);
    end_in_silence(peers);
    attacked.goes_on();
}

/// libzmq's server compares neither.
#[test]
fn c14_a_vouch_for_another_server_and_a_hello_of_anything() {
    let mut attacked = Attacked::new();
    let address = attacked.daemon.publishers();
    let other = PublicKey::from(*pair(99).public().as_bytes());
    let hello = RawCurve::new(KNOWN, SERVER).hello_with(&[1; 64]);
    let not_zeros = greeted(&address, &any_frame(COMMAND, &hello));
    let peers = [
        (
            "another server",
            lied(&address, |says| says.vouched[1] = other.clone()),
        ),
        (
            "another connection",
            lied(&address, |says| says.vouched[0] = other.clone()),
        ),
        (
            "another's key",
            lied(&address, |says| says.named = other.clone()),
        ),
        ("a HELLO that is not of zeros", not_zeros),
    ];
    attacked.refuses(&[("curve-vouch", 3), ("curve-malformed", 1)]);
    end_in_silence(peers.map(|(what, peer)| (what.into(), peer)).into());
    attacked.goes_on();
}

#[test]
fn c17_commands_twice_or_too_early() {
    let mut attacked = Attacked::new();
    let address = attacked.daemon.publishers();
    let mut peers = vec![];
    let (mut twice, _) = CurvePeer::welcomed_as(&address, KNOWN, "PUB");
    twice.raw.send(&hello(|_| {}));
    peers.push(("two HELLOs".into(), twice.raw));
    let initiate = [&b"\x08INITIATE"[..], &[0; 300]].concat();
    let first = greeted(&address, &any_frame(COMMAND, &initiate));
    peers.push(("INITIATE first".into(), first));
    attacked.refuses(&[("curve-malformed", 2)]);
    end_in_silence(peers);

    // Two INITIATEs: the first is good, and the second is no box.
    let (mut peer, says) = CurvePeer::welcomed_as(&address, KNOWN, "PUB");
    let initiate = any_frame(COMMAND, &peer.curve.initiate(&says));
    peer.raw.send(&[&initiate[..], &initiate].concat());
    peer.is_ready();
    attacked.refuses(&[("curve-plaintext", 1)]);
    attacked.goes_on();
}

#[test]
fn c17_an_initiate_after_the_time_is_up() {
    let keys = Keys::new();
    let mut attacked = Attacked::of(keys, |keys| {
        TestDaemon::in_own_process(&json!({
            "security": keys.security(&["curve"]), "handshakeTimeout": 1,
        }))
    });
    let address = attacked.daemon.publishers();
    let (mut late, says) = CurvePeer::welcomed_as(&address, KNOWN, "PUB");
    attacked.refuses(&[("handshake-timeout", 1)]);
    let initiate = late.curve.initiate(&says);
    late.raw.send_while_heard(&any_frame(COMMAND, &initiate));
    end_in_silence(vec![("too late".into(), late.raw)]);
    attacked.goes_on();
}

#[test]
fn c17_byte_by_byte_is_fine() {
    let mut attacked = Attacked::new();
    let mut raw = RawPeer::connect(&attacked.daemon.publishers());
    let slowly = |raw: &mut RawPeer, bytes: &[u8]| {
        for byte in bytes {
            raw.send(&[*byte]);
            std::thread::sleep(Duration::from_micros(200));
        }
    };
    slowly(&mut raw, &curve_greeting());
    let mut curve = RawCurve::new(KNOWN, SERVER);
    slowly(&mut raw, &any_frame(COMMAND, &curve.hello()));
    raw.read_exactly(64);
    let (_, welcome) = raw.read_frame();
    let says = curve.welcomed(&welcome, &metadata(&[("Socket-Type", b"PUB")]));
    let initiate = curve.initiate(&says);
    slowly(&mut raw, &any_frame(COMMAND, &initiate));
    let mut peer = CurvePeer { raw, curve };
    peer.is_ready();
    assert_eq!(peer.read(), (INNER_COMMAND, b"\x09SUBSCRIBE".to_vec()));
    let event = [
        peer.curve.message(1, b"Order"),
        peer.curve.message(0, b"slow"),
    ]
    .concat();
    slowly(&mut peer.raw, &event);
    assert_eq!(attacked.subscriber.message()[1], b"slow");
    attacked.refuses(&[]);
    attacked.goes_on();
}
