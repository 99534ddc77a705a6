//! `event-manager services`: who is subscribed, and what waits.

use std::io::Write;

use clap::Args;
use serde_json::json;

use super::output::{Out, quoted, shown};
use super::target::Target;
use event_manager_wire::api::{DurableReason, Mesh, NamedWorker, ServiceStatus};

#[derive(Debug, Args)]
pub(super) struct ServicesArgs {
    /// Also show each service's subscriptions, the workers that say who they are, and counters.
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
    let mut client = args.target.client()?;
    if let Some(service) = &args.end {
        let letters = client.end(service)?;
        return Ok(write_ended(&mut Out::new(false), service, letters)?);
    }
    let mut out = Out::new(args.json);
    if args.json {
        return Ok(writeln!(out, "{:#}", client.status_json()?)?);
    }
    let status = client.status()?;
    let services = &status.services;
    if services.is_empty() {
        writeln!(out, "no service is subscribed")?;
        return write_mesh(&mut out, &status.mesh);
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
    write_mesh(&mut out, &status.mesh)
}

/// The hubs of the mesh, if there is one.
fn write_mesh(out: &mut impl Write, mesh: &Mesh) -> anyhow::Result<()> {
    for link in &mesh.links {
        let (address, events) = (shown(link.address.as_bytes()), link.events);
        match &link.hub {
            Some(hub) => writeln!(
                out,
                "mesh: {address} is linked (hub {hub}), {events} events came"
            )?,
            None => {
                let why = link.last_error.as_deref().unwrap_or("not tried yet");
                writeln!(out, "mesh: {address} is not linked: {why}")?;
            }
        }
    }
    for hub in &mesh.hubs {
        let (id, address) = (shown(hub.hub.as_bytes()), shown(hub.address.as_bytes()));
        let (events, dropped) = (hub.events, hub.dropped);
        writeln!(
            out,
            "mesh: hub {id} at {address} got {events} events, {dropped} were dropped"
        )?;
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

fn row(service: &ServiceStatus) -> [String; 8] {
    let (workers, counters) = (&service.workers, &service.counters);
    let subjects = &service.subjects;
    [
        shown(service.name.as_bytes()),
        match service.port {
            Some(port) => port.to_string(),
            None => "-".to_owned(),
        },
        format!("{}/{}", workers.ready, workers.connected),
        workers.stalled.to_string(),
        counters.queued.to_string(),
        counters.delivered.to_string(),
        counters.dropped_total().to_string(),
        match is_left(service) && subjects.is_empty() {
            true => "(only its queue on disk is left)".to_owned(),
            false => subjects
                .iter()
                .map(|s| match s.as_str() {
                    "" => "(all)".to_owned(),
                    subject => shown(subject.as_bytes()),
                })
                .collect::<Vec<_>>()
                .join(" "),
        },
    ]
}

/// Whether nothing but its queue on disk makes it durable.
fn is_left(service: &ServiceStatus) -> bool {
    let durable = service.durable.as_ref();
    durable.is_some_and(|durable| durable.because == DurableReason::OnDisk)
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let cells = cells
        .iter()
        .zip(widths)
        .map(|(cell, width)| format!("{cell:<width$}"));
    cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

fn about_worker(worker: &NamedWorker) -> String {
    let client = worker.name.as_ref().and(worker.client.as_ref());
    let client = client.map(|client| format!(" ({client})"));
    let state = match (worker.ready, worker.credit) {
        (false, _) => "not ready".to_owned(),
        (true, None) => "ready".to_owned(),
        (true, Some(credit)) => format!("ready, holds {} of {credit}", worker.held_events),
    };
    let text = format!(
        "{}{} at {}: {state}",
        worker.label(),
        client.unwrap_or_default(),
        worker.address
    );
    shown(text.as_bytes())
}

fn write_details(out: &mut impl Write, service: &ServiceStatus) -> std::io::Result<()> {
    for subscription in &service.subscriptions {
        let id = shown(subscription.id.as_bytes());
        let expires_in = subscription.expires_in_seconds;
        writeln!(
            out,
            "    subscription {id}: expires in {expires_in:.0} s, subjects {}",
            json!(subscription.subjects)
        )?;
    }
    for worker in &service.workers.named {
        writeln!(out, "    worker {}", about_worker(worker))?;
    }
    let letters = &service.dead_letter_subject;
    if !letters.is_empty() && *letters != format!("{}.DLQ", service.name) {
        let letters = shown(letters.as_bytes());
        writeln!(out, "    dead letters are published as {letters}")?;
    }
    if let Some(why) = &service.no_port {
        writeln!(out, "    no port, trying again: {}", shown(why.as_bytes()))?;
    }
    if is_left(service) {
        let name = quoted(&service.name);
        writeln!(
            out,
            "    durable only because its queue is on disk; end it with `event-manager services --end {name}`"
        )?;
    }
    let counters = &service.counters;
    // Only who shares a queue at an engine gives events back to it.
    let returned = match counters.returned {
        0 => String::new(),
        returned => format!(" + returned {returned}"),
    };
    writeln!(
        out,
        "    matched {} = delivered {} + queued {} + in flight {} + dead-lettered {} + expired {} + dropped {}{returned}; unconfirmed {}, retries {}, letters lost {}",
        counters.matched,
        counters.delivered,
        counters.queued,
        counters.in_flight,
        counters.dead_lettered,
        counters.expired,
        json!(counters.dropped),
        counters.unconfirmed,
        counters.retries,
        counters.letters_lost
    )
}
