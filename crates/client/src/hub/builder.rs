//! How a hub connects.

use std::path::PathBuf;
use std::time::Duration;

use event_manager_wire::model::Endpoint;
use tokio::runtime::Handle;

use super::Hub;
use super::asking::{Asker, Keys, Line, Patience, State};
use super::destination::Destination;
use crate::{ClientKeys, Error, KeysError};

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
    keys: KeysWanted,
    locator_keys: Option<Option<ClientKeys>>,
}

/// Where a hub has its keys from.
#[derive(Debug, Clone)]
enum KeysWanted {
    /// From files that variables name, if they do.
    Environment,
    Given(Option<ClientKeys>),
    Files(PathBuf, String),
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
            keys: KeysWanted::Environment,
            locator_keys: None,
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

    /// Connects by CURVE, with this program's certificate, the file with its secret key, and the public key
    /// of the daemon: Z85, hex or base64, or the name of a certificate. Without keys they are those that the
    /// variables `EVENT_MANAGER_KEY` and `EVENT_MANAGER_SERVER_KEY` name, if they do.
    pub fn key_files(
        mut self,
        certificate: impl Into<PathBuf>,
        server_key: impl Into<String>,
    ) -> Self {
        self.keys = KeysWanted::Files(certificate.into(), server_key.into());
        self
    }

    /// The same with these keys; `None` is without CURVE, whatever the variables say.
    pub fn keys(mut self, keys: impl Into<Option<ClientKeys>>) -> Self {
        self.keys = KeysWanted::Given(keys.into());
        self
    }

    /// Other keys for the ServiceLocator than for the daemon; `None` asks it without CURVE.
    pub fn locator_keys(mut self, keys: impl Into<Option<ClientKeys>>) -> Self {
        self.locator_keys = Some(keys.into());
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
    /// Those of [`connect_lazy`](Self::connect_lazy); [`Error::TurnedAway`] if the daemon doesn't admit this
    /// program, which takes two attempts; [`Error::NoAnswer`] after the
    /// [`connect_timeout`](Self::connect_timeout), or at once if what listens there is no daemon.
    pub async fn connect(self) -> Result<Hub, Error> {
        let within = self.connect_timeout;
        let hub = self.connect_lazy()?;
        let mut line = hub.line();
        let is_known = |line: &Line| {
            line.state == State::Connected || line.is_no_daemon || line.turned_away.is_some()
        };
        let known = match Patience::of(within).wait(line.wait_for(is_known)).await {
            Some(Ok(line)) => Some(line.clone()),
            _ => None,
        };
        match known {
            Some(Line {
                turned_away: Some((address, why)),
                ..
            }) => {
                let address = address.to_string();
                return Err(Error::TurnedAway { address, why });
            }
            Some(line) if !line.is_no_daemon => return Ok(hub),
            _ => {}
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
    /// [`Error::InvalidArgument`]: an address is none, or there is no tokio runtime. [`Error::Keys`].
    pub fn connect_lazy(self) -> Result<Hub, Error> {
        if Handle::try_current().is_err() {
            let sentence = "a hub needs a tokio runtime; `blocking::Hub` brings its own";
            return Err(Error::InvalidArgument(sentence.to_owned()));
        }
        let variable = || variable("EVENT_MANAGER_CLIENT_ADDRESS");
        let daemon = self.keys.load()?;
        let keys = Keys {
            locator: self.locator_keys.unwrap_or_else(|| daemon.clone()),
            daemon,
        };
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
        let asker = Asker::start(destination, self.heartbeat, self.pending_bytes_max, keys);
        Ok(Hub::start(
            self.name,
            self.timeout,
            asker,
            self.pending_bytes_max,
        ))
    }
}

impl KeysWanted {
    fn load(self) -> Result<Option<ClientKeys>, KeysError> {
        const OWN: &str = "EVENT_MANAGER_KEY";
        const SERVER: &str = "EVENT_MANAGER_SERVER_KEY";
        let (own, server) = match self {
            Self::Given(keys) => return Ok(keys),
            Self::Files(own, server) => (own, server),
            Self::Environment => match (variable(OWN), variable(SERVER)) {
                (None, None) => return Ok(None),
                (Some(_), None) => return Err(KeysError::Half(OWN, SERVER)),
                (None, Some(_)) => return Err(KeysError::Half(SERVER, OWN)),
                (Some(own), Some(server)) => (own.into(), server),
            },
        };
        ClientKeys::load(own, &server).map(Some)
    }
}

/// An empty one is as good as none.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn endpoint(text: &str) -> Result<Endpoint, Error> {
    text.parse().map_err(|error| {
        Error::InvalidArgument(format!(
            "{error}; an address is tcp://HOST:PORT or ipc://PATH"
        ))
    })
}
