//! Requests whose answers come later, and events that were published by request and wait.

use tokio::sync::mpsc;

use super::effects::Effect;
use super::emissions::Emissions;
use super::promises::Promises;
use super::replies::PendingReplies;

/// All that waits on account of a request.
pub(crate) struct Requests {
    /// What others are asked to do.
    pub(crate) effects: mpsc::Sender<Effect>,
    pub(crate) replies: PendingReplies,
    /// Answers that wait until no crash takes back what they say.
    pub(crate) promises: Promises,
    pub(crate) emissions: Emissions,
    /// How many there were so far that publish no event.
    pub(crate) others: u64,
}

impl Requests {
    /// No more than `pending_max` wait.
    pub(crate) fn new(effects: mpsc::Sender<Effect>, pending_max: usize) -> Self {
        Self {
            effects,
            replies: PendingReplies::new(pending_max),
            promises: Promises::default(),
            emissions: Emissions::default(),
            others: 0,
        }
    }
}
