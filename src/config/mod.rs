//! Defaults ← `config.json` ← environment ← flags, parsed once into valid types.
//!
//! Every key is one row of [`keys::KEYS`]: what it is called in each source, how it is read, how it
//! is shown. Whatever is wrong is reported at once, each with its origin.

mod keys;
mod load;
mod positions;
mod reload;
mod services;
mod traces;
mod values;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

pub use keys::{KEYS, Key};
pub(crate) use load::suggestion;
pub use load::{ConfigErrors, Loaded, LogSection, Origin, Sources, parse};
pub use reload::Reload;
pub use services::{DeliveryMode, OrderBy, Retention, ServicePolicy, Services};
pub use traces::{Carrier, TracesConfig};

use crate::broker::QueueLimits;
use crate::locator::LocatorTokens;
use crate::model::{Endpoint, Limits, ServiceName};

/// The configuration of a daemon.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where publishers connect.
    pub pub_addresses: Vec<Endpoint>,
    /// Where subscribers connect.
    pub sub_addresses: Vec<Endpoint>,
    /// Where requests come in.
    pub request_addresses: Vec<Endpoint>,
    /// Where HTTP is served, for people and machines that watch; none if it isn't.
    pub http_address: Option<Endpoint>,
    /// Names beside [`public_hostname`](Self::public_hostname) by which HTTP may be asked; `*` is any,
    /// `*.DOMAIN` are those below it.
    pub http_hosts: Vec<String>,
    /// Publishers that bind: we dial them.
    pub connect_publishers: Vec<Endpoint>,
    /// Where services' ROUTERs are bound, without the port.
    pub pull_address: Endpoint,
    /// Their ports; `0..=0` lets the system choose each.
    pub streamer_ports: RangeInclusive<u16>,
    /// The host in the addresses that clients are given.
    pub public_hostname: String,
    /// The ServiceLocator.
    pub locator: LocatorConfig,
    /// The wait for a predecessor's end.
    pub startup_guard: GuardConfig,
    /// The periodic record in the log.
    pub diagnostic: DiagnosticConfig,
    /// How long a subscription lives without a keep-alive.
    pub subscription_ttl: Duration,
    /// How long stopping may take.
    pub drain_timeout: Duration,
    /// How long a sync event without a timeout of its own waits for its answers.
    pub publish_timeout: Duration,
    /// Silence after which a peer is asked for a sign of life; zero turns that off.
    pub heartbeat_interval: Duration,
    /// How long a connection may take to say who it is.
    pub handshake_timeout: Duration,
    /// What one connection may send.
    pub limits: Limits,
    /// What may wait.
    pub budgets: Budgets,
    /// The most connections; 0 derives it from the limit on file descriptors.
    pub connections_max: usize,
    /// The most sync events that wait for answers.
    pub pending_calls_max: usize,
    /// Whether the daemon is ready only while all publishers that it dials are connected.
    pub require_publishers: bool,
    /// The most subscriptions of services.
    pub subscriptions_max: usize,
    /// What is different for single services.
    pub services: Services,
    /// What may wait in the whole process, in bytes; 0 sets no limit beyond the single budgets.
    pub memory_limit: usize,
    /// What happens when a subscriber's outbox is full.
    pub slow_subscriber: SlowSubscriber,
    /// The directory of all that outlives the process.
    pub state_dir: PathBuf,
    /// How long the id of a confirmed event is remembered.
    pub dedup_window: Duration,
    /// The most ids that are remembered.
    pub dedup_ids_max: usize,
    /// How long subscriptions that were kept over a restart live at least.
    pub restart_grace: Duration,
    /// How long publishers wait after a start, at most, for the subscribers of the run before.
    pub subscriber_grace: Duration,
    /// Where notable events are written.
    pub event_log: EventLogConfig,
    /// Spans of what happens to single events.
    pub traces: TracesConfig,
    /// The log configuration's file.
    pub log_path: Option<PathBuf>,
}

/// The file of notable events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLogConfig {
    /// Its path; `None` is `events.jsonl` in the state directory.
    pub path: Option<PathBuf>,
    /// Size at which a new file is begun.
    pub bytes_max: usize,
    /// How many are kept, from 1, with the one that is written.
    pub files: u64,
}

/// The most connections to the HTTP listener, which have descriptors of their own.
pub const HTTP_CONNECTIONS_MAX: usize = 64;

/// How the ServiceLocator is used.
#[derive(Debug, Clone, PartialEq)]
pub struct LocatorConfig {
    /// Where it is.
    pub address: Endpoint,
    /// Run one in this process, at that address.
    pub embedded: bool,
    /// Register with it.
    pub register: bool,
    /// Our name there.
    pub service_name: ServiceName,
    /// How long a registration lives; it is refreshed at a third of that.
    pub ttl: Duration,
    /// The numbers of its tokens.
    pub tokens: LocatorTokens,
}

/// How the startup guard behaves.
#[derive(Debug, Clone, PartialEq)]
pub struct GuardConfig {
    /// Whether to wait at all.
    pub enabled: bool,
    /// How long.
    pub timeout: Duration,
    /// Between two looks.
    pub interval: Duration,
    /// What then.
    pub on_timeout: GuardTimeoutAction,
}

/// The diagnostic monitor: one structured log record per interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiagnosticConfig {
    /// Whether there is one.
    pub enabled: bool,
    /// Between two records.
    pub interval: Duration,
}

/// What happens when the predecessor isn't known to be gone in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardTimeoutAction {
    /// Exit with code 75: two daemons would split the services between them.
    Exit,
    /// Start all the same.
    Proceed,
}

/// What happens when a subscriber's outbox is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlowSubscriber {
    /// Its oldest events make room.
    DropOldest,
    /// Its connection is closed.
    Disconnect,
}

/// Bounds of what waits, in bytes unless it says events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budgets {
    /// For each subscriber. When full, [`Config::slow_subscriber`] says what happens.
    pub subscriber_outbox_bytes: usize,
    /// For each worker. When full, others get the events.
    pub worker_outbox_bytes: usize,
    /// For each client of the request socket. When full, no more is read from it.
    pub request_outbox_bytes: usize,
    /// For each service, the events that no worker could take, unless its own entry says otherwise.
    /// When full, its policy says what happens.
    pub service_queue_bytes: usize,
    /// The same in events.
    pub service_queue_events: usize,
}

impl Config {
    /// What is configured for the service of this name.
    pub fn policy_of(&self, name: &ServiceName) -> ServicePolicy {
        self.policy_with(name, None)
    }

    /// The same where a subscription says where the events are to be kept.
    pub fn policy_with(&self, name: &ServiceName, asked: Option<DeliveryMode>) -> ServicePolicy {
        let budget = QueueLimits {
            bytes_max: self.budgets.service_queue_bytes,
            events_max: self.budgets.service_queue_events,
        };
        self.services.policy_of(name, asked, budget)
    }
}

impl Config {
    /// The file of notable events; none if nothing is to outlive the process and no file is named.
    pub fn event_log_path(&self) -> Option<PathBuf> {
        let in_state_dir = || {
            let directory = &self.state_dir;
            (!directory.as_os_str().is_empty()).then(|| directory.join("events.jsonl"))
        };
        self.event_log.path.clone().or_else(in_state_dir)
    }
}

impl Default for Config {
    fn default() -> Self {
        let all = |port| vec![Endpoint::tcp("*", port)];
        Self {
            pub_addresses: all(5000),
            sub_addresses: all(5001),
            request_addresses: all(5101),
            http_address: Some(Endpoint::tcp("127.0.0.1", 5180)),
            http_hosts: Vec::new(),
            connect_publishers: Vec::new(),
            pull_address: Endpoint::tcp("*", 0),
            streamer_ports: 5001..=5100,
            public_hostname: "localhost".into(),
            locator: LocatorConfig::default(),
            startup_guard: GuardConfig {
                enabled: false,
                timeout: Duration::from_secs(60),
                interval: Duration::from_secs(2),
                on_timeout: GuardTimeoutAction::Exit,
            },
            diagnostic: DiagnosticConfig {
                enabled: false,
                interval: Duration::from_secs(1800),
            },
            subscription_ttl: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(5),
            publish_timeout: Duration::from_secs(30),
            heartbeat_interval: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(5),
            limits: Limits::default(),
            budgets: Budgets {
                subscriber_outbox_bytes: 16 << 20,
                worker_outbox_bytes: 1 << 20,
                request_outbox_bytes: 4 << 20,
                service_queue_bytes: 64 << 20,
                service_queue_events: 1_000_000,
            },
            connections_max: 0,
            pending_calls_max: 10_000,
            require_publishers: false,
            subscriptions_max: 100_000,
            services: Services::default(),
            memory_limit: 0,
            slow_subscriber: SlowSubscriber::DropOldest,
            state_dir: PathBuf::from("./data"),
            dedup_window: Duration::from_secs(120),
            dedup_ids_max: 100_000,
            restart_grace: Duration::from_secs(30),
            subscriber_grace: Duration::from_secs(1),
            event_log: EventLogConfig {
                path: None,
                bytes_max: 16 << 20,
                files: 4,
            },
            traces: TracesConfig::default(),
            log_path: None,
        }
    }
}

impl Default for LocatorConfig {
    fn default() -> Self {
        Self {
            address: Endpoint::tcp("localhost", 6000),
            embedded: false,
            register: true,
            service_name: values::service_name("EventManager"),
            ttl: Duration::from_secs(30),
            tokens: LocatorTokens::default(),
        }
    }
}
