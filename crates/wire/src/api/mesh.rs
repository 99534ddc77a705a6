//! What a daemon tells about the mesh.

use serde::{Deserialize, Serialize};

/// Other event managers that get what this one's clients publish, and those whose clients' events come
/// here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Mesh {
    /// The id of this daemon in the mesh, which it keeps in its `stateDir`.
    pub hub: String,
    /// The hubs that the daemon dials (`mesh.peers`): their clients' events come here.
    pub links: Vec<Link>,
    /// Events that were written to hubs since the start.
    pub events_sent: u64,
    /// The hubs that dialled this daemon: they get its clients' events.
    pub hubs: Vec<Hub>,
}

/// A hub that the daemon dials.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Link {
    /// Its address, as the configuration has it.
    pub address: String,
    /// Whether it is linked now.
    pub connected: bool,
    /// Its id, while it is linked.
    pub hub: Option<String>,
    /// How many prefixes it is asked for, while it is linked.
    pub prefixes: u64,
    /// Events that came from it since the start.
    pub events: u64,
    /// The bytes of these events.
    pub bytes: u64,
    /// Since when it is linked, or is not, in milliseconds since 1970.
    pub since_ms: u64,
    /// Tries that failed since the last link, or since the start.
    pub failed_tries: u64,
    /// How often it was linked since the start.
    pub connections: u64,
    /// Why the latest try failed, or the latest link ended; kept when it is linked again.
    pub last_error: Option<String>,
    /// The latest try reached somebody, who can't be linked: `lastError` says what to do.
    pub refused: bool,
}

/// A hub that dialled the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Hub {
    /// Where it connects from.
    pub address: String,
    /// The id that the other event manager keeps over restarts.
    pub hub: String,
    /// How many prefixes it is subscribed to.
    pub prefixes: u64,
    /// Events that were written to it, since it is connected.
    pub events: u64,
    /// Bytes that were written to it.
    pub bytes: u64,
    /// Bytes that wait to be written to it.
    pub waiting_bytes: u64,
    /// Events that were dropped because it was too slow.
    pub dropped: u64,
}
