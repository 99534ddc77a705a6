//! Bridges to other brokers. The configuration names them, so that there are few.

use std::fmt;

use super::{Labels, Page};
use event_manager_wire::api::{Bridge, BridgeState};

pub(super) fn bridges(page: &mut Page<'_>, bridges: &[Bridge]) -> fmt::Result {
    fn labels(one: &Bridge) -> Labels<'_> {
        vec![("bridge", &one.name), ("engine", &one.engine)]
    }
    let running = |one: &Bridge| f64::from(u8::from(one.state == BridgeState::Running));
    page.gauges(
        "event_manager_bridge_running",
        "1 if events go over this bridge, or would if there were any",
        bridges.iter().map(|one| (labels(one), running(one))),
    )?;
    page.gauges(
        "event_manager_bridge_in_flight_events",
        "Events that were sent over this bridge and are not confirmed yet",
        bridges
            .iter()
            .map(|one| (labels(one), one.in_flight as f64)),
    )?;
    let mut counters = |name: &str, help: &str, of: fn(&Bridge) -> u64| {
        let samples = bridges.iter().map(|one| (labels(one), of(one)));
        page.counters(name, help, samples)
    };
    counters(
        "event_manager_bridge_events",
        "Events that the other side of this bridge has confirmed",
        |one| one.events,
    )?;
    counters(
        "event_manager_bridge_known_events",
        "Those of them that it had already",
        |one| one.known,
    )?;
    counters(
        "event_manager_bridge_refused_events",
        "Events that it will never take, which are dead letters",
        |one| one.refused,
    )?;
    counters(
        "event_manager_bridge_taken_events",
        "Events that were taken for a service whose queue is at the engine",
        |one| one.taken,
    )?;
    counters(
        "event_manager_bridge_returned_events",
        "Those of them that went back to the engine, for others",
        |one| one.returned,
    )?;
    counters(
        "event_manager_bridge_left_out_events",
        "Events that came back to where they had been",
        |one| one.left_out,
    )?;
    counters(
        "event_manager_bridge_failures",
        "How often it could not be reached or did not confirm",
        |one| one.failures,
    )
}
