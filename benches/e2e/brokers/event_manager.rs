//! The daemon of this project, with its default configuration.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::zmtp::{ask, connect, service_subjects, set_up_fan, set_up_services};
use super::{Broker, Setup};
use crate::process::Process;
use crate::scenario::{Pattern, Scenario};

pub struct EventManager;

/// Where it listens: publishers, subscribers, requests.
fn start() -> Result<(Process, [u16; 3])> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_event-manager"));
    command.args([
        "serve",
        "--embedded-locator=false",
        "--locator-register=false",
    ]);
    for key in ["--pub-address", "--sub-address", "--request-address"] {
        command.args([key, "tcp://127.0.0.1:0"]);
    }
    command.args([
        "--set",
        "minStreamerPort=0",
        "--set",
        "maxStreamerPort=0",
        "--set",
        "stateDir=",
    ]);
    let (process, ready) = Process::with_line(&mut command, true)?;
    let port = |name: &str| -> Result<u16> {
        let from = ready.split(&format!("{name}=\"tcp://127.0.0.1:")).nth(1);
        let digits = from.and_then(|rest| rest.split('"').next());
        Ok(digits
            .with_context(|| format!("no port of {name} in: {ready}"))?
            .parse()?)
    };
    let ports = [port("publishers")?, port("subscribers")?, port("requests")?];
    Ok((process, ports))
}

impl Broker for EventManager {
    fn name(&self) -> &'static str {
        crate::report::OURS
    }

    fn supports(&self, _: &Scenario) -> bool {
        true
    }

    fn set_up(&self, scenario: &Scenario) -> Result<Setup> {
        let (process, [publishers, subscribers, requests]) = start()?;
        if let Pattern::Fan(_) = scenario.pattern {
            return set_up_fan(process, (publishers, subscribers), true, scenario);
        }
        let mut client = connect(requests, "DEALER")?;
        let mut ports = vec![];
        for (i, subject) in service_subjects(scenario).iter().enumerate() {
            let data = format!("bench-{i}\0Service{i}\0{subject}");
            let answer = ask(&mut client, &[b"2.1", b"2", data.as_bytes()])?;
            ensure!(answer.len() >= 3, "{answer:?}");
            let data = String::from_utf8(answer[2].clone())?;
            let address = data.split('\0').nth(2).with_context(|| data.clone())?;
            ports.push(
                address
                    .rsplit(':')
                    .next()
                    .unwrap_or("")
                    .parse()
                    .with_context(|| data.clone())?,
            );
        }
        set_up_services(process, publishers, &ports, scenario)
    }

    fn start_alone(&self) -> Result<Process> {
        Ok(start()?.0)
    }
}
