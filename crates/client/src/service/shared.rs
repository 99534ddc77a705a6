//! What a service, its deliveries and its tasks share.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use event_manager_zmtp::{encode_frame, short_header};
use tokio::sync::Notify;

use super::delivery::{Delivery, Retry};
use crate::{Error, Event};

/// A delivery: its daemon's number, and where it is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) id: u64,
    slot: usize,
}

pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) retry: Retry,
    /// For the link: there is something to say.
    pub(super) work: Notify,
    /// All is answered, and the daemon has read it.
    pub(super) done: Notify,
}

struct State {
    /// Not given to the user yet.
    arrived: VecDeque<(Ticket, Event)>,
    /// Of who waits for an event.
    waker: Option<Waker>,
    /// Encoded words for the daemon.
    out: BytesMut,
    word: BytesMut,
    /// All that is not answered, by the slots of their tickets; at most as many as the credit, and what
    /// handlers hold of earlier connections.
    slots: Vec<Option<Held>>,
    /// Those that are empty.
    free: Vec<usize>,
    /// The time of the link's latest look.
    clock: Instant,
    /// The link waits for something to happen.
    is_idle: bool,
    has_left: bool,
    end: Option<Error>,
    has_ended: bool,
}

struct Held {
    id: u64,
    /// When it came, or was given to its handler.
    since: Instant,
    /// When the daemon was told of it last.
    told: Instant,
}

impl Shared {
    pub(super) fn new(retry: Retry, now: Instant) -> Self {
        let state = State {
            arrived: VecDeque::new(),
            waker: None,
            out: BytesMut::new(),
            word: BytesMut::new(),
            slots: vec![],
            free: vec![],
            clock: now,
            is_idle: false,
            has_left: false,
            end: None,
            has_ended: false,
        };
        Self {
            state: Mutex::new(state),
            retry,
            work: Notify::new(),
            done: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_link(&self, mut state: MutexGuard<'_, State>) {
        let is_idle = std::mem::take(&mut state.is_idle);
        drop(state);
        if is_idle {
            self.work.notify_one();
        }
    }

    // What deliveries say.

    /// Says the last word about a delivery.
    pub(super) fn settle(&self, ticket: Ticket, word: impl FnOnce(&mut BytesMut, u64)) {
        let mut state = self.state();
        state.release(ticket.slot);
        state.say(|text| word(text, ticket.id));
        self.wake_link(state);
    }

    /// Says that it is done: the most frequent word.
    pub(super) fn acknowledge(&self, ticket: Ticket) {
        let mut state = self.state();
        state.release(ticket.slot);
        let mut digits = itoa::Buffer::new();
        let id = digits.format(ticket.id).as_bytes();
        let word_bytes = "ACK ".len() + id.len();
        state.out.put_slice(&short_header(word_bytes as u8, false));
        state.out.put_slice(b"ACK ");
        state.out.put_slice(id);
        self.wake_link(state);
    }

    /// Says that a delivery is worked on.
    pub(super) fn say(&self, id: u64) {
        let mut state = self.state();
        state.say(|text| {
            let _ = write!(text, "WIP {id}");
        });
        self.wake_link(state);
    }

    // What the service asks.

    pub(super) fn poll_next(
        self: &Arc<Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Delivery, Error>>> {
        let mut state = self.state();
        if let Some((ticket, event)) = state.arrived.pop_front() {
            let clock = state.clock;
            if let Some(held) = &mut state.slots[ticket.slot] {
                held.since = clock;
            }
            drop(state);
            return Poll::Ready(Some(Ok(Delivery::new(event, ticket, Arc::clone(self)))));
        }
        if let Some(error) = state.end.take() {
            return Poll::Ready(Some(Err(error)));
        }
        if state.has_left || state.has_ended {
            return Poll::Ready(None);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Wants no more events, and puts back those that no handler has begun; how many.
    pub(super) fn leave(&self) -> u64 {
        let mut state = self.state();
        state.has_left = true;
        let returned = state.put_back();
        let waker = state.waker.take();
        state.is_idle = false;
        drop(state);
        // In any case: it has to say BYE.
        self.work.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
        returned
    }

    pub(super) fn has_left(&self) -> bool {
        self.state().has_left
    }

    /// How many deliveries are not answered.
    pub(super) fn held(&self) -> u64 {
        self.state().held()
    }

    /// There will be no more events.
    pub(super) fn end(&self, error: Option<Error>) {
        let mut state = self.state();
        state.has_ended = true;
        state.end = error;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    // What the link does.

    /// Deliveries came, by their numbers. Those beyond the credit, or after the worker has left, are put
    /// back.
    pub(super) fn arrive(&self, came: &mut Vec<(u64, Event)>, credit: u32) {
        if came.is_empty() {
            return;
        }
        let mut state = self.state();
        for (id, event) in came.drain(..) {
            if state.has_left || state.arrived.len() >= credit as usize {
                state.say(|text| {
                    let _ = write!(text, "NAK {id} 0 the worker has no room for it");
                });
                continue;
            }
            let slot = state.hold(id);
            state.arrived.push_back((Ticket { id, slot }, event));
        }
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Moves what is to be said there; whether all is answered then. If there was nothing, the link is woken
    /// when there is.
    pub(super) fn take_words(&self, words: &mut BytesMut) -> bool {
        let mut state = self.state();
        std::mem::swap(&mut state.out, words);
        state.is_idle = words.is_empty();
        state.held() == 0
    }

    /// Says WIP for what is due.
    pub(super) fn tick(&self, now: Instant, every: Duration, handling_max: Duration) {
        let mut state = self.state();
        state.clock = now;
        let mut due = vec![];
        for held in state.slots.iter_mut().flatten() {
            let is_over = now.saturating_duration_since(held.since) >= handling_max;
            if !is_over && now.saturating_duration_since(held.told) >= every {
                held.told = now;
                due.push(held.id);
            }
        }
        for id in due {
            state.say(|text| {
                let _ = write!(text, "WIP {id}");
            });
        }
    }

    /// The connection has ended. What no handler has begun comes again, to us or to others; an answer to
    /// the rest may still count.
    pub(super) fn disconnect(&self) {
        let mut state = self.state();
        for (ticket, _) in std::mem::take(&mut state.arrived) {
            state.release(ticket.slot);
        }
    }
}

impl State {
    /// Holds a delivery; its slot.
    fn hold(&mut self, id: u64) -> usize {
        let held = Some(Held {
            id,
            since: self.clock,
            told: self.clock,
        });
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = held;
                slot
            }
            None => {
                self.slots.push(held);
                self.slots.len() - 1
            }
        }
    }

    fn release(&mut self, slot: usize) {
        if self.slots[slot].take().is_some() {
            self.free.push(slot);
        }
    }

    fn held(&self) -> u64 {
        (self.slots.len() - self.free.len()) as u64
    }

    fn say(&mut self, word: impl FnOnce(&mut BytesMut)) {
        self.word.clear();
        word(&mut self.word);
        encode_frame(&mut self.out, &self.word, false);
    }

    fn put_back(&mut self) -> u64 {
        let arrived = std::mem::take(&mut self.arrived);
        for (ticket, _) in &arrived {
            self.release(ticket.slot);
            self.say(|text| {
                let _ = write!(text, "NAK {} 0 the worker left", ticket.id);
            });
        }
        arrived.len() as u64
    }
}
