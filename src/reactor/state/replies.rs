//! Requests whose answers come later, and where those go.

use std::collections::HashMap;
use std::time::Instant;

use bytes::Bytes;

use super::inside::Slot;
use event_manager_core::broker::PeerId;
use event_manager_core::requests::Timed;
use event_manager_core::security::Identity;
use event_manager_wire::messagebus::Layout;

/// To whom an answer goes, and how it is written.
#[derive(Debug)]
pub(crate) struct ReturnAddress {
    pub(crate) peer: PeerId,
    /// Whose request it is.
    pub(crate) client: Identity,
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
    /// How many of them each client has.
    by_client: HashMap<Identity, usize>,
    max: usize,
    last: u64,
}

/// Why another request can't wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// As many wait as may.
    InAll(usize),
    /// So many of its client's wait, which are as many as could wait yet: the rest is for others.
    OfClient(usize),
}

impl PendingReplies {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            by_ticket: HashMap::new(),
            by_client: HashMap::new(),
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

    /// Why another one of this client can't wait, if so. Where clients have names, none of them takes more
    /// than it leaves to others.
    pub(crate) fn is_full(&self, client: &Identity, have_names: bool) -> Option<Full> {
        let left = self.max.saturating_sub(self.by_ticket.len());
        let theirs = self.by_client.get(client).copied().unwrap_or(0);
        match left {
            0 => Some(Full::InAll(self.max)),
            _ if have_names && theirs >= left => Some(Full::OfClient(theirs)),
            _ => None,
        }
    }

    /// How many may wait.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    pub(crate) fn insert(&mut self, ticket: Ticket, asker: impl Into<Asker>) {
        let asker = asker.into();
        if let Asker::Client(back) = &asker {
            *self.by_client.entry(back.client.clone()).or_default() += 1;
        }
        self.by_ticket.insert(ticket, asker);
    }

    /// Whom the answer goes to, if it is still waited for.
    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<Asker> {
        let asker = self.by_ticket.remove(&ticket)?;
        if let Asker::Client(back) = &asker
            && let Some(theirs) = self.by_client.get_mut(&back.client)
        {
            *theirs -= 1;
            if *theirs == 0 {
                self.by_client.remove(&back.client);
            }
        }
        Some(asker)
    }

    /// All of them: nothing is waited for any more.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = Asker> + use<> {
        self.by_client.clear();
        std::mem::take(&mut self.by_ticket).into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_client_takes_more_than_it_leaves() {
        let client = |name: &str| Identity::Client(name.into());
        let mut all = PendingReplies::new(8);
        let wait = |all: &mut PendingReplies, who: &Identity| {
            let ticket = all.ticket();
            let back = ReturnAddress {
                peer: PeerId { slot: 1, serial: 1 },
                client: who.clone(),
                envelope: vec![],
                layout: Layout::NATIVE,
                timed: None,
            };
            all.insert(ticket, back);
            ticket
        };
        let (greedy, other) = (client("greedy"), client("other"));
        let mut tickets = vec![];
        while all.is_full(&greedy, true).is_none() {
            tickets.push(wait(&mut all, &greedy));
        }
        assert_eq!(all.is_full(&greedy, true), Some(Full::OfClient(4)));
        for _ in 0..2 {
            assert_eq!(all.is_full(&other, true), None);
            wait(&mut all, &other);
        }
        assert_eq!(all.is_full(&other, true), Some(Full::OfClient(2)));
        assert_eq!(all.is_full(&client("third"), true), None);
        // Without names they are all one.
        while all.is_full(&Identity::Anonymous, false).is_none() {
            tickets.push(wait(&mut all, &Identity::Anonymous));
        }
        assert_eq!(all.is_full(&other, false), Some(Full::InAll(8)));
        assert_eq!(all.is_full(&client("third"), true), Some(Full::InAll(8)));
        for ticket in tickets {
            assert!(all.remove(ticket).is_some());
            assert!(all.remove(ticket).is_none());
        }
        assert_eq!((all.len(), all.by_client.len()), (2, 1));
        assert_eq!(all.take_all().count(), 2);
        assert!(all.by_client.is_empty());
    }
}
