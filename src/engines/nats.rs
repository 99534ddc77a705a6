//! NATS JetStream.

mod queue;
mod register;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::context::{
    GetStreamErrorKind, PublishAckFuture, PublishError, PublishErrorKind,
};
use async_nats::jetstream::message::{Acker, PublishMessage};
use async_nats::jetstream::stream::{self, StorageType, Stream as JetStream};
use async_nats::jetstream::{self, AckKind, Context, Message};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event};
use futures_core::Stream;
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::own_runtime::OwnRuntime;
use super::{
    Destination, Failure, Incoming, Origin, Outcome, Outgoing, Outlet, Pending, Receipt, Sent,
    Source, User,
};
use crate::config::{Engine, Login};
use crate::keys::ConfiguredFile;
pub(super) use queue::NatsQueue;
pub(super) use register::NatsRegister;

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// What headers and the protocol take beside our own count, in bytes.
const OVERHEAD_BYTES: usize = 64;
/// The longest subject. A server closes the connection of who sends a line of more than 4096 bytes, which
/// has other things in it too.
const SUBJECT_BYTES_MAX: usize = 3500;
/// The client library is not to come back by itself: it would go on with later events.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

const CONNECTION_LOST: &str = "the connection was lost";
/// What to do where something else listens.
const NO_NATS: &str = "is it a NATS server? Correct servers";

/// A connection to a server with JetStream, which ends when it is lost.
struct Link {
    client: Client,
    context: Context,
    /// Notified when the connection is lost.
    lost: Arc<Notify>,
    /// What the server said when it refused something without an answer: a right that the user lacks.
    refused: watch::Receiver<Option<String>>,
    /// On how many servers is kept what we make there.
    replicas: usize,
    /// Of the library's tasks, which end with this: one that waits to connect again would stay for ever.
    _runtime: OwnRuntime,
}

impl Link {
    /// Connects, and sees that JetStream is there.
    ///
    /// # Errors
    /// Why not, and what to do.
    async fn connect(user: User<'_>) -> Result<Self, String> {
        let engine = user.engine;
        let (lost, is_connected) = (Arc::<Notify>::default(), Arc::<AtomicBool>::default());
        let (losing, was_connected) = (Arc::clone(&lost), Arc::clone(&is_connected));
        let (refusing, refused) = watch::channel(None);
        let options = options(user)?
            .reconnect_delay_callback(move |_| match was_connected.load(Ordering::Relaxed) {
                true => NEVER,
                false => Duration::ZERO,
            })
            .event_callback(move |event| {
                match event {
                    Event::Disconnected | Event::Closed => losing.notify_one(),
                    Event::ServerError(error) => refusing.send_modify(|said| {
                        said.get_or_insert_with(|| error.to_string());
                    }),
                    _ => {}
                }
                std::future::ready(())
            });
        let (runtime, servers) = (OwnRuntime::new("nats")?, engine.servers().to_vec());
        let connecting = async move { options.connect(servers).await };
        let client = match timeout(CONNECT_MAX, runtime.spawn(connecting)?).await {
            Ok(Ok(Ok(client))) => client,
            Ok(Err(error)) => return Err(why_unreachable(engine, &error.to_string())),
            Ok(Ok(Err(error))) => {
                let said = error.to_string();
                let why = match said.contains("server operation") || said.contains("INFO") {
                    true => format!(
                        "what listens there doesn't answer as a NATS does: {NO_NATS} ({said})"
                    ),
                    false if error.kind() == ConnectErrorKind::TimedOut => {
                        format!("{said}: {NO_NATS}")
                    }
                    false => said,
                };
                return Err(why_unreachable(engine, &why));
            }
            Err(_) => {
                let why = format!("no answer within {CONNECT_MAX:?}: {NO_NATS}");
                return Err(why_unreachable(engine, &why));
            }
        };
        is_connected.store(true, Ordering::Relaxed);
        let context = jetstream::new(client.clone());
        let link = Self {
            client,
            context,
            lost,
            refused,
            replicas: engine.replicas() as usize,
            _runtime: runtime,
        };
        link.heard(has_jetstream(&link.context)).await??;
        Ok(link)
    }

    /// What comes of it, unless the server refuses meanwhile what is asked for: it gives no answer then.
    ///
    /// # Errors
    /// What the server says, and what to do.
    async fn heard<T>(&self, asked: impl Future<Output = T>) -> Result<T, String> {
        let mut refused = self.refused.clone();
        let refusal = async {
            let said = refused.wait_for(Option::is_some).await;
            let said = said.ok().and_then(|said| said.clone());
            match said {
                Some(said) => said,
                // Nobody is there any more who would say anything.
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            said = refusal => Err(format!(
                "the server refuses it: {said}; give the user that right"
            )),
            answer = asked => Ok(answer),
        }
    }
}

/// A stream, which is made if it isn't there. One that is there may be otherwise, and is taken as it is.
async fn stream(link: &Link, config: stream::Config) -> Result<JetStream, String> {
    let (name, wanted) = (config.name.clone(), link.replicas);
    let config = stream::Config {
        storage: StorageType::File,
        num_replicas: wanted,
        ..config
    };
    let asked = timeout(CONNECT_MAX, link.context.get_or_create_stream(config));
    match link.heard(asked).await? {
        Ok(Ok(stream)) => {
            let there = stream.cached_info().config.num_replicas;
            if there < wanted {
                tracing::warn!(target: "em.bridge", "the stream {name} has {there} replicas, and the configuration says {wanted}: nats stream edit {name} --replicas {wanted}");
            }
            Ok(stream)
        }
        Ok(Err(error)) => Err(format!("the stream {name} can't be made: {error}")),
        Err(_) => Err(format!(
            "asking for the stream {name}: no answer within {CONNECT_MAX:?}"
        )),
    }
}

/// What the server says of JetStream. `query_account` wants fields that older servers don't send, and we
/// want none of them.
#[derive(Deserialize)]
struct AccountInfo {
    error: Option<AccountError>,
}

#[derive(Deserialize)]
struct AccountError {
    #[serde(default)]
    description: String,
}

async fn has_jetstream(context: &Context) -> Result<(), String> {
    let asked = context.request::<_, _, AccountInfo>("INFO", &());
    let why = match timeout(CONNECT_MAX, asked).await {
        Ok(Ok(answer)) => match answer.error {
            None => return Ok(()),
            Some(error) => error.description,
        },
        Ok(Err(error)) => error.to_string(),
        Err(_) => return Err(format!("JetStream doesn't answer within {CONNECT_MAX:?}")),
    };
    Err(format!(
        "the server has no JetStream for us: {why}; start it with -js, and enable it for this account"
    ))
}

fn why_unreachable(engine: &Engine, why: &str) -> String {
    let servers = engine.servers().join(", ");
    format!("{servers} can't be used: {why}")
}

fn options(user: User<'_>) -> Result<ConnectOptions, String> {
    let User {
        engine,
        security,
        bridge,
        ..
    } = user;
    let mut options = ConnectOptions::new()
        .name(format!("event-manager {bridge}"))
        .connection_timeout(CONNECT_MAX)
        .ping_interval(Duration::from_secs(5));
    let secret = |key: &'static str, path: &Path| {
        let file = ConfiguredFile::secret(key, path.to_owned(), security);
        file.read()
            .map(|(_, text)| text)
            .map_err(|error| error.to_string())
    };
    options = match engine.login() {
        Login::None => options,
        Login::Password(user, file) => {
            let password = secret("passwordFile", file)?;
            options.user_and_password(user.to_owned(), password.trim().to_owned())
        }
        Login::Token(file) => options.token(secret("tokenFile", file)?.trim().to_owned()),
        Login::Credentials(file) => {
            let text = secret("credentialsFile", file)?;
            options.credentials(&text).map_err(|_| {
                let path = file.display();
                format!("credentialsFile {path} holds no credentials as nsc writes them")
            })?
        }
    };
    if let Some(file) = engine.ca_file() {
        options = options.add_root_certificates(file.to_owned());
    }
    Ok(options)
}

/// What is known of an event that was sent.
enum Answer {
    Known(Outcome),
    /// Nothing is known of it, and why.
    Unsure(String),
    /// Nor of any behind it.
    Silence(String),
}

fn too_large(bytes: usize) -> String {
    format!("{bytes} bytes are more than the server's max_payload")
}

/// Events are published to streams.
pub(super) struct NatsOutlet {
    link: Link,
    /// What stands before each subject.
    to: String,
}

impl NatsOutlet {
    /// # Errors
    /// Why there is no connection, and what to do.
    pub(super) async fn connect(user: User<'_>, to: Destination<'_>) -> Result<Self, String> {
        let link = Link::connect(user).await?;
        let to = match to {
            Destination::Place(to) => to.to_owned(),
            Destination::QueueOf(service) => {
                queue::stream_of(&link, service).await?;
                queue::prefix_of(service)
            }
        };
        Ok(Self { link, to })
    }

    fn subject_of(&self, event: &Outgoing) -> String {
        format!("{}{}", self.to, event.subject)
    }

    async fn publish(&self, event: &Outgoing) -> Result<PublishAckFuture, PublishError> {
        let mut message = PublishMessage::build()
            .payload(event.body.clone())
            .message_id(&event.id);
        for (name, value) in &event.headers {
            message = message.header(*name, value.as_str());
        }
        self.link
            .context
            .send_publish(self.subject_of(event), message)
            .await
    }

    /// Why the server would never take an event, if so.
    fn why_never(&self, event: &Outgoing, max_payload: usize) -> Option<String> {
        let bytes = self.to.len() + event.bytes();
        if bytes + OVERHEAD_BYTES > max_payload {
            return Some(too_large(bytes));
        }
        let bytes = self.to.len() + event.subject.len();
        (bytes > SUBJECT_BYTES_MAX).then(|| {
            format!("its subject has {bytes} bytes there; at most {SUBJECT_BYTES_MAX} are sent")
        })
    }

    fn answer(&self, event: &Outgoing, error: &PublishError) -> Answer {
        match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => {
                Answer::Known(Outcome::Refused(too_large(self.to.len() + event.bytes())))
            }
            PublishErrorKind::StreamNotFound => Answer::Unsure(format!(
                "no stream takes the subject {}: create one whose subjects have it",
                self.subject_of(event)
            )),
            PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => {
                Answer::Silence(error.to_string())
            }
            _ => Answer::Unsure(error.to_string()),
        }
    }

    /// Sends all, and then waits for the confirmations in the same order.
    async fn exchange(&self, batch: &[Outgoing], stall: Duration) -> Sent {
        let max_payload = self.link.client.server_info().max_payload;
        let (mut under_way, mut problem) = (Vec::with_capacity(batch.len()), None);
        for event in batch {
            if let Some(why) = self.why_never(event, max_payload) {
                under_way.push(Err(why));
                continue;
            }
            match timeout(stall, self.publish(event)).await {
                Ok(Ok(ack)) => under_way.push(Ok(ack)),
                Ok(Err(error)) => {
                    problem = Some(error.to_string());
                    break;
                }
                Err(_) => {
                    problem = Some(format!("nothing could be sent for {stall:?}"));
                    break;
                }
            }
        }
        let mut outcomes = Vec::with_capacity(batch.len());
        for (event, sent) in batch.iter().zip(under_way) {
            let answer = match sent {
                Err(why) => Answer::Known(Outcome::Refused(why)),
                Ok(ack) => match timeout(stall, ack.into_future()).await {
                    Ok(Ok(ack)) if ack.duplicate => Answer::Known(Outcome::Known),
                    Ok(Ok(_)) => Answer::Known(Outcome::Stored),
                    Ok(Err(error)) => self.answer(event, &error),
                    Err(_) => Answer::Silence(format!("nothing was confirmed for {stall:?}")),
                },
            };
            match answer {
                Answer::Known(outcome) => outcomes.push(outcome),
                Answer::Unsure(why) => {
                    outcomes.push(Outcome::Unknown);
                    problem.get_or_insert(why);
                }
                Answer::Silence(why) => {
                    problem.get_or_insert(why);
                    break;
                }
            }
        }
        Sent {
            outcomes,
            failure: problem.map(Failure::Refused),
        }
    }
}

impl Outlet for NatsOutlet {
    fn send<'a>(&'a mut self, batch: &'a [Outgoing], stall: Duration) -> Pending<'a, Sent> {
        Box::pin(async move {
            tokio::select! {
                // First: what is confirmed by then is known.
                biased;
                sent = self.exchange(batch, stall) => sent,
                () = self.link.lost.notified() => Sent {
                    outcomes: vec![],
                    failure: Some(Failure::Lost(CONNECTION_LOST.into())),
                },
            }
        })
    }

    fn lost(&mut self) -> Pending<'_, String> {
        Box::pin(async {
            self.link.lost.notified().await;
            CONNECTION_LOST.into()
        })
    }
}

/// How long the server waits for an acknowledgement before it gives an event again.
const ACK_WAIT: Duration = Duration::from_secs(10);
/// How often it says that it is there while there is no event, and how long one of its answers goes on.
const HEARTBEAT: Duration = Duration::from_secs(5);
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// How long it may take to hear of acknowledgements.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// How long giving back may take.
const GIVE_BACK_MAX: Duration = Duration::from_secs(1);

/// Events of a stream, by a durable consumer that daemons of one group share.
pub(super) struct NatsSource {
    link: Link,
    messages: pull::Stream,
    /// What the position of an event begins with: the stream, and when it was created.
    stream: String,
    /// What was given and is not settled.
    held: BTreeMap<Receipt, Acker>,
    last: u64,
}

impl NatsSource {
    /// Connects, and makes the consumer unless it is there.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub(super) async fn connect(user: User<'_>, origin: Origin<'_>) -> Result<Self, String> {
        let link = Link::connect(user).await?;
        let Origin { from, group, .. } = origin;
        let in_time =
            |what: &'static str| move |_| format!("{what}: no answer within {CONNECT_MAX:?}");
        let stream = timeout(CONNECT_MAX, link.context.get_stream(from)).await;
        let stream =
            stream
                .map_err(in_time("asking for the stream"))?
                .map_err(|error| match error.kind() {
                    GetStreamErrorKind::JetStream(_) => {
                        format!(
                            "there is no stream {from} for us: {error}; create it, or mend `from`"
                        )
                    }
                    _ => format!("the stream {from} can't be read: {error}"),
                })?;
        let config = pull::Config {
            durable_name: Some(group.to_owned()),
            description: Some("bridge of an event manager".into()),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            // Each daemon bounds what it holds; the server's default for all of them stalls silently.
            max_ack_pending: -1,
            ..pull::Config::default()
        };
        let consumer = timeout(CONNECT_MAX, stream.get_or_create_consumer(group, config)).await;
        let consumer = consumer
            .map_err(in_time("asking for the consumer"))?
            .map_err(|error| format!("the stream {from} gives us no consumer {group}: {error}"))?;
        let created = stream.cached_info().created.unix_timestamp_nanos();
        let messages = consumer
            .stream()
            .max_messages_per_batch(origin.in_flight_max as usize)
            .heartbeat(HEARTBEAT)
            .expires(PULL_EXPIRES)
            .messages()
            .await;
        Ok(Self {
            messages: messages
                .map_err(|error| format!("the consumer {group} gives nothing: {error}"))?,
            link,
            stream: format!("nats/{from}/{created:x}"),
            held: BTreeMap::new(),
            last: 0,
        })
    }

    /// Waits for an event, and takes those that are there then.
    async fn fill(&mut self, room: usize) -> Result<Vec<Message>, Failure> {
        let mut taken = vec![];
        poll_fn(|context| {
            while taken.len() < room {
                match Pin::new(&mut self.messages).poll_next(context) {
                    Poll::Ready(Some(Ok(message))) => taken.push(message),
                    // What was taken comes again.
                    Poll::Ready(Some(Err(error))) => {
                        return Poll::Ready(Err(Failure::Lost(error.to_string())));
                    }
                    Poll::Ready(None) => {
                        return Poll::Ready(Err(Failure::Lost("the consumer has ended".into())));
                    }
                    Poll::Pending if taken.is_empty() => return Poll::Pending,
                    Poll::Pending => break,
                }
            }
            Poll::Ready(Ok(()))
        })
        .await?;
        Ok(taken)
    }

    fn incoming(&mut self, message: Message) -> Incoming {
        self.last += 1;
        let receipt = Receipt(self.last);
        let (incoming, acker) = incoming(message, receipt, &self.stream);
        self.held.insert(receipt, acker);
        incoming
    }

    /// Acknowledges all; the server says that it has heard the last, and with it those before.
    async fn acknowledge(&mut self, done: &[Receipt]) -> Result<(), String> {
        let ackers = done.iter().filter_map(|receipt| self.held.remove(receipt));
        let mut ackers: Vec<_> = ackers.collect();
        let last = ackers.pop();
        for acker in &ackers {
            acker.ack().await.map_err(|error| error.to_string())?;
        }
        match last {
            Some(last) => last.double_ack().await.map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }
}

/// What a message brings, and how it is settled. `stream` is what the position of its events begins with.
fn incoming(message: Message, receipt: Receipt, stream: &str) -> (Incoming, Acker) {
    let info = message.info().ok();
    let sequence = info.as_ref().map(|info| info.stream_sequence);
    let delivered = info.map_or(0, |info| info.delivered);
    let (message, acker) = message.split();
    let headers = message.headers.iter().flat_map(|headers| headers.iter());
    let headers = headers.filter_map(|(name, values)| {
        let value = values.first()?.as_str();
        Some((
            AsRef::<str>::as_ref(name).to_ascii_lowercase(),
            value.to_owned(),
        ))
    });
    let incoming = Incoming {
        receipt,
        position: sequence.map(|sequence| format!("{stream}/{sequence}")),
        subject: message.subject.to_string(),
        headers: headers.collect(),
        body: message.payload,
        given_before: u32::try_from(delivered.saturating_sub(1)).unwrap_or_default(),
    };
    (incoming, acker)
}

impl Source for NatsSource {
    fn take(&mut self, room: usize) -> Pending<'_, Result<Vec<Incoming>, Failure>> {
        Box::pin(async move {
            let lost = Arc::clone(&self.link.lost);
            let taken = tokio::select! {
                biased;
                taken = self.fill(room) => taken?,
                () = lost.notified() => return Err(Failure::Lost(CONNECTION_LOST.into())),
            };
            Ok(taken
                .into_iter()
                .map(|message| self.incoming(message))
                .collect())
        })
    }

    fn settle<'a>(&'a mut self, done: &'a [Receipt]) -> Pending<'a, Result<(), Failure>> {
        Box::pin(async move {
            match timeout(SETTLE_MAX, self.acknowledge(done)).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(why)) => Err(Failure::Lost(format!(
                    "what was taken can't be acknowledged: {why}"
                ))),
                Err(_) => Err(Failure::Refused(format!(
                    "the server has not heard for {SETTLE_MAX:?} what was taken"
                ))),
            }
        })
    }

    fn give_back(&mut self) -> Pending<'_, ()> {
        Box::pin(async {
            // What the library has and nobody took, too: it is there at once.
            let ready = timeout(Duration::ZERO, self.fill(usize::MAX)).await;
            for message in ready.into_iter().flatten().flatten() {
                self.incoming(message);
            }
            let giving = async {
                for acker in self.held.values() {
                    // The server gives them again by itself, only later.
                    let _ = acker.ack_with(AckKind::Nak(None)).await;
                }
                let _ = self.link.client.flush().await;
            };
            let _ = timeout(GIVE_BACK_MAX, giving).await;
        })
    }
}
