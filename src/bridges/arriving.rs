//! What comes from another broker, as an event of ours.
//!
//! The opposite of [`message`](super::message); what others write, who know nothing of that, is an event of
//! two frames: subject and body.

use bytes::{Bytes, BytesMut};

use super::message::{FIRST, HOPS, ID, LENGTHS, ORIGIN, SUBJECT};
use crate::config::Bridge;
use crate::engines::{FLAW, Incoming};
use event_manager_zmtp::HubId;

/// The header in which others give their messages an id.
const MESSAGE_ID: &str = "message-id";
/// The longest id, in bytes.
const ID_BYTES_MAX: usize = 255;
/// Through how many event managers an event may have come.
const HOPS_MAX: u64 = 1;

/// What becomes of what has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// It is published.
    Event {
        /// By which it is known when it comes again; empty if nothing tells.
        id: Bytes,
        frames: Vec<Bytes>,
    },
    /// It has been here before, or went through too many event managers: it is left out.
    GoesRound,
    /// It is no event, and why.
    Nonsense(String),
}

/// Reads what has come by a bridge.
pub(super) fn arrived(incoming: &Incoming, bridge: &Bridge, own: HubId) -> Arrived {
    let header = |name: &str| {
        let found = incoming.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    };
    let is_own = header(ORIGIN).and_then(|origin| HubId::parse(origin.as_bytes())) == Some(own);
    let hops = header(HOPS).and_then(|hops| hops.parse::<u64>().ok());
    match is_own || hops.is_some_and(|hops| hops > HOPS_MAX) {
        true => Arrived::GoesRound,
        false => taken(incoming, bridge),
    }
}

/// Reads what was taken, wherever it has been.
pub(super) fn taken(incoming: &Incoming, bridge: &Bridge) -> Arrived {
    let header = |name: &str| {
        let found = incoming.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    };
    if let Some(why) = header(FLAW) {
        return Arrived::Nonsense(why.to_owned());
    }
    let ids = [header(ID), incoming.position.as_deref(), header(MESSAGE_ID)];
    let mut ids = ids.into_iter().flatten();
    let id = ids.find(|id| (1..=ID_BYTES_MAX).contains(&id.len()));
    let read = subject_of(incoming, header(SUBJECT), bridge).and_then(|subject| {
        let part = |name: &str| header(name).map(|text| (name.to_owned(), text.to_owned()));
        frames_of(&subject, &incoming.body, part(FIRST), part(LENGTHS))
    });
    match read {
        Ok(frames) => Arrived::Event {
            id: Bytes::copy_from_slice(id.unwrap_or_default().as_bytes()),
            frames,
        },
        Err(why) => Arrived::Nonsense(why),
    }
}

fn subject_of(
    incoming: &Incoming,
    encoded: Option<&str>,
    bridge: &Bridge,
) -> Result<Vec<u8>, String> {
    let there = match encoded {
        Some(text) => decoded(text).ok_or_else(|| {
            format!("the header {SUBJECT} is not encoded as an event manager does")
        })?,
        None => incoming.subject.clone().into_bytes(),
    };
    let subject = bridge.subject_here(&there);
    match subject.contains(&0) {
        true => Err("its subject has a NUL".into()),
        false => Ok(subject),
    }
}

/// A subject as it was before it was encoded.
fn decoded(text: &str) -> Option<Vec<u8>> {
    if text == "%" {
        return Some(vec![]);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(first);
        }
    }
    Some(bytes)
}

/// The frames that a body is made of: how many of its bytes belong to the first, and how long the others
/// are.
fn frames_of(
    subject: &[u8],
    body: &Bytes,
    first: Option<(String, String)>,
    lengths: Option<(String, String)>,
) -> Result<Vec<Bytes>, String> {
    let number = |name: &str, text: &str| {
        let read = text.trim().parse::<usize>();
        read.map_err(|_| format!("the header {name} has no number where one is wanted"))
    };
    let in_first = match &first {
        Some((name, text)) => number(name, text)?,
        None => 0,
    };
    let Some(behind) = body.len().checked_sub(in_first) else {
        return Err(format!(
            "the header {FIRST} says more bytes than the body has"
        ));
    };
    let mut frame = BytesMut::from(subject);
    frame.extend_from_slice(&body[..in_first]);
    let mut frames = vec![frame.freeze()];
    let Some((name, text)) = lengths else {
        frames.push(body.slice(in_first..));
        return Ok(frames);
    };
    let (mut at, texts) = (in_first, text.split(',').filter(|_| !text.is_empty()));
    for text in texts {
        let length = number(&name, text)?;
        if length > body.len() - at {
            return Err(format!(
                "the lengths in {name} are not those of a body of {behind} bytes"
            ));
        }
        frames.push(body.slice(at..at + length));
        at += length;
    }
    match at == body.len() {
        true => Ok(frames),
        false => Err(format!(
            "the lengths in {name} are not those of a body of {behind} bytes"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::outgoing;
    use super::*;
    use crate::engines::Receipt;
    use event_manager_zmtp::encode_message;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const OWN: [u8; 8] = [7; 8];

    fn own() -> HubId {
        HubId::from_bytes(OWN)
    }

    fn incoming(subject: &str, headers: &[(&str, &str)], body: &'static [u8]) -> Incoming {
        let headers = headers.iter();
        Incoming {
            receipt: Receipt(1),
            position: Some("nats/A/1/5".into()),
            subject: subject.into(),
            headers: headers
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
            body: Bytes::from_static(body),
            given_before: 0,
        }
    }

    fn event(arrived: Arrived) -> (Bytes, Vec<Bytes>) {
        match arrived {
            Arrived::Event { id, frames } => (id, frames),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_others_write_is_subject_and_body() {
        let (id, frames) = event(arrived(
            &incoming("prices.a", &[], b"{}"),
            &Bridge::default(),
            own(),
        ));
        assert_eq!((&id[..], frames.len()), (&b"nats/A/1/5"[..], 2));
        assert_eq!(
            (&frames[0][..], &frames[1][..]),
            (&b"prices.a"[..], &b"{}"[..])
        );
    }

    #[test]
    fn what_goes_round_is_left_out() {
        for headers in [[(ORIGIN, "0707070707070707")], [(HOPS, "2")]] {
            let came = arrived(&incoming("a", &headers, b""), &Bridge::default(), own());
            assert_eq!(came, Arrived::GoesRound);
        }
        let headers = [(ORIGIN, "0707070707070708"), (HOPS, "1")];
        event(arrived(
            &incoming("a", &headers, b""),
            &Bridge::default(),
            own(),
        ));
    }

    #[test]
    fn headers_that_make_no_sense_say_why() {
        for (headers, wanted) in [
            ([(SUBJECT, "a%4")], "not encoded"),
            ([(SUBJECT, "a%zz")], "not encoded"),
            ([(SUBJECT, "a%00b")], "a NUL"),
            ([(FIRST, "9")], "more bytes"),
            ([(FIRST, "-1")], "no number"),
            ([(LENGTHS, "1,9")], "not those"),
            ([(LENGTHS, "1")], "not those"),
            ([(LENGTHS, "")], "not those"),
            ([(LENGTHS, "1,,2")], "no number"),
            ([(LENGTHS, "99999999999999999999999")], "no number"),
        ] {
            match arrived(&incoming("a", &headers, b"abc"), &Bridge::default(), own()) {
                Arrived::Nonsense(why) => assert!(why.contains(wanted), "{headers:?}: {why}"),
                other => panic!("{headers:?}: {other:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn what_goes_out_comes_in_as_it_was(
            frames in vec(vec(any::<u8>(), 0..12), 1..5),
            id in "[a-z0-9.]{1,20}",
        ) {
            let out = outgoing(&encode_message(&frames), &id, HubId::from_bytes([1; 8]));
            let headers = out.headers.iter();
            let came = Incoming {
                receipt: Receipt(0),
                position: Some("elsewhere".into()),
                subject: format!("pos.{}", out.subject),
                headers: headers.map(|(name, value)| ((*name).into(), value.clone())).collect(),
                body: out.body,
                given_before: 0,
            };
            let (came_id, came_frames) = event(arrived(&came, &Bridge::default(), own()));
            prop_assert_eq!(&came_id[..], id.as_bytes());
            prop_assert_eq!(came_frames, frames);
        }

        #[test]
        fn no_headers_harm(
            first in ".{0,8}|[0-9]{0,3}", lengths in "[0-9,]{0,12}|.{0,8}",
            subject in ".{0,8}|[a%0-9F]{0,8}", body in vec(any::<u8>(), 0..20),
        ) {
            let mut came = incoming("a", &[], b"");
            came.body = body.into();
            came.headers = [(FIRST, first), (LENGTHS, lengths), (SUBJECT, subject)]
                .map(|(name, value)| (name.to_owned(), value))
                .into();
            arrived(&came, &Bridge::default(), own());
        }
    }
}
