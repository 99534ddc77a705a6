//! Who is who, and what the configuration grants each of them.

use std::collections::{BTreeMap, HashMap};
// An address, and no socket.
use core::net::IpAddr;
use std::sync::Arc;

use super::networks::Network;
use super::rights::Rights;

/// Who a peer is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// It has no key.
    #[default]
    Anonymous,
    /// It has a key of the daemon's: the daemon itself, or a publisher that it connected to.
    Own,
    /// It has a key with this name.
    Client(Arc<str>),
}

impl Identity {
    /// For reports.
    pub fn name(&self) -> &str {
        match self {
            Self::Anonymous => ANONYMOUS,
            Self::Own => OWN,
            Self::Client(name) => name,
        }
    }

    /// For what outlives the process.
    pub fn written(&self) -> String {
        match self {
            Self::Anonymous | Self::Own => self.name().to_owned(),
            Self::Client(name) => format!("{CLIENT}{name}"),
        }
    }

    /// Reads what was [written](Self::written).
    pub fn from_written(written: &str) -> Option<Self> {
        match (written, written.strip_prefix(CLIENT)) {
            (ANONYMOUS, _) => Some(Self::Anonymous),
            (OWN, _) => Some(Self::Own),
            (_, name) => Some(Self::Client(name?.into())),
        }
    }
}

/// What peers without a key are called in reports.
const ANONYMOUS: &str = "anonymous";
/// What stands before a client's name where it is written down.
const CLIENT: &str = "client:";
/// The daemon itself, which asks its own locator.
const OWN: &str = "event-manager";

/// What a client may have of everything; `None` is without a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Quotas {
    /// Connections at the same time.
    pub connections: Option<u64>,
    /// Events that it publishes, on all its connections together.
    pub events_per_second: Option<u64>,
    /// The bytes of these.
    pub bytes_per_second: Option<u64>,
    /// Bytes on disk that its services keep, dead letters and what is on its way there included.
    pub stored_bytes: Option<u64>,
}

impl Quotas {
    /// These, and the others where these say nothing.
    pub fn or(self, other: Self) -> Self {
        Self {
            connections: self.connections.or(other.connections),
            events_per_second: self.events_per_second.or(other.events_per_second),
            bytes_per_second: self.bytes_per_second.or(other.bytes_per_second),
            stored_bytes: self.stored_bytes.or(other.stored_bytes),
        }
    }
}

/// What one client is granted.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// What it may do.
    pub rights: Rights,
    /// How much of it.
    pub quotas: Quotas,
    /// From where it may connect, if that is said of this client.
    pub from: Option<Vec<Network>>,
    /// The object of the configuration that grants this, `security.clients.NAME`; where more can be
    /// granted if nothing is said of this client yet.
    pub said_in: String,
}

impl Grant {
    /// Everything, without limits.
    pub fn everything(said_in: &str) -> Self {
        Self {
            rights: Rights::ALL,
            quotas: Quotas::default(),
            from: None,
            said_in: said_in.into(),
        }
    }

    /// Whether a client may connect from there.
    pub fn admits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let from = self.from.as_ref();
        from.is_none_or(|all| all.iter().any(|network| network.contains(address)))
    }
}

/// What everybody is granted.
#[derive(Debug, Clone)]
pub struct Access {
    own: Arc<Grant>,
    anonymous: Arc<Grant>,
    /// Of clients that are not named.
    default: Arc<Grant>,
    clients: HashMap<Arc<str>, Arc<Grant>>,
    /// Subjects above this are known by their beginning only.
    subject_bytes_max: usize,
}

impl Default for Access {
    fn default() -> Self {
        let everything = |said_in| Grant::everything(said_in);
        let (anonymous, default) = ("security.anonymous", "security.roles.default");
        Self::new(
            everything(anonymous),
            everything(default),
            BTreeMap::new(),
            usize::MAX,
        )
    }
}

impl Access {
    /// What peers without a key are granted, clients that are not named, and those that are.
    pub fn new(
        anonymous: Grant,
        default: Grant,
        clients: BTreeMap<String, Grant>,
        subject_bytes_max: usize,
    ) -> Self {
        let clients = clients.into_iter();
        Self {
            own: Arc::new(Grant::everything("security")),
            anonymous: Arc::new(anonymous),
            default: Arc::new(default),
            clients: clients
                .map(|(name, grant)| (name.into(), Arc::new(grant)))
                .collect(),
            subject_bytes_max,
        }
    }

    /// What somebody is granted.
    pub fn of(&self, identity: &Identity) -> &Arc<Grant> {
        match identity {
            Identity::Anonymous => &self.anonymous,
            Identity::Own => &self.own,
            Identity::Client(name) => self.clients.get(name).unwrap_or(&self.default),
        }
    }

    /// Whether anybody's services may keep only so much.
    pub fn limits_storage(&self) -> bool {
        let named = [&self.anonymous, &self.default].into_iter();
        let mut all = named.chain(self.clients.values());
        all.any(|grant| grant.quotas.stored_bytes.is_some())
    }

    /// Above how many bytes subjects are known by their beginning only.
    pub fn subject_bytes_max(&self) -> usize {
        self.subject_bytes_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_named_has_what_all_others_have() {
        let grant = |said_in: &str, connections| Grant {
            quotas: Quotas {
                connections,
                ..Quotas::default()
            },
            ..Grant::everything(said_in)
        };
        let named = [(
            "billing".to_owned(),
            grant("security.clients.billing", Some(1)),
        )]
        .into();
        let access = Access::new(
            grant("anonymous", Some(2)),
            grant("default", Some(3)),
            named,
            9,
        );
        let of = |identity| access.of(&identity).quotas.connections;
        assert_eq!(of(Identity::Client("billing".into())), Some(1));
        assert_eq!(of(Identity::Anonymous), Some(2));
        assert_eq!(of(Identity::Client("shipping".into())), Some(3));
        // Not even one that is called like these.
        assert_eq!(of(Identity::Client("anonymous".into())), Some(3));
        assert_eq!(of(Identity::Client("event-manager".into())), Some(3));
        assert_eq!(of(Identity::Own), None);
    }

    #[test]
    fn what_is_written_of_somebody_is_read_as_the_same() {
        for who in [
            Identity::Anonymous,
            Identity::Own,
            Identity::Client("billing".into()),
            Identity::Client("anonymous".into()),
            Identity::Client("client:".into()),
        ] {
            assert_eq!(Identity::from_written(&who.written()), Some(who));
        }
        assert_eq!(Identity::from_written("bridge:x"), None);
    }

    #[test]
    fn a_client_may_connect_from_its_networks() {
        let mut grant = Grant::everything("");
        let address = |text: &str| text.parse().expect("an address");
        assert!(grant.admits(address("10.2.0.1")));
        grant.from = Some(vec!["10.1.0.0/16".parse().expect("a network")]);
        assert!(grant.admits(address("10.1.2.3")) && grant.admits(address("::ffff:10.1.2.3")));
        assert!(!grant.admits(address("10.2.0.1")) && !grant.admits(address("127.0.0.1")));
    }
}
