//! The thread that owns all logs, and those that read long ones for it.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SendError, SyncSender, TrySendError, sync_channel,
};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use event_manager_core::store::{
    Command, Full, Logs, Opened, Opening, Outside, QueueId, Report, Sink, StateStore,
};

use super::disk::{DiskDirectory, StateDir, StateDirError};
use super::fence::{Fence, Holding};
use crate::ambient::{now, wall_clock_ms};
use event_manager_wire::model::ServiceName;

/// Commands that may wait for the thread.
const COMMANDS_MAX: usize = 1024;
/// Bytes of events in commands that may wait; a single command may be larger.
const COMMAND_BYTES_MAX: usize = 64 << 20;
/// A log of fewer bytes is opened before the next command: that takes a millisecond.
const LONG_BYTES: u64 = 4 << 20;

/// What the thread hears.
#[derive(Debug)]
enum Word {
    Command(Command),
    /// A log that was read beside it.
    Opened(Box<Opened<DiskDirectory>>),
}

/// The thread that owns all logs of a state directory.
#[derive(Debug)]
pub struct Store {
    words: Arc<SyncSender<Word>>,
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
        let (words, receiver) = sync_channel(COMMANDS_MAX);
        let words = Arc::new(words);
        let disk = Disk {
            state,
            words: Arc::downgrade(&words),
        };
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let waiting = Arc::clone(&waiting_bytes);
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                let _last = LastWord(&report);
                let outside = Thread { report: &report };
                run(Logs::new(disk, outside), &receiver, &waiting);
            })?;
        Ok(Self {
            words,
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
        drop(self.words);
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
            self.words.try_send(Word::Command(command)).map_err(refused)
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

/// The command that the thread has no room for.
fn refused(error: TrySendError<Word>) -> Full {
    let (TrySendError::Full(word) | TrySendError::Disconnected(word)) = error;
    match word {
        Word::Command(command) => Full(command),
        Word::Opened(_) => unreachable!("only commands are sent here"),
    }
}
/// The state directory, and how to tell the thread that a log was read.
struct Disk {
    state: StateDir,
    /// Nobody, once the store is stopped.
    words: Weak<SyncSender<Word>>,
}

impl StateStore for Disk {
    type Directory = DiskDirectory;

    fn is_held(&self) -> bool {
        match self.state.fence() {
            // Whose lease is over writes no more, and ends: there is nothing to hold again.
            Some(fence) => {
                let _ = fence.check();
                true
            }
            None => self.state.is_held(),
        }
    }

    fn hold_again(&mut self) -> Result<(), String> {
        self.state.lock_again().map_err(|error| error.to_string())
    }

    fn queue(&self, queue: &ServiceName) -> io::Result<DiskDirectory> {
        self.state.queue(queue)
    }

    fn is_long(&self, bytes: u64) -> bool {
        bytes >= LONG_BYTES
    }

    fn begin(&self, opening: Opening<DiskDirectory>) -> Result<(), Opening<DiskDirectory>> {
        // With a sender of its own, the thread doesn't end before it has heard the outcome.
        let Some(words) = self.words.upgrade() else {
            return Err(opening);
        };
        let reader = Reader {
            queue: opening.queue().clone(),
            words: SyncSender::clone(&words),
        };
        // A thread that can't be had must not take the opening along.
        let (hand, taken) = sync_channel(1);
        let thread = std::thread::Builder::new().name("store-open".into());
        match thread.spawn(move || reader.run(&taken)) {
            Ok(_) => hand.send(opening).map_err(|SendError(opening)| opening),
            Err(_) => Err(opening),
        }
    }

    fn remove(&self, queue: &ServiceName) -> io::Result<()> {
        self.state.remove(queue)
    }
}

/// Reads one log, in a thread of its own.
struct Reader {
    queue: QueueId,
    words: SyncSender<Word>,
}

impl Reader {
    fn run(self, taken: &Receiver<Opening<DiskDirectory>>) {
        if let Ok(opening) = taken.recv() {
            self.say(opening.run(wall_clock_ms()));
        }
    }

    fn say(&self, opened: Opened<DiskDirectory>) {
        // Nobody hears it if the store has died.
        let _ = self.words.send(Word::Opened(Box::new(opened)));
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let why = "the thread that read its log has panicked";
            self.say(Opened::failed(self.queue.clone(), why));
        }
    }
}

fn run<O: Outside>(mut logs: Logs<Disk, O>, words: &Receiver<Word>, waiting_bytes: &AtomicUsize) {
    let received = |command: Command| {
        waiting_bytes.fetch_sub(command.bytes(), Ordering::Relaxed);
        command
    };
    loop {
        let due = logs.next_due().saturating_duration_since(now());
        let mut opened = None;
        match words.recv_timeout(due) {
            Ok(Word::Opened(log)) => opened = Some(log),
            Ok(Word::Command(first)) => {
                logs.group(received(first), || match words.try_recv().ok()? {
                    Word::Command(command) => Some(received(command)),
                    Word::Opened(log) => {
                        opened = Some(log);
                        None
                    }
                })
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if let Some(log) = opened {
            logs.opened(*log);
        }
        logs.tend();
    }
    logs.end();
}

#[cfg(test)]
mod tests;
