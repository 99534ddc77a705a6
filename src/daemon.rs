//! The composition root: builds the parts, connects them, stops them in the order of the data.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::config::Config;
use crate::reactor::{Bound, Effect, Input, Reactor};

/// A running event manager. Several fit in one process.
#[derive(Debug)]
pub struct Daemon {
    reactor: Reactor,
    control: JoinHandle<()>,
    drain_timeout: Duration,
}

/// Why a daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket, or a thread.
    #[error(transparent)]
    Reactor(#[from] crate::reactor::StartError),
    /// The system gives no thread.
    #[error("the daemon can't be started: {0}")]
    System(#[from] io::Error),
}

impl Daemon {
    /// Starts: when it returns, all sockets are bound and served.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let drain_timeout = config.drain_timeout;
        let (effects, effects_rx) = mpsc::channel(config.pending_calls_max);
        let reactor = Reactor::start(config.clone(), effects)?;
        let inputs = reactor.inputs.clone();
        let control = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || control(effects_rx, inputs))?;
        Ok(Self {
            reactor,
            control,
            drain_timeout,
        })
    }

    /// Where it listens.
    pub fn bound(&self) -> &Bound {
        &self.reactor.bound
    }

    /// Its state, as the STATUS request shows it; null while it ends.
    pub fn status(&self) -> Value {
        let (reply, status) = oneshot::channel();
        let asked = self.reactor.inputs.blocking_send(Input::Status(reply));
        asked
            .ok()
            .and_then(|()| status.blocking_recv().ok())
            .unwrap_or_default()
    }

    /// Stops in the order of the data, within the drain timeout; whether all threads ended well.
    pub fn stop(self) -> bool {
        let _ = self
            .reactor
            .inputs
            .blocking_send(Input::Stop(self.drain_timeout));
        let reactor_ended_well = self.reactor.join();
        self.control.join().is_ok() && reactor_ended_well
    }
}

fn control(mut effects: mpsc::Receiver<Effect>, inputs: mpsc::Sender<Input>) {
    while let Some(Effect::Call { ticket, .. }) = effects.blocking_recv() {
        let answer = crate::messagebus::Message::nak("unavailable", "not yet");
        let _ = inputs.blocking_send(Input::Answer { ticket, answer });
    }
}
