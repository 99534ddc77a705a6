//! UNSUBSCRIBE: `sub_id`, or `sub_id\0subject…` for some of its subjects.

use serde::Deserialize;

use super::subjects::patterns;
use super::{Answer, Happening, Host, Request};
use crate::security::Deed;
use event_manager_wire::messagebus::{DataType, Message, Nak, Positions, Rest};
use event_manager_wire::model::SubscriptionId;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Unsubscribe {
    #[serde(alias = "subscriptionId", alias = "sub_id")]
    id: String,
    subjects: Vec<String>,
    /// One more.
    subject: Option<String>,
}

impl Request for Unsubscribe {
    const POSITIONS: Positions = Positions::new(&["id", "subjects"]).last_is(Rest::List(0));

    fn answer(self, asked: &Message, host: &mut dyn Host) -> Result<Answer, Nak> {
        let id = Self::POSITIONS.checked(asked, "id", &self.id, SubscriptionId::new)?;
        if let Some(service) = host.context().broker.service_of(&id).cloned() {
            host.judge(Deed::Serve(service.as_str()))?;
        }
        let context = host.context();
        let subjects = self.subjects.into_iter().chain(self.subject);
        let only = patterns(subjects, &context.settings.limits)?;
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
        Ok(Answer::ack(DataType::Empty, ""))
    }
}
