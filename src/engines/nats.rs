//! NATS JetStream.

mod link;
mod queue;
mod register;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::context::{
    GetStreamByNameErrorKind, GetStreamErrorKind, PublishAckFuture, PublishError, PublishErrorKind,
};
use async_nats::jetstream::message::{Acker, PublishMessage};
use async_nats::jetstream::{self, AckKind, ErrorCode, Message};
use futures_core::Stream;
use tokio::time::timeout;

use super::{
    Destination, Failure, Incoming, Origin, Outcome, Outgoing, Outlet, Pending, Receipt, Sent,
    Source, User,
};
use link::{CONNECT_MAX, CONNECTION_LOST, Link};
pub(super) use queue::NatsQueue;
pub(super) use register::NatsRegister;

/// What headers and the protocol take beside our own count, in bytes.
const OVERHEAD_BYTES: usize = 64;
/// The longest subject. A server closes the connection of who sends a line of more than 4096 bytes, which
/// has other things in it too.
const SUBJECT_BYTES_MAX: usize = 3500;

/// How long it may take to ask which stream takes a subject.
const STREAM_NAME_MAX: Duration = Duration::from_secs(2);

/// What is known of an event that was sent.
enum Answer {
    Known(Outcome),
    /// Nobody has answered.
    NoStream,
    /// Nothing is known of it, and why.
    Unsure(String),
    /// Nor of any behind it.
    Silence(String),
}

fn too_large(bytes: usize) -> String {
    format!("{bytes} bytes are more than the server's max_payload")
}

fn no_stream(subject: &str) -> String {
    format!("no stream takes the subject {subject}: create one whose subjects have it")
}

/// What a stream says that refuses an event.
fn refusal(error: &PublishError) -> Option<&jetstream::Error> {
    error.source()?.downcast_ref()
}

/// Whether it will never take it, as long as it is as it is.
fn is_for_good(refused: &jetstream::Error) -> bool {
    let code = refused.error_code();
    code == ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM
        || code == ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM
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
            PublishErrorKind::StreamNotFound => Answer::NoStream,
            PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => {
                Answer::Silence(error.to_string())
            }
            _ => match refusal(error) {
                Some(refused) if is_for_good(refused) => Answer::Known(Outcome::Refused(format!(
                    "{} bytes are more than the stream takes: {refused}",
                    event.bytes()
                ))),
                Some(refused) => Answer::Unsure(format!("the stream refuses it: {refused}")),
                None => Answer::Unsure(error.to_string()),
            },
        }
    }

    /// Why nobody has answered: no stream takes a subject, or the one that does can't now.
    async fn why_no_stream(&self, event: &Outgoing) -> Failure {
        let subject = self.subject_of(event);
        let asked = self.link.context.stream_by_subject(subject.clone());
        let asked = timeout(STREAM_NAME_MAX, self.link.heard(asked)).await;
        match asked {
            Ok(Ok(Ok(stream))) => Failure::Lost(format!(
                "the stream {stream}, which takes the subject {subject}, doesn't answer: it may have no leader just now"
            )),
            // Who may not ask takes the server's word for it.
            Ok(Err(_)) => Failure::Refused(no_stream(&subject)),
            Ok(Ok(Err(error))) if error.kind() == GetStreamByNameErrorKind::NotFound => {
                Failure::Refused(no_stream(&subject))
            }
            Ok(Ok(Err(_))) | Err(_) => Failure::Lost(format!(
                "nobody takes the subject {subject}, nor says which stream does: JetStream may have no leader just now"
            )),
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
        let mut problem = problem.map(Failure::Refused);
        for (event, sent) in batch.iter().zip(under_way) {
            let answer = match sent {
                Err(why) => Answer::Known(Outcome::Refused(why)),
                Ok(ack) => match timeout(stall, self.link.heard(ack.into_future())).await {
                    Ok(Ok(Ok(ack))) if ack.duplicate => Answer::Known(Outcome::Known),
                    Ok(Ok(Ok(_))) => Answer::Known(Outcome::Stored),
                    Ok(Ok(Err(error))) => self.answer(event, &error),
                    // It gives no answer to what its user may not do.
                    Ok(Err(why)) => Answer::Silence(why),
                    Err(_) => Answer::Silence(format!("nothing was confirmed for {stall:?}")),
                },
            };
            match answer {
                Answer::Known(outcome) => outcomes.push(outcome),
                Answer::NoStream => {
                    outcomes.push(Outcome::Unknown);
                    if problem.is_none() {
                        problem = Some(self.why_no_stream(event).await);
                    }
                }
                Answer::Unsure(why) => {
                    outcomes.push(Outcome::Unknown);
                    problem.get_or_insert(Failure::Refused(why));
                }
                Answer::Silence(why) => {
                    problem.get_or_insert(Failure::Refused(why));
                    break;
                }
            }
        }
        Sent {
            outcomes,
            failure: problem,
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
