//! Publishers that bind: we connect to them, again and again.

use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{TcpStream, UnixStream};

use super::connection::{self, Counted};
use super::hub::{Hub, SharedHub};
use super::loops::Ring;
use super::peer::Purpose;
use super::stream::Stream;
use crate::ambient::{chance, wall_clock_ms};
use crate::broker::PeerId;
use crate::model::{Backoff, Endpoint, socket_name};
use crate::telemetry::Notable;

/// The longest wait after the first try, and after a connection that ended.
const DELAY_MIN: Duration = Duration::from_millis(50);
/// The longest wait of all: what a publisher sends before we are back is lost.
const DELAY_MAX: Duration = Duration::from_secs(1);
/// How long the system may try to connect. It asks a machine that doesn't answer ever less often, so
/// it is better to begin anew.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// An address that is dialled.
#[derive(Debug)]
pub(super) struct Dialled {
    endpoint: Endpoint,
    address: Rc<str>,
    /// The connection, if there is one.
    peer: Option<PeerId>,
    /// Since when that is so, in milliseconds since 1970.
    since_ms: u64,
    /// Tries that failed since it was connected, or since the start.
    failed_tries: u64,
    connections: u64,
    /// The latest, also if it is connected again.
    last_error: Option<String>,
    /// That it is not connected was noted.
    is_missed: bool,
    /// What it sends would come back to it.
    pub(super) ring: Option<Ring>,
}

impl Dialled {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            address: endpoint.to_string().into(),
            endpoint,
            peer: None,
            since_ms: wall_clock_ms(),
            failed_tries: 0,
            connections: 0,
            last_error: None,
            is_missed: false,
            ring: None,
        }
    }

    /// The connection, if there is one.
    pub(super) fn peer(&self) -> Option<PeerId> {
        self.peer
    }

    /// As it was written.
    pub(super) fn address(&self) -> Rc<str> {
        Rc::clone(&self.address)
    }

    /// For STATUS.
    pub(super) fn status(&self) -> Value {
        let ring = |ring: Ring| json!({"daemons": ring.daemons, "held": ring.is_held});
        json!({
            "address": &*self.address,
            "connected": self.peer.is_some(),
            "ring": self.ring.map(ring),
            "sinceMs": self.since_ms,
            "failedTries": self.failed_tries,
            "connections": self.connections,
            "lastError": self.last_error,
        })
    }
}

/// Keeps a connection to a publisher until it is aborted; the place of its address among those that
/// are dialled.
pub(super) async fn dial(hub: SharedHub, place: usize) {
    let Some((endpoint, address)) = hub.borrow().dialled_at(place) else {
        return;
    };
    let mut backoff = Backoff::new(DELAY_MIN, DELAY_MAX);
    loop {
        let ended = try_once(&hub, &endpoint, &address, place).await;
        if ended.is_ok() {
            backoff.reset();
        }
        hub.borrow_mut().not_dialled(place, ended);
        tokio::time::sleep(backoff.next_delay(chance())).await;
    }
}

/// Serves one connection; why there was none.
async fn try_once(
    hub: &SharedHub,
    endpoint: &Endpoint,
    address: &Rc<str>,
    place: usize,
) -> Result<(), String> {
    let timeout = hub.borrow().config.handshake_timeout.min(CONNECT_MAX);
    let stream = tokio::time::timeout(timeout, connect(endpoint))
        .await
        .map_err(|_| format!("no answer within {timeout:?}"))?
        .map_err(|error| error.to_string())?;
    let _counted = Counted::new(hub);
    connection::run(hub, stream, Rc::clone(address), &Purpose::Dialled(place)).await
}

async fn connect(endpoint: &Endpoint) -> std::io::Result<Stream> {
    match endpoint {
        Endpoint::Tcp { host, port } => TcpStream::connect((host.as_str(), *port))
            .await
            .map(Stream::tcp),
        Endpoint::Ipc(path) => UnixStream::connect(socket_name(path))
            .await
            .map(Stream::Unix),
    }
}

impl Hub {
    fn dialled_at(&self, place: usize) -> Option<(Endpoint, Rc<str>)> {
        let dialled = self.dialled.get(place)?;
        Some((dialled.endpoint.clone(), Rc::clone(&dialled.address)))
    }

    /// A handshake with a publisher that is dialled is done.
    pub(super) fn has_dialled(&mut self, place: usize, id: PeerId) {
        let Some(dialled) = self.dialled.get_mut(place) else {
            return;
        };
        dialled.peer = Some(id);
        dialled.ring = None;
        dialled.since_ms = wall_clock_ms();
        dialled.failed_tries = 0;
        dialled.connections += 1;
        dialled.is_missed = false;
        let burst = format!("publisher-found:{}", dialled.address);
        self.notes
            .burst(&burst, self.now, |suppressed| Notable::PublisherFound {
                publisher: &dialled.address,
                suppressed,
            });
    }

    /// A connection to it ended, or there was none.
    fn not_dialled(&mut self, place: usize, ended: Result<(), String>) {
        let Some(dialled) = self.dialled.get_mut(place) else {
            return;
        };
        let is_news = !std::mem::replace(&mut dialled.is_missed, true);
        dialled.ring = None;
        if dialled.peer.take().is_some() {
            dialled.since_ms = wall_clock_ms();
        }
        let why = match ended {
            Ok(()) => "the connection ended".to_owned(),
            Err(why) => {
                dialled.failed_tries += 1;
                why
            }
        };
        let burst = format!("publisher-lost:{}", dialled.address);
        if is_news && let Some(suppressed) = self.notes.admit(&burst, self.now) {
            self.notes.note(&Notable::PublisherLost {
                publisher: &dialled.address,
                why: &why,
                suppressed,
            });
        }
        dialled.last_error = Some(why);
    }
}
