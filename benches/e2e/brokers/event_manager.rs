//! The daemon of this project, with its default configuration.

use std::process::Command;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::zmtp::{
    Answers, acknowledging_worker, ask, connect, publisher, push_event, push_request,
    service_subjects, set_up_fan, set_up_services, worker,
};
use super::{Broker, Setup};
use crate::client::{ID_BYTES, Publisher, Receiver, payload};
use crate::poisoned::DELIVERIES_MAX;
use crate::process::Process;
use crate::quiet::await_queued;
use crate::responders;
use crate::scenario::{Kind, Pattern, Scenario};

pub struct EventManager;

/// The subject of the durable service beside live traffic.
const DURABLE_SUBJECT: &str = "dur0000";

/// A daemon that runs, and the ports where it listens.
struct Started {
    process: Process,
    publishers: u16,
    subscribers: u16,
    requests: u16,
    http: u16,
    locator: Option<u16>,
}

/// With a directory it has a state; with a locator it finds the services that it calls.
fn start(state: Option<&TempDir>, has_locator: bool, services: &Value) -> Result<Started> {
    // Another one, to compare it with this.
    let binary = std::env::var_os("E2E_EVENT_MANAGER");
    let mut command =
        Command::new(binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_event-manager").into()));
    command.args(["serve", "--locator-register=false"]);
    command.arg(format!("--embedded-locator={has_locator}"));
    if has_locator {
        command.args(["--locator-address", "tcp://127.0.0.1:0"]);
    }
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
    Ok(Started {
        process,
        publishers: port("publishers")?,
        subscribers: port("subscribers")?,
        requests: port("requests")?,
        http: port("http")?,
        locator: has_locator.then(|| port("locator")).transpose()?,
    })
}

/// The port of a service's workers, with a subscription.
fn subscribe(requests: u16, number: usize, subjects: &str) -> Result<u16> {
    let mut client = connect(requests, "DEALER")?;
    let data = format!("bench-{number}\0Service{number}\0{subjects}");
    let answer = ask(&mut client, &[b"2.1", b"2", data.as_bytes()])?;
    ensure!(answer.len() >= 3, "{answer:?}");
    let data = String::from_utf8(answer[2].clone())?;
    let address = data.split('\0').nth(2).with_context(|| data.clone())?;
    let port = address.rsplit(':').next().unwrap_or("");
    port.parse().with_context(|| data.clone())
}

/// Live peers first; then a publisher and a worker of a durable service.
fn set_up_beside(started: Started, scenario: &Scenario) -> Result<Setup> {
    let publishers = started.publishers;
    let ports = (publishers, started.subscribers);
    let mut setup = set_up_fan(started.process, ports, true, scenario)?;
    let workers = subscribe(started.requests, 0, DURABLE_SUBJECT)?;
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
    started: Started,
    scenario: &Scenario,
    (on_disk, has_id): (bool, bool),
) -> Result<Setup> {
    let requests = started.requests;
    let workers = subscribe(requests, 0, &scenario.subject_for(0))?;
    let stream = connect(requests, "DEALER")?;
    let mut receivers = vec![Receiver::new(stream.try_clone()?, scenario, Answers)?];
    let level: &[u8] = if on_disk { b"disk" } else { b"memory" };
    if !on_disk {
        receivers.push(worker(workers, scenario)?);
    }
    let id: &[u8] = if has_id { &[b'i'; ID_BYTES] } else { b"" };
    let push = |out: &mut Vec<u8>, subject: &str, payload: &[u8]| {
        let data = [id, level, subject.as_bytes(), payload].join(&0);
        push_request(out, &[b"", b"2.101", b"2", &data]);
    };
    let mut publisher = Publisher::new(stream, scenario, push)?;
    if has_id {
        let mut event = vec![];
        push(&mut event, &scenario.subject(0), &payload(scenario.size, 0));
        let at = event.windows(ID_BYTES).position(|window| window == id);
        publisher = publisher.with_ids(at.context("an event has its id")?);
    }
    Ok(Setup::new(started.process, vec![publisher], receivers))
}

/// Services that wait to be called, and who calls them with PUBLISH.
fn set_up_called(started: Started, scenario: &Scenario) -> Result<Setup> {
    let services = scenario.pattern.receivers();
    let (answering, ports) = responders::start(&["services", &services.to_string()])?;
    let locator = started.locator.context("a locator")?;
    let mut locator = connect(locator, "DEALER")?;
    for (number, port) in ports.iter().enumerate() {
        subscribe(started.requests, number, &scenario.subject(0))?;
        let data = format!("Service{number}\0tcp://127.0.0.1:{port}");
        let answer = ask(&mut locator, &[b"3.1", b"2", data.as_bytes()])?;
        ensure!(answer[0] == b"1.1", "{answer:?}");
    }
    let stream = connect(started.requests, "DEALER")?;
    let answers = Receiver::new(stream.try_clone()?, scenario, Answers)?;
    let publisher = Publisher::new(stream, scenario, |out, subject, payload| {
        let data = [payload, subject.as_bytes(), b"", b"1", b""].join(&0);
        push_request(out, &[b"", b"2.3", b"2", &data]);
    })?;
    let mut setup = Setup::new(started.process, vec![publisher], vec![answers]);
    setup.services = Some(answering);
    Ok(setup)
}

/// Events that are on disk since an earlier run, and workers that may come.
fn set_up_catch_up(
    state: &TempDir,
    services: &Value,
    scenario: &Scenario,
    events: u64,
) -> Result<Setup> {
    let earlier = start(Some(state), false, services)?;
    subscribe(earlier.requests, 0, &scenario.subject(0))?;
    let mut publisher = publisher(earlier.publishers, scenario, true)?;
    while publisher.sent() < events || !publisher.is_whole() {
        publisher.send(u64::MAX >> 32)?;
    }
    await_queued(earlier.http, publisher.sent())?;
    let queued = publisher.sent();
    drop((publisher, earlier));
    let started = start(Some(state), false, services)?;
    let workers = subscribe(started.requests, 0, &scenario.subject(0))?;
    await_queued(started.http, queued)?;
    let mut setup = Setup::new(started.process, vec![], vec![]);
    let (scenario, poison) = (scenario.clone(), Rc::clone(&setup.poison));
    setup.workers = Some(Box::new(move || {
        let workers = (0..scenario.pattern.receivers())
            .map(|_| acknowledging_worker(workers, &scenario, &poison));
        workers.collect()
    }));
    Ok(setup)
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
            Kind::Durable
            | Kind::BesideDurable { .. }
            | Kind::CatchUp { .. }
            | Kind::Confirmed { on_disk: true, .. } => ("queue", json!({})),
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
        let mut setup = match (scenario.kind, &state) {
            (Kind::CatchUp { events }, Some(state)) => {
                set_up_catch_up(state, &services, scenario, events)?
            }
            _ => {
                let calls = scenario.kind == Kind::Called;
                let started = start(state.as_ref(), calls, &services)?;
                let (http, requests) = (started.http, started.requests);
                let mut setup = set_up(started, scenario)?;
                (setup.http, setup.requests) = (Some(http), Some(requests));
                setup
            }
        };
        setup.state = state;
        Ok(setup)
    }

    fn start_alone(&self) -> Result<Process> {
        Ok(start(None, false, &json!({}))?.process)
    }
}

fn set_up(started: Started, scenario: &Scenario) -> Result<Setup> {
    match scenario.kind {
        Kind::BesideDurable { .. } => return set_up_beside(started, scenario),
        Kind::Confirmed { on_disk, has_id } => {
            return set_up_confirmed(started, scenario, (on_disk, has_id));
        }
        Kind::Called => return set_up_called(started, scenario),
        _ => {}
    }
    let Started {
        process,
        publishers,
        subscribers,
        requests,
        ..
    } = started;
    if scenario.globs > 0 {
        let globs: Vec<String> = scenario
            .globs()
            .map(|glob| format!("glob:{glob}"))
            .collect();
        subscribe(requests, 0, &globs.join("\0"))?;
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
