//! Events that no worker could do.

use std::time::Instant;

use bytes::Bytes;
use serde_json::json;

use super::deliver::Run;
use super::hub::Hub;
use crate::ambient::{now, wall_clock_ms};
use crate::broker::{DeadLetter, ServiceKey};
use crate::model::{ServiceName, subject_of};
use crate::store::Event;
use crate::telemetry::Notable;
use crate::zmtp::{encode_message, frames_of};

impl Hub {
    /// Tells others of dead events: each is published under the service's name with `.DLQ`, as a frame
    /// of JSON that says what happened and then the event's own frames.
    pub(super) fn bury_dead(&mut self, key: ServiceKey, dead: Vec<DeadLetter>) {
        let Some(service) = self.broker.service(key) else {
            return;
        };
        let name = service.name().clone();
        for letter in dead {
            let frames = frames_of(&letter.item.body);
            let subject = frames.first().map(|first| subject_of(first).to_vec());
            let subject = subject.unwrap_or_default();
            // No more than counts as the subject, or all of a large frame would be told and kept twice.
            let shown_max = self.config.limits.subject_bytes_max;
            let shown = &subject[..subject.len().min(shown_max)];
            let burst = format!("dead:{name}");
            if let Some(suppressed) = self.bursts.admit(&burst, self.now) {
                self.journal.note(&Notable::DeadLetter {
                    service: name.as_str(),
                    reason: letter.reason.name(),
                    detail: Some(&*letter.detail).filter(|detail| !detail.is_empty()),
                    attempts: letter.item.attempt,
                    subject: &String::from_utf8_lossy(shown),
                    suppressed,
                });
            }
            self.trace_dead(&name, &letter);
            let account = account_of(&name, shown, &letter);
            let kept = Event {
                id: None,
                attributes: account.clone(),
                body: letter.item.body.clone(),
            };
            self.keep_dead(&name, letter.item.seq, kept);
            // A service that hears its own dead letters would make new ones of them for ever.
            if !subject.ends_with(ServiceName::DEAD_LETTERS.as_bytes()) {
                let head = [
                    Bytes::from(format!("{name}{}", ServiceName::DEAD_LETTERS)),
                    account,
                ];
                let all: Vec<_> = head.iter().chain(&frames).collect();
                self.publish_own(&encode_message(&all));
            }
        }
    }

    /// An event of our own goes to everybody whom one of a publisher would go to.
    pub(super) fn publish_own(&mut self, message: &Bytes) {
        let frames = frames_of(message);
        let Some(first) = frames.first() else { return };
        let key = self.broker.routes.key_of(first).to_vec();
        let route = self.broker.routes.route(&key);
        let run = Run {
            bytes: message.clone(),
            ends: &[message.len()],
            backing_bytes: message.len(),
        };
        self.deliver(&route, &run);
    }
}

/// What happened to a dead event, in JSON.
fn account_of(service: &ServiceName, subject: &[u8], letter: &DeadLetter) -> Bytes {
    let (here, there) = (now(), wall_clock_ms());
    let at_ms = |at: Instant| there - here.saturating_duration_since(at).as_millis() as u64;
    json!({
        "service": service.as_str(),
        "subject": String::from_utf8_lossy(subject),
        "reason": letter.reason.name(),
        "detail": letter.detail,
        "attempts": letter.item.attempt,
        "firstDeliveryMs": letter.item.first_at.map(at_ms),
        "lastDeliveryMs": at_ms(letter.last_at),
    })
    .to_string()
    .into()
}
