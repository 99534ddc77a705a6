//! The Python service that this project replaces, as it is built.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::zmtp::{is_any, service_subjects, set_up_fan, set_up_services};
use super::{Broker, Setup};
use crate::process::Process;
use crate::scenario::{Pattern, Scenario};

pub struct Original;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The virtual environment that `tests/python/run` makes too.
fn python() -> PathBuf {
    root().join("target/.venv/bin/python")
}

impl Broker for Original {
    fn name(&self) -> &'static str {
        "Python original"
    }

    fn supports(&self, scenario: &Scenario) -> bool {
        is_any(scenario)
    }

    fn missing(&self) -> Option<String> {
        let there = Command::new(python()).args(["-c", "import zmq"]).output();
        (!there.is_ok_and(|output| output.status.success()))
            .then(|| "pyzmq is not installed in target/.venv; see benches/install-peers".into())
    }

    fn set_up(&self, scenario: &Scenario) -> Result<Setup> {
        let mut command = Command::new(python());
        command.arg(root().join("benches/e2e/original.py"));
        let is_fan = matches!(scenario.pattern, Pattern::Fan(_));
        if !is_fan {
            command.args(service_subjects(scenario));
        }
        let (process, line) = Process::with_line(&mut command)?;
        let ports: Vec<u16> = line
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        match is_fan {
            true => set_up_fan(process, (ports[0], ports[1]), true, scenario),
            false => set_up_services(process, ports[0], &ports[2..], scenario),
        }
    }
}
