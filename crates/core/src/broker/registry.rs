//! Subscriptions, their leases, and the services that they make.

mod books;
mod errors;
mod open;
mod owners;
mod reconfigure;
mod restore;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::{Bound, Index, IndexMut, RangeInclusive};
use std::rc::Rc;
use std::time::{Duration, Instant};

use slab::Slab;

pub use errors::{EndError, KeepAliveError, SubscribeError, UnknownSubscription};
pub use open::FoundPort;
pub use restore::{FormerSubscription, RestoreError};

use super::account::Account;
use super::backlog::QueueLimits;
use super::delivery_mode::DeliveryMode;
use super::ids::{PeerId, ServiceKey};
use super::options::ServiceOptions;
use super::ports::{PortRange, Streamers};
use super::routes::RouteTable;
use super::service::{Service, ServiceSettings};
use super::timetable::Timetable;
use crate::security::Identity;
use event_manager_wire::model::{EventSubject, ServiceName, SubjectPattern, SubscriptionId};

/// What the broker needs to know at its beginning.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Ports of services; `0..=0` lets the system choose.
    pub streamer_ports: RangeInclusive<u16>,
    /// How long a subscription lives without a keep-alive.
    pub subscription_ttl: Duration,
    /// The most subscriptions in all.
    pub subscriptions_max: usize,
    /// The most patterns of one service.
    pub patterns_per_service_max: usize,
    /// What each service's events are kept in, and how they are handed out.
    pub policies: Policies,
}

/// The settings of a service, by its name and by where its subscription wants its events kept.
#[derive(Clone)]
pub struct Policies(Rc<SettingsOf>);

type SettingsOf = dyn Fn(&ServiceName, Option<DeliveryMode>, &ServiceOptions) -> ServiceSettings;

impl Policies {
    /// As a function has it.
    pub fn new(
        of: impl Fn(&ServiceName, Option<DeliveryMode>) -> ServiceSettings + 'static,
    ) -> Self {
        Self(Rc::new(move |name, asked, _| of(name, asked)))
    }

    /// The same where subscriptions may say more.
    pub fn with_options(
        of: impl Fn(&ServiceName, Option<DeliveryMode>, &ServiceOptions) -> ServiceSettings + 'static,
    ) -> Self {
        Self(Rc::new(of))
    }

    /// The same for all: in memory, the oldest make room.
    pub fn live(limits: QueueLimits) -> Self {
        Self::new(move |_, _| ServiceSettings::live(limits))
    }
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Policies")
    }
}

/// A subscription that is live: events that match it from now on are delivered, queued or counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribed {
    pub service: ServiceKey,
    /// The port of its streamer.
    pub port: u16,
    /// A service that ended because the subscription moved away from it.
    pub ended: Option<EndedService>,
}

/// A service that is no more: what the shell has to close.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedService {
    /// Its key, which may be given to another service.
    pub key: ServiceKey,
    pub name: ServiceName,
    /// Its workers' connections.
    pub workers: Vec<PeerId>,
    /// Events that were waiting, and are dropped.
    pub queued: u64,
    /// It had a queue on disk, which is to be removed.
    pub durable: bool,
}

#[derive(Debug)]
struct Subscription {
    service: ServiceKey,
    patterns: BTreeSet<SubjectPattern>,
    /// Who made or refreshed it last, if that is known: an earlier release didn't write it down.
    owner: Option<Identity>,
    /// The port that its client was told.
    told_port: u16,
    expires_at: Instant,
    /// Its end when it was last among the [changed](Broker::take_changed).
    noted_expiry: Instant,
}

/// A subscription as reports show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionView<'a> {
    /// What its client calls it.
    pub id: &'a SubscriptionId,
    /// What it asks for.
    pub patterns: &'a BTreeSet<SubjectPattern>,
    /// Who answers for it, if that is known.
    pub owner: Option<&'a Identity>,
    /// What is left of its lease.
    pub expires_in: Duration,
    /// The port of the service that its client was told, in this run or an earlier one.
    pub told_port: u16,
}

/// All state behind the routing of events.
#[derive(Debug)]
pub struct Broker {
    config: BrokerConfig,
    /// Who gets what.
    pub routes: RouteTable,
    /// When services want attention: what is noted there is acted on, so whoever changes a queue notes it.
    pub timetable: Timetable,
    services: Slab<Service>,
    by_name: BTreeMap<ServiceName, ServiceKey>,
    subscriptions: HashMap<SubscriptionId, Subscription>,
    /// Leases by their end, so that a look at the clock touches only those that are over.
    leases: BTreeSet<(Instant, SubscriptionId)>,
    ports: PortRange,
    /// Queues that an earlier run left on disk, and that were not ended since.
    on_disk: BTreeSet<ServiceName>,
    /// Time in which our own loop hung; leases don't run then.
    stalled: Duration,
    /// The books of services that are gone.
    retired: Account,
    /// The last number that was given.
    number: u64,
    /// Subscriptions that changed, for those who keep them elsewhere.
    changed: Vec<SubscriptionId>,
    /// Durable services that lost their last subscription, and want on.
    deserted: Vec<ServiceKey>,
    /// How often services came to be other clients'.
    owned: u64,
    /// Subjects of dead letters that services chose.
    letter_subjects: BTreeMap<ServiceKey, EventSubject>,
    /// Deliveries are numbered from here on.
    last_delivery: u64,
}

/// The service of a route, of a connected worker or of the timetable: it is there as long as these are.
/// Whoever has a key of another origin asks [`Broker::service`].
///
/// # Panics
/// The service has ended.
impl Index<ServiceKey> for Broker {
    type Output = Service;

    fn index(&self, key: ServiceKey) -> &Service {
        &self.services[key.0 as usize]
    }
}

impl IndexMut<ServiceKey> for Broker {
    fn index_mut(&mut self, key: ServiceKey) -> &mut Service {
        &mut self.services[key.0 as usize]
    }
}

impl Broker {
    pub fn new(config: BrokerConfig) -> Self {
        Self {
            routes: RouteTable::default(),
            timetable: Timetable::default(),
            services: Slab::new(),
            by_name: BTreeMap::new(),
            subscriptions: HashMap::new(),
            leases: BTreeSet::new(),
            ports: PortRange::new(config.streamer_ports.clone()),
            on_disk: BTreeSet::new(),
            stalled: Duration::ZERO,
            retired: Account::default(),
            number: 0,
            deserted: Vec::new(),
            letter_subjects: BTreeMap::new(),
            owned: 0,
            changed: Vec::new(),
            last_delivery: 0,
            config,
        }
    }

    /// Subscribes a service, binds its streamer if it is new, and sets its routes. The same id
    /// again refreshes the lease and replaces the patterns; with another service it moves there.
    /// Where the events of a new service are kept is as asked, else as configured.
    ///
    /// # Errors
    /// [`SubscribeError`]; nothing has changed then.
    pub fn subscribe(
        &mut self,
        id: &SubscriptionId,
        service_name: &ServiceName,
        patterns: BTreeSet<SubjectPattern>,
        delivery: Option<DeliveryMode>,
        now: Instant,
        streamers: &mut dyn Streamers,
    ) -> Result<Subscribed, SubscribeError> {
        self.check_limits(id, service_name, &patterns)?;
        let (key, port) = self.open_for_workers(service_name, delivery, streamers)?;
        let ended = self.set(id, key, patterns, (port, self.lease_end(now)));
        self.changed.push(id.clone());
        Ok(Subscribed {
            service: key,
            port,
            ended,
        })
    }

    fn check_limits(
        &self,
        id: &SubscriptionId,
        service_name: &ServiceName,
        patterns: &BTreeSet<SubjectPattern>,
    ) -> Result<(), SubscribeError> {
        let known = self.subscriptions.contains_key(id);
        if !known && self.subscriptions.len() >= self.config.subscriptions_max {
            return Err(SubscribeError::TooMany(self.config.subscriptions_max));
        }
        let patterns_max = self.config.patterns_per_service_max;
        if self.patterns_with(service_name, id, patterns, patterns_max) > patterns_max {
            return Err(SubscribeError::TooManyPatterns(patterns_max));
        }
        Ok(())
    }

    /// Sets a subscription and its routes; the service that ended because the subscription moved away
    /// from it.
    fn set(
        &mut self,
        id: &SubscriptionId,
        key: ServiceKey,
        patterns: BTreeSet<SubjectPattern>,
        (told_port, expires_at): (u16, Instant),
    ) -> Option<EndedService> {
        // The new patterns are set before the old ones go, so that no event falls between them.
        self.add_patterns(key, patterns.iter());
        let old = self.subscriptions.remove(id);
        let moved_from = old
            .as_ref()
            .map(|old| old.service)
            .filter(|old| *old != key);
        let owner = old.as_ref().and_then(|old| old.owner.clone());
        if let Some(old) = old {
            self.leases.remove(&(old.expires_at, id.clone()));
            let left = &self.services[old.service.0 as usize];
            let is_last = moved_from.is_some() && left.subscriptions.len() == 1;
            match is_last && left.outlives_subscriptions() {
                true => {
                    self.keep_patterns(old.service, old.patterns);
                    self.deserted.push(old.service);
                }
                false => self.forget_patterns(old.service, &old.patterns),
            }
        }
        self.services[key.0 as usize]
            .subscriptions
            .insert(id.clone());
        self.leases.insert((expires_at, id.clone()));
        self.subscriptions.insert(
            id.clone(),
            Subscription {
                service: key,
                patterns,
                owner: owner.clone(),
                told_port,
                expires_at,
                noted_expiry: expires_at,
            },
        );
        let ended = moved_from.and_then(|old| self.leave_service(old, id));
        if let Some(old) = moved_from {
            self.left(old, owner.as_ref());
        }
        self.joined(key, id);
        self.forget_kept(key);
        ended
    }

    /// Refreshes a lease.
    ///
    /// # Errors
    /// [`KeepAliveError`]; nothing has changed then.
    pub fn keep_alive(&mut self, id: &SubscriptionId, now: Instant) -> Result<(), KeepAliveError> {
        let expires_at = self.lease_end(now);
        let Some(subscription) = self.subscriptions.get_mut(id) else {
            return Err(UnknownSubscription(id.clone()).into());
        };
        let service = &self.services[subscription.service.0 as usize];
        if service.port() != Some(subscription.told_port) {
            return Err(KeepAliveError::Moved(service.name().clone()));
        }
        self.leases.remove(&(subscription.expires_at, id.clone()));
        subscription.expires_at = expires_at;
        if expires_at.saturating_duration_since(subscription.noted_expiry)
            >= self.config.subscription_ttl / 4
        {
            subscription.noted_expiry = expires_at;
            self.changed.push(id.clone());
        }
        self.leases.insert((expires_at, id.clone()));
        Ok(())
    }

    /// Ends a subscription, or only some of its patterns if any are named; the service that ended
    /// with it.
    ///
    /// # Errors
    /// [`UnknownSubscription`].
    pub fn unsubscribe(
        &mut self,
        id: &SubscriptionId,
        only: &BTreeSet<SubjectPattern>,
    ) -> Result<Option<EndedService>, UnknownSubscription> {
        let Some(subscription) = self.subscriptions.get_mut(id) else {
            return Err(UnknownSubscription(id.clone()));
        };
        if !only.is_empty() {
            let gone: BTreeSet<_> = subscription.patterns.intersection(only).cloned().collect();
            subscription
                .patterns
                .retain(|pattern| !gone.contains(pattern));
            let (service, is_empty) = (subscription.service, subscription.patterns.is_empty());
            self.forget_patterns(service, &gone);
            if !is_empty {
                self.changed.push(id.clone());
                return Ok(None);
            }
        }
        Ok(self.end(id))
    }

    /// When [`handle_timeout`](Self::handle_timeout) should be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.leases.first().map(|(end, _)| *end + self.stalled)
    }

    /// Ends the subscriptions whose lease is over; each with its service, and that again if it ended.
    pub fn handle_timeout(
        &mut self,
        now: Instant,
    ) -> Vec<(SubscriptionId, ServiceName, Option<EndedService>)> {
        let mut expired = Vec::new();
        while let Some((end, id)) = self.leases.first()
            && *end + self.stalled <= now
        {
            let id = id.clone();
            let name = self.service_of(&id).cloned();
            let ended = self.end(&id);
            expired.extend(name.map(|name| (id, name, ended)));
        }
        expired
    }

    /// Our own loop hung for this long: keep-alives that came meanwhile are read only now, so that
    /// time doesn't count against any lease.
    pub fn handle_stall(&mut self, stalled: Duration) {
        self.stalled += stalled;
    }

    /// How many patterns a service has when this subscription asks for these and nothing else; or more, but no
    /// more than `max`.
    fn patterns_with(
        &self,
        service_name: &ServiceName,
        id: &SubscriptionId,
        patterns: &BTreeSet<SubjectPattern>,
        max: usize,
    ) -> usize {
        let Some(key) = self.by_name.get(service_name) else {
            return patterns.len();
        };
        let service = &self.services[key.0 as usize];
        // Which of them it has already is asked only where that matters: the service may have many.
        let most = service.patterns.len() + patterns.len();
        if most <= max {
            return most;
        }
        let own = self.subscriptions.get(id).filter(|own| own.service == *key);
        let is_its_own = |pattern: &&SubjectPattern| {
            !patterns.contains(pattern) && service.patterns.get(pattern) == Some(&1)
        };
        let given_up = own.map_or(0, |own| own.patterns.iter().filter(is_its_own).count());
        let is_there = |pattern: &&SubjectPattern| service.patterns.contains_key(pattern);
        let shared = patterns.iter().filter(is_there).count();
        most - given_up - shared
    }

    /// How long a subscription lives without a keep-alive.
    pub fn subscription_ttl(&self) -> Duration {
        self.config.subscription_ttl
    }

    fn lease_end(&self, now: Instant) -> Instant {
        now - self.stalled + self.config.subscription_ttl
    }

    fn add_patterns<'a>(
        &mut self,
        key: ServiceKey,
        patterns: impl Iterator<Item = &'a SubjectPattern>,
    ) {
        let service = &mut self.services[key.0 as usize];
        let to = service.spool.unwrap_or(key);
        for pattern in patterns {
            let count = service.patterns.entry(pattern.clone()).or_default();
            *count += 1;
            if *count == 1 {
                self.routes.add(pattern, to);
            }
        }
    }

    /// A durable service goes on wanting what its last subscription wanted, until another comes.
    fn keep_patterns(&mut self, key: ServiceKey, patterns: BTreeSet<SubjectPattern>) {
        self.services[key.0 as usize].kept = patterns;
    }

    fn forget_kept(&mut self, key: ServiceKey) {
        let kept = std::mem::take(&mut self.services[key.0 as usize].kept);
        self.forget_patterns(key, &kept);
    }

    /// The service of this name.
    pub fn find(&self, name: &ServiceName) -> Option<ServiceKey> {
        self.by_name.get(name).copied()
    }

    fn end(&mut self, id: &SubscriptionId) -> Option<EndedService> {
        let subscription = self.subscriptions.remove(id)?;
        self.changed.push(id.clone());
        self.leases.remove(&(subscription.expires_at, id.clone()));
        let service = &mut self.services[subscription.service.0 as usize];
        if service.outlives_subscriptions() && service.subscriptions.len() == 1 {
            service.subscriptions.clear();
            self.keep_patterns(subscription.service, subscription.patterns);
            self.deserted.push(subscription.service);
            return None;
        }
        self.forget_patterns(subscription.service, &subscription.patterns);
        let ended = self.leave_service(subscription.service, id);
        if ended.is_none() {
            self.left(subscription.service, subscription.owner.as_ref());
        }
        ended
    }

    fn forget_patterns(&mut self, key: ServiceKey, patterns: &BTreeSet<SubjectPattern>) {
        let service = &mut self.services[key.0 as usize];
        let to = service.spool.unwrap_or(key);
        for pattern in patterns {
            if let Some(count) = service.patterns.get_mut(pattern) {
                *count -= 1;
                if *count == 0 {
                    service.patterns.remove(pattern);
                    self.routes.remove(pattern, to);
                }
            }
        }
    }

    /// Ends the service with its last subscription.
    fn leave_service(&mut self, key: ServiceKey, id: &SubscriptionId) -> Option<EndedService> {
        let service = &mut self.services[key.0 as usize];
        service.subscriptions.remove(id);
        if !service.subscriptions.is_empty() || service.outlives_subscriptions() {
            return None;
        }
        Some(self.close_service(key))
    }

    /// The service of this key.
    pub fn service(&self, key: ServiceKey) -> Option<&Service> {
        self.services.get(key.0 as usize)
    }

    /// The service of this key.
    pub fn service_mut(&mut self, key: ServiceKey) -> Option<&mut Service> {
        self.services.get_mut(key.0 as usize)
    }

    /// A service, beside the table in which is noted when services want attention.
    ///
    /// # Panics
    /// The service has ended.
    pub fn with_timetable(&mut self, key: ServiceKey) -> (&mut Service, &mut Timetable) {
        (&mut self.services[key.0 as usize], &mut self.timetable)
    }

    /// All services, by name.
    pub fn services(&self) -> impl Iterator<Item = (ServiceKey, &Service)> {
        self.by_name
            .values()
            .map(|key| (*key, &self.services[key.0 as usize]))
    }

    /// The names of the services with a subscription that matches the subject, and that can be called: what
    /// passes events on to other brokers has nobody who answers.
    pub fn services_for(&mut self, subject: &[u8]) -> Vec<ServiceName> {
        let route = self.routes.route(subject);
        let called = route
            .services
            .iter()
            .filter_map(|key| match self.routes.passes_on(*key) {
                true => self.service_behind(*key),
                false => Some(&self[*key]),
            });
        called.map(|service| service.name().clone()).collect()
    }

    /// The service whose events wait in this one to go to another broker, if they do.
    pub fn service_behind(&self, spool: ServiceKey) -> Option<&Service> {
        let is_passed_on = self.routes.passes_on(spool);
        let mut services = self.services.iter().filter(|_| is_passed_on);
        let behind = services.find(|(_, service)| service.spool == Some(spool));
        behind.map(|(_, service)| service)
    }

    /// A subscription and its service.
    pub fn subscription(
        &self,
        id: &SubscriptionId,
        now: Instant,
    ) -> Option<(ServiceKey, &Service, SubscriptionView<'_>)> {
        let (id, subscription) = self.subscriptions.get_key_value(id)?;
        let view = SubscriptionView {
            id,
            patterns: &subscription.patterns,
            owner: subscription.owner.as_ref(),
            expires_in: (subscription.expires_at + self.stalled).saturating_duration_since(now),
            told_port: subscription.told_port,
        };
        let key = subscription.service;
        Some((key, &self.services[key.0 as usize], view))
    }

    /// The subscriptions of a service by their ids, those behind this one if one is named.
    pub fn subscriptions_of<'a>(
        &'a self,
        service: &'a Service,
        after: Option<&SubscriptionId>,
        now: Instant,
    ) -> impl Iterator<Item = SubscriptionView<'a>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let ids = service
            .subscriptions
            .range::<SubscriptionId, _>((from, Bound::Unbounded));
        ids.filter_map(move |id| Some(self.subscription(id, now)?.2))
    }

    /// A number that was not given before.
    pub fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// The service of a subscription.
    pub fn service_of(&self, id: &SubscriptionId) -> Option<&ServiceName> {
        let subscription = self.subscriptions.get(id)?;
        Some(self.services[subscription.service.0 as usize].name())
    }

    /// Whether there is such a subscription.
    pub fn is_subscribed(&self, id: &SubscriptionId) -> bool {
        self.subscriptions.contains_key(id)
    }

    /// How many subscriptions there are.
    pub fn subscription_count(&self) -> usize {
        self.subscriptions.len()
    }
}

#[cfg(test)]
mod tests;
