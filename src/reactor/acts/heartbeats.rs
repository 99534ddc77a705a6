//! Who gives no sign of life.

use std::time::Duration;

use bytes::BytesMut;

use crate::reactor::hub::Hub;
use crate::reactor::io::kernel::tcp_troubles;
use crate::reactor::state::peer::{Peer, Role};
use event_manager_core::broker::PeerId;
use event_manager_zmtp::{Heartbeat, Pulse, encode_ping};

impl Hub {
    /// Asks quiet peers for signs of life, and ends connections that gave none. For so long our own loop
    /// hung; that is nobody's silence.
    pub(crate) fn check_heartbeats(&mut self, stalled: Duration) {
        let now = self.time.now;
        let (mut to_ping, mut silent, mut expired) = (Vec::new(), Vec::new(), Vec::new());
        let holds_publishers =
            self.saved.subscribers.is_awaited() || self.durable.queues.hold_publisher();
        let answers_max = self.config.budgets.request_outbox_bytes;
        for peer in self.peers.iter_mut() {
            let Some(heartbeat) = &mut peer.heartbeat else {
                continue;
            };
            match peer.role {
                // We don't listen to it, so its silence says nothing.
                Role::Publisher if holds_publishers => heartbeat.heard(now),
                Role::Publisher | Role::Requester { .. } if self.clients.is_paused(peer.client) => {
                    heartbeat.heard(now);
                }
                Role::Requester { .. } if peer.outbox.bytes() > answers_max => {
                    heartbeat.unheeded(now);
                }
                _ => {}
            }
            match heartbeat.poll(now, stalled) {
                Pulse::Quiet => {}
                // Behind a full outbox it would only add to the queue.
                Pulse::Ping if peer.outbox.is_blocked() => {}
                Pulse::Ping => to_ping.push(peer.id),
                Pulse::Dead => silent.push(peer.id),
                Pulse::Expired => expired.push(peer.id),
            }
        }
        let ttl = self.config.heartbeat_interval * (Heartbeat::DEAD_AFTER + 1);
        let mut ping = BytesMut::new();
        encode_ping(
            &mut ping,
            (ttl.as_millis() / 100).try_into().unwrap_or(u16::MAX),
        );
        for id in to_ping {
            self.peers.command(id, &ping);
        }
        self.end_dead(&silent);
        for id in expired {
            self.end_silent(id, "it was silent for the time to live that it named");
        }
    }

    fn end_silent(&mut self, id: PeerId, why: &str) {
        if let Some(address) = self.peers.get(id).map(|peer| peer.address.clone()) {
            self.worker_fell_silent(id);
            self.remove(id);
            self.notes.refuse("heartbeat-timeout", &address, &why);
        }
    }

    /// Ends connections that gave no sign of life. A peer that was sent events or answers since may only
    /// be too busy with them to answer (libzmq stops reading at its high-water mark): it is dead if the
    /// kernel gets no answer from its machine either.
    fn end_dead(&mut self, silent: &[PeerId]) {
        let now = self.time.now;
        let busy = |peer: &Peer| peer.may_be_busy || peer.outbox.is_blocked();
        let troubles = match silent.iter().any(|id| busy(&self.peers[*id])) {
            true => tcp_troubles(),
            false => Default::default(),
        };
        for id in silent {
            // One that was ended may have taken others with it.
            let Some(peer) = self.peers.get_mut(*id) else {
                continue;
            };
            if busy(peer) && !troubles.contains(&*peer.address) {
                // Else it would never be asked again, and the kernel at each tick.
                if let Some(heartbeat) = &mut peer.heartbeat {
                    heartbeat.excuse(now);
                }
                continue;
            }
            self.end_silent(*id, "it gave no sign of life for three heartbeats");
        }
    }
}
