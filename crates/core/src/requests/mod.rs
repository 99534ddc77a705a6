//! The requests that the event manager answers: one file each, with its type and what becomes of it.
//! A new one is its file and its row in `REQUESTS`, which says all that is special about it; and a
//! method of [`Host`] if the daemon has to do something new for it.

mod dlq;
mod emit;
mod end;
mod events;
mod instances;
mod keep_alive;
mod lease;
mod publish;
mod status;
mod subjects;
mod subscribe;
mod unsubscribe;

use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::broker::{Broker, EndError, EndedService, Streamers};
use crate::event_id::EventId;
use crate::security::Deed;
use event_manager_wire::messagebus::{DataType, Message, Nak, Positions, Rest, Token, read};
use event_manager_wire::model::{ServiceName, SubscriptionId};
use event_manager_zmtp::Limits;

pub use dlq::{LettersOp, LettersRequest};
pub use emit::{Emission, Level};
pub use lease::{LeaseOp, LeaseRequest, lease_refused, lease_shown};
pub use publish::SyncEvent;

/// What a request is applied to.
pub struct Context<'a> {
    pub broker: &'a mut Broker,
    /// Binds services' sockets.
    pub streamers: &'a mut dyn Streamers,
    /// Services that ended: the caller closes their sockets.
    pub ended: &'a mut Vec<EndedService>,
    /// What is notable of it.
    pub happened: &'a mut Vec<Happening>,
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
    pub version: &'static str,
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
        service: ServiceName,
        /// What it asks for.
        subjects: Vec<String>,
        port: u16,
        /// The service is new too.
        opened: bool,
    },
    /// A client ended its subscription.
    Unsubscribed {
        /// What its client called it.
        id: SubscriptionId,
        service: ServiceName,
    },
    /// There is no port for a service.
    NoPort { service: ServiceName, why: String },
}

/// What requests ask of the daemon: the reactor, or what stands for it in a test. Those methods that
/// return an [`Answer`] take the request over.
pub trait Host {
    /// What decisions are made with.
    fn context(&mut self) -> Context<'_>;
    /// Whether who asks may do this.
    ///
    /// # Errors
    /// The refusal.
    fn judge(&mut self, deed: Deed<'_>) -> Result<(), Nak>;
    /// The id of an event of who asks.
    fn event_id(&self, said: bytes::Bytes) -> EventId;
    /// Who asks answers for a subscription from now on: it ends if its rights don't suffice any more.
    fn claim(&mut self, subscription: &SubscriptionId);
    /// Whether it has begun to end.
    fn is_stopping(&self) -> bool;
    /// The refusal of another request that waits for its answer, if too many do.
    fn is_full(&self) -> Option<Nak>;
    /// The daemon's state as JSON; the answer comes later if that is long.
    fn status(&mut self) -> Answer;
    /// Notable events as JSON: the first `max` after a number, or the latest without one.
    fn events(&mut self, after: Option<u64>, max: usize) -> String;
    /// The instances of other programs as JSON, with so many of the latest changes of who leads.
    fn instances(&mut self, history: usize) -> String;
    /// Does something with a lease; the answer comes when no crash takes it back.
    ///
    /// # Errors
    /// The refusal.
    fn lease(&mut self, request: LeaseRequest) -> Result<Answer, Nak>;
    /// Calls services; the answer comes when they have answered.
    fn call(&mut self, event: SyncEvent) -> Answer;
    /// Publishes an event; the answer comes when it is accepted.
    fn emit(&mut self, emission: &Emission) -> Answer;
    /// Does something with dead letters; the answer comes when the store has answered.
    fn letters(&mut self, request: LettersRequest) -> Answer;
    /// Gives this answer to who subscribed when no crash takes the subscription back.
    fn promise(&mut self, subscription: &SubscriptionId, answer: Message) -> Answer;
    /// Ends a durable service; the answer comes when no crash brings it back.
    ///
    /// # Errors
    /// [`EndError`]; the service is as it was.
    fn end(&mut self, service: &ServiceName) -> Result<Answer, EndError>;
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Answer {
    Now(Message),
    /// The [`Host`] answers when it can.
    Later,
}

impl Answer {
    pub fn ack(data_type: DataType, data: impl Into<bytes::Bytes>) -> Self {
        Self::Now(Message::ack(data_type, data))
    }
}

/// A type of request, which is read from a message's fields. That names it doesn't have are refused is
/// the reader's business, so that no type can forget it.
trait Request: DeserializeOwned + std::fmt::Debug {
    /// Its fields by position.
    const POSITIONS: Positions;
    /// The same where an event's frames follow.
    const BEFORE_FRAMES: Positions = Self::POSITIONS;

    /// What becomes of it. `asked` is the message that it was read from.
    fn answer(self, asked: &Message, host: &mut dyn Host) -> Result<Answer, Nak>;
}

/// Requests whose answers are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timed {
    /// EMIT.
    Emit,
    /// PUBLISH.
    Call,
}

/// A request by its token, and what is special about it.
pub struct Row {
    token: Token,
    /// It brings something new, and is refused while the daemon stops.
    adds: bool,
    /// Its answer comes later. It is refused while too many requests wait for theirs.
    waits: bool,
    /// Clients repeat it all the time: its success is not worth a line in the log.
    pub is_routine: bool,
    /// Whether the time until its answer is counted, and with which others.
    pub timed: Option<Timed>,
    answer: fn(&Row, &Message, &mut dyn Host) -> Result<Answer, Nak>,
    #[cfg(test)]
    positions: Positions,
    #[cfg(test)]
    read: fn(&Message) -> Result<String, Nak>,
}

/// Every request.
const REQUESTS: &[Row] = &[
    // It waits only if it asks for a durable service.
    Row {
        adds: true,
        ..row::<subscribe::Subscribe>(Token::SUBSCRIBE)
    },
    row::<unsubscribe::Unsubscribe>(Token::UNSUBSCRIBE),
    Row {
        is_routine: true,
        ..row::<keep_alive::KeepAlive>(Token::KEEP_ALIVE)
    },
    Row {
        adds: true,
        waits: true,
        timed: Some(Timed::Call),
        ..row::<publish::Publish>(Token::PUBLISH)
    },
    Row {
        is_routine: true,
        ..row::<status::Status>(Token::STATUS)
    },
    // It waits only if it is of level `disk`.
    Row {
        adds: true,
        timed: Some(Timed::Emit),
        ..row::<emit::Emit>(Token::EMIT)
    },
    Row {
        waits: true,
        ..row::<end::End>(Token::END)
    },
    Row {
        adds: true,
        waits: true,
        ..row::<dlq::Dlq>(Token::DLQ)
    },
    Row {
        is_routine: true,
        ..row::<events::Events>(Token::EVENTS)
    },
    // It waits only if it acquires.
    Row {
        is_routine: true,
        ..row::<lease::Lease>(Token::LEASE)
    },
    Row {
        is_routine: true,
        ..row::<instances::Instances>(Token::INSTANCES)
    },
];

const fn row<R: Request>(token: Token) -> Row {
    Row {
        token,
        adds: false,
        waits: false,
        is_routine: false,
        timed: None,
        answer: answer::<R>,
        #[cfg(test)]
        positions: R::POSITIONS,
        #[cfg(test)]
        read: |message| read::<R>(message, &R::POSITIONS).map(|request| format!("{request:?}")),
    }
}

/// The request that a token names.
///
/// # Errors
/// There is none.
pub fn find(token: Token) -> Result<&'static Row, Nak> {
    let row = REQUESTS.iter().find(|row| row.token.is(token));
    row.ok_or_else(|| {
        let sentence = format!("{token} is no request to the event manager");
        Nak::new("unknown-token", sentence)
    })
}

impl Row {
    /// What becomes of a request with this row's token.
    pub fn answer(&self, request: &Message, host: &mut dyn Host) -> Answer {
        let answer = (self.answer)(self, request, host);
        answer.unwrap_or_else(|nak| Answer::Now(nak.into()))
    }
}

fn answer<R: Request>(row: &Row, asked: &Message, host: &mut dyn Host) -> Result<Answer, Nak> {
    host.judge(Deed::Ask(row.token))?;
    if row.adds && host.is_stopping() {
        return Err(Nak::new("stopping", "the event manager is stopping"));
    }
    if let Rest::List(_) = R::POSITIONS.rest() {
        check_subjects(asked, &host.context().settings.limits)?;
    }
    let positions = match asked.frames.is_empty() {
        true => &R::POSITIONS,
        false => &R::BEFORE_FRAMES,
    };
    let request: R = read(asked, positions)?;
    if row.waits
        && let Some(full) = host.is_full()
    {
        return Err(full);
    }
    request.answer(asked, host)
}

/// The refusal of a request whose answer would come later, while `max` others wait for theirs.
pub fn too_many_wait(max: usize) -> Nak {
    let sentence = format!("{max} requests wait for their answers already (maxPendingCalls)");
    Nak::new("busy", sentence)
}

/// The same, while so many of its client's wait: the rest is for others.
pub fn too_many_of_client_wait(theirs: usize) -> Nak {
    let sentence = format!(
        "{theirs} requests of this client wait for their answers already; the rest of maxPendingCalls is for others"
    );
    Nak::new("busy", sentence)
}

/// Before they are taken apart: a field costs many times the one byte that it takes on the wire.
fn check_subjects(asked: &Message, limits: &Limits) -> Result<(), Nak> {
    let max = limits.subscriptions_per_peer_max;
    let nuls = asked.data.iter().filter(|byte| **byte == 0).count();
    if nuls <= max.saturating_add(2) {
        return Ok(());
    }
    let sentence = format!(
        "{nuls} fields; at most {max} subjects are possible (limits.maxSubscriptionsPerPeer)"
    );
    Err(Nak::new("too-many-subjects", sentence))
}

#[cfg(test)]
mod tests;
