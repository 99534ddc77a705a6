//! Publishers that bind: we connect to them, again and again.

use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use super::connection::{self, Counted};
use super::hub::SharedHub;
use super::peer::Purpose;
use super::stream::Stream;
use crate::ambient::chance;
use crate::model::{Backoff, Endpoint, socket_name};

const DELAY_MIN: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(10);

/// Keeps a connection to a publisher until it is aborted.
pub(super) async fn dial(hub: SharedHub, endpoint: Endpoint) {
    let address: Rc<str> = endpoint.to_string().into();
    let mut backoff = Backoff::new(DELAY_MIN, DELAY_MAX);
    let mut told = false;
    loop {
        let timeout = hub.borrow().config.handshake_timeout;
        match tokio::time::timeout(timeout, connect(&endpoint)).await {
            Ok(Ok(stream)) => {
                tracing::info!(publisher = %address, "connected to a publisher");
                told = false;
                let counted = Counted::new(&hub);
                let met =
                    connection::run(&hub, stream, Rc::clone(&address), &Purpose::Publishers).await;
                drop(counted);
                if met {
                    backoff.reset();
                    tracing::info!(publisher = %address, "the connection to a publisher ended");
                }
            }
            failed => {
                if !std::mem::replace(&mut told, true) {
                    let why = match failed {
                        Ok(Err(error)) => error.to_string(),
                        _ => "no answer".to_owned(),
                    };
                    tracing::warn!(publisher = %address, "a publisher can't be reached, trying again: {why}");
                }
            }
        }
        tokio::time::sleep(backoff.next_delay(chance())).await;
    }
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
