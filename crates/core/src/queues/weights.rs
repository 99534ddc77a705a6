//! What queues hold on disk, and what is on its way there.

use super::Queues;
use event_manager_wire::model::ServiceName;

/// What an event takes on disk beside its id and its body, about.
pub const EVENT_OVERHEAD_BYTES: u64 = 46;

/// What a queue holds, in bytes. What is on its way to the disk counts as in memory, until the store says
/// what it takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Weight {
    /// As the store said last.
    on_disk: u64,
    /// Of appends that the store has not reported on.
    under_way: u64,
    /// Of appends that are on disk since the store last said what that takes.
    committed: u64,
}

impl Weight {
    fn total(self) -> u64 {
        self.on_disk + self.under_way + self.committed
    }

    /// More is on its way.
    pub(super) fn came(&mut self, bytes: usize) {
        self.under_way += bytes as u64;
    }

    /// Something is on its way no more: it is on disk, or it is not.
    pub(super) fn arrived(&mut self, bytes: usize, is_on_disk: bool) {
        self.under_way = self.under_way.saturating_sub(bytes as u64);
        if is_on_disk {
            self.committed += bytes as u64;
        }
    }

    /// The store says what the queue holds.
    pub(super) fn is(&mut self, bytes: u64) {
        (self.on_disk, self.committed) = (bytes, 0);
    }
}

impl<R> Queues<R> {
    /// What a service's queue and its dead letters hold, in bytes on disk and on their way there.
    pub fn holds(&self, service: &ServiceName) -> u64 {
        let letters = service.dead_letters();
        self.queue_holds(service) + letters.map_or(0, |letters| self.queue_holds(&letters))
    }

    /// What one queue holds, in bytes on disk and on their way there.
    pub fn queue_holds(&self, queue: &ServiceName) -> u64 {
        let record = self.records.get(queue);
        record.map_or(0, |record| record.weight.total())
    }

    /// Another number than before if what a queue holds may be less than it was, or more without an event
    /// that came.
    pub fn weighed(&self) -> u64 {
        self.weighed
    }

    pub(super) fn weigh(&mut self, queue: &ServiceName, bytes: u64) {
        self.weighed += 1;
        self.record(queue).weight.is(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_counts_until_it_is_known_on_disk() {
        let mut weight = Weight::default();
        weight.came(100);
        weight.came(50);
        assert_eq!(weight.total(), 150);
        weight.arrived(100, true);
        assert_eq!(weight.total(), 150, "it is on disk, and not weighed");
        weight.is(80);
        assert_eq!(weight.total(), 130);
        weight.arrived(50, false);
        assert_eq!(weight.total(), 80);
        weight.is(0);
        assert_eq!(weight.total(), 0);
    }
}
