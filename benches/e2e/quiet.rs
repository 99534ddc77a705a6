//! Without events: idle peers, many that come at once, the start.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::brokers::Broker;
use crate::report::Sample;
use crate::scenario::Scenario;

/// How long idling is watched.
const IDLE: Duration = Duration::from_secs(5);

/// So many subscribers that do nothing.
pub fn idle(broker: &dyn Broker, scenario: &Scenario, peers: usize) -> Result<Sample> {
    let setup = broker.set_up(scenario)?;
    let connect = setup.subscriber()?;
    let connections = (0..peers).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    std::thread::sleep(Duration::from_millis(500));
    let (cpu, begun) = (setup.process.cpu()?, Instant::now());
    std::thread::sleep(IDLE);
    let cpu = setup.process.cpu()?.since(cpu);
    drop(connections);
    Ok(Sample {
        busy: Some(cpu.total_us / begun.elapsed().as_micros() as f64),
        resident_kib: Some(setup.process.resident_kib()?),
        peak_kib: Some(setup.process.peak_kib()?),
        ..Sample::default()
    })
}

/// So many subscribers connect and subscribe, each as soon as the one before is done.
pub fn storm(broker: &dyn Broker, scenario: &Scenario, peers: usize) -> Result<Sample> {
    let setup = broker.set_up(scenario)?;
    let connect = setup.subscriber()?;
    let (cpu, begun) = (setup.process.cpu()?, Instant::now());
    let connections = (0..peers).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    let elapsed = begun.elapsed();
    let cpu = setup.process.cpu()?.since(cpu);
    drop(connections);
    Ok(Sample {
        events_per_second: Some(peers as f64 / elapsed.as_secs_f64()),
        cpu_us: Some(cpu.total_us / peers as f64),
        peak_kib: Some(setup.process.peak_kib()?),
        ..Sample::default()
    })
}

/// From exec until clients are served.
pub fn start(broker: &dyn Broker, _: &Scenario) -> Result<Sample> {
    let begun = Instant::now();
    let process = broker.start_alone()?;
    let ready_ms = begun.elapsed().as_secs_f64() * 1000.0;
    Ok(Sample {
        ready_ms: Some(ready_ms),
        resident_kib: Some(process.resident_kib()?),
        ..Sample::default()
    })
}
