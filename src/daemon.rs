//! The composition root: builds the parts, connects them, stops them in the order of the data.

mod beside;
mod control;
mod guard;
mod led;
mod lists;
mod savers;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::sync::{mpsc, oneshot, watch};

use crate::ambient::{now, random_bytes};
use crate::config::{Config, DiagnosticConfig, Reload, Rotation};
use crate::http::{self, Guards, HttpServer};
use crate::keys::{self, KeysError};
use crate::lease::{Hook, Lease, LeaseError, Running};
use crate::outbound::RegistrationState;
use crate::reactor::{BindError, Bound, Effect, Input, Lists, Reactor};
use crate::store::StateDirError;
use crate::systemd::{Inherited, Manager};
use crate::telemetry::{Journal, Notable, instance_name};
use crate::traces::Tracer;
use beside::Beside;
use control::{Control, LocatorCaller};
use event_manager_core::leases::candidate::Term;
use event_manager_core::security::Keyring;
use event_manager_wire::api::Status;
use event_manager_zmtp::curve::KeyPair;
use guard::guard;
use led::stand_by;
use savers::Savers;

/// How long the event log may take to write its last lines, on a disk that hangs.
const JOURNAL_TIMEOUT: Duration = Duration::from_secs(1);
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
    config: Config,
    diagnostic: watch::Sender<DiagnosticConfig>,
    locator_caller: LocatorCaller,
    savers: Savers,
    journal: Journal,
    http: Option<HttpServer>,
    beside: Beside,
    lease: Option<Lease>,
    /// What `lease.onLead` runs.
    on_lead: Running,
}

/// The bound socket, who may ask there, and the term of the lease under which all is served.
type HttpParts = (std::net::TcpListener, Guards, Option<Arc<Term>>);

fn start_http(
    parts: Option<HttpParts>,
    config: &Config,
    inputs: mpsc::Sender<Input>,
    registration: watch::Receiver<RegistrationState>,
    journal: &Journal,
) -> io::Result<Option<HttpServer>> {
    let started = parts.map(|(listener, guards, term)| {
        let watched = (registration, term);
        HttpServer::start((listener, guards), config, inputs, watched, journal.clone())
    });
    started.transpose()
}

/// Ends what runs when the rest can't be started; the error that says why.
fn abandon(
    reactor: Reactor,
    control: Option<JoinHandle<()>>,
    (mut beside, savers): (Beside, Savers),
    error: io::Error,
) -> StartError {
    // What they come to doesn't matter any more: the start failed.
    beside.stop();
    let _ = reactor.inputs.blocking_send(Input::Stop(Duration::ZERO));
    // With it ends control, and what is left of the others.
    let _ = reactor.join();
    let _ = control.map(JoinHandle::join);
    beside.join();
    savers.stop();
    error.into()
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
    /// The daemon's keys, or its clients'.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The lease under which it serves.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// There is none.
    #[error("services with \"delivery\": \"queue\" need a stateDir")]
    NoStateDir,
    /// The startup guard's time is up; holds what it saw last.
    #[error(
        "the startup guard timed out: {0}; stop the predecessor, or set startupGuardTimeoutAction to \"proceed\""
    )]
    Guard(String),
}

impl Daemon {
    /// Starts, after the startup guard if that is wanted: when it returns, all sockets are bound and
    /// served.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub fn start(config: Config) -> Result<Self, StartError> {
        Self::start_under(config, &Manager::default(), Inherited::default())
    }

    /// The same under a service manager: it is told when the start waits, and that the reactor turns.
    /// That all is bound is for the caller to tell. Its sockets are used in place of new ones.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub fn start_under(
        config: Config,
        manager: &Manager,
        inherited: Inherited,
    ) -> Result<Self, StartError> {
        let stood_by = match config.lease.stands_by() {
            true => stand_by(&config, manager).map(|(lease, http)| (Some(lease), http)),
            false => Ok((None, None)),
        };
        let journal = open_journal(&config);
        let started = stood_by.and_then(|(lease, http)| {
            Self::start_noting(config, manager, (inherited, http), lease, journal.clone())
        });
        if let Err(error) = &started {
            let why = &error.to_string();
            journal.note(&match error {
                StartError::Guard(_) => Notable::GuardTimeout { why },
                _ => Notable::StartFailed { why },
            });
            journal.close(JOURNAL_TIMEOUT);
        }
        started
    }

    fn start_noting(
        config: Config,
        manager: &Manager,
        (inherited, http): (Inherited, Option<std::net::TcpListener>),
        lease: Option<Lease>,
        journal: Journal,
    ) -> Result<Self, StartError> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        if config.startup_guard.enabled {
            manager.starting(config.startup_guard.timeout);
            runtime.block_on(guard(&config, &journal))?;
        }
        let guards = Guards::load(&config)?;
        let http = match http {
            None => config.http_address.as_ref().map(http::bind).transpose()?,
            bound => bound,
        };
        let term = lease.as_ref().map(|lease| Arc::clone(lease.term()));
        let http = http.map(|listener| (listener, guards, term));
        let mut savers = Savers::default();
        let keyring = load_keys(&config, &journal)?;
        let own = KeyPair::from_secret(random_bytes());
        let first = keyring.first_key();
        let keys = (keyring, own.clone());
        let noting = (lease.as_ref(), &journal);
        let started = match savers.start_reactor(&config, manager, inherited, keys, noting) {
            Ok(data_plane) => {
                let own = (own, first, journal);
                Self::start_control(config, runtime, http, data_plane, savers, own)
            }
            Err(error) => {
                savers.stop();
                Err(error)
            }
        };
        match started {
            Ok(daemon) => Ok(daemon.led_by(lease)),
            Err(error) => {
                lease.into_iter().for_each(Lease::release);
                Err(error)
            }
        }
    }

    /// What talks to others: control, and HTTP.
    fn start_control(
        config: Config,
        runtime: runtime::Runtime,
        http: Option<HttpParts>,
        (reactor, effects, tracer): (Reactor, mpsc::Receiver<Effect>, Tracer),
        mut savers: Savers,
        (own, first, journal): (KeyPair, Option<KeyPair>, Journal),
    ) -> Result<Self, StartError> {
        let (deregister, stop) = oneshot::channel();
        let (done, deregistered) = std::sync::mpsc::channel();
        let (registration_state, registration) = watch::channel(RegistrationState::Trying);
        let (diagnostic, diagnostic_rx) = watch::channel(config.diagnostic);
        let as_bound = with_bound_locator(config.clone(), &reactor.bound);
        let locator_caller = LocatorCaller::new(&as_bound, own, first);
        let request_address = reactor.bound.request_address(&config.public_hostname);
        let control = Control {
            diagnostic: diagnostic_rx,
            request_address: request_address.unwrap_or_default(),
            inputs: reactor.inputs.clone(),
            config: as_bound.clone(),
            state: registration_state,
            deregistered: done,
            locator_caller: locator_caller.caller.clone(),
            journal: journal.clone(),
            tracer,
        };
        let control = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || runtime.block_on(control.run(effects, stop)));
        let mut beside = Beside::default();
        let control = match control {
            Ok(thread) => thread,
            Err(error) => return Err(abandon(reactor, None, (beside, savers), error)),
        };
        let begun = beside.start(&config, &reactor, &mut savers, &journal);
        let http = begun.and_then(|()| {
            let inputs = reactor.inputs.clone();
            start_http(http, &as_bound, inputs, registration.clone(), &journal)
        });
        let http = match http {
            Ok(server) => server,
            Err(error) => return Err(abandon(reactor, Some(control), (beside, savers), error)),
        };
        Ok(Self {
            reactor,
            control,
            deregister,
            deregistered,
            registration,
            config,
            diagnostic,
            locator_caller,
            savers,
            journal,
            http,
            beside,
            lease: None,
            on_lead: Running::default(),
        })
    }

    pub fn bound(&self) -> &Bound {
        &self.reactor.bound
    }

    /// What other machines reach while nobody has said who may connect.
    pub fn open_listeners(&self) -> Vec<String> {
        let exposed = self.bound().exposed(&self.config);
        exposed.open(&self.config.security)
    }

    /// Where HTTP is served, if it is; the port is the real one.
    pub fn http(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(|http| http.address)
    }

    /// Where its registration with the ServiceLocator stands.
    pub fn registration(&self) -> RegistrationState {
        *self.registration.borrow()
    }

    /// Where notable things are noted, and read.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// How long [`stop`](Self::stop) may take, but for what the state directory still has to write.
    pub fn drain_timeout(&self) -> Duration {
        self.config.drain_timeout
    }

    /// Puts another configuration in force, as far as that needs no restart: which keys changed, and
    /// which do need one. `None` if the reactor ended; then nothing has changed.
    pub async fn reload(&mut self, wanted: Config) -> Option<Reload> {
        let reload = self.config.reload(wanted);
        let (done, is_done) = oneshot::channel();
        let keyring = load_keys(&reload.config, &self.journal);
        let input = Input::Reload(Box::new(reload.config.clone()), done);
        self.reactor.inputs.send(input).await.ok()?;
        is_done.await.ok()?;
        let first = keyring.as_ref().map(Keyring::first_key).ok();
        match keyring {
            Ok(keyring) => self.reactor.inputs.send(Input::Keys(keyring)).await.ok()?,
            Err(error) => {
                let why = &error.to_string();
                self.journal.note(&Notable::KeysUnreadable { why });
            }
        }
        if let Some(keys) = &self.savers.keys {
            keys.watch(reload.config.security.clone());
        }
        if first.is_some() || self.locator_caller.is_embedded {
            self.locator_caller.follow(&reload.config, first.flatten());
        }
        self.diagnostic.send_replace(reload.config.diagnostic);
        self.config = reload.config.clone();
        Some(reload)
    }

    /// Its state, as the STATUS request shows it; `None` while it ends.
    pub fn status(&self) -> Option<Status> {
        let (reply, status) = oneshot::channel();
        let asked = self
            .reactor
            .inputs
            .blocking_send(Input::Status(Lists::Whole, reply));
        asked.ok().and_then(|()| status.blocking_recv().ok())
    }

    /// Waits for an end that nobody asked for: a panic of the reactor, which is a fault of ours.
    pub async fn died(&self) {
        self.reactor.inputs.closed().await;
    }

    /// Stops in the order of the data, within the drain timeout; whether all threads ended well.
    pub fn stop(mut self) -> bool {
        let drain_timeout = self.config.drain_timeout;
        let deadline = now() + drain_timeout;
        self.http.as_ref().inspect(|http| http.announce_stop());
        // A locator that doesn't answer leaves the other half to the events that wait.
        let deregistering = drain_timeout / 2;
        // An embedded locator has to be there still when we deregister, so the reactor ends after.
        let _ = self.deregister.send(now() + deregistering);
        let _ = self.deregistered.recv_timeout(deregistering);
        let left = deadline.saturating_duration_since(now());
        let beside_ended_well = self.beside.stop();
        let _ = self.reactor.inputs.blocking_send(Input::Stop(left));
        let undelivered = self.reactor.join();
        // Until here it could tell how far the end is.
        let http_ended_well = self.http.is_none_or(HttpServer::stop);
        // They end with the reactor.
        let beside_ended_well = self.beside.join() && beside_ended_well;
        let threads_ended_well =
            self.control.join().is_ok() && http_ended_well && beside_ended_well;
        // What is done by now is saved still, and nothing makes spans any more.
        let state_is_written = self.savers.stop();
        let ended_well = threads_ended_well && undelivered.is_some() && state_is_written;
        if let Some(lease) = self.lease {
            // It would go on beside what undoes it.
            self.on_lead.end();
            Hook::on_resign(&self.config, lease.term().token()).run(&self.journal);
            // All that is to be found is on disk: another may take over.
            lease.release();
        }
        self.journal.note(&Notable::Stopped {
            drained: undelivered.is_some_and(|left| !left.in_a_hurry),
            undelivered: undelivered.map_or(0, |left| left.events),
        });
        self.journal.close(JOURNAL_TIMEOUT);
        ended_well
    }
}

/// The configuration with the embedded locator's real address, or without one if it doesn't run here.
fn with_bound_locator(mut config: Config, bound: &Bound) -> Config {
    config.locator.embedded = bound.locator.is_some();
    if let Some(embedded) = &bound.locator {
        config.locator.address = embedded.clone();
    }
    config
}

/// The event log, in a file if one is named or something is to outlive the process.
fn open_journal(config: &Config) -> Journal {
    let instance = instance_name(config.locator.service_name.as_str());
    let rotation = Rotation {
        bytes_max: config.event_log.bytes_max,
        keep: config.event_log.files.saturating_sub(1),
    };
    let Some(path) = config.event_log_path() else {
        return Journal::in_memory(instance);
    };
    let shown = path.display().to_string();
    Journal::start(instance.clone(), path, rotation).unwrap_or_else(|error| {
        let journal = Journal::in_memory(instance);
        journal.note(&Notable::EventLogFailed {
            path: &shown,
            why: &error.to_string(),
        });
        journal
    })
}

/// Reads the keys, and notes what is wrong with clients' files.
fn load_keys(config: &Config, journal: &Journal) -> Result<Keyring, KeysError> {
    let mut problems = vec![];
    let keyring = keys::load(&config.security, &mut problems);
    for why in problems {
        let why = &why.to_string();
        journal.note(&Notable::KeysUnreadable { why });
    }
    keyring
}
