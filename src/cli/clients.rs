//! `event-manager clients`: who is connected, and what was denied.

use std::io::Write;

use clap::Args;
use serde_json::json;

use super::output::{Out, shown, write_table};
use super::target::Target;
use event_manager_wire::api::ClientStatus;

#[derive(Debug, Args)]
pub(super) struct ClientsArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

const HEADINGS: [&str; 7] = [
    "CLIENT",
    "CONNECTIONS",
    "MECHANISM",
    "SERVER KEY",
    "STORED",
    "DENIED",
    "ADDRESSES",
];

pub(super) fn run(args: &ClientsArgs) -> anyhow::Result<()> {
    let security = args.target.client()?.status()?.security;
    let mut out = Out::new(args.json);
    if args.json {
        let all = json!({"clients": security.clients, "deniedToOthers": security.denied_to_others});
        return Ok(writeln!(out, "{all:#}")?);
    }
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(security.clients.iter().map(row));
    write_table(&mut out, &rows)?;
    if !security.denied_to_others.is_empty() {
        let others = counted(&security.denied_to_others);
        writeln!(out, "denied to clients that are not shown: {others}")?;
    }
    Ok(())
}

fn counted(counts: &std::collections::BTreeMap<String, u64>) -> String {
    let counts = counts.iter().map(|(name, times)| format!("{name} {times}"));
    counts.collect::<Vec<_>>().join(", ")
}

fn or_none(text: String) -> String {
    match text.is_empty() {
        true => "-".into(),
        false => text,
    }
}

fn row(client: &ClientStatus) -> [String; 7] {
    let pause = if client.paused { " (paused)" } else { "" };
    let leaving = match client.leaving {
        0 => String::new(),
        leaving => format!(" and {leaving} leaving"),
    };
    let shown_addresses = client.addresses.len() as u64;
    let more = client.connections.saturating_sub(shown_addresses);
    let mut addresses = client.addresses.join(" ");
    if more > 0 {
        addresses.push_str(&format!(" and {more} more"));
    }
    // One word if all have the same, else each with its number.
    let words = |counts: &std::collections::BTreeMap<String, u64>| match counts.len() {
        1 => counts.keys().cloned().collect(),
        _ => counted(counts),
    };
    [
        shown(client.name.as_bytes()),
        format!("{}{leaving}{pause}", client.connections),
        or_none(words(&client.mechanisms)),
        or_none(words(&client.server_keys)),
        match client.stored_bytes {
            0 => "-".into(),
            bytes => bytes.to_string(),
        },
        or_none(counted(&client.denied)),
        or_none(addresses),
    ]
}
