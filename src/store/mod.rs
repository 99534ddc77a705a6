//! Queues that outlive the process: one log for each durable service, one thread for all.

mod commands;
mod disk;
pub mod log;
mod thread;
pub(crate) mod worker;

pub use commands::{AppendTag, Command, Event, Full, Outcome, QueueId, Report, Sink};
pub(crate) use disk::decode as queue_of;
pub use disk::{DiskDirectory, DiskFile, StateDir, StateDirError};
pub use thread::Store;
