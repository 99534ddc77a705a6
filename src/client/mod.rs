//! What plays a client: requests and workers over libzmq, with a deadline each, and a publisher that
//! knows what was taken.

mod caller;
mod connection;
mod link;
mod publisher;
mod requests;
mod worker;

pub use caller::{CallError, Caller};
pub use connection::{Connection, Ended, Event, OpenError, Options};
pub use publisher::Publisher;
pub use requests::{Client, ClientError, Subscribed};
pub use worker::{ServiceWorker, WorkerError};
