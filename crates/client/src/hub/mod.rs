//! The hub: all that a program wants of an event manager, over connections that come back by themselves.

pub(crate) mod asking;
mod builder;
mod call;
mod destination;
mod emit;
pub(crate) mod event;
mod lease;
mod publishing;
mod subscription;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use event_manager_wire::api::Status;
use serde::Serialize;
use tokio::sync::watch;

use crate::Error;
use crate::answers::AnswersBuilder;
use crate::service::ServiceBuilder;
use asking::{Asker, Line, Patience};
use publishing::Publishing;

pub use asking::State;
pub use builder::HubBuilder;
pub use call::{Call, Reply};
pub use emit::{Emit, Level, Receipt};
pub use event::Event;
pub use lease::{Lease, LeaseBuilder};
pub use publishing::Taken;
pub use subscription::Subscription;

/// A client of one event manager. Cheap to clone; its tasks end with the last clone.
///
/// Connections are made again for ever: while the daemon is away, calls wait, up to their timeouts. It
/// needs a tokio runtime with time and I/O; [`blocking::Hub`](crate::blocking::Hub) has its own.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    timeout: Duration,
    asker: Arc<Asker>,
    publishing: Publishing,
    is_closed: AtomicBool,
}

impl Hub {
    /// How to connect.
    pub fn builder() -> HubBuilder {
        HubBuilder::new()
    }

    /// Connects to the daemon at this address, such as `tcp://localhost:5101`, and waits for it, for ever.
    ///
    /// # Errors
    /// Those of [`HubBuilder::connect`].
    pub async fn connect(address: &str) -> Result<Self, Error> {
        Self::builder().address(address).connect().await
    }

    pub(crate) fn start(
        name: String,
        timeout: Duration,
        asker: Asker,
        pending_bytes_max: usize,
    ) -> Self {
        let asker = Arc::new(asker);
        let publishing = Publishing::start(Arc::clone(&asker), pending_bytes_max);
        let is_closed = AtomicBool::new(false);
        Self {
            inner: Arc::new(Inner {
                name,
                timeout,
                asker,
                publishing,
                is_closed,
            }),
        }
    }

    /// The name of this program.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.inner.timeout
    }

    pub(crate) fn asker(&self) -> Result<&Arc<Asker>, Error> {
        match self.inner.is_closed.load(Ordering::Relaxed) {
            false => Ok(&self.inner.asker),
            true => Err(Error::Closed {
                may_be_taken: false,
            }),
        }
    }

    /// Whether there is a connection for requests.
    pub fn state(&self) -> State {
        self.line().borrow().state.clone()
    }

    /// Waits until that changes.
    pub async fn state_change(&self) -> State {
        let mut line = self.line();
        // Its task lives as long as the hub.
        let _ = line.changed().await;
        line.borrow().state.clone()
    }

    fn line(&self) -> watch::Receiver<Line> {
        self.inner.asker.line()
    }

    /// Publishes an event with a body of JSON. It returns as soon as the event is in the buffer;
    /// [`flush`](Self::flush) tells whether the daemon has taken it. While the daemon is away, events
    /// wait in the buffer; while that is full, publishers do.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], [`Error::Closed`].
    pub async fn publish<T: Serialize + ?Sized>(
        &self,
        subject: &str,
        body: &T,
    ) -> Result<(), Error> {
        if subject.contains('\0') {
            let sentence = format!("the subject {subject:?} contains a NUL");
            return Err(Error::InvalidArgument(sentence));
        }
        let mut written = SCRATCH.take();
        written.clear();
        encode(subject, body, &mut written)?;
        self.publish_frames(&[subject.as_bytes(), &written]).await?;
        if written.capacity() <= SCRATCH_BYTES_MAX {
            SCRATCH.set(written);
        }
        Ok(())
    }

    /// Publishes an event of these frames; the first begins with its subject.
    ///
    /// # Errors
    /// Those of [`publish`](Self::publish).
    pub async fn publish_frames(&self, frames: &[&[u8]]) -> Result<(), Error> {
        if frames.is_empty() {
            return Err(Error::InvalidArgument(
                "an event has at least one frame".to_owned(),
            ));
        }
        self.inner.publishing.publish(frames).await
    }

    /// Waits until the daemon has taken what was published, at most for the hub's timeout.
    ///
    /// # Errors
    /// [`Error::MayBeLost`] says how many of the events since the last flush it may not have taken.
    pub async fn flush(&self) -> Result<Taken, Error> {
        self.flush_within(self.inner.timeout).await
    }

    /// The same with a timeout of its own.
    ///
    /// # Errors
    /// Those of [`flush`](Self::flush).
    pub async fn flush_within(&self, timeout: Duration) -> Result<Taken, Error> {
        self.inner.publishing.flush(timeout).await
    }

    /// Publishes an event with a body of JSON, and waits for its confirmation. It is sent again with the
    /// same id, on each new connection, until it is answered or its time is over.
    ///
    /// Awaiting it fails with [`Error::NoAnswer`], [`Error::Nak`], [`Error::InvalidArgument`] or
    /// [`Error::Closed`].
    pub fn emit<T: Serialize + ?Sized>(&self, subject: &str, body: &T) -> Emit<'_> {
        Emit::new(self, subject, encoded(subject, body).map(Bytes::from))
    }

    /// The same with a body of any bytes.
    pub fn emit_bytes(&self, subject: &str, body: impl Into<Bytes>) -> Emit<'_> {
        Emit::new(self, subject, Ok(body.into()))
    }

    /// Calls the services that are subscribed to this subject, with a body of JSON.
    pub fn call<T: Serialize + ?Sized>(&self, subject: &str, body: &T) -> Call<'_> {
        Call::new(self, subject, encoded(subject, body).map(Bytes::from))
    }

    /// Subscribes to prefixes of subjects; an empty one is everything. Nothing is kept for a plain subscriber
    /// while it is away; a [`service`](Self::service) has a queue.
    ///
    /// # Errors
    /// [`Error::NoAnswer`] if the daemon doesn't take the subscription within the hub's timeout,
    /// [`Error::InvalidArgument`], [`Error::Closed`].
    pub async fn subscribe(
        &self,
        prefixes: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Subscription, Error> {
        let prefixes = prefixes.into_iter().map(Into::into).collect();
        let asker = Arc::clone(self.asker()?);
        Subscription::start(asker, prefixes, self.inner.timeout).await
    }

    /// A worker of this service: see [`ServiceBuilder`].
    pub fn service(&self, name: impl Into<String>) -> ServiceBuilder {
        ServiceBuilder::new(self.clone(), name.into())
    }

    /// Answers the calls of this service: see [`AnswersBuilder`].
    pub fn answers(&self, service: impl Into<String>) -> AnswersBuilder {
        AnswersBuilder::new(self.clone(), service.into())
    }

    /// What the daemon says of itself: the answer to STATUS.
    ///
    /// # Errors
    /// [`Error::NoAnswer`], [`Error::Closed`].
    pub async fn status(&self) -> Result<Status, Error> {
        self.asker()?.status(Patience::of(self.inner.timeout)).await
    }

    /// Flushes what was published, and ends: from now on all calls fail, also those of clones. Services and
    /// subscriptions go on until they are dropped.
    ///
    /// # Errors
    /// [`Error::MayBeLost`], as [`flush`](Self::flush).
    pub async fn close(&self) -> Result<Taken, Error> {
        let flushed = self.flush().await;
        self.inner.is_closed.store(true, Ordering::Relaxed);
        self.inner.publishing.close();
        flushed
    }
}

/// What a thread keeps of the memory in which bodies are written.
const SCRATCH_BYTES_MAX: usize = 64 << 10;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(vec![]) };
}

fn encoded<T: Serialize + ?Sized>(subject: &str, body: &T) -> Result<Vec<u8>, Error> {
    let mut written = vec![];
    encode(subject, body, &mut written)?;
    Ok(written)
}

fn encode<T: Serialize + ?Sized>(
    subject: &str,
    body: &T,
    written: &mut Vec<u8>,
) -> Result<(), Error> {
    serde_json::to_writer(written, body).map_err(|error| {
        Error::InvalidArgument(format!(
            "the body of {subject:?} can't be written as JSON: {error}"
        ))
    })
}
