//! The hub for threads without a runtime.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::answers;
use crate::hub;
use crate::service::{self, Stopper};
use crate::{
    Delivery, Drained, Error, Event, HubBuilder, Level, Question, Receipt, Reply, Status, Taken,
};

/// A runtime on a thread of its own, so that connections are kept while nobody waits.
struct Driver {
    handle: Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    fn start() -> Result<Self, Error> {
        let failed = |error: std::io::Error| Error::Failed(format!("no runtime: {error}"));
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let handle = runtime.handle().clone();
        let (end, ends) = oneshot::channel();
        let thread = std::thread::Builder::new().name("event-manager".into());
        let thread = thread.spawn(move || {
            let _ = runtime.block_on(ends);
            // A name that is looked up for long must not hold us up.
            runtime.shutdown_background();
        });
        Ok(Self {
            handle,
            end: Some(end),
            thread: Some(thread.map_err(failed)?),
        })
    }

    fn wait<T>(&self, work: impl Future<Output = T>) -> Result<T, Error> {
        if Handle::try_current().is_ok() {
            let sentence = "a blocking hub can't be used within a runtime's tasks; use `Hub` there";
            return Err(Error::InvalidArgument(sentence.to_owned()));
        }
        Ok(self.handle.block_on(work))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It fails if a task panicked, which has been told.
            let _ = thread.join();
        }
    }
}

/// As [`crate::Hub`], with calls that block; from any thread, but not within a runtime's tasks. Cheap to
/// clone.
///
/// ```no_run
/// # fn main() -> Result<(), event_manager_client::Error> {
/// use event_manager_client::blocking::Hub;
///
/// let hub = Hub::connect("tcp://localhost:5101")?;
/// hub.publish("order.created", &7)?;
/// hub.flush()?;
/// let mut service = hub.service("Billing").subjects(["order."]).start()?;
/// for delivery in &mut service {
///     let delivery = delivery?;
///     println!("{}", delivery.subject());
///     delivery.ack();
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Hub {
    // First, so that its tasks end before their runtime.
    hub: hub::Hub,
    driver: Arc<Driver>,
}

impl Hub {
    /// See [`crate::Hub::connect`].
    ///
    /// # Errors
    /// Those of [`HubBuilder::connect`].
    pub fn connect(address: &str) -> Result<Self, Error> {
        Self::build(hub::Hub::builder().address(address))
    }

    /// Connects as a builder says.
    ///
    /// # Errors
    /// Those of [`HubBuilder::connect`].
    pub fn build(builder: HubBuilder) -> Result<Self, Error> {
        let driver = Driver::start()?;
        let hub = driver.wait(builder.connect())??;
        Ok(Self {
            hub,
            driver: Arc::new(driver),
        })
    }

    /// The hub that this one waits for.
    pub fn hub(&self) -> &hub::Hub {
        &self.hub
    }

    /// See [`crate::Hub::publish`].
    ///
    /// # Errors
    /// Those of [`crate::Hub::publish`].
    pub fn publish<T: Serialize + ?Sized>(&self, subject: &str, body: &T) -> Result<(), Error> {
        self.driver.wait(self.hub.publish(subject, body))?
    }

    /// See [`crate::Hub::publish_frames`].
    ///
    /// # Errors
    /// Those of [`crate::Hub::publish_frames`].
    pub fn publish_frames(&self, frames: &[&[u8]]) -> Result<(), Error> {
        self.driver.wait(self.hub.publish_frames(frames))?
    }

    /// See [`crate::Hub::flush`].
    ///
    /// # Errors
    /// Those of [`crate::Hub::flush`].
    pub fn flush(&self) -> Result<Taken, Error> {
        self.driver.wait(self.hub.flush())?
    }

    /// See [`crate::Hub::emit`]; [`Emit::send`] does it.
    pub fn emit<T: Serialize + ?Sized>(&self, subject: &str, body: &T) -> Emit<'_> {
        Emit {
            hub: self,
            emit: self.hub.emit(subject, body),
        }
    }

    /// See [`crate::Hub::emit_bytes`]; [`Emit::send`] does it.
    pub fn emit_bytes(&self, subject: &str, body: impl Into<Bytes>) -> Emit<'_> {
        Emit {
            hub: self,
            emit: self.hub.emit_bytes(subject, body),
        }
    }

    /// See [`crate::Hub::call`].
    pub fn call<T: Serialize + ?Sized>(&self, subject: &str, body: &T) -> Call<'_> {
        Call {
            hub: self,
            call: self.hub.call(subject, body),
        }
    }

    /// See [`crate::Hub::subscribe`].
    ///
    /// # Errors
    /// Those of [`crate::Hub::subscribe`].
    pub fn subscribe(
        &self,
        prefixes: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Subscription, Error> {
        let subscription = self.driver.wait(self.hub.subscribe(prefixes))??;
        Ok(Subscription {
            subscription,
            driver: Arc::clone(&self.driver),
        })
    }

    /// See [`crate::Hub::service`].
    pub fn service(&self, name: impl Into<String>) -> ServiceBuilder {
        ServiceBuilder {
            builder: self.hub.service(name),
            driver: Arc::clone(&self.driver),
        }
    }

    /// See [`crate::Hub::answers`].
    pub fn answers(&self, service: impl Into<String>) -> AnswersBuilder {
        AnswersBuilder {
            builder: self.hub.answers(service),
            driver: Arc::clone(&self.driver),
        }
    }

    /// See [`crate::Hub::status`].
    ///
    /// # Errors
    /// Those of [`crate::Hub::status`].
    pub fn status(&self) -> Result<Status, Error> {
        self.driver.wait(self.hub.status())?
    }

    /// See [`crate::Hub::close`].
    ///
    /// # Errors
    /// Those of [`crate::Hub::close`].
    pub fn close(&self) -> Result<Taken, Error> {
        self.driver.wait(self.hub.close())?
    }
}

/// See [`crate::Emit`].
#[must_use = "it is emitted by `send`"]
pub struct Emit<'a> {
    hub: &'a Hub,
    emit: hub::Emit<'a>,
}

impl Emit<'_> {
    /// See [`crate::Emit::id`].
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.emit = self.emit.id(id);
        self
    }

    /// See [`crate::Emit::level`].
    pub fn level(mut self, level: Level) -> Self {
        self.emit = self.emit.level(level);
        self
    }

    /// See [`crate::Emit::ttl`].
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.emit = self.emit.ttl(ttl);
        self
    }

    /// See [`crate::Emit::deliver_at`].
    pub fn deliver_at(mut self, time: SystemTime) -> Self {
        self.emit = self.emit.deliver_at(time);
        self
    }

    /// See [`crate::Emit::header`].
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.emit = self.emit.header(name, value);
        self
    }

    /// See [`crate::Emit::timeout`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.emit = self.emit.timeout(timeout);
        self
    }

    /// Emits it, and waits for the confirmation.
    ///
    /// # Errors
    /// Those of [`crate::Hub::emit`].
    pub fn send(self) -> Result<Receipt, Error> {
        self.hub.driver.wait(self.emit.into_future())?
    }
}

/// See [`crate::Call`].
#[must_use = "it is made by `first` or `all`"]
pub struct Call<'a> {
    hub: &'a Hub,
    call: hub::Call<'a>,
}

impl Call<'_> {
    /// See [`crate::Call::timeout`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.call = self.call.timeout(timeout);
        self
    }

    /// See [`crate::Call::first`].
    ///
    /// # Errors
    /// Those of [`crate::Call::first`].
    pub fn first<T: DeserializeOwned>(self) -> Result<T, Error> {
        self.hub.driver.wait(self.call.first())?
    }

    /// See [`crate::Call::all`].
    ///
    /// # Errors
    /// Those of [`crate::Call::all`].
    pub fn all(self) -> Result<Vec<Reply>, Error> {
        self.hub.driver.wait(self.call.all())?
    }
}

/// See [`crate::Subscription`]: an endless iterator, until the hub is closed.
pub struct Subscription {
    subscription: hub::Subscription,
    driver: Arc<Driver>,
}

impl Subscription {
    /// The next event, if it comes within this time.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] within a runtime.
    pub fn next_within(&mut self, time: Duration) -> Result<Option<Event>, Error> {
        let next = async { tokio::time::timeout(time, self.subscription.next()).await };
        Ok(self.driver.wait(next)?.ok().flatten())
    }
}

impl Iterator for Subscription {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.driver.wait(self.subscription.next()).ok().flatten()
    }
}

/// See [`crate::ServiceBuilder`].
#[must_use = "`start` starts it"]
pub struct ServiceBuilder {
    builder: service::ServiceBuilder,
    driver: Arc<Driver>,
}

impl ServiceBuilder {
    /// See [`crate::ServiceBuilder::subjects`].
    pub fn subjects(self, subjects: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.with(|builder| builder.subjects(subjects))
    }

    /// See [`crate::ServiceBuilder::durable`].
    pub fn durable(self) -> Self {
        self.with(service::ServiceBuilder::durable)
    }

    /// See [`crate::ServiceBuilder::credit`].
    pub fn credit(self, credit: u32) -> Self {
        self.with(|builder| builder.credit(credit))
    }

    /// See [`crate::ServiceBuilder::retry`].
    pub fn retry(self, retry: service::Retry) -> Self {
        self.with(|builder| builder.retry(retry))
    }

    /// See [`crate::ServiceBuilder::ack_timeout`].
    pub fn ack_timeout(self, timeout: Duration) -> Self {
        self.with(|builder| builder.ack_timeout(timeout))
    }

    /// See [`crate::ServiceBuilder::order_by`].
    pub fn order_by(self, key: service::OrderBy) -> Self {
        self.with(|builder| builder.order_by(key))
    }

    /// See [`crate::ServiceBuilder::when_full`].
    pub fn when_full(self, policy: service::WhenFull) -> Self {
        self.with(|builder| builder.when_full(policy))
    }

    /// Changes what has no method here.
    pub fn with(
        mut self,
        change: impl FnOnce(service::ServiceBuilder) -> service::ServiceBuilder,
    ) -> Self {
        self.builder = change(self.builder);
        self
    }

    /// See [`crate::ServiceBuilder::start`].
    ///
    /// # Errors
    /// Those of [`crate::ServiceBuilder::start`].
    pub fn start(self) -> Result<Service, Error> {
        let service = self.driver.wait(self.builder.start())??;
        Ok(Service {
            service,
            driver: self.driver,
        })
    }
}

/// See [`crate::Service`]: an iterator over the events that have to be answered.
pub struct Service {
    service: service::Service,
    driver: Arc<Driver>,
}

impl Service {
    /// The next event, if it comes within this time.
    ///
    /// # Errors
    /// Those of [`crate::Service::next`]; [`Error::InvalidArgument`] within a runtime.
    pub fn next_within(&mut self, time: Duration) -> Result<Option<Delivery>, Error> {
        let next = async { tokio::time::timeout(time, self.service.next()).await };
        self.driver.wait(next)?.ok().flatten().transpose()
    }

    /// See [`crate::Service::stopper`].
    pub fn stopper(&self) -> Stopper {
        self.service.stopper()
    }

    /// See [`crate::Service::drain`].
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] within a runtime.
    pub fn drain(&mut self, within: Duration) -> Result<Drained, Error> {
        self.driver.wait(self.service.drain(within))
    }

    /// See [`crate::Service::unsubscribe`].
    ///
    /// # Errors
    /// Those of [`crate::Service::unsubscribe`].
    pub fn unsubscribe(self, within: Duration) -> Result<Drained, Error> {
        self.driver.wait(self.service.unsubscribe(within))?
    }
}

impl Iterator for Service {
    type Item = Result<Delivery, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.driver.wait(self.service.next()) {
            Ok(next) => next,
            Err(error) => Some(Err(error)),
        }
    }
}

/// See [`crate::AnswersBuilder`].
#[must_use = "`start` starts it"]
pub struct AnswersBuilder {
    builder: answers::AnswersBuilder,
    driver: Arc<Driver>,
}

impl AnswersBuilder {
    /// See [`crate::AnswersBuilder::subjects`].
    pub fn subjects(self, subjects: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.with(|builder| builder.subjects(subjects))
    }

    /// Changes what has no method here.
    pub fn with(
        mut self,
        change: impl FnOnce(answers::AnswersBuilder) -> answers::AnswersBuilder,
    ) -> Self {
        self.builder = change(self.builder);
        self
    }

    /// See [`crate::AnswersBuilder::start`].
    ///
    /// # Errors
    /// Those of [`crate::AnswersBuilder::start`].
    pub fn start(self) -> Result<Answers, Error> {
        let answers = self.driver.wait(self.builder.start())??;
        Ok(Answers {
            answers,
            driver: self.driver,
        })
    }
}

/// See [`crate::Answers`]: an iterator over the questions.
pub struct Answers {
    answers: answers::Answers,
    driver: Arc<Driver>,
}

impl Answers {
    /// See [`crate::Answers::address`].
    pub fn address(&self) -> &str {
        self.answers.address()
    }

    /// See [`crate::Answers::stopper`].
    pub fn stopper(&self) -> Stopper {
        self.answers.stopper()
    }

    /// See [`crate::Answers::drain`].
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] within a runtime.
    pub fn drain(&mut self, within: Duration) -> Result<Drained, Error> {
        self.driver.wait(self.answers.drain(within))
    }
}

impl Iterator for Answers {
    type Item = Result<Question, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.driver.wait(self.answers.next()) {
            Ok(next) => next,
            Err(error) => Some(Err(error)),
        }
    }
}
