//! Services: who works for them, and what waits.

use serde_json::Value;

use super::facts::LETTERS_MAX;
use super::finding::{Code, Finding, Severity};
use crate::cli::output::quoted;

/// The part of a budget from which on it is named.
const NEAR: f64 = 0.8;

/// Whether so much is near its bound.
pub(super) fn is_near(part: u64, whole: u64) -> bool {
    whole > 0 && part as f64 >= whole as f64 * NEAR
}

/// All findings about services, their dead letters too.
pub(super) fn check(status: &Value, letters: &[(String, u64)]) -> Vec<Finding> {
    let services = status["services"].as_array().into_iter().flatten();
    let mut found = vec![];
    for service in services {
        found.extend(nobody_ready(service));
        found.extend(stalled(service));
        found.extend(near_budget(service));
        found.extend(failed(service));
        found.extend(no_port(service));
        found.extend(left(service));
        found.extend(stuck(service));
    }
    found.extend(letters.iter().map(|(name, count)| dead(name, *count)));
    found
}

fn name(service: &Value) -> &str {
    service["name"].as_str().unwrap_or_default()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn nobody_ready(service: &Value) -> Option<Finding> {
    let (name, workers) = (name(service), &service["workers"]);
    let connected = number(&workers["connected"]);
    let waiting = number(&service["counters"]["queued"]);
    // A durable service may well wait for nobody.
    let severity = match waiting == 0 && !service["durable"].is_null() {
        true => Severity::Note,
        false => Severity::Warning,
    };
    let connected = match connected {
        0 => "no worker is connected".to_owned(),
        n => format!("none of {n} connected workers said READY"),
    };
    // Nobody can connect to one without a port.
    let address = service["address"].as_str()?;
    (number(&workers["ready"]) == 0).then(|| {
        Finding::new(
            severity,
            Code::NobodyReady,
            name,
            format!("{connected}, and {waiting} events are queued"),
            format!(
                "start a worker: a DEALER that connects to {address} and sends READY (to see the queued events: `event-manager worker {} SUBJECT`)",
                quoted(name)
            ),
        )
    })
}

fn stalled(service: &Value) -> Option<Finding> {
    let stalled = number(&service["workers"]["stalled"]);
    let (name, port) = (name(service), &service["port"]);
    let ready = number(&service["workers"]["ready"]);
    (stalled > 0).then(|| {
        Finding::new(
            Severity::Warning,
            Code::StalledWorker,
            name,
            format!(
                "{stalled} of {ready} ready workers don't read what they are sent, and are skipped"
            ),
            format!("find and restart them: `ss -tnp 'dport = :{port}'` shows their processes"),
        )
    })
}

fn stuck(service: &Value) -> Option<Finding> {
    let dispatch = &service["dispatch"];
    let stuck_ms = dispatch["stuckMs"].as_u64()?;
    let due = number(&dispatch["dueEvents"]);
    let mend = match dispatch["waitsForDisk"] == true {
        true => "the disk has not answered: look for disk errors with `dmesg`",
        false => "the daemon tries again by itself; please report it, with the answer of STATUS",
    };
    Some(Finding::new(
        Severity::Error,
        Code::ServiceStuck,
        name(service),
        format!(
            "{due} events are due and a worker is free, but none was delivered for {stuck_ms} ms"
        ),
        mend,
    ))
}

fn near_budget(service: &Value) -> Option<Finding> {
    let (name, queue) = (name(service), &service["queue"]);
    // What a durable queue has no room for in memory stays on disk.
    if !service["durable"].is_null() {
        return None;
    }
    let figure = |now: &str, max: &str| (number(&queue[now]), number(&queue[max]));
    let both = [
        ("queueBytes", "bytes", figure("bytes", "budgetBytes")),
        ("queueEvents", "events", figure("events", "budgetEvents")),
    ];
    let near = both
        .into_iter()
        .find(|(_, _, (now, max))| is_near(*now, *max));
    near.map(|(key, unit, (now, max))| {
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

fn failed(service: &Value) -> Option<Finding> {
    let durable = &service["durable"];
    let reason = durable["reason"].as_str().unwrap_or("no reason given");
    let (what, mend) = match durable["state"].as_str() {
        Some("failed") => (
            "takes no events",
            "free some space, or let the daemon write below \"stateDir\"; it tries again by itself",
        ),
        Some("unreadable") => (
            "can't be read, so its events wait",
            "check the disk (`dmesg`) and the limit on file descriptors; the daemon tries again by itself",
        ),
        _ => return None,
    };
    Some(Finding::new(
        Severity::Error,
        Code::QueueFailed,
        name(service),
        format!("its queue on disk {what}: {reason}"),
        mend,
    ))
}

fn no_port(service: &Value) -> Option<Finding> {
    let why = service["noPort"].as_str()?;
    Some(Finding::new(
        Severity::Error,
        Code::NoPort,
        name(service),
        format!("no worker can connect to it, because it has no port: {why}"),
        "free a port (`ss -ltnp` shows which processes have them), or widen minStreamerPort to maxStreamerPort and restart; the daemon tries again each second, and takes events meanwhile",
    ))
}

fn left(service: &Value) -> Option<Finding> {
    if service["durable"]["because"] != "on-disk" {
        return None;
    }
    let (name, waiting) = (name(service), number(&service["counters"]["queued"]));
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
        format!(
            "let workers drain the queue, then end the service when it has no subscription (`event-manager services --end {}` deletes its queue); or keep it: \"services\": {entry}",
            quoted(name)
        ),
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
