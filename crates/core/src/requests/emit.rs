//! EMIT, confirmed publishing: `id\0level\0subject\0payload`; by name with more frames and options; or
//! `id\0level\0options` with the event's frames behind the message.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Unexpected};

use super::subjects::check_length;
use super::{Answer, Host, Request};
use crate::event_id::EventId;
use crate::security::Deed;
use event_manager_wire::messagebus::{Message, Nak, Positions, Rest, Text, given};
use event_manager_wire::model::subject_of;
use event_manager_zmtp::Limits;

/// What a frame costs beside its body, at most.
const FRAME_HEADER_BYTES: usize = 9;
/// The longest id.
const ID_BYTES_MAX: usize = 255;
/// The longest time to live, in seconds.
const TTL_MAX_S: f64 = 366.0 * 86_400.0;
/// The latest time to be delivered at, in ms since 1970: in the year 5138. A later one is in another unit.
/// No less, and none that counts from now: the machine's clock may not be set yet.
const DELIVER_AT_MAX_MS: u64 = 100_000_000_000_000;

/// What an answer means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The event is accepted.
    #[default]
    #[serde(alias = "")]
    Memory,
    /// It is on disk, in each durable service that it matched.
    Disk,
    /// Beyond that, the engine has it, of each service that has its queue at one.
    Engine,
}

impl Level {
    /// Its name in requests and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Engine => "engine",
        }
    }
}

/// An event whose acceptance is confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emission {
    /// By which a second one is known.
    pub id: EventId,
    /// What the answer means.
    pub level: Level,
    /// The event's frames, at least one.
    pub frames: Vec<Bytes>,
    /// For how long services may get it.
    pub ttl: Option<Duration>,
    /// Nobody gets it before this time of the wall clock, in ms since 1970.
    pub deliver_at_ms: Option<u64>,
}

impl Emission {
    /// Whether the limits allow it.
    ///
    /// # Errors
    /// It has no frame, or too many or too large ones, or its subject is too long.
    pub fn check(&self, limits: &Limits) -> Result<(), Nak> {
        let frames = &self.frames;
        let Some(first) = frames.first() else {
            return Err(Nak::new("invalid-field", "an event has at least one frame"));
        };
        check_length(subject_of(first), limits)?;
        let bytes: usize = frames
            .iter()
            .map(|frame| frame.len() + FRAME_HEADER_BYTES)
            .sum();
        if frames.len() > limits.message_parts_max || bytes > limits.message_bytes_max {
            let sentence = format!(
                "{} frames of {bytes} bytes; limits.maxMessageParts and limits.maxMessageBytes are exceeded",
                frames.len()
            );
            return Err(Nak::new("too-large", sentence));
        }
        Ok(())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Emit {
    id: Text,
    level: Level,
    #[serde(deserialize_with = "given")]
    subject: Option<Text>,
    #[serde(deserialize_with = "given")]
    payload: Option<Text>,
    /// Instead of subject and payload.
    frames: Option<Vec<String>>,
    /// The same for any bytes.
    frames_base64: Option<Vec<String>>,
    #[serde(deserialize_with = "ttl")]
    ttl: Option<Duration>,
    #[serde(deserialize_with = "deliver_at")]
    deliver_at: Option<u64>,
}

impl Request for Emit {
    const POSITIONS: Positions = Positions::new(&["id", "level", "subject", "payload"])
        .required(4)
        .last_is(Rest::Raw);
    const BEFORE_FRAMES: Positions =
        Positions::new(&["id", "level", "options"]).last_is(Rest::Options);

    fn answer(self, asked: &Message, host: &mut dyn Host) -> Result<Answer, Nak> {
        let is_carried = !asked.frames.is_empty();
        let frames = match (self.subject, self.payload, self.frames, self.frames_base64) {
            (None, None, None, None) if is_carried => asked.frames.clone(),
            _ if is_carried => {
                let sentence =
                    "the event's frames stand behind the message, not in its options too";
                return Err(Nak::new("invalid-field", sentence));
            }
            (Some(subject), payload, None, None) => vec![subject.0, payload.unwrap_or_default().0],
            (None, None, Some(frames), None) => frames.into_iter().map(Bytes::from).collect(),
            (None, None, None, Some(frames)) => {
                let frames = frames.iter().map(|frame| decoded(frame));
                frames.collect::<Result<_, _>>()?
            }
            (None, _, None, None) => return Err(Self::POSITIONS.missing(asked, "subject")),
            _ => {
                let sentence = "either subject and payload, or frames, or framesBase64";
                return Err(Nak::new("invalid-field", sentence));
            }
        };
        if self.id.0.len() > ID_BYTES_MAX {
            let bytes = self.id.0.len();
            let sentence = format!("\"id\" has {bytes} bytes; the limit is {ID_BYTES_MAX}");
            return Err(Nak::new("invalid-field", sentence));
        }
        let emission = Emission {
            id: host.event_id(self.id.0),
            level: self.level,
            frames,
            ttl: self.ttl,
            deliver_at_ms: self.deliver_at,
        };
        emission.check(&host.context().settings.limits)?;
        let first = emission.frames.first().map(|first| &first[..]);
        host.judge(Deed::Publish(subject_of(first.unwrap_or_default())))?;
        Ok(host.emit(&emission))
    }
}

/// Seconds.
fn ttl<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Duration>, D::Error> {
    let seconds = f64::deserialize(value)?;
    if (0.001..=TTL_MAX_S).contains(&seconds) {
        return Ok(Some(Duration::from_secs_f64(seconds)));
    }
    let expected = &"seconds, from 0.001 to a year";
    Err(D::Error::invalid_value(
        Unexpected::Float(seconds),
        expected,
    ))
}

/// Milliseconds since 1970.
fn deliver_at<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u64>, D::Error> {
    let at_ms = Option::<u64>::deserialize(value)?;
    match at_ms.filter(|at_ms| *at_ms > DELIVER_AT_MAX_MS) {
        None => Ok(at_ms),
        Some(late) => {
            let expected = "milliseconds since 1970, at most 100000000000000 (in the year 5138)";
            Err(D::Error::invalid_value(
                Unexpected::Unsigned(late),
                &expected,
            ))
        }
    }
}

fn decoded(frame: &str) -> Result<Bytes, Nak> {
    let bytes = BASE64.decode(frame).map(Bytes::from);
    bytes.map_err(|error| Nak::new("invalid-field", format!("\"framesBase64\": {error}")))
}
