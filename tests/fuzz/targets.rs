//! What is fuzzed. Each target states what holds for every input; `cargo test` replays the corpora
//! through the same functions (`tests/it/corpora.rs`).

mod security;

use std::collections::BTreeMap;

use bytes::{Buf, Bytes, BytesMut};
use event_manager::config;
use event_manager_wire::messagebus::{DataType, Layout, Message, decode, encode, split_envelope};
use event_manager_zmtp::Limits;
use event_manager_zmtp::{
    Command, FrameError, GREETING_BYTES, Handshake, HandshakeError, LocalSocket, Mechanism,
    OLD_GREETING_BYTES, Peer, Scanner, Step, Subscription, Version, encode_message, frames_of,
};
use serde_json::Value;

pub use security::{boxes, certificates, curve_client, curve_server, rights, z85_texts};

/// Input that arrives in pieces: a count, so many piece lengths (which repeat), then the bytes.
fn in_pieces(input: &[u8]) -> Option<(Vec<&[u8]>, &[u8])> {
    let (&count, rest) = input.split_first()?;
    let (lengths, whole) = rest.split_at_checked(usize::from(count))?;
    let mut lengths = lengths.iter().map(|&len| usize::from(len).max(1)).cycle();
    let (mut pieces, mut left) = (vec![], whole);
    while !left.is_empty() {
        let len = lengths.next().unwrap_or(left.len()).min(left.len());
        let (piece, after) = left.split_at(len);
        pieces.push(piece);
        left = after;
    }
    Some((pieces, whole))
}

const HANDSHAKE_BYTES_MAX: usize = 256;

/// How a handshake ended, what it sent, and the bytes that it left.
type Met = (Option<Result<Peer, HandshakeError>>, BytesMut, Vec<u8>);

fn shake_hands(local: LocalSocket, pieces: &[&[u8]]) -> Met {
    let mut out = BytesMut::new();
    let mut handshake =
        Handshake::start(local, vec![Mechanism::Null], HANDSHAKE_BYTES_MAX, &mut out);
    let mut taken = 0;
    for (i, piece) in pieces.iter().enumerate() {
        let undecided = taken;
        taken += piece.len();
        let ended = match handshake.receive(piece, &mut out) {
            Ok(None) => continue,
            Ok(Some(peer)) => Ok(peer),
            Err(error) => Err(error),
        };
        assert!(undecided < GREETING_BYTES + HANDSHAKE_BYTES_MAX);
        let rest = [&handshake.finish(&mut out).0[..], &pieces[i + 1..].concat()].concat();
        return (Some(ended), out, rest);
    }
    assert!(taken < GREETING_BYTES + HANDSHAKE_BYTES_MAX);
    (None, out, vec![])
}

/// What a peer of ZMTP 2.0 said, and what it was told: nothing that it could take for a message.
fn check_old(peer: &Peer, taken: &[u8], out: &[u8]) {
    assert!((1..=2).contains(&taken[10]));
    let [0 | 2, rest @ ..] = &taken[OLD_GREETING_BYTES..] else {
        panic!("its identity is a frame of its own: {taken:?}");
    };
    let header = if taken[OLD_GREETING_BYTES] == 0 { 1 } else { 8 };
    let len = rest[..header]
        .iter()
        .fold(0, |sum, &byte| sum << 8 | u64::from(byte));
    assert_eq!(
        (len, &rest[header..]),
        (peer.identity.len() as u64, &peer.identity[..])
    );
    assert_eq!(out.len(), OLD_GREETING_BYTES + 2);
    assert!(out[10] == 3 && (1..=8).contains(&out[11]) && out[12..] == [0, 0]);
}

/// Greeting and handshake: it makes no difference in which pieces they arrive, an undecided
/// handshake holds few bytes, and whoever gets in is one of those who may.
pub fn handshake(input: &[u8]) {
    let locals = [
        LocalSocket::Publishers,
        LocalSocket::Subscribers,
        LocalSocket::Workers,
        LocalSocket::Requests,
    ];
    let Some((&local, input)) = input.split_first() else {
        return;
    };
    let local = locals[usize::from(local) % locals.len()];
    let Some((pieces, whole)) = in_pieces(input) else {
        return;
    };
    let (ended, out, rest) = shake_hands(local, &pieces);
    let (at_once, out_at_once, rest_at_once) = shake_hands(local, &[whole]);
    assert_eq!((&ended, &out), (&at_once, &out_at_once));
    match ended {
        Some(Ok(peer)) => {
            assert_eq!(rest, rest_at_once);
            assert!(whole.ends_with(&rest));
            let taken = &whole[..whole.len() - rest.len()];
            assert!(whole[0] == 0xFF && whole[9] & 1 == 1);
            assert!(local.accepts().contains(&peer.socket_type));
            assert!(peer.identity.len() <= 255);
            if peer.version == Version::V2_0 {
                check_old(&peer, taken, &out);
                return;
            }
            assert!(whole[10] >= 3 && &whole[12..17] == b"NULL\0");
            assert!(taken.len() <= GREETING_BYTES + HANDSHAKE_BYTES_MAX);
            assert!(out.len() > GREETING_BYTES && out[10..17] == *b"\x03\x01NULL\0");
        }
        Some(Err(error)) => assert!(!error.to_string().is_empty() && !error.reason().is_empty()),
        None => {}
    }
}

#[derive(Debug, PartialEq)]
enum Found {
    Message(Vec<Bytes>),
    Command(Vec<u8>),
}

/// Reads frame by frame from the whole input, as the RFC's grammar says.
fn read_naively(
    mut bytes: &[u8],
    limits: &Limits,
    version: Version,
) -> (Vec<Found>, Option<FrameError>) {
    const INTERRUPTIONS_MAX: usize = 64;
    let (mut found, mut frames, mut size, mut interruptions) = (vec![], vec![], 0u64, 0);
    loop {
        let Some(&flags) = bytes.first() else {
            return (found, None);
        };
        let (more, long, command) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
        let known = if version == Version::V2_0 { 3 } else { 7 };
        if flags > known || (more && command) {
            return (found, Some(FrameError::Flags(flags)));
        }
        let header = if long { 9 } else { 2 };
        let Some(len) = bytes.get(1..header) else {
            return (found, None);
        };
        let len = len.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        let with_this = (size + header as u64).saturating_add(len);
        if with_this > limits.message_bytes_max as u64 {
            let error = FrameError::MessageTooLarge(with_this, limits.message_bytes_max);
            return (found, Some(error));
        }
        let Some(body) = bytes.get(header..header + len as usize) else {
            return (found, None);
        };
        bytes = &bytes[header + body.len()..];
        if command {
            interruptions += usize::from(!frames.is_empty());
            if interruptions > INTERRUPTIONS_MAX {
                return (found, Some(FrameError::Interrupted(INTERRUPTIONS_MAX)));
            }
            found.push(Found::Command(body.to_vec()));
            continue;
        }
        frames.push(Bytes::copy_from_slice(body));
        size = with_this;
        if !more {
            found.push(Found::Message(std::mem::take(&mut frames)));
            (size, interruptions) = (0, 0);
        } else if frames.len() == limits.message_parts_max {
            let error = FrameError::TooManyParts(limits.message_parts_max);
            return (found, Some(error));
        }
    }
}

/// Reads as a connection does: a buffer that grows at one end and is used up at the other.
fn scan(pieces: &[&[u8]], limits: &Limits, version: Version) -> (Vec<Found>, Option<FrameError>) {
    let mut scanner = Scanner::new(limits, version);
    let (mut buf, mut found, mut missing) = (BytesMut::new(), vec![], 1);
    for piece in pieces {
        buf.extend_from_slice(piece);
        let before = found.len();
        let asked_for = std::mem::replace(&mut missing, 0);
        while missing == 0 {
            match scanner.next(&mut buf) {
                Err(error) => return (found, Some(error)),
                Ok(Step::NeedMore(count)) => missing = count,
                Ok(Step::Command(body)) => found.push(Found::Command(buf[body].to_vec())),
                Ok(Step::Message(span)) => {
                    let frames = frames_of(&Bytes::copy_from_slice(&buf[span.bytes]));
                    assert_eq!(
                        (&frames[0][..], frames.len()),
                        (&buf[span.first], span.parts)
                    );
                    found.push(Found::Message(frames));
                }
            }
        }
        assert!(missing > 0 && missing <= limits.message_bytes_max);
        assert!(
            found.len() == before || piece.len() >= asked_for,
            "it asked for too much"
        );
        buf.advance(scanner.consumed());
        scanner.rebase();
        assert!(buf.len() < limits.message_bytes_max + piece.len());
    }
    (found, None)
}

fn check_command(body: &[u8]) {
    let name_and_rest = || {
        let (&len, rest) = body.split_first()?;
        rest.split_at_checked(usize::from(len))
            .filter(|(name, _)| !name.is_empty())
    };
    let Some((name, rest)) = name_and_rest() else {
        assert!(Command::parse(body).is_err());
        return;
    };
    let read = Command::parse(body);
    match name {
        b"SUBSCRIBE" => assert_eq!(
            read,
            Ok(Command::Subscription(Subscription::Subscribe(rest)))
        ),
        b"CANCEL" => assert_eq!(read, Ok(Command::Subscription(Subscription::Cancel(rest)))),
        b"PING" if rest.len() >= 2 => {
            let ttl_deciseconds = u16::from_be_bytes([rest[0], rest[1]]);
            // A longer one is cut, as libzmq does.
            let context = &rest[2..rest.len().min(18)];
            assert_eq!(
                read,
                Ok(Command::Ping {
                    ttl_deciseconds,
                    context
                })
            );
        }
        b"PING" => assert!(read.is_err()),
        b"PONG" => assert_eq!(read, Ok(Command::Pong)),
        b"ERROR" => {
            assert!(matches!(read, Ok(Command::Error(reason)) if reason.len() <= rest.len()))
        }
        _ => assert_eq!(read, Ok(Command::Unknown)),
    }
}

/// Frames and commands: found in any pieces as in a naive reading of the whole.
pub fn frames(input: &[u8]) {
    let limits = Limits {
        message_bytes_max: 600,
        message_parts_max: 6,
        ..Limits::default()
    };
    let Some((pieces, whole)) = in_pieces(input) else {
        return;
    };
    for version in [Version::V2_0, Version::V3_1] {
        let read = scan(&pieces, &limits, version);
        assert_eq!(read, read_naively(whole, &limits, version), "{version:?}");
        check_found(read.0);
    }
}

fn check_found(found: Vec<Found>) {
    for item in found {
        match item {
            Found::Command(body) => check_command(&body),
            Found::Message(frames) => assert_eq!(frames_of(&encode_message(&frames)), frames),
        }
    }
}

/// Frames, each after its length of one byte; a length beyond the end takes what is there.
fn split_frames(mut input: &[u8]) -> Vec<Bytes> {
    let mut frames = vec![];
    while let Some((&len, rest)) = input.split_first() {
        let (frame, after) = rest.split_at(usize::from(len).min(rest.len()));
        frames.push(Bytes::copy_from_slice(frame));
        input = after;
    }
    frames
}

/// What an answer in the JSON layout keeps of a message.
fn check_json(message: &Message) {
    // What a request names stands in place of its data; what an answer names, beside it.
    let answer = Message {
        named: None,
        ..message.clone()
    };
    let written = encode(&answer, Layout::Json);
    let object: Value = serde_json::from_slice(&written[0]).expect("valid JSON");
    assert!(object["token"].is_string());
    let (read, layout) = decode(&written).expect("our own JSON");
    assert_eq!(layout, Layout::Json);
    assert!(read.token.is(message.token));
    assert_eq!(read.data_type, message.data_type);
    if message.data_type == DataType::Param && std::str::from_utf8(&message.data).is_ok() {
        assert_eq!(read.data, message.data);
    }
}

/// MessageBus messages: an envelope is found or not, and what was read can be written and read again.
pub fn messagebus(input: &[u8]) {
    let frames = split_frames(input);
    let (envelope, body) = split_envelope(&frames);
    assert_eq!([envelope, body].concat(), frames);
    let token_of = |frame: &Bytes| {
        let read = decode(&[frame.clone(), Bytes::new()]);
        read.ok().map(|(message, _)| message.token)
    };
    // Without a delimiter, the border is where a known token stands, or an object that can't be the
    // data of a token before it.
    if envelope.last().is_some_and(|last| !last.is_empty()) {
        let known = match body {
            [object] if token_of(&frames[0]).is_none() => {
                object.trim_ascii_start().starts_with(b"{")
            }
            [_] => decode(body).is_ok_and(|(message, _)| message.token.name().is_some()),
            _ => token_of(&body[0]).is_some_and(|token| token.name().is_some()),
        };
        assert!(known, "{envelope:?} {body:?}");
    }
    let (message, layout) = match decode(body) {
        Ok(read) => read,
        Err(malformed) => {
            let nak = Message::nak(malformed.code, &malformed.sentence);
            let (answer, _) = decode(&encode(&nak, malformed.layout)).expect("our own answer");
            assert!(answer.token.is(nak.token));
            assert!(malformed.sentence.len() < 1000, "{}", malformed.sentence);
            return;
        }
    };
    check_json(&message);
    if layout == Layout::Json {
        return;
    }
    let written = encode(&message, layout);
    let (read, layout) = decode(&written).expect("our own message");
    assert!(
        read.token.is(message.token),
        "{:?} {:?}",
        read.token,
        message.token
    );
    assert_eq!(read.data_type, message.data_type);
    assert_eq!((&read.data, read.timeout), (&message.data, message.timeout));
    assert_eq!(encode(&read, layout), written);
}

/// The configuration: JSON, then `NAME=value` of the environment, separated by NULs. What is wrong is
/// said; what is right is the same when it is written down and read again.
pub fn config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let mut parts = text.split('\0');
    let json = parts.next().unwrap_or_default();
    let env: BTreeMap<String, String> = parts
        .filter_map(|part| part.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    match config::parse("config.json", json, &env, &[]) {
        Err(errors) => {
            assert!(!errors.0.is_empty() && errors.0.iter().all(|error| !error.is_empty()));
        }
        Ok(loaded) => {
            let text = loaded.config.shown().to_string();
            let again = config::parse("shown", &text, &BTreeMap::new(), &[])
                .unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert_eq!(again.config, loaded.config, "{text}");
        }
    }
}
