//! Both sides against each other, and what others send in their place.

use proptest::prelude::*;

use super::boxes::Nonce;
use super::stream::OpenError;
use super::*;
use crate::frame::{COMMAND, FrameError, FrameHeader, LONG, MORE, encode_frame, put_command};
use bytes::BytesMut;

const BODY_BYTES_MAX: usize = 1 << 20;

fn pair(byte: u8) -> KeyPair {
    KeyPair::from_secret([byte; KEY_BYTES])
}

fn server(keys: &[KeyPair]) -> CurveServer {
    CurveServer::new(keys.into(), &[0x51; SERVER_RANDOM_BYTES])
}

fn client(ours: u8, server: u8) -> CurveClient {
    let server = *pair(server).public();
    CurveClient::new(pair(ours), server, &[0x43; CLIENT_RANDOM_BYTES]).unwrap()
}

/// Both sides after a handshake: of the client, of the server.
fn met() -> (Session, Session) {
    let (mut server, mut client) = (server(&[pair(1)]), client(2, 1));
    let welcome = server.hello(&client.hello()).unwrap();
    let initiate = client.welcome(&welcome, b"of the client").unwrap();
    let initiated = server.initiate(&initiate).unwrap();
    assert_eq!(initiated.client, *pair(2).public());
    assert_eq!(initiated.server, *pair(1).public());
    assert_eq!(initiated.metadata, b"of the client");
    let (ready, of_server) = initiated.agreed.ready(b"of the server");
    let (metadata, of_client) = client.ready(&ready).unwrap();
    assert_eq!(metadata, b"of the server");
    (of_client, of_server)
}

/// Frames of a message, and of a command.
fn frames(bodies: &[(u8, &[u8])]) -> BytesMut {
    let mut out = BytesMut::new();
    for (flags, body) in bodies {
        match *flags {
            COMMAND => put_command(&mut out, body),
            flags => encode_frame(&mut out, body, flags & MORE != 0),
        }
    }
    out
}

fn sealed(sealer: &mut Sealer, plain: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    assert_eq!(sealer.seal(plain, &mut out, usize::MAX), Ok(plain.len()));
    out
}

/// What an opener makes of these bytes, all at once.
fn opened(opener: &mut Opener, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    let mut bytes = sealed.to_vec();
    let opened = opener.open(&mut bytes, 0, 0, BODY_BYTES_MAX);
    let opened = opened.map_err(|refused| refused.error)?;
    bytes.truncate(opened.plain_end);
    Ok(bytes)
}

/// A box with these flags and content, sealed as the sealer's side would.
fn boxed(sealer: &mut Sealer, outer: u8, content: &[u8]) -> Vec<u8> {
    let mut frame = sealed(sealer, &frames(&[(0, content)])).to_vec();
    frame[0] |= outer;
    frame
}

#[test]
fn what_is_sealed_is_opened_in_both_directions() {
    let (mut client, mut server) = met();
    let plain = frames(&[
        (MORE, b"Order"),
        (0, &[7; 300]),
        (COMMAND, b"\x04PING\0\0"),
        (0, b""),
        (0, &[9; 222]),
        (0, &[9; 223]),
    ]);
    for _ in 0..3 {
        let there = sealed(&mut client.sealer, &plain);
        assert_eq!(opened(&mut server.opener, &there).unwrap(), plain);
        let back = sealed(&mut server.sealer, &plain);
        assert_eq!(opened(&mut client.opener, &back).unwrap(), plain);
        assert_ne!(there, back);
    }
}

#[test]
fn a_box_is_opened_once_and_in_order() {
    let (mut client, mut server) = met();
    let boxes: Vec<_> = (0..4u8)
        .map(|n| boxed(&mut client.sealer, 0, &[n]))
        .collect();
    opened(&mut server.opener, &boxes[1]).unwrap();
    let replayed = Err(OpenError::Curve(CurveError::Replayed));
    assert_eq!(opened(&mut server.opener, &boxes[1]), replayed);
    assert_eq!(opened(&mut server.opener, &boxes[0]), replayed);
    assert_eq!(
        opened(&mut server.opener, &boxes[3]).unwrap(),
        [0, 1, 3],
        "libzmq leaves gaps, too"
    );
    // What is not genuine moves no counter.
    let mut highest = boxed(&mut client.sealer, 0, b"x");
    highest[10..18].fill(0xFF);
    let forged = Err(OpenError::Curve(CurveError::Forged));
    assert_eq!(opened(&mut server.opener, &highest), forged);
    let next = boxed(&mut client.sealer, 0, b"y");
    assert_eq!(opened(&mut server.opener, &next).unwrap(), b"\0\x01y");
}

#[test]
fn boxes_of_others_are_refused() {
    let (mut client, mut server) = met();
    let forged = Err(OpenError::Curve(CurveError::Forged));
    let own = boxed(&mut server.sealer, 0, b"ours");
    let mut own_later = own.clone();
    own_later[10..18].copy_from_slice(&9u64.to_be_bytes());
    assert_eq!(opened(&mut server.opener, &own_later), forged, "sent back");

    let mut other = self::server(&[pair(1)]);
    let mut another = CurveClient::new(pair(2), *pair(1).public(), &[0x77; 48]).unwrap();
    let welcome = other.hello(&another.hello()).unwrap();
    let initiate = another.welcome(&welcome, b"").unwrap();
    let (ready, _) = other.initiate(&initiate).unwrap().agreed.ready(b"");
    let (_, mut another) = another.ready(&ready).unwrap();
    let of_another = boxed(&mut another.sealer, 0, b"of another connection");
    assert_eq!(opened(&mut server.opener, &of_another), forged);

    let good = boxed(&mut client.sealer, 0, b"good");
    for bit in 16..good.len() * 8 {
        let mut changed = good.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        opened(&mut server.opener, &changed).unwrap_err();
    }
    opened(&mut server.opener, &good).unwrap();
}

#[test]
fn what_is_not_in_a_box_is_refused() {
    let (mut client, mut server) = met();
    let plaintext = Err(OpenError::Curve(CurveError::Plaintext));
    for bytes in [
        &b"\0\x01A"[..],
        b"\x04\x0a\x09SUBSCRIBE",
        b"\x04\x07\x04PING\0\0",
        b"\0\x0f\x07MESSAGE\0\0\0\0\0\0\0",
        b"\x01\x05event",
    ] {
        assert_eq!(opened(&mut server.opener, bytes), plaintext, "{bytes:?}");
    }
    let flags = Err(OpenError::Frame(FrameError::Flags(8)));
    let frame = boxed(&mut client.sealer, 8, b"x");
    assert_eq!(opened(&mut server.opener, &frame), flags);
    let frame = boxed(&mut client.sealer, MORE, b"x");
    assert_eq!(opened(&mut server.opener, &frame), plaintext);
    // As RFC 37 has it.
    let frame = boxed(&mut client.sealer, COMMAND, b"x");
    assert_eq!(opened(&mut server.opener, &frame).unwrap(), b"\0\x01x");
}

#[test]
fn flags_in_a_box_are_known() {
    for (flags, expected) in [
        (0, Some(0)),
        (1, Some(MORE)),
        (2, Some(COMMAND)),
        (3, None),
        (4, None),
        (0x80, None),
    ] {
        let (client, mut server) = met();
        let sealed = client.sealer.box_of(&[flags, b'x']);
        let found = opened(&mut server.opener, &sealed);
        match expected {
            Some(flags) => assert_eq!(found.unwrap(), [flags, 1, b'x']),
            None => drop(found.unwrap_err()),
        }
    }
}

#[test]
fn a_box_without_flags_is_refused() {
    let (client, mut server) = met();
    let empty = client.sealer.box_of(b"");
    let refused = CurveError::Malformed("a box has no flags").into();
    assert_eq!(opened(&mut server.opener, &empty), Err(refused));
}

#[test]
fn a_frame_that_is_too_large_is_refused_by_its_header() {
    let (_, mut server) = met();
    let header = [&[LONG][..], &(1u64 << 40).to_be_bytes()].concat();
    let content_bytes = (1 << 40) - SEALED_EXTRA_BYTES as u64;
    let refused = FrameError::MessageTooLarge(content_bytes, BODY_BYTES_MAX).into();
    assert_eq!(opened(&mut server.opener, &header), Err(refused));
    let header = [&[LONG][..], &[0xFF; 8]].concat();
    opened(&mut server.opener, &header).unwrap_err();
}

/// As without encryption: who scans them takes the first and refuses the other, which is never there.
#[test]
fn frames_in_front_of_one_that_is_refused_are_opened() {
    let (mut client, mut server) = met();
    let plain = frames(&[(MORE, b"topic"), (0, &[7; 300])]);
    let mut sent = sealed(&mut client.sealer, &plain).to_vec();
    sent.extend_from_slice(&[LONG]);
    sent.extend_from_slice(&(1u64 << 40).to_be_bytes());
    let refused = server.opener.open(&mut sent, 0, 0, BODY_BYTES_MAX);
    let refused = refused.unwrap_err();
    let (opened, header) = sent[..refused.plain_end].split_at(plain.len());
    assert_eq!(opened, plain);
    let header = FrameHeader::parse(header).unwrap().unwrap();
    let content_bytes = (1 << 40) - SEALED_EXTRA_BYTES as u64;
    assert_eq!((header.body_bytes, header.more()), (content_bytes, false));

    let (mut client, mut server) = met();
    let mut sent = sealed(&mut client.sealer, &plain).to_vec();
    let mut forged = boxed(&mut client.sealer, 0, b"event");
    *forged.last_mut().unwrap() ^= 1;
    sent.extend_from_slice(&forged);
    let refused = server.opener.open(&mut sent, 0, 0, BODY_BYTES_MAX);
    let refused = refused.unwrap_err();
    assert_eq!(refused.error, CurveError::Forged.into());
    assert_eq!(sent[..refused.plain_end], plain);
}

#[test]
fn counters_end() {
    let (mut client, _) = met();
    client.sealer.last = u64::MAX;
    let mut out = BytesMut::new();
    let result = client.sealer.seal(b"\0\x01x", &mut out, 100);
    assert_eq!((result, out.len()), (Err(CurveError::Exhausted), 0));
}

#[test]
fn a_batch_ends_between_frames() {
    let (mut client, mut server) = met();
    let plain = frames(&[(MORE, &[1; 60]), (0, &[2; 60]), (0, &[3; 60])]);
    let mut out = BytesMut::new();
    assert_eq!(client.sealer.seal(&plain, &mut out, 100), Ok(124));
    assert_eq!(opened(&mut server.opener, &out).unwrap(), plain[..124]);
    assert_eq!(client.sealer.seal(&plain[124..], &mut out, 100), Ok(0));
    out.clear();
    assert_eq!(client.sealer.seal(&plain[124..180], &mut out, 100), Ok(0));
}

#[test]
fn any_of_a_server_s_keys_may_have_been_given() {
    for (given, expected) in [(1, Ok(0)), (3, Ok(1)), (4, Err(CurveError::WrongServerKey))] {
        let keys = [pair(1), pair(3)];
        let mut server = server(&keys);
        let mut client = client(2, given);
        let welcome = server.hello(&client.hello());
        let initiated = welcome.map(|welcome| {
            let initiate = client.welcome(&welcome, b"").unwrap();
            server.initiate(&initiate).unwrap().server
        });
        assert_eq!(initiated, expected.map(|i: usize| *keys[i].public()));
    }
}

#[test]
fn each_command_comes_once_and_in_its_turn() {
    let hello = client(2, 1).hello();
    let mut server = server(&[pair(1)]);
    assert!(server.initiate(&hello).is_err(), "INITIATE first");
    let mut server = self::server(&[pair(1)]);
    server.hello(&hello).unwrap();
    assert!(server.hello(&hello).is_err(), "two HELLOs");
    let mut server = self::server(&[pair(1)]);
    let mut client = client(2, 1);
    let welcome = server.hello(&hello).unwrap();
    let initiate = client.welcome(&welcome, b"").unwrap();
    server.initiate(&initiate).unwrap();
    assert!(server.initiate(&initiate).is_err(), "two INITIATEs");
    assert!(client.welcome(&welcome, b"").is_err(), "two WELCOMEs");
}

/// The attacks of libzmq's own tests, and each single changed bit.
#[test]
fn a_changed_handshake_fails() {
    let hello = client(2, 1).hello();
    for bit in (0..8 * 8).chain(80 * 8..hello.len() * 8) {
        let mut changed = hello.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        // The highest bit of a key doesn't count.
        let is_key = bit / 8 == 111 && bit % 8 == 7;
        let result = server(&[pair(1)]).hello(&changed);
        assert_eq!(result.is_ok(), is_key, "{bit}");
    }
    for len in 0..hello.len() {
        server(&[pair(1)]).hello(&hello[..len]).unwrap_err();
    }
    let initiate = |change: &dyn Fn(&mut Vec<u8>)| {
        let (mut server, mut client) = (server(&[pair(1)]), client(2, 1));
        let welcome = server.hello(&client.hello()).unwrap();
        let mut initiate = client.welcome(&welcome, b"metadata").unwrap();
        change(&mut initiate);
        server.initiate(&initiate)
    };
    let bytes = INITIATE_BYTES_MIN + 8;
    for bit in 0..bytes * 8 {
        initiate(&|body| body[bit / 8] ^= 1 << (bit % 8)).unwrap_err();
    }
    for len in 0..bytes {
        initiate(&|body| body.truncate(len)).unwrap_err();
    }
    initiate(&|_| {}).unwrap();
}

#[test]
fn a_recorded_handshake_is_worth_nothing_on_another_connection() {
    let (mut recorded, mut client) = (server(&[pair(1)]), client(2, 1));
    let hello = client.hello();
    let welcome = recorded.hello(&hello).unwrap();
    let initiate = client.welcome(&welcome, b"").unwrap();
    let mut other = CurveServer::new([pair(1)].as_slice().into(), &[0x52; 96]);
    other.hello(&hello).unwrap();
    assert_eq!(other.initiate(&initiate).unwrap_err(), CurveError::Forged);
}

#[test]
fn a_vouch_is_for_one_server_and_one_connection() {
    // A server that the client trusts hands the vouch on to another: it names the first.
    let (mut first, mut trusting) = (server(&[pair(1)]), client(2, 1));
    let welcome = first.hello(&trusting.hello()).unwrap();
    let initiate = trusting.welcome(&welcome, b"").unwrap();
    let mut other = server(&[pair(5)]);
    // The same random bytes give the same short-term keys: all but the server's long-term key fits.
    other
        .hello(&{
            let mut same = CurveClient::new(pair(2), *pair(5).public(), &[0x43; 48]).unwrap();
            let hello = same.hello();
            let welcome = server(&[pair(5)]).hello(&hello).unwrap();
            same.welcome(&welcome, b"").unwrap();
            hello
        })
        .unwrap();
    assert_eq!(other.initiate(&initiate).unwrap_err(), CurveError::Vouch);
}

#[test]
fn an_initiate_counts_on_from_hello() {
    let (mut server, mut client) = (server(&[pair(1)]), client(2, 1));
    let welcome = server.hello(&client.hello()).unwrap();
    let initiate = client.welcome(&welcome, b"").unwrap();
    server.counter = 2;
    assert_eq!(
        server.initiate(&initiate).unwrap_err(),
        CurveError::Replayed
    );
}

#[test]
fn keys_of_low_order_are_refused() {
    let zeros = PublicKey::from_bytes([0; KEY_BYTES]);
    let refused = CurveClient::new(pair(2), zeros, &[1; CLIENT_RANDOM_BYTES]);
    assert_eq!(refused.unwrap_err(), CurveError::LowOrder);
    let mut hello = client(2, 1).hello();
    hello[80..112].fill(0);
    assert_eq!(
        server(&[pair(1)]).hello(&hello),
        Err(CurveError::LowOrder),
        "C'"
    );
    // S', from a server that owns the long-term key.
    let mut trusting = client(2, 1);
    let hello = trusting.hello();
    let short_term = PublicKey::from_bytes(*hello[80..].first_chunk().unwrap());
    let agreed = pair(1).agree(&short_term).unwrap();
    let nonce = Nonce::random(WELCOME_NONCE, &[1; 16]);
    let sealed = agreed.sealed(&nonce, &[zeros.as_bytes(), &[0; COOKIE_BYTES]]);
    let welcome = [b"\x07WELCOME", &[1; 16][..], &sealed].concat();
    assert_eq!(trusting.welcome(&welcome, b""), Err(CurveError::LowOrder));
}

proptest! {
    #[test]
    fn boxes_may_arrive_in_any_pieces(
        bodies in proptest::collection::vec((0usize..3, 0usize..700), 1..12),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
    ) {
        let (mut client, mut server) = met();
        let mut plain = BytesMut::new();
        for (n, (kind, len)) in bodies.iter().enumerate() {
            let body = vec![n as u8; *len];
            plain.extend_from_slice(&frames(&[([0, MORE, COMMAND][*kind], &body)]));
        }
        let sealed = sealed(&mut client.sealer, &plain);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(sealed.len())).collect();
        cuts.extend([0, sealed.len()]);
        cuts.sort_unstable();
        let mut bytes = Vec::new();
        let (mut plain_end, mut sealed_from) = (0, 0);
        for piece in cuts.windows(2) {
            bytes.extend_from_slice(&sealed[piece[0]..piece[1]]);
            let opened = server.opener.open(&mut bytes, plain_end, sealed_from, BODY_BYTES_MAX).unwrap();
            prop_assert!(opened.plain_end <= opened.sealed_from);
            prop_assert!(opened.missing > 0 && opened.missing <= sealed.len() - piece[1] + 1);
            (plain_end, sealed_from) = (opened.plain_end, opened.sealed_from);
        }
        prop_assert_eq!(sealed_from, sealed.len());
        prop_assert_eq!(&bytes[..plain_end], &plain[..]);
    }

    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..500)) {
        let (_, mut of_server) = met();
        let _ = opened(&mut of_server.opener, &noise);
        let mut server = server(&[pair(1)]);
        let _ = server.hello(&noise);
        let mut server = self::server(&[pair(1)]);
        let mut client = client(2, 1);
        let _ = server.hello(&client.hello()).unwrap();
        let _ = server.initiate(&[b"\x08INITIATE", &noise[..]].concat());
        let _ = client.welcome(&[b"\x07WELCOME", &noise[..]].concat(), b"");
    }
}
