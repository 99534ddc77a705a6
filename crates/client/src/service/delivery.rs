//! An event that has to be answered, and how failures are tried again.

use std::any::Any;
use std::fmt::Write;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::shared::{Shared, Ticket};
use crate::ambient::chance;
use crate::{Error, Event};

/// The longest delay of a NAK that the daemon accepts.
const DELAY_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest `initialMs`.
const INITIAL_MAX: Duration = Duration::from_secs(60 * 60);

/// When an event whose handler failed is tried again, and how often. What is remembered is in the daemon,
/// so it holds over the death of this process.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Retry {
    /// How often an event is tried at most; then it becomes a dead letter.
    pub max: u32,
    /// The delay before the second try.
    pub initial: Duration,
    /// By which each further delay is longer.
    pub multiplier: f64,
    /// The longest delay, at most a day.
    pub max_delay: Duration,
    /// Which part of a delay is random, from 0 to 1.
    pub jitter: f64,
}

impl Default for Retry {
    /// 8 tries; 0.1 s, doubled each time, up to 30 s; half of it random.
    fn default() -> Self {
        Self {
            max: 8,
            initial: Duration::from_millis(100),
            multiplier: 2.0,
            max_delay: Duration::from_secs(30),
            jitter: 0.5,
        }
    }
}

impl Retry {
    /// The first failure is the last.
    pub fn never() -> Self {
        Self::default().max(1)
    }

    /// Tries an event so often at most.
    pub fn max(mut self, tries: u32) -> Self {
        self.max = tries;
        self
    }

    /// The first and the longest delay.
    pub fn delays(mut self, initial: Duration, max: Duration) -> Self {
        self.initial = initial;
        self.max_delay = max;
        self
    }

    /// What the daemon is asked for: the same, within its bounds.
    pub(super) fn option(&self) -> Value {
        let max = self.max_delay.min(DELAY_MAX);
        let initial = self.initial.min(INITIAL_MAX).min(max);
        let multiplier = match self.multiplier {
            by if by >= 1.0 => by.min(100.0),
            _ => 1.0,
        };
        json!({
            "initialMs": initial.as_millis() as u64,
            "multiplier": multiplier,
            "maxMs": max.as_millis() as u64,
            "maxDeliveries": self.max.clamp(1, 1_000_000),
        })
    }

    /// The delay after this attempt (from 1) has failed; `None` if it was the last one. `random` is from
    /// 0 to 1.
    fn delay(&self, attempt: u32, random: f64) -> Option<Duration> {
        if attempt >= self.max {
            return None;
        }
        let exponent = attempt.saturating_sub(1).min(1000) as i32;
        let whole = self.initial.as_secs_f64() * self.multiplier.powi(exponent);
        let max = self.max_delay.min(DELAY_MAX).as_secs_f64();
        // Also if it is no number.
        let whole = if whole < max { whole.max(0.0) } else { max };
        Some(Duration::from_secs_f64(
            whole * (1.0 - self.jitter.clamp(0.0, 1.0) * random),
        ))
    }
}

/// Why a handler did not process an event. Each error is one that may be tried again, but for
/// [`Error::Decode`]: what can't be read now never can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It is tried again as [`Retry`] says.
    Retry(String),
    /// It is tried again after this time, however often it was before.
    RetryAfter(Duration, String),
    /// It becomes a dead letter now.
    Reject(String),
}

impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        match (&error as &dyn Any).downcast_ref::<Error>() {
            Some(Error::Decode { .. }) => Self::Reject(error.to_string()),
            _ => Self::Retry(error.to_string()),
        }
    }
}

/// An event that has to be answered. Answers are sent together, by the service's task. If it is dropped without
/// one, the daemon tries it again after the service's backoff.
#[must_use = "an event that is dropped is tried again"]
pub struct Delivery {
    event: Event,
    ticket: Ticket,
    shared: Option<Arc<Shared>>,
}

impl Deref for Delivery {
    type Target = Event;

    fn deref(&self) -> &Event {
        &self.event
    }
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery")
            .field("id", &self.ticket.id)
            .field("event", &self.event)
            .finish()
    }
}

impl Delivery {
    pub(super) fn new(event: Event, ticket: Ticket, shared: Arc<Shared>) -> Self {
        Self {
            event,
            ticket,
            shared: Some(shared),
        }
    }

    /// The event itself, to be kept beyond its answer.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// The event is done.
    pub fn ack(mut self) {
        if let Some(shared) = self.shared.take() {
            shared.acknowledge(self.ticket);
        }
    }

    /// It is tried again, after this delay (at most a day) or the daemon's backoff. The reason is for the
    /// dead letter that it may become.
    pub fn nak(mut self, delay: Option<Duration>, reason: &str) {
        self.put_back(delay, reason);
    }

    /// It is never tried again: it becomes a dead letter.
    pub fn term(mut self, reason: &str) {
        if let Some(shared) = self.shared.take() {
            shared.settle(self.ticket, |word, id| {
                let _ = write!(word, "TERM {id} {reason}");
            });
        }
    }

    /// It is still worked on: `ackTimeout` starts again. The service says so by itself; this is for
    /// handlers that take longer than its `max_handling`.
    pub fn wip(&self) {
        if let Some(shared) = &self.shared {
            shared.say(self.ticket.id);
        }
    }

    /// Its handler failed: it is tried again as the service's [`Retry`] says, or becomes a dead letter.
    pub fn fail(mut self, reason: &str) {
        let Some(shared) = &self.shared else { return };
        match shared.retry.delay(self.event.attempt(), chance()) {
            Some(delay) => self.put_back(Some(delay), reason),
            None => self.term(reason),
        }
    }

    /// Answers by what its handler returned.
    pub fn answer(self, result: Result<(), Failure>) {
        match result {
            Ok(()) => self.ack(),
            Err(Failure::Retry(reason)) => self.fail(&reason),
            Err(Failure::RetryAfter(delay, reason)) => self.nak(Some(delay), &reason),
            Err(Failure::Reject(reason)) => self.term(&reason),
        }
    }

    fn put_back(&mut self, delay: Option<Duration>, reason: &str) {
        if let Some(shared) = self.shared.take() {
            shared.settle(self.ticket, |word, id| {
                let _ = match delay {
                    Some(delay) => write!(
                        word,
                        "NAK {id} {} {reason}",
                        delay.min(DELAY_MAX).as_millis()
                    ),
                    // A number would be taken for the delay.
                    None if reason
                        .starts_with(|c: char| c.is_ascii_digit() || "+-".contains(c)) =>
                    {
                        write!(word, "NAK {id} : {reason}")
                    }
                    None => write!(word, "NAK {id} {reason}"),
                };
            });
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.shared.is_none() {
            return;
        }
        let reason = match std::thread::panicking() {
            true => "its handler panicked",
            false => "dropped without an answer",
        };
        self.put_back(None, reason);
    }
}

#[cfg(test)]
mod tests {
    use event_manager_zmtp::encode_message;

    use super::*;

    #[test]
    fn delays_grow_up_to_a_limit_and_the_last_try_has_none() {
        let retry = Retry::default().max(100);
        let ms = |attempt, random| retry.delay(attempt, random).map(|delay| delay.as_millis());
        assert_eq!(
            (ms(1, 0.0), ms(2, 0.0), ms(3, 1.0)),
            (Some(100), Some(200), Some(200))
        );
        assert_eq!(
            (ms(60, 0.0), ms(99, 0.5), ms(100, 0.0)),
            (Some(30_000), Some(22_500), None)
        );
        assert_eq!(Retry::never().delay(1, 0.0), None);
        let odd = Retry {
            multiplier: f64::NAN,
            ..Retry::default()
        };
        assert_eq!(odd.delay(2, 0.0), Some(Duration::from_secs(30)));
    }

    #[test]
    fn the_daemon_is_asked_for_what_it_can_take() {
        let odd = Retry {
            max: 0,
            initial: Duration::from_secs(7200),
            multiplier: f64::NAN,
            max_delay: Duration::MAX,
            jitter: 7.0,
        };
        let most = json!({"initialMs": 3_600_000, "multiplier": 1.0, "maxMs": 86_400_000, "maxDeliveries": 1});
        assert_eq!(odd.option(), most);
        let short = Retry::default().delays(Duration::from_secs(9), Duration::from_secs(1));
        assert_eq!(short.option()["initialMs"], 1000);
    }

    #[test]
    fn what_cannot_be_read_is_rejected_and_all_else_is_tried_again() {
        let event = Event::new(encode_message(&["Order", "{"]), 1);
        let unreadable = event.json::<u8>().unwrap_err();
        assert!(matches!(Failure::from(unreadable), Failure::Reject(_)));
        let other = std::io::Error::other("away");
        assert_eq!(Failure::from(other), Failure::Retry("away".into()));
    }
}
