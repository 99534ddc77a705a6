//! What passes of instances of other programs is shown to who keeps the registry of them.

use std::collections::BTreeSet;
use std::time::Instant;

use super::persistence::Keeping;
use crate::reactor::hub::Hub;
use crate::reactor::state::effects::InstancesNews;
use crate::reactor::state::observing::{OBSERVER, Observer, Origin, number_of};
use crate::reactor::state::peer::{Peer, Role, Source};
use crate::reactor::state::runs::Run;
use bytes::Bytes;
use event_manager_core::broker::{PeerId, Route};
use event_manager_core::instances::{FencePolicy, Links};
use event_manager_zmtp::{HubId, encode_message};

impl Hub {
    /// From now on messages with the observer's prefixes are shown to it; other event managers are asked for
    /// them, too.
    pub(crate) fn begin_observing(&mut self, observer: Observer) {
        for prefix in observer.prefixes() {
            self.broker.routes.subscribe(prefix, OBSERVER);
        }
        if self.config.instances.fence == FencePolicy::Standby {
            // Those elsewhere may not lead; here they would be taken for who does.
            self.broker.routes.hide(observer.heartbeat(), OBSERVER);
        }
        self.observer = Some(Box::new(observer));
    }

    /// A publisher sent these messages; each ends where `ends` says.
    #[cold]
    pub(super) fn observe(&mut self, id: PeerId, messages: &[u8], ends: &[usize]) {
        let (Some(observer), Some(peer)) = (&mut self.observer, self.peers.get(id)) else {
            return;
        };
        let mut begin = 0;
        for end in ends {
            let origin = || match peer.source {
                Source::Client => Origin::Link(number_of(id), peer.address.to_string()),
                Source::EventManager | Source::Unknown => Origin::Hub,
            };
            let linked = (peer.source == Source::Client).then_some(id);
            observer.message(linked, origin, &messages[begin..*end]);
            begin = *end;
        }
    }

    /// A message came by a request, or a bridge.
    #[cold]
    pub(super) fn observe_emitted(&mut self, message: &[u8]) {
        if let Some(observer) = &mut self.observer {
            observer.message(None, || Origin::Unlinked, message);
        }
    }

    /// Tells the observer who subscribes to heartbeats, and what there was no room for.
    pub(super) fn tend_observer(&mut self, now: Instant) {
        let Some(observer) = &mut self.observer else {
            return;
        };
        observer.tell_ended();
        if !observer.wants_listeners(now) {
            return;
        }
        let listeners = self.listeners();
        let addresses: BTreeSet<_> = listeners.map(|peer| peer.address.to_string()).collect();
        if let Some(observer) = &mut self.observer {
            observer.listeners(addresses);
        }
    }

    /// Who subscribes to heartbeats, if these are observed.
    pub(super) fn listeners(&mut self) -> impl Iterator<Item = &Peer> {
        let routes = &mut self.broker.routes;
        let observer = self.observer.as_ref();
        let route = observer.map(|observer| routes.resolved(observer.heartbeat()));
        let ids = route.map_or_else(Vec::new, |route| route.subscribers.to_vec());
        ids.into_iter().filter_map(|id| self.peers.get(id))
    }

    /// How many hubs we dial, and how many of them are linked both ways: who hears all others, and is heard by
    /// none, is cut off, too.
    pub(crate) fn links(&self) -> Links {
        let hubs = self.upstream.dialled.iter();
        let hubs = hubs.filter(|dialled| dialled.link.is_some());
        let dialled_us = |id: HubId| {
            self.peers.iter().any(|peer| match &peer.role {
                Role::Subscriber { hub: Some(hub), .. } => hub.id == id,
                _ => false,
            })
        };
        let linked = hubs.clone().filter_map(|dialled| dialled.hub());
        Links {
            others: hubs.count(),
            linked: linked.filter(|(id, _)| dialled_us(*id)).count(),
        }
    }

    /// Gives a message to plain subscribers here, and to no other event manager.
    pub(crate) fn tell_here(&mut self, frames: &[Bytes]) {
        let routes = &mut self.broker.routes;
        let first = frames.first().map(|first| &first[..]);
        let key = routes.key_of(first.unwrap_or_default());
        let known = routes.resolved(key);
        let others = &self.upstream.watch.downstream;
        let is_here = |id: &PeerId| !routes.is_hub(*id) && !others.contains(id);
        let subscribers = known.subscribers.iter().copied().filter(is_here);
        let route = Route {
            subscribers: subscribers.filter(|id| *id != OBSERVER).collect(),
            services: Box::default(),
        };
        let message = encode_message(frames);
        self.deliver(&route, &Run::of_one(message.clone(), &[message.len()]));
    }

    /// The registry says how instances are.
    pub(crate) fn take_instances(&mut self, news: InstancesNews) {
        if let Some(page) = news.page {
            self.site.instances = page;
        }
        if let Some(summary) = news.summary {
            self.site.instances_summary = summary;
        }
        // Without a database there is nobody to tell.
        if self.saved.writer.is_none() {
            return;
        }
        for (id, instance) in news.instances {
            self.saved.instances.set(id, instance);
        }
        for (number, turn) in news.turns {
            self.saved.turns.set(number, turn);
        }
        Keeping::of(self).keep();
    }
}
