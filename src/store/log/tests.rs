//! The log, one case after the other; and a second reading of its format.

use super::sim_disk::SimDisk;
use super::*;

/// What a record is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Event(u64),
    Settled(Vec<(u64, u64)>),
    Attempts(Vec<u64>),
    Id(u64),
}

#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) offset: usize,
    pub(super) bytes: usize,
    pub(super) kind: Kind,
}

/// The records of a segment, read from docs/log-format.md and not with the code under test.
/// What isn't whole is passed over.
pub(super) fn parse(file: &[u8], number: u64) -> Vec<Parsed> {
    let u32_at = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
    let mut records = vec![];
    let mut at = 64;
    while at + 20 <= file.len() {
        let place = [number.to_le_bytes(), (at as u64).to_le_bytes()].concat();
        let check = crc32fast::hash(&[&place, &file[at..at + 12]].concat());
        let bytes = 20 + u32_at(at + 4) as usize;
        if check != u32_at(at + 12) || at + bytes > file.len() {
            at += 1;
            continue;
        }
        let payload = at + 20;
        let check = crc32fast::hash(&[&file[at..at + 16], &file[payload..at + bytes]].concat());
        if check != u32_at(at + 16) {
            at += bytes;
            continue;
        }
        let kind = match file[at] {
            0xE1 | 0xE2 => Kind::Event(u64_at(payload)),
            0xE3 => Kind::Settled(
                (payload..at + bytes)
                    .step_by(16)
                    .map(|at| (u64_at(at), u64_at(at + 8)))
                    .collect(),
            ),
            0xE4 => Kind::Attempts((payload..at + bytes).step_by(12).map(u64_at).collect()),
            0xE5 => Kind::Id(u64_at(payload)),
            kind => panic!("kind {kind}"),
        };
        records.push(Parsed {
            offset: at,
            bytes,
            kind,
        });
        at += bytes;
    }
    records
}
