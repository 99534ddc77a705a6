//! What plays a client: requests over libzmq, with a deadline each.

mod requests;
mod worker;

pub use requests::{Client, ClientError, Subscribed};
pub use worker::{ServiceWorker, WorkerError};
