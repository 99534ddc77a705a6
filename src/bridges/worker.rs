//! A worker of a bridge's service, in this process.

use std::os::unix::net::UnixStream as PairedStream;

use bytes::{Buf, Bytes};
use serde_json::json;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::reactor::{Attachment, Input};
use event_manager_client::{Connection, ConnectionEvent, Ended, Options};
use event_manager_wire::messagebus::{event_attempt, own_id_of_event};
use event_manager_wire::model::ServiceName;
use event_manager_zmtp::{FrameHeader, Limits, LocalSocket, frames};

/// An event in the hands of a bridge.
#[derive(Debug)]
pub(super) struct Delivered {
    /// What the answer calls it.
    pub(super) delivery: u64,
    /// By which it is known for ever.
    pub(super) id: String,
    /// The event as it was published.
    pub(super) event: Bytes,
}

/// The connection of a worker that acknowledges.
pub(super) struct Worker(Connection);

/// Why there is none.
#[derive(Debug)]
pub(super) enum NoWorker {
    /// The daemon ends.
    Ends,
    /// Its service isn't there yet, or for another reason there is none now.
    NotNow,
}

impl Worker {
    /// Connects to the service, and says READY.
    pub(super) async fn attach(
        inputs: &mpsc::Sender<Input>,
        service: &ServiceName,
        bridge: &str,
        credit: u32,
        limits: Limits,
    ) -> Result<Self, NoWorker> {
        let pair = || {
            let (own, other) = PairedStream::pair()?;
            own.set_nonblocking(true)?;
            other.set_nonblocking(true)?;
            Ok::<_, std::io::Error>((UnixStream::from_std(own)?, other))
        };
        let (own, stream) = pair().map_err(|_| NoWorker::NotNow)?;
        let attachment = Attachment {
            stream,
            name: format!("bridge {bridge}"),
            service: service.clone(),
        };
        let sent = inputs.send(Input::Attach(attachment)).await;
        sent.map_err(|_| NoWorker::Ends)?;
        let options = Options::new(LocalSocket::Dealer, limits);
        let connection = Connection::over(own, &options).await;
        let mut connection = connection.map_err(|_| NoWorker::NotNow)?;
        let options = json!({
            "ack": true,
            "credit": credit,
            "ids": true,
            "name": bridge,
            "client": concat!("event-manager/", env!("CARGO_PKG_VERSION")),
        });
        connection.send([format!("READY {options}")]);
        Ok(Self(connection))
    }

    /// Waits for what comes next; `None` if that is no event.
    pub(super) async fn next(&mut self) -> Result<Option<Delivered>, Ended> {
        Ok(match self.0.next().await? {
            ConnectionEvent::Message(message) => delivered(message),
            _ => None,
        })
    }

    pub(super) fn ack(&mut self, delivery: u64) {
        self.0.send([format!("ACK {delivery}")]);
    }

    /// It comes again.
    pub(super) fn nak(&mut self, delivery: u64) {
        self.0.send([format!("NAK {delivery}")]);
    }

    /// It becomes a dead letter.
    pub(super) fn term(&mut self, delivery: u64, why: &str) {
        self.0.send([format!("TERM {delivery} {why}")]);
    }

    /// The time of all that it holds begins anew.
    pub(super) fn wip(&mut self, delivery: u64) {
        self.0.send([format!("WIP {delivery}")]);
    }

    /// It wants no more.
    pub(super) fn bye(&mut self) {
        self.0.send(["BYE"]);
    }
}

fn delivered(mut message: Bytes) -> Option<Delivered> {
    let header = FrameHeader::parse(&message).ok()??;
    let word = frames(&message).next()?;
    let (delivery, _) = event_attempt(word)?;
    let id = own_id_of_event(word)?.to_owned();
    message.advance(header.header_bytes + word.len());
    Some(Delivered {
        delivery,
        id,
        event: message,
    })
}
