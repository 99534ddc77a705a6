//! How often the events of a durable service were tried, for its log.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Backlog;
use crate::broker::ids::DeliveryId;
use crate::seq::Seq;

/// How often durable events were tried, as far as their log doesn't know it yet.
#[derive(Debug, Default)]
pub(super) struct Tries {
    /// Those that came back.
    pub(super) came_back: BTreeMap<Seq, u32>,
    /// When those of them that have to wait may go again.
    pub(super) later: BTreeMap<Seq, Instant>,
    /// What is held was told up to this delivery.
    told: DeliveryId,
}

impl Backlog {
    /// Nobody wants to know how often events were tried.
    pub fn forget_tries(&mut self) {
        self.tries = Tries {
            told: DeliveryId(self.held.last_id()),
            ..Tries::default()
        };
    }

    /// How often events were tried of which the log should know it, since this was last asked: those
    /// that workers hold, and those that came back from them. What was done meanwhile is not among them.
    pub fn take_tries(&mut self) -> Vec<(Seq, u32)> {
        let mut tries = std::mem::take(&mut self.tries.came_back);
        let held = self.held.given_after(self.tries.told);
        tries.extend(held.filter_map(|held| Some((held.item.seq?, held.item.attempt))));
        tries.into_iter().collect()
    }

    /// The sequence numbers of those of [`take_tries`](Self::take_tries) that workers hold, to be asked
    /// after it; the others wait.
    pub fn take_in_hands(&mut self) -> Vec<Seq> {
        let held = self.held.given_after(self.tries.told);
        let seqs = held.filter_map(|held| held.item.seq).collect();
        self.tries.told = DeliveryId(self.held.last_id());
        seqs
    }

    /// When events that came back since this was last asked may be given out again.
    pub fn take_later(&mut self) -> BTreeMap<Seq, Instant> {
        std::mem::take(&mut self.tries.later)
    }

    /// The daemon stops, and these deliveries were not written to their worker: they were no tries. It
    /// holds the events as before.
    pub fn not_written(&mut self, unwritten: impl IntoIterator<Item = DeliveryId>) {
        for id in unwritten {
            if let Some((seq, attempt)) = self.held.not_written(id) {
                self.tries.came_back.insert(seq, attempt);
            }
        }
    }
}
