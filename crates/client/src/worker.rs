//! A worker of a service: subscribed, kept alive, READY.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::{sleep_until, timeout};

use super::LIMITS;
use super::connection::{Connection, Options, without_delimiter};
use super::line::Line;
use super::requests::{Client, ClientError, Subscribed};
use crate::ambient::now;
use event_manager_wire::model::Endpoint;
use event_manager_zmtp::LocalSocket;

/// How long events that are under way may take when the subscription has ended.
const LAST_EVENTS: Duration = Duration::from_millis(50);

/// A subscribed worker. It subscribes again by itself when its subscription is gone, and says READY
/// again when its connection was: the answer that it waited for is lost then.
///
/// It is a REQ, which gets one event for each READY: none waits in it that another worker could have
/// had.
pub struct ServiceWorker {
    client: Client,
    service: String,
    subjects: Vec<String>,
    subscribed: Subscribed,
    line: Line,
    /// A third of the subscription's time to live.
    keep_alive: Duration,
    keep_alive_at: Instant,
}

impl ServiceWorker {
    /// Subscribes, and says READY as soon as somebody waits for events.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn start(
        mut client: Client,
        service: &str,
        subjects: Vec<String>,
    ) -> Result<Self, ClientError> {
        let ttl = match client.status().await?.subscription_ttl_seconds {
            ttl if ttl > 0.0 => ttl,
            // An older daemon doesn't tell.
            _ => 60.0,
        };
        let keep_alive = Duration::from_secs_f64(ttl / 3.0);
        let subscribed = client.subscribe("", service, &subjects).await?;
        Ok(Self {
            client,
            service: service.to_owned(),
            subjects,
            line: line(&subscribed)?,
            subscribed,
            keep_alive,
            keep_alive_at: now() + keep_alive,
        })
    }

    /// What the daemon answered to the subscription.
    pub fn subscribed(&self) -> &Subscribed {
        &self.subscribed
    }

    /// Waits for the next event; its frames. May be dropped at any time without losing one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn receive(&mut self) -> Result<Vec<Bytes>, ClientError> {
        loop {
            tokio::select! {
                event = self.line.next() => return Ok(without_delimiter(event)),
                () = sleep_until(self.keep_alive_at.into()) => self.keep_alive().await?,
            }
        }
    }

    /// Says that an event is done, and asks for the next, when somebody waits for it. (Where the
    /// connection has ended, the next one says so anyway.)
    pub fn ready(&mut self) {
        if let Some(connection) = self.line.connection() {
            say_ready(connection);
        }
    }

    async fn keep_alive(&mut self) -> Result<(), ClientError> {
        self.keep_alive_at = now() + self.keep_alive;
        match self.client.keep_alive(&self.subscribed.id).await {
            Err(ClientError::Nak { code, .. }) if code == "unknown-subscription" => {
                let subscribing = self.client.subscribe("", &self.service, &self.subjects);
                self.subscribed = subscribing.await?;
                self.line = line(&self.subscribed)?;
                Ok(())
            }
            // The daemon may be restarting: the next one may be answered.
            Err(ClientError::NoAnswer(_)) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Ends the subscription; an event that was under way meanwhile.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn stop(mut self) -> Result<Option<Vec<Bytes>>, ClientError> {
        match self.client.unsubscribe(&self.subscribed.id).await {
            // It has expired, so it has ended all the same.
            Err(ClientError::Nak { code, .. }) if code == "unknown-subscription" => {}
            ended => ended?,
        }
        let last = timeout(LAST_EVENTS, self.line.next()).await;
        Ok(last.ok().map(without_delimiter))
    }
}

fn line(subscribed: &Subscribed) -> Result<Line, ClientError> {
    let address: Endpoint = subscribed.pull_address.parse()?;
    let options = Options::new(LocalSocket::Req, LIMITS);
    Ok(Line::new(&address, options, Box::new(say_ready)))
}

fn say_ready(connection: &mut Connection) {
    connection.send([&b""[..], b"READY"]);
}
