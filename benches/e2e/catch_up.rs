//! Events that wait on disk since before the daemon was started, given to workers who come all at once.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::brokers::Broker;
use crate::report::Sample;
use crate::scenario::Scenario;

const PATIENCE: Duration = Duration::from_secs(30);

pub fn run(broker: &dyn Broker, scenario: &Scenario, events: u64) -> Result<Sample> {
    let setup = broker.set_up(scenario)?;
    let connect = setup.workers.as_ref().context("workers that come later")?;
    let (cpu, begun) = (setup.process.cpu()?, Instant::now());
    let mut workers = connect()?;
    let mut received = 0;
    while received < events {
        for worker in &mut workers {
            worker.receive(|_| received += 1)?;
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "{received} of {events} events came"
        );
    }
    let elapsed = begun.elapsed();
    let cpu = setup.process.cpu()?.since(cpu);
    Ok(Sample {
        events_per_second: Some(received as f64 / elapsed.as_secs_f64()),
        cpu_us: Some(cpu.total_us / received as f64),
        user_share: Some(cpu.user_us / (cpu.user_us + cpu.system_us).max(1.0)),
        peak_kib: Some(setup.process.peak_kib()?),
        ..Sample::default()
    })
}
