//! Queues that outlive the process: one log for each durable service, one thread for all.

mod disk;
pub mod log;
mod thread;

pub use disk::{DiskDirectory, DiskFile, StateDir, StateDirError};
pub use thread::{Command, Event, Full, Outcome, Report, Store};
