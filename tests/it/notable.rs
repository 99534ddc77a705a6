//! Notable events: each kind is provoked, and read by request, from the file and by the commands.

mod adverse;
mod commands;
mod kinds;

use event_manager_wire::api::NotableEvent;
use serde::de::DeserializeOwned;

use super::support::program::{Site, wait_until};
use super::support::{PATIENCE, TestDaemon};

/// The latest events that a daemon has.
pub fn noted(daemon: &TestDaemon) -> Vec<NotableEvent> {
    let mut client = daemon.client(PATIENCE);
    client.events(None, 512).expect("an answer").events
}

/// Waits for an event with this code; the first.
pub fn wait_for(daemon: &TestDaemon, code: &str) -> NotableEvent {
    let found = wait_until(|| noted(daemon).into_iter().find(|event| event.code == code));
    found.unwrap_or_else(|| panic!("{code} is not noted: {:#?}", noted(daemon)))
}

pub fn with_code<'a>(events: &'a [NotableEvent], code: &str) -> Vec<&'a NotableEvent> {
    events.iter().filter(|event| event.code == code).collect()
}

/// The events in a file where the program was started.
fn in_file(site: &Site, path: &str) -> Vec<NotableEvent> {
    parsed(&std::fs::read_to_string(site.path(path)).expect("a file"))
}

/// The codes of events, in their order.
fn codes(events: &[NotableEvent]) -> Vec<&str> {
    events.iter().map(|event| &*event.code).collect()
}

/// The objects in a text with one on each line.
fn parsed<T: DeserializeOwned>(lines: &str) -> Vec<T> {
    let parse = |line: &str| serde_json::from_str(line).expect("an object of JSON on each line");
    lines.lines().map(parse).collect()
}
