//! END, of a durable service that has no subscription any more: its name.

use serde::Deserialize;

use super::{Answer, Host, Request};
use crate::broker::EndError;
use crate::security::Deed;
use event_manager_wire::messagebus::{Message, Nak, Positions};
use event_manager_wire::model::ServiceName;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct End {
    service: String,
}

impl Request for End {
    const POSITIONS: Positions = Positions::new(&["service"]);

    fn answer(self, asked: &Message, host: &mut dyn Host) -> Result<Answer, Nak> {
        let service = Self::POSITIONS.checked(asked, "service", &self.service, ServiceName::new)?;
        host.judge(Deed::Serve(service.as_str()))?;
        host.end(&service).map_err(|error| {
            let code = match error {
                EndError::Unknown => "unknown-service",
                EndError::Subscribed(_) | EndError::Declared | EndError::NeededFor(_) => "in-use",
            };
            Nak::new(code, format!("{service}: {error}"))
        })
    }
}
