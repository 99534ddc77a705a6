//! Plain subscriptions.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use event_manager_wire::model::{Backoff, Endpoint};
use event_manager_zmtp::LocalSocket;
use futures_core::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::asking::{Asker, Patience, REDIAL};
use super::event::Event;
use crate::Error;
use crate::ambient::chance;
use crate::connection::{self, Connection, Ended};

/// Events that wait for their reader. Then the connection is not read, and the daemon keeps or drops them
/// as its `slowSubscriber` says, and counts them.
const QUEUE: usize = 1024;

/// The events of a plain subscription. It subscribes again whenever its connection ends; what is published
/// meanwhile is lost to it.
pub struct Subscription {
    events: mpsc::Receiver<Event>,
}

impl Subscription {
    /// When it returns, the daemon has the subscription.
    pub(super) async fn start(
        asker: Arc<Asker>,
        prefixes: Vec<String>,
        within: Duration,
    ) -> Result<Self, Error> {
        for prefix in &prefixes {
            if ["exact:", "glob:", "prefix:"]
                .iter()
                .any(|dialect| prefix.starts_with(dialect))
            {
                let sentence = format!(
                    "{prefix:?}: a plain subscription knows prefixes only; a service has the others"
                );
                return Err(Error::InvalidArgument(sentence));
            }
        }
        if prefixes.is_empty() {
            let sentence = "a subscription needs a prefix; an empty one is everything".to_owned();
            return Err(Error::InvalidArgument(sentence));
        }
        let (events_tx, events) = mpsc::channel(QUEUE);
        let (begun, begins) = oneshot::channel();
        let line = asker.line();
        let what = format!("the subscription to {prefixes:?}");
        let task = Task {
            asker,
            prefixes,
            events: events_tx,
            begun: Some(begun),
        };
        tokio::spawn(task.run());
        match Patience::of(within).wait(begins).await {
            Some(Ok(())) => Ok(Self { events }),
            Some(Err(_)) => Err(Error::Closed {
                may_be_taken: false,
            }),
            None => Err(Error::NoAnswer {
                what,
                within,
                why: format!("{:?}", line.borrow().state),
                may_be_taken: false,
            }),
        }
    }

    /// Waits for the next event; `None` when the hub is closed. May be dropped at any time without losing
    /// one.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Stream for Subscription {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(context)
    }
}

struct Task {
    asker: Arc<Asker>,
    prefixes: Vec<String>,
    events: mpsc::Sender<Event>,
    begun: Option<oneshot::Sender<()>>,
}

impl Task {
    async fn run(mut self) {
        let events = self.events.clone();
        tokio::select! {
            () = self.keep() => {}
            // Nobody reads them any more.
            () = events.closed() => {}
        }
    }

    async fn keep(&mut self) {
        let mut backoff = Backoff::new(REDIAL[0], REDIAL[1]);
        loop {
            if let Some(mut connection) = self.connect().await {
                // Until it ends.
                let _ = self.serve(&mut connection, &mut backoff).await;
            }
            sleep(backoff.next_delay(chance())).await;
        }
    }

    async fn connect(&self) -> Option<Connection> {
        let addresses = self.asker.addresses().await.ok()?;
        let address: Endpoint = addresses.subscribers.first()?.parse().ok()?;
        let options = self.asker.options(LocalSocket::Sub);
        Connection::open(&address.local(), &options).await.ok()
    }

    async fn serve(
        &mut self,
        connection: &mut Connection,
        backoff: &mut Backoff,
    ) -> Result<(), Ended> {
        for prefix in &self.prefixes {
            connection.subscribe(prefix.as_bytes());
        }
        // Its answer says that the daemon has read what stands before it.
        if connection.version().has_ping() {
            connection.ping();
        } else {
            self.begin();
        }
        loop {
            match connection.next().await? {
                connection::Event::Message(message) => {
                    // Without a reader this task ends.
                    let _ = self.events.send(Event::new(message, 1)).await;
                }
                connection::Event::Pong(_) => {
                    backoff.reset();
                    self.begin();
                }
                _ => {}
            }
        }
    }

    fn begin(&mut self) {
        if let Some(begun) = self.begun.take() {
            let _ = begun.send(());
        }
    }
}
