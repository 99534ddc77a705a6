//! `event-manager instances`: which instances of other programs there are, and who of them leads.

use std::io::Write;

use clap::Args;

use super::output::{Out, shown, write_table};
use super::target::Target;
use crate::telemetry::rfc3339;
use event_manager_wire::api::{Instance, InstancesPage, Turn};

/// Changes of who leads that are shown.
const HISTORY_MAX: usize = 1000;

#[derive(Debug, Args)]
pub(super) struct InstancesArgs {
    /// Show who led when, instead.
    #[arg(long)]
    history: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

const HEADINGS: [&str; 9] = [
    "INSTANCE",
    "STATE",
    "SINCE",
    "PID",
    "LEADS",
    "ADDRESS",
    "LINK",
    "HEARTBEATS",
    "MISSED",
];

pub(super) fn run(args: &InstancesArgs) -> anyhow::Result<()> {
    let history = if args.history { HISTORY_MAX } else { 0 };
    let page = args.target.client()?.instances(history)?;
    let mut out = Out::new(args.json);
    if args.json {
        return Ok(writeln!(out, "{}", serde_json::to_string_pretty(&page)?)?);
    }
    if !page.instances.observed {
        let how = "set instances.heartbeat to what heartbeats begin with (docs/instances.md)";
        return Ok(writeln!(out, "no instances are observed: {how}")?);
    }
    match args.history {
        true => write_table(&mut out, &turns(&page))?,
        false => write_table(&mut out, &instances(&page))?,
    }
    Ok(())
}

fn instances(page: &InstancesPage) -> Vec<[String; 9]> {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(page.instances.known.iter().map(row));
    rows
}

fn row(one: &Instance) -> [String; 9] {
    let text = |text: &Option<String>| shown(text.as_deref().unwrap_or("-").as_bytes());
    [
        shown(one.id.as_bytes()),
        one.state.name().into(),
        rfc3339(one.since_ms),
        pid(one.pid),
        if one.leads { "yes" } else { "-" }.into(),
        text(&one.address),
        text(&one.link),
        one.heartbeats.to_string(),
        one.missed.to_string(),
    ]
}

fn pid(pid: Option<i64>) -> String {
    pid.map_or("-".into(), |pid| pid.to_string())
}

fn turns(page: &InstancesPage) -> Vec<[String; 5]> {
    let headings = ["NUMBER", "TIME", "INSTANCE", "PID", "CHANGE"];
    let mut rows = vec![headings.map(str::to_owned)];
    rows.extend(page.history.iter().map(turn));
    rows
}

fn turn(turn: &Turn) -> [String; 5] {
    [
        turn.number.to_string(),
        rfc3339(turn.at_ms),
        shown(turn.instance.as_bytes()),
        pid(turn.pid),
        shown(turn.kind.as_bytes()),
    ]
}
