//! What an entry of `services` may say: the table of its fields.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{DeliveryMode, OrderBy, Wrong};
use crate::broker::{Retry, WhenFull};
use crate::config::keys::{DAY, SIZE_MAX, secs, shown_decimal};
use crate::config::load::suggestion;
use crate::config::values::{self, Words};
use crate::model::SubjectPattern;

/// What one entry says.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Fields {
    pub(super) delivery: Option<DeliveryMode>,
    pub(super) subjects: Option<Vec<SubjectPattern>>,
    pub(super) when_full: Option<WhenFull>,
    pub(super) queue_bytes: Option<usize>,
    pub(super) queue_events: Option<usize>,
    pub(super) ack_timeout: Option<Duration>,
    pub(super) retry_initial: Option<Duration>,
    pub(super) retry_multiplier: Option<f64>,
    pub(super) retry_max: Option<Duration>,
    pub(super) retry_deliveries: Option<u32>,
    pub(super) order_by: Option<Option<OrderBy>>,
    pub(super) retention_bytes: Option<u64>,
    pub(super) retention_age: Option<Duration>,
}

/// One field of an entry.
struct Field {
    /// Its name; a dot leads into an object.
    name: &'static str,
    set: fn(&mut Fields, &Value) -> Result<(), String>,
    show: fn(&Fields) -> Option<Value>,
}

const DELIVERY: &Words<DeliveryMode> =
    &[("live", DeliveryMode::Live), ("queue", DeliveryMode::Queue)];

const WHEN_FULL: &Words<WhenFull> = &[
    ("drop-oldest", WhenFull::DropOldest),
    ("drop-newest", WhenFull::DropNewest),
    ("spill", WhenFull::Spill),
];

/// The longest delay before another try, in milliseconds: a day.
const DELAY_MAX: u64 = 86_400_000;
/// The longest time that a queue may keep an event, in seconds: ten years.
const AGE_MAX: f64 = 3650.0 * DAY;

macro_rules! field {
    ($name:literal, $place:ident, $read:expr, $show:expr) => {
        Field {
            name: $name,
            set: |fields, value| {
                fields.$place = Some($read(value)?);
                Ok(())
            },
            show: |fields| fields.$place.as_ref().map($show),
        }
    };
}

/// All fields.
#[rustfmt::skip]
const FIELDS: &[Field] = &[
    field!("delivery", delivery, |v| values::word(v, DELIVERY), |mode| values::shown_word(mode, DELIVERY)),
    field!("subjects", subjects, subjects, |all| json!(all.iter().map(ToString::to_string).collect::<Vec<_>>())),
    field!("whenFull", when_full, |v| values::word(v, WHEN_FULL), |what| values::shown_word(what, WHEN_FULL)),
    field!("queueBytes", queue_bytes, |v| values::number(v, 1024..=SIZE_MAX), |bytes| json!(bytes)),
    field!("queueEvents", queue_events, |v| values::number(v, 1..=SIZE_MAX), |events| json!(events)),
    field!("ackTimeout", ack_timeout, |v| values::seconds(v, 0.01..=DAY), |time| secs(*time)),
    field!("retry.initialMs", retry_initial, |v| millis(v, 3_600_000), shown_millis),
    field!("retry.multiplier", retry_multiplier, |v| values::factor(v, 1.0..=100.0), |factor| shown_decimal(*factor)),
    field!("retry.maxMs", retry_max, |v| millis(v, DELAY_MAX), shown_millis),
    field!("retry.maxDeliveries", retry_deliveries, |v| values::number(v, 1..=1_000_000), |most| json!(most)),
    field!("orderBy", order_by, order_by, |by| shown_order(*by)),
    field!("retention.maxBytes", retention_bytes, |v| values::number(v, 1024..=SIZE_MAX as u64), |bytes| json!(bytes)),
    field!("retention.maxAge", retention_age, |v| values::seconds(v, 0.0..=AGE_MAX), |age| secs(*age)),
];

fn subjects(value: &Value) -> Result<Vec<SubjectPattern>, String> {
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

fn millis(value: &Value, max: u64) -> Result<Duration, String> {
    values::number(value, 0..=max).map(Duration::from_millis)
}

fn shown_millis(time: &Duration) -> Value {
    json!(time.as_millis() as u64)
}

fn order_by(value: &Value) -> Result<Option<OrderBy>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text == "subject" => Ok(Some(OrderBy::Subject)),
        _ => values::number(value, 0..=OrderBy::FRAME_MAX)
            .map(|frame| Some(OrderBy::Frame(frame)))
            .map_err(|_| {
                let max = OrderBy::FRAME_MAX;
                format!("\"subject\", a frame's index from 0 to {max} or null is wanted")
            }),
    }
}

fn shown_order(order: Option<OrderBy>) -> Value {
    match order {
        None => Value::Null,
        Some(OrderBy::Subject) => json!("subject"),
        Some(OrderBy::Frame(index)) => json!(index),
    }
}

impl Fields {
    /// Reads an entry, which is called `name`; what is wrong is added to `wrong`.
    pub(super) fn read(name: &str, value: &Value, wrong: &mut Vec<Wrong>) -> Self {
        let mut fields = Self::default();
        fields.read_object(&[name], value, wrong);
        fields
    }

    fn read_object(&mut self, path: &[&str], value: &Value, wrong: &mut Vec<Wrong>) {
        let Value::Object(object) = value else {
            wrong.push(Wrong::value(path, value, "an object is wanted"));
            return;
        };
        for (key, value) in object {
            let path = [path, &[key]].concat();
            let name = path[1..].join(".");
            if let Some(field) = FIELDS.iter().find(|field| field.name == name) {
                if let Err(wanted) = (field.set)(self, value) {
                    wrong.push(Wrong::value(&path, value, &wanted));
                }
            } else if FIELDS.iter().any(|field| object_of(field) == Some(&name)) {
                self.read_object(&path, value, wrong);
            } else {
                let known = FIELDS.iter().map(|field| field.name);
                let known = known.chain(FIELDS.iter().filter_map(object_of));
                wrong.push(Wrong::unknown(&path, &suggestion(&name, known)));
            }
        }
    }

    /// What is said, in the written form.
    pub(super) fn show(&self) -> Value {
        let mut shown = Map::new();
        for field in FIELDS {
            let Some(value) = (field.show)(self) else {
                continue;
            };
            match field.name.split_once('.') {
                None => {
                    shown.insert(field.name.into(), value);
                }
                Some((object, name)) => shown.entry(object).or_insert(json!({}))[name] = value,
            }
        }
        Value::Object(shown)
    }

    /// What this says, and what the other says where this says nothing.
    pub(super) fn or(self, other: &Self) -> Self {
        Self {
            delivery: self.delivery.or(other.delivery),
            // They are for one service alone.
            subjects: self.subjects,
            when_full: self.when_full.or(other.when_full),
            queue_bytes: self.queue_bytes.or(other.queue_bytes),
            queue_events: self.queue_events.or(other.queue_events),
            ack_timeout: self.ack_timeout.or(other.ack_timeout),
            retry_initial: self.retry_initial.or(other.retry_initial),
            retry_multiplier: self.retry_multiplier.or(other.retry_multiplier),
            retry_max: self.retry_max.or(other.retry_max),
            retry_deliveries: self.retry_deliveries.or(other.retry_deliveries),
            order_by: self.order_by.or(other.order_by),
            retention_bytes: self.retention_bytes.or(other.retention_bytes),
            retention_age: self.retention_age.or(other.retention_age),
        }
    }

    pub(super) fn delivery(&self) -> DeliveryMode {
        self.delivery.unwrap_or(DeliveryMode::Live)
    }

    pub(super) fn retry(&self) -> Retry {
        let default = Retry::default();
        Retry {
            initial: self.retry_initial.unwrap_or(default.initial),
            multiplier: self.retry_multiplier.unwrap_or(default.multiplier),
            max: self.retry_max.unwrap_or(default.max),
            max_deliveries: self.retry_deliveries.unwrap_or(default.max_deliveries),
        }
    }
}

#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    FIELDS.iter().map(|field| field.name)
}

/// The object that the field stands in.
fn object_of(field: &Field) -> Option<&'static str> {
    field.name.split_once('.').map(|(object, _)| object)
}
