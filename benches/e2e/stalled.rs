//! Two subscribers, one of which stops reading: what becomes of the other, and of the memory.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::brokers::{Broker, Setup};
use crate::report::Sample;
use crate::scenario::Scenario;

/// Without an event for so long, what is under way counts as lost.
const PATIENCE: Duration = Duration::from_millis(500);

pub fn run(broker: &dyn Broker, scenario: &Scenario, duration: Duration) -> Result<Sample> {
    let healthy = flood(&mut broker.set_up(scenario)?, scenario, duration, true)?;
    let mut setup = broker.set_up(scenario)?;
    let idle_kib = setup.process.resident_kib()?;
    let beside = flood(&mut setup, scenario, duration * 2, false)?;
    Ok(Sample {
        events_per_second: Some(beside.rate),
        peak_kib: Some(setup.process.peak_kib()?),
        grown_kib: Some(setup.process.peak_kib()?.saturating_sub(idle_kib)),
        lost: Some(beside.lost),
        rate_kept: Some(beside.rate / healthy.rate),
        ..Sample::default()
    })
}

struct Flood {
    rate: f64,
    lost: u64,
}

/// Floods, paced by the first subscriber; the second reads only if it is asked to.
fn flood(setup: &mut Setup, scenario: &Scenario, duration: Duration, both: bool) -> Result<Flood> {
    let begun = Instant::now();
    let (mut lost, mut last) = (0, begun);
    loop {
        let now = Instant::now();
        let got = setup.receivers[0].received;
        let sent = setup.publishers[0].sent();
        let under_way = sent - got - lost;
        if now - begun > duration && (under_way == 0 || now - last > PATIENCE) {
            let rate = got as f64 / (last - begun).as_secs_f64();
            return Ok(Flood {
                rate,
                lost: lost + under_way,
            });
        }
        if now - last > PATIENCE && under_way > 0 {
            lost += under_way;
            last = now;
        }
        if now - begun <= duration && under_way < scenario.window_events() {
            setup.publishers[0].send(scenario.window_events() - under_way)?;
        }
        if setup.publishers_hear {
            setup.publishers[0].drain()?;
        }
        setup.receivers[0].receive(|_| {})?;
        if setup.receivers[0].received > got {
            last = now;
        }
        if both {
            setup.receivers[1].receive(|_| {})?;
        }
    }
}
