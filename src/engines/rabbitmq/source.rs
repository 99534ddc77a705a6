//! Events from a queue.

use std::collections::{BTreeSet, HashSet};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Consumer};
use serde_json::Value;

use super::{Session, name};
use crate::engines::{Failure, Incoming, Origin, Pending, Receipt, Source, User};

/// The header that the message's own id is given as.
const MESSAGE_ID: &str = "message-id";
/// A stream gives each event this header; a queue does not.
const STREAM_OFFSET: &str = "x-stream-offset";
/// How deep lists and tables of a header are told.
const DEPTH_MAX: usize = 8;

/// A connection on which a queue's events come.
pub(in crate::engines) struct RabbitSource {
    consumer: Consumer,
    queue: ShortString,
    prefetch: u16,
    /// What was taken and not settled, by its delivery tag.
    unsettled: BTreeSet<u64>,
    /// Why nothing more comes.
    ended: Option<Failure>,
    session: Session,
}

impl RabbitSource {
    /// Connects, and begins to get the queue's events.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub(in crate::engines) async fn connect(
        user: User<'_>,
        origin: Origin<'_>,
    ) -> Result<Self, String> {
        let queue = name(origin.from)?;
        let session = Session::open(user).await?;
        let prefetch = u16::try_from(origin.in_flight_max).unwrap_or(u16::MAX);
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let (channel, none) = (&session.channel, FieldTable::default);
        // It shows who gets them.
        let tag = name(&format!("event-manager.{}", user.bridge)).unwrap_or_default();
        let looks = channel.queue_declare(queue.clone(), passive, none());
        let bounds = channel.basic_qos(prefetch, BasicQosOptions::default());
        let begins =
            channel.basic_consume(queue.clone(), tag, BasicConsumeOptions::default(), none());
        let what = what(&queue);
        let prepared = async {
            session.answer(looks, &what).await?;
            session.answer(bounds, &what).await?;
            session.answer(begins, &what).await
        };
        match prepared.await {
            Ok(consumer) => Ok(Self {
                consumer,
                queue,
                prefetch,
                unsettled: BTreeSet::new(),
                ended: None,
                session,
            }),
            Err(Failure::Lost(why) | Failure::Refused(why)) => Err(why),
        }
    }

    /// Takes what has come, at most so many; `Pending` if that is nothing.
    fn poll_take(
        &mut self,
        context: &mut Context<'_>,
        room: usize,
    ) -> Poll<Result<Vec<Incoming>, Failure>> {
        let mut taken = Vec::new();
        while taken.len() < room && self.ended.is_none() {
            match Pin::new(&mut self.consumer).poll_next(context) {
                Poll::Ready(Some(Ok(delivery))) if is_of_stream(&delivery) => {
                    let why = format!(
                        "{} is a stream, which gives nothing to who was away: bind a queue, and take that",
                        self.queue
                    );
                    self.ended = Some(Failure::Refused(why));
                }
                Poll::Ready(Some(Ok(delivery))) => {
                    self.unsettled.insert(delivery.delivery_tag);
                    taken.push(incoming(delivery));
                }
                Poll::Ready(Some(Err(error))) => {
                    self.ended = Some(self.session.failure(&error, &what(&self.queue)));
                }
                Poll::Ready(None) => {
                    let why = format!(
                        "the server gives no more of {}: it was deleted, or its server stops",
                        what(&self.queue)
                    );
                    self.ended = Some(Failure::Refused(why));
                }
                Poll::Pending if taken.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(match &self.ended {
            Some(why) if taken.is_empty() => Err(why.clone()),
            _ => Ok(taken),
        })
    }

    async fn acknowledge(&mut self, done: &[Receipt]) -> Result<(), Failure> {
        let done = done.iter().map(|receipt| receipt.0).collect();
        let (all_to, singly) = to_acknowledge(&mut self.unsettled, &done);
        let all_to = all_to.map(|tag| (tag, true));
        let singly = singly.into_iter().map(|tag| (tag, false));
        let (session, what) = (&self.session, what(&self.queue));
        for (tag, multiple) in all_to.into_iter().chain(singly) {
            let told = session.channel.basic_ack(tag, BasicAckOptions { multiple });
            session.answer(told, &what).await?;
        }
        // No answer comes to an acknowledgement. To this one does, and the server takes one after the other.
        let bounds = session
            .channel
            .basic_qos(self.prefetch, BasicQosOptions::default());
        session.answer(bounds, &what).await
    }
}

pub(super) fn what(queue: &ShortString) -> String {
    format!("queue {queue}")
}

impl Source for RabbitSource {
    fn take(&mut self, room: usize) -> Pending<'_, Result<Vec<Incoming>, Failure>> {
        Box::pin(poll_fn(move |context| self.poll_take(context, room)))
    }

    fn settle<'a>(&'a mut self, done: &'a [Receipt]) -> Pending<'a, Result<(), Failure>> {
        Box::pin(self.acknowledge(done))
    }
}

/// Up to which tag all are done, if so, and which others are. None of them is unsettled any more.
fn to_acknowledge(unsettled: &mut BTreeSet<u64>, done: &HashSet<u64>) -> (Option<u64>, Vec<u64>) {
    let mut all_to = None;
    while let Some(first) = unsettled.first().copied().filter(|tag| done.contains(tag)) {
        unsettled.remove(&first);
        all_to = Some(first);
    }
    let mut singly = Vec::new();
    unsettled.retain(|tag| {
        let is_done = done.contains(tag);
        singly.extend(is_done.then_some(*tag));
        !is_done
    });
    (all_to, singly)
}

pub(super) fn is_of_stream(delivery: &Delivery) -> bool {
    let headers = delivery.properties.headers().as_ref();
    headers.is_some_and(|headers| headers.contains_key(STREAM_OFFSET))
}

pub(super) fn incoming(delivery: Delivery) -> Incoming {
    Incoming {
        receipt: Receipt(delivery.delivery_tag),
        // A redelivery has another tag, and may come from another queue of the same name.
        position: None,
        headers: headers(&delivery.properties),
        subject: delivery.routing_key.into(),
        body: Bytes::from(delivery.data),
        given_before: 0,
    }
}

fn headers(properties: &BasicProperties) -> Vec<(String, String)> {
    let table = properties.headers().iter().flatten();
    let told = table.filter_map(|(name, value)| {
        let name = name.as_str().to_lowercase();
        Some((name, text(value)?)).filter(|(name, _)| name != MESSAGE_ID)
    });
    let mut told: Vec<_> = told.collect();
    if let Some(id) = properties.message_id() {
        told.push((MESSAGE_ID.to_owned(), id.to_string()));
    }
    told
}

/// A header's value: a text as it is, numbers in digits, lists and tables as JSON.
fn text(value: &AMQPValue) -> Option<String> {
    match json(value, DEPTH_MAX) {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

fn json(value: &AMQPValue, depth: usize) -> Value {
    use AMQPValue::*;
    match value {
        Boolean(value) => (*value).into(),
        ShortShortInt(value) => (*value).into(),
        ShortShortUInt(value) => (*value).into(),
        ShortInt(value) => (*value).into(),
        ShortUInt(value) => (*value).into(),
        LongInt(value) => (*value).into(),
        LongUInt(value) => (*value).into(),
        LongLongInt(value) => (*value).into(),
        Timestamp(value) => (*value).into(),
        Float(value) => (*value).into(),
        Double(value) => (*value).into(),
        ShortString(value) => value.as_str().into(),
        LongString(value) => std::str::from_utf8(value.as_bytes()).map_or(Value::Null, Into::into),
        FieldArray(values) if depth > 0 => {
            let values = values.as_slice().iter();
            values.map(|value| json(value, depth - 1)).collect()
        }
        FieldTable(table) if depth > 0 => {
            let members = table.into_iter();
            let member = |(name, value): (&lapin::types::ShortString, &AMQPValue)| {
                (name.to_string(), json(value, depth - 1))
            };
            Value::Object(members.map(member).collect())
        }
        FieldArray(_) | FieldTable(_) | DecimalValue(_) | ByteArray(_) | Void => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_up_to_a_tag_is_acknowledged_at_once() {
        for (done, all_to, singly, left) in [
            (&[1, 2, 3][..], Some(3), &[][..], &[4, 5, 6][..]),
            (&[2, 3], None, &[2, 3], &[1, 4, 5, 6]),
            (&[1, 2, 5, 6], Some(2), &[5, 6], &[3, 4]),
            (&[], None, &[], &[1, 2, 3, 4, 5, 6]),
            // One that was never taken, or is settled already, is nobody's.
            (&[7, 1], Some(1), &[], &[2, 3, 4, 5, 6]),
        ] {
            let mut unsettled = BTreeSet::from([1, 2, 3, 4, 5, 6]);
            let done: HashSet<u64> = done.iter().copied().collect();
            let told = to_acknowledge(&mut unsettled, &done);
            assert_eq!(told, (all_to, singly.to_vec()), "{done:?}");
            assert_eq!(unsettled.into_iter().collect::<Vec<_>>(), left);
        }
    }

    #[test]
    fn headers_are_texts() {
        let mut death = FieldTable::default();
        death.insert("count".into(), AMQPValue::LongLongInt(2));
        death.insert("queue".into(), AMQPValue::LongString("a".into()));
        let mut table = FieldTable::default();
        for (name, value) in [
            ("X-Em-Id", AMQPValue::LongString("the-id".into())),
            ("x-delivery-count", AMQPValue::LongLongInt(3)),
            ("bytes", AMQPValue::LongString(vec![0xFF].into())),
            ("nothing", AMQPValue::Void),
            ("message-id", AMQPValue::LongString("another".into())),
            (
                "x-death",
                AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into()),
            ),
        ] {
            table.insert(name.into(), value);
        }
        let properties = BasicProperties::default()
            .with_headers(table)
            .with_message_id("its own".into());
        let mut told = headers(&properties);
        told.sort();
        let expected = [
            ("message-id", "its own"),
            ("x-death", r#"[{"count":2,"queue":"a"}]"#),
            ("x-delivery-count", "3"),
            ("x-em-id", "the-id"),
        ];
        assert_eq!(
            told,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }
}
