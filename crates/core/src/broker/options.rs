//! What a subscription wants of its service, where the configuration doesn't name that.

use std::time::Duration;

use event_manager_wire::model::EventSubject;
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use super::backlog::{OrderBy, WhenFull};
use super::bounds::{
    ACK_TIMEOUT_MS_MIN, ACK_TIMEOUT_S_MAX, ORDER_FRAME_MAX, RETRY_DELIVERIES_MAX,
    RETRY_INITIAL_MS_MAX, RETRY_MAX_MS_MAX, RETRY_MULTIPLIER_MAX, RETRY_MULTIPLIER_MIN,
};

/// The options of a SUBSCRIBE. What one doesn't say, the configuration does.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceOptions {
    /// How long a worker may hold an event without a word about it.
    #[serde(
        deserialize_with = "seconds",
        serialize_with = "as_seconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub ack_timeout: Option<Duration>,
    /// When and how often what failed is tried again.
    #[serde(skip_serializing_if = "RetryOptions::is_empty")]
    pub retry: RetryOptions,
    /// What events have in common that keep their order.
    #[serde(
        deserialize_with = "order",
        serialize_with = "as_order",
        skip_serializing_if = "Option::is_none"
    )]
    pub order_by: Option<OrderBy>,
    /// What happens when the queue is full.
    #[serde(
        deserialize_with = "when_full",
        serialize_with = "as_when_full",
        skip_serializing_if = "Option::is_none"
    )]
    pub when_full: Option<WhenFull>,
    /// The subject of its dead letters.
    #[serde(
        deserialize_with = "event_subject",
        serialize_with = "as_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub dead_letter_subject: Option<EventSubject>,
}

/// The part about retries, named as in the configuration.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct RetryOptions {
    /// The longest delay after the first delivery, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_ms: Option<u64>,
    /// How much longer it gets with each delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multiplier: Option<f64>,
    /// The longest delay of all, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<u64>,
    /// After so many deliveries an event is dead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_deliveries: Option<u32>,
}

impl ServiceOptions {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What this says, and what the other says where this says nothing.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let (own, its) = (&self.retry, &other.retry);
        Self {
            ack_timeout: self.ack_timeout.or(other.ack_timeout),
            retry: RetryOptions {
                initial_ms: own.initial_ms.or(its.initial_ms),
                multiplier: own.multiplier.or(its.multiplier),
                max_ms: own.max_ms.or(its.max_ms),
                max_deliveries: own.max_deliveries.or(its.max_deliveries),
            },
            order_by: self.order_by.or(other.order_by),
            when_full: self.when_full.or(other.when_full),
            dead_letter_subject: self
                .dead_letter_subject
                .clone()
                .or_else(|| other.dead_letter_subject.clone()),
        }
    }

    /// As they are written in a request.
    pub fn written(&self) -> Value {
        json!(self)
    }
}

impl RetryOptions {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Says what is out of its bounds.
    pub fn why_wrong(&self) -> Option<String> {
        let (min, max) = (RETRY_MULTIPLIER_MIN as f64, RETRY_MULTIPLIER_MAX as f64);
        let is_above = |value: Option<u64>, max| value.is_some_and(|value| value > max);
        if is_above(self.initial_ms, RETRY_INITIAL_MS_MAX) {
            Some(format!("initialMs: from 0 to {RETRY_INITIAL_MS_MAX}"))
        } else if is_above(self.max_ms, RETRY_MAX_MS_MAX) {
            Some(format!("maxMs: from 0 to {RETRY_MAX_MS_MAX}"))
        } else if self.multiplier.is_some_and(|by| !(min..=max).contains(&by)) {
            Some(format!("multiplier: from {min} to {max}"))
        } else if let Some(n) = self.max_deliveries
            && !(1..=RETRY_DELIVERIES_MAX).contains(&n.into())
        {
            Some(format!("maxDeliveries: from 1 to {RETRY_DELIVERIES_MAX}"))
        } else {
            None
        }
    }
}

/// Seconds of an `ackTimeout`.
///
/// # Errors
/// Those that the configuration doesn't take either.
pub fn seconds<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Duration>, D::Error> {
    let seconds = f64::deserialize(value)?;
    let min = ACK_TIMEOUT_MS_MIN as f64 / 1000.0;
    match (min..=ACK_TIMEOUT_S_MAX as f64).contains(&seconds) {
        true => Ok(Some(Duration::from_secs_f64(seconds))),
        false => Err(D::Error::custom(format!(
            "expected seconds from {min} to {ACK_TIMEOUT_S_MAX}, got {seconds}"
        ))),
    }
}

/// `"subject"`, or a frame's index.
///
/// # Errors
/// It is neither.
pub fn order<'de, D: Deserializer<'de>>(value: D) -> Result<Option<OrderBy>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Frame(u64),
        Word(String),
    }
    match Written::deserialize(value) {
        Ok(Written::Frame(frame)) if frame <= ORDER_FRAME_MAX => {
            Ok(Some(OrderBy::Frame(frame as usize)))
        }
        Ok(Written::Word(word)) if word == "subject" => Ok(Some(OrderBy::Subject)),
        _ => Err(D::Error::custom(format!(
            "expected \"subject\" or a frame's index from 0 to {ORDER_FRAME_MAX}"
        ))),
    }
}

/// A word of the configuration.
///
/// # Errors
/// It is another.
pub fn when_full<'de, D: Deserializer<'de>>(value: D) -> Result<Option<WhenFull>, D::Error> {
    let word = String::deserialize(value)?;
    let found = WhenFull::WORDS.iter().find(|(name, _)| *name == word);
    found.map(|(_, meant)| Some(*meant)).ok_or_else(|| {
        let names: Vec<_> = WhenFull::WORDS.iter().map(|(name, _)| *name).collect();
        D::Error::custom(format!("expected one of {}", names.join(", ")))
    })
}

/// A subject of any length.
///
/// # Errors
/// It is none.
pub fn event_subject<'de, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<EventSubject>, D::Error> {
    let text = String::deserialize(value)?;
    let subject = EventSubject::new(&text, usize::MAX);
    subject
        .map(Some)
        .map_err(|error| D::Error::custom(format!("the subject {error}")))
}

#[allow(clippy::ref_option, reason = "serde hands it over so")]
fn as_text<S: Serializer>(of: &Option<EventSubject>, to: S) -> Result<S::Ok, S::Error> {
    of.as_ref().map(EventSubject::as_str).serialize(to)
}

#[allow(clippy::ref_option, reason = "serde hands it over so")]
fn as_seconds<S: Serializer>(of: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    of.map(|time| time.as_secs_f64()).serialize(to)
}

#[allow(clippy::ref_option, reason = "serde hands it over so")]
fn as_order<S: Serializer>(of: &Option<OrderBy>, to: S) -> Result<S::Ok, S::Error> {
    let written = match of {
        None => Value::Null,
        Some(OrderBy::Subject) => json!("subject"),
        Some(OrderBy::Frame(index)) => json!(index),
    };
    written.serialize(to)
}

#[allow(clippy::ref_option, reason = "serde hands it over so")]
fn as_when_full<S: Serializer>(of: &Option<WhenFull>, to: S) -> Result<S::Ok, S::Error> {
    let mut words = WhenFull::WORDS.iter();
    let found = words.find(|(_, meant)| Some(*meant) == *of);
    found.map(|(name, _)| *name).serialize(to)
}
