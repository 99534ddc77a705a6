//! From a subject to everybody who gets the event.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use super::globs::GlobMap;
use super::ids::{PeerId, ServiceKey};
use super::known::KnownSubjects;
use super::prefix_map::PrefixMap;
use super::route::{Receiver, Route, Routes, Via};
use super::subjects::{SubjectCounts, SubjectIndex};
use crate::security::Grant;
use event_manager_wire::model::{Dialect, SubjectPattern, subject_of};

/// What is known of an event by its subject.
#[derive(Debug, Clone)]
pub struct KnownSubject {
    /// Who gets it.
    pub route: Rc<Route>,
    /// Where it is counted.
    pub subject: SubjectIndex,
}

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

/// All patterns and who asked for them.
#[derive(Debug, Default)]
pub struct RouteTable {
    prefixes: PrefixMap<BTreeSet<Receiver>>,
    exact: HashMap<Box<[u8]>, BTreeSet<Receiver>>,
    globs: GlobMap<BTreeSet<Receiver>>,
    /// Subscribers' prefixes that hold a NUL, and so go beyond the subject.
    binary_prefixes: usize,
    /// Subscribers that may not get everything.
    limited: HashMap<PeerId, Hearing>,
    /// Subscribers that are hubs of a mesh: they get nothing that came by another hub.
    hubs: BTreeSet<PeerId>,
    /// Services that get nothing that came by another hub either.
    passing_on: BTreeSet<ServiceKey>,
    /// What of other hubs' events only one subscriber gets: how it begins, and who that is.
    hidden: Option<(Box<[u8]>, PeerId)>,
    /// Goes up with each change that a route may depend on.
    revision: u64,
    known: KnownSubjects,
    routes: Routes,
    /// Used for each look-up, for its memory.
    found: Vec<Receiver>,
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
    /// The hash of subjects has a key that peers don't know; nothing was looked up yet.
    pub fn set_hash_key(&mut self, key: [u64; 2]) {
        self.known = KnownSubjects::new(key);
    }

    /// Lets a subscriber hear every subject with this prefix. Twice is once, as in libzmq.
    pub fn subscribe(&mut self, prefix: &[u8], peer: PeerId) {
        let receivers = self.prefixes.entry(prefix);
        if receivers.insert(Receiver::Subscriber(peer)) && is_binary(prefix) {
            self.binary_prefixes += 1;
        }
        if !self.hubs.contains(&peer) {
            self.note_wanted(prefix);
        }
        self.patterns_changed();
    }

    /// Ends that.
    pub fn unsubscribe(&mut self, prefix: &[u8], peer: PeerId) {
        if self.remove_prefix(prefix, Receiver::Subscriber(peer)) && is_binary(prefix) {
            self.binary_prefixes -= 1;
        }
        if !self.hubs.contains(&peer) {
            self.note_unwanted();
        }
        self.patterns_changed();
    }

    /// This service passes events on, as a hub of a mesh does: each event goes on from where it was
    /// published, and from nowhere else.
    pub fn set_passing_on(&mut self, service: ServiceKey) {
        self.passing_on.insert(service);
        self.note_unwanted();
        self.patterns_changed();
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

    /// Of what comes by another hub and begins so, this subscriber gets all, and no other does.
    pub fn hide(&mut self, prefix: &[u8], but_for: PeerId) {
        self.hidden = Some((prefix.into(), but_for));
        self.patterns_changed();
    }

    /// Whether this subscriber is one.
    pub fn is_hub(&self, peer: PeerId) -> bool {
        self.hubs.contains(&peer)
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
            self.patterns_changed();
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
            Dialect::Glob => self.globs.entry(pattern),
        };
        receivers.insert(Receiver::Service(service));
        self.note_wanted(beginning(pattern));
        self.patterns_changed();
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
        self.patterns_changed();
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

    fn patterns_changed(&mut self) {
        self.revision += 1;
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

    /// Who gets an event with this [key](Self::key_of). Routes to the same receivers are the same `Rc`.
    pub fn route(&mut self, key: &[u8]) -> Rc<Route> {
        self.look_up(key).route
    }

    /// The same for a key that is no event's: it is not counted.
    pub fn resolved(&mut self, key: &[u8]) -> Rc<Route> {
        self.resolve(key)
    }

    /// The same, and where events with this key are counted.
    #[inline]
    pub fn look_up(&mut self, key: &[u8]) -> KnownSubject {
        self.look_up_by(Via::Client, key)
    }

    /// The same of an event that came by some way.
    #[inline]
    pub fn look_up_by(&mut self, via: Via, key: &[u8]) -> KnownSubject {
        let hash = self.known.hash(key);
        if let Some(known) = self.known.get(hash, key)
            && let Some(route) = known.route(via, self.revision)
        {
            let route = Rc::clone(route);
            if !self.subjects.has(known.counted) {
                known.counted = self.subjects.seen_again(subject_of(key));
            }
            let subject = known.counted;
            return KnownSubject { route, subject };
        }
        self.learn(via, hash, key)
    }

    fn learn(&mut self, via: Via, hash: u64, key: &[u8]) -> KnownSubject {
        if self.routes.are_many() {
            while !self.routes.forget_unused() && self.known.forget_some() {}
        }
        let route = match via {
            Via::Client => self.resolve(key),
            Via::Bridge | Via::Hub => {
                let all = self.look_up(key).route;
                self.part_for(via, key, &all)
            }
        };
        let revision = self.revision;
        if let Some(known) = self.known.get(hash, key) {
            known.set_route(via, Rc::clone(&route), revision);
            let subject = known.counted;
            return KnownSubject { route, subject };
        }
        let subject = self.subjects.index_of(subject_of(key));
        if let Some(known) = self.known.insert(hash, key, subject) {
            known.set_route(via, Rc::clone(&route), revision);
        }
        KnownSubject { route, subject }
    }

    /// Of all who get an event, those who get it if it came by this way.
    fn part_for(&mut self, via: Via, key: &[u8], all: &Route) -> Rc<Route> {
        let mut found = std::mem::take(&mut self.found);
        found.clear();
        let hidden = self.hidden.as_ref();
        let hidden = hidden.filter(|(prefix, _)| via == Via::Hub && key.starts_with(prefix));
        let is_left_out = |peer: &&PeerId| match hidden {
            Some((_, but_for)) => *peer != but_for,
            None => via == Via::Hub && self.hubs.contains(*peer),
        };
        let subscribers = all.subscribers.iter().filter(|peer| !is_left_out(peer));
        found.extend(subscribers.map(|peer| Receiver::Subscriber(*peer)));
        let services = all.services.iter();
        let services = services.filter(|service| !self.passing_on.contains(*service));
        found.extend(services.map(|service| Receiver::Service(*service)));
        let route = self.routes.to(&found);
        self.found = found;
        route
    }

    fn resolve(&mut self, key: &[u8]) -> Rc<Route> {
        let mut found = std::mem::take(&mut self.found);
        found.clear();
        self.prefixes
            .for_each_prefix_of(key, |receivers| found.extend(receivers));
        let subject = subject_of(key);
        found.extend(self.exact.get(subject).into_iter().flatten());
        self.globs
            .for_each_match(subject, |receivers| found.extend(receivers));
        found.sort_unstable();
        found.dedup();
        if !self.limited.is_empty() {
            found.retain(|receiver| match receiver {
                Receiver::Subscriber(peer) => {
                    let limit = self.limited.get(peer);
                    limit.is_none_or(|hearing| hearing.may_get(subject))
                }
                Receiver::Service(_) => true,
            });
        }
        let route = self.routes.to(&found);
        self.found = found;
        route
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

    #[test]
    fn what_is_hidden_of_other_hubs_goes_to_one_subscriber() {
        let mut table = RouteTable::default();
        let peer = |slot| PeerId { slot, serial: 0 };
        for (prefix, slot) in [("", 1), ("beat", 2), ("b", 9)] {
            table.subscribe(prefix.as_bytes(), peer(slot));
        }
        table.hide(b"beat", peer(9));
        let mut heard = |via, key: &str| {
            let route = table.look_up_by(via, key.as_bytes()).route;
            route
                .subscribers
                .iter()
                .map(|peer| peer.slot)
                .collect::<Vec<_>>()
        };
        for via in [Via::Client, Via::Bridge] {
            assert_eq!(heard(via, "beat 1"), [1, 2, 9]);
        }
        assert_eq!(heard(Via::Hub, "beat 1"), [9]);
        assert_eq!(heard(Via::Hub, "bee"), [1, 9]);
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
    fn what_changes_is_seen_by_each_way() {
        let mut table = RouteTable::default();
        let (bridge, other) = (ServiceKey(1), ServiceKey(2));
        let hub = PeerId { slot: 1, serial: 1 };
        let everything = SubjectPattern::parse("", 99).unwrap();
        table.add_hub(hub);
        table.subscribe(b"a", hub);
        for service in [bridge, other] {
            table.add(&everything, service);
        }
        let gets = |table: &mut RouteTable, via| {
            // The second time it is known.
            let route = table.look_up_by(via, b"a").route;
            assert!(Rc::ptr_eq(&table.look_up_by(via, b"a").route, &route));
            (route.subscribers.to_vec(), route.services.to_vec())
        };
        for via in [Via::Client, Via::Bridge, Via::Hub] {
            let subscribers = if via == Via::Hub { vec![] } else { vec![hub] };
            assert_eq!(gets(&mut table, via), (subscribers, vec![bridge, other]));
        }
        table.set_passing_on(bridge);
        assert_eq!(gets(&mut table, Via::Client).1, [bridge, other]);
        assert_eq!(gets(&mut table, Via::Bridge), (vec![hub], vec![other]));
        assert_eq!(gets(&mut table, Via::Hub), (vec![], vec![other]));
        table.remove(&everything, other);
        assert_eq!(gets(&mut table, Via::Hub), (vec![], vec![]));
        // Longer ones than are remembered.
        let long = [b'a'; 1000];
        for via in [Via::Client, Via::Bridge] {
            assert_eq!(*table.look_up_by(via, &long).route.subscribers, [hub]);
        }
    }

    #[test]
    fn a_subject_that_becomes_frequent_is_counted_however_many_there_are() {
        let mut table = RouteTable::default();
        let mut count = |subject: &str| {
            let known = table.look_up(subject.as_bytes());
            table.subjects.add(known.subject, 1);
        };
        (0..10_000).for_each(|n| count(&format!("early{n}")));
        (0..10_000).for_each(|n| {
            count("late");
            count(&format!("other{n}"));
        });
        table.subjects.name_largest();
        (0..100).for_each(|_| {
            let known = table.look_up(b"late");
            table.subjects.add(known.subject, 1);
        });
        let mut named = table.subjects.named();
        let late = named.find(|named| *named.subject == *"late").unwrap();
        assert_eq!(late.events, 100);
    }
}
