//! Who may connect, by address and by key, and who has to leave when that changes.

use std::rc::Rc;

use super::rights::Wish;
use crate::ambient::{now, random_bytes};
use crate::reactor::hub::Hub;
use crate::reactor::state::effects::CallKeys;
use crate::reactor::state::peer::{Peer, Role, ip_of};
use event_manager_core::security::{Keyring, Refusal};
use event_manager_wire::model::ServiceName;
use event_manager_zmtp::curve::{CurveClient, CurveServer};
use event_manager_zmtp::{Mechanism, PlainServer};

impl Hub {
    /// The mechanisms of which a peer with this address may have one, the strictest last.
    ///
    /// # Errors
    /// With which mechanism a publisher is dialled.
    ///
    /// # Errors
    /// The daemon has no keys any more, or the publisher's is none.
    pub(super) fn mechanism_for(&self, dialled: usize) -> Result<Mechanism, String> {
        let Some(server) = self.upstream.dialled[dialled].server_key else {
            return Ok(Mechanism::Null);
        };
        let own = self.site.keyring.first_key();
        let own = own.ok_or("it wants keys, and security.secretKey has none")?;
        let client = CurveClient::new(own, server, &random_bytes());
        let client = client.map_err(|_| "its serverKey is no key: a point of low order")?;
        Ok(Mechanism::CurveClient(Box::new(client)))
    }

    /// With which keys this service is called, if it is by CURVE: that which is configured for it, else
    /// those of both sides with which it registered.
    pub(super) fn keys_for(&self, service: &ServiceName) -> Option<CallKeys> {
        let keyring = &self.site.keyring;
        let registered = || self.site.directory.as_ref()?.keys_of(service, now());
        let (server, known_as) = match self.config.services.server_key_of(service) {
            Some(None) => return None,
            Some(Some(key)) => (key, None),
            None => {
                let keys = registered()?;
                (keys.client, Some(keys.server))
            }
        };
        // The service was given one of several keys of ours, and expects that.
        let own = known_as.and_then(|key| keyring.pair_of(&key));
        let own = own.or_else(|| keyring.first_key())?;
        Some(CallKeys { own, server })
    }

    /// Why nobody with this address may connect.
    pub(super) fn offered(
        &self,
        address: &str,
        user: Option<u32>,
    ) -> Result<Vec<Mechanism>, String> {
        let (security, keyring) = (&self.config.security, &self.site.keyring);
        let refused = self.why_not_admitted(address);
        let null = keyring.accepts_null() && refused.is_none() || keyring.knows_user(user);
        let plain =
            keyring.accepts_plain() && refused.is_none() && self.plain_is_safe_from(address);
        let plain = plain.then(|| Mechanism::PlainServer(PlainServer::default()));
        let curve = keyring
            .server_keys()
            .filter(|_| refused.is_none() || security.from.is_none());
        let curve = curve.map(|keys| {
            let random = random_bytes();
            Mechanism::CurveServer(Box::new(CurveServer::new(keys, &random)))
        });
        let offered: Vec<_> = null
            .then_some(Mechanism::Null)
            .into_iter()
            .chain(plain)
            .chain(curve)
            .collect();
        match (offered.is_empty(), refused) {
            (true, Some(why)) => Err(why),
            _ => Ok(offered),
        }
    }

    /// Whether nobody else reads a password that comes from there, or that is said not to matter.
    fn plain_is_safe_from(&self, address: &str) -> bool {
        let is_far = ip_of(address).is_some_and(|ip| !ip.to_canonical().is_loopback());
        !is_far || self.config.security.plain_in_clear
    }

    /// What it takes to admit a peer that wanted this mechanism.
    pub(super) fn mend_of_mechanism(
        &self,
        wanted: &str,
        address: &str,
        user: Option<u32>,
    ) -> Option<String> {
        let (keyring, is_ours) = (&self.site.keyring, |word| {
            format!("add \"{word}\" to security.mechanisms")
        });
        Some(match wanted {
            "PLAIN" if !keyring.accepts_plain() => is_ours("plain"),
            "PLAIN" if !self.plain_is_safe_from(address) => {
                "passwords that come over a network can be read on the way; if that doesn't matter, set security.plainInClear".into()
            }
            "CURVE" if keyring.server_keys().is_none() => is_ours("curve"),
            "NULL" if !keyring.accepts_null() => match user {
                Some(user) => Refusal::UnknownUser(user).to_string(),
                None => format!("give it a key, or {}", is_ours("null")),
            },
            // It is offered, but not to who has this address.
            _ => self.why_not_admitted(address)?,
        })
    }

    /// Why nobody with this address may connect without a key, if so.
    fn why_not_admitted(&self, address: &str) -> Option<String> {
        let security = &self.config.security;
        let ip = ip_of(address).filter(|ip| !security.admits(*ip))?;
        Some(match &security.from {
            Some(_) => format!("{ip} is in none of the networks of security.from"),
            None => format!(
                "{ip} is an address of the Internet, and the configuration doesn't admit it: list its network in security.from, or set security.open"
            ),
        })
    }

    /// Why a connection must end that is there, if so: the reason, and a sentence.
    fn why_not_served(&self, peer: &Peer) -> Option<(&'static str, String)> {
        if self.upstream.is_dialled(peer.id) || peer.is_attached {
            return None;
        }
        if peer.zmtp.plain.is_some() && !self.plain_is_safe_from(&peer.address) {
            let why = "its password comes in the clear, over a network (security.plainInClear)";
            return Some(("mechanism", why.into()));
        }
        let has_key = peer.zmtp.keys.is_some();
        if let Some(why) = self.why_not_admitted(&peer.address)
            && (!has_key || self.config.security.from.is_some())
        {
            return Some(("address", why));
        }
        match self.site.keyring.identify(peer.presented()) {
            Err(refusal) => Some((refusal.reason(), refusal.to_string())),
            Ok(identity) => {
                let wish = match peer.role {
                    Role::Worker { service, .. } => Some(Wish::Work(service)),
                    Role::Subscriber { hub: Some(_), .. } => Some(Wish::BeHub),
                    _ => None,
                };
                self.why_not_granted(&identity, &peer.address, wish)
            }
        }
    }

    /// Ends connections that would not be accepted any more.
    pub(super) fn end_unadmitted(&mut self) {
        let refused = self.peers.iter().filter_map(|peer| {
            let (reason, why) = self.why_not_served(peer)?;
            Some((peer.id, Rc::clone(&peer.address), reason, why))
        });
        for (id, address, reason, why) in refused.collect::<Vec<_>>() {
            self.notes.refuse(reason, &address, &why);
            self.remove(id);
        }
    }

    /// Other keys are accepted from now on.
    pub(crate) fn accept_keys(&mut self, keyring: Keyring) {
        self.site.keyring = keyring.with_own(&self.site.own);
        self.judge_anew();
    }
}
