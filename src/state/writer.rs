//! The thread that owns the database.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

use super::file::{Guard, StateFile, open_or_set_aside};
use super::kept::Changes;
use crate::ambient::now;
use crate::store::{Fence, keep_room};
use crate::telemetry::{Bursts, Journal, Notable};

/// The most changes that wait for the thread; beyond that the reactor merges its own.
const CHANGES_MAX: usize = 1024;
/// Changes within this time are one commit.
const COMMIT_INTERVAL: Duration = Duration::from_millis(20);
/// How long to wait after an error before reopening the database.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is seen to that there is room for who takes over, at most.
const ROOM_INTERVAL: Duration = Duration::from_secs(10);

/// What both sides of the channel share.
#[derive(Debug, Default)]
struct Progress {
    /// The number of changes on disk, or superseded by the whole state that follows.
    done: AtomicU64,
    /// The content of the disk is unknown: the whole state has to be written.
    wants_whole: AtomicBool,
    /// The last write failed, or the file is gone.
    is_failing: AtomicBool,
    /// Notified after each write.
    written: Arc<Notify>,
}

/// The reactor's end: accepts changes, and never waits.
#[derive(Debug)]
pub struct Writer {
    /// `None` asks for a check of the file.
    changes: mpsc::Sender<Option<Changes>>,
    taken: u64,
    progress: Arc<Progress>,
}

/// The thread.
#[derive(Debug)]
pub struct WriterThread {
    thread: JoinHandle<()>,
    /// Disconnected when it ends.
    ended: std::sync::mpsc::Receiver<()>,
}

impl WriterThread {
    /// Waits for the thread's end, which follows the writer's; returns whether it came in time.
    pub fn join(self, timeout: Duration) -> bool {
        match self.ended.recv_timeout(timeout) {
            Err(RecvTimeoutError::Timeout) => false,
            Ok(()) | Err(RecvTimeoutError::Disconnected) => self.thread.join().is_ok(),
        }
    }
}

impl Writer {
    pub(super) fn start(
        path: PathBuf,
        (file, guard): (StateFile, Guard),
        fence: Option<Fence>,
        journal: Journal,
    ) -> std::io::Result<(Self, WriterThread)> {
        let (changes, changes_rx) = mpsc::channel(CHANGES_MAX);
        let (running, ended) = std::sync::mpsc::channel();
        let progress = Arc::<Progress>::default();
        let work = Work {
            path,
            file: Some(file),
            guard,
            fence,
            progress: Arc::clone(&progress),
            bursts: Bursts::default(),
            room_kept: None,
            journal,
        };
        let thread = std::thread::Builder::new()
            .name("state".into())
            .spawn(move || {
                work.run(changes_rx);
                drop(running);
            })?;
        let writer = Self {
            changes,
            taken: 0,
            progress,
        };
        Ok((writer, WriterThread { thread, ended }))
    }

    /// Whether there is room for changes now.
    pub fn has_room(&self) -> bool {
        self.changes.capacity() > 0
    }

    /// Accepts changes; false if there is no [room](Self::has_room), or the thread is gone.
    pub fn take(&mut self, changes: Changes) -> bool {
        let taken = self.changes.try_send(Some(changes)).is_ok();
        self.taken += u64::from(taken);
        taken
    }

    /// Has the thread check whether the file still exists, if it has nothing else to do.
    pub fn look(&self) {
        // If there is no room, it is busy with the file anyway.
        let _ = self.changes.try_send(None);
    }

    /// Notified when changes were written, or could not be.
    pub fn written(&self) -> Arc<Notify> {
        Arc::clone(&self.progress.written)
    }

    /// A mark for everything accepted so far.
    pub fn mark(&self) -> u64 {
        self.taken
    }

    /// Whether everything accepted up to this mark is on disk.
    pub fn has_written(&self, mark: u64) -> bool {
        let progress = &self.progress;
        let done = progress.done.load(Ordering::Acquire) >= mark;
        // Failed changes are part of the whole state, which is written next.
        done && !progress.wants_whole.load(Ordering::Relaxed) && !self.is_failing()
    }

    /// Whether the whole state has to be written, because after an error the content of the disk is
    /// unknown. True once for each error.
    pub fn wants_whole(&self) -> bool {
        self.progress.wants_whole.swap(false, Ordering::Relaxed)
    }

    /// Whether the last write failed; it is tried again.
    pub fn is_failing(&self) -> bool {
        self.progress.is_failing.load(Ordering::Relaxed)
    }

    /// Whether everything accepted is on disk.
    pub fn is_idle(&self) -> bool {
        !self.progress.wants_whole.load(Ordering::Relaxed)
            && self.progress.done.load(Ordering::Acquire) == self.taken
    }
}

struct Work {
    path: PathBuf,
    /// None after an error.
    file: Option<StateFile>,
    guard: Guard,
    fence: Option<Fence>,
    progress: Arc<Progress>,
    bursts: Bursts,
    room_kept: Option<Instant>,
    journal: Journal,
}

impl Work {
    fn run(mut self, mut changes: mpsc::Receiver<Option<Changes>>) {
        self.keep_room();
        while let Some(first) = changes.blocking_recv() {
            let mut waiting = vec![first];
            while let Ok(more) = changes.try_recv() {
                waiting.push(more);
            }
            self.miss_file();
            let mut waiting = waiting.into_iter().flatten();
            let Some(mut together) = waiting.next() else {
                continue;
            };
            let mut count = 1;
            for more in waiting {
                together.add(more);
                count += 1;
            }
            let written = self.write(&together);
            if let Err(error) = &written {
                self.file = None;
                self.progress.wants_whole.store(true, Ordering::Relaxed);
                if let Some(suppressed) = self.bursts.admit("error", now()) {
                    self.journal.note(&Notable::StateFailed {
                        path: &self.path.display().to_string(),
                        why: error,
                        suppressed,
                    });
                }
            }
            self.progress
                .is_failing
                .store(self.file.is_none(), Ordering::Relaxed);
            self.progress.done.fetch_add(count, Ordering::Release);
            self.progress.written.notify_one();
            self.keep_room();
            rest(if written.is_ok() {
                COMMIT_INTERVAL
            } else {
                RETRY_INTERVAL
            });
        }
    }

    /// Only who serves under a lease is taken over from.
    fn keep_room(&mut self) {
        let at = now();
        let is_due = self.room_kept.is_none_or(|kept| at >= kept + ROOM_INTERVAL);
        let may = self
            .fence
            .as_ref()
            .is_some_and(|fence| fence.check().is_ok());
        if let Some(directory) = self.path.parent().filter(|_| is_due && may) {
            keep_room(directory);
            self.room_kept = Some(at);
        }
    }

    /// If somebody removed the file, what is written would never be found: everything is rewritten.
    fn miss_file(&mut self) {
        if self.file.take_if(|file| file.is_gone(&self.path)).is_some() {
            self.journal.note(&Notable::StateGone {
                path: &self.path.display().to_string(),
            });
            self.progress.wants_whole.store(true, Ordering::Relaxed);
            self.progress.is_failing.store(true, Ordering::Relaxed);
        }
    }

    /// After an error only the whole state repairs the database; earlier changes are part of it
    /// anyway.
    fn write(&mut self, changes: &Changes) -> Result<(), String> {
        if let Some(fence) = &self.fence {
            fence.check().map_err(|error| error.to_string())?;
        }
        if let Some(file) = &mut self.file {
            return file.write(changes).map_err(|error| error.to_string());
        }
        if !changes.whole {
            return Ok(());
        }
        let (mut file, _) = open_or_set_aside(&self.path, self.guard, &self.journal)
            .map_err(|error| error.to_string())?;
        file.write(changes).map_err(|error| error.to_string())?;
        self.file = Some(file);
        self.journal.note(&Notable::StateRecovered {
            path: &self.path.display().to_string(),
        });
        Ok(())
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "so that what comes meanwhile is written together"
)]
fn rest(interval: Duration) {
    std::thread::sleep(interval);
}
