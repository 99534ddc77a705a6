//! What the state database was told and is to be told, and what a previous run left.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::attendance::Attendance;
use super::cut_off::{CutOff, Signature};
use super::grace::Grace;
use super::peer::Peer;
use crate::ambient::now;
use crate::state::{KeptInstance, KeptLease, KeptService, KeptTurn, Writer};
use event_manager_core::broker::{EndedService, PeerId, ServiceKey};
use event_manager_wire::api::StateDatabase;
use event_manager_wire::model::{ServiceName, SubscriptionId};

/// How often to look whether the database's file is still there.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Changes that wait for the database while it is busy; when there are more, and more than there are
/// subscriptions, all is written anew.
pub(crate) const DIRTY_MAX: usize = 4096;

/// Records that others own: all of them, and those that the database wasn't told yet.
#[derive(Debug)]
pub(crate) struct Records<T> {
    all: BTreeMap<String, T>,
    changed: BTreeSet<String>,
}

impl<T> Default for Records<T> {
    fn default() -> Self {
        Self {
            all: BTreeMap::new(),
            changed: BTreeSet::new(),
        }
    }
}

impl<T: Clone> Records<T> {
    /// What the database has.
    pub(crate) fn restore(&mut self, all: BTreeMap<String, T>) {
        self.all = all;
    }

    /// A record is otherwise from now on, or is no more.
    pub(crate) fn set(&mut self, name: String, record: Option<T>) {
        self.changed.insert(name.clone());
        match record {
            Some(record) => {
                self.all.insert(name, record);
            }
            None => {
                self.all.remove(&name);
            }
        }
    }

    /// What the database is to be told.
    pub(crate) fn take_changes(&mut self, whole: bool) -> BTreeMap<String, Option<T>> {
        let changed = std::mem::take(&mut self.changed);
        if whole {
            let all = self.all.iter();
            return all
                .map(|(name, record)| (name.clone(), Some(record.clone())))
                .collect();
        }
        let changed = changed.into_iter();
        changed
            .map(|name| {
                let record = self.all.get(&name).cloned();
                (name, record)
            })
            .collect()
    }

    fn is_clean(&self) -> bool {
        self.changed.is_empty()
    }
}

/// What the database doesn't know yet, and what is known of the previous run.
#[derive(Debug, Default)]
pub(crate) struct Saved {
    /// None if nothing is kept.
    pub(crate) writer: Option<Writer>,
    /// All is to be written.
    pub(crate) whole: bool,
    pub(crate) changed: BTreeSet<SubscriptionId>,
    /// Services whose workers came, went or said something new.
    pub(crate) changed_services: BTreeSet<ServiceKey>,
    /// Services that are gone, or whose port is not remembered any more.
    pub(crate) ended: BTreeSet<ServiceName>,
    /// What the database was told of services.
    pub(crate) written_services: HashMap<ServiceKey, KeptService>,
    /// Durable services that can't be restored in this run, as their queues can't be used.
    pub(crate) unrestored: BTreeMap<ServiceName, KeptService>,
    /// Workers of an earlier run.
    pub(crate) grace: Grace,
    /// Workers of this run that fell silent.
    pub(crate) cut_off: CutOff,
    /// When the database's thread was last asked whether its file is there.
    pub(crate) looked_at: Option<Instant>,
    /// Plain subscribers, and whether publishers wait for those of the previous run.
    pub(crate) subscribers: Attendance,
    pub(crate) instances: Records<KeptInstance>,
    pub(crate) turns: Records<KeptTurn>,
    pub(crate) leases: Records<KeptLease>,
}

impl Saved {
    /// A worker became ready, or is so no more, or otherwise.
    pub(crate) fn workers_changed(&mut self, service: ServiceKey) {
        if self.writer.is_some() {
            self.changed_services.insert(service);
        }
    }

    /// A connection to a service came. What it means if it says nothing is looked at soon.
    pub(crate) fn worker_joined(&mut self, service: ServiceKey, id: PeerId, lockstep: bool) {
        let now = now();
        if self.writer.is_some() || self.cut_off.expects(service, now) {
            self.grace.worker_joined(id, lockstep, now);
        }
    }

    pub(crate) fn worker_left(&mut self, service: ServiceKey, id: PeerId) {
        self.grace.worker_left(service, id);
        self.workers_changed(service);
    }

    /// Whether a connection counted as ready without having said so; it says something now.
    pub(crate) fn was_presumed(&mut self, id: PeerId) -> bool {
        self.grace.was_presumed(id)
    }

    /// A worker says that it is ready. If it has just come, it may be one that had fallen silent.
    pub(crate) fn came_back(&mut self, service: ServiceKey, peer: &Peer) {
        if self.grace.unjudged.contains(&peer.id) {
            self.cut_off.is_back(service, Signature::of(peer));
        }
    }

    pub(crate) fn service_ended(&mut self, service: &EndedService) {
        self.grace.service_ended(service.key, &service.workers);
        self.cut_off.service_ended(service.key);
        self.written_services.remove(&service.key);
        self.unrestored.remove(&service.name);
        if self.writer.is_some() {
            self.ended.insert(service.name.clone());
        }
    }

    /// Stands for the end of a service in what the database was told; none as long as it was not.
    pub(crate) fn mark_of_end(&self, service: &ServiceName) -> Option<u64> {
        self.mark(!self.ended.contains(service))
    }

    /// The same of a subscription as it is now.
    pub(crate) fn mark_of_subscription(&self, id: &SubscriptionId) -> Option<u64> {
        self.mark(!self.changed.contains(id))
    }

    /// The same of a lease.
    pub(crate) fn mark_of_lease(&self, name: &ServiceName) -> Option<u64> {
        self.mark(!self.leases.changed.contains(name.as_str()))
    }

    fn mark(&self, is_told: bool) -> Option<u64> {
        match &self.writer {
            Some(writer) => (is_told && !self.whole).then(|| writer.mark()),
            None => Some(0),
        }
    }

    /// Whether the database has all that it was told up to this mark, if there is one.
    pub(crate) fn has_written(&self, mark: u64) -> bool {
        let writer = self.writer.as_ref();
        writer.is_none_or(|writer| writer.has_written(mark))
    }

    /// Told when the database has something new.
    pub(crate) fn written(&self) -> Option<Arc<Notify>> {
        self.writer.as_ref().map(Writer::written)
    }

    pub(crate) fn is_clean(&self) -> bool {
        let nothing =
            self.changed.is_empty() && self.changed_services.is_empty() && self.ended.is_empty();
        let records = self.instances.is_clean() && self.turns.is_clean() && self.leases.is_clean();
        nothing && records && !self.whole
    }

    /// For STATUS.
    pub(crate) fn status(&self) -> StateDatabase {
        let is_clean = self.is_clean() && !self.subscribers.audience.has_changed();
        let written = self.writer.as_ref().map(Writer::is_idle);
        StateDatabase {
            kept: written.is_some(),
            written: written.unwrap_or(false) && is_clean,
            failing: self.writer.as_ref().is_some_and(Writer::is_failing),
        }
    }
}
