//! Services: each event goes to one of their workers, which acknowledges it.

mod delivery;
mod lease;
mod link;
mod shared;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use event_manager_wire::messagebus::{Layout, Message, Token, encode};
use event_manager_wire::model::beginning;
use event_manager_zmtp::LocalSocket;
use futures_core::Stream;
use serde_json::{Map, Value, json};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

use crate::ambient::{now, random};
use crate::hub::asking::Patience;
use crate::{Error, Event, Hub};
use lease::{Lease, Wish};
use link::{Link, Terms};
use shared::Shared;

pub use delivery::{Delivery, Failure, Retry};

/// Who speaks for a worker.
const CLIENT: &str = concat!("event-manager-rust/", env!("CARGO_PKG_VERSION"));
/// What is sent of its name at most, in bytes.
const NAME_BYTES_MAX: usize = 100;
/// What may be asked for (docs/protocol.md).
const CREDIT: std::ops::RangeInclusive<u32> = 1..=100_000;

/// What events have in common that keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderBy {
    /// Their subject.
    Subject,
    /// The frame of this index, from 0 to 1023.
    Frame(u16),
}

/// What a service with a full queue drops, if anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest events: the default of a live service.
    DropOldest,
    /// Those that come.
    DropNewest,
    /// Nothing; what doesn't fit in memory is on disk only. Durable services alone have this.
    Spill,
}

/// How a program works for a service. Where the daemon's configuration names the service, that is above what
/// is asked for here; what is asked for is the service's, so all its workers should ask for the same.
#[derive(Clone)]
#[must_use = "`start` starts it"]
pub struct ServiceBuilder {
    hub: Hub,
    name: String,
    subjects: Vec<String>,
    id: Option<String>,
    options: Map<String, Value>,
    credit: u32,
    retry: Retry,
    handling_max: Duration,
}

impl ServiceBuilder {
    pub(crate) fn new(hub: Hub, name: String) -> Self {
        Self {
            hub,
            name,
            subjects: vec![],
            id: None,
            options: Map::new(),
            credit: 32,
            retry: Retry::default(),
            handling_max: Duration::from_secs(600),
        }
    }

    /// Which subjects it gets: prefixes, `exact:…`, `glob:…`; an empty one is everything.
    pub fn subjects(mut self, subjects: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.subjects.extend(subjects.into_iter().map(Into::into));
        self
    }

    /// The id of its subscription; without it, one of the service, the host and the process.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Its events are kept on disk until they are done, also while it has no worker.
    pub fn durable(self) -> Self {
        self.option("delivery", json!("queue"))
    }

    /// Its events are kept in memory, as long as it has a subscription.
    pub fn live(self) -> Self {
        self.option("delivery", json!("live"))
    }

    /// How many events it may hold without having answered them: 1 to 100,000; 32 without this.
    pub fn credit(mut self, credit: u32) -> Self {
        self.credit = credit;
        self
    }

    /// When failed events are tried again, and how often. The daemon is told, too, for events whose worker
    /// is lost; without this, its `retry` bounds what is tried.
    pub fn retry(mut self, retry: Retry) -> Self {
        let option = retry.option();
        self.retry = retry;
        self.option("retry", option)
    }

    /// The service's `ackTimeout`, from 0.01 s to a day: for how long the daemon waits for a word about
    /// an event before it gives it to another worker. This one says in time that it still works, so it is
    /// how long the events of a worker that hangs wait.
    pub fn ack_timeout(self, timeout: Duration) -> Self {
        self.option("ackTimeout", json!(timeout.as_secs_f64()))
    }

    /// Events that have the same there are delivered in their order, never two at once.
    pub fn order_by(self, key: OrderBy) -> Self {
        let key = match key {
            OrderBy::Subject => json!("subject"),
            OrderBy::Frame(index) => json!(index),
        };
        self.option("orderBy", key)
    }

    /// What becomes of events while the service's queue is full.
    pub fn when_full(self, policy: WhenFull) -> Self {
        let policy = match policy {
            WhenFull::DropOldest => "drop-oldest",
            WhenFull::DropNewest => "drop-newest",
            WhenFull::Spill => "spill",
        };
        self.option("whenFull", json!(policy))
    }

    /// The subject under which the daemon publishes its dead letters; `<service>.DLQ` without this.
    pub fn dead_letter_subject(self, subject: impl Into<String>) -> Self {
        self.option("deadLetterSubject", json!(subject.into()))
    }

    fn option(mut self, name: &str, value: Value) -> Self {
        self.options.insert(name.to_owned(), value);
        self
    }

    /// For how long a handler may work on an event: until then the daemon is told, in time, that it is
    /// still worked on. 10 minutes without this.
    pub fn max_handling(mut self, time: Duration) -> Self {
        self.handling_max = time;
        self
    }

    /// Subscribes, and asks for events.
    ///
    /// # Errors
    /// [`Error::Nak`], [`Error::TooOld`] if the daemon doesn't know an option,
    /// [`Error::NoAnswer`] after the hub's timeout, [`Error::InvalidArgument`],
    /// [`Error::Closed`].
    pub async fn start(self) -> Result<Service, Error> {
        let invalid = |sentence: &str| {
            Err(Error::InvalidArgument(format!(
                "service {:?}: {sentence}",
                self.name
            )))
        };
        if !CREDIT.contains(&self.credit) {
            return invalid("a credit is 1 to 100000");
        }
        if self.subjects.is_empty() {
            return invalid("it needs subjects; an empty one is everything");
        }
        let wish = Arc::new(Wish {
            id: self.id.unwrap_or_else(|| subscription_id(&self.name)),
            service: self.name,
            subjects: self.subjects,
            options: self.options,
        });
        let asker = Arc::clone(self.hub.asker()?);
        let generation = asker.line().borrow().generation;
        let first = wish
            .subscribe(&asker, Patience::of(self.hub.timeout()))
            .await?;
        let (terms_tx, terms) = watch::channel(first);
        let told = terms.clone();
        let shared = Arc::new(Shared::new(self.retry, now()));
        let lost = Arc::new(Notify::new());
        let link = Link {
            shared: Arc::clone(&shared),
            terms,
            lost: Arc::clone(&lost),
            options: asker.options(LocalSocket::Dealer),
            credit: self.credit,
            handling_max: self.handling_max,
            ready: ready(self.credit, self.hub.name()),
        };
        let lease = Lease {
            asker,
            wish: Arc::clone(&wish),
            generation,
            terms: terms_tx,
            lost,
            shared: Arc::clone(&shared),
        };
        Ok(Service {
            hub: self.hub,
            wish,
            terms: told,
            shared,
            link: Ends::of(&tokio::spawn(link.run())),
            lease: Ends::of(&tokio::spawn(lease.keep())),
            drained: None,
        })
    }
}

/// What a worker says at first: how it wants its events, and who it is.
fn ready(credit: u32, name: &str) -> String {
    // More of it would not be kept, and much more not taken.
    let name = beginning(name, NAME_BYTES_MAX);
    let options = json!({"ack": true, "credit": credit, "name": name, "client": CLIENT});
    format!("READY {options}")
}

/// So that people recognise it.
fn subscription_id(service: &str) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "host",
        host => host,
    };
    let id = format!("@{host}:{}:{:08x}", std::process::id(), random() as u32);
    // At most 255 bytes.
    let service: String = service.chars().take(100).collect();
    format!("{service}{id}")
}

/// A task that ends with its owner.
pub(crate) struct Ends(AbortHandle);

impl Ends {
    pub(crate) fn of<T>(task: &JoinHandle<T>) -> Self {
        Self(task.abort_handle())
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a drain left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Events that no handler had begun, and that other workers may have now.
    pub returned: u64,
    /// Events that were not answered in time. They go to other workers, too.
    pub unanswered: u64,
}

/// A worker of a service: a stream of the events that it has to answer.
///
/// It connects again by itself, subscribes again when its subscription is gone, and tells the daemon in time
/// which events are still worked on. End it with [`drain`](Self::drain): if it is dropped, answers that
/// were not sent yet are lost, and their events come again.
pub struct Service {
    hub: Hub,
    wish: Arc<Wish>,
    /// What the daemon answered to it.
    terms: watch::Receiver<Terms>,
    shared: Arc<Shared>,
    link: Ends,
    lease: Ends,
    /// What its drain left, if it is over.
    drained: Option<Drained>,
}

impl Service {
    /// The id of its subscription.
    pub fn subscription_id(&self) -> &str {
        &self.wish.id
    }

    /// Where the service's workers connect.
    pub fn address(&self) -> String {
        self.terms.borrow().address.to_string()
    }

    /// Waits for the next event; `None` when it is stopped. May be dropped at any time without losing one.
    ///
    /// # Errors
    /// The daemon refuses to go on. What follows is `None`.
    pub async fn next(&mut self) -> Option<Result<Delivery, Error>> {
        poll_fn(|context| self.shared.poll_next(context)).await
    }

    /// Has each event handled, at most `limit` at once, until it is stopped: an event whose handler returns
    /// `Ok` is done, others are tried again as [`Retry`] says, or rejected. A handler that panics has failed.
    /// If this future is dropped, its handlers are, too, and their events are tried again.
    ///
    /// # Errors
    /// The daemon refuses to go on.
    pub async fn for_each_concurrent<F>(
        &mut self,
        limit: usize,
        handler: impl Fn(Event) -> F,
    ) -> Result<(), Error>
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let mut running = JoinSet::new();
        let result = loop {
            let has_room = running.len() < limit.max(1);
            tokio::select! {
                biased;
                Some(_) = running.join_next(), if !running.is_empty() => {}
                next = self.next(), if has_room => match next {
                    Some(Ok(delivery)) => {
                        let handling = handler(delivery.event().clone());
                        running.spawn(async move {
                            // Here, so that it is answered whatever the handler does.
                            let result = handling.await;
                            delivery.answer(result);
                        });
                    }
                    Some(Err(error)) => break Err(error),
                    None => break Ok(()),
                },
            }
        };
        while running.join_next().await.is_some() {}
        result
    }

    /// What stops it from elsewhere.
    pub fn stopper(&self) -> Stopper {
        Stopper {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Wants no more events, gives back those that no handler has begun, and waits, at most so long, until
    /// all others are answered and the daemon has read that. Its subscription stays until it expires, so that
    /// events wait for a worker that comes soon.
    pub async fn drain(&mut self, within: Duration) -> Drained {
        if let Some(drained) = self.drained {
            return drained;
        }
        let returned = self.shared.leave();
        let is_done = match self.link.0.is_finished() {
            true => true,
            false => Patience::of(within)
                .wait(self.shared.done.notified())
                .await
                .is_some(),
        };
        let unanswered = if is_done { 0 } else { self.shared.held() };
        self.link.0.abort();
        self.lease.0.abort();
        *self.drained.insert(Drained {
            returned,
            unanswered,
        })
    }

    /// Drains, and ends the subscription. If it was the last one of a live service, that ends too, with
    /// what waits for it.
    ///
    /// # Errors
    /// [`Error::Nak`], [`Error::NoAnswer`], [`Error::Closed`]; the subscription expires then.
    pub async fn unsubscribe(mut self, within: Duration) -> Result<Drained, Error> {
        let drained = self.drain(within).await;
        let request = encode(
            &Message::param(Token::UNSUBSCRIBE, [self.wish.id.as_str()]),
            Layout::NATIVE,
        );
        let what = || format!("UNSUBSCRIBE of {:?}", self.wish.service);
        let patience = Patience::of(self.hub.timeout());
        match self.hub.asker()?.ask(&what, &request, patience, true).await {
            Err(Error::Nak { code, .. }) if code == "unknown-subscription" => Ok(drained),
            Err(error) => Err(error),
            Ok(_) => Ok(drained),
        }
    }
}

impl Stream for Service {
    type Item = Result<Delivery, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.shared.poll_next(context)
    }
}

/// Stops a [`Service`] from elsewhere, for example when a signal comes.
#[derive(Clone)]
pub struct Stopper {
    shared: Arc<Shared>,
}

impl Stopper {
    /// It wants no more events, and gives back those that no handler has begun. Then the stream ends; after
    /// that, [`Service::drain`] waits for the answers.
    pub fn stop(&self) {
        self.shared.leave();
    }
}
