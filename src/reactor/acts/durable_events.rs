//! Events that are kept on disk. What comes for durable services, and what their workers do, is told to
//! the [`Queues`](event_manager_core::queues::Queues), which decide. What they decide is carried out here.
//!
//! An event of a durable service goes to the store first, and to the service's backlog when it is on
//! disk: no crash can take back what a worker gets. All that came since the last flush is one append
//! for each service. While too much waits for the disk, publishers are not read from.

use crate::reactor::hub::Hub;
use event_manager_core::broker::{Aftermath, ServiceKey};
use event_manager_core::queues::Effect;
use event_manager_core::seq::Seq;
use event_manager_core::store::Report;
use event_manager_wire::model::ServiceName;

impl Hub {
    /// Has the store open the queues of all durable services.
    pub(crate) fn open_queues(&mut self) {
        for (_, service) in self.broker.services() {
            self.durable.open(service, &self.config);
        }
    }

    /// Has the store open the service's queue, if it has one that isn't open.
    pub(crate) fn open_queue(&mut self, service: &ServiceName) {
        if let Some(key) = self.broker.find(service) {
            self.durable.open(&self.broker[key], &self.config);
        }
    }

    /// Hands the store what came and what is done since the last time.
    pub(crate) fn flush_store(&mut self) {
        self.durable.flush(&self.config);
    }

    /// What did not work a while ago is tried again: queues are opened, and read.
    pub(crate) fn tend_queues(&mut self) {
        let now = self.time.now;
        self.durable.try_again(&mut self.broker, now, &self.config);
        self.carry_out();
    }

    /// Tells the store how often events were tried that are not done.
    pub(crate) fn note_tries(&mut self) {
        self.look_at_clock();
        let stops = self.phase.has_ended();
        self.durable
            .note_tries(&mut self.broker, stops, &self.config);
    }

    /// Settles events that are done with, and publishes dead ones. That may end connections.
    pub(crate) fn finish(&mut self, key: ServiceKey, aftermath: Aftermath) {
        let service = &self.broker[key];
        self.durable.tried(service);
        if !aftermath.settled.is_empty() {
            self.settle(key, aftermath.settled);
        }
        if !aftermath.dead.is_empty() {
            self.refused_by_engine(key, &aftermath.dead);
            self.dead_letters(key, aftermath.dead);
        }
    }

    /// Events are done with: whoever keeps them is told.
    pub(crate) fn settle(&mut self, key: ServiceKey, seqs: impl IntoIterator<Item = Seq>) {
        let service = &mut self.broker[key];
        if service.taken.is_some() {
            return self.served.settle(service, key, seqs);
        }
        self.durable.queues.settle(service.name(), seqs);
        self.peers.want_flush();
    }

    /// Takes a report of the store.
    pub(crate) fn hear_store(&mut self, report: Report) {
        // It may be of a queue that is open now, with times of its events.
        self.look_at_clock();
        let now = self.time.now;
        self.durable
            .hear(&mut self.broker, report, now, &self.config);
        self.carry_out();
    }

    /// Carries out what the queues decided.
    pub(crate) fn carry_out(&mut self) {
        while let Some(effect) = self.durable.queues.next_effect() {
            match effect {
                Effect::Dispatch(key) => self.dispatch(key),
                Effect::WakePublishers => self.peers.wake_publishers(),
                Effect::Confirm {
                    emission,
                    queue,
                    result,
                    seq,
                } => self.confirm(emission, &queue, result, seq),
                Effect::Found { service, events } => self.note_if_left(service, events),
                Effect::Dropped { service, before } => {
                    self.notes.dropped_since(&self.broker[service], &before)
                }
                Effect::Read {
                    request,
                    queue,
                    events,
                    unsettled,
                } => self.letters_read(request, &queue, events, unsettled),
                Effect::NotRead { request, reason } => self.letters_not_read(request, &reason),
                Effect::Replayed(request) => self.replayed(request),
                Effect::NotReplayed { request, reason } => self.not_replayed(request, &reason),
                Effect::TakenLetter {
                    service,
                    number,
                    is_kept,
                } => self.taken_letter(&service, number, is_kept),
                Effect::Removed { queue, error } => {
                    if let Some(error) = &error {
                        tracing::error!(target: "em.store", %queue, error, "a queue could not be removed");
                    }
                    self.queue_removed(&queue, error);
                }
                Effect::Note(note) => self.notes.queue(note),
            }
        }
        if self.durable.queues.wants_flush() {
            self.peers.want_flush();
        }
    }
}
