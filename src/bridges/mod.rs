//! What goes to other brokers and comes from them: a thread that is a client of the daemon.
//!
//! A bridge out is an acknowledging worker of a durable service of its own: what waits, is tried again or
//! is dead is kept and counted as it is for any service. A bridge in publishes what comes, and tells the
//! engine what is on disk here; what is no event becomes a dead letter of its service. An engine that is
//! away, is slow or misbehaves never reaches the reactor.

mod arriving;
mod board;
mod hands;
mod in_hands;
mod inward;
mod message;
mod outward;
mod served;
mod undecoded;
mod worker;

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

use crate::config::{Config, Direction};
use crate::reactor::Input;
use crate::telemetry::Journal;
use board::{Board, Lane};
use event_manager_zmtp::HubId;
use inward::Inward;
use outward::{Outward, Way};
use served::Served;

/// How often it is told how bridges are, if that has changed.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// The thread of all bridges.
#[derive(Debug)]
pub struct Bridges {
    thread: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Bridges {
    /// Starts it, if there are any bridges. `hub_id` is the daemon's.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        config: &Config,
        inputs: mpsc::Sender<Input>,
        hub_id: HubId,
        journal: Journal,
    ) -> io::Result<Option<Self>> {
        let serves_any = config.services.served().next().is_some();
        if config.bridges.is_empty() && !serves_any {
            return Ok(None);
        }
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopping) = watch::channel(false);
        let config = config.clone();
        let thread = std::thread::Builder::new()
            .name("bridges".into())
            .spawn(move || {
                let all = run(&config, inputs, (hub_id, journal), stopping);
                LocalSet::new().block_on(&runtime, all);
                // A name that is being looked up is not waited for.
                runtime.shutdown_background();
            })?;
        Ok(Some(Self { thread, stop }))
    }

    /// Takes nothing more, waits a moment for what is under way, and ends; whether without a panic.
    pub fn stop(self) -> bool {
        self.stop.send_replace(true);
        self.thread.join().is_ok()
    }
}

async fn run(
    config: &Config,
    inputs: mpsc::Sender<Input>,
    (hub_id, journal): (HubId, Journal),
    stopping: watch::Receiver<bool>,
) {
    let board = Board::new(journal);
    let mut tasks = tokio::task::JoinSet::new();
    for (name, bridge) in config.bridges.iter() {
        let Some(engine) = config.engines.get(bridge.engine()) else {
            continue;
        };
        let lane = Lane::new(&board, name, bridge);
        match bridge.direction() {
            Direction::Out => {
                let Some(way) = Way::of_bridge(name, bridge) else {
                    continue;
                };
                let outward = Outward::new(config, way, engine, hub_id, lane);
                let (inputs, stopping) = (inputs.clone(), stopping.clone());
                tasks.spawn_local(outward.run(inputs, stopping));
            }
            Direction::In => {
                let bridge = (name, bridge, engine);
                let inward = Inward::new(config, bridge, hub_id, inputs.clone(), lane);
                tasks.spawn_local(inward.run(stopping.clone()));
            }
        }
    }
    for (service, by) in config.services.served() {
        let engine = config.engines.get(by.engine);
        let (Some(engine), Some(way)) = (engine, Way::to_queue_of(service)) else {
            continue;
        };
        let lane = |direction| Lane::of_service(&board, service, by.engine, direction);
        let outward = Outward::new(config, way, engine, hub_id, lane(Direction::Out));
        tasks.spawn_local(outward.run(inputs.clone(), stopping.clone()));
        let about = (service, by, engine);
        let served = Served::new(config, about, hub_id, inputs.clone(), lane(Direction::In));
        tasks.spawn_local(served.run(stopping.clone()));
    }
    let telling = tell(&board, &inputs);
    let working = async { while tasks.join_next().await.is_some() {} };
    tokio::select! {
        () = telling => {}
        () = working => {}
    }
}

/// Tells the reactor how bridges are.
async fn tell(board: &Board, inputs: &mpsc::Sender<Input>) {
    loop {
        if let Some(changed) = board.take_changed()
            && inputs.send(Input::Bridges(changed)).await.is_err()
        {
            return std::future::pending().await;
        }
        tokio::time::sleep(TELL_EVERY).await;
    }
}
