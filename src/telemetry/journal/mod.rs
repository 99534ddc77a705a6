//! The event log: notable things, each with a code that docs/events.md explains.
//!
//! Here it is decided that they go to the ordinary log, to a ring in memory that requests read, and
//! to a file. A thread of its own writes that, so whoever notes something never waits for a disk.

#[macro_use]
mod words;

mod file;
mod kinds;
mod notable;
mod record;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub use file::read_events;
pub use kinds::Kind;
pub use notable::{KINDS, Notable};
pub use record::rfc3339;

use super::log_writer::LineQueue;
use crate::ambient::wall_clock_ms;
use crate::config::Rotation;
use event_manager_wire::api::{EventsPage, NotableEvent};
use file::Writer;
use record::{line_of, record};

/// The latest events, in memory.
pub const RING_MAX: usize = 512;

/// Takes notable events; cheap to clone, shared by all threads.
#[derive(Debug, Clone, Default)]
pub struct Journal(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    instance: String,
    started_ms: u64,
    ring: Mutex<Ring>,
    /// On their way to the file; the default one has none.
    queue: Option<LineQueue>,
    writer: Mutex<Option<JoinHandle<()>>>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Ring {
    records: VecDeque<NotableEvent>,
    /// The number of the latest.
    last: u64,
}

impl Journal {
    /// One that is kept in memory only.
    pub fn in_memory(instance: String) -> Self {
        Self::new(instance, None)
    }

    /// One with a file that is rotated, which is opened with its first line.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub fn start(instance: String, path: PathBuf, rotation: Rotation) -> io::Result<Self> {
        let queue = LineQueue::default();
        let journal = Self::new(instance, Some(queue.clone()));
        let thread = std::thread::Builder::new().name("events".into()).spawn({
            let journal = journal.clone();
            move || journal.write_lines(&queue, &path, rotation)
        })?;
        *lock(&journal.0.writer) = Some(thread);
        Ok(journal)
    }

    fn new(instance: String, queue: Option<LineQueue>) -> Self {
        Self(Arc::new(Shared {
            instance,
            started_ms: wall_clock_ms(),
            queue,
            ..Shared::default()
        }))
    }

    fn write_lines(&self, queue: &LineQueue, path: &Path, rotation: Rotation) {
        let open = || file::open(path, rotation);
        let mut writer = Writer::new(open, Arc::clone(&self.0.lost));
        queue.serve(|work| {
            if work.reopen {
                writer.reopen();
            }
            let failed = work.line.and_then(|line| writer.write(&line));
            if let Some(error) = failed {
                self.note(&Notable::EventLogFailed {
                    path: &path.display().to_string(),
                    why: &error.to_string(),
                });
            }
            if work.dropped > 0 {
                writer.lose(work.dropped);
            }
        });
    }

    /// Writes an event to the ordinary log, the ring and the file. Never waits.
    pub fn note(&self, notable: &Notable<'_>) {
        notable.log();
        let mut ring = lock(&self.0.ring);
        ring.last += 1;
        let record = record(notable, ring.last, wall_clock_ms(), &self.0.instance);
        // Under the lock, so that the file has them by their numbers too.
        if let Some(queue) = &self.0.queue {
            queue.push(&line_of(&record));
        }
        if ring.records.len() >= RING_MAX {
            ring.records.pop_front();
        }
        ring.records.push_back(record);
    }

    /// The first `max` events after a number; without a number the latest `max`.
    pub fn page(&self, after: Option<u64>, max: usize) -> EventsPage {
        let ring = lock(&self.0.ring);
        let count = ring.records.len();
        let gone = ring.last - count as u64;
        let begin = match after {
            Some(after) => usize::try_from(after.saturating_sub(gone)).unwrap_or(count),
            None => count.saturating_sub(max),
        };
        let events = ring.records.iter().skip(begin).take(max).cloned();
        let events: Vec<_> = events.collect();
        let reached = events.last().map(|record| record.seq);
        EventsPage {
            instance: self.0.instance.clone(),
            started_ms: self.0.started_ms,
            events_after: reached.unwrap_or(ring.last),
            events,
            latest: ring.last,
            missed: after.map_or(0, |after| gone.saturating_sub(after)),
            lost_lines: self.0.lost.load(Ordering::Relaxed),
        }
    }

    /// Opens the file anew, in case somebody moved it.
    pub fn reopen(&self) {
        if let Some(queue) = &self.0.queue {
            queue.reopen();
        }
    }

    /// Writes what is still to be written, for at most this long; later events are not. Whether it is
    /// written.
    pub fn close(&self, patience: Duration) -> bool {
        let Some(queue) = &self.0.queue else {
            return true;
        };
        // A thread that is stuck on a disk that hangs can't be joined.
        let is_written = queue.close(patience);
        if is_written && let Some(thread) = lock(&self.0.writer).take() {
            let _ = thread.join();
        }
        is_written
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name for a daemon of this service in this process: `EventManager@host/4711`.
pub fn instance_name(service: &str) -> String {
    format!("{service}@{}/{}", host_name(), std::process::id())
}

/// What this machine is called.
pub fn host_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let host = host.or_else(|| std::env::var("HOSTNAME").ok());
    let host = host.unwrap_or_default();
    match host.trim() {
        "" => "localhost".into(),
        host => host.into(),
    }
}

#[cfg(test)]
mod tests;
