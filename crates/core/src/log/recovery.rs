//! What a directory holds, when it is opened.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;

use super::candidates::{Candidate, candidates};
use super::directory::{Directory, SegmentFile};
use super::format::{self, EventRecord, NUMBER_MAX, Predecessor, Record};
use super::ids::Ids;
use super::index::{Index, Segment, Slot};
use super::scan::{Item, Scanned, scan};
use super::{Damage, LogError, LogLimits, NOTES_KEPT_BYTES, Refused};
use crate::seq::Seq;

/// The last commit of a segment of which nobody says where it ends: of the newest, and of one before a
/// damaged header; and a file after them that holds nothing. What was read of it may have been in memory only,
/// from a sync that had failed or was never made.
#[derive(Debug)]
pub(super) struct Unproven {
    name: String,
    start: u64,
    end: u64,
    /// Where blocks begin that could not be read when it was found: they were no record either.
    unreadable: Vec<u64>,
}

/// What is written again at once, in bytes.
const BLOCK_BYTES: usize = 4096;

impl Unproven {
    fn find<F: SegmentFile>(file: &F, name: String, start: u64, end: u64) -> Self {
        let mut block = [0; BLOCK_BYTES];
        let blocks = (start..end).step_by(BLOCK_BYTES);
        let unreadable = blocks.filter(|at| {
            let bytes = (end - at).min(BLOCK_BYTES as u64) as usize;
            file.read_at(*at, &mut block[..bytes]).is_err()
        });
        Self {
            unreadable: unreadable.collect(),
            name,
            start,
            end,
        }
    }

    /// Writes the same bytes again and syncs them.
    pub(super) fn prove<D: Directory>(&self, directory: &D) -> io::Result<()> {
        let file = directory.open(&self.name)?;
        let mut block = [0; BLOCK_BYTES];
        for at in (self.start..self.end).step_by(BLOCK_BYTES) {
            let bytes = (self.end - at).min(BLOCK_BYTES as u64) as usize;
            match file.read_at(at, &mut block[..bytes]) {
                Ok(()) => file.write_at(at, &block[..bytes])?,
                Err(_) if self.unreadable.contains(&at) => {}
                Err(error) => return Err(error),
            }
        }
        file.sync()?;
        directory.sync()
    }
}

/// A segment and what its successor knows of it.
struct Part {
    candidate: Candidate,
    known: Option<Predecessor>,
}

pub(super) struct Recovery {
    /// When the queue began, in ms since 1970.
    pub(super) created_ms: u64,
    /// The highest epoch of a segment.
    pub(super) epoch: u64,
    pub(super) index: Index,
    pub(super) ids: Ids,
    pub(super) next_seq: Seq,
    /// The highest number of a segment so far.
    pub(super) last_number: u64,
    pub(super) unproven: Vec<Unproven>,
    pub(super) damage: Vec<Damage>,
    /// Events that were lost to damage, and whose settlement is yet to be written.
    pub(super) missing: Vec<Seq>,
    pub(super) torn_bytes: u64,
    /// Files that hold nothing but, in their names, how far the numbers had come.
    pub(super) leftovers: Vec<String>,
    /// Those of them that no segment leaves out, and their lengths.
    interrupted: Vec<(String, u64)>,
    /// Files that are not one of the log's.
    pub(super) refused: Vec<Refused>,
    /// The same while all is read, and why they are none.
    strangers: Vec<(String, String)>,
    /// What is recorded for events, if it is short.
    attributes: BTreeMap<Seq, Bytes>,
    /// Events below this number may have been delivered to workers, though no attempt is recorded.
    pub(super) given_below: Seq,
    later: BTreeMap<Seq, u64>,
    now_ms: u64,
    /// When the latest event came that was read.
    last_ms: u64,
    /// Settled ranges that came before all of their events.
    ahead: Vec<(Seq, Seq)>,
}

pub(super) fn recover<D: Directory>(
    directory: &D,
    queue: &str,
    limits: &LogLimits,
    now_ms: u64,
) -> Result<Recovery, LogError> {
    let found = candidates(directory, queue)?;
    let candidates = found.taken;
    let mut recovery = Recovery {
        created_ms: created_ms(&candidates).unwrap_or(now_ms),
        epoch: candidates
            .iter()
            .map(Candidate::epoch)
            .max()
            .unwrap_or_default(),
        index: Index::default(),
        ids: Ids::new(limits.dedup_window_ms, limits.dedup_ids_max),
        next_seq: Seq::FIRST,
        last_number: candidates.last().map_or(0, |newest| newest.number),
        unproven: vec![],
        damage: vec![],
        missing: vec![],
        torn_bytes: 0,
        leftovers: vec![],
        interrupted: vec![],
        refused: vec![],
        strangers: found.refused,
        attributes: BTreeMap::new(),
        given_below: Seq::ZERO,
        later: BTreeMap::new(),
        now_ms,
        last_ms: 0,
        ahead: vec![],
    };
    for part in recovery.chain(candidates) {
        let scanned = recovery.read(directory, &part)?;
        if part.known.is_some() {
            continue;
        }
        let blank = scanned.end == part.candidate.start();
        let start = if blank { 0 } else { scanned.last_commit };
        let name = part.candidate.name;
        let file = directory.open(&name)?;
        let unproven = Unproven::find(&file, name, start, scanned.end);
        recovery.unproven.push(unproven);
    }
    recovery.ids.wake(recovery.last_ms, now_ms);
    // The disk may have more of them than can be read now: records that would count after a crash.
    for (name, bytes) in std::mem::take(&mut recovery.interrupted) {
        let file = directory.open(&name)?;
        let unproven = Unproven::find(&file, name, 0, bytes);
        recovery.unproven.push(unproven);
    }
    recovery.count_missing();
    let strangers = std::mem::take(&mut recovery.strangers).into_iter();
    recovery.refused = strangers
        .map(|(file, why)| set_aside(directory, file, why))
        .collect();
    Ok(recovery)
}

/// When the queue of these segments began, as the newest says; those of earlier releases don't, so then
/// it is the creation of the oldest.
fn created_ms(candidates: &[Candidate]) -> Option<u64> {
    let headers = || candidates.iter().filter_map(|one| one.header.as_ref());
    let mut said = headers().rev().map(|header| header.queue_created_ms);
    let oldest = headers().map(|header| header.created_ms).next();
    said.find(|created_ms| *created_ms > 0).or(oldest)
}

/// Has a file that is not one of the log's out of the way, if the disk lets it.
pub(super) fn set_aside<D: Directory>(directory: &D, file: String, why: String) -> Refused {
    let now = directory.set_aside(&file).unwrap_or_else(|_| file.clone());
    Refused { file, now, why }
}

impl Recovery {
    /// Sorts out what belongs to the log. A segment's header names the one before it; a file between
    /// the two never held a committed record.
    fn chain(&mut self, candidates: Vec<Candidate>) -> Vec<Part> {
        let mut parts = vec![];
        let mut known: Option<Predecessor> = None;
        for candidate in candidates.into_iter().rev() {
            let is_below = known.is_some_and(|known| candidate.number < known.number);
            if is_below && candidate.is_stillborn() {
                let why = "it contains no segment data, and no segment names it";
                self.strangers.push((candidate.name, why.to_owned()));
                continue;
            }
            if let Some(lost) = known.take_if(|known| candidate.number < known.number) {
                self.damage.push(Damage {
                    segment: format!("{:016x}-*.log", lost.number),
                    offset: 0,
                    bytes: lost.bytes,
                    why: "the file is missing",
                    seqs: vec![],
                });
            }
            let is_left_out = known.is_some_and(|known| candidate.number > known.number);
            if is_left_out || (known.is_none() && candidate.is_stillborn()) {
                self.saw(candidate.first_seq);
                if !is_left_out {
                    self.cut(candidate.file_bytes.saturating_sub(candidate.start()));
                    self.interrupted
                        .push((candidate.name.clone(), candidate.file_bytes));
                }
                self.leftovers.push(candidate.name);
                continue;
            }
            let previous = candidate.header.as_ref().map(|header| header.previous);
            parts.push(Part { candidate, known });
            known = previous;
        }
        parts.reverse();
        parts
    }

    fn read<D: Directory>(&mut self, directory: &D, part: &Part) -> io::Result<Scanned> {
        let Part { candidate, known } = part;
        if candidate.header.is_none() {
            self.damaged(candidate, 0, candidate.start(), "its header is damaged");
        }
        self.saw(candidate.first_seq);
        let segment = Segment::new(candidate.number, candidate.first_seq, candidate.start());
        self.index.segments.push_back(segment);
        let end = known.map_or(candidate.file_bytes, |known| known.bytes);
        let mut damaged = vec![];
        let scanned = scan(
            &directory.open(&candidate.name)?,
            candidate.number,
            candidate.start()..end.min(candidate.file_bytes),
            |item| match item {
                Item::Damaged { offset, bytes } => damaged.push((offset, bytes)),
                Item::Record {
                    record,
                    offset,
                    bytes,
                } => self.take(candidate.number, record, offset, bytes),
            },
        );
        for (offset, bytes) in damaged {
            let mut why = "no valid record";
            if known.is_none() {
                self.skip_seqs(bytes);
                if offset >= scanned.last_commit {
                    why = "no valid record; it is in the last commit, which may be unconfirmed";
                }
            }
            self.damaged(candidate, offset, bytes, why);
        }
        match known {
            Some(known) => {
                if scanned.end < end {
                    self.damaged(candidate, scanned.end, end - scanned.end, "no valid record");
                }
                self.pad(known.end_seq, end);
            }
            None => self.cut(end - scanned.end),
        }
        for (first, last) in std::mem::take(&mut self.ahead) {
            self.settle(first, last);
        }
        if let Some(segment) = self.index.segments.back_mut() {
            segment.bytes = if known.is_some() { end } else { scanned.end };
        }
        Ok(scanned)
    }

    fn damaged(&mut self, candidate: &Candidate, offset: u64, bytes: u64, why: &'static str) {
        self.damage.push(Damage {
            segment: candidate.name.clone(),
            offset,
            bytes,
            why,
            seqs: vec![],
        });
    }

    fn cut(&mut self, bytes: u64) {
        self.torn_bytes += bytes;
        self.skip_seqs(bytes);
    }

    /// The last events of a log may be among what can't be read, and their numbers known to somebody:
    /// as many as would fit are not used again.
    fn skip_seqs(&mut self, bytes: u64) {
        let events = bytes.div_ceil(format::EVENT_RECORD_BYTES_MIN as u64);
        self.next_seq = self.next_seq.plus(events);
    }

    fn saw(&mut self, next_seq: Seq) {
        self.next_seq = self.next_seq.max(next_seq);
    }

    fn take(&mut self, segment: u64, record: Record<'_>, offset: u64, bytes: u64) {
        match record {
            // It would leave no next number.
            Record::Carried(EventRecord { seq, .. }) | Record::Id { seq, .. }
                if seq.0 > NUMBER_MAX => {}
            Record::Event(event) => self.take_event(segment, &event, offset, bytes),
            Record::Carried(event) => {
                self.saw(event.seq.next());
                self.index.carry(event.seq, slot(&event, offset, bytes));
                self.note(&event);
                self.remember(segment, event.seq, event.time_ms, event.id);
            }
            Record::Settled(ranges) => {
                for (first, last) in ranges {
                    self.settle(first, last);
                    if last >= self.end_seq() {
                        self.ahead.push((first, last));
                    }
                }
            }
            Record::Attempts(attempts) => {
                for (seq, attempts) in attempts {
                    self.index.set_attempts(seq, attempts);
                }
            }
            Record::Later(later) => self.later.extend(later),
            Record::Given { below } => self.given_below = below,
            Record::Id { seq, time_ms, id } => self.remember(segment, seq, time_ms, Some(id)),
        }
    }

    fn take_event(&mut self, segment: u64, event: &EventRecord<'_>, offset: u64, bytes: u64) {
        self.pad(event.seq, offset);
        if self.end_seq() == event.seq {
            self.index.push(slot(event, offset, bytes));
            self.note(event);
            self.saw(event.seq.next());
            self.remember(segment, event.seq, event.time_ms, event.id);
        }
    }

    /// The newest segment's events below this number were written before this offset.
    fn pad(&mut self, seq: Seq, offset: u64) {
        let missing = seq.since(self.end_seq());
        if missing <= offset / format::EVENT_RECORD_BYTES_MIN as u64 {
            (0..missing).for_each(|_| self.index.push(Slot::MISSING));
            self.saw(self.end_seq());
        }
    }

    fn end_seq(&self) -> Seq {
        self.index
            .segments
            .back()
            .map_or(Seq::ZERO, Segment::end_seq)
    }

    fn settle(&mut self, first: Seq, last: Seq) {
        self.index.remove_range(first, last);
    }

    fn note(&mut self, event: &EventRecord<'_>) {
        if (1..=NOTES_KEPT_BYTES).contains(&event.attributes.len()) {
            let attributes = Bytes::copy_from_slice(event.attributes);
            self.attributes.insert(event.seq, attributes);
        }
    }

    /// Events that are not to be given out before a time that is to come.
    pub(super) fn take_later(&mut self) -> BTreeMap<Seq, u64> {
        let mut later = std::mem::take(&mut self.later);
        later.retain(|seq, until_ms| *until_ms > self.now_ms && self.index.is_live(*seq));
        later
    }

    /// What is recorded for the events that are unsettled.
    pub(super) fn take_attributes(&mut self) -> Vec<(Seq, Bytes)> {
        let noted = std::mem::take(&mut self.attributes).into_iter();
        noted.filter(|(seq, _)| self.index.is_live(*seq)).collect()
    }

    fn remember(&mut self, segment: u64, seq: Seq, time_ms: u64, id: Option<&[u8]>) {
        self.last_ms = self.last_ms.max(time_ms);
        if let Some(id) = id {
            self.saw(seq.next());
            self.ids.remember(id, seq, time_ms, segment);
            self.ids.bound();
        }
    }

    /// Says of each segment how many of its events were lost to damage.
    fn count_missing(&mut self) {
        for (number, seq) in self.index.settle_missing() {
            let name = self.index.segment(number).map(Segment::name);
            let name = name.unwrap_or_default();
            self.missing.push(seq);
            match self
                .damage
                .iter_mut()
                .rfind(|damage| damage.segment == name)
            {
                Some(damage) => damage.seqs.push(seq),
                None => self.damage.push(Damage {
                    segment: name,
                    offset: 0,
                    bytes: 0,
                    why: "events are missing",
                    seqs: vec![seq],
                }),
            }
        }
    }
}

fn slot(event: &EventRecord<'_>, offset: u64, bytes: u64) -> Slot {
    Slot {
        offset: offset as u32,
        bytes: bytes as u32,
        attempts: event.attempts,
        seconds: super::seconds(event.time_ms),
    }
}
