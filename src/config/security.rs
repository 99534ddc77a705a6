//! Who may connect.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::units::{Truth, Unit, list, parsed};
use event_manager_core::security::{Network, is_local};
use event_manager_wire::model::Endpoint;

/// The keys of `security`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecurityConfig {
    /// Whether the administrator means that anybody who reaches the daemon may use it. Without
    /// [`from`](Self::from), peers are admitted from everywhere then.
    #[serde(with = "Truth")]
    pub open: bool,
    /// The networks from which peers may connect, if it says so.
    #[serde(with = "SomeNetworks")]
    pub from: Option<Vec<Network>>,
}

impl SecurityConfig {
    /// Whether a peer with this address may connect. Where nothing is said, it may if the Internet
    /// doesn't route the address.
    pub fn admits(&self, address: IpAddr) -> bool {
        match &self.from {
            Some(networks) => networks.iter().any(|network| network.contains(address)),
            None => self.open || is_local(address),
        }
    }

    /// Whether nobody has said who may connect, so that a listener that other machines reach is open to
    /// them by accident.
    pub fn is_unsaid(&self) -> bool {
        !self.open && self.from.is_none()
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

/// A list of networks; `null` or the empty text where there is none.
struct SomeNetworks;

impl Unit for SomeNetworks {
    type Of = Option<Vec<Network>>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        if value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty()) {
            return Ok(None);
        }
        let read = |text: &str| {
            let network = parsed(text);
            network.map_err(|why| format!("{text:?}: {why}"))
        };
        let all = list(value, "a list of networks")?;
        if all.is_empty() {
            return Err("at least one network is wanted: nobody could connect".into());
        }
        all.into_iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map(Some)
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
