//! The requests that the event manager answers: one file each, which decodes, applies, encodes.
//! A new one is its file and its row in `REQUESTS`.

mod dlq;
mod emit;
mod end;
mod events;
mod fields;
mod keep_alive;
mod publish;
mod subscribe;
mod unsubscribe;

use std::time::{Duration, Instant};

use crate::broker::{Broker, EndedService, Streamers};
use crate::messagebus::{Message, Token};
use crate::model::{Limits, ServiceName, SubscriptionId, excerpt};

pub use dlq::{LettersOp, LettersRequest};
pub use emit::{Emission, Level};
pub use events::EventsRequest;
pub use publish::SyncEvent;

/// What is shown of a name that has no meaning.
const NAME_SHOWN_BYTES_MAX: usize = 40;

/// What a request is applied to.
pub struct Context<'a> {
    /// The decisions.
    pub broker: &'a mut Broker,
    /// Binds services' sockets.
    pub streamers: &'a mut dyn Streamers,
    /// Services that ended: the caller closes their sockets.
    pub ended: &'a mut Vec<EndedService>,
    /// What is notable of it.
    pub happened: &'a mut Vec<Happening>,
    /// The time.
    pub now: Instant,
    /// What the configuration says.
    pub settings: &'a Settings,
}

/// What requests need to know of the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where clients publish.
    pub pub_address: String,
    /// Where a service receives, but for the port: `tcp://host:`.
    pub pull_address_prefix: String,
    /// How ids begin that are made up; other in each run.
    pub id_prefix: String,
    /// Bounds of what clients name.
    pub limits: Limits,
    /// Whether events can be kept on disk.
    pub has_store: bool,
    /// How long a sync event without a timeout of its own waits.
    pub publish_timeout: Duration,
}

/// Something notable that a request brought about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// A subscription is there, or at this service, that was not.
    Subscribed {
        /// What its client calls it.
        id: SubscriptionId,
        /// The service.
        service: ServiceName,
        /// What it asks for.
        subjects: Vec<String>,
        /// The service's port.
        port: u16,
        /// The service is new too.
        opened: bool,
    },
    /// A client ended its subscription.
    Unsubscribed {
        /// What its client called it.
        id: SubscriptionId,
        /// The service.
        service: ServiceName,
    },
    /// There is no port for a service.
    NoPort {
        /// The service.
        service: ServiceName,
        /// A sentence.
        why: String,
    },
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Outcome {
    /// The answer.
    Reply(Message),
    /// Services are to be called; the answer comes when they have answered.
    Call(SyncEvent),
    /// An event is to be published; the answer comes when it is accepted.
    Emit(Emission),
    /// Dead letters are asked for; the answer comes when the store has answered.
    Letters(LettersRequest),
    /// A service has ended; the answer says how many dead letters of it are kept.
    End(ServiceName),
    /// The answer is the daemon's state, which the caller knows.
    Status,
    /// Notable events are asked for, which the caller has.
    Events(EventsRequest),
}

/// A refusal, which leaves everything as it was.
#[derive(Debug)]
pub struct Nak {
    code: &'static str,
    sentence: String,
}

impl Nak {
    fn new(code: &'static str, sentence: impl std::fmt::Display) -> Self {
        Self {
            code,
            sentence: sentence.to_string(),
        }
    }
}

/// Refuses names in JSON that have no meaning; these have one.
fn check_names<'a>(mut names: impl Iterator<Item = &'a String>, known: &[&str]) -> Result<(), Nak> {
    let Some(name) = names.find(|name| !known.contains(&name.as_str())) else {
        return Ok(());
    };
    let name = excerpt(name, NAME_SHOWN_BYTES_MAX);
    let known = match known {
        [] => "it has none".to_owned(),
        [only] => format!("{only:?} is its only one"),
        known => format!("{} are", known.join(", ")),
    };
    let sentence = format!("{name:?} is no field of this request; {known}");
    Err(Nak::new("unknown-field", sentence))
}

impl From<Nak> for Message {
    fn from(nak: Nak) -> Self {
        Self::nak(nak.code, nak.sentence)
    }
}

type Handle = fn(&Message, &mut Context<'_>) -> Result<Outcome, Nak>;

/// Every request, by its token, with the names that its fields have in JSON: another is refused.
const REQUESTS: &[(Token, &[&str], Handle)] = &[
    (Token::SUBSCRIBE, subscribe::NAMES, subscribe::handle),
    (Token::UNSUBSCRIBE, unsubscribe::NAMES, unsubscribe::handle),
    (Token::KEEP_ALIVE, keep_alive::NAMES, keep_alive::handle),
    (Token::PUBLISH, publish::NAMES, publish::handle),
    (Token::STATUS, &[], |_, _| Ok(Outcome::Status)),
    (Token::EMIT, emit::NAMES, emit::handle),
    (Token::END, end::NAMES, end::handle),
    (Token::DLQ, dlq::NAMES, dlq::handle),
    (Token::EVENTS, events::NAMES, events::handle),
];

/// Answers a request. Every one gets an answer, if only later.
pub fn handle(request: &Message, context: &mut Context<'_>) -> Outcome {
    let row = REQUESTS.iter().find(|(token, ..)| token.is(request.token));
    let Some((_, names, handle)) = row else {
        let sentence = format!("{} is no request to the event manager", request.token);
        return Outcome::Reply(Message::nak("unknown-token", sentence));
    };
    let named = request.named.iter().flat_map(|named| named.keys());
    let result = check_names(named, names).and_then(|()| handle(request, context));
    result.unwrap_or_else(|nak| Outcome::Reply(nak.into()))
}

#[cfg(test)]
mod tests;
