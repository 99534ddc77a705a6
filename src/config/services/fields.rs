//! What an entry of `services` may say.

use std::sync::LazyLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::engines::Text;
use crate::config::keys::{Schema, Wrong, probe};
use crate::config::peers::ServiceKey;
use crate::config::units::{
    DAY, Decimal, Maybe, Millis, SIZE_MAX, Seconds, Size, Unit, drop_nulls,
};
use crate::config::units::{Whole, Word, Words};
use event_manager_core::broker::bounds::{
    ACK_TIMEOUT_MS_MIN, ACK_TIMEOUT_S_MAX, ORDER_FRAME_MAX, RETRY_DELIVERIES_MAX,
    RETRY_INITIAL_MS_MAX, RETRY_MAX_MS_MAX, RETRY_MULTIPLIER_MAX, RETRY_MULTIPLIER_MIN,
};
use event_manager_core::broker::{DeliveryMode, OrderBy};
use event_manager_core::broker::{Retry, ServiceOptions, WhenFull};
use event_manager_wire::model::{EventSubject, SubjectPattern};
use event_manager_zmtp::curve::PublicKey;

/// What one entry says. What it doesn't say, another may, or the default holds.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Fields {
    #[serde(with = "Maybe::<Word::<DeliveryMode>>")]
    pub(super) delivery: Option<DeliveryMode>,
    /// The broker whose queue it has.
    #[serde(with = "Maybe::<Text>")]
    pub(super) engine: Option<String>,
    /// How many events are taken from there and not settled.
    #[serde(with = "Maybe::<Whole::<u32, 1, 100_000>>")]
    pub(super) max_in_flight: Option<u32>,
    #[serde(with = "Maybe::<Subjects>")]
    pub(super) subjects: Option<Vec<SubjectPattern>>,
    #[serde(with = "Maybe::<Word::<WhenFull>>")]
    pub(super) when_full: Option<WhenFull>,
    #[serde(with = "Maybe::<Size::<1024>>")]
    pub(super) queue_bytes: Option<usize>,
    #[serde(with = "Maybe::<Size::<1>>")]
    pub(super) queue_events: Option<usize>,
    #[serde(with = "Maybe::<Seconds::<ACK_TIMEOUT_MS_MIN, ACK_TIMEOUT_S_MAX>>")]
    pub(super) ack_timeout: Option<Duration>,
    pub(super) retry: RetryFields,
    /// `Some(None)` is an order that was renounced.
    #[serde(with = "Maybe::<Order>")]
    pub(super) order_by: Option<Option<OrderBy>>,
    /// `Some(None)` is that of the service's name.
    #[serde(with = "Maybe::<LetterSubject>")]
    pub(super) dead_letter_subject: Option<Option<EventSubject>>,
    /// `Some(None)` is called without CURVE.
    #[serde(with = "Maybe::<ServiceKey>")]
    pub(super) server_key: Option<Option<PublicKey>>,
    pub(super) retention: RetentionFields,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RetryFields {
    #[serde(with = "Maybe::<Millis::<RETRY_INITIAL_MS_MAX>>")]
    pub(super) initial_ms: Option<Duration>,
    #[serde(with = "Maybe::<Decimal::<RETRY_MULTIPLIER_MIN, RETRY_MULTIPLIER_MAX>>")]
    multiplier: Option<f64>,
    #[serde(with = "Maybe::<Millis::<RETRY_MAX_MS_MAX>>")]
    pub(super) max_ms: Option<Duration>,
    #[serde(with = "Maybe::<Whole::<u32, 1, RETRY_DELIVERIES_MAX>>")]
    max_deliveries: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::config) struct RetentionFields {
    #[serde(with = "Maybe::<Whole::<u64, 1024, SIZE_MAX>>")]
    pub(super) max_bytes: Option<u64>,
    /// At most ten years.
    #[serde(with = "Maybe::<Seconds::<0, { 3650 * DAY }>>")]
    pub(super) max_age: Option<Duration>,
}

/// How long a worker may hold an event where nothing is said.
const DEFAULT_ACK_TIMEOUT: Duration = Duration::from_secs(30);

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::of(&Fields::default()));

impl Words for DeliveryMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("live", Self::Live),
        ("queue", Self::Queue),
        ("engine", Self::Engine),
    ];
}

impl Words for WhenFull {
    const WORDS: &'static [(&'static str, Self)] = Self::WORDS;
}

/// Subjects as in a subscription.
pub(in crate::config) struct Subjects;

impl Unit for Subjects {
    type Of = Vec<SubjectPattern>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        let written = value.as_array().filter(|all| !all.is_empty());
        let written = written.ok_or("a list of at least one subject is wanted")?;
        let parse = |subject: &Value| {
            let text = subject.as_str().ok_or("a list of texts is wanted")?;
            // How long they may be is known when all is read.
            SubjectPattern::parse(text, usize::MAX)
                .map_err(|error| format!("the subject {text:?} {error}"))
        };
        written.iter().map(parse).collect()
    }

    fn show(of: &Self::Of) -> Value {
        json!(of.iter().map(ToString::to_string).collect::<Vec<_>>())
    }
}

/// `"subject"`, a frame's index, or `null`.
struct Order;

impl Unit for Order {
    type Of = Option<OrderBy>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        match value {
            Value::Null => Ok(None),
            Value::String(text) if text == "subject" => Ok(Some(OrderBy::Subject)),
            _ => Whole::<usize, 0, ORDER_FRAME_MAX>::read(value)
                .map(|frame| Some(OrderBy::Frame(frame)))
                .map_err(|_| {
                    format!(
                        "\"subject\", a frame's index from 0 to {ORDER_FRAME_MAX} or null is wanted"
                    )
                }),
        }
    }

    fn show(of: &Self::Of) -> Value {
        match of {
            None => Value::Null,
            Some(OrderBy::Subject) => json!("subject"),
            Some(OrderBy::Frame(index)) => json!(index),
        }
    }
}

/// A subject, or `null`.
struct LetterSubject;

impl Unit for LetterSubject {
    type Of = Option<EventSubject>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        if value.is_null() {
            return Ok(None);
        }
        let text = value.as_str().ok_or("a subject or null is wanted")?;
        // How long it may be is known when all is read.
        let subject = EventSubject::new(text, usize::MAX);
        subject
            .map(Some)
            .map_err(|error| format!("the subject {error}"))
    }

    fn show(of: &Self::Of) -> Value {
        json!(of.as_ref().map(EventSubject::as_str))
    }
}

/// What subscriptions said.
impl From<&ServiceOptions> for Fields {
    fn from(said: &ServiceOptions) -> Self {
        let millis = |ms: Option<u64>| ms.map(Duration::from_millis);
        Self {
            when_full: said.when_full,
            ack_timeout: said.ack_timeout,
            retry: RetryFields {
                initial_ms: millis(said.retry.initial_ms),
                multiplier: said.retry.multiplier,
                max_ms: millis(said.retry.max_ms),
                max_deliveries: said.retry.max_deliveries,
            },
            order_by: said.order_by.map(Some),
            dead_letter_subject: said.dead_letter_subject.clone().map(Some),
            ..Self::default()
        }
    }
}

impl Fields {
    /// A queue on disk whose events are tried for ever: an engine that is away is no fault of theirs.
    pub(super) fn of_spool(subjects: Vec<SubjectPattern>, retention: RetentionFields) -> Self {
        Self {
            delivery: Some(DeliveryMode::Queue),
            subjects: Some(subjects),
            retry: RetryFields {
                max_deliveries: Some(RETRY_DELIVERIES_MAX as u32),
                ..RetryFields::default()
            },
            retention,
            ..Self::default()
        }
    }

    /// What is said that has no meaning for such a queue.
    pub(super) fn without_meaning_for_spools(&self) -> impl Iterator<Item = &'static str> {
        let fields = [
            ("delivery", self.delivery.is_some()),
            ("subjects", self.subjects.is_some()),
            ("orderBy", self.order_by.is_some()),
            ("retry", self.retry != RetryFields::default()),
            ("serverKey", self.server_key.is_some()),
        ];
        let said = fields.into_iter().filter(|(_, is_said)| *is_said);
        said.map(|(field, _)| field)
    }

    /// Reads an entry, which is called `name`; what is wrong is added to `wrong`.
    pub(super) fn read(name: &str, value: &Value, wrong: &mut Vec<Wrong>) -> Self {
        let base = super::full_path(&[name]);
        let Value::Object(object) = value else {
            wrong.push(Wrong::value(&base, value, "an object is wanted"));
            return Self::default();
        };
        let base = format!("{base}.");
        for (field, value) in SCHEMA.values((&base, ""), object, wrong) {
            if let Err(wanted) = probe::<Self>(&field, value) {
                // It may be nearly a secret key.
                let hidden = Value::from("…");
                let shown = if field == "serverKey" { &hidden } else { value };
                wrong.push(Wrong::value(&format!("{base}{field}"), shown, &wanted));
            }
        }
        // What is wrong has been said.
        serde_json::from_value(value.clone()).unwrap_or_default()
    }

    /// What is said, in the written form.
    pub(super) fn show(&self) -> Value {
        let mut shown = json!(self);
        drop_nulls(&mut shown);
        if self.order_by == Some(None) {
            shown["orderBy"] = Value::Null;
        }
        if self.dead_letter_subject == Some(None) {
            shown["deadLetterSubject"] = Value::Null;
        }
        shown
    }

    /// What this says, and what the other says where this says nothing.
    pub(super) fn or(self, other: &Self) -> Self {
        Self {
            delivery: self.delivery.or(other.delivery),
            engine: self.engine.or_else(|| other.engine.clone()),
            max_in_flight: self.max_in_flight.or(other.max_in_flight),
            // They are for one service alone.
            subjects: self.subjects,
            when_full: self.when_full.or(other.when_full),
            queue_bytes: self.queue_bytes.or(other.queue_bytes),
            queue_events: self.queue_events.or(other.queue_events),
            ack_timeout: self.ack_timeout.or(other.ack_timeout),
            retry: RetryFields {
                initial_ms: self.retry.initial_ms.or(other.retry.initial_ms),
                multiplier: self.retry.multiplier.or(other.retry.multiplier),
                max_ms: self.retry.max_ms.or(other.retry.max_ms),
                max_deliveries: self.retry.max_deliveries.or(other.retry.max_deliveries),
            },
            order_by: self.order_by.or(other.order_by),
            dead_letter_subject: self
                .dead_letter_subject
                .or_else(|| other.dead_letter_subject.clone()),
            server_key: self.server_key.or(other.server_key),
            retention: RetentionFields {
                max_bytes: self.retention.max_bytes.or(other.retention.max_bytes),
                max_age: self.retention.max_age.or(other.retention.max_age),
            },
        }
    }

    /// What doesn't change while the daemon runs.
    pub(super) fn fixed_part(&self) -> Self {
        Self {
            delivery: self.delivery,
            engine: self.engine.clone(),
            max_in_flight: self.max_in_flight,
            subjects: self.subjects.clone(),
            ..Self::default()
        }
    }

    /// Nothing of that is said any more.
    pub(super) fn forget_fixed_part(&mut self) {
        (self.delivery, self.engine) = (None, None);
        (self.max_in_flight, self.subjects) = (None, None);
    }

    /// Which fields others say otherwise, of the [fixed part](Self::fixed_part).
    pub(super) fn differing(&self, other: &Self) -> impl Iterator<Item = &'static str> + use<> {
        let fields = [
            ("delivery", self.delivery != other.delivery),
            ("engine", self.engine != other.engine),
            ("maxInFlight", self.max_in_flight != other.max_in_flight),
            ("subjects", self.subjects != other.subjects),
        ];
        let differing = fields.into_iter().filter(|(_, differs)| *differs);
        differing.map(|(field, _)| field)
    }

    /// What is said of the broker whose queue it has.
    pub(super) fn served_by(&self) -> super::ServedBy<'_> {
        super::ServedBy {
            engine: self.engine.as_deref().unwrap_or_default(),
            in_flight_max: self.max_in_flight.unwrap_or(1000),
        }
    }

    pub(super) fn delivery(&self) -> DeliveryMode {
        self.delivery.unwrap_or(DeliveryMode::Live)
    }

    /// How long a worker may hold an event.
    pub(super) fn ack_timeout(&self) -> Duration {
        self.ack_timeout.unwrap_or(DEFAULT_ACK_TIMEOUT)
    }

    pub(super) fn retry(&self) -> Retry {
        let (said, default) = (&self.retry, Retry::default());
        Retry {
            initial: said.initial_ms.unwrap_or(default.initial),
            multiplier: said.multiplier.unwrap_or(default.multiplier),
            max: said.max_ms.unwrap_or(default.max),
            max_deliveries: said.max_deliveries.unwrap_or(default.max_deliveries),
        }
    }
}

#[cfg(test)]
pub(super) fn names() -> &'static [String] {
    &SCHEMA.leaves
}
