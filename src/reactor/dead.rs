//! Events that no worker could do.

use bytes::Bytes;
use serde_json::json;

use super::deliver::Run;
use super::hub::Hub;
use crate::broker::{DeadLetter, ServiceKey};
use crate::model::subject_of;
use crate::zmtp::{encode_message, frames_of};

/// What the subject of an event about a dead letter ends with.
const DLQ: &str = ".DLQ";

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
            let burst = format!("dead:{name}");
            if let Some(suppressed) = self.bursts.admit(&burst, self.now) {
                tracing::warn!(service = %name, reason = %letter.reason, detail = letter.detail,
                    attempts = letter.item.attempt, subject = %String::from_utf8_lossy(&subject),
                    suppressed, "an event is dead: no worker could do it");
            }
            // A service that hears its own dead letters would make new ones of them for ever.
            if !subject.ends_with(DLQ.as_bytes()) {
                self.publish_dead(name.as_str(), &subject, &letter, &frames);
            }
        }
    }

    fn publish_dead(
        &mut self,
        service: &str,
        subject: &[u8],
        letter: &DeadLetter,
        frames: &[Bytes],
    ) {
        let ago =
            |at: std::time::Instant| self.now.saturating_duration_since(at).as_millis() as u64;
        let account = json!({
            "service": service,
            "subject": String::from_utf8_lossy(subject),
            "reason": letter.reason.name(),
            "detail": letter.detail,
            "attempts": letter.item.attempt,
            "firstDeliveryMsAgo": letter.item.first_at.map(ago),
            "lastDeliveryMsAgo": ago(letter.last_at),
        });
        let head = [
            Bytes::from(format!("{service}{DLQ}")),
            account.to_string().into(),
        ];
        let all: Vec<_> = head.iter().chain(frames).collect();
        self.publish_own(&encode_message(&all));
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
