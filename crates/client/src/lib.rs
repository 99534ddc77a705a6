//! A client of event managers and of services, on our own ZMTP. It knows nothing of the daemon.
//!
//! All is async and without tasks of its own, but for [`Caller`] and [`Worker`]: a connection is read,
//! written and kept alive while somebody waits for something on it. [`blocking`] is for those who have no runtime.

#![warn(missing_docs)]

mod ambient;
pub mod blocking;
mod caller;
mod connection;
mod line;
mod publisher;
mod requests;
mod subscriber;
mod worker;

use event_manager_zmtp::Limits;

pub use caller::{CallError, Caller};
pub use connection::{Connection, Ended, Event, OpenError, Options};
pub use publisher::Publisher;
pub use requests::{Client, ClientError, Subscribed};
pub use subscriber::Subscriber;
pub use worker::{Delivery, Worker};

/// What a daemon may send us: more than it lets others send, as far as we know. Memory is taken as bytes
/// arrive.
const LIMITS: Limits = Limits {
    message_bytes_max: 1 << 30,
    message_parts_max: 1 << 16,
    subject_bytes_max: 1 << 10,
    handshake_bytes_max: 8 << 10,
    subscriptions_per_peer_max: 10_000,
};
