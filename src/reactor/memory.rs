//! The memory limit of the process: what waits for all peers and services together.
//!
//! Each outbox and queue has its own budget; many of them may be more than the machine has. What
//! waits is added up each time that a part of the limit has been taken in since, and when it is too
//! much, the largest make room.

use super::hub::Hub;
use super::peer::Role;
use crate::broker::{DropReason, PeerId, ServiceKey};

/// It is added up after so large a part of the limit, and so may be exceeded by that.
const LOOK_PART: usize = 16;
/// Whoever has to make room keeps this part of what it had.
const KEPT_PART: usize = 2;

/// Who can make room.
#[derive(Clone, Copy)]
enum Holder {
    Subscriber(PeerId),
    Service(ServiceKey),
}

impl Hub {
    /// So many bytes were given to peers and services.
    pub(super) fn taken(&mut self, bytes: usize) {
        let limit = self.config.memory_limit;
        if limit == 0 {
            return;
        }
        self.taken_bytes += bytes;
        if self.taken_bytes > limit / LOOK_PART {
            self.taken_bytes = 0;
            self.make_room(limit);
        }
    }

    /// What waits for peers and services, in bytes. What durable services have in memory is bounded
    /// by their own budgets, and can't be given up.
    pub(super) fn waiting_bytes(&self) -> usize {
        let outboxes = self.peers.iter().map(|(_, peer)| peer.outbox.bytes());
        let queues = self
            .broker
            .services()
            .map(|(_, service)| service.queue.bytes());
        outboxes.chain(queues).sum()
    }

    fn make_room(&mut self, limit: usize) {
        let mut waiting = self.waiting_bytes();
        while waiting > limit
            && let Some((holder, bytes)) = self.largest()
        {
            self.shed(holder, bytes / KEPT_PART);
            let left = self.waiting_bytes();
            if left == waiting {
                return;
            }
            waiting = left;
        }
    }

    fn largest(&self) -> Option<(Holder, usize)> {
        let subscribers = self
            .peers
            .iter()
            .filter(|(_, peer)| matches!(peer.role, Role::Subscriber { .. }));
        let subscribers =
            subscribers.map(|(_, peer)| (Holder::Subscriber(peer.id), peer.outbox.bytes()));
        let live = self
            .broker
            .services()
            .filter(|(_, service)| service.shelf.is_none());
        let services = live.map(|(key, service)| (Holder::Service(key), service.queue.bytes()));
        subscribers.chain(services).max_by_key(|(_, bytes)| *bytes)
    }

    fn shed(&mut self, holder: Holder, bytes_max: usize) {
        match holder {
            Holder::Subscriber(id) => {
                let Some(peer) = self.peer(id) else { return };
                let dropped = peer.outbox.shed(bytes_max);
                self.subscribers.in_flight -= dropped;
                self.subscribers
                    .dropped
                    .add(DropReason::MemoryLimit, dropped);
                self.log_slow_subscriber(id, DropReason::MemoryLimit, dropped);
            }
            Holder::Service(key) => {
                let Some(service) = self.broker.service_mut(key) else {
                    return;
                };
                let before = service.account.dropped;
                service.shed(bytes_max);
                self.log_dropped_since(key, &before);
            }
        }
    }
}
