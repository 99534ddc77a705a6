//! What a service's backlog may hold, and how it tries again.

use std::time::Duration;

/// Bounds of what waits for one service's workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Bytes of all waiting events together, as they [cost](super::Item::cost).
    pub bytes_max: usize,
    /// How many events may wait.
    pub events_max: usize,
}

/// What happens when more would wait than the bounds allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Those that came first make room.
    DropOldest,
    /// Those that came last make room; mostly that is the new one.
    DropNewest,
    /// Nothing is dropped: the caller keeps elsewhere what has no room. What workers give back may
    /// exceed the bounds, by no more than they held.
    Spill,
}

impl WhenFull {
    /// All of them, as they are written in configurations and requests.
    pub const WORDS: &[(&str, Self)] = &[
        ("drop-oldest", Self::DropOldest),
        ("drop-newest", Self::DropNewest),
        ("spill", Self::Spill),
    ];
}

/// When and how often an event that failed is tried again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    /// The longest delay after the first delivery.
    pub initial: Duration,
    /// How much longer it gets with each delivery; at least 1.
    pub multiplier: f64,
    /// The longest delay of all.
    pub max: Duration,
    /// After so many deliveries an event is dead.
    pub max_deliveries: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(100),
            multiplier: 2.0,
            max: Duration::from_secs(30),
            max_deliveries: 8,
        }
    }
}

impl Retry {
    /// The delay after this many deliveries: between a half and the whole of a time that grows with
    /// each, up to a limit, so that many that failed together don't come back all at once. `chance`
    /// is from 0 to 1.
    pub fn delay(&self, deliveries: u32, chance: f64) -> Duration {
        let exponent = i32::try_from(deliveries.saturating_sub(1)).unwrap_or(i32::MAX);
        // Finite, so that no delay at all stays none.
        let growth = self.multiplier.powi(exponent).min(f64::MAX);
        let whole = self.initial.as_secs_f64() * growth;
        let whole = Duration::try_from_secs_f64(whole).map_or(self.max, |time| time.min(self.max));
        whole / 2 + (whole / 2).mul_f64(chance.clamp(0.0, 1.0))
    }
}

/// How a service's backlog behaves.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// What may wait.
    pub limits: QueueLimits,
    /// What happens when more would wait.
    pub when_full: WhenFull,
    /// How long a worker may hold an event without a word about it.
    pub ack_timeout: Duration,
    /// When and how often what failed is tried again.
    pub retry: Retry,
}

impl Policy {
    /// The default for live events: the oldest make room.
    pub fn live(limits: QueueLimits) -> Self {
        Self {
            limits,
            when_full: WhenFull::DropOldest,
            ack_timeout: Duration::from_secs(30),
            retry: Retry::default(),
        }
    }
}

/// What events have in common that keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderBy {
    Subject,
    /// The frame with this index, at most [`ORDER_FRAME_MAX`](crate::broker::bounds::ORDER_FRAME_MAX); 0
    /// is the first.
    Frame(usize),
}
