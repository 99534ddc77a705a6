//! Peers that hang up while they are not read: because of their rate, or until subscribers are back or
//! the disk has caught up.
//!
//! That is noticed at once, and such a connection doesn't count for its client's quota any more. What it
//! had sent waits in the kernel, and is read when its turn comes.

use std::rc::Rc;

use crate::reactor::hub::Hub;
use crate::reactor::state::peer::Peer;
use event_manager_core::broker::PeerId;

/// So many connections of a client that is paused are read to their end after it hung up, if its quota
/// of connections is not less. Otherwise one that comes and goes would have as many as there may be.
const LEAVING_MAX: u64 = 64;

impl Hub {
    /// A peer that isn't read hung up, and so many bytes of what it had sent are unread. Whether they are
    /// read later.
    pub(super) fn hung_up(&mut self, id: PeerId, unread: u64) -> bool {
        if unread == 0 {
            return false;
        }
        let Some(why) = self.why_not_read_later(id) else {
            let Some(peer) = self.peers.get_mut(id) else {
                return false;
            };
            peer.is_leaving = true;
            return true;
        };
        let address = Rc::clone(&self.peers[id].address);
        let why = format!(
            "it hung up while it was not read, and {why}: {unread} bytes of what it had sent are lost"
        );
        self.notes.refuse("unread", &address, &why);
        false
    }

    fn why_not_read_later(&self, id: PeerId) -> Option<String> {
        let client = self.peers[id].client;
        let leaving = || self.peers.iter().filter(|peer| peer.is_leaving);
        let max = self.peers.connections.max() / 4;
        if leaving().count() >= max {
            return Some(format!("{max} connections are read to their end already"));
        }
        let known = self.clients.get(client);
        let max = known.grant.quotas.connections.unwrap_or(LEAVING_MAX);
        let max = max.min(LEAVING_MAX);
        let theirs = leaving().filter(|peer: &&Peer| peer.client == client);
        (self.clients.is_paused(client) && theirs.count() as u64 >= max).then(|| {
            let name = known.identity.name();
            format!(
                "{max} connections of {name:?} that hung up wait already until its rate allows more"
            )
        })
    }
}
