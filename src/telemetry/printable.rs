//! Makes peers' text safe for a terminal: names, subjects, reasons and payloads may contain control
//! sequences.

use std::borrow::Cow;
use std::fmt::Write;

use event_manager_wire::model::is_unsafe;

/// The text with such characters escaped (`\u{9b}`), except those for which `keep` is true.
pub fn printable(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    replaced(
        text,
        |c| is_unsafe(c) && !keep(c),
        |c, out| {
            out.extend(c.escape_default());
        },
    )
}

/// Equivalent JSON with such characters escaped (`\u009b`). Line ends between its values stay;
/// within strings there are none.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    replaced(
        json,
        |c| is_unsafe(c) && c != '\n',
        |c, out| {
            // All of them are in the basic plane, so one unit of UTF-16 each.
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        },
    )
}

fn replaced(
    text: &str,
    is_wrong: impl Fn(char) -> bool,
    replace: impl Fn(char, &mut String),
) -> Cow<'_, str> {
    if !text.chars().any(&is_wrong) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match is_wrong(c) {
            true => replace(c, &mut out),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const EVIL: &str = "a\u{1b}[2J\u{9b}31m\u{7f}\r\n\t\u{202E}\u{2066}\u{200F}\u{61C}\u{FEFF}ü";

    #[test]
    fn what_a_terminal_acts_on_is_escaped() {
        let text = printable(EVIL, |c| c == '\n' || c == '\t');
        assert_eq!(
            text,
            "a\\u{1b}[2J\\u{9b}31m\\u{7f}\\r\n\t\\u{202e}\\u{2066}\\u{200f}\\u{61c}\\u{feff}ü"
        );
        assert!(matches!(printable("für 5 €", |_| false), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn json_means_the_same(noise: String, at in 0usize..20) {
            let text: String = noise.chars().take(at).chain(EVIL.chars()).chain(noise.chars().skip(at)).collect();
            let value = json!({"text": text, "list": [text]});
            for written in [value.to_string(), format!("{value:#}")] {
                let safe = printable_json(&written);
                prop_assert!(safe.chars().all(|c| !is_unsafe(c) || c == '\n'));
                prop_assert_eq!(serde_json::from_str::<Value>(&safe).unwrap(), value.clone());
            }
        }
    }
}
