//! KEEP_ALIVE: `sub_id`.

use serde::Deserialize;

use super::{Answer, Host, Request};
use event_manager_wire::messagebus::{DataType, Message, Nak, Positions};
use event_manager_wire::model::SubscriptionId;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct KeepAlive {
    #[serde(alias = "subscriptionId", alias = "sub_id")]
    id: String,
}

impl Request for KeepAlive {
    const POSITIONS: Positions = Positions::new(&["id"]);

    fn answer(self, asked: &Message, host: &mut dyn Host) -> Result<Answer, Nak> {
        let id = Self::POSITIONS.checked(asked, "id", &self.id, SubscriptionId::new)?;
        let context = host.context();
        let kept = context.broker.keep_alive(&id, context.now);
        kept.map_err(|error| Nak::new("unknown-subscription", error))?;
        Ok(Answer::ack(DataType::Empty, ""))
    }
}
