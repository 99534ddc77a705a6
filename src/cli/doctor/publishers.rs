//! Publishers that the daemon dials, and hubs of the mesh.

use super::finding::{Code, Finding, Severity};
use crate::cli::output::quoted;
use event_manager_wire::api::{Dialled, Link, Status};

/// All findings about them.
pub(super) fn check(status: &Status) -> Vec<Finding> {
    let dialled = status.publishers.dialled.iter();
    let findings = dialled.map(|one| match one.connected {
        true if one.doubled => Some(doubled(one)),
        true => ring(one),
        false => Some(missing(one, status)),
    });
    let links = status.mesh.links.iter().filter(|link| !link.connected);
    let unlinked = links.map(|link| unlinked(link, status));
    findings.flatten().chain(unlinked).collect()
}

fn unlinked(link: &Link, status: &Status) -> Finding {
    let (address, tries) = (&link.address, link.failed_tries);
    let seconds = status.wall_clock_ms.saturating_sub(link.since_ms) / 1000;
    let why = link.last_error.as_deref().unwrap_or("not tried yet");
    if link.refused {
        return Finding::new(
            Severity::Warning,
            Code::LinkMissing,
            "mesh.peers",
            format!("{address} can't be linked: {why}"),
            format!(
                "do what that says; or remove {} from \"mesh.peers\"",
                quoted(address)
            ),
        );
    }
    Finding::new(
        Severity::Warning,
        Code::LinkMissing,
        "mesh.peers",
        format!(
            "the hub at {address} has not been linked for {seconds} s, after {tries} failed tries: {why}"
        ),
        format!(
            "start the event manager whose subscribers' socket is {}, or remove it from \"mesh.peers\"",
            quoted(address)
        ),
    )
}

fn doubled(one: &Dialled) -> Finding {
    let address = &one.address;
    Finding::new(
        Severity::Warning,
        Code::PublisherRing,
        "connectPublishers",
        format!(
            "the event manager at {address} is linked by \"mesh\", too; nothing is taken from this connection, or its events would come twice"
        ),
        format!("remove {} from \"connectPublishers\"", quoted(address)),
    )
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
            "remove {} from \"connectPublishers\", or break the ring at another of its event managers; \"mesh\" links event managers both ways (docs/mesh.md)",
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
