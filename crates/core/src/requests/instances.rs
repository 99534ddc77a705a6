//! INSTANCES: `history`, optional. The instances of other programs, and who of them led when.

use serde::Deserialize;

use super::{Answer, Host, Request};
use crate::instances::HISTORY_MAX;
use event_manager_wire::messagebus::{DataType, Message, Nak, Positions, ranged};

const MAX: u64 = HISTORY_MAX as u64;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Instances {
    /// So many of the latest changes of who leads; without it none.
    #[serde(deserialize_with = "ranged::<_, 0, MAX>")]
    history: Option<u64>,
}

impl Request for Instances {
    const POSITIONS: Positions = Positions::new(&["history"]);

    fn answer(self, _: &Message, host: &mut dyn Host) -> Result<Answer, Nak> {
        let history = self.history.unwrap_or_default() as usize;
        let page = host.instances(history);
        Ok(Answer::ack(DataType::String, page))
    }
}
