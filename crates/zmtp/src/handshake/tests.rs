//! Handshakes of each kind of peer.

use super::*;
use proptest::prelude::*;

fn started(local: LocalSocket) -> Handshake {
    Handshake::start(local, vec![Mechanism::Null], 8192, &mut BytesMut::new())
}

/// What a peer of this type sends.
fn peer_bytes(socket_type: &str, identity: &[u8]) -> Vec<u8> {
    let mut bytes = Greeting::encode("NULL", false).to_vec();
    let mut ready = b"\x05READY\x0bSocket-Type".to_vec();
    ready.extend_from_slice(&(socket_type.len() as u32).to_be_bytes());
    ready.extend_from_slice(socket_type.as_bytes());
    ready.extend_from_slice(b"\x08identity");
    ready.extend_from_slice(&(identity.len() as u32).to_be_bytes());
    ready.extend_from_slice(identity);
    bytes.extend_from_slice(&[4, ready.len() as u8]);
    bytes.extend_from_slice(&ready);
    bytes
}

/// What a peer of ZMTP 2.0 sends.
fn old_bytes(socket_type: u8, identity: &[u8]) -> Vec<u8> {
    let greeting = [0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F, 1, socket_type];
    [&greeting[..], &[0, identity.len() as u8], identity].concat()
}

fn error_in(out: &[u8]) -> bool {
    out.windows(6).any(|window| window == b"\x05ERROR")
}

proptest! {
    #[test]
    fn a_handshake_may_arrive_in_any_pieces(
        cuts in proptest::collection::vec(0usize..200, 0..8),
        old in any::<bool>(),
        identity in proptest::collection::vec(any::<u8>(), 0..=200),
        dialled in any::<bool>(),
    ) {
        let (mut bytes, version) = match old {
            true => (old_bytes(2, &identity), Version::V2_0),
            false => (peer_bytes("SUB", &identity), Version::V3_1),
        };
        bytes.extend_from_slice(b"\x00\x01\x01");
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut % bytes.len()).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut out = BytesMut::new();
        let mut handshake =
            Handshake::start(LocalSocket::Subscribers, vec![Mechanism::Null], 8192, &mut out);
        if dialled {
            handshake = handshake.dialled_by_peer();
        }
        let mut peer = None;
        let mut rest = BytesMut::new();
        let mut heard = 0;
        for piece in cuts.windows(2).map(|w| &bytes[w[0]..w[1]]) {
            // Nothing that only one version understands is said before it is known.
            prop_assert!(heard > 10 || out == Greeting::opening()[..]);
            heard += piece.len();
            match peer {
                None => peer = handshake.receive(piece, &mut out).unwrap(),
                Some(_) => rest.extend_from_slice(piece),
            }
        }
        let expected = Peer { socket_type: SocketType::Sub, identity: identity.into(), version, event_manager: None, hub: None, keys: None, plain: None };
        prop_assert_eq!(peer, Some(expected));
        prop_assert_eq!([&handshake.finish(&mut BytesMut::new()).0[..], &rest[..]].concat(), b"\x00\x01\x01".to_vec());
        let said = match old {
            true => [&Greeting::opening()[..], &[1, 0, 0]].concat(),
            false => Greeting::encode("NULL", false).to_vec(),
        };
        prop_assert_eq!(&out[..said.len()], &said[..]);
        prop_assert!(!old || out.len() == said.len());
    }

    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..300), greeted in any::<bool>()) {
        let mut input = if greeted { Greeting::encode("NULL", false).to_vec() } else { vec![] };
        input.extend(&noise);
        let _ = started(LocalSocket::Requests).receive(&input, &mut BytesMut::new());
        let old = [&old_bytes(3, b"")[..12], &noise].concat();
        let _ = started(LocalSocket::Requests).receive(&old, &mut BytesMut::new());
    }
}

#[test]
fn a_peer_of_the_wrong_kind_is_told() {
    for (local, welcome, wrong) in [
        (LocalSocket::Publishers, "PUB", "SUB"),
        (LocalSocket::Subscribers, "XSUB", "PUB"),
        (LocalSocket::Workers, "DEALER", "REP"),
        (LocalSocket::Requests, "REQ", "PUSH"),
    ] {
        let mut out = BytesMut::new();
        assert!(
            started(local)
                .receive(&peer_bytes(welcome, b""), &mut out)
                .unwrap()
                .is_some()
        );
        assert!(!error_in(&out));
        let error = started(local)
            .receive(&peer_bytes(wrong, b""), &mut out)
            .unwrap_err();
        assert_eq!(error.reason(), "wrong-socket-type");
        assert!(error.to_string().contains(wrong), "{error}");
        assert!(error_in(&out));
    }
}

#[test]
fn an_old_peer_is_told_by_its_number() {
    for (local, ours, welcome, unwelcome) in [
        (LocalSocket::Publishers, 2, [1, 9], [0, 2, 10, 11]),
        (LocalSocket::Subscribers, 1, [2, 10], [0, 1, 9, 11]),
        (LocalSocket::Workers, 6, [3, 5], [4, 7, 8, 255]),
        (LocalSocket::Requests, 6, [5, 6], [4, 7, 8, 255]),
    ] {
        for number in welcome {
            let mut out = BytesMut::new();
            let met = started(local).receive(&old_bytes(number, b""), &mut out);
            let peer = met.unwrap().unwrap();
            assert_eq!(SocketType::from_number(number), Some(peer.socket_type));
            assert_eq!(out[..], [ours, 0, 0]);
        }
        for number in unwelcome {
            let mut out = BytesMut::new();
            let met = started(local).receive(&old_bytes(number, b""), &mut out);
            assert_eq!(met.unwrap_err().reason(), "wrong-socket-type");
            assert!(!error_in(&out), "it knows no commands");
        }
    }
}

#[test]
fn handshakes_are_bounded() {
    let mut bytes = Greeting::encode("NULL", false).to_vec();
    bytes.extend_from_slice(&[6, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]);
    let error = started(LocalSocket::Workers)
        .receive(&bytes, &mut BytesMut::new())
        .unwrap_err();
    assert_eq!(error, HandshakeError::TooLong(8192));
}

#[test]
fn another_mechanism_is_refused_without_a_word() {
    let curve = Greeting::encode("CURVE", true);
    let refusal = HandshakeError::Mechanism("CURVE".into(), "NULL".into());
    let mut out = BytesMut::new();
    let mut dialling = started(LocalSocket::Workers);
    assert_eq!(dialling.receive(&curve, &mut out), Err(refusal.clone()));
    assert_eq!(out, Greeting::rest("NULL", false)[..]);
    // A peer that doesn't read of ours tries again.
    out.clear();
    let mut dialled = started(LocalSocket::Workers).dialled_by_peer();
    assert_eq!(dialled.receive(&curve, &mut out), Err(refusal));
    assert_eq!(out, b""[..]);
}

#[test]
fn who_is_dialled_names_its_mechanism_second_and_first_to_one_that_waits() {
    let bytes = peer_bytes("SUB", b"");
    let mut out = BytesMut::new();
    let mut waiting = started(LocalSocket::Subscribers).dialled_by_peer();
    assert_eq!(waiting.receive(&bytes[..63], &mut out), Ok(None));
    assert!(waiting.waits_for_mechanism() && out.is_empty());
    assert!(waiting.receive(&bytes[63..], &mut out).unwrap().is_some());
    assert!(out.starts_with(&Greeting::rest("NULL", false)));
    let said = out.split();

    let mut waiting = started(LocalSocket::Subscribers).dialled_by_peer();
    assert_eq!(waiting.receive(&bytes[..11], &mut out), Ok(None));
    waiting.go_first(&mut out);
    assert_eq!(out, Greeting::rest("NULL", false)[..]);
    assert!(!waiting.waits_for_mechanism());
    waiting.go_first(&mut out);
    assert!(waiting.receive(&bytes[11..], &mut out).unwrap().is_some());
    assert_eq!(out, said, "each part once");
}

/// What takes long waits until it is asked for, once for each command that does.
#[test]
fn keys_are_agreed_on_when_that_is_asked_for() {
    use crate::curve::{CurveClient, CurveServer, KeyPair};
    let own = KeyPair::from_secret([1; 32]);
    let client = CurveClient::new(KeyPair::from_secret([2; 32]), *own.public(), &[3; 48]);
    let client = Mechanism::CurveClient(Box::new(client.unwrap()));
    let server = CurveServer::new([own].as_slice().into(), &[4; 96]);
    let server = Mechanism::CurveServer(Box::new(server));
    let (mut sent, mut answered) = (BytesMut::new(), BytesMut::new());
    let mut dialling = Handshake::start(LocalSocket::Publishers, vec![client], 8192, &mut sent);
    let bound = vec![Mechanism::Null, server];
    let mut bound = Handshake::start(LocalSocket::Subscribers, bound, 8192, &mut answered);
    bound = bound.dialled_by_peer();
    let mut agreements = vec![];
    let mut progress = Progress::Waiting;
    while !matches!(progress, Progress::Met(_)) {
        assert_eq!(dialling.receive(&answered.split(), &mut sent), Ok(None));
        let input = sent.split();
        for piece in [&input[..input.len() / 2], &input[input.len() / 2..]] {
            progress = bound.take(piece, &mut answered).unwrap();
        }
        if let Progress::Agreement { is_first } = progress {
            assert!(agreements.is_empty() || !answered.starts_with(&[4]));
            agreements.push(is_first);
            assert_eq!(bound.take(b"", &mut answered), Ok(progress), "again");
            progress = bound.agree(&mut answered).unwrap();
        }
    }
    assert_eq!(agreements, [true, false]);
    bound.finish(&mut answered);
    let peer = dialling.receive(&answered, &mut sent).unwrap().unwrap();
    assert_eq!(peer.socket_type, SocketType::Xpub);
}

#[test]
fn two_of_ours_understand_each_other() {
    let (mut sent, mut answered) = (BytesMut::new(), BytesMut::new());
    let start = |local, out| Handshake::start(local, vec![Mechanism::Null], 8192, out);
    let mut dialling = start(LocalSocket::Publishers, &mut sent);
    let mut bound = start(LocalSocket::Subscribers, &mut answered).dialled_by_peer();
    let (mut theirs, mut ours) = (None, None);
    while theirs.is_none() || ours.is_none() {
        assert!(!sent.is_empty() || !answered.is_empty(), "both wait");
        if theirs.is_none() {
            theirs = bound.receive(&sent.split(), &mut answered).unwrap();
        }
        if ours.is_none() {
            ours = dialling.receive(&answered.split(), &mut sent).unwrap();
        }
    }
    assert_eq!(theirs.unwrap().socket_type, SocketType::Xsub);
    assert_eq!(ours.unwrap().socket_type, SocketType::Xpub);
}
