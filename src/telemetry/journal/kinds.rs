//! What all notable events have in common, and how their fields are shown.

use std::borrow::Cow;

use serde_json::{Map, Value};

use event_manager_wire::model::{EXCERPT_BYTES_MAX, beginning, excerpt};

/// What all events of one kind have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Never changes, and is never given to another kind.
    pub code: &'static str,
    /// The same for people.
    pub name: &'static str,
    /// `info`, `warn` or `error`.
    pub level: &'static str,
    /// The names of its own fields.
    pub fields: &'static [&'static str],
}

pub(super) fn put(fields: &mut Map<String, Value>, name: &str, value: Value) {
    match value {
        Value::Null => {}
        Value::String(text) => drop(fields.insert(name.to_owned(), cut(text).into())),
        value => drop(fields.insert(name.to_owned(), value)),
    }
}

/// A text of at most [`EXCERPT_BYTES_MAX`] bytes, and a mark if there was more. Peers choose some.
pub(super) fn cut(text: String) -> String {
    match excerpt(&text, EXCERPT_BYTES_MAX) {
        Cow::Borrowed(_) => text,
        Cow::Owned(cut) => cut,
    }
}

/// A field as the ordinary log shows it.
pub(super) trait Loggable: Copy {
    /// No more than the record has of it.
    fn bounded(self) -> Self;
}

impl Loggable for &str {
    fn bounded(self) -> Self {
        beginning(self, EXCERPT_BYTES_MAX)
    }
}

impl Loggable for Option<&str> {
    fn bounded(self) -> Self {
        self.map(Loggable::bounded)
    }
}

macro_rules! as_they_are {
    ($($type:ty)*) => {
        $(impl Loggable for $type {
            fn bounded(self) -> Self {
                self
            }
        })*
    };
}

as_they_are! { u16 u32 u64 i64 bool Option<i64> }
