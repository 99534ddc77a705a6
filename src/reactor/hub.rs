//! All state of the data plane, owned by the reactor's one thread.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::sync::mpsc;

use super::attendance::Attendance;
use super::books::Books;
use super::clock::{Alarm, Clock};
use super::connections::Connections;
use super::durable::Durable;
use super::effects::Effect;
use super::emissions::Emissions;
use super::keeping::Keeping;
use super::memory::Memory;
use super::notes::Notes;
use super::peers::Peers;
use super::phase::Phase;
use super::promises::Promises;
use super::replies::PendingReplies;
use super::scratch::Scratch;
use super::site::Site;
use super::streamers::StreamerTable;
use super::upkeep::Upkeep;
use super::upstream::Upstream;
use super::watchdog::Watchdog;
use crate::ambient::{chance, now, wall_clock_ms};
use crate::broker::{Broker, BrokerConfig, Policies, ServiceSettings};
use crate::config::Config;
use crate::systemd::Beat;

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
    pub(super) promises: Promises,
    pub(super) pending_replies: PendingReplies,
    /// What outlives the process.
    pub(super) keeping: Keeping,
    /// Plain subscribers, and whether publishers wait for those of the run before.
    pub(super) attendance: Attendance,
    /// What is kept on disk.
    pub(super) durable: Durable,
    pub(super) emissions: Emissions,
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
            promises: Promises::default(),
            keeping: Keeping::default(),
            attendance: Attendance::default(),
            pending_replies: PendingReplies::new(config.pending_calls_max),
            durable: Durable::default(),
            emissions: Emissions::default(),
            phase: Phase::default(),
            notes,
            config,
        }
    }
}
