//! EMIT, confirmed publishing: `id\0level\0subject\0payload`, or by name with more frames and options.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;
use serde_json::{Map, Value};

use super::{Context, Nak, Outcome};
use crate::messagebus::Message;
use crate::model::{Limits, subject_of};

/// What a frame costs beside its body, at most.
const FRAME_HEADER_BYTES: usize = 9;
/// The longest id.
const ID_BYTES_MAX: usize = 255;
/// The longest time to live, and delay.
const TIME_MAX_S: f64 = 366.0 * 86_400.0;

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The event is accepted.
    Memory,
    /// It is on disk, in each durable service that it matched.
    Disk,
}

impl Level {
    /// Its name in requests and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}

/// An event whose acceptance is confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emission {
    /// By which a second one is known; empty for none.
    pub id: Bytes,
    /// What the answer means.
    pub level: Level,
    /// The event's frames, at least one.
    pub frames: Vec<Bytes>,
    /// For how long services may get it.
    pub ttl: Option<Duration>,
    /// Nobody gets it before this time of the wall clock, in ms since 1970.
    pub deliver_at_ms: Option<u64>,
}

pub(super) const NAMES: &[&str] = &[
    "id",
    "level",
    "subject",
    "payload",
    "frames",
    "framesBase64",
    "ttl",
    "deliverAt",
];

pub(super) fn handle(request: &Message, context: &mut Context<'_>) -> Result<Outcome, Nak> {
    let emission = match request.named.as_ref().filter(|named| !named.is_empty()) {
        Some(named) => by_name(named)?,
        None => by_position(&request.data)?,
    };
    check(&emission, &context.settings.limits)?;
    Ok(Outcome::Emit(emission))
}

fn by_position(data: &Bytes) -> Result<Emission, Nak> {
    let mut fields = data.splitn(4, |byte| *byte == 0);
    let mut next = |what| {
        let missing = || {
            Nak::new(
                "missing-field",
                format!("{what}: id, level, subject, payload"),
            )
        };
        fields.next().ok_or_else(missing)
    };
    let id = next("field 1 is the id")?;
    let level = next("field 2 is the level")?;
    let subject = next("field 3 is the subject")?;
    let payload = next("field 4 is the payload")?;
    let level = std::str::from_utf8(level).ok();
    Ok(Emission {
        id: Bytes::copy_from_slice(id),
        level: level_of(level.unwrap_or("?"))?,
        frames: vec![
            Bytes::copy_from_slice(subject),
            Bytes::copy_from_slice(payload),
        ],
        ttl: None,
        deliver_at_ms: None,
    })
}

fn level_of(name: &str) -> Result<Level, Nak> {
    match name {
        "" | "memory" => Ok(Level::Memory),
        "disk" => Ok(Level::Disk),
        _ => Err(wrong("level", "\"memory\" or \"disk\"")),
    }
}

fn wrong(name: &str, wanted: &str) -> Nak {
    Nak::new("invalid-field", format!("{name:?}: {wanted} is wanted"))
}

fn by_name(named: &Map<String, Value>) -> Result<Emission, Nak> {
    let text = |name: &str| match named.get(name) {
        None | Some(Value::Null) => Ok(""),
        Some(value) => value.as_str().ok_or_else(|| wrong(name, "a text")),
    };
    let ttl = match named.get("ttl") {
        None | Some(Value::Null) => None,
        Some(value) => {
            let seconds = value.as_f64().filter(|s| (0.001..=TIME_MAX_S).contains(s));
            let seconds = seconds.ok_or_else(|| wrong("ttl", "seconds, from 0.001 to a year"))?;
            Some(Duration::from_secs_f64(seconds))
        }
    };
    let deliver_at_ms = match named.get("deliverAt") {
        None | Some(Value::Null) => None,
        Some(value) => {
            let at = value.as_u64();
            Some(at.ok_or_else(|| wrong("deliverAt", "a time in ms since 1970"))?)
        }
    };
    Ok(Emission {
        id: Bytes::copy_from_slice(text("id")?.as_bytes()),
        level: level_of(text("level")?)?,
        frames: frames(named, text("subject")?, text("payload")?)?,
        ttl,
        deliver_at_ms,
    })
}

/// The event's frames: `frames` or `framesBase64`, or else its subject and payload.
fn frames(named: &Map<String, Value>, subject: &str, payload: &str) -> Result<Vec<Bytes>, Nak> {
    let both = || {
        Nak::new(
            "invalid-field",
            "either subject and payload, or frames, or framesBase64",
        )
    };
    let given: Vec<_> = ["frames", "framesBase64"]
        .into_iter()
        .filter(|name| named.contains_key(*name))
        .collect();
    let [name] = given[..] else {
        let has_subject = named.contains_key("subject");
        return match (given.is_empty(), has_subject) {
            (true, true) => Ok([subject, payload]
                .map(|text| Bytes::copy_from_slice(text.as_bytes()))
                .to_vec()),
            (true, false) => Err(Nak::new(
                "missing-field",
                "\"subject\" says what the event is about",
            )),
            (false, _) => Err(both()),
        };
    };
    if named.contains_key("subject") || named.contains_key("payload") {
        return Err(both());
    }
    let wanted = || wrong(name, "a list of texts, from 1");
    let list = named[name]
        .as_array()
        .filter(|list| !list.is_empty())
        .ok_or_else(wanted)?;
    let frame = |value: &Value| {
        let text = value.as_str().ok_or_else(wanted)?;
        match name {
            "frames" => Ok(Bytes::copy_from_slice(text.as_bytes())),
            _ => BASE64
                .decode(text)
                .map(Bytes::from)
                .map_err(|_| wrong(name, "a list of texts in base64")),
        }
    };
    list.iter().map(frame).collect()
}

fn check(emission: &Emission, limits: &Limits) -> Result<(), Nak> {
    if emission.id.len() > ID_BYTES_MAX {
        return Err(wrong("id", "at most 255 bytes"));
    }
    let frames = &emission.frames;
    let bytes: usize = frames
        .iter()
        .map(|frame| frame.len() + FRAME_HEADER_BYTES)
        .sum();
    let subject = frames.first().map_or(0, |first| subject_of(first).len());
    if subject > limits.subject_bytes_max {
        let sentence = format!(
            "the subject has {subject} bytes; the limit is {}",
            limits.subject_bytes_max
        );
        return Err(Nak::new("invalid-subject", sentence));
    }
    if frames.len() > limits.message_parts_max || bytes > limits.message_bytes_max {
        let sentence = format!(
            "{} frames of {bytes} bytes; limits.maxMessageParts and limits.maxMessageBytes are exceeded",
            frames.len()
        );
        return Err(Nak::new("too-large", sentence));
    }
    Ok(())
}
