//! KEEP_ALIVE: `sub_id`.

use serde::Deserialize;

use super::{Answer, Host, Request};
use crate::security::Deed;
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
        judge_held(&id, host)?;
        let context = host.context();
        let kept = context.broker.keep_alive(&id, context.now);
        kept.map_err(|error| Nak::new("unknown-subscription", error))?;
        host.claim(&id);
        Ok(Answer::ack(DataType::Empty, ""))
    }
}

/// Whether who asks may have a subscription that is there, all of it.
fn judge_held(id: &SubscriptionId, host: &mut dyn Host) -> Result<(), Nak> {
    let context = host.context();
    let Some((_, service, view)) = context.broker.subscription(id, context.now) else {
        return Ok(());
    };
    let (name, patterns) = (service.name().clone(), view.patterns.clone());
    host.judge(Deed::Serve(name.as_str()))?;
    patterns
        .iter()
        .try_for_each(|pattern| host.judge(Deed::Subscribe(pattern)))
}
