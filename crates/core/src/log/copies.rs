//! Copies of events that leave memory at about the same time.

use bytes::{Bytes, BytesMut};

/// The most memory that copies share; a single one may be larger.
const SHARED_BYTES_MAX: usize = 64 << 10;

/// Makes copies of which many small ones share a piece of memory, which is one allocation for all of them. An
/// event that stays for longer than those beside it has to get memory of its own.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    room: BytesMut,
    /// So many bytes are still to come, as far as that is known.
    expected: usize,
    copied: usize,
}

impl Copies {
    /// So many bytes are to come, at most.
    pub(crate) fn expecting(bytes: usize) -> Self {
        Self {
            expected: bytes,
            ..Self::default()
        }
    }

    /// Pieces are as large as what is to come. If that is not known, they grow with what is there, so that a
    /// fifth of them is unused at most.
    pub(crate) fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if self.room.capacity() < bytes.len() {
            let more = self.expected.max(self.copied / 4);
            let room = bytes.len().max(more.min(SHARED_BYTES_MAX));
            self.room = BytesMut::with_capacity(room);
        }
        self.expected = self.expected.saturating_sub(bytes.len());
        self.copied += bytes.len();
        self.room.extend_from_slice(bytes);
        self.room.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_ones_share_memory_and_stay_what_they_were() {
        for mut copies in [Copies::default(), Copies::expecting(1000 * 64)] {
            let copied = (0..1000).map(|n: usize| (n, copies.copy(&[n as u8; 64])));
            let copied: Vec<_> = copied.collect();
            // Who begins where the one before it ends is in the same piece, as a rule.
            let ends = |copy: &Bytes| copy.as_ptr_range().end;
            let borders = copied
                .windows(2)
                .filter(|two| ends(&two[0].1) != two[1].1.as_ptr());
            assert!(borders.count() < 40);
            for (n, copy) in copied {
                assert_eq!(copy, vec![n as u8; 64]);
            }
        }
        let mut copies = Copies::expecting(10);
        assert_eq!(copies.copy(b""), "");
        assert_eq!(copies.copy(&[1; 200_000]).len(), 200_000);
    }
}
