//! Health, metrics and the dashboard over HTTP, for people and machines that watch.
//!
//! A thread of its own serves snapshots: however many ask, the reactor is asked for its state at most
//! every 250 ms, and only when somebody wants it. Whoever reads slowly, or says nothing, costs a
//! connection here, of which there are few, and nothing else.

mod events;
mod health;
mod hosts;
mod instances;
mod metrics;
mod pages;
mod probe;
mod renewed;
mod serve;
mod snapshot;
mod standby;
mod subscriptions;
mod timed;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
mod tls;
mod tokens;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Config;
use crate::keys::KeysError;
use crate::outbound::RegistrationState;
use crate::reactor::{BindError, Input, listen_tcp};
use crate::telemetry::Journal;
use event_manager_core::leases::candidate::Term;
use event_manager_wire::model::Endpoint;
use health::Watched;
use hosts::Hosts;
pub use probe::readiness;
use snapshot::Snapshots;
pub use standby::Standby;
pub use tls::Tls;
pub use tokens::Tokens;

/// Binds the address, and listens.
///
/// # Errors
/// The address can't be bound.
pub fn bind(endpoint: &Endpoint) -> Result<TcpListener, BindError> {
    let shown = endpoint.to_string().replacen("tcp://", "", 1);
    let listener = match endpoint {
        Endpoint::Tcp { host, port } => listen_tcp(host, *port),
        Endpoint::Ipc(_) => Err(io::ErrorKind::Unsupported.into()),
    };
    listener.map_err(|error| BindError::new("httpAddress", shown, error))
}

/// What guards a server.
#[derive(Debug)]
pub struct Guards {
    tokens: Option<Tokens>,
    tls: Option<Tls>,
}

impl Guards {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// One of them is of no use.
    pub fn load(config: &Config) -> Result<Self, KeysError> {
        Ok(Self {
            tokens: Tokens::load(config)?,
            tls: Tls::load(config)?,
        })
    }
}

/// A running server.
#[derive(Debug)]
pub struct HttpServer {
    pub address: SocketAddr,
    is_stopping: Arc<AtomicBool>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl HttpServer {
    /// Serves what the reactor says of itself, where the registration stands, and what was noted.
    ///
    /// # Errors
    /// The system gives no thread or no event queue.
    pub fn start(
        (listener, guards): (TcpListener, Guards),
        config: &Config,
        inputs: mpsc::Sender<Input>,
        (registration, term): (watch::Receiver<RegistrationState>, Option<Arc<Term>>),
        journal: Journal,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let is_stopping = Arc::<AtomicBool>::default();
        let watched = Watched::new(config, registration, Arc::clone(&is_stopping), term);
        let snapshots = Snapshots::new(inputs, watched);
        let router = pages::router(snapshots, journal, Hosts::new(config), guards.tokens);
        let tls = guards.tls;
        let (stop, thread) = serve::start(listener, (router, tls))?;
        Ok(Self {
            address,
            is_stopping,
            stop,
            thread,
        })
    }

    /// The daemon begins to stop: from now on it is not ready.
    pub fn announce_stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Ends all connections and waits for the thread; whether it ended well.
    pub fn stop(self) -> bool {
        let _ = self.stop.send(());
        self.thread.join().is_ok()
    }
}
