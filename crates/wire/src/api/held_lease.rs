//! What a daemon tells about the lease under which it serves, and about who keeps those of its clients.

use serde::{Deserialize, Serialize};

/// The lease under which a daemon serves (`lease.source`). Who stands by for one answers no STATUS. With
/// `lease.role` `active` it is the one by which instances of other programs may lead here (`instances.fence`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HeldLease {
    /// Who keeps it, as the configuration calls it; `hand` if a person gives it.
    pub source: String,
    /// What kind of engine that is; `None` if it is none.
    pub engine: Option<String>,
    /// What the lease is called there.
    pub name: String,
    /// By what the others know this daemon: its host, process id and a number of this run. By hand, the machine.
    pub holder: String,
    /// The number of the state directory (its file `instance`), by which others know whether theirs is the same;
    /// `None` if it has none.
    pub directory: Option<String>,
    /// The number that it got with the lease, higher than that of all who held it before.
    pub token: u64,
    /// That of the state directory, which only grows, too.
    pub epoch: u64,
    /// For how long it is held from each renewal, in milliseconds (`lease.ttl`); `None` if no clock ends it.
    pub ttl_ms: Option<u64>,
    /// For how long it is held still, if it isn't renewed, in milliseconds; `None` if no clock ends it.
    pub expires_in_ms: Option<u64>,
    /// How often it was renewed since it was taken.
    pub renewals: u64,
    /// How long ago the latest renewal that was confirmed was asked for, in milliseconds; before any, the lease.
    pub renewed_ago_ms: u64,
    /// Why no renewal was confirmed since, if one was tried.
    pub problem: Option<String>,
}

/// Who keeps the leases of clients, if that is an engine (`lease.role` `active`), and how it goes with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct KeptLeases {
    /// The engine, as the configuration calls it.
    pub source: String,
    /// What kind of engine that is.
    pub engine: String,
    /// Whether the daemon is ready only while it can be used (`lease.required`).
    pub required: bool,
    /// Requests LEASE that were answered.
    pub asked: u64,
    /// Of these, those that got the NAK `engine-failed`.
    pub failed: u64,
    /// Why it can't be used now; `None` if it can.
    pub problem: Option<String>,
}
