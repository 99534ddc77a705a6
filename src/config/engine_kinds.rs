//! What kinds of engines there are, and how each is written in the configuration.

use std::fmt::{self, Display};

use serde_json::{Value, json};

use super::amqp::AmqpAddress;
use super::units::Unit;

/// What kind of broker an engine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// NATS with JetStream.
    Nats,
    /// Redis Streams; Valkey, too.
    Redis,
    /// RabbitMQ, by AMQP 0-9-1.
    RabbitMq,
    /// Another event manager.
    Hub,
    /// etcd, which keeps leases and no events.
    Etcd,
}

/// How a kind is written.
struct About {
    kind: EngineKind,
    word: &'static str,
    /// What its addresses begin with.
    schemes: &'static [&'static str],
    example: &'static str,
    /// Whether this binary has it.
    is_built: bool,
    /// What `to` and `from` are there, if they are wanted.
    place: Option<&'static str>,
    /// Whether services may have their queue there.
    serves: bool,
    /// What a lease that is kept there is worth; `None` if none is kept.
    lease: Option<&'static str>,
    /// What it means there that an event that went out is confirmed.
    confirmed: &'static str,
}

const ALL: [About; 5] = [
    About {
        kind: EngineKind::Nats,
        word: "nats",
        schemes: &["nats", "tls"],
        example: "nats://127.0.0.1:4222",
        is_built: cfg!(feature = "nats"),
        place: Some("what stands before each subject there, such as \"pos.\""),
        serves: true,
        lease: Some(
            "a lease is as safe as the bucket: one server may forget it with its disk, three (\"replicas\": 3 for the engine, before the first start) agree on it",
        ),
        confirmed: "the stream has it: in the memory and file of one server, synced every two minutes by default, or of a majority of its replicas",
    },
    About {
        kind: EngineKind::Redis,
        word: "redis",
        schemes: &["redis", "rediss"],
        example: "redis://127.0.0.1:6379/0",
        is_built: cfg!(feature = "redis"),
        place: Some("the key of the stream"),
        serves: true,
        lease: Some(
            "a lease is one server's promise: after a failover, or a restart without appendonly, it may be given while another has it; the state directory's epoch is all that is left then",
        ),
        confirmed: "the server has answered: with appendfsync always it is on its disk, with everysec up to two seconds of it may be lost, without appendonly minutes",
    },
    About {
        kind: EngineKind::RabbitMq,
        word: "rabbitmq",
        schemes: &["amqp", "amqps"],
        example: "amqp://127.0.0.1:5672/%2f",
        is_built: cfg!(feature = "rabbitmq"),
        place: Some("the name of the exchange"),
        serves: true,
        lease: None,
        confirmed: "each queue that gets it has it: a quorum queue on the disks of most of its servers, a durable classic one on that of its one server; one that is not durable loses all with its server",
    },
    About {
        kind: EngineKind::Hub,
        word: "hub",
        schemes: &["tcp"],
        example: "tcp://127.0.0.1:5101",
        is_built: true,
        place: None,
        serves: false,
        lease: None,
        confirmed: "the other event manager has it: for its durable services synced to its disk, for all others in its memory",
    },
    About {
        kind: EngineKind::Etcd,
        word: "etcd",
        schemes: &["http", "https"],
        example: "http://127.0.0.1:2379",
        is_built: cfg!(feature = "etcd"),
        place: None,
        serves: false,
        lease: Some(
            "a lease is as safe as the cluster: of three servers or more, most agree on it and have it on their disks; one server alone may lose it with its disk",
        ),
        confirmed: "nothing: it takes no events",
    },
];

impl EngineKind {
    fn about(self) -> &'static About {
        let found = ALL.iter().find(|about| about.kind == self);
        found.unwrap_or(&ALL[0])
    }

    /// An address of such an engine.
    pub(super) fn example(self) -> &'static str {
        self.about().example
    }

    /// What `to` says there; `None` if it says nothing.
    pub(super) fn place(self) -> Option<&'static str> {
        self.about().place
    }

    /// What it means there that an event that went out is confirmed: a part of a sentence.
    pub fn confirmed(self) -> &'static str {
        self.about().confirmed
    }

    /// Why this is no address of such an engine.
    pub(super) fn why_no_address(self, url: &str) -> Option<String> {
        if self == Self::RabbitMq {
            return AmqpAddress::parse(url).err();
        }
        let schemes = self.about().schemes;
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let is_one = schemes.contains(&scheme) && !rest.trim_matches('/').is_empty();
        if is_one && self == Self::Etcd {
            return why_no_root(url, rest);
        }
        if is_one && self == Self::Redis {
            return why_no_database(url, rest);
        }
        let wanted: Vec<_> = schemes
            .iter()
            .map(|scheme| format!("{scheme}://"))
            .collect();
        (!is_one).then(|| {
            let wanted = wanted.join(" or ");
            format!("{url:?}: it begins with {wanted}, and a host")
        })
    }

    /// Whether services may have their queue there.
    pub fn serves(self) -> bool {
        self.about().serves
    }

    /// Whether leases may be kept there.
    pub(super) fn keeps_leases(self) -> bool {
        self.about().lease.is_some()
    }

    /// What a lease that is kept there is worth: a sentence.
    pub fn lease(self) -> Option<&'static str> {
        self.about().lease
    }

    /// How to get a binary that has it.
    pub fn why_not_built(self) -> String {
        format!(
            "this binary has no bridges to {self}; build it with `cargo build --features {self}`"
        )
    }
}

/// Why there is more than a host and a port behind the scheme.
fn why_no_root(url: &str, rest: &str) -> Option<String> {
    let host = rest.strip_suffix('/').unwrap_or(rest);
    let is_host = !host.contains(['/', '?', '#']) && !host.contains(char::is_whitespace);
    (!is_host).then(|| {
        format!("{url:?}: behind the scheme stand a host and a port, such as http://127.0.0.1:2379")
    })
}

/// Why this is no address of a database of Redis, behind the scheme.
fn why_no_database(url: &str, rest: &str) -> Option<String> {
    let (host, database) = rest.split_once('/').unwrap_or((rest, ""));
    let is_number = database.bytes().all(|digit| digit.is_ascii_digit()) && database.len() < 10;
    let is_host = !host.contains(['?', '#']) && !host.contains(char::is_whitespace);
    (!is_number || !is_host).then(|| {
        format!("{url:?}: behind host and port stands nothing but a database's number, such as redis://127.0.0.1:6379/0")
    })
}

impl Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.about().word)
    }
}

/// A word, of which only that is taken that this binary has.
pub(super) struct Kind;

impl Unit for Kind {
    type Of = EngineKind;

    fn read(value: &Value) -> Result<EngineKind, String> {
        let found = ALL.iter().find(|about| value.as_str() == Some(about.word));
        match found {
            Some(about) if about.is_built => Ok(about.kind),
            Some(about) => Err(about.kind.why_not_built()),
            None => {
                let words: Vec<_> = ALL
                    .iter()
                    .map(|about| format!("{:?}", about.word))
                    .collect();
                Err(format!("{} is wanted", words.join(" or ")))
            }
        }
    }

    fn show(of: &EngineKind) -> Value {
        json!(of.to_string())
    }
}
