//! Sync events: what the services answered.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The answer of PUBLISH, if services were called.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CallResults {
    /// The event's subject.
    pub subject: String,
    /// What each service answered. If the first ACK was enough, those are missing that had not
    /// answered by then.
    pub results: Vec<CallResult>,
}

/// What became of the call of one service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CallResult {
    /// Whose result this is.
    pub service: String,
    /// Whether it acknowledged.
    pub status: CallStatus,
    /// Its answer, or why there is none, if that is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Any other answer, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
    /// How many bytes its answer has, if only the beginning is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_bytes: Option<u64>,
    /// The MessageBus data type of its answer, by name or number, if it is one that the daemon doesn't
    /// know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_type: Option<Value>,
}

/// How a service answered a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallStatus {
    /// With ACK.
    Ack,
    /// With NAK, or with something else that is no ACK.
    Nak,
    /// It may have got the event, but did not answer in time, or its connection ended before.
    Timeout,
    /// It did not get the event.
    Unreachable,
    /// A status that this version doesn't know.
    #[default]
    #[serde(other)]
    Unknown,
}

impl CallStatus {
    /// As it is in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Nak => "nak",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Unknown => "unknown",
        }
    }
}
