//! Requests whose answers come later, and where those go.

use std::collections::HashMap;
use std::time::Instant;

use bytes::Bytes;

use super::inside::Slot;
use event_manager_core::broker::PeerId;
use event_manager_core::requests::Timed;
use event_manager_wire::messagebus::Layout;

/// To whom an answer goes, and how it is written.
#[derive(Debug)]
pub(crate) struct ReturnAddress {
    pub(crate) peer: PeerId,
    pub(crate) envelope: Vec<Bytes>,
    pub(crate) layout: Layout,
    /// When it was read, if its answer is timed.
    pub(crate) timed: Option<(Timed, Instant)>,
}

/// Who asked, and waits for an answer.
#[derive(Debug)]
pub(crate) enum Asker {
    /// A client, by a request.
    Client(ReturnAddress),
    /// A part of this process, which publishes events.
    Inside(Slot),
}

impl From<ReturnAddress> for Asker {
    fn from(back: ReturnAddress) -> Self {
        Self::Client(back)
    }
}

/// Names a request whose answer comes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// Requests that wait for others; bounded, further ones are refused.
#[derive(Debug)]
pub(crate) struct PendingReplies {
    by_ticket: HashMap<Ticket, Asker>,
    max: usize,
    last: u64,
}

impl PendingReplies {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            by_ticket: HashMap::new(),
            max,
            last: 0,
        }
    }

    pub(crate) fn ticket(&mut self) -> Ticket {
        self.last += 1;
        Ticket(self.last)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_ticket.len()
    }

    /// How many may wait, if as many do.
    pub(crate) fn is_full(&self) -> Option<usize> {
        (self.by_ticket.len() >= self.max).then_some(self.max)
    }

    /// How many may wait.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    pub(crate) fn insert(&mut self, ticket: Ticket, asker: impl Into<Asker>) {
        self.by_ticket.insert(ticket, asker.into());
    }

    /// Whom the answer goes to, if it is still waited for.
    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<Asker> {
        self.by_ticket.remove(&ticket)
    }

    /// All of them: nothing is waited for any more.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = Asker> + use<> {
        std::mem::take(&mut self.by_ticket).into_values()
    }
}
