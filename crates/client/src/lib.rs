//! A client of event managers and of services, on our own ZMTP. It knows nothing of the daemon.
//!
//! [`Hub`] is what programs want: it publishes, emits, calls, subscribes and serves, over connections that
//! come back by themselves. [`blocking::Hub`] is the same for those who have no runtime.
//!
//! Below it are the parts that the daemon and its command line use: [`Connection`], [`Client`], [`Publisher`],
//! [`Subscriber`], [`Caller`]. They are without tasks of their own, but for [`Caller`]: a connection is read,
//! written and kept alive while somebody waits for something on it.

#![warn(missing_docs)]

mod ambient;
mod answers;
pub mod blocking;
mod caller;
mod connection;
mod error;
mod hub;
mod keys;
mod line;
mod publisher;
mod requests;
mod sealed;
mod service;
mod subscriber;
#[cfg(feature = "testing")]
pub mod testing;

use event_manager_zmtp::Limits;

pub use answers::{Answers, AnswersBuilder, Question};
pub use caller::{CallError, Caller};
pub use connection::{Connection, Ended, Event as ConnectionEvent, OpenError, Options, TurnedAway};
pub use error::Error;
pub use event_manager_wire::api::{CallStatus, Status};
pub use event_manager_zmtp::curve::{KeyPair, PublicKey};
pub use hub::{
    Call, Emit, Event, Hub, HubBuilder, Lease, LeaseBuilder, Level, Receipt, Reply, State,
    Subscription, Taken,
};
pub use keys::{ClientKeys, KeysError, load_pair, load_public, new_pair};
pub use publisher::Publisher;
pub use requests::{Client, ClientError, Subscribed};
pub use service::{
    Delivery, Drained, Failure, OrderBy, Retry, Service, ServiceBuilder, Stopper, WhenFull,
};
pub use subscriber::Subscriber;

/// Its blocks are compiled.
#[cfg(all(doctest, feature = "testing"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// The same.
#[cfg(all(doctest, feature = "testing"))]
#[doc = include_str!("../../../docs/rust.md")]
struct Manual;

/// What a daemon may send us: more than it lets others send, as far as we know. Memory is taken as bytes
/// arrive.
const LIMITS: Limits = Limits {
    message_bytes_max: 1 << 30,
    message_parts_max: 1 << 16,
    subject_bytes_max: 1 << 10,
    handshake_bytes_max: 8 << 10,
    subscriptions_per_peer_max: 10_000,
};
