//! The daemon as a whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::mesh::Mesh;
use super::{Bridge, Counters, HeldLease, Histogram, Instances, KeptLeases, ServiceStatus};

/// The answer of STATUS.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    /// The name under which the daemon registers (`serviceName`).
    pub service: String,
    /// The daemon's version, as `MAJOR.MINOR.PATCH`.
    pub version: String,
    /// The daemon's process id.
    pub pid: u32,
    /// When this run of the daemon began by the wall clock, in milliseconds since 1970. Counters begin
    /// at zero with it.
    pub started_at_ms: u64,
    /// The wall clock now, in milliseconds since 1970.
    pub wall_clock_ms: u64,
    /// Seconds since the start, by a clock that never jumps.
    pub uptime_seconds: f64,
    /// How many seconds a subscription lives without a KEEP_ALIVE (`subscriptionTtl`).
    pub subscription_ttl_seconds: f64,
    /// Whether the daemon is stopping: it delivers what waits and takes nothing new.
    pub draining: bool,
    /// Where the daemon listens.
    pub addresses: Addresses,
    /// Every service, durable ones without subscriptions too.
    pub services: Vec<ServiceStatus>,
    /// The counters of services that have ended, together.
    pub retired_services: Counters,
    /// Those who send events, and what they sent.
    pub publishers: Publishers,
    /// Other event managers, whose clients' events come here or that get this one's.
    pub mesh: Mesh,
    /// Plain subscribers: SUB sockets, without a service.
    pub subscribers: Subscribers,
    /// Which addresses are open, and what clients have and were denied.
    pub security: Security,
    /// Connections of all kinds but HTTP.
    pub connections: Connections,
    /// What waits in the memory of the process.
    pub memory: Memory,
    /// The queues on disk.
    pub store: Store,
    /// The directory for state (`stateDir`); empty if nothing is kept over a restart.
    pub state_dir: Option<String>,
    /// The database of subscriptions and ports in that directory.
    pub state: StateDatabase,
    /// The export of spans; `None` if it is off (`traces.endpoint`).
    pub traces: Option<Traces>,
    /// The bridges to other brokers (`bridges`).
    pub bridges: Vec<Bridge>,
    /// Instances of other programs that are observed (`instances`).
    pub instances: Instances,
    /// The lease under which the daemon serves, or by which instances of other programs may lead here; `None` if
    /// it holds none.
    pub lease: Option<HeldLease>,
    /// Who keeps the leases of clients; `None` if the daemon does itself.
    pub leases: Option<KeptLeases>,
    /// Requests that wait for services, for the disk or for a time before they are answered
    /// (`maxPendingCalls`).
    pub pending_calls: u64,
    /// Peers that stand out.
    pub peers: Peers,
}

impl Status {
    /// Whether all lists of all services are there to the end.
    pub fn is_whole(&self) -> bool {
        self.services.iter().all(ServiceStatus::is_whole)
    }

    /// The service with this name.
    pub fn service(&self, name: &str) -> Option<&ServiceStatus> {
        self.services.iter().find(|service| service.name == name)
    }

    /// How often connections and messages were refused for this reason.
    pub fn refused(&self, reason: &str) -> u64 {
        self.peers.refused.get(reason).copied().unwrap_or(0)
    }
}

/// Endpoints, as clients on other machines reach them (`publicHostname`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Addresses {
    /// For PUB sockets.
    pub publishers: Vec<String>,
    /// For SUB sockets.
    pub subscribers: Vec<String>,
    /// For requests: REQ and DEALER sockets.
    pub requests: Vec<String>,
    /// For requests to the embedded ServiceLocator; `None` without one (`embeddedLocator`).
    pub locator: Option<String>,
}

/// Which addresses are open, and what clients have and were denied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Security {
    /// Bound addresses that other machines reach while `security` doesn't say who may connect: whoever
    /// has a local address (private, shared, link-local, unique-local) may publish, subscribe and ask
    /// there.
    pub open_listeners: Vec<String>,
    /// Clients that are connected, were denied something or keep something on disk, at most 100: those who
    /// were denied most first, then those with the most connections.
    pub clients: Vec<ClientStatus>,
    /// What was denied to all others together, by what it was.
    pub denied_to_others: BTreeMap<String, u64>,
}

/// A client: whoever has keys with one name, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientStatus {
    /// The name of its keys; `anonymous` are all peers without, `event-manager` the daemon itself and
    /// publishers that it connects to.
    pub name: String,
    /// Its connections.
    pub connections: u64,
    /// Connections beside these that it has hung up, while it wasn't read: what it had sent is read
    /// later.
    pub leaving: u64,
    /// From where, at most 8 of them.
    pub addresses: Vec<String>,
    /// Its connections by mechanism: `null`, `curve`.
    pub mechanisms: BTreeMap<String, u64>,
    /// Its connections by the public key that it was given for the daemon.
    pub server_keys: BTreeMap<String, u64>,
    /// How often it was denied what: events to `publish`, what it may not `subscribe` to, a `service`,
    /// a `request`, a connection (`connect`).
    pub denied: BTreeMap<String, u64>,
    /// Whether it isn't read for now, because it published more than it may per second.
    pub paused: bool,
    /// What its services keep in queues on disk, dead letters and what is on its way there included.
    pub stored_bytes: u64,
}

/// Those who send events, and what they sent. The counters of services are at least as new.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Publishers {
    /// Publishers that are connected, those that the daemon dials too.
    pub connected: u64,
    /// Events that came from publishers and by EMIT.
    pub events: u64,
    /// The bytes of these events.
    pub bytes: u64,
    /// Events from publishers that nobody asked for.
    pub unmatched: u64,
    /// For whom publishers wait after a start; `None` if they don't wait.
    pub held: Option<AwaitedSubscribers>,
    /// The publishers that the daemon connects to (`connectPublishers`).
    pub dialled: Vec<Dialled>,
    /// Whether the daemon is ready only if all of these are connected (`requirePublishers`).
    pub dialled_are_required: bool,
    /// Events by subject.
    pub subjects: Subjects,
    /// How long EMIT took.
    pub emit_seconds: RequestTimes,
    /// How long PUBLISH, which calls services, took.
    pub call_seconds: RequestTimes,
}

/// Subscribers of the run before, for whom publishers wait.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AwaitedSubscribers {
    /// Subscriptions that are not back yet; `None` if it isn't known how many there were.
    pub awaited_subscriptions: Option<u64>,
    /// Seconds until the wait ends, whoever is missing.
    pub seconds_left: f64,
}

/// A publisher that the daemon connects to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Dialled {
    /// Its endpoint, as the configuration has it.
    pub address: String,
    /// Whether it was found by `instances.discover`; such a one is told of only while it is connected.
    pub discovered: bool,
    /// Whether it is connected now.
    pub connected: bool,
    /// The ring of event managers that this connection would close; `None` if there is no ring.
    pub ring: Option<Ring>,
    /// Whether it is linked as a hub of the mesh, too, so that nothing is taken from this connection.
    pub doubled: bool,
    /// Since when it is connected, or is not, in milliseconds since 1970.
    pub since_ms: u64,
    /// Tries that failed since the last connection, or since the start.
    pub failed_tries: u64,
    /// How often it was connected since the start.
    pub connections: u64,
    /// Why the latest try failed, or the latest connection ended; kept when it is connected again.
    pub last_error: Option<String>,
}

/// Event managers that dial each other, so that events would go round for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Ring {
    /// How many event managers are in it; 1 if the daemon dials itself.
    pub daemons: u64,
    /// Whether it is this daemon that breaks it by taking no events from that publisher.
    pub held: bool,
}

/// Events that came, by subject.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Subjects {
    /// The subjects with the most events, at most 16, in no order.
    pub named: Vec<SubjectEvents>,
    /// The events of all other subjects.
    pub other_events: u64,
}

/// The events of one subject.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SubjectEvents {
    /// Its beginning that can be read, at most 64 bytes.
    pub subject: String,
    /// Events that came since it is named here.
    pub events: u64,
}

/// How long requests took, from when they were read until they were answered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RequestTimes {
    /// Those that were answered with ACK.
    pub ack: Histogram,
    /// Those that were answered with NAK.
    pub nak: Histogram,
}

/// Plain subscribers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Subscribers {
    /// Subscribers that are connected.
    pub connected: u64,
    /// Prefixes that they are subscribed to, all together.
    pub subscriptions: u64,
    /// Memory that these prefixes take, in bytes, roughly (`budgets.subscriptionBytes`).
    pub prefix_bytes: u64,
    /// Subscriptions for which publishers would wait after the next start.
    pub remembered: u64,
    /// What waits to be written to them.
    pub outbox: Outboxes,
    /// What became of their events; an event counts once for each subscriber.
    pub counters: Counters,
}

/// What waits to be written to subscribers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Outboxes {
    /// Bytes for all of them.
    pub bytes: u64,
    /// Bytes for the one with the most.
    pub largest_bytes: u64,
    /// The most bytes that waited for one since the start.
    pub peak_bytes: u64,
    /// Bytes that may wait for one (`budgets.subscriberOutboxBytes`).
    pub budget_bytes: u64,
}

/// Connections of all kinds but HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Connections {
    /// How many are open, handshakes that are not done included.
    pub open: u64,
    /// Of the open ones, those that peers began and whose handshake isn't done, or was refused a moment ago.
    pub unfinished: u64,
    /// How many may be open (`maxConnections`, or what the file descriptors allow).
    pub max: u64,
    /// File descriptors that the process may open; `None` if the system doesn't tell.
    pub fds_max: Option<u64>,
    /// Of the open ones, clients of the request socket.
    pub requesters: u64,
    /// Bytes that wait to be written to all peers.
    pub outbox_bytes: u64,
}

/// What waits in the memory of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Memory {
    /// Bytes in all outboxes and queues, and of messages that are received in part.
    pub waiting_bytes: u64,
    /// Of those, the bytes of messages that are received in part.
    pub half_received_bytes: u64,
    /// Bytes that may wait (`memoryLimit`); 0 is no limit.
    pub limit_bytes: u64,
}

/// The queues on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Store {
    /// Whether there are any: false without `stateDir`, or if it can't be used.
    pub kept: bool,
    /// Bytes that wait to be written, dead letters included.
    pub waiting_bytes: u64,
    /// Queues that take no events, with the reason; those of dead letters are named `SERVICE.DLQ`.
    pub failed: BTreeMap<String, String>,
}

/// The database of subscriptions and ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StateDatabase {
    /// Whether it is used: false without `stateDir`, or if it can't be used.
    pub kept: bool,
    /// Whether all that is to be kept is on disk.
    pub written: bool,
    /// Whether the last write failed; it is tried again.
    pub failing: bool,
}

/// What became of spans, and of the trace contexts of events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Traces {
    /// Spans that the collector took.
    pub exported: u64,
    /// Spans for which there was no room, or no time at the end.
    pub dropped: u64,
    /// Spans that the collector refused.
    pub refused: u64,
    /// Events whose `traceparent` could not be read.
    pub malformed: u64,
}

/// Peers that stand out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Peers {
    /// How often connections and messages were refused, by reason (EM-0602 in docs/events.md).
    pub refused: BTreeMap<String, u64>,
    /// Hosts that are refused for the same reason again and again, at most 20, the most frequent first.
    pub refused_again: Vec<RefusedAgain>,
    /// Peers for whom more than half of their budget waits, at most 20, those with the most bytes first.
    pub slow: Vec<SlowPeer>,
    /// Which versions of ZMTP are spoken.
    pub zmtp: ZmtpVersions,
    /// Peers whose handshake is done, by security mechanism (`null`, `curve`).
    pub mechanisms: BTreeMap<String, u64>,
}

/// A host that is refused again and again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RefusedAgain {
    /// Its IP address; of an IPC peer, the socket's path.
    pub host: String,
    /// The reason, as a word.
    pub reason: String,
    /// How often, with less than a minute between two times.
    pub times: u64,
    /// Seconds since the first of these times.
    pub seconds: f64,
    /// The latest refusal as a sentence, with the limit that it names.
    pub why: String,
}

/// A peer that reads more slowly than it is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SlowPeer {
    /// Where it connects from.
    pub address: String,
    /// `subscriber`, `worker` or `requester`.
    pub role: String,
    /// The service of a worker.
    pub service: Option<String>,
    /// Bytes that wait for it.
    pub bytes: u64,
    /// Bytes that may wait for it.
    pub budget_bytes: u64,
}

/// Which versions of ZMTP peers speak.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ZmtpVersions {
    /// Peers whose handshake is done, by version (`3.1`).
    pub versions: BTreeMap<String, u64>,
    /// Peers of before 3.0, at most 64.
    pub old: Vec<OldPeer>,
}

/// A peer that speaks ZMTP 2.0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OldPeer {
    /// Where it connects from, or the address that is dialled.
    pub address: String,
    /// `publisher`, `subscriber`, `worker` or `requester`.
    pub role: String,
    /// The service of a worker.
    pub service: Option<String>,
    /// The type that it says its socket has (`SUB`).
    pub socket_type: String,
    /// Its routing id, as text with escapes.
    pub identity: String,
}
