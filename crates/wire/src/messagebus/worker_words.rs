//! What a service's workers say: words with spaces between, in one frame, so that ten lines of any
//! language can speak it.
//!
//! `READY` and `READY {"ack": true, "credit": 32, "name": …, "client": …}`, `ACK <id>`, `NAK <id> [delay ms] [reason]`,
//! `TERM <id> [reason]`, `WIP <id>`, `BYE`; the daemon puts `EVENT <id> <attempt>` before each event
//! that it wants acknowledged, and says `ERROR <sentence>` to what it doesn't understand.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use crate::model::excerpt;

/// The longest time for which a worker may put an event off with a NAK.
pub const NAK_DELAY_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Events that a worker holds at most, unless it says otherwise.
const CREDIT_DEFAULT: u32 = 32;
/// What is shown of something that was not understood.
const SHOWN_BYTES_MAX: usize = 40;
/// The most that it may ask for.
const CREDIT_MAX: u32 = 100_000;
/// The most that READY's options may have, in bytes: read, they take many times as much.
const OPTIONS_BYTES_MAX: usize = 4096;

/// A worker's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerWord<'a> {
    /// It wants events.
    Ready {
        /// It acknowledges them, and holds at most so many.
        credit: Option<u32>,
        /// It wants the [id](EventWord) of each event that it acknowledges.
        ids: bool,
        /// Its options as it sent them, which may [say who it is](super::Introduction::read); empty
        /// without any.
        options: &'a str,
    },
    /// The event of this delivery is done.
    Ack(u64),
    /// The event should be tried again.
    Nak {
        /// The delivery, by the number that stood before the event.
        id: u64,
        /// Not before this time is over, at most [`NAK_DELAY_MAX`]; the service's policy says it if the
        /// worker doesn't.
        delay: Option<Duration>,
        /// Kept with the dead letter, if it comes to that: its first 200 characters.
        reason: &'a str,
    },
    /// The event should never be tried again.
    Term {
        /// The delivery, by the number that stood before the event.
        id: u64,
        /// Kept with the dead letter, if it comes to that: its first 200 characters.
        reason: &'a str,
    },
    /// It is still at the event of this delivery: its time begins anew.
    Wip(u64),
    /// It is about to leave, and wants no more.
    Bye,
}

impl<'a> WorkerWord<'a> {
    /// Reads a frame.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(frame: &'a [u8]) -> Result<Self, String> {
        // There is one for each event.
        if let Some(id) = frame.strip_prefix(b"ACK ").and_then(digits) {
            return Ok(Self::Ack(id));
        }
        let text = std::str::from_utf8(frame).map_err(|_| "it is not UTF-8 text".to_owned())?;
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let rest = rest.trim();
        match word {
            "READY" if rest.is_empty() => Ok(Self::Ready {
                credit: None,
                ids: false,
                options: "",
            }),
            "READY" => ready_options(rest).map(|(credit, ids)| Self::Ready {
                credit,
                ids,
                options: rest,
            }),
            "BYE" if rest.is_empty() => Ok(Self::Bye),
            "ACK" => alone(rest).map(Self::Ack),
            "WIP" => alone(rest).map(Self::Wip),
            "TERM" => id(rest).map(|(id, reason)| Self::Term { id, reason }),
            "NAK" => nak(rest),
            _ if text.starts_with("READY{") => {
                Err("READY and its options need a space between".into())
            }
            _ => Err("workers say READY, ACK, NAK, TERM, WIP or BYE".into()),
        }
    }
}

/// A number of digits alone that is in no danger of being too large.
fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() >= u64::MAX.ilog10() as usize {
        return None;
    }
    text.iter().try_fold(0, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        Some(10 * number + u64::from(digit))
    })
}

fn shown(text: &str) -> Cow<'_, str> {
    excerpt(text, SHOWN_BYTES_MAX)
}

fn id(text: &str) -> Result<(u64, &str), String> {
    let (id, rest) = text.split_once(' ').unwrap_or((text, ""));
    let id = id
        .parse()
        .map_err(|_| format!("{:?} is not a delivery id", shown(id)))?;
    Ok((id, rest.trim()))
}

/// A number behind the id is the delay; all else is the reason.
fn nak(text: &str) -> Result<WorkerWord<'_>, String> {
    let (id, reason) = id(text)?;
    let (first, more) = reason.split_once(' ').unwrap_or((reason, ""));
    let number = first.strip_prefix(['-', '+']).unwrap_or(first);
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        let delay = None;
        return Ok(WorkerWord::Nak { id, delay, reason });
    }
    let delay = first.parse().map(Duration::from_millis).ok();
    match delay.filter(|delay| *delay <= NAK_DELAY_MAX) {
        None => Err(format!(
            "a NAK's delay must be 0 to {} ms, not {}",
            NAK_DELAY_MAX.as_millis(),
            shown(first)
        )),
        delay => Ok(WorkerWord::Nak {
            id,
            delay,
            reason: more.trim(),
        }),
    }
}

fn alone(text: &str) -> Result<u64, String> {
    match id(text)? {
        (id, "") => Ok(id),
        (_, rest) => Err(format!(
            "unexpected {:?} after the delivery id",
            shown(rest)
        )),
    }
}

/// The credit of a worker that acknowledges, and whether it wants ids. Options that nobody knows have no
/// meaning, and do no harm.
fn ready_options(text: &str) -> Result<(Option<u32>, bool), String> {
    if text.len() > OPTIONS_BYTES_MAX {
        let len = text.len();
        return Err(format!(
            "READY's options have {len} bytes; the limit is {OPTIONS_BYTES_MAX}"
        ));
    }
    let options: Value = serde_json::from_str(text)
        .map_err(|error| format!("READY's options are not valid JSON: {error}"))?;
    if !options.is_object() {
        return Err("READY's options must be a JSON object".into());
    }
    let truth = |name: &str| match &options[name] {
        Value::Null => Ok(false),
        Value::Bool(truth) => Ok(*truth),
        other => Err(format!(
            "{name} must be true or false, not {}",
            shown(&other.to_string())
        )),
    };
    let (acknowledges, ids) = (truth("ack")?, truth("ids")?);
    if ids && !acknowledges {
        return Err("ids are for workers that acknowledge: say \"ack\": true, too".into());
    }
    let credit = match &options["credit"] {
        Value::Null => CREDIT_DEFAULT,
        given => given
            .as_u64()
            .and_then(|credit| u32::try_from(credit).ok())
            .filter(|credit| (1..=CREDIT_MAX).contains(credit))
            .ok_or_else(|| {
                format!(
                    "credit is 1 to {CREDIT_MAX}, not {}",
                    shown(&given.to_string())
                )
            })?,
    };
    Ok((acknowledges.then_some(credit), ids))
}

/// The frame before an event that is to be acknowledged.
#[derive(Debug)]
pub struct EventWord {
    bytes: [u8; EVENT_WORD_BYTES_MAX],
    len: u8,
}

/// Both numbers at their largest.
const EVENT_WORD_BYTES_MAX: usize = "EVENT 18446744073709551615 4294967295".len();

impl EventWord {
    /// What names a delivery and its attempt.
    pub fn new(id: u64, attempt: u32) -> Self {
        let mut word = Self {
            bytes: [0; EVENT_WORD_BYTES_MAX],
            len: 0,
        };
        // There is one for each event, and formatting costs ten times as much.
        let mut digits = itoa::Buffer::new();
        word.put(b"EVENT ");
        word.put(digits.format(id).as_bytes());
        word.put(b" ");
        word.put(digits.format(attempt).as_bytes());
        word
    }

    /// The same for a worker that wants the event's id, which stands behind both numbers.
    pub fn with_event_id(id: u64, attempt: u32, event: &str) -> String {
        format!("EVENT {id} {attempt} {event}")
    }

    fn put(&mut self, bytes: &[u8]) {
        let begin = usize::from(self.len);
        self.bytes[begin..begin + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u8;
    }

    /// How many bytes it has.
    #[allow(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> u8 {
        self.len
    }
}

impl AsRef<[u8]> for EventWord {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len.into()]
    }
}

/// The delivery id in such a frame.
pub fn event_id(frame: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(frame).ok()?.strip_prefix("EVENT ")?;
    text.split(' ').next()?.parse().ok()
}

/// The delivery id in such a frame, and the attempt.
pub fn event_attempt(frame: &[u8]) -> Option<(u64, u32)> {
    let rest = frame.strip_prefix(b"EVENT ")?;
    let space = rest.iter().position(|byte| *byte == b' ')?;
    let (id, rest) = (number(&rest[..space])?, &rest[space + 1..]);
    // The event's id, if the worker wanted it.
    let end = rest.iter().position(|byte| *byte == b' ');
    let attempt = number(&rest[..end.unwrap_or(rest.len())])?;
    Some((id, attempt.try_into().ok()?))
}

/// The event's own id in such a frame, if it has one: it stays the same over restarts, and for each worker
/// that gets the event.
pub fn own_id_of_event(frame: &[u8]) -> Option<&str> {
    let mut parts = frame
        .strip_prefix(b"EVENT ")?
        .splitn(3, |byte| *byte == b' ');
    std::str::from_utf8(parts.nth(2)?).ok()
}

fn number(digits: &[u8]) -> Option<u64> {
    let with = |number: u64, byte: &u8| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    };
    match digits {
        [] => None,
        digits => digits.iter().try_fold(0, with),
    }
}

/// The answer to a message that was not understood.
pub fn error_word(sentence: &str) -> Bytes {
    format!("ERROR {sentence}").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ready(credit: Option<u32>, options: &str) -> WorkerWord<'_> {
        let ids = options.contains("ids");
        WorkerWord::Ready {
            credit,
            ids,
            options,
        }
    }

    #[test]
    fn words_are_read() {
        let delay = |ms| Some(Duration::from_millis(ms));
        let table: [(&str, WorkerWord<'_>); 17] = [
            ("READY", ready(None, "")),
            (
                r#"READY {"ack": true, "ids": true}"#,
                ready(Some(CREDIT_DEFAULT), r#"{"ack": true, "ids": true}"#),
            ),
            ("READY {}", ready(None, "{}")),
            (
                r#"READY {"ack": false, "credit": 5}"#,
                ready(None, r#"{"ack": false, "credit": 5}"#),
            ),
            (
                r#"READY {"ack": true}"#,
                ready(Some(CREDIT_DEFAULT), r#"{"ack": true}"#),
            ),
            (
                r#"READY {"ack":true,"credit":1,"colour":"red"}"#,
                ready(Some(1), r#"{"ack":true,"credit":1,"colour":"red"}"#),
            ),
            ("ACK 7", WorkerWord::Ack(7)),
            ("WIP 7", WorkerWord::Wip(7)),
            ("BYE", WorkerWord::Bye),
            (
                "NAK 7",
                WorkerWord::Nak {
                    id: 7,
                    delay: None,
                    reason: "",
                },
            ),
            (
                "NAK 7 250",
                WorkerWord::Nak {
                    id: 7,
                    delay: delay(250),
                    reason: "",
                },
            ),
            (
                "NAK 7 250 no stock",
                WorkerWord::Nak {
                    id: 7,
                    delay: delay(250),
                    reason: "no stock",
                },
            ),
            (
                "NAK 7 86400000",
                WorkerWord::Nak {
                    id: 7,
                    delay: Some(NAK_DELAY_MAX),
                    reason: "",
                },
            ),
            (
                "NAK 7 no stock",
                WorkerWord::Nak {
                    id: 7,
                    delay: None,
                    reason: "no stock",
                },
            ),
            (
                "NAK 7 -5°C is too cold",
                WorkerWord::Nak {
                    id: 7,
                    delay: None,
                    reason: "-5°C is too cold",
                },
            ),
            ("TERM 7", WorkerWord::Term { id: 7, reason: "" }),
            (
                "TERM 7 404 not found",
                WorkerWord::Term {
                    id: 7,
                    reason: "404 not found",
                },
            ),
        ];
        for (text, expected) in table {
            assert_eq!(WorkerWord::parse(text.as_bytes()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn nonsense_is_told_what_is_wrong() {
        for (text, what) in [
            ("", "workers say"),
            ("ready", "workers say"),
            ("READYX", "workers say"),
            ("BYE now", "workers say"),
            ("READY{}", "need a space"),
            ("READY {", "not valid JSON"),
            ("READY [1]", "JSON object"),
            (r#"READY {"ack": 1}"#, "true or false"),
            (r#"READY {"ack": true, "credit": 0}"#, "1 to 100000"),
            (r#"READY {"ack": true, "ids": 1}"#, "true or false"),
            (r#"READY {"ids": true}"#, "for workers that acknowledge"),
            ("ACK", "not a delivery id"),
            ("ACK x", "not a delivery id"),
            ("ACK -1", "not a delivery id"),
            ("ACK 1 2", "unexpected"),
            ("NAK 1 -5", "0 to 86400000 ms, not -5"),
            ("NAK 1 86400001", "0 to 86400000 ms, not 86400001"),
            (
                "NAK 1 99999999999999999999 no stock",
                "0 to 86400000 ms, not 99999999999999999999",
            ),
        ] {
            let error = WorkerWord::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        }
        assert!(WorkerWord::parse(b"ACK \xFF").is_err());
        // Whoever says much doesn't hear all of it again.
        let much = "x".repeat(1 << 20);
        for text in [
            format!("ACK {much}"),
            format!("ACK 1 {much}"),
            format!("NAK 1 {}", "9".repeat(1 << 20)),
            format!(r#"READY {{"ack": "{much}"}}"#),
            format!(r#"READY {{"ack": true, "credit": "{much}"}}"#),
            format!("READY [{}1]", "1,".repeat(1 << 20)),
        ] {
            let error = WorkerWord::parse(text.as_bytes()).unwrap_err();
            assert!(error.len() < 100, "{} bytes", error.len());
        }
    }

    proptest! {
        #[test]
        fn an_event_s_id_is_found_again(id: u64, attempt: u32) {
            let word = EventWord::new(id, attempt);
            let expected = format!("EVENT {id} {attempt}");
            prop_assert_eq!(word.as_ref(), expected.as_bytes());
            prop_assert_eq!(event_id(word.as_ref()), Some(id));
            prop_assert_eq!(event_attempt(word.as_ref()), Some((id, attempt)));
            prop_assert_eq!(own_id_of_event(word.as_ref()), None);
            let word = EventWord::with_event_id(id, attempt, "00ff.Till 7.12.1");
            prop_assert_eq!(event_attempt(word.as_bytes()), Some((id, attempt)));
            prop_assert_eq!(event_id(word.as_bytes()), Some(id));
            prop_assert_eq!(own_id_of_event(word.as_bytes()), Some("00ff.Till 7.12.1"));
        }

        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = WorkerWord::parse(&noise);
            let _ = event_id(&noise);
            let _ = own_id_of_event(&noise);
        }
    }
}
