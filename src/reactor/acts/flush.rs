//! Writes what was appended to outboxes, as far as the sockets take it.

use super::proxied::proxied_wrote;
use crate::reactor::hub::{Hub, SharedHub};
use crate::reactor::state::peer::Role;
use event_manager_core::broker::PeerId;

/// Flushes after all connections that are readable now have had their turn, so that what many small
/// reads route to one peer leaves in one write.
pub(crate) async fn flush_when_wanted(hub: SharedHub) {
    let wanted = hub.borrow().peers.flush_wanted();
    loop {
        wanted.notified().await;
        hub.borrow_mut().flush();
    }
}

impl Hub {
    /// Hands the store what is to be appended, and writes to all peers that have something to send.
    pub(crate) fn flush(&mut self) {
        self.flush_store();
        if self.upstream.mesh.interest.is_some() {
            self.ask_for_changes();
        }
        let dirty = self.peers.begin_flush();
        for id in &dirty {
            if self.peers.begin_turn(*id) {
                self.flush_peer(*id);
            }
        }
        self.peers.end_flush(dirty);
    }

    /// Writes to one peer and counts what was written. A worker that has room again gets waiting events
    /// of its service.
    pub(crate) fn flush_peer(&mut self, id: PeerId) {
        // The caller may have to do with one that is gone.
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let bytes = peer.outbox.bytes();
        let written = peer.outbox.write_to(|slices| peer.stream.try_write(slices));
        let written = match written {
            Ok(written) => written,
            Err(error) => {
                tracing::debug!(target: "em.connection", peer = %peer.address, %error, "connection lost while writing");
                return self.remove(id);
            }
        };
        peer.may_be_busy |= written.has_messages || written.blocked;
        if written.blocked {
            peer.wake.notify_one();
        }
        let left_bytes = peer.outbox.bytes();
        if left_bytes < bytes {
            peer.stuck = None;
        }
        match &mut peer.role {
            Role::Publisher | Role::Requester { .. } => {}
            Role::Subscriber { hub, .. } => {
                self.accounts.written_to_subscriber(written.events);
                if let Some(hub) = hub {
                    hub.events += written.events;
                    self.accounts.written_to_hubs += written.events;
                    hub.bytes += (bytes - left_bytes) as u64;
                }
            }
            Role::Worker {
                service: key,
                key: worker,
                proxied,
                ..
            } => {
                let key = *key;
                let service = &mut self.broker[key];
                let aftermath = match proxied {
                    Some(proxied) => {
                        proxied_wrote(service, proxied.wrote(bytes - left_bytes), self.time.now)
                    }
                    None => service.written(*worker, written.events, self.time.now),
                };
                let has_room = left_bytes <= self.config.budgets.worker_outbox_bytes / 2;
                if has_room {
                    peer.set_open(&mut service.workers, true);
                }
                self.finish(key, aftermath);
                if has_room {
                    self.dispatch(key);
                }
            }
        }
    }
}
