//! What a daemon tells about itself, as types: the answers of the requests SUBSCRIBE, STATUS, EVENTS, DLQ,
//! END, INSTANCES, LEASE and PUBLISH, and of the HTTP pages `/stats`, `/subscriptions`, `/instances`,
//! `/readyz` and `/events`.
//!
//! The daemon fills them, everyone else reads them: the metrics, the command line, tests, clients. Only
//! serde and the standard library are used here. In JSON the names are in camelCase.
//!
//! **Daemons of other versions.** A field that the daemon didn't send has its default: zero, empty,
//! false or `None`. Fields that are not known here are ignored.

mod bridges;
mod calls;
mod events;
mod held_lease;
mod instances;
mod leadership;
mod letters;
mod mesh;
mod service;
mod stats;
mod status;
mod subscribed;

pub use bridges::{Bridge, BridgeState};
pub use calls::{CallResult, CallResults, CallStatus};
pub use events::{EventsPage, NotableEvent};
pub use held_lease::{HeldLease, KeptLeases};
pub use instances::{Instance, InstanceState, Instances};
pub use leadership::{InstancesPage, Lease, Turn};
pub use letters::{DeadLetter, DeadLetters, LetterAccount, LetterFrame, ServiceEnd};
pub use mesh::{Hub, Link, Mesh};
pub use service::{
    Counters, Dispatch, Durable, DurableReason, Held, Histogram, NamedWorker, Queue, QueueState,
    ServiceStatus, Subscription, Subscriptions, Workers,
};
pub use stats::{Check, Process, Readiness, Registration, RegistrationState, Stats};
pub use status::{
    Addresses, AwaitedSubscribers, ClientStatus, Connections, Dialled, Memory, OldPeer, Outboxes,
    Peers, Publishers, RefusedAgain, RequestTimes, Ring, Security, SlowPeer, StateDatabase, Status,
    Store, SubjectEvents, Subjects, Subscribers, Traces, ZmtpVersions,
};
pub use subscribed::SubscriptionTerms;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Clients of others read them: a name must not change, whatever its field is called here. Those of
    /// the status are pinned by `tests/it/status/shape.txt`.
    #[test]
    fn names_in_json_stay() {
        let page = EventsPage {
            events: vec![NotableEvent {
                fields: [("service".to_owned(), Value::from("A"))]
                    .into_iter()
                    .collect(),
                ..NotableEvent::default()
            }],
            ..EventsPage::default()
        };
        let expected = json!({
            "instance": "", "startedMs": 0, "eventsAfter": 0, "latest": 0, "missed": 0, "lostLines": 0,
            "events": [{
                "ts": "", "code": "", "type": "", "level": "", "instance": "", "seq": 0, "message": "",
                "service": "A",
            }],
        });
        assert_eq!(serde_json::to_value(&page).unwrap(), expected);

        let letter = DeadLetter {
            frames: Some(vec![
                LetterFrame::Text("text".into()),
                LetterFrame::Binary {
                    base64: "/w==".into(),
                },
            ]),
            ..DeadLetter::default()
        };
        let letters = DeadLetters {
            letters: vec![letter],
            stopped: Some("queue-full".into()),
            ..DeadLetters::default()
        };
        let expected = json!({
            "service": "", "next": null, "nowMs": 0, "lettersLost": 0, "stopped": "queue-full",
            "letters": [{
                "service": "", "subject": "", "reason": "", "detail": "", "attempts": 0,
                "firstDeliveryMs": null, "lastDeliveryMs": 0, "seq": 0, "timeMs": 0,
                "frames": ["text", {"base64": "/w=="}],
            }],
        });
        assert_eq!(serde_json::to_value(&letters).unwrap(), expected);
        assert_eq!(
            serde_json::from_value::<DeadLetters>(expected).unwrap(),
            letters
        );
        assert_eq!(
            serde_json::to_value(ServiceEnd::default()).unwrap(),
            json!({"service": "", "deadLetters": null})
        );

        let called = CallResults {
            results: vec![CallResult {
                status: CallStatus::Ack,
                data: Some("yes".into()),
                data_base64: Some("/w==".into()),
                data_bytes: Some(1),
                data_type: Some(Value::from(7)),
                ..CallResult::default()
            }],
            ..CallResults::default()
        };
        let expected = json!({
            "subject": "",
            "results": [{
                "service": "", "status": "ack", "data": "yes", "dataBase64": "/w==",
                "dataBytes": 1, "dataType": 7,
            }],
        });
        assert_eq!(serde_json::to_value(&called).unwrap(), expected);
    }

    #[test]
    fn daemons_of_other_versions_can_be_read() {
        let read = |text| serde_json::from_str::<Status>(text).unwrap();
        assert_eq!(read("{}"), Status::default());
        let status = read(
            r#"{"version": "9.9", "news": [1], "services": [
                {"name": "A", "durable": {"state": "molten", "because": "whim"}, "queue": {"events": 7}}
            ]}"#,
        );
        let service = status.service("A").unwrap();
        assert_eq!((service.queue.events, service.queue.bytes), (7, 0));
        let durable = service.durable.as_ref().unwrap();
        assert_eq!(
            (durable.state, durable.because),
            (QueueState::Unknown, DurableReason::Unknown)
        );
    }
}
