//! Where a service's events are kept.

use super::backlog::WhenFull;

/// Where a service's events are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryMode {
    /// In memory, while the service has a subscription.
    Live,
    /// In a queue on disk, which outlives workers, subscriptions and the daemon.
    Queue,
    /// In a queue of another broker, which daemons share. Only configurations say so.
    #[serde(skip)]
    Engine,
}

impl DeliveryMode {
    /// As it is written in configurations and requests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Queue => "queue",
            Self::Engine => "engine",
        }
    }

    /// Whether a service of this kind can have this policy for a full queue.
    pub fn allows(self, when_full: WhenFull) -> bool {
        (self != Self::Live) == (when_full == WhenFull::Spill)
    }

    /// Returns the policy for a full queue where none is configured.
    pub fn default_when_full(self) -> WhenFull {
        match self {
            Self::Live => WhenFull::DropOldest,
            Self::Queue | Self::Engine => WhenFull::Spill,
        }
    }
}
