//! Messages of peers that don't publish, one by one; and those of subscribers.

use crate::reactor::hub::Hub;
use crate::reactor::io::inbox::{Filled, Inbox};
use crate::reactor::io::peer_error::PeerError;
use crate::reactor::state::peer::Role;
use event_manager_core::broker::PeerId;
use event_manager_zmtp::{Command, Step, Subscription, frames};

/// Requests of one connection that are answered in one turn, beside those that publish events: they cost
/// several times as much as an event, and live events wait meanwhile.
const REQUESTS_PER_TURN: u64 = 8;

impl Hub {
    /// Takes what arrived message by message. `on_message` is given each whole message.
    ///
    /// # Errors
    /// [`PeerError`] ends the connection.
    pub(crate) fn take_messages(
        &mut self,
        id: PeerId,
        inbox: &mut Inbox,
        mut filled: Filled,
        on_message: fn(&mut Self, PeerId, &[u8]) -> Result<(), PeerError>,
    ) -> Result<(), PeerError> {
        let enough = self.requests.others + REQUESTS_PER_TURN;
        loop {
            let step = inbox.scanner.next(&mut filled.data);
            match step.inspect_err(|error| {
                self.refuse_request(id, inbox.scanner.begun(&filled.data), error);
            })? {
                Step::NeedMore(missing) => {
                    inbox.keep(filled, missing);
                    return Ok(());
                }
                Step::Command(body) => match Command::parse(&filled.data[body])? {
                    Command::Subscription(wish) => self.subscription(id, wish)?,
                    command => self.take_command(id, command)?,
                },
                Step::Message(span) => {
                    on_message(self, id, &filled.data[span.bytes])?;
                }
            }
            // The message may have ended the connection: a request that ended its own service.
            if self.peers.get_mut(id).is_none() {
                return Ok(());
            }
            // Small requests may have large answers, so what was read already is bounded too.
            if self.is_overfull(id) || self.requests.others >= enough {
                inbox.hold(filled);
                return Ok(());
            }
        }
    }

    /// A message of a subscriber: subscriptions in the form of ZMTP 3.0. Each frame is one of its own,
    /// as it is for libzmq's XPUB. Anything else goes upstream in libzmq, where nobody hears it.
    pub(crate) fn take_subscription(
        &mut self,
        id: PeerId,
        message: &[u8],
    ) -> Result<(), PeerError> {
        let mut has_other = false;
        for frame in frames(message) {
            match Subscription::from_message(frame) {
                Some(wish) => self.subscription(id, wish)?,
                None => has_other = true,
            }
        }
        if has_other && let Some(peer) = self.peers.get(id) {
            self.notes.discarded(&peer.address, "message-to-publisher");
        }
        Ok(())
    }

    fn subscription(&mut self, id: PeerId, wish: Subscription<'_>) -> Result<(), PeerError> {
        let limits = self.config.limits;
        // An earlier subscription of the same message may have ended its connection: events that waited for
        // it were more than it may have. Other peers have nothing to subscribe to here.
        let role = self.peers.get_mut(id).map(|peer| &mut peer.role);
        let Some(Role::Subscriber { prefixes, .. }) = role else {
            return Ok(());
        };
        match wish {
            Subscription::Subscribe(prefix) => {
                if prefix.len() > limits.subject_bytes_max {
                    let max = limits.subject_bytes_max;
                    return Err(PeerError::SubscriptionTooLong(prefix.len(), max));
                }
                if prefixes.contains(prefix) {
                    return Ok(());
                }
                if prefixes.len() >= limits.subscriptions_per_peer_max {
                    return Err(PeerError::TooManySubscriptions(
                        limits.subscriptions_per_peer_max,
                    ));
                }
                let memory = &mut self.accounts.prefixes;
                let bytes_max = self.config.budgets.subscription_bytes;
                if !memory.has_room(prefixes, prefix, bytes_max) {
                    return Err(PeerError::NoRoomForSubscriptions(bytes_max));
                }
                memory.add(prefixes, prefix);
                self.broker.routes.subscribe(prefix, id);
                if self.upstream.mesh.interest.is_some() {
                    // Other hubs are to know.
                    self.peers.want_flush();
                }
                self.subscriber_joined(prefix);
                self.note_vain_subscription(id, prefix);
            }
            Subscription::Cancel(prefix) => {
                if self.accounts.prefixes.remove(prefixes, prefix) {
                    self.broker.routes.unsubscribe(prefix, id);
                    self.saved.subscribers.audience.left(prefix);
                }
            }
        }
        Ok(())
    }
}
