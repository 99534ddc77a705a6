//! `event-manager services`: who is subscribed, and what waits.

use std::io::Write;

use clap::Args;
use serde_json::Value;

use super::output::{Out, quoted, shown, shown_field};
use super::target::Target;

#[derive(Debug, Args)]
pub(super) struct ServicesArgs {
    /// Also show each service's subscriptions and counters.
    #[arg(short, long)]
    verbose: bool,
    /// End this durable service and delete its queue; it must have no subscription.
    #[arg(long, value_name = "SERVICE", conflicts_with_all = ["verbose", "json"])]
    end: Option<String>,
    /// Print the daemon's complete state as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &ServicesArgs) -> anyhow::Result<()> {
    let mut client = args.target.client();
    if let Some(service) = &args.end {
        let letters = client.end(service)?;
        return Ok(write_ended(&mut Out::new(false), service, letters)?);
    }
    let status = client.status()?;
    let mut out = Out::new(args.json);
    if args.json {
        return Ok(writeln!(out, "{status:#}")?);
    }
    let services = status["services"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if services.is_empty() {
        return Ok(writeln!(out, "no service is subscribed")?);
    }
    let rows: Vec<_> = services.iter().map(row).collect();
    let widths: Vec<usize> = (0..HEADINGS.len())
        .map(|i| {
            rows.iter()
                .map(|row| row[i].chars().count())
                .chain([HEADINGS[i].len()])
                .max()
                .unwrap_or(0)
        })
        .collect();
    writeln!(out, "{}", line(&HEADINGS.map(str::to_owned), &widths))?;
    for (row, service) in rows.iter().zip(services) {
        writeln!(out, "{}", line(row, &widths))?;
        if args.verbose {
            write_details(&mut out, service)?;
        }
    }
    Ok(())
}

/// The dead letters of a service stay when it has ended.
fn write_ended(out: &mut impl Write, service: &str, letters: Option<u64>) -> std::io::Result<()> {
    let count = match letters {
        Some(0) => return Ok(()),
        Some(1) => "1 dead letter remains".to_owned(),
        Some(count) => format!("{count} dead letters remain"),
        None => "its dead letters could not be counted".to_owned(),
    };
    let name = quoted(service);
    writeln!(
        out,
        "{service} has ended; {count}: list them with `event-manager dlq list {name}`, delete them with `event-manager dlq purge {name}`"
    )
}

const HEADINGS: [&str; 8] = [
    "SERVICE",
    "PORT",
    "READY",
    "STALLED",
    "QUEUED",
    "DELIVERED",
    "DROPPED",
    "SUBJECTS",
];

fn row(service: &Value) -> [String; 8] {
    let (workers, counters) = (&service["workers"], &service["counters"]);
    let dropped: u64 = counters["dropped"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, n)| n.as_u64())
        .sum();
    let subjects: Vec<&str> = service["subjects"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    [
        shown_field(&service["name"]),
        match service["port"].as_u64() {
            Some(port) => port.to_string(),
            None => "-".to_owned(),
        },
        format!("{}/{}", workers["ready"], workers["connected"]),
        workers["stalled"].to_string(),
        service["queue"]["events"].to_string(),
        counters["delivered"].to_string(),
        dropped.to_string(),
        match is_left(service) && subjects.is_empty() {
            true => "(only its queue on disk is left)".to_owned(),
            false => subjects
                .iter()
                .map(|s| match *s {
                    "" => "(all)".to_owned(),
                    subject => shown(subject.as_bytes()),
                })
                .collect::<Vec<_>>()
                .join(" "),
        },
    ]
}

/// Whether nothing but its queue on disk makes it durable.
fn is_left(service: &Value) -> bool {
    service["durable"]["because"] == "on-disk"
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let cells = cells
        .iter()
        .zip(widths)
        .map(|(cell, width)| format!("{cell:<width$}"));
    cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

fn write_details(out: &mut impl Write, service: &Value) -> std::io::Result<()> {
    for subscription in service["subscriptions"].as_array().into_iter().flatten() {
        let id = shown_field(&subscription["id"]);
        let expires_in = subscription["expiresInSeconds"]
            .as_f64()
            .unwrap_or_default();
        writeln!(
            out,
            "    subscription {id}: expires in {expires_in:.0} s, subjects {}",
            subscription["subjects"]
        )?;
    }
    if let Some(why) = service["noPort"].as_str() {
        writeln!(out, "    no port, trying again: {}", shown(why.as_bytes()))?;
    }
    if is_left(service) {
        let name = quoted(service["name"].as_str().unwrap_or_default());
        writeln!(
            out,
            "    durable only because its queue is on disk; end it with `event-manager services --end {name}`"
        )?;
    }
    let counters = &service["counters"];
    writeln!(
        out,
        "    matched {} = delivered {} + queued {} + in flight {} + dead-lettered {} + expired {} + dropped {}; unconfirmed {}, retries {}, letters lost {}",
        counters["matched"],
        counters["delivered"],
        counters["queued"],
        counters["inFlight"],
        counters["deadLettered"],
        counters["expired"],
        counters["dropped"],
        counters["unconfirmed"],
        counters["retries"],
        counters["lettersLost"]
    )
}
