//! Stopping follows the data: nothing new comes in, what is here goes out, then all ends.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::Sockets;
use super::effects::Input;
use super::hub::{Hub, SharedHub};
use super::peer::Role;
use crate::ambient::now;

/// How long publishers may go on at most, so that what they have sent already is read.
const LAST_READS: Duration = Duration::from_millis(250);
/// A publisher that was silent for this long has nothing under way on a local network.
const SILENCE: Duration = Duration::from_millis(20);
/// How often to look whether all is delivered.
const LOOK: Duration = Duration::from_millis(5);

/// Ends the reactor's work within `timeout`.
pub(super) async fn stop(
    hub: &SharedHub,
    sockets: Sockets,
    dialling: &[JoinHandle<()>],
    mut inputs: mpsc::Receiver<Input>,
    timeout: Duration,
) {
    let deadline = Instant::now() + timeout;
    hub.borrow_mut().draining = true;
    let Sockets {
        publishers,
        subscribers,
        requests,
        locator,
    } = sockets;
    drop(publishers);
    hear_last_events(hub, deadline.min(Instant::now() + LAST_READS)).await;
    dialling.iter().for_each(JoinHandle::abort);
    hub.borrow_mut().remove_publishers();
    let _ = timeout_at(deadline, async {
        while !hub.borrow().is_drained() {
            tokio::select! {
                () = sleep(LOOK) => {}
                Some(input) = inputs.recv() => hub.borrow_mut().take_while_stopping(input),
            }
        }
    })
    .await;
    let mut state = hub.borrow_mut();
    state.refuse_pending();
    // What is done by now is noted still.
    state.flush_store();
    state.report_undelivered();
    state.keep_changes();
    state.streamers.close_all();
    drop((subscribers, requests, locator));
}

async fn hear_last_events(hub: &SharedHub, deadline: Instant) {
    let mut heard = hub.borrow().published.bytes;
    while Instant::now() < deadline && hub.borrow().has_publishers() {
        sleep(SILENCE).await;
        let now_heard = hub.borrow().published.bytes;
        if now_heard == heard {
            return;
        }
        heard = now_heard;
    }
}

impl Hub {
    fn has_publishers(&self) -> bool {
        self.peers
            .iter()
            .any(|(_, peer)| matches!(peer.role, Role::Publisher))
    }

    fn remove_publishers(&mut self) {
        let publishers = self
            .peers
            .iter()
            .filter(|(_, peer)| matches!(peer.role, Role::Publisher));
        let ids: Vec<_> = publishers.map(|(_, peer)| peer.id).collect();
        ids.into_iter().for_each(|id| self.remove(id));
    }

    fn take_while_stopping(&mut self, input: Input) {
        match input {
            Input::Answer { ticket, answer } => self.complete(ticket, &answer),
            Input::Store(report) => self.hear_store(report),
            Input::Status(reply) => self.tell_status(reply),
            Input::Stop(_) => {}
        }
    }

    /// Whether nothing is left that could be delivered. Events for which there is no worker don't
    /// hold up the end.
    fn is_drained(&self) -> bool {
        self.peers.iter().all(|(_, peer)| peer.outbox.is_empty())
            && self.pending_replies.len() == 0
            && self.durable.is_idle()
            && self
                .broker
                .services()
                .all(|(_, service)| service.is_idle(now()))
    }

    fn report_undelivered(&self) {
        let live = self
            .broker
            .services()
            .filter(|(_, service)| service.shelf.is_none());
        for (_, service) in live {
            let waiting = service.queue.len() + service.queue.held();
            let left = waiting as u64 + service.account.in_flight;
            if left > 0 {
                tracing::warn!(service = %service.name(), events = left, "events not delivered: the event manager stopped");
            }
        }
        if self.subscribers.in_flight > 0 {
            let events = self.subscribers.in_flight;
            tracing::warn!(
                events,
                "events not delivered to subscribers: the event manager stopped"
            );
        }
    }
}
