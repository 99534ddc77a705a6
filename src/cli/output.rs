//! What commands print, and how they end.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde_json::{Value, json};

use super::exit;
use crate::client::{ClientError, WorkerError};
use crate::config::ConfigErrors;
use crate::model::subject_of;

/// The answer was no, which has been shown.
#[derive(Debug, thiserror::Error)]
#[error("the answer was no")]
pub(super) struct AnswerWasNo;

/// The exit code of a command, after its error was shown.
pub(super) fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    if error.is::<AnswerWasNo>() {
        return ExitCode::from(exit::FAILED);
    }
    if let Some(errors) = error.downcast_ref::<ConfigErrors>() {
        eprintln!("{errors}");
        return ExitCode::from(exit::CONFIG);
    }
    // Whoever read our output has seen enough.
    if error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
    {
        return ExitCode::SUCCESS;
    }
    let client_error = error
        .downcast_ref::<ClientError>()
        .or(match error.downcast_ref() {
            Some(WorkerError::Request(error)) => Some(error),
            _ => None,
        });
    if let Some(ClientError::NoAnswer(address)) = client_error {
        eprintln!(
            "no event manager answers at {address}\n\
             Start one with `event-manager`, or name another: --address or EVENT_MANAGER_ADDRESS"
        );
        return ExitCode::from(exit::UNAVAILABLE);
    }
    eprintln!("event-manager: {error:#}");
    ExitCode::from(exit::FAILED)
}

/// Prints one event on a line: the subject, a tab, the other frames; or a JSON object.
pub(super) fn print_event(frames: &[Vec<u8>], as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if as_json {
        let first = frames.first().map(Vec::as_slice).unwrap_or_default();
        let subject = String::from_utf8_lossy(subject_of(first));
        let frames: Vec<Value> = frames.iter().map(|frame| frame_json(frame)).collect();
        let event = json!({"subject": subject, "frames": frames});
        writeln!(out, "{}", json_line(&event))?;
    } else {
        let frames: Vec<String> = frames.iter().map(|frame| shown(frame)).collect();
        writeln!(out, "{}", frames.join("\t"))?;
    }
    out.flush()
}

pub(super) fn frame_json(frame: &[u8]) -> Value {
    match std::str::from_utf8(frame) {
        Ok(text) => json!(text),
        Err(_) => json!({"base64": BASE64.encode(frame)}),
    }
}

/// JSON on one line. JSON itself allows some control characters in its texts that terminals obey.
pub(super) fn json_line(value: &Value) -> String {
    let mut line = String::new();
    for character in value.to_string().chars() {
        match character.is_control() {
            true => line.push_str(&format!("\\u{:04x}", u32::from(character))),
            false => line.push(character),
        }
    }
    line
}

/// Text as it is, but for what would break the line; other bytes escaped.
pub(super) fn shown(frame: &[u8]) -> String {
    match std::str::from_utf8(frame) {
        Ok(text) => {
            let mut shown = String::with_capacity(text.len());
            for character in text.chars() {
                if character.is_control() {
                    shown.extend(character.escape_default())
                } else {
                    shown.push(character)
                }
            }
            shown
        }
        Err(_) => frame.escape_ascii().to_string(),
    }
}

/// A text from elsewhere without what moves the cursor or turns the writing direction.
pub(super) fn safe(text: &str) -> String {
    let is_unsafe = |c: char| {
        c.is_control()
            || matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
    };
    text.chars()
        .map(|c| if is_unsafe(c) { '\u{FFFD}' } else { c })
        .collect()
}

/// A text as one word of a shell.
pub(super) fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_shown_on_one_line() {
        assert_eq!(shown("für\tdich\n".as_bytes()), "für\\tdich\\n");
        assert_eq!(shown(b"\xFF\x00a"), "\\xff\\x00a");
        assert_eq!(frame_json(b"\xFF"), json!({"base64": "/w=="}));
    }

    #[test]
    fn words_for_a_shell_are_quoted() {
        let all = ["Billing", "", "two words", "Bob's", "$(x)"].map(quoted);
        assert_eq!(
            all,
            ["Billing", "''", "'two words'", r"'Bob'\''s'", "'$(x)'"]
        );
    }
}
