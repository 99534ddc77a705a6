//! The mesh: hubs say who they are, and ask each other for what is wanted at their own.
//!
//! A link is a publisher that we dial, or a subscriber that dialled us. What a hub is given was published
//! by our own clients, so no event goes further than from one hub to another: that is a matter of
//! routes ([`RouteTable`](event_manager_core::broker::RouteTable)), and of nothing that is done for each
//! event.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::loops::Rings;
use crate::reactor::hub::Hub;
use crate::reactor::io::peer_error::PeerError;
use crate::reactor::state::accounts::Published;
use crate::reactor::state::peer::Source;
use crate::telemetry::Notable;
use event_manager_core::broker::{PeerId, Wishes};
use event_manager_zmtp::{
    Handshake, HubId, Version, decode_hub, encode_cancel, encode_hub, encode_subscribe,
};

/// How often it is looked at what isn't wanted any more.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(1);
/// A hub that doesn't read what is wanted here is to begin anew.
const WISHES_BYTES_MAX: usize = 4 << 20;

impl Hub {
    /// A hub dialled us. Its subscriptions are none of ours, and it gets nothing that came by a hub.
    pub(super) fn hub_joined(&mut self, id: PeerId) {
        let Some(hub) = self.peers[id].zmtp.hub else {
            return;
        };
        let mut command = BytesMut::new();
        encode_hub(
            &mut command,
            self.upstream.mesh.id,
            self.upstream.watch.loops.own(),
        );
        self.peers.command(id, &command);
        let run = self.peers[id].zmtp.event_manager;
        if let Some(why) = self.why_own(hub, run) {
            // It reads who we are, and is told no more. If it is ourselves, that is said of what we dial.
            if !self.is_ourselves(run) {
                let address = self.peers[id].address.clone();
                self.notes.refuse_hub(&address, &why);
            }
            self.flush_peer(id);
            if let Some(peer) = self.peers.get_mut(id) {
                peer.is_parting = true;
            }
            return;
        }
        self.broker.routes.add_hub(id);
        if self.peers[id].zmtp.event_manager.is_some() {
            Rings::of(self).hub_joined(id);
        }
    }

    /// Whether this is our own id.
    pub(super) fn is_own_hub(&self, hub: HubId) -> bool {
        hub == self.upstream.mesh.id
    }

    /// Why who has this id, in this run, is no other hub.
    fn why_own(&self, hub: HubId, run: Option<u64>) -> Option<String> {
        self.is_own_hub(hub).then(|| match self.is_ourselves(run) {
            true => "it is this daemon itself: remove it from mesh.peers".to_owned(),
            false => format!(
                "the hub there is {hub}, as this one is: its stateDir is a copy of ours; stop one of them, remove the file \"instance\" from its stateDir, and start it again"
            ),
        })
    }

    fn is_ourselves(&self, run: Option<u64>) -> bool {
        run == Some(self.upstream.watch.loops.own())
    }

    /// A publisher that we dial is told that we are an event manager, and a hub that we are one, too.
    pub(super) fn says_who_we_are(&self, begun: Handshake, dialled: usize) -> Handshake {
        let begun = begun.of_event_manager(self.upstream.watch.loops.own());
        match self.upstream.dialled[dialled].link {
            Some(_) => begun.of_hub(self.upstream.mesh.id),
            None => begun,
        }
    }

    /// Somebody said that it is a hub, and which.
    ///
    /// # Errors
    /// We don't want it.
    pub(super) fn hear_hub(&mut self, id: PeerId, data: &[u8]) -> Result<(), PeerError> {
        let Some(address) = self
            .upstream
            .dialled_as(id)
            .map(|dialled| dialled.address())
        else {
            return Ok(());
        };
        if self.peers[id].source != Source::Unknown {
            return Ok(());
        }
        let Some((hub, run)) = decode_hub(data) else {
            let why = "its EMHUB can't be read: 16 hex digits and 8 bytes are wanted";
            return Err(self.no_link(id, why.into()));
        };
        if let Some(why) = self.why_own(hub, Some(run)) {
            return Err(self.no_link(id, why));
        }
        let mut linked = self.upstream.dialled.iter();
        if let Some(other) = linked.find(|other| other.hub().is_some_and(|(known, _)| known == hub))
        {
            let why = format!(
                "the hub there, {hub}, is linked as {} already: its events would come twice; remove one of the two from mesh.peers",
                other.address()
            );
            return Err(self.no_link(id, why));
        }
        if let Some(dialled) = self.upstream.dialled_as(id) {
            dialled.linked(hub, run);
        }
        self.peers[id].source = Source::EventManager;
        let (burst, hub) = (format!("link-up:{address}"), hub.to_string());
        self.notes.burst(&burst, |suppressed| Notable::LinkUp {
            peer: &address,
            hub: &hub,
            suppressed,
        });
        Rings::of(self).hold_twins();
        self.ask_for_all(id);
        Ok(())
    }

    /// A publisher that should be a hub sent something else.
    ///
    /// # Errors
    /// Why that ends its connection.
    pub(super) fn hear_no_hub(&mut self, id: PeerId) -> PeerError {
        let why = "an event manager without a mesh is there: update it, or use connectPublishers";
        self.no_link(id, why.into())
    }

    fn no_link(&mut self, id: PeerId, why: String) -> PeerError {
        if let Some(dialled) = self.upstream.dialled_as(id) {
            dialled.refused = Some(why.clone());
        }
        PeerError::NoLink(why)
    }

    /// A new link is asked for all that is wanted here.
    fn ask_for_all(&mut self, id: PeerId) {
        // What changed until now is in what is asked.
        self.ask_for_changes();
        let mut commands = BytesMut::new();
        if let Some(interest) = &self.upstream.mesh.interest {
            for prefix in interest.asked() {
                encode_subscribe(&mut commands, prefix, Version::V3_1);
            }
        }
        self.peers.command(id, &commands);
    }

    /// Asks the hubs that are linked for what is wanted here since the last time.
    pub(super) fn ask_for_changes(&mut self) {
        let Some(news) = self.broker.routes.take_news() else {
            return;
        };
        let mesh = &mut self.upstream.mesh;
        let Some(interest) = &mut mesh.interest else {
            return;
        };
        mesh.is_to_be_renewed |= news.is_less;
        let mut is_full = news.is_much;
        let mut wishes = Wishes::default();
        for prefix in &news.more {
            match interest.add(prefix) {
                Some(new) => wishes.subscribe.extend(new),
                None => is_full = true,
            }
        }
        self.send_wishes(&wishes);
        if is_full {
            self.renew_interest();
        }
    }

    fn renew_interest(&mut self) {
        let mesh = &mut self.upstream.mesh;
        let Some(interest) = &mut mesh.interest else {
            return;
        };
        mesh.is_to_be_renewed = false;
        mesh.renewed_at = self.time.now;
        let mut wanted = self.broker.routes.wanted();
        // Who is waited for after a start wants what it wanted before.
        if self.saved.subscribers.is_awaited() {
            wanted.extend(self.saved.subscribers.audience.awaited());
        }
        let wishes = interest.renew(wanted);
        self.send_wishes(&wishes);
    }

    /// New subscriptions go first, so that nothing is missed that is in both.
    fn send_wishes(&mut self, wishes: &Wishes) {
        let mut commands = BytesMut::new();
        for prefix in &wishes.subscribe {
            encode_subscribe(&mut commands, prefix, Version::V3_1);
        }
        for prefix in &wishes.cancel {
            encode_cancel(&mut commands, prefix);
        }
        if commands.is_empty() {
            return;
        }
        for id in self.upstream.linked().collect::<Vec<_>>() {
            self.peers.command(id, &commands);
            let peer = self.peers.get(id);
            if peer.is_some_and(|peer| peer.outbox.bytes() > WISHES_BYTES_MAX) {
                let why = "it doesn't read what is wanted here";
                self.end_link(id, why);
            }
        }
    }

    fn end_link(&mut self, id: PeerId, why: &str) {
        let error = self.no_link(id, why.into());
        if let Some(peer) = self.peers.get(id) {
            self.notes
                .refuse(error.reason(), &peer.address.clone(), &error);
        }
        self.remove(id);
    }

    /// Gives up what isn't wanted any more, and peers that don't say that they are hubs.
    pub(super) fn tend_mesh(&mut self, now: Instant) {
        if self.upstream.mesh.interest.is_none() {
            return;
        }
        self.ask_for_changes();
        let mesh = &self.upstream.mesh;
        let since = now.saturating_duration_since(mesh.renewed_at);
        if mesh.is_to_be_renewed && since >= RENEWAL_INTERVAL {
            self.renew_interest();
        }
        let timeout = self.config.handshake_timeout;
        let dialled = self.upstream.dialled.iter();
        let silent = dialled.filter_map(|dialled| {
            let link = dialled.link.as_ref().filter(|link| link.hub.is_none())?;
            let since = now.saturating_duration_since(link.begun_at);
            dialled.peer().filter(|_| since >= timeout)
        });
        for id in silent.collect::<Vec<_>>() {
            let why = format!(
                "the publisher there didn't say within {timeout:?} that it is an event manager with a mesh: use connectPublishers for others"
            );
            self.end_link(id, &why);
        }
    }

    /// An event manager sent what has been added since then.
    pub(super) fn count_linked(&mut self, id: PeerId, before: &Published) {
        let published = &self.accounts.published;
        let (events, bytes) = (
            published.events - before.events,
            published.bytes - before.bytes,
        );
        if let Some(link) = self
            .upstream
            .dialled_as(id)
            .and_then(|dialled| dialled.link.as_mut())
        {
            link.events += events;
            link.bytes += bytes;
        }
    }
}
