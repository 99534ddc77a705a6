//! The end of a connection or a service, and of what it held.

use bytes::Bytes;

use crate::ambient::now;
use crate::reactor::hub::Hub;
use crate::reactor::state::peer::{Envelope, Peer, Role};
use crate::telemetry::Notable;
use event_manager_core::broker::{
    Aftermath, DropReason, EndedService, PeerId, ServiceKey, WorkerKey,
};

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
            Role::Subscriber { prefixes, hub } => {
                self.accounts.prefixes.forget(prefixes);
                for prefix in prefixes.iter() {
                    self.broker.routes.unsubscribe(prefix, id);
                    self.saved.subscribers.audience.left(prefix);
                }
                self.broker.routes.limit(id, None);
                if hub.is_some() {
                    self.broker.routes.remove_hub(id);
                }
                let in_outbox = peer.outbox.events();
                let (unwritten, written) = peer.outbox.take_unwritten();
                self.count_lost(&peer.address, in_outbox, written, unwritten.len() as u64);
            }
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

    /// A subscriber is gone. Of the events in its outbox so many were written since that was last
    /// reported, and so many were not.
    fn count_lost(&mut self, address: &str, in_outbox: u64, written: u64, lost: u64) {
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
        unwritten: Vec<Bytes>,
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
            let events = unwritten.into_iter();
            let events = events
                .map(|event| Peer::without_delimiter(envelope, event))
                .collect();
            service.worker_left(worker, events);
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
