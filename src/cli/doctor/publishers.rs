//! Publishers that the daemon dials.

use serde_json::Value;

use super::finding::{Code, Finding, Severity};
use crate::cli::output::quoted;

/// All findings about them.
pub(super) fn check(status: &Value) -> Vec<Finding> {
    let publishers = &status["publishers"];
    let dialled = publishers["dialled"].as_array().into_iter().flatten();
    let required = publishers["dialledAreRequired"] == true;
    let findings = dialled.map(|one| match one["connected"] == true {
        true => ring(one),
        false => Some(missing(one, status, required)),
    });
    findings.flatten().collect()
}

fn ring(one: &Value) -> Option<Finding> {
    let daemons = one["ring"]["daemons"].as_u64()?;
    let address = one["address"].as_str().unwrap_or_default();
    let what = match daemons {
        1 => "is this daemon's own".to_owned(),
        2 => "is that of an event manager that dials this one".to_owned(),
        more => format!("is that of one of {more} event managers that dial each other in a ring"),
    };
    let held = match one["ring"]["held"] == true {
        true => "this daemon takes no events from there",
        false => "another of them takes no events from its publisher",
    };
    Some(Finding::new(
        Severity::Warning,
        Code::PublisherRing,
        "connectPublishers",
        format!(
            "the subscribers' socket at {address} {what}, so events would circulate for ever; {held}"
        ),
        format!(
            "remove {} from \"connectPublishers\", or break the ring at another of its event managers",
            quoted(address)
        ),
    ))
}

fn missing(one: &Value, status: &Value, required: bool) -> Finding {
    let address = one["address"].as_str().unwrap_or_default();
    let now = status["wallClockMs"].as_u64().unwrap_or_default();
    let since = one["sinceMs"].as_u64().unwrap_or_default();
    let seconds = now.saturating_sub(since) / 1000;
    let tries = &one["failedTries"];
    let why = one["lastError"].as_str().unwrap_or("not tried yet");
    let (severity, consequence) = match required {
        true => (
            Severity::Error,
            "; the daemon is not ready without it (requirePublishers)",
        ),
        false => (Severity::Warning, ""),
    };
    Finding::new(
        severity,
        Code::PublisherMissing,
        "connectPublishers",
        format!(
            "publisher {address} has not been connected for {seconds} s, after {tries} failed tries: {why}{consequence}"
        ),
        format!(
            "start the publisher that binds {}, or remove it from \"connectPublishers\"",
            quoted(address)
        ),
    )
}
