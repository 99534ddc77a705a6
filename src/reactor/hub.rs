//! All state of the data plane, owned by the reactor's one thread.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::sync::mpsc;

use crate::ambient::{both_clocks, chance};
use crate::config::Config;
use crate::reactor::state::accounts::Accounts;
use crate::reactor::state::clients::Clients;
use crate::reactor::state::connections::Connections;
use crate::reactor::state::durable::Durable;
use crate::reactor::state::effects::Effect;
use crate::reactor::state::notes::Notes;
use crate::reactor::state::observing::Observer;
use crate::reactor::state::peers::Peers;
use crate::reactor::state::phase::Phase;
use crate::reactor::state::requests::Requests;
use crate::reactor::state::saved::Saved;
use crate::reactor::state::scratch::Scratch;
use crate::reactor::state::served::Served;
use crate::reactor::state::site::Site;
use crate::reactor::state::streamers::StreamerTable;
use crate::reactor::state::time::{Time, WallClock};
use crate::reactor::state::upstream::Upstream;
use crate::systemd::Beat;
use event_manager_core::broker::{Broker, BrokerConfig, Policies, ServiceSettings};
use event_manager_core::leases::Leases;
use event_manager_core::queues::Clocks;

/// Shared by the tasks of the reactor's thread; never borrowed across an await.
pub(super) type SharedHub = Rc<RefCell<Hub>>;

fn policies(config: &Rc<Config>) -> Policies {
    let config = Rc::clone(config);
    Policies::with_options(move |name, asked, options| {
        let policy = config.policy_with(name, asked, options);
        ServiceSettings {
            policy: policy.backlog,
            order_by: policy.order_by,
            delivery: policy.delivery,
            dead_letter_subject: policy.dead_letter_subject,
            spool: policy.spool,
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
///
/// Each part keeps its own invariants and knows none of the others. Acts are methods of the hub if they
/// need the whole: what ends connections does. Others take the parts that they change.
pub(super) struct Hub {
    pub(super) config: Rc<Config>,
    pub(super) site: Site,
    pub(super) broker: Broker,
    /// The sockets of services.
    pub(super) streamers: StreamerTable,
    /// Connections, and what waits to be written to them.
    pub(super) peers: Peers,
    /// Who they belong to, and what each may do.
    pub(super) clients: Clients,
    /// Publishers that we connect to.
    pub(super) upstream: Upstream,
    /// Queues on disk.
    pub(super) durable: Durable,
    /// Who takes events for services from other brokers.
    pub(super) served: Served,
    pub(super) requests: Requests,
    /// What outlives the process.
    pub(super) saved: Saved,
    /// Leases of clients.
    pub(super) leases: Leases,
    /// Who is shown messages of instances; none if nobody is.
    pub(super) observer: Option<Box<Observer>>,
    pub(super) accounts: Accounts,
    /// What operators are told.
    pub(super) notes: Notes,
    pub(super) time: Time,
    /// How far a stop is.
    pub(super) phase: Phase,
    pub(super) scratch: Scratch,
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
        let ((here, wall_ms, _), hub_id) = (both_clocks(), site.hub_id);
        let (seen, at) = (Clocks { here, wall_ms }, here);
        let wall = WallClock::started(seen);
        let mut broker = Broker::new(broker_config(&config));
        // By the time of day, so that each run has numbers of its own.
        broker.number_deliveries_from(wall_ms << 10);
        broker.routes.set_hash_key([random_id(), random_id()]);
        if !config.mesh.peers.is_empty() {
            broker.routes.watch();
        }
        Self {
            broker,
            streamers,
            site,
            peers: Peers::new(connections),
            clients: Clients::new(config.security.access(&config.limits)),
            upstream: Upstream::new(&config, [random_id(), random_id()], hub_id, at),
            durable: Durable::of(hub_id, wall.clone()),
            served: Served::default(),
            requests: Requests::new(effects, config.pending_calls_max),
            saved: Saved::default(),
            leases: Leases::default(),
            observer: None,
            accounts: Accounts::default(),
            notes,
            time: Time::started(seen, wall, beat),
            phase: Phase::default(),
            scratch: Scratch::new(at),
            config,
        }
    }
}
