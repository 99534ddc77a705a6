//! Publishers that the daemon dials.

use super::finding::{Code, Finding, Severity};
use crate::cli::output::quoted;
use event_manager_wire::api::{Dialled, Status};

/// All findings about them.
pub(super) fn check(status: &Status) -> Vec<Finding> {
    let dialled = status.publishers.dialled.iter();
    let findings = dialled.map(|one| match one.connected {
        true => ring(one),
        false => Some(missing(one, status)),
    });
    findings.flatten().collect()
}

fn ring(one: &Dialled) -> Option<Finding> {
    let (ring, address) = (one.ring?, &one.address);
    let what = match ring.daemons {
        1 => "is this daemon's own".to_owned(),
        2 => "is that of an event manager that dials this one".to_owned(),
        more => format!("is that of one of {more} event managers that dial each other in a ring"),
    };
    let held = match ring.held {
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

fn missing(one: &Dialled, status: &Status) -> Finding {
    let (address, tries) = (&one.address, one.failed_tries);
    let seconds = status.wall_clock_ms.saturating_sub(one.since_ms) / 1000;
    let why = one.last_error.as_deref().unwrap_or("not tried yet");
    let (severity, consequence) = match status.publishers.dialled_are_required {
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
