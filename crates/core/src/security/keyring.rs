//! Whose keys are accepted.

use std::collections::HashMap;
use std::sync::Arc;

use super::access::Identity;
use event_manager_zmtp::curve::{KeyPair, PublicKey};
use event_manager_zmtp::{PeerKeys, PlainCredentials};

/// The daemon's own keys, and those of its clients with their names.
#[derive(Debug, Clone)]
pub struct Keyring {
    /// Peers without a key are accepted.
    null: bool,
    /// None if CURVE is not offered.
    server: Arc<[KeyPair]>,
    clients: HashMap<PublicKey, Arc<str>>,
    /// Peers with a password are accepted.
    plain: bool,
    /// The SHA-256 digests of each client's passwords.
    passwords: HashMap<Arc<str>, Vec<[u8; 32]>>,
    /// Clients by the number of the user that they run as, on this machine.
    users: HashMap<u32, Arc<str>>,
}

impl Default for Keyring {
    fn default() -> Self {
        Self::new(true, vec![])
    }
}

/// What a peer shows of itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Presented<'a> {
    /// The keys of its connection, with CURVE.
    pub keys: Option<&'a PeerKeys>,
    /// Its name and password, with PLAIN.
    pub plain: Option<&'a PlainCredentials>,
    /// The number of the user that it runs as, over `ipc://`.
    pub user: Option<u32>,
}

/// What a peer showed of itself, kept for when it is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    pub keys: Option<PeerKeys>,
    pub plain: Option<PlainCredentials>,
    pub user: Option<u32>,
}

impl Shown {
    /// The same, as it was presented.
    pub fn presented(&self) -> Presented<'_> {
        Presented {
            keys: self.keys.as_ref(),
            plain: self.plain.as_ref(),
            user: self.user,
        }
    }
}

impl From<Presented<'_>> for Shown {
    fn from(presented: Presented<'_>) -> Self {
        Self {
            keys: presented.keys.copied(),
            plain: presented.plain.cloned(),
            user: presented.user,
        }
    }
}

/// Two names have the same key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} and {1:?} have the same public key {2}")]
pub struct SameKey(pub String, pub String, pub PublicKey);

impl Keyring {
    /// A daemon that has these keys, any of which clients may have been given; `null` accepts peers
    /// without a key, too.
    pub fn new(null: bool, server: Vec<KeyPair>) -> Self {
        Self {
            null,
            server: server.into(),
            clients: HashMap::new(),
            plain: false,
            passwords: HashMap::new(),
            users: HashMap::new(),
        }
    }

    /// Accepts passwords, too.
    #[must_use]
    pub fn with_plain(mut self, plain: bool) -> Self {
        self.plain = plain;
        self
    }

    /// The daemon's connections to itself have this pair as both sides: it needs no file, so a change of
    /// the files never shuts the daemon out. Where it needs no key, and nobody else has one, it is not
    /// offered.
    #[must_use]
    pub fn with_own(mut self, own: &KeyPair) -> Self {
        if !self.server.is_empty() || !self.null {
            self.server = self.server.iter().chain([own]).cloned().collect();
        }
        self
    }

    /// Accepts a client's key. A client may have several.
    ///
    /// # Errors
    /// [`SameKey`] if another client has it, who keeps it.
    pub fn add(&mut self, name: &str, key: PublicKey) -> Result<(), SameKey> {
        let holder = self.clients.entry(key).or_insert_with(|| name.into());
        match **holder == *name {
            true => Ok(()),
            false => Err(SameKey(holder.to_string(), name.into(), key)),
        }
    }

    /// The pair that the daemon has where it dials others.
    pub fn first_key(&self) -> Option<KeyPair> {
        self.server.first().cloned()
    }

    /// The pair of the daemon's with this public key.
    pub fn pair_of(&self, public: &PublicKey) -> Option<KeyPair> {
        self.server
            .iter()
            .find(|pair| pair.public() == public)
            .cloned()
    }

    /// Accepts a client's password, of which this is the SHA-256 digest. A client may have several.
    pub fn add_password(&mut self, name: &str, digest: [u8; 32]) {
        self.passwords.entry(name.into()).or_default().push(digest);
    }

    /// Takes peers over `ipc://` that run as this user for this client. The first client has it.
    pub fn add_user(&mut self, name: &str, user: u32) {
        self.users.entry(user).or_insert_with(|| name.into());
    }

    /// Whether a peer over `ipc://` that runs as this user needs nothing else.
    pub fn knows_user(&self, user: Option<u32>) -> bool {
        user.is_some_and(|user| self.users.contains_key(&user))
    }

    /// Whether peers with a password are accepted.
    pub fn accepts_plain(&self) -> bool {
        self.plain
    }

    /// Whether a peer may have a name at all.
    pub fn knows_names(&self) -> bool {
        !self.server.is_empty() || self.plain || !self.users.is_empty()
    }

    /// How many keys of clients are accepted.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Whether peers without a key are accepted.
    pub fn accepts_null(&self) -> bool {
        self.null
    }

    /// The daemon's keys; `None` if it has none.
    pub fn server_keys(&self) -> Option<Arc<[KeyPair]>> {
        (!self.server.is_empty()).then(|| Arc::clone(&self.server))
    }

    /// Who a peer is.
    ///
    /// # Errors
    /// Why it is not accepted, with what it takes to accept it.
    pub fn identify(&self, presented: Presented<'_>) -> Result<Identity, Refusal> {
        if let Some(plain) = presented.plain {
            return self.identify_by_password(plain);
        }
        let Some(PeerKeys { client, server }) = presented.keys else {
            let user = presented.user.and_then(|user| self.users.get(&user));
            return match (user, self.null) {
                (Some(name), _) => Ok(Identity::Client(Arc::clone(name))),
                (None, true) => Ok(Identity::Anonymous),
                (None, false) => Err(presented.user.map_or(Refusal::NoKey, Refusal::UnknownUser)),
            };
        };
        if !self.is_ours(server) {
            return Err(Refusal::OldServerKey);
        }
        self.identify_by_key(client)
    }

    /// Who somebody is that was here, whichever of the daemon's keys it was given; none if what it showed
    /// is revoked.
    pub fn remembers(&self, shown: &Shown) -> Option<Identity> {
        let identified = match &shown.keys {
            Some(keys) => self.identify_by_key(&keys.client),
            None => self.identify(shown.presented()),
        };
        identified.ok()
    }

    fn is_ours(&self, key: &PublicKey) -> bool {
        self.server.iter().any(|pair| pair.public() == key)
    }

    fn identify_by_key(&self, client: &PublicKey) -> Result<Identity, Refusal> {
        if self.is_ours(client) {
            return Ok(Identity::Own);
        }
        let known = self.clients.get(client);
        known
            .map(|name| Identity::Client(Arc::clone(name)))
            .ok_or(Refusal::UnknownKey(*client))
    }

    fn identify_by_password(&self, plain: &PlainCredentials) -> Result<Identity, Refusal> {
        if !self.plain {
            return Err(Refusal::NoKey);
        }
        let known = self.passwords.get_key_value(&*plain.name);
        // What is compared are digests: where they begin to differ tells nothing of the password.
        let known = known.filter(|(_, digests)| digests.contains(&plain.digest));
        known
            .map(|(name, _)| Identity::Client(Arc::clone(name)))
            .ok_or(Refusal::WrongPassword)
    }
}

/// Why a peer is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has no key.
    #[error("it has no key, and security.mechanisms does not have \"null\"")]
    NoKey,
    /// It has no key, and no client has its user.
    #[error(
        "it has no key, and runs as user {0}, who is no client's: list {0} in security.clients.NAME.users, give it a key, or add \"null\" to security.mechanisms"
    )]
    UnknownUser(u32),
    /// No client has its name and its password.
    #[error("its name and password are not those of a client in security.clients")]
    WrongPassword,
    /// Nobody has told the daemon of its key.
    #[error(
        "its key {0} is not known: put a file with the line public-key = \"{0}\" into security.keysDir, as NAME.key"
    )]
    UnknownKey(PublicKey),
    /// It was given a server key that the daemon has no longer.
    #[error("it was given a server key that is in no file of security.secretKey any more")]
    OldServerKey,
}

impl Refusal {
    /// A short word for counters.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoKey | Self::UnknownUser(_) => "mechanism",
            Self::WrongPassword => "password",
            Self::UnknownKey(_) => "unknown-key",
            Self::OldServerKey => "curve-server-key",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(byte: u8) -> KeyPair {
        KeyPair::from_secret([byte; 32])
    }

    fn by(keys: &PeerKeys) -> Presented<'_> {
        Presented {
            keys: Some(keys),
            ..Presented::default()
        }
    }

    fn keys(client: u8, server: u8) -> PeerKeys {
        PeerKeys {
            client: *pair(client).public(),
            server: *pair(server).public(),
        }
    }

    #[test]
    fn peers_are_identified_by_their_keys() {
        let mut keyring = Keyring::new(false, vec![pair(1), pair(2)]);
        keyring.add("billing", *pair(3).public()).unwrap();
        keyring.add("billing", *pair(4).public()).unwrap();
        for (client, server) in [(3, 1), (4, 2)] {
            let name = keyring.identify(by(&keys(client, server)));
            assert_eq!(name, Ok(Identity::Client("billing".into())));
        }
        let unknown = *pair(5).public();
        let refused = |keys: Option<PeerKeys>| {
            keyring
                .identify(Presented {
                    keys: keys.as_ref(),
                    ..Presented::default()
                })
                .unwrap_err()
        };
        assert_eq!(refused(Some(keys(5, 1))), Refusal::UnknownKey(unknown));
        assert_eq!(refused(Some(keys(3, 9))), Refusal::OldServerKey);
        assert_eq!(refused(None), Refusal::NoKey);
        assert!(
            refused(Some(keys(5, 1)))
                .to_string()
                .contains(&unknown.to_string())
        );
    }

    #[test]
    fn the_daemon_knows_itself() {
        let keyring = Keyring::new(false, vec![pair(1), pair(2)]);
        assert_eq!(keyring.identify(by(&keys(2, 1))), Ok(Identity::Own));
    }

    #[test]
    fn its_own_pair_needs_no_file() {
        let keyring = Keyring::new(false, vec![pair(1)]).with_own(&pair(7));
        assert_eq!(keyring.identify(by(&keys(7, 7))), Ok(Identity::Own));
        assert_eq!(keyring.server_keys().unwrap().len(), 2);
        let without = Keyring::new(true, vec![]).with_own(&pair(7));
        assert!(without.server_keys().is_none());
    }

    #[test]
    fn one_key_has_one_name() {
        let mut keyring = Keyring::new(true, vec![pair(1)]);
        keyring.add("a", *pair(3).public()).unwrap();
        keyring.add("a", *pair(3).public()).unwrap();
        let error = keyring.add("b", *pair(3).public()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("\"a\" and \"b\" have the same public key ")
        );
        let found = keyring.identify(by(&keys(3, 1)));
        assert_eq!(found, Ok(Identity::Client("a".into())));
    }

    #[test]
    fn without_keys_everybody_is_nameless() {
        let keyring = Keyring::default();
        assert_eq!(
            keyring.identify(Presented::default()),
            Ok(Identity::Anonymous)
        );
        assert!(keyring.accepts_null() && keyring.server_keys().is_none());
    }

    #[test]
    fn passwords_are_those_of_a_name() {
        let mut keyring = Keyring::new(false, vec![]).with_plain(true);
        keyring.add_password("till", [1; 32]);
        keyring.add_password("till", [2; 32]);
        keyring.add_password("kiosk", [3; 32]);
        let identify = |keyring: &Keyring, name: &str, digest| {
            let plain = PlainCredentials {
                name: name.into(),
                digest: [digest; 32],
            };
            keyring.identify(Presented {
                plain: Some(&plain),
                ..Presented::default()
            })
        };
        for digest in [1, 2] {
            let till = Ok(Identity::Client("till".into()));
            assert_eq!(identify(&keyring, "till", digest), till);
        }
        for (name, digest) in [("till", 3), ("kiosk", 1), ("nobody", 1), ("", 0)] {
            let refused = Err(Refusal::WrongPassword);
            assert_eq!(identify(&keyring, name, digest), refused, "{name}");
        }
        keyring = keyring.with_plain(false);
        assert_eq!(identify(&keyring, "till", 1), Err(Refusal::NoKey));
    }

    #[test]
    fn users_of_this_machine_need_nothing_else() {
        let mut keyring = Keyring::new(false, vec![pair(1)]);
        keyring.add_user("admin", 0);
        let as_user = |user| Presented {
            user,
            ..Presented::default()
        };
        let admin = Ok(Identity::Client("admin".into()));
        assert_eq!(keyring.identify(as_user(Some(0))), admin);
        let refused = keyring.identify(as_user(Some(1)));
        assert_eq!(refused, Err(Refusal::UnknownUser(1)));
        assert_eq!(keyring.identify(as_user(None)), Err(Refusal::NoKey));
        assert!(keyring.knows_user(Some(0)) && !keyring.knows_user(None));
    }
}
