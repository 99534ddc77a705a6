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
mod sockets;
mod state;

use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};

pub use io::listener::listen_tcp;
pub use sockets::{BindError, Bound, RESERVED_FDS};
pub use state::effects::{
    Asked, Attachment, CallKeys, Effect, Input, InstancesNews, LEASES_WAITING_MAX, LeaseAsked,
    LeasesKept, Lists, SubjectsAsked, SubscriptionsAsked,
};
pub use state::inside::{Batch, Published, Publishing};
pub use state::observing::{Observer, Origin, Sighting, Sightings};
pub use state::replies::Ticket;
pub use state::served::{Handed, HandedEvent, Returning, Serving, Settlement};
pub use state::site::Exposed;

use crate::ambient::now;
use crate::config::Config;
use crate::state::{Kept, Writer};
use crate::store::Store;
use crate::systemd::{Beat, Inherited};
use crate::telemetry::Journal;
use crate::traces::Tracer;
use acts::persistence::{Keeping, Restoring};
use event_manager_core::broker::Audience;
use event_manager_core::leases::tenure::Tenure;
use event_manager_core::security::{HandshakeLimits, Keyring};
use event_manager_core::store::Report;
use event_manager_wire::model::Endpoint;
use event_manager_zmtp::HubId;
use event_manager_zmtp::curve::KeyPair;
use hub::{Hub, SharedHub};
use io::agreements::Agreements;
use sockets::{Sockets, report_unused};

/// What waits for the reactor's attention at most; its senders wait.
const INPUTS_MAX: usize = 1024;

/// A running reactor.
#[derive(Debug)]
pub struct Reactor {
    pub bound: Bound,
    /// What it is told.
    pub inputs: mpsc::Sender<Input>,
    /// Our id among other daemons.
    pub hub_id: HubId,
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
    /// The keys that are accepted.
    pub keyring: Keyring,
    /// With which the daemon asks its own locator.
    pub own: KeyPair,
    /// Our id as a hub of a mesh.
    pub hub_id: HubId,
    /// The lease under which we serve, if there is one: how long we may write to anybody.
    pub lease: Option<Arc<Tenure>>,
    /// The lease by which instances of other programs may lead here, if there is one.
    pub turn: Option<watch::Receiver<Option<Arc<Tenure>>>>,
    /// Who keeps the leases of clients, if the daemon doesn't itself.
    pub leases_kept: Option<LeasesKept>,
    /// Who is shown messages of instances of other programs, if anybody is.
    pub observer: Option<Observer>,
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
        let (inputs, hub_id) = (parts.inputs.0.clone(), parts.hub_id);
        let (started, has_started) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("reactor".into())
            .spawn(move || run(parts, streamers_at, &started))?;
        match has_started.recv() {
            Ok(Ok(bound)) => Ok(Self {
                bound,
                inputs,
                hub_id,
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

fn run(parts: Parts, streamers_at: Vec<Endpoint>, started: &Started) -> Undelivered {
    let system = || {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let steps_max = HandshakeLimits::default().steps_max;
        Ok((runtime, Agreements::start(steps_max)?))
    };
    let (runtime, (agreements, agreeing)) = match system() {
        Ok(given) => given,
        Err(error) => {
            let _ = started.send(Err(StartError::System(error)));
            return Undelivered::default();
        }
    };
    let undelivered = run_on(&runtime, parts, &agreements, streamers_at, started);
    agreements.end();
    // A handshake's fault costs that handshake only, so it doesn't end by a panic.
    let _ = agreeing.join();
    undelivered
}

fn run_on(
    runtime: &runtime::Runtime,
    mut parts: Parts,
    agreements: &Agreements,
    streamers_at: Vec<Endpoint>,
    started: &Started,
) -> Undelivered {
    let tasks = LocalSet::new();
    tasks.block_on(runtime, async {
        // Within the runtime, because that is where sockets are registered.
        match Sockets::bind(&parts.config, &mut parts.inherited) {
            Ok(sockets) => {
                report_unused(&parts.inherited, &parts.config);
                let (former, store) = (parts.former.take(), parts.store.take());
                let observer = parts.observer.take();
                let (hub, inputs) = sockets.hub(parts, agreements.clone(), streamers_at);
                begin(&mut hub.borrow_mut(), former, store);
                if let Some(observer) = observer {
                    hub.borrow_mut().begin_observing(observer);
                }
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
    hub.site.epoch = store.as_ref().map_or(0, |store| store.epoch());
    let found = store.as_ref().map_or(&[][..], |store| store.found());
    hub.broker.know_queues(found.iter().cloned());
    let is_audience_known = former.is_some();
    if let Some((kept, _)) = &former {
        hub.saved.subscribers.audience = Audience::of_former_run(&kept.subscribers);
        Restoring::of(hub).restore(kept);
        hub.saved.instances.restore(kept.instances.clone());
        hub.saved.turns.restore(kept.turns.clone());
        hub.restore_leases(&kept.leases);
    }
    hub.begin_durable(store);
    if let Some((kept, writer)) = former {
        let until = now() + hub.config.restart_grace;
        Keeping::of(hub).begin(&kept.services, writer, until);
        // Rights may be others than they were then.
        hub.end_unowned();
    }
    acts::audience::await_audience(
        &mut hub.saved.subscribers,
        &mut hub.time,
        &hub.config,
        is_audience_known,
    );
}

async fn serve(hub: SharedHub, sockets: Sockets, mut inputs: mpsc::Receiver<Input>) -> Undelivered {
    let mut core = JoinSet::new();
    core.spawn_local(acts::flush::flush_when_wanted(Rc::clone(&hub)));
    core.spawn_local(acts::durable_answers::hear_of_state(Rc::clone(&hub)));
    core.spawn_local(acts::housekeeping::keep_house(Rc::clone(&hub)));
    core.spawn_local(acts::housekeeping::keep_time(Rc::clone(&hub)));
    core.spawn_local(acts::housekeeping::keep_tries(Rc::clone(&hub)));
    core.spawn_local(acts::removal::forget_prefixes(Rc::clone(&hub)));
    let count = hub.borrow().upstream.dialled.len();
    let mut dialling: Vec<_> = (0..count)
        .map(|index| tokio::task::spawn_local(acts::dial::dial(Rc::clone(&hub), index)))
        .collect();
    if !hub.borrow().config.instances.discover.is_empty() {
        let discovering = acts::discovering::discover(Rc::clone(&hub));
        dialling.push(tokio::task::spawn_local(discovering));
    }
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
            Input::Publish(batch) => hub.borrow_mut().publish_batch(batch),
            Input::Serve(serving) => hub.borrow_mut().serve_from_engine(serving),
            Input::Hand(handed) => hub.borrow_mut().take_handed(handed),
            Input::Return(returning) => hub.borrow_mut().return_to_engine(returning),
            Input::Attach(attachment) => acts::connection::attach(&hub, attachment),
            Input::Bridges(bridges) => hub.borrow_mut().hear_bridges(bridges),
            Input::Status(lists, reply) => acts::looking::begin(&hub, lists, reply),
            Input::Subscriptions(asked) => hub.borrow().tell_subscriptions(asked),
            Input::Subjects(asked) => hub.borrow().tell_subjects(asked),
            Input::Instances(news) => hub.borrow_mut().take_instances(*news),
            Input::AskLinks(reply) => {
                let _ = reply.send(hub.borrow().links());
            }
            Input::TellHere(frames) => hub.borrow_mut().tell_here(&frames),
            Input::AskInstances(reply) => {
                // Who asked may be gone.
                let _ = reply.send(Arc::clone(&hub.borrow().site.instances));
            }
            Input::Reload(config, done) => {
                hub.borrow_mut().reload(*config);
                let _ = done.send(());
            }
            Input::Keys(keyring) => hub.borrow_mut().accept_keys(keyring),
            Input::Stop(timeout) => {
                return acts::stopping::stop(&hub, sockets, &dialling, inputs, timeout).await;
            }
        }
    }
}
