//! The table of keys.

use std::time::Duration;

use serde_json::{Value, json};

use super::services::{Services, Wrong};
use super::values::{self, Words};
use super::{Config, GuardTimeoutAction, SlowSubscriber, traces};
use crate::model::Endpoint;

/// One key of the configuration.
pub struct Key {
    /// Its name in `config.json`; a dot leads into an object.
    pub name: &'static str,
    /// Its environment variable.
    pub env: &'static str,
    /// What it means, for `check` and the documentation.
    pub about: &'static str,
    /// Reads a value; an error says what is allowed.
    pub(super) set: fn(&mut Config, &Value) -> Result<(), Refused>,
    /// The value in force.
    pub show: fn(&Config) -> Value,
    /// SIGHUP puts another value in force; else that needs a restart.
    pub is_live: bool,
}

impl Key {
    const fn live(self) -> Self {
        Self {
            is_live: true,
            ..self
        }
    }
}

/// Why a value was refused.
#[derive(Debug)]
pub(super) enum Refused {
    /// What is allowed instead.
    Wanted(String),
    /// What is wrong inside it.
    Inside(Vec<Wrong>),
}

impl From<String> for Refused {
    fn from(wanted: String) -> Self {
        Self::Wanted(wanted)
    }
}

const fn key(
    name: &'static str,
    env: &'static str,
    about: &'static str,
    set: fn(&mut Config, &Value) -> Result<(), Refused>,
    show: fn(&Config) -> Value,
) -> Key {
    Key {
        name,
        env,
        about,
        set,
        show,
        is_live: false,
    }
}

fn shown(endpoints: &[Endpoint]) -> Value {
    match endpoints {
        // In a text, a comma separates two addresses; only a socket's path can have one.
        [one] if !one.to_string().contains(',') => json!(one.to_string()),
        all => json!(all.iter().map(ToString::to_string).collect::<Vec<_>>()),
    }
}

fn shown_without_port(endpoint: &Endpoint) -> Value {
    let text = endpoint.to_string();
    match endpoint.port() {
        Some(0) => json!(text.trim_end_matches(":0")),
        _ => json!(text),
    }
}

fn shown_http_address(endpoint: Option<&Endpoint>) -> Value {
    match endpoint {
        Some(endpoint) => json!(endpoint.to_string().trim_start_matches("tcp://")),
        None => json!("off"),
    }
}

pub(super) fn secs(duration: Duration) -> Value {
    shown_decimal(duration.as_secs_f64())
}

/// A number that isn't negative, without a fraction if it has none.
pub(super) fn shown_decimal(number: f64) -> Value {
    if number.fract() == 0.0 {
        json!(number as u64)
    } else {
        json!(number)
    }
}

/// A day: the longest of all times.
pub(super) const DAY: f64 = 86_400.0;
/// The longest heartbeat: its time to live goes over the wire in 16 bits of deciseconds.
const HEARTBEAT_MAX: f64 = 1_000.0;
/// The largest of all sizes.
pub(super) const SIZE_MAX: usize = 1 << 40;

const GUARD_ACTIONS: &Words<GuardTimeoutAction> = &[
    ("exit", GuardTimeoutAction::Exit),
    ("proceed", GuardTimeoutAction::Proceed),
];

const SLOW_SUBSCRIBER: &Words<SlowSubscriber> = &[
    ("drop-oldest", SlowSubscriber::DropOldest),
    ("disconnect", SlowSubscriber::Disconnect),
];

/// A value of this type is read into this place.
macro_rules! set {
    ($($place:ident).+ = $read:expr) => {
        |config, value| {
            config.$($place).+ = $read(value)?;
            Ok(())
        }
    };
}

macro_rules! size {
    ($($place:ident).+, $min:expr) => {
        set!($($place).+ = |value| values::number(value, $min..=SIZE_MAX))
    };
}

macro_rules! time {
    ($($place:ident).+, $min:expr, $max:expr) => {
        set!($($place).+ = |value| values::seconds(value, $min..=$max))
    };
}

fn set_ports(config: &mut Config, min: Option<u16>, max: Option<u16>) {
    let min = min.unwrap_or(*config.streamer_ports.start());
    let max = max.unwrap_or(*config.streamer_ports.end());
    config.streamer_ports = min..=max;
}

/// All keys. The documentation lists them in this order.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("pubAddress", "EVENT_MANAGER_PUB_ADDRESS", "publishers connect here; one address or a list",
        set!(pub_addresses = values::some_endpoints), |c| shown(&c.pub_addresses)),
    key("subAddress", "EVENT_MANAGER_SUB_ADDRESS", "subscribers connect here; one address or a list",
        set!(sub_addresses = values::some_endpoints), |c| shown(&c.sub_addresses)),
    key("requestAddress", "EVENT_MANAGER_REQUEST_ADDRESS", "requests come in here; one address or a list",
        set!(request_addresses = values::some_endpoints), |c| shown(&c.request_addresses)),
    key("httpAddress", "EVENT_MANAGER_HTTP_ADDRESS", "health, metrics and the dashboard are served here over HTTP; off serves none",
        set!(http_address = values::http_address), |c| shown_http_address(c.http_address.as_ref())),
    key("httpHosts", "EVENT_MANAGER_HTTP_HOSTS", "names, beside publicHostname, by which HTTP may be asked: NAME, *.DOMAIN, or * for any",
        set!(http_hosts = values::http_hosts), |c| json!(c.http_hosts)),
    key("connectPublishers", "EVENT_MANAGER_CONNECT_PUBLISHERS", "publishers that bind: the daemon connects to them",
        set!(connect_publishers = values::endpoints), |c| json!(c.connect_publishers.iter().map(ToString::to_string).collect::<Vec<_>>())),
    key("requirePublishers", "EVENT_MANAGER_REQUIRE_PUBLISHERS", "the daemon is ready only while all of connectPublishers are connected",
        set!(require_publishers = values::boolean), |c| json!(c.require_publishers)).live(),
    key("pullAddress", "EVENT_MANAGER_PULL_ADDRESS", "services' sockets bind here, on ports of the range",
        set!(pull_address = values::endpoint_without_port), |c| shown_without_port(&c.pull_address)),
    key("minStreamerPort", "EVENT_MANAGER_MIN_STREAMER_PORT", "first port for services; 0 (with maxStreamerPort 0) lets the system choose each",
        |c, v| { set_ports(c, Some(values::number(v, 0..=65535)?), None); Ok(()) }, |c| json!(c.streamer_ports.start())),
    key("maxStreamerPort", "EVENT_MANAGER_MAX_STREAMER_PORT", "last port for services; ports in use are skipped",
        |c, v| { set_ports(c, None, Some(values::number(v, 0..=65535)?)); Ok(()) }, |c| json!(c.streamer_ports.end())),
    key("publicHostname", "PUBLIC_HOSTNAME", "host in the addresses that clients are given",
        set!(public_hostname = values::hostname), |c| json!(c.public_hostname)),
    key("locatorAddress", "SERVICE_LOCATOR_ADDRESS", "where the ServiceLocator is",
        set!(locator.address = values::endpoint), |c| json!(c.locator.address.to_string())),
    key("embeddedLocator", "EVENT_MANAGER_EMBEDDED_LOCATOR", "run a ServiceLocator in the daemon, at locatorAddress; if that is taken, the one that runs there is used",
        set!(locator.embedded = values::boolean), |c| json!(c.locator.embedded)),
    key("locatorRegister", "EVENT_MANAGER_LOCATOR_REGISTER", "register with the ServiceLocator",
        set!(locator.register = values::boolean), |c| json!(c.locator.register)),
    key("locatorServiceName", "EVENT_MANAGER_LOCATOR_SERVICE_NAME", "the daemon's name at the ServiceLocator",
        set!(locator.service_name = values::service), |c| json!(c.locator.service_name.as_str())),
    key("locatorTtl", "EVENT_MANAGER_LOCATOR_TTL", "seconds that a registration lives; it is refreshed at a third of that",
        time!(locator.ttl, 0.1, DAY), |c| secs(c.locator.ttl)),
    key("locatorTokens.register", "EVENT_MANAGER_LOCATOR_TOKENS__REGISTER", "token number of the locator's REGISTER",
        set!(locator.tokens.register = values::token), |c| json!(format!("{:#010x}", c.locator.tokens.register.value()))),
    key("locatorTokens.locate", "EVENT_MANAGER_LOCATOR_TOKENS__LOCATE", "token number of the locator's LOCATE",
        set!(locator.tokens.locate = values::token), |c| json!(format!("{:#010x}", c.locator.tokens.locate.value()))),
    key("locatorTokens.unregister", "EVENT_MANAGER_LOCATOR_TOKENS__UNREGISTER", "token number of the locator's UNREGISTER",
        set!(locator.tokens.unregister = values::token), |c| json!(format!("{:#010x}", c.locator.tokens.unregister.value()))),
    key("locatorTokens.list", "EVENT_MANAGER_LOCATOR_TOKENS__LIST", "token number of the locator's LIST",
        set!(locator.tokens.list = values::token), |c| json!(format!("{:#010x}", c.locator.tokens.list.value()))),
    key("startupGuard", "STARTUP_GUARD", "before binding, wait until a predecessor that the locator knows is gone",
        set!(startup_guard.enabled = values::boolean), |c| json!(c.startup_guard.enabled)),
    key("startupGuardTimeout", "EVENT_MANAGER_STARTUP_GUARD_TIMEOUT", "seconds that the guard waits at most",
        time!(startup_guard.timeout, 0.0, DAY), |c| secs(c.startup_guard.timeout)),
    key("startupGuardInterval", "EVENT_MANAGER_STARTUP_GUARD_INTERVAL", "seconds between two looks of the guard",
        time!(startup_guard.interval, 0.01, DAY), |c| secs(c.startup_guard.interval)),
    key("startupGuardTimeoutAction", "EVENT_MANAGER_STARTUP_GUARD_TIMEOUT_ACTION", "when the guard's time is up: exit (code 75) or proceed",
        set!(startup_guard.on_timeout = |value| values::word(value, GUARD_ACTIONS)),
        |c| values::shown_word(&c.startup_guard.on_timeout, GUARD_ACTIONS)),
    key("diagnosticMonitor", "DIAGNOSTIC_MONITOR", "write a diagnostic record to the log at each diagnosticInterval",
        set!(diagnostic.enabled = values::boolean), |c| json!(c.diagnostic.enabled)).live(),
    key("diagnosticInterval", "DIAGNOSTIC_INTERVAL", "seconds between diagnostic records",
        time!(diagnostic.interval, 0.1, 30.0 * DAY), |c| secs(c.diagnostic.interval)).live(),
    key("subscriptionTtl", "EVENT_MANAGER_SUBSCRIPTION_TTL", "seconds that a subscription lives without a keep-alive",
        time!(subscription_ttl, 0.1, 30.0 * DAY), |c| secs(c.subscription_ttl)).live(),
    key("drainTimeout", "EVENT_MANAGER_DRAIN_TIMEOUT", "seconds that stopping may take",
        time!(drain_timeout, 0.0, DAY), |c| secs(c.drain_timeout)).live(),
    key("publishTimeout", "EVENT_MANAGER_PUBLISH_TIMEOUT", "seconds that a sync event waits for answers, unless it says otherwise",
        time!(publish_timeout, 0.01, DAY), |c| secs(c.publish_timeout)).live(),
    key("heartbeatInterval", "EVENT_MANAGER_HEARTBEAT_INTERVAL", "seconds of silence after which a peer gets a PING, at three of which it is dead; 0 turns it off",
        time!(heartbeat_interval, 0.0, HEARTBEAT_MAX), |c| secs(c.heartbeat_interval)).live(),
    key("handshakeTimeout", "EVENT_MANAGER_HANDSHAKE_TIMEOUT", "seconds that a connection may take for its handshake",
        time!(handshake_timeout, 0.05, 600.0), |c| secs(c.handshake_timeout)).live(),
    key("limits.maxMessageBytes", "EVENT_MANAGER_LIMITS__MAX_MESSAGE_BYTES", "largest message, all frames together",
        size!(limits.message_bytes_max, 1024), |c| json!(c.limits.message_bytes_max)).live(),
    key("limits.maxMessageParts", "EVENT_MANAGER_LIMITS__MAX_MESSAGE_PARTS", "most frames of a message",
        size!(limits.message_parts_max, 4), |c| json!(c.limits.message_parts_max)).live(),
    key("limits.maxSubjectBytes", "EVENT_MANAGER_LIMITS__MAX_SUBJECT_BYTES", "longest subject of a subscription",
        size!(limits.subject_bytes_max, 16), |c| json!(c.limits.subject_bytes_max)).live(),
    key("limits.maxHandshakeBytes", "EVENT_MANAGER_LIMITS__MAX_HANDSHAKE_BYTES", "most bytes of a command in a handshake",
        size!(limits.handshake_bytes_max, 512), |c| json!(c.limits.handshake_bytes_max)).live(),
    key("limits.maxSubscriptionsPerPeer", "EVENT_MANAGER_LIMITS__MAX_SUBSCRIPTIONS_PER_PEER", "most prefixes of a subscriber, and subjects of a service",
        size!(limits.subscriptions_per_peer_max, 1), |c| json!(c.limits.subscriptions_per_peer_max)).live(),
    key("budgets.subscriberOutboxBytes", "EVENT_MANAGER_BUDGETS__SUBSCRIBER_OUTBOX_BYTES", "what may wait for one subscriber; then slowSubscriber says what happens",
        size!(budgets.subscriber_outbox_bytes, 1024), |c| json!(c.budgets.subscriber_outbox_bytes)).live(),
    key("budgets.workerOutboxBytes", "EVENT_MANAGER_BUDGETS__WORKER_OUTBOX_BYTES", "what may wait for one worker; then it is passed over",
        size!(budgets.worker_outbox_bytes, 1024), |c| json!(c.budgets.worker_outbox_bytes)).live(),
    key("budgets.requestOutboxBytes", "EVENT_MANAGER_BUDGETS__REQUEST_OUTBOX_BYTES", "what may wait for one client of the request socket; then no more is read from it",
        size!(budgets.request_outbox_bytes, 1024), |c| json!(c.budgets.request_outbox_bytes)).live(),
    key("budgets.serviceQueueBytes", "EVENT_MANAGER_BUDGETS__SERVICE_QUEUE_BYTES", "what may wait for one service's workers, unless services says otherwise; then whenFull says what happens",
        size!(budgets.service_queue_bytes, 1024), |c| json!(c.budgets.service_queue_bytes)).live(),
    key("budgets.serviceQueueEvents", "EVENT_MANAGER_BUDGETS__SERVICE_QUEUE_EVENTS", "the same, in events",
        size!(budgets.service_queue_events, 1), |c| json!(c.budgets.service_queue_events)).live(),
    key("maxConnections", "EVENT_MANAGER_MAX_CONNECTIONS", "most connections; 0 derives it from the limit on file descriptors",
        size!(connections_max, 0), |c| json!(c.connections_max)).live(),
    key("maxPendingCalls", "EVENT_MANAGER_MAX_PENDING_CALLS", "most sync events that wait for answers",
        size!(pending_calls_max, 1), |c| json!(c.pending_calls_max)),
    key("maxSubscriptions", "EVENT_MANAGER_MAX_SUBSCRIPTIONS", "most subscriptions of services",
        size!(subscriptions_max, 1), |c| json!(c.subscriptions_max)).live(),
    key("services", "EVENT_MANAGER_SERVICES", "what is different for single services, by name or glob; an object",
        set!(services = Services::read), |c| c.services.show()).live(),
    key("memoryLimit", "EVENT_MANAGER_MEMORY_LIMIT", "bytes that may wait in the whole process; 0 sets no limit beyond the single budgets",
        size!(memory_limit, 0), |c| json!(c.memory_limit)).live(),
    key("slowSubscriber", "EVENT_MANAGER_SLOW_SUBSCRIBER", "when a subscriber's outbox is full: drop-oldest or disconnect",
        set!(slow_subscriber = |value| values::word(value, SLOW_SUBSCRIBER)), |c| values::shown_word(&c.slow_subscriber, SLOW_SUBSCRIBER)).live(),
    key("stateDir", "EVENT_MANAGER_STATE_DIR", "directory of all that outlives the process",
        |c, v| { c.state_dir = values::text(v)?.into(); Ok(()) }, |c| json!(c.state_dir)),
    key("dedupWindow", "EVENT_MANAGER_DEDUP_WINDOW", "seconds for which the id of a confirmed event is remembered, so that it is accepted once",
        time!(dedup_window, 0.0, DAY), |c| secs(c.dedup_window)).live(),
    key("dedupIdsMax", "EVENT_MANAGER_DEDUP_IDS_MAX", "most ids that are remembered",
        size!(dedup_ids_max, 1), |c| json!(c.dedup_ids_max)).live(),
    key("restartGrace", "EVENT_MANAGER_RESTART_GRACE", "seconds that subscriptions kept over a restart live at least",
        time!(restart_grace, 0.0, DAY), |c| secs(c.restart_grace)),
    key("subscriberGrace", "EVENT_MANAGER_SUBSCRIBER_GRACE", "seconds after a start for which publishers wait at most until the subscribers of the run before are back",
        time!(subscriber_grace, 0.0, 60.0), |c| secs(c.subscriber_grace)),
    key("eventLog.path", "EVENT_MANAGER_EVENT_LOG__PATH", "file of the event log; without it, events.jsonl in stateDir",
        |c, v| { c.event_log.path = values::optional_text(v)?.map(Into::into); Ok(()) }, |c| json!(c.event_log.path)),
    key("eventLog.maxBytes", "EVENT_MANAGER_EVENT_LOG__MAX_BYTES", "size at which a new file of the event log is begun",
        size!(event_log.bytes_max, 4096), |c| json!(c.event_log.bytes_max)),
    key("eventLog.files", "EVENT_MANAGER_EVENT_LOG__FILES", "files of the event log that are kept, with the one that is written",
        set!(event_log.files = |value| values::number(value, 1..=1000)), |c| json!(c.event_log.files)),
    key("traces.endpoint", "EVENT_MANAGER_TRACES__ENDPOINT", "collector of spans, by OTLP over HTTP; off makes none; needs the cargo feature traces",
        set!(traces.endpoint = traces::endpoint), |c| traces::shown_endpoint(c.traces.endpoint.as_ref())),
    key("traces.traceparent", "EVENT_MANAGER_TRACES__TRACEPARENT", "where events carry their traceparent: header:N, json:FIELD or off; needs the cargo feature traces",
        set!(traces.traceparent = traces::carrier), |c| traces::shown_carrier(c.traces.traceparent.as_ref())),
    key("logPath", "LOG_PATH", "file of the log configuration; without it, \"log\" in config.json",
        |c, v| { c.log_path = values::optional_text(v)?.map(Into::into); Ok(()) }, |c| json!(c.log_path)).live(),
];
