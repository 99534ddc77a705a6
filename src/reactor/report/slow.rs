//! Peers that read more slowly than they are sent, for reports.

use crate::config::Config;
use crate::reactor::state::peer::{Peer, Role};
use crate::reactor::state::peers::Peers;
use event_manager_core::broker::Broker;
use event_manager_wire::api::SlowPeer;

/// So many are named at most.
const NAMED_MAX: usize = 20;

/// Peers for whom more than half of their budget waits, those with the most bytes first.
pub(crate) fn slow_peers(peers: &Peers, broker: &Broker, config: &Config) -> Vec<SlowPeer> {
    let mut slow: Vec<_> = peers
        .iter()
        .filter_map(|peer| {
            let budget = outbox_budget(peer, config)?;
            (peer.outbox.bytes() > budget / 2).then_some((peer, budget))
        })
        .collect();
    slow.sort_by_key(|(peer, _)| std::cmp::Reverse(peer.outbox.bytes()));
    slow.truncate(NAMED_MAX);
    slow.into_iter()
        .map(|(peer, budget)| SlowPeer {
            address: peer.address.to_string(),
            role: peer.role.name().to_owned(),
            service: service_of(peer, broker).map(str::to_owned),
            bytes: peer.outbox.bytes() as u64,
            budget_bytes: budget as u64,
        })
        .collect()
}

/// What may wait for a peer, in bytes; none for one that is sent no more than a few words.
fn outbox_budget(peer: &Peer, config: &Config) -> Option<usize> {
    let budgets = &config.budgets;
    match peer.role {
        Role::Publisher => None,
        Role::Subscriber { .. } => Some(budgets.subscriber_outbox_bytes),
        Role::Worker { .. } => Some(budgets.worker_outbox_bytes),
        Role::Requester { .. } => Some(budgets.request_outbox_bytes),
    }
}

/// The service whose worker it is.
pub(crate) fn service_of<'a>(peer: &Peer, broker: &'a Broker) -> Option<&'a str> {
    let Role::Worker { service, .. } = peer.role else {
        return None;
    };
    let service = broker.service(service)?;
    Some(service.name().as_str())
}
