//! Reading events back.

use std::io;

use super::copies::Copies;
use super::directory::{Directory, SegmentFile};
use super::format::{self, EventRecord, Record, RecordHeader};
use super::index::{Found, Segment};
use super::{Damage, QueueLog, StoredEvent};
use crate::seq::Seq;

/// Events so far apart are read each on its own.
const GAP_BYTES_MAX: u64 = 16 << 10;

impl<D: Directory> QueueLog<D> {
    /// Unsettled committed events from a sequence number on, in their order: so many of at most
    /// `bytes_max` bytes together, but one at least, if there is one. What turns out to be damaged is
    /// passed over and settled; [`Self::take_damage`] names it.
    ///
    /// # Errors
    /// The disk doesn't let the first of them be read now. It is unsettled as before, and so is what
    /// comes after it, lest the order changes.
    pub fn read(
        &mut self,
        from: Seq,
        events_max: usize,
        bytes_max: u64,
    ) -> io::Result<Vec<StoredEvent>> {
        let mut from = from;
        loop {
            let wanted = self.wanted(from, events_max, bytes_max);
            let Some(last) = wanted.last() else {
                return Ok(vec![]);
            };
            from = last.seq.next();
            let events = self.read_all(&wanted)?;
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }

    /// Those of these events that are unsettled and committed, in this order: so many as have at most
    /// `bytes_max` bytes together, but one at least, if there is one. What is damaged among them is
    /// treated as by [`Self::read`].
    ///
    /// # Errors
    /// The disk doesn't let the first of them be read now. It is unsettled as before.
    pub fn read_these(&mut self, seqs: &[Seq], bytes_max: u64) -> io::Result<Vec<StoredEvent>> {
        let found = seqs.iter().filter_map(|seq| {
            self.index
                .first_live(*seq)
                .filter(|found| found.seq == *seq)
        });
        let mut bytes = 0;
        let is_within = |found: &Found| {
            let is_first = bytes == 0;
            bytes += u64::from(found.slot.bytes);
            is_first || bytes <= bytes_max
        };
        let wanted: Vec<_> = found.take_while(is_within).collect();
        self.read_all(&wanted)
    }

    fn read_all(&mut self, wanted: &[Found]) -> io::Result<Vec<StoredEvent>> {
        let bytes = wanted.iter().map(|found| found.slot.bytes as usize).sum();
        let mut copies = Copies::expecting(bytes);
        let mut events = Vec::with_capacity(wanted.len());
        for run in wanted.chunk_by(is_close) {
            let read = self.read_run(run, |found, record| {
                events.push(stored(found, record, &mut copies));
            });
            match read {
                Err(error) if events.is_empty() => return Err(error),
                Err(_) => break,
                Ok(()) => {}
            }
        }
        Ok(events)
    }

    fn wanted(&self, from: Seq, events_max: usize, bytes_max: u64) -> Vec<Found> {
        let mut bytes = 0;
        let is_within = |(place, found): &(usize, Found)| {
            bytes += u64::from(found.slot.bytes);
            *place == 0 || (*place < events_max && bytes <= bytes_max)
        };
        let live = self.index.live_from(from).enumerate();
        let wanted = live.take_while(is_within);
        wanted.map(|(_, found)| found).collect()
    }

    /// Reads events that are near each other in one segment, up to one that the disk doesn't let be
    /// read now.
    pub(super) fn read_run(
        &mut self,
        run: &[Found],
        mut event: impl FnMut(&Found, &EventRecord<'_>),
    ) -> io::Result<()> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Ok(());
        };
        let start = u64::from(first.slot.offset);
        let mut bytes = vec![0; (last.slot.end() - start) as usize];
        let is_whole = self.read_at(first.segment, start, &mut bytes).is_ok();
        for found in run {
            let at = (u64::from(found.slot.offset) - start) as usize;
            let record = &mut bytes[at..at + found.slot.bytes as usize];
            if !is_whole {
                // One bad sector should not hold up those before it.
                let alone = self.read_at(found.segment, u64::from(found.slot.offset), record);
                match alone {
                    Err(error) if is_gone(&error) => {
                        self.quarantine(found, "its file is gone, or cut off");
                        continue;
                    }
                    Err(error) => return Err(error),
                    Ok(()) => {}
                }
            }
            match decode(found, record) {
                Some(record) => event(found, &record),
                None => self.quarantine(found, "no valid record"),
            }
        }
        Ok(())
    }

    fn read_at(&mut self, segment: u64, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let reader = match self.reader.take() {
            Some((number, file)) if number == segment => file,
            _ => {
                let name = self.index.segment(segment).map(Segment::name);
                self.directory.open(&name.unwrap_or_default())?
            }
        };
        let (_, file) = self.reader.insert((segment, reader));
        file.read_at(offset, into)
    }

    fn quarantine(&mut self, found: &Found, why: &'static str) {
        self.settle(found.seq);
        let segment = self.index.segment(found.segment).map(Segment::name);
        self.damage.push(Damage {
            segment: segment.unwrap_or_default(),
            offset: u64::from(found.slot.offset),
            bytes: u64::from(found.slot.bytes),
            why,
            seqs: vec![found.seq],
        });
    }
}

/// Whether what should be read is not there. Any other error may pass.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof
    )
}

fn is_close(one: &Found, next: &Found) -> bool {
    let (end, start) = (one.slot.end(), u64::from(next.slot.offset));
    one.segment == next.segment && start >= end && start - end <= GAP_BYTES_MAX
}

fn decode<'a>(found: &Found, record: &'a [u8]) -> Option<EventRecord<'a>> {
    let (head, payload) = record.split_first_chunk()?;
    let header = RecordHeader::decode(head, found.segment, u64::from(found.slot.offset))?;
    if header.payload_bytes != payload.len() || !format::payload_is_whole(head, payload) {
        return None;
    }
    match Record::decode(header.kind, payload)? {
        Record::Event(event) | Record::Carried(event) if event.seq == found.seq => Some(event),
        _ => None,
    }
}

/// An event in memory that it may share with those that were read with it.
fn stored(found: &Found, record: &EventRecord<'_>, copies: &mut Copies) -> StoredEvent {
    StoredEvent {
        seq: record.seq,
        time_ms: record.time_ms,
        attempts: found.slot.attempts,
        id: record.id.map(|id| copies.copy(id)),
        attributes: copies.copy(record.attributes),
        body: copies.copy(record.body),
    }
}
