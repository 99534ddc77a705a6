//! The lease under which the daemon serves.

use std::fmt;

use super::Page;
use event_manager_wire::api::{HeldLease, Status};

pub(super) fn lease(page: &mut Page<'_>, status: &Status) -> fmt::Result {
    let lease = status.lease.as_ref();
    let mut gauge = |name: &str, help: &str, of: fn(&HeldLease) -> Option<f64>| {
        page.gauges(name, help, lease.and_then(of).map(|value| (vec![], value)))
    };
    gauge(
        "event_manager_lease_token",
        "The token of the lease under which the daemon serves",
        |lease| Some(lease.token as f64),
    )?;
    gauge(
        "event_manager_lease_epoch",
        "The state directory's epoch under that lease",
        |lease| Some(lease.epoch as f64),
    )?;
    gauge(
        "event_manager_lease_ttl_seconds",
        "How long the lease is held from each renewal",
        |lease| lease.ttl_ms.map(|ms| ms as f64 / 1e3),
    )?;
    gauge(
        "event_manager_lease_expires_seconds",
        "How long the daemon may serve still, if the lease isn't renewed",
        |lease| lease.expires_in_ms.map(|ms| ms as f64 / 1e3),
    )?;
    gauge(
        "event_manager_lease_renewed_seconds",
        "Time since the latest renewal that was confirmed was asked for",
        |lease| lease.ttl_ms.map(|_| lease.renewed_ago_ms as f64 / 1e3),
    )?;
    let renewals = lease.map(|lease| (vec![], lease.renewals));
    page.counters(
        "event_manager_lease_renewals",
        "Renewals of the lease since it was taken",
        renewals,
    )?;
    let kept = status.leases.as_ref();
    page.counters(
        "event_manager_leases_asked",
        "Requests about leases that an engine keeps",
        kept.map(|kept| (vec![], kept.asked)),
    )?;
    page.counters(
        "event_manager_leases_failed",
        "Of these, those that the engine did not answer in time",
        kept.map(|kept| (vec![], kept.failed)),
    )
}
