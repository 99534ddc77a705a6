//! Events that go to a stream.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use redis::{Cmd, RedisError, Value, cmd};
use tokio::task::unconstrained;
use tokio::time::timeout;

use super::super::{Destination, Failure, Outcome, Outgoing, Outlet, Pending, Sent, User};
use super::queue::key_of;
use super::{Connection, DATA, OF_BODY, dotmac, explained, failure, is_too_large};
use crate::ambient::wall_clock_ms;
use crate::config::Layout;
use crate::telemetry::rfc3339;

/// A connection on which events are added to a stream.
pub(in crate::engines) struct RedisOutlet {
    connection: Connection,
    /// The stream's key.
    key: String,
    layout: Layout,
    /// The longest value that the server takes.
    value_bytes_max: usize,
}

impl RedisOutlet {
    /// Connects.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub(in crate::engines) async fn connect(
        user: User<'_>,
        to: Destination<'_>,
    ) -> Result<Self, String> {
        let connection = Connection::open(user).await?;
        let value_bytes_max = connection.value_bytes_max().await;
        Ok(Self {
            connection,
            key: match to {
                Destination::Place(key) => key.to_owned(),
                Destination::QueueOf(service) => key_of(service),
            },
            layout: user.layout,
            value_bytes_max,
        })
    }

    /// What adds an event; or why it would never be taken.
    fn adding(&self, event: &Outgoing) -> Result<Cmd, String> {
        let mut command = cmd("XADD");
        command.arg(&self.key).arg("*");
        let mut longest = 0;
        let mut add = |name: &str, value: &[u8]| {
            command.arg(name).arg(value);
            longest = longest.max(value.len());
        };
        match self.layout {
            Layout::Plain => add(DATA, &event.body),
            Layout::DotMac => {
                let now = rfc3339(wall_clock_ms());
                for (name, value) in dotmac::fields(&event.event, &event.id, now)? {
                    add(&name, &value);
                }
            }
        }
        for (name, value) in &event.headers {
            if self.layout == Layout::Plain || !OF_BODY.contains(name) {
                add(name, value.as_bytes());
            }
        }
        let max = self.value_bytes_max;
        match longest > max {
            true => Err(format!(
                "{longest} bytes are more than the server's proto-max-bulk-len, {max}"
            )),
            false => Ok(command),
        }
    }

    /// Sends all, and then waits for the answers, which come in the same order.
    async fn exchange(&self, batch: &[Outgoing], stall: Duration) -> Sent {
        let mut under_way = Vec::with_capacity(batch.len());
        for event in batch {
            under_way.push(match self.adding(event) {
                Err(why) => Err(why),
                Ok(command) => Ok(Asked::now(self.connection.send(command)).await),
            });
        }
        let mut sent = Sent::default();
        let mut problem = None;
        for asked in under_way {
            let outcome = match asked {
                Err(why) => Outcome::Refused(why),
                Ok(asked) => match timeout(stall, asked.answer()).await {
                    Ok(Ok(_)) => Outcome::Stored,
                    Ok(Err(error)) if is_too_large(&error) => Outcome::Refused(explained(&error)),
                    Ok(Err(error)) => match failure(&error) {
                        Failure::Refused(why) => {
                            problem.get_or_insert(Failure::Refused(why));
                            Outcome::Unknown
                        }
                        lost => {
                            problem.get_or_insert(lost);
                            break;
                        }
                    },
                    Err(_) => {
                        let why = format!("nothing was confirmed for {stall:?}");
                        problem.get_or_insert(Failure::Refused(why));
                        break;
                    }
                },
            };
            sent.outcomes.push(outcome);
        }
        sent.failure = problem;
        sent
    }
}

impl Outlet for RedisOutlet {
    fn send<'a>(&'a mut self, batch: &'a [Outgoing], stall: Duration) -> Pending<'a, Sent> {
        Box::pin(self.exchange(batch, stall))
    }

    fn lost(&mut self) -> Pending<'_, String> {
        Box::pin(self.connection.lost())
    }
}

type Answer = Result<Value, RedisError>;

/// A command that is on its way.
enum Asked<F> {
    Answered(Answer),
    Waiting(Pin<Box<F>>),
}

impl<F: Future<Output = Answer>> Asked<F> {
    /// Sends it at once, in its turn: it is behind what was sent before, and before what is sent later.
    async fn now(asking: F) -> Asked<impl Future<Output = Answer>> {
        // However many are sent in one go.
        let mut asking = Box::pin(unconstrained(asking));
        let begun = poll_fn(|cx| Poll::Ready(asking.as_mut().poll(cx))).await;
        match begun {
            Poll::Ready(answer) => Asked::Answered(answer),
            Poll::Pending => Asked::Waiting(asking),
        }
    }

    async fn answer(self) -> Answer {
        match self {
            Self::Answered(answer) => answer,
            Self::Waiting(asked) => asked.await,
        }
    }
}
