//! Stopping follows the data: nothing new comes in, what is here goes out, then all ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::persistence::Keeping;
use crate::ambient::now;
use crate::reactor::Undelivered;
use crate::reactor::hub::{Hub, SharedHub};
use crate::reactor::sockets::Sockets;
use crate::reactor::state::effects::Input;
use crate::reactor::state::peer::{Peer, Role};
use crate::reactor::state::phase::Phase;
use crate::telemetry::Notable;
use event_manager_core::locator::Directory;

/// How long publishers may go on at most, so that what they have sent already is read.
const LAST_READS: Duration = Duration::from_millis(250);
/// A publisher that was silent for this long has nothing under way on a local network.
const SILENCE: Duration = Duration::from_millis(20);
/// How often to look whether all is delivered.
const LOOK: Duration = Duration::from_millis(5);

/// Ends the reactor's work within `timeout`.
pub(crate) async fn stop(
    hub: &SharedHub,
    sockets: Sockets,
    dialling: &[JoinHandle<()>],
    mut inputs: mpsc::Receiver<Input>,
    timeout: Duration,
) -> Undelivered {
    let deadline = Instant::now() + timeout;
    hub.borrow_mut().drain();
    hub.borrow_mut().let_publishers_in();
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
    let drained = timeout_at(deadline, async {
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
    let events = state.report_undelivered();
    Keeping::of(&mut state).keep();
    // Of workers no more is to be kept than that.
    state.end_workers();
    state.flush_store();
    state.note_tries();
    state.streamers.close_all();
    drop((subscribers, requests, locator));
    Undelivered {
        events,
        in_a_hurry: drained.is_err(),
    }
}

async fn hear_last_events(hub: &SharedHub, deadline: Instant) {
    let mut heard = hub.borrow().accounts.published.bytes;
    while Instant::now() < deadline && hub.borrow().peers.publishers().next().is_some() {
        sleep(SILENCE).await;
        let now_heard = hub.borrow().accounts.published.bytes;
        if now_heard == heard {
            return;
        }
        heard = now_heard;
    }
}

impl Hub {
    /// Nothing new is taken on, and the embedded locator doesn't lead anyone here any more.
    fn drain(&mut self) {
        self.phase = Phase::Draining;
        self.site.directory.iter_mut().for_each(Directory::end_own);
    }

    fn remove_publishers(&mut self) {
        let ids: Vec<_> = self.peers.publishers().map(|peer| peer.id).collect();
        ids.into_iter().for_each(|id| self.remove(id));
    }

    /// No worker is given anything any more. What was not written to one was no try; what it holds is
    /// noted as it is, for the next run.
    fn end_workers(&mut self) {
        self.phase = Phase::Ended;
        let now = now();
        for peer in self.peers.iter_mut() {
            // Of what waits behind a proxy it isn't told here whose it is: it counts as tried.
            let Role::Worker {
                service,
                key,
                envelope,
                proxied: None,
            } = &peer.role
            else {
                continue;
            };
            let (service, key) = (*service, *key);
            let acknowledges = envelope.is_some_and(|envelope| envelope.acknowledges);
            let (unwritten, written) = peer.outbox.take_unwritten();
            let service = &mut self.broker[service];
            // The broker gives its events again.
            if service.spill.is_none() {
                continue;
            }
            if acknowledges {
                service.queue.not_written(Peer::deliveries(&unwritten));
                continue;
            }
            let aftermath = service.written(key, written, now);
            let settled = aftermath.settled;
            self.durable.queues.settle(service.name(), settled);
            let unwritten: Vec<_> = service.queue.held_by(key).collect();
            service.queue.not_written(unwritten);
        }
        for (_, service) in self.broker.services() {
            self.durable.tried(service);
        }
    }

    fn take_while_stopping(&mut self, input: Input) {
        match input {
            Input::Answer { ticket, answer } => self.complete(ticket, &answer),
            Input::Store(report) => self.hear_store(report),
            Input::Status(lists, reply) => self.tell_status(lists, reply),
            Input::Subscriptions(asked) => self.tell_subscriptions(asked),
            Input::Subjects(asked) => self.tell_subjects(asked),
            // Too late: its sender sees that nobody answers.
            Input::Bridges(bridges) => self.hear_bridges(bridges),
            Input::Instances(news) => self.take_instances(*news),
            Input::AskInstances(reply) => {
                let _ = reply.send(Arc::clone(&self.site.instances));
            }
            Input::Publish(_)
            | Input::Serve(_)
            | Input::Hand(_)
            | Input::Return(_)
            | Input::AskLinks(_)
            | Input::TellHere(_)
            | Input::Attach(_)
            | Input::Reload(..)
            | Input::Keys(_)
            | Input::Stop(_) => {}
        }
    }

    /// Whether nothing is left that could be delivered. Events for which there is no worker don't
    /// hold up the end.
    fn is_drained(&self) -> bool {
        self.peers.iter().all(|peer| peer.outbox.is_empty())
            && self.requests.replies.len() == 0
            && self.durable.queues.is_idle()
            && self
                .broker
                .services()
                // What another broker gave goes back there by itself.
                .all(|(_, service)| service.taken.is_some() || service.is_idle(now()))
    }

    /// Notes what was not delivered; the number of events.
    fn report_undelivered(&mut self) -> u64 {
        let live = self
            .broker
            .services()
            .filter(|(_, service)| !service.is_kept());
        let left: Vec<_> = live
            .map(|(_, service)| {
                let waiting = service.queue.len() + service.queue.held();
                let left = waiting as u64 + service.account.in_flight;
                (service.name().clone(), left)
            })
            .filter(|(_, left)| *left > 0)
            .collect();
        let mut all = self.accounts.subscribers.in_flight;
        for (name, events) in left {
            all += events;
            self.notes
                .burst_of("undelivered", &name, |suppressed| Notable::Undelivered {
                    service: name.as_str(),
                    events,
                    suppressed,
                });
        }
        if self.accounts.subscribers.in_flight > 0 {
            self.notes.note(&Notable::UndeliveredToSubscribers {
                events: self.accounts.subscribers.in_flight,
            });
        }
        all
    }
}
