//! The daemon of this project, with its default configuration.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::zmtp::{
    Answers, acknowledging_worker, ask, connect, push_event, push_request, service_subjects,
    set_up_fan, set_up_services, worker,
};
use super::{Broker, Setup};
use crate::client::{Publisher, Receiver};
use crate::poisoned::DELIVERIES_MAX;
use crate::process::Process;
use crate::scenario::{Kind, Pattern, Scenario};

pub struct EventManager;

/// The subject of the durable service beside live traffic.
const DURABLE_SUBJECT: &str = "dur0000";

/// Where it listens: publishers, subscribers, requests; and its metrics. With a directory it has a state.
fn start(state: Option<&TempDir>, services: &Value) -> Result<(Process, [u16; 3], u16)> {
    // Another one, to compare it with this.
    let binary = std::env::var_os("E2E_EVENT_MANAGER");
    let mut command =
        Command::new(binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_event-manager").into()));
    command.args([
        "serve",
        "--embedded-locator=false",
        "--locator-register=false",
    ]);
    for key in ["--pub-address", "--sub-address", "--request-address"] {
        command.args([key, "tcp://127.0.0.1:0"]);
    }
    command.args(["--set", "httpAddress=127.0.0.1:0"]);
    command.args(["--set", "minStreamerPort=0", "--set", "maxStreamerPort=0"]);
    let state = state.map_or(Default::default(), |state| {
        state.path().display().to_string()
    });
    command.args(["--set", &format!("stateDir={state}")]);
    command.args(["--set", &format!("services={services}")]);
    // There are no subscribers of before to wait for.
    command.args(["--set", "subscriberGrace=0"]);
    command.args(["--set", "log.level=warn", "--ready-fd", "1"]);
    let (process, ready) = Process::with_line(&mut command)?;
    let ready: Value = serde_json::from_str(&ready).with_context(|| ready.clone())?;
    let port = |name: &str| -> Result<u16> {
        let address = ready[name].as_str().or(ready[name][0].as_str());
        let digits = address.and_then(|address| address.rsplit(':').next());
        Ok(digits
            .with_context(|| format!("no port of {name} in: {ready}"))?
            .parse()?)
    };
    let ports = [port("publishers")?, port("subscribers")?, port("requests")?];
    Ok((process, ports, port("http")?))
}

/// The port of a service's workers, with a subscription.
fn subscribe(requests: u16, number: usize, subject: &str) -> Result<u16> {
    let mut client = connect(requests, "DEALER")?;
    let data = format!("bench-{number}\0Service{number}\0{subject}");
    let answer = ask(&mut client, &[b"2.1", b"2", data.as_bytes()])?;
    ensure!(answer.len() >= 3, "{answer:?}");
    let data = String::from_utf8(answer[2].clone())?;
    let address = data.split('\0').nth(2).with_context(|| data.clone())?;
    let port = address.rsplit(':').next().unwrap_or("");
    port.parse().with_context(|| data.clone())
}

/// Live peers first; then a publisher and a worker of a durable service.
fn set_up_beside(
    process: Process,
    [publishers, subscribers, requests]: [u16; 3],
    scenario: &Scenario,
) -> Result<Setup> {
    let mut setup = set_up_fan(process, (publishers, subscribers), true, scenario)?;
    let workers = subscribe(requests, 0, DURABLE_SUBJECT)?;
    setup
        .receivers
        .push(acknowledging_worker(workers, scenario, &setup.poison)?);
    let stream = connect(publishers, "PUB")?;
    setup
        .publishers
        .push(Publisher::new(stream, scenario, |out, _, payload| {
            push_event(out, DURABLE_SUBJECT, payload);
        })?);
    Ok(setup)
}

/// A service, and who publishes for it with EMIT. On disk its events stay there, as do a stream's.
fn set_up_confirmed(
    process: Process,
    requests: u16,
    scenario: &Scenario,
    on_disk: bool,
) -> Result<Setup> {
    let workers = subscribe(requests, 0, &scenario.subject_for(0))?;
    let stream = connect(requests, "DEALER")?;
    let mut receivers = vec![Receiver::new(stream.try_clone()?, scenario, Answers)?];
    let level: &[u8] = if on_disk { b"disk" } else { b"memory" };
    if !on_disk {
        receivers.push(worker(workers, scenario)?);
    }
    let publisher = Publisher::new(stream, scenario, |out, subject, payload| {
        let data = [b"", level, subject.as_bytes(), payload].join(&0);
        push_request(out, &[b"", b"2.101", b"2", &data]);
    })?;
    Ok(Setup::new(process, vec![publisher], receivers))
}

impl Broker for EventManager {
    fn name(&self) -> &'static str {
        crate::report::OURS
    }

    fn supports(&self, _: &Scenario) -> bool {
        true
    }

    fn set_up(&self, scenario: &Scenario) -> Result<Setup> {
        let (delivery, retry) = match scenario.kind {
            Kind::Durable | Kind::BesideDurable { .. } | Kind::Confirmed { on_disk: true } => {
                ("queue", json!({}))
            }
            Kind::Poisoned { is_durable, .. } => (
                if is_durable { "queue" } else { "live" },
                json!({"initialMs": 1, "maxMs": 5, "maxDeliveries": DELIVERIES_MAX}),
            ),
            _ => ("live", json!({})),
        };
        let mut all = json!({"delivery": delivery, "retry": retry});
        if scenario.is_ordered {
            all["orderBy"] = json!("subject");
        }
        if let Kind::Waiting { events } = scenario.kind {
            (all["queueEvents"], all["queueBytes"]) = (json!(events), json!(events << 10));
        }
        let services = json!({"*": all});
        let keeps = delivery == "queue";
        let state = keeps.then(TempDir::new).transpose()?;
        let (process, ports, http) = start(state.as_ref(), &services)?;
        let mut setup = set_up(process, ports, scenario)?;
        (setup.state, setup.http) = (state, Some(http));
        Ok(setup)
    }

    fn start_alone(&self) -> Result<Process> {
        Ok(start(None, &json!({}))?.0)
    }
}

fn set_up(process: Process, ports: [u16; 3], scenario: &Scenario) -> Result<Setup> {
    let [publishers, subscribers, requests] = ports;
    if matches!(scenario.kind, Kind::BesideDurable { .. }) {
        return set_up_beside(process, ports, scenario);
    }
    if let Kind::Confirmed { on_disk } = scenario.kind {
        return set_up_confirmed(process, requests, scenario, on_disk);
    }
    if let Kind::Waiting { .. } = scenario.kind {
        subscribe(requests, 0, &scenario.subject_for(0))?;
        let stream = connect(publishers, "PUB")?;
        let publisher = Publisher::new(stream, scenario, push_event)?;
        return Ok(Setup::new(process, vec![publisher], vec![]));
    }
    if let Pattern::Fan(_) = scenario.pattern {
        return set_up_fan(process, (publishers, subscribers), true, scenario);
    }
    let services = service_subjects(scenario);
    let workers = services.iter().enumerate();
    let workers = workers
        .map(|(number, subject)| subscribe(requests, number, subject))
        .collect::<Result<Vec<_>>>()?;
    set_up_services(process, publishers, &workers, scenario)
}
