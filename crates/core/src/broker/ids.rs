//! What services, connections, workers and deliveries are told apart by.

/// A service's index in the broker's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey(pub u32);

/// A connection: its slot, and a serial number that tells it from the slot's earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId {
    /// The index in the reactor's table of peers.
    pub slot: u32,
    /// Counts connections.
    pub serial: u32,
}

/// A worker among those of its service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerKey(pub(super) u32);

/// Identifies one delivery in EVENT, ACK, NAK, TERM and WIP. Never used twice by one backlog.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(pub u64);
