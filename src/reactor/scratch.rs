//! Memory that is used again and again, and means nothing between two reads.

use std::time::Instant;

use super::inbox::ReadChunk;
use super::runs::Runs;
use crate::broker::{PeerId, WorkerKey};

/// What one read, and what comes of it, is worked out in.
pub(super) struct Scratch {
    pub(super) chunk: ReadChunk,
    pub(super) runs: Runs,
    /// Workers in turn.
    pub(super) turns: Vec<(WorkerKey, PeerId)>,
    pub(super) words: Words,
}

impl Scratch {
    pub(super) fn new(at: Instant) -> Self {
        Self {
            chunk: ReadChunk::default(),
            runs: Runs::default(),
            turns: Vec::new(),
            words: Words::new(at),
        }
    }
}

/// Effects of the words in one read, applied once for all of them.
pub(super) struct Words {
    /// When they were read.
    pub(super) at: Instant,
    /// The sequence numbers of events that are done.
    pub(super) settled: Vec<u64>,
    /// Events may go, to this worker or to others.
    pub(super) moved: bool,
}

impl Words {
    fn new(at: Instant) -> Self {
        Self {
            at,
            settled: vec![],
            moved: false,
        }
    }
}
