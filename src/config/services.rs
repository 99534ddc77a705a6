//! What each service's events are kept in, and how they are handed out: the entries of `services`.

mod fields;
mod pattern;
mod served;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::engines::Engines;
use super::keys::Wrong;
use super::positions::{Position, positions};
use super::units::Unit;
use event_manager_core::broker::{DeliveryMode, OrderBy};
use event_manager_core::broker::{Policy, QueueLimits, Retry, ServiceOptions};
use event_manager_wire::model::{EventSubject, ServiceName, SubjectPattern};
use event_manager_zmtp::Limits;
use event_manager_zmtp::curve::PublicKey;
use fields::Fields;
pub(super) use fields::{RetentionFields, Subjects};
use pattern::NamePattern;
pub use served::{ServedBy, spool_of};

/// The key of all that is here.
pub(super) const SERVICES: &str = "services";

/// What a queue on disk may keep, in bytes, unless its service says otherwise.
const RETENTION_BYTES_MAX: u64 = 10 << 30;

/// What a queue on disk may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Bytes of all its events together.
    pub bytes_max: u64,
    /// For how long; `None` is without end.
    pub age_max: Option<Duration>,
}

/// All that is configured for one service.
#[derive(Debug, Clone, PartialEq)]
pub struct ServicePolicy {
    /// Where its events are kept.
    pub delivery: DeliveryMode,
    /// What waits in memory, and how it is tried again.
    pub backlog: Policy,
    /// Events that have this in common keep their order; `None` promises none.
    pub order_by: Option<OrderBy>,
    /// The subject of its dead letters; `None` is that of its name.
    pub dead_letter_subject: Option<EventSubject>,
    /// What its queue may keep; without meaning for [`DeliveryMode::Live`].
    pub retention: Retention,
    /// If its queue is another broker's: the durable service in which events wait to go there.
    pub spool: Option<ServiceName>,
}

/// The configuration of services, by exact name or glob.
///
/// For each field the most specific entry that has it goes before the others: the exact name, then
/// the glob with more literal characters, then the one that was written first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Services {
    /// The most specific first.
    entries: Vec<Entry>,
    /// The entries whose [fixed part](Fields::fixed_part) is in force, if they are not those: it doesn't
    /// change while the daemon runs.
    fixed: Option<Vec<Entry>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    pattern: NamePattern,
    fields: Fields,
}

/// A durable service that a bridge needs.
pub(super) struct Spool {
    pub(super) service: ServiceName,
    pub(super) subjects: Vec<SubjectPattern>,
    pub(super) retention: RetentionFields,
}

/// The unit of all entries: an object, or the text of one.
pub(super) struct AllServices;

impl Unit for AllServices {
    type Of = Services;

    fn read(value: &Value) -> Result<Services, String> {
        Services::read_all(value).map_err(|wrong| {
            let said: Vec<_> = wrong.iter().map(|wrong| wrong.said("")).collect();
            said.join("; ")
        })
    }

    fn show(of: &Services) -> Value {
        let shown = |entry: &Entry| (entry.pattern.as_name().to_string(), entry.fields.show());
        of.entries.iter().map(shown).collect()
    }
}

/// The same object as a text in which the names stand as they were written; other values are as they
/// are.
pub(super) fn in_order(value: &Value, written: &[Position]) -> Value {
    let Value::Object(object) = value else {
        return value.clone();
    };
    let mut seen = BTreeSet::new();
    let names = written.iter().filter_map(|key| match &key.path[..] {
        [section, name] if section == SERVICES => Some(name),
        _ => None,
    });
    let members = names.filter(|name| seen.insert(*name)).map(|name| {
        let value = object.get(name).unwrap_or(&Value::Null);
        format!("{}: {value}", json!(name))
    });
    json!(format!("{{{}}}", members.collect::<Vec<_>>().join(", ")))
}

fn full_path(below: &[&str]) -> String {
    [&[SERVICES], below].concat().join(".")
}

impl Services {
    /// Reads an object, or the text of one.
    ///
    /// # Errors
    /// Everything that is wrong in it by itself.
    pub(super) fn read_all(value: &Value) -> Result<Self, Vec<Wrong>> {
        let refused = |why: String| vec![Wrong::value(SERVICES, value, &why)];
        let text = match value {
            Value::String(text) => text,
            Value::Object(_) => &value.to_string(),
            _ => return Err(refused("an object is wanted".into())),
        };
        let object: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| match error.is_data() {
                true => refused("an object in JSON is wanted".into()),
                false => refused(format!("an object in JSON is wanted: {error}")),
            })?;
        let written: Vec<_> = positions(text).into_iter().map(|key| key.path).collect();
        let mut seen = BTreeSet::new();
        if let Some(again) = written.iter().find(|path| !seen.insert(*path)) {
            let path = again.join(".");
            return Err(refused(format!("{path:?} stands there twice")));
        }
        let (mut entries, mut wrong) = (Vec::new(), Vec::new());
        for name in written.iter().filter(|path| path.len() == 1).flatten() {
            let value = object.get(name).unwrap_or(&Value::Null);
            let fields = Fields::read(name, value, &mut wrong);
            match NamePattern::new(name) {
                Ok(pattern) => entries.push(Entry { pattern, fields }),
                Err(error) => {
                    let why = format!("the name {error}");
                    wrong.push(Wrong::value(&full_path(&[name]), value, &why));
                }
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        // Of equals the one that was written first stays first.
        entries.sort_by_cached_key(|entry| entry.pattern.rank());
        Ok(Self {
            entries,
            fixed: None,
        })
    }

    /// These, and the services that bridges need. What an entry of such a service says beside, holds too.
    pub(super) fn with_spools(mut self, spools: Vec<Spool>) -> Self {
        for spool in spools {
            let exact = |entry: &Entry| entry.pattern.exact() == Some(&spool.service);
            let known = self.entries.iter().position(exact);
            let own = known.map(|at| self.entries.remove(at).fields);
            let fields = Fields::of_spool(spool.subjects, spool.retention);
            let entry = Entry {
                pattern: NamePattern::Exact(spool.service),
                fields: fields.or(&own.unwrap_or_default()),
            };
            self.entries.push(entry);
        }
        self.entries
            .sort_by_cached_key(|entry| entry.pattern.rank());
        self
    }

    /// What entries of services that bridges need say in vain: what such a service is like is given. To be
    /// asked before these [are there](Self::with_spools).
    pub(super) fn strange_of(&self, spools: &[Spool]) -> Vec<Wrong> {
        let is_spool = |entry: &&Entry| {
            let mut all = spools.iter().map(|spool| &spool.service);
            all.any(|spool| entry.pattern.exact() == Some(spool))
        };
        let strange = self.entries.iter().filter(is_spool).flat_map(|entry| {
            let why = "has no meaning for the queue of what goes to an engine, whose events go in their order and are tried until they are there: leave it out";
            let said = entry.fields.without_meaning_for_spools();
            said.map(|field| entry.refused(field, why)).collect::<Vec<_>>()
        });
        strange.collect()
    }

    fn fixed(&self) -> &[Entry] {
        self.fixed.as_deref().unwrap_or(&self.entries)
    }

    /// The same, but with what [is fixed](Fields::fixed_part) as the others have it in force; and the paths
    /// of what is not.
    pub(super) fn with_fixed_part_of(&self, others: &Self) -> (Self, Vec<String>) {
        let (wanted, in_force) = (&self.entries, others.fixed());
        let mut paths = vec![];
        let more = in_force
            .iter()
            .filter(|old| wanted.iter().all(|entry| entry.pattern != old.pattern));
        for Entry { pattern, .. } in wanted.iter().chain(more) {
            let of = |entries: &[Entry]| {
                let entry = entries.iter().find(|entry| entry.pattern == *pattern);
                entry.map_or(Fields::default(), |entry| entry.fields.fixed_part())
            };
            let name = pattern.as_name().as_str();
            let differing = of(wanted).differing(&of(in_force));
            paths.extend(differing.map(|field| full_path(&[name, field])));
        }
        let services = Self {
            entries: wanted.clone(),
            fixed: (!paths.is_empty()).then(|| in_force.to_vec()),
        };
        (services, paths)
    }

    /// Whether all that may change while the daemon runs is the same.
    pub(super) fn live_part_is(&self, other: &Self) -> bool {
        let live = |services: &Self| -> Vec<Entry> {
            let mut entries = services.entries.clone();
            for Entry { fields, .. } in &mut entries {
                fields.forget_fixed_part();
            }
            entries.retain(|entry| entry.fields != Fields::default());
            entries
        };
        live(self) == live(other)
    }

    /// Durable services that exist from the start, without a subscription, and their subjects.
    pub fn declared(&self) -> impl Iterator<Item = (&ServiceName, &[SubjectPattern])> {
        self.fixed()
            .iter()
            .filter_map(|entry| Some((entry.pattern.exact()?, entry.fields.subjects.as_deref()?)))
    }

    /// Services whose queue is another broker's, and what is said of that.
    pub fn served(&self) -> impl Iterator<Item = (&ServiceName, ServedBy<'_>)> {
        let served = |entry: &Entry| entry.fields.delivery == Some(DeliveryMode::Engine);
        let entries = self.fixed().iter().filter(move |entry| served(entry));
        entries.filter_map(|entry| Some((entry.pattern.exact()?, entry.fields.served_by())))
    }

    /// What is for other brokers waits in queues on disk, of services of their own.
    pub(super) fn spools(&self) -> Vec<Spool> {
        let served = self.entries.iter().filter_map(|entry| {
            let is_served = entry.fields.delivery == Some(DeliveryMode::Engine);
            // A name that is too long is refused by that of the service.
            let spool = spool_of(entry.pattern.exact().filter(|_| is_served)?)?;
            spool.dead_letters()?;
            Some(Spool {
                service: spool,
                subjects: vec![],
                retention: entry.fields.retention.clone(),
            })
        });
        served.collect()
    }

    /// What doesn't go together with the engines.
    pub(super) fn check_engines(&self, engines: &Engines) -> Vec<Wrong> {
        let wrong = self.entries.iter().flat_map(|entry| {
            let general = self.fields_of(entry.pattern.as_name());
            let all = entry.fields.clone().or(&general);
            let wrong = served::why_not(&entry.pattern, &entry.fields, &all, engines);
            wrong.map(|(field, why)| entry.refused(field, &why))
        });
        wrong.collect()
    }

    /// Whether any service may be durable.
    pub fn any_durable(&self) -> bool {
        let durable = |entry: &Entry| entry.fields.delivery == Some(DeliveryMode::Queue);
        self.fixed().iter().any(durable)
    }

    /// With which key a service answers calls; `Some(None)` is without one, and `None` what it registered
    /// with.
    pub fn server_key_of(&self, name: &ServiceName) -> Option<Option<PublicKey>> {
        self.fields_of(name).server_key
    }

    /// Whether any service has such a key.
    pub(super) fn any_server_key(&self) -> bool {
        let has_key = |entry: &Entry| entry.fields.server_key.flatten().is_some();
        self.entries.iter().any(has_key)
    }

    fn fields_of(&self, name: &ServiceName) -> Fields {
        fields_of(&self.entries, name)
    }

    /// The policy of the service of this name; `queue` stands where nothing else is said, and the
    /// delivery that is `asked` for goes before all. Other `options` go before globs, but not before the
    /// entry of this very name.
    pub(super) fn policy_of(
        &self,
        name: &ServiceName,
        asked: Option<DeliveryMode>,
        options: &ServiceOptions,
        queue: QueueLimits,
    ) -> ServicePolicy {
        let own = self
            .entries
            .iter()
            .find(|entry| entry.pattern.exact() == Some(name));
        let own = own.map_or(Fields::default(), |entry| entry.fields.clone());
        let fields = own.or(&options.into()).or(&self.fields_of(name));
        let delivery = asked.unwrap_or_else(|| fields_of(self.fixed(), name).delivery());
        let default = Policy::live(QueueLimits {
            bytes_max: fields.queue_bytes.unwrap_or(queue.bytes_max),
            events_max: fields.queue_events.unwrap_or(queue.events_max),
        });
        // Globs may say what doesn't go together; the delivery decides then.
        let when_full = fields.when_full.filter(|what| delivery.allows(*what));
        ServicePolicy {
            delivery,
            backlog: Policy {
                when_full: when_full.unwrap_or(delivery.default_when_full()),
                ack_timeout: fields.ack_timeout.unwrap_or(default.ack_timeout),
                retry: fields.retry(),
                limits: default.limits,
            },
            spool: spool_of(name).filter(|_| delivery == DeliveryMode::Engine),
            order_by: fields.order_by.flatten(),
            dead_letter_subject: fields.dead_letter_subject.flatten(),
            retention: Retention {
                bytes_max: fields.retention.max_bytes.unwrap_or(RETENTION_BYTES_MAX),
                age_max: fields.retention.max_age.filter(|age| !age.is_zero()),
            },
        }
    }

    /// What doesn't go together, or not with the limits.
    pub(super) fn check(&self, limits: &Limits) -> Vec<Wrong> {
        let wrong = self.entries.iter().flat_map(|entry| {
            // A glob, too, is seen as the name of a service, for which it says what it says.
            let general = self.fields_of(entry.pattern.as_name());
            entry.check(&entry.fields.clone().or(&general), limits)
        });
        wrong.collect()
    }
}

fn fields_of(entries: &[Entry], name: &ServiceName) -> Fields {
    let matching = entries.iter().filter(|entry| entry.pattern.matches(name));
    matching.fold(Fields::default(), |fields, entry| fields.or(&entry.fields))
}

impl Entry {
    /// Says what is wrong with the subjects, if there are any.
    fn why_no_subjects(&self, delivery: DeliveryMode, limits: &Limits) -> Option<String> {
        let subjects = self.fields.subjects.as_ref()?;
        let most = limits.subscriptions_per_peer_max;
        let longest = limits.subject_bytes_max;
        if self.pattern.exact().is_none() {
            Some("only with an exact name, not with a glob".into())
        } else if delivery == DeliveryMode::Live {
            Some("only with delivery \"queue\" or \"engine\"".into())
        } else if subjects.len() > most {
            Some(format!("more than limits.maxSubscriptionsPerPeer {most}"))
        } else if subjects.iter().any(|s| s.to_string().len() > longest) {
            Some(format!(
                "one is longer than limits.maxSubjectBytes {longest}"
            ))
        } else {
            None
        }
    }

    /// Says why no durable service can have this name, if the entry makes one of it.
    fn why_not_on_disk(&self, delivery: DeliveryMode) -> Option<(&'static str, String)> {
        let name = self.pattern.exact()?;
        let is_own = self.fields.delivery.is_some();
        let field = if is_own { "delivery" } else { "subjects" };
        let makes_one = is_own || self.fields.subjects.is_some();
        let why = match delivery {
            DeliveryMode::Live => return None,
            DeliveryMode::Queue | DeliveryMode::Engine if name.is_of_dead_letters() => format!(
                "under a name that ends with {} the dead letters of another service are on disk",
                ServiceName::DEAD_LETTERS
            ),
            DeliveryMode::Queue => format!(
                "no durable service can have this name: {}; choose a shorter one",
                name.why_not_on_disk()?
            ),
            // It is on disk under another name, which has a rule of its own.
            DeliveryMode::Engine => return None,
        };
        makes_one.then_some((field, why))
    }

    fn refused(&self, field: &str, why: &str) -> Wrong {
        let all = self.fields.show();
        let value = all.pointer(&format!("/{}", field.replace('.', "/")));
        let path = full_path(&[self.pattern.as_name().as_str(), field]);
        Wrong::value(&path, value.unwrap_or(&Value::Null), why)
    }

    /// `all` is what is in force for its service.
    fn check(&self, all: &Fields, limits: &Limits) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        let own = &self.fields;
        let mut refuse = |field: &str, why: String| wrong.push(self.refused(field, &why));
        let delivery = all.delivery();
        if let Some((field, why)) = self.why_not_on_disk(delivery) {
            refuse(field, why);
        }
        if own.when_full.is_some_and(|what| !delivery.allows(what)) {
            let other = match delivery {
                DeliveryMode::Live => "queue",
                DeliveryMode::Queue | DeliveryMode::Engine => "live",
            };
            refuse("whenFull", format!("only with delivery {other:?}"));
        }
        if let Some(why) = self.why_no_subjects(delivery, limits) {
            refuse("subjects", why);
        }
        let longest = limits.subject_bytes_max;
        let letters = own.dead_letter_subject.iter().flatten();
        if letters
            .map(|subject| subject.as_str().len())
            .any(|bytes| bytes > longest)
        {
            refuse(
                "deadLetterSubject",
                format!("it is longer than limits.maxSubjectBytes {longest}"),
            );
        }
        let message = limits.message_bytes_max;
        let too_small = format!("below limits.maxMessageBytes {message}");
        if own.queue_bytes.is_some_and(|bytes| bytes < message) {
            refuse("queueBytes", too_small.clone());
        }
        if own
            .retention
            .max_bytes
            .is_some_and(|bytes| bytes < message as u64)
        {
            refuse("retention.maxBytes", too_small);
        }
        let Retry { initial, max, .. } = all.retry();
        if initial > max && own.retry.initial_ms.is_some() {
            let why = format!("above retry.maxMs {}", max.as_millis());
            refuse("retry.initialMs", why);
        } else if initial > max && own.retry.max_ms.is_some() {
            let why = format!("below retry.initialMs {}", initial.as_millis());
            refuse("retry.maxMs", why);
        }
        wrong
    }
}

#[cfg(test)]
mod tests;
