//! A publisher that knows what the daemon has taken.
//!
//! A PING goes behind the events, and is answered when all before it is read. One is under way at a
//! time: the next goes out with the answer, if there are events behind it.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{sleep, timeout, timeout_at};

use super::connection::{Connection, Ended, Event, Options, Refusals};
use super::keys::ClientKeys;
use super::requests::no_answer;
use super::{ClientError, LIMITS};
use crate::ambient::now;
use event_manager_wire::model::Endpoint;
use event_manager_zmtp::{LocalSocket, encode_frame};

/// Events are sent together up to so many bytes.
const BUFFER_BYTES: usize = 64 << 10;
/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(50);
/// How long the daemon may take nothing of what is sent.
const STALL_MAX: Duration = Duration::from_secs(10);

/// Publishes events, in their order, and connects again when it has something to send. What was
/// under way when a connection ended may be lost: that is counted.
pub struct Publisher {
    address: Endpoint,
    options: Options,
    wait: Duration,
    link: Option<Link>,
    buffer: BytesMut,
    buffered: u64,
    events: u64,
    lost: u64,
    /// Why a connection ended at last.
    why: String,
    refusals: Refusals,
}

impl Publisher {
    /// Publishes at this address, and waits at most so long for a daemon there.
    pub fn new(address: Endpoint, wait: Duration) -> Self {
        let options = Options {
            stall: Some(STALL_MAX),
            ..Options::new(LocalSocket::Pub, LIMITS)
        };
        Self {
            address: address.local(),
            options,
            wait,
            link: None,
            buffer: BytesMut::new(),
            buffered: 0,
            events: 0,
            lost: 0,
            why: String::new(),
            refusals: Refusals::default(),
        }
    }

    /// The same with CURVE, if there are keys.
    pub fn with_keys(self, keys: Option<ClientKeys>) -> Self {
        Self {
            options: self.options.with_keys(keys),
            ..self
        }
    }

    /// Publishes an event, maybe only with others that follow.
    ///
    /// # Errors
    /// Those of [`flush`](Self::flush).
    pub async fn send(&mut self, frames: &[&[u8]]) -> Result<(), ClientError> {
        for (i, frame) in frames.iter().enumerate() {
            encode_frame(&mut self.buffer, frame, i + 1 < frames.len());
        }
        self.events += 1;
        self.buffered += 1;
        if self.buffer.len() < BUFFER_BYTES {
            return Ok(());
        }
        self.flush().await
    }

    /// Publishes what waits for others to follow.
    ///
    /// # Errors
    /// There is no daemon: [`ClientError::NoAnswer`], [`ClientError::TurnedAway`], or [`ClientError::MayBeLost`] if something was
    /// sent before. That events may be lost is no error as long as there is one.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        if self.buffered == 0 {
            return Ok(());
        }
        match timeout(self.wait, self.connect()).await {
            Ok(true) => {}
            Ok(false) | Err(_) => {
                let why = no_answer(&self.address.to_string(), &self.refusals);
                if self.buffered == self.events {
                    return Err(why);
                }
                self.lost += self.buffered;
                return Err(self.may_be_lost(why.to_string()));
            }
        }
        if let Some(link) = &mut self.link {
            link.send(&self.buffer, self.buffered);
            self.buffer.clear();
            self.buffered = 0;
            if let Err(ended) = link.write().await {
                self.end_link(&ended);
            }
        }
        Ok(())
    }

    /// Keeps the connection alive, and learns what is taken: to be waited for whenever nothing else is to
    /// be done. It never ends; it may be dropped at any time.
    pub async fn tend(&mut self) -> Infallible {
        loop {
            match &mut self.link {
                Some(link) => {
                    if let Err(ended) = link.hear().await {
                        self.end_link(&ended);
                    }
                }
                None => pending().await,
            }
        }
    }

    /// Publishes what waits, and waits until the daemon has taken all.
    ///
    /// # Errors
    /// Those of [`flush`](Self::flush), and [`ClientError::MayBeLost`] if it did not take all.
    pub async fn finish(mut self) -> Result<(), ClientError> {
        self.flush().await?;
        if let Some(link) = &mut self.link
            && let Err(ended) = link.wait_until_taken().await
        {
            self.end_link(&ended);
        }
        match self.lost {
            0 => Ok(()),
            _ => Err(self.may_be_lost(self.why.clone())),
        }
    }

    fn may_be_lost(&self, why: String) -> ClientError {
        ClientError::MayBeLost {
            lost: self.lost,
            events: self.events,
            why,
        }
    }

    fn end_link(&mut self, ended: &Ended) {
        if let Some(link) = self.link.take() {
            self.lost += link.sent - link.taken;
            self.why = format!("the connection to {} ended: {ended}", self.address);
        }
    }

    /// Waits for a connection by which the daemon wants events; whether there is one, and it doesn't turn
    /// us away.
    async fn connect(&mut self) -> bool {
        loop {
            match &mut self.link {
                Some(link) => {
                    if link.is_wanted && link.is_alive().await {
                        return true;
                    }
                    if let Err(ended) = link.hear().await {
                        self.end_link(&ended);
                        sleep(RETRY).await;
                    }
                }
                None => match Connection::open(&self.address, &self.options).await {
                    Ok(connection) => self.link = Some(Link::new(connection)),
                    Err(error) if self.refusals.note(&error).is_some() => return false,
                    Err(_) => sleep(RETRY).await,
                },
            }
        }
    }
}

/// One connection, and what became of what was sent by it.
struct Link {
    connection: Connection,
    /// The daemon wants all events.
    is_wanted: bool,
    sent: u64,
    /// The PING that is under way, and behind how many events it stands.
    asked: Option<(u64, u64)>,
    taken: u64,
}

impl Link {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            is_wanted: false,
            sent: 0,
            asked: None,
            taken: 0,
        }
    }

    /// The daemon knows PING; since ZMTP 3.1 it does.
    fn can_ask(&self) -> bool {
        self.connection.version().has_ping()
    }

    fn send(&mut self, messages: &[u8], events: u64) {
        self.connection.send_encoded(messages);
        self.sent += events;
        self.ask();
    }

    fn ask(&mut self) {
        if self.can_ask() && self.asked.is_none() && self.taken < self.sent {
            self.asked = Some((self.connection.ping(), self.sent));
        }
    }

    /// Waits for what the daemon says, or until all is written.
    async fn hear(&mut self) -> Result<(), Ended> {
        match self.connection.next().await? {
            Event::Wanted(is_wanted) => self.is_wanted = is_wanted,
            Event::Pong(ping) => {
                if let Some((_, events)) = self.asked.take_if(|(asked, _)| *asked == ping) {
                    self.taken = events;
                    self.ask();
                }
            }
            Event::Message(_) | Event::Sent => {}
        }
        Ok(())
    }

    /// What has happened while nobody waited is heard first.
    async fn is_alive(&mut self) -> bool {
        loop {
            tokio::select! {
                biased;
                heard = self.hear() => match heard {
                    Ok(()) => {}
                    Err(_) => return false,
                },
                () = std::future::ready(()) => return true,
            }
        }
    }

    async fn write(&mut self) -> Result<(), Ended> {
        while self.connection.unsent() > 0 {
            self.hear().await?;
        }
        Ok(())
    }

    /// Waits until the daemon has taken all that was sent, as long as it takes anything.
    async fn wait_until_taken(&mut self) -> Result<(), Ended> {
        self.write().await?;
        if !self.can_ask() {
            // Who has read all is told that this is all, and closes the connection.
            self.connection.shut_down().await?;
        }
        let mut deadline = now() + STALL_MAX;
        while self.taken < self.sent {
            let taken = self.taken;
            match timeout_at(deadline.into(), self.hear()).await {
                Ok(Err(Ended::Closed)) if !self.can_ask() => return Ok(()),
                Ok(heard) => heard?,
                Err(_) => return Err(Ended::Stalled(STALL_MAX)),
            }
            if self.taken > taken {
                deadline = now() + STALL_MAX;
            }
        }
        Ok(())
    }
}
