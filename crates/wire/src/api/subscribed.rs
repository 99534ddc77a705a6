//! What a subscription is told.

use serde::{Deserialize, Serialize};

/// What the answer of SUBSCRIBE says in JSON, beside the addresses. It is empty or zero where an older daemon
/// doesn't say it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SubscriptionTerms {
    /// How long the subscription lives without a KEEP_ALIVE.
    pub ttl_ms: u64,
    /// How long a worker may owe an answer without showing progress.
    pub ack_timeout_ms: u64,
    /// `live` or `queue`.
    pub delivery: String,
    /// The subject under which the service's dead letters are published.
    pub dead_letter_subject: String,
    /// The daemon's version.
    pub version: String,
}
