//! What a service was given from a queue of another broker.

use std::collections::BTreeMap;

use crate::seq::Seq;

/// What was taken from another broker and is not settled.
#[derive(Debug, Default)]
pub struct Taken {
    /// By which events are known for ever, by the numbers that they have here.
    ids: BTreeMap<Seq, Box<str>>,
    /// How many were taken since the beginning.
    received: u64,
}

impl Taken {
    /// By which an event is known for ever.
    pub(super) fn id_of(&self, number: Seq) -> Option<&str> {
        self.ids.get(&number).map(|id| &**id)
    }

    /// An event was taken, which is known by this for ever.
    pub(super) fn take(&mut self, number: Seq, id: &str) {
        self.received += 1;
        self.ids.insert(number, id.into());
    }

    /// How many were taken since the beginning.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// An event is done with here.
    pub fn forget(&mut self, number: Seq) {
        self.ids.remove(&number);
    }
}
