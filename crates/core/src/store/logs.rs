//! What the store does with commands, without a thread, a clock or a file system of its own.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use super::commands::{AppendTag, Appended, Command, Event, Outcome, QueueId, Report};
use super::openings::{Opening, Openings};
use crate::log::{Directory, LogError, NewEvent, QueueLog, StoredEvent};
use crate::seq::Seq;
use event_manager_wire::model::ServiceName;

/// What is committed together, in bytes of events.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// How long a record for which nobody waits may wait to share a commit with an append.
const SETTLE_DELAY: Duration = Duration::from_millis(100);
/// How often logs are trimmed, their retention is enforced, and failed ones try again.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);
/// For how long a log that is not written to keeps space for reuse.
const SPACE_KEPT: Duration = Duration::from_secs(60);

/// Why nothing is kept.
pub(super) const GONE: &str = "the state directory was removed";

/// The directories of all queues.
pub trait StateStore {
    type Directory: Directory;

    /// Whether they are still ours.
    fn is_held(&self) -> bool;

    /// Takes them again when they aren't; or says why not.
    fn hold_again(&mut self) -> Result<(), String>;

    /// The directory of a queue, which is created where it is missing.
    fn queue(&self, queue: &ServiceName) -> io::Result<Self::Directory>;

    /// Whether to read so many bytes would hold up the other queues.
    fn is_long(&self, bytes: u64) -> bool;

    /// Has a log read beside the store; [`Logs::opened`] is to be told of the outcome.
    ///
    /// # Errors
    /// That can't be now: the opening, which the store then runs itself.
    fn begin(&self, opening: Opening<Self::Directory>) -> Result<(), Opening<Self::Directory>>;

    /// Deletes a queue and its events.
    fn remove(&self, queue: &ServiceName) -> io::Result<()>;
}

/// Who hears reports, and the clocks.
pub trait Outside {
    fn report(&self, report: Report);
    fn now(&self) -> Instant;
    /// The wall clock, in milliseconds since 1970.
    fn wall_ms(&self) -> u64;
}

struct Log<D: Directory> {
    log: QueueLog<D>,
    /// Appends that wait for their commit.
    waiting: Vec<Appended>,
    /// Since when something waits to be committed that nobody waits for.
    dirty_since: Option<Instant>,
    /// Somebody waits for what was appended.
    is_urgent: bool,
    /// Somebody waits to give events to workers.
    owes_handing_out: bool,
    /// Its failure was reported.
    has_failed: bool,
    /// What was last reported that it holds, in bytes.
    holds: u64,
    /// How many segments it had when it was trimmed.
    segments: usize,
    /// Since when it has no use for the space that it may keep.
    keeps_since: Option<Instant>,
}

/// The logs of all queues: does what the store is asked, over the directories of `S`.
pub struct Logs<S: StateStore, O> {
    pub(super) state: S,
    by_queue: BTreeMap<QueueId, Log<S::Directory>>,
    pub(super) openings: Openings<S::Directory>,
    tidied: Instant,
    /// The state directory is not there any more, or another process's. That was reported.
    pub(super) has_lost_directory: bool,
    pub(super) outside: O,
}

impl<S: StateStore, O: Outside> Logs<S, O> {
    /// No queue is open yet.
    pub fn new(state: S, outside: O) -> Self {
        Self {
            state,
            by_queue: BTreeMap::new(),
            openings: Openings::default(),
            tidied: outside.now(),
            has_lost_directory: false,
            outside,
        }
    }

    /// Does what time asks for; to be called after each [`group`](Self::group), and when
    /// [`next_due`](Self::next_due) says so.
    pub fn tend(&mut self) {
        self.commit_due();
        self.tidy();
    }

    /// Commits and closes all. Nothing should be [under way](StateStore::begin) any more.
    pub fn end(self) {
        for (queue, mut log) in self.by_queue {
            log.commit(&queue, &self.outside);
            log.log.close();
        }
    }

    /// When [`tend`](Self::tend) should be called, at the latest.
    pub fn next_due(&self) -> Instant {
        let dirty = self.by_queue.values().filter_map(|log| log.dirty_since);
        let settled = dirty.min().map(|since| since + SETTLE_DELAY);
        let tidy = self.tidied + TIDY_INTERVAL;
        settled.map_or(tidy, |settled| settled.min(tidy))
    }

    /// Does this command and those that are there already; commits what they appended.
    pub fn group(&mut self, first: Command, mut next: impl FnMut() -> Option<Command>) {
        let mut reads = vec![];
        let mut bytes = 0;
        let mut command = Some(first);
        while let Some(now) = command {
            bytes += now.bytes();
            match now {
                read @ (Command::Read { .. } | Command::ReadThese { .. }) => reads.push(read),
                change
                @ (Command::Open { .. } | Command::Close { .. } | Command::Remove { .. }) => {
                    self.finish(&mut reads);
                    self.apply(change);
                }
                other => self.apply(other),
            }
            command = (bytes < GROUP_BYTES_MAX).then(&mut next).flatten();
        }
        self.finish(&mut reads);
    }

    /// Commits what was appended and is waited for; then reads.
    fn finish(&mut self, reads: &mut Vec<Command>) {
        for (queue, log) in &mut self.by_queue {
            if log.is_urgent || !(reads.is_empty() || log.waiting.is_empty()) {
                log.commit(queue, &self.outside);
            }
        }
        reads.drain(..).for_each(|read| self.apply(read));
    }

    fn apply(&mut self, command: Command) {
        let Some(command) = self.openings.hold(command) else {
            return;
        };
        match self.has_lost_directory {
            true => self.refuse(command),
            false => self.apply_there(command),
        }
    }

    fn apply_there(&mut self, command: Command) {
        match command {
            Command::Open { queue, limits } => self.open(queue, limits),
            Command::Append {
                queue,
                tag,
                events,
                urgent,
            } => self.append(queue, tag, &events, urgent),
            Command::HandOut { queue, on } => self.hand_out(queue, on),
            Command::Read {
                queue,
                from,
                events_max,
                bytes_max,
            } => {
                self.read(queue, from, |log| log.read(from, events_max, bytes_max));
            }
            Command::ReadThese {
                queue,
                seqs,
                bytes_max,
            } => {
                let from = seqs.first().copied().unwrap_or_default();
                self.read(queue, from, |log| log.read_these(&seqs, bytes_max));
            }
            Command::Close { queue } => {
                self.close(&queue);
                self.outside.report(Report::Closed { queue });
            }
            Command::Remove { queue } => self.remove(queue),
            Command::Limit { .. }
            | Command::Settle { .. }
            | Command::Attempts { .. }
            | Command::Later { .. } => self.note(command),
        }
    }

    /// Notes something in an open log, of which nothing is reported.
    fn note(&mut self, command: Command) {
        match command {
            Command::Limit { queue, limits } => {
                if let Some(log) = self.by_queue.get_mut(&queue) {
                    log.log.set_limits(limits);
                }
            }
            Command::Settle { queue, seqs } => self.change(&queue, |log| {
                seqs.into_iter().for_each(|seq| log.settle(seq));
            }),
            Command::Attempts {
                queue,
                attempts,
                in_hands,
            } => self.change(&queue, |log| {
                for (seq, attempts) in attempts {
                    log.note_attempts(seq, attempts);
                }
                log.set_in_hands(in_hands);
            }),
            Command::Later { queue, until_ms } => self.change(&queue, |log| {
                for (seq, until_ms) in until_ms {
                    log.note_later(seq, until_ms);
                }
            }),
            _ => {}
        }
    }

    fn remove(&mut self, queue: QueueId) {
        self.close(&queue);
        let removed = self.state.remove(&queue.name);
        self.outside.report(Report::Removed {
            queue,
            error: removed.err().map(|error| error.to_string()),
        });
    }

    /// Changes an open log; that is committed with the next append, or after [`SETTLE_DELAY`].
    fn change(&mut self, queue: &QueueId, change: impl FnOnce(&mut QueueLog<S::Directory>)) {
        if let Some(log) = self.by_queue.get_mut(queue) {
            change(&mut log.log);
            log.dirty_since.get_or_insert(self.outside.now());
        }
    }

    fn append(&mut self, queue: QueueId, tag: AppendTag, events: &[Event], urgent: bool) {
        let Some(log) = self.by_queue.get_mut(&queue) else {
            let reason = "the queue is not open".into();
            return self.outside.report(Report::Failed { queue, tag, reason });
        };
        log.append(&queue, tag, events, &self.outside);
        log.is_urgent |= urgent;
        log.dirty_since.get_or_insert(self.outside.now());
    }

    fn hand_out(&mut self, queue: QueueId, on: bool) {
        let Some(log) = self.by_queue.get_mut(&queue) else {
            return self.outside.report(Report::HandingOut { queue });
        };
        log.log.set_handing_out(on);
        log.dirty_since.get_or_insert(self.outside.now());
        log.is_urgent |= on;
        log.owes_handing_out |= on;
    }

    fn read(
        &mut self,
        queue: QueueId,
        from: Seq,
        read: impl FnOnce(&mut QueueLog<S::Directory>) -> io::Result<Vec<StoredEvent>>,
    ) {
        let log = self.by_queue.get_mut(&queue);
        // What is not open is not empty.
        let closed = || Err(io::Error::other("the queue is not open"));
        let read = log.map_or_else(closed, |log| {
            let read = read(&mut log.log);
            log.report_damage(&queue, &self.outside);
            read.map(|events| (events, log.log.unsettled_events()))
        });
        self.outside.report(match read {
            Ok((events, unsettled)) => Report::Stored {
                queue,
                from,
                events,
                unsettled,
            },
            Err(error) => Report::Unread {
                queue,
                from,
                reason: error.to_string(),
            },
        });
    }

    /// A log is open; if its directory is gone, nothing more is read or written there.
    pub(super) fn insert_open(
        &mut self,
        queue: QueueId,
        mut log: QueueLog<S::Directory>,
        is_gone: bool,
    ) {
        if is_gone {
            log.leave(GONE);
        }
        let mut log = Log {
            holds: log.unsettled_bytes(),
            log,
            waiting: vec![],
            dirty_since: Some(self.outside.now()),
            is_urgent: false,
            owes_handing_out: false,
            has_failed: false,
            segments: 0,
            keeps_since: Some(self.outside.now()),
        };
        log.report_damage(&queue, &self.outside);
        log.report_state(&queue, &self.outside);
        self.by_queue.insert(queue, log);
    }

    pub(super) fn close(&mut self, queue: &QueueId) {
        if let Some(mut log) = self.by_queue.remove(queue) {
            log.commit(queue, &self.outside);
            log.log.close();
        }
    }

    /// Commits settlements that have waited long enough.
    fn commit_due(&mut self) {
        let before = self.outside.now().checked_sub(SETTLE_DELAY);
        for (queue, log) in &mut self.by_queue {
            if log.dirty_since.is_some_and(|since| Some(since) <= before) {
                log.commit(queue, &self.outside);
            }
        }
    }

    fn tidy(&mut self) {
        if self.outside.now() < self.tidied + TIDY_INTERVAL {
            return;
        }
        self.tidied = self.outside.now();
        if !self.hold_directory() {
            return;
        }
        self.give_back();
        for (queue, log) in &mut self.by_queue {
            log.tidy(queue, &self.outside);
        }
    }

    /// Whether the state directory is ours. If somebody removed it, it is created again, unless another
    /// process has it by now.
    fn hold_directory(&mut self) -> bool {
        if self.state.is_held() {
            self.has_lost_directory = false;
            return true;
        }
        let locked = self.state.hold_again();
        let is_new = !std::mem::replace(&mut self.has_lost_directory, locked.is_err());
        if is_new || locked.is_ok() {
            let why = match &locked {
                Ok(()) => "it was created again".to_owned(),
                Err(error) => format!("it can't be created again, and nothing is kept: {error}"),
            };
            self.outside.report(Report::DirectoryGone { why });
        }
        self.openings.leave();
        for (queue, log) in &mut self.by_queue {
            log.log.leave(GONE);
            log.report_state(queue, &self.outside);
        }
        locked.is_ok()
    }

    /// What can't be done without a directory; it may be another process's that is there now.
    fn refuse(&mut self, command: Command) {
        let error = GONE.to_owned();
        self.outside.report(match command {
            Command::Open { queue, .. } => Report::OpenFailed {
                queue,
                reason: error,
            },
            Command::Read { queue, from, .. } => Report::Unread {
                queue,
                from,
                reason: error,
            },
            Command::Close { queue } => Report::Closed { queue },
            Command::Remove { queue } => Report::Removed {
                queue,
                error: Some(error),
            },
            command => return self.apply_there(command),
        });
    }

    /// What logs keep for reuse goes to all when one of them finds the disk full.
    fn give_back(&mut self) {
        let lack = self.by_queue.values().any(|log| log.log.lacks_space());
        let before = self.outside.now().checked_sub(SPACE_KEPT);
        for log in self.by_queue.values_mut() {
            if log
                .keeps_since
                .take_if(|since| lack || Some(*since) <= before)
                .is_some()
            {
                log.log.give_back();
            }
        }
    }
}

impl<D: Directory> Log<D> {
    fn append(
        &mut self,
        queue: &QueueId,
        tag: AppendTag,
        events: &[Event],
        outside: &impl Outside,
    ) {
        let mut outcomes = Vec::with_capacity(events.len());
        let now_ms = outside.wall_ms();
        for event in events {
            let mut outcome = self.append_one(event, now_ms);
            if let Err(LogError::CommitFirst) = outcome {
                self.commit(queue, outside);
                outcome = self.append_one(event, now_ms);
            }
            match outcome {
                Ok(outcome) => outcomes.push(outcome),
                Err(error) => {
                    return outside.report(Report::Failed {
                        queue: queue.clone(),
                        tag,
                        reason: error.to_string(),
                    });
                }
            }
        }
        self.waiting.push(Appended { tag, outcomes });
    }

    fn append_one(&mut self, event: &Event, now_ms: u64) -> Result<Outcome, LogError> {
        let seen = event.id.as_ref().and_then(|id| self.log.seen(id, now_ms));
        if let Some(seq) = seen {
            return Ok(Outcome::Seen(seq));
        }
        let new = NewEvent {
            id: event.id.as_deref(),
            attributes: &event.attributes,
            body: &event.body,
        };
        match self.log.append(new, now_ms) {
            Ok(seq) => Ok(Outcome::Appended(seq)),
            Err(LogError::TooLarge { .. }) => Ok(Outcome::TooLarge),
            Err(error) => Err(error),
        }
    }

    /// Commits what is buffered; tells those who wait for it.
    fn commit(&mut self, queue: &QueueId, outside: &impl Outside) {
        (self.dirty_since, self.is_urgent) = (None, false);
        if self.log.is_dirty() {
            self.keeps_since = Some(outside.now());
        }
        let committed = self.log.commit(outside.wall_ms());
        let error = committed.err().map(|error| error.to_string());
        self.log.commit_settled(outside.wall_ms());
        let has_lost = !self.waiting.is_empty() && error.is_some();
        self.report_appends(queue, error.as_deref(), outside);
        if std::mem::take(&mut self.owes_handing_out) {
            let queue = queue.clone();
            outside.report(Report::HandingOut { queue });
        }
        self.enforce(queue, outside);
        self.report_holds(queue, has_lost, outside);
        if self.log.segments() > self.segments {
            // One that is done with makes a file for the next.
            self.trim(outside);
        }
        self.report_state(queue, outside);
    }

    /// Says what became of the appends that waited.
    fn report_appends(&mut self, queue: &QueueId, error: Option<&str>, outside: &impl Outside) {
        let appends = std::mem::take(&mut self.waiting);
        let Some(reason) = error else {
            if !appends.is_empty() {
                self.holds = self.log.unsettled_bytes();
                outside.report(Report::Committed {
                    queue: queue.clone(),
                    appends,
                    holds: self.holds,
                });
            }
            return;
        };
        for Appended { tag, .. } in appends {
            outside.report(Report::Failed {
                queue: queue.clone(),
                tag,
                reason: reason.to_owned(),
            });
        }
    }

    fn trim(&mut self, outside: &impl Outside) {
        // A failure of trimming is one of the log and reported as such, or tried again.
        let before = self.log.segments();
        let _ = self.log.trim(outside.wall_ms());
        self.segments = self.log.segments();
        if self.segments < before {
            self.keeps_since = Some(outside.now());
        }
    }

    fn enforce(&mut self, queue: &QueueId, outside: &impl Outside) {
        let events = self.log.enforce(outside.wall_ms());
        if !events.is_empty() {
            self.dirty_since.get_or_insert(outside.now());
            outside.report(Report::Expelled {
                queue: queue.clone(),
                events,
            });
        }
    }

    fn tidy(&mut self, queue: &QueueId, outside: &impl Outside) {
        self.log.check_file();
        self.report_state(queue, outside);
        self.enforce(queue, outside);
        self.log.commit_settled(outside.wall_ms());
        self.trim(outside);
        if self.log.failed().is_some() && self.log.try_recover(outside.wall_ms()).is_ok() {
            // It works again when it knows what happened meanwhile.
            self.commit(queue, outside);
        }
        self.report_damage(queue, outside);
        self.report_state(queue, outside);
        self.report_holds(queue, false, outside);
    }

    /// Says what it holds, if that has changed, or what was lost is to be counted no more.
    fn report_holds(&mut self, queue: &QueueId, has_lost: bool, outside: &impl Outside) {
        let bytes = self.log.unsettled_bytes();
        if std::mem::replace(&mut self.holds, bytes) != bytes || has_lost {
            let queue = queue.clone();
            outside.report(Report::Holds { queue, bytes });
        }
    }

    /// Says what of the queue, or beside it, is not what it should be.
    fn report_damage(&mut self, queue: &QueueId, outside: &impl Outside) {
        let refused = self.log.take_refused();
        if !refused.is_empty() {
            outside.report(Report::Refused {
                queue: queue.clone(),
                refused,
            });
        }
        let damage = self.log.take_damage();
        if !damage.is_empty() {
            self.dirty_since.get_or_insert(outside.now());
            outside.report(Report::Damaged {
                queue: queue.clone(),
                damage,
            });
        }
    }

    fn report_state(&mut self, queue: &QueueId, outside: &impl Outside) {
        let failed = self.log.failed();
        if failed.is_some() != self.has_failed {
            self.has_failed = failed.is_some();
            outside.report(Report::State {
                queue: queue.clone(),
                failed: failed.map(Into::into),
            });
        }
    }
}
