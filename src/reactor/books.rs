//! What is counted of publishers and subscribers; services have accounts of their own in the broker.

use crate::broker::{Account, Histogram};

/// The books of all that isn't a service's.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// Of the subscribers' side.
    pub(super) subscribers: Account,
    pub(super) published: Published,
    pub(super) publish_times: PublishTimes,
    /// The most bytes that ever waited for one subscriber.
    pub(super) outbox_peak_bytes: usize,
}

/// Events and bytes that publishers sent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Published {
    pub(super) events: u64,
    pub(super) bytes: u64,
    /// Of those, the events that nobody asked for.
    pub(super) unmatched: u64,
}

/// How long it took to answer requests that publish: ACKs, and NAKs.
#[derive(Debug, Default)]
pub(super) struct PublishTimes {
    pub(super) emits: [Histogram; 2],
    pub(super) calls: [Histogram; 2],
}
