//! What outlives the process, so that a restart needs no new SUBSCRIBE: subscriptions, the ports of
//! their services, their workers' READY modes, and the subscribers that publishers wait for.
//!
//! A thread of its own owns the database; the reactor hands it [`Changes`] and never waits for it.
//! Without the database everything else works: clients subscribe again when the daemon starts again.

mod file;
mod former;
mod instance;
mod kept;
mod taken;
mod writer;

use std::path::Path;

pub use instance::{INSTANCE_FILE, instance, known_instance};
pub use kept::{
    Changes, Kept, KeptInstance, KeptLease, KeptMarks, KeptReady, KeptService, KeptSubscription,
    KeptTurn,
};
pub use writer::{Writer, WriterThread};

use crate::store::Fence;
use crate::telemetry::{Journal, Notable};
use file::{Guard, open_or_set_aside};

/// The name of the database's file.
pub const FILE_NAME: &str = "state.db";

#[derive(Debug)]
pub struct State {
    /// What an earlier run left.
    pub kept: Kept,
    /// Accepts changes.
    pub writer: Writer,
    /// Ends when the writer is dropped and everything it accepted is on disk.
    pub thread: WriterThread,
}

/// Opens the database in this directory, which is created if necessary. A damaged database is moved
/// aside, and an empty one created. `None` if it can't be used; the log says why, and what to do.
pub fn open(directory: &Path, journal: &Journal) -> Option<State> {
    open_for(directory, (0, None), journal)
}

/// The same of a directory of this epoch, if it has one; written as long as the fence allows it.
pub fn open_for(
    directory: &Path,
    (epoch, fence): (u64, Option<Fence>),
    journal: &Journal,
) -> Option<State> {
    let path = taken::database_of(directory, epoch);
    let made = path.as_ref().err().map(ToString::to_string);
    let path = path.unwrap_or_else(|_| directory.join(FILE_NAME));
    let shown = path.display().to_string();
    let unavailable = |why: String| {
        journal.note(&Notable::StateUnavailable {
            path: &shown,
            why: &why,
        });
        None
    };
    if let Some(error) = made {
        return unavailable(error);
    }
    let guard = match fence {
        Some(_) => Guard::Lease,
        None => Guard::Lock,
    };
    let (file, kept) = match open_or_set_aside(&path, guard, journal) {
        Ok(opened) => opened,
        Err(error) => return unavailable(error.to_string()),
    };
    match Writer::start(path, (file, guard), fence, journal.clone()) {
        Ok((writer, thread)) => Some(State {
            kept,
            writer,
            thread,
        }),
        Err(error) => unavailable(format!("no thread: {error}")),
    }
}

#[cfg(test)]
mod tests;
