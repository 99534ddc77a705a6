//! Where each event went. At every moment, for each service and for the subscribers' side:
//! `matched = delivered + queued + in flight + dropped`, by reason.

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
}

impl DropReason {
    /// All reasons, in the order of their counters.
    pub const ALL: [Self; 5] = [
        Self::QueueFull,
        Self::SlowSubscriber,
        Self::SubscriberLost,
        Self::ServiceEnded,
        Self::TooLarge,
    ];

    /// The name in reports and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::SlowSubscriber => "slow-subscriber",
            Self::SubscriberLost => "subscriber-lost",
            Self::ServiceEnded => "service-ended",
            Self::TooLarge => "too-large",
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
    /// Written to a receiver's socket whole.
    pub delivered: u64,
    /// In the outbox of a receiver.
    pub in_flight: u64,
    /// Given up.
    pub dropped: Dropped,
    /// Of those delivered: held by a worker that left before it reported them done. An upper bound
    /// of what was lost with its connection.
    pub unconfirmed: u64,
}

impl Account {
    /// Adds other books to these.
    pub fn add(&mut self, other: &Self) {
        self.matched += other.matched;
        self.delivered += other.delivered;
        self.in_flight += other.in_flight;
        self.dropped.merge(&other.dropped);
        self.unconfirmed += other.unconfirmed;
    }

    /// The two sides of the law, given how many events wait: they are always equal.
    pub fn sides(&self, queued: u64) -> (u64, u64) {
        (
            self.matched,
            self.delivered + queued + self.in_flight + self.dropped.total(),
        )
    }
}
