//! Instances of other programs. They choose their ids, so that only those that STATUS shows have labels.

use std::fmt;

use super::{Labels, Page};
use event_manager_wire::api::{Instance, Status};

pub(super) fn instances(page: &mut Page<'_>, status: &Status) -> fmt::Result {
    fn labels(one: &Instance) -> Labels<'_> {
        vec![("instance", &one.id)]
    }
    let instances = &status.instances;
    let is_on = instances.observed;
    let counts = instances.counts.iter();
    page.gauges(
        "event_manager_instances",
        "Instances of other programs, by how they are",
        counts.map(|(state, count)| (vec![("state", &**state)], *count as f64)),
    )?;
    page.gauges(
        "event_manager_instance_leaders",
        "Instances that lead by their own rule; there should be one",
        is_on.then(|| (vec![], instances.leaders.len() as f64)),
    )?;
    page.counters(
        "event_manager_instances_heartbeats",
        "Heartbeats that were heard",
        is_on.then(|| (vec![], instances.heartbeats)),
    )?;
    let refused = instances.refused.iter();
    page.counters(
        "event_manager_instances_refused",
        "Messages of instances that were not taken, by reason",
        refused.map(|(reason, count)| (vec![("reason", &**reason)], *count)),
    )?;
    let known = || instances.known.iter();
    let age = |one: &Instance| status.wall_clock_ms.saturating_sub(one.last_seen_ms) as f64 / 1e3;
    page.gauges(
        "event_manager_instance_heard_seconds",
        "Time since this instance was heard last",
        known().map(|one| (labels(one), age(one))),
    )?;
    page.gauges(
        "event_manager_instance_leads",
        "1 if this instance leads",
        known().map(|one| (labels(one), f64::from(u8::from(one.leads)))),
    )?;
    let mut counters = |name: &str, help: &str, of: fn(&Instance) -> u64| {
        page.counters(name, help, known().map(|one| (labels(one), of(one))))
    };
    counters(
        "event_manager_instance_heartbeats",
        "Heartbeats of this instance",
        |one| one.heartbeats,
    )?;
    counters(
        "event_manager_instance_missed_heartbeats",
        "Heartbeats of this instance that should have come",
        |one| one.missed,
    )?;
    counters(
        "event_manager_instance_events",
        "Other events of this instance",
        |one| one.events,
    )
}
