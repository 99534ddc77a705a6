//! Requests whose answers come later, and events that were published by request and wait.

use tokio::sync::mpsc;

use super::effects::Effect;
use super::emissions::Emissions;
use super::promises::Promises;
use super::replies::PendingReplies;

/// All that waits on account of a request.
pub(super) struct Requests {
    /// What others are asked to do.
    pub(super) effects: mpsc::Sender<Effect>,
    pub(super) replies: PendingReplies,
    /// Answers that wait until no crash takes back what they say.
    pub(super) promises: Promises,
    pub(super) emissions: Emissions,
}

impl Requests {
    /// No more than `pending_max` wait.
    pub(super) fn new(effects: mpsc::Sender<Effect>, pending_max: usize) -> Self {
        Self {
            effects,
            replies: PendingReplies::new(pending_max),
            promises: Promises::default(),
            emissions: Emissions::default(),
        }
    }
}
