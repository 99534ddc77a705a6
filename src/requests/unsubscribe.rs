//! UNSUBSCRIBE: `sub_id`, or `sub_id\0subject…` for some of its subjects.

use super::fields::Fields;
use super::{Context, Happening, Nak, Outcome};
use crate::messagebus::{DataType, Message};

pub(super) const NAMES: &[&str] = &["id", "subscriptionId", "sub_id", "subject", "subjects"];

pub(super) fn handle(request: &Message, context: &mut Context<'_>) -> Result<Outcome, Nak> {
    let fields = Fields::read(request, false, &context.settings.limits)?;
    let id = fields.id()?;
    let only = fields.patterns(&context.settings.limits)?;
    let service = context.broker.service_of(&id).cloned();
    let ended = context.broker.unsubscribe(&id, &only);
    let ended = ended.map_err(|error| Nak::new("unknown-subscription", error))?;
    context.ended.extend(ended);
    if let Some(service) = service
        && !context.broker.is_subscribed(&id)
    {
        context
            .happened
            .push(Happening::Unsubscribed { id, service });
    }
    Ok(Outcome::Reply(Message::ack(DataType::Empty, "")))
}
