//! The bytes of a segment, as `docs/log-format.md` has them.

use crc32fast::Hasher;

use crate::seq::Seq;

/// The version that is written, and the newest that is read.
pub(super) const VERSION: u32 = 2;
/// The first one, whose headers don't name their queue.
pub(super) const NAMELESS_VERSION: u32 = 1;
/// What a segment begins with.
const MAGIC: &[u8; 8] = b"EVMGRLOG";
/// The segment's header: one sector, so that it is written whole or not at all.
pub(super) const HEADER_BYTES: usize = 512;
/// What the headers of all versions have, and all that those of the first have.
pub(super) const HEADER_BYTES_MIN: usize = 64;
/// No segment and no event has a number above this, and no file that says so is one of ours: there is
/// always a next number.
pub(super) const NUMBER_MAX: u64 = 1 << 62;
/// A record's header.
pub(super) const RECORD_HEADER_BYTES: usize = 20;
/// An event's payload before its id.
const EVENT_FIXED_BYTES: usize = 26;
/// The smallest record of an event.
pub(super) const EVENT_RECORD_BYTES_MIN: usize = RECORD_HEADER_BYTES + EVENT_FIXED_BYTES;
/// No payload is longer; one that says so is damaged.
pub(super) const PAYLOAD_BYTES_MAX: usize = 256 << 20;
/// The longest id; the length above stands for none.
pub(super) const ID_BYTES_MAX: usize = 0xFFFE;
/// Settled ranges, or counts of attempts, in one record.
const ENTRIES_MAX: usize = 4096;

const EVENT: u8 = 0xE1;
const CARRIED: u8 = 0xE2;
const SETTLED: u8 = 0xE3;
const ATTEMPTS: u8 = 0xE4;
const ID: u8 = 0xE5;
const GIVEN: u8 = 0xE6;
const LATER: u8 = 0xE7;

/// Where the segment before ends, as the one after it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Predecessor {
    /// Its number; 0 if there is none.
    pub(super) number: u64,
    /// What is behind this offset was never committed.
    pub(super) bytes: u64,
    /// One above the sequence number of its last committed event.
    pub(super) end_seq: Seq,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) number: u64,
    /// The sequence number of its first event, should it get one.
    pub(super) first_seq: Seq,
    pub(super) created_ms: u64,
    pub(super) previous: Predecessor,
    /// The queue that it is of; none if it was written in the first version.
    pub(super) queue: Option<String>,
    /// When that queue began, in ms since 1970; 0 if it was written by a release that didn't note it.
    pub(super) queue_created_ms: u64,
    /// The state directory's epoch; 0 if it never had one.
    pub(super) epoch: u64,
}

/// Why a header was not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    Damaged,
    /// It is whole, and of this version that is unknown here.
    Newer(u32),
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let fields = [
            self.number,
            self.first_seq.0,
            self.created_ms,
            self.previous.number,
            self.previous.bytes,
            self.previous.end_seq.0,
        ];
        for (into, field) in bytes[16..].chunks_exact_mut(8).zip(fields) {
            into.copy_from_slice(&field.to_le_bytes());
        }
        let crc = header_crc(&bytes[..HEADER_BYTES_MIN]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        let queue = self.queue.as_deref().unwrap_or_default().as_bytes();
        let queue = &queue[..queue.len().min(EPOCH_AT - QUEUE_AT)];
        bytes[QUEUE_AT - 2..QUEUE_AT].copy_from_slice(&(queue.len() as u16).to_le_bytes());
        bytes[QUEUE_AT..QUEUE_AT + queue.len()].copy_from_slice(queue);
        bytes[EPOCH_AT..QUEUE_CREATED_AT].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[QUEUE_CREATED_AT..].copy_from_slice(&self.queue_created_ms.to_le_bytes());
        let crc = crc32fast::hash(&bytes[HEADER_BYTES_MIN + 4..]);
        bytes[HEADER_BYTES_MIN..HEADER_BYTES_MIN + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header from what a file begins with, up to [`HEADER_BYTES`].
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let fixed: &[u8; HEADER_BYTES_MIN] = bytes.first_chunk().ok_or(HeaderError::Damaged)?;
        let mut fields = Fields(fixed);
        let magic = fields.take(8);
        let (version, crc) = (fields.u32(), fields.u32());
        if magic != Some(MAGIC) || crc != Some(header_crc(fixed)) {
            return Err(HeaderError::Damaged);
        }
        let queue = match version {
            Some(NAMELESS_VERSION) => None,
            Some(VERSION) => Some(queue_of(bytes).ok_or(HeaderError::Damaged)?),
            Some(version) => return Err(HeaderError::Newer(version)),
            None => return Err(HeaderError::Damaged),
        };
        let of_queue = match queue {
            Some(_) => epoch_and_created_of(bytes).ok_or(HeaderError::Damaged)?,
            None => (0, 0),
        };
        Self::fields(fields, queue, of_queue).ok_or(HeaderError::Damaged)
    }

    fn fields(
        mut fields: Fields<'_>,
        queue: Option<String>,
        (epoch, queue_created_ms): (u64, u64),
    ) -> Option<Self> {
        Some(Self {
            number: fields.u64()?,
            first_seq: fields.seq()?,
            created_ms: fields.u64()?,
            previous: Predecessor {
                number: fields.u64()?,
                bytes: fields.u64()?,
                end_seq: fields.seq()?,
            },
            queue,
            queue_created_ms,
            epoch,
        })
    }

    /// Where the segment's records begin.
    pub(super) fn bytes(&self) -> u64 {
        match self.queue {
            Some(_) => HEADER_BYTES as u64,
            None => HEADER_BYTES_MIN as u64,
        }
    }
}

/// Where the queue's name is in a header, behind its length.
const QUEUE_AT: usize = HEADER_BYTES_MIN + 6;
/// Where it is said when the queue began.
const QUEUE_CREATED_AT: usize = HEADER_BYTES - 8;
/// Where the epoch is. No name of a queue is so long that it reaches there.
const EPOCH_AT: usize = QUEUE_CREATED_AT - 8;

fn epoch_and_created_of(header: &[u8]) -> Option<(u64, u64)> {
    let mut fields = Fields(header.get(EPOCH_AT..HEADER_BYTES)?);
    Some((fields.u64()?, fields.u64()?))
}

fn queue_of(header: &[u8]) -> Option<String> {
    let mut fields = Fields(header.get(HEADER_BYTES_MIN..HEADER_BYTES)?);
    let crc = fields.u32()?;
    if crc != crc32fast::hash(fields.0) {
        return None;
    }
    let bytes = usize::from(fields.u16()?);
    String::from_utf8(fields.take(bytes)?.to_vec()).ok()
}

/// Of the part that all versions have.
fn header_crc(bytes: &[u8]) -> u32 {
    let mut crc = Hasher::new();
    crc.update(&bytes[..12]);
    crc.update(&bytes[16..]);
    crc.finalize()
}

/// The name of a segment's file, from which order and sequence numbers are known even if its header
/// is damaged.
pub(super) fn segment_name(number: u64, first_seq: Seq) -> String {
    format!("{number:016x}-{:016x}.log", first_seq.0)
}

/// The number and first sequence number in a name of [`segment_name`].
pub(super) fn parse_segment_name(name: &str) -> Option<(u64, Seq)> {
    let (number, first_seq) = name.strip_suffix(".log")?.split_once('-')?;
    let number = u64::from_str_radix(number, 16).ok()?;
    let first_seq = Seq(u64::from_str_radix(first_seq, 16).ok()?);
    (segment_name(number, first_seq) == name && number > 0).then_some((number, first_seq))
}

/// A record's header whose check is right for its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) kind: u8,
    pub(super) payload_bytes: usize,
    /// Bytes since the first record of its commit.
    pub(super) back: u64,
}

impl RecordHeader {
    /// Reads a header at this position of a segment. The position is part of both checks, so what looks
    /// like a record within somebody's event is not taken for one.
    pub(super) fn decode(
        bytes: &[u8; RECORD_HEADER_BYTES],
        segment: u64,
        offset: u64,
    ) -> Option<Self> {
        let kind = bytes[0];
        if !(EVENT..=LATER).contains(&kind) || bytes[1..4] != [0; 3] {
            return None;
        }
        let mut fields = Fields(&bytes[4..]);
        let payload_bytes = fields.u32()? as usize;
        let back = u64::from(fields.u32()?);
        let right = fields.u32()? == header_check(bytes, segment, offset)
            && payload_bytes <= PAYLOAD_BYTES_MAX
            && back <= offset;
        right.then_some(Self {
            kind,
            payload_bytes,
            back,
        })
    }

    /// The whole record.
    pub(super) fn record_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.payload_bytes
    }
}

fn header_check(header: &[u8], segment: u64, offset: u64) -> u32 {
    let mut crc = Hasher::new();
    crc.update(&segment.to_le_bytes());
    crc.update(&offset.to_le_bytes());
    crc.update(&header[..12]);
    crc.finalize()
}

/// The second check: of everything but itself.
fn record_check(header: &[u8], payload: &[u8]) -> u32 {
    let mut crc = Hasher::new();
    crc.update(&header[..16]);
    crc.update(payload);
    crc.finalize()
}

/// Whether payload and header belong together and are unchanged.
pub(super) fn payload_is_whole(header: &[u8; RECORD_HEADER_BYTES], payload: &[u8]) -> bool {
    record_check(header, payload).to_le_bytes() == header[16..]
}

/// An event as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EventRecord<'a> {
    pub(super) seq: Seq,
    pub(super) time_ms: u64,
    /// How often it was delivered to workers before it was written: 0 unless it was carried forward.
    pub(super) attempts: u32,
    pub(super) id: Option<&'a [u8]>,
    pub(super) attributes: &'a [u8],
    pub(super) body: &'a [u8],
}

impl EventRecord<'_> {
    /// How long its record is.
    pub(super) fn record_bytes(&self) -> usize {
        EVENT_RECORD_BYTES_MIN
            + self.id.map_or(0, <[u8]>::len)
            + self.attributes.len()
            + self.body.len()
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// A new event.
    Event(EventRecord<'a>),
    /// An event that was written before, in a segment that is to go.
    Carried(EventRecord<'a>),
    /// From a sequence number to another, both included.
    Settled(Vec<(Seq, Seq)>),
    /// Sequence numbers and how often those events were delivered to workers.
    Attempts(Vec<(Seq, u32)>),
    /// Unsettled events below this number may have been delivered to workers, though no attempt is recorded.
    Given { below: Seq },
    /// Sequence numbers, and before which time those events are not to be delivered again, in ms since
    /// 1970.
    Later(Vec<(Seq, u64)>),
    /// An id whose event is in a segment that is to go.
    Id {
        seq: Seq,
        time_ms: u64,
        id: &'a [u8],
    },
}

impl<'a> Record<'a> {
    /// Reads a payload whose check was right.
    pub(super) fn decode(kind: u8, payload: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(payload);
        Some(match kind {
            EVENT => Self::Event(event(fields)?),
            CARRIED => Self::Carried(event(fields)?),
            SETTLED => Self::Settled(entries(fields, |fields| {
                Some((fields.seq()?, fields.seq()?))
            })?),
            ATTEMPTS => Self::Attempts(entries(fields, |fields| {
                Some((fields.seq()?, fields.u32()?))
            })?),
            GIVEN => Self::Given {
                below: fields.seq()?,
            },
            LATER => Self::Later(entries(fields, |fields| {
                Some((fields.seq()?, fields.u64()?))
            })?),
            ID => Self::Id {
                seq: fields.seq()?,
                time_ms: fields.u64()?,
                id: fields.0,
            },
            _ => return None,
        })
    }
}

fn event(mut fields: Fields<'_>) -> Option<EventRecord<'_>> {
    let (seq, time_ms, attempts) = (fields.seq()?, fields.u64()?, fields.u32()?);
    let attributes_bytes = fields.u32()? as usize;
    let id_bytes = usize::from(fields.u16()?);
    let id = if id_bytes > ID_BYTES_MAX {
        None
    } else {
        Some(fields.take(id_bytes)?)
    };
    Some(EventRecord {
        seq,
        time_ms,
        attempts,
        id,
        attributes: fields.take(attributes_bytes)?,
        body: fields.0,
    })
}

fn entries<T>(
    mut fields: Fields<'_>,
    mut entry: impl FnMut(&mut Fields<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let mut entries = vec![];
    while !fields.0.is_empty() {
        entries.push(entry(&mut fields)?);
    }
    Some(entries)
}

/// Bytes that are taken from the front; numbers are little-endian.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn seq(&mut self) -> Option<Seq> {
        self.u64().map(Seq)
    }
}

/// Appends an event's record; where it will be is filled in by [`seal`].
pub(super) fn put_event(bytes: &mut Vec<u8>, event: &EventRecord<'_>, carried: bool) {
    let id_bytes = event.id.map_or(u16::MAX, |id| id.len() as u16);
    put(bytes, if carried { CARRIED } else { EVENT }, |bytes| {
        bytes.extend(event.seq.0.to_le_bytes());
        bytes.extend(event.time_ms.to_le_bytes());
        bytes.extend(event.attempts.to_le_bytes());
        bytes.extend((event.attributes.len() as u32).to_le_bytes());
        bytes.extend(id_bytes.to_le_bytes());
        bytes.extend_from_slice(event.id.unwrap_or_default());
        bytes.extend_from_slice(event.attributes);
        bytes.extend_from_slice(event.body);
    });
}

/// Appends records of settled events, whose numbers are sorted.
pub(super) fn put_settled(bytes: &mut Vec<u8>, seqs: &[Seq]) {
    let runs = seqs.chunk_by(|seq, next| *next == seq.next());
    let ranges = runs.filter_map(|run| Some((*run.first()?, *run.last()?)));
    put_settled_ranges(bytes, &ranges.collect::<Vec<_>>());
}

/// Appends records of settled ranges, both ends included.
pub(super) fn put_settled_ranges(bytes: &mut Vec<u8>, ranges: &[(Seq, Seq)]) {
    for ranges in ranges.chunks(ENTRIES_MAX) {
        put(bytes, SETTLED, |bytes| {
            for end in ranges.iter().flat_map(|(first, last)| [first, last]) {
                bytes.extend(end.0.to_le_bytes());
            }
        });
    }
}

pub(super) fn put_attempts(bytes: &mut Vec<u8>, attempts: &[(Seq, u32)]) {
    for attempts in attempts.chunks(ENTRIES_MAX) {
        put(bytes, ATTEMPTS, |bytes| {
            for (seq, attempts) in attempts {
                bytes.extend(seq.0.to_le_bytes());
                bytes.extend(attempts.to_le_bytes());
            }
        });
    }
}

/// Appends records of when events may be delivered again.
pub(super) fn put_later(bytes: &mut Vec<u8>, later: &[(Seq, u64)]) {
    for later in later.chunks(ENTRIES_MAX) {
        put(bytes, LATER, |bytes| {
            for number in later.iter().flat_map(|(seq, until_ms)| [seq.0, *until_ms]) {
                bytes.extend(number.to_le_bytes());
            }
        });
    }
}

/// Appends the record that says which events may have been delivered to workers.
pub(super) fn put_given(bytes: &mut Vec<u8>, below: Seq) {
    put(bytes, GIVEN, |bytes| bytes.extend(below.0.to_le_bytes()));
}

/// Appends the record of an id.
pub(super) fn put_id(bytes: &mut Vec<u8>, seq: Seq, time_ms: u64, id: &[u8]) {
    put(bytes, ID, |bytes| {
        bytes.extend(seq.0.to_le_bytes());
        bytes.extend(time_ms.to_le_bytes());
        bytes.extend_from_slice(id);
    });
}

/// How long the record of an id is.
pub(super) fn id_record_bytes(id: &[u8]) -> usize {
    RECORD_HEADER_BYTES + 16 + id.len()
}

fn put(bytes: &mut Vec<u8>, kind: u8, payload: impl FnOnce(&mut Vec<u8>)) {
    let at = bytes.len();
    bytes.extend([0; RECORD_HEADER_BYTES]);
    payload(bytes);
    let payload_bytes = (bytes.len() - at - RECORD_HEADER_BYTES) as u32;
    bytes[at] = kind;
    bytes[at + 4..at + 8].copy_from_slice(&payload_bytes.to_le_bytes());
}

/// Completes the headers of one commit's records, which will be written there.
pub(super) fn seal(mut records: &mut [u8], segment: u64, offset: u64) {
    let mut back = 0u32;
    while let Some((header, rest)) = records.split_first_chunk_mut::<RECORD_HEADER_BYTES>() {
        header[8..12].copy_from_slice(&back.to_le_bytes());
        let check = header_check(header, segment, offset + u64::from(back));
        header[12..16].copy_from_slice(&check.to_le_bytes());
        let payload_bytes = Fields(&header[4..]).u32().unwrap_or_default();
        let (payload, rest) = rest.split_at_mut(payload_bytes as usize);
        let check = record_check(header, payload);
        header[16..].copy_from_slice(&check.to_le_bytes());
        back += RECORD_HEADER_BYTES as u32 + payload_bytes;
        records = rest;
    }
}
