//! What is kept, in the form that it has on disk: each record is JSON under its name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A subscription, by its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptSubscription {
    /// The service's name.
    pub service: String,
    /// Its subjects as they are written in a request.
    pub subjects: Vec<String>,
    /// When its lease is over, in milliseconds since 1970; up to a quarter of a lease too early,
    /// because not each KEEP_ALIVE is written.
    pub expires_at_ms: u64,
}

/// A service, by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptService {
    /// The port of its socket.
    pub port: u16,
    /// What its workers said, if there were any and all said the same.
    pub ready: Option<KeptReady>,
    /// What it wants though nobody is subscribed, if it is durable; as they are written in a request.
    pub subjects: Vec<String>,
    /// Whether its events are kept on disk, if a subscription said so rather than the configuration.
    #[serde(default)]
    pub durable: Option<bool>,
}

/// A worker's READY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptReady {
    /// It puts an empty frame before its messages, and expects one.
    pub delimiter: bool,
    /// It acknowledges, and holds no more events than this.
    pub credit: Option<u32>,
}

/// All that is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// By id.
    pub subscriptions: BTreeMap<String, KeptSubscription>,
    /// By name.
    pub services: BTreeMap<String, KeptService>,
    /// How many plain subscribers had each prefix, which is escaped ASCII.
    pub subscribers: BTreeMap<String, u32>,
}

/// What is to be written: records, or nothing in the place of those that are gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// This is all that there is: whatever was kept before goes.
    pub whole: bool,
    /// By id.
    pub subscriptions: BTreeMap<String, Option<KeptSubscription>>,
    /// By name.
    pub services: BTreeMap<String, Option<KeptService>>,
    /// By prefix.
    pub subscribers: BTreeMap<String, Option<u32>>,
}

impl Changes {
    /// Puts later changes on top.
    pub(super) fn add(&mut self, later: Self) {
        if later.whole {
            *self = later;
        } else {
            self.subscriptions.extend(later.subscriptions);
            self.services.extend(later.services);
            self.subscribers.extend(later.subscribers);
        }
    }
}
