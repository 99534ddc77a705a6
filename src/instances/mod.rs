//! Instances of other programs: a thread that keeps the registry of those whose heartbeats pass.
//!
//! The reactor shows it their messages, as far as there is room, and never waits for it. What is shown of
//! them, and what is kept, goes back to the reactor.

mod fence;
mod noted;
mod shown;
mod watch;

use std::collections::BTreeMap;
use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::{mpsc, watch as channel};

use crate::ambient::now;
use crate::config::InstancesConfig;
use crate::lease::Turn;
use crate::reactor::{Input, Observer, Sightings};
use crate::state::{KeptInstance, KeptTurn};
use crate::telemetry::Journal;
use fence::Teller;
use watch::Watch;

/// How often it is told how they are, if that has changed.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// What an earlier run knew.
#[derive(Debug, Clone, Default)]
pub struct Former {
    pub instances: BTreeMap<String, KeptInstance>,
    pub turns: BTreeMap<String, KeptTurn>,
}

/// Who is shown the messages, and who takes them; none if there are none to observe.
pub fn observer(config: &InstancesConfig) -> Option<(Observer, Sightings)> {
    let prefixes = [&config.heartbeat, &config.event, &config.shutdown];
    let prefixes = prefixes.map(String::as_str);
    config.is_on().then(|| Observer::new(prefixes))
}

/// The thread.
#[derive(Debug)]
pub struct Instances {
    thread: JoinHandle<()>,
    stop: channel::Sender<bool>,
}

impl Instances {
    /// Starts it. If a lease decides whether instances here may lead, that is `turn`.
    ///
    /// # Errors
    /// The system gives no thread or no event queue.
    pub fn start(
        config: &InstancesConfig,
        sightings: Sightings,
        former: Former,
        (inputs, turn): (mpsc::Sender<Input>, Option<Turn>),
        journal: Journal,
    ) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopping) = channel::channel(false);
        let teller = Teller::new(config, turn, journal.clone());
        let watch = Watch::new(config.clone(), former, journal);
        let thread = std::thread::Builder::new()
            .name("instances".into())
            .spawn(move || {
                let watching = run((watch, teller), sightings, inputs, stopping);
                runtime.block_on(watching);
            })?;
        Ok(Self { thread, stop })
    }

    /// Says what is to be kept, and ends; whether without a panic.
    pub fn stop(self) -> bool {
        self.stop.send_replace(true);
        self.thread.join().is_ok()
    }
}

async fn run(
    (mut watch, mut teller): (Watch, Teller),
    mut sightings: Sightings,
    inputs: mpsc::Sender<Input>,
    mut stopping: channel::Receiver<bool>,
) {
    let mut tend_at = now();
    loop {
        tokio::select! {
            // First, so that what comes in floods holds up nothing.
            biased;
            _ = stopping.changed() => break,
            () = tokio::time::sleep_until(tend_at.into()) => {
                watch.left_out(sightings.left_out());
                if teller.tend(&inputs).await.is_none() {
                    return;
                }
                watch.set_fenced(teller.is_up());
                watch.tend();
                teller.know_of_instances(watch.is_any_here());
                let next = now() + TELL_EVERY;
                tend_at = teller.over_at().map_or(next, |over| over.min(next));
                if let Some(news) = watch.news(false)
                    && inputs.send(Input::Instances(Box::new(news))).await.is_err()
                {
                    return;
                }
            }
            () = teller.changed() => tend_at = now(),
            sighting = sightings.next() => match sighting {
                Some(sighting) => watch.take(sighting),
                // The reactor ended.
                None => return,
            },
        }
    }
    teller.end(&inputs).await;
    if let Some(news) = watch.news(true) {
        let _ = inputs.send(Input::Instances(Box::new(news))).await;
    }
}
