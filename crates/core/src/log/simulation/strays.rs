//! Files that somebody else puts into the directory. The model doesn't know of them: nothing may change.

use super::super::sim_disk::SimDisk;
use super::super::{NewEvent, QueueLog, format};
use super::World;
use crate::seq::Seq;

impl World {
    pub(super) fn put_stray(&mut self) {
        match self.rng.below(4) {
            0 => self.put_extreme(),
            1 | 2 => self.put_foreign(),
            _ => self.put_copy(),
        }
    }

    /// Numbers from which there may be no next one.
    fn put_extreme(&mut self) {
        let extreme = [u64::MAX, u64::MAX - 1, 1 << 63, (1 << 62) + 1, 1 << 40];
        let small = 1 + self.rng.below(10);
        let number = *self.rng.pick(&extreme).unwrap();
        let name = match self.rng.below(3) {
            0 => format::segment_name(number, Seq(small)),
            1 => format::segment_name(small, Seq(number)),
            _ => format::segment_name(number, Seq(number)),
        };
        let bytes = self.rng.below(700) as usize;
        let content: Vec<u8> = (0..bytes).map(|_| self.rng.next() as u8).collect();
        self.put(&name, content);
    }

    /// A whole segment of another queue.
    fn put_foreign(&mut self) {
        let disk = SimDisk::new(self.rng.next());
        let opened = QueueLog::open(disk.clone(), "another", self.limits, self.now_ms);
        let mut other = opened.unwrap().0;
        for n in 0..1 + self.rng.below(16) {
            let event = NewEvent {
                id: (n % 2 == 0).then_some(b"foreign"),
                attributes: b"attributes",
                body: &[b'f'; 100],
            };
            let seq = other.append(event, self.now_ms).unwrap();
            if self.rng.one_in(3) {
                other.settle(seq);
            }
            other.commit(self.now_ms).unwrap();
        }
        let segments = other.index.segments.iter().map(|segment| segment.name());
        let segments: Vec<_> = segments.collect();
        let name = self.rng.pick(&segments).unwrap();
        let mut content = disk.content(name).unwrap();
        if self.rng.one_in(3) {
            let kept = format::HEADER_BYTES as u64 + self.rng.below(content.len() as u64);
            content.truncate(kept as usize);
        }
        self.put(name, content);
    }

    /// One of its own under another name. It may count as left by a creation that failed. Of a damaged
    /// one the copy may look better.
    fn put_copy(&mut self) {
        let segments = self.log.index.segments.iter();
        let segments: Vec<_> = segments
            .map(|s| (s.name(), s.number, s.first_seq))
            .collect();
        let Some((name, number, first_seq)) = self.rng.pick(&segments).cloned() else {
            return;
        };
        if self.flips.iter().any(|(flipped, _)| *flipped == name) {
            return;
        }
        // What was created and never made durable may be gone with the power.
        let Some(content) = self.disk.content(&name) else {
            return;
        };
        self.copied.insert(name);
        let other = 1 + self.rng.below(number + 3);
        let name = match self.rng.one_in(2) {
            true => format::segment_name(number, Seq(1 + self.rng.below(first_seq.0 + 5))),
            false => format::segment_name(other, first_seq),
        };
        // It may have the name of a segment that was removed, and passes for it, damaged.
        self.has_flipped |= self.disk.put(&name, &content);
    }

    fn put(&mut self, name: &str, content: Vec<u8>) {
        if self.disk.put(name, &content) {
            self.strays.push(content);
        }
    }

    /// They are there, under whatever name.
    pub(super) fn check_strays(&self) {
        for stray in &self.strays {
            let contents = self.disk.contents();
            assert!(contents.contains(stray), "a file of somebody else is gone");
        }
    }
}
