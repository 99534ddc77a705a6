//! An event on its way through a backlog.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::broker::ids::{DeliveryId, WorkerKey};
use crate::seq::Seq;

/// A delivery that timed out, by the worker that may still acknowledge it.
pub(super) type Late = (WorkerKey, DeliveryId);

/// Where an item stands among all of its backlog: the lower came first.
pub(super) type Position = i64;

/// What events have in common that keep their order: a hash, so that it costs no memory of its own.
/// Keys with the same hash are one key here: they wait for each other, which breaks no promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OrderKey(NonZeroU64);

impl OrderKey {
    /// The key with this hash. Peers choose keys, so the hash should be one that they can't foresee.
    pub fn from_hash(hash: u64) -> Self {
        Self(NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN))
    }
}

/// The wall clock was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockChange {
    /// By how much it went forward, in milliseconds; less than 0 if it went back.
    pub forward_ms: i64,
}

impl ClockChange {
    /// When a time of the wall clock comes, which was thought to come at `at`. One that is over comes at
    /// once.
    pub fn apply(self, at: Instant, now: Instant) -> Instant {
        let by = Duration::from_millis(self.forward_ms.unsigned_abs());
        if self.forward_ms < 0 {
            at + by
        } else {
            at.checked_sub(by).map_or(now, |at| at.max(now))
        }
    }
}

/// An event that waits for a worker, or is held by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The event as it came.
    pub body: Bytes,
    /// Its sequence number, if it is in a durable log.
    pub seq: Option<Seq>,
    /// Items with the same key are handed out one at a time, in their order.
    pub key: Option<OrderKey>,
    /// It is not served before.
    pub not_before: Option<Instant>,
    /// From then on it is not served any more.
    pub expires_at: Option<Instant>,
    /// Both times are times of the wall clock: they move when that is set.
    pub by_clock: bool,
    /// When it was given to an acknowledging worker for the first time.
    pub first_at: Option<Instant>,
    /// How often it was given to an acknowledging worker.
    pub attempt: u32,
    /// It may have been given to a worker once more, for all that is known: it is shown as tried, and not
    /// counted so.
    pub given_before: bool,
    /// The last delivery of it that timed out: its worker may still acknowledge it. Rare, so it is apart.
    pub(super) late: Option<Box<Late>>,
    pub(super) position: Position,
}

impl Item {
    /// What an event costs beside its own bytes.
    pub const OVERHEAD_BYTES: usize = 64;
    /// The same for one with a key or a time: there are several indexes to find it by. One with a key costs
    /// less until it has a time; but it may get one when a worker fails, and what fitted has to fit then, too.
    pub const INDEXED_OVERHEAD_BYTES: usize = 512;

    /// An event without key, times or position in a log, never given to anyone.
    pub fn new(body: Bytes) -> Self {
        Self {
            body,
            seq: None,
            key: None,
            not_before: None,
            expires_at: None,
            by_clock: false,
            first_at: None,
            attempt: 0,
            given_before: false,
            late: None,
            position: 0,
        }
    }

    /// Copies the event, which came as a part of more: while it stays for longer than those beside it,
    /// it keeps no more memory alive than its own.
    pub fn own_body(&mut self) {
        self.body = Bytes::copy_from_slice(&self.body);
    }

    /// What it counts for in the bounds of a queue, in bytes.
    pub fn cost(&self) -> usize {
        let is_indexed =
            self.key.is_some() || self.not_before.is_some() || self.expires_at.is_some();
        let overhead = match is_indexed {
            true => Self::INDEXED_OVERHEAD_BYTES,
            false => Self::OVERHEAD_BYTES,
        };
        self.body.len() + overhead
    }

    /// The wall clock was set: its times move with it, if they are times of that clock.
    pub fn clock_was_set(&mut self, change: ClockChange, now: Instant) {
        if self.by_clock {
            self.not_before = self.not_before.map(|at| change.apply(at, now));
            self.expires_at = self.expires_at.map(|at| change.apply(at, now));
        }
    }

    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}
