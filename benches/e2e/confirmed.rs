//! Events whose publisher waits for an answer to each, with a window of them under way.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::brokers::Broker;
use crate::paced::Intended;
use crate::report::{Latency, Sample};
use crate::scenario::Scenario;

const PATIENCE: Duration = Duration::from_secs(5);
/// Before the measurement: caches fill, buffers grow.
const WARM_UP: Duration = Duration::from_millis(200);

/// The first receiver gets the answers, the others the events.
pub fn run(broker: &dyn Broker, scenario: &Scenario, duration: Duration) -> Result<Sample> {
    let mut setup = broker.set_up(scenario)?;
    let window = scenario.window_events();
    let counts_from = Instant::now() + WARM_UP;
    let mut intended = Intended::new(counts_from);
    let mut cpu = None;
    let mut now = Instant::now();
    while now < counts_from + duration || intended.under_way() > 0 {
        if cpu.is_none() && now >= counts_from {
            cpu = Some(setup.process.cpu()?);
        }
        let publisher = &mut setup.publishers[0];
        let (before, room) = (publisher.sent(), window - intended.under_way() as u64);
        if room > 0 && now < counts_from + duration {
            publisher.send(room)?;
            (before..publisher.sent()).for_each(|_| intended.sent(now));
        }
        let mut answered = 0;
        setup.receivers[0].receive(|_| answered += 1)?;
        for worker in &mut setup.receivers[1..] {
            worker.receive(|_| {})?;
        }
        now = Instant::now();
        intended.arrived(answered, now)?;
        ensure!(
            now < counts_from + duration + PATIENCE,
            "{} events were not answered",
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
        // With more under way it is what the window makes it.
        latency: (window == 1).then(|| Latency::of(latencies_ns)),
        ..Sample::default()
    })
}
