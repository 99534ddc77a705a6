//! `event-manager bridges`: whether events go to other brokers, and what waits.

use std::io::Write;

use clap::Args;
use serde_json::{Value, json};

use super::output::{Out, shown, write_table};
use super::target::Target;
use crate::config::Bridge as Configured;
use event_manager_wire::api::{Bridge, ServiceStatus, Status};

#[derive(Debug, Args)]
pub(super) struct BridgesArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

const HEADINGS: [&str; 11] = [
    "BRIDGE",
    "ENGINE",
    "DIRECTION",
    "STATE",
    "EVENTS",
    "REFUSED",
    "KNOWN",
    "LEFT OUT",
    "FAILURES",
    "WAITING",
    "PROBLEM",
];

pub(super) fn run(args: &BridgesArgs) -> anyhow::Result<()> {
    let status = args.target.client()?.status()?;
    let mut out = Out::new(args.json);
    if args.json {
        let all = status.bridges.iter().map(|one| as_json(&status, one));
        let all = json!({"bridges": all.collect::<Vec<_>>()});
        return Ok(writeln!(out, "{all:#}")?);
    }
    if status.bridges.is_empty() {
        return Ok(writeln!(out, "no bridge is configured")?);
    }
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(status.bridges.iter().map(|one| row(&status, one)));
    Ok(write_table(&mut out, &rows)?)
}

/// The service of a bridge, in whose queue the events wait that go out. That of one that serves a service
/// is that service.
pub(super) fn service_of<'a>(status: &'a Status, bridge: &Bridge) -> Option<&'a ServiceStatus> {
    let name = match bridge.service {
        Some(_) => bridge.name.clone(),
        None => Configured::service(&bridge.name)?.to_string(),
    };
    let mut services = status.services.iter();
    services.find(|service| service.name == name)
}

/// Events that its engine has not confirmed yet. What is to come in waits there, and isn't known here.
pub(super) fn waiting(status: &Status, bridge: &Bridge) -> Option<u64> {
    if bridge.direction != "out" {
        return None;
    }
    let counters = &service_of(status, bridge)?.counters;
    Some(counters.queued + counters.in_flight)
}

/// Which way its events go, between its name and that of its engine.
pub(super) fn arrow(bridge: &Bridge) -> &'static str {
    match &*bridge.direction {
        "in" => "←",
        _ => "→",
    }
}

fn as_json(status: &Status, bridge: &Bridge) -> Value {
    let mut shown = json!(bridge);
    shown["waiting"] = json!(waiting(status, bridge));
    shown
}

fn row(status: &Status, bridge: &Bridge) -> [String; 11] {
    let waiting = waiting(status, bridge);
    [
        shown(bridge.name.as_bytes()),
        shown(bridge.engine.as_bytes()),
        shown(bridge.direction.as_bytes()),
        bridge.state.name().into(),
        bridge.events.to_string(),
        bridge.refused.to_string(),
        bridge.known.to_string(),
        bridge.left_out.to_string(),
        bridge.failures.to_string(),
        waiting.map_or("-".into(), |waiting| waiting.to_string()),
        shown(bridge.problem.as_deref().unwrap_or("-").as_bytes()),
    ]
}
