//! The way of an event without sockets to read from, for benches: the real hub, whose peers' sockets
//! are never written to. Behind the feature `internals`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::{Rc, Weak};

use bytes::BytesMut;
use tokio::net::UnixStream;
use tokio::runtime::{self, Runtime};
use tokio::sync::{mpsc, oneshot};

use super::hub::Hub;
use crate::ambient::now;
use crate::config::Config;
use crate::reactor::acts::admission::Met;
use crate::reactor::acts::connection::HubDoor;
use crate::reactor::io::agreements::Agreements;
use crate::reactor::io::inbox::Inbox;
use crate::reactor::io::stream::Stream;
use crate::reactor::state::connections::Connections;
use crate::reactor::state::effects::{Asked, Lists};
use crate::reactor::state::notes::Notes;
use crate::reactor::state::peer::{Envelope, Role};
use crate::reactor::state::prefixes::Prefixes;
use crate::reactor::state::purpose::Purpose;
use crate::reactor::state::site::Site;
use crate::reactor::state::streamers::{Doors, StreamerTable};
use crate::telemetry::Journal;
use crate::traces::Tracer;
use event_manager_core::broker::{
    BindFailure, DeliveryMode, OrderBy, PeerId, ServiceKey, ServiceOptions, Streamers,
};
use event_manager_core::log::Recovered;
use event_manager_core::requests::Settings;
use event_manager_core::seq::Seq;
use event_manager_core::store::{Appended, Command, Event, Full, Outcome, QueueId, Report, Sink};
use event_manager_wire::model::{ServiceName, SubjectPattern, SubscriptionId};
use event_manager_zmtp::HubId;
use event_manager_zmtp::Limits;
use event_manager_zmtp::curve::KeyPair;
use event_manager_zmtp::{Peer as ZmtpPeer, SocketType, Version, encode_frame};

/// Services without a socket.
struct Unbound;

impl Streamers for Unbound {
    fn open(&mut self, _: ServiceKey, port: u16) -> Result<u16, BindFailure> {
        Ok(port)
    }
}

/// What a store was asked, which has no disk.
#[derive(Clone, Default)]
struct Commands(Rc<RefCell<Vec<Command>>>);

impl Sink for Commands {
    fn try_send(&self, command: Command) -> Result<(), Full> {
        self.0.borrow_mut().push(command);
        Ok(())
    }
}

/// A data plane with one publisher.
pub struct HotPath {
    hub: Hub,
    commands: Commands,
    /// How many events each queue has had.
    appended: BTreeMap<QueueId, u64>,
    publisher: PeerId,
    inbox: Inbox,
    sockets: Vec<UnixStream>,
    runtime: Runtime,
}

impl HotPath {
    /// One that nobody listens to yet.
    ///
    /// # Errors
    /// The system gives no event queue or no sockets.
    pub fn new() -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let config = Rc::new(Config {
            streamer_ports: 1024..=u16::MAX,
            ..Config::default()
        });
        let settings = Settings {
            pub_address: String::new(),
            pull_address_prefix: String::new(),
            id_prefix: String::new(),
            limits: Limits::default(),
            has_store: false,
            version: env!("CARGO_PKG_VERSION"),
            publish_timeout: config.publish_timeout,
        };
        let doors = Doors(Box::new(|streamer| {
            HubDoor::of(Weak::new(), Purpose::Workers(Rc::clone(streamer)))
        }));
        let streamers =
            StreamerTable::new(vec![config.pull_address.clone()], Default::default(), doors);
        let (effects, _) = mpsc::channel(1);
        let site = Site {
            exposed: Default::default(),
            keyring: Default::default(),
            own: KeyPair::from_secret([1; 32]),
            bridges: vec![],
            instances: Default::default(),
            instances_summary: Default::default(),
            settings,
            addresses: Default::default(),
            hub_id: HubId::from_bytes([1; 8]),
            lease: None,
            turn: None,
            leases_kept: None,
            epoch: 0,
            directory: None,
        };
        let mut path = Self {
            hub: Hub::new(
                config,
                site,
                streamers,
                effects,
                // The thread ends with the hub.
                Connections::with_max(usize::MAX, Agreements::start(1)?.0),
                Notes::new(Journal::default(), Tracer::default(), now()),
                None,
            ),
            commands: Commands::default(),
            appended: BTreeMap::new(),
            publisher: PeerId { slot: 0, serial: 0 },
            inbox: Inbox::new(&Limits::default(), Version::V3_1, BytesMut::new(), None),
            sockets: vec![],
            runtime,
        };
        let id = path.hub.peers.next_id();
        path.insert(id, Role::Publisher, SocketType::Pub)?;
        path.publisher = id;
        Ok(path)
    }

    fn insert(&mut self, id: PeerId, role: Role, socket_type: SocketType) -> io::Result<()> {
        let (ours, theirs) = {
            let _entered = self.runtime.enter();
            UnixStream::pair()?
        };
        self.sockets.push(theirs);
        let zmtp = ZmtpPeer {
            socket_type,
            identity: bytes::Bytes::new(),
            version: Version::V3_1,
            event_manager: None,
            hub: None,
            keys: None,
            plain: None,
        };
        let stream = Rc::new(Stream::Unix(ours));
        let met = Met {
            zmtp,
            identity: Default::default(),
            is_attached: false,
            stream,
            address: "bench".into(),
            wake: Rc::default(),
            sealer: None,
        };
        self.hub.insert(id, role, met);
        Ok(())
    }

    /// One more subscriber.
    ///
    /// # Errors
    /// The system gives no sockets.
    pub fn subscribe(&mut self, prefix: &str) -> io::Result<()> {
        let id = self.hub.peers.next_id();
        let mut prefixes = Prefixes::default();
        let memory = &mut self.hub.accounts.prefixes;
        memory.add(&mut prefixes, prefix.as_bytes());
        let role = Role::Subscriber {
            prefixes,
            hub: None,
        };
        self.insert(id, role, SocketType::Sub)?;
        self.hub.broker.routes.subscribe(prefix.as_bytes(), id);
        Ok(())
    }

    /// One more service, with workers that said READY; with a credit, they acknowledge.
    ///
    /// # Errors
    /// The subject is no pattern, or the system gives no sockets.
    pub fn serve(
        &mut self,
        name: &str,
        subject: &str,
        workers: usize,
        credit: Option<u32>,
    ) -> io::Result<()> {
        self.serve_from(name, subject, (workers, credit), DeliveryMode::Live)
    }

    /// The same with a durable queue, of a store without a disk.
    ///
    /// # Errors
    /// The same.
    pub fn serve_durable(
        &mut self,
        name: &str,
        subject: &str,
        workers: usize,
        credit: u32,
    ) -> io::Result<()> {
        if !self.hub.durable.queues.has_store() {
            let store = Box::new(self.commands.clone());
            self.hub.durable.queues.begin(store, []);
        }
        let workers = (workers, Some(credit));
        self.serve_from(name, subject, workers, DeliveryMode::Queue)?;
        self.hub.open_queues();
        self.commit();
        Ok(())
    }

    fn serve_from(
        &mut self,
        name: &str,
        subject: &str,
        (workers, credit): (usize, Option<u32>),
        delivery: DeliveryMode,
    ) -> io::Result<()> {
        let pattern = SubjectPattern::parse(subject, 1024).map_err(io::Error::other)?;
        let service = ServiceName::new(name).map_err(io::Error::other)?;
        let id = SubscriptionId::new(name).map_err(io::Error::other)?;
        let broker = &mut self.hub.broker;
        let (patterns, delivery) = ([pattern].into(), Some(delivery));
        let subscribed = broker.subscribe(&id, &service, patterns, delivery, now(), &mut Unbound);
        let key = subscribed.map_err(io::Error::other)?.service;
        for _ in 0..workers {
            let peer = self.hub.peers.next_id();
            let workers = &mut self.hub.broker[key].workers;
            let worker = workers.join(peer, false);
            match credit {
                None => workers.ready(worker),
                Some(credit) => workers.ready_with(worker, credit),
            }
            let role = Role::Worker {
                service: key,
                key: worker,
                envelope: credit.map(|_| Envelope {
                    delimiter: false,
                    acknowledges: true,
                }),
                proxied: None,
            };
            self.insert(peer, role, SocketType::Dealer)?;
        }
        Ok(())
    }

    /// From now on a service's events with the same subject keep their order.
    pub fn order_by_subject(&mut self, name: &str) {
        let service = ServiceName::new(name).ok();
        if let Some(key) = service.and_then(|name| self.hub.broker.find(&name)) {
            let options = ServiceOptions {
                order_by: Some(OrderBy::Subject),
                ..ServiceOptions::default()
            };
            self.hub.broker.set_options(key, &options);
        }
    }

    /// One more subscription of a service that wants the same and more.
    ///
    /// # Errors
    /// A name or a subject is none, or there are too many.
    pub fn subscribe_service(&mut self, id: &str, name: &str, subject: &str) -> io::Result<()> {
        let pattern = SubjectPattern::parse(subject, 1024).map_err(io::Error::other)?;
        let service = ServiceName::new(name).map_err(io::Error::other)?;
        let id = SubscriptionId::new(id).map_err(io::Error::other)?;
        let (broker, patterns) = (&mut self.hub.broker, [pattern].into());
        let subscribed = broker.subscribe(&id, &service, patterns, None, now(), &mut Unbound);
        subscribed.map(|_| ()).map_err(io::Error::other)
    }

    /// What `/stats` and the metrics are made from: how many services they show.
    pub fn look(&mut self) -> usize {
        self.hub.status(Lists::Begun).services.len()
    }

    /// What the turn does in which somebody asks for STATUS: how many services it shows.
    pub fn asked_for_state(&mut self) -> usize {
        self.hub.status(Lists::Short).services.len()
    }

    /// What one of the turns does that tell the rest: how many subscriptions it tells of.
    pub fn part_of_subscriptions(&self, service: &str) -> usize {
        let Ok(service) = ServiceName::new(service) else {
            return 0;
        };
        let (reply, mut told) = oneshot::channel();
        self.hub.tell_subscriptions(Asked {
            service,
            after: None,
            max: usize::MAX,
            reply,
        });
        let told = told.try_recv().ok().flatten();
        told.map_or(0, |told| told.subscriptions.len())
    }

    /// One who sends requests.
    ///
    /// # Errors
    /// The system gives no sockets.
    pub fn requester(&mut self) -> io::Result<PeerId> {
        let id = self.hub.peers.next_id();
        self.insert(id, Role::Requester { locator: false }, SocketType::Dealer)?;
        Ok(id)
    }

    /// Takes a request, and answers it.
    ///
    /// # Errors
    /// The bytes are not ZMTP.
    pub fn ask(&mut self, requester: PeerId, request: &[u8]) -> io::Result<()> {
        self.hub
            .take_request(requester, request)
            .map_err(io::Error::other)
    }

    /// Takes what the publisher sent, and appends it to the outboxes of those who get it.
    ///
    /// # Errors
    /// The bytes are not ZMTP.
    pub fn take(&mut self, sent: BytesMut) -> io::Result<()> {
        let filled = crate::reactor::io::inbox::Filled::own(sent);
        self.hub
            .take_events(self.publisher, &mut self.inbox, filled)
            .map_err(io::Error::other)
    }

    /// Hands the store what came and what is done, and reports that it did all of it.
    pub fn commit(&mut self) {
        self.hub.flush_store();
        let commands = self.commands.0.take();
        let reports: Vec<_> = commands
            .into_iter()
            .filter_map(|command| self.done(command))
            .collect();
        reports
            .into_iter()
            .for_each(|report| self.hub.hear_store(report));
    }

    fn done(&mut self, command: Command) -> Option<Report> {
        match command {
            Command::Open { queue, .. } => Some(opened(queue)),
            Command::HandOut { queue, .. } => Some(Report::HandingOut { queue }),
            Command::Append {
                queue, tag, events, ..
            } => {
                let appended = self.appended.entry(queue.clone()).or_default();
                let outcomes = events.iter().map(|_: &Event| {
                    *appended += 1;
                    Outcome::Appended(Seq(*appended))
                });
                let outcomes = outcomes.collect();
                let holds = events.iter().map(|event| event.body.len() as u64).sum();
                let appends = vec![Appended { tag, outcomes }];
                Some(Report::Committed {
                    queue,
                    appends,
                    holds,
                })
            }
            _ => None,
        }
    }

    /// What each worker says to acknowledge all that it holds.
    pub fn acknowledgements(&mut self) -> Vec<(PeerId, BytesMut)> {
        let mut said = vec![];
        for peer in self.hub.peers.iter() {
            let Role::Worker { service, key, .. } = peer.role else {
                continue;
            };
            let mut words = BytesMut::new();
            let service = self.hub.broker.service(service);
            let held = service.map(|service| service.queue.held_by(key));
            for id in held.into_iter().flatten() {
                encode_frame(&mut words, format!("ACK {}", id.0).as_bytes(), false);
            }
            said.push((peer.id, words));
        }
        said
    }

    /// Takes what a worker said, as one read.
    ///
    /// # Errors
    /// The bytes are not ZMTP.
    pub fn hear(&mut self, worker: PeerId, said: BytesMut) -> io::Result<()> {
        let Some(Role::Worker { service, .. }) =
            self.hub.peers.get_mut(worker).map(|peer| &peer.role)
        else {
            return Ok(());
        };
        let (service, filled) = (*service, crate::reactor::io::inbox::Filled::own(said));
        self.hub
            .take_words(worker, service, &mut self.inbox, filled)
            .map_err(io::Error::other)
    }

    /// Events that workers hold.
    pub fn held(&self) -> usize {
        let services = self.hub.broker.services();
        services.map(|(_, service)| service.queue.held()).sum()
    }

    /// Forgets what the outboxes hold: how many bytes that were.
    pub fn forget(&mut self) -> usize {
        let outboxes = self.hub.peers.iter_mut().map(|peer| &mut peer.outbox);
        outboxes.map(|outbox| std::mem::take(outbox).bytes()).sum()
    }
}

/// A new queue.
fn opened(queue: QueueId) -> Report {
    let recovered = Recovered {
        created_ms: 0,
        next_seq: Seq::FIRST,
        unsettled_events: 0,
        unsettled_bytes: 0,
        lowest_unsettled: None,
        given_below: Seq::ZERO,
        later: vec![],
        attributes: vec![],
        damage: vec![],
        torn_bytes: 0,
    };
    Report::Opened { queue, recovered }
}
