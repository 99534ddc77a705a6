//! How a hub connects.

use std::time::Duration;

use event_manager_wire::model::Endpoint;
use tokio::runtime::Handle;

use super::Hub;
use super::asking::{Asker, Destination, Patience, State};
use crate::Error;

/// Where a daemon listens unless it is configured.
const ADDRESS: &str = "tcp://localhost:5101";
/// By which daemons register with a ServiceLocator unless they are configured.
const LOCATED_NAME: &str = "EventManager";

/// How a hub connects. Without an address it is that of the variable `EVENT_MANAGER_CLIENT_ADDRESS`, or
/// `tcp://localhost:5101`.
#[derive(Debug, Clone)]
#[must_use = "`connect` connects"]
pub struct HubBuilder {
    address: Option<String>,
    locator: Option<String>,
    located_name: String,
    name: String,
    timeout: Duration,
    connect_timeout: Duration,
    heartbeat: Duration,
    pending_bytes_max: usize,
}

impl HubBuilder {
    pub(super) fn new() -> Self {
        let program = std::env::args().next().unwrap_or_default();
        let name = program.rsplit('/').next().filter(|name| !name.is_empty());
        Self {
            address: None,
            locator: None,
            located_name: LOCATED_NAME.to_owned(),
            name: name.unwrap_or("rust").to_owned(),
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::MAX,
            heartbeat: Duration::from_secs(10),
            pending_bytes_max: 64 << 20,
        }
    }

    /// Where the daemon takes requests.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Asks this ServiceLocator for the address, before each attempt to connect.
    pub fn locator(mut self, address: impl Into<String>) -> Self {
        self.locator = Some(address.into());
        self
    }

    /// The daemon's name there (`locatorServiceName`); `EventManager` without it.
    pub fn located_name(mut self, name: impl Into<String>) -> Self {
        self.located_name = name.into();
        self
    }

    /// The name of this program, for people: the daemon shows it beside the workers of its services. The
    /// program's file name without it.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How long requests wait for their answers, through reconnects; 5 s without it, `Duration::MAX` is for
    /// ever.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long [`connect`](Self::connect) waits for the daemon; for ever without it.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// A daemon that is silent for so long is asked whether it is there; after three times as long, its
    /// connection is given up, and made again. 10 s without this; zero is never.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = interval;
        self
    }

    /// How many bytes of events may wait to be sent, and as many of requests for their answers, from 64 KiB;
    /// 64 MiB without it.
    pub fn max_pending_bytes(mut self, bytes: usize) -> Self {
        self.pending_bytes_max = bytes.max(64 << 10);
        self
    }

    /// Connects, and waits until the daemon is there.
    ///
    /// # Errors
    /// Those of [`connect_lazy`](Self::connect_lazy); [`Error::NoAnswer`] after the
    /// [`connect_timeout`](Self::connect_timeout), or at once if what listens there is no daemon.
    pub async fn connect(self) -> Result<Hub, Error> {
        let within = self.connect_timeout;
        let hub = self.connect_lazy()?;
        let mut line = hub.line();
        let connected = line.wait_for(|line| line.state == State::Connected || line.is_no_daemon);
        let is_daemon = match Patience::of(within).wait(connected).await {
            Some(Ok(line)) => !line.is_no_daemon,
            _ => false,
        };
        if is_daemon {
            return Ok(hub);
        }
        let why = match hub.state() {
            State::Connecting { why } => why,
            State::Connected => "it has just connected".to_owned(),
        };
        Err(Error::NoAnswer {
            what: "the connection".into(),
            within,
            why,
            may_be_taken: false,
        })
    }

    /// Connects in the background. Calls wait for the connection.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]: an address is none, or there is no tokio runtime.
    pub fn connect_lazy(self) -> Result<Hub, Error> {
        if Handle::try_current().is_err() {
            let sentence = "a hub needs a tokio runtime; `blocking::Hub` brings its own";
            return Err(Error::InvalidArgument(sentence.to_owned()));
        }
        let variable = || std::env::var("EVENT_MANAGER_CLIENT_ADDRESS").ok();
        let destination = match (self.locator, self.address) {
            (Some(_), Some(_)) => {
                let sentence = "either an address or a locator, not both";
                return Err(Error::InvalidArgument(sentence.to_owned()));
            }
            (Some(locator), None) => Destination::Located(endpoint(&locator)?, self.located_name),
            (None, address) => {
                let address = address.or_else(variable);
                Destination::At(endpoint(address.as_deref().unwrap_or(ADDRESS))?)
            }
        };
        let asker = Asker::start(destination, self.heartbeat, self.pending_bytes_max);
        Ok(Hub::start(
            self.name,
            self.timeout,
            asker,
            self.pending_bytes_max,
        ))
    }
}

fn endpoint(text: &str) -> Result<Endpoint, Error> {
    text.parse().map_err(|error| {
        Error::InvalidArgument(format!(
            "{error}; an address is tcp://HOST:PORT or ipc://PATH"
        ))
    })
}
