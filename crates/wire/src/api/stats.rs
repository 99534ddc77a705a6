//! What `/stats` adds to STATUS: the daemon's process, and whether it is ready.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Status;

/// The answer of `/stats`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Stats {
    /// All of what STATUS answers, at most 250 ms old.
    #[serde(flatten)]
    pub status: Status,
    /// The name under which the daemon registers (`serviceName`).
    pub instance: String,
    /// When the daemon gave its status, in milliseconds since 1970.
    pub taken_at_ms: u64,
    /// Whether the ServiceLocator knows the daemon.
    pub registration: Registration,
    /// The checks of `/readyz`.
    pub readiness: Readiness,
    /// What the operating system says about the daemon's process.
    pub process: Process,
}

/// The daemon at its ServiceLocator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Registration {
    /// How far it is.
    pub state: RegistrationState,
    /// The ServiceLocator's address; `None` if the daemon is not to register.
    pub locator: Option<String>,
}

/// Whether a daemon is registered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RegistrationState {
    /// It is not to register (`locatorRegister` is false).
    #[default]
    Off,
    /// The locator has not accepted it; it is tried again.
    Trying,
    /// The locator has accepted it.
    Registered,
    /// A state that this version doesn't know.
    #[serde(other)]
    Unknown,
}

/// Whether the daemon is ready, and why not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Readiness {
    /// Whether all checks pass.
    pub ready: bool,
    /// The checks by name; docs/operations.md explains each.
    pub checks: BTreeMap<String, Check>,
}

impl Readiness {
    /// The check of this name, if it doesn't pass.
    pub fn failed(&self, name: &str) -> Option<&Check> {
        self.checks.get(name).filter(|check| !check.ok)
    }
}

/// One condition of being ready.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Check {
    /// Whether it passes.
    pub ok: bool,
    /// Why it passes or not, as a sentence for people.
    pub reason: String,
}

/// Readings of the daemon's process; each is `None` where the system doesn't tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Process {
    /// Resident memory, in bytes.
    pub resident_bytes: Option<u64>,
    /// Virtual memory, in bytes.
    pub virtual_bytes: Option<u64>,
    /// Processor time of all threads since the start, in seconds.
    pub cpu_seconds: Option<f64>,
    /// File descriptors that are open.
    pub open_fds: Option<u64>,
    /// File descriptors that the process may open (the soft limit).
    pub max_fds: Option<u64>,
    /// Threads that run.
    pub threads: Option<u64>,
}
