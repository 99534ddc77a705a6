//! Counters of publishers and subscribers; services have accounts of their own in the broker.

use super::memory::Memory;
use super::prefixes::PrefixMemory;
use event_manager_core::broker::{Account, DropReason, Histogram};

/// The accounts of all that isn't a service's.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    /// Of the subscribers' side.
    pub(crate) subscribers: Account,
    pub(crate) published: Published,
    /// About what giving events to receivers has cost: one for each run that a subscriber got, four for each
    /// event that a service got.
    pub(crate) dealt: u64,
    /// Events that were written to hubs of a mesh, which are subscribers.
    pub(crate) written_to_hubs: u64,
    pub(crate) publish_times: PublishTimes,
    /// The most bytes that ever waited for one subscriber.
    pub(crate) outbox_peak_bytes: usize,
    pub(crate) prefixes: PrefixMemory,
    /// When to add up what waits for all together.
    pub(crate) memory: Memory,
}

impl Accounts {
    /// A subscriber was given events, and so many bytes wait for it now.
    #[inline]
    pub(crate) fn given_to_subscriber(&mut self, events: u64, waiting_bytes: usize) {
        self.subscribers.matched += events;
        self.subscribers.in_flight += events;
        self.outbox_peak_bytes = self.outbox_peak_bytes.max(waiting_bytes);
    }

    /// Events were written to a subscriber.
    pub(crate) fn written_to_subscriber(&mut self, events: u64) {
        self.subscribers.delivered += events;
        self.subscribers.in_flight -= events;
    }

    /// Events in a subscriber's outbox were given up.
    pub(crate) fn dropped_for_subscriber(&mut self, reason: DropReason, events: u64) {
        self.subscribers.in_flight -= events;
        self.subscribers.dropped.add(reason, events);
    }
}

/// Events and bytes that publishers sent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Published {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    /// Of those, the events that nobody asked for.
    pub(crate) unmatched: u64,
}

/// How long it took to answer requests that publish: ACKs, and NAKs.
#[derive(Debug, Default)]
pub(crate) struct PublishTimes {
    pub(crate) emits: [Histogram; 2],
    pub(crate) calls: [Histogram; 2],
}
