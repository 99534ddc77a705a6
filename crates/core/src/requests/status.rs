//! STATUS: no data. The daemon's state.

use serde::Deserialize;

use super::{Answer, Host, Request};
use event_manager_wire::messagebus::{Message, Nak, Positions};

#[derive(Debug, Deserialize)]
pub(super) struct Status {}

impl Request for Status {
    const POSITIONS: Positions = Positions::new(&[]);

    fn answer(self, _: &Message, host: &mut dyn Host) -> Result<Answer, Nak> {
        Ok(host.status())
    }
}
