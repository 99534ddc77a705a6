//! Salsa20's keystream, several blocks at once, which need not belong to the same box.
//!
//! A small box takes one or two blocks, and a processor computes up to sixteen in the time of one. So the
//! boxes of a batch share them. No branch and no index depends on the key or on keystream.

use std::iter;

use fearless_simd::{Level, Simd, dispatch, prelude::*, u32x8};
use zeroize::Zeroize;

/// Words of a block.
const WORDS: usize = 16;
/// Bytes of a block.
pub(super) const BLOCK_BYTES: usize = 4 * WORDS;
/// Blocks that are made at once, at most: those of the widest registers.
const BLOCKS: usize = 16;
/// "expand 32-byte k".
const SIGMA: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// A key of Salsa20. It is erased when it is dropped.
pub(super) struct Key([u32; 8]);

impl Key {
    pub(super) fn new(bytes: &[u8; 32]) -> Self {
        let (words, _) = bytes.as_chunks::<4>();
        Self(std::array::from_fn(|i| u32::from_le_bytes(words[i])))
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Some blocks of one nonce, which is a counter: from `next` on, up to `end`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Range {
    pub(super) counter: u64,
    pub(super) next: u64,
    pub(super) end: u64,
}

impl Range {
    pub(super) fn is_empty(&self) -> bool {
        self.next >= self.end
    }
}

/// Blocks that were made, in the order in which they are taken. They are erased when it is dropped.
pub(super) struct Keystream<'a> {
    key: &'a Key,
    level: Level,
    words: [u32; BLOCKS * WORDS],
    /// Whose they are, in their order.
    parts: [Range; BLOCKS],
    /// The part of which blocks are taken next, and the first of these blocks.
    part: usize,
    taken: usize,
}

impl<'a> Keystream<'a> {
    pub(super) fn new(key: &'a Key) -> Self {
        Self::at_level(key, Level::new())
    }

    /// With this set of instructions, which exists here.
    fn at_level(key: &'a Key, level: Level) -> Self {
        Self {
            key,
            level,
            words: [0; BLOCKS * WORDS],
            parts: [Range::default(); BLOCKS],
            part: 0,
            taken: 0,
        }
    }

    /// One for each set of instructions that this machine has.
    #[cfg(test)]
    pub(super) fn of_each_level(key: &'a Key) -> Vec<Self> {
        let best = Level::new();
        #[cfg(target_arch = "x86_64")]
        let lower = [
            best.as_avx2().map(Simd::level),
            best.as_sse4_2().map(Simd::level),
            best.as_sse2().map(Simd::level),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let lower: [Option<Level>; 0] = [];
        let levels = iter::once(best).chain(lower.into_iter().flatten());
        levels.map(|level| Self::at_level(key, level)).collect()
    }

    /// The words of the first blocks of `range`, of one at least, which are taken from it. If they must
    /// be made, so are those of the ranges that follow, as far as that costs nothing.
    pub(super) fn take(
        &mut self,
        range: &mut Range,
        following: impl Iterator<Item = Range>,
    ) -> &[u32] {
        let begins = |part: &Range| {
            (part.counter, part.next) == (range.counter, range.next) && !part.is_empty()
        };
        if self.parts.get(self.part).is_none_or(|part| !begins(part)) {
            self.make(*range, following);
        }
        let part = &mut self.parts[self.part];
        let end = part.end.min(range.end);
        let from = self.taken;
        self.taken += (end - range.next) as usize;
        (part.next, range.next) = (end, end);
        if part.is_empty() {
            self.part += 1;
        }
        &self.words[from * WORDS..self.taken * WORDS]
    }

    fn make(&mut self, range: Range, following: impl Iterator<Item = Range>) {
        (self.parts, self.part, self.taken) = ([Range::default(); BLOCKS], 0, 0);
        let mut varying = [[0; BLOCKS]; 4];
        let mut made = 0;
        for (mut range, part) in iter::once(range).chain(following).zip(&mut self.parts) {
            range.end = range.end.min(range.next + (BLOCKS - made) as u64);
            *part = range;
            // The counter stands in the nonce with its highest byte first.
            let nonce = range.counter.swap_bytes();
            for block in range.next..range.end {
                varying[0][made] = nonce as u32;
                varying[1][made] = (nonce >> 32) as u32;
                varying[2][made] = block as u32;
                varying[3][made] = (block >> 32) as u32;
                made += 1;
            }
            if made == BLOCKS {
                break;
            }
        }
        let (level, key, words) = (self.level, &self.key.0, &mut self.words);
        dispatch!(level, simd => blocks(simd, key, &varying, made, words));
    }
}

impl Drop for Keystream<'_> {
    fn drop(&mut self) {
        self.words.zeroize();
    }
}

/// Applies the keystream that begins with `words`.
pub(super) fn xor(data: &mut [u8], words: &[u32]) {
    let (whole, rest) = data.as_chunks_mut::<4>();
    if let Some(word) = words.get(whole.len()) {
        for (byte, key) in rest.iter_mut().zip(word.to_le_bytes()) {
            *byte ^= key;
        }
    }
    for (bytes, word) in whole.iter_mut().zip(words) {
        *bytes = (u32::from_le_bytes(*bytes) ^ word).to_le_bytes();
    }
}

/// `count` blocks and those that come with them, each in a lane of its own; `varying` are the words
/// in which they differ.
#[inline(always)]
fn blocks<S: Simd>(
    simd: S,
    key: &[u32; 8],
    varying: &[[u32; BLOCKS]; 4],
    count: usize,
    out: &mut [u32; BLOCKS * WORDS],
) {
    // Half the width is faster than the whole of the widest.
    if S::u32s::LEN > 8 && count <= 8 {
        return lanes::<S, u32x8<S>>(simd, key, varying, 0, out);
    }
    for from in (0..count).step_by(S::u32s::LEN) {
        lanes::<S, S::u32s>(simd, key, varying, from, &mut out[from * WORDS..]);
    }
}

#[inline(always)]
fn lanes<S: Simd, V: SimdInt<S, Element = u32>>(
    simd: S,
    key: &[u32; 8],
    varying: &[[u32; BLOCKS]; 4],
    from: usize,
    out: &mut [u32],
) {
    let same = |word: u32| V::simd_from(simd, word);
    let each = |i: usize| V::from_slice(simd, &varying[i][from..from + V::LEN]);
    let input = [
        same(SIGMA[0]),
        same(key[0]),
        same(key[1]),
        same(key[2]),
        same(key[3]),
        same(SIGMA[1]),
        each(0),
        each(1),
        each(2),
        each(3),
        same(SIGMA[2]),
        same(key[4]),
        same(key[5]),
        same(key[6]),
        same(key[7]),
        same(SIGMA[3]),
    ];
    let mut x = input;
    for _ in 0..10 {
        double_round(&mut x);
    }
    for (word, input) in x.iter_mut().zip(input) {
        *word += input;
    }
    // Lanes become blocks: each step moves one bit of the word's number behind the lane's.
    for _ in 0..4 {
        let from = x;
        for (i, to) in x.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let (one, other) = (from[i], from[i + WORDS / 2]);
            *to = [one.zip_low(other), one.zip_high(other)];
        }
    }
    for (word, out) in x.iter().zip(out.chunks_exact_mut(V::LEN)) {
        word.store_slice(out);
    }
}

#[inline(always)]
fn double_round<S: Simd, V: SimdInt<S, Element = u32>>(x: &mut [V; WORDS]) {
    quarter_round(x, [0, 4, 8, 12]);
    quarter_round(x, [5, 9, 13, 1]);
    quarter_round(x, [10, 14, 2, 6]);
    quarter_round(x, [15, 3, 7, 11]);
    quarter_round(x, [0, 1, 2, 3]);
    quarter_round(x, [5, 6, 7, 4]);
    quarter_round(x, [10, 11, 8, 9]);
    quarter_round(x, [15, 12, 13, 14]);
}

#[inline(always)]
fn quarter_round<S: Simd, V: SimdInt<S, Element = u32>>(
    x: &mut [V; WORDS],
    [a, b, c, d]: [usize; 4],
) {
    x[b] ^= rotated(x[a] + x[d], 7);
    x[c] ^= rotated(x[b] + x[a], 9);
    x[d] ^= rotated(x[c] + x[b], 13);
    x[a] ^= rotated(x[d] + x[c], 18);
}

#[inline(always)]
fn rotated<S: Simd, V: SimdInt<S, Element = u32>>(x: V, bits: u32) -> V {
    (x << bits) | (x >> (32 - bits))
}
