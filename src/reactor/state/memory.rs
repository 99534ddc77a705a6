//! What waits in memory, and when to add it up.

use super::peers::Peers;
use event_manager_core::broker::Broker;

/// It is added up after so large a part of the limit, and so may be exceeded by that.
const LOOK_PART: usize = 16;
/// Less than this of a message that isn't whole is not counted, so that who sends small ones pays
/// nothing for it.
pub(crate) const HALF_RECEIVED_MIN: usize = 16 << 10;

/// Counts what was taken in, so that all is added up now and then only.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Bytes given to peers and services since what waits was added up.
    taken_bytes: usize,
}

impl Memory {
    /// So many bytes more were taken in; whether it is time to add up all that waits.
    pub(crate) fn is_due(&mut self, bytes: usize, limit: usize) -> bool {
        self.taken_bytes += bytes;
        let is_due = self.taken_bytes > limit / LOOK_PART;
        if is_due {
            self.begin_again();
        }
        is_due
    }

    /// All that waits is added up now.
    pub(crate) fn begin_again(&mut self) {
        self.taken_bytes = 0;
    }
}

/// What waits for peers and services and what is half received, in bytes. What durable services have in
/// memory is bounded by their own budgets, and can't be given up.
pub(crate) fn waiting_bytes(peers: &Peers, broker: &Broker) -> usize {
    let outboxes = peers.iter().map(|peer| peer.outbox.bytes());
    let queues = broker.services().map(|(_, service)| service.queue.bytes());
    outboxes.chain(queues).sum::<usize>() + peers.half_received_bytes()
}
