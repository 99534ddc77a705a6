//! One connection whose handshake is done.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::Notify;

use super::clients::ClientId;
use super::mesh::Downstream;
use super::paths::{Proxied, Said, delivery_of, named_word};
use super::prefixes::Prefixes;
use super::runs::Run;
use crate::reactor::io::outbox::{Outbox, Unwritten};
use crate::reactor::io::stream::Stream;
use event_manager_core::broker::{Delivery, DeliveryId, PeerId, ServiceKey, WorkerKey, Workers};
use event_manager_core::security::Presented;
use event_manager_wire::messagebus::EventWord;
use event_manager_zmtp::{Heartbeat, Peer as ZmtpPeer, SocketType, short_header};

/// What a peer is to us, with the state that only its kind has.
#[derive(Debug)]
pub(crate) enum Role {
    Publisher,
    Subscriber {
        prefixes: Prefixes,
        /// It is a hub of a mesh.
        hub: Option<Box<Downstream>>,
    },
    Worker {
        service: ServiceKey,
        key: WorkerKey,
        /// How it wants its events; it has not said READY yet without.
        envelope: Option<Envelope>,
        /// Those behind it, if it is a proxy; then the others' fields say nothing, but that `key` is one
        /// of them.
        proxied: Option<Box<Proxied>>,
    },
    Requester {
        /// It asks the embedded ServiceLocator.
        locator: bool,
    },
}

impl Role {
    /// For reports.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Publisher => "publisher",
            Self::Subscriber { .. } => "subscriber",
            Self::Worker { .. } => "worker",
            Self::Requester { .. } => "requester",
        }
    }
}

/// Whose events a publisher sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Its own.
    Client,
    /// Others': it is an event manager. They go to no hub of a mesh.
    EventManager,
    /// It was dialled as a hub, and has not said yet that it is one. It may send nothing before.
    Unknown,
}

/// What a worker's first READY settles: events that wait for it in its outbox may have to go to
/// another, so it stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Envelope {
    /// It puts an empty frame before its messages, and expects one.
    pub(crate) delimiter: bool,
    /// It acknowledges its events, each of which comes with its delivery's id.
    pub(crate) acknowledges: bool,
}

impl Envelope {
    /// READY: the first settles it, a later one must agree.
    pub(crate) fn agree(
        known: &mut Option<Self>,
        delimiter: bool,
        credit: Option<u32>,
    ) -> Result<(), String> {
        let acknowledges = credit.is_some();
        let known = known.get_or_insert(Self {
            delimiter,
            acknowledges,
        });
        match (known.acknowledges, acknowledges) {
            (false, true) => Err("its first READY was without acknowledgements".into()),
            _ => Ok(()),
        }
    }
}

/// The IP address in that of a connection that was accepted: `None` for one over `ipc://`, and for a
/// publisher that we dialled.
pub(crate) fn ip_of(address: &str) -> Option<IpAddr> {
    address.parse().ok().map(|at: SocketAddr| at.ip())
}

/// What a peer shows of itself, who it is.
pub(crate) fn presented<'a>(zmtp: &'a ZmtpPeer, stream: &Stream) -> Presented<'a> {
    Presented {
        keys: zmtp.keys.as_deref(),
        plain: zmtp.plain.as_deref(),
        user: stream.user(),
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) role: Role,
    pub(crate) zmtp: ZmtpPeer,
    /// Whose connection it is.
    pub(crate) client: ClientId,
    /// It is a part of this process.
    pub(crate) is_attached: bool,
    /// Where it connects from, for logs.
    pub(crate) address: Rc<str>,
    pub(crate) stream: Rc<Stream>,
    pub(crate) outbox: Outbox,
    /// What its inbox keeps of a message that isn't whole, in bytes; 0 while that is little.
    pub(crate) half_received: usize,
    /// It is in the list of those to be flushed.
    pub(crate) dirty: bool,
    /// Wakes its task: it became blocked, or it was removed.
    pub(crate) wake: Rc<Notify>,
    /// Since ZMTP 3.1 it can be asked for signs of life, and name a time to live.
    pub(crate) heartbeat: Option<Heartbeat>,
    /// Events were written since it last spoke, or more than its socket takes: it may be too busy
    /// with them to answer a PING.
    pub(crate) may_be_busy: bool,
    /// It was told why its connection ends: it gets the time to read that.
    pub(crate) is_parting: bool,
    /// It hung up while it wasn't read: what it had sent is read later, and nothing is sent to it.
    pub(crate) is_leaving: bool,
    /// Whose events it sends.
    pub(crate) source: Source,
    /// A worker that is full: since when it took nothing, and whether that was noted.
    pub(crate) stuck: Option<(Instant, bool)>,
}

/// An empty frame with another to follow.
pub(crate) const DELIMITER: [u8; 2] = [1, 0];

fn proxied(role: &mut Role) -> Option<&mut Proxied> {
    match role {
        Role::Worker { proxied, .. } => proxied.as_deref_mut(),
        _ => None,
    }
}

impl Peer {
    /// What it shows of itself, who it is.
    pub(crate) fn presented(&self) -> Presented<'_> {
        presented(&self.zmtp, &self.stream)
    }

    fn envelope(&self) -> Option<Envelope> {
        match self.role {
            Role::Worker { envelope, .. } => envelope,
            _ => None,
        }
    }

    /// Appends events to the outbox of a worker that doesn't acknowledge.
    pub(crate) fn push_to_worker(
        &mut self,
        worker: WorkerKey,
        run: &Run<'_>,
        events: Range<usize>,
    ) {
        if let Some(proxied) = proxied(&mut self.role) {
            return proxied.push_events(&mut self.outbox, worker, run, events);
        }
        if !self.envelope().is_some_and(|envelope| envelope.delimiter) {
            let part = run.part(events.clone());
            return self
                .outbox
                .push(&run.bytes, part, events.len() as u64, run.backing_bytes);
        }
        for event in events {
            let event = &run.bytes[run.part(event..event + 1)];
            self.outbox.push_behind(DELIMITER, event);
        }
    }

    /// Appends an event to the outbox of a worker that acknowledges. The service counts it as held,
    /// so the outbox counts it as no event.
    pub(crate) fn push_held(
        &mut self,
        worker: WorkerKey,
        delivery: &Delivery,
        event_id: Option<&str>,
    ) {
        if let Some(proxied) = proxied(&mut self.role) {
            return proxied.push_held(&mut self.outbox, worker, delivery, event_id);
        }
        let delimiter = match self.envelope() {
            Some(envelope) if envelope.delimiter => &DELIMITER[..],
            _ => &[],
        };
        if let Some(event_id) = event_id {
            let word = named_word(delivery, event_id);
            return self
                .outbox
                .push_joined([delimiter, &word, &delivery.body, &[]]);
        }
        let word = EventWord::new(delivery.id.0, delivery.attempt);
        let header = short_header(word.len(), true);
        let parts = [delimiter, &header, word.as_ref(), &delivery.body];
        self.outbox.push_joined(parts);
    }

    /// Its only worker is this, and wants its events so.
    pub(crate) fn set_worker(&mut self, new_key: WorkerKey, new: Option<Envelope>) {
        if let Role::Worker { key, envelope, .. } = &mut self.role {
            (*key, *envelope) = (new_key, new);
        }
    }

    /// The workers of a connection that has several, and whether its socket is a REQ.
    pub(crate) fn proxied_mut(&mut self) -> Option<(&mut Proxied, bool)> {
        let is_req = self.zmtp.socket_type == SocketType::Req;
        proxied(&mut self.role).map(|all| (all, is_req))
    }

    /// Whether the worker that says this is told what is not understood.
    pub(crate) fn is_told(&self, said: Said<'_>) -> bool {
        let is_req = self.zmtp.socket_type == SocketType::Req;
        match &self.role {
            Role::Worker {
                proxied: Some(proxied),
                ..
            } => proxied
                .speaker(said, is_req)
                .and_then(|worker| proxied.paths.get(&worker))
                .is_some_and(|path| path.acknowledges),
            Role::Worker { envelope, .. } => envelope.is_some_and(|known| known.acknowledges),
            _ => false,
        }
    }

    /// Appends a message that is no event, for the worker that said this.
    pub(crate) fn tell_worker(&mut self, said: Said<'_>, message: &[u8]) {
        let is_req = self.zmtp.socket_type == SocketType::Req;
        if let Some(proxied) = proxied(&mut self.role) {
            if let Some(worker) = proxied.speaker(said, is_req) {
                proxied.push(&mut self.outbox, worker, &[message], false);
            }
            return;
        }
        let delimiter = match said.is_direct() {
            true => said.delimiter,
            false => self.envelope().is_some_and(|known| known.delimiter),
        };
        let before: &[u8] = if delimiter { &DELIMITER } else { &[] };
        self.outbox.push_copy(&[before, message].concat(), 0);
    }

    /// Whether its outbox has room for more events, for all the workers behind it together.
    pub(crate) fn set_open(&self, workers: &mut Workers, open: bool) {
        match &self.role {
            Role::Worker {
                proxied: Some(proxied),
                ..
            } => proxied
                .workers()
                .for_each(|worker| workers.set_open(worker, open)),
            Role::Worker { key, .. } => workers.set_open(*key, open),
            _ => {}
        }
    }

    /// The deliveries among messages that were not written to a worker that acknowledges.
    pub(crate) fn deliveries(unwritten: &[Unwritten]) -> Vec<DeliveryId> {
        let messages = unwritten.iter().filter(|one| !one.is_event);
        messages
            .filter_map(|one| delivery_of(&one.message))
            .collect()
    }
}
