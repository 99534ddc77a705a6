//! The thread that owns all logs.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use event_manager_core::store::{Command, Full, Logs, Outside, Report, Sink, StateStore};

use super::disk::{DiskDirectory, StateDir, StateDirError};
use super::fence::{Fence, Holding};
use crate::ambient::{now, wall_clock_ms};
use event_manager_wire::model::ServiceName;

/// Commands that may wait for the thread.
const COMMANDS_MAX: usize = 1024;
/// Bytes of events in commands that may wait; a single command may be larger.
const COMMAND_BYTES_MAX: usize = 64 << 20;
/// The thread that owns all logs of a state directory.
#[derive(Debug)]
pub struct Store {
    commands: SyncSender<Command>,
    waiting_bytes: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
    found: Vec<ServiceName>,
    epoch: u64,
    fence: Option<Fence>,
}

impl Store {
    /// Locks the state directory and starts the thread, which calls `report`. No queue is open yet.
    ///
    /// # Errors
    /// [`StateDirError`]; also if the system has no thread.
    pub fn start(
        state_dir: &Path,
        report: impl Fn(Report) + Send + 'static,
    ) -> Result<Self, StateDirError> {
        Self::start_for(state_dir, None, report)
    }

    /// The same for the holder of a lease, as long as it has that.
    ///
    /// # Errors
    /// [`StateDirError`]; also if the system has no thread.
    pub fn start_for(
        state_dir: &Path,
        holding: Option<&Holding>,
        report: impl Fn(Report) + Send + 'static,
    ) -> Result<Self, StateDirError> {
        let state = StateDir::lock_for(state_dir, holding)?;
        let (epoch, fence) = (state.epoch(), state.fence().cloned());
        let found = state.queues()?;
        let (commands, receiver) = sync_channel(COMMANDS_MAX);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let waiting = Arc::clone(&waiting_bytes);
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                let _last = LastWord(&report);
                let outside = Thread { report: &report };
                run(Logs::new(state, outside), &receiver, &waiting);
            })?;
        Ok(Self {
            commands,
            waiting_bytes,
            thread,
            found,
            epoch,
            fence,
        })
    }

    /// The queues that the directory held when it was locked.
    pub fn found(&self) -> &[ServiceName] {
        &self.found
    }

    /// Higher than that of all who had the directory before; 0 if none of them had a lease.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Says whether anything may still be written to the directory, if that depends on a lease.
    pub fn fence(&self) -> Option<Fence> {
        self.fence.clone()
    }

    /// Does what was asked, commits it, and ends the thread.
    pub fn stop(self) {
        drop(self.commands);
        // Should it have panicked, that was reported where it happened.
        let _ = self.thread.join();
    }
}

impl Sink for Store {
    fn try_send(&self, command: Command) -> Result<(), Full> {
        let bytes = command.bytes();
        let waiting = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let sent = if waiting > 0 && waiting + bytes > COMMAND_BYTES_MAX {
            Err(Full(command))
        } else {
            self.commands
                .try_send(command)
                .map_err(|error| match error {
                    TrySendError::Full(command) | TrySendError::Disconnected(command) => {
                        Full(command)
                    }
                })
        };
        if sent.is_err() {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        sent
    }
}

/// Says so if the thread panics.
struct LastWord<'a, F: Fn(Report)>(&'a F);

impl<F: Fn(Report)> Drop for LastWord<'_, F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.0)(Report::Died);
        }
    }
}

/// The real clocks.
struct Thread<'a, F> {
    report: &'a F,
}

impl<F: Fn(Report)> Outside for Thread<'_, F> {
    fn report(&self, report: Report) {
        (self.report)(report);
    }

    fn now(&self) -> Instant {
        now()
    }

    fn wall_ms(&self) -> u64 {
        wall_clock_ms()
    }
}

impl StateStore for StateDir {
    type Directory = DiskDirectory;

    fn is_held(&self) -> bool {
        self.is_held()
    }

    fn hold_again(&mut self) -> Result<(), String> {
        self.lock_again().map_err(|error| error.to_string())
    }

    fn queue(&self, queue: &ServiceName) -> io::Result<DiskDirectory> {
        self.queue(queue)
    }

    fn remove(&self, queue: &ServiceName) -> io::Result<()> {
        self.remove(queue)
    }
}

fn run<O: Outside>(
    mut logs: Logs<StateDir, O>,
    commands: &Receiver<Command>,
    waiting_bytes: &AtomicUsize,
) {
    let received = |command: Command| {
        waiting_bytes.fetch_sub(command.bytes(), Ordering::Relaxed);
        command
    };
    loop {
        let due = logs.next_due().saturating_duration_since(now());
        match commands.recv_timeout(due) {
            Ok(first) => logs.group(received(first), || commands.try_recv().ok().map(received)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        logs.tend();
    }
    logs.end();
}

#[cfg(test)]
mod tests;
