//! The answers to confirmed publishing.

use std::borrow::Cow;

use serde::Serialize;

use crate::reactor::hub::Hub;
use crate::reactor::state::emissions::{Confirmed, NotHad};
use crate::reactor::state::inside::Published;
use crate::reactor::state::replies::{Asker, Ticket};
use event_manager_core::event_id::EventId;
use event_manager_core::requests::Level;
use event_manager_wire::messagebus::{DataType, Message};

/// What became of an emission.
#[derive(Debug, Clone)]
pub(super) enum Said {
    Accepted(Accepted),
    Refused(Message),
}

/// Who has an event.
#[derive(Debug, Clone)]
pub(super) struct Accepted {
    /// So many services,
    pub(super) services: usize,
    /// as safely as this says.
    pub(super) level: Level,
    /// They had it before.
    pub(super) is_duplicate: bool,
    /// Why it is not as safe as was asked for, if that is known.
    pub(super) reason: Option<String>,
}

impl Said {
    pub(super) fn accepted(services: usize, level: Level, is_duplicate: bool) -> Self {
        Self::Accepted(Accepted {
            services,
            level,
            is_duplicate,
            reason: None,
        })
    }
}

/// The answer to an emission that the engine of a service never takes.
pub(super) fn refused_by_engine(why: &str) -> Said {
    Said::Refused(Message::nak("engine-refused", why))
}

impl Hub {
    pub(super) fn answer_confirmed(&mut self, confirmed: Confirmed) {
        let Confirmed {
            id,
            reached,
            level,
            reason,
            ..
        } = confirmed;
        let of = |is_duplicate| {
            Said::Accepted(Accepted {
                services: reached.services,
                level,
                is_duplicate,
                reason: reason.clone(),
            })
        };
        let same = |said: Said| (said.clone(), said);
        let (first, again) = match confirmed.is_duplicate {
            Ok(is_duplicate) => (of(is_duplicate), of(true)),
            Err(NotHad::ByStore(why)) => same(Said::Refused(Message::nak("store-failed", why))),
            Err(NotHad::ByEngine(why)) => same(refused_by_engine(&why)),
        };
        self.say_to(confirmed.ticket, &id, &first);
        for ticket in confirmed.again {
            self.say_to(ticket, &id, &again);
        }
    }

    /// The answer to an emission that waited. Who asked may be gone; then nobody wants it.
    fn say_to(&mut self, ticket: Ticket, id: &EventId, said: &Said) {
        if let Some(asker) = self.requests.replies.remove(ticket) {
            self.say(&asker, id, said);
        }
    }

    pub(super) fn say(&mut self, asker: &Asker, id: &EventId, said: &Said) {
        match (asker, said) {
            (Asker::Client(back), Said::Refused(nak)) => self.reply(back, nak),
            (Asker::Client(back), Said::Accepted(accepted)) => {
                let answer = answer(id, accepted);
                self.reply(back, &answer);
            }
            (Asker::Inside(slot), said) => slot.give(match said {
                Said::Accepted(accepted) if accepted.is_duplicate => Published::Known,
                Said::Accepted(_) => Published::Done,
                Said::Refused(nak) => {
                    Published::NotNow(String::from_utf8_lossy(&nak.data).into_owned())
                }
            }),
        }
    }
}

/// The data of the answer yes.
#[derive(Serialize)]
struct Yes<'a> {
    id: Cow<'a, str>,
    services: usize,
    level: &'static str,
    duplicate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

fn answer(id: &EventId, accepted: &Accepted) -> Message {
    let yes = Yes {
        id: String::from_utf8_lossy(id.said()),
        services: accepted.services,
        level: accepted.level.name(),
        duplicate: accepted.is_duplicate,
        reason: accepted.reason.as_deref(),
    };
    // It has nothing that JSON can't say.
    let data = serde_json::to_vec(&yes).unwrap_or_default();
    Message::ack(DataType::String, data)
}
