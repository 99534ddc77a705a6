//! Frees space.

use super::directory::Directory;
use super::format;
use super::ids::Ids;
use super::index::{Found, Segment, Slot};
use super::{ExpelReason, Expelled, LogError, QueueLog};
use crate::seq::Seq;

impl<D: Directory> QueueLog<D> {
    /// Settles the oldest events while the unsettled ones take too many bytes or are too old, except those
    /// that workers hold.
    pub fn enforce(&mut self, now_ms: u64) -> Vec<Expelled> {
        let mut expelled = vec![];
        let mut from = Seq::ZERO;
        while let Some(found) = self.index.first_live(from) {
            from = found.seq.next();
            if self.in_hands.contains(&found.seq) {
                continue;
            }
            let reason = if self.index.live_bytes > self.limits.bytes_max {
                ExpelReason::RetentionBytes
            } else if self.is_expired(&found.slot, now_ms) {
                ExpelReason::RetentionAge
            } else {
                break;
            };
            self.settle(found.seq);
            expelled.push(Expelled {
                seq: found.seq,
                reason,
            });
        }
        expelled
    }

    fn is_expired(&self, slot: &Slot, now_ms: u64) -> bool {
        // Its second is over, so it is at least as old as that.
        let appended_ms = (u64::from(slot.seconds) + 1) * 1000;
        appended_ms.saturating_add(self.limits.age_max_ms) <= now_ms
    }

    /// Deletes segments from the oldest on: those whose events are all settled, and those in which a
    /// few unsettled ones hold back much that is settled; these are carried forward first, as are ids
    /// that are still remembered. Does nothing between [`Self::append`] and [`Self::commit`].
    ///
    /// While the log has failed, only wholly settled segments are deleted. Their ids are still known,
    /// and written when the log goes on.
    ///
    /// # Errors
    /// [`LogError::Failed`]: carrying failed, and with it the log. [`LogError::Disk`]: a file can't be
    /// read or removed, or the directory not synced; it will be tried again. Nothing is lost.
    pub fn trim(&mut self, now_ms: u64) -> Result<(), LogError> {
        // What was carried before a restart may be nowhere else while the last commit is unproven.
        if !self.buffered.is_empty() || !self.unproven.is_empty() {
            return Ok(());
        }
        self.ids.forget_old(now_ms);
        // The segments whose headers leave them out may be next.
        self.remove_leftovers()?;
        // The newest segment knows the next sequence number, and stays.
        for _ in 1..self.index.segments.len() {
            // A segment that comes back after a crash is harmless, unless one after it, which may
            // have held its settlements, does not.
            self.sync_directory()?;
            let Some(oldest) = self.index.segments.front() else {
                break;
            };
            let (number, is_settled) = (oldest.number, oldest.live_events == 0);
            if self.failed.is_none() && self.is_worth_carrying(oldest) {
                self.carry(number, now_ms)?;
            } else if self.failed.is_some() && is_settled {
                self.homeless_ids |= self.ids.held_by(number).next().is_some();
                self.ids.move_all(number, Ids::NOWHERE);
            } else {
                break;
            }
            self.delete_oldest()?;
        }
        self.sync_directory()
    }

    /// Whether deleting the oldest segment gives back more than carrying what it still has costs. Of
    /// events that are settled in their order the last of a segment are waited for.
    fn is_worth_carrying(&self, oldest: &Segment) -> bool {
        let ids = self.ids.held_by(oldest.number);
        let ids_bytes: usize = ids.map(|(_, _, id)| format::id_record_bytes(id)).sum();
        let cost = oldest.live_bytes + ids_bytes as u64;
        if oldest.live_events == 0 {
            return cost * 2 <= oldest.bytes;
        }
        let (mut bytes, mut settled_bytes) = (0, 0);
        let newest = self.index.segments.len() - 1;
        for later in self.index.segments.range(1..newest) {
            bytes += later.bytes;
            settled_bytes += later.bytes.saturating_sub(later.live_bytes);
        }
        settled_bytes * 2 >= bytes && cost * 16 <= settled_bytes
    }

    /// Commits copies of what a segment still has.
    fn carry(&mut self, number: u64, now_ms: u64) -> Result<(), LogError> {
        let mut records = vec![];
        let mut carried: Vec<(Seq, Slot)> = vec![];
        for found in self.index.live_in(number) {
            self.read_run(&[found], |Found { seq, slot, .. }, event| {
                let offset = records.len();
                let event = format::EventRecord {
                    attempts: slot.attempts,
                    ..*event
                };
                format::put_event(&mut records, &event, true);
                let offset = offset as u32;
                carried.push((*seq, Slot { offset, ..*slot }));
            })?;
        }
        let later = carried
            .iter()
            .filter_map(|(seq, _)| Some((*seq, *self.later.get(seq)?)));
        format::put_later(&mut records, &later.collect::<Vec<_>>());
        self.put_ids(&mut records, number);
        if records.is_empty() {
            return Ok(());
        }
        // What changed since the last commit waits for the next: the attempts that belong to it do too.
        if self.given_committed > Seq::ZERO {
            format::put_given(&mut records, self.given_committed);
        }
        let written = self.write(&mut records, now_ms);
        let (segment, offset) = written.map_err(|error| self.fail(&error))?;
        for (seq, slot) in carried {
            let offset = slot.offset + offset as u32;
            self.index.carry(seq, Slot { offset, ..slot });
        }
        self.ids.move_all(number, segment);
        Ok(())
    }

    fn delete_oldest(&mut self) -> Result<(), LogError> {
        let Some(oldest) = self.index.segments.front() else {
            return Ok(());
        };
        self.reader.take_if(|(number, _)| *number == oldest.number);
        let removed = self.directory.remove(&oldest.name());
        self.owes_sync = true;
        removed?;
        self.index.segments.pop_front();
        Ok(())
    }

    fn sync_directory(&mut self) -> Result<(), LogError> {
        if self.owes_sync {
            self.directory.sync()?;
            self.owes_sync = false;
        }
        Ok(())
    }
}
