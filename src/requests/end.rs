//! END, of a durable service that has no subscription any more: its name.

use super::{Context, Nak, Outcome};
use crate::broker::EndError;
use crate::messagebus::Message;
use crate::model::ServiceName;

pub(super) const NAMES: &[&str] = &["service"];

pub(super) fn handle(request: &Message, context: &mut Context<'_>) -> Result<Outcome, Nak> {
    let named = request
        .named
        .as_ref()
        .and_then(|named| named.get("service"));
    let name = match named {
        Some(name) => {
            let wrong = || Nak::new("invalid-field", "\"service\": a text is wanted");
            name.as_str().ok_or_else(wrong)?.as_bytes().to_vec()
        }
        None => request
            .fields()
            .first()
            .map(|field| field.to_vec())
            .unwrap_or_default(),
    };
    if name.is_empty() {
        return Err(Nak::new("missing-field", "field 1 is the service's name"));
    }
    let name = std::str::from_utf8(&name)
        .map_err(|_| Nak::new("invalid-utf8", "the service's name is not UTF-8"))?;
    let name = ServiceName::new(name)
        .map_err(|error| Nak::new("invalid-name", format!("the service's name {error}")))?;
    let ended = context.broker.end_service(&name).map_err(|error| {
        let code = match error {
            EndError::Unknown => "unknown-service",
            EndError::Subscribed(_) | EndError::Declared => "in-use",
        };
        Nak::new(code, format!("{name}: {error}"))
    })?;
    context.ended.push(ended);
    Ok(Outcome::End(name))
}
