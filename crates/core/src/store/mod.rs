//! The owner of all queues' logs: the commands that it takes, what it does with them, and its reports.

mod commands;
mod logs;
mod openings;

pub use commands::{AppendTag, Appended, Command, Event, Full, Outcome, QueueId, Report, Sink};
pub use logs::{Logs, Outside, StateStore};
pub use openings::{Opened, Opening};

#[cfg(test)]
mod tests;
