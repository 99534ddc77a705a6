//! Services that answer calls: sync events come to a port of their own, which a ServiceLocator knows.

mod listener;
mod question;
mod registration;

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use event_manager_wire::model::Endpoint;
use event_manager_zmtp::LocalSocket;
use futures_core::Stream;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::hub::asking::Patience;
use crate::service::{Drained, Ends, Failure, Service, ServiceBuilder, Stopper};
use crate::{Error, Event, Hub};
use listener::Listener;
use registration::Registration;

pub use question::Question;

/// How a program answers the calls of a service.
#[derive(Clone)]
#[must_use = "`start` starts it"]
pub struct AnswersBuilder {
    hub: Hub,
    name: String,
    service: ServiceBuilder,
    credit: u32,
    listen: Option<String>,
    address: Option<String>,
}

impl AnswersBuilder {
    pub(crate) fn new(hub: Hub, name: String) -> Self {
        Self {
            service: hub.service(name.clone()),
            hub,
            name,
            credit: 32,
            listen: None,
            address: None,
        }
    }

    /// Which subjects it answers to: `exact:…`, prefixes, `glob:…`.
    pub fn subjects(mut self, subjects: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.service = self.service.subjects(subjects);
        self
    }

    /// How many calls may wait for their answers, 32 without this; more are refused. As many events may.
    pub fn credit(mut self, credit: u32) -> Self {
        self.credit = credit;
        self.service = self.service.credit(credit);
        self
    }

    /// Where it listens, such as `tcp://*:7000`. Without this, it is a port of the system's choice of the
    /// network by which the hub reaches the daemon.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = Some(address.into());
        self
    }

    /// By which address the daemon reaches that, if it is another one: behind NAT, in a container.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Changes how it works for the service's events.
    pub fn with(mut self, change: impl FnOnce(ServiceBuilder) -> ServiceBuilder) -> Self {
        self.service = change(self.service);
        self
    }

    /// Subscribes, listens, and registers with the hub's ServiceLocator, or the daemon's own.
    ///
    /// # Errors
    /// Those of [`ServiceBuilder::start`]; [`Error::NoAnswer`] if there is no ServiceLocator, or it doesn't
    /// answer within the hub's timeout; [`Error::InvalidArgument`] if an address is none;
    /// [`Error::Failed`] if it can't be listened at.
    pub async fn start(self) -> Result<Answers, Error> {
        let asker = Arc::clone(self.hub.asker()?);
        let listen = match &self.listen {
            Some(address) => parsed(address)?,
            None => {
                let own = asker.line().borrow().own_host;
                let own = own.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
                Endpoint::tcp(own.to_string(), 0)
            }
        };
        let known_as = self.address.as_deref().map(parsed).transpose()?;
        let socket = bind(&listen).await?;
        let known_as = match known_as {
            Some(address) => address,
            None => {
                let port = socket.local_addr().map(|address| address.port());
                listen.with_port(port.unwrap_or_default())
            }
        };

        let service = self.service.start().await?;
        let room = Arc::new(Semaphore::new(self.credit as usize));
        let (questions, calls) = mpsc::unbounded_channel();
        let (closing, closes) = watch::channel(false);
        let listener = Listener {
            socket,
            questions,
            room: Arc::clone(&room),
            closes,
            keys: asker.options(LocalSocket::Requests).keys,
        };
        let listener = tokio::spawn(listener.run());
        let ends = Ends::of(&listener);
        let registration = Registration::new(asker, self.name, known_as.to_string());
        let mut registered = registration.told();
        let keeper = Ends::of(&tokio::spawn(registration.clone().keep()));
        let within = self.hub.timeout();
        let is_registered = async { registered.wait_for(Result::is_ok).await.is_ok() };
        if Patience::of(within).wait(is_registered).await != Some(true) {
            return Err(Error::NoAnswer {
                what: format!(
                    "the registration of {:?} with a ServiceLocator",
                    registration.name()
                ),
                within,
                why: registration.why(),
                may_be_taken: false,
            });
        }
        Ok(Answers {
            service,
            calls,
            credit: self.credit,
            room,
            closing,
            listener: Some(listener),
            address: known_as.to_string(),
            registration,
            keeper: Some(keeper),
            _ends: ends,
        })
    }
}

fn parsed(address: &str) -> Result<Endpoint, Error> {
    let parsed = address.parse::<Endpoint>();
    parsed
        .map_err(|error| Error::InvalidArgument(format!("{error}; an address is tcp://HOST:PORT")))
}

async fn bind(address: &Endpoint) -> Result<TcpListener, Error> {
    let Endpoint::Tcp { host, port } = address else {
        let sentence = format!("{address}: calls come by TCP; listen at tcp://HOST:PORT");
        return Err(Error::InvalidArgument(sentence));
    };
    let host = match host.as_str() {
        "*" => "0.0.0.0",
        host => host,
    };
    let bound = TcpListener::bind((host, *port)).await;
    bound.map_err(|error| Error::Failed(format!("{address} can't be listened at: {error}")))
}

/// The calls of a service: a stream of questions. Events with its subjects that are published, not called,
/// come as questions, too, whose answers nobody waits for.
///
/// The daemon has to reach its address; the ServiceLocator is told of it again and again. End it with
/// [`drain`](Self::drain); if it is dropped, calls to it fail until the ServiceLocator forgets it.
///
/// ```no_run
/// # async fn example(hub: event_manager_client::Hub) -> Result<(), event_manager_client::Error> {
/// let mut answers = hub.answers("Prices").subjects(["exact:order.price"]).start().await?;
/// while let Some(question) = answers.next().await {
///     let question = question?;
///     match question.json::<u32>() {
///         Ok(number) => question.answer(&(number * 950))?,
///         Err(error) => question.refuse(&error.to_string()),
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Answers {
    service: Service,
    calls: mpsc::UnboundedReceiver<Question>,
    credit: u32,
    room: Arc<Semaphore>,
    closing: watch::Sender<bool>,
    /// Until it is awaited.
    listener: Option<JoinHandle<()>>,
    address: String,
    registration: Registration,
    keeper: Option<Ends>,
    _ends: Ends,
}

impl Answers {
    /// Where the ServiceLocator says that it is.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Waits for the next question; `None` when it is stopped. May be dropped at any time without losing one.
    ///
    /// # Errors
    /// The daemon refuses to go on. What follows is `None`.
    pub async fn next(&mut self) -> Option<Result<Question, Error>> {
        poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Question, Error>>> {
        if let Poll::Ready(Some(question)) = self.calls.poll_recv(context) {
            return Poll::Ready(Some(Ok(question)));
        }
        let event = Pin::new(&mut self.service).poll_next(context);
        event.map(|event| event.map(|event| event.map(Question::of_event)))
    }

    /// Has each question answered, at most `limit` at once, until it is stopped: with what its handler returns,
    /// as JSON. A handler that fails refuses; an event of which nobody waits for the answer is tried again, as
    /// [`Retry`](crate::Retry) says.
    ///
    /// # Errors
    /// The daemon refuses to go on.
    pub async fn for_each_concurrent<F, T>(
        &mut self,
        limit: usize,
        handler: impl Fn(Event) -> F,
    ) -> Result<(), Error>
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
        T: Serialize + Send + 'static,
    {
        let mut running = JoinSet::new();
        let result = loop {
            let has_room = running.len() < limit.max(1);
            tokio::select! {
                biased;
                Some(_) = running.join_next(), if !running.is_empty() => {}
                next = self.next(), if has_room => match next {
                    Some(Ok(question)) => {
                        let handling = handler(question.event().clone());
                        running.spawn(async move {
                            // Here, so that it is answered whatever the handler does.
                            let result = handling.await;
                            question.settle(result);
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
        self.service.stopper()
    }

    /// Takes itself from the ServiceLocator, refuses what comes from now on, and waits, at most so long, until
    /// all else is answered.
    pub async fn drain(&mut self, within: Duration) -> Drained {
        let patience = Patience::of(within);
        if self.keeper.take().is_some() {
            let _ = patience.wait(self.registration.end()).await;
        }
        self.closing.send_replace(true);
        self.calls.close();
        let mut returned = 0;
        while let Ok(question) = self.calls.try_recv() {
            question.refuse("the service stops");
            returned += 1;
        }
        if let Some(listener) = &mut self.listener
            && patience.wait(listener).await.is_some()
        {
            self.listener = None;
        }
        let left = self.credit as usize - self.room.available_permits().min(self.credit as usize);
        let drained = self.service.drain(patience.left()).await;
        Drained {
            returned: drained.returned + returned,
            unanswered: drained.unanswered + left as u64,
        }
    }
}

impl Stream for Answers {
    type Item = Result<Question, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(context)
    }
}
