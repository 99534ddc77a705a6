//! As many events as go through, with a window under way; none may be lost or come twice.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::brokers::{Broker, Setup};
use crate::report::Sample;
use crate::scenario::Scenario;

/// Without an event for so long, the rest counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// Before the measurement: caches fill, buffers grow.
const WARM_UP: Duration = Duration::from_millis(100);

pub fn run(broker: &dyn Broker, scenario: &Scenario, duration: Duration) -> Result<Sample> {
    let mut setup = broker.set_up(scenario)?;
    let mut run = Run::new(scenario, &setup);
    run.pump(&mut setup, WARM_UP)?;
    let (cpu, before, begun) = (setup.process.cpu()?, run.sent, Instant::now());
    run.pump(&mut setup, duration)?;
    let elapsed = begun.elapsed();
    let cpu = setup.process.cpu()?.since(cpu);
    run.verify(&setup)?;
    let events = (run.sent - before) as f64;
    Ok(Sample {
        events_per_second: Some(events / elapsed.as_secs_f64()),
        cpu_us: Some(cpu.total_us / events),
        user_share: Some(cpu.user_us / (cpu.user_us + cpu.system_us).max(1.0)),
        peak_kib: Some(setup.process.peak_kib()?),
        ..Sample::default()
    })
}

/// The state of a run.
pub struct Run<'a> {
    scenario: &'a Scenario,
    window: u64,
    pub sent: u64,
    /// What each group got, by the event's position in its block.
    tallies: Vec<Vec<u64>>,
    /// The same in all.
    received: Vec<u64>,
}

impl<'a> Run<'a> {
    pub fn new(scenario: &'a Scenario, setup: &Setup) -> Self {
        let groups = scenario.pattern.groups();
        let block = setup.publishers[0].block_events();
        Self {
            scenario,
            window: scenario.window_events(),
            sent: 0,
            tallies: vec![vec![0; block]; groups],
            received: vec![0; groups],
        }
    }

    /// Events that every group they are for has got, at least.
    fn done(&self) -> u64 {
        let per_group = match self.scenario.pattern {
            crate::scenario::Pattern::OneService(_) => return self.received.iter().sum(),
            _ => self.received.iter(),
        };
        per_group.min().copied().unwrap_or(0)
    }

    /// Sends for so long, to the end of a block, and waits for all of it.
    pub fn pump(&mut self, setup: &mut Setup, duration: Duration) -> Result<()> {
        let begun = Instant::now();
        let (mut last, mut last_done) = (begun, self.done());
        loop {
            let now = Instant::now();
            let ending = now - begun > duration;
            let mut under_way = self.sent - self.done();
            if self.done() != last_done {
                (last, last_done) = (now, self.done());
            } else if under_way > 0 && now - last > PATIENCE {
                setup.process.check()?;
                bail!("{under_way} events of {} did not arrive", self.sent);
            }
            let mut whole = true;
            for publisher in &mut setup.publishers {
                let before = publisher.sent();
                if under_way < self.window && !(ending && publisher.is_whole()) {
                    publisher.send(self.window - under_way)?;
                }
                let sent = publisher.sent() - before;
                self.sent += sent;
                under_way += sent;
                whole &= publisher.is_whole();
                if setup.publishers_hear {
                    publisher.drain()?;
                }
            }
            let mut idle = true;
            for (i, receiver) in setup.receivers.iter_mut().enumerate() {
                let group = self.scenario.pattern.group(i);
                let (tally, before) = (&mut self.tallies[group], receiver.received);
                let mut stray = None;
                idle &= !receiver.receive(|stamp| match tally.get_mut(stamp) {
                    Some(count) => *count += 1,
                    None => stray = Some(stamp),
                })?;
                ensure!(
                    stray.is_none(),
                    "an event has the stamp {stray:?}: its bytes are not its own"
                );
                self.received[group] += receiver.received - before;
            }
            if ending && whole && self.done() >= self.sent {
                return Ok(());
            }
            if idle {
                std::thread::yield_now();
            }
        }
    }

    /// Each event came to each group that it is for once.
    pub fn verify(&self, setup: &Setup) -> Result<()> {
        let cycles: u64 = setup
            .publishers
            .iter()
            .map(|publisher| publisher.cycles)
            .sum();
        for (group, tally) in self.tallies.iter().enumerate() {
            for (event, got) in tally.iter().enumerate() {
                let expected = if self.scenario.pattern.is_for(event, group) {
                    cycles
                } else {
                    0
                };
                ensure!(
                    *got == expected,
                    "receiver {group} got {got} instead of {expected} events with the stamp {event}"
                );
            }
        }
        Ok(())
    }
}
