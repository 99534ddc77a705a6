//! One connection whose handshake is done.

use std::collections::HashSet;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::Notify;

use super::deliver::Run;
use super::listener::Streamer;
use super::outbox::Outbox;
use super::stream::Stream;
use crate::broker::{PeerId, ServiceKey, WorkerKey};
use crate::zmtp::{Heartbeat, LocalSocket, Peer as ZmtpPeer};

/// What a listener, or a dialled address, is for.
#[derive(Debug, Clone)]
pub(super) enum Purpose {
    Publishers,
    Subscribers,
    Requests,
    /// Requests to the embedded ServiceLocator.
    Locator,
    /// The workers of one service.
    Workers(Rc<Streamer>),
}

impl Purpose {
    pub(super) fn local_socket(&self) -> LocalSocket {
        match self {
            Self::Publishers => LocalSocket::Publishers,
            Self::Subscribers => LocalSocket::Subscribers,
            Self::Requests | Self::Locator => LocalSocket::Requests,
            Self::Workers(_) => LocalSocket::Workers,
        }
    }
}

/// What a peer is to us, with the state that only its kind has.
#[derive(Debug)]
pub(super) enum Role {
    Publisher,
    Subscriber {
        prefixes: HashSet<Box<[u8]>>,
    },
    Worker {
        service: ServiceKey,
        key: WorkerKey,
        /// Whether it puts an empty frame before its messages, and expects one: as in its first READY.
        delimiter: Option<bool>,
    },
    Requester {
        /// It asks the embedded ServiceLocator.
        locator: bool,
    },
}

/// One connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) role: Role,
    pub(super) zmtp: ZmtpPeer,
    /// Where it connects from, for logs.
    pub(super) address: Rc<str>,
    pub(super) stream: Rc<Stream>,
    pub(super) outbox: Outbox,
    /// It is in the list of those to be flushed.
    pub(super) dirty: bool,
    /// Wakes its task: it became blocked, or it was removed.
    pub(super) wake: Rc<Notify>,
    pub(super) heartbeat: Option<Heartbeat>,
    /// Events were written since it last spoke, or more than its socket takes: it may be too busy
    /// with them to answer a PING.
    pub(super) may_be_busy: bool,
}

/// An empty frame with another to follow.
const DELIMITER: [u8; 2] = [1, 0];

impl Peer {
    /// Appends events to the outbox of a worker in the envelope that it uses.
    pub(super) fn push_to_worker(&mut self, run: &Run<'_>, events: Range<usize>) {
        if !matches!(
            self.role,
            Role::Worker {
                delimiter: Some(true),
                ..
            }
        ) {
            let part = run.part(events.clone());
            return self
                .outbox
                .push(&run.bytes, part, events.len() as u64, run.backing_bytes);
        }
        for event in events {
            let message = [&DELIMITER, &run.bytes[run.part(event..event + 1)]].concat();
            let len = message.len();
            self.outbox.push(&message.into(), 0..len, 1, len);
        }
    }

    /// An event as it was before [`push_to_worker`](Self::push_to_worker).
    pub(super) fn without_delimiter(role: &Role, message: Bytes) -> Bytes {
        match role {
            Role::Worker {
                delimiter: Some(true),
                ..
            } => message.slice(DELIMITER.len()..),
            _ => message,
        }
    }
}
