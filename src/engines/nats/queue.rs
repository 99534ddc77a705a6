//! The queue of a service: a stream that keeps each event until it is acknowledged, and one durable
//! consumer, which all daemons share.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::pull::{BatchConfig, Config};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer};
use async_nats::jetstream::message::Acker;
use async_nats::jetstream::stream::{self, RetentionPolicy, Stream};
use async_nats::jetstream::{AckKind, Message};
use async_nats::{StatusCode, Subject, Subscriber};
use futures_core::Stream as _;
use tokio::time::{sleep_until, timeout};

use super::super::{Failure, Incoming, Pending, Queue, QueueOf, Receipt, User};
use super::{CONNECT_MAX, CONNECTION_LOST, GIVE_BACK_MAX, Link, SETTLE_MAX, incoming};
use crate::ambient::now;

/// What the consumer is called.
const CONSUMER: &str = "workers";
/// How long the server keeps in mind what we want, and how often it says that it is there.
const WANT_EXPIRES: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(5);
/// After such a silence it has forgotten us.
const SILENCE_MAX: Duration = Duration::from_secs(11);
/// In which the server says how many it did not give of those that were wanted.
const NOT_GIVEN: &str = "Nats-Pending-Messages";

/// A service's name as a part of other names: in ASCII, without the characters that NATS gives a meaning.
fn encoded(service: &str) -> String {
    let mut text = String::with_capacity(service.len());
    for byte in service.bytes() {
        match byte.is_ascii_alphanumeric() || b"-_".contains(&byte) {
            true => text.push(char::from(byte)),
            false => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// What stands before the subjects of a service's events.
pub(super) fn prefix_of(service: &str) -> String {
    format!("em.service.{}.", encoded(service))
}

/// The stream of a service.
///
/// # Errors
/// Why there is none, and what to do.
pub(super) async fn stream_of(link: &Link, service: &str) -> Result<Stream, String> {
    let config = stream::Config {
        name: format!("em-service-{}", encoded(service)),
        description: Some(format!(
            "queue of the service {service}, made by an event manager"
        )),
        subjects: vec![format!("{}>", prefix_of(service))],
        retention: RetentionPolicy::WorkQueue,
        ..stream::Config::default()
    };
    link.stream(config).await
}

/// An event that was given and is not settled.
struct Held {
    acker: Acker,
    token: String,
    /// Another connection was given it. The server may not know that any more, and says nothing then.
    is_recalled: bool,
}

/// A service's queue.
pub(in crate::engines) struct NatsQueue {
    link: Link,
    consumer: PullConsumer,
    /// Where events come, and what the server says of what we want.
    inbox: Subject,
    coming: Subscriber,
    /// Where nothing more is wanted, until all has come that is under way.
    former: Vec<Subscriber>,
    /// How many the server is still to give us.
    awaited: usize,
    /// When something came last, or was wanted while nothing was.
    heard_at: Instant,
    /// What the position of an event begins with.
    stream: String,
    held: BTreeMap<Receipt, Held>,
    last: u64,
}

impl NatsQueue {
    /// Connects, and makes the stream and the consumer unless they are there.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub(in crate::engines) async fn connect(
        user: User<'_>,
        queue: QueueOf<'_>,
    ) -> Result<Self, String> {
        let link = Link::connect(user).await?;
        let stream = stream_of(&link, queue.service).await?;
        let info = stream.cached_info();
        let name = info.config.name.clone();
        let created = info.created.unix_timestamp_nanos();
        let config = Config {
            durable_name: Some(CONSUMER.to_owned()),
            description: Some(format!("workers of the service {}", queue.service)),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: queue.ack_timeout,
            // Each daemon bounds what it holds; the server's default for all of them stalls silently.
            max_ack_pending: -1,
            ..Config::default()
        };
        // One that is there takes another time over.
        let consumer = timeout(CONNECT_MAX, stream.create_consumer(config)).await;
        let consumer = consumer
            .map_err(|_| format!("asking for the consumer: no answer within {CONNECT_MAX:?}"))?
            .map_err(|error| {
                format!("the stream {name} gives us no consumer {CONSUMER}: {error}")
            })?;
        let inbox = Subject::from(link.client.new_inbox());
        let coming = link.client.subscribe(inbox.clone()).await;
        let coming = coming.map_err(|error| error.to_string())?;
        Ok(Self {
            link,
            consumer,
            inbox,
            coming,
            former: vec![],
            awaited: 0,
            heard_at: now(),
            stream: format!("nats/{name}/{created:x}"),
            held: BTreeMap::new(),
            last: 0,
        })
    }

    /// Says how many more are wanted. Not each time that one more is: the server keeps a list.
    async fn want(&mut self, room: usize) -> Result<(), Failure> {
        if self.awaited > room {
            self.want_no_more().await?;
        }
        if room == 0 || self.awaited > room / 2 {
            return Ok(());
        }
        let more = room - self.awaited;
        let wanted = BatchConfig {
            batch: more,
            expires: Some(WANT_EXPIRES),
            idle_heartbeat: HEARTBEAT,
            ..BatchConfig::default()
        };
        let asked = self.consumer.request_batch(wanted, self.inbox.clone());
        let asked = asked.await;
        asked.map_err(|error| Failure::Lost(error.to_string()))?;
        if self.awaited == 0 {
            self.heard_at = now();
        }
        self.awaited += more;
        Ok(())
    }

    /// The server forgets what was wanted, as nobody listens there any more. What it has just sent may be lost
    /// here, and then comes again as that of a lost daemon does.
    async fn want_no_more(&mut self) -> Result<(), Failure> {
        let lost = |error: &dyn Display| Failure::Lost(error.to_string());
        let inbox = Subject::from(self.link.client.new_inbox());
        let coming = self.link.client.subscribe(inbox.clone()).await;
        let coming = coming.map_err(|error| lost(&error))?;
        let mut former = std::mem::replace(&mut self.coming, coming);
        self.inbox = inbox;
        self.awaited = 0;
        former.drain().await.map_err(|error| lost(&error))?;
        self.former.push(former);
        Ok(())
    }

    /// Takes what is still under way of what was wanted before.
    fn poll_former(&mut self, context: &mut TaskContext<'_>, taken: &mut Vec<Incoming>) {
        let mut former = std::mem::take(&mut self.former);
        former.retain_mut(|coming| {
            loop {
                match Pin::new(&mut *coming).poll_next(context) {
                    Poll::Ready(Some(message)) if is_event(&message) => {
                        taken.push(self.given(message));
                    }
                    Poll::Ready(Some(_)) => {}
                    Poll::Ready(None) => return false,
                    Poll::Pending => return true,
                }
            }
        });
        self.former = former;
    }

    /// Takes what has come, or hears that the server gives no more of what was wanted; `Pending` if that is
    /// nothing.
    fn poll_coming(
        &mut self,
        context: &mut TaskContext<'_>,
    ) -> Poll<Result<Vec<Incoming>, Failure>> {
        let mut taken = vec![];
        self.poll_former(context, &mut taken);
        let mut is_over = false;
        while !is_over {
            match Pin::new(&mut self.coming).poll_next(context) {
                Poll::Ready(Some(message)) => {
                    self.heard_at = now();
                    match message.status {
                        _ if is_event(&message) => {
                            self.awaited = self.awaited.saturating_sub(1);
                            taken.push(self.given(message));
                        }
                        None | Some(StatusCode::IDLE_HEARTBEAT) => {}
                        Some(status) => match self.not_given(status, &message) {
                            Ok(()) => is_over = true,
                            Err(why) if taken.is_empty() => return Poll::Ready(Err(why)),
                            Err(_) => is_over = true,
                        },
                    }
                }
                Poll::Ready(None) => {
                    return Poll::Ready(Err(Failure::Lost(CONNECTION_LOST.into())));
                }
                Poll::Pending if taken.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn given(&mut self, message: async_nats::Message) -> Incoming {
        self.last += 1;
        let receipt = Receipt(self.last);
        let token = message.reply.as_ref().map(ToString::to_string);
        let context = self.link.context.clone();
        let message = Message { context, message };
        let (incoming, acker) = incoming(message, receipt, &self.stream);
        let held = Held {
            acker,
            token: token.unwrap_or_default(),
            is_recalled: false,
        };
        self.held.insert(receipt, held);
        incoming
    }

    /// The server gives no more of what was wanted.
    fn not_given(&mut self, status: StatusCode, said: &async_nats::Message) -> Result<(), Failure> {
        let words = said.description.as_deref().unwrap_or_default();
        let headers = said.headers.as_ref();
        let left = headers.and_then(|headers| headers.get(NOT_GIVEN)?.as_str().parse().ok());
        self.awaited = self.awaited.saturating_sub(left.unwrap_or(usize::MAX));
        match status {
            StatusCode::TIMEOUT | StatusCode::NOT_FOUND => Ok(()),
            _ if words.contains("Leadership Change") => Ok(()),
            _ => Err(Failure::Refused(format!(
                "the consumer {CONSUMER} gives nothing: {status} {words}"
            ))),
        }
    }

    async fn take_some(&mut self, room: usize) -> Result<Vec<Incoming>, Failure> {
        loop {
            self.want(room).await?;
            let (lost, silence) = (Arc::clone(&self.link.lost), self.heard_at + SILENCE_MAX);
            let is_awaited = self.awaited > 0;
            let taken = tokio::select! {
                biased;
                taken = poll_fn(|context| self.poll_coming(context)) => taken?,
                () = lost.notified() => return Err(Failure::Lost(CONNECTION_LOST.into())),
                () = sleep_until(silence.into()), if is_awaited => {
                    // It may have said something while nobody listened here.
                    if self.heard_at + SILENCE_MAX > now() {
                        continue;
                    }
                    return Err(Failure::Lost(format!(
                        "the server has said nothing for {SILENCE_MAX:?}"
                    )));
                }
            };
            if !taken.is_empty() {
                return Ok(taken);
            }
        }
    }

    /// Tells the server something of each; of the last, it says that it has heard it, and with it those before.
    async fn tell(
        &mut self,
        held: &[Receipt],
        kind: AckKind,
        is_last: bool,
    ) -> Result<(), Failure> {
        let known = held.iter().filter_map(|receipt| self.held.get(receipt));
        let (recalled, mut own): (Vec<_>, Vec<_>) = known.partition(|held| held.is_recalled);
        let last = own.pop();
        let telling = async {
            for held in recalled.iter().chain(&own) {
                held.acker.ack_with(kind).await?;
            }
            match last {
                Some(last) if is_last => last.acker.double_ack_with(kind).await?,
                Some(last) => last.acker.ack_with(kind).await?,
                None => self.link.client.flush().await?,
            }
            Ok::<(), async_nats::Error>(())
        };
        match timeout(SETTLE_MAX, telling).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => {
                return Err(Failure::Lost(format!(
                    "nothing can be told of events: {why}"
                )));
            }
            Err(_) => {
                return Err(Failure::Refused(format!(
                    "the server has not heard for {SETTLE_MAX:?} what became of events"
                )));
            }
        }
        if is_last {
            held.iter()
                .for_each(|receipt| drop(self.held.remove(receipt)));
        }
        Ok(())
    }
}

/// Else it is a word of the server's.
fn is_event(message: &async_nats::Message) -> bool {
    matches!(message.status, None | Some(StatusCode::OK))
}

impl Queue for NatsQueue {
    fn take(&mut self, room: usize) -> Pending<'_, Result<Vec<Incoming>, Failure>> {
        Box::pin(self.take_some(room))
    }

    fn want_nothing(&mut self) -> Pending<'_, Vec<Receipt>> {
        Box::pin(async {
            let mut came = vec![];
            let stopping = async {
                if self.want_no_more().await.is_ok() {
                    poll_fn(|context| {
                        self.poll_former(context, &mut came);
                        match self.former.is_empty() {
                            true => Poll::Ready(()),
                            false => Poll::Pending,
                        }
                    })
                    .await;
                }
            };
            // What comes later than that, the server gives again by itself.
            let _ = timeout(GIVE_BACK_MAX, stopping).await;
            came.into_iter().map(|incoming| incoming.receipt).collect()
        })
    }

    fn acknowledge<'a>(&'a mut self, done: &'a [Receipt]) -> Pending<'a, Result<(), Failure>> {
        Box::pin(self.tell(done, AckKind::Ack, true))
    }

    fn extend<'a>(&'a mut self, held: &'a [Receipt]) -> Pending<'a, Result<(), Failure>> {
        Box::pin(self.tell(held, AckKind::Progress, false))
    }

    fn give_back<'a>(&'a mut self, held: &'a [Receipt]) -> Pending<'a, Result<(), Failure>> {
        Box::pin(self.tell(held, AckKind::Nak(None), true))
    }

    fn token(&self, held: Receipt) -> Option<String> {
        self.held.get(&held).map(|held| held.token.clone())
    }

    fn recall(&mut self, token: &str) -> Option<Receipt> {
        self.last += 1;
        let receipt = Receipt(self.last);
        let reply = Subject::from(token.to_owned());
        let acker = Acker::new(self.link.context.clone(), Some(reply));
        let held = Held {
            acker,
            token: token.to_owned(),
            is_recalled: true,
        };
        self.held.insert(receipt, held);
        Some(receipt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_nats_can_t_have_are_encoded() {
        assert_eq!(prefix_of("Billing"), "em.service.Billing.");
        assert_eq!(prefix_of("a.b c*>%"), "em.service.a%2Eb%20c%2A%3E%25.");
    }
}
