//! A refusal.

use std::fmt::{self, Display};

use serde::de::{Error, Expected, Unexpected};

use super::message::Message;
use crate::model::excerpt;

/// What is shown of a name or value that is refused.
pub(super) const SHOWN_BYTES_MAX: usize = 40;

/// A refusal, which leaves everything as it was. Also the error of reading a [request](super::read).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nak {
    code: &'static str,
    sentence: String,
}

impl Nak {
    /// A code for programs, which docs/protocol.md lists, and a sentence for people.
    pub fn new(code: &'static str, sentence: impl Display) -> Self {
        Self {
            code,
            sentence: sentence.to_string(),
        }
    }

    /// A field has a value of another kind.
    pub(super) fn expected(expected: impl Display, got: impl Display) -> Self {
        Self::new("invalid-field", format!("expected {expected}, got {got}"))
    }

    /// The same of a field's value, with the field's name.
    pub(super) fn in_field(self, name: &str) -> Self {
        let sentence = format!("{name:?}: {}", self.sentence);
        Self { sentence, ..self }
    }
}

impl From<Nak> for Message {
    fn from(nak: Nak) -> Self {
        Self::nak(nak.code, nak.sentence)
    }
}

impl Display for Nak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.sentence)
    }
}

impl std::error::Error for Nak {}

/// The beginning of what a peer sent, in quotes.
pub(super) fn shown(text: &str) -> String {
    format!("{:?}", excerpt(text, SHOWN_BYTES_MAX))
}

/// One of several names.
pub(super) fn one_of(names: &[&str]) -> String {
    let names: Vec<_> = names.iter().filter(|name| !name.is_empty()).collect();
    match names[..] {
        [] => "none".to_owned(),
        [only] => format!("{only:?}"),
        _ => {
            let names: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
            format!("one of {}", names.join(", "))
        }
    }
}

impl Error for Nak {
    fn custom<T: Display>(sentence: T) -> Self {
        Self::new("invalid-field", sentence)
    }

    fn invalid_type(got: Unexpected<'_>, expected: &dyn Expected) -> Self {
        // serde names types as Rust does.
        let expected = match &*expected.to_string() {
            "u32" | "u64" => "a whole number".to_owned(),
            "f64" => "a number".to_owned(),
            "a sequence" => "a list".to_owned(),
            other if other.starts_with("struct ") => "an object".to_owned(),
            other => other.to_owned(),
        };
        let got = match got {
            Unexpected::Str(text) => shown(text),
            Unexpected::Bool(value) => value.to_string(),
            Unexpected::Unsigned(number) => number.to_string(),
            Unexpected::Signed(number) => number.to_string(),
            Unexpected::Float(number) => number.to_string(),
            Unexpected::Unit => "null".to_owned(),
            Unexpected::Seq => "a list".to_owned(),
            Unexpected::Map => "an object".to_owned(),
            other => other.to_string(),
        };
        Self::expected(expected, got)
    }

    fn invalid_value(got: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(got, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::expected(one_of(expected), shown(variant))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let (field, expected) = (shown(field), one_of(expected));
        let sentence = format!("unknown field {field}, expected {expected}");
        Self::new("unknown-field", sentence)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new("missing-field", format!("field {field:?} is missing"))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::new("invalid-field", format!("field {field:?} is given twice"))
    }
}
