//! Dead letters: events that no worker could process.

use serde::{Deserialize, Serialize};

/// The answer of DLQ: the letters that matched and, for a replay or purge, were processed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DeadLetters {
    /// Whose letters.
    pub service: String,
    /// The letters, in the order of their sequence numbers.
    pub letters: Vec<DeadLetter>,
    /// Where the next request begins; `None` if there are no more.
    pub next: Option<u64>,
    /// The wall clock, in milliseconds since 1970.
    pub now_ms: u64,
    /// Letters of the service that could not be kept, since the daemon or the service began.
    pub letters_lost: u64,
    /// Why a replay didn't go on (`queue-full`); the letters from `next` on remain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

/// A dead letter on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DeadLetter {
    /// What happened to it.
    #[serde(flatten)]
    pub account: LetterAccount,
    /// Its sequence number among the service's letters.
    pub seq: u64,
    /// When it was kept, in milliseconds since 1970.
    pub time_ms: u64,
    /// The event's frames; only `show` tells them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frames: Option<Vec<LetterFrame>>,
}

/// What happened to an event that became a dead letter; also the first frame of the event
/// `SERVICE.DLQ`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LetterAccount {
    /// The service whose event it was.
    pub service: String,
    /// The event's subject, as text; a long one is cut.
    pub subject: String,
    /// `max-deliveries` or `terminated`.
    pub reason: String,
    /// What the worker said last, at most 200 characters.
    pub detail: String,
    /// How often it was delivered.
    pub attempts: u32,
    /// When it was delivered first, in milliseconds since 1970; `None` if that isn't known any more.
    pub first_delivery_ms: Option<u64>,
    /// When it was delivered last, in milliseconds since 1970.
    pub last_delivery_ms: u64,
}

/// A frame of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LetterFrame {
    /// One that is text.
    Text(String),
    /// Any other.
    Binary {
        /// Its bytes in base64.
        base64: String,
    },
}

/// The answer of END.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceEnd {
    /// The service that has ended.
    pub service: String,
    /// How many dead letters of it remain; `None` if they could not be counted.
    pub dead_letters: Option<u64>,
    /// What to do about these, as a sentence for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
