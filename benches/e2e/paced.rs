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

/// Events on their way, and how late others arrived.
pub struct Intended {
    under_way: VecDeque<Instant>,
    counts_from: Instant,
    pub latencies_ns: Vec<u64>,
}

impl Intended {
    /// Events that should have been sent before that don't count.
    pub fn new(counts_from: Instant) -> Self {
        Self {
            under_way: VecDeque::new(),
            counts_from,
            latencies_ns: vec![],
        }
    }

    pub fn sent(&mut self, due: Instant) {
        self.under_way.push_back(due);
    }

    pub fn arrived(&mut self, events: usize, now: Instant) -> Result<()> {
        for _ in 0..events {
            let intended = self.under_way.pop_front();
            ensure!(intended.is_some(), "more events arrived than were sent");
            if let Some(intended) = intended.filter(|at| *at >= self.counts_from) {
                self.latencies_ns.push((now - intended).as_nanos() as u64);
            }
        }
        Ok(())
    }

    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }
}

pub fn run(
    broker: &dyn Broker,
    scenario: &Scenario,
    per_second: u32,
    duration: Duration,
) -> Result<Sample> {
    let mut setup = broker.set_up(scenario)?;
    let interval = Duration::from_secs(1) / per_second;
    let begun = Instant::now();
    let counts_from = begun + WARM_UP;
    let mut intended = Intended::new(counts_from);
    let ends = counts_from + duration;
    let mut cpu = None;
    let mut due = begun;
    let mut now = begun;
    while due < ends || intended.under_way() > 0 {
        if now >= due && due < ends {
            if cpu.is_none() && due >= counts_from {
                cpu = Some(setup.process.cpu()?);
            }
            intended.sent(due);
            setup.publishers[0].send_one()?;
            due += interval;
        }
        if setup.publishers_hear {
            setup.publishers[0].drain()?;
        }
        let mut arrived = 0;
        setup.receivers[0].receive(|_| arrived += 1)?;
        now = Instant::now();
        intended.arrived(arrived, now)?;
        ensure!(
            now < ends + PATIENCE,
            "{} events did not arrive",
            intended.under_way()
        );
    }
    let cpu = setup.process.cpu()?.since(cpu.unwrap_or_default());
    let latencies_ns = intended.latencies_ns;
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
