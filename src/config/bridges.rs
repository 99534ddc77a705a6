//! What goes to other brokers, and what comes from them: `bridges`.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::chosen::{joined, read_fields, read_members, show_fields};
use super::engine_kinds::EngineKind;
use super::engines::{Engines, Text};
use super::keys::{Schema, Wrong};
use super::meant::suggestion;
use super::services::{RetentionFields, Services, Spool, Subjects, spool_of};
use super::units::{Maybe, Seconds, Truth, Unit, Whole, Word, Words};
use event_manager_wire::model::{ServiceName, SubjectPattern};

/// The key of all that is here.
pub(super) const BRIDGES: &str = "bridges";
/// What the service of a bridge is called, before the bridge's name.
const SERVICE_PREFIX: &str = "bridge.";

/// The longest key of a stream of Redis that events come from: an id has it, a word and two numbers.
const KEY_BYTES_MAX: usize = 200;

/// Stands for what an event's subject is there.
const PLACEHOLDER: &str = "{subject}";

/// The bridges, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bridges(BTreeMap<String, Bridge>);

/// What is said of a bridge.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Bridge {
    #[serde(with = "Maybe::<Text>")]
    engine: Option<String>,
    #[serde(with = "Maybe::<Word::<Direction>>")]
    direction: Option<Direction>,
    #[serde(with = "Maybe::<Subjects>")]
    subjects: Option<Vec<SubjectPattern>>,
    #[serde(with = "Maybe::<Text>")]
    to: Option<String>,
    #[serde(with = "Maybe::<Text>")]
    from: Option<String>,
    #[serde(with = "Maybe::<Text>")]
    group: Option<String>,
    #[serde(with = "Maybe::<SubjectTemplate>")]
    subject: Option<String>,
    #[serde(with = "Maybe::<Seconds::<1000, 86_400>>")]
    claim_after: Option<Duration>,
    #[serde(with = "Maybe::<Truth>")]
    delete: Option<bool>,
    #[serde(with = "Maybe::<Word::<Layout>>")]
    layout: Option<Layout>,
    #[serde(with = "Maybe::<Whole::<u32, 1, 100_000>>")]
    max_in_flight: Option<u32>,
    #[serde(with = "Maybe::<Seconds::<100, 3600>>")]
    stall_timeout: Option<Duration>,
    #[serde(with = "Maybe::<Truth>")]
    required: Option<bool>,
    retention: RetentionFields,
}

/// What an event's subject is here: `{subject}` in it stands for what it is there.
struct SubjectTemplate;

impl Unit for SubjectTemplate {
    type Of = String;

    fn read(value: &Value) -> Result<String, String> {
        let wanted = "a subject is wanted, in which {subject} stands for what it is there, such as \"Price.{subject}\"";
        let text = Text::read(value).map_err(|_| wanted)?;
        let others = text.replacen(PLACEHOLDER, "", 1);
        match others.contains(['{', '}']) || others.chars().any(char::is_control) {
            true => Err(wanted.into()),
            false => Ok(text),
        }
    }

    fn show(of: &String) -> Value {
        json!(of)
    }
}

/// Which way events go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the engine.
    Out,
    /// From the engine.
    In,
}

impl Words for Direction {
    const WORDS: &'static [(&'static str, Self)] = &[("out", Self::Out), ("in", Self::In)];
}

/// What events are like there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Layout {
    /// The body, and headers beside it.
    #[default]
    Plain,
    /// As the Redis adapter of `dotmac.events` has them.
    DotMac,
}

impl Words for Layout {
    const WORDS: &'static [(&'static str, Self)] =
        &[("plain", Self::Plain), ("dotmac", Self::DotMac)];
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::of(&Bridge::default()));

/// The unit of all bridges: an object, or the text of one.
pub(super) struct AllBridges;

impl Unit for AllBridges {
    type Of = Bridges;

    fn read(value: &Value) -> Result<Bridges, String> {
        joined(Bridges::read_all(value))
    }

    fn show(of: &Bridges) -> Value {
        let shown = |(name, bridge): (&String, &Bridge)| (name.clone(), show_fields(bridge));
        of.0.iter().map(shown).collect()
    }
}

impl Bridges {
    pub(super) fn read_all(value: &Value) -> Result<Self, Vec<Wrong>> {
        let read = |base: &str, value: &Value, wrong: &mut Vec<Wrong>| {
            let before = wrong.len();
            let bridge: Bridge = read_fields((&SCHEMA, &[]), base, value, wrong);
            let name = base
                .strip_prefix(BRIDGES)
                .unwrap_or(base)
                .trim_start_matches('.');
            if wrong.len() == before {
                let all = bridge.what_is_amiss().into_iter();
                let all = all.chain(why_no_service(name));
                wrong.extend(all.map(|why| Wrong::value(base, value, &why)));
            }
            bridge
        };
        read_members(BRIDGES, value, read).map(Self)
    }

    /// All of them, with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Bridge)> {
        self.0.iter().map(|(name, bridge)| (&**name, bridge))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the service of this name is a bridge's.
    pub fn has_service(&self, name: &ServiceName) -> bool {
        self.of_service(name).is_some()
    }

    /// The bridge whose service has this name.
    pub fn of_service<'a>(&self, name: &'a ServiceName) -> Option<&'a str> {
        let bridge = name.as_str().strip_prefix(SERVICE_PREFIX);
        bridge.filter(|bridge| self.0.contains_key(*bridge))
    }

    /// What waits to go out waits in queues on disk, of services of their own. What came in and can't be
    /// published is a dead letter of such a service, which subscribes to nothing.
    pub(super) fn spools(&self) -> Vec<Spool> {
        let spool = |(name, bridge): (&str, &Bridge)| {
            Some(Spool {
                service: Bridge::service(name)?,
                subjects: bridge.subjects.clone().unwrap_or_default(),
                retention: bridge.retention.clone(),
            })
        };
        self.iter().filter_map(spool).collect()
    }

    /// Bridges that are called like one of the ways of a service whose queue is an engine's.
    pub(super) fn check_names(&self, services: &Services) -> Vec<Wrong> {
        let served = services.served().filter_map(|(service, _)| {
            let spool = spool_of(service)?;
            let is_taken = |name: &&str| [service.as_str(), spool.as_str()].contains(name);
            let (name, bridge) = self.iter().find(|(name, _)| is_taken(name))?;
            let why = format!("the service {service} has its queue at an engine, and is shown by this name: call the bridge otherwise");
            Some(Wrong::value(&format!("{BRIDGES}.{name}"), &show_fields(bridge), &why))
        });
        served.collect()
    }

    /// What doesn't go together with the engines.
    pub(super) fn check(&self, engines: &Engines) -> Vec<Wrong> {
        let wrong = self.iter().filter_map(|(name, bridge)| {
            let at = format!("{BRIDGES}.{name}");
            let used = bridge.engine();
            let Some(engine) = engines.get(used) else {
                let hint = suggestion(used, engines.names());
                let why = format!("engines has none of this name{hint}");
                return Some(Wrong::value(&format!("{at}.engine"), &json!(used), &why));
            };
            let why = bridge.why_not_with(engine.kind())?;
            Some(Wrong::value(&at, &show_fields(bridge), &why))
        });
        wrong.collect()
    }
}

/// Whether `to` is the beginning of subjects that publishers can't get out of: whole words, each with a dot
/// behind it, and none of the server's own.
fn is_subject_prefix(to: &str) -> bool {
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let is_word = |word: &str| !word.is_empty() && word.chars().all(is_of_word);
    let words = to.strip_suffix('.');
    words.is_some_and(|words| words.split('.').all(is_word)) && !to.starts_with("_INBOX.")
}

/// Whether this can be the name of a stream, a queue or an exchange.
fn is_name(name: &str) -> bool {
    name.len() <= 255 && !name.chars().any(char::is_control)
}

/// The name of a bridge is part of its service's.
fn why_no_service(name: &str) -> Option<String> {
    let longest = ServiceName::DEAD_LETTERS.len() + SERVICE_PREFIX.len();
    let why = match Bridge::service(name) {
        Some(service) if service.is_of_dead_letters() => format!(
            "ends with {}, as only the names of dead letters do",
            ServiceName::DEAD_LETTERS
        ),
        Some(service) if service.dead_letters().is_some() => return None,
        _ if name.chars().any(char::is_control) => "has control characters".to_owned(),
        _ => format!(
            "is longer than {} bytes, where each / and % is three",
            ServiceName::FILE_NAME_BYTES_MAX - longest
        ),
    };
    Some(format!(
        "the name of this bridge {why}, so that its service, {SERVICE_PREFIX}NAME, can't be; choose another name"
    ))
}

impl Bridge {
    /// What is missing, and what has no meaning.
    fn what_is_amiss(&self) -> Vec<String> {
        let of_in = [
            ("from", self.from.is_some()),
            ("group", self.group.is_some()),
            ("subject", self.subject.is_some()),
            ("claimAfter", self.claim_after.is_some()),
            ("delete", self.delete.is_some()),
        ];
        let of_out = [
            ("to", self.to.is_some()),
            ("subjects", self.subjects.is_some()),
            ("retention", self.retention != RetentionFields::default()),
        ];
        let engine = (self.engine.is_none(), "engine, the name of one of engines,");
        let (strange, missing): (&[_], _) = match self.direction {
            None => (&[], (true, "direction, \"out\" or \"in\",")),
            Some(Direction::Out) => {
                let missing = (self.subjects.is_none(), "subjects, what goes out,");
                (&of_in, missing)
            }
            Some(Direction::In) => {
                let missing = (
                    self.from.is_none(),
                    "from, where the events come from there,",
                );
                (&of_out, missing)
            }
        };
        let missing = [engine, missing].into_iter();
        let missing = missing.filter(|(is_missing, _)| *is_missing);
        let missing = missing.map(|(_, what)| format!("{what} is missing"));
        let strange = strange.iter().filter(|(_, is_given)| *is_given);
        let strange = strange.map(|(name, _)| format!("{name} has no meaning for this direction"));
        missing.chain(strange).collect()
    }

    /// Why it can't be a bridge of an engine of this kind.
    fn why_not_with(&self, kind: EngineKind) -> Option<String> {
        let to = self.to.as_deref();
        if self.layout() == Layout::DotMac && kind != EngineKind::Redis {
            return Some(format!("layout: dotmac is for redis, not for {kind}"));
        }
        match (self.direction(), kind, to) {
            (_, EngineKind::Etcd, _) => {
                Some("etcd keeps leases (lease.source), and takes and gives no events".into())
            }
            (Direction::In, EngineKind::Hub, _) => Some(
                "another event manager's events come by a bridge out of its own, or by mesh.peers".into(),
            ),
            (Direction::In, EngineKind::RabbitMq, _) if self.group.is_some() => Some(
                "group has no meaning for rabbitmq: all who take from a queue share what is in it".into(),
            ),
            (Direction::In, EngineKind::Nats | EngineKind::RabbitMq, _)
                if self.claim_after.is_some() || self.delete.is_some() =>
            {
                Some(format!("claimAfter and delete are for redis: {kind} has its own ways for that"))
            }
            (Direction::In, EngineKind::Redis, _) if self.from().len() > KEY_BYTES_MAX => {
                Some(format!("from: the key of a stream has at most {KEY_BYTES_MAX} bytes, as events' ids are made of it"))
            }
            (Direction::In, ..) => {
                let from = self.from.as_deref().unwrap_or_default();
                let names = [from, self.group().unwrap_or_default()];
                let wanted = "from and group are names of at most 255 bytes without control characters";
                (!names.into_iter().all(is_name)).then(|| wanted.into())
            }
            (Direction::Out, EngineKind::Hub, Some(_)) => {
                Some("to has no meaning for another event manager: subjects stay as they are".into())
            }
            (Direction::Out, EngineKind::Hub, None) => None,
            (Direction::Out, _, None) => {
                let place = kind.place().unwrap_or_default();
                Some(format!("to is missing: {place}"))
            }
            (Direction::Out, EngineKind::Nats, Some(to)) => (!is_subject_prefix(to)).then(|| {
                "to: the beginning of subjects is wanted, words of letters, digits, - and _ with a dot behind each, such as \"pos.\", so that nobody reaches other subjects by an event's".into()
            }),
            (Direction::Out, _, Some(to)) => (!is_name(to)).then(|| {
                let place = kind.place().unwrap_or_default();
                format!("to: {place} has at most 255 bytes, and no control characters")
            }),
        }
    }

    /// The name of its service: what goes out waits there, and what comes in and can't be published is dead
    /// there.
    pub fn service(name: &str) -> Option<ServiceName> {
        ServiceName::new(&format!("{SERVICE_PREFIX}{name}")).ok()
    }

    /// The name of its engine.
    pub fn engine(&self) -> &str {
        self.engine.as_deref().unwrap_or_default()
    }

    /// Which way events go.
    pub fn direction(&self) -> Direction {
        self.direction.unwrap_or(Direction::Out)
    }

    /// Where events go there: what stands before each subject, a stream's key, or an exchange.
    pub fn to(&self) -> &str {
        self.to.as_deref().unwrap_or_default()
    }

    /// Where events come from there: a stream, its key, or a queue.
    pub fn from(&self) -> &str {
        self.from.as_deref().unwrap_or_default()
    }

    /// What the daemons that share these events are called there; `None` is a daemon by itself.
    pub fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    /// After how long what a daemon has taken and not settled may be taken over by others.
    pub fn claim_after(&self) -> Duration {
        self.claim_after.unwrap_or(Duration::from_secs(60))
    }

    /// What events are like there.
    pub fn layout(&self) -> Layout {
        self.layout.unwrap_or_default()
    }

    /// Whether what has come in is deleted there.
    pub fn deletes(&self) -> bool {
        self.delete.unwrap_or(false)
    }

    /// What an event's subject is here that is `there` there.
    pub fn subject_here(&self, there: &[u8]) -> Vec<u8> {
        match self
            .subject
            .as_deref()
            .map(|of| of.split_once(PLACEHOLDER).ok_or(of))
        {
            None => there.to_vec(),
            Some(Err(always)) => always.into(),
            Some(Ok((before, behind))) => [before.as_bytes(), there, behind.as_bytes()].concat(),
        }
    }

    /// The most events that are under way.
    pub fn in_flight_max(&self) -> u32 {
        self.max_in_flight.unwrap_or(1000)
    }

    /// How long nothing may be confirmed while something is under way.
    pub fn stall_timeout(&self) -> Duration {
        self.stall_timeout.unwrap_or(Duration::from_secs(10))
    }

    /// Whether the daemon is ready only while it works.
    pub fn is_required(&self) -> bool {
        self.required.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests;
