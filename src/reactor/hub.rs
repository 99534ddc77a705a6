//! All state of the data plane, owned by the reactor's one thread.

use std::cell::RefCell;
use std::hash::RandomState;
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use super::attendance::Attendance;
use super::books::Books;
use super::clock::{Alarm, Clock};
use super::connections::Connections;
use super::durable::DurableSide;
use super::effects::Effect;
use super::emit::Emissions;
use super::ended::Promise;
use super::keeping::Keeping;
use super::memory::Memory;
use super::notes::Notes;
use super::peer::{Peer, Role};
use super::peers::Peers;
use super::phase::Phase;
use super::purpose::Purpose;
use super::replies::PendingReplies;
use super::scratch::Scratch;
use super::site::Site;
use super::stream::Stream;
use super::streamers::{Streamer, StreamerTable};
use super::upkeep::Upkeep;
use super::upstream::Upstream;
use super::watchdog::Watchdog;
use crate::ambient::{chance, now, wall_clock_ms};
use crate::broker::{
    Aftermath, Broker, BrokerConfig, DropReason, Dropped, EndedService, PeerId, Policies,
    ServiceKey, ServiceSettings,
};
use crate::config::Config;
use crate::model::ServiceName;
use crate::systemd::Beat;
use crate::telemetry::Notable;
use crate::zmtp::{Heartbeat, Peer as ZmtpPeer, SocketType};

/// Shared by the tasks of the reactor's thread; never borrowed across an await.
pub(super) type SharedHub = Rc<RefCell<Hub>>;

fn policies(config: &Rc<Config>) -> Policies {
    let config = Rc::clone(config);
    Policies::new(move |name, asked| {
        let policy = config.policy_with(name, asked);
        ServiceSettings {
            policy: policy.backlog,
            order_by: policy.order_by,
            delivery: policy.delivery,
        }
    })
}

pub(super) fn broker_config(config: &Rc<Config>) -> BrokerConfig {
    BrokerConfig {
        streamer_ports: config.streamer_ports.clone(),
        subscription_ttl: config.subscription_ttl,
        subscriptions_max: config.subscriptions_max,
        patterns_per_service_max: config.limits.subscriptions_per_peer_max,
        policies: policies(config),
    }
}

/// An id that no other daemon has.
fn random_id() -> u64 {
    let half = || (chance() * f64::from(u32::MAX)) as u64;
    half() << 32 | half()
}

/// The data plane's state. Decisions are the broker's; here are the connections and their bytes.
pub(super) struct Hub {
    pub(super) config: Rc<Config>,
    pub(super) site: Site,
    /// What others are asked to do.
    pub(super) effects: mpsc::Sender<Effect>,
    pub(super) broker: Broker,
    pub(super) streamers: StreamerTable,
    pub(super) peers: Peers,
    pub(super) connections: Connections,
    /// Publishers that we connect to.
    pub(super) upstream: Upstream,
    pub(super) memory: Memory,
    pub(super) scratch: Scratch,
    pub(super) clock: Clock,
    pub(super) alarm: Alarm,
    pub(super) upkeep: Upkeep,
    pub(super) books: Books,
    /// Answers that wait until no crash takes back what they say.
    pub(super) promises: Vec<Promise>,
    pub(super) pending_replies: PendingReplies,
    /// What outlives the process.
    pub(super) keeping: Keeping,
    /// Plain subscribers, and whether publishers wait for those of the run before.
    pub(super) attendance: Attendance,
    /// What is kept on disk.
    pub(super) durable: DurableSide,
    pub(super) emissions: Emissions,
    /// Peers choose keys, so their hashes can't be foreseen.
    pub(super) hasher: RandomState,
    pub(super) phase: Phase,
    /// What operators are told.
    pub(super) notes: Notes,
}

impl Hub {
    pub(super) fn new(
        config: Rc<Config>,
        site: Site,
        streamers: StreamerTable,
        effects: mpsc::Sender<Effect>,
        connections: Connections,
        notes: Notes,
        beat: Option<Beat>,
    ) -> Self {
        let at = now();
        let mut broker = Broker::new(broker_config(&config));
        // By the time of day, so that each run has numbers of its own.
        broker.number_deliveries_from(wall_clock_ms() << 10);
        Self {
            effects,
            broker,
            streamers,
            site,
            peers: Peers::default(),
            connections,
            upstream: Upstream::new(&config.connect_publishers, random_id(), at),
            memory: Memory::default(),
            scratch: Scratch::new(at),
            clock: Clock::started(at, wall_clock_ms()),
            alarm: Alarm::default(),
            upkeep: Upkeep {
                ticked_at: at,
                stuck_looked_at: at,
                ports_sought_at: None,
                beat,
                watchdog: Watchdog::default(),
            },
            books: Books::default(),
            promises: Vec::new(),
            keeping: Keeping::default(),
            attendance: Attendance::default(),
            pending_replies: PendingReplies::new(config.pending_calls_max),
            durable: DurableSide::default(),
            emissions: Emissions::default(),
            hasher: RandomState::new(),
            phase: Phase::default(),
            notes,
            config,
        }
    }

    /// Counts something that was turned away, and notes the first of a burst.
    pub(super) fn refuse(
        &mut self,
        reason: &'static str,
        address: &str,
        why: &dyn std::fmt::Display,
    ) {
        self.notes.refuse(reason, address, why, self.clock.now);
    }

    /// A connection's handshake is done. `None` if its service is gone meanwhile.
    pub(super) fn admit(
        &mut self,
        purpose: &Purpose,
        zmtp: ZmtpPeer,
        stream: Rc<Stream>,
        address: Rc<str>,
        wake: Rc<Notify>,
    ) -> Option<PeerId> {
        if let Purpose::Workers(streamer) = purpose {
            self.remove_namesake(streamer, &zmtp.identity);
        }
        let id = self.peers.next_id();
        let role = match purpose {
            Purpose::Publishers | Purpose::Dialled(_) => Role::Publisher,
            Purpose::Subscribers => Role::Subscriber {
                prefixes: Default::default(),
            },
            Purpose::Requests => Role::Requester { locator: false },
            Purpose::Locator => Role::Requester { locator: true },
            Purpose::Workers(streamer) => self.join_service(streamer, id, &zmtp)?,
        };
        let is_publisher = matches!(role, Role::Publisher);
        let is_downstream = matches!(role, Role::Subscriber { .. }) && zmtp.event_manager.is_some();
        self.insert(id, role, zmtp, stream, address, wake);
        if let Purpose::Dialled(place) = purpose {
            self.has_dialled(*place, id);
        }
        if is_publisher {
            self.subscribe_to(id);
        }
        if is_downstream {
            self.downstream_joined(id);
        }
        Some(id)
    }

    pub(super) fn insert(
        &mut self,
        id: PeerId,
        role: Role,
        zmtp: ZmtpPeer,
        stream: Rc<Stream>,
        address: Rc<str>,
        wake: Rc<Notify>,
    ) {
        let interval = self.config.heartbeat_interval;
        let can_be_asked = zmtp.version.has_ping();
        self.peers.insert(Peer {
            id,
            role,
            zmtp,
            address,
            stream,
            outbox: Default::default(),
            half_received: 0,
            dirty: false,
            wake,
            heartbeat: can_be_asked.then(|| Heartbeat::new(interval, self.clock.now)),
            may_be_busy: false,
            is_parting: false,
            stuck: None,
        });
    }

    fn join_service(
        &mut self,
        streamer: &Rc<Streamer>,
        id: PeerId,
        zmtp: &ZmtpPeer,
    ) -> Option<Role> {
        if !self.streamers.is_current(streamer) {
            return None;
        }
        let service = streamer.service;
        streamer.claim_identity(&zmtp.identity, id);
        // A REQ socket can't take a second event before it has asked for it.
        let lockstep = zmtp.socket_type == SocketType::Req;
        let key = self.broker.service_mut(service)?.workers.join(id, lockstep);
        self.keeping.worker_joined(id, lockstep);
        Some(Role::Worker {
            service,
            key,
            envelope: None,
            proxied: None,
        })
    }

    /// Of two workers with one identity the newer connection stays.
    fn remove_namesake(&mut self, streamer: &Streamer, identity: &Bytes) {
        let Some(older) = streamer.holder_of(identity) else {
            return;
        };
        let service = self.broker.service(streamer.service);
        let name = service.map(|service| service.name().clone());
        let identity = identity.escape_ascii().to_string();
        self.notes
            .burst("same-identity", self.clock.now, |suppressed| {
                Notable::SameIdentity {
                    service: name.as_ref().map_or("", ServiceName::as_str),
                    identity: &identity,
                    suppressed,
                }
            });
        self.remove(older);
    }

    /// Writes what peers are to be sent, as far as their sockets take it.
    pub(super) fn flush(&mut self) {
        self.flush_store();
        let dirty = self.peers.begin_flush();
        for id in &dirty {
            if self.peers.begin_turn(*id) {
                self.flush_peer(*id);
            }
        }
        self.peers.end_flush(dirty);
    }

    /// Writes to one peer, keeps the books, and gives its service's waiting events to it if it has
    /// room again.
    pub(super) fn flush_peer(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let stream = Rc::clone(&peer.stream);
        let bytes = peer.outbox.bytes();
        let written = match peer.outbox.write_to(|slices| stream.try_write(slices)) {
            Ok(written) => written,
            Err(error) => {
                tracing::debug!(target: "em.connection", peer = %peer.address, %error, "connection lost while writing");
                return self.remove(id);
            }
        };
        peer.may_be_busy |= written.events > 0 || written.blocked;
        if written.blocked {
            peer.wake.notify_one();
        }
        let left_bytes = peer.outbox.bytes();
        if left_bytes < bytes {
            peer.stuck = None;
        }
        match &mut peer.role {
            Role::Subscriber { .. } => {
                self.books.subscribers.delivered += written.events;
                self.books.subscribers.in_flight -= written.events;
            }
            Role::Worker {
                service,
                proxied: Some(proxied),
                ..
            } => {
                let service = *service;
                let shares = proxied.wrote(bytes - left_bytes);
                self.proxied_wrote(service, shares);
                if left_bytes <= self.config.budgets.worker_outbox_bytes / 2 {
                    self.set_proxied_open(service, id, true);
                    self.dispatch(service);
                }
            }
            Role::Worker { service, key, .. } => {
                let (service, key) = (*service, *key);
                let room = left_bytes <= self.config.budgets.worker_outbox_bytes / 2;
                if let Some(found) = self.broker.service_mut(service) {
                    let aftermath = found.written(key, written.events, self.clock.now);
                    if room {
                        found.workers.set_open(key, true);
                    }
                    self.finish(service, aftermath);
                    if room {
                        self.dispatch(service);
                    }
                }
            }
            Role::Publisher | Role::Requester { .. } => {}
        }
    }

    /// Ends a connection: its routes go, what it held goes back or is counted, its task ends.
    pub(super) fn remove(&mut self, id: PeerId) {
        let Some(mut peer) = self.peers.remove(id) else {
            return;
        };
        let in_outbox = peer.outbox.events();
        let (unwritten, written) = peer.outbox.take_unwritten();
        match &mut peer.role {
            Role::Publisher | Role::Requester { .. } => {}
            Role::Subscriber { prefixes } => {
                for prefix in prefixes.iter() {
                    self.broker.routes.unsubscribe(prefix, id);
                    self.attendance.audience.left(prefix);
                }
                let lost = unwritten.len() as u64;
                self.books.subscribers.delivered += written;
                self.books.subscribers.in_flight -= in_outbox;
                self.books
                    .subscribers
                    .dropped
                    .add(DropReason::SubscriberLost, lost);
                if lost > 0 {
                    let burst = DropReason::SubscriberLost.name();
                    self.notes.burst(burst, self.clock.now, |suppressed| {
                        Notable::SubscriberLost {
                            peer: &peer.address,
                            events: lost,
                            suppressed,
                        }
                    });
                }
            }
            Role::Worker { service, .. } => {
                let service = *service;
                self.note_worker_gone(&peer.address, &peer.role);
                self.keeping.worker_left(service, id);
                self.streamers
                    .release_identity(service, &peer.zmtp.identity, id);
                match &peer.role {
                    Role::Worker {
                        proxied: Some(proxied),
                        ..
                    } => self.let_proxied_go(service, proxied, unwritten),
                    role => self.let_worker_go(role, unwritten, written),
                }
            }
        }
    }

    /// A worker is none any more: what it held goes to others. Of what was in its outbox, this was
    /// written, and that wasn't.
    pub(super) fn let_worker_go(&mut self, role: &Role, unwritten: Vec<Bytes>, written: u64) {
        let Role::Worker {
            service,
            key,
            envelope,
            ..
        } = *role
        else {
            return;
        };
        let Some(found) = self.broker.service_mut(service) else {
            return;
        };
        let before = found.account.dropped;
        let aftermath = if envelope.is_some_and(|envelope| envelope.acknowledges) {
            found.holder_left(key, &Peer::deliveries(&unwritten), now())
        } else if found.shelf.is_some() {
            found.borrower_left(key, written, now())
        } else {
            found.account.delivered += written;
            found.account.in_flight -= written;
            let events = unwritten.into_iter();
            let events = events
                .map(|event| Peer::without_delimiter(role, event))
                .collect();
            found.worker_left(key, events);
            Aftermath::default()
        };
        self.log_dropped_since(service, &before);
        self.finish(service, aftermath);
        self.dispatch(service);
    }

    /// A service's last subscription ended: closes its streamer and its workers' connections.
    pub(super) fn close_service(&mut self, ended: &EndedService) {
        self.streamers.close(ended.key);
        self.keeping.service_ended(ended);
        for worker in &ended.workers {
            // Its service is gone, so there is nothing to keep books of.
            self.peers.remove(*worker);
        }
        if ended.durable {
            self.remove_queue(ended);
        }
        self.note_service_ended(ended);
    }

    /// Logs the first of a burst of drops, by reason.
    pub(super) fn log_dropped_since(&mut self, key: ServiceKey, before: &Dropped) {
        let Some(service) = self.broker.service(key) else {
            return;
        };
        if service.account.dropped == *before {
            return;
        }
        for (reason, events) in service.account.dropped.since(before).iter() {
            let burst = format!("{reason}:{}", service.name());
            if let Some(suppressed) = self.notes.admit(&burst, self.clock.now) {
                let total = service.account.dropped.total();
                self.notes.note(&Notable::EventsDropped {
                    service: service.name().as_str(),
                    reason: reason.name(),
                    events,
                    total,
                    suppressed,
                });
            }
        }
    }
}
