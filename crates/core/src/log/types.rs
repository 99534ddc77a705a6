//! What goes into a log, and what it reports.

use std::{fmt, io};

use bytes::Bytes;

use super::format;
use crate::seq::Seq;

/// An event's attributes are kept in memory when a log is opened, if they have no more bytes than this.
pub const NOTES_KEPT_BYTES: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// A new segment is started when the newest has reached this many bytes; capped at 1 GiB.
    pub segment_bytes: u64,
    /// The largest event: id, attributes and body together. Capped at 255 MiB.
    pub event_bytes_max: usize,
    /// The most bytes of unsettled events' records; beyond that [`super::QueueLog::enforce`] settles the oldest.
    pub bytes_max: u64,
    /// The greatest age of an unsettled event, in milliseconds, with a precision of a second.
    pub age_max_ms: u64,
    /// For how long an id is remembered, in milliseconds.
    pub dedup_window_ms: u64,
    /// How many ids are remembered.
    pub dedup_ids_max: usize,
    /// Space that is kept free for settlements, for when the disk is full. Capped at 1 MiB.
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewEvent<'a> {
    /// Identifies a second publication of it; at most 65534 bytes.
    pub id: Option<&'a [u8]>,
    /// The daemon's attributes, opaque here.
    pub attributes: &'a [u8],
    pub body: &'a [u8],
}

/// An event that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    pub seq: Seq,
    /// When it was appended, in milliseconds since 1970.
    pub time_ms: u64,
    /// How many of its deliveries failed.
    pub attempts: u32,
    /// Identifies a second publication of it.
    pub id: Option<Bytes>,
    pub attributes: Bytes,
    pub body: Bytes,
}

/// A part of a segment that can't be read. It stays in place until the segment is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    pub segment: String,
    /// Where the damage begins, in bytes.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// What is wrong with it.
    pub why: &'static str,
    /// Unsettled events that were lost with it, by their sequence numbers; if one
    /// segment has several such parts, the last one has all.
    pub seqs: Vec<Seq>,
}

/// So many stretches of numbers are named at most.
const STRETCHES_MAX: usize = 8;

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            segment,
            offset,
            bytes,
            why,
            seqs,
        } = self;
        write!(f, "{segment}: {bytes} bytes at {offset}: {why}")?;
        if seqs.is_empty() {
            return Ok(());
        }
        write!(f, "; events that are lost: {} (", seqs.len())?;
        let stretches: Vec<_> = seqs.chunk_by(|one, next| one.0 + 1 == next.0).collect();
        for (index, stretch) in stretches.iter().take(STRETCHES_MAX).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            match stretch {
                [only] => write!(f, "{comma}{only}")?,
                [first, .., last] => write!(f, "{comma}{first} to {last}")?,
                [] => {}
            }
        }
        match stretches.len().saturating_sub(STRETCHES_MAX) {
            0 => write!(f, ")"),
            more => write!(f, " and {more} more stretches)"),
        }
    }
}

/// A file with a segment's name that is not one of the log's. Its content was not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub file: String,
    /// Its present name; the same if it could not be renamed.
    pub now: String,
    /// Why it is not one of the log's.
    pub why: String,
}

/// What was found when a log was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// When the queue began, in milliseconds since 1970: what has this name later begins later.
    pub created_ms: u64,
    /// The next event's sequence number.
    pub next_seq: Seq,
    /// How many events are unsettled.
    pub unsettled_events: u64,
    /// The size of their records, in bytes.
    pub unsettled_bytes: u64,
    pub lowest_unsettled: Option<Seq>,
    /// Events below this number may have been delivered to workers, though no attempt is recorded of them: the
    /// log was not closed cleanly while workers were served.
    pub given_below: Seq,
    /// Unsettled events that are not to be given out before a time, in ms since 1970: they came back from
    /// workers with a delay.
    pub later: Vec<(Seq, u64)>,
    /// What is recorded for unsettled events, as far as it is no longer than [`NOTES_KEPT_BYTES`].
    pub attributes: Vec<(Seq, Bytes)>,
    /// What could not be read.
    pub damage: Vec<Damage>,
    /// Bytes excluded at the end of the last segment: never committed, or left over from an earlier use
    /// of the file.
    pub torn_bytes: u64,
}

/// Why retention dropped an unsettled event.
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

/// An event that retention dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expelled {
    pub seq: Seq,
    pub reason: ExpelReason,
}

/// Why an operation of a log failed.
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
    Newer { name: String, version: u32 },
    /// The disk failed when the log was opened or trimmed.
    #[error(transparent)]
    Disk(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_told_in_a_line() {
        let told = |seqs: Vec<u64>| {
            let damage = Damage {
                segment: "7.log".to_owned(),
                offset: 4096,
                bytes: 200,
                why: "the checksum is wrong",
                seqs: seqs.into_iter().map(Seq).collect(),
            };
            damage.to_string()
        };
        let what = "7.log: 200 bytes at 4096: the checksum is wrong";
        assert_eq!(told(vec![]), what);
        assert_eq!(
            told(vec![5]),
            format!("{what}; events that are lost: 1 (5)")
        );
        let some = told(vec![5, 6, 7, 9, 11, 12]);
        let wanted = format!("{what}; events that are lost: 6 (5 to 7, 9, 11 to 12)");
        assert_eq!(some, wanted);
        let scattered = told((0..1_000_000).map(|n| n * 2).collect());
        assert!(scattered.len() < 200, "{scattered}");
        assert!(scattered.ends_with("12, 14 and 999992 more stretches)"));
    }
}
