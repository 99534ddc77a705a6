//! Publishers that the daemon dials.

use serde_json::Value;

use super::finding::{Code, Finding, Severity};
use crate::cli::output::quoted;

/// All findings about them.
pub(super) fn check(status: &Value) -> Vec<Finding> {
    let publishers = &status["publishers"];
    let dialled = publishers["dialled"].as_array().into_iter().flatten();
    let required = publishers["dialledAreRequired"] == true;
    dialled
        .filter(|one| one["connected"] != true)
        .map(|one| missing(one, status, required))
        .collect()
}

fn missing(one: &Value, status: &Value, required: bool) -> Finding {
    let address = one["address"].as_str().unwrap_or_default();
    let now = status["wallClockMs"].as_u64().unwrap_or_default();
    let since = one["sinceMs"].as_u64().unwrap_or_default();
    let seconds = now.saturating_sub(since) / 1000;
    let tries = &one["failedTries"];
    let why = one["lastError"].as_str().unwrap_or("it was not tried yet");
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
            "publisher {address} is not connected since {seconds} s, after {tries} tries that failed: {why}{consequence}"
        ),
        format!(
            "start the publisher that binds {}, or take it out of \"connectPublishers\"",
            quoted(address)
        ),
    )
}
