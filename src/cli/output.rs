//! What commands print, and how they end.

use std::io::{self, ErrorKind, StdoutLock, Write};
use std::process::ExitCode;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde_json::{Value, json};

use super::exit;
use crate::config::ConfigErrors;
use crate::keys::KeysError as FilesError;
use crate::telemetry::{printable, printable_json};
use event_manager_client::{ClientError, Error, KeysError, TurnedAway};
use event_manager_wire::model::is_unsafe;
use event_manager_wire::model::subject_of;

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
        complain(&errors.to_string());
        return ExitCode::from(exit::CONFIG);
    }
    // Whoever read our output has seen enough.
    if error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
    {
        return ExitCode::SUCCESS;
    }
    if let Some(ClientError::NoAnswer(address)) = error.downcast_ref() {
        complain(&format!(
            "no event manager answers at {address}\n\
             Start it with `event-manager`, or give its address: --address or EVENT_MANAGER_ADDRESS"
        ));
        return ExitCode::from(exit::UNAVAILABLE);
    }
    if let Some((address, why)) = turned_away(&error) {
        complain(&format!("{address}: {why}"));
        complain(mend(why));
        return ExitCode::from(exit::TURNED_AWAY);
    }
    complain(&format!("event-manager: {error:#}"));
    let is_key = error.is::<KeysError>() || error.is::<FilesError>();
    ExitCode::from(match error.downcast_ref() {
        Some(Error::NoAnswer { .. }) => exit::UNAVAILABLE,
        _ if is_key => exit::CONFIG,
        _ => exit::FAILED,
    })
}

/// Where the daemon is that doesn't admit us, and what is known of the reason.
fn turned_away(error: &anyhow::Error) -> Option<(&str, TurnedAway)> {
    if let Some(ClientError::TurnedAway { address, why }) = error.downcast_ref() {
        return Some((address, *why));
    }
    match error.downcast_ref() {
        Some(Error::TurnedAway { address, why }) => Some((address, *why)),
        _ => None,
    }
}

/// What to do about it, on the command line.
pub(super) fn mend(why: TurnedAway) -> &'static str {
    match why {
        TurnedAway::WithoutKeys => {
            "Name your keys: --key FILE and --server-key KEY, or EVENT_MANAGER_KEY and EVENT_MANAGER_SERVER_KEY; or look at the daemon's security.from"
        }
        TurnedAway::NoCurve => {
            "Leave out --key, EVENT_MANAGER_KEY and the like; or look at the daemon's security.mechanisms and security.from"
        }
        TurnedAway::ServerKey => {
            "Give it the public key of a file of the daemon's security.secretKey: --server-key or EVENT_MANAGER_SERVER_KEY"
        }
        _ => "Put the public file of this key (NAME.key) into the daemon's security.keysDir",
    }
}

/// Standard output. Texts of peers may hold what a terminal acts on, so all that is written goes through
/// here: it is escaped, also where no terminal is, as it may be shown on one later.
pub(super) struct Out {
    stdout: StdoutLock<'static>,
    is_json: bool,
}

impl Out {
    /// For lines for people, or JSON.
    pub(super) fn new(is_json: bool) -> Self {
        #[allow(
            clippy::disallowed_methods,
            reason = "this is what all others are to use"
        )]
        let stdout = io::stdout().lock();
        Self { stdout, is_json }
    }

    /// What is no text of peers goes out as it is.
    pub(super) fn write_own(bytes: &[u8]) -> io::Result<()> {
        Self::new(false).stdout.write_all(bytes)
    }
}

/// Each call has whole characters, as those of `write!` have.
impl Write for Out {
    fn write(&mut self, written: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(written);
        let text = match self.is_json {
            true => printable_json(&text),
            false => printable(&text, |c| c == '\n' || c == '\t'),
        };
        self.stdout.write_all(text.as_bytes())?;
        Ok(written.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// Writes what is still to be written to standard output; the exit code, or that of a failure if it
/// could not be written.
pub(super) fn finish(code: ExitCode) -> ExitCode {
    match Out::new(false).flush() {
        Ok(()) => code,
        Err(error) => match exit_code(Err(error.into())) {
            ExitCode::SUCCESS => code,
            failed => failed,
        },
    }
}

/// Writes a table with its headings, each column as wide as its widest cell.
pub(super) fn write_table<const N: usize>(
    out: &mut impl Write,
    rows: &[[String; N]],
) -> io::Result<()> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<_> = (0..N).map(|n| width(n).unwrap_or_default()).collect();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        writeln!(out, "{}", line.join("  ").trim_end())?;
    }
    Ok(())
}

/// Says something on standard error, on a line for each line of it.
pub(super) fn complain(sentence: &str) {
    eprintln!("{}", printable(sentence, |c| c == '\n' || c == '\t'));
}

/// Prints one event on a line: the subject, a tab, the other frames; or a JSON object.
pub(super) fn print_event(frames: &[impl AsRef<[u8]>], as_json: bool) -> io::Result<()> {
    let mut out = Out::new(as_json);
    if as_json {
        let first = frames.first().map(AsRef::as_ref).unwrap_or_default();
        let subject = String::from_utf8_lossy(subject_of(first));
        let frames: Vec<Value> = frames
            .iter()
            .map(|frame| frame_json(frame.as_ref()))
            .collect();
        let event = json!({"subject": subject, "frames": frames});
        writeln!(out, "{event}")?;
    } else {
        let frames: Vec<String> = frames.iter().map(|frame| shown(frame.as_ref())).collect();
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

/// Text as it is, but for what would break the line or what a terminal acts on; other bytes escaped.
pub(super) fn shown(frame: &[u8]) -> String {
    match std::str::from_utf8(frame) {
        Ok(text) => printable(text, |_| false).into_owned(),
        Err(_) => frame.escape_ascii().to_string(),
    }
}

/// A text from elsewhere without what moves the cursor or turns the writing direction.
pub(super) fn safe(text: &str) -> String {
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
