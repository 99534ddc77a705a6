//! Where each event went. At every moment, for each service and for the subscribers' side:
//! `matched = delivered + queued + in flight + dead-lettered + expired + dropped`, by reason. A service whose
//! queue is another broker's has matched what it took from there, and what went back is a part of its own.

use std::fmt;

/// Why an event was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    /// The service's queue was full; the oldest events made room.
    QueueFull,
    /// A subscriber read too slowly; the oldest events made room.
    SlowSubscriber,
    /// A subscriber left before it had read what was meant for it.
    SubscriberLost,
    /// The service's last subscription ended while events waited.
    ServiceEnded,
    /// The event is larger than the queue that it should wait in.
    TooLarge,
    /// A durable queue was larger than it may be; the oldest events made room.
    RetentionBytes,
    /// It waited in a durable queue for longer than it may.
    RetentionAge,
    /// Its record in a durable queue was damaged.
    Damaged,
    /// The durable queue that it should wait in took nothing: the disk was full, or failed.
    StoreFailed,
    /// All that waits together was more than the limit of the process; the largest made room.
    MemoryLimit,
    /// The services of its client kept as much on disk as that may.
    Quota,
}

impl DropReason {
    /// All reasons, in the order of their counters.
    pub const ALL: [Self; 11] = [
        Self::QueueFull,
        Self::SlowSubscriber,
        Self::SubscriberLost,
        Self::ServiceEnded,
        Self::TooLarge,
        Self::RetentionBytes,
        Self::RetentionAge,
        Self::Damaged,
        Self::StoreFailed,
        Self::MemoryLimit,
        Self::Quota,
    ];

    /// The name in reports and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::SlowSubscriber => "slow-subscriber",
            Self::SubscriberLost => "subscriber-lost",
            Self::ServiceEnded => "service-ended",
            Self::TooLarge => "too-large",
            Self::RetentionBytes => "retention-bytes",
            Self::RetentionAge => "retention-age",
            Self::Damaged => "damaged",
            Self::StoreFailed => "store-failed",
            Self::MemoryLimit => "memory-limit",
            Self::Quota => "quota",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Counts by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped([u64; DropReason::ALL.len()]);

impl Dropped {
    /// Counts events.
    pub fn add(&mut self, reason: DropReason, events: u64) {
        self.0[reason as usize] += events;
    }

    /// The reasons that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL
            .into_iter()
            .zip(self.0)
            .filter(|(_, events)| *events > 0)
    }

    /// Adds another count to this one.
    pub fn merge(&mut self, other: &Self) {
        self.0
            .iter_mut()
            .zip(other.0)
            .for_each(|(count, more)| *count += more);
    }

    /// What came to these counts after `before` was copied from them.
    pub fn since(&self, before: &Self) -> Self {
        let mut counts = self.0;
        counts
            .iter_mut()
            .zip(before.0)
            .for_each(|(count, before)| *count -= before);
        Self(counts)
    }

    /// The sum over all reasons.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// The books of one service, or of the subscribers' side (which counts an event once per
/// subscriber). All in events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// Events that a pattern asked for.
    pub matched: u64,
    /// Written to a receiver's socket whole; for a worker that acknowledges: acknowledged.
    pub delivered: u64,
    /// In the outbox of a receiver that doesn't acknowledge. What others hold their backlog counts.
    pub in_flight: u64,
    /// No worker could do them.
    pub dead_lettered: u64,
    /// Too old before a worker did them.
    pub expired: u64,
    /// Given up.
    pub dropped: Dropped,
    /// Taken from another broker, and given back to it.
    pub returned: u64,
    /// Deliveries that failed and were not the last: an event counts once for each.
    pub retries: u64,
    /// Deliveries of events that were delivered before.
    pub redelivered: u64,
    /// Of those delivered: held by a worker that left before it reported them done. An upper bound
    /// of what was lost with its connection.
    pub unconfirmed: u64,
    /// Dead letters that could not be kept on disk, though they should have been, and are lost. Those of
    /// durable services come back.
    pub letters_lost: u64,
}

impl Account {
    /// Adds other books to these.
    pub fn add(&mut self, other: &Self) {
        self.matched += other.matched;
        self.delivered += other.delivered;
        self.in_flight += other.in_flight;
        self.dead_lettered += other.dead_lettered;
        self.expired += other.expired;
        self.dropped.merge(&other.dropped);
        self.returned += other.returned;
        self.retries += other.retries;
        self.redelivered += other.redelivered;
        self.unconfirmed += other.unconfirmed;
        self.letters_lost += other.letters_lost;
    }

    /// The two sides of the law, given how many events wait, and how many acknowledging workers
    /// hold: they are always equal.
    pub fn sides(&self, queued: u64, held: u64) -> (u64, u64) {
        let in_flight = self.in_flight + held;
        let ended = self.dead_lettered + self.expired + self.dropped.total() + self.returned;
        (self.matched, self.delivered + queued + in_flight + ended)
    }
}
