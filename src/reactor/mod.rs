//! The data plane: one thread that owns every bound socket and the broker.
//!
//! Read `acts::intake` and `acts::deliver` for the path of an event; the rest serves them. `io` has the
//! bytes, `state` the parts of the `hub`, `acts` what changes them, `report` what is told. A connection is a
//! task on the thread's runtime; what they share is the `hub`, which is never borrowed across an
//! await. Others talk to the reactor through bounded channels: [`Effect`]s go out, [`Input`]s come in.

mod acts;
#[cfg(feature = "internals")]
pub mod hot_path;
mod hub;
mod io;
mod report;
mod state;

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};

pub use io::listener::listen_tcp;
pub use state::effects::{Effect, Input};
pub use state::replies::Ticket;

use crate::ambient::{chance, now};
use crate::api::Addresses;
use crate::config::{Config, HTTP_CONNECTIONS_MAX};
use crate::locator::Directory;
use crate::model::Endpoint;
use crate::requests::Settings;
use crate::state::{Kept, Writer};
use crate::store::{Report, Store};
use crate::systemd::{Beat, Inherited};
use crate::telemetry::Journal;
use crate::traces::Tracer;
use acts::connection::HubDoor;
use hub::{Hub, SharedHub};
use io::listener::Listener;
use state::connections::Connections;
use state::notes::Notes;
use state::purpose::Purpose;
use state::site::Site;
use state::streamers::{Doors, StreamerTable};

/// What waits for the reactor's attention at most; its senders wait.
const INPUTS_MAX: usize = 1024;
/// Registrations in an embedded ServiceLocator.
const REGISTRATIONS_MAX: usize = 100_000;
/// File descriptors that are not for connections: our own files, sockets of calls to services.
pub const RESERVED_FDS: u64 = 32;

/// A socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("{key} {address} can't be bound: {error}{hint}")]
pub struct BindError {
    key: &'static str,
    address: String,
    error: std::io::Error,
    hint: &'static str,
}

/// Where a reactor listens; ports are the real ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// For publishers.
    pub publishers: Vec<Endpoint>,
    /// For subscribers.
    pub subscribers: Vec<Endpoint>,
    /// For requests.
    pub requests: Vec<Endpoint>,
    /// The embedded ServiceLocator, if it runs here.
    pub locator: Option<Endpoint>,
}

impl Bound {
    /// An address as clients are given it.
    pub fn public(endpoint: &Endpoint, hostname: &str) -> String {
        match endpoint {
            Endpoint::Tcp { port, .. } => {
                Endpoint::tcp(hostname.trim_matches(['[', ']']), *port).to_string()
            }
            Endpoint::Ipc(_) => endpoint.to_string(),
        }
    }

    /// What we register: where clients can reach us, if there is such a socket.
    pub fn request_address(&self, hostname: &str) -> Option<String> {
        let first = self.requests.first();
        first.map(|endpoint| Self::public(endpoint, hostname))
    }
}

/// A running reactor.
#[derive(Debug)]
pub struct Reactor {
    /// Where it listens.
    pub bound: Bound,
    /// What it is told.
    pub inputs: mpsc::Sender<Input>,
    /// Gives the number of events that were not delivered.
    thread: JoinHandle<Undelivered>,
}

/// What a reactor is made of.
pub struct Parts {
    /// What it is to do.
    pub config: Config,
    /// Takes what others are asked to do.
    pub effects: mpsc::Sender<Effect>,
    /// Of [`Reactor::inputs`].
    pub inputs: (mpsc::Sender<Input>, mpsc::Receiver<Input>),
    /// What an earlier run kept, and who writes down what changes.
    pub former: Option<(Kept, Writer)>,
    /// Without it, no service is durable.
    pub store: Option<Arc<Store>>,
    /// The service manager's sockets: those are taken that would have to be bound.
    pub inherited: Inherited,
    /// Tells the service manager that the reactor turns.
    pub beat: Beat,
    /// Takes notable events.
    pub journal: Journal,
    /// Takes spans.
    pub tracer: Tracer,
}

/// What was left at the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Undelivered {
    /// Events in memory that nobody got.
    pub events: u64,
    /// Some could have been delivered, but the time was up.
    pub in_a_hurry: bool,
}

impl Reactor {
    /// The channel to tell it something, before it starts.
    pub fn inputs() -> (mpsc::Sender<Input>, mpsc::Receiver<Input>) {
        mpsc::channel(INPUTS_MAX)
    }

    /// Binds all sockets, those of services that an earlier run kept too, and starts the thread: when
    /// it returns, peers are served. The name of a host to bind services' sockets to is looked up here,
    /// once.
    ///
    /// # Errors
    /// That name is not known, the first socket that can't be bound, or that no thread could be started; nothing runs then.
    pub fn start(parts: Parts) -> Result<Self, StartError> {
        let config = &parts.config;
        let streamers_at = io::listener::resolved(&config.pull_address).map_err(|error| {
            BindError::new("pullAddress", config.pull_address.to_string(), error)
        })?;
        let inputs = parts.inputs.0.clone();
        let (started, has_started) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("reactor".into())
            .spawn(move || run(parts, streamers_at, &started))?;
        match has_started.recv() {
            Ok(Ok(bound)) => Ok(Self {
                bound,
                inputs,
                thread,
            }),
            Ok(Err(error)) => {
                let _ = thread.join();
                Err(error)
            }
            Err(_) => {
                let _ = thread.join();
                Err(StartError::Died)
            }
        }
    }

    /// Waits for the thread's end, which [`Input::Stop`] brings about; `None` if it panicked.
    pub fn join(self) -> Option<Undelivered> {
        self.thread.join().ok()
    }
}

/// Why a reactor did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system gives no thread or no event queue.
    #[error("the reactor can't be started: {0}")]
    System(#[from] std::io::Error),
    /// It panicked; the log says where.
    #[error("the reactor ended while it started")]
    Died,
}

type Started = std::sync::mpsc::SyncSender<Result<Bound, StartError>>;

fn run(mut parts: Parts, streamers_at: Vec<Endpoint>, started: &Started) -> Undelivered {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(error.into()));
            return Undelivered::default();
        }
    };
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async {
        // Within the runtime, because that is where sockets are registered.
        match Sockets::bind(&parts.config, &mut parts.inherited) {
            Ok(sockets) => {
                report_unused(&parts.inherited, &parts.config);
                let (former, store) = (parts.former.take(), parts.store.take());
                let (hub, inputs) = sockets.hub(parts, streamers_at);
                begin(&mut hub.borrow_mut(), former, store);
                sockets.accept(&hub);
                let _ = started.send(Ok(sockets.bound()));
                serve(hub, sockets, inputs).await
            }
            Err(error) => {
                let _ = started.send(Err(error));
                Undelivered::default()
            }
        }
    })
}

/// Services that are there before any client asks: those of an earlier run, those that the
/// configuration declares, and those of which there is a queue on disk.
fn begin(hub: &mut Hub, former: Option<(Kept, Writer)>, store: Option<Arc<Store>>) {
    hub.know_queues(store.as_ref());
    let is_audience_known = former.is_some();
    if let Some((kept, _)) = &former {
        hub.remember_audience(&kept.subscribers);
        hub.restore(kept);
    }
    hub.begin_durable(store);
    if let Some((kept, writer)) = former {
        hub.begin_keeping(&kept.services, writer);
    }
    hub.await_audience(is_audience_known);
}

/// The listeners whose addresses are configured.
struct Sockets {
    publishers: Vec<Listener>,
    subscribers: Vec<Listener>,
    requests: Vec<Listener>,
    locator: Option<Listener>,
}

impl Sockets {
    fn bind(config: &Config, inherited: &mut Inherited) -> Result<Self, StartError> {
        Ok(Self {
            locator: bind_locator(config, inherited)?,
            publishers: bind_all("pubAddress", &config.pub_addresses, inherited)?,
            subscribers: bind_all("subAddress", &config.sub_addresses, inherited)?,
            requests: bind_all("requestAddress", &config.request_addresses, inherited)?,
        })
    }

    fn bound(&self) -> Bound {
        let endpoints = |all: &[Listener]| all.iter().map(|l| l.endpoint().clone()).collect();
        Bound {
            publishers: endpoints(&self.publishers),
            subscribers: endpoints(&self.subscribers),
            requests: endpoints(&self.requests),
            locator: self.locator.as_ref().map(|l| l.endpoint().clone()),
        }
    }

    fn hub(&self, parts: Parts, streamers_at: Vec<Endpoint>) -> (SharedHub, mpsc::Receiver<Input>) {
        let config = Rc::new(parts.config);
        let site = Site {
            settings: self.settings(&config),
            addresses: self.addresses(&config.public_hostname),
            directory: self.locator.is_some().then(|| self.directory(&config)),
        };
        let notes = Notes::new(parts.journal, parts.tracer, now());
        let hub = Rc::new_cyclic(|hub: &Weak<RefCell<Hub>>| {
            let door = hub.clone();
            let doors = Doors(Box::new(move |streamer| {
                HubDoor::of(door.clone(), Purpose::Workers(Rc::clone(streamer)))
            }));
            let streamers = StreamerTable::new(streamers_at, parts.inherited, doors);
            let connections = Connections::with_max(connections_max(&config));
            RefCell::new(Hub::new(
                config,
                site,
                streamers,
                parts.effects,
                connections,
                notes,
                Some(parts.beat),
            ))
        });
        (hub, parts.inputs.1)
    }

    /// Begins to accept connections.
    fn accept(&self, hub: &SharedHub) {
        let groups = [
            (&self.publishers, Purpose::Publishers),
            (&self.subscribers, Purpose::Subscribers),
            (&self.requests, Purpose::Requests),
        ];
        for (listeners, purpose) in groups {
            listeners
                .iter()
                .for_each(|l| l.accept(HubDoor::of(Rc::downgrade(hub), purpose.clone())));
        }
        if let Some(locator) = &self.locator {
            locator.accept(HubDoor::of(Rc::downgrade(hub), Purpose::Locator));
        }
    }

    fn directory(&self, config: &Config) -> Directory {
        let mut directory = Directory::new(REGISTRATIONS_MAX);
        if config.locator.register
            && let Some(address) = self.bound().request_address(&config.public_hostname)
        {
            directory.reserve(config.locator.service_name.clone(), address);
        }
        directory
    }

    fn settings(&self, config: &Config) -> Settings {
        let public = |endpoint: &Endpoint| Bound::public(endpoint, &config.public_hostname);
        let pull_address = match &config.pull_address {
            Endpoint::Tcp { .. } => public(&config.pull_address)
                .trim_end_matches('0')
                .to_owned(),
            Endpoint::Ipc(path) => format!("ipc://{}-", path.display()),
        };
        Settings {
            id_prefix: format!("sub-{:08x}", (chance() * f64::from(u32::MAX)) as u32),
            pub_address: self
                .publishers
                .first()
                .map(|l| public(l.endpoint()))
                .unwrap_or_default(),
            pull_address_prefix: pull_address,
            limits: config.limits,
            has_store: false,
            publish_timeout: config.publish_timeout,
        }
    }

    fn addresses(&self, hostname: &str) -> Addresses {
        let public = |all: &[Listener]| -> Vec<String> {
            all.iter()
                .map(|l| Bound::public(l.endpoint(), hostname))
                .collect()
        };
        Addresses {
            publishers: public(&self.publishers),
            subscribers: public(&self.subscribers),
            requests: public(&self.requests),
            locator: self.locator.as_ref().map(|l| l.endpoint().to_string()),
        }
    }
}

fn bind_all(
    key: &'static str,
    endpoints: &[Endpoint],
    inherited: &mut Inherited,
) -> Result<Vec<Listener>, BindError> {
    endpoints
        .iter()
        .map(|endpoint| bind(key, endpoint, inherited))
        .collect()
}

fn bind(
    key: &'static str,
    endpoint: &Endpoint,
    inherited: &mut Inherited,
) -> Result<Listener, BindError> {
    Listener::bind(endpoint, inherited)
        .map_err(|error| BindError::new(key, endpoint.to_string(), error))
}

impl BindError {
    /// The address is as the key has it.
    pub fn new(key: &'static str, address: String, error: std::io::Error) -> Self {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "; another process listens there (ss -ltnp shows which)"
            }
            std::io::ErrorKind::PermissionDenied => "; ports below 1024 need a capability",
            _ => "",
        };
        Self {
            key,
            address,
            error,
            hint,
        }
    }
}

/// The embedded ServiceLocator's socket; none if another locator runs at its address.
fn bind_locator(config: &Config, inherited: &mut Inherited) -> Result<Option<Listener>, BindError> {
    if !config.locator.embedded {
        return Ok(None);
    }
    match bind("locatorAddress", &config.locator.address, inherited) {
        Err(taken) if taken.error.kind() == std::io::ErrorKind::AddrInUse => {
            let address = &config.locator.address;
            tracing::info!(target: "em.locator", %address, "the ServiceLocator's address is in use: using the one that runs there, embedding none");
            Ok(None)
        }
        result => result.map(Some),
    }
}

/// Names the service manager's sockets that are at no configured address. One for a service is used
/// when that comes.
fn report_unused(inherited: &Inherited, config: &Config) {
    let services = |port| config.pull_address.with_port(port);
    for socket in inherited.unused() {
        let mut ports = config.streamer_ports.clone();
        if !ports.any(|port| socket.is_at(&services(port))) {
            let address = socket.address();
            tracing::warn!(
                target: "em.systemd",
                address,
                "a socket of the service manager is not used: it matches no address of the configuration"
            );
        }
    }
}

/// From the limit on file descriptors, with some left for services' sockets and for ourselves.
fn connections_max(config: &Config) -> usize {
    if config.connections_max > 0 {
        return config.connections_max;
    }
    let fds_max = rlimit::Resource::NOFILE
        .get_soft()
        .unwrap_or(1024)
        .min(1 << 20);
    // Each has a listening socket and its reserve.
    let streamers = (config.streamer_ports.len() as u64 * 2).min(fds_max / 4);
    let http = match config.http_address {
        Some(_) => (HTTP_CONNECTIONS_MAX as u64).min(fds_max / 8),
        None => 0,
    };
    fds_max
        .saturating_sub(RESERVED_FDS + streamers + http)
        .max(8) as usize
}

async fn serve(hub: SharedHub, sockets: Sockets, mut inputs: mpsc::Receiver<Input>) -> Undelivered {
    let mut core = JoinSet::new();
    core.spawn_local(acts::flush::flush_when_wanted(Rc::clone(&hub)));
    core.spawn_local(acts::durable_answers::hear_of_state(Rc::clone(&hub)));
    core.spawn_local(acts::housekeeping::keep_house(Rc::clone(&hub)));
    core.spawn_local(acts::housekeeping::keep_time(Rc::clone(&hub)));
    core.spawn_local(acts::housekeeping::keep_tries(Rc::clone(&hub)));
    let count = hub.borrow().upstream.dialled.len();
    let dialling: Vec<_> = (0..count)
        .map(|index| tokio::task::spawn_local(acts::dial::dial(Rc::clone(&hub), index)))
        .collect();
    loop {
        let input = tokio::select! {
            input = inputs.recv() => input,
            // Neither ends but by a panic. Without them nothing is right any more: the thread goes too.
            Some(Err(ended)) = core.join_next() => std::panic::resume_unwind(ended.into_panic()),
        };
        let Some(input) = input else {
            return Undelivered::default();
        };
        match input {
            Input::Answer { ticket, answer } => hub.borrow_mut().complete(ticket, &answer),
            // Durable services would take events for ever that go nowhere: a new process has what is
            // on disk.
            Input::Store(Report::Died) => std::panic::resume_unwind(Box::new("the store died")),
            Input::Store(report) => hub.borrow_mut().hear_store(report),
            Input::Status(reply) => hub.borrow_mut().tell_status(reply),
            Input::Reload(config, done) => {
                hub.borrow_mut().reload(*config);
                let _ = done.send(());
            }
            Input::Stop(timeout) => {
                return acts::stopping::stop(&hub, sockets, &dialling, inputs, timeout).await;
            }
        }
    }
}
