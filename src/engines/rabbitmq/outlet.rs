//! Events on their way to an exchange.

use std::collections::HashSet;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Confirmation, ErrorKind, ExchangeKind};
use tokio::time::timeout;

use super::queue::{declare, name_of};
use super::{Session, name};
use crate::engines::{Destination, Failure, Outcome, Outgoing, Outlet, Pending, Sent, User};

/// The longest routing key, in bytes.
const ROUTING_KEY_BYTES_MAX: usize = 255;
/// What a frame of headers has beside them, in bytes, and some more.
const HEADER_FRAME_BYTES: usize = 64;
/// A message that outlives a restart of the server.
const PERSISTENT: u8 = 2;

/// A connection on which events are published to an exchange.
pub(in crate::engines) struct RabbitOutlet {
    session: Session,
    exchange: ShortString,
    /// The routing key of all events; else each has its subject.
    queue: Option<ShortString>,
}

impl RabbitOutlet {
    /// Connects, and sees that the exchange is there, or the queue.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub(in crate::engines) async fn connect(
        user: User<'_>,
        to: Destination<'_>,
    ) -> Result<Self, String> {
        let session = Session::open(user).await?;
        let (exchange, queue) = match to {
            Destination::Place(place) => (name(place)?, None),
            // The server's own exchange, which takes the name of a queue as routing key.
            Destination::QueueOf(service) => (name("")?, Some(name_of(service)?)),
        };
        let mut outlet = Self {
            session,
            exchange,
            queue,
        };
        match outlet.prepare().await {
            Ok(()) => Ok(outlet),
            Err(Failure::Lost(why) | Failure::Refused(why)) => Err(why),
        }
    }

    async fn prepare(&mut self) -> Result<(), Failure> {
        let what = self.what();
        if let Some(queue) = &self.queue {
            declare(&mut self.session, queue).await?;
        } else {
            self.look_for_exchange().await?;
        }
        let channel = &self.session.channel;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        self.session.answer(confirms, &what).await
    }

    async fn look_for_exchange(&self) -> Result<(), Failure> {
        let passive = ExchangeDeclareOptions {
            passive: true,
            ..ExchangeDeclareOptions::default()
        };
        let kind = ExchangeKind::Topic;
        let exchange = self.exchange.clone();
        let channel = &self.session.channel;
        let looks = channel.exchange_declare(exchange, kind, passive, FieldTable::default());
        self.session.answer(looks, &self.what()).await
    }

    fn what(&self) -> String {
        match &self.queue {
            Some(queue) => format!("queue {queue}"),
            None => format!("exchange {}", self.exchange),
        }
    }

    /// Why the server would never take an event, if so.
    fn why_never(&self, event: &Outgoing) -> Option<String> {
        if let Err(why) = name(&event.id) {
            return Some(format!("its id is too long: {why}"));
        }
        let bytes = event.subject.len();
        if bytes > ROUTING_KEY_BYTES_MAX && self.queue.is_none() {
            return Some(format!(
                "its subject has {bytes} bytes there; a routing key has at most {ROUTING_KEY_BYTES_MAX}"
            ));
        }
        // Headers are in one frame, whatever their length.
        let bytes = event.bytes() - event.body.len()
            + event.id.len()
            + HEADER_FRAME_BYTES
            + 8 * event.headers.len();
        let most = self.session.connection.configuration().frame_max() as usize;
        (most != 0 && bytes > most).then(|| {
            format!("its headers have {bytes} bytes; the server takes at most {most} (frame_max)")
        })
    }

    async fn publish(&self, event: &Outgoing) -> lapin::Result<Confirmation> {
        let mut headers = FieldTable::default();
        for (name, value) in &event.headers {
            headers.insert((*name).into(), AMQPValue::LongString(value.clone().into()));
        }
        let id = name(&event.id);
        let key = match &self.queue {
            Some(queue) => Ok(queue.clone()),
            None => name(&event.subject),
        };
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_message_id(id.map_err(io::Error::other)?)
            .with_headers(headers);
        let key = key.map_err(io::Error::other)?;
        let options = BasicPublishOptions {
            // Else what no queue takes is confirmed, too, and lost.
            mandatory: true,
            immediate: false,
        };
        let exchange = self.exchange.clone();
        let channel = &self.session.channel;
        let confirm = channel.basic_publish(exchange, key, options, &event.body, properties);
        confirm.await?.await
    }

    /// Sends all, and then waits for the confirmations.
    async fn exchange(&self, batch: &[Outgoing], stall: Duration) -> Sent {
        let publishing = batch.iter().map(|event| match self.why_never(event) {
            Some(why) => Step::Done(Answer::Never(why)),
            None => Step::Waits(Box::pin(self.publish(event))),
        });
        let mut steps: Vec<_> = publishing.collect();
        let mut heard = Heard::default();
        // What each does first is to be sent, in this order.
        heard.look(&mut steps).await;
        let mut silence = None;
        for step in &mut steps {
            if let Step::Waits(waiting) = step {
                match timeout(stall, waiting).await {
                    Ok(given) => *step = Step::Done(heard.take(given)),
                    Err(_) => {
                        silence = Some(self.why_silent(stall));
                        break;
                    }
                }
            }
        }
        // One that has come since may have what was returned for one before it.
        heard.look(&mut steps).await;
        let too_large = heard.error.as_ref().and_then(body_bytes_max);
        let failure = match (&heard.error, silence) {
            (Some(error), _) => Some(self.session.failure(error, &self.what())),
            (None, Some(why)) => Some(Failure::Refused(why)),
            (None, None) => None,
        };
        let (outcomes, unsure) = heard.judged(batch, &steps, failure.is_none(), too_large);
        let unsure = unsure.map(|unsure| Failure::Refused(unsure.said(&self.exchange)));
        Sent {
            outcomes,
            failure: failure.or(unsure),
        }
    }

    fn why_silent(&self, stall: Duration) -> String {
        match self.session.connection.status().blocked() {
            true => "the server takes nothing, as its memory or its disk is nearly full: make room there (`rabbitmq-diagnostics alarms` says of what)".into(),
            false => format!("nothing was confirmed for {stall:?}"),
        }
    }
}

impl Outlet for RabbitOutlet {
    fn send<'a>(&'a mut self, batch: &'a [Outgoing], stall: Duration) -> Pending<'a, Sent> {
        Box::pin(self.exchange(batch, stall))
    }

    fn lost(&mut self) -> Pending<'_, String> {
        Box::pin(self.session.lost())
    }
}

/// An event on its way.
enum Step<F> {
    Waits(Pin<Box<F>>),
    Done(Answer),
}

/// What was said of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// It wasn't even sent.
    Never(String),
    Ack,
    Nack,
    /// Nothing, as the channel has ended.
    Error,
}

/// What was said of a batch.
#[derive(Default)]
struct Heard {
    /// The ids of the events that were returned: no queue takes them. They are confirmed, too.
    returned: HashSet<String>,
    /// Why the channel has ended.
    error: Option<lapin::Error>,
}

/// Why an event is not stored, though the server has answered.
#[derive(Debug, PartialEq, Eq)]
enum Unsure<'a> {
    /// No queue takes this routing key.
    NoQueue(&'a str),
    /// A queue refuses what has this routing key.
    Refused(&'a str),
}

impl Unsure<'_> {
    fn said(&self, exchange: &ShortString) -> String {
        match self {
            Self::NoQueue(key) => {
                format!("no queue takes the routing key {key}: bind one to the exchange {exchange}")
            }
            Self::Refused(key) => format!(
                "a queue that takes the routing key {key} refuses it: it is full (overflow: reject-publish), or most of its servers are away"
            ),
        }
    }
}

impl Heard {
    fn take(&mut self, given: lapin::Result<Confirmation>) -> Answer {
        let (answer, returned) = match given {
            Ok(Confirmation::Ack(returned)) => (Answer::Ack, returned),
            Ok(Confirmation::Nack(returned)) => (Answer::Nack, returned),
            Ok(Confirmation::NotRequested) => (Answer::Nack, None),
            Err(error) => {
                // That the channel is closed is no news, but why.
                let is_why = error.is_amqp_error();
                if self.error.is_none() || is_why {
                    self.error = Some(error);
                }
                return Answer::Error;
            }
        };
        let returned = returned.and_then(|message| message.properties.message_id().clone());
        self.returned.extend(returned.map(String::from));
        answer
    }

    /// Takes what has come, and waits for nothing.
    async fn look<F>(&mut self, steps: &mut [Step<F>])
    where
        F: Future<Output = lapin::Result<Confirmation>>,
    {
        poll_fn(|context| {
            for step in &mut *steps {
                if let Step::Waits(waiting) = step
                    && let Poll::Ready(given) = waiting.as_mut().poll(context)
                {
                    *step = Step::Done(self.take(given));
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    /// What became of each, and why of one nothing is known. `is_whole`: all answers are there.
    fn judged<'a, F>(
        &self,
        batch: &'a [Outgoing],
        steps: &[Step<F>],
        is_whole: bool,
        body_bytes_max: Option<usize>,
    ) -> (Vec<Outcome>, Option<Unsure<'a>>) {
        // The library gives what was returned to the confirmation that comes next, whosever it is. Once all
        // have come, one of them has it; before, what has no confirmation yet may be still to get it.
        let is_sure = is_whole || self.returned.is_empty();
        let mut unsure = None;
        let outcome = |(event, step): (&'a Outgoing, &Step<F>)| match step {
            Step::Done(Answer::Never(why)) => Outcome::Refused(why.clone()),
            Step::Done(Answer::Ack) if self.returned.contains(&event.id) => {
                unsure.get_or_insert(Unsure::NoQueue(&event.subject));
                Outcome::Unknown
            }
            Step::Done(Answer::Ack) if is_sure => Outcome::Stored,
            Step::Done(Answer::Nack) => {
                unsure.get_or_insert(Unsure::Refused(&event.subject));
                Outcome::Unknown
            }
            Step::Done(Answer::Error)
                if body_bytes_max.is_some_and(|most| event.body.len() > most) =>
            {
                let bytes = event.body.len();
                Outcome::Refused(format!(
                    "{bytes} bytes are more than the server's max_message_size"
                ))
            }
            Step::Done(Answer::Ack | Answer::Error) | Step::Waits(_) => Outcome::Unknown,
        };
        let outcomes = batch.iter().zip(steps).map(outcome).collect();
        (outcomes, unsure)
    }
}

/// The largest body that a server takes, if it has said that one is larger: "message size 5 is larger than
/// configured max size 4".
fn body_bytes_max(error: &lapin::Error) -> Option<usize> {
    let ErrorKind::ProtocolError(said) = error.kind() else {
        return None;
    };
    let is_it = matches!(
        said.kind(),
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)
    );
    let words = said.get_message().as_str();
    let number = words.rsplit("max size ").next()?.trim();
    number.parse().ok().filter(|_| is_it)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use std::future::Ready;

    use super::*;

    type Judged = Step<Ready<lapin::Result<Confirmation>>>;

    fn event(id: &str) -> Outgoing {
        Outgoing {
            id: id.into(),
            subject: format!("key.{id}"),
            headers: vec![],
            event: Bytes::new(),
            body: Bytes::from_static(b"body"),
        }
    }

    fn waits() -> Judged {
        Step::Waits(Box::pin(std::future::ready(Ok(Confirmation::NotRequested))))
    }

    #[test]
    fn what_was_returned_is_not_stored_whoever_was_told() {
        let batch = [event("a"), event("b"), event("c")];
        let heard = Heard {
            returned: ["b".to_owned()].into(),
            error: None,
        };
        let all = [(); 3].map(|()| Judged::Done(Answer::Ack));
        let (outcomes, unsure) = heard.judged(&batch, &all, true, None);
        assert_eq!(
            outcomes,
            [Outcome::Stored, Outcome::Unknown, Outcome::Stored]
        );
        assert_eq!(unsure, Some(Unsure::NoQueue("key.b")));
    }

    #[test]
    fn while_answers_are_missing_one_that_was_returned_casts_doubt_on_all() {
        let batch = [event("a"), event("b"), event("c")];
        let some = [
            Judged::Done(Answer::Ack),
            Judged::Done(Answer::Ack),
            waits(),
        ];
        let heard = Heard {
            returned: ["c".to_owned()].into(),
            error: None,
        };
        let (outcomes, _) = heard.judged(&batch, &some, false, None);
        assert_eq!(outcomes, [(); 3].map(|()| Outcome::Unknown));
        let (outcomes, unsure) = Heard::default().judged(&batch, &some, false, None);
        assert_eq!(
            outcomes,
            [Outcome::Stored, Outcome::Stored, Outcome::Unknown]
        );
        assert_eq!(unsure, None);
    }

    #[test]
    fn what_is_too_large_is_refused_for_ever_and_what_is_nacked_is_not() {
        let batch = [event("a"), event("b"), event("c")];
        let answers = [Answer::Nack, Answer::Error, Answer::Never("why".into())];
        let answers = answers.map(Judged::Done);
        let (outcomes, unsure) = Heard::default().judged(&batch, &answers, false, Some(3));
        assert_eq!(unsure, Some(Unsure::Refused("key.a")));
        assert!(matches!(
            &outcomes[..],
            [Outcome::Unknown, Outcome::Refused(large), Outcome::Refused(_)]
                if large.contains("4 bytes")
        ));
        let (outcomes, _) = Heard::default().judged(&batch, &answers, false, Some(4));
        assert_eq!(outcomes[1], Outcome::Unknown);
    }
}
