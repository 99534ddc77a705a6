//! A service's events on their way into its workers' outboxes.

use std::iter::once;
use std::ops::Range;
use std::time::Instant;

use crate::reactor::state::peers::Peers;
use crate::reactor::state::runs::Run;
use event_manager_core::broker::{Delivery, Given, PeerId, Service, WorkerKey};
use event_manager_wire::model::ServiceName;

/// Workers in turn, and their connections.
pub(crate) type Turns = Vec<(WorkerKey, PeerId)>;

/// A service, and the connections of its workers.
pub(crate) struct ToWorkers<'a> {
    service: &'a mut Service,
    peers: &'a mut Peers,
    /// An outbox may go over this by as much as a run; then its worker gets no more until it has read.
    outbox_bytes_max: usize,
}

impl<'a> ToWorkers<'a> {
    pub(crate) fn of(
        service: &'a mut Service,
        peers: &'a mut Peers,
        outbox_bytes_max: usize,
    ) -> Self {
        Self {
            service,
            peers,
            outbox_bytes_max,
        }
    }

    /// Gives a run to the workers, each event to the next of them; how many events found one.
    pub(crate) fn deal(&mut self, run: &Run<'_>, turns: &mut Turns) -> usize {
        if self.deal_in_turn(run, turns) {
            return run.ends.len();
        }
        for event in 0..run.ends.len() {
            let Some(worker) = self.service.workers.pick() else {
                return event;
            };
            self.push(worker, run, once(event..event + 1));
        }
        run.ends.len()
    }

    /// Gives the whole run to the workers in turn, each its share at once, if that is what dealing
    /// one by one would come to; whether it was.
    fn deal_in_turn(&mut self, run: &Run<'_>, turns: &mut Turns) -> bool {
        let events = run.ends.len();
        if !self.service.workers.pick_in_turn(events, turns) {
            return false;
        }
        if let [worker] = turns[..] {
            self.push(worker, run, once(0..events));
            return true;
        }
        for (first, worker) in turns.iter().enumerate() {
            let share = (first..events).step_by(turns.len());
            self.push(*worker, run, share.map(|event| event..event + 1));
        }
        true
    }

    /// Gives waiting events to workers that can take them; whether they are of a queue on
    /// disk.
    pub(crate) fn hand_out(
        &mut self,
        now: Instant,
        trace: impl Fn(&ServiceName, &Delivery),
    ) -> bool {
        let mut is_durable = false;
        while let Some((given, worker)) = self.service.dequeue(now) {
            match given {
                Given::Away(event) => {
                    let len = event.len();
                    self.peers.given(len);
                    self.push(worker, &Run::of_one(event, &[len]), once(0..1));
                }
                Given::Held(delivery) => {
                    is_durable |= delivery.seq.is_some();
                    self.peers.given(delivery.body.len());
                    trace(self.service.name(), &delivery);
                    self.push_held(worker, &delivery);
                }
                Given::UntilWritten(delivery) => {
                    is_durable = true;
                    let len = delivery.body.len();
                    self.peers.given(len);
                    trace(self.service.name(), &delivery);
                    let in_flight = self.service.account.in_flight;
                    self.push(worker, &Run::of_one(delivery.body, &[len]), once(0..1));
                    // It is held, and so in flight already.
                    self.service.account.in_flight = in_flight;
                }
            }
        }
        is_durable
    }

    /// To a worker that acknowledges.
    fn push_held(&mut self, (worker, id): (WorkerKey, PeerId), delivery: &Delivery) {
        let event_id = self.service.event_id_for(worker, delivery.seq);
        let peer = self.peers.outgoing_to_worker(id);
        peer.push_held(worker, delivery, event_id.as_deref());
        if peer.outbox.bytes() > self.outbox_bytes_max {
            peer.set_open(&mut self.service.workers, false);
        }
    }

    /// Appends stretches of the run's events to a worker's outbox.
    fn push(
        &mut self,
        (worker, id): (WorkerKey, PeerId),
        run: &Run<'_>,
        stretches: impl Iterator<Item = Range<usize>>,
    ) {
        let peer = self.peers.outgoing_to_worker(id);
        let before = peer.outbox.events();
        for events in stretches {
            peer.push_to_worker(worker, run, events);
        }
        self.service.account.in_flight += peer.outbox.events() - before;
        if peer.outbox.bytes() > self.outbox_bytes_max {
            peer.set_open(&mut self.service.workers, false);
        }
    }
}
