//! Bits that change by themselves, and what they may cost.

use super::super::tests::{Kind, parse};
use super::super::{Recovered, format};
use super::World;
use crate::seq::Seq;

impl World {
    /// Damages a committed byte of a segment that was whole.
    pub(super) fn flip(&mut self) {
        let segments = self.log.index.segments.iter();
        let segments: Vec<_> = segments.map(|s| (s.name(), s.bytes)).collect();
        let Some((name, bytes)) = self.rng.pick(&segments).cloned() else {
            return;
        };
        let content = self.disk.content(&name).unwrap();
        let has_flipped = self.flips.iter().any(|(flipped, _)| *flipped == name);
        if has_flipped || self.copied.contains(&name) {
            return;
        }
        let offset = self.rng.below(bytes) as usize;
        let number = format::parse_segment_name(&name).unwrap().0;
        for record in parse(&content, number) {
            if (record.offset..record.offset + record.bytes).contains(&offset) {
                self.doubt(&record.kind);
            }
        }
        if offset < format::HEADER_BYTES {
            self.lost_header = true;
        }
        self.disk.flip(&name, offset, self.rng.below(8) as u32);
        self.flips.insert((name, offset));
        self.has_flipped = true;
    }

    fn doubt(&mut self, kind: &Kind) {
        match kind {
            Kind::Event(seq) => {
                if let Some(event) = self.events.get_mut(&Seq(*seq)) {
                    event.doubted = true;
                }
            }
            Kind::Settled(ranges) => {
                for (first, last) in ranges {
                    for (_, event) in self.events.range_mut(Seq(*first)..=Seq(*last)) {
                        event.may_return = true;
                    }
                }
            }
            Kind::Attempts(seqs) => {
                for seq in seqs {
                    self.events.get_mut(&Seq(*seq)).unwrap().loose = true;
                }
            }
            // An event whose time is lost comes at once.
            Kind::Later(_) => {}
            Kind::Id(seq) => {
                if let Some(event) = self.events.get_mut(&Seq(*seq)) {
                    event.loose = true;
                }
            }
        }
    }

    /// Damage is named as long as its file is there.
    pub(super) fn check_flips(&mut self, recovered: &Recovered) {
        let mut flips = std::mem::take(&mut self.flips);
        flips.retain(|(name, offset)| {
            let offset = *offset as u64;
            let segments = &self.log.index.segments;
            let Some(segment) = segments.iter().find(|s| s.name() == *name) else {
                return false;
            };
            // It may have been in a tail that was lost since.
            if self
                .disk
                .content(name)
                .is_some_and(|content| content.len() as u64 <= offset)
            {
                return false;
            }
            let is_named = recovered.damage.iter().any(|damage| {
                damage.segment == *name
                    && (damage.offset..damage.offset + damage.bytes).contains(&offset)
            });
            // What is cut is named once.
            let is_cut = segment.bytes <= offset && recovered.torn_bytes > 0;
            assert!(is_named || is_cut, "{name} {offset}: {recovered:?}");
            is_named
        });
        self.flips = flips;
    }
}
