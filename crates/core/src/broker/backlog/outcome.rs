//! What becomes of events: what a backlog tells its owner.

use std::fmt;
use std::time::Instant;

use bytes::Bytes;

use super::item::Item;
use crate::broker::account::Dropped;
use crate::broker::ids::{DeliveryId, WorkerKey};
use crate::seq::Seq;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "each event that left is counted"]
pub struct Lost {
    /// How many.
    pub events: u64,
    /// The sequence numbers of those that are in a durable log; each must be settled there.
    pub seqs: Vec<Seq>,
}

impl Lost {
    pub(in crate::broker) fn add(&mut self, item: &Item) {
        self.events += 1;
        self.seqs.extend(item.seq);
    }
}

/// An event in the hands of a worker that acknowledges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What the worker calls it by.
    pub id: DeliveryId,
    /// How often the event was delivered, with this time; 1 for the first, 2 at least if it may have been
    /// delivered before, for all that is known.
    pub attempt: u32,
    /// Its sequence number, if it is in a durable log.
    pub seq: Option<Seq>,
    pub body: Bytes,
}

/// An event that a worker acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    pub item: Item,
    /// When the worker got it; when the first one did if it is [late](Self::late).
    pub given_at: Option<Instant>,
    /// The worker's time was over and the event waited again; it has given back its credit already.
    pub late: bool,
}

/// What an ACK came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acked {
    /// The event is done.
    Done(Settled),
    /// It came late, and a worker holds the event again: it is done when that delivery ends.
    HeldAgain,
}

/// Why an event is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeadReason {
    /// It was delivered as often as it may be, and never acknowledged.
    MaxDeliveries,
    /// A worker said that it should not be tried again.
    Terminated,
}

impl DeadReason {
    /// The name in reports and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::MaxDeliveries => "max-deliveries",
            Self::Terminated => "terminated",
        }
    }
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An event that no worker could do. How often it was tried, and since when, it says itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub item: Item,
    pub reason: DeadReason,
    /// What the last worker said of it, or how it failed there.
    pub detail: String,
    /// When it was delivered for the last time.
    pub last_at: Instant,
}

impl DeadLetter {
    /// The longest `detail`, in characters: workers write it.
    pub const DETAIL_CHARS_MAX: usize = 200;

    pub(super) fn new(item: Item, reason: DeadReason, detail: &str, last_at: Instant) -> Self {
        Self {
            item,
            reason,
            detail: detail.chars().take(Self::DETAIL_CHARS_MAX).collect(),
            last_at,
        }
    }
}

/// What became of events that workers gave back, or whose time was over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "what became of each event is counted"]
pub struct Outcome {
    /// How many wait for another try.
    pub retries: u64,
    /// Given up because more would have waited than may.
    pub dropped: Lost,
    /// Given up by their log while workers held them.
    pub given_up: Dropped,
    /// Too old to be served.
    pub expired: Lost,
    /// Those that no worker could do.
    pub dead: Vec<DeadLetter>,
    /// Done: a worker acknowledged them late, while another held them that gave them back now.
    pub done: Lost,
    /// Deliveries whose time their workers let pass; each gives back its credit.
    pub timed_out: Vec<(WorkerKey, DeliveryId)>,
}
