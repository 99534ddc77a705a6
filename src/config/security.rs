//! Who may connect.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::clients::{
    AllClients, AllRoles, Anonymous, Clients, Offers, Roles, Said, SomeAnonymous,
};
use super::keys::Wrong;
use super::units::{OptionalPath, Truth, Unit, Word, Words, list, parsed};
use event_manager_core::security::{Access, Grant, Identity, Network, is_local};
use event_manager_wire::model::Endpoint;
use event_manager_zmtp::Limits;

/// The keys of `security`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct SecurityConfig {
    /// Whether the administrator means that anybody who reaches the daemon may use it. Without
    /// [`from`](Self::from), peers are admitted from everywhere then.
    #[serde(with = "Truth")]
    pub open: bool,
    /// The networks from which peers may connect, if it says so.
    #[serde(with = "SomeNetworks")]
    pub from: Option<Vec<Network>>,
    /// The ZMTP mechanisms of which a peer may have one.
    #[serde(with = "Mechanisms")]
    pub mechanisms: Vec<SecurityMechanism>,
    /// The files of the daemon's own keys: clients may have been given any of them.
    #[serde(with = "Paths")]
    pub secret_key: Vec<PathBuf>,
    /// The directory of the clients' public keys, `NAME.key`.
    #[serde(with = "OptionalPath")]
    pub keys_dir: Option<PathBuf>,
    /// Whether passwords may come from other machines, although anybody on the way can read them.
    #[serde(with = "Truth")]
    pub plain_in_clear: bool,
    /// Who may be able to read the files of [`secret_key`](Self::secret_key).
    #[serde(with = "Word::<SecretFileMode>")]
    pub secret_file_mode: SecretFileMode,
    /// Rights that several clients have.
    #[serde(with = "AllRoles")]
    pub roles: Roles,
    /// What single clients may do, and more keys of theirs.
    #[serde(with = "AllClients")]
    pub clients: Clients,
    /// What peers without a key may do; `None` is everything.
    #[serde(with = "SomeAnonymous")]
    pub anonymous: Option<Anonymous>,
}

/// A security mechanism of ZMTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecurityMechanism {
    /// None: peers have no keys.
    Null,
    /// Peers have a name and a password, which anybody on their way can read.
    Plain,
    /// Both sides have keys, and everything is encrypted.
    Curve,
}

impl Words for SecurityMechanism {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("null", Self::Null),
        ("plain", Self::Plain),
        ("curve", Self::Curve),
    ];
}

/// Who may be able to read a secret file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SecretFileMode {
    /// Its owner, and if that is root, a group.
    #[default]
    Owner,
    /// That doesn't matter: something else protects it.
    Any,
}

impl Words for SecretFileMode {
    const WORDS: &'static [(&'static str, Self)] = &[("owner", Self::Owner), ("any", Self::Any)];
}

impl Default for SecurityConfig {
    fn default() -> Self {
        Self {
            open: false,
            from: None,
            mechanisms: vec![SecurityMechanism::Null],
            secret_key: vec![],
            keys_dir: None,
            plain_in_clear: false,
            secret_file_mode: SecretFileMode::default(),
            roles: Roles::default(),
            clients: Clients::default(),
            anonymous: None,
        }
    }
}

impl SecurityConfig {
    /// Whether a peer with this address may connect. Where nothing is said, it may if the Internet
    /// doesn't route the address. The daemon's own machine always may, or the daemon could not ask its
    /// own locator, nor could an administrator see what is wrong.
    pub fn admits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ]
        .contains(&address)
        {
            return true;
        }
        match &self.from {
            Some(networks) => networks.iter().any(|network| network.contains(address)),
            None => self.open || is_local(address),
        }
    }

    /// What everybody may do.
    pub fn access(&self, limits: &Limits) -> Access {
        self.said().access(limits)
    }

    /// Who a client of this name is; `anonymous` are peers without a key.
    pub(crate) fn identity_of(name: &str) -> Identity {
        match name {
            "anonymous" => Identity::Anonymous,
            name => Identity::Client(name.into()),
        }
    }

    /// The lists of this name, such as `publish`, that grant something to a client, each with what its
    /// object grants.
    pub(crate) fn sources_of(&self, identity: &Identity, list: &str) -> Vec<(String, Grant)> {
        self.said().sources(identity, list)
    }

    fn said(&self) -> Said<'_> {
        Said {
            roles: &self.roles,
            clients: &self.clients,
            anonymous: self.anonymous.as_ref(),
        }
    }

    /// What doesn't go together in what clients may do, or not with the limits.
    pub(super) fn check(&self, limits: &Limits) -> Vec<Wrong> {
        self.said().check(limits)
    }

    /// What may be meant otherwise in it, or has no effect; a sentence each. `has_ipc`: the daemon has an
    /// address `ipc://`.
    pub(super) fn doubts(&self, has_ipc: bool) -> Vec<String> {
        let mut doubts = self.said().doubts(Offers {
            null: self.offers_null(),
            plain: self.offers_plain(),
            curve: self.offers_curve(),
            ipc: has_ipc,
        });
        if self.keys_dir.is_some() && !self.offers_curve() {
            doubts.push(
                "security.keysDir has no effect: add \"curve\" to security.mechanisms, or leave it out".into(),
            );
        }
        if self.plain_in_clear && !self.offers_plain() {
            doubts.push(
                "security.plainInClear has no effect: add \"plain\" to security.mechanisms, or leave it out".into(),
            );
        }
        doubts
    }

    /// Whether peers may have a key.
    pub fn offers_curve(&self) -> bool {
        self.mechanisms.contains(&SecurityMechanism::Curve)
    }

    /// Whether peers may have a password.
    pub fn offers_plain(&self) -> bool {
        self.mechanisms.contains(&SecurityMechanism::Plain)
    }

    /// Whether peers may be without a key.
    pub fn offers_null(&self) -> bool {
        self.mechanisms.contains(&SecurityMechanism::Null)
    }

    /// Whether a secret file that others can read is refused.
    pub(crate) fn secret_file_mode_matters(&self) -> bool {
        self.secret_file_mode == SecretFileMode::Owner
    }

    /// Whether nobody has said who may connect, so that a listener that other machines reach is open to
    /// them by accident.
    pub fn is_unsaid(&self) -> bool {
        !self.open && self.from.is_none() && self.offers_null()
    }
}

/// Whether other machines can reach what is bound there. A host's name may stand for any address.
pub(crate) fn is_reached_by_others(bound: &Endpoint) -> bool {
    match bound {
        Endpoint::Ipc(_) => false,
        Endpoint::Tcp { host, .. } => {
            let host = host.trim_matches(['[', ']']);
            let is_loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
            host != "localhost" && !host.parse().is_ok_and(is_loopback)
        }
    }
}

/// Mechanisms: one, or a list.
struct Mechanisms;

impl Unit for Mechanisms {
    type Of = Vec<SecurityMechanism>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        let words = list(value, "\"null\", \"plain\", \"curve\" or several of them")?;
        let read = |word: &str| Word::<SecurityMechanism>::read(&json!(word.to_ascii_lowercase()));
        let all: Vec<_> = words.into_iter().map(read).collect::<Result<_, _>>()?;
        match all.is_empty() {
            true => Err("at least one mechanism is wanted: nobody could connect".into()),
            false => Ok(all),
        }
    }

    fn show(of: &Self::Of) -> Value {
        match &of[..] {
            [one] => Word::<SecurityMechanism>::show(one),
            all => all.iter().map(Word::<SecurityMechanism>::show).collect(),
        }
    }
}

/// Paths: one, or a list.
struct Paths;

impl Unit for Paths {
    type Of = Vec<PathBuf>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        match value {
            Value::Null => Ok(vec![]),
            _ => Ok(list(value, "a path or a list of paths")?
                .into_iter()
                .map(Into::into)
                .collect()),
        }
    }

    fn show(of: &Self::Of) -> Value {
        json!(of)
    }
}

/// A list of networks.
pub(super) fn networks(value: &Value) -> Result<Vec<Network>, String> {
    let read = |text: &str| {
        let network = parsed(text);
        network.map_err(|why| format!("{text:?}: {why}"))
    };
    let all = list(value, "a list of networks")?;
    if all.is_empty() {
        return Err("at least one network is wanted: nobody could connect".into());
    }
    all.into_iter().map(read).collect()
}

/// A list of networks; `null` or the empty text where there is none.
struct SomeNetworks;

impl Unit for SomeNetworks {
    type Of = Option<Vec<Network>>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        if value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty()) {
            return Ok(None);
        }
        networks(value).map(Some)
    }

    fn show(of: &Self::Of) -> Value {
        let texts = |all: &Vec<Network>| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        json!(of.as_ref().map(texts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_machines_reach_is_known() {
        let reached = |address: &str| is_reached_by_others(&address.parse().unwrap());
        for address in [
            "tcp://*:1",
            "tcp://0.0.0.0:1",
            "tcp://10.0.0.1:1",
            "tcp://[::]:1",
        ] {
            assert!(reached(address), "{address}");
        }
        assert!(reached("tcp://hub.example:1"));
        for address in ["tcp://127.0.0.1:1", "tcp://127.9.9.9:1", "tcp://[::1]:1"] {
            assert!(!reached(address), "{address}");
        }
        assert!(!reached("tcp://localhost:1") && !reached("ipc:///run/em"));
    }
}
