//! Live events at a fixed rate, in turns without and beside as many events for a durable service of
//! the same daemon: what the disk costs those who don't use it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::brokers::{Broker, Setup};
use crate::paced::Intended;
use crate::report::{Latency, Sample};
use crate::scenario::Scenario;

const PATIENCE: Duration = Duration::from_secs(5);
/// Turns without durable events; as many beside them.
const TURNS: u32 = 8;
/// At the beginning of each turn events don't count.
const WARM_UP: Duration = Duration::from_millis(50);

pub fn run(
    broker: &dyn Broker,
    scenario: &Scenario,
    per_second: u32,
    duration: Duration,
) -> Result<Sample> {
    let mut setup = broker.set_up(scenario)?;
    let interval = Duration::from_secs(1) / per_second;
    let (mut alone_ns, mut beside_ns) = (vec![], vec![]);
    turn(&mut setup, interval, duration / TURNS, true)?;
    let (cpu, begun) = (setup.process.cpu()?, Instant::now());
    for _ in 0..TURNS {
        alone_ns.extend(turn(&mut setup, interval, duration / TURNS, false)?);
        beside_ns.extend(turn(&mut setup, interval, duration / TURNS, true)?);
    }
    let cpu = setup.process.cpu()?.since(cpu);
    let (alone, beside) = (Latency::of(alone_ns), Latency::of(beside_ns));
    Ok(Sample {
        busy: Some(cpu.total_us / begun.elapsed().as_micros() as f64),
        p50_beside: Some(beside.p50 / alone.p50),
        latency: Some(beside),
        peak_kib: Some(setup.process.peak_kib()?),
        ..Sample::default()
    })
}

/// The latencies of live events, from when they should have been sent. Ends when all has arrived.
fn turn(
    setup: &mut Setup,
    interval: Duration,
    duration: Duration,
    is_beside: bool,
) -> Result<Vec<u64>> {
    let begun = Instant::now();
    let (counts_from, ends) = (begun + WARM_UP, begun + WARM_UP + duration);
    let mut intended = Intended::new(counts_from);
    let (mut due, mut now) = (begun, begun);
    // Between two live events.
    let mut durable_due = begun + interval / 2;
    let lacks = |setup: &Setup| setup.publishers[1].sent() - setup.receivers[1].received;
    while now < ends || intended.under_way() > 0 || lacks(setup) > 0 {
        if now >= due && due < ends {
            intended.sent(due);
            setup.publishers[0].send_one()?;
            due += interval;
        }
        if is_beside && now >= durable_due && durable_due < ends {
            setup.publishers[1].send_one()?;
            durable_due += interval;
        }
        let mut arrived = 0;
        setup.receivers[0].receive(|_| arrived += 1)?;
        now = Instant::now();
        intended.arrived(arrived, now)?;
        setup.receivers[1].receive(|_| {})?;
        ensure!(
            setup.publishers[1].sent() >= setup.receivers[1].received,
            "a durable event came twice"
        );
        ensure!(
            now < ends + PATIENCE,
            "{} live and {} durable events did not arrive",
            intended.under_way(),
            lacks(setup)
        );
    }
    Ok(intended.latencies_ns)
}
