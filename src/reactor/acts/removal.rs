//! The end of a connection or a service, and of what it held.

use crate::ambient::now;
use crate::reactor::hub::{Hub, SharedHub};
use crate::reactor::io::outbox::Unwritten;
use crate::reactor::state::peer::{Envelope, Peer, Role};
use crate::reactor::state::prefixes::Leftover;
use crate::telemetry::Notable;
use event_manager_core::broker::{
    Aftermath, DropReason, EndedService, PeerId, ServiceKey, WorkerKey,
};

/// So many prefixes of subscribers that are gone leave the index before others have their turn: when a
/// thousand clients are cut off at once, there are millions, at one or two µs each.
const PREFIXES_PER_TURN: usize = 500;

/// Takes prefixes of subscribers that are gone out of the index.
pub(crate) async fn forget_prefixes(hub: SharedHub) {
    let departure = hub.borrow().accounts.prefixes.departure();
    loop {
        departure.notified().await;
        while hub.borrow_mut().forget_some_prefixes() {
            tokio::task::yield_now().await;
        }
    }
}

impl Hub {
    /// Ends a connection: its routes go, what it held goes back or is counted, its task ends. One that
    /// is gone already is left alone.
    pub(crate) fn remove(&mut self, id: PeerId) {
        let Some(mut peer) = self.peers.remove(id) else {
            return;
        };
        match &peer.role {
            Role::Publisher => {
                if let Some(observer) = &mut self.observer {
                    observer.ended(id);
                }
            }
            Role::Requester { .. } => {}
            Role::Subscriber { .. } => self.let_subscriber_go(peer),
            Role::Worker {
                service,
                key,
                envelope,
                proxied,
            } => {
                // At our own end all of them go.
                if !self.phase.is_draining() {
                    self.notes.worker_gone(&self.broker[*service], &peer);
                }
                self.saved.worker_left(*service, id);
                self.streamers
                    .release_identity(*service, &peer.zmtp.identity, id);
                let (unwritten, written) = peer.outbox.take_unwritten();
                match proxied {
                    Some(proxied) => self.let_proxied_go(*service, proxied, unwritten),
                    None => self.let_worker_go(*service, *key, *envelope, unwritten, written),
                }
            }
        }
    }

    fn let_subscriber_go(&mut self, mut peer: Peer) {
        let in_outbox = peer.outbox.events();
        let (_, written) = peer.outbox.take_unwritten();
        self.count_lost(&peer.address, in_outbox, written);
        if let Role::Subscriber { prefixes, .. } = peer.role {
            self.accounts.prefixes.depart(peer.id, prefixes);
        }
    }

    /// Takes some of the prefixes of subscribers that are gone out of the index; whether there are more.
    /// Until then events are routed to them, and find nobody.
    fn forget_some_prefixes(&mut self) -> bool {
        let (routes, subscribers) = (&mut self.broker.routes, &mut self.saved.subscribers);
        for _ in 0..PREFIXES_PER_TURN {
            match self.accounts.prefixes.next_leftover() {
                None => return false,
                Some((id, Leftover::Prefix(prefix))) => {
                    routes.unsubscribe(&prefix, id);
                    subscribers.audience.left(&prefix);
                }
                Some((id, Leftover::Done)) => {
                    routes.limit(id, None);
                    routes.remove_hub(id);
                }
            }
        }
        true
    }

    /// A subscriber is gone. Of the events in its outbox so many were written since that was last
    /// reported; the others are lost.
    fn count_lost(&mut self, address: &str, in_outbox: u64, written: u64) {
        let lost = in_outbox - written;
        self.accounts.subscribers.delivered += written;
        self.accounts.subscribers.in_flight -= in_outbox;
        let dropped = &mut self.accounts.subscribers.dropped;
        dropped.add(DropReason::SubscriberLost, lost);
        if lost > 0 {
            let burst = DropReason::SubscriberLost.name();
            self.notes
                .burst(burst, |suppressed| Notable::SubscriberLost {
                    peer: address,
                    events: lost,
                    suppressed,
                });
        }
    }

    /// A worker is gone: what it held goes to others. Of the events in its outbox so many were written,
    /// and these weren't.
    pub(crate) fn let_worker_go(
        &mut self,
        key: ServiceKey,
        worker: WorkerKey,
        envelope: Option<Envelope>,
        unwritten: Vec<Unwritten>,
        written: u64,
    ) {
        let service = &mut self.broker[key];
        let before = service.account.dropped;
        let aftermath = if envelope.is_some_and(|envelope| envelope.acknowledges) {
            service.holder_left(worker, &Peer::deliveries(&unwritten), now())
        } else if service.is_kept() {
            service.plain_worker_left(worker, written, now())
        } else {
            service.account.delivered += written;
            service.account.in_flight -= written;
            let events = unwritten.into_iter().filter(|one| one.is_event);
            service.worker_left(worker, events.map(|event| event.message).collect());
            Aftermath::default()
        };
        self.notes.dropped_since(service, &before);
        self.finish(key, aftermath);
        self.dispatch(key);
    }

    /// A service has ended: closes its streamer and its workers' connections, removes its queue.
    pub(crate) fn close_service(&mut self, ended: &EndedService) {
        self.streamers.close(ended.key);
        self.saved.service_ended(ended);
        for worker in &ended.workers {
            // Its service is gone, so there is nothing to count.
            self.peers.remove(*worker);
        }
        if ended.durable {
            self.remove_queue(ended);
        }
        self.notes.service_ended(ended);
    }
}
