//! A connection that is there again whenever it has ended.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use super::connection::{Connection, Event, Options};
use super::keys::ClientKeys;
use crate::ambient::chance;
use event_manager_wire::model::{Backoff, Endpoint};
use event_manager_zmtp::frames_of;

/// The longest wait after the first attempt, and after a connection that ended.
const DELAY_MIN: Duration = Duration::from_millis(100);
/// The longest wait of all.
const DELAY_MAX: Duration = Duration::from_secs(1);

/// What each connection begins with.
type Hello = Box<dyn Fn(&mut Connection) + Send>;

/// Dials again and again. What was under way when a connection ended is lost.
pub(super) struct Line {
    address: Endpoint,
    options: Options,
    hello: Hello,
    connection: Option<Connection>,
    backoff: Backoff,
    delay: Duration,
}

impl Line {
    pub(super) fn new(address: &Endpoint, options: Options, hello: Hello) -> Self {
        Self {
            address: address.local(),
            options,
            hello,
            connection: None,
            backoff: Backoff::new(DELAY_MIN, DELAY_MAX),
            delay: Duration::ZERO,
        }
    }

    pub(super) fn with_keys(self, keys: Option<ClientKeys>) -> Self {
        Self {
            options: self.options.with_keys(keys),
            ..self
        }
    }

    /// Waits for the next message. May be dropped at any time without losing one.
    pub(super) async fn next(&mut self) -> Vec<Bytes> {
        loop {
            let connection = match &mut self.connection {
                Some(connection) => connection,
                None => self.dial().await,
            };
            match connection.next().await {
                Ok(Event::Message(message)) => {
                    self.backoff.reset();
                    return frames_of(&message);
                }
                Ok(_) => {}
                Err(_) => {
                    self.connection = None;
                    self.delay = self.backoff.next_delay(chance());
                }
            }
        }
    }

    async fn dial(&mut self) -> &mut Connection {
        loop {
            sleep(self.delay).await;
            match Connection::open(&self.address, &self.options).await {
                Ok(mut connection) => {
                    (self.hello)(&mut connection);
                    return self.connection.insert(connection);
                }
                Err(_) => self.delay = self.backoff.next_delay(chance()),
            }
        }
    }
}
