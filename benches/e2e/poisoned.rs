//! A service one in a hundred of whose events no worker can do, in turns without and with: what that
//! costs the others.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::brokers::{Broker, Setup};
use crate::flow::Run;
use crate::report::Sample;
use crate::scenario::Scenario;

const PATIENCE: Duration = Duration::from_secs(5);
/// Turns without poison; as many with it.
const TURNS: u32 = 8;
/// One event in so many is poison.
const POISON_EVERY: usize = 100;
/// How often an event is delivered until it is dead.
pub const DELIVERIES_MAX: u32 = 3;

/// What workers make of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Good,
    /// It comes again, unless this was the last time.
    Poison,
}

/// What all workers of a run have in common.
#[derive(Debug, Default)]
pub struct Poison {
    is_on: Cell<bool>,
    /// Events that were delivered for the first time, and for the last, and refused.
    begun: Cell<u64>,
    dead: Cell<u64>,
}

impl Poison {
    /// A worker looks at the event with this stamp, delivered for the `attempt`th time.
    pub fn judge(&self, stamp: usize, attempt: u32) -> Verdict {
        if !self.is_on.get() || stamp % POISON_EVERY != POISON_EVERY / 2 {
            return Verdict::Good;
        }
        let count = |counter: &Cell<u64>, counts| counter.set(counter.get() + u64::from(counts));
        count(&self.begun, attempt == 1);
        count(&self.dead, attempt == DELIVERIES_MAX);
        Verdict::Poison
    }
}

/// What turns of one kind came to, of events that could be done.
#[derive(Default)]
struct Turns {
    events: f64,
    seconds: f64,
    cpu_us: f64,
}

pub fn run(broker: &dyn Broker, scenario: &Scenario, duration: Duration) -> Result<Sample> {
    let mut setup = broker.set_up(scenario)?;
    let poison = Rc::clone(&setup.poison);
    let mut run = Run::new(scenario, &setup);
    let (mut without, mut with) = (Turns::default(), Turns::default());
    run.pump(&mut setup, duration / TURNS)?;
    for _ in 0..TURNS {
        turn(&mut run, &mut setup, duration / TURNS, &mut without)?;
        poison.is_on.set(true);
        turn(&mut run, &mut setup, duration / TURNS, &mut with)?;
        poison.is_on.set(false);
    }
    run.verify(&setup)?;
    ensure!(poison.dead.get() > 0, "no event was refused");
    let rate = |turns: &Turns| turns.events / turns.seconds;
    let cpu_us = |turns: &Turns| turns.cpu_us / turns.events;
    Ok(Sample {
        events_per_second: Some(rate(&with)),
        cpu_us: Some(cpu_us(&with)),
        rate_kept: Some(rate(&with) / rate(&without)),
        cpu_beside: Some(cpu_us(&with) / cpu_us(&without)),
        ..Sample::default()
    })
}

/// One turn: its time ends with the last event that can be done, its CPU time when all others are dead.
fn turn(run: &mut Run<'_>, setup: &mut Setup, duration: Duration, turns: &mut Turns) -> Result<()> {
    let poison = Rc::clone(&setup.poison);
    let (cpu, sent, dead) = (setup.process.cpu()?, run.sent, poison.dead.get());
    let begun = Instant::now();
    run.pump(setup, duration)?;
    turns.seconds += begun.elapsed().as_secs_f64();
    while poison.dead.get() < poison.begun.get() {
        ensure!(
            begun.elapsed() < duration + PATIENCE,
            "events are not tried again"
        );
        for receiver in &mut setup.receivers {
            receiver.receive(|_| {})?;
        }
    }
    turns.events += (run.sent - sent - (poison.dead.get() - dead)) as f64;
    turns.cpu_us += setup.process.cpu()?.since(cpu).total_us;
    Ok(())
}
