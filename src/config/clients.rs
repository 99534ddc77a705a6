//! What clients may do: `security.roles`, `security.clients` and `security.anonymous`.

mod fields;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::chosen::{hidden, joined, object_of, read_members};
use super::keys::Wrong;
use super::meant::suggestion;
use super::units::Unit;
use event_manager_core::security::{Access, Grant, Identity, RequestKinds, Rights};
use event_manager_zmtp::Limits;
use event_manager_zmtp::curve::PublicKey;
use fields::{ClientFields, RoleFields};

/// The keys of what is here.
pub(super) const SECTIONS: [&str; 3] = [ROLES, CLIENTS, ANONYMOUS];
const ROLES: &str = "security.roles";
const CLIENTS: &str = "security.clients";
const ANONYMOUS: &str = "security.anonymous";

/// The role of whoever has no other.
const DEFAULT_ROLE: &str = "default";

/// Rights that several clients have.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Roles(BTreeMap<String, RoleFields>);

/// Clients by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Clients(BTreeMap<String, ClientFields>);

/// What peers without a key may do.
#[derive(Debug, Clone, PartialEq)]
pub struct Anonymous(ClientFields);

/// Unit of all roles: an object, or the text of one.
pub(super) struct AllRoles;
/// Unit of all clients.
pub(super) struct AllClients;
/// Unit of what peers without a key may do; `null` is everything.
pub(super) struct SomeAnonymous;

impl Unit for AllRoles {
    type Of = Roles;

    fn read(value: &Value) -> Result<Roles, String> {
        joined(Roles::read_all(value))
    }

    fn show(of: &Roles) -> Value {
        let shown = |(name, fields): (&String, &RoleFields)| (name.clone(), fields.show());
        of.0.iter().map(shown).collect()
    }
}

impl Unit for AllClients {
    type Of = Clients;

    fn read(value: &Value) -> Result<Clients, String> {
        joined(Clients::read_all(value))
    }

    fn show(of: &Clients) -> Value {
        let shown = |(name, fields): (&String, &ClientFields)| (name.clone(), fields.show());
        of.0.iter().map(shown).collect()
    }
}

impl Unit for SomeAnonymous {
    type Of = Option<Anonymous>;

    fn read(value: &Value) -> Result<Option<Anonymous>, String> {
        joined(read_anonymous(value))
    }

    fn show(of: &Option<Anonymous>) -> Value {
        of.as_ref().map_or(Value::Null, |of| of.0.show())
    }
}

/// What is wrong with a value of this key by itself, if the key is one of these.
pub(super) fn wrong_in(key: &str, value: &Value) -> Option<Vec<Wrong>> {
    let read = match key {
        ROLES => Roles::read_all(value).map(drop),
        CLIENTS => Clients::read_all(value).map(drop),
        ANONYMOUS => read_anonymous(value).map(drop),
        _ => return None,
    };
    Some(read.err().unwrap_or_default())
}

impl Roles {
    fn read_all(value: &Value) -> Result<Self, Vec<Wrong>> {
        read_members(ROLES, value, RoleFields::read).map(Self)
    }
}

impl Clients {
    fn read_all(value: &Value) -> Result<Self, Vec<Wrong>> {
        let clients = read_members(CLIENTS, value, ClientFields::read)?;
        let taken = |name: &str| match name {
            "anonymous" => Some("peers without a key are security.anonymous"),
            "event-manager" => Some("it is the name of the daemon itself"),
            _ => None,
        };
        let wrong = clients.keys().filter_map(|name| {
            let why = taken(name)?;
            Some(Wrong::value(&format!("{CLIENTS}.{name}"), &hidden(), why))
        });
        match wrong.collect::<Vec<_>>() {
            wrong if wrong.is_empty() => Ok(Self(clients)),
            wrong => Err(wrong),
        }
    }

    /// Whether something is said of this client.
    pub(crate) fn names(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The keys that stand in the configuration itself, with their clients' names.
    pub fn keys(&self) -> impl Iterator<Item = (&str, PublicKey)> {
        self.0
            .iter()
            .flat_map(|(name, fields)| fields.keys().iter().map(move |key| (&**name, *key)))
    }

    /// The SHA-256 digests of their passwords, with their names.
    pub fn passwords(&self) -> impl Iterator<Item = (&str, [u8; 32])> {
        let all = self.0.iter();
        all.flat_map(|(name, said)| {
            said.passwords()
                .iter()
                .map(move |digest| (&**name, *digest))
        })
    }

    /// The users as which they run on this machine, with their names.
    pub fn users(&self) -> impl Iterator<Item = (&str, u32)> {
        let all = self.0.iter();
        all.flat_map(|(name, said)| said.users().iter().map(move |user| (&**name, *user)))
    }

    /// The names of those of whom no key, password or user is said here.
    pub fn without_credentials(&self) -> impl Iterator<Item = &str> {
        let all = self.0.iter();
        all.filter(|(_, said)| !said.has_credentials())
            .map(|(name, _)| &**name)
    }

    /// Whether anything is said of any client.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn read_anonymous(value: &Value) -> Result<Option<Anonymous>, Vec<Wrong>> {
    if value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty()) {
        return Ok(None);
    }
    let object = Value::Object(object_of(ANONYMOUS, value)?);
    let mut wrong = vec![];
    let fields = ClientFields::read(ANONYMOUS, &object, &mut wrong);
    for field in ["keys", "passwords", "users"] {
        if object.get(field).is_some_and(|value| !value.is_null()) {
            let why = "what a client is known by belongs to security.clients";
            wrong.push(Wrong::value(
                &format!("{ANONYMOUS}.{field}"),
                &json!("…"),
                why,
            ));
        }
    }
    match wrong.is_empty() {
        true => Ok(Some(Anonymous(fields))),
        false => Err(wrong),
    }
}

/// By what a peer can be known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offers {
    pub(super) null: bool,
    pub(super) plain: bool,
    pub(super) curve: bool,
    /// Whether the daemon has an address over which the system tells a peer's user.
    pub(super) ipc: bool,
}

/// What is said of roles, clients and peers without a key, together.
#[derive(Clone, Copy)]
pub(super) struct Said<'a> {
    pub(super) roles: &'a Roles,
    pub(super) clients: &'a Clients,
    pub(super) anonymous: Option<&'a Anonymous>,
}

impl Said<'_> {
    /// What everybody is granted.
    pub(super) fn access(self, limits: &Limits) -> Access {
        let default_in = format!("{ROLES}.{DEFAULT_ROLE}");
        let default = match self.roles.0.get(DEFAULT_ROLE) {
            Some(role) => role.grant(&default_in),
            None => Grant::everything(&default_in),
        };
        let clients = self.clients.0.iter();
        let clients = clients.map(|(name, fields)| {
            let said_in = format!("{CLIENTS}.{name}");
            (name.clone(), self.grant(fields, &said_in, &default))
        });
        let clients = clients.collect();
        let nothing = Grant {
            rights: RoleFields::default().grant("").rights,
            ..Grant::everything(ANONYMOUS)
        };
        let anonymous = match self.anonymous {
            Some(anonymous) => self.grant(&anonymous.0, ANONYMOUS, &nothing),
            None => Grant::everything(ANONYMOUS),
        };
        Access::new(anonymous, default, clients, limits.subject_bytes_max)
    }

    /// What somebody is granted of whom this is said: its role's rights and its own, or the `default` if
    /// no right is named at all.
    fn grant(self, fields: &ClientFields, said_in: &str, default: &Grant) -> Grant {
        let role = fields.role.as_ref().and_then(|role| self.roles.0.get(role));
        let own = &fields.own;
        let (rights, quotas) = match role {
            Some(role) => {
                let both = role.clone().and(own).grant(said_in);
                (both.rights, both.quotas)
            }
            None if fields.role.is_none() && !own.names_rights() => {
                (default.rights.clone(), own.quotas().or(default.quotas))
            }
            None => {
                let own = own.grant(said_in);
                (own.rights, own.quotas)
            }
        };
        Grant {
            rights,
            quotas,
            from: fields.from.clone(),
            said_in: said_in.into(),
        }
    }

    /// The lists of this name that grant something to a client, each with what its object grants.
    pub(super) fn sources(self, identity: &Identity, list: &str) -> Vec<(String, Grant)> {
        let (base, fields) = match identity {
            Identity::Own => return vec![],
            Identity::Anonymous => (ANONYMOUS.to_owned(), self.anonymous.map(|all| &all.0)),
            Identity::Client(name) => (format!("{CLIENTS}.{name}"), self.clients.0.get(&**name)),
        };
        let role = fields.and_then(|fields| fields.role.as_deref());
        let own = fields.filter(|fields| fields.own.names_rights());
        let is_anonymous = *identity == Identity::Anonymous;
        let default = (role.is_none() && own.is_none() && !is_anonymous).then_some(DEFAULT_ROLE);
        let own = own.map(|fields| (format!("{base}.{list}"), fields.own.grant(&base)));
        let role = role.or(default).and_then(|role| {
            let found = self.roles.0.get(role)?;
            Some((format!("{ROLES}.{role}.{list}"), found.grant("")))
        });
        own.into_iter().chain(role).collect()
    }

    /// What doesn't go together, or not with the limits.
    pub(super) fn check(self, limits: &Limits) -> Vec<Wrong> {
        let mut wrong = vec![];
        let clients = self.clients.0.iter();
        let clients = clients.map(|(name, fields)| (format!("{CLIENTS}.{name}"), fields));
        let anonymous = self.anonymous.iter().map(|all| (ANONYMOUS.into(), &all.0));
        for (base, fields) in clients.chain(anonymous) {
            if let Some(role) = &fields.role
                && !self.roles.0.contains_key(role)
            {
                let hint = suggestion(role, self.roles.0.keys().map(String::as_str));
                let why = format!("{ROLES} has no role of this name{hint}");
                wrong.push(Wrong::value(&format!("{base}.role"), &json!(role), &why));
            }
            fields.own.check(&base, limits, &mut wrong);
        }
        for (name, role) in &self.roles.0 {
            role.check(&format!("{ROLES}.{name}"), limits, &mut wrong);
        }
        let mut owners = BTreeMap::new();
        for (name, key) in self.clients.keys() {
            if let Some(other) = owners.insert(key.to_string(), name)
                && other != name
            {
                let path = format!("{CLIENTS}.{name}.keys");
                let why = format!("{other:?} has the same key");
                wrong.push(Wrong::value(&path, &json!(key.to_string()), &why));
            }
        }
        let mut owners = BTreeMap::new();
        for (name, user) in self.clients.users() {
            if let Some(other) = owners.insert(user, name)
                && other != name
            {
                let path = format!("{CLIENTS}.{name}.users");
                let why = format!("{other:?} has the same user");
                wrong.push(Wrong::value(&path, &json!(user), &why));
            }
        }
        wrong
    }

    /// What may be meant otherwise, or has no effect; a sentence each.
    pub(super) fn doubts(self, offers: Offers) -> Vec<String> {
        let names_rights = !self.roles.0.is_empty() || !self.clients.0.is_empty();
        let mut doubts = vec![];
        let has_users = self.clients.users().next().is_some();
        let offers_names = offers.curve || offers.plain || has_users;
        if names_rights && !offers_names {
            doubts.push(format!(
                "{CLIENTS} and {ROLES} are for peers with keys, which security.mechanisms doesn't admit: add \"curve\""
            ));
        }
        if names_rights && offers_names && offers.null && self.anonymous.is_none() {
            doubts.push(format!(
                "security.mechanisms has \"null\", and {ANONYMOUS} is not set: peers without a key may do everything"
            ));
        }
        if self.anonymous.is_some() && !offers.null {
            doubts.push(format!(
                "{ANONYMOUS} has no effect: add \"null\" to security.mechanisms, or leave it out"
            ));
        }
        doubts.extend(self.idle_roles());
        for (name, said) in &self.clients.0 {
            doubts.extend(said.idle_credentials(&format!("{CLIENTS}.{name}"), offers));
        }
        doubts
    }

    /// Roles that nobody has. Whoever has no other has the `default`.
    fn idle_roles(self) -> impl Iterator<Item = String> {
        let clients = self.clients.0.values();
        let all = clients.chain(self.anonymous.map(|all| &all.0));
        let given: BTreeSet<&str> = all.filter_map(|said| said.role.as_deref()).collect();
        let roles = self.roles.0.keys();
        let idle = roles.filter(move |role| **role != DEFAULT_ROLE && !given.contains(&***role));
        idle.map(|role| {
            format!(
                "{ROLES}.{role} has no effect: nobody has this role; name it in {CLIENTS}.NAME.role, or leave it out"
            )
        })
    }
}

impl RoleFields {
    /// What a role grants.
    fn grant(&self, said_in: &str) -> Grant {
        Grant {
            rights: Rights {
                publish: self.publish.iter().flatten().cloned().collect(),
                subscribe: self.subscribe.iter().flatten().cloned().collect(),
                services: self.services.iter().flatten().cloned().collect(),
                requests: self.requests.clone().unwrap_or(RequestKinds::Usual),
                hub: self.hub.unwrap_or(false),
            },
            quotas: self.quotas(),
            from: None,
            said_in: said_in.into(),
        }
    }
}

#[cfg(test)]
mod tests;
