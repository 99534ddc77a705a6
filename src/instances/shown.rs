//! Instances as they are shown, and as they are kept.

use super::watch::host_of;
use crate::state::{KeptInstance, KeptTurn};
use event_manager_core::instances::{Former, Instance, Registry, Turn};
use event_manager_wire::api::{self, InstanceState, InstancesPage};

/// Instances that STATUS shows.
const SHOWN_MAX: usize = 64;

pub(super) fn instances(registry: &Registry) -> api::Instances {
    let leaders: Vec<_> = registry.leaders().map(str::to_owned).collect();
    let known: Vec<_> = registry
        .instances()
        .map(|one| instance(one, &leaders))
        .collect();
    let mut shown = api::Instances {
        observed: true,
        leaders,
        ..api::Instances::default()
    };
    for one in &known {
        let name = one.state.name().to_owned();
        *shown.counts.entry(name).or_default() += 1;
    }
    shown.known = known;
    shown
}

/// The same with a few instances only: those that are heard first.
pub(super) fn summary(page: &InstancesPage) -> api::Instances {
    let mut summary = page.instances.clone();
    let is_gone = |one: &api::Instance| one.state == InstanceState::Gone;
    summary.known.sort_by_key(is_gone);
    summary.known.truncate(SHOWN_MAX);
    summary
}

fn instance(one: &Instance, leaders: &[String]) -> api::Instance {
    let known = one.known();
    api::Instance {
        id: known.id.clone(),
        state: one.state(),
        since_ms: one.since_ms(),
        pid: known.pid,
        leads: leaders.contains(&known.id),
        address: reachable(known),
        link: known.link.clone(),
        linked: one.is_linked(),
        first_seen_ms: known.first_seen_ms,
        last_seen_ms: known.last_seen_ms,
        heartbeats: known.heartbeats,
        missed: known.missed,
        events: known.events,
        pauses_ms: one.pauses_ms().collect(),
    }
}

/// Who binds to every address of its host can't say which of them it is.
fn reachable(known: &Former) -> Option<String> {
    let address = known.address.as_deref()?;
    let host = known.link.as_deref().and_then(host_of);
    let anywhere = ["tcp://0.0.0.0:", "tcp://*:", "tcp://[::]:"];
    let port = anywhere
        .iter()
        .find_map(|begin| address.strip_prefix(begin));
    Some(match (host, port) {
        (Some(host), Some(port)) if host.contains(':') => format!("tcp://[{host}]:{port}"),
        (Some(host), Some(port)) => format!("tcp://{host}:{port}"),
        _ => address.to_owned(),
    })
}

pub(super) fn turn(turn: &Turn) -> api::Turn {
    api::Turn {
        number: turn.number,
        at_ms: turn.at_ms,
        instance: turn.instance.clone(),
        pid: turn.pid,
        kind: turn.kind.name().to_owned(),
    }
}

pub(super) fn kept_turn(turn: &Turn) -> KeptTurn {
    KeptTurn {
        at_ms: turn.at_ms,
        instance: turn.instance.clone(),
        pid: turn.pid,
        kind: turn.kind.name().to_owned(),
    }
}

pub(super) fn kept(one: &Instance) -> KeptInstance {
    let known = one.known().clone();
    KeptInstance {
        pid: known.pid,
        address: known.address,
        link: known.link,
        first_seen_ms: known.first_seen_ms,
        last_seen_ms: known.last_seen_ms,
        heartbeats: known.heartbeats,
        missed: known.missed,
        events: known.events,
        is_gone: known.is_gone,
    }
}

/// What an earlier run kept of an instance.
pub(super) fn former((id, kept): (String, KeptInstance)) -> Former {
    Former {
        id,
        pid: kept.pid,
        address: kept.address,
        link: kept.link,
        first_seen_ms: kept.first_seen_ms,
        last_seen_ms: kept.last_seen_ms,
        heartbeats: kept.heartbeats,
        missed: kept.missed,
        events: kept.events,
        is_gone: kept.is_gone,
    }
}
