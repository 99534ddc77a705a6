//! The persistent state as it is stored: each record is JSON, by name.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A subscription, by its id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptSubscription {
    pub service: String,
    /// Its subjects as they are written in a request.
    pub subjects: Vec<String>,
    /// When its lease ends, in milliseconds since 1970; up to a quarter of a lease too early,
    /// because not every KEEP_ALIVE is written.
    pub expires_at_ms: u64,
    /// The port that its client knows, if the service has another one now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_port: Option<u16>,
    /// Who made or refreshed it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// A service, by its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptService {
    /// The port of its socket, or its previous one; 0 if it never had one.
    pub port: u16,
    /// Other services had that port too: their workers may still dial it.
    #[serde(default)]
    pub shares_port: bool,
    /// It has ended: only its port is remembered.
    #[serde(default)]
    pub is_gone: bool,
    /// Its workers' READY, if there were any and all said the same.
    pub ready: Option<KeptReady>,
    /// The subjects that a durable service keeps after its last subscription, as written in a request.
    pub subjects: Vec<String>,
    /// Whose it is, and what it keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Whether its events are kept on disk, if a subscription decided that rather than the configuration.
    #[serde(default)]
    pub durable: Option<bool>,
    /// The options that subscriptions gave, as written in a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Value>,
}

/// A worker's READY, and who said it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptReady {
    /// It sends an empty frame before its messages, and expects one.
    pub delimiter: bool,
    /// It acknowledges, and holds no more events than this.
    pub credit: Option<u32>,
    /// It wants the ids of events.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ids: bool,
    /// How these workers can be recognised, as far as that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marks: Option<KeptMarks>,
}

/// How a service's workers can be recognised among all peers that may connect to its port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptMarks {
    /// Routing ids of ready workers, in base64.
    pub identities: BTreeSet<String>,
    /// How many ready workers without a routing id each host had; only if other services had the port too.
    pub hosts: BTreeMap<String, u32>,
    /// Hosts with a connection that was not ready and had no routing id, likewise: its service is unknown.
    pub strangers: BTreeSet<String>,
}

/// An instance of another program, by its id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct KeptInstance {
    pub pid: Option<i64>,
    /// Where it publishes, as it says itself.
    pub address: Option<String>,
    /// Where its connection came from.
    pub link: Option<String>,
    /// In milliseconds since 1970, as the next.
    pub first_seen_ms: u64,
    pub last_seen_ms: u64,
    pub heartbeats: u64,
    /// Heartbeats that should have come.
    pub missed: u64,
    /// Other events of it.
    pub events: u64,
    pub is_gone: bool,
}

/// A change of who leads instances, by its number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct KeptTurn {
    /// In milliseconds since 1970.
    pub at_ms: u64,
    pub instance: String,
    pub pid: Option<i64>,
    /// `elected`, `resigned`, `timeout` or `fenced`.
    pub kind: String,
}

/// A lease, by its name; that without a name has the highest token of all, and nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct KeptLease {
    pub token: u64,
    pub ttl_ms: u64,
    /// What its holder calls itself, if it is held.
    pub holder: Option<String>,
    /// Whose connection that asked by.
    pub client: Option<String>,
}

/// The whole persistent state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// By id.
    pub subscriptions: BTreeMap<String, KeptSubscription>,
    /// By name.
    pub services: BTreeMap<String, KeptService>,
    /// How many plain subscribers had each prefix, which is escaped ASCII.
    pub subscribers: BTreeMap<String, u32>,
    /// By id.
    pub instances: BTreeMap<String, KeptInstance>,
    /// By number.
    pub turns: BTreeMap<String, KeptTurn>,
    /// By name.
    pub leases: BTreeMap<String, KeptLease>,
}

/// Changes to write: records, or `None` for those that are removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// This is the whole state: everything stored before is removed.
    pub whole: bool,
    /// By id.
    pub subscriptions: BTreeMap<String, Option<KeptSubscription>>,
    /// By name.
    pub services: BTreeMap<String, Option<KeptService>>,
    /// By prefix.
    pub subscribers: BTreeMap<String, Option<u32>>,
    /// By id.
    pub instances: BTreeMap<String, Option<KeptInstance>>,
    /// By number.
    pub turns: BTreeMap<String, Option<KeptTurn>>,
    /// By name.
    pub leases: BTreeMap<String, Option<KeptLease>>,
}

impl Changes {
    /// The whole state, as one change.
    pub(super) fn all_of(kept: Kept) -> Self {
        fn some<T>(all: BTreeMap<String, T>) -> BTreeMap<String, Option<T>> {
            let all = all.into_iter();
            all.map(|(name, record)| (name, Some(record))).collect()
        }
        Self {
            whole: true,
            subscriptions: some(kept.subscriptions),
            services: some(kept.services),
            subscribers: some(kept.subscribers),
            instances: some(kept.instances),
            turns: some(kept.turns),
            leases: some(kept.leases),
        }
    }

    /// Merges later changes into these.
    pub(super) fn add(&mut self, later: Self) {
        if later.whole {
            *self = later;
        } else {
            self.subscriptions.extend(later.subscriptions);
            self.services.extend(later.services);
            self.subscribers.extend(later.subscribers);
            self.instances.extend(later.instances);
            self.turns.extend(later.turns);
            self.leases.extend(later.leases);
        }
    }
}
