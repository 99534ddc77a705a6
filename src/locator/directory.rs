//! Registrations and their expiry.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::ServiceName;

/// One service at one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Where it listens.
    pub address: String,
    /// When the registration ends unless it is refreshed.
    pub expires_at: Instant,
    /// Later registrations have higher numbers.
    since: u64,
}

/// The directory holds as many registrations as it may; its limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there are {0} registrations already, which is the limit")]
pub struct Full(pub usize);

/// Registrations by service. Those whose time is over are never seen, and removed on the next change
/// of their service or when room is needed.
#[derive(Debug)]
pub struct Directory {
    services: BTreeMap<ServiceName, Vec<Registered>>,
    count: usize,
    count_max: usize,
    since: u64,
}

impl Directory {
    /// An empty directory with room for this many registrations.
    pub fn new(count_max: usize) -> Self {
        Self {
            services: BTreeMap::new(),
            count: 0,
            count_max,
            since: 0,
        }
    }

    /// Registers a service's address, or refreshes it.
    ///
    /// # Errors
    /// [`Full`]; a refresh always finds its place.
    pub fn register(
        &mut self,
        name: &ServiceName,
        address: &str,
        ttl: Duration,
        now: Instant,
    ) -> Result<(), Full> {
        let expires_at = now + ttl;
        if let Some(known) = self.live_mut(name, address, now) {
            known.expires_at = expires_at;
            return Ok(());
        }
        if self.count >= self.count_max {
            self.remove_expired(now);
        }
        if self.count >= self.count_max {
            return Err(Full(self.count_max));
        }
        self.since += 1;
        let registered = Registered {
            address: address.into(),
            expires_at,
            since: self.since,
        };
        let entries = self.services.entry(name.clone()).or_default();
        entries.retain(|entry| entry.expires_at > now && entry.address != address);
        entries.push(registered);
        self.count = self.services.values().map(Vec::len).sum();
        Ok(())
    }

    fn live_mut(
        &mut self,
        name: &ServiceName,
        address: &str,
        now: Instant,
    ) -> Option<&mut Registered> {
        let entries = self.services.get_mut(name)?;
        entries
            .iter_mut()
            .find(|entry| entry.address == address && entry.expires_at > now)
    }

    fn remove_expired(&mut self, now: Instant) {
        for entries in self.services.values_mut() {
            entries.retain(|entry| entry.expires_at > now);
        }
        self.services.retain(|_, entries| !entries.is_empty());
        self.count = self.services.values().map(Vec::len).sum();
    }

    /// The address of a service: of several, the one that was registered last.
    pub fn locate(&self, name: &ServiceName, now: Instant) -> Option<&str> {
        let live = self
            .services
            .get(name)?
            .iter()
            .filter(|entry| entry.expires_at > now);
        live.max_by_key(|entry| entry.since)
            .map(|entry| entry.address.as_str())
    }

    /// Ends a registration; whether there was one.
    pub fn unregister(&mut self, name: &ServiceName, address: &str, now: Instant) -> bool {
        let was_live = self.live_mut(name, address, now).is_some();
        if let Some(entries) = self.services.get_mut(name) {
            entries.retain(|entry| entry.address != address);
            if entries.is_empty() {
                self.services.remove(name);
            }
        }
        self.count = self.services.values().map(Vec::len).sum();
        was_live
    }

    /// All live registrations, by name.
    pub fn list(&self, now: Instant) -> impl Iterator<Item = (&ServiceName, &Registered)> {
        let all = self
            .services
            .iter()
            .flat_map(|(name, entries)| entries.iter().map(move |e| (name, e)));
        all.filter(move |(_, entry)| entry.expires_at > now)
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]
mod tests {
    use super::*;

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
        assert_eq!(directory.list(now + TTL).count(), 0);
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
            Err(Full(2))
        );
        directory
            .register(&name("A"), "tcp://x:1", TTL * 3, now)
            .unwrap();
        directory
            .register(&name("C"), "tcp://x:1", TTL, now + TTL)
            .unwrap();
        assert_eq!(directory.count, 2);
    }
}
