//! The composition root: builds the parts, connects them, stops them in the order of the data.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::ambient::now;
use crate::config::{Config, GuardTimeoutAction};
use crate::http::{self, HttpServer};
use crate::outbound::{
    Caller, GuardVerdict, LocatorClient, RegistrationState, call_services, keep_registered,
    wait_for_predecessor,
};
use crate::reactor::{BindError, Bound, Effect, Input, Reactor};
use crate::state::{self, State, WriterThread};
use crate::store::{StateDirError, Store};
use crate::telemetry::ProcessReadings;

/// How long the state database may take to write its last changes, on a disk that hangs.
const STATE_TIMEOUT: Duration = Duration::from_secs(5);

/// A running event manager. Several fit in one process.
#[derive(Debug)]
pub struct Daemon {
    reactor: Reactor,
    control: JoinHandle<()>,
    /// Tells control to deregister, until when.
    deregister: oneshot::Sender<Instant>,
    /// Disconnected when that is done.
    deregistered: std::sync::mpsc::Receiver<()>,
    registration: watch::Receiver<RegistrationState>,
    /// Writes what outlives the process.
    state: Option<WriterThread>,
    drain_timeout: Duration,
    store: Option<Arc<Store>>,
    http: Option<HttpServer>,
}

/// Why a daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket, or a thread.
    #[error(transparent)]
    Reactor(#[from] crate::reactor::StartError),
    /// The address for HTTP.
    #[error(transparent)]
    Http(#[from] BindError),
    /// The system gives no thread or no descriptors.
    #[error("the daemon can't be started: {0}")]
    System(#[from] io::Error),
    /// The state directory, which durable services need.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// There is none.
    #[error("services with \"delivery\": \"queue\" need a stateDir")]
    NoStateDir,
    /// The startup guard's time is up; holds what it saw last.
    #[error(
        "the startup guard's time is up: {0}; stop the predecessor, or set startupGuardTimeoutAction to \"proceed\""
    )]
    Guard(String),
}

impl Daemon {
    /// Starts, after the startup guard if that is wanted: when it returns, all sockets are bound and
    /// served.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub fn start(mut config: Config) -> Result<Self, StartError> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        if config.startup_guard.enabled {
            runtime.block_on(guard(&config))?;
        }
        let drain_timeout = config.drain_timeout;
        let http = config.http_address.as_ref().map(http::bind).transpose()?;
        let (effects, effects_rx) = mpsc::channel(config.pending_calls_max);
        let (inputs, inputs_rx) = Reactor::inputs();
        let store = start_store(&config, inputs.clone())?.map(Arc::new);
        let state = open_state(&config);
        let (former, state) = state
            .map(|state| ((state.kept, state.writer), state.thread))
            .unzip();
        let reactor = Reactor::start(
            config.clone(),
            effects,
            (inputs, inputs_rx),
            former,
            store.clone(),
        )?;
        if let Some(embedded) = &reactor.bound.locator {
            config.locator.address = embedded.clone();
        }
        let (deregister, stop) = oneshot::channel();
        let (done, deregistered) = std::sync::mpsc::channel();
        let (registration_state, registration) = watch::channel(RegistrationState::Trying);
        let http = http
            .map(|listener| {
                let inputs = reactor.inputs.clone();
                HttpServer::start(listener, &config, inputs, registration.clone())
            })
            .transpose()?;
        let parts = Control {
            request_address: request_address(&reactor.bound, &config),
            inputs: reactor.inputs.clone(),
            config,
            state: registration_state,
            deregistered: done,
        };
        let control = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || runtime.block_on(parts.run(effects_rx, stop)))?;
        Ok(Self {
            reactor,
            control,
            deregister,
            deregistered,
            registration,
            state,
            drain_timeout,
            store,
            http,
        })
    }

    /// Where it listens.
    pub fn bound(&self) -> &Bound {
        &self.reactor.bound
    }

    /// Where HTTP is served, if it is; the port is the real one.
    pub fn http(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(|http| http.address)
    }

    /// Where its registration with the ServiceLocator stands.
    pub fn registration(&self) -> RegistrationState {
        *self.registration.borrow()
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

    /// Waits for an end that nobody asked for: a panic of the reactor, which is a fault of ours.
    pub async fn died(&self) {
        self.reactor.inputs.closed().await;
    }

    /// Stops in the order of the data, within the drain timeout; whether all threads ended well.
    pub fn stop(self) -> bool {
        let deadline = now() + self.drain_timeout;
        self.http.as_ref().inspect(|http| http.announce_stop());
        // A locator that doesn't answer leaves the other half to the events that wait.
        let deregistering = self.drain_timeout / 2;
        // An embedded locator has to be there still when we deregister, so the reactor ends after.
        let _ = self.deregister.send(now() + deregistering);
        let _ = self.deregistered.recv_timeout(deregistering);
        let left = deadline.saturating_duration_since(now());
        let _ = self.reactor.inputs.blocking_send(Input::Stop(left));
        let reactor_ended_well = self.reactor.join();
        // Until here it could tell how far the end is.
        let http_ended_well = self.http.is_none_or(HttpServer::stop);
        // What is done by now is noted still.
        if let Some(store) = self.store.and_then(Arc::into_inner) {
            store.stop();
        }
        let state_is_written = self.state.is_none_or(|state| state.join(STATE_TIMEOUT));
        if !state_is_written {
            tracing::error!("the state database was not written and closed in time");
        }
        self.control.join().is_ok() && reactor_ended_well && http_ended_well && state_is_written
    }
}

/// The state database, if there is to be one and it can be used.
fn open_state(config: &Config) -> Option<State> {
    let directory = &config.state_dir;
    (!directory.as_os_str().is_empty())
        .then(|| state::open(directory))
        .flatten()
}

/// The store, if events are to be kept on disk. Where only dead letters would be, the daemon starts
/// without it too.
fn start_store(config: &Config, inputs: mpsc::Sender<Input>) -> Result<Option<Store>, StartError> {
    if config.state_dir.as_os_str().is_empty() {
        return match config.services.any_durable() {
            true => Err(StartError::NoStateDir),
            false => Ok(None),
        };
    }
    let report = move |report| {
        // It fails when the reactor has ended, and nobody wants to know any more.
        let _ = inputs.blocking_send(Input::Store(report));
    };
    match Store::start(&config.state_dir, report) {
        Ok(store) => Ok(Some(store)),
        Err(error) if config.services.any_durable() => Err(error.into()),
        Err(error) => {
            tracing::warn!(%error, "dead letters are not kept");
            Ok(None)
        }
    }
}

async fn guard(config: &Config) -> Result<(), StartError> {
    let (caller, thread) = Caller::start()?;
    let locator = LocatorClient::new(caller, config.locator.clone());
    let verdict = wait_for_predecessor(&locator, &config.startup_guard).await;
    drop(thread);
    match (verdict, config.startup_guard.on_timeout) {
        (GuardVerdict::Clear(how), _) => tracing::info!("startup guard: {how}"),
        (GuardVerdict::TimedOut(why), GuardTimeoutAction::Exit) => {
            return Err(StartError::Guard(why));
        }
        (GuardVerdict::TimedOut(why), GuardTimeoutAction::Proceed) => {
            tracing::warn!("startup guard: starting although {why}");
        }
    }
    Ok(())
}

/// What we register: where clients can reach us.
fn request_address(bound: &Bound, config: &Config) -> String {
    bound
        .requests
        .first()
        .map(|e| Bound::public(e, &config.public_hostname))
        .unwrap_or_default()
}

/// What may wait, and so is not the reactor's: calls, the registration, the diagnostic record.
struct Control {
    config: Config,
    request_address: String,
    inputs: mpsc::Sender<Input>,
    state: watch::Sender<RegistrationState>,
    /// Dropped when we are deregistered.
    deregistered: std::sync::mpsc::Sender<()>,
}

impl Control {
    async fn run(self, mut effects: mpsc::Receiver<Effect>, stop: oneshot::Receiver<Instant>) {
        let (caller, caller_thread) = match Caller::start() {
            Ok(started) => started,
            Err(error) => return tracing::error!("no calls can be made: {error}"),
        };
        let locator = LocatorClient::new(caller.clone(), self.config.locator.clone());
        // Ends with the task that it holds when control ends.
        let mut registration = JoinSet::new();
        if self.config.locator.register {
            let address = self.request_address;
            let registering = keep_registered(locator.clone(), address, self.state, stop);
            let deregistered = self.deregistered;
            registration.spawn(async move {
                registering.await;
                drop(deregistered);
            });
        } else {
            drop(self.deregistered);
        }
        let diagnostic = &self.config.diagnostic;
        let diagnostics = diagnostic
            .enabled
            .then(|| tokio::spawn(write_diagnostics(self.inputs.clone(), diagnostic.interval)));
        let mut calls = JoinSet::new();
        loop {
            tokio::select! {
                effect = effects.recv() => {
                    // The reactor ended.
                    let Some(Effect::Call { ticket, event }) = effect else { break };
                    let (caller, locator, inputs) = (caller.clone(), locator.clone(), self.inputs.clone());
                    calls.spawn(async move {
                        let answer = call_services(event, caller, locator).await;
                        let _ = inputs.send(Input::Answer { ticket, answer }).await;
                    });
                }
                Some(_) = calls.join_next() => {}
            }
        }
        drop(caller_thread);
        diagnostics.inspect(tokio::task::JoinHandle::abort);
    }
}

/// One structured record in the log, again and again.
async fn write_diagnostics(inputs: mpsc::Sender<Input>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let (reply, status) = oneshot::channel();
        if inputs.send(Input::Status(reply)).await.is_err() {
            return;
        }
        let Ok(status) = status.await else { return };
        let record = json!({"process": ProcessReadings::read().to_json(), "daemon": status});
        tracing::info!(target: "event_manager::diagnostics", snapshot = %record, "diagnostics");
    }
}
