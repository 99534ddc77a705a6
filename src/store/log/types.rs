//! What goes into a log, and what it has to say.

use std::io;

use bytes::Bytes;

use super::format;

/// What is noted of an event is remembered when a log is opened, if it has no more bytes.
pub const NOTES_KEPT_BYTES: usize = 16;

/// Bounds of one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// A segment that has reached this many bytes is followed by a new one. At most 1 GiB count.
    pub segment_bytes: u64,
    /// The largest event: id, attributes and body together. At most 255 MiB count.
    pub event_bytes_max: usize,
    /// What the unsettled events' records may take; then [`super::QueueLog::enforce`] settles the oldest.
    pub bytes_max: u64,
    /// How old an unsettled event may become, in milliseconds, to the second.
    pub age_max_ms: u64,
    /// For how long an id is remembered, in milliseconds.
    pub dedup_window_ms: u64,
    /// How many ids are remembered.
    pub dedup_ids_max: usize,
    /// Space that is kept free for settlements, for when the disk is full. At most 1 MiB counts.
    pub reserve_bytes: u64,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            event_bytes_max: 64 << 20,
            bytes_max: 1 << 30,
            age_max_ms: 7 * 24 * 3_600_000,
            dedup_window_ms: 600_000,
            dedup_ids_max: 100_000,
            reserve_bytes: 64 << 10,
        }
    }
}

/// An event to append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewEvent<'a> {
    /// By which a second publication of it is known; at most 65534 bytes.
    pub id: Option<&'a [u8]>,
    /// What the daemon notes of it, uninspected here.
    pub attributes: &'a [u8],
    /// The event.
    pub body: &'a [u8],
}

/// An event that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its sequence number.
    pub seq: u64,
    /// When it was appended, in milliseconds since 1970.
    pub time_ms: u64,
    /// How many of its deliveries failed.
    pub attempts: u32,
    /// By which a second publication of it is known.
    pub id: Option<Bytes>,
    /// What the daemon noted of it.
    pub attributes: Bytes,
    /// The event.
    pub body: Bytes,
}

/// Part of a segment that can't be read. It stays where it is until the segment goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The segment's file name.
    pub segment: String,
    /// Where the damage begins, in bytes.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// What is wrong with it.
    pub why: &'static str,
    /// Unsettled events that were lost with it, by their sequence numbers; of several stretches of one
    /// segment the last one has all.
    pub seqs: Vec<u64>,
}

/// A file with a segment's name that is none of the log's. Its content was not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What it was called.
    pub file: String,
    /// What it is called now; the same if the disk didn't let it be renamed.
    pub now: String,
    /// Why it is none of the log's.
    pub why: String,
}

/// What was found when a log was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The next event's sequence number.
    pub next_seq: u64,
    /// How many events are unsettled.
    pub unsettled_events: u64,
    /// What their records take, in bytes.
    pub unsettled_bytes: u64,
    /// The first unsettled event.
    pub lowest_unsettled: Option<u64>,
    /// Events below this number may have been given to workers, though no attempt is noted of them: the
    /// log was not closed in order while workers were served.
    pub given_below: u64,
    /// Unsettled events that are not to be given out before a time, in ms since 1970: they came back from
    /// workers with a delay.
    pub later: Vec<(u64, u64)>,
    /// What is noted of unsettled events, as far as it is no longer than [`NOTES_KEPT_BYTES`].
    pub attributes: Vec<(u64, Bytes)>,
    /// What could not be read.
    pub damage: Vec<Damage>,
    /// What was cut from the end of the last segment, in bytes: it was never committed, or the file had
    /// it from an earlier use.
    pub torn_bytes: u64,
}

/// Why an unsettled event was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExpelReason {
    /// The unsettled events took more than [`LogLimits::bytes_max`].
    RetentionBytes,
    /// It was older than [`LogLimits::age_max_ms`].
    RetentionAge,
}

impl ExpelReason {
    /// The name in reports and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::RetentionBytes => "retention-bytes",
            Self::RetentionAge => "retention-age",
        }
    }
}

/// An event that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expelled {
    /// Its sequence number.
    pub seq: u64,
    /// Why.
    pub reason: ExpelReason,
}

/// Why a log could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A write or sync failed, now or before. Nothing that was buffered is committed; settled events
    /// and attempts are kept, and written after [`super::QueueLog::try_recover`].
    #[error("the log has failed: {0}")]
    Failed(String),
    /// The event is larger than [`LogLimits::event_bytes_max`], or its id than 65534 bytes. Nothing
    /// was changed.
    #[error("an event of {bytes} bytes; the limit is {max}")]
    TooLarge {
        /// Its size, in bytes.
        bytes: usize,
        /// The limit, in bytes.
        max: usize,
    },
    /// More than 512 MiB would be buffered. Nothing was changed; commit first.
    #[error("too much is buffered; commit first")]
    CommitFirst,
    /// A segment was written by a newer release. Nothing was changed.
    #[error(
        "{name} has format version {version}, and this release reads up to {}: install the release \
         that wrote it, or let that one empty the queue",
        format::VERSION
    )]
    Newer {
        /// The segment's file name.
        name: String,
        /// Its version.
        version: u32,
    },
    /// The disk failed when the log was opened or trimmed.
    #[error(transparent)]
    Disk(#[from] io::Error),
}
