//! The log of one queue: segments of records, appended in commits, over a [`Directory`].
//!
//! [`QueueLog`] owns no clock, thread or file system. Its format is in `docs/log-format.md`.

mod begin;
mod candidates;
mod copies;
mod directory;
mod format;
mod ids;
mod index;
mod read;
mod recovery;
mod reserve;
mod scan;
mod trim;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};

pub(crate) use copies::Copies;
pub use directory::{Directory, SegmentFile};
use format::{EventRecord, NUMBER_MAX};
use ids::Ids;
use index::{Index, Segment, Slot};
use recovery::Unproven;
pub use types::{
    Damage, ExpelReason, Expelled, LogError, LogLimits, NOTES_KEPT_BYTES, NewEvent, Recovered,
    Refused, StoredEvent,
};

use crate::seq::Seq;

/// The largest commit, in bytes.
const COMMIT_BYTES_MAX: usize = 512 << 20;
/// Larger buffers are freed after use.
const BUFFER_BYTES_KEPT: usize = 4 << 20;

/// How a segment's file is created.
type Create<D> = fn(&D, &str) -> io::Result<<D as Directory>::File>;

/// The log of one queue.
///
/// Appended events, settlements and attempts are buffered, and durable when [`Self::commit`] has
/// returned `Ok`. Sequence numbers go up from 1 and are not used again, also after restarts.
///
/// When a write or sync fails, the log has *failed*: it takes no events, but can still be read and
/// settled. It goes on in a new segment, which says where the one before it ends, so that what was
/// not committed is never found again. If the disk is full, settlements are written into a segment for
/// which space was reserved.
#[derive(Debug)]
pub struct QueueLog<D: Directory> {
    directory: D,
    /// The queue's name, as in its segments' headers.
    queue: String,
    /// When the queue began, in ms since 1970.
    queue_created_ms: u64,
    /// Of its next segments.
    epoch: u64,
    limits: LogLimits,
    index: Index,
    ids: Ids,
    next_seq: Seq,
    /// The highest number that a segment had, or should have had.
    last_number: u64,
    /// The newest segment, if more may be appended to it; if the log has failed, only settlements.
    active: Option<D::File>,
    /// The segment that was read last.
    reader: Option<(u64, D::File)>,
    /// Records of the events to commit.
    records: Vec<u8>,
    /// The same events, by their offset in `records`.
    buffered: Vec<Slot>,
    settled: Vec<Seq>,
    attempts: BTreeMap<Seq, u32>,
    /// When events that came back may be delivered again, in ms since 1970; and those of which the next
    /// commit has to say it.
    later: BTreeMap<Seq, u64>,
    owed_later: BTreeMap<Seq, u64>,
    /// Events that workers hold.
    in_hands: BTreeSet<Seq>,
    /// Events below this number may have been delivered to workers, though no attempt is recorded. While it is
    /// not 0, each commit says so: any segment may be the oldest one that is left.
    given_below: Seq,
    /// The same as the last commit said it.
    given_committed: Seq,
    /// What an earlier run left in `given_below`.
    given_before: Seq,
    /// Some ids are in no segment, as theirs was deleted while the log had failed.
    homeless_ids: bool,
    /// A file was removed, and the directory not synced since.
    owes_sync: bool,
    unproven: Vec<Unproven>,
    /// Files without a record, to be removed when there is a newer segment.
    leftovers: Vec<String>,
    damage: Vec<Damage>,
    refused: Vec<Refused>,
    failed: Option<String>,
    /// It failed because the disk is full.
    lacks_space: bool,
}

impl<D: Directory> QueueLog<D> {
    /// Opens the log of a queue that a directory holds, or begins one in an empty directory. If the disk
    /// lets it be read but not written, it is open and has [failed](Self::failed). Files that have a
    /// segment's name and are none of this queue's are [refused](Self::take_refused).
    ///
    /// # Errors
    /// The directory or a file can't be opened, or has a newer format. Nothing was changed.
    pub fn open(
        directory: D,
        queue: &str,
        limits: LogLimits,
        now_ms: u64,
    ) -> Result<(Self, Recovered), LogError> {
        let mut recovery = recovery::recover(&directory, queue, &limits, now_ms)?;
        let later = recovery.take_later();
        let recovered = Recovered {
            created_ms: recovery.created_ms,
            next_seq: recovery.next_seq,
            unsettled_events: recovery.index.live_events,
            unsettled_bytes: recovery.index.live_bytes,
            lowest_unsettled: recovery.index.first_live(Seq::ZERO).map(|found| found.seq),
            given_below: recovery.given_below.min(recovery.next_seq),
            later: later.iter().map(|(seq, at)| (*seq, *at)).collect(),
            attributes: recovery.take_attributes(),
            damage: recovery.damage,
            torn_bytes: recovery.torn_bytes,
        };
        let mut log = Self {
            epoch: directory.epoch().max(recovery.epoch),
            directory,
            queue: queue.to_owned(),
            queue_created_ms: recovered.created_ms,
            limits,
            index: recovery.index,
            ids: recovery.ids,
            next_seq: recovery.next_seq,
            last_number: recovery.last_number,
            active: None,
            reader: None,
            records: vec![],
            buffered: vec![],
            settled: recovery.missing,
            attempts: BTreeMap::new(),
            later,
            owed_later: BTreeMap::new(),
            in_hands: BTreeSet::new(),
            given_below: recovered.given_below,
            given_committed: recovered.given_below,
            given_before: recovered.given_below,
            homeless_ids: false,
            // What was removed before a crash may not be durable.
            owes_sync: true,
            unproven: recovery.unproven,
            leftovers: recovery.leftovers,
            damage: vec![],
            refused: recovery.refused,
            failed: None,
            lacks_space: false,
        };
        if let Err(error) = log.prove().and_then(|()| log.shut_out_former(now_ms)) {
            log.fail(&error);
        }
        Ok((log, recovered))
    }

    /// Changes the bounds. What is above them goes when [`enforce`](Self::enforce) is called.
    pub fn set_limits(&mut self, limits: LogLimits) {
        self.ids
            .set_bounds(limits.dedup_window_ms, limits.dedup_ids_max);
        self.limits = limits;
    }

    /// Why the log takes no events, if it has failed.
    pub fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Whether it has failed because the disk is full.
    pub fn lacks_space(&self) -> bool {
        self.failed.is_some() && self.lacks_space
    }

    /// How many committed events are unsettled.
    pub fn unsettled_events(&self) -> u64 {
        self.index.live_events
    }

    /// What their records take, in bytes.
    pub fn unsettled_bytes(&self) -> u64 {
        self.index.live_bytes
    }

    /// Whether there is anything to commit.
    pub fn is_dirty(&self) -> bool {
        !(self.buffered.is_empty()
            && self.settled.is_empty()
            && self.attempts.is_empty()
            && self.owed_later.is_empty())
            || self.homeless_ids
            || self.given_below != self.given_committed
    }

    /// The event that was appended with this id within the window, buffered ones included.
    pub fn seen(&self, id: &[u8], now_ms: u64) -> Option<Seq> {
        self.ids.seen(id, now_ms)
    }

    /// Returns damage found by reading and trimming since the last call.
    pub fn take_damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }

    /// Returns files found not to be the log's since the last call.
    pub fn take_refused(&mut self) -> Vec<Refused> {
        std::mem::take(&mut self.refused)
    }

    /// Buffers an event; returns its sequence number. Ask first whether its id was [seen](Self::seen):
    /// if so, that is not known of the older event any more.
    ///
    /// # Errors
    /// [`LogError::Failed`], [`LogError::TooLarge`] or [`LogError::CommitFirst`].
    pub fn append(&mut self, event: NewEvent<'_>, time_ms: u64) -> Result<Seq, LogError> {
        self.check_usable()?;
        let seq = self.next_seq;
        let record = EventRecord {
            seq,
            time_ms,
            attempts: 0,
            id: event.id,
            attributes: event.attributes,
            body: event.body,
        };
        self.check_size(&record)?;
        let offset = self.records.len();
        format::put_event(&mut self.records, &record, false);
        self.buffered.push(Slot {
            offset: offset as u32,
            bytes: (self.records.len() - offset) as u32,
            attempts: 0,
            seconds: seconds(time_ms),
        });
        self.next_seq = seq.next();
        if let Some(id) = event.id {
            self.ids.remember(id, seq, time_ms, Ids::NOWHERE);
        }
        Ok(seq)
    }

    fn check_size(&self, record: &EventRecord<'_>) -> Result<(), LogError> {
        let bytes = record.record_bytes();
        let max = self.limits.event_bytes_max.min(255 << 20);
        let id_bytes = record.id.map_or(0, <[u8]>::len);
        if id_bytes > format::ID_BYTES_MAX {
            return Err(LogError::TooLarge {
                bytes: id_bytes,
                max: format::ID_BYTES_MAX,
            });
        }
        if bytes - format::EVENT_RECORD_BYTES_MIN > max {
            let bytes = bytes - format::EVENT_RECORD_BYTES_MIN;
            return Err(LogError::TooLarge { bytes, max });
        }
        if self.records.len() + bytes > COMMIT_BYTES_MAX {
            return Err(LogError::CommitFirst);
        }
        Ok(())
    }

    /// Settles an event, whatever became of it. No effect if it is settled already.
    pub fn settle(&mut self, seq: Seq) {
        self.in_hands.remove(&seq);
        if self.index.remove(seq) || self.is_buffered(seq) {
            self.attempts.remove(&seq);
            self.owed_later.remove(&seq);
            self.later.remove(&seq);
            self.settled.push(seq);
        }
    }

    /// Records how often an unsettled event has been delivered to workers.
    pub fn note_attempts(&mut self, seq: Seq, attempts: u32) {
        if self.index.set_attempts(seq, attempts) || self.is_buffered(seq) {
            self.attempts.insert(seq, attempts);
        }
        self.in_hands.remove(&seq);
    }

    /// Workers hold these events: retention leaves them alone, until they are settled or
    /// [given back](Self::note_attempts). That is not kept over a restart.
    pub fn set_in_hands(&mut self, seqs: impl IntoIterator<Item = Seq>) {
        let unsettled = seqs.into_iter().filter(|seq| self.index.is_live(*seq));
        self.in_hands.extend(unsettled);
    }

    /// An unsettled event is not to be given out before this time, in ms since 1970.
    pub fn note_later(&mut self, seq: Seq, until_ms: u64) {
        if self.index.is_live(seq) || self.is_buffered(seq) {
            self.owed_later.insert(seq, until_ms);
        }
    }

    /// Whether events are delivered to workers from now on. Once that is committed, who finds the log after a
    /// crash knows that unsettled events may have been delivered to workers even if no attempt is recorded. If
    /// none is given any more, all attempts should have been recorded.
    pub fn set_handing_out(&mut self, is_handing_out: bool) {
        let oldest = self.index.first_live(Seq::ZERO);
        self.given_below = match is_handing_out {
            true => Seq(NUMBER_MAX),
            // Of those that an earlier run left it is as unknown as before.
            false if oldest.is_some_and(|found| found.seq < self.given_before) => self.given_before,
            false => Seq::ZERO,
        };
    }

    fn first_buffered(&self) -> Seq {
        Seq(self.next_seq.0 - self.buffered.len() as u64)
    }

    fn is_buffered(&self, seq: Seq) -> bool {
        (self.first_buffered()..self.next_seq).contains(&seq)
    }

    fn check_usable(&self) -> Result<(), LogError> {
        match &self.failed {
            Some(reason) => Err(LogError::Failed(reason.clone())),
            None => Ok(()),
        }
    }

    /// Makes everything buffered durable: one write and one sync, and some more for a new segment.
    ///
    /// # Errors
    /// [`LogError::Failed`]: the buffered events are lost.
    pub fn commit(&mut self, now_ms: u64) -> Result<(), LogError> {
        self.check_usable()?;
        if !self.is_dirty() {
            return Ok(());
        }
        self.settled.sort_unstable();
        self.settled.dedup();
        let mut records = std::mem::take(&mut self.records);
        let attempts: Vec<_> = self.attempts.iter().map(|(seq, n)| (*seq, *n)).collect();
        format::put_attempts(&mut records, &attempts);
        let later: Vec<_> = self
            .owed_later
            .iter()
            .map(|(seq, at)| (*seq, *at))
            .collect();
        format::put_later(&mut records, &later);
        format::put_settled(&mut records, &self.settled);
        if self.homeless_ids {
            self.put_ids(&mut records, Ids::NOWHERE);
        }
        if self.given_below > Seq::ZERO || self.given_committed > Seq::ZERO {
            format::put_given(&mut records, self.given_below);
        }
        let written = self.write(&mut records, now_ms);
        records.clear();
        if records.capacity() <= BUFFER_BYTES_KEPT {
            self.records = records;
        }
        match written {
            Ok((segment, offset)) => {
                self.committed(segment, offset, now_ms);
                Ok(())
            }
            Err(error) => Err(self.fail(&error)),
        }
    }

    /// Appends the ids that a segment holds and that should be remembered without it.
    fn put_ids(&self, records: &mut Vec<u8>, segment: u64) {
        let buffered = self.first_buffered();
        for (seq, time_ms, id) in self.ids.held_by(segment).filter(|held| held.0 < buffered) {
            format::put_id(records, seq, time_ms, id);
        }
    }

    fn committed(&mut self, segment: u64, offset: u64, now_ms: u64) {
        if std::mem::take(&mut self.homeless_ids) {
            self.ids.move_all(Ids::NOWHERE, segment);
        }
        self.given_committed = self.given_below;
        self.ids.committed_from(self.first_buffered(), segment);
        self.ids.forget_old(now_ms);
        for slot in self.buffered.drain(..) {
            self.index.push(Slot {
                offset: slot.offset + offset as u32,
                ..slot
            });
        }
        for (seq, attempts) in std::mem::take(&mut self.attempts) {
            self.index.set_attempts(seq, attempts);
        }
        if !self.owed_later.is_empty() {
            // Of those that retention took nobody told.
            self.later.retain(|_, until_ms| *until_ms > now_ms);
            self.later.append(&mut self.owed_later);
        }
        for seq in self.settled.drain(..) {
            self.index.remove(seq);
        }
    }

    /// Writes and syncs records; returns the segment and the offset of the first.
    fn write(&mut self, records: &mut [u8], now_ms: u64) -> io::Result<(u64, u64)> {
        let segment_bytes = self.limits.segment_bytes.min(1 << 30);
        let is_full = |segment: &Segment| {
            !segment.is_blank() && segment.bytes + records.len() as u64 > segment_bytes
        };
        if self.active.is_none() || self.index.segments.back().is_some_and(is_full) {
            self.reserve()?;
            self.begin_segment(now_ms, D::create)?;
        }
        let (Some(file), Some(segment)) = (&self.active, self.index.segments.back_mut()) else {
            return Err(io::Error::other("there is no segment"));
        };
        let offset = segment.bytes;
        format::seal(records, segment.number, offset);
        file.write_at(offset, records)?;
        file.sync()?;
        segment.bytes += records.len() as u64;
        Ok((segment.number, offset))
    }

    /// Discards what is buffered, and accepts no more.
    fn fail(&mut self, error: &io::Error) -> LogError {
        let buffered = self.first_buffered();
        self.ids.forget_from(buffered);
        self.settled.retain(|seq| *seq < buffered);
        self.attempts.retain(|seq, _| *seq < buffered);
        self.owed_later.retain(|seq, _| *seq < buffered);
        self.buffered.clear();
        self.records.clear();
        self.end_segment();
        let kind = error.kind();
        self.lacks_space = matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
        let reason = error.to_string();
        self.failed = Some(reason.clone());
        LogError::Failed(reason)
    }

    /// Nothing more is appended to the newest segment.
    fn end_segment(&mut self) {
        if let (Some(file), Some(segment)) = (self.active.take(), self.index.segments.back()) {
            // Gives back what may be missed on a full disk; that it isn't valid doesn't depend on it.
            let _ = file.truncate(segment.bytes);
        }
    }

    /// How many segments it has.
    pub fn segments(&self) -> usize {
        self.index.segments.len()
    }

    /// Fails if somebody removed the newest file: what is synced would be found by nobody.
    pub fn check_file(&mut self) {
        let newest = self.index.segments.back().map(Segment::name);
        if self.failed.is_none()
            && let Some(name) = newest
            && let Err(error) = self.directory.open(&name)
            && error.kind() == ErrorKind::NotFound
        {
            self.fail(&error);
        }
    }

    /// Fails, because its directory is gone: nothing is read or written until [`Self::try_recover`].
    pub fn leave(&mut self, why: &str) {
        self.reader = None;
        if self.failed.is_none() {
            self.fail(&io::Error::new(ErrorKind::NotFound, why.to_owned()));
        }
    }

    /// Gives back the space that is kept for reuse: that of removed segments, and that behind
    /// the newest one's last record. Nothing depends on it; commits cost more until there is some again.
    pub fn give_back(&self) {
        self.directory.give_back();
        let Some(segment) = self.index.segments.back() else {
            return;
        };
        let _ = match &self.active {
            // What is behind its end is for settlements.
            Some(_) if self.failed.is_some() => Ok(()),
            Some(file) => file.truncate(segment.bytes),
            // By what is torn the next who opens the log knows which numbers not to use.
            None => {
                let file = self.directory.open(&segment.name());
                file.and_then(|file| file.hollow(segment.bytes))
            }
        };
    }

    /// Cuts off what an earlier use of its file left behind the newest segment, so that the next who
    /// opens the log has less to read. Nothing depends on it.
    pub fn close(self) {
        if let (Some(file), Some(segment)) = (&self.active, self.index.segments.back()) {
            let _ = file.truncate(segment.bytes);
        }
    }

    fn prove(&mut self) -> io::Result<()> {
        while let Some(unproven) = self.unproven.last() {
            unproven.prove(&self.directory)?;
            self.unproven.pop();
        }
        Ok(())
    }
}

fn seconds(time_ms: u64) -> u32 {
    u32::try_from(time_ms / 1000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod epochs;
#[cfg(test)]
mod full;
#[cfg(test)]
pub(crate) mod sim_disk;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod strays;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod unproven;
