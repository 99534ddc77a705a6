//! Requests that are answered when no crash can take back what the answer says: END, and SUBSCRIBE to a
//! durable service.

use crate::ambient::now;
use crate::reactor::hub::{Hub, SharedHub};
use crate::reactor::state::promises::{Promised, Resolved};
use crate::reactor::state::replies::ReturnAddress;
use event_manager_core::broker::EndedService;
use event_manager_core::store::QueueId;
use event_manager_wire::messagebus::Message;
use event_manager_wire::model::{ServiceName, SubscriptionId};

/// Answers as soon as the state database has what was promised.
pub(crate) async fn hear_of_state(hub: SharedHub) {
    let written = hub.borrow().saved.written();
    let Some(written) = written else {
        return std::future::pending().await;
    };
    loop {
        written.notified().await;
        hub.borrow_mut().tend_promises();
    }
}

impl Hub {
    /// A service was ended by a request and is gone from memory: answers when it is gone from disk.
    pub(crate) fn promise_end(&mut self, service: ServiceName, back: ReturnAddress) {
        let queue = self.durable.queues.removing(&service).cloned();
        self.promise_that(Promised::End { service, queue }, back);
    }

    /// A durable service was subscribed to: answers when no crash can take that back.
    pub(crate) fn promise_subscription(
        &mut self,
        id: SubscriptionId,
        answer: Message,
        back: ReturnAddress,
    ) {
        self.promise_that(Promised::Subscription { id, answer }, back);
    }

    /// A lease was acquired: answers when no crash can take its token back.
    pub(crate) fn promise_lease(
        &mut self,
        name: ServiceName,
        answer: Message,
        back: ReturnAddress,
    ) {
        self.promise_that(Promised::Lease { name, answer }, back);
    }

    fn promise_that(&mut self, what: Promised, back: ReturnAddress) {
        if let Some(ticket) = self.promise(back) {
            self.requests.promises.add(what, ticket, now());
            self.tend_promises();
        }
    }

    /// Answers those requests that are durable now, and those that have waited too long.
    pub(crate) fn tend_promises(&mut self) {
        if self.requests.promises.is_empty() {
            return;
        }
        for kept in self.requests.promises.take_resolved(&self.saved, now()) {
            self.answer_promise(kept);
        }
    }

    fn answer_promise(&mut self, kept: Resolved) {
        match kept {
            Resolved::Ended(service, ticket) => self.answer_end(service, ticket),
            Resolved::Answer(answer, ticket) => self.complete(ticket, &answer),
        }
    }

    /// The store has removed a queue, or could not.
    pub(crate) fn queue_removed(&mut self, removed: &QueueId, error: Option<String>) {
        if let Some(failed) = self.requests.promises.queue_removed(removed, error) {
            self.answer_promise(failed);
        }
        self.tend_promises();
    }

    /// The queue of a service that has ended goes, and all that waits for the disk on its account.
    /// What was told of its events was handed to the store already.
    pub(crate) fn remove_queue(&mut self, ended: &EndedService) {
        self.durable.queues.remove(&ended.name);
        self.carry_out();
    }
}
