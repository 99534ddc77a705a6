//! What a daemon tells about instances of other programs, and about leases.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Instances of other programs, which say by heartbeats that they live (`instances` in the configuration).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Instances {
    /// Whether they are observed.
    pub observed: bool,
    /// How many there are, by how they are (`alive`, `silent`, `cut-off`, `deaf`, `gone`, `unknown`).
    pub counts: BTreeMap<String, u64>,
    /// The ids of those that lead by their own rule, which is that the lowest process id does; there should be one.
    pub leaders: Vec<String>,
    /// Whether those that are heard here may not lead now (`instances.fence`).
    pub fenced: bool,
    /// Heartbeats that were heard since the start.
    pub heartbeats: u64,
    /// Messages of theirs that were not taken, by reason.
    pub refused: BTreeMap<String, u64>,
    /// In STATUS at most 64 of them, those that are heard first; else all.
    pub known: Vec<Instance>,
}

/// An instance of another program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Instance {
    /// The id that its heartbeats have.
    pub id: String,
    /// How it is.
    pub state: InstanceState,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// Its process id, if it says one.
    pub pid: Option<i64>,
    /// Whether it leads.
    pub leads: bool,
    /// Where it publishes, as it says itself; if it says that as `0.0.0.0`, with the host that it connects from.
    pub address: Option<String>,
    /// Where its connection comes from, or came from.
    pub link: Option<String>,
    /// Whether that connection is there.
    pub linked: bool,
    /// When it was heard first, in milliseconds since 1970.
    pub first_seen_ms: u64,
    /// When it was heard last, in milliseconds since 1970.
    pub last_seen_ms: u64,
    /// Its heartbeats.
    pub heartbeats: u64,
    /// Heartbeats that should have come between them.
    pub missed: u64,
    /// Its other events.
    pub events: u64,
    /// The latest ten pauses between heartbeats, in milliseconds, the oldest first.
    pub pauses_ms: Vec<u64>,
}

/// How an instance is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    /// It is heard: here, or by another event manager of the mesh if it is not connected here.
    Alive,
    /// Its connection is there, and its heartbeats are not.
    Silent,
    /// It is not heard here any more, and by another event manager it is.
    CutOff,
    /// It is heard, but nobody from its host subscribes to heartbeats here, so that it hears no others.
    Deaf,
    /// It said that it ends, or nobody hears it.
    Gone,
    /// An earlier run knew it, and it was not heard in this one yet.
    #[default]
    #[serde(other)]
    Unknown,
}

impl InstanceState {
    /// The word for it in JSON and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Alive => "alive",
            Self::Silent => "silent",
            Self::CutOff => "cut-off",
            Self::Deaf => "deaf",
            Self::Gone => "gone",
        }
    }

    /// Whether somebody hears it now.
    pub fn is_heard(self) -> bool {
        matches!(self, Self::Alive | Self::CutOff | Self::Deaf)
    }
}
