//! What plays a client: requests and workers over libzmq, with a deadline each, and a publisher that
//! knows what was taken.

mod link;
mod publisher;
mod requests;
mod worker;

pub use publisher::Publisher;
pub use requests::{Client, ClientError, Subscribed};
pub use worker::{ServiceWorker, WorkerError};
