//! What has to be answered.

use std::ops::Deref;

use bytes::Bytes;
use event_manager_wire::messagebus::{DataType, Layout, Message, encode};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::service::Failure;
use crate::{Delivery, Error, Event};

/// Answers that are to be sent by one connection; their frames.
pub(super) type Replies = mpsc::UnboundedSender<Vec<Bytes>>;

/// A call, or an event with the same subject that was published. If it is dropped without an answer, a call
/// is refused, and an event is tried again.
#[must_use = "a question that is dropped is refused"]
pub struct Question {
    event: Event,
    is_call: bool,
    asker: Asker,
}

/// Who waits for an answer.
enum Asker {
    Caller(Reply),
    /// The daemon, for its acknowledgement.
    Daemon(Delivery),
    /// Nobody any more.
    Nobody,
}

/// Where the answer of a call goes.
pub(super) struct Reply {
    pub(super) replies: Replies,
    pub(super) envelope: Vec<Bytes>,
    pub(super) layout: Layout,
    pub(super) _room: OwnedSemaphorePermit,
}

impl Reply {
    fn send(self, answer: &Message) {
        let frames = encode(answer, self.layout);
        // Without its connection nobody waits.
        let _ = self.replies.send([self.envelope, frames].concat());
    }
}

impl Deref for Question {
    type Target = Event;

    fn deref(&self) -> &Event {
        self.event()
    }
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question")
            .field("event", self.event())
            .field("is_call", &self.is_call())
            .finish()
    }
}

impl Question {
    pub(super) fn of_call(event: Event, reply: Reply) -> Self {
        Self {
            event,
            is_call: true,
            asker: Asker::Caller(reply),
        }
    }

    pub(super) fn of_event(delivery: Delivery) -> Self {
        Self {
            event: delivery.event().clone(),
            is_call: false,
            asker: Asker::Daemon(delivery),
        }
    }

    /// What is asked: its subject, and as its body the call's.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Whether somebody waits for the answer.
    pub fn is_call(&self) -> bool {
        self.is_call
    }

    /// Answers with JSON.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it can't be written as JSON; the call is refused then.
    pub fn answer<T: Serialize + ?Sized>(self, answer: &T) -> Result<(), Error> {
        match serde_json::to_vec(answer) {
            Ok(answer) => self.answer_bytes(answer),
            Err(error) => {
                let why = format!(
                    "the answer to {:?} can't be written as JSON: {error}",
                    self.subject()
                );
                self.refuse(&why);
                return Err(Error::InvalidArgument(why));
            }
        }
        Ok(())
    }

    /// Answers with any bytes.
    pub fn answer_bytes(mut self, answer: impl Into<Bytes>) {
        match self.take() {
            Asker::Caller(reply) => reply.send(&Message::ack(DataType::String, answer)),
            Asker::Daemon(delivery) => delivery.ack(),
            Asker::Nobody => {}
        }
    }

    /// Says no: who called gets the reason; an event becomes a dead letter.
    pub fn refuse(mut self, reason: &str) {
        match self.take() {
            Asker::Caller(reply) => reply.send(&Message::nak("rejected", reason)),
            Asker::Daemon(delivery) => delivery.term(reason),
            Asker::Nobody => {}
        }
    }

    /// Says that it failed: who called gets the reason; an event is tried again, as the service's
    /// [`Retry`](crate::Retry) says.
    pub fn fail(mut self, reason: &str) {
        match self.take() {
            Asker::Caller(reply) => reply.send(&Message::nak("failed", reason)),
            Asker::Daemon(delivery) => delivery.fail(reason),
            Asker::Nobody => {}
        }
    }

    /// Answers by what its handler returned.
    pub fn settle<T: Serialize>(mut self, result: Result<T, Failure>) {
        let result = result.and_then(|answer| {
            serde_json::to_vec(&answer).map_err(|error| Failure::Reject(error.to_string()))
        });
        match self.take() {
            Asker::Caller(reply) => reply.send(&match result {
                Ok(answer) => Message::ack(DataType::String, answer),
                Err(Failure::Reject(reason)) => Message::nak("rejected", reason),
                Err(Failure::Retry(reason) | Failure::RetryAfter(_, reason)) => {
                    Message::nak("failed", reason)
                }
            }),
            Asker::Daemon(delivery) => delivery.answer(result.map(drop)),
            Asker::Nobody => {}
        }
    }

    fn take(&mut self) -> Asker {
        std::mem::replace(&mut self.asker, Asker::Nobody)
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        if let Asker::Caller(reply) = self.take() {
            let reason = match std::thread::panicking() {
                true => "its handler panicked",
                false => "it was dropped without an answer",
            };
            reply.send(&Message::nak("failed", reason));
        }
    }
}
