//! A worker of a service: subscribed, kept alive, READY.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::requests::{Client, ClientError, Subscribed};

/// Why a worker can't go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A request came to nothing.
    #[error(transparent)]
    Request(#[from] ClientError),
    /// libzmq.
    #[error("the service's socket: {0}")]
    Socket(#[from] zmq::Error),
}

/// How long events that are under way may take when the subscription has ended.
const LAST_EVENTS_MS: i64 = 50;

/// A subscribed worker. It subscribes again by itself when its subscription is gone, and says READY
/// again when its connection was: the answer that it waited for is lost then.
///
/// Its socket is a REQ, which gets one event for each READY: none waits in it that another worker
/// could have had.
pub struct ServiceWorker {
    client: Client,
    context: zmq::Context,
    service: String,
    subjects: Vec<String>,
    subscribed: Subscribed,
    connection: Connection,
    /// A third of the subscription's time to live.
    keep_alive: Duration,
    keep_alive_at: Instant,
}

impl ServiceWorker {
    /// Subscribes and says READY.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn start(
        context: zmq::Context,
        mut client: Client,
        service: &str,
        subjects: Vec<String>,
        now: Instant,
    ) -> Result<Self, WorkerError> {
        let ttl = client.status()?["subscriptionTtlSeconds"]
            .as_f64()
            .unwrap_or(60.0);
        let keep_alive = Duration::from_secs_f64(ttl / 3.0);
        let subscribed = client.subscribe("", service, &subjects)?;
        let connection = Connection::new(&context, &subscribed.pull_address)?;
        let service = service.to_owned();
        let keep_alive_at = now + keep_alive;
        Ok(Self {
            client,
            context,
            service,
            subjects,
            subscribed,
            connection,
            keep_alive,
            keep_alive_at,
        })
    }

    /// What the daemon answered to the subscription.
    pub fn subscribed(&self) -> &Subscribed {
        &self.subscribed
    }

    /// The next event's frames, if one comes before `until`.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn receive(
        &mut self,
        now: Instant,
        until: Instant,
    ) -> Result<Option<Vec<Vec<u8>>>, WorkerError> {
        if now >= self.keep_alive_at {
            self.keep_alive(now)?;
        }
        let wait = until.min(self.keep_alive_at).saturating_duration_since(now);
        let Connection { socket, ended } = &self.connection;
        let mut items = [
            socket.as_poll_item(zmq::POLLIN),
            ended.as_poll_item(zmq::POLLIN),
        ];
        match zmq::poll(&mut items, wait.as_millis() as i64) {
            Ok(0) | Err(zmq::Error::EINTR) => return Ok(None),
            result => result?,
        };
        if items[0].is_readable() {
            return Ok(Some(socket.recv_multipart(0)?));
        }
        self.connection = Connection::new(&self.context, &self.subscribed.pull_address)?;
        Ok(None)
    }

    /// Says that an event is done, and asks for the next.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn ready(&self) -> Result<(), WorkerError> {
        Ok(self.connection.socket.send("READY", 0)?)
    }

    fn keep_alive(&mut self, now: Instant) -> Result<(), WorkerError> {
        self.keep_alive_at = now + self.keep_alive;
        match self.client.keep_alive(&self.subscribed.id) {
            Err(ClientError::Nak { code, .. }) if code == "unknown-subscription" => {
                self.subscribed = self.client.subscribe("", &self.service, &self.subjects)?;
                self.connection = Connection::new(&self.context, &self.subscribed.pull_address)?;
                Ok(())
            }
            // The daemon may be restarting: the next one may be answered.
            Err(ClientError::NoAnswer(_)) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends the subscription; an event that was under way meanwhile.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn stop(mut self) -> Result<Option<Vec<Vec<u8>>>, WorkerError> {
        match self.client.unsubscribe(&self.subscribed.id) {
            // It has expired, so it has ended all the same.
            Err(ClientError::Nak { code, .. }) if code == "unknown-subscription" => {}
            ended => ended?,
        }
        let polled = loop {
            match self.connection.socket.poll(zmq::POLLIN, LAST_EVENTS_MS) {
                Err(zmq::Error::EINTR) => {}
                polled => break polled?,
            }
        };
        if polled == 0 {
            return Ok(None);
        }
        Ok(Some(self.connection.socket.recv_multipart(0)?))
    }
}

/// A socket that has said READY, and another that says when its connection has ended.
struct Connection {
    socket: zmq::Socket,
    ended: zmq::Socket,
}

impl Connection {
    fn new(context: &zmq::Context, address: &str) -> zmq::Result<Self> {
        let socket = context.socket(zmq::REQ)?;
        socket.set_linger(0)?;
        socket.set_ipv6(address.contains('['))?;
        static LAST: AtomicU64 = AtomicU64::new(0);
        let monitor = format!("inproc://worker-{}", LAST.fetch_add(1, Ordering::Relaxed));
        socket.monitor(&monitor, zmq::SocketEvent::DISCONNECTED as i32)?;
        let ended = context.socket(zmq::PAIR)?;
        ended.connect(&monitor)?;
        socket.connect(address)?;
        socket.send("READY", 0)?;
        Ok(Self { socket, ended })
    }
}
