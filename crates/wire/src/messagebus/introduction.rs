//! Who a worker says that it is, in the options of its READY: for people, and for nothing else.

use serde_json::Value;

use crate::model::{excerpt, is_unsafe};

/// What is kept of each text at most, in bytes, and a mark if it was longer.
const TEXT_BYTES_MAX: usize = 64;

/// What a worker says of itself. Its texts are short, on one line, and not empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Introduction {
    /// What its user calls it, such as `billing-1`.
    pub name: Option<Box<str>>,
    /// The library that speaks for it and its version, such as `event-manager/1.0`.
    pub client: Option<Box<str>>,
}

impl Introduction {
    /// Reads `name` and `client` from the options of a READY. There is nothing that a worker may not call
    /// itself: what is too long is cut, what a terminal would act on is replaced, and what is no text says
    /// nothing.
    pub fn read(options: &str) -> Self {
        let options: Value = serde_json::from_str(options).unwrap_or_default();
        let text = |name: &str| options[name].as_str().and_then(shown);
        Self {
            name: text("name"),
            client: text("client"),
        }
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.name.is_none() && self.client.is_none()
    }

    /// A later one: what it doesn't say is as before.
    pub fn update(&mut self, later: Self) {
        self.name = later.name.or(self.name.take());
        self.client = later.client.or(self.client.take());
    }
}

fn shown(text: &str) -> Option<Box<str>> {
    let text = excerpt(text.trim(), TEXT_BYTES_MAX);
    let safe = text
        .chars()
        .map(|c| if is_unsafe(c) { '\u{FFFD}' } else { c });
    (!text.is_empty()).then(|| safe.collect::<String>().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(options: &Value) -> [Option<String>; 2] {
        let Introduction { name, client } = Introduction::read(&options.to_string());
        [name, client].map(|text| text.map(String::from))
    }

    #[test]
    fn who_a_worker_is_is_read() {
        let text = |text: &str| Some(text.to_owned());
        for (options, expected) in [
            (json!({"ack": true}), [None, None]),
            (
                json!({"name": "billing-1", "client": "event-manager/1.0"}),
                [text("billing-1"), text("event-manager/1.0")],
            ),
            (json!({"name": " Küche 2 "}), [text("Küche 2"), None]),
            // Who calls itself nothing, or by no text, works all the same.
            (json!({"name": "", "client": 7}), [None, None]),
            (json!({"name": " ", "client": ["x"]}), [None, None]),
            (
                json!({"name": "a\u{1b}[2J\nb\u{202E}"}),
                [text("a\u{FFFD}[2J\u{FFFD}b\u{FFFD}"), None],
            ),
            (
                json!({"client": "x".repeat(65)}),
                [None, text(&format!("{}…", "x".repeat(64)))],
            ),
        ] {
            assert_eq!(read(&options), expected, "{options}");
        }
        assert!(Introduction::read("no JSON").is_empty());
    }

    #[test]
    fn what_is_not_said_again_stays() {
        let mut known = Introduction::read(r#"{"name": "a", "client": "c/1"}"#);
        known.update(Introduction::read(r#"{"name": "b"}"#));
        assert_eq!(
            known,
            Introduction::read(r#"{"name": "b", "client": "c/1"}"#)
        );
    }

    proptest! {
        #[test]
        fn whatever_it_says_is_short_and_safe(name: String, noise: String) {
            let _ = Introduction::read(&noise);
            if let [Some(name), _] = read(&json!({"name": name})) {
                // A replaced character may have more bytes than it had.
                prop_assert!(!name.is_empty() && name.len() <= 3 * TEXT_BYTES_MAX + 3);
                prop_assert!(!name.contains(is_unsafe));
            }
        }
    }
}
