//! Why a connection is ended by us.

use event_manager_zmtp::curve::{CurveError, OpenError};
use event_manager_zmtp::{FrameError, MalformedCommand};

/// Why a peer's connection is ended. The texts continue "peer refused:".
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Command(#[from] MalformedCommand),
    #[error(transparent)]
    Curve(#[from] CurveError),
    #[error("it sent ERROR: {0}")]
    Gave(String),
    #[error("a subscription of {0} bytes; the limit is {1} (limits.maxSubjectBytes)")]
    SubscriptionTooLong(usize, usize),
    #[error("more than {0} subscriptions (limits.maxSubscriptionsPerPeer)")]
    TooManySubscriptions(usize),
    #[error(
        "the subscriptions of all peers take too much of {0} bytes (budgets.subscriptionBytes), of which each leaves as much to others as it has"
    )]
    NoRoomForSubscriptions(usize),
    #[error("{0}")]
    NoLink(String),
}

impl PeerError {
    /// A short word for counters.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Frame(FrameError::Flags(_)) | Self::Command(_) => "malformed",
            Self::Frame(FrameError::MessageTooLarge(..)) => "message-too-large",
            Self::Frame(FrameError::TooManyParts(_)) => "too-many-parts",
            Self::Frame(FrameError::Interrupted(_)) => "interrupted-message",
            Self::Curve(error) => error.reason(),
            Self::Gave(_) => "peer-error",
            Self::SubscriptionTooLong(..) => "subscription-too-long",
            Self::TooManySubscriptions(_) | Self::NoRoomForSubscriptions(_) => {
                "too-many-subscriptions"
            }
            Self::NoLink(_) => "mesh",
        }
    }
}

impl From<OpenError> for PeerError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Curve(error) => Self::Curve(error),
            OpenError::Frame(error) => Self::Frame(error),
        }
    }
}
