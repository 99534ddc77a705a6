//! Clients, what they are connected with, and what was denied to them.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::reactor::state::clients::Clients;
use crate::reactor::state::peer::Peer;
use crate::reactor::state::peers::Peers;
use event_manager_core::broker::Broker;
use event_manager_core::queues::Queues;
use event_manager_core::security::Identity;
use event_manager_wire::api::ClientStatus;

/// Clients that are shown.
const CLIENTS_SHOWN: usize = 100;
/// Addresses that are shown of each.
const ADDRESSES_SHOWN: usize = 8;

fn mechanism_of(peer: &Peer) -> &'static str {
    match (&peer.zmtp.keys, &peer.zmtp.plain) {
        (Some(_), _) => "curve",
        (None, Some(_)) => "plain",
        (None, None) => "null",
    }
}

/// How many peers have which mechanism.
pub(super) fn mechanisms<'a>(peers: impl Iterator<Item = &'a Peer>) -> BTreeMap<String, u64> {
    let mut mechanisms = BTreeMap::new();
    for peer in peers {
        *mechanisms.entry(mechanism_of(peer).to_owned()).or_default() += 1;
    }
    mechanisms
}

/// What the durable services of each client keep, in bytes.
pub(super) fn stored_by_client<R>(broker: &Broker, queues: &Queues<R>) -> BTreeMap<Identity, u64> {
    let mut all = BTreeMap::new();
    for (_, service) in broker.services() {
        if let Some(owner) = service.owner() {
            let bytes = queues.holds(service.name());
            if bytes > 0 {
                *all.entry(owner.clone()).or_default() += bytes;
            }
        }
    }
    all
}

/// Those who were denied most first.
fn ranked(
    clients: &Clients,
    peers: &Peers,
    mut stored: BTreeMap<Identity, u64>,
) -> Vec<ClientStatus> {
    let mut by_client = BTreeMap::<_, Vec<&Peer>>::new();
    for peer in peers.iter() {
        by_client.entry(peer.client).or_default().push(peer);
    }
    let shown = clients.iter().filter_map(|(id, client)| {
        let theirs = by_client.remove(&id).unwrap_or_default();
        let stored_bytes = stored.remove(&client.identity).unwrap_or_default();
        if theirs.is_empty() && client.denied.is_empty() && stored_bytes == 0 {
            return None;
        }
        let (leaving, theirs): (Vec<_>, Vec<_>) =
            theirs.into_iter().partition(|peer| peer.is_leaving);
        let mut server_keys = BTreeMap::new();
        for keys in theirs.iter().filter_map(|peer| peer.zmtp.keys.as_ref()) {
            *server_keys.entry(keys.server.to_string()).or_default() += 1;
        }
        let denied = client.denied.iter();
        let addresses = theirs.iter().take(ADDRESSES_SHOWN);
        Some(ClientStatus {
            name: client.identity.name().to_owned(),
            connections: theirs.len() as u64,
            leaving: leaving.len() as u64,
            addresses: addresses.map(|peer| peer.address.to_string()).collect(),
            mechanisms: mechanisms(theirs.iter().copied()),
            server_keys,
            denied: denied
                .map(|(what, times)| (what.name().to_owned(), *times))
                .collect(),
            paused: clients.is_paused(id),
            stored_bytes,
        })
    });
    let mut shown: Vec<_> = shown.collect();
    // They are not connected in this run.
    shown.extend(
        stored
            .into_iter()
            .map(|(identity, stored_bytes)| ClientStatus {
                name: identity.name().to_owned(),
                stored_bytes,
                ..ClientStatus::default()
            }),
    );
    shown.sort_by_cached_key(|client| {
        let denied: u64 = client.denied.values().sum();
        (
            Reverse(denied),
            Reverse(client.connections),
            client.name.clone(),
        )
    });
    shown
}

/// The clients that are shown, and what was denied to the others.
pub(super) fn clients_status(
    clients: &Clients,
    peers: &Peers,
    stored: BTreeMap<Identity, u64>,
) -> (Vec<ClientStatus>, BTreeMap<String, u64>) {
    let mut shown = ranked(clients, peers, stored);
    let forgotten = clients.denied_to_others().iter();
    let mut others: BTreeMap<_, _> = forgotten
        .map(|(what, times)| (what.name().to_owned(), *times))
        .collect();
    for client in shown.drain(shown.len().min(CLIENTS_SHOWN)..) {
        for (what, times) in client.denied {
            *others.entry(what).or_default() += times;
        }
    }
    (shown, others)
}
