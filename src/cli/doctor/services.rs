//! Services: who works for them, and what waits.

use super::facts::LETTERS_MAX;
use super::finding::{Code, Finding, Severity};
use crate::cli::output::quoted;
use crate::config::Bridge as Configured;
use event_manager_wire::api::{Bridge, DurableReason, QueueState, ServiceStatus, Status};

/// The part of a budget from which on it is named.
const NEAR: f64 = 0.8;

/// Whether so much is near its bound.
pub(super) fn is_near(part: u64, whole: u64) -> bool {
    whole > 0 && part as f64 >= whole as f64 * NEAR
}

/// All findings about services, their dead letters too.
pub(super) fn check(status: &Status, letters: &[(String, u64)]) -> Vec<Finding> {
    let mut found = vec![];
    for service in &status.services {
        // The only worker of a bridge's service is the daemon itself: EM-9031 says what is wrong.
        let mut bridges = status.bridges.iter();
        if !bridges.any(|bridge| is_service_of(bridge, service)) {
            found.extend(nobody_ready(service));
            found.extend(stalled(service));
        }
        found.extend(near_budget(service));
        found.extend(failed(service));
        found.extend(no_port(service));
        found.extend(left(service));
        found.extend(stuck(service));
    }
    found.extend(letters.iter().map(|(name, count)| dead(name, *count)));
    found
}

fn is_service_of(bridge: &Bridge, service: &ServiceStatus) -> bool {
    let name = Configured::service(&bridge.name);
    name.is_some_and(|name| name.as_str() == service.name)
}

fn nobody_ready(service: &ServiceStatus) -> Option<Finding> {
    let waiting = service.counters.queued;
    // A durable service may well wait for nobody.
    let severity = match waiting == 0 && service.durable.is_some() {
        true => Severity::Note,
        false => Severity::Warning,
    };
    let connected = match service.workers.connected {
        0 => "no worker is connected".to_owned(),
        n => format!("none of {n} connected workers said READY"),
    };
    // Nobody can connect to one without a port.
    let address = service.address.as_ref()?;
    (service.workers.ready == 0).then(|| {
        Finding::new(
            severity,
            Code::NobodyReady,
            &service.name,
            format!("{connected}, and {waiting} events are queued"),
            bridge_is_gone(&service.name).unwrap_or_else(|| {
                format!(
                    "start a worker: a DEALER that connects to {address} and sends READY (to see the queued events: `event-manager worker {} SUBJECT`)",
                    quoted(&service.name)
                )
            }),
        )
    })
}

/// What to do about the queue that a bridge has left. A worker would take what was to go out.
fn bridge_is_gone(service: &str) -> Option<String> {
    let bridge = service.strip_prefix("bridge.")?;
    Some(format!(
        "it is the queue of a bridge that is not configured any more: put bridges.{bridge} back to send what waits, or give it up with `event-manager services --end {}`",
        quoted(service)
    ))
}

fn stalled(service: &ServiceStatus) -> Option<Finding> {
    let (stalled, ready) = (service.workers.stalled, service.workers.ready);
    let port = service.port.unwrap_or_default();
    (stalled > 0).then(|| {
        Finding::new(
            Severity::Warning,
            Code::StalledWorker,
            &service.name,
            format!(
                "{stalled} of {ready} ready workers don't read what they are sent, and are skipped"
            ),
            format!("find and restart them: `ss -tnp 'dport = :{port}'` shows their processes"),
        )
    })
}

fn stuck(service: &ServiceStatus) -> Option<Finding> {
    let stuck_ms = service.dispatch.stuck_ms?;
    let due = service.dispatch.due_events;
    let mend = match service.dispatch.waits_for_disk {
        true => "the disk has not answered: look for disk errors with `dmesg`",
        false => "the daemon tries again by itself; please report it, with the answer of STATUS",
    };
    Some(Finding::new(
        Severity::Error,
        Code::ServiceStuck,
        &service.name,
        format!(
            "{due} events are due and a worker is free, but none was delivered for {stuck_ms} ms"
        ),
        mend,
    ))
}

fn near_budget(service: &ServiceStatus) -> Option<Finding> {
    let (name, queue) = (&service.name, &service.queue);
    // What a durable queue has no room for in memory stays on disk.
    if service.durable.is_some() {
        return None;
    }
    let both = [
        ("queueBytes", "bytes", queue.bytes, queue.budget_bytes),
        ("queueEvents", "events", queue.events, queue.budget_events),
    ];
    let near = both
        .into_iter()
        .find(|(_, _, now, max)| is_near(*now, *max));
    near.map(|(key, unit, now, max)| {
        let entry = serde_json::json!({name: {key: max.saturating_mul(2)}});
        Finding::new(
            Severity::Warning,
            Code::QueueNearBudget,
            name,
            format!("its queue has {now} of {max} {unit}; when it is full, events are dropped"),
            format!("start more workers, or enlarge the queue: \"services\": {entry}"),
        )
    })
}

fn failed(service: &ServiceStatus) -> Option<Finding> {
    let durable = service.durable.as_ref()?;
    let reason = durable.reason.as_deref().unwrap_or("no reason given");
    let (what, mend) = match durable.state {
        QueueState::Failed => (
            "takes no events",
            "free some space, or let the daemon write below \"stateDir\"; it tries again by itself",
        ),
        QueueState::Unreadable => (
            "can't be read, so its events wait",
            "check the disk (`dmesg`) and the limit on file descriptors; the daemon tries again by itself",
        ),
        _ => return None,
    };
    Some(Finding::new(
        Severity::Error,
        Code::QueueFailed,
        &service.name,
        format!("its queue on disk {what}: {reason}"),
        mend,
    ))
}

fn no_port(service: &ServiceStatus) -> Option<Finding> {
    let why = service.no_port.as_ref()?;
    Some(Finding::new(
        Severity::Error,
        Code::NoPort,
        &service.name,
        format!("no worker can connect to it, because it has no port: {why}"),
        "free a port (`ss -ltnp` shows which processes have them), or widen minStreamerPort to maxStreamerPort and restart; the daemon tries again each second, and takes events meanwhile",
    ))
}

fn left(service: &ServiceStatus) -> Option<Finding> {
    if service.durable.as_ref()?.because != DurableReason::OnDisk {
        return None;
    }
    let (name, waiting) = (&service.name, service.counters.queued);
    let severity = match waiting {
        0 => Severity::Note,
        _ => Severity::Warning,
    };
    let entry = serde_json::json!({name: {"delivery": "queue"}});
    Some(Finding::new(
        severity,
        Code::QueueLeft,
        name,
        format!(
            "it is durable only because its queue is on disk, with {waiting} events; neither the configuration nor a subscription says so"
        ),
        bridge_is_gone(name).unwrap_or_else(|| {
        format!(
            "let workers drain the queue, then end the service when it has no subscription (`event-manager services --end {}` deletes its queue); or keep it: \"services\": {entry}",
            quoted(name)
        )
        }),
    ))
}

fn dead(name: &str, count: u64) -> Finding {
    let at_least = if count >= LETTERS_MAX {
        "at least "
    } else {
        ""
    };
    let quoted = quoted(name);
    Finding::new(
        Severity::Warning,
        Code::DeadLetters,
        name,
        format!("{at_least}{count} dead letters are kept"),
        format!(
            "`event-manager dlq list {quoted}` says why; then `event-manager dlq replay {quoted}` or `… purge {quoted}`"
        ),
    )
}
