//! Buffers that are used again, and hold nothing between two reads.

use std::time::Instant;

use bytes::BytesMut;

use super::runs::Runs;
use crate::reactor::io::inbox::ReadChunk;
use event_manager_core::broker::{PeerId, WorkerKey};
use event_manager_core::seq::Seq;

/// Buffers for one read and what follows from it.
pub(crate) struct Scratch {
    pub(crate) chunk: ReadChunk,
    pub(crate) runs: Runs,
    /// Workers in turn.
    pub(crate) turns: Vec<(WorkerKey, PeerId)>,
    pub(crate) words: Words,
    /// An answer to a request, as it is written.
    pub(crate) answer: BytesMut,
}

impl Scratch {
    pub(crate) fn new(at: Instant) -> Self {
        Self {
            chunk: ReadChunk::default(),
            runs: Runs::default(),
            turns: Vec::new(),
            words: Words::new(at),
            answer: BytesMut::new(),
        }
    }
}

/// Effects of the words in one read, applied once for all of them.
pub(crate) struct Words {
    /// When they were read.
    pub(crate) at: Instant,
    /// The sequence numbers of events that are done.
    pub(crate) settled: Vec<Seq>,
    /// Events may go, to this worker or to others.
    pub(crate) moved: bool,
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
