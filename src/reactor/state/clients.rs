//! Clients: what each of them may do, and what was denied.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use slab::Slab;

use event_manager_core::broker::{Hearing, Route};
use event_manager_core::security::{
    Access, Bucket, Deed, Denial, Denied, Grant, Identity, Subjects, Verdicts,
};

/// Clients that are remembered, if they are not connected.
const REMEMBERED_MAX: usize = 1024;

/// A client that is connected, or was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClientId(usize);

/// A publisher whose events don't simply go to all that they match.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unusual {
    /// It may not publish everything.
    Limited(ClientId),
    /// Its events are others'.
    EventManager,
}

/// How often a client that publishes more than it may has a turn.
const TURNS_PER_SECOND: u64 = 4;
/// Less is never read at once, however little a client may publish.
const READ_BYTES_MIN: usize = 4 << 10;

/// What is known of one client.
pub(crate) struct Client {
    pub(crate) identity: Identity,
    pub(crate) grant: Arc<Grant>,
    may_publish: Verdicts,
    events: Option<Bucket>,
    bytes: Option<Bucket>,
    /// Until when its connections are not read, because it published more than it may per second.
    paused_until: Option<Instant>,
    pub(crate) denied: BTreeMap<Denial, u64>,
}

impl Client {
    fn limit(&mut self, now: Instant) {
        let renew = |bucket: &mut Option<Bucket>, rate: Option<u64>| match (bucket.as_mut(), rate) {
            (_, None) => *bucket = None,
            (None, Some(rate)) => *bucket = Some(Bucket::full(rate, now)),
            (Some(bucket), Some(rate)) => bucket.set_rate(rate),
        };
        renew(&mut self.events, self.grant.quotas.events_per_second);
        renew(&mut self.bytes, self.grant.quotas.bytes_per_second);
    }

    fn overdrawn_until(&self, now: Instant) -> Option<Instant> {
        let buckets = [&self.events, &self.bytes].into_iter().flatten();
        buckets
            .filter_map(|bucket| bucket.overdrawn_until(now))
            .max()
    }
}

/// All clients, each once, however many connections it has.
pub(crate) struct Clients {
    access: Access,
    by_identity: HashMap<Identity, ClientId>,
    all: Slab<Client>,
    /// The route of events that may not be published: nobody's, and no other is at this address.
    nowhere: Rc<Route>,
    /// Those that are paused.
    paused: Vec<ClientId>,
    /// How often clients were let go on.
    payments: usize,
    /// What was denied to clients that are not remembered.
    denied_to_others: BTreeMap<Denial, u64>,
    limits_storage: bool,
    /// What the services of those keep whose quota was asked for.
    holdings: HashMap<Identity, Holding>,
}

/// What a client's services keep on disk.
struct Holding {
    /// When it was weighed.
    stamp: u64,
    bytes: u64,
}

impl Clients {
    pub(crate) fn new(access: Access) -> Self {
        Self {
            limits_storage: access.limits_storage(),
            holdings: HashMap::new(),
            access,
            by_identity: HashMap::new(),
            all: Slab::new(),
            nowhere: Rc::default(),
            paused: vec![],
            payments: 0,
            denied_to_others: BTreeMap::new(),
        }
    }

    /// What somebody is granted.
    pub(crate) fn grant_of(&self, identity: &Identity) -> &Arc<Grant> {
        self.access.of(identity)
    }

    /// The client who somebody is.
    pub(crate) fn know(&mut self, identity: &Identity, now: Instant) -> ClientId {
        if let Some(known) = self.by_identity.get(identity) {
            return *known;
        }
        let mut client = Client {
            identity: identity.clone(),
            grant: Arc::clone(self.access.of(identity)),
            may_publish: Verdicts::default(),
            events: None,
            bytes: None,
            paused_until: None,
            denied: BTreeMap::new(),
        };
        client.limit(now);
        let id = ClientId(self.all.insert(client));
        self.by_identity.insert(identity.clone(), id);
        id
    }

    /// The client with this id, which a peer has.
    pub(crate) fn get(&self, id: ClientId) -> &Client {
        &self.all[id.0]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ClientId, &Client)> {
        self.all.iter().map(|(at, client)| (ClientId(at), client))
    }

    /// Other rights are in force from now on.
    pub(crate) fn set_access(&mut self, access: Access, now: Instant) {
        self.limits_storage = access.limits_storage();
        self.holdings.clear();
        self.access = access;
        for (_, client) in &mut self.all {
            client.grant = Arc::clone(self.access.of(&client.identity));
            client.may_publish.forget();
            client.limit(now);
        }
    }

    /// Whether more are remembered than need be.
    pub(crate) fn are_many(&self) -> bool {
        self.all.len() > REMEMBERED_MAX
    }

    /// Forgets those that are not connected.
    pub(crate) fn forget_absent(&mut self, is_present: impl Fn(ClientId) -> bool) {
        let (by_identity, others) = (&mut self.by_identity, &mut self.denied_to_others);
        self.all.retain(|at, client| {
            let stays = is_present(ClientId(at)) || client.paused_until.is_some();
            if !stays {
                by_identity.remove(&client.identity);
                for (what, times) in &client.denied {
                    *others.entry(*what).or_default() += times;
                }
            }
            stays
        });
    }

    /// Whether the client may not publish everything.
    pub(crate) fn is_limited(&self, id: ClientId) -> bool {
        !matches!(self.get(id).grant.rights.publish, Subjects::All)
    }

    /// The route of an event with this subject that the client may not publish.
    pub(crate) fn forbidden(&mut self, id: ClientId, subject: &[u8]) -> Option<Rc<Route>> {
        let (client, bytes_max) = (&mut self.all[id.0], self.access.subject_bytes_max());
        let publish = &client.grant.rights.publish;
        let decide = || publish.have(subject, bytes_max);
        let may = match subject.len() > bytes_max {
            // Only its beginning is known, which is no subject.
            true => decide(),
            false => client.may_publish.of(subject, decide),
        };
        (!may).then(|| Rc::clone(&self.nowhere))
    }

    /// Whether a route is that of events that may not be published.
    pub(crate) fn is_forbidden(&self, route: &Rc<Route>) -> bool {
        Rc::ptr_eq(route, &self.nowhere)
    }

    /// What the client gets of what it subscribes to; `None` is everything.
    pub(crate) fn hearing(&self, id: ClientId) -> Option<Hearing> {
        let grant = &self.get(id).grant;
        (!matches!(grant.rights.subscribe, Subjects::All)).then(|| Hearing {
            grant: Arc::clone(grant),
            subject_bytes_max: self.access.subject_bytes_max(),
        })
    }

    /// Whether a client may do something.
    pub(crate) fn judge(&self, id: ClientId, deed: Deed<'_>) -> Result<(), Denied> {
        let client = self.get(id);
        let bytes_max = self.access.subject_bytes_max();
        client.grant.judge(&client.identity, deed, bytes_max)
    }

    /// The same of somebody who need not be connected.
    pub(crate) fn judge_absent(&self, identity: &Identity, deed: Deed<'_>) -> Result<(), Denied> {
        let bytes_max = self.access.subject_bytes_max();
        self.access.of(identity).judge(identity, deed, bytes_max)
    }

    /// Counts what was denied to a client.
    pub(crate) fn count_denied(&mut self, id: ClientId, what: Denial, times: u64) {
        *self.all[id.0].denied.entry(what).or_default() += times;
    }

    /// What was denied to clients that are not remembered.
    pub(crate) fn denied_to_others(&self) -> &BTreeMap<Denial, u64> {
        &self.denied_to_others
    }

    /// Whether what a client publishes per second is counted.
    pub(crate) fn has_rate(&self, id: ClientId) -> bool {
        let client = self.get(id);
        client.events.is_some() || client.bytes.is_some()
    }

    /// How much of a client may be read at once, in bytes, if its events are of this size: what it may publish
    /// in a fraction of a second, so that it pauses often and for a moment, not seldom and for long. `None`
    /// if what it publishes isn't counted.
    pub(crate) fn read_bytes_max(&self, id: ClientId, event_bytes: u64) -> Option<usize> {
        let client = self.get(id);
        let events = client.events.as_ref();
        let events = events.map(|bucket| bucket.per_second().saturating_mul(event_bytes));
        let bytes = client.bytes.as_ref().map(Bucket::per_second);
        let a_second = events.into_iter().chain(bytes).min()?;
        let a_turn = usize::try_from(a_second / TURNS_PER_SECOND).unwrap_or(usize::MAX);
        Some(a_turn.max(READ_BYTES_MIN))
    }

    /// A client published so much. Until when it is paused, if that is more than it may.
    pub(crate) fn published(
        &mut self,
        id: ClientId,
        events: u64,
        bytes: u64,
        now: Instant,
    ) -> Option<Instant> {
        let client = &mut self.all[id.0];
        if let Some(bucket) = &mut client.events {
            bucket.take(events, now);
        }
        if let Some(bucket) = &mut client.bytes {
            bucket.take(bytes, now);
        }
        let until = client.overdrawn_until(now);
        if until.is_some() && client.paused_until.is_none() {
            self.paused.push(id);
        }
        client.paused_until = until.or(client.paused_until);
        until
    }

    /// Whether a client's connections are not read.
    pub(crate) fn is_paused(&self, id: ClientId) -> bool {
        self.get(id).paused_until.is_some()
    }

    /// When the next client may go on.
    pub(crate) fn next_payment(&self) -> Option<Instant> {
        let paused = self.paused.iter();
        paused.filter_map(|id| self.get(*id).paused_until).min()
    }

    /// Clients that may go on.
    pub(crate) fn take_paid(&mut self, now: Instant) -> Vec<ClientId> {
        let all = &mut self.all;
        let mut paid = vec![];
        self.paused.retain(|id| {
            let client = &mut all[id.0];
            client.paused_until = client.overdrawn_until(now);
            if client.paused_until.is_none() {
                paid.push(*id);
            }
            client.paused_until.is_some()
        });
        self.payments = self.payments.wrapping_add(usize::from(!paid.is_empty()));
        paid
    }

    /// How often clients were let go on.
    pub(crate) fn payments(&self) -> usize {
        self.payments
    }

    /// Whether anybody's services may keep only so much on disk.
    pub(crate) fn limits_storage(&self) -> bool {
        self.limits_storage
    }

    /// What a client's services keep, in bytes: as it was weighed last, if the stamp is the same, else as it
    /// is weighed now.
    pub(crate) fn held_by(
        &mut self,
        owner: &Identity,
        stamp: u64,
        weigh: impl FnOnce() -> u64,
    ) -> u64 {
        match self.holdings.get(owner) {
            Some(holding) if holding.stamp == stamp => holding.bytes,
            _ => {
                let bytes = weigh();
                self.holdings
                    .insert(owner.clone(), Holding { stamp, bytes });
                bytes
            }
        }
    }

    /// A client's services keep more than when it was weighed last.
    pub(crate) fn holds_more(&mut self, owner: &Identity, bytes: u64) {
        if let Some(holding) = self.holdings.get_mut(owner) {
            holding.bytes += bytes;
        }
    }
}
