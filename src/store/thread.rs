//! The thread that owns all logs.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::commands::{AppendTag, Command, Event, Full, Outcome, QueueId, Report, Sink};
use super::disk::{DiskDirectory, StateDir, StateDirError};
use super::log::{LogError, LogLimits, NewEvent, QueueLog, StoredEvent};
use crate::ambient::{now, wall_clock_ms};
use crate::model::ServiceName;

/// Commands that may wait for the thread.
const COMMANDS_MAX: usize = 1024;
/// Bytes of events in commands that may wait; a single command may be larger.
const COMMAND_BYTES_MAX: usize = 64 << 20;
/// What is committed together, in bytes of events.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// For how long what nobody waits for may wait for an append to be committed with.
const SETTLE_DELAY: Duration = Duration::from_millis(100);
/// How often logs are trimmed, their retention is enforced, and failed ones try again.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);
/// For how long a log that is not written to keeps space to write in again.
const SPACE_KEPT: Duration = Duration::from_secs(60);

/// Why nothing is kept.
const GONE: &str = "the state directory was removed";

/// The thread that owns all logs of a state directory.
#[derive(Debug)]
pub struct Store {
    commands: SyncSender<Command>,
    waiting_bytes: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
    found: Vec<ServiceName>,
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
        let state = StateDir::lock(state_dir)?;
        let found = state.queues()?;
        let (commands, receiver) = sync_channel(COMMANDS_MAX);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let waiting = Arc::clone(&waiting_bytes);
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                let _last = LastWord(&report);
                let worker = Worker {
                    state,
                    logs: HashMap::new(),
                    waiting_bytes: waiting,
                    tidied: now(),
                    is_homeless: false,
                    report: &report,
                };
                worker.run(&receiver);
            })?;
        Ok(Self {
            commands,
            waiting_bytes,
            thread,
            found,
        })
    }

    /// The queues that the directory held when it was locked.
    pub fn found(&self) -> &[ServiceName] {
        &self.found
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

/// An append that waits for its commit.
struct Waiting {
    tag: AppendTag,
    outcomes: Vec<Outcome>,
}

struct Log {
    log: QueueLog<DiskDirectory>,
    waiting: Vec<Waiting>,
    /// Since when something waits to be committed that nobody waits for.
    dirty_since: Option<Instant>,
    /// Somebody waits for what was appended.
    is_urgent: bool,
    /// Somebody waits to give events to workers.
    is_asked_for_hands: bool,
    /// Its failure was reported.
    has_failed: bool,
    /// How many segments it had when it was trimmed.
    segments: usize,
    /// Since when it has no use for the space that it may keep.
    keeps_since: Option<Instant>,
}

struct Worker<F> {
    state: StateDir,
    logs: HashMap<QueueId, Log>,
    waiting_bytes: Arc<AtomicUsize>,
    tidied: Instant,
    /// The state directory is not there any more, or another process's. That was reported.
    is_homeless: bool,
    report: F,
}

impl<F: Fn(Report)> Worker<F> {
    fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let due = self.next_due().saturating_duration_since(now());
            match commands.recv_timeout(due) {
                Ok(first) => self.group(first, commands),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.commit_due();
            self.tidy();
        }
        for (queue, mut log) in self.logs {
            log.commit(&queue, &self.report);
            log.log.close();
        }
    }

    fn next_due(&self) -> Instant {
        let dirty = self.logs.values().filter_map(|log| log.dirty_since);
        let settled = dirty.min().map(|since| since + SETTLE_DELAY);
        let tidy = self.tidied + TIDY_INTERVAL;
        settled.map_or(tidy, |settled| settled.min(tidy))
    }

    /// Does this command and those that are there already; commits what they appended.
    fn group(&mut self, first: Command, commands: &Receiver<Command>) {
        let mut reads = vec![];
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(command) = next {
            let command_bytes = command.bytes();
            self.waiting_bytes
                .fetch_sub(command_bytes, Ordering::Relaxed);
            bytes += command_bytes;
            match command {
                read @ (Command::Read { .. } | Command::ReadThese { .. }) => reads.push(read),
                command @ (Command::Open { .. }
                | Command::Close { .. }
                | Command::Remove { .. }) => {
                    self.finish(&mut reads);
                    self.apply(command);
                }
                command => self.apply(command),
            }
            next = if bytes < GROUP_BYTES_MAX {
                commands.try_recv().ok()
            } else {
                None
            };
        }
        self.finish(&mut reads);
    }

    /// Commits what was appended and is waited for; then reads.
    fn finish(&mut self, reads: &mut Vec<Command>) {
        for (queue, log) in &mut self.logs {
            if log.is_urgent || !(reads.is_empty() || log.waiting.is_empty()) {
                log.commit(queue, &self.report);
            }
        }
        reads.drain(..).for_each(|read| self.apply(read));
    }

    fn apply(&mut self, command: Command) {
        match self.is_homeless {
            true => self.refuse(command),
            false => self.apply_there(command),
        }
    }

    fn apply_there(&mut self, command: Command) {
        match command {
            Command::Open { queue, limits } => self.open(queue, limits),
            Command::Limit { queue, limits } => {
                if let Some(log) = self.logs.get_mut(&queue) {
                    log.log.set_limits(limits);
                }
            }
            Command::Append {
                queue,
                tag,
                events,
                urgent,
            } => match self.logs.get_mut(&queue) {
                Some(log) => {
                    log.append(&queue, tag, &events, &self.report);
                    log.is_urgent |= urgent;
                    log.dirty_since.get_or_insert_with(now);
                }
                None => (self.report)(Report::Failed {
                    queue,
                    tag,
                    reason: "the queue is not open".into(),
                }),
            },
            Command::Settle { queue, seqs } => {
                if let Some(log) = self.logs.get_mut(&queue) {
                    seqs.into_iter().for_each(|seq| log.log.settle(seq));
                    log.dirty_since.get_or_insert_with(now);
                }
            }
            Command::Attempts {
                queue,
                attempts,
                in_hands,
            } => {
                if let Some(log) = self.logs.get_mut(&queue) {
                    for (seq, attempts) in attempts {
                        log.log.note_attempts(seq, attempts);
                    }
                    log.log.set_in_hands(in_hands);
                    log.dirty_since.get_or_insert_with(now);
                }
            }
            Command::Later { queue, until_ms } => {
                if let Some(log) = self.logs.get_mut(&queue) {
                    for (seq, until_ms) in until_ms {
                        log.log.note_later(seq, until_ms);
                    }
                    log.dirty_since.get_or_insert_with(now);
                }
            }
            Command::HandOut { queue, on } => match self.logs.get_mut(&queue) {
                Some(log) => {
                    log.log.set_handing_out(on);
                    log.dirty_since.get_or_insert_with(now);
                    log.is_urgent |= on;
                    log.is_asked_for_hands |= on;
                }
                None => (self.report)(Report::HandingOut { queue }),
            },
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
                (self.report)(Report::Closed { queue });
            }
            Command::Remove { queue } => {
                self.close(&queue);
                let removed = self.state.remove(&queue.name);
                (self.report)(Report::Removed {
                    queue,
                    error: removed.err().map(|error| error.to_string()),
                });
            }
        }
    }

    fn read(
        &mut self,
        queue: QueueId,
        from: u64,
        read: impl FnOnce(&mut QueueLog<DiskDirectory>) -> io::Result<Vec<StoredEvent>>,
    ) {
        let log = self.logs.get_mut(&queue);
        // What is not open is not empty.
        let closed = || Err(io::Error::other("the queue is not open"));
        let read = log.map_or_else(closed, |log| {
            let read = read(&mut log.log);
            log.report_damage(&queue, &self.report);
            read.map(|events| (events, log.log.unsettled_events()))
        });
        (self.report)(match read {
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

    fn open(&mut self, queue: QueueId, limits: LogLimits) {
        self.close(&queue);
        let directory = self.state.queue(&queue.name).map_err(LogError::Disk);
        let opened = directory.and_then(|directory| {
            QueueLog::open(directory, queue.name.as_str(), limits, wall_clock_ms())
        });
        match opened {
            Ok((log, recovered)) => {
                (self.report)(Report::Opened {
                    queue: queue.clone(),
                    recovered,
                });
                let mut log = Log {
                    log,
                    waiting: vec![],
                    dirty_since: Some(now()),
                    is_urgent: false,
                    is_asked_for_hands: false,
                    has_failed: false,
                    segments: 0,
                    keeps_since: Some(now()),
                };
                log.report_damage(&queue, &self.report);
                log.report_state(&queue, &self.report);
                self.logs.insert(queue, log);
            }
            Err(error) => (self.report)(Report::OpenFailed {
                queue,
                reason: error.to_string(),
            }),
        }
    }

    fn close(&mut self, queue: &QueueId) {
        if let Some(mut log) = self.logs.remove(queue) {
            log.commit(queue, &self.report);
            log.log.close();
        }
    }

    /// Commits settlements that have waited long enough.
    fn commit_due(&mut self) {
        let before = now().checked_sub(SETTLE_DELAY);
        for (queue, log) in &mut self.logs {
            if log.dirty_since.is_some_and(|since| Some(since) <= before) {
                log.commit(queue, &self.report);
            }
        }
    }

    fn tidy(&mut self) {
        if now() < self.tidied + TIDY_INTERVAL {
            return;
        }
        self.tidied = now();
        if !self.hold_directory() {
            return;
        }
        self.give_back();
        for (queue, log) in &mut self.logs {
            log.tidy(queue, &self.report);
        }
    }

    /// Whether the state directory is ours. If somebody removed it, it is begun anew, unless another
    /// process has it by now.
    fn hold_directory(&mut self) -> bool {
        if self.state.is_held() {
            self.is_homeless = false;
            return true;
        }
        let locked = self.state.lock_again();
        let is_new = !std::mem::replace(&mut self.is_homeless, locked.is_err());
        if is_new || locked.is_ok() {
            let why = match &locked {
                Ok(()) => "it is begun anew".to_owned(),
                Err(error) => format!("it can't be begun anew, and nothing is kept: {error}"),
            };
            (self.report)(Report::DirectoryGone { why });
        }
        for (queue, log) in &mut self.logs {
            log.log.leave(GONE);
            log.report_state(queue, &self.report);
        }
        locked.is_ok()
    }

    /// What can't be done without a directory; it may be another process's that is there now.
    fn refuse(&mut self, command: Command) {
        let error = GONE.to_owned();
        (self.report)(match command {
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

    /// What logs keep to write in again goes to all when one of them finds the disk full.
    fn give_back(&mut self) {
        let lack = self.logs.values().any(|log| log.log.lacks_space());
        let before = now().checked_sub(SPACE_KEPT);
        for log in self.logs.values_mut() {
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

impl Log {
    fn append(
        &mut self,
        queue: &QueueId,
        tag: AppendTag,
        events: &[Event],
        report: &impl Fn(Report),
    ) {
        let mut outcomes = Vec::with_capacity(events.len());
        let now_ms = wall_clock_ms();
        for event in events {
            let mut outcome = self.append_one(event, now_ms);
            if let Err(LogError::CommitFirst) = outcome {
                self.commit(queue, report);
                outcome = self.append_one(event, now_ms);
            }
            match outcome {
                Ok(outcome) => outcomes.push(outcome),
                Err(error) => {
                    return report(Report::Failed {
                        queue: queue.clone(),
                        tag,
                        reason: error.to_string(),
                    });
                }
            }
        }
        self.waiting.push(Waiting { tag, outcomes });
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
    fn commit(&mut self, queue: &QueueId, report: &impl Fn(Report)) {
        (self.dirty_since, self.is_urgent) = (None, false);
        if self.log.is_dirty() {
            self.keeps_since = Some(now());
        }
        let committed = self.log.commit(wall_clock_ms());
        let error = committed.err().map(|error| error.to_string());
        self.log.commit_settled(wall_clock_ms());
        for Waiting { tag, outcomes } in self.waiting.drain(..) {
            let queue = queue.clone();
            report(match &error {
                None => Report::Committed {
                    queue,
                    tag,
                    outcomes,
                },
                Some(reason) => Report::Failed {
                    queue,
                    tag,
                    reason: reason.clone(),
                },
            });
        }
        if std::mem::take(&mut self.is_asked_for_hands) {
            let queue = queue.clone();
            report(Report::HandingOut { queue });
        }
        self.enforce(queue, report);
        if self.log.segments() > self.segments {
            // One that is done with makes a file for the next.
            self.trim();
        }
        self.report_state(queue, report);
    }

    fn trim(&mut self) {
        // A failure of trimming is one of the log and reported as such, or tried again.
        let before = self.log.segments();
        let _ = self.log.trim(wall_clock_ms());
        self.segments = self.log.segments();
        if self.segments < before {
            self.keeps_since = Some(now());
        }
    }

    fn enforce(&mut self, queue: &QueueId, report: &impl Fn(Report)) {
        let events = self.log.enforce(wall_clock_ms());
        if !events.is_empty() {
            self.dirty_since.get_or_insert_with(now);
            report(Report::Expelled {
                queue: queue.clone(),
                events,
            });
        }
    }

    fn tidy(&mut self, queue: &QueueId, report: &impl Fn(Report)) {
        self.log.check_file();
        self.report_state(queue, report);
        self.enforce(queue, report);
        self.log.commit_settled(wall_clock_ms());
        self.trim();
        if self.log.failed().is_some() && self.log.try_recover(wall_clock_ms()).is_ok() {
            self.dirty_since.get_or_insert_with(now);
        }
        self.report_damage(queue, report);
        self.report_state(queue, report);
    }

    /// Says what of the queue, or beside it, is not what it should be.
    fn report_damage(&mut self, queue: &QueueId, report: &impl Fn(Report)) {
        let refused = self.log.take_refused();
        if !refused.is_empty() {
            report(Report::Refused {
                queue: queue.clone(),
                refused,
            });
        }
        let damage = self.log.take_damage();
        if !damage.is_empty() {
            self.dirty_since.get_or_insert_with(now);
            report(Report::Damaged {
                queue: queue.clone(),
                damage,
            });
        }
    }

    fn report_state(&mut self, queue: &QueueId, report: &impl Fn(Report)) {
        let failed = self.log.failed();
        if failed.is_some() != self.has_failed {
            self.has_failed = failed.is_some();
            report(Report::State {
                queue: queue.clone(),
                failed: failed.map(Into::into),
            });
        }
    }
}

#[cfg(test)]
mod tests;
