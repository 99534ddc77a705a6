//! The queue of a service: a quorum queue, from which each daemon is given as many events as its workers have
//! credit for.
//!
//! The server gives a consumer events until so many are not settled, and that number can't be changed. So a
//! daemon has several consumers: one more when its workers want more, and one less when they want less.
//! What a daemon has is given to others as soon as its connection is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    QueueDeclareOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Consumer, ErrorKind};
use tokio::time::timeout;

use super::shares::{Change, Shares};
use super::source::{incoming, is_of_stream, what};
use super::{ANSWER_MAX, Session, name};
use crate::engines::{Failure, Incoming, Pending, Queue, QueueOf, Receipt, User};

/// In which a quorum queue says how often an event was given before: from 4.3 on the second says it.
const GIVEN_BEFORE: [&str; 2] = ["x-delivery-count", "x-acquired-count"];
/// A bound that is never reached. The server would throw away what was given too often, by default after 20
/// times; and it would take events back from a worker that needs longer than half an hour. Both are for the
/// daemon to say.
const NEVER: i32 = 2_000_000_000;

/// A consumer that begins, or ends: it goes on though nobody waits for it.
type Changing = Pin<Box<dyn Future<Output = Result<Option<Begun>, Stuck>>>>;
type Begun = (u64, Consumer);

/// Why a consumer could not be changed.
enum Stuck {
    Error(lapin::Error),
    NoAnswer,
}

/// The name of a service's queue.
pub(super) fn name_of(service: &str) -> Result<ShortString, String> {
    name(&format!("em.service.{service}"))
}

/// Makes a service's queue, unless it is there. One that is there may be otherwise, and needs no right to
/// make it.
pub(super) async fn declare(session: &mut Session, queue: &ShortString) -> Result<(), Failure> {
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let looks = session
        .channel
        .queue_declare(queue.clone(), passive, FieldTable::default());
    match timeout(ANSWER_MAX, looks).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) if is_not_found(&error) => {}
        Ok(Err(error)) => return Err(session.failure(&error, &what(queue))),
        Err(_) => return Err(no_answer()),
    }
    // The server has closed the channel.
    session.reopen(&what(queue)).await?;
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let mut arguments = FieldTable::default();
    for (name, value) in [
        ("x-queue-type", AMQPValue::LongString("quorum".into())),
        ("x-delivery-limit", AMQPValue::LongInt(NEVER)),
        ("x-consumer-timeout", AMQPValue::LongInt(NEVER)),
    ] {
        arguments.insert(name.into(), value);
    }
    let declares = session
        .channel
        .queue_declare(queue.clone(), durable, arguments);
    session.answer(declares, &what(queue)).await.map(drop)
}

fn is_not_found(error: &lapin::Error) -> bool {
    let ErrorKind::ProtocolError(said) = error.kind() else {
        return false;
    };
    matches!(said.kind(), AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
}

fn no_answer() -> Failure {
    Failure::Lost(format!("no answer within {ANSWER_MAX:?}"))
}

/// A connection with the consumers of a daemon.
pub(in crate::engines) struct RabbitQueue {
    queue: ShortString,
    /// By what the shares call them.
    consumers: BTreeMap<u64, Consumer>,
    shares: Shares,
    changing: Option<Changing>,
    /// What has come meanwhile and was not taken yet.
    came: Vec<Incoming>,
    /// What the channel was told last: how many events its next consumer may have.
    prefetch: u16,
    /// What was given and not settled: by its delivery tag, whose it is.
    held: BTreeMap<u64, u64>,
    session: Session,
}

impl RabbitQueue {
    /// Connects, and makes the queue unless it is there.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub(in crate::engines) async fn connect(
        user: User<'_>,
        queue: QueueOf<'_>,
    ) -> Result<Self, String> {
        let name = name_of(queue.service)?;
        let mut session = Session::open(user).await?;
        match declare(&mut session, &name).await {
            Ok(()) => Ok(Self {
                queue: name,
                consumers: BTreeMap::new(),
                shares: Shares::default(),
                changing: None,
                came: vec![],
                prefetch: 1,
                held: BTreeMap::new(),
                session,
            }),
            Err(Failure::Lost(why) | Failure::Refused(why)) => Err(why),
        }
    }

    fn change(&mut self, change: Change) -> Changing {
        let channel = self.session.channel.clone();
        match change {
            Change::Begin(number, prefetch) => {
                self.prefetch = prefetch;
                let queue = self.queue.clone();
                Box::pin(answered(async move {
                    channel.basic_qos(prefetch, qos()).await?;
                    let (tag, options) = (ShortString::default(), BasicConsumeOptions::default());
                    let begins = channel.basic_consume(queue, tag, options, FieldTable::default());
                    Ok(Some((number, begins.await?)))
                }))
            }
            Change::End(number) => {
                let tag = self.consumers.get(&number).map(Consumer::tag);
                Box::pin(answered(async move {
                    if let Some(tag) = tag {
                        let options = BasicCancelOptions::default();
                        channel.basic_cancel(tag, options).await?;
                    }
                    Ok(None)
                }))
            }
        }
    }

    async fn take_some(&mut self, room: usize) -> Result<Vec<Incoming>, Failure> {
        while self.came.is_empty() {
            if self.changing.is_none()
                && let Some(change) = self.shares.change(room)
            {
                self.changing = Some(self.change(change));
            }
            let taken = poll_fn(|context| self.poll_some(context)).await?;
            self.came.extend(taken);
        }
        Ok(std::mem::take(&mut self.came))
    }

    /// Waits until no consumer is about to begin or to end.
    async fn has_changed(&mut self) -> Result<(), Failure> {
        while self.changing.is_some() {
            let taken = poll_fn(|context| self.poll_some(context)).await?;
            self.came.extend(taken);
        }
        Ok(())
    }

    /// Takes what has come; nothing if a consumer has begun or ended.
    fn poll_some(&mut self, context: &mut Context<'_>) -> Poll<Result<Vec<Incoming>, Failure>> {
        let has_changed = self.poll_change(context)?;
        let taken = self.poll_consumers(context)?;
        if has_changed || !taken.is_empty() {
            return Poll::Ready(Ok(taken));
        }
        let lost = self.session.poll_lost(context);
        lost.map(|why| Err(Failure::Lost(why)))
    }

    /// Whether a consumer has begun or ended.
    fn poll_change(&mut self, context: &mut Context<'_>) -> Result<bool, Failure> {
        let Some(changing) = &mut self.changing else {
            return Ok(false);
        };
        let Poll::Ready(changed) = changing.as_mut().poll(context) else {
            return Ok(false);
        };
        self.changing = None;
        match changed {
            Ok(begun) => self.consumers.extend(begun),
            Err(Stuck::Error(error)) => {
                return Err(self.session.failure(&error, &what(&self.queue)));
            }
            Err(Stuck::NoAnswer) => return Err(no_answer()),
        }
        Ok(true)
    }

    fn poll_consumers(&mut self, context: &mut Context<'_>) -> Result<Vec<Incoming>, Failure> {
        let mut came = vec![];
        let mut ended = vec![];
        for (number, consumer) in &mut self.consumers {
            loop {
                match Pin::new(&mut *consumer).poll_next(context) {
                    Poll::Ready(Some(Ok(delivery))) => came.push((*number, delivery)),
                    Poll::Ready(Some(Err(error))) => {
                        return Err(self.session.failure(&error, &what(&self.queue)));
                    }
                    Poll::Ready(None) => {
                        ended.push(*number);
                        break;
                    }
                    Poll::Pending => break,
                }
            }
        }
        let given: Result<_, _> = came
            .into_iter()
            .map(|(number, delivery)| self.given(number, delivery))
            .collect();
        for number in ended {
            self.consumers.remove(&number);
            if !self.shares.has_ended(number) {
                return Err(Failure::Refused(format!(
                    "the server gives no more of {}: it was deleted, or its server stops",
                    what(&self.queue)
                )));
            }
        }
        given
    }

    fn given(&mut self, number: u64, delivery: Delivery) -> Result<Incoming, Failure> {
        if is_of_stream(&delivery) {
            return Err(Failure::Refused(format!(
                "{} is a stream, which daemons can't share: delete it, and a quorum queue is made",
                self.queue
            )));
        }
        self.held.insert(delivery.delivery_tag, number);
        self.shares.give(number);
        let mut incoming = incoming(delivery);
        let counts = incoming.headers.iter();
        let counts = counts.filter(|(name, _)| GIVEN_BEFORE.contains(&name.as_str()));
        let given_before = counts.filter_map(|(_, count)| count.parse().ok()).max();
        incoming.given_before = given_before.unwrap_or_default();
        Ok(incoming)
    }

    /// These are nobody's any more.
    fn settled(&mut self, tag: u64) {
        if let Some(number) = self.held.remove(&tag) {
            self.shares.settle(number);
        }
    }

    /// To an acknowledgement comes no answer. To this one does, and the server takes one after the other. It
    /// changes nothing.
    async fn is_heard(&self) -> Result<(), Failure> {
        let bounds = self.session.channel.basic_qos(self.prefetch, qos());
        self.session.answer(bounds, &what(&self.queue)).await
    }

    async fn acknowledge_all(&mut self, done: &[Receipt]) -> Result<(), Failure> {
        for Receipt(tag) in done {
            if self.held.contains_key(tag) {
                let channel = &self.session.channel;
                let told = channel.basic_ack(*tag, BasicAckOptions::default());
                self.session.answer(told, &what(&self.queue)).await?;
                self.settled(*tag);
            }
        }
        self.is_heard().await
    }

    async fn give_all_back(&mut self, held: &[Receipt]) -> Result<(), Failure> {
        // They would come again at once to the consumers that had them.
        let theirs = held.iter().filter_map(|receipt| self.held.get(&receipt.0));
        let theirs: BTreeSet<_> = theirs.copied().collect();
        for number in theirs {
            self.has_changed().await?;
            if let Some(change) = self.shares.end(number) {
                self.changing = Some(self.change(change));
            }
        }
        self.has_changed().await?;
        for Receipt(tag) in held {
            if self.held.contains_key(tag) {
                let again = BasicNackOptions {
                    requeue: true,
                    ..BasicNackOptions::default()
                };
                let told = self.session.channel.basic_nack(*tag, again);
                self.session.answer(told, &what(&self.queue)).await?;
                self.settled(*tag);
            }
        }
        self.is_heard().await
    }

    /// Ends all consumers.
    async fn end_all(&mut self) -> Result<(), Failure> {
        self.has_changed().await?;
        while let Some(change) = self.shares.change(0) {
            self.changing = Some(self.change(change));
            self.has_changed().await?;
        }
        Ok(())
    }
}

fn qos() -> BasicQosOptions {
    BasicQosOptions::default()
}

async fn answered<T>(asked: impl Future<Output = lapin::Result<T>>) -> Result<T, Stuck> {
    match timeout(ANSWER_MAX, asked).await {
        Ok(answer) => answer.map_err(Stuck::Error),
        Err(_) => Err(Stuck::NoAnswer),
    }
}

impl Queue for RabbitQueue {
    fn take(&mut self, room: usize) -> Pending<'_, Result<Vec<Incoming>, Failure>> {
        Box::pin(self.take_some(room))
    }

    fn want_nothing(&mut self) -> Pending<'_, Vec<Receipt>> {
        Box::pin(async {
            // If it fails, the connection is lost, and all goes back with it.
            let _ = self.end_all().await;
            let came = std::mem::take(&mut self.came).into_iter();
            came.map(|incoming| incoming.receipt).collect()
        })
    }

    fn acknowledge<'a>(&'a mut self, done: &'a [Receipt]) -> Pending<'a, Result<(), Failure>> {
        Box::pin(self.acknowledge_all(done))
    }

    /// The server gives an event to nobody else while the connection is there.
    fn extend<'a>(&'a mut self, _held: &'a [Receipt]) -> Pending<'a, Result<(), Failure>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn give_back<'a>(&'a mut self, held: &'a [Receipt]) -> Pending<'a, Result<(), Failure>> {
        Box::pin(self.give_all_back(held))
    }

    fn token(&self, _held: Receipt) -> Option<String> {
        None
    }

    fn recall(&mut self, _token: &str) -> Option<Receipt> {
        None
    }
}
