//! What an entry of `security.roles` and of `security.clients` may say.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Offers;
use crate::config::chosen::{read_fields, show_fields};
use crate::config::keys::{Schema, Wrong};
use crate::config::meant::suggestion;
use crate::config::security::networks;
use crate::config::units::{Maybe, SIZE_MAX, Truth, Unit, Whole};
use event_manager_core::security::{
    NamePattern, Network, Quotas, RequestKinds, request_name, request_named, request_names,
};
use event_manager_wire::model::SubjectPattern;
use event_manager_zmtp::Limits;
use event_manager_zmtp::curve::{PublicKey, parse_key};

/// What a role says, and a client too. What is not said is not allowed.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct RoleFields {
    #[serde(with = "Maybe::<Patterns>")]
    pub(super) publish: Option<Vec<SubjectPattern>>,
    #[serde(with = "Maybe::<Patterns>")]
    pub(super) subscribe: Option<Vec<SubjectPattern>>,
    #[serde(with = "Maybe::<Names>")]
    pub(super) services: Option<Vec<NamePattern>>,
    #[serde(with = "Maybe::<Requests>")]
    pub(super) requests: Option<RequestKinds>,
    #[serde(with = "Maybe::<Truth>")]
    pub(super) hub: Option<bool>,
    quotas: QuotaFields,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct QuotaFields {
    #[serde(with = "Maybe::<Quota>")]
    connections: Option<u64>,
    #[serde(with = "Maybe::<Quota>")]
    events_per_second: Option<u64>,
    #[serde(with = "Maybe::<Quota>")]
    bytes_per_second: Option<u64>,
    #[serde(with = "Maybe::<Quota>")]
    stored_bytes: Option<u64>,
}

type Quota = Whole<u64, 1, SIZE_MAX>;

/// What is said of a client.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ClientFields {
    #[serde(with = "Maybe::<Keys>")]
    keys: Option<Vec<PublicKey>>,
    #[serde(with = "Maybe::<Digests>")]
    passwords: Option<Vec<[u8; 32]>>,
    #[serde(with = "Maybe::<Users>")]
    users: Option<Vec<u32>>,
    #[serde(with = "Maybe::<Role>")]
    pub(super) role: Option<String>,
    #[serde(with = "Maybe::<From>")]
    pub(super) from: Option<Vec<Network>>,
    #[serde(flatten)]
    pub(super) own: RoleFields,
}

static ROLE: LazyLock<Schema> = LazyLock::new(|| Schema::of(&RoleFields::default()));
static CLIENT: LazyLock<Schema> = LazyLock::new(|| Schema::of(&ClientFields::default()));

fn added<T: Clone>(all: Option<Vec<T>>, more: &Option<Vec<T>>) -> Option<Vec<T>> {
    match (all, more) {
        (None, None) => None,
        (all, more) => {
            let more = more.iter().flatten().cloned();
            Some(all.into_iter().flatten().chain(more).collect())
        }
    }
}

impl RoleFields {
    pub(super) fn read(base: &str, value: &Value, wrong: &mut Vec<Wrong>) -> Self {
        read_fields((&ROLE, &[]), base, value, wrong)
    }

    pub(super) fn show(&self) -> Value {
        show_fields(self)
    }

    /// Whether any right is named.
    pub(super) fn names_rights(&self) -> bool {
        let Self {
            publish,
            subscribe,
            services,
            requests,
            hub,
            quotas: _,
        } = self;
        let lists = [publish, subscribe].into_iter().any(Option::is_some);
        lists || services.is_some() || requests.is_some() || hub.is_some()
    }

    pub(super) fn quotas(&self) -> Quotas {
        Quotas {
            connections: self.quotas.connections,
            events_per_second: self.quotas.events_per_second,
            bytes_per_second: self.quotas.bytes_per_second,
            stored_bytes: self.quotas.stored_bytes,
        }
    }

    /// These rights and those; of quotas the client's own go before its role's.
    pub(super) fn and(self, own: &Self) -> Self {
        let quotas = own.quotas().or(self.quotas());
        Self {
            publish: added(self.publish, &own.publish),
            subscribe: added(self.subscribe, &own.subscribe),
            services: added(self.services, &own.services),
            requests: match (self.requests, &own.requests) {
                (Some(RequestKinds::Only(mut all)), Some(RequestKinds::Only(more))) => {
                    all.extend(more);
                    Some(RequestKinds::Only(all))
                }
                (Some(RequestKinds::All), _) | (_, Some(RequestKinds::All)) => {
                    Some(RequestKinds::All)
                }
                (said, None) => said,
                (_, said) => said.clone(),
            },
            hub: match (self.hub, own.hub) {
                (None, None) => None,
                (role, own) => Some(role == Some(true) || own == Some(true)),
            },
            quotas: QuotaFields {
                connections: quotas.connections,
                events_per_second: quotas.events_per_second,
                bytes_per_second: quotas.bytes_per_second,
                stored_bytes: quotas.stored_bytes,
            },
        }
    }

    /// What doesn't go with the limits.
    pub(super) fn check(&self, base: &str, limits: &Limits, wrong: &mut Vec<Wrong>) {
        let longest = limits.subject_bytes_max;
        for (field, patterns) in [("publish", &self.publish), ("subscribe", &self.subscribe)] {
            let mut all = patterns.iter().flatten();
            if let Some(long) = all.find(|pattern| pattern.to_string().len() > longest) {
                let why = format!("it is longer than limits.maxSubjectBytes {longest}");
                let path = format!("{base}.{field}");
                wrong.push(Wrong::value(&path, &json!(long.to_string()), &why));
            }
        }
    }
}

impl ClientFields {
    pub(super) fn read(base: &str, value: &Value, wrong: &mut Vec<Wrong>) -> Self {
        // A password that stands where its digest belongs is not repeated, nor a secret key with a slip.
        read_fields((&CLIENT, &["passwords", "keys"]), base, value, wrong)
    }

    pub(super) fn show(&self) -> Value {
        show_fields(self)
    }

    pub(super) fn keys(&self) -> &[PublicKey] {
        self.keys.as_deref().unwrap_or_default()
    }

    pub(super) fn passwords(&self) -> &[[u8; 32]] {
        self.passwords.as_deref().unwrap_or_default()
    }

    pub(super) fn users(&self) -> &[u32] {
        self.users.as_deref().unwrap_or_default()
    }

    /// What it says a client is known by, and nobody is asked for; a sentence each.
    pub(super) fn idle_credentials(&self, base: &str, offers: Offers) -> Vec<String> {
        let mut idle = vec![];
        // Without any mechanism for names, that is said for all together.
        if !self.keys().is_empty() && !offers.curve && offers.plain {
            idle.push(format!(
                "{base}.keys have no effect: add \"curve\" to security.mechanisms, or leave them out"
            ));
        }
        if !self.passwords().is_empty() && !offers.plain {
            idle.push(format!(
                "{base}.passwords have no effect: add \"plain\" to security.mechanisms, or leave them out"
            ));
        }
        if !self.users().is_empty() && !offers.ipc {
            idle.push(format!(
                "{base}.users have no effect: the daemon has no address ipc://, where users are known; add one to requestAddress, or leave them out"
            ));
        }
        if self.keys().iter().any(|key| key.as_bytes() == &[0; 32]) {
            idle.push(format!(
                "{base}.keys: a key of zeros is nobody's; put the client's public key there (event-manager keys new NAME)"
            ));
        }
        idle
    }

    /// Whether it says by what a client is known.
    pub(super) fn has_credentials(&self) -> bool {
        !(self.keys().is_empty() && self.passwords().is_empty() && self.users().is_empty())
    }
}

/// Texts: one, or a list.
fn texts<'a>(value: &'a Value, what: &str) -> Result<Vec<&'a str>, String> {
    let wanted = || format!("{what} is wanted");
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Array(all) => all
            .iter()
            .map(|text| text.as_str().ok_or_else(wanted))
            .collect(),
        _ => Err(wanted()),
    }
}

/// Subjects as in a subscription; none at all is allowed.
struct Patterns;

impl Unit for Patterns {
    type Of = Vec<SubjectPattern>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        let parse = |text: &str| {
            // How long they may be is known when all is read.
            SubjectPattern::parse(text, usize::MAX)
                .map_err(|error| format!("the subject {text:?} {error}"))
        };
        let all = texts(value, "a list of subjects")?;
        all.into_iter().map(parse).collect()
    }

    fn show(of: &Self::Of) -> Value {
        json!(of.iter().map(ToString::to_string).collect::<Vec<_>>())
    }
}

/// Names of services, which may end with a star.
struct Names;

impl Unit for Names {
    type Of = Vec<NamePattern>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        let parse = |text: &str| NamePattern::parse(text).map_err(|error| error.to_string());
        let all = texts(value, "a list of services' names")?;
        all.into_iter().map(parse).collect()
    }

    fn show(of: &Self::Of) -> Value {
        json!(of.iter().map(ToString::to_string).collect::<Vec<_>>())
    }
}

/// Names of requests, or `*` for all.
struct Requests;

impl Unit for Requests {
    type Of = RequestKinds;

    fn read(value: &Value) -> Result<RequestKinds, String> {
        let all = texts(value, "a list of requests")?;
        if all.contains(&"*") {
            return Ok(RequestKinds::All);
        }
        let find = |name: &str| {
            request_named(name).ok_or_else(|| {
                let known: Vec<_> = request_names().collect();
                match &*suggestion(name, known.iter().map(String::as_str)) {
                    "" => format!(
                        "{name:?} is no request: {} or * are wanted",
                        known.join(", ")
                    ),
                    hint => format!("{name:?} is no request{hint}"),
                }
            })
        };
        let tokens = all.into_iter().map(find).collect::<Result<_, _>>()?;
        Ok(RequestKinds::Only(tokens))
    }

    fn show(of: &RequestKinds) -> Value {
        match of {
            RequestKinds::All => json!(["*"]),
            RequestKinds::Usual => Value::Null,
            RequestKinds::Only(tokens) => tokens.iter().copied().map(request_name).collect(),
        }
    }
}

/// Public keys.
struct Keys;

impl Unit for Keys {
    type Of = Vec<PublicKey>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        let parse = |text: &str| {
            let key = parse_key(text.trim()).map(PublicKey::from_bytes);
            key.ok_or_else(|| {
                "each is to be a public key: 40 characters of Z85, 64 of hex or 44 of base64"
                    .to_owned()
            })
        };
        let all = texts(value, "a list of public keys")?;
        all.into_iter().map(parse).collect()
    }

    fn show(of: &Self::Of) -> Value {
        json!(of.iter().map(ToString::to_string).collect::<Vec<_>>())
    }
}

/// SHA-256 digests of passwords, in hex.
struct Digests;

impl Unit for Digests {
    type Of = Vec<[u8; 32]>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        // What stands there may be the password itself, and is not shown.
        let parse = |text: &str| {
            let is_hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            let digest = is_hex.then(|| parse_key(text)).flatten();
            digest.ok_or("64 hexadecimal digits are wanted, the SHA-256 digest of a password: printf %s PASSWORD | sha256sum")
        };
        let all = texts(value, "a list of SHA-256 digests")?;
        Ok(all.into_iter().map(parse).collect::<Result<_, _>>()?)
    }

    fn show(of: &Self::Of) -> Value {
        let hex = |digest: &[u8; 32]| {
            digest
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        json!(of.iter().map(hex).collect::<Vec<_>>())
    }
}

/// Numbers of users of this machine.
struct Users;

impl Unit for Users {
    type Of = Vec<u32>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        let wanted = || "a list of users' numbers is wanted (id -u NAME)".to_owned();
        let parse = |one: &Value| {
            one.as_u64()
                .and_then(|user| user.try_into().ok())
                .ok_or_else(wanted)
        };
        match value {
            Value::Array(all) => all.iter().map(parse).collect(),
            one => Ok(vec![parse(one)?]),
        }
    }

    fn show(of: &Self::Of) -> Value {
        json!(of)
    }
}

/// Networks.
struct From;

impl Unit for From {
    type Of = Vec<Network>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        networks(value)
    }

    fn show(of: &Self::Of) -> Value {
        json!(of.iter().map(ToString::to_string).collect::<Vec<_>>())
    }
}

/// A role's name.
struct Role;

impl Unit for Role {
    type Of = String;

    fn read(value: &Value) -> Result<String, String> {
        let name = value.as_str().ok_or("the name of a role is wanted")?;
        Ok(name.into())
    }

    fn show(of: &String) -> Value {
        json!(of)
    }
}
