//! Sync events: every subscribed service is called at the same time.

use std::time::Instant;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;
use tokio::task::JoinSet;

use super::locator::{LocateError, LocatorClient};
use crate::ambient::now;
use crate::traces::{CallTrace, Tracer};
use event_manager_client::{CallError, Caller, ClientKeys};
use event_manager_core::requests::SyncEvent;
use event_manager_wire::api::{CallResult, CallResults, CallStatus};
use event_manager_wire::messagebus::{
    DataType, Layout, Message, Token, decode, encode, shown_type,
};
use event_manager_wire::model::{EXCERPT_BYTES_MAX, ServiceName};

/// Calls the event's services and waits for all, or for the first ACK if that is enough, until the
/// event's timeout; the answer to its
/// publisher. Each is called with its keys, if it has any. One that hangs delays this answer and nothing else.
pub async fn call_services(
    (event, keys): (SyncEvent, Vec<Option<ClientKeys>>),
    caller: Caller,
    locator: LocatorClient,
    tracer: Tracer,
) -> Message {
    let deadline = now() + event.timeout;
    let payload = &event.message.data;
    let mut trace = CallTrace::begin(&tracer, &event.subject, payload, &event.services);
    let mut calls = JoinSet::new();
    for (index, (service, keys)) in event.services.into_iter().zip(keys).enumerate() {
        let (caller, locator, message) = (caller.clone(), locator.clone(), event.message.clone());
        calls.spawn(async move {
            (
                index,
                call_service((service, keys), &message, &caller, &locator, deadline).await,
            )
        });
    }
    let is_ack = |result: &CallResult| result.status == CallStatus::Ack;
    let (first, called) = (event.first, calls.len());
    let mut results = vec![];
    let mut room = event.answers_bytes_max;
    while let Some(result) = calls.join_next().await {
        let Ok((index, result)) = result else {
            continue;
        };
        let result = (index, result.shown_within(&mut room));
        let enough = first && is_ack(&result.1);
        if let Some(trace) = &mut trace {
            trace.answered(&result.1.service, result.1.status.name());
        }
        results.push(result);
        if enough {
            break;
        }
    }
    // Calls that nobody waits for any more end with the set; what they sent, they sent.
    drop(calls);
    results.sort_by_key(|(index, _)| *index);
    let acked = match first && called > 0 {
        true => results.iter().any(|(_, result)| is_ack(result)),
        false => results.len() == called && results.iter().all(|(_, result)| is_ack(result)),
    };
    if let Some(trace) = trace {
        trace.finish(acked);
    }
    let results = CallResults {
        subject: event.subject,
        results: results.into_iter().map(|(_, result)| result).collect(),
    };
    // It has nothing that JSON can't say.
    let data = serde_json::to_vec(&results).unwrap_or_default();
    let token = if acked { Token::ACK } else { Token::NAK };
    Message::new(token, DataType::String, data)
}

/// What became of a call.
struct Called {
    service: ServiceName,
    status: CallStatus,
    data: Bytes,
    /// If it is one that we don't know.
    data_type: Option<DataType>,
}

impl Called {
    fn new(service: ServiceName, status: CallStatus, data: impl Into<Bytes>) -> Self {
        Self {
            service,
            status,
            data: data.into(),
            data_type: None,
        }
    }

    /// As its publisher gets it. All answers have so much room; of one that is larger than what is left
    /// only the beginning is told, and how large it was.
    fn shown_within(self, room: &mut usize) -> CallResult {
        let (len, is_whole) = (self.data.len(), self.data.len() <= *room);
        let mut data = self.data;
        match is_whole {
            true => *room -= len,
            false => data.truncate(EXCERPT_BYTES_MAX),
        }
        let text = match std::str::from_utf8(&data) {
            Ok(text) => Some(text.to_owned()),
            // It was cut within a character.
            Err(error) if !is_whole && error.error_len().is_none() => {
                Some(String::from_utf8_lossy(&data[..error.valid_up_to()]).into_owned())
            }
            Err(_) => None,
        };
        CallResult {
            service: self.service.to_string(),
            status: self.status,
            data_base64: text.is_none().then(|| BASE64.encode(&data)),
            data: text,
            data_bytes: (!is_whole).then_some(len as u64),
            data_type: self.data_type.map(shown_type),
        }
    }
}

async fn call_service(
    (service, keys): (ServiceName, Option<ClientKeys>),
    message: &Message,
    caller: &Caller,
    locator: &LocatorClient,
    deadline: Instant,
) -> Called {
    let mut tries_left = 2;
    loop {
        let result = match locator.locate(&service, deadline).await {
            Err(error) => return located_not(service, &error),
            Ok(address) => {
                let frames = encode(message, Layout::NATIVE);
                caller
                    .call_with(keys.as_ref(), &address, frames, deadline)
                    .await
            }
        };
        match result {
            Ok(frames) => return answered(service, &frames),
            Err(error) => {
                locator.forget(&service);
                tries_left -= 1;
                // What was certainly not sent may go to an address that is newer than ours.
                let not_sent = matches!(error, CallError::Unreachable(_) | CallError::NoPeer(_));
                if !not_sent || tries_left == 0 {
                    return failed(service, &error);
                }
            }
        }
    }
}

fn answered(service: ServiceName, frames: &[Bytes]) -> Called {
    let read = match (decode(frames), frames) {
        // Nobody reads the type here: what it is must not turn a yes into a no.
        (Err(error), [token, _, data, ..]) if error.code == "malformed-data-type" => {
            decode(&[token.clone(), data.clone()])
        }
        (read, _) => read,
    };
    match read {
        Ok((answer, _)) => Called {
            data_type: (!answer.data_type.is_known()).then_some(answer.data_type),
            ..Called::new(
                service,
                if answer.token.is(Token::ACK) {
                    CallStatus::Ack
                } else {
                    CallStatus::Nak
                },
                answer.data,
            )
        },
        Err(error) => {
            let sentence = format!("its answer can't be read: {error}");
            Called::new(service, CallStatus::Nak, sentence)
        }
    }
}

fn located_not(service: ServiceName, error: &LocateError) -> Called {
    let status = match error {
        LocateError::Locator(CallError::Timeout | CallError::Ended(_)) => CallStatus::Timeout,
        _ => CallStatus::Unreachable,
    };
    Called::new(service, status, error.to_string())
}

fn failed(service: ServiceName, error: &CallError) -> Called {
    let status = match error {
        CallError::Timeout | CallError::Ended(_) => CallStatus::Timeout,
        _ => CallStatus::Unreachable,
    };
    Called::new(service, status, error.to_string())
}
