//! Messages between the reactor and the rest of the daemon: effects out, inputs in, both bounded.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::inside::Batch;
use super::replies::Ticket;
use super::served::{Handed, Returning, Serving};
use crate::config::Config;
use crate::state::{KeptInstance, KeptTurn};
use event_manager_core::instances::Links;
use event_manager_core::leases::tenure::Keeper;
use event_manager_core::requests::{LeaseRequest, SyncEvent};
use event_manager_core::security::{Identity, Keyring};
use event_manager_core::store::Report;
use event_manager_wire::api::{self, InstancesPage, Status};
use event_manager_wire::messagebus::Message;
use event_manager_wire::model::{ServiceName, SubjectPattern, SubscriptionId};
use event_manager_zmtp::curve::{KeyPair, PublicKey};

/// What the reactor asks of others. When their queue is full, the request is refused as busy.
#[derive(Debug)]
pub enum Effect {
    /// Call services; answer with [`Input::Answer`].
    Call {
        /// Names the request.
        ticket: Ticket,
        /// Whom to call with what.
        event: Box<SyncEvent>,
        /// With which keys each of them is called, if it is by CURVE.
        keys: Vec<Option<CallKeys>>,
    },
    /// Ask for the rest of a state that is long; answer with [`Input::Answer`].
    State {
        /// Names the request.
        ticket: Ticket,
        /// The state with the beginnings of its lists.
        begun: Box<Status>,
    },
}

/// Requests about leases that wait for the engine that keeps them, at most.
pub const LEASES_WAITING_MAX: usize = 256;

/// A request about a lease that an engine keeps; answer with [`Input::Answer`].
#[derive(Debug)]
pub struct LeaseAsked {
    /// Names the request.
    pub ticket: Ticket,
    pub request: LeaseRequest,
    /// Who asks.
    pub client: Identity,
    /// When it was read.
    pub at: Instant,
}

/// Who keeps the leases of clients, if the daemon doesn't itself.
#[derive(Debug, Clone)]
pub struct LeasesKept {
    /// Takes requests, as many as [`LEASES_WAITING_MAX`].
    pub asked: mpsc::Sender<LeaseAsked>,
    /// How it goes with it.
    pub keeper: Arc<Keeper>,
}

/// The keys of a call.
#[derive(Debug, Clone)]
pub struct CallKeys {
    /// Ours.
    pub own: KeyPair,
    /// The service's.
    pub server: PublicKey,
}

/// A part of this process that is a worker like others, over one end of a socket pair.
#[derive(Debug)]
pub struct Attachment {
    /// The reactor's end.
    pub stream: UnixStream,
    /// What it is called in logs.
    pub name: String,
    /// Whose worker it is. While there is no such service, the connection is closed.
    pub service: ServiceName,
}

/// How many entries of lists are told in one turn.
pub(crate) const ENTRIES_MAX: usize = 2500;

/// How much is shown of what a service has many of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lists {
    /// All.
    Whole,
    /// How many there are, and the first 2500 in all. Who wants the others asks for them in parts.
    Short,
    /// How many there are, and the first 16 of each service, 2500 in all: who looks again and again must
    /// not take more of the reactor's time with each subscription.
    Begun,
}

impl Lists {
    /// How much room there is for them in one look.
    pub(crate) fn room(self) -> Room {
        let (of_service, in_all) = match self {
            Self::Whole => (usize::MAX, usize::MAX),
            Self::Short => (usize::MAX, ENTRIES_MAX),
            Self::Begun => (16, ENTRIES_MAX),
        };
        Room { of_service, in_all }
    }
}

/// How many entries of lists are shown yet.
#[derive(Debug)]
pub(crate) struct Room {
    of_service: usize,
    in_all: usize,
}

impl Room {
    /// The longest that the next list of a service may be.
    pub(crate) fn of_service(&self) -> usize {
        self.of_service.min(self.in_all)
    }

    /// For how many entries there is room.
    pub(crate) fn left(&self) -> usize {
        self.in_all
    }

    /// Whether there is room for so many more; then they have it.
    pub(crate) fn take(&mut self, entries: usize) -> bool {
        let left = self.in_all.checked_sub(entries);
        self.in_all = left.unwrap_or(self.in_all);
        left.is_some()
    }
}

/// Which part of what a service has many of somebody asks for.
#[derive(Debug)]
pub struct Asked<K, T> {
    pub service: ServiceName,
    /// Only those behind this one.
    pub after: Option<K>,
    /// At most so many.
    pub max: usize,
    /// Gets them; `None` if there is no such service.
    pub reply: oneshot::Sender<Option<T>>,
}

/// Subscriptions, by their ids.
pub type SubscriptionsAsked = Asked<SubscriptionId, api::Subscriptions>;
/// What it wants, in order.
pub type SubjectsAsked = Asked<SubjectPattern, Vec<SubjectPattern>>;

/// How instances of other programs are, and what is to be kept of them.
#[derive(Debug, Default)]
pub struct InstancesNews {
    /// All that is shown; none if it is as before.
    pub page: Option<Arc<InstancesPage>>,
    /// The same for STATUS.
    pub summary: Option<api::Instances>,
    /// By id; none are forgotten.
    pub instances: BTreeMap<String, Option<KeptInstance>>,
    /// By number; none are forgotten.
    pub turns: BTreeMap<String, Option<KeptTurn>>,
}

/// What others tell the reactor.
#[derive(Debug)]
pub enum Input {
    /// The answer to a request.
    Answer {
        /// Names the request.
        ticket: Ticket,
        /// What its client is sent.
        answer: Message,
    },
    /// What became of events that are kept on disk.
    Store(Report),
    /// A part of this process publishes.
    Publish(Batch),
    /// A part of this process connects.
    Attach(Attachment),
    /// A part of this process takes events for a service from another broker.
    Serve(Serving),
    /// Events for such a service.
    Hand(Handed),
    /// What waits for such a service goes back to the broker.
    Return(Returning),
    /// How bridges are.
    Bridges(Vec<api::Bridge>),
    /// How instances of other programs are, and what is to be kept of them.
    Instances(Box<InstancesNews>),
    /// Asks how many other event managers there are, and how many of them are linked.
    AskLinks(oneshot::Sender<Links>),
    /// Gives a message, which has these frames, to the plain subscribers here, and to no other event manager.
    TellHere(Vec<Bytes>),
    /// Asks for them.
    AskInstances(oneshot::Sender<Arc<InstancesPage>>),
    /// Asks for the state, as the STATUS request shows it.
    Status(Lists, oneshot::Sender<Status>),
    /// Asks for a part of a service's subscriptions.
    Subscriptions(SubscriptionsAsked),
    /// Asks for a part of what a service wants.
    Subjects(SubjectsAsked),
    /// Another configuration is in force, with the addresses and all else that needs a restart as they
    /// are. Answered when that is done.
    Reload(Box<Config>, oneshot::Sender<()>),
    /// Other keys are accepted from now on.
    Keys(Keyring),
    /// Take nothing new, deliver what waits, end. At most this long.
    Stop(Duration),
}
