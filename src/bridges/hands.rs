//! What a bridge's worker holds while it waits for something else.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep_until};

use super::worker::{Delivered, Worker};
use crate::ambient::now;
use event_manager_client::Ended;

/// How long what is under way may take when the daemon stops.
const STOP_MAX: Duration = Duration::from_secs(2);

/// A worker and the events that it has not answered for, in their order.
pub(super) struct Hands<'a> {
    worker: Worker,
    held: VecDeque<Delivered>,
    /// When the service has to hear that what is held is still being worked on.
    wip: Interval,
    stop: &'a mut Stop,
}

/// What somebody waited for.
pub(super) enum Meanwhile<T> {
    /// It is there.
    Done(T),
    /// The daemon stops, and it isn't.
    Stopped,
}

impl<'a> Hands<'a> {
    pub(super) fn new(worker: Worker, wip_every: Duration, stop: &'a mut Stop) -> Self {
        let mut wip = interval(wip_every);
        wip.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            worker,
            held: VecDeque::new(),
            wip,
            stop,
        }
    }

    /// What is held, in its order.
    pub(super) fn held(&self) -> impl Iterator<Item = &Delivered> {
        self.held.iter()
    }

    /// Waits until something is held, or for something else, and gives that.
    pub(super) async fn fill_or<T>(
        &mut self,
        other: impl Future<Output = T>,
    ) -> Result<Meanwhile<Option<T>>, Ended> {
        tokio::pin!(other);
        while self.held.is_empty() {
            tokio::select! {
                biased;
                delivered = self.worker.next() => self.held.extend(delivered?),
                _ = self.stop.comes() => return Ok(Meanwhile::Stopped),
                done = &mut other => return Ok(Meanwhile::Done(Some(done))),
            }
        }
        Ok(Meanwhile::Done(None))
    }

    /// Waits for something else, and meanwhile takes what comes and says that what is held is worked on.
    pub(super) async fn meanwhile<T>(
        &mut self,
        other: impl Future<Output = T>,
    ) -> Result<Meanwhile<T>, Ended> {
        tokio::pin!(other);
        loop {
            tokio::select! {
                biased;
                done = &mut other => return Ok(Meanwhile::Done(done)),
                delivered = self.worker.next() => self.held.extend(delivered?),
                _ = self.wip.tick() => if let Some(last) = self.held.back() {
                    self.worker.wip(last.delivery);
                },
                is_over = self.stop.comes() => {
                    if is_over || self.held.is_empty() {
                        return Ok(Meanwhile::Stopped);
                    }
                    self.worker.bye();
                }
            }
        }
    }

    /// Has the first `count` of what is held answered for. What is not, is held still, in its order.
    pub(super) fn answer(
        &mut self,
        count: usize,
        mut answers: impl FnMut(&mut Worker, &Delivered) -> bool,
    ) {
        let count = count.min(self.held.len());
        let mut kept: Vec<_> = self.held.drain(..count).collect();
        kept.retain(|done| !answers(&mut self.worker, done));
        for one in kept.into_iter().rev() {
            self.held.push_front(one);
        }
    }
}

/// The daemon's stop, which leaves a moment for what is under way.
pub(super) struct Stop {
    signal: watch::Receiver<bool>,
    /// How long the moment is.
    lasts: Duration,
    /// It has come; then until when.
    until: Option<Instant>,
}

impl Stop {
    pub(super) fn new(signal: watch::Receiver<bool>) -> Self {
        Self::lasting(signal, STOP_MAX)
    }

    /// One that leaves so much time.
    pub(super) fn lasting(signal: watch::Receiver<bool>, lasts: Duration) -> Self {
        Self {
            signal,
            lasts,
            until: None,
        }
    }

    pub(super) fn has_come(&self) -> bool {
        *self.signal.borrow()
    }

    /// Waits until it comes, and then, until the moment is over; whether it is.
    pub(super) async fn comes(&mut self) -> bool {
        match self.until {
            Some(until) => {
                sleep_until(until.into()).await;
                true
            }
            None => {
                // Who could stop us is gone: that is a stop, too.
                let _ = self.signal.wait_for(|stops| *stops).await;
                self.until = Some(now() + self.lasts);
                false
            }
        }
    }
}
