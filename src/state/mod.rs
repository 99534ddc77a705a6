//! What outlives the process, so that a restart needs no new SUBSCRIBE: subscriptions, the ports of
//! their services, and what these services' workers said.
//!
//! A thread of its own owns the database; the reactor hands it [`Changes`] and never waits for it.
//! Without the database everything else works: clients subscribe again when the daemon starts anew.

mod file;
mod kept;
mod writer;

use std::path::Path;

pub use kept::{Changes, Kept, KeptReady, KeptService, KeptSubscription};
pub use writer::{Writer, WriterThread};

use file::open_or_set_aside;

/// The name of the database's file.
pub const FILE_NAME: &str = "state.redb";

/// An open database.
#[derive(Debug)]
pub struct State {
    /// What an earlier run left.
    pub kept: Kept,
    /// Takes what changes.
    pub writer: Writer,
    /// Ends when the writer is gone and all that it took is on disk.
    pub thread: WriterThread,
}

/// Opens the database in this directory, which is made if need be. A damaged one is moved aside, and
/// an empty one begun. `None` if it can't be used; the log says why, and what can be done.
pub fn open(directory: &Path) -> Option<State> {
    let path = directory.join(FILE_NAME);
    let opened = open_or_set_aside(&path).map_err(|error| error.to_string());
    let (file, kept) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            tracing::warn!(path = %path.display(),
                "subscriptions are not kept over a restart: {error}");
            return None;
        }
    };
    match Writer::start(path, file) {
        Ok((writer, thread)) => Some(State {
            kept,
            writer,
            thread,
        }),
        Err(error) => {
            tracing::warn!("subscriptions are not kept over a restart: no thread: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests;
