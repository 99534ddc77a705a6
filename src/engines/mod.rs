//! Other brokers. Each engine is one file behind its cargo feature, and nobody else names it; what all of
//! them are to a bridge is here.

#[cfg(feature = "etcd")]
mod etcd;
mod hub;
#[cfg(feature = "nats")]
mod nats;
#[cfg(any(feature = "nats", feature = "rabbitmq"))]
mod own_runtime;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(feature = "redis")]
mod redis;
mod register;
#[cfg(any(feature = "rabbitmq", feature = "etcd"))]
mod tls;

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;

use crate::config::{Engine, EngineKind, Layout, SecurityConfig};
use event_manager_zmtp::{HubId, Limits};
pub use register::{Register, content_of, register, text_of};

/// Why an engine can't be used, with what to do if its certificate is why: the libraries say only what is wrong.
fn advised(why: String) -> String {
    let advice = match () {
        () if why.contains("CaUsedAsEndEntity") => {
            "the server shows the certificate of an authority (CA:TRUE), as a self-signed one is: give it one of its own with CA:FALSE, signed by the authority in caFile"
        }
        () if why.contains("UnknownIssuer") || why.contains("BadSignature") => {
            "caFile names the authority that it is from"
        }
        () => return why,
    };
    format!("{why}: {advice}")
}

/// What somebody waits for, on one thread.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Who uses which engine.
#[derive(Debug, Clone, Copy)]
pub struct User<'a> {
    pub engine: &'a Engine,
    pub security: &'a SecurityConfig,
    /// The bridge's name.
    pub bridge: &'a str,
    /// This daemon.
    pub hub_id: HubId,
    /// What events may be like here.
    pub limits: Limits,
    /// What they are like there.
    pub layout: Layout,
}

/// An event on its way to an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// By which the engine, or whoever reads there, knows it again when it comes twice.
    pub id: String,
    /// Its subject, in printable characters: where it goes there, behind what the bridge's `to` says.
    pub subject: String,
    /// Names and values, which are printable.
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    /// All of it as it was published here.
    pub event: Bytes,
}

impl Outgoing {
    /// What it takes, in bytes, about.
    pub fn bytes(&self) -> usize {
        let headers = self.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| name.len() + value.len() + 4)
            .sum();
        self.subject.len() + headers + self.body.len()
    }
}

/// What became of an event that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The engine has confirmed that it has it.
    Stored,
    /// It had it already.
    Known,
    /// It will never take it.
    Refused(String),
    /// Nothing is known of it: it is sent again.
    Unknown,
}

/// Why something could not be done, as a sentence. What it was about is tried again on another connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The connection was lost.
    Lost(String),
    /// The engine doesn't do it, or doesn't answer.
    Refused(String),
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Sent {
    /// Of its first events, in their order.
    pub outcomes: Vec<Outcome>,
    /// Why nothing is known of some of these, or of those behind them. They are sent again.
    pub failure: Option<Failure>,
}

/// Events go out by it. A new one is made when this one fails.
pub trait Outlet {
    /// Sends events in this order, and waits for what becomes of them. At most `stall` may pass without
    /// one of them being confirmed.
    fn send<'a>(&'a mut self, batch: &'a [Outgoing], stall: Duration) -> Pending<'a, Sent>;

    /// Waits until the connection is lost, and says so.
    fn lost(&mut self) -> Pending<'_, String>;
}

/// An event that an engine has given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    pub receipt: Receipt,
    /// What is the same when the engine gives the same event again, and never for another one; `None` if
    /// the engine can't tell.
    pub position: Option<String>,
    /// Where it was there: a subject, a routing key, or a stream's key.
    pub subject: String,
    /// Names in lower case, and values. Those that are no text are not here. [`FLAW`] says that it is no
    /// event.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// How often it was given to somebody before, as far as the engine says.
    pub given_before: u32,
}

/// The header of what an engine has given that is no event: why.
pub const FLAW: &str = "x-em-flaw";

/// By which a source knows an event that it has given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Receipt(pub u64);

/// Events come in by it. A new one is made when this one fails: what was taken and not settled by then
/// comes again.
pub trait Source {
    /// Waits for events, and takes at most `room` of them, in the engine's order. Who doesn't wait any
    /// longer drops the source too.
    fn take(&mut self, room: usize) -> Pending<'_, Result<Vec<Incoming>, Failure>>;

    /// These are kept here: the engine is told so, and has heard it.
    fn settle<'a>(&'a mut self, done: &'a [Receipt]) -> Pending<'a, Result<(), Failure>>;

    /// What was taken and not settled may be given to others at once. Needed only where the engine would
    /// wait, though the connection ends.
    fn give_back(&mut self) -> Pending<'_, ()> {
        Box::pin(async {})
    }
}

/// The queue of a service, which daemons share: each event is given to one of them, until that settles it. A
/// new one is made when this one fails.
pub trait Queue {
    /// Waits for events, and takes at most `room` of them; without room, it waits until the connection is
    /// lost. Who doesn't wait any longer loses none.
    fn take(&mut self, room: usize) -> Pending<'_, Result<Vec<Incoming>, Failure>>;

    /// The engine gives no more until something is taken again. What came meanwhile.
    fn want_nothing(&mut self) -> Pending<'_, Vec<Receipt>>;

    /// These are done: the engine forgets them, and has heard it.
    fn acknowledge<'a>(&'a mut self, done: &'a [Receipt]) -> Pending<'a, Result<(), Failure>>;

    /// These are still worked on: their time begins anew.
    fn extend<'a>(&'a mut self, held: &'a [Receipt]) -> Pending<'a, Result<(), Failure>>;

    /// These are given to others at once.
    fn give_back<'a>(&'a mut self, held: &'a [Receipt]) -> Pending<'a, Result<(), Failure>>;

    /// By which another connection knows this event, if any can.
    fn token(&self, held: Receipt) -> Option<String>;

    /// An event that another connection was given, by its token: from now on this one settles it.
    fn recall(&mut self, token: &str) -> Option<Receipt>;
}

/// A service's queue, and how it is shared.
#[derive(Debug, Clone, Copy)]
pub struct QueueOf<'a> {
    /// The service's name.
    pub service: &'a str,
    /// After how long an event goes to others of which nothing was heard.
    pub ack_timeout: Duration,
    /// How many may be taken and not settled.
    pub in_flight_max: u32,
}

/// Where events go.
#[derive(Debug, Clone, Copy)]
pub enum Destination<'a> {
    /// What a bridge's `to` says.
    Place(&'a str),
    /// The queue of this service, which is made if it isn't there.
    QueueOf(&'a str),
}

/// Where events come from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The stream, its key, or the queue.
    pub from: &'a str,
    /// What the daemons that share its events are called there.
    pub group: &'a str,
    /// How many may be taken and not settled.
    pub in_flight_max: u32,
    /// After how long others may take over what a daemon has not settled. For engines that leave it to us.
    pub claim_after: Duration,
    /// Whether what is settled is deleted there. The same.
    pub deletes: bool,
}

/// A source of an engine.
///
/// # Errors
/// Why it can't be reached: a sentence that says what to do, as far as that is known.
pub async fn source(user: User<'_>, origin: Origin<'_>) -> Result<Box<dyn Source>, String> {
    connected_source(user, origin).await.map_err(advised)
}

async fn connected_source(user: User<'_>, origin: Origin<'_>) -> Result<Box<dyn Source>, String> {
    match user.engine.kind() {
        #[cfg(feature = "nats")]
        EngineKind::Nats => Ok(Box::new(nats::NatsSource::connect(user, origin).await?)),
        #[cfg(feature = "rabbitmq")]
        EngineKind::RabbitMq => Ok(Box::new(
            rabbitmq::RabbitSource::connect(user, origin).await?,
        )),
        #[cfg(feature = "redis")]
        EngineKind::Redis => Ok(Box::new(redis::RedisSource::connect(user, origin).await?)),
        kind => {
            let _ = origin;
            Err(kind.why_not_built())
        }
    }
}

/// The queue of a service, which is made if it isn't there.
///
/// # Errors
/// Why it can't be reached: a sentence that says what to do, as far as that is known.
pub async fn queue(user: User<'_>, queue: QueueOf<'_>) -> Result<Box<dyn Queue>, String> {
    connected_queue(user, queue).await.map_err(advised)
}

async fn connected_queue(user: User<'_>, queue: QueueOf<'_>) -> Result<Box<dyn Queue>, String> {
    match user.engine.kind() {
        #[cfg(feature = "nats")]
        EngineKind::Nats => Ok(Box::new(nats::NatsQueue::connect(user, queue).await?)),
        #[cfg(feature = "redis")]
        EngineKind::Redis => Ok(Box::new(redis::RedisQueue::connect(user, queue).await?)),
        #[cfg(feature = "rabbitmq")]
        EngineKind::RabbitMq => Ok(Box::new(rabbitmq::RabbitQueue::connect(user, queue).await?)),
        kind => {
            let _ = queue;
            Err(format!("there are no queues of services at {kind}"))
        }
    }
}

/// An outlet of an engine, which sends to `to` there.
///
/// # Errors
/// Why it can't be reached: a sentence that says what to do, as far as that is known.
pub async fn outlet(user: User<'_>, to: Destination<'_>) -> Result<Box<dyn Outlet>, String> {
    connected_outlet(user, to).await.map_err(advised)
}

async fn connected_outlet(user: User<'_>, to: Destination<'_>) -> Result<Box<dyn Outlet>, String> {
    match user.engine.kind() {
        #[cfg(feature = "nats")]
        EngineKind::Nats => Ok(Box::new(nats::NatsOutlet::connect(user, to).await?)),
        #[cfg(feature = "redis")]
        EngineKind::Redis => Ok(Box::new(redis::RedisOutlet::connect(user, to).await?)),
        #[cfg(feature = "rabbitmq")]
        EngineKind::RabbitMq => Ok(Box::new(rabbitmq::RabbitOutlet::connect(user, to).await?)),
        EngineKind::Hub => Ok(Box::new(hub::HubOutlet::connect(user).await?)),
        kind => {
            let _ = to;
            Err(kind.why_not_built())
        }
    }
}
