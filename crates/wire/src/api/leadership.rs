//! What the requests INSTANCES and LEASE are answered.

use serde::{Deserialize, Serialize};

use super::Instances;

/// All instances, and who of them led when.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct InstancesPage {
    /// All instances that are known.
    #[serde(flatten)]
    pub instances: Instances,
    /// The latest changes of who leads, the oldest first, as many as were asked for.
    pub history: Vec<Turn>,
}

/// A change of who leads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Turn {
    /// Grows with each change, over restarts too.
    pub number: u64,
    /// In milliseconds since 1970.
    pub at_ms: u64,
    /// The instance's id.
    pub instance: String,
    /// Its process id.
    pub pid: Option<i64>,
    /// `elected`, `resigned`, `timeout` or `fenced`.
    pub kind: String,
}

/// A lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Lease {
    /// The name that it is acquired by.
    pub name: String,
    /// Who holds it, if anybody does.
    pub holder: Option<String>,
    /// The number that it was given when it was acquired last; 0 if it never was.
    pub token: u64,
    /// For how long it is held still, in milliseconds.
    pub expires_in_ms: u64,
}
