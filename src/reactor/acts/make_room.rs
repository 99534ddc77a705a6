//! The memory limit of the process: what waits for all peers and services together, and what was
//! received of messages that aren't whole.
//!
//! Each outbox, queue and message has its own bound; many of them may be more than the machine has.
//! The total is added up again each time that another sixteenth of the limit was queued. If it is too
//! much, the largest make room.

use crate::reactor::hub::Hub;
use crate::reactor::state::memory::{HALF_RECEIVED_MIN, waiting_bytes};
use crate::reactor::state::peer::{Peer, Role};
use crate::reactor::state::peers::Peers;
use event_manager_core::broker::{Broker, DropReason, PeerId, ServiceKey};

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
    pub(crate) fn taken(&mut self, bytes: usize) {
        let limit = self.config.memory_limit;
        if limit == 0 {
            return;
        }
        if self.accounts.memory.is_due(bytes, limit) {
            self.make_room(limit);
        }
    }

    /// A connection keeps so many bytes of a message that isn't whole.
    pub(crate) fn count_half_received(&mut self, id: PeerId, bytes: usize) {
        // What it said may have ended its connection.
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let counted = if bytes < HALF_RECEIVED_MIN { 0 } else { bytes };
        let before = std::mem::replace(&mut peer.half_received, counted);
        self.taken(counted.saturating_sub(before));
    }

    pub(crate) fn make_room(&mut self, limit: usize) {
        let mut waiting = waiting_bytes(&self.peers, &self.broker);
        while waiting > limit {
            // Together like one holder: else many small ones would drive out one queue after another.
            let half_received = self.peers.half_received_bytes();
            match largest(&self.peers, &self.broker) {
                Some((holder, bytes)) if bytes >= half_received => {
                    self.shed(holder, bytes / KEPT_PART);
                }
                _ => self.end_half_received(waiting - limit),
            }
            let left = waiting_bytes(&self.peers, &self.broker);
            if left == waiting {
                return;
            }
            waiting = left;
        }
    }

    /// Ends the connections that keep the most of messages that aren't whole, until so much is free.
    fn end_half_received(&mut self, mut excess: usize) {
        let keepers = self.peers.iter().filter(|peer| peer.half_received > 0);
        let mut keepers: Vec<_> = keepers.map(|peer| (peer.half_received, peer.id)).collect();
        keepers.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        for (bytes, id) in keepers {
            if excess == 0 {
                return;
            }
            excess = excess.saturating_sub(bytes);
            // One that was removed before it may have taken it along.
            let Some(address) = self.peers.get(id).map(|peer| peer.address.clone()) else {
                continue;
            };
            self.remove(id);
            let why = format!(
                "no connection has sent more of a message that isn't whole, {bytes} bytes, and memoryLimit is reached"
            );
            self.notes.refuse("half-received", &address, &why);
        }
    }

    fn shed(&mut self, holder: Holder, bytes_max: usize) {
        match holder {
            Holder::Subscriber(id) => {
                let peer = &mut self.peers[id];
                let dropped = peer.outbox.shed(bytes_max);
                let reason = DropReason::MemoryLimit;
                self.accounts.dropped_for_subscriber(reason, dropped);
                self.notes.subscriber_slow(&peer.address, reason, dropped);
            }
            Holder::Service(key) => {
                let service = &mut self.broker[key];
                let before = service.account.dropped;
                service.shed(bytes_max);
                self.notes.dropped_since(service, &before);
            }
        }
    }
}

fn largest(peers: &Peers, broker: &Broker) -> Option<(Holder, usize)> {
    let is_subscriber = |peer: &&Peer| matches!(peer.role, Role::Subscriber { .. });
    let subscribers = peers.iter().filter(is_subscriber);
    let subscribers = subscribers.map(|peer| (Holder::Subscriber(peer.id), peer.outbox.bytes()));
    let services = broker.services();
    let live = services.filter(|(_, service)| !service.is_kept());
    let services = live.map(|(key, service)| (Holder::Service(key), service.queue.bytes()));
    subscribers.chain(services).max_by_key(|(_, bytes)| *bytes)
}
