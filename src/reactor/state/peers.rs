//! The connections whose handshake is done, and which of them have something to send.

use std::ops::{Index, IndexMut};
use std::rc::Rc;

use bytes::BytesMut;
use slab::Slab;
use tokio::sync::Notify;

use super::connections::Connections;
use super::peer::{Peer, Role};
use event_manager_core::broker::PeerId;
use event_manager_zmtp::encode_subscribe;

/// All peers of the reactor. `peers[id]` is one that can't be gone: who speaks, or was looked at just
/// before. Anything in between may have ended its connection; then [`Peers::get_mut`] tells.
pub(crate) struct Peers {
    slab: Slab<Peer>,
    /// Of the last id that was given out.
    serial: u32,
    /// Peers with something to send and a socket that may take it.
    dirty: Vec<PeerId>,
    /// Bytes given to peers since the last flush.
    pending_bytes: usize,
    flush_wanted: Rc<Notify>,
    /// Open connections, those in their handshake too.
    pub(crate) connections: Connections,
}

impl Peers {
    pub(crate) fn new(connections: Connections) -> Self {
        Self {
            slab: Slab::new(),
            serial: 0,
            dirty: vec![],
            pending_bytes: 0,
            flush_wanted: Rc::default(),
            connections,
        }
    }

    /// The id that the next peer to be inserted has.
    pub(crate) fn next_id(&mut self) -> PeerId {
        self.serial = self.serial.wrapping_add(1);
        PeerId {
            slot: self.slab.vacant_key() as u32,
            serial: self.serial,
        }
    }

    /// Its id is [`next_id`](Self::next_id).
    pub(crate) fn insert(&mut self, peer: Peer) {
        self.slab.insert(peer);
    }

    /// Takes a peer out of the table and wakes its task, which then ends.
    pub(crate) fn remove(&mut self, id: PeerId) -> Option<Peer> {
        self.get(id)?;
        let peer = self.slab.remove(id.slot as usize);
        peer.wake.notify_one();
        Some(peer)
    }

    pub(crate) fn get(&self, id: PeerId) -> Option<&Peer> {
        let found = self.slab.get(id.slot as usize);
        found.filter(|peer| peer.id == id)
    }

    pub(crate) fn get_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        let found = self.slab.get_mut(id.slot as usize);
        found.filter(|peer| peer.id == id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.slab.iter().map(|(_, peer)| peer)
    }

    pub(crate) fn publishers(&self) -> impl Iterator<Item = &Peer> {
        let peers = self.iter();
        peers.filter(|peer| matches!(peer.role, Role::Publisher))
    }

    /// Lets the tasks of publishers look whether they may read.
    pub(crate) fn wake_publishers(&self) {
        self.publishers().for_each(|peer| peer.wake.notify_one());
    }

    /// What all connections keep of messages that aren't whole, in bytes.
    pub(crate) fn half_received_bytes(&self) -> usize {
        self.iter().map(|peer| peer.half_received).sum()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.slab.iter_mut().map(|(_, peer)| peer)
    }

    /// Queues commands for one peer.
    pub(crate) fn command(&mut self, id: PeerId, bytes: &[u8]) {
        if let Some(peer) = self.outgoing_to_reader(id) {
            peer.outbox.push_commands(bytes);
        }
    }

    /// Queues an answer for one peer.
    pub(crate) fn answer(&mut self, id: PeerId, bytes: &[u8]) {
        if let Some(peer) = self.outgoing_to_reader(id) {
            peer.outbox.push_copy(bytes, 0);
        }
    }

    /// Whoever hung up reads nothing, and what is written would end the connection before it is read.
    fn outgoing_to_reader(&mut self, id: PeerId) -> Option<&mut Peer> {
        if self.get(id).is_some_and(|peer| peer.is_leaving) {
            return None;
        }
        self.outgoing(id)
    }

    /// Subscribes to all that a publisher sends.
    pub(crate) fn subscribe_to(&mut self, id: PeerId) {
        let mut subscribe = BytesMut::new();
        encode_subscribe(&mut subscribe, b"", self[id].zmtp.version);
        self.command(id, &subscribe);
    }

    /// A peer whose outbox is about to be given something: it is written with the next flush, or when its
    /// socket takes more.
    #[inline]
    pub(crate) fn outgoing(&mut self, id: PeerId) -> Option<&mut Peer> {
        let found = self.slab.get_mut(id.slot as usize);
        let peer = found.filter(|peer| peer.id == id)?;
        if !peer.dirty && !peer.outbox.is_blocked() {
            peer.dirty = true;
            self.dirty.push(id);
            self.flush_wanted.notify_one();
        }
        Some(peer)
    }

    /// The same of a worker's connection, which is there as long as its service has the worker.
    ///
    /// # Panics
    /// It is gone.
    #[inline]
    pub(crate) fn outgoing_to_worker(&mut self, id: PeerId) -> &mut Peer {
        let Some(peer) = self.outgoing(id) else {
            unreachable!("the connection of worker {id:?} is gone, but its service has the worker");
        };
        peer
    }

    /// So many bytes were given to peers.
    pub(crate) fn given(&mut self, bytes: usize) {
        self.pending_bytes += bytes;
    }

    /// Bytes given to peers since the last flush.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Asks for a flush when all connections that can be read now have been.
    pub(crate) fn want_flush(&self) {
        self.flush_wanted.notify_one();
    }

    /// Notified when a flush is asked for.
    pub(crate) fn flush_wanted(&self) -> Rc<Notify> {
        Rc::clone(&self.flush_wanted)
    }

    /// A flush begins: those that have something to send.
    pub(crate) fn begin_flush(&mut self) -> Vec<PeerId> {
        self.pending_bytes = 0;
        std::mem::take(&mut self.dirty)
    }

    /// It is the turn of one that had something to send; false if it is gone.
    pub(crate) fn begin_turn(&mut self, id: PeerId) -> bool {
        let peer = self.get_mut(id);
        peer.map(|peer| peer.dirty = false).is_some()
    }

    /// The flush is done. The list is kept for its memory; whoever was marked meanwhile waits for the
    /// next.
    pub(crate) fn end_flush(&mut self, mut flushed: Vec<PeerId>) {
        if self.dirty.is_empty() {
            flushed.clear();
            self.dirty = flushed;
        }
    }
}

impl Index<PeerId> for Peers {
    type Output = Peer;

    fn index(&self, id: PeerId) -> &Peer {
        let peer = &self.slab[id.slot as usize];
        assert_eq!(peer.id, id, "the peer is gone");
        peer
    }
}

impl IndexMut<PeerId> for Peers {
    fn index_mut(&mut self, id: PeerId) -> &mut Peer {
        let peer = &mut self.slab[id.slot as usize];
        assert_eq!(peer.id, id, "the peer is gone");
        peer
    }
}
