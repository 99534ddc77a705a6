//! An event as others' brokers have it, and back.
//!
//! The body is the second frame where an event has two, which is what almost all have; else all frames
//! behind the first, with their lengths in `x-em-lengths`. The subject is the first frame up to its first
//! NUL; what is behind that NUL is before the body, and `x-em-first` says how long it is.

use bytes::{Bytes, BytesMut};

use crate::engines::Outgoing;
use event_manager_zmtp::{HubId, frames};

/// The event's id, by which who reads it knows it again.
pub(super) const ID: &str = "x-em-id";
/// The subject, percent-encoded.
pub(super) const SUBJECT: &str = "x-em-subject";
/// The number of the daemon that it comes from.
pub(super) const ORIGIN: &str = "x-em-origin";
/// How many daemons it has passed.
pub(super) const HOPS: &str = "x-em-hops";
/// The lengths of the frames in the body, with commas between.
pub(super) const LENGTHS: &str = "x-em-lengths";
/// How many bytes of the body belong to the first frame.
pub(super) const FIRST: &str = "x-em-first";

/// What an event is to others.
pub(super) fn outgoing(event: &Bytes, id: &str, origin: HubId) -> Outgoing {
    let mut all = frames(event);
    let first = all.next().unwrap_or_default();
    let end = first.iter().position(|byte| *byte == 0);
    let (subject, rest) = first.split_at(end.unwrap_or(first.len()));
    let others: Vec<&[u8]> = all.collect();
    let subject = encoded(subject);
    let mut headers = vec![
        (ID, id.to_owned()),
        (SUBJECT, subject.clone()),
        (ORIGIN, format!("{origin}")),
        (HOPS, "1".to_owned()),
    ];
    let body = match others[..] {
        [body] if rest.is_empty() => event.slice_ref(body),
        _ => {
            let lengths: Vec<_> = others.iter().map(|frame| frame.len().to_string()).collect();
            headers.push((LENGTHS, lengths.join(",")));
            if !rest.is_empty() {
                headers.push((FIRST, rest.len().to_string()));
            }
            let mut body = BytesMut::with_capacity(event.len());
            body.extend_from_slice(rest);
            others
                .iter()
                .for_each(|frame| body.extend_from_slice(frame));
            body.freeze()
        }
    };
    Outgoing {
        id: id.to_owned(),
        subject,
        headers,
        body,
        event: event.clone(),
    }
}

/// A subject in which no character has a meaning of its own: not to NATS, whose wildcards, white space
/// and empty words between dots can't be published, nor to whoever prints it.
fn encoded(subject: &[u8]) -> String {
    let mut text = String::with_capacity(subject.len());
    let is_edge = |at: usize| {
        let before = at.checked_sub(1).map(|before| subject[before]);
        let after = subject.get(at + 1);
        matches!(before, None | Some(b'.')) || after.is_none()
    };
    for (at, byte) in subject.iter().enumerate() {
        match byte {
            b'.' if is_edge(at) => text.push_str("%2E"),
            b'*' | b'>' | b'%' | 0..=b' ' | 0x7F.. => text.push_str(&format!("%{byte:02X}")),
            _ => text.push(char::from(*byte)),
        }
    }
    if text.is_empty() {
        // No byte is encoded so.
        text.push('%');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use event_manager_zmtp::encode_message;
    use proptest::prelude::*;

    fn decoded(text: &str) -> Vec<u8> {
        if text == "%" {
            return vec![];
        }
        let mut parts = text.split('%');
        let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
        for part in parts {
            bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
            bytes.extend_from_slice(&part.as_bytes()[2..]);
        }
        bytes
    }

    fn header<'a>(outgoing: &'a Outgoing, name: &str) -> Option<&'a str> {
        let found = outgoing.headers.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_str())
    }

    #[test]
    fn an_event_of_two_frames_is_its_subject_and_its_body() {
        let event = encode_message(&[&b"Order"[..], b"{\"total\": 5}"]);
        let out = outgoing(
            &event,
            "the-id",
            HubId::from_bytes([0, 0, 0, 0, 0, 0, 0, 0xFF]),
        );
        assert_eq!((&*out.id, &*out.subject), ("the-id", "Order"));
        assert_eq!(out.body, &b"{\"total\": 5}"[..]);
        assert_eq!(header(&out, ID), Some("the-id"));
        assert_eq!(header(&out, ORIGIN), Some("00000000000000ff"));
        assert_eq!((header(&out, LENGTHS), header(&out, FIRST)), (None, None));
    }

    #[test]
    fn other_events_say_how_their_body_is_made_up() {
        let event = encode_message(&[&b"Order\0v2"[..], b"ab", b"", b"cde"]);
        let out = outgoing(&event, "id", HubId::from_bytes([1; 8]));
        assert_eq!(out.subject, "Order");
        assert_eq!(out.body, &b"\0v2abcde"[..]);
        assert_eq!(header(&out, LENGTHS), Some("2,0,3"));
        assert_eq!(header(&out, FIRST), Some("3"));
        let alone = outgoing(
            &encode_message(&[b"Order"]),
            "id",
            HubId::from_bytes([1; 8]),
        );
        assert_eq!((header(&alone, LENGTHS), alone.body.len()), (Some(""), 0));
    }

    #[test]
    fn subjects_that_nats_can_t_have_are_encoded() {
        for (subject, expected) in [
            (&b"Order.Created"[..], "Order.Created"),
            (b"", "%"),
            (b".a..b.", "%2Ea.%2Eb%2E"),
            (b"a b*>%\xc3\xa4", "a%20b%2A%3E%25%C3%A4"),
            (b".", "%2E"),
        ] {
            assert_eq!(encoded(subject), expected);
        }
    }

    proptest! {
        #[test]
        fn no_two_subjects_look_the_same(subject in proptest::collection::vec(any::<u8>(), 0..20)) {
            let text = encoded(&subject);
            prop_assert!(text.split('.').all(|word| !word.is_empty()), "{}", text);
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(decoded(&text), subject);
        }
    }
}
