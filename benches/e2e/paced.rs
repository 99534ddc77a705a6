//! Events at a fixed rate. Latency counts from when an event should have been sent, so that a broker
//! that holds the generator up is not excused for what it delayed (no coordinated omission).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::brokers::Broker;
use crate::report::{Latency, Sample};
use crate::scenario::Scenario;

const PATIENCE: Duration = Duration::from_secs(5);
/// Events at the beginning that don't count.
const WARM_UP: Duration = Duration::from_millis(200);

pub fn run(
    broker: &dyn Broker,
    scenario: &Scenario,
    per_second: u32,
    duration: Duration,
) -> Result<Sample> {
    let mut setup = broker.set_up(scenario)?;
    let interval = Duration::from_secs(1) / per_second;
    let mut under_way: VecDeque<Instant> = VecDeque::new();
    let mut latencies_ns: Vec<u64> = vec![];
    let begun = Instant::now();
    let counts_from = begun + WARM_UP;
    let ends = counts_from + duration;
    let mut cpu = None;
    let mut due = begun;
    let mut now = begun;
    while due < ends || !under_way.is_empty() {
        if now >= due && due < ends {
            if cpu.is_none() && due >= counts_from {
                cpu = Some(setup.process.cpu()?);
            }
            under_way.push_back(due);
            setup.publishers[0].send_one()?;
            due += interval;
        }
        if setup.publishers_hear {
            setup.publishers[0].drain()?;
        }
        let mut arrived = 0;
        setup.receivers[0].receive(|_| arrived += 1)?;
        now = Instant::now();
        for _ in 0..arrived {
            let intended = under_way.pop_front();
            ensure!(intended.is_some(), "more events arrived than were sent");
            if let Some(intended) = intended.filter(|at| *at >= counts_from) {
                latencies_ns.push((now - intended).as_nanos() as u64);
            }
        }
        ensure!(
            now < ends + PATIENCE,
            "{} events did not arrive",
            under_way.len()
        );
    }
    let cpu = setup.process.cpu()?.since(cpu.unwrap_or_default());
    let events = latencies_ns.len() as f64;
    Ok(Sample {
        events_per_second: Some(events / duration.as_secs_f64()),
        cpu_us: Some(cpu.total_us / events),
        user_share: Some(cpu.user_us / (cpu.user_us + cpu.system_us).max(1.0)),
        peak_kib: Some(setup.process.peak_kib()?),
        latency: Some(Latency::of(latencies_ns)),
        ..Sample::default()
    })
}
