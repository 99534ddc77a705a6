//! From a subject to everybody who gets the event.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use super::ids::{PeerId, ServiceKey};
use super::prefix_map::PrefixMap;
use super::subjects::{SubjectCounts, SubjectIndex};
use crate::security::Grant;
use event_manager_wire::model::{Dialect, SubjectPattern, subject_of};

/// One who gets events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Receiver {
    /// A connection to the subscribers' socket.
    Subscriber(PeerId),
    /// A service, which gives the event to one of its workers.
    Service(ServiceKey),
}

/// Everybody who gets an event, each once.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub struct Route {
    /// Connections of the forwarder's side.
    pub subscribers: Box<[PeerId]>,
    pub services: Box<[ServiceKey]>,
}

impl Route {
    /// Whether nobody gets it.
    pub fn is_empty(&self) -> bool {
        self.subscribers.is_empty() && self.services.is_empty()
    }
}

/// What is known of an event by its subject.
#[derive(Debug, Clone)]
pub struct KnownSubject {
    /// Who gets it.
    pub route: Rc<Route>,
    /// Where it is counted. Void after another subject was looked up.
    pub subject: SubjectIndex,
}

/// Subjects are chosen by peers: only so many are remembered, and only short ones.
const CACHED_SUBJECTS_MAX: usize = 4096;
const CACHED_SUBJECT_BYTES_MAX: usize = 256;

/// What a subscriber may get.
#[derive(Debug, Clone)]
pub struct Hearing {
    /// Its rights.
    pub grant: Arc<Grant>,
    /// Subjects above this are known by their beginning only.
    pub subject_bytes_max: usize,
}

impl Hearing {
    fn may_get(&self, subject: &[u8]) -> bool {
        let subjects = &self.grant.rights.subscribe;
        subjects.have(subject, self.subject_bytes_max)
    }
}

/// By what way an event came here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Via {
    /// From a client: it goes everywhere.
    #[default]
    Client,
    /// From another broker, by a bridge: no service gets it that passes events on, so that it doesn't go
    /// round.
    Bridge,
    /// From another event manager: no hub of a mesh gets it either.
    Hub,
}

/// All patterns and who asked for them.
#[derive(Debug, Default)]
pub struct RouteTable {
    prefixes: PrefixMap<BTreeSet<Receiver>>,
    exact: HashMap<Box<[u8]>, BTreeSet<Receiver>>,
    globs: BTreeMap<SubjectPattern, BTreeSet<Receiver>>,
    /// Subscribers' prefixes that hold a NUL, and so go beyond the subject.
    binary_prefixes: usize,
    /// Subscribers that may not get everything.
    limited: HashMap<PeerId, Hearing>,
    /// Subscribers that are hubs of a mesh: they get nothing that came by another hub.
    hubs: BTreeSet<PeerId>,
    /// Services that get nothing that came by another hub either.
    passing_on: BTreeSet<ServiceKey>,
    cache: HashMap<Box<[u8]>, KnownSubject>,
    /// The same of events that came by a bridge, and by a hub.
    caches_beyond: [HashMap<Box<[u8]>, KnownSubject>; 2],
    /// Each route once, so that equal ones are told by their address.
    interned: HashSet<Rc<Route>>,
    /// How many events each subject had.
    pub subjects: SubjectCounts,
    /// What is new of all that is wanted here, if somebody wants to know.
    news: Option<News>,
}

/// Changes that are remembered one by one.
const NEWS_MAX: usize = 1024;

/// What changed of the prefixes of all that is wanted here.
#[derive(Debug, Default)]
pub struct News {
    /// Wanted, too.
    pub more: Vec<Box<[u8]>>,
    /// There was more than that.
    pub is_much: bool,
    /// Something isn't wanted any more.
    pub is_less: bool,
}

impl RouteTable {
    /// Lets a subscriber hear every subject with this prefix. Twice is once, as in libzmq.
    pub fn subscribe(&mut self, prefix: &[u8], peer: PeerId) {
        let receivers = self.prefixes.entry(prefix);
        if receivers.insert(Receiver::Subscriber(peer)) && is_binary(prefix) {
            self.binary_prefixes += 1;
        }
        if !self.hubs.contains(&peer) {
            self.note_wanted(prefix);
        }
        self.forget_cached();
    }

    /// Ends that.
    pub fn unsubscribe(&mut self, prefix: &[u8], peer: PeerId) {
        if self.remove_prefix(prefix, Receiver::Subscriber(peer)) && is_binary(prefix) {
            self.binary_prefixes -= 1;
        }
        if !self.hubs.contains(&peer) {
            self.note_unwanted();
        }
        self.forget_cached();
    }

    /// This service passes events on, as a hub of a mesh does: each event goes on from where it was
    /// published, and from nowhere else.
    pub fn set_passing_on(&mut self, service: ServiceKey) {
        self.passing_on.insert(service);
        self.note_unwanted();
        self.forget_cached();
    }

    /// Whether it does.
    pub fn passes_on(&self, service: ServiceKey) -> bool {
        self.passing_on.contains(&service)
    }

    /// The service has ended.
    pub fn forget_service(&mut self, service: ServiceKey) {
        self.passing_on.remove(&service);
    }

    /// This subscriber, which has no prefixes yet, is a hub of a mesh.
    pub fn add_hub(&mut self, peer: PeerId) {
        self.hubs.insert(peer);
    }

    /// It is gone, and its prefixes are.
    pub fn remove_hub(&mut self, peer: PeerId) {
        self.hubs.remove(&peer);
    }

    /// From now on it is noted what is wanted here.
    pub fn watch(&mut self) {
        self.news = Some(News {
            is_much: true,
            ..News::default()
        });
    }

    /// What changed of it, if anything did.
    pub fn take_news(&mut self) -> Option<News> {
        let news = self.news.as_mut()?;
        let is_any = news.is_much || news.is_less || !news.more.is_empty();
        is_any.then(|| std::mem::take(news))
    }

    /// The prefixes of all that is wanted here, hubs aside: of a glob, what is before its first wildcard.
    pub fn wanted(&self) -> Vec<&[u8]> {
        let passes_on = |receiver: &Receiver| match receiver {
            Receiver::Subscriber(peer) => self.hubs.contains(peer),
            Receiver::Service(service) => self.passing_on.contains(service),
        };
        let is_own = |found: &BTreeSet<Receiver>| !found.iter().all(passes_on);
        let prefixes = self.prefixes.iter().filter(|(_, found)| is_own(found));
        let exact = self.exact.iter().filter(|(_, found)| is_own(found));
        let exact = exact.map(|(key, _)| &**key);
        let globs = self.globs.iter().filter(|(_, found)| is_own(found));
        let globs = globs.map(|(pattern, _)| beginning(pattern));
        prefixes
            .map(|(key, _)| key)
            .chain(exact)
            .chain(globs)
            .collect()
    }

    fn note_wanted(&mut self, prefix: &[u8]) {
        if let Some(news) = &mut self.news {
            match news.more.len() < NEWS_MAX {
                true => news.more.push(prefix.into()),
                false => news.is_much = true,
            }
        }
    }

    fn note_unwanted(&mut self) {
        if let Some(news) = &mut self.news {
            news.is_less = true;
        }
    }

    /// Of what its prefixes match, a subscriber gets only what this allows from now on; without, all.
    pub fn limit(&mut self, peer: PeerId, hearing: Option<Hearing>) {
        let changed = match hearing {
            Some(hearing) => {
                self.limited.insert(peer, hearing);
                true
            }
            None => self.limited.remove(&peer).is_some(),
        };
        if changed {
            self.forget_cached();
        }
    }

    /// What limits a subscriber.
    pub fn limit_of(&self, peer: PeerId) -> Option<&Hearing> {
        self.limited.get(&peer)
    }

    /// Lets a service hear what a pattern matches.
    pub fn add(&mut self, pattern: &SubjectPattern, service: ServiceKey) {
        let text = pattern.text().as_bytes();
        let receivers = match pattern.dialect() {
            Dialect::Prefix => self.prefixes.entry(text),
            Dialect::Exact => self.exact.entry(text.into()).or_default(),
            Dialect::Glob => self.globs.entry(pattern.clone()).or_default(),
        };
        receivers.insert(Receiver::Service(service));
        self.note_wanted(beginning(pattern));
        self.forget_cached();
    }

    /// Ends that.
    pub fn remove(&mut self, pattern: &SubjectPattern, service: ServiceKey) {
        let (text, receiver) = (pattern.text().as_bytes(), Receiver::Service(service));
        match pattern.dialect() {
            Dialect::Prefix => {
                self.remove_prefix(text, receiver);
            }
            Dialect::Exact => {
                if let Some(receivers) = self.exact.get_mut(text)
                    && receivers.remove(&receiver)
                    && receivers.is_empty()
                {
                    self.exact.remove(text);
                }
            }
            Dialect::Glob => {
                if let Some(receivers) = self.globs.get_mut(pattern)
                    && receivers.remove(&receiver)
                    && receivers.is_empty()
                {
                    self.globs.remove(pattern);
                }
            }
        }
        self.note_unwanted();
        self.forget_cached();
    }

    /// Whether it was there.
    fn remove_prefix(&mut self, prefix: &[u8], receiver: Receiver) -> bool {
        let Some(receivers) = self.prefixes.get_mut(prefix) else {
            return false;
        };
        let was_there = receivers.remove(&receiver);
        if receivers.is_empty() {
            self.prefixes.remove(prefix);
        }
        was_there
    }

    fn forget_cached(&mut self) {
        self.cache.clear();
        self.caches_beyond.iter_mut().for_each(HashMap::clear);
        self.interned.clear();
    }

    /// The part of a first frame that decides who gets the event: its subject. Subscribers' prefixes
    /// are compared with the frame, as in libzmq, so while one holds a NUL it is the frame.
    pub fn key_of<'a>(&self, first_frame: &'a [u8]) -> &'a [u8] {
        match self.binary_prefixes {
            0 => subject_of(first_frame),
            _ => first_frame,
        }
    }

    /// Whether this [key](Self::key_of) of another frame is this frame's too.
    #[inline]
    pub fn is_key_of(&self, key: &[u8], first_frame: &[u8]) -> bool {
        let rest = first_frame.strip_prefix(key);
        rest.is_some_and(|rest| match rest.first() {
            None => true,
            Some(&next) => next == 0 && self.binary_prefixes == 0,
        })
    }

    /// Who gets an event with this [key](Self::key_of). Until patterns change, routes to the same
    /// receivers are the same `Rc`.
    pub fn route(&mut self, key: &[u8]) -> Rc<Route> {
        self.look_up(key).route
    }

    /// The same, and where events with this key are counted.
    pub fn look_up(&mut self, key: &[u8]) -> KnownSubject {
        if let Some(known) = self.cache.get(key) {
            return known.clone();
        }
        let route = self.intern(self.resolve(key));
        let (subject, others_are_void) = self.subjects.index_of(subject_of(key));
        if others_are_void || self.cache.len() >= CACHED_SUBJECTS_MAX {
            self.forget_cached();
        }
        if key.len() > CACHED_SUBJECT_BYTES_MAX {
            return KnownSubject { route, subject };
        }
        let known = KnownSubject { route, subject };
        self.cache.insert(key.into(), known.clone());
        known
    }

    /// The same of an event that came by another way than from a client.
    pub fn look_up_by(&mut self, via: Via, key: &[u8]) -> KnownSubject {
        let cache = match via {
            Via::Client => return self.look_up(key),
            Via::Bridge => 0,
            Via::Hub => 1,
        };
        if let Some(known) = self.caches_beyond[cache].get(key) {
            return known.clone();
        }
        let mut known = self.look_up(key);
        let Route {
            subscribers,
            services,
        } = &*known.route;
        let is_left_out = |peer: &&PeerId| via == Via::Hub && self.hubs.contains(*peer);
        let passes_on = |service: &&ServiceKey| self.passing_on.contains(*service);
        if subscribers.iter().any(|peer| is_left_out(&peer))
            || services.iter().any(|service| passes_on(&service))
        {
            let subscribers = subscribers.iter().filter(|peer| !is_left_out(peer));
            let services = services.iter().filter(|service| !passes_on(service));
            let others = Route {
                subscribers: subscribers.copied().collect(),
                services: services.copied().collect(),
            };
            known.route = self.intern(others);
        }
        let cache = &mut self.caches_beyond[cache];
        if cache.len() >= CACHED_SUBJECTS_MAX {
            cache.clear();
        }
        if key.len() <= CACHED_SUBJECT_BYTES_MAX {
            cache.insert(key.into(), known.clone());
        }
        known
    }

    fn intern(&mut self, route: Route) -> Rc<Route> {
        if let Some(known) = self.interned.get(&route) {
            return Rc::clone(known);
        }
        if self.interned.len() >= CACHED_SUBJECTS_MAX {
            self.forget_cached();
        }
        let route = Rc::new(route);
        self.interned.insert(Rc::clone(&route));
        route
    }

    fn resolve(&self, key: &[u8]) -> Route {
        let mut receivers = Vec::new();
        self.prefixes
            .for_each_prefix_of(key, |found| receivers.extend(found));
        let subject = subject_of(key);
        receivers.extend(self.exact.get(subject).into_iter().flatten());
        for (pattern, found) in &self.globs {
            if pattern.matches(subject) {
                receivers.extend(found);
            }
        }
        receivers.sort_unstable();
        receivers.dedup();
        if !self.limited.is_empty() {
            receivers.retain(|receiver| match receiver {
                Receiver::Subscriber(peer) => {
                    let limit = self.limited.get(peer);
                    limit.is_none_or(|hearing| hearing.may_get(subject))
                }
                Receiver::Service(_) => true,
            });
        }
        let subscriber = |receiver: &Receiver| match receiver {
            Receiver::Subscriber(peer) => Some(*peer),
            Receiver::Service(_) => None,
        };
        let service = |receiver: &Receiver| match receiver {
            Receiver::Service(service) => Some(*service),
            Receiver::Subscriber(_) => None,
        };
        Route {
            subscribers: receivers.iter().filter_map(subscriber).collect(),
            services: receivers.iter().filter_map(service).collect(),
        }
    }
}

/// What all subjects begin with that a pattern matches.
fn beginning(pattern: &SubjectPattern) -> &[u8] {
    let text = pattern.text();
    let begin = match pattern.dialect() {
        Dialect::Prefix | Dialect::Exact => text,
        Dialect::Glob => text.split(['*', '?']).next().unwrap_or_default(),
    };
    begin.as_bytes()
}

fn is_binary(prefix: &[u8]) -> bool {
    prefix.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Change {
        Subscribe(String, u32),
        Unsubscribe(String, u32),
        Add(String, u32),
        Remove(String, u32),
    }

    fn change() -> impl Strategy<Value = Change> {
        let prefix = "[ab.\0]{0,3}";
        let pattern = "(exact:|glob:|)[ab.*]{1,4}";
        prop_oneof![
            (prefix, 0u32..4).prop_map(|(p, n)| Change::Subscribe(p, n)),
            (prefix, 0u32..4).prop_map(|(p, n)| Change::Unsubscribe(p, n)),
            (pattern, 0u32..4).prop_map(|(p, n)| Change::Add(p, n)),
            (pattern, 0u32..4).prop_map(|(p, n)| Change::Remove(p, n)),
        ]
    }

    proptest! {
        #[test]
        fn routes_agree_with_a_list_of_patterns(
            changes in proptest::collection::vec((change(), "[ab.\0]{0,5}"), 1..40)
        ) {
            let mut table = RouteTable::default();
            let mut subscribed = BTreeSet::new();
            let mut added = BTreeSet::new();
            for (change, frame) in changes {
                let peer = |slot| PeerId { slot, serial: 0 };
                let pattern = |written: &str| SubjectPattern::parse(written, 99).unwrap();
                match change {
                    Change::Subscribe(p, n) => {
                        table.subscribe(p.as_bytes(), peer(n));
                        subscribed.insert((p, peer(n)));
                    }
                    Change::Unsubscribe(p, n) => {
                        table.unsubscribe(p.as_bytes(), peer(n));
                        subscribed.remove(&(p, peer(n)));
                    }
                    Change::Add(p, n) => {
                        table.add(&pattern(&p), ServiceKey(n));
                        added.insert((pattern(&p), ServiceKey(n)));
                    }
                    Change::Remove(p, n) => {
                        table.remove(&pattern(&p), ServiceKey(n));
                        added.remove(&(pattern(&p), ServiceKey(n)));
                    }
                }
                let subject = subject_of(frame.as_bytes());
                let peers: BTreeSet<_> =
                    subscribed.iter().filter(|(p, _)| frame.starts_with(p)).map(|(_, n)| *n).collect();
                let services: BTreeSet<_> =
                    added.iter().filter(|(p, _)| p.matches(subject)).map(|(_, n)| *n).collect();
                let key = table.key_of(frame.as_bytes()).to_owned();
                prop_assert!(table.is_key_of(&key, frame.as_bytes()));
                prop_assert_eq!(table.is_key_of(b"a", frame.as_bytes()), key == b"a");
                let route = table.route(&key);
                prop_assert_eq!(&*route.subscribers, peers.into_iter().collect::<Vec<_>>());
                prop_assert_eq!(&*route.services, services.into_iter().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn who_may_not_get_everything_gets_what_it_may() {
        let (free, limited) = (PeerId { slot: 1, serial: 1 }, PeerId { slot: 2, serial: 2 });
        let mut grant = Grant::everything("");
        let order = SubjectPattern::parse("order.", 99).unwrap();
        grant.rights.subscribe = [order].into_iter().collect();
        let hearing = Hearing {
            grant: Arc::new(grant),
            subject_bytes_max: 99,
        };
        let mut table = RouteTable::default();
        table.subscribe(b"", free);
        table.subscribe(b"", limited);
        let heard =
            |table: &mut RouteTable, subject: &[u8]| table.route(subject).subscribers.to_vec();
        assert_eq!(heard(&mut table, b"invoice"), [free, limited]);
        table.limit(limited, Some(hearing));
        assert_eq!(heard(&mut table, b"invoice"), [free]);
        assert_eq!(heard(&mut table, b"order.x"), [free, limited]);
        // Prefixes that go beyond the subject don't change what that is.
        table.subscribe(b"order.x\0y", limited);
        assert_eq!(heard(&mut table, b"invoice\0order."), [free]);
        assert_eq!(heard(&mut table, b"order.x\0z"), [free, limited]);
        table.limit(limited, None);
        assert_eq!(heard(&mut table, b"invoice"), [free, limited]);
    }

    #[test]
    fn remembered_subjects_are_bounded() {
        let mut table = RouteTable::default();
        for n in 0..3 * CACHED_SUBJECTS_MAX {
            table.route(n.to_string().as_bytes());
        }
        table.route(&[b'x'; 10_000]);
        assert!(table.cache.len() <= CACHED_SUBJECTS_MAX);
        assert!(!table.cache.contains_key(&[b'x'; 10_000][..]));
    }
}
