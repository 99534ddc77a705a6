//! Answers that wait until no crash can take back what they say: that a durable service has ended, or
//! was subscribed to.

use std::time::{Duration, Instant};

use super::replies::Ticket;
use super::saved::Saved;
use event_manager_core::store::QueueId;
use event_manager_wire::messagebus::Message;
use event_manager_wire::model::{ServiceName, SubscriptionId};

/// For how long a client waits to hear that what it asked for is durable.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a NAK says of an end that a crash may take back.
const NOT_DURABLE: &str = "the service has ended, but may come back after a crash";

/// What a NAK says of either, if the state database is to blame.
const NOT_WRITTEN: &str = "the state database could not be written yet";

/// An answer that waits.
struct Promise {
    what: Promised,
    ticket: Ticket,
    /// The state database has it when it has all up to here; none while it was not told.
    mark: Option<u64>,
    until: Instant,
}

/// What is answered when it is durable.
pub(crate) enum Promised {
    /// The service doesn't come back.
    End {
        service: ServiceName,
        /// The queue that is still to be removed.
        queue: Option<QueueId>,
    },
    /// The subscription does.
    Subscription { id: SubscriptionId, answer: Message },
    /// The token of a lease is given to nobody else.
    Lease { name: ServiceName, answer: Message },
}

/// What a promise came to, well or not.
#[derive(Debug, PartialEq)]
pub(crate) enum Resolved {
    /// The service has ended for good.
    Ended(ServiceName, Ticket),
    /// What the request is answered.
    Answer(Message, Ticket),
}

/// All answers that wait; as many as requests may.
#[derive(Default)]
pub(crate) struct Promises(Vec<Promise>);

impl Promises {
    pub(crate) fn add(&mut self, what: Promised, ticket: Ticket, now: Instant) {
        self.0.push(Promise {
            what,
            ticket,
            mark: None,
            until: now + PATIENCE,
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes out those that are durable now, and those that have waited too long.
    pub(crate) fn take_resolved(&mut self, saved: &Saved, now: Instant) -> Vec<Resolved> {
        let mut kept = vec![];
        for mut promise in std::mem::take(&mut self.0) {
            promise.mark = promise.mark.or_else(|| match &promise.what {
                Promised::End { service, .. } => saved.mark_of_end(service),
                Promised::Subscription { id, .. } => saved.mark_of_subscription(id),
                Promised::Lease { name, .. } => saved.mark_of_lease(name),
            });
            let is_written = promise.mark.is_some_and(|mark| saved.has_written(mark));
            match promise.end(is_written, now) {
                Some(end) => kept.push(end),
                None => self.0.push(promise),
            }
        }
        kept
    }

    /// The store has removed a queue, or could not: then that is answered at once.
    pub(crate) fn queue_removed(
        &mut self,
        removed: &QueueId,
        error: Option<String>,
    ) -> Option<Resolved> {
        let of_it = |promise: &Promise| matches!(&promise.what, Promised::End { queue, .. } if queue.as_ref() == Some(removed));
        let at = self.0.iter().position(of_it)?;
        if let Some(error) = error {
            let promise = self.0.remove(at);
            let why = format!("{removed}: {NOT_DURABLE}: its queue could not be deleted: {error}");
            return Some(promise.fails(why));
        }
        if let Promised::End { queue, .. } = &mut self.0[at].what {
            *queue = None;
        }
        None
    }
}

impl Promise {
    /// Its end, if it has come.
    fn end(&self, is_written: bool, now: Instant) -> Option<Resolved> {
        let is_late = self.until <= now;
        match &self.what {
            Promised::End {
                service,
                queue: None,
            } if is_written => Some(Resolved::Ended(service.clone(), self.ticket)),
            Promised::Subscription { answer, .. } | Promised::Lease { answer, .. }
                if is_written =>
            {
                Some(Resolved::Answer(answer.clone(), self.ticket))
            }
            Promised::End { service, queue } if is_late => {
                let what = match queue.is_some() {
                    true => "its queue could not be deleted yet",
                    false => NOT_WRITTEN,
                };
                Some(self.fails(format!("{service}: {NOT_DURABLE}: {what}")))
            }
            Promised::Subscription { id, .. } if is_late => {
                let why = format!(
                    "{id}: it is subscribed, but a crash may take that back: {NOT_WRITTEN}"
                );
                Some(self.fails(why))
            }
            Promised::Lease { name, .. } if is_late => {
                let why = format!(
                    "{name}: the lease is not given before its token is on disk: {NOT_WRITTEN}"
                );
                Some(self.fails(why))
            }
            _ => None,
        }
    }

    fn fails(&self, why: String) -> Resolved {
        Resolved::Answer(Message::nak("store-failed", why), self.ticket)
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]
mod tests {
    use super::super::replies::PendingReplies;
    use super::*;
    use event_manager_wire::messagebus::{DataType, Token};

    fn queue(name: &str) -> QueueId {
        QueueId {
            name: ServiceName::new(name).unwrap(),
            generation: 1,
        }
    }

    fn end_of(queue: &QueueId) -> Promised {
        Promised::End {
            service: queue.name.clone(),
            queue: Some(queue.clone()),
        }
    }

    fn is_nak(kept: &Resolved) -> bool {
        matches!(kept, Resolved::Answer(answer, _) if answer.token.is(Token::NAK))
    }

    #[test]
    fn an_end_waits_for_its_queue_and_a_subscription_for_the_database_alone() {
        let (now, saved) = (Instant::now(), Saved::default());
        let ticket = PendingReplies::new(1).ticket();
        let mut promises = Promises::default();
        promises.add(end_of(&queue("s")), ticket, now);
        let answer = Message::ack(DataType::String, "yes");
        let subscription = Promised::Subscription {
            id: SubscriptionId::new("id").unwrap(),
            answer: answer.clone(),
        };
        promises.add(subscription, ticket, now);
        // Without a database all is written that ever will be.
        let kept = promises.take_resolved(&saved, now);
        assert_eq!(kept, [Resolved::Answer(answer, ticket)]);
        assert_eq!(promises.queue_removed(&queue("other"), None), None);
        assert_eq!(promises.take_resolved(&saved, now), []);
        assert_eq!(promises.queue_removed(&queue("s"), None), None);
        let ended = Resolved::Ended(queue("s").name, ticket);
        assert_eq!(promises.take_resolved(&saved, now), [ended]);
        assert!(promises.is_empty());
    }

    #[test]
    fn what_fails_or_takes_too_long_is_refused() {
        let (now, saved) = (Instant::now(), Saved::default());
        let ticket = PendingReplies::new(1).ticket();
        let mut promises = Promises::default();
        promises.add(end_of(&queue("late")), ticket, now);
        promises.add(end_of(&queue("broken")), ticket, now);
        let error = Some("no such disk".to_owned());
        let failed = promises.queue_removed(&queue("broken"), error);
        assert!(is_nak(&failed.unwrap()));
        let just_before = now + PATIENCE - Duration::from_millis(1);
        assert_eq!(promises.take_resolved(&saved, just_before), []);
        let late = promises.take_resolved(&saved, now + PATIENCE);
        assert!(late.len() == 1 && is_nak(&late[0]));
        assert!(promises.is_empty());
    }
}
