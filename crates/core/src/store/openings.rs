//! Opening a queue's log reads all of it, which takes a third of a second for each GiB. A long one is read beside
//! the store, so that the other queues' events don't wait for it; what the store is asked about that queue does.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use super::commands::{Command, QueueId, Report};
use super::logs::{GONE, Logs, Outside, StateStore};
use crate::log::{Directory, LogError, LogLimits, QueueLog, Recovered, SegmentFile};
use event_manager_wire::model::ServiceName;

/// How many logs are read at the same time.
const UNDER_WAY_MAX: usize = 2;

/// A log that is to be opened.
#[derive(Debug)]
pub struct Opening<D> {
    queue: QueueId,
    directory: D,
    limits: LogLimits,
    /// What its segments take.
    bytes: u64,
}

/// A log that was opened, or why it could not be.
pub struct Opened<D: Directory> {
    queue: QueueId,
    log: Result<(QueueLog<D>, Recovered), LogError>,
}

impl<D: Directory> Opening<D> {
    fn new(queue: QueueId, directory: D, limits: LogLimits) -> Self {
        // What can't be looked at is reported when it is opened.
        let names = directory.names().unwrap_or_default();
        let files = names.iter().filter_map(|name| directory.open(name).ok());
        let bytes = files.filter_map(|file| file.bytes().ok()).sum();
        Self {
            queue,
            directory,
            limits,
            bytes,
        }
    }

    /// Which queue it is.
    pub fn queue(&self) -> &QueueId {
        &self.queue
    }

    /// Reads the log. The time is that of the wall clock, in ms since 1970.
    pub fn run(self, now_ms: u64) -> Opened<D> {
        let name = self.queue.name.as_str();
        Opened {
            log: QueueLog::open(self.directory, name, self.limits, now_ms),
            queue: self.queue,
        }
    }
}

impl<D: Directory> fmt::Debug for Opened<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = self.log.as_ref().err();
        write!(f, "Opened({}, {error:?})", self.queue)
    }
}

impl<D: Directory> Opened<D> {
    /// It could not be read, whatever is on the disk.
    pub fn failed(queue: QueueId, why: &'static str) -> Self {
        let log = Err(LogError::Disk(std::io::Error::other(why)));
        Self { queue, log }
    }
}

/// One queue that is being opened.
#[derive(Debug)]
struct Pending<D> {
    /// Waits for its turn; none if it is under way.
    opening: Option<Opening<D>>,
    /// What is to be done when it is open, in this order.
    held: VecDeque<Command>,
    /// The state directory was removed since.
    is_gone: bool,
}

/// The queues that are being opened, by their names: one of a newer generation waits as well.
#[derive(Debug)]
pub(super) struct Openings<D>(BTreeMap<ServiceName, Pending<D>>);

impl<D> Default for Openings<D> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<D> Openings<D> {
    /// Keeps a command whose queue is being opened until it is. Returns any other.
    pub(super) fn hold(&mut self, command: Command) -> Option<Command> {
        // Most of the time none is.
        if self.0.is_empty() {
            return Some(command);
        }
        match self.0.get_mut(&command.queue().name) {
            Some(pending) => {
                pending.held.push_back(command);
                None
            }
            None => Some(command),
        }
    }

    /// The state directory was removed.
    pub(super) fn leave(&mut self) {
        let pending = self.0.values_mut();
        pending.for_each(|pending| pending.is_gone = true);
    }

    fn add(&mut self, opening: Opening<D>) {
        let name = opening.queue.name.clone();
        let pending = Pending {
            opening: Some(opening),
            held: VecDeque::new(),
            is_gone: false,
        };
        self.0.insert(name, pending);
    }

    /// The next to begin: the shortest of those that wait, so that it doesn't wait for long ones.
    fn next(&mut self) -> Option<Opening<D>> {
        let under_way = self.0.values().filter(|pending| pending.opening.is_none());
        if under_way.count() >= UNDER_WAY_MAX {
            return None;
        }
        let waiting = self.0.values_mut().map(|pending| &mut pending.opening);
        let bytes = |opening: &&mut Option<Opening<D>>| opening.as_ref().map(|one| one.bytes);
        waiting
            .filter(|one| one.is_some())
            .min_by_key(bytes)?
            .take()
    }
}

impl<S: StateStore, O: Outside> Logs<S, O> {
    pub(super) fn open(&mut self, queue: QueueId, limits: LogLimits) {
        self.close(&queue);
        let directory = match self.state.queue(&queue.name) {
            Ok(directory) => directory,
            Err(error) => {
                let log = Err(LogError::Disk(error));
                return self.insert(Opened { queue, log }, false);
            }
        };
        let opening = Opening::new(queue, directory, limits);
        if self.state.is_long(opening.bytes) {
            self.openings.add(opening);
            self.begin();
        } else {
            let opened = opening.run(self.outside.wall_ms());
            self.insert(opened, false);
        }
    }

    /// Begins to read as many logs as may be read at once.
    fn begin(&mut self) {
        while let Some(opening) = self.openings.next() {
            let begun = match self.has_lost_directory {
                true => Err(Opened::failed(opening.queue, GONE)),
                false => self.state.begin(opening).map_err(|opening| {
                    let now_ms = self.outside.wall_ms();
                    opening.run(now_ms)
                }),
            };
            if let Err(opened) = begun {
                self.take(opened);
            }
        }
    }

    /// A log that [`StateStore::begin`] was to read is open, or can't be. Does what waited for it.
    pub fn opened(&mut self, opened: Opened<S::Directory>) {
        self.take(opened);
        self.begin();
    }

    fn take(&mut self, opened: Opened<S::Directory>) {
        let Some(pending) = self.openings.0.remove(&opened.queue.name) else {
            return;
        };
        self.insert(opened, pending.is_gone);
        let mut held = pending.held;
        while let Some(first) = held.pop_front() {
            self.group(first, || held.pop_front());
        }
    }

    fn insert(&mut self, opened: Opened<S::Directory>, is_gone: bool) {
        let Opened { queue, log } = opened;
        match log {
            Ok((log, recovered)) => {
                self.outside.report(Report::Opened {
                    queue: queue.clone(),
                    recovered,
                });
                self.insert_open(queue, log, is_gone);
            }
            Err(error) => self.outside.report(Report::OpenFailed {
                queue,
                reason: error.to_string(),
            }),
        }
    }
}
