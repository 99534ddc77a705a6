//! Why the broker refuses.

use crate::broker::delivery_mode::DeliveryMode;
use event_manager_wire::model::{ServiceName, SubscriptionId};

/// Why a subscription was refused. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// A durable service of this name would share a queue with another's dead letters.
    #[error(
        "a durable service can't be called {0}: on disk, names that end with {end} are for the dead letters of other services; choose another name, or set \"delivery\": \"live\"",
        end = ServiceName::DEAD_LETTERS
    )]
    Reserved(ServiceName),
    /// A durable service of this name, or its dead letters, would find no place on disk.
    #[error(
        "a durable service can't be called {0}: {why}; choose a shorter name, or set \"delivery\": \"live\"",
        why = .0.why_not_on_disk().unwrap_or_default()
    )]
    TooLong(ServiceName),
    /// No port; a sentence.
    #[error("{0}")]
    NoPort(String),
    /// The limit on all subscriptions.
    #[error("there are {0} subscriptions already, which is the limit (maxSubscriptions)")]
    TooMany(usize),
    /// The service is there, and its events are kept elsewhere than was asked for.
    #[error("the service's delivery is {}, until the service ends", .0.name())]
    Delivery(DeliveryMode),
    /// The limit on one service's patterns.
    #[error("the service would have more than {0} subjects (limits.maxSubscriptionsPerPeer)")]
    TooManyPatterns(usize),
}

/// Why a durable service can't be ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndError {
    /// There is none of this name.
    #[error("there is no such service")]
    Unknown,
    /// It has subscriptions; how many.
    #[error("it has {0} subscriptions; end them first (UNSUBSCRIBE)")]
    Subscribed(usize),
    /// The configuration declares it.
    #[error("the configuration declares it; remove its subjects there first")]
    Declared,
    /// The configuration needs it for something else: this key of it.
    #[error("the configuration needs it for {0}; take that out of it and restart first")]
    NeededFor(String),
}

/// There is no such subscription: it expired, ended or never was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no subscription {0:?}; subscribe again")]
pub struct UnknownSubscription(pub SubscriptionId);

/// Why a lease is not refreshed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeepAliveError {
    /// There is none.
    #[error(transparent)]
    Unknown(#[from] UnknownSubscription),
    /// The service has another port than its client was told, since the last start.
    #[error("service {0:?} has another address now; subscribe again")]
    Moved(ServiceName),
}
