//! The numbers of events in the log of a durable queue.

use std::fmt;

use serde::Deserialize;

/// An event's sequence number in its durable queue.
///
/// Numbers go up by one from [`Seq::FIRST`], in the order in which events were appended. None is used
/// again, also after a restart; those of events that were lost may be skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// Below the numbers of all events.
    pub const ZERO: Self = Self(0);
    /// The number of a queue's first event.
    pub const FIRST: Self = Self(1);

    /// The number after this one.
    pub fn next(self) -> Self {
        self.plus(1)
    }

    /// The number that so many events later has.
    pub fn plus(self, events: u64) -> Self {
        Self(self.0 + events)
    }

    /// How many numbers there are from the other one up to this one, without it; 0 if that is higher.
    pub fn since(self, first: Self) -> u64 {
        self.0.saturating_sub(first.0)
    }

    /// The numbers from this one up to the other, without that.
    pub fn until(self, end: Self) -> impl Iterator<Item = Self> {
        (self.0..end.0).map(Self)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
