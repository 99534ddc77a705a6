//! What outlives the process: telling the state database of it, and taking it up again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::hub::Hub;
use super::peer::{Envelope, Role};
use crate::ambient::{now, wall_clock_ms};
use crate::broker::{
    Audience, DeliveryMode, EndedService, FormerSubscription, PeerId, RestoreError, Service,
    ServiceKey, SubscribeError, WorkerKey,
};
use crate::model::{ServiceName, SubjectPattern, SubscriptionId};
use crate::state::{Changes, Kept, KeptReady, KeptService, KeptSubscription, Writer};
use crate::telemetry::Notable;
use crate::zmtp::SocketType;

/// A worker that has something to say says it at once when it is connected.
const SILENCE: Duration = Duration::from_millis(200);
/// Changes that wait for the database while it is busy; when there are more, and more than there are
/// subscriptions, all is written anew.
const DIRTY_MAX: usize = 4096;

/// What the database doesn't know yet, and what an earlier run left to go by.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    /// None if nothing is kept.
    writer: Option<Writer>,
    /// All is to be written.
    whole: bool,
    changed: BTreeSet<SubscriptionId>,
    /// Services whose workers came, went or said something new.
    stirred: BTreeSet<ServiceKey>,
    ended: BTreeSet<ServiceName>,
    /// What the database was told of services.
    noted: HashMap<ServiceKey, KeptService>,
    grace: Grace,
}

/// A time after the start in which workers of an earlier run come back, and say nothing: their
/// libzmq connected again, and they don't know of it.
#[derive(Debug, Default)]
struct Grace {
    ends_at: Option<Instant>,
    /// What the workers of restored services had said.
    ready: HashMap<ServiceKey, KeptReady>,
    /// Connections to these services, and when they came.
    silent: VecDeque<(PeerId, Instant)>,
    /// Those that count as ready without having said so.
    presumed: HashSet<PeerId>,
}

impl Keeping {
    /// A connection to a service. A REQ socket that waits for its answer isn't one of these: it has
    /// to ask anew anyway.
    pub(super) fn worker_joined(&mut self, service: ServiceKey, id: PeerId, lockstep: bool) {
        if !lockstep && self.grace.ready.contains_key(&service) {
            self.grace.silent.push_back((id, now()));
        }
    }

    /// A worker became ready, or is so no more, or otherwise.
    pub(super) fn workers_changed(&mut self, service: ServiceKey) {
        if self.writer.is_some() {
            self.stirred.insert(service);
        }
    }

    pub(super) fn worker_left(&mut self, service: ServiceKey, id: PeerId) {
        self.grace.presumed.remove(&id);
        self.workers_changed(service);
    }

    pub(super) fn service_ended(&mut self, service: &EndedService) {
        self.grace.ready.remove(&service.key);
        for worker in &service.workers {
            self.grace.presumed.remove(worker);
        }
        self.noted.remove(&service.key);
        if self.writer.is_some() {
            self.ended.insert(service.name.clone());
        }
    }

    fn is_clean(&self) -> bool {
        let nothing = self.changed.is_empty() && self.stirred.is_empty() && self.ended.is_empty();
        nothing && !self.whole
    }

    /// For the status: whether anything is kept, whether all of it is on disk, and whether the disk
    /// takes it.
    pub(super) fn status(&self, audience: &Audience) -> Value {
        let is_clean = self.is_clean() && !audience.has_changed();
        let written = self.writer.as_ref().map(Writer::is_idle);
        json!({
            "kept": written.is_some(),
            "written": written.unwrap_or(false) && is_clean,
            "failing": self.writer.as_ref().is_some_and(Writer::is_failing),
        })
    }
}

impl Hub {
    /// Takes up what an earlier run left, but for services that the configuration declares: they get
    /// their ports again when they begin.
    pub(super) fn restore(&mut self, kept: &Kept) {
        for (name, service) in &kept.services {
            if let Ok(name) = ServiceName::new(name) {
                self.broker.remember_port(&name, service.port);
            }
        }
        let mut refused: BTreeMap<String, usize> = BTreeMap::new();
        for (id, subscription) in &kept.subscriptions {
            let service = kept.services.get(&subscription.service);
            if let Err(why) = self.restore_one(id, subscription, service) {
                *refused.entry(why).or_default() += 1;
            }
        }
        for (why, subscriptions) in &refused {
            self.journal.note(&Notable::NotRestored {
                subscriptions: *subscriptions as u64,
                why,
            });
        }
        for (name, service) in &kept.services {
            if let Err(why) = self.restore_wanting(name, service) {
                tracing::warn!(
                    "not restored; its events stay on disk until a client subscribes: {why}"
                );
            }
        }
        let subscriptions = self.broker.subscription_count();
        if subscriptions > 0 {
            let services = self.broker.services().count();
            self.journal.note(&Notable::Restored {
                subscriptions: subscriptions as u64,
                services: services as u64,
            });
        }
        self.keeping.whole = !refused.is_empty();
    }

    /// Keeps what is there now, and changes from here on. Workers of services that were there before
    /// may come back.
    pub(super) fn begin_keeping(&mut self, former: &BTreeMap<String, KeptService>, writer: Writer) {
        for (name, kept) in former {
            let Ok(name) = ServiceName::new(name) else {
                continue;
            };
            match self.broker.find(&name) {
                None => drop(self.keeping.ended.insert(name)),
                Some(key) => {
                    let port = self.broker.service(key).map(Service::port);
                    if port != Some(kept.port) {
                        tracing::warn!(service = %name, port, former_port = kept.port,
                            "the port that the service had can't be bound: its workers have to connect to another");
                    } else if let Some(ready) = kept.ready {
                        self.keeping.grace.ready.insert(key, ready);
                    }
                    self.keeping.noted.insert(key, kept.clone());
                }
            }
        }
        let keys = self.broker.services().map(|(key, _)| key);
        self.keeping.stirred.extend(keys);
        self.keeping.grace.ends_at = Some(now() + self.config.restart_grace);
        self.keeping.writer = Some(writer);
        self.keep_changes();
    }

    fn restore_one(
        &mut self,
        id: &str,
        subscription: &KeptSubscription,
        service: Option<&KeptService>,
    ) -> Result<(), String> {
        let name = &subscription.service;
        let service = service.ok_or_else(|| format!("service {name:?} is not in the database"))?;
        let (checked, patterns) = (
            checked_name(name)?,
            self.parse_all(name, &subscription.subjects)?,
        );
        let former = FormerSubscription {
            id: SubscriptionId::new(id).map_err(|error| format!("an id {error}"))?,
            service: checked.clone(),
            port: service.port,
            delivery: delivery_of(service),
            patterns: patterns.clone(),
            expires_at: Duration::from_millis(subscription.expires_at_ms),
        };
        let (now, streamers) = (now(), &mut self.streamers);
        let restored = self.broker.restore(
            former,
            self.config.restart_grace,
            now,
            Duration::from_millis(wall_clock_ms()),
            streamers,
        );
        match restored {
            Ok(_) => Ok(()),
            Err(RestoreError::Refused(SubscribeError::NoPort(why))) => {
                // Events for a durable service wait on disk until its client comes back.
                let streamers = &mut self.streamers;
                let asked = delivery_of(service);
                let _ = self
                    .broker
                    .restore_wanting(&checked, patterns, asked, streamers);
                Err(format!("port {} of service {name:?}: {why}", service.port))
            }
            Err(why) => Err(why.to_string()),
        }
    }

    /// A durable service without subscriptions goes on wanting what its last one wanted.
    fn restore_wanting(&mut self, name: &str, service: &KeptService) -> Result<(), String> {
        if service.subjects.is_empty() {
            return Ok(());
        }
        let patterns = self.parse_all(name, &service.subjects)?;
        let name = checked_name(name)?;
        let streamers = &mut self.streamers;
        let asked = delivery_of(service);
        let restored = self
            .broker
            .restore_wanting(&name, patterns, asked, streamers);
        restored.map_err(|error| format!("service {name:?}: {error}"))
    }

    fn parse_all(
        &self,
        service: &str,
        subjects: &[String],
    ) -> Result<BTreeSet<SubjectPattern>, String> {
        let subject_max = self.config.limits.subject_bytes_max;
        let parse = |subject: &String| {
            SubjectPattern::parse(subject, subject_max)
                .map_err(|error| format!("a subject of service {service:?} {error}"))
        };
        subjects.iter().map(parse).collect()
    }

    /// What time brings about: silent workers are presumed ready, the grace ends, what could not be
    /// written is tried again.
    pub(super) fn tend_keeping(&mut self) {
        while let Some((id, since)) = self.keeping.grace.silent.front().copied()
            && self.now.saturating_duration_since(since) >= SILENCE
        {
            self.keeping.grace.silent.pop_front();
            self.presume_ready(id);
        }
        let grace = &mut self.keeping.grace;
        if grace.ends_at.is_some_and(|end| end <= self.now) && grace.silent.is_empty() {
            grace.ends_at = None;
            let services = grace.ready.drain().map(|(service, _)| service);
            self.keeping.stirred.extend(services);
        }
        let writer = self.keeping.writer.as_ref();
        self.keeping.whole |= writer.is_some_and(Writer::wants_whole);
        self.keep_changes();
    }

    fn presume_ready(&mut self, id: PeerId) {
        let Some(Role::Worker {
            service,
            key,
            envelope: None,
        }) = self.peer(id).map(|peer| &peer.role)
        else {
            return;
        };
        let (service, key) = (*service, *key);
        let Some(ready) = self.keeping.grace.ready.get(&service).copied() else {
            return;
        };
        self.set_envelope(
            id,
            key,
            Some(Envelope {
                delimiter: ready.delimiter,
                acknowledges: ready.credit.is_some(),
            }),
        );
        let Some(found) = self.broker.service_mut(service) else {
            return;
        };
        match ready.credit {
            Some(credit) => found.workers.ready_with(key, credit),
            None => found.workers.ready(key),
        }
        let name = found.name().clone();
        if let Some(suppressed) = self.bursts.admit("presumed-ready", self.now) {
            tracing::info!(service = %name, suppressed,
                "a worker connected again and says nothing: it counts as ready, as before the restart");
        }
        self.keeping.grace.presumed.insert(id);
        self.keeping.workers_changed(service);
        self.dispatch(service);
    }

    fn set_envelope(&mut self, id: PeerId, new_key: WorkerKey, new: Option<Envelope>) {
        if let Some(Role::Worker { key, envelope, .. }) = self.peer(id).map(|peer| &mut peer.role) {
            (*key, *envelope) = (new_key, new);
        }
    }

    /// A worker that was presumed ready says READY, and so how it really wants its events. If that is
    /// otherwise, it begins anew, unless some are on their way to it.
    pub(super) fn hear_presumed(&mut self, id: PeerId, said: Envelope) {
        if !self.keeping.grace.presumed.remove(&id) {
            return;
        }
        let Some(peer) = self.peer(id) else { return };
        let Role::Worker {
            service,
            key,
            envelope: Some(presumed),
        } = peer.role
        else {
            return;
        };
        if presumed == said {
            return;
        }
        if !peer.outbox.is_empty() {
            return tracing::warn!(peer = %peer.address, "a worker says READY otherwise than before the restart, with events on their way to it: it gets them as before; let it connect anew");
        }
        let anew = Role::Worker {
            service,
            key,
            envelope: None,
        };
        let former = std::mem::replace(&mut peer.role, anew);
        self.let_worker_go(&former, vec![], 0);
        if let Some(found) = self.broker.service_mut(service) {
            let key = found.workers.join(id, false);
            self.set_envelope(id, key, None);
        }
    }

    /// Tells the database what changed. While its thread has no room, changes are put together here.
    pub(super) fn keep_changes(&mut self) {
        let changed = self.broker.take_changed();
        let deserted = self.broker.take_deserted();
        let Some(writer) = &self.keeping.writer else {
            return;
        };
        let has_room = writer.has_room();
        self.keeping.changed.extend(changed);
        self.keeping.stirred.extend(deserted);
        if self.keeping.is_clean() && !self.attendance.audience.has_changed() {
            return;
        }
        if !has_room {
            // To write all costs no more than what changed, or it would be done again and again.
            let all = self.broker.subscription_count();
            if self.keeping.changed.len() + self.keeping.ended.len() > DIRTY_MAX.max(all) {
                self.keeping.whole = true;
                self.keeping.changed.clear();
                self.keeping.ended.clear();
            }
            if let Some(suppressed) = self.bursts.admit("state-behind", self.now) {
                tracing::warn!(
                    suppressed,
                    "the state database is slower than subscriptions change: it is written less often"
                );
            }
            return;
        }
        let changes = self.take_changes();
        if let Some(writer) = &mut self.keeping.writer
            && changes != Changes::default()
            && !writer.take(changes)
        {
            tracing::error!(
                "subscriptions are not kept over a restart any more: the state database's thread ended, which is a fault of its own"
            );
            self.keeping.writer = None;
        }
    }

    fn take_changes(&mut self) -> Changes {
        let (now, wall_clock_ms) = (now(), wall_clock_ms());
        let keeping = &mut self.keeping;
        let whole = std::mem::take(&mut keeping.whole);
        let mut ids = std::mem::take(&mut keeping.changed);
        let mut keys = std::mem::take(&mut keeping.stirred);
        let ended = std::mem::take(&mut keeping.ended);
        if whole {
            keeping.noted.clear();
            ids = self.broker.subscription_ids().cloned().collect();
        }
        let mut changes = Changes {
            whole,
            services: ended.iter().map(|name| (name.to_string(), None)).collect(),
            subscribers: self.attendance.audience.take_changes(whole),
            ..Changes::default()
        };
        if whole {
            keys.extend(self.broker.services().map(|(key, _)| key));
        }
        for id in ids {
            let found = self.broker.subscription(&id, now);
            let record = found.map(|(key, service, view)| {
                keys.insert(key);
                KeptSubscription {
                    service: service.name().to_string(),
                    subjects: view.patterns.iter().map(ToString::to_string).collect(),
                    expires_at_ms: wall_clock_ms + view.expires_in.as_millis() as u64,
                }
            });
            changes.subscriptions.insert(id.to_string(), record);
        }
        for key in keys {
            let Some(service) = self.broker.service(key) else {
                continue;
            };
            let name = service.name().to_string();
            let record = KeptService {
                port: service.port(),
                ready: self.common_ready(key),
                subjects: service.wanted_on().map(ToString::to_string).collect(),
                durable: service
                    .asked_delivery()
                    .map(|asked| asked == DeliveryMode::Queue),
            };
            if self.keeping.noted.get(&key) != Some(&record) {
                self.keeping.noted.insert(key, record.clone());
                changes.services.insert(name, Some(record));
            }
        }
        changes
    }

    /// What the service's workers said: all the same, but for the credit, of which the least counts.
    /// If they didn't, nothing can be presumed of the next one. While they may still come back after
    /// a restart it is what they said before.
    fn common_ready(&self, key: ServiceKey) -> Option<KeptReady> {
        let service = self.broker.service(key)?;
        let mut common: Option<KeptReady> = None;
        for id in service.workers.peers() {
            let Some(ready) = self.ready_of(id) else {
                continue;
            };
            let form = |ready: &KeptReady| (ready.delimiter, ready.credit.is_some());
            let before = *common.get_or_insert(ready);
            if form(&before) != form(&ready) {
                return None;
            }
            common = Some(KeptReady {
                credit: before.credit.min(ready.credit),
                ..ready
            });
        }
        common.or_else(|| self.keeping.grace.ready.get(&key).copied())
    }

    fn ready_of(&self, id: PeerId) -> Option<KeptReady> {
        let peer = self.peers.get(id.slot as usize)?;
        let Role::Worker {
            service,
            key,
            envelope: Some(envelope),
        } = peer.role
        else {
            return None;
        };
        let (ready, credit) = self.broker.service(service)?.workers.readiness(key);
        let counts = ready && peer.zmtp.socket_type != SocketType::Req;
        counts.then_some(KeptReady {
            delimiter: envelope.delimiter,
            credit,
        })
    }
}

fn delivery_of(service: &KeptService) -> Option<DeliveryMode> {
    service.durable.map(|durable| match durable {
        true => DeliveryMode::Queue,
        false => DeliveryMode::Live,
    })
}

fn checked_name(name: &str) -> Result<ServiceName, String> {
    ServiceName::new(name).map_err(|error| format!("a service's name {error}"))
}
