//! EVENTS: `after\0max`, both optional. The latest notable events.

use serde::Deserialize;

use super::{Answer, Host, Request};
use event_manager_wire::messagebus::{DataType, Message, Nak, Positions, ranged};

/// The most events that one answer has.
const MAX: u64 = 512;
const MAX_DEFAULT: u64 = 100;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Events {
    /// Only those after this number; without it the latest.
    after: Option<u64>,
    #[serde(deserialize_with = "ranged::<_, 1, MAX>")]
    max: Option<u64>,
}

impl Request for Events {
    const POSITIONS: Positions = Positions::new(&["after", "max"]);

    fn answer(self, _: &Message, host: &mut dyn Host) -> Result<Answer, Nak> {
        let max = self.max.unwrap_or(MAX_DEFAULT) as usize;
        Ok(Answer::ack(DataType::String, host.events(self.after, max)))
    }
}
