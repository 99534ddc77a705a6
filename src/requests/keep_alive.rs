//! KEEP_ALIVE: `sub_id`.

use super::fields::Fields;
use super::{Context, Nak, Outcome};
use crate::messagebus::{DataType, Message};

pub(super) const NAMES: &[&str] = &["id", "subscriptionId", "sub_id"];

pub(super) fn handle(request: &Message, context: &mut Context<'_>) -> Result<Outcome, Nak> {
    let id = Fields::read(request, false, &context.settings.limits)?.id()?;
    let kept = context.broker.keep_alive(&id, context.now);
    kept.map_err(|error| Nak::new("unknown-subscription", error))?;
    Ok(Outcome::Reply(Message::ack(DataType::Empty, "")))
}
