//! A log whose disk is full: settlements must still be written, or space would never become free.

use std::io;

use super::directory::{Directory, SegmentFile};
use super::{LogError, QueueLog, format};
use crate::seq::Seq;

/// Of the reserved space this is for the last settlement of all, which is one range.
const LAST_BYTES: u64 = 512;
/// More is not reserved.
const RESERVE_BYTES_MAX: u64 = 1 << 20;

impl<D: Directory> QueueLog<D> {
    fn reserve_bytes(&self) -> u64 {
        self.limits.reserve_bytes.min(RESERVE_BYTES_MAX)
    }

    /// No event is taken for which the room of its settlement is not there already.
    pub(super) fn reserve(&self) -> io::Result<()> {
        self.directory.reserve(self.reserve_bytes())
    }

    /// If the log has failed because the disk is full, makes settlements durable in the space that is
    /// reserved for them. What has no room there stays buffered, until everything is settled: then it
    /// has. Without effect otherwise.
    pub fn commit_settled(&mut self, now_ms: u64) {
        if !self.lacks_space() || self.settled.is_empty() {
            return;
        }
        self.settled.sort_unstable();
        match self.write_settled(now_ms) {
            Ok(true) => self.settled.clear(),
            Ok(false) => {}
            Err(_) => self.end_segment(),
        }
    }

    /// Whether everything that was settled is so for the next who opens the log, too: nothing of it waits to be
    /// written, and what was found is sure to be on the disk.
    #[cfg(test)]
    pub(super) fn owes_no_settlement(&self) -> bool {
        self.settled.is_empty() && self.unproven.is_empty()
    }

    /// Whether there was room.
    fn write_settled(&mut self, now_ms: u64) -> io::Result<bool> {
        self.prove()?;
        let mut records = vec![];
        format::put_settled_ranges(&mut records, &self.settled_ranges());
        if self.active.is_none() {
            self.begin_segment(now_ms, D::create_reserved)?;
        }
        let room_end = match self.index.live_events {
            0 => self.reserve_bytes(),
            _ => self.reserve_bytes().saturating_sub(LAST_BYTES),
        };
        let (Some(file), Some(segment)) = (&self.active, self.index.segments.back_mut()) else {
            return Ok(false);
        };
        if segment.bytes + records.len() as u64 > room_end {
            return Ok(false);
        }
        format::seal(&mut records, segment.number, segment.bytes);
        file.write_at(segment.bytes, &records)?;
        file.sync()?;
        segment.bytes += records.len() as u64;
        Ok(true)
    }

    /// What is to be settled, in as few ranges as there can be: they go over what is done already.
    fn settled_ranges(&self) -> Vec<(Seq, Seq)> {
        let mut ranges: Vec<(Seq, Seq)> = vec![];
        for seq in &self.settled {
            let live = self
                .index
                .first_live(ranges.last().map_or(Seq::ZERO, |last| last.1));
            match ranges.last_mut() {
                Some(last) if live.is_none_or(|live| live.seq > *seq) => last.1 = *seq,
                _ => ranges.push((*seq, *seq)),
            }
        }
        ranges
    }

    /// Goes on after a failure, in a new segment, or in the one that has the settlements of a full disk.
    /// Without effect if the log hasn't failed.
    ///
    /// # Errors
    /// [`LogError::Failed`]: it still fails.
    pub fn try_recover(&mut self, now_ms: u64) -> Result<(), LogError> {
        if self.failed.is_none() {
            return Ok(());
        }
        let mut tried = self.prove().and_then(|()| self.reserve());
        if tried.is_ok() && self.active.is_none() {
            tried = self.begin_segment(now_ms, D::create);
        }
        match tried {
            Ok(()) => {
                self.failed = None;
                Ok(())
            }
            // What is reserved is good for more settlements.
            Err(error) if self.active.is_some() => Err(LogError::Failed(error.to_string())),
            Err(error) => Err(self.fail(&error)),
        }
    }
}
