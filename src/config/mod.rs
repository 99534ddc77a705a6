//! Defaults ← `config.json` ← environment ← flags, parsed once into valid types.
//!
//! [`Config`] is the schema: each field is a key, with its unit, bounds and default. `keys` derives
//! the keys' names from it, `load` reads the sources and puts them together with the `config` crate,
//! `together` checks what depends on more than one key. Whatever is wrong is reported at once, each
//! with its origin.

mod amqp;
mod bridges;
mod chosen;
mod clients;
mod cluster;
mod engine_kinds;
mod engines;
mod instances;
mod keys;
mod lease;
mod load;
mod log;
mod meant;
mod mesh;
mod peers;
mod positions;
mod reload;
mod security;
mod services;
mod tls;
mod together;
mod traces;
mod units;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use amqp::AmqpAddress;
pub use bridges::{Bridge, Bridges, Direction, Layout};
pub use clients::{Anonymous, Clients, Roles};
pub use cluster::ClusterConfig;
pub use engine_kinds::EngineKind;
pub use engines::{Engine, EngineFile, Engines, FileKind, Login};
pub use instances::InstancesConfig;
pub use keys::{KEYS, Key};
pub use lease::{LeaseConfig, Role};
pub use load::{ConfigErrors, Loaded, Sources, parse};
pub use log::{LogConfig, LogFormat, Rotation};
pub(crate) use meant::suggestion;
pub use mesh::MeshConfig;
pub use peers::DialledPublisher;
pub use reload::Reload;
pub(crate) use security::is_reached_by_others;
pub use security::{SecretFileMode, SecurityConfig, SecurityMechanism};
pub use services::{Retention, ServedBy, ServicePolicy, Services, spool_of};
pub(crate) use together::why_undialable;
pub use traces::{Carrier, TracesConfig};

use bridges::AllBridges;
use engines::AllEngines;
use event_manager_core::broker::{DeliveryMode, QueueLimits, ServiceOptions};
use event_manager_core::locator::LocatorTokens;
use event_manager_wire::messagebus::Token;
use event_manager_wire::model::{Endpoint, ServiceName};
use event_manager_zmtp::Limits;
use event_manager_zmtp::curve::PublicKey;
use peers::{OptionalKey, Publishers};
use services::AllServices;
use tls::TlsFile;
use units::{
    Address, AnyPath, DAY, HostNames, Hostname, HttpAddress, Name, OptionalPath, SIZE_MAX, Seconds,
    Size, SomeAddresses, TokenNumber, Truth, Unit, Whole, WithoutPort, Word, Words,
};

/// The configuration of a daemon. Fields without a key (`serde(skip)`) are constants, which tests
/// change.
// Unknown keys are refused by `load`, which knows where they stand and what was meant.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    /// Where publishers connect.
    #[serde(rename = "pubAddress", with = "SomeAddresses")]
    pub pub_addresses: Vec<Endpoint>,
    /// Where subscribers connect.
    #[serde(rename = "subAddress", with = "SomeAddresses")]
    pub sub_addresses: Vec<Endpoint>,
    /// Where requests come in.
    #[serde(rename = "requestAddress", with = "SomeAddresses")]
    pub request_addresses: Vec<Endpoint>,
    /// Where HTTP is served, for people and machines that watch; none if it isn't.
    #[serde(with = "HttpAddress")]
    pub http_address: Option<Endpoint>,
    /// Names beside [`public_hostname`](Self::public_hostname) by which HTTP may be asked; `*` is any,
    /// `*.DOMAIN` are those below it.
    #[serde(with = "HostNames")]
    pub http_hosts: Vec<String>,
    /// The file of the tokens, of which whoever reads something over HTTP needs one; none if everybody
    /// may.
    #[serde(with = "OptionalPath")]
    pub http_token_file: Option<PathBuf>,
    /// The certificates, in PEM, with which HTTP is served as HTTPS: the daemon's own first.
    #[serde(with = "TlsFile")]
    pub http_tls_certificate: Option<PathBuf>,
    /// The private key of the first of them, in PEM.
    #[serde(with = "TlsFile")]
    pub http_tls_key: Option<PathBuf>,
    /// Publishers that bind: we dial them.
    #[serde(with = "Publishers")]
    pub connect_publishers: Vec<DialledPublisher>,
    /// Whether the daemon is ready only while all publishers that it dials are connected.
    #[serde(with = "Truth")]
    pub require_publishers: bool,
    /// Other event managers whose clients' events are wanted here.
    pub mesh: MeshConfig,
    /// Instances of other programs that are observed.
    pub instances: InstancesConfig,
    /// Where services' ROUTERs are bound, without the port.
    #[serde(with = "WithoutPort")]
    pub pull_address: Endpoint,
    /// Their ports; `0..=0` lets the system choose each.
    #[serde(flatten, with = "Ports")]
    pub streamer_ports: RangeInclusive<u16>,
    /// The host in the addresses that clients are given.
    #[serde(with = "Hostname")]
    pub public_hostname: String,
    /// The ServiceLocator.
    #[serde(flatten)]
    pub locator: LocatorConfig,
    /// The wait for a predecessor's end.
    #[serde(flatten)]
    pub startup_guard: GuardConfig,
    /// The periodic record in the log.
    #[serde(flatten)]
    pub diagnostic: DiagnosticConfig,
    /// How long a subscription lives without a keep-alive.
    #[serde(with = "Seconds::<100, { 30 * DAY }>")]
    pub subscription_ttl: Duration,
    /// How long stopping may take.
    #[serde(with = "Seconds::<0, DAY>")]
    pub drain_timeout: Duration,
    /// How long a sync event without a timeout of its own waits for its answers.
    #[serde(with = "Seconds::<10, DAY>")]
    pub publish_timeout: Duration,
    /// Silence after which a peer is asked for a sign of life; zero turns that off. Its time to live
    /// goes over the wire in 16 bits of deciseconds.
    #[serde(with = "Seconds::<0, 1000>")]
    pub heartbeat_interval: Duration,
    /// How long a connection may take to say who it is.
    #[serde(with = "Seconds::<50, 600>")]
    pub handshake_timeout: Duration,
    /// What one connection may send.
    #[serde(with = "LimitsSchema")]
    pub limits: Limits,
    /// What may wait.
    pub budgets: Budgets,
    /// Who may connect.
    pub security: SecurityConfig,
    /// The most connections; 0 derives it from the limit on file descriptors.
    #[serde(rename = "maxConnections", with = "Size::<0>")]
    pub connections_max: usize,
    /// The most sync events that wait for answers.
    #[serde(rename = "maxPendingCalls", with = "Size::<1>")]
    pub pending_calls_max: usize,
    /// The most subscriptions of services.
    #[serde(rename = "maxSubscriptions", with = "Size::<1>")]
    pub subscriptions_max: usize,
    /// What is different for single services.
    #[serde(with = "AllServices")]
    pub services: Services,
    /// Other brokers.
    #[serde(with = "AllEngines")]
    pub engines: Engines,
    /// What goes to them and what comes from them.
    #[serde(with = "AllBridges")]
    pub bridges: Bridges,
    /// The lease under which this daemon serves, if it does so only then.
    pub lease: LeaseConfig,
    /// Daemons that are to agree on who serves, which is not built.
    pub cluster: ClusterConfig,
    /// What may wait in the whole process, in bytes; 0 sets no limit beyond the single budgets.
    #[serde(with = "Size::<0>")]
    pub memory_limit: usize,
    /// What happens when a subscriber's outbox is full.
    #[serde(with = "Word::<SlowSubscriber>")]
    pub slow_subscriber: SlowSubscriber,
    /// The directory of all that outlives the process.
    #[serde(with = "AnyPath")]
    pub state_dir: PathBuf,
    /// How long the id of a confirmed event is remembered.
    #[serde(with = "Seconds::<0, DAY>")]
    pub dedup_window: Duration,
    /// The most ids that are remembered.
    #[serde(with = "Size::<1>")]
    pub dedup_ids_max: usize,
    /// How long subscriptions that were kept over a restart live at least.
    #[serde(with = "Seconds::<0, DAY>")]
    pub restart_grace: Duration,
    /// How long publishers wait after a start, at most, for the subscribers of the run before.
    #[serde(with = "Seconds::<0, 60>")]
    pub subscriber_grace: Duration,
    /// Where notable events are written.
    pub event_log: EventLogConfig,
    /// Spans of what happens to single events.
    pub traces: TracesConfig,
    /// The log configuration's file, in place of [`log`](Self::log).
    #[serde(with = "OptionalPath")]
    pub log_path: Option<PathBuf>,
    /// What is logged, how and where.
    pub log: LogConfig,
}

/// The file of notable events.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventLogConfig {
    /// Its path; `None` is `events.jsonl` in the state directory.
    #[serde(with = "OptionalPath")]
    pub path: Option<PathBuf>,
    /// Size in bytes at which a new file is begun.
    #[serde(rename = "maxBytes", with = "Whole::<u64, 4096, SIZE_MAX>")]
    pub bytes_max: u64,
    /// How many are kept, with the one that is written.
    #[serde(with = "Whole::<u64, 1, 1000>")]
    pub files: u64,
}

/// The most connections to the HTTP listener, which have descriptors of their own.
pub const HTTP_CONNECTIONS_MAX: usize = 64;

/// The keys of the range of ports.
#[derive(Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct Ports {
    #[serde(with = "Whole::<u16, 0, 65535>")]
    min_streamer_port: u16,
    #[serde(with = "Whole::<u16, 0, 65535>")]
    max_streamer_port: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            min_streamer_port: 5001,
            max_streamer_port: 5100,
        }
    }
}

impl Ports {
    fn range(&self) -> RangeInclusive<u16> {
        self.min_streamer_port..=self.max_streamer_port
    }

    fn deserialize<'de, D: serde::Deserializer<'de>>(
        from: D,
    ) -> Result<RangeInclusive<u16>, D::Error> {
        <Self as Deserialize>::deserialize(from).map(|ports| ports.range())
    }

    fn serialize<S: serde::Serializer>(
        range: &RangeInclusive<u16>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let ports = Self {
            min_streamer_port: *range.start(),
            max_streamer_port: *range.end(),
        };
        Serialize::serialize(&ports, to)
    }
}

/// How the ServiceLocator is used.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct LocatorConfig {
    /// Where it is.
    #[serde(rename = "locatorAddress", with = "Address")]
    pub address: Endpoint,
    /// Its key, if it is not ours and has CURVE.
    #[serde(rename = "locatorServerKey", with = "OptionalKey")]
    pub server_key: Option<PublicKey>,
    /// Run one in this process, at that address. Who says where one is, but not this, means one that is
    /// there.
    #[serde(rename = "embeddedLocator", with = "Truth")]
    pub embedded: bool,
    /// Register with it.
    #[serde(rename = "locatorRegister", with = "Truth")]
    pub register: bool,
    /// Our name there.
    #[serde(rename = "locatorServiceName", with = "Name")]
    pub service_name: ServiceName,
    /// How long a registration lives; it is refreshed at a third of that.
    #[serde(rename = "locatorTtl", with = "Seconds::<100, DAY>")]
    pub ttl: Duration,
    /// The numbers of its tokens.
    #[serde(rename = "locatorTokens", with = "TokensSchema")]
    pub tokens: LocatorTokens,
}

#[derive(Deserialize, Serialize)]
#[serde(
    remote = "LocatorTokens",
    default = "LocatorTokens::default",
    deny_unknown_fields
)]
struct TokensSchema {
    #[serde(with = "TokenNumber")]
    register: Token,
    #[serde(with = "TokenNumber")]
    locate: Token,
    #[serde(with = "TokenNumber")]
    unregister: Token,
    #[serde(with = "TokenNumber")]
    list: Token,
}

/// How the startup guard behaves.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct GuardConfig {
    /// Whether to wait at all.
    #[serde(rename = "startupGuard", with = "Truth")]
    pub enabled: bool,
    /// How long.
    #[serde(rename = "startupGuardTimeout", with = "Seconds::<0, DAY>")]
    pub timeout: Duration,
    /// What then.
    #[serde(
        rename = "startupGuardTimeoutAction",
        with = "Word::<GuardTimeoutAction>"
    )]
    pub on_timeout: GuardTimeoutAction,
}

impl GuardConfig {
    /// Between two looks: two seconds, or a tenth of its time if that is less.
    pub fn interval(&self) -> Duration {
        (self.timeout / 10).min(Duration::from_secs(2))
    }
}

/// The diagnostic monitor: one structured log record per interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct DiagnosticConfig {
    /// Whether there is one.
    #[serde(rename = "diagnosticMonitor", with = "Truth")]
    pub enabled: bool,
    /// Between two records.
    #[serde(rename = "diagnosticInterval", with = "Seconds::<100, { 30 * DAY }>")]
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

impl Words for GuardTimeoutAction {
    const WORDS: &'static [(&'static str, Self)] =
        &[("exit", Self::Exit), ("proceed", Self::Proceed)];
}

/// What happens when a subscriber's outbox is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlowSubscriber {
    /// Its oldest events make room.
    DropOldest,
    /// Its connection is closed.
    Disconnect,
}

impl Words for SlowSubscriber {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("drop-oldest", Self::DropOldest),
        ("disconnect", Self::Disconnect),
    ];
}

#[derive(Deserialize, Serialize)]
#[serde(remote = "Limits", default = "Limits::default", deny_unknown_fields)]
struct LimitsSchema {
    #[serde(rename = "maxMessageBytes", with = "Size::<1024>")]
    message_bytes_max: usize,
    #[serde(rename = "maxMessageParts", with = "Size::<4>")]
    message_parts_max: usize,
    #[serde(rename = "maxSubjectBytes", with = "Size::<16>")]
    subject_bytes_max: usize,
    #[serde(skip)]
    handshake_bytes_max: usize,
    #[serde(rename = "maxSubscriptionsPerPeer", with = "Size::<1>")]
    subscriptions_per_peer_max: usize,
}

/// Bounds of what waits, in bytes unless it says events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Budgets {
    /// For each subscriber. When full, [`Config::slow_subscriber`] says what happens.
    #[serde(with = "Size::<1024>")]
    pub subscriber_outbox_bytes: usize,
    /// For what all plain subscribers are subscribed to. Nobody has more of it than it leaves to others.
    #[serde(with = "Size::<1024>")]
    pub subscription_bytes: usize,
    /// For each worker. When full, others get the events.
    #[serde(with = "Size::<1024>")]
    pub worker_outbox_bytes: usize,
    /// For each client of the request socket. When full, no more is read from it.
    #[serde(skip)]
    pub request_outbox_bytes: usize,
    /// For each service, the events that no worker could take, unless its own entry says otherwise.
    /// When full, its policy says what happens.
    #[serde(with = "Size::<1024>")]
    pub service_queue_bytes: usize,
    /// The same in events.
    #[serde(with = "Size::<1>")]
    pub service_queue_events: usize,
}

impl Config {
    /// What is configured for the service of this name.
    pub fn policy_of(&self, name: &ServiceName) -> ServicePolicy {
        self.policy_with(name, None, &ServiceOptions::default())
    }

    /// The same where subscriptions say where the events are to be kept, and more.
    pub fn policy_with(
        &self,
        name: &ServiceName,
        asked: Option<DeliveryMode>,
        options: &ServiceOptions,
    ) -> ServicePolicy {
        let budget = QueueLimits {
            bytes_max: self.budgets.service_queue_bytes,
            events_max: self.budgets.service_queue_events,
        };
        self.services.policy_of(name, asked, options, budget)
    }

    /// The key for which a service is needed that nobody has declared by its subjects alone.
    pub fn needed_for(&self, service: &ServiceName) -> Option<String> {
        if let Some(bridge) = self.bridges.of_service(service) {
            return Some(format!("bridges.{bridge}"));
        }
        let mut served = self.services.served().map(|(name, _)| name);
        let found =
            served.find(|name| *name == service || spool_of(name).as_ref() == Some(service));
        found.map(|name| format!("services.{name}"))
    }

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
            http_token_file: None,
            http_tls_certificate: None,
            http_tls_key: None,
            connect_publishers: Vec::new(),
            mesh: MeshConfig::default(),
            instances: InstancesConfig::default(),
            require_publishers: false,
            pull_address: Endpoint::tcp("*", 0),
            streamer_ports: Ports::default().range(),
            public_hostname: "localhost".into(),
            locator: LocatorConfig::default(),
            startup_guard: GuardConfig::default(),
            diagnostic: DiagnosticConfig::default(),
            subscription_ttl: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(5),
            publish_timeout: Duration::from_secs(30),
            heartbeat_interval: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(5),
            limits: Limits::default(),
            budgets: Budgets::default(),
            security: SecurityConfig::default(),
            connections_max: 0,
            pending_calls_max: 10_000,
            subscriptions_max: 100_000,
            services: Services::default(),
            engines: Engines::default(),
            bridges: Bridges::default(),
            lease: LeaseConfig::default(),
            cluster: ClusterConfig::default(),
            memory_limit: 0,
            slow_subscriber: SlowSubscriber::DropOldest,
            state_dir: PathBuf::from("./data"),
            dedup_window: Duration::from_secs(120),
            dedup_ids_max: 100_000,
            restart_grace: Duration::from_secs(30),
            subscriber_grace: Duration::from_secs(1),
            event_log: EventLogConfig::default(),
            traces: TracesConfig::default(),
            log_path: None,
            log: LogConfig::default(),
        }
    }
}

impl Default for LocatorConfig {
    fn default() -> Self {
        Self {
            address: Endpoint::tcp("localhost", 6000),
            server_key: None,
            embedded: true,
            register: true,
            service_name: service_name("EventManager"),
            ttl: Duration::from_secs(30),
            tokens: LocatorTokens::default(),
        }
    }
}

/// A name that is known to be valid.
#[allow(clippy::expect_used, reason = "only for constants of this crate")]
fn service_name(constant: &str) -> ServiceName {
    ServiceName::new(constant).expect("a valid constant")
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            timeout: Duration::from_secs(60),
            on_timeout: GuardTimeoutAction::Exit,
        }
    }
}

impl Default for DiagnosticConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            interval: Duration::from_secs(1800),
        }
    }
}

impl Default for EventLogConfig {
    fn default() -> Self {
        Self {
            path: None,
            bytes_max: 16 << 20,
            files: 4,
        }
    }
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            subscriber_outbox_bytes: 16 << 20,
            subscription_bytes: 1 << 30,
            worker_outbox_bytes: 1 << 20,
            request_outbox_bytes: 4 << 20,
            service_queue_bytes: 64 << 20,
            service_queue_events: 1_000_000,
        }
    }
}
