//! Dead letters: events that no worker could process are published and kept.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use crate::ambient::{now, wall_clock_ms};
use crate::reactor::hub::Hub;
use crate::reactor::report::spans::trace_dead;
use crate::reactor::state::runs::Run;
use crate::telemetry::Notable;
use event_manager_core::broker::{DeadLetter, ServiceKey};
use event_manager_core::seq::Seq;
use event_manager_core::store::Event;
use event_manager_wire::api::LetterAccount;
use event_manager_wire::model::{ServiceName, subject_of};
use event_manager_zmtp::{encode_frame, frames};

/// More than the JSON of a letter has beside its event's subject, in bytes.
const ACCOUNT_BYTES_MAX: usize = 16 << 10;

impl Hub {
    /// Publishes dead events under the subject of the service's dead letters, each as a frame of JSON that
    /// says what happened, followed by the event's own frames, and keeps them.
    pub(crate) fn dead_letters(&mut self, key: ServiceKey, dead: Vec<DeadLetter>) {
        let name = self.broker[key].name().clone();
        let subject_max = self.config.limits.subject_bytes_max;
        for letter in dead {
            let body = letter.item.body.clone();
            let subject = frames(&body).next().map_or(&[][..], subject_of);
            // No more than counts as the subject, or all of a large frame would be told and kept twice.
            let shown = &subject[..subject.len().min(subject_max)];
            let shown_text = String::from_utf8_lossy(shown);
            self.notes
                .burst_of("dead", &name, |suppressed| Notable::DeadLetter {
                    service: name.as_str(),
                    reason: letter.reason.name(),
                    detail: Some(&*letter.detail).filter(|detail| !detail.is_empty()),
                    attempts: letter.item.attempt,
                    subject: &shown_text,
                    suppressed,
                });
            trace_dead(self.notes.tracer(), subject_max, &name, &letter);
            let account = account_of(&name, shown, &letter);
            let kept = Event {
                id: None,
                attributes: account.clone(),
                body: body.clone(),
            };
            self.keep_letter(&name, letter.item.seq, kept);
            // A service that hears its own dead letters would make new ones of them for ever.
            if !self.is_letter(subject, &body) {
                self.publish_letter(key, &account, &body);
            }
        }
    }

    /// Whether an event is a dead letter itself. Where services choose the subject it may be that of other
    /// events, too, whose letters have to be told.
    fn is_letter(&self, subject: &[u8], event: &[u8]) -> bool {
        let longest = ACCOUNT_BYTES_MAX + 16 * self.config.limits.subject_bytes_max;
        let account = || frames(event).nth(1).filter(|frame| frame.len() <= longest);
        subject.ends_with(ServiceName::DEAD_LETTERS.as_bytes())
            || (self.broker.is_chosen_for_letters(subject) && account().is_some_and(is_account))
    }

    /// Keeps a dead letter, with the next flush.
    fn keep_letter(&mut self, service: &ServiceName, seq: Option<Seq>, letter: Event) {
        let queues = &mut self.durable.queues;
        if queues.has_store() {
            queues.keep_letter(&mut self.broker, service, seq, letter);
        } else if !self.config.state_dir.as_os_str().is_empty() {
            // Somebody asked for them to be kept.
            queues.lose_letter(
                &mut self.broker,
                service,
                "the state directory can't be used",
            );
        }
        self.carry_out();
    }

    /// A letter goes to everybody whom an event of a publisher would go to.
    fn publish_letter(&mut self, service: ServiceKey, account: &[u8], event: &[u8]) {
        let subject = self.broker[service].dead_letter_subject().into_owned();
        let route = self.broker.routes.route(subject.as_bytes());
        if route.is_empty() && !self.saved.subscribers.is_awaited() {
            return;
        }
        let mut message = BytesMut::new();
        encode_frame(&mut message, subject.as_bytes(), true);
        encode_frame(&mut message, account, true);
        message.extend_from_slice(event);
        let end = [message.len()];
        self.deliver_or_hold(&route, &Run::of_one(message.freeze(), &end));
    }
}

/// Whether this is the JSON that a published letter has.
fn is_account(frame: &[u8]) -> bool {
    let account = serde_json::from_slice::<LetterAccount>(frame);
    account.is_ok_and(|account| !account.service.is_empty() && !account.reason.is_empty())
}

/// What happened to a dead event, in JSON.
fn account_of(service: &ServiceName, subject: &[u8], letter: &DeadLetter) -> Bytes {
    let (here, there) = (now(), wall_clock_ms());
    let at_ms = |at: Instant| {
        let ago = here.saturating_duration_since(at).as_millis() as u64;
        there.saturating_sub(ago)
    };
    let account = LetterAccount {
        service: service.to_string(),
        subject: String::from_utf8_lossy(subject).into_owned(),
        reason: letter.reason.name().to_owned(),
        detail: letter.detail.to_string(),
        attempts: letter.item.attempt,
        first_delivery_ms: letter.item.first_at.map(at_ms),
        last_delivery_ms: at_ms(letter.last_at),
    };
    serde_json::to_vec(&account).unwrap_or_default().into()
}
