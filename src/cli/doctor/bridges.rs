//! Bridges to other brokers.

use std::collections::BTreeMap;

use super::super::bridges::{service_of, waiting};
use super::finding::{Code, Finding, Severity};
use super::services::is_near;
use crate::cli::output::quoted;
use event_manager_wire::api::{Bridge, BridgeState, NotableEvent, Status};

/// Since when bridges don't work, by name, as far as the daemon remembers.
pub(super) fn down_since(events: &[NotableEvent]) -> BTreeMap<String, String> {
    let mut down = BTreeMap::new();
    for event in events {
        let Some(bridge) = event.text("bridge") else {
            continue;
        };
        match &*event.name {
            "bridge-down" => {
                let since = down.entry(bridge.to_owned());
                since.or_insert_with(|| event.ts.clone());
            }
            "bridge-up" => {
                down.remove(bridge);
            }
            _ => {}
        }
    }
    down
}

/// All findings about them.
pub(super) fn check(status: &Status, since: &BTreeMap<String, String>) -> Vec<Finding> {
    let mut found = vec![];
    for bridge in &status.bridges {
        found.extend(down(status, bridge, since));
        found.extend(near_retention(status, bridge));
    }
    found
}

/// Where the configuration speaks of it.
fn place(bridge: &Bridge) -> String {
    let name = bridge.service.as_ref().unwrap_or(&bridge.name);
    format!("{}.{name}", section(bridge))
}

fn section(bridge: &Bridge) -> &'static str {
    match bridge.service {
        Some(_) => "services",
        None => "bridges",
    }
}

fn down(status: &Status, bridge: &Bridge, since: &BTreeMap<String, String>) -> Option<Finding> {
    let engine = format!("engines.{}", bridge.engine);
    let (state, mend) = match bridge.state {
        BridgeState::Running => return None,
        BridgeState::Connecting if bridge.direction == "in" => (
            format!(
                "{} is not reached, or doesn't give what is read there",
                bridge.engine
            ),
            format!(
                "do what the sentence says, at the server or in {engine} and {}; the daemon tries again by itself",
                place(bridge)
            ),
        ),
        BridgeState::Connecting => (
            format!("{} is not reached", bridge.engine),
            format!("start that server, or correct {engine}; the daemon tries again by itself"),
        ),
        BridgeState::Failing => (
            format!(
                "{} is reached, and doesn't do what it should",
                bridge.engine
            ),
            "do there what the sentence says; the daemon tries again by itself".to_owned(),
        ),
    };
    let since = since
        .get(&bridge.name)
        .map(|since| format!(" since {since}"));
    let why = bridge.problem.as_ref().map(|why| format!(": {why}"));
    let waiting = waiting(status, bridge).map(|waiting| format!("; {waiting} events wait"));
    let (severity, consequence) = match bridge.required {
        true => (
            Severity::Error,
            "; the daemon is not ready without it (required)",
        ),
        false => (Severity::Warning, ""),
    };
    Some(Finding::new(
        severity,
        Code::BridgeDown,
        place(bridge),
        format!(
            "{state}{}{}{}{consequence}",
            since.unwrap_or_default(),
            why.unwrap_or_default(),
            waiting.unwrap_or_default()
        ),
        mend,
    ))
}

fn near_retention(status: &Status, bridge: &Bridge) -> Option<Finding> {
    let service = service_of(status, bridge)?;
    let durable = service.durable.as_ref()?;
    let (bytes, max) = (durable.bytes, durable.retention_bytes);
    is_near(bytes, max).then(|| {
        let name = bridge.service.as_ref().unwrap_or(&bridge.name);
        let section = section(bridge);
        Finding::new(
            Severity::Warning,
            Code::BridgeNearRetention,
            place(bridge),
            format!(
                "{bytes} of {max} bytes wait on disk; when that is full, the oldest events are dropped (retention-bytes)"
            ),
            format!(
                "see that events go out (`event-manager bridges`), or set \"retention\": {{\"maxBytes\": {}}} in {section}.{}, and restart",
                max.saturating_mul(2),
                quoted(name)
            ),
        )
    })
}
