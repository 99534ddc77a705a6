//! Registrations and their expiry.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::security::{Identity, Shown};
use event_manager_wire::model::ServiceName;
use event_manager_zmtp::PeerKeys;

/// Registrations that are over and removed in one go, at most: many may end at the same time.
const EXPIRED_AT_ONCE: usize = 1000;

/// One service at one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// When the registration ends unless it is refreshed.
    pub expires_at: Instant,
    /// Who registered it.
    pub by: Asker,
    /// Later registrations have higher numbers.
    since: u64,
}

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asker {
    /// Who it is.
    pub identity: Identity,
    /// By what that is known.
    pub shown: Shown,
}

/// Why an address is not registered. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// There is no room; the limit.
    #[error("there are {0} registrations already, which is the limit")]
    Full(usize),
    /// The name belongs to the daemon that runs this locator.
    #[error("{0} is the name of the event manager that runs this ServiceLocator")]
    Reserved(ServiceName),
}

/// Where a registration is found.
type RegistrationKey = (ServiceName, Arc<str>);

/// Registrations by service. Those whose time is over are never seen; they are removed bit by bit.
///
/// No request looks at more than it answers with, however many registrations there are.
#[derive(Debug)]
pub struct Directory {
    entries: BTreeMap<RegistrationKey, Registered>,
    /// The addresses of each service, those that were registered last at the end.
    by_age: BTreeMap<(ServiceName, u64), Arc<str>>,
    ends: BTreeSet<(Instant, RegistrationKey)>,
    /// When registrations of clients with names end, by what they have registered.
    named: BTreeSet<(ServiceName, Instant, Arc<str>)>,
    count_max: usize,
    since: u64,
    own: Option<(ServiceName, String)>,
    asker: Asker,
}

impl Directory {
    /// An empty directory with room for this many registrations.
    pub fn new(count_max: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            by_age: BTreeMap::new(),
            ends: BTreeSet::new(),
            named: BTreeSet::new(),
            count_max,
            since: 0,
            own: None,
            asker: Asker::default(),
        }
    }

    /// The next request comes from there.
    pub fn is_asked_by(&mut self, asker: Asker) {
        self.asker = asker;
    }

    /// Whether a client with a name has registered this one, and who asks would have to replace it: all but
    /// that client's own, and what a peer without a name has registered here before.
    pub fn is_anothers(&self, name: &ServiceName, address: &str, now: Instant) -> bool {
        if self.asker.identity != Identity::Anonymous {
            return false;
        }
        let key: RegistrationKey = (name.clone(), address.into());
        let is_its_own = |known: &&Registered| {
            known.expires_at > now && known.by.identity == Identity::Anonymous
        };
        if self.entries.get(&key).filter(is_its_own).is_some() {
            return false;
        }
        let from_now = (name.clone(), now + Duration::from_nanos(1), "".into());
        let next = self.named.range(from_now..).next();
        next.is_some_and(|(of, ..)| of == name)
    }

    /// Ends registrations of those who may not have them any more.
    pub fn retain(&mut self, may: impl Fn(&ServiceName, &Asker) -> bool) {
        let gone = self
            .entries
            .iter()
            .filter(|((name, _), registered)| !self.is_own(name) && !may(name, &registered.by));
        let gone: Vec<_> = gone.map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.remove(&key);
        }
    }

    /// The name is ours: it is registered at this address and at no other, there is always room for it,
    /// and nobody ends the registration or makes it shorter.
    pub fn reserve(&mut self, name: ServiceName, address: String) {
        self.own = Some((name, address));
    }

    /// We are about to end: our name is not found any more.
    pub fn end_own(&mut self) {
        if let Some((name, address)) = self.own.take() {
            self.remove(&(name, address.into()));
        }
    }

    /// Whether the name belongs to the daemon that runs this locator.
    pub fn is_own(&self, name: &ServiceName) -> bool {
        self.own.as_ref().is_some_and(|(own, _)| own == name)
    }

    /// Registers a service's address, or refreshes it.
    ///
    /// # Errors
    /// [`RegisterError`]; a refresh always has room.
    pub fn register(
        &mut self,
        name: &ServiceName,
        address: &str,
        ttl: Duration,
        now: Instant,
    ) -> Result<(), RegisterError> {
        self.expire(now);
        let own = self.own.as_ref().filter(|(own, _)| own == name);
        let is_own = own.is_some();
        if own.is_some_and(|(_, own)| own != address) {
            return Err(RegisterError::Reserved(name.clone()));
        }
        let key: RegistrationKey = (name.clone(), address.into());
        let mut expires_at = now + ttl;
        let known = self.remove(&key).filter(|known| known.expires_at > now);
        if let Some(known) = &known
            && is_own
        {
            expires_at = expires_at.max(known.expires_at);
        }
        if known.is_none() && self.entries.len() >= self.count_max && !is_own {
            return Err(RegisterError::Full(self.count_max));
        }
        let since = known.map_or(self.since + 1, |known| known.since);
        self.since = self.since.max(since);
        self.by_age
            .insert((key.0.clone(), since), Arc::clone(&key.1));
        self.ends.insert((expires_at, key.clone()));
        let by = self.asker.clone();
        if by.identity != Identity::Anonymous {
            let (name, address) = key.clone();
            self.named.insert((name, expires_at, address));
        }
        let registered = Registered {
            expires_at,
            by,
            since,
        };
        self.entries.insert(key, registered);
        Ok(())
    }

    fn remove(&mut self, key: &RegistrationKey) -> Option<Registered> {
        let known = self.entries.remove(key)?;
        self.by_age.remove(&(key.0.clone(), known.since));
        self.ends.remove(&(known.expires_at, key.clone()));
        let (name, address) = key.clone();
        self.named.remove(&(name, known.expires_at, address));
        Some(known)
    }

    /// Removes registrations whose time is over, some at a time. The time is over for them whether they
    /// are removed or not, so this is only for the memory.
    pub fn expire(&mut self, now: Instant) {
        for _ in 0..EXPIRED_AT_ONCE {
            let Some((_, key)) = self.ends.first().filter(|(end, _)| *end <= now).cloned() else {
                return;
            };
            self.remove(&key);
        }
    }

    /// The address of a service: of several, the one that was registered last.
    pub fn locate(&mut self, name: &ServiceName, now: Instant) -> Option<&str> {
        self.expire(now);
        self.latest(name, now).map(|(address, _)| address)
    }

    /// The keys with which that address was registered, if there were any.
    pub fn keys_of(&self, name: &ServiceName, now: Instant) -> Option<PeerKeys> {
        self.latest(name, now)?.1.by.shown.keys
    }

    fn latest(&self, name: &ServiceName, now: Instant) -> Option<(&str, &Registered)> {
        let of_service = (name.clone(), 0)..=(name.clone(), u64::MAX);
        let mut latest = self.by_age.range(of_service).rev();
        latest.find_map(|((name, _), address)| {
            let registered = &self.entries[&(name.clone(), Arc::clone(address))];
            (registered.expires_at > now).then_some((&**address, registered))
        })
    }

    /// Ends a registration; whether there was one.
    pub fn unregister(&mut self, name: &ServiceName, address: &str, now: Instant) -> bool {
        self.expire(now);
        let known = self.remove(&(name.clone(), address.into()));
        known.is_some_and(|known| known.expires_at > now)
    }

    /// The live registrations after a name and address, or all of them, by name and address.
    pub fn list(
        &self,
        after: Option<(ServiceName, &str)>,
        now: Instant,
    ) -> impl Iterator<Item = (&ServiceName, &str, &Registered)> {
        let after = after.map(|(name, address)| (name, Arc::from(address)));
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = self.entries.range((begin, Bound::Unbounded));
        let all = entries.map(|((name, address), entry)| (name, &**address, entry));
        all.filter(move |(.., entry)| entry.expires_at > now)
    }

    /// How many registrations there are, with those that are over and not removed yet.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TTL: Duration = Duration::from_secs(30);

    fn name(text: &str) -> ServiceName {
        ServiceName::new(text).unwrap()
    }

    #[test]
    fn the_latest_live_address_is_found() {
        let mut directory = Directory::new(10);
        let now = Instant::now();
        directory
            .register(&name("A"), "tcp://one:1", TTL, now)
            .unwrap();
        directory
            .register(&name("A"), "tcp://two:2", TTL * 2, now)
            .unwrap();
        directory
            .register(&name("A"), "tcp://one:1", TTL, now)
            .unwrap();
        assert_eq!(directory.locate(&name("A"), now), Some("tcp://two:2"));
        assert!(directory.unregister(&name("A"), "tcp://two:2", now));
        assert!(!directory.unregister(&name("A"), "tcp://two:2", now));
        assert_eq!(directory.locate(&name("A"), now), Some("tcp://one:1"));
        assert_eq!(directory.locate(&name("A"), now + TTL), None);
        assert_eq!(directory.list(None, now + TTL).count(), 0);
    }

    #[test]
    fn it_is_bounded_and_expired_entries_make_room() {
        let mut directory = Directory::new(2);
        let now = Instant::now();
        for service in ["A", "B"] {
            directory
                .register(&name(service), "tcp://x:1", TTL, now)
                .unwrap();
        }
        assert_eq!(
            directory.register(&name("C"), "tcp://x:1", TTL, now),
            Err(RegisterError::Full(2))
        );
        directory
            .register(&name("A"), "tcp://x:1", TTL * 3, now)
            .unwrap();
        directory
            .register(&name("C"), "tcp://x:1", TTL, now + TTL)
            .unwrap();
        assert_eq!(directory.len(), 2);
    }

    #[test]
    fn our_own_name_is_ours() {
        let mut directory = Directory::new(1);
        let now = Instant::now();
        directory
            .register(&name("Other"), "tcp://x:1", TTL, now)
            .unwrap();
        directory.reserve(name("Own"), "tcp://own:1".into());
        let stranger = directory.register(&name("Own"), "tcp://stranger:1", TTL, now);
        assert_eq!(stranger, Err(RegisterError::Reserved(name("Own"))));
        // There is room for it, and nobody makes it shorter.
        for ttl in [TTL, Duration::from_millis(1)] {
            directory
                .register(&name("Own"), "tcp://own:1", ttl, now)
                .unwrap();
        }
        let later = now + TTL / 2;
        assert_eq!(directory.locate(&name("Own"), later), Some("tcp://own:1"));
        directory.end_own();
        assert_eq!(directory.locate(&name("Own"), later), None);
    }

    fn asker(name: Option<&str>) -> Asker {
        Asker {
            identity: name.map_or(Identity::Anonymous, |name| Identity::Client(name.into())),
            ..Asker::default()
        }
    }

    #[test]
    fn who_has_no_name_replaces_nothing_of_those_who_have_one() {
        let (mut directory, now) = (Directory::new(10), Instant::now());
        let a = name("A");
        let is_anothers =
            |directory: &Directory, address, at| directory.is_anothers(&a, address, at);
        directory.register(&a, "tcp://old:1", TTL * 3, now).unwrap();
        assert!(!is_anothers(&directory, "tcp://new:1", now));
        directory.is_asked_by(asker(Some("billing")));
        directory.register(&a, "tcp://own:1", TTL, now).unwrap();
        directory.register(&a, "tcp://two:1", TTL / 2, now).unwrap();
        directory
            .register(&name("AB"), "tcp://own:1", TTL * 3, now)
            .unwrap();
        // Among those with names their rights decide.
        directory.is_asked_by(asker(Some("desk")));
        assert!(!is_anothers(&directory, "tcp://own:1", now));
        directory.is_asked_by(asker(None));
        for (address, replaces) in [
            ("tcp://old:1", false),
            ("tcp://own:1", true),
            ("tcp://new:1", true),
        ] {
            assert_eq!(is_anothers(&directory, address, now), replaces, "{address}");
            assert!(!is_anothers(&directory, address, now + TTL), "{address}");
        }
        directory.is_asked_by(asker(Some("billing")));
        for address in ["tcp://own:1", "tcp://two:1"] {
            assert!(directory.unregister(&a, address, now));
        }
        directory.is_asked_by(asker(None));
        assert!(!is_anothers(&directory, "tcp://new:1", now));
    }

    #[test]
    fn registrations_end_when_their_clients_may_not_have_them_any_more() {
        let (mut directory, now) = (Directory::new(10), Instant::now());
        directory.reserve(name("Own"), "tcp://own:1".into());
        directory
            .register(&name("Own"), "tcp://own:1", TTL, now)
            .unwrap();
        directory
            .register(&name("A"), "tcp://a:1", TTL, now)
            .unwrap();
        directory.is_asked_by(asker(Some("billing")));
        directory
            .register(&name("B"), "tcp://b:1", TTL, now)
            .unwrap();
        directory
            .register(&name("A"), "tcp://b:1", TTL, now)
            .unwrap();
        directory.retain(|_, by| by.identity == Identity::Anonymous);
        let left = directory
            .list(None, now)
            .map(|(name, address, _)| (name.as_str(), address));
        let left: Vec<_> = left.collect();
        assert_eq!(left, [("A", "tcp://a:1"), ("Own", "tcp://own:1")]);
        assert!(directory.named.is_empty());
        directory.retain(|_, _| false);
        assert_eq!(directory.len(), 1, "it is the daemon's own");
    }

    #[derive(Debug, Clone)]
    enum Act {
        Register(usize, usize, u64),
        Unregister(usize, usize),
        Pass(u64),
    }

    const NAMES: [&str; 3] = ["A", "AB", "B"];
    const ADDRESSES: [&str; 3] = ["tcp://x:1", "tcp://x:10", "tcp://y:1"];

    proptest! {
        #[test]
        fn it_is_as_a_list_of_registrations(
            acts in proptest::collection::vec(
                prop_oneof![
                    4 => (0usize..3, 0usize..3, 1u64..9).prop_map(|(n, a, ttl)| Act::Register(n, a, ttl)),
                    1 => (0usize..3, 0usize..3).prop_map(|(n, a)| Act::Unregister(n, a)),
                    2 => (1u64..4).prop_map(Act::Pass),
                ],
                1..60,
            ),
        ) {
            let start = Instant::now();
            let at = |seconds| start + Duration::from_secs(seconds);
            let mut directory = Directory::new(4);
            // By their ages: name, address, end.
            let mut model: Vec<(usize, usize, u64)> = vec![];
            let mut now = 0;
            for act in acts {
                model.retain(|(.., end)| *end > now);
                match act {
                    Act::Register(n, a, ttl) => {
                        let ttl_s = Duration::from_secs(ttl);
                        let result = directory.register(&name(NAMES[n]), ADDRESSES[a], ttl_s, at(now));
                        let known = model.iter().position(|(m, b, _)| (*m, *b) == (n, a));
                        match known {
                            Some(known) => model[known].2 = now + ttl,
                            None if model.len() < 4 => model.push((n, a, now + ttl)),
                            None => prop_assert_eq!(&result, &Err(RegisterError::Full(4))),
                        }
                    }
                    Act::Unregister(n, a) => {
                        let before = model.len();
                        model.retain(|(m, b, _)| (*m, *b) != (n, a));
                        let was_there = directory.unregister(&name(NAMES[n]), ADDRESSES[a], at(now));
                        prop_assert_eq!(was_there, model.len() < before);
                    }
                    Act::Pass(seconds) => now += seconds,
                }
                model.retain(|(.., end)| *end > now);
                for (n, text) in NAMES.into_iter().enumerate() {
                    let latest = model.iter().rev().find(|(m, ..)| *m == n);
                    let latest = latest.map(|(_, a, _)| ADDRESSES[*a]);
                    prop_assert_eq!(directory.locate(&name(text), at(now)), latest);
                }
                let mut listed: Vec<_> = model.iter().map(|(n, a, _)| (NAMES[*n], ADDRESSES[*a])).collect();
                listed.sort_unstable();
                let found = directory.list(None, at(now)).map(|(name, address, _)| (name.as_str(), address));
                let found: Vec<_> = found.collect();
                prop_assert_eq!(&found, &listed);
                for (index, (of, address)) in listed.iter().enumerate() {
                    let rest = directory.list(Some((name(of), address)), at(now));
                    prop_assert_eq!(rest.count(), listed.len() - index - 1);
                }
                prop_assert_eq!(directory.by_age.len(), directory.len());
                prop_assert_eq!(directory.ends.len(), directory.len());
            }
        }
    }
}
