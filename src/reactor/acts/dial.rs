//! Publishers that bind: we connect to them, again and again.

use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use super::connection::{self, Counted};
use super::meeting::Way;
use crate::ambient::chance;
use crate::reactor::hub::SharedHub;
use crate::reactor::io::stream::Stream;
use crate::reactor::state::purpose::Purpose;
use event_manager_wire::model::{Backoff, Endpoint, socket_name};

/// The longest wait after the first try, and after a connection that ended.
const DELAY_MIN: Duration = Duration::from_millis(50);
/// The longest wait of all: what a publisher sends before we are back is lost.
const DELAY_MAX: Duration = Duration::from_secs(1);
/// How long the system may try to connect. It asks a machine that doesn't answer ever less often, so
/// it is better to begin anew.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// Keeps a connection to a publisher until it is aborted: the one at this index of those that are
/// dialled.
pub(crate) async fn dial(hub: SharedHub, index: usize) {
    let (endpoint, address) = {
        let dialled = &hub.borrow().upstream.dialled[index];
        (dialled.endpoint().clone(), dialled.address())
    };
    let mut backoff = Backoff::new(DELAY_MIN, DELAY_MAX);
    loop {
        let ended = try_once(&hub, &endpoint, &address, index).await;
        if ended.is_ok() && hub.borrow().upstream.dialled[index].refused.is_none() {
            backoff.reset();
        }
        {
            let hub = &mut *hub.borrow_mut();
            hub.upstream.has_ended(index, ended, &mut hub.notes);
        }
        tokio::time::sleep(backoff.next_delay(chance())).await;
    }
}

/// Serves one connection; why there was none.
async fn try_once(
    hub: &SharedHub,
    endpoint: &Endpoint,
    address: &Rc<str>,
    index: usize,
) -> Result<(), String> {
    let timeout = hub.borrow().config.handshake_timeout.min(CONNECT_MAX);
    let stream = tokio::time::timeout(timeout, connect(endpoint))
        .await
        .map_err(|_| format!("no answer within {timeout:?}"))?
        .map_err(|error| error.to_string())?;
    let _counted = Counted::new(hub);
    connection::run(
        hub,
        stream,
        Rc::clone(address),
        &Purpose::Dialled(index),
        Way::Dialled,
    )
    .await
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
