//! A connection whose handshake is done becomes a peer.

use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::Notify;

use super::loops::Rings;
use crate::reactor::hub::Hub;
use crate::reactor::io::outbox::Outbox;
use crate::reactor::io::stream::Stream;
use crate::reactor::state::mesh::Downstream;
use crate::reactor::state::peer::{Peer, Role, Source};
use crate::reactor::state::purpose::Purpose;
use crate::reactor::state::streamers::Streamer;
use crate::telemetry::Notable;
use event_manager_core::broker::PeerId;
use event_manager_core::security::Identity;
use event_manager_zmtp::curve::Sealer;
use event_manager_zmtp::{Heartbeat, Peer as ZmtpPeer, SocketType};

/// A connection, as it is when its handshake is done.
pub(crate) struct Met {
    pub(crate) zmtp: ZmtpPeer,
    /// Who it is.
    pub(crate) identity: Identity,
    /// It is a part of this process.
    pub(crate) is_attached: bool,
    pub(crate) stream: Rc<Stream>,
    /// Where it connects from, for logs.
    pub(crate) address: Rc<str>,
    /// Wakes its task.
    pub(crate) wake: Rc<Notify>,
    /// Seals what it is sent, with CURVE.
    pub(crate) sealer: Option<Sealer>,
}

impl Hub {
    /// A connection's handshake is done. `None` if its service is gone meanwhile.
    pub(crate) fn admit(&mut self, purpose: &Purpose, met: Met) -> Option<PeerId> {
        if let Purpose::Workers(streamer) = purpose {
            if !self.streamers.is_current(streamer) {
                return None;
            }
            self.remove_namesake(streamer, &met.zmtp.identity);
        }
        let id = self.peers.next_id();
        let role = match purpose {
            Purpose::Publishers | Purpose::Dialled(_) => Role::Publisher,
            Purpose::Subscribers => Role::Subscriber {
                prefixes: Default::default(),
                hub: met.zmtp.hub.map(|hub| Box::new(Downstream::new(hub))),
            },
            Purpose::Requests => Role::Requester { locator: false },
            Purpose::Locator => Role::Requester { locator: true },
            Purpose::Workers(streamer) => self.join_service(streamer, id, &met.zmtp),
        };
        let (is_downstream, hub) = match &role {
            Role::Subscriber { .. } => (met.zmtp.event_manager.is_some(), met.zmtp.hub),
            _ => (false, None),
        };
        self.insert(id, role, met);
        match purpose {
            Purpose::Publishers => self.peers.subscribe_to(id),
            Purpose::Dialled(index) => {
                self.upstream.has_begun(*index, id, &mut self.notes);
                match self.upstream.dialled[*index].link {
                    // It is subscribed to when it has said that it is a hub.
                    Some(_) => self.peers[id].source = Source::Unknown,
                    None => self.peers.subscribe_to(id),
                }
            }
            _ if hub.is_some() => self.hub_joined(id),
            _ if is_downstream => Rings::of(self).downstream_joined(id),
            _ => {}
        }
        Some(id)
    }

    /// The id is [`Peers::next_id`](crate::reactor::state::peers::Peers::next_id).
    pub(crate) fn insert(&mut self, id: PeerId, role: Role, met: Met) {
        let can_be_asked = met.zmtp.version.has_ping();
        let interval = self.config.heartbeat_interval;
        let client = self.clients.know(&met.identity, self.time.now);
        if let Role::Subscriber { .. } = role {
            self.broker.routes.limit(id, self.clients.hearing(client));
        }
        self.peers.insert(Peer {
            id,
            role,
            zmtp: met.zmtp,
            client,
            is_attached: met.is_attached,
            address: met.address,
            stream: met.stream,
            outbox: Outbox::sealing(met.sealer),
            half_received: 0,
            dirty: false,
            wake: met.wake,
            heartbeat: can_be_asked.then(|| Heartbeat::new(interval, self.time.now)),
            may_be_busy: false,
            is_parting: false,
            is_leaving: false,
            source: Source::Client,
            stuck: None,
        });
    }

    fn join_service(&mut self, streamer: &Streamer, id: PeerId, zmtp: &ZmtpPeer) -> Role {
        let service = streamer.service;
        streamer.claim_identity(&zmtp.identity, id);
        // A REQ socket can't take a second event before it has asked for it.
        let lockstep = zmtp.socket_type == SocketType::Req;
        let key = self.broker[service].workers.join(id, lockstep);
        self.saved.worker_joined(service, id, lockstep);
        Role::Worker {
            service,
            key,
            envelope: None,
            proxied: None,
        }
    }

    /// Of two workers with one routing id the newer connection stays.
    fn remove_namesake(&mut self, streamer: &Streamer, identity: &Bytes) {
        let Some(older) = streamer.holder_of(identity) else {
            return;
        };
        let name = self.broker[streamer.service].name();
        let identity = identity.escape_ascii().to_string();
        self.notes
            .burst("same-identity", |suppressed| Notable::SameIdentity {
                service: name.as_str(),
                identity: &identity,
                suppressed,
            });
        self.worker_fell_silent(older);
        self.remove(older);
    }
}
