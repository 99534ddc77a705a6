//! The decisions: who gets which event, who is subscribed, on which port.
//!
//! [`Broker`] owns no socket, no clock and no bytes on their way to a peer. It is told what happened
//! and what time it is; what it needs bound, it asks of [`Streamers`].

mod account;
mod audience;
mod backlog;
pub mod bounds;
mod delivery_mode;
mod dispatch;
mod globs;
mod histogram;
mod ids;
mod interest;
mod known;
mod loops;
mod options;
mod ports;
mod prefix_map;
mod registry;
mod route;
mod routes;
mod served;
mod service;
mod spill;
mod subjects;
mod taken;
mod timetable;

pub use account::{Account, DropReason, Dropped};
pub use audience::Audience;
pub use backlog::{
    Acked, Backlog, ClockChange, DeadLetter, DeadReason, Delivery, Item, Lost, OrderBy, OrderKey,
    Outcome, Policy, QueueLimits, Retry, Settled, UnknownDelivery, WhenFull,
};
pub use delivery_mode::DeliveryMode;
pub use dispatch::{Introduced, Workers};
pub use histogram::{BUCKETS_US, Histogram};
pub use ids::{DeliveryId, PeerId, ServiceKey, WorkerKey};
pub use interest::{Interest, Wishes};
pub use loops::{Heard, Loops};
pub use options::{RetryOptions, ServiceOptions, event_subject, order, seconds, when_full};
pub use ports::{BindFailure, PortRange, Streamers};
pub use registry::{
    Broker, BrokerConfig, EndError, EndedService, FormerSubscription, FoundPort, KeepAliveError,
    Policies, RestoreError, SubscribeError, Subscribed, SubscriptionView, UnknownSubscription,
};
pub use route::{Receiver, Route, Via};
pub use routes::{Hearing, KnownSubject, News, RouteTable};
pub use served::GivenBack;
pub use service::{Aftermath, Given, Service, ServiceSettings, WorkerAnswer};
pub use spill::{ReadLoss, Spill, Times, Wanted};
pub use subjects::{NamedSubject, SubjectCounts, SubjectIndex};
pub use taken::Taken;
pub use timetable::Timetable;
