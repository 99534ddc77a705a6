//! UNSUBSCRIBE: `sub_id`, or `sub_id\0subject…` for some of its subjects.

use super::fields::Fields;
use super::{Context, Nak, Outcome};
use crate::messagebus::{DataType, Message};

pub(super) fn handle(request: &Message, context: &mut Context<'_>) -> Result<Outcome, Nak> {
    let fields = Fields::read(request, false, &context.settings.limits)?;
    let id = fields.id()?;
    let only = fields.patterns(&context.settings.limits)?;
    let ended = context.broker.unsubscribe(&id, &only);
    let ended = ended.map_err(|error| Nak::new("unknown-subscription", error))?;
    context.ended.extend(ended);
    Ok(Outcome::Reply(Message::ack(DataType::Empty, "")))
}
