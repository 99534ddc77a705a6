//! Reads a segment's records in order, skipping damage.

use std::io;
use std::ops::Range;

use super::directory::SegmentFile;
use super::format::{RECORD_HEADER_BYTES, Record, RecordHeader, payload_is_whole};

/// How much is read at once.
const WINDOW_BYTES: u64 = 256 << 10;
/// The unit in which a disk loses data.
const SECTOR_BYTES: u64 = 512;

/// Part of a file, in memory.
struct Window<'a, F> {
    file: &'a F,
    /// Nothing is read from here on.
    end: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<F: SegmentFile> Window<'_, F> {
    fn get(&mut self, offset: u64, bytes: u64) -> io::Result<&[u8]> {
        let held = self.start + self.bytes.len() as u64;
        if offset < self.start || offset + bytes > held {
            let most = bytes.max(WINDOW_BYTES).min(self.end - offset);
            if self.fill(offset, most).is_err() {
                self.fill(offset, bytes)?;
            }
        }
        let at = (offset - self.start) as usize;
        Ok(&self.bytes[at..at + bytes as usize])
    }

    fn fill(&mut self, offset: u64, bytes: u64) -> io::Result<()> {
        self.bytes.resize(bytes as usize, 0);
        self.start = offset;
        let read = self.file.read_at(offset, &mut self.bytes);
        if read.is_err() {
            self.bytes.clear();
        }
        read
    }
}

/// What is at an offset.
enum Look {
    Whole(RecordHeader),
    /// A record that is known to be this long, and is damaged.
    Damaged(u64),
    /// No record begins here; the next may begin so many bytes on.
    Nothing(u64),
}

/// What a scan finds.
pub(super) enum Item<'a> {
    Record {
        record: Record<'a>,
        offset: u64,
        bytes: u64,
    },
    /// A section that is not a record, followed by one. It may never have been committed if it is
    /// in the `last_commit` of [`Scanned`].
    Damaged { offset: u64, bytes: u64 },
}

/// The outcome of a scan.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scanned {
    /// Where the last commit that left a record began.
    pub(super) last_commit: u64,
    /// Where its last record ends.
    pub(super) end: u64,
}

/// Reads all records between two offsets; the file must reach the second.
pub(super) fn scan<F: SegmentFile>(
    file: &F,
    segment: u64,
    Range { start, end }: Range<u64>,
    mut found: impl FnMut(Item<'_>),
) -> Scanned {
    let mut window = Window {
        file,
        end,
        start: 0,
        bytes: vec![],
    };
    let mut scanned = Scanned {
        last_commit: start,
        end: start,
    };
    let mut offset = scanned.end;
    while offset < end {
        let header = match look(&mut window, segment, offset) {
            Look::Whole(header) => header,
            Look::Damaged(bytes) | Look::Nothing(bytes) => {
                offset += bytes;
                continue;
            }
        };
        let bytes = header.record_bytes() as u64;
        let Ok(whole) = window.get(offset, bytes) else {
            offset += bytes;
            continue;
        };
        let Some(record) = Record::decode(header.kind, &whole[RECORD_HEADER_BYTES..]) else {
            offset += bytes;
            continue;
        };
        if offset > scanned.end {
            found(Item::Damaged {
                offset: scanned.end,
                bytes: offset - scanned.end,
            });
        }
        found(Item::Record {
            record,
            offset,
            bytes,
        });
        scanned.last_commit = offset - header.back;
        offset += bytes;
        scanned.end = offset;
    }
    scanned
}

fn look<F: SegmentFile>(window: &mut Window<'_, F>, segment: u64, offset: u64) -> Look {
    let left = window.end - offset;
    if left < RECORD_HEADER_BYTES as u64 {
        return Look::Nothing(left);
    }
    let Ok(bytes) = window.get(offset, RECORD_HEADER_BYTES as u64) else {
        return Look::Nothing(SECTOR_BYTES - offset % SECTOR_BYTES);
    };
    let Some(bytes) = bytes.first_chunk().copied() else {
        return Look::Nothing(left);
    };
    let Some(header) = RecordHeader::decode(&bytes, segment, offset) else {
        return Look::Nothing(1);
    };
    let record_bytes = header.record_bytes() as u64;
    if record_bytes > left {
        return Look::Nothing(1);
    }
    match window.get(offset, record_bytes) {
        Ok(whole) if payload_is_whole(&bytes, &whole[RECORD_HEADER_BYTES..]) => Look::Whole(header),
        _ => Look::Damaged(record_bytes),
    }
}
