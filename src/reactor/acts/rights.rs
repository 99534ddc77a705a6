//! What clients may do: who is welcome, what is denied, and what becomes of live connections when rights
//! or keys are others.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;

use super::persistence::Keeping;
use crate::ambient::now;
use crate::reactor::hub::Hub;
use crate::reactor::state::accounts::Published;
use crate::reactor::state::clients::{ClientId, Unusual};
use crate::reactor::state::peer::{Peer, Role, Source, ip_of};
use crate::reactor::state::purpose::Purpose;
use crate::telemetry::Notable;
use event_manager_core::broker::{PeerId, Service, ServiceKey};
use event_manager_core::event_id::{Emitter, EventId};
use event_manager_core::security::{Deed, Denial, Denied, Identity, Presented};
use event_manager_wire::model::{SubjectPattern, SubscriptionId, subject_of};
use event_manager_zmtp::frames;

/// What a peer connects for, if that needs a right of its own.
pub(super) enum Wish {
    /// To work for a service.
    Work(ServiceKey),
    /// As a hub of the mesh.
    BeHub,
}

impl Hub {
    /// Who a peer is that may connect from there, for this.
    ///
    /// # Errors
    /// Why it may not: the reason, and a sentence.
    pub(super) fn welcome(
        &mut self,
        purpose: &Purpose,
        address: &str,
        presented: Presented<'_>,
        is_hub: bool,
    ) -> Result<Identity, (&'static str, String)> {
        let identified = self.site.keyring.identify(presented);
        let identity = identified.map_err(|refusal| (refusal.reason(), refusal.to_string()))?;
        let wish = match purpose {
            Purpose::Workers(streamer) => Some(Wish::Work(streamer.service)),
            Purpose::Subscribers if is_hub => Some(Wish::BeHub),
            _ => None,
        };
        let refused = self.why_not_granted(&identity, address, wish);
        match refused.or_else(|| self.why_too_many(&identity)) {
            None => Ok(identity),
            Some(refused) => {
                let client = self.clients.know(&identity, now());
                self.note_denied(client, Denial::Connect, 1, &refused.1);
                Err(refused)
            }
        }
    }

    /// Why somebody may not connect from there, for what needs a right of its own if it wants that.
    pub(super) fn why_not_granted(
        &self,
        identity: &Identity,
        address: &str,
        wish: Option<Wish>,
    ) -> Option<(&'static str, String)> {
        let grant = self.clients.grant_of(identity);
        if let Some(ip) = ip_of(address).filter(|ip| !grant.admits(*ip)) {
            let (who, said_in) = (identity.name(), &grant.said_in);
            let why = format!("{ip} is in none of the networks of {said_in}.from, for {who:?}");
            return Some(("address", why));
        }
        if let Some(Wish::Work(service)) = wish
            && self.broker.routes.passes_on(service)
        {
            let name = self.broker.service(service)?.name();
            let why = format!("{name} is a bridge's, which is its only worker");
            return Some(("forbidden", why));
        }
        let deed = match wish? {
            // It may be gone meanwhile.
            Wish::Work(service) => Deed::Serve(self.broker.service(service)?.name().as_str()),
            Wish::BeHub => Deed::BeHub,
        };
        let denied = self.clients.judge_absent(identity, deed).err()?;
        Some(("forbidden", denied.to_string()))
    }

    fn why_too_many(&mut self, identity: &Identity) -> Option<(&'static str, String)> {
        let grant = self.clients.grant_of(identity);
        let max = grant.quotas.connections?;
        let said_in = grant.said_in.clone();
        let client = self.clients.know(identity, now());
        let open = self.peers.iter();
        let open = open.filter(|peer| peer.client == client && !peer.is_leaving);
        (open.count() as u64 >= max).then(|| {
            let who = identity.name();
            let why =
                format!("{who:?} has {max} connections already ({said_in}.quotas.connections)");
            ("quota", why)
        })
    }

    /// Something was denied to a client, so many times: it is counted, and the first of a burst is noted.
    pub(super) fn note_denied(
        &mut self,
        client: ClientId,
        what: Denial,
        times: u64,
        why: &dyn Display,
    ) {
        self.clients.count_denied(client, what, times);
        let (name, what) = (self.clients.get(client).identity.name(), what.name());
        let (burst, why) = (format!("denied:{name}:{what}"), why.to_string());
        self.notes.burst(&burst, |suppressed| Notable::Denied {
            client: name,
            what,
            why: &why,
            suppressed,
        });
    }

    /// The id of an event that a client emits.
    pub(super) fn event_id(&self, client: ClientId, said: Bytes) -> EventId {
        let emitter = match &self.clients.get(client).identity {
            Identity::Anonymous if self.site.keyring.knows_names() => Emitter::Nameless,
            Identity::Anonymous => Emitter::Anybody,
            Identity::Own => Emitter::Own,
            Identity::Client(name) => Emitter::Client(name),
        };
        EventId::of(emitter, said)
    }

    /// Whether a publisher may not publish everything, or is an event manager.
    pub(super) fn unusual_publisher(&self, id: PeerId) -> Option<Unusual> {
        let Peer { client, source, .. } = self.peers[id];
        if source != Source::Client {
            return Some(Unusual::EventManager);
        }
        let is_limited = self.clients.is_limited(client);
        is_limited.then_some(Unusual::Limited(client))
    }

    /// A publisher sent so many events that it may not publish, this first.
    pub(super) fn deny_events(&mut self, id: PeerId, first: &[u8], events: u64) {
        // What was published beside them may have ended its connection.
        let Some(client) = self.peers.get(id).map(|peer| peer.client) else {
            return;
        };
        let subject = subject_of(frames(first).next().unwrap_or_default());
        if let Err(denied) = self.clients.judge(client, Deed::Publish(subject)) {
            self.note_denied(client, denied.what, events, &denied);
        }
    }

    /// A subscriber asked for what it may not have any of.
    pub(super) fn note_vain_subscription(&mut self, id: PeerId, prefix: &[u8]) {
        // What waited for subscribers may have ended its connection.
        let Some(client) = self.peers.get(id).map(|peer| peer.client) else {
            return;
        };
        let known = self.clients.get(client);
        if known.grant.rights.subscribe.may_begin_with(prefix) {
            return;
        }
        let (name, said_in) = (known.identity.name(), &known.grant.said_in);
        let prefix = prefix.escape_ascii();
        let why = format!(
            "{name:?} may get nothing that begins with \"{prefix}\"; what it may is in {said_in}.subscribe"
        );
        self.note_denied(client, Denial::Subscribe, 1, &why);
    }

    /// Whether its client published more than it may per second, so that it isn't read.
    pub(super) fn is_paused(&self, id: PeerId) -> bool {
        let peer = self.peers.get(id);
        peer.is_some_and(|peer| self.clients.is_paused(peer.client))
    }

    /// A client published what has been added since then.
    pub(super) fn spend(&mut self, client: ClientId, before: &Published) {
        let published = &self.accounts.published;
        let events = published.events - before.events;
        if events == 0 || !self.clients.has_rate(client) {
            return;
        }
        let bytes = published.bytes - before.bytes;
        if let Some(until) = self.clients.published(client, events, bytes, now()) {
            self.time.alarm.set(until);
        }
    }

    /// Lets clients go on that paid for what they published.
    pub(super) fn tend_paused(&mut self, now: Instant) {
        let paid = self.clients.take_paid(now);
        if !paid.is_empty() {
            let theirs = self.peers.iter();
            let theirs = theirs.filter(|peer| paid.contains(&peer.client));
            // Those that send nothing more go first: they come to an end.
            let (leaving, mut others): (Vec<_>, Vec<_>) = theirs.partition(|peer| peer.is_leaving);
            // The first may take all that there is: another one is first each time.
            if !others.is_empty() {
                let first = self.clients.payments() % others.len();
                others.rotate_left(first);
            }
            let theirs = leaving.into_iter().chain(others);
            theirs.for_each(|peer| peer.wake.notify_one());
        }
        self.clients
            .next_payment()
            .inspect(|at| self.time.alarm.set(*at));
    }

    /// Forgets clients that are gone, when they are many.
    pub(super) fn tend_clients(&mut self) {
        if self.clients.are_many() {
            let present: BTreeSet<_> = self.peers.iter().map(|peer| peer.client).collect();
            self.clients.forget_absent(|id| present.contains(&id));
        }
    }

    /// Rights or keys are others: connections end that would not be accepted any more, and so does what
    /// the others may not do any more.
    pub(super) fn judge_anew(&mut self) {
        self.end_unadmitted();
        let ids: Vec<_> = self.peers.iter().map(|peer| peer.id).collect();
        for id in ids {
            self.judge_peer(id);
        }
        self.end_unowned();
        self.end_registrations();
        self.tend_paused(now());
    }

    /// What is registered with the embedded locator by keys that are revoked, or without the right to it
    /// any more, is not found from now on.
    fn end_registrations(&mut self) {
        let (keyring, clients) = (&self.site.keyring, &self.clients);
        if let Some(directory) = &mut self.site.directory {
            directory.retain(|name, by| {
                let deed = Deed::Serve(name.as_str());
                let known = keyring.remembers(&by.shown);
                known.is_some_and(|who| clients.judge_absent(&who, deed).is_ok())
            });
        }
    }

    fn judge_peer(&mut self, id: PeerId) {
        // One that was ended may have taken others with it.
        let Some(peer) = self.peers.get(id) else {
            return;
        };
        let is_subscriber = matches!(peer.role, Role::Subscriber { .. });
        if !self.upstream.is_dialled(id)
            && let Ok(identity) = self.site.keyring.identify(peer.presented())
        {
            self.peers[id].client = self.clients.know(&identity, now());
        }
        if !is_subscriber {
            return;
        }
        let hearing = self.clients.hearing(self.peers[id].client);
        let before = self.broker.routes.limit_of(id);
        let before = before.map(|limit| &limit.grant.rights.subscribe);
        let after = hearing.as_ref().map(|limit| &limit.grant.rights.subscribe);
        let may_be_less = after.is_some() && before != after;
        self.broker.routes.limit(id, hearing);
        if may_be_less {
            self.end_if_it_waits(id);
        }
    }

    /// What waits for a subscriber is by its old rights: it is not to get that later.
    fn end_if_it_waits(&mut self, id: PeerId) {
        self.flush_peer(id);
        let peer = self.peers.get(id).filter(|peer| !peer.outbox.is_empty());
        if let Some(address) = peer.map(|peer| Rc::clone(&peer.address)) {
            self.remove(id);
            let why = "its rights are others, and events by the old ones waited for it";
            self.notes.refuse("rights-changed", &address, &why);
        }
    }

    /// Ends what clients may not have any more: subscriptions, what durable services want on, and subjects of
    /// dead letters. What is queued already stays.
    pub(crate) fn end_unowned(&mut self) {
        let mut told = BTreeSet::new();
        for (id, key, owner, denied) in self.subscriptions_denied() {
            let client = self.clients.know(&owner, now());
            self.note_denied(client, denied.what, 1, &denied);
            told.insert(key);
            self.end_subscription(&id);
        }
        for (key, patterns, owner, denied) in self.wishes_denied() {
            if !told.contains(&key) {
                let client = self.clients.know(&owner, now());
                self.note_denied(client, denied.what, 1, &denied);
            }
            self.broker.forget_wanted(key, &patterns);
            self.saved.changed_services.insert(key);
        }
        for (key, owner, denied) in self.letter_subjects_denied() {
            let client = self.clients.know(&owner, now());
            self.note_denied(client, denied.what, 1, &denied);
            self.broker.forget_letter_subject(key);
            self.saved.changed_services.insert(key);
        }
        Keeping::of(self).keep();
    }

    fn subscriptions_denied(&self) -> Vec<(SubscriptionId, ServiceKey, Identity, Denied)> {
        let ids = self.broker.subscription_ids();
        let denied = ids.filter_map(|id| {
            let (key, service, view) = self.broker.subscription(id, self.time.now)?;
            let (_, denied) = self.denied_of(service, view.owner?, view.patterns.iter())?;
            Some((id.clone(), key, view.owner?.clone(), denied))
        });
        denied.collect()
    }

    /// Of services without a subscription, and of such that get one later, what they may not want on.
    fn wishes_denied(&self) -> Vec<(ServiceKey, BTreeSet<SubjectPattern>, Identity, Denied)> {
        let denied = self.broker.services().filter_map(|(key, service)| {
            let owner = service.owner()?;
            let (patterns, denied) = self.denied_of(service, owner, service.wanted_on())?;
            Some((key, patterns, owner.clone(), denied))
        });
        denied.collect()
    }

    /// Services that publish their dead letters under a subject that none of their clients may publish.
    fn letter_subjects_denied(&self) -> Vec<(ServiceKey, Identity, Denied)> {
        let denied = self.broker.services().filter_map(|(key, service)| {
            let subject = service.options().dead_letter_subject.as_ref()?;
            let deed = Deed::Publish(subject.as_str().as_bytes());
            let owner = service.owner()?;
            let denied = self.clients.judge_absent(owner, deed).err()?;
            let mut others = service.subscriptions().filter_map(|id| {
                let (.., view) = self.broker.subscription(id, self.time.now)?;
                view.owner
            });
            let is_denied = others.all(|other| self.clients.judge_absent(other, deed).is_err());
            is_denied.then(|| (key, owner.clone(), denied))
        });
        denied.collect()
    }

    /// Which of these patterns somebody may not have a service get, and why the first.
    fn denied_of<'a>(
        &self,
        service: &Service,
        owner: &Identity,
        patterns: impl Iterator<Item = &'a SubjectPattern>,
    ) -> Option<(BTreeSet<SubjectPattern>, Denied)> {
        let judge = |deed| self.clients.judge_absent(owner, deed).err();
        let mut first = judge(Deed::Serve(service.name().as_str()));
        let all = first.is_some();
        let denied = patterns.filter(|pattern| {
            all || match judge(Deed::Subscribe(pattern)) {
                Some(why) => {
                    first.get_or_insert(why);
                    true
                }
                None => false,
            }
        });
        let denied: BTreeSet<_> = denied.cloned().collect();
        Some((denied, first?)).filter(|(denied, _)| !denied.is_empty())
    }

    fn end_subscription(&mut self, id: &SubscriptionId) {
        // It is there: it was judged just now.
        let ended = self.broker.unsubscribe(id, &BTreeSet::new()).ok().flatten();
        if let Some(service) = ended {
            self.close_service(&service);
        }
        Keeping::of(self).keep();
    }
}
