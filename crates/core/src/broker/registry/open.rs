//! Services come to be, get their ports, and end.

use super::{Broker, EndError, EndedService, SubscribeError};
use crate::broker::account::DropReason;
use crate::broker::delivery_mode::DeliveryMode;
use crate::broker::ids::ServiceKey;
use crate::broker::options::ServiceOptions;
use crate::broker::ports::Streamers;
use crate::broker::service::{Service, ServiceSettings};
use crate::broker::spill::Spill;
use event_manager_wire::model::{ServiceName, SubjectPattern};

/// A service that had no port, and has one now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundPort {
    pub service: ServiceKey,
    pub port: u16,
    /// The one that it had before, in this run or an earlier one.
    pub former: Option<u16>,
}

/// The port that a new service gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PortWish {
    /// This one, or none for now.
    Same(u16),
    /// The one that it had, or none for now.
    Former,
    /// None for now.
    None,
}

impl Broker {
    /// Queues that are on disk at the start. The services that they are of are durable whatever else
    /// says so or not, until they are [ended](Self::end_service).
    pub fn know_queues(&mut self, queues: impl IntoIterator<Item = ServiceName>) {
        self.on_disk = queues
            .into_iter()
            .filter(|queue| !queue.is_of_dead_letters())
            .collect();
    }

    /// The service of this name, with a port. A new one, and one that has none, gets any.
    pub(super) fn open_for_workers(
        &mut self,
        name: &ServiceName,
        delivery: Option<DeliveryMode>,
        streamers: &mut dyn Streamers,
    ) -> Result<(ServiceKey, u16), SubscribeError> {
        let Some(key) = self.find(name) else {
            let settings = self.settings_of(name, delivery)?;
            let spool = self.open_spool(&settings, streamers)?;
            let key = ServiceKey(self.services.vacant_key() as u32);
            let opened = self.ports.open(name, key, streamers);
            let port = opened.map_err(SubscribeError::NoPort)?;
            self.insert_service(name, delivery, (settings, spool), Ok(port));
            return Ok((key, port));
        };
        let service = &mut self.services[key.0 as usize];
        let is = service.delivery();
        if delivery.is_some_and(|asked| asked != is) {
            return Err(SubscribeError::Delivery(is));
        }
        let port = match service.port() {
            Some(port) => port,
            None => {
                let opened = self.ports.open(name, key, streamers);
                opened.map_err(SubscribeError::NoPort)?
            }
        };
        service.port = Ok(port);
        if is == DeliveryMode::Queue {
            // A client relies on it now.
            service.asked = service.asked.or(delivery);
        }
        Ok((key, port))
    }

    /// The service of this name. A new one gets the port that is wished for, or none for now: events
    /// for it don't wait for a port that only its workers need.
    pub(super) fn open_service(
        &mut self,
        name: &ServiceName,
        delivery: Option<DeliveryMode>,
        wish: PortWish,
        streamers: &mut dyn Streamers,
    ) -> Result<ServiceKey, SubscribeError> {
        if let Some(key) = self.find(name) {
            return Ok(key);
        }
        let settings = self.settings_of(name, delivery)?;
        let spool = self.open_spool(&settings, streamers)?;
        let key = ServiceKey(self.services.vacant_key() as u32);
        let port = match wish {
            PortWish::Same(port) => self.ports.open_same(name, port, key, streamers),
            PortWish::Former => {
                let former = self.ports.remembered(name).unwrap_or_default();
                self.ports.open_same(name, former, key, streamers)
            }
            PortWish::None => Err("it was not looked for".into()),
        };
        // It may have been live by request, and yet have a queue on disk: that goes before.
        let is_live = |asked: &DeliveryMode| *asked == DeliveryMode::Live;
        let delivery = delivery.filter(|asked| !(is_live(asked) && self.on_disk.contains(name)));
        self.insert_service(name, delivery, (settings, spool), port);
        Ok(key)
    }

    /// The durable service in which events wait that go to another broker's queue, if that is where a
    /// service's events are kept.
    fn open_spool(
        &mut self,
        settings: &ServiceSettings,
        streamers: &mut dyn Streamers,
    ) -> Result<Option<ServiceKey>, SubscribeError> {
        let is_wanted = settings.delivery == DeliveryMode::Engine;
        let Some(spool) = settings.spool.as_ref().filter(|_| is_wanted) else {
            return Ok(None);
        };
        let key = self.open_service(spool, None, PortWish::None, streamers)?;
        self.routes.set_passing_on(key);
        self.services[key.0 as usize].is_spool = true;
        Ok(Some(key))
    }

    pub(super) fn settings_of(
        &self,
        name: &ServiceName,
        asked: Option<DeliveryMode>,
    ) -> Result<ServiceSettings, SubscribeError> {
        let is_on_disk = self.on_disk.contains(name);
        let asked = match is_on_disk {
            true => Some(DeliveryMode::Queue),
            false => asked,
        };
        let settings = (self.config.policies.0)(name, asked, &ServiceOptions::default());
        if settings.delivery != DeliveryMode::Queue {
            Ok(settings)
        } else if name.is_of_dead_letters() {
            Err(SubscribeError::Reserved(name.clone()))
        } else if name.why_not_on_disk().is_some() && !is_on_disk {
            // An earlier release took names with room for a queue, and none for its dead letters: what is
            // there is served.
            Err(SubscribeError::TooLong(name.clone()))
        } else {
            Ok(settings)
        }
    }

    fn insert_service(
        &mut self,
        name: &ServiceName,
        asked: Option<DeliveryMode>,
        (settings, spool): (ServiceSettings, Option<ServiceKey>),
        port: Result<u16, String>,
    ) {
        let mut service = Service::new(name.clone(), port, settings);
        service.spool = spool;
        service.asked = asked;
        service.queue.number_from(self.last_delivery);
        let key = ServiceKey(self.services.insert(service) as u32);
        self.by_name.insert(name.clone(), key);
        self.note_letter_subject(key);
    }

    /// A durable service exists from the start, without a subscription, and always wants these. It has
    /// the port that it had, if that is free; else [`find_ports`](Self::find_ports) looks for one.
    ///
    /// # Errors
    /// [`SubscribeError::Reserved`], [`SubscribeError::TooLong`].
    pub fn declare(
        &mut self,
        name: &ServiceName,
        patterns: &[SubjectPattern],
        streamers: &mut dyn Streamers,
    ) -> Result<ServiceKey, SubscribeError> {
        let key = self.open_service(name, None, PortWish::Former, streamers)?;
        self.add_patterns(key, patterns.iter());
        self.services[key.0 as usize].is_declared = true;
        Ok(key)
    }

    /// Services of which nothing but a queue on disk is [known](Self::know_queues) exist, too, for those
    /// who want to drain or end them.
    pub fn adopt_queues(&mut self, streamers: &mut dyn Streamers) {
        for queue in self.on_disk.clone() {
            // Its name is not of dead letters, and has a file: nothing else could be refused.
            let _ = self.open_service(&queue, None, PortWish::None, streamers);
        }
    }

    /// Looks for ports for services that need one and have none; those that got one. When there is none
    /// for one of them, there is none for the others.
    pub fn find_ports(&mut self, streamers: &mut dyn Streamers) -> Vec<FoundPort> {
        let without: Vec<ServiceKey> = self
            .services()
            .filter(|(_, service)| service.lacks_port().is_some())
            .map(|(key, _)| key)
            .collect();
        let mut found = vec![];
        let mut refused: Option<String> = None;
        for key in without {
            let service = &mut self.services[key.0 as usize];
            let former = self.ports.remembered(service.name());
            let opened = match &refused {
                Some(why) => Err(why.clone()),
                None => self.ports.open(service.name(), key, streamers),
            };
            match &opened {
                Ok(port) => found.push(FoundPort {
                    service: key,
                    port: *port,
                    former,
                }),
                Err(why) => refused = Some(why.clone()),
            }
            service.port = opened;
        }
        found
    }

    /// A service had this port in an earlier run, where other services may have had it, too
    /// (`is_shared`). It gets it when it comes, if it is free.
    pub fn recall_port(&mut self, name: &ServiceName, port: u16, is_shared: bool) {
        self.ports.recall(name, port, is_shared);
    }

    /// All ports of an earlier run are recalled: others are given first.
    pub fn recalled_ports(&mut self) {
        self.ports.put_used_last();
    }

    /// Whether other services had this port, too, so that their workers may still dial it.
    pub fn is_shared_port(&self, port: u16) -> bool {
        self.ports.is_shared(port)
    }

    /// The port that a service had when it last ended, or in an earlier run.
    pub fn former_port(&self, name: &ServiceName) -> Option<u16> {
        self.ports.remembered(name)
    }

    /// The same of all services, at most 10,000.
    pub fn former_ports(&self) -> impl Iterator<Item = (&ServiceName, u16)> {
        self.ports.all_remembered()
    }

    /// Services that are gone and whose port is not remembered any more, since the last call.
    pub fn take_forgotten(&mut self) -> Vec<ServiceName> {
        let mut forgotten = self.ports.take_forgotten();
        forgotten.retain(|name| self.find(name).is_none());
        forgotten
    }

    /// Ends a durable service without subscriptions, and what it wanted.
    ///
    /// # Errors
    /// [`EndError`]; nothing has changed then.
    pub fn end_service(&mut self, name: &ServiceName) -> Result<EndedService, EndError> {
        let key = self.find(name).ok_or(EndError::Unknown)?;
        let service = &mut self.services[key.0 as usize];
        if !service.subscriptions.is_empty() {
            return Err(EndError::Subscribed(service.subscriptions.len()));
        }
        if service.is_declared {
            return Err(EndError::Declared);
        }
        let patterns: Vec<_> = service.patterns.keys().cloned().collect();
        let to = service.spool.unwrap_or(key);
        for pattern in patterns {
            self.routes.remove(&pattern, to);
        }
        Ok(self.close_service(key))
    }

    pub(super) fn close_service(&mut self, key: ServiceKey) -> EndedService {
        let mut service = self.services.remove(key.0 as usize);
        self.by_name.remove(service.name());
        self.routes.forget_service(key);
        self.letter_subjects.remove(&key);
        self.timetable.set(key, None);
        self.on_disk.remove(service.name());
        if let Some(port) = service.port() {
            self.ports.close(service.name(), port);
        }
        let queued = service.queue.len() as u64 + service.spill.as_ref().map_or(0, Spill::len);
        // What is in its workers' outboxes, or held by them, may or may not be done before they are
        // closed.
        let lost = queued + service.queue.held() as u64 + service.account.in_flight;
        service.account.dropped.add(DropReason::ServiceEnded, lost);
        service.account.in_flight = 0;
        self.retired.add(&service.account);
        let workers = service.workers.peers().collect();
        EndedService {
            key,
            name: service.name().clone(),
            workers,
            queued,
            durable: service.spill.is_some(),
        }
    }
}
