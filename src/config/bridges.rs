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
use super::services::{RetentionFields, Spool, Subjects};
use super::units::{Maybe, Seconds, Truth, Unit, Whole, Word, Words};
use event_manager_wire::model::{ServiceName, SubjectPattern};

/// The key of all that is here.
pub(super) const BRIDGES: &str = "bridges";
/// What the service of a bridge is called, before the bridge's name.
const SERVICE_PREFIX: &str = "bridge.";

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
            let why = bridge.why_incomplete().or_else(|| why_no_service(name));
            if wrong.len() == before
                && let Some(why) = why
            {
                wrong.push(Wrong::value(base, value, &why));
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
        let bridge = name.as_str().strip_prefix(SERVICE_PREFIX);
        bridge.is_some_and(|bridge| self.0.contains_key(bridge))
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
        _ => format!("is longer than {} bytes", 255 - longest),
    };
    Some(format!(
        "the name of this bridge {why}, so that its service, {SERVICE_PREFIX}NAME, can't be; choose another name"
    ))
}

impl Bridge {
    fn why_incomplete(&self) -> Option<String> {
        let missing = |what: &str| Some(format!("{what} is missing"));
        if self.engine.is_none() {
            return missing("engine, the name of one of engines,");
        }
        let given =
            |of: &[(&'static str, bool)]| of.iter().find(|(_, is)| *is).map(|(name, _)| *name);
        let (strange, missed) = match self.direction {
            None => return missing("direction, \"out\" or \"in\","),
            Some(Direction::Out) => (
                given(&[
                    ("from", self.from.is_some()),
                    ("group", self.group.is_some()),
                    ("subject", self.subject.is_some()),
                ]),
                self.subjects
                    .is_none()
                    .then_some("subjects, what goes out,"),
            ),
            Some(Direction::In) => (
                given(&[
                    ("to", self.to.is_some()),
                    ("subjects", self.subjects.is_some()),
                    ("retention", self.retention != RetentionFields::default()),
                ]),
                self.from
                    .is_none()
                    .then_some("from, where the events come from there,"),
            ),
        };
        if let Some(name) = strange {
            return Some(format!("{name} has no meaning for this direction"));
        }
        missed.and_then(missing)
    }

    /// Why it can't be a bridge of an engine of this kind.
    fn why_not_with(&self, kind: EngineKind) -> Option<String> {
        let to = self.to.as_deref();
        match (self.direction(), kind, to) {
            (Direction::In, EngineKind::Hub, _) => Some(
                "another event manager's events come by a bridge out of its own, or by mesh.peers".into(),
            ),
            (Direction::In, EngineKind::RabbitMq, _) if self.group.is_some() => Some(
                "group has no meaning for rabbitmq: all who take from a queue share what is in it".into(),
            ),
            (Direction::In, ..) => {
                let from = self.from.as_deref().unwrap_or_default();
                let names = [from, self.group()];
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

    /// What the daemons that share these events are called there.
    pub fn group(&self) -> &str {
        self.group.as_deref().unwrap_or("event-manager")
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
mod tests {
    use std::collections::BTreeMap;

    use crate::config::{Config, ConfigErrors, parse};

    fn read(json: &str) -> Result<Config, ConfigErrors> {
        parse("config.json", json, &BTreeMap::new(), &[]).map(|loaded| loaded.config)
    }

    #[cfg(not(feature = "nats"))]
    #[test]
    fn without_the_feature_the_type_says_how_to_get_it() {
        let refused = read(r#"{"engines": {"main": {"type": "nats", "servers": "nats://a:1"}}}"#);
        let said = refused.unwrap_err().to_string();
        assert!(said.contains("config.json:1: engines.main.type"), "{said}");
        assert!(said.contains("--features nats"), "{said}");
    }

    #[cfg(feature = "redis")]
    #[test]
    fn what_redis_has_none_of_is_refused() {
        for (fields, wanted) in [
            (r#""servers": "redis://a/x""#, "a database's number"),
            (
                r#""servers": "redis://a:1/0?protocol=resp2""#,
                "a database's number",
            ),
            (
                r#""servers": "rediss://a:1/0#insecure""#,
                "a database's number",
            ),
            (r#""servers": "nats://a:1""#, "redis:// or rediss://"),
            (
                r#""servers": ["redis://a:1", "redis://b:1"]"#,
                "redis has one",
            ),
            (
                r#""servers": "redis://a:1", "tokenFile": "t""#,
                "redis knows user and passwordFile",
            ),
            (
                r#""servers": "redis://a:1", "caFile": "ca.pem""#,
                "begins with rediss://",
            ),
        ] {
            let json = format!(r#"{{"engines": {{"main": {{"type": "redis", {fields}}}}}}}"#);
            let said = read(&json).unwrap_err().to_string();
            assert!(said.contains(wanted), "{json}: {said}");
        }
        for url in ["redis://a", "redis://a:1/", "rediss://[::1]:1/15"] {
            let json =
                format!(r#"{{"engines": {{"main": {{"type": "redis", "servers": {url:?}}}}}}}"#);
            assert!(read(&json).is_ok(), "{url}");
        }
    }

    #[cfg(feature = "rabbitmq")]
    #[test]
    fn what_is_wrong_about_rabbitmq_says_what_is_wanted() {
        let engine = |url: &str, more: &str| {
            format!(r#""engines": {{"mq": {{"type": "rabbitmq", "servers": "{url}"{more}}}}}"#)
        };
        let main = engine("amqp://mq/pos", "");
        for (json, wanted) in [
            (engine("amqp://mq/a/b", ""), "%2f"),
            (engine("nats://mq", ""), "amqp:// or amqps://"),
            (
                engine("amqp://mq", r#", "tokenFile": "t""#),
                "tokenFile has no meaning for an engine of type",
            ),
            (
                engine("amqp://mq", r#", "caFile": "c""#),
                "begins with amqps://",
            ),
            (
                format!(
                    r#"{main}, "bridges": {{"b": {{"engine": "mq", "direction": "in", "from": "q", "group": "g"}}}}"#
                ),
                "group has no meaning for rabbitmq",
            ),
            (
                format!(
                    r#"{main}, "bridges": {{"b": {{"engine": "mq", "direction": "out", "subjects": "a"}}}}"#
                ),
                "to is missing: the name of the exchange",
            ),
        ] {
            let said = read(&format!("{{{json}}}")).unwrap_err().to_string();
            assert!(said.contains(wanted), "{json}: {said}");
        }
    }

    #[cfg(feature = "nats")]
    mod with_nats {
        use std::time::Duration;

        use super::read;
        use crate::config::{Bridge, Login};
        use event_manager_core::broker::DeliveryMode;

        const ENGINE: &str = r#""engines": {"main": {"type": "nats", "servers": "nats://a:1"}}"#;

        #[test]
        fn a_bridge_out_brings_a_durable_service() {
            let bridge = r#""bridges": {"orders": {"engine": "main", "direction": "out", "subjects": ["Order"], "to": "pos.", "retention": {"maxAge": 60}}}"#;
            let config = read(&format!("{{{ENGINE}, {bridge}}}")).unwrap();
            let service = Bridge::service("orders").unwrap();
            let declared: Vec<_> = config.services.declared().collect();
            assert_eq!(declared.len(), 1);
            assert_eq!((declared[0].0, declared[0].1.len()), (&service, 1));
            let policy = config.policy_of(&service);
            assert_eq!(policy.delivery, DeliveryMode::Queue);
            assert_eq!(policy.retention.age_max, Some(Duration::from_secs(60)));
            // An engine that is away for days costs no event.
            assert_eq!(policy.backlog.retry.max_deliveries, 1_000_000);
            let engine = config.engines.get("main").unwrap();
            assert_eq!(
                (engine.servers(), engine.login()),
                (&["nats://a:1".to_owned()][..], Login::None)
            );
        }

        #[test]
        fn what_is_wrong_says_what_is_wanted() {
            let main = |more: &str| {
                format!(
                    r#""engines": {{"main": {{"type": "nats", "servers": "nats://a:1"{more}}}}}"#
                )
            };
            let bridge = |fields: &str| format!(r#"{ENGINE}, "bridges": {{"b": {{{fields}}}}}"#);
            let table = [
                (
                    r#""engines": {"main": {"type": "kafka", "servers": "a"}}"#.into(),
                    "\"nats\" or \"redis\" or \"rabbitmq\" or \"hub\" is wanted",
                ),
                (
                    r#""engines": {"main": {"servers": "nats://a:1"}}"#.into(),
                    "type is missing",
                ),
                (
                    r#""engines": {"main": {"type": "nats"}}"#.into(),
                    "servers are missing",
                ),
                (
                    r#""engines": {"main": {"type": "nats", "servers": []}}"#.into(),
                    "at least one URL",
                ),
                (
                    r#""engines": {"main": {"type": "nats", "servers": "http://a"}}"#.into(),
                    "nats:// or tls://",
                ),
                (r#""engines": {"main": 1}"#.into(), "an object is wanted"),
                (
                    main(r#", "user": "em""#),
                    "user and passwordFile belong together",
                ),
                (
                    main(r#", "tokenFile": "t", "credentialsFile": "c""#),
                    "not several",
                ),
                (main(r#", "replicas": 3"#), "unknown key"),
                (
                    bridge(r#""direction": "out", "subjects": ["a"]"#),
                    "engine, the name of one of engines, is missing",
                ),
                (
                    bridge(r#""engine": "main", "subjects": ["a"]"#),
                    "direction, \"out\" or \"in\", is missing",
                ),
                (
                    bridge(r#""engine": "main", "direction": "in", "subjects": ["a"]"#),
                    "subjects has no meaning for this direction",
                ),
                (
                    bridge(r#""engine": "main", "direction": "in""#),
                    "from, where the events come from there, is missing",
                ),
                (
                    bridge(r#""engine": "main", "direction": "in", "from": "A", "subject": "{x}""#),
                    "in which {subject} stands for",
                ),
                (
                    bridge(r#""engine": "main", "direction": "sideways", "from": "A""#),
                    "\"out\" or \"in\" is wanted",
                ),
                (
                    bridge(
                        r#""engine": "main", "direction": "out", "subjects": ["a"], "to": "a.", "group": "g""#,
                    ),
                    "group has no meaning for this direction",
                ),
                (
                    r#""engines": {"b": {"type": "hub", "servers": "nats://a:1"}}"#.into(),
                    "begins with tcp://",
                ),
                (
                    bridge(r#""engine": "main", "direction": "out""#),
                    "subjects, what goes out, is missing",
                ),
                (
                    bridge(r#""engine": "main", "direction": "out", "subjects": ["a"]"#),
                    "to is missing",
                ),
                (
                    bridge(
                        r#""engine": "main", "direction": "out", "subjects": ["a"], "to": "$JS.API.""#,
                    ),
                    "words of letters",
                ),
                (
                    bridge(
                        r#""engine": "mian", "direction": "out", "subjects": ["a"], "to": "a.""#,
                    ),
                    "did you mean \"main\"?",
                ),
                (
                    bridge(
                        r#""engine": "main", "direction": "out", "subjects": ["a"], "to": "a.", "maxInFlight": 0"#,
                    ),
                    "1 to 100000",
                ),
            ];
            for (json, wanted) in table {
                let said = read(&format!("{{{json}}}")).unwrap_err().to_string();
                assert!(said.contains(wanted), "{json}: {said}");
            }
        }

        #[test]
        fn every_wrong_server_is_named() {
            let json = r#"{"engines": {"main": {"type": "nats", "servers": ["nats://a:1", "http://b", "c", "x://d"]}}}"#;
            let said = read(json).unwrap_err().to_string();
            assert!(said.contains("\"c\""), "{said}");
            let json = json.replace("\"c\", ", "");
            let said = read(&json).unwrap_err().to_string();
            assert!(
                said.contains("http://b") && said.contains("x://d"),
                "{said}"
            );
            assert_eq!(said.lines().count(), 1, "{said}");
        }

        #[test]
        fn a_name_that_no_service_can_have_is_the_bridges_fault() {
            let long = "x".repeat(250);
            for (name, why) in [
                ("o.DLQ", "ends with .DLQ"),
                (&*long, "is longer than 244 bytes"),
            ] {
                let bridge = format!(
                    "\"bridges\": {{\n\"{name}\": {{\"engine\": \"main\", \"direction\": \"out\", \"subjects\": [\"a\"], \"to\": \"a.\"}}}}"
                );
                let said = read(&format!("{{{ENGINE}, {bridge}}}"))
                    .unwrap_err()
                    .to_string();
                assert_eq!(said.lines().count(), 1, "{said}");
                let begin = format!("config.json:2: bridges.{name}: ");
                assert!(said.starts_with(&begin), "{said}");
                let wanted = format!("the name of this bridge {why}");
                assert!(said.contains(&wanted), "{said}");
            }
        }

        #[test]
        fn a_password_in_a_url_is_not_repeated() {
            let json =
                r#"{"engines": {"main": {"type": "nats", "servers": "nats://em:s3cret@a:1"}}}"#;
            let said = read(json).unwrap_err().to_string();
            assert!(
                said.contains("passwordFile") && !said.contains("s3cret"),
                "{said}"
            );
        }
    }
}
