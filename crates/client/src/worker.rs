//! A worker of a service that acknowledges: an event is done when its handler says so.
//!
//! Two tasks serve it, so a handler may take as long as it wants: one has the connection to the service's
//! socket, the other renews the subscription.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};

use super::LIMITS;
use super::connection::{Connection, Ended, Event, Options};
use super::line::Line;
use super::requests::{Client, ClientError, Subscribed};
use crate::ambient::now;
use event_manager_wire::messagebus::event_id;
use event_manager_wire::model::Endpoint;
use event_manager_zmtp::{LocalSocket, frames};

/// How often the daemon is told that events are still worked on: a third of the default `ackTimeout`.
const WIP_INTERVAL: Duration = Duration::from_secs(10);
/// Lives of a subscription, if the daemon doesn't say: an older one.
const TTL_SECONDS: f64 = 60.0;

/// An event that has to be answered. If it is dropped without an answer, the daemon tries it again after
/// the service's backoff.
#[derive(Debug)]
#[must_use = "an event that is dropped is tried again"]
pub struct Delivery {
    id: u64,
    attempt: u32,
    frames: Vec<Bytes>,
    words: Option<mpsc::UnboundedSender<Word>>,
}

/// What is said about a delivery.
#[derive(Debug)]
struct Word {
    id: u64,
    /// It is the last one about it.
    is_answer: bool,
    text: String,
}

impl Delivery {
    fn read(mut frames: Vec<Bytes>, words: &mpsc::UnboundedSender<Word>) -> Option<Self> {
        let head = frames.first()?;
        let id = event_id(head)?;
        let attempt = head.rsplit(|byte| *byte == b' ').next()?;
        let attempt = std::str::from_utf8(attempt).ok()?.parse().ok()?;
        frames.remove(0);
        Some(Self {
            id,
            attempt,
            frames,
            words: Some(words.clone()),
        })
    }

    /// The event's frames; the first begins with its subject.
    pub fn frames(&self) -> &[Bytes] {
        &self.frames
    }

    /// How often it was given to a worker, this time included. From 2 on it may have been processed before.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The event is done.
    pub fn ack(mut self) {
        self.answer(format!("ACK {}", self.id));
    }

    /// It is tried again, after this delay (at most a day) or the service's backoff. The reason is for
    /// the dead letter that it may become.
    pub fn nak(mut self, delay: Option<Duration>, reason: &str) {
        let delay = delay.map_or(String::new(), |delay| format!(" {}", delay.as_millis()));
        self.answer(format!("NAK {}{delay} {reason}", self.id));
    }

    /// It is never tried again: it becomes a dead letter.
    pub fn term(mut self, reason: &str) {
        self.answer(format!("TERM {} {reason}", self.id));
    }

    fn answer(&mut self, text: String) {
        if let Some(words) = self.words.take() {
            // Without a worker the daemon knows that it has not been answered.
            let _ = words.send(Word {
                id: self.id,
                is_answer: true,
                text,
            });
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.answer(format!("NAK {} dropped without an answer", self.id));
    }
}

/// A task that ends with its owner; `None` when it has.
struct Task<T>(Option<JoinHandle<Result<T, ClientError>>>);

impl<T: Send + 'static> Task<T> {
    fn start(work: impl Future<Output = Result<T, ClientError>> + Send + 'static) -> Self {
        Self(Some(tokio::spawn(work)))
    }
}

impl<T> Task<T> {
    /// Waits for its result; `None` if that was taken before, or it panicked.
    async fn result(&mut self) -> Option<Result<T, ClientError>> {
        let result = self.0.as_mut()?.await;
        self.0 = None;
        result.ok()
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// A subscribed worker. It connects again by itself, subscribes again when its subscription is gone, and
/// tells the daemon every 10 s that it still works on the events that it has not answered: so a handler may
/// take as long as it wants, unless the service's `ackTimeout` is less than that.
///
/// ```no_run
/// # async fn example() -> Result<(), event_manager_client::ClientError> {
/// use std::time::Duration;
/// use event_manager_client::{Client, Worker};
///
/// let client = Client::new("tcp://localhost:5101", Duration::from_secs(5));
/// let mut worker = Worker::start(client, "Billing", vec!["Order".into()], 32).await?;
/// while let Some(delivery) = worker.next().await {
///     let delivery = delivery?;
///     println!("{:?}", delivery.frames());
///     delivery.ack();
/// }
/// # Ok(())
/// # }
/// ```
pub struct Worker {
    subscribed: watch::Receiver<Subscribed>,
    deliveries: mpsc::Receiver<Delivery>,
    link: Task<()>,
    lease: Task<Client>,
    leave: Option<oneshot::Sender<()>>,
    end_lease: oneshot::Sender<()>,
}

impl Worker {
    /// Subscribes to these subjects (a prefix, `exact:…`, `glob:…`, or empty for everything), and asks for
    /// events. At most `credit` of them (1 to 100000) are not answered at a time. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn start(
        mut client: Client,
        service: &str,
        subjects: Vec<String>,
        credit: u32,
    ) -> Result<Self, ClientError> {
        let ttl = match client.status().await?.subscription_ttl_seconds {
            ttl if ttl > 0.0 => ttl,
            _ => TTL_SECONDS,
        };
        let first = client.subscribe("", service, &subjects).await?;
        let line = line(&first, credit)?;
        let (subscribed_tx, subscribed) = watch::channel(first);
        let (deliveries_tx, deliveries) = mpsc::channel(credit.max(1) as usize);
        let (leave, left) = oneshot::channel();
        let (end_lease, lease_ends) = oneshot::channel();
        let link = Link::new(line, credit, deliveries_tx, subscribed.clone());
        let lease = Lease {
            client,
            service: service.to_owned(),
            subjects,
            every: Duration::from_secs_f64(ttl / 3.0),
            subscribed: subscribed_tx,
        };
        Ok(Self {
            subscribed,
            deliveries,
            link: Task::start(link.run(left)),
            lease: Task::start(lease.keep(lease_ends)),
            leave: Some(leave),
            end_lease,
        })
    }

    /// What the daemon answered to the latest subscription.
    pub fn subscribed(&self) -> Subscribed {
        self.subscribed.borrow().clone()
    }

    /// Waits for the next event; `None` after [`leave`](Self::leave), when there are no more. May be dropped
    /// at any time without losing one.
    ///
    /// # Errors
    /// [`ClientError`], when the daemon refuses to go on. What follows is `None`.
    pub async fn next(&mut self) -> Option<Result<Delivery, ClientError>> {
        tokio::select! {
            biased;
            Some(delivery) = self.deliveries.recv() => Some(Ok(delivery)),
            ended = self.link.result() => ended?.err().map(Err),
            ended = self.lease.result() => ended?.err().map(Err),
        }
    }

    /// Tells the daemon that this worker wants no more events. Those that it has are still returned by
    /// [`next`](Self::next), and may be answered.
    pub fn leave(&mut self) {
        if let Some(leave) = self.leave.take() {
            let _ = leave.send(());
        }
    }

    /// Leaves, and waits at most so long until every event is answered and the daemon has read that. Then
    /// the subscription ends: if it was the service's last one, a live service ends too.
    ///
    /// # Errors
    /// [`ClientError`], if the subscription can't be ended; it expires then.
    pub async fn stop(mut self, within: Duration) -> Result<(), ClientError> {
        self.leave();
        self.deliveries.close();
        while let Ok(unwanted) = self.deliveries.try_recv() {
            unwanted.nak(Some(Duration::ZERO), "the worker stopped");
        }
        // What is not answered by then is as if its worker had died.
        let _ = timeout(within, self.link.result()).await;
        let id = self.subscribed().id;
        drop(self.end_lease);
        let Some(client) = self.lease.result().await else {
            return Ok(());
        };
        match client?.unsubscribe(&id).await {
            // It has expired, so it has ended all the same.
            Err(ClientError::Nak { code, .. }) if code == "unknown-subscription" => Ok(()),
            ended => ended,
        }
    }
}

fn line(subscribed: &Subscribed, credit: u32) -> Result<Line, ClientError> {
    let address: Endpoint = subscribed.pull_address.parse()?;
    let options = Options::new(LocalSocket::Dealer, LIMITS);
    let ready = format!("READY {{\"ack\": true, \"credit\": {credit}}}");
    let hello = move |connection: &mut Connection| connection.send([&ready]);
    Ok(Line::new(&address, options, Box::new(hello)))
}

/// Renews the subscription.
struct Lease {
    client: Client,
    service: String,
    subjects: Vec<String>,
    /// A third of its time to live.
    every: Duration,
    subscribed: watch::Sender<Subscribed>,
}

impl Lease {
    async fn keep(mut self, mut ends: oneshot::Receiver<()>) -> Result<Client, ClientError> {
        let mut at: Instant = now() + self.every;
        loop {
            tokio::select! {
                () = sleep_until(at.into()) => {}
                _ = &mut ends => return Ok(self.client),
            }
            at = now() + self.every;
            let id = self.subscribed.borrow().id.clone();
            match self.client.keep_alive(&id).await {
                Err(ClientError::Nak { code, .. }) if code == "unknown-subscription" => {
                    let again = self.client.subscribe("", &self.service, &self.subjects);
                    self.subscribed.send_replace(again.await?);
                }
                // The daemon may be restarting: the next one may be answered.
                Err(ClientError::NoAnswer(_)) | Ok(()) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The connection to the service's socket.
struct Link {
    line: Line,
    credit: u32,
    deliveries: mpsc::Sender<Delivery>,
    subscribed: watch::Receiver<Subscribed>,
    words: mpsc::UnboundedReceiver<Word>,
    /// For deliveries.
    words_tx: mpsc::UnboundedSender<Word>,
    /// Deliveries without an answer.
    held: BTreeSet<u64>,
}

impl Link {
    fn new(
        line: Line,
        credit: u32,
        deliveries: mpsc::Sender<Delivery>,
        subscribed: watch::Receiver<Subscribed>,
    ) -> Self {
        // There are no more words than deliveries that exist.
        let (words_tx, words) = mpsc::unbounded_channel();
        Self {
            line,
            credit,
            deliveries,
            subscribed,
            words,
            words_tx,
            held: BTreeSet::new(),
        }
    }

    async fn run(mut self, mut left: oneshot::Receiver<()>) -> Result<(), ClientError> {
        let mut wip = interval(WIP_INTERVAL);
        wip.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_connected = self.line.connection().is_some();
            tokio::select! {
                biased;
                // First, so that nothing is answered before the daemon knows that no more is wanted.
                _ = &mut left => break,
                Some(word) = self.words.recv(), if is_connected => self.say(word),
                _ = wip.tick(), if is_connected => {
                    if let Some(connection) = self.line.connection() {
                        say_wip(connection, &self.held);
                    }
                }
                Ok(()) = self.subscribed.changed() => {
                    let subscribed = self.subscribed.borrow_and_update().clone();
                    self.line = line(&subscribed, self.credit)?;
                }
                frames = self.line.next() => self.take(frames)?,
            }
        }
        if let Some(connection) = self.line.take_connection() {
            // If it ends before all is answered, what is left goes to others.
            let _ = self.finish(connection).await;
        }
        Ok(())
    }

    fn take(&mut self, frames: Vec<Bytes>) -> Result<(), ClientError> {
        if let Some(sentence) = frames
            .first()
            .and_then(|first| first.strip_prefix(b"ERROR "))
        {
            let sentence = String::from_utf8_lossy(sentence).into_owned();
            return Err(ClientError::Garbled(sentence));
        }
        if let Some(delivery) = Delivery::read(frames, &self.words_tx) {
            self.held.insert(delivery.id);
            // There is room for the credit. What the daemon gives beyond that is put back.
            let _ = self.deliveries.try_send(delivery);
        }
        Ok(())
    }

    fn say(&mut self, word: Word) {
        if let Some(connection) = self.line.connection() {
            connection.send([&word.text]);
        }
        if word.is_answer {
            self.held.remove(&word.id);
        }
    }

    /// Until all is answered, and the daemon has read the answers.
    async fn finish(mut self, mut connection: Connection) -> Result<(), Ended> {
        connection.send(["BYE"]);
        // Each daemon that knows these words knows PING, too.
        let mut last = connection.ping();
        let mut wip = interval(WIP_INTERVAL);
        loop {
            tokio::select! {
                event = connection.next() => match event? {
                    // It was under way.
                    Event::Message(message) => {
                        if let Some(id) = frames(&message).next().and_then(event_id) {
                            connection.send([format!("NAK {id} 0 the worker stopped")]);
                            last = connection.ping();
                        }
                    }
                    Event::Pong(ping) if ping == last && self.held.is_empty() => return Ok(()),
                    _ => {}
                },
                Some(word) = self.words.recv() => {
                    connection.send([&word.text]);
                    if word.is_answer && self.held.remove(&word.id) && self.held.is_empty() {
                        last = connection.ping();
                    }
                }
                _ = wip.tick() => say_wip(&mut connection, &self.held),
            }
        }
    }
}

/// Its handlers still work on these.
fn say_wip(connection: &mut Connection, held: &BTreeSet<u64>) {
    for id in held {
        connection.send([format!("WIP {id}")]);
    }
}
