//! PUBLISH, a sync event: `data\0subject\0type\0sync\0source_id`, forwarded as it is.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{Context, Nak, Outcome};
use crate::messagebus::{DataType, Message, Token};
use crate::model::ServiceName;

/// A hung service and a boundless timeout would hold a place among the pending calls for ever.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Services to be called at the same time.
#[derive(Debug)]
pub struct SyncEvent {
    /// What it is about.
    pub subject: String,
    /// What each service is sent.
    pub message: Message,
    /// Whom to call.
    pub services: Vec<ServiceName>,
    /// How long to wait.
    pub timeout: Duration,
    /// The first ACK is the answer; nobody waits for the others.
    pub first: bool,
    /// What the services' answers may have together, in bytes.
    pub answers_bytes_max: usize,
}

pub(super) const NAMES: &[&str] = &["answers", "payload", "subject", "type", "sync", "source_id"];

pub(super) fn handle(request: &Message, context: &mut Context<'_>) -> Result<Outcome, Nak> {
    let data = match request.named.as_ref().filter(|named| !named.is_empty()) {
        Some(named) => named_payload(named)?,
        None => request.data.clone(),
    };
    let subject = data.split(|byte| *byte == 0).nth(1).ok_or_else(|| {
        Nak::new(
            "missing-field",
            "field 2 is the subject: data, subject, type, sync, source_id",
        )
    })?;
    let subject_max = context.settings.limits.subject_bytes_max;
    if subject.len() > subject_max {
        let sentence = format!(
            "the subject has {} bytes; the limit is {subject_max}",
            subject.len()
        );
        return Err(Nak::new("invalid-subject", sentence));
    }
    let subject = std::str::from_utf8(subject)
        .map_err(|_| Nak::new("invalid-utf8", "the subject is not UTF-8"))?
        .to_owned();
    let first = first(request)?;
    let services = context.broker.services_for(subject.as_bytes());
    // A type that is not known here may mean something to the services.
    let data_type = match request.data_type {
        known if known.is_known() => DataType::Param,
        other => other,
    };
    let message = Message::new(Token::EVENT, data_type, data);
    let timeout = request
        .timeout
        .unwrap_or(context.settings.publish_timeout)
        .min(TIMEOUT_MAX);
    Ok(Outcome::Call(SyncEvent {
        subject,
        message,
        services,
        timeout,
        first,
        answers_bytes_max: context.settings.limits.message_bytes_max,
    }))
}

/// Whether one ACK is enough: `"answers": "first"`, else `all`.
fn first(request: &Message) -> Result<bool, Nak> {
    let named = request.named.as_ref();
    match named.and_then(|named| named.get("answers")) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::String(which)) if which == "all" => Ok(false),
        Some(Value::String(which)) if which == "first" => Ok(true),
        Some(_) => Err(Nak::new(
            "invalid-field",
            "\"answers\": \"all\" or \"first\" is wanted",
        )),
    }
}

/// The payload from named fields: `data`'s place is the empty `payload` of a JSON request.
fn named_payload(named: &Map<String, Value>) -> Result<Bytes, Nak> {
    const FIELDS: [&str; 5] = ["payload", "subject", "type", "sync", "source_id"];
    if !named.contains_key("subject") {
        return Err(Nak::new(
            "missing-field",
            "\"subject\" says what the event is about",
        ));
    }
    let field = |name: &&str| match named.get(*name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    Ok(FIELDS
        .iter()
        .map(field)
        .collect::<Vec<_>>()
        .join("\0")
        .into())
}
