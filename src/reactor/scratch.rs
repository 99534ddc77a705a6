//! Memory that is used again and again, and means nothing between two reads.

use super::inbox::ReadChunk;
use super::intake::Runs;
use super::worker::Words;
use crate::broker::{PeerId, WorkerKey};

/// What one read, and what comes of it, is worked out in.
pub(super) struct Scratch {
    pub(super) chunk: ReadChunk,
    pub(super) runs: Runs,
    /// Workers in turn.
    pub(super) turns: Vec<(WorkerKey, PeerId)>,
    pub(super) words: Words,
}
