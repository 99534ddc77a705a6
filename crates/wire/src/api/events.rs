//! Notable events: what an operator should know about, each with a code (docs/events.md).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A part of the latest notable events: the answer of EVENTS and of `/events`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EventsPage {
    /// Which daemon says it: `SERVICE@HOST/PID`.
    pub instance: String,
    /// When this run of the daemon began, in milliseconds since 1970. Events are numbered from 1 again
    /// in each run.
    pub started_ms: u64,
    /// The events, in the order of their numbers.
    pub events: Vec<NotableEvent>,
    /// What to ask for next: events after this number.
    pub events_after: u64,
    /// The number of the latest event of all.
    pub latest: u64,
    /// Events that were asked for, but that the daemon remembers no more.
    pub missed: u64,
    /// Lines that could not be written to the event log's file since the start.
    pub lost_lines: u64,
}

/// A notable event; in the event log's file it is a line.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NotableEvent {
    /// When, as RFC 3339 in UTC with milliseconds.
    pub ts: String,
    /// Its kind (`EM-0101`).
    pub code: Cow<'static, str>,
    /// The kind's name (`subscribed`).
    #[serde(rename = "type")]
    pub name: Cow<'static, str>,
    /// How grave it is: `info`, `warn` or `error`.
    pub level: Cow<'static, str>,
    /// Which daemon says it: `SERVICE@HOST/PID`.
    pub instance: String,
    /// Its number in this run of the daemon, from 1.
    pub seq: u64,
    /// The sentence that the ordinary log has too.
    pub message: String,
    /// The fields of its kind, by name (docs/events.md), for example `service`.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

impl NotableEvent {
    /// A field of its kind that is a text.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field)?.as_str()
    }

    /// A field of its kind that is a number, and not negative.
    pub fn number(&self, field: &str) -> Option<u64> {
        self.fields.get(field)?.as_u64()
    }
}
