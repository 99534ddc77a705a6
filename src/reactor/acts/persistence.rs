//! Writes subscriptions, ports and workers to the state database, and restores them at the start.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::presumed::common_ready;
use crate::ambient::{now, wall_clock_ms};
use crate::config::Config;
use crate::reactor::hub::Hub;
use crate::reactor::state::notes::Notes;
use crate::reactor::state::peers::Peers;
use crate::reactor::state::saved::Saved;
use crate::reactor::state::streamers::StreamerTable;
use crate::state::{Changes, Kept, KeptReady, KeptService, KeptSubscription, Writer};
use crate::telemetry::Notable;
use event_manager_core::broker::{
    Broker, DeliveryMode, FormerSubscription, RestoreError, Service, ServiceOptions,
    SubscribeError, SubscriptionView,
};
use event_manager_core::security::Identity;
use event_manager_wire::model::{ServiceName, SubjectPattern, SubscriptionId};

use crate::reactor::state::saved::{DIRTY_MAX, LOOK_INTERVAL};

/// What is restored, and from where it is taken.
pub(crate) struct Restoring<'a> {
    broker: &'a mut Broker,
    streamers: &'a mut StreamerTable,
    saved: &'a mut Saved,
    notes: &'a mut Notes,
    config: &'a Config,
}

impl<'a> Restoring<'a> {
    pub(crate) fn of(hub: &'a mut Hub) -> Self {
        Self {
            broker: &mut hub.broker,
            streamers: &mut hub.streamers,
            saved: &mut hub.saved,
            notes: &mut hub.notes,
            config: &hub.config,
        }
    }

    /// Takes up what an earlier run left, but for services that the configuration declares: they get
    /// their ports again when they begin.
    pub(crate) fn restore(&mut self, kept: &Kept) {
        for (name, service) in &kept.services {
            if let Ok(name) = ServiceName::new(name) {
                self.broker
                    .recall_port(&name, service.port, service.shares_port);
            }
        }
        self.broker.recalled_ports();
        let mut refused: BTreeMap<String, usize> = BTreeMap::new();
        for (id, subscription) in &kept.subscriptions {
            let service = kept.services.get(&subscription.service);
            if let Err(why) = self.restore_one(id, subscription, service) {
                *refused.entry(why).or_default() += 1;
            }
        }
        for (name, service) in &kept.services {
            if let Err(why) = self.restore_wanting(name, service) {
                // Its subscriptions may have been refused for the same reason.
                refused.entry(why).or_default();
            }
        }
        for (why, subscriptions) in &refused {
            self.notes.note(&Notable::NotRestored {
                subscriptions: *subscriptions as u64,
                why,
            });
        }
        let subscriptions = self.broker.subscription_count();
        if subscriptions > 0 {
            let services = self.broker.services().count();
            self.notes.note(&Notable::Restored {
                subscriptions: subscriptions as u64,
                services: services as u64,
            });
        }
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
            parse_all(name, &subscription.subjects)?,
        );
        let former = FormerSubscription {
            id: SubscriptionId::new(id).map_err(|error| format!("an id {error}"))?,
            service: checked,
            port: service.port,
            told_port: subscription.told_port.unwrap_or(service.port),
            delivery: delivery_of(service),
            patterns,
            owner: owner_of(subscription.owner.as_deref()),
            expires_at: Duration::from_millis(subscription.expires_at_ms),
        };
        let id = former.id.clone();
        let restored = self.broker.restore(
            former,
            self.config.restart_grace,
            now(),
            Duration::from_millis(wall_clock_ms()),
            self.streamers,
        );
        let is_for_good = |why: &RestoreError| {
            use RestoreError::{Expired, Refused};
            matches!(why, Expired | Refused(SubscribeError::TooLong(_)))
        };
        if restored.as_ref().is_err_and(is_for_good) {
            // What can't be restored for another reason is left where it is.
            self.saved.changed.insert(id);
        }
        restored.map(drop).map_err(|why| why.to_string())
    }

    /// A durable service without subscriptions goes on wanting what its last one wanted.
    fn restore_wanting(&mut self, name: &str, service: &KeptService) -> Result<(), String> {
        let is_by_request = delivery_of(service) == Some(DeliveryMode::Queue);
        if service.is_gone || service.subjects.is_empty() && !is_by_request {
            return Ok(());
        }
        let patterns = parse_all(name, &service.subjects)?;
        let name = checked_name(name)?;
        let streamers = &mut *self.streamers;
        let asked = delivery_of(service);
        let restored = self
            .broker
            .restore_wanting(&name, patterns, asked, streamers);
        restored.map_err(|error| error.to_string())
    }
}

/// The service has another port: it is noted which one its clients were told.
pub(crate) fn keep_subscriptions_of(service: &Service, saved: &mut Saved) {
    saved.changed.extend(service.subscriptions().cloned());
}

/// What is written to the state database, and what tells of changes.
pub(crate) struct Keeping<'a> {
    broker: &'a mut Broker,
    saved: &'a mut Saved,
    peers: &'a Peers,
    notes: &'a mut Notes,
}

impl<'a> Keeping<'a> {
    pub(crate) fn of(hub: &'a mut Hub) -> Self {
        Self {
            broker: &mut hub.broker,
            saved: &mut hub.saved,
            peers: &hub.peers,
            notes: &mut hub.notes,
        }
    }

    /// Keeps what is there now, and changes from here on. Workers of services that were there before
    /// may come back until then.
    pub(crate) fn begin(
        &mut self,
        former: &BTreeMap<String, KeptService>,
        writer: Writer,
        grace_until: Instant,
    ) {
        for (name, kept) in former {
            let Ok(name) = ServiceName::new(name) else {
                continue;
            };
            let Some(key) = self.broker.find(&name) else {
                let can_come = name.file_name().len() <= ServiceName::FILE_NAME_BYTES_MAX;
                if !kept.subjects.is_empty() && can_come {
                    // It was durable. What it wants is kept for a run that finds its queue.
                    self.saved.unrestored.insert(name, kept.clone());
                } else if !kept.is_gone {
                    // Its port is remembered from now on, and no more.
                    self.saved.ended.insert(name);
                }
                continue;
            };
            // What a later version wrote is not understood, and not needed.
            let options = kept.options.clone();
            let options = options.and_then(|options| serde_json::from_value(options).ok());
            self.broker.set_options(key, &options.unwrap_or_default());
            if let Some(owner) = owner_of(kept.owner.as_deref()) {
                self.broker.restore_owner(key, owner);
            }
            if let Some(ready) = kept.ready.clone() {
                let is_shared = self.broker.is_shared_port(kept.port);
                self.saved.grace.expect(key, kept.port, ready, is_shared);
            }
            self.saved.written_services.insert(key, kept.clone());
        }
        let keys = self.broker.services().map(|(key, _)| key);
        self.saved.changed_services.extend(keys);
        self.saved.grace.begin(grace_until);
        self.saved.writer = Some(writer);
        self.keep();
    }

    /// Writes what could not be written before.
    pub(crate) fn tend(&mut self, now: Instant) {
        let writer = self.saved.writer.as_ref();
        if let Some(writer) = writer
            && self
                .saved
                .looked_at
                .is_none_or(|at| now >= at + LOOK_INTERVAL)
        {
            writer.look();
            self.saved.looked_at = Some(now);
        }
        self.saved.whole |= writer.is_some_and(Writer::wants_whole);
        self.keep();
    }

    /// Tells the database what changed. While its thread has no room, changes are put together here.
    pub(crate) fn keep(&mut self) {
        let changed = self.broker.take_changed();
        let deserted = self.broker.take_deserted();
        let forgotten = self.broker.take_forgotten();
        let Some(writer) = &self.saved.writer else {
            return;
        };
        let has_room = writer.has_room();
        self.saved.changed.extend(changed);
        self.saved.changed_services.extend(deserted);
        self.saved.ended.extend(forgotten);
        if self.saved.is_clean() && !self.saved.subscribers.audience.has_changed() {
            return;
        }
        if !has_room {
            // To write all costs no more than what changed, or it would be done again and again.
            let all = self.broker.subscription_count();
            if self.saved.changed.len() + self.saved.ended.len() > DIRTY_MAX.max(all) {
                self.saved.whole = true;
                self.saved.changed.clear();
                self.saved.ended.clear();
            }
            if let Some(suppressed) = self.notes.admit("state-behind") {
                tracing::warn!(
                    target: "em.state",
                    suppressed,
                    "the state database can't keep up with changes of subscriptions: it is written less often"
                );
            }
            return;
        }
        let changes = self.take_changes();
        if let Some(writer) = &mut self.saved.writer
            && changes != Changes::default()
            && !writer.take(changes)
        {
            tracing::error!(
                target: "em.state",
                "subscriptions are not kept over a restart any more: the state database's thread ended, which is a bug"
            );
            self.saved.writer = None;
        }
    }

    fn take_changes(&mut self) -> Changes {
        let saved = &mut *self.saved;
        let whole = std::mem::take(&mut saved.whole);
        let mut ids = std::mem::take(&mut saved.changed);
        let mut keys = std::mem::take(&mut saved.changed_services);
        let ended = std::mem::take(&mut saved.ended);
        let subscribers = saved.subscribers.audience.take_changes(whole);
        if whole {
            saved.written_services.clear();
            ids = self.broker.subscription_ids().cloned().collect();
            keys.extend(self.broker.services().map(|(key, _)| key));
        }
        let mut changes = Changes {
            whole,
            subscribers,
            services: services_gone(self.broker, &saved.unrestored, &ended, whole),
            instances: saved.instances.take_changes(whole),
            turns: saved.turns.take_changes(whole),
            leases: saved.leases.take_changes(whole),
            ..Changes::default()
        };
        let (now, wall_clock_ms) = (now(), wall_clock_ms());
        for id in ids {
            let found = self.broker.subscription(&id, now);
            let record = found.map(|(key, service, view)| {
                keys.insert(key);
                kept_subscription(service, &view, wall_clock_ms)
            });
            changes.subscriptions.insert(id.to_string(), record);
        }
        for key in keys {
            // It may have ended since.
            let Some(service) = self.broker.service(key) else {
                continue;
            };
            let ready = common_ready(key, self.broker, self.peers, &self.saved.grace);
            let record = kept_service(self.broker, service, ready);
            let written = &mut self.saved.written_services;
            if written.get(&key) != Some(&record) {
                written.insert(key, record.clone());
                let name = service.name().to_string();
                changes.services.insert(name, Some(record));
            }
        }
        changes
    }
}

/// What is kept of services that have ended, and if all is written, of those that were not restored.
fn services_gone(
    broker: &Broker,
    unrestored: &BTreeMap<ServiceName, KeptService>,
    ended: &BTreeSet<ServiceName>,
    whole: bool,
) -> BTreeMap<String, Option<KeptService>> {
    let remembered = broker.former_ports().map(|(name, _)| name);
    let gone = ended.iter().chain(remembered.filter(|_| whole));
    let gone = gone
        .filter(|name| broker.find(name).is_none() && !unrestored.contains_key(*name))
        .map(|name| (name.to_string(), kept_port(broker, name)));
    let not_restored = unrestored.iter().filter(|_| whole);
    let not_restored = not_restored.map(|(name, kept)| (name.to_string(), Some(kept.clone())));
    gone.chain(not_restored).collect()
}

/// What is kept of a service that is gone: its port, so that it gets that again, and others get one
/// that its workers don't dial.
fn kept_port(broker: &Broker, name: &ServiceName) -> Option<KeptService> {
    let port = broker.former_port(name)?;
    Some(KeptService {
        port,
        shares_port: broker.is_shared_port(port),
        is_gone: true,
        ..KeptService::default()
    })
}

fn kept_service(broker: &Broker, service: &Service, ready: Option<KeptReady>) -> KeptService {
    let former = broker.former_port(service.name());
    let port = service.port().or(former).unwrap_or_default();
    let asked = service.asked_delivery();
    KeptService {
        port,
        shares_port: broker.is_shared_port(port),
        is_gone: false,
        ready,
        subjects: service.wanted_on().map(ToString::to_string).collect(),
        owner: service.owner().map(Identity::written),
        durable: asked.map(|asked| asked == DeliveryMode::Queue),
        options: Some(service.options())
            .filter(|options| !options.is_empty())
            .map(ServiceOptions::written),
    }
}

fn kept_subscription(
    service: &Service,
    view: &SubscriptionView<'_>,
    wall_clock_ms: u64,
) -> KeptSubscription {
    KeptSubscription {
        service: service.name().to_string(),
        subjects: view.patterns.iter().map(ToString::to_string).collect(),
        expires_at_ms: wall_clock_ms + view.expires_in.as_millis() as u64,
        owner: view.owner.map(Identity::written),
        told_port: Some(view.told_port).filter(|told| service.port() != Some(*told)),
    }
}

fn delivery_of(service: &KeptService) -> Option<DeliveryMode> {
    service.durable.map(|durable| match durable {
        true => DeliveryMode::Queue,
        false => DeliveryMode::Live,
    })
}

/// Whoever a later release knows beside these is nobody here.
fn owner_of(written: Option<&str>) -> Option<Identity> {
    Identity::from_written(written?)
}

fn checked_name(name: &str) -> Result<ServiceName, String> {
    ServiceName::new(name).map_err(|error| format!("a service's name {error}"))
}

/// Limits are for what clients ask for now: what was wanted before is wanted still.
fn parse_all(service: &str, subjects: &[String]) -> Result<BTreeSet<SubjectPattern>, String> {
    let parse = |subject: &String| {
        SubjectPattern::parse(subject, usize::MAX)
            .map_err(|error| format!("a subject of service {service:?} {error}"))
    };
    subjects.iter().map(parse).collect()
}
