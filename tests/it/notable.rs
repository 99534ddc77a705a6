//! Notable events: each kind is provoked, and read by request, from the file and by the commands.

mod adverse;
mod commands;
mod kinds;

use event_manager::client::blocking::Client;
use serde_json::Value;

use super::support::program::wait_until;
use super::support::{PATIENCE, TestDaemon};

/// The latest events that a daemon has.
pub fn noted(daemon: &TestDaemon) -> Vec<Value> {
    let mut client = Client::new(daemon.requests(), PATIENCE);
    let page = client.events(None, 512).expect("an answer");
    page["events"].as_array().expect("a list").clone()
}

/// Waits for an event with this code; the first.
pub fn wait_for(daemon: &TestDaemon, code: &str) -> Value {
    let found = wait_until(|| {
        noted(daemon)
            .into_iter()
            .find(|event| event["code"] == code)
    });
    found.unwrap_or_else(|| panic!("{code} is not noted: {:#?}", noted(daemon)))
}

pub fn with_code<'a>(events: &'a [Value], code: &str) -> Vec<&'a Value> {
    events
        .iter()
        .filter(|event| event["code"] == code)
        .collect()
}

/// The events in a text with one on each line.
fn parsed(lines: &str) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).expect("an object of JSON on each line");
    lines.lines().map(parse).collect()
}
