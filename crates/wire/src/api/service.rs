//! One service: its workers, what waits for them, and what became of its events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A service, with all its subscriptions and workers together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceStatus {
    /// The name that its subscriptions give, unique in the daemon.
    pub name: String,
    /// The TCP port to which its workers connect; `None` while none is free.
    pub port: Option<u16>,
    /// The endpoint to which its workers connect, with that port.
    pub address: Option<String>,
    /// Why it has no port; `None` if it has one, or needs none yet.
    pub no_port: Option<String>,
    /// The patterns that it receives, as subscriptions write them: those of all its subscriptions, and
    /// those that the configuration or a durable queue keeps without one. In `/stats` the first 16, of all services together 2500.
    pub subjects: Vec<String>,
    /// How many patterns these are.
    pub subject_count: u64,
    /// The subject under which its dead letters are published.
    pub dead_letter_subject: String,
    /// The subscriptions that have not expired. In `/stats` the first 16 by their ids, as far as there is room; `/subscriptions`
    /// has all.
    pub subscriptions: Vec<Subscription>,
    /// How many subscriptions these are.
    pub subscription_count: u64,
    /// Its worker connections.
    pub workers: Workers,
    /// The events that wait in memory for a worker.
    pub queue: Queue,
    /// The time from handing an event to a worker that acknowledges until its ACK.
    pub consume_seconds: Histogram,
    /// The events that acknowledging workers have and have not answered.
    pub held: Held,
    /// Its queue on disk; `None` if it is not durable.
    pub durable: Option<Durable>,
    /// Which events could go to which workers now.
    pub dispatch: Dispatch,
    /// What became of its events since the daemon started.
    pub counters: Counters,
}

/// A part of the subscriptions of a service: the answer of `/subscriptions`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Subscriptions {
    /// Whose they are.
    pub service: String,
    /// The subscriptions, by their ids.
    pub subscriptions: Vec<Subscription>,
    /// The `after` of the next part; `None` if there are no more.
    pub next: Option<String>,
}

/// A subscription of a service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Subscription {
    /// The id that SUBSCRIBE answered.
    pub id: String,
    /// The patterns that it asked for.
    pub subjects: Vec<String>,
    /// Seconds until it ends without a KEEP_ALIVE.
    pub expires_in_seconds: f64,
}

/// How many workers a service has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Workers {
    /// Open connections to its port, whether or not they said READY.
    pub connected: u64,
    /// Of those, the ones that said READY and not BYE since.
    pub ready: u64,
    /// Of the ready ones, those that get nothing because they don't read what they were sent.
    pub stalled: u64,
    /// Those that said in their READY who they are, at most 32, in no order.
    pub named: Vec<NamedWorker>,
}

/// A worker that said who it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NamedWorker {
    /// What its user calls it, at most 64 bytes of it.
    pub name: Option<String>,
    /// Its client library and the version, at most 64 bytes of it.
    pub client: Option<String>,
    /// Where it connects from; of a worker behind a proxy, where the proxy does.
    pub address: String,
    /// Whether it said READY and not BYE since.
    pub ready: bool,
    /// The most events that it holds unanswered; `None` if it doesn't acknowledge.
    pub credit: Option<u32>,
    /// Events that it holds unanswered; 0 if it doesn't acknowledge.
    pub held_events: u64,
}

impl ServiceStatus {
    /// Whether its subjects and subscriptions are there to the end. Daemons of before tell no numbers, and all.
    pub fn is_whole(&self) -> bool {
        let has = |list: usize, count: u64| list as u64 >= count;
        has(self.subjects.len(), self.subject_count)
            && has(self.subscriptions.len(), self.subscription_count)
    }
}

impl NamedWorker {
    /// What people call it: its name, or else its client.
    pub fn label(&self) -> &str {
        let label = self.name.as_deref().or(self.client.as_deref());
        label.unwrap_or_default()
    }
}

/// The queue of a service in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Queue {
    /// Events that wait in memory. A durable service may have more on disk.
    pub events: u64,
    /// The bytes of these events.
    pub bytes: u64,
    /// The most bytes that may wait in memory (`queueBytes`).
    pub budget_bytes: u64,
    /// The most events that may wait in memory (`queueEvents`).
    pub budget_events: u64,
}

/// Durations by bucket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Histogram {
    /// How many took at most 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500 ms, 1, 2.5, 5, 10, 30,
    /// 60 s and longer than the bucket before; the last one counts all that took longer.
    pub counts: Vec<u64>,
    /// All of them together, in seconds.
    pub sum: f64,
}

/// What acknowledging workers have in hand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Held {
    /// Events without an ACK, NAK or TERM.
    pub events: u64,
    /// The bytes of these events.
    pub bytes: u64,
}

/// The queue of a durable service on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Durable {
    /// Whether it takes and gives events.
    pub state: QueueState,
    /// The error, if it is failed or unreadable.
    pub reason: Option<String>,
    /// What made the service durable.
    pub because: DurableReason,
    /// Events that are not synced to disk yet.
    pub pending_events: u64,
    /// Events that wait on disk and are not in memory.
    pub on_disk_only_events: u64,
    /// What its events take on disk until they are done with, those on their way there included.
    pub bytes: u64,
    /// The most of that (`retention.maxBytes`): beyond it the oldest events are dropped.
    pub retention_bytes: u64,
}

/// The state of a queue on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueueState {
    /// It takes and gives events.
    Ok,
    /// The daemon has just started: what the queue holds is not counted yet.
    Opening,
    /// It can't be written and takes no events; the daemon tries again by itself.
    Failed,
    /// It can't be read, so its events wait; the daemon tries again by itself.
    Unreadable,
    /// A state that this version doesn't know.
    #[default]
    #[serde(other)]
    Unknown,
}

/// What made a service durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DurableReason {
    /// A subscription asked for it.
    Subscribed,
    /// The configuration says so (`services`).
    Configured,
    /// Neither does any more: its queue is still on disk.
    OnDisk,
    /// A reason that this version doesn't know.
    #[default]
    #[serde(other)]
    Unknown,
}

/// What of a service could be given out now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Dispatch {
    /// Waiting events that a worker could get now: not delayed, and not behind one of the same subject.
    pub due_events: u64,
    /// Workers that could take an event now.
    pub free_workers: u64,
    /// Whether events must wait until the disk has answered.
    pub waits_for_disk: bool,
    /// For how many milliseconds events were due, a worker was free and none was given out; `None` below
    /// three seconds.
    pub stuck_ms: Option<u64>,
}

/// What became of events. At every moment matched = delivered + queued + in flight + dead-lettered +
/// expired + dropped + returned. All but those queued and in flight only rise while the daemon runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Counters {
    /// Events that a pattern asked for.
    pub matched: u64,
    /// Events that are written to a receiver's socket; acknowledged, if the worker acknowledges.
    pub delivered: u64,
    /// Events that wait now, in memory or on disk.
    pub queued: u64,
    /// Events that are in outboxes or unanswered by acknowledging workers now.
    pub in_flight: u64,
    /// Events that no worker could process.
    pub dead_lettered: u64,
    /// Events that became too old (`ttl`) before a worker had processed them.
    pub expired: u64,
    /// Events that were given up, by reason (`queue-full`, `slow-subscriber`, …; docs/protocol.md);
    /// reasons that did not occur are not there.
    pub dropped: BTreeMap<String, u64>,
    /// Events that went back to the engine that has the service's queue, for others (`"delivery": "engine"`).
    pub returned: u64,
    /// Of the delivered events, those that a worker had when it left, so that they may not be processed.
    pub unconfirmed: u64,
    /// Deliveries that failed and will be, or were, tried again.
    pub retries: u64,
    /// Deliveries of events that had been delivered before.
    pub redelivered: u64,
    /// Dead letters that could not be saved.
    pub letters_lost: u64,
}

impl Counters {
    /// All events that were given up, for whatever reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// The events that were given up for this reason.
    pub fn dropped_for(&self, reason: &str) -> u64 {
        self.dropped.get(reason).copied().unwrap_or(0)
    }
}
