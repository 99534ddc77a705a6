//! Links of the mesh: those to hubs that we dial, and those of hubs that dialled us.

use std::time::Instant;

use event_manager_core::broker::Interest;
use event_manager_wire::api;
use event_manager_zmtp::HubId;

/// What is known of the mesh beside single links.
pub(crate) struct Mesh {
    /// Ours.
    pub(crate) id: HubId,
    /// What is asked of the hubs that we dial; `None` without any.
    pub(crate) interest: Option<Interest>,
    /// Something that is asked for may not be wanted any more; when that was last looked at.
    pub(crate) is_to_be_renewed: bool,
    pub(crate) renewed_at: Instant,
}

/// A link to a hub that we dial.
#[derive(Debug)]
pub(crate) struct Link {
    /// Which hub that is, and the id of its run. It takes subscriptions when it has said so.
    pub(crate) hub: Option<(HubId, u64)>,
    /// When the connection was made.
    pub(crate) begun_at: Instant,
    /// What came, in all connections.
    pub(crate) events: u64,
    pub(crate) bytes: u64,
}

impl Link {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            hub: None,
            begun_at: now,
            events: 0,
            bytes: 0,
        }
    }

    /// There is a connection.
    pub(crate) fn connected(&mut self, now: Instant) {
        self.hub = None;
        self.begun_at = now;
    }

    /// There is none any more; whether the hub had said who it is.
    pub(crate) fn ended(&mut self) -> bool {
        self.hub.take().is_some()
    }
}

/// A hub that dialled us: a subscriber that gets what our own clients publish.
#[derive(Debug)]
pub(crate) struct Downstream {
    pub(crate) id: HubId,
    /// What was written to it.
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    /// Events that it was too slow for.
    pub(crate) dropped: u64,
}

impl Downstream {
    pub(crate) fn new(id: HubId) -> Self {
        Self {
            id,
            events: 0,
            bytes: 0,
            dropped: 0,
        }
    }

    /// For STATUS.
    pub(crate) fn status(&self, address: &str, prefixes: usize, waiting: usize) -> api::Hub {
        api::Hub {
            address: address.to_owned(),
            hub: self.id.to_string(),
            prefixes: prefixes as u64,
            events: self.events,
            bytes: self.bytes,
            waiting_bytes: waiting as u64,
            dropped: self.dropped,
        }
    }
}
