//! The port to which calls come.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use event_manager_wire::messagebus::{Layout, Message, decode, encode, split_envelope};
use event_manager_zmtp::{Limits, LocalSocket, encode_message, frames_of};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::question::{Question, Reply};
use crate::connection::{self, Connection, Options};
use crate::{ClientKeys, Event, LIMITS};

/// Connections at once; others wait until one ends.
const PEERS_MAX: usize = 256;
/// The largest call: whoever reaches the port may send one.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Pause when the system gives no connection: it has no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) questions: mpsc::UnboundedSender<Question>,
    /// For questions that are not answered.
    pub(super) room: Arc<Semaphore>,
    pub(super) closes: watch::Receiver<bool>,
    /// With these, only the daemon may call.
    pub(super) keys: Option<ClientKeys>,
}

impl Listener {
    /// Until it is closed, and all connections have ended.
    pub(super) async fn run(mut self) {
        let mut peers = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.socket.accept(), if peers.len() < PEERS_MAX => match accepted {
                    Ok((stream, _)) => {
                        let peer = Peer {
                            questions: self.questions.clone(),
                            room: Arc::clone(&self.room),
                            closes: self.closes.clone(),
                            keys: self.keys.clone(),
                        };
                        peers.spawn(peer.serve(stream));
                    }
                    Err(_) => sleep(PAUSE).await,
                },
                Some(_) = peers.join_next(), if !peers.is_empty() => {}
                () = closed(&mut self.closes) => break,
            }
        }
        drop(self.socket);
        while peers.join_next().await.is_some() {}
    }
}

async fn closed(closes: &mut watch::Receiver<bool>) {
    // Without a sender, its owner is gone.
    let _ = closes.wait_for(|closes| *closes).await;
}

/// One connection.
struct Peer {
    questions: mpsc::UnboundedSender<Question>,
    room: Arc<Semaphore>,
    closes: watch::Receiver<bool>,
    keys: Option<ClientKeys>,
}

impl Peer {
    async fn serve(mut self, stream: TcpStream) {
        let limits = Limits {
            message_bytes_max: MESSAGE_BYTES_MAX,
            message_parts_max: 1024,
            ..LIMITS
        };
        let options = Options::new(LocalSocket::Requests, limits).with_keys(self.keys.take());
        let Ok(mut connection) = Connection::accept(stream, &options).await else {
            return;
        };
        let (replies, mut to_send) = mpsc::unbounded_channel();
        // Until no more questions are taken.
        let mut replies = Some(replies);
        let mut is_answered = false;
        while !(is_answered && connection.unsent() == 0) {
            let is_open = replies.is_some();
            tokio::select! {
                biased;
                reply = to_send.recv(), if !is_answered => match reply {
                    Some(reply) => connection.send(reply),
                    None => is_answered = true,
                },
                event = connection.next() => match event {
                    Ok(connection::Event::Message(message)) => {
                        let frames = frames_of(&message);
                        if let Some(refusal) = self.take(&frames, replies.as_ref()) {
                            connection.send(refusal);
                        }
                    }
                    Ok(_) => {}
                    Err(_) => return,
                },
                () = closed(&mut self.closes), if is_open => replies = None,
            }
        }
    }

    /// Gives on a question; or the frames by which it is refused.
    fn take(
        &self,
        frames: &[Bytes],
        replies: Option<&mpsc::UnboundedSender<Vec<Bytes>>>,
    ) -> Option<Vec<Bytes>> {
        let (envelope, rest) = split_envelope(frames);
        if rest.iter().all(Bytes::is_empty) {
            // A probe.
            return None;
        }
        let refuse = |code: &str, sentence: &str, layout: Layout| {
            let answer = encode(&Message::nak(code, sentence), layout);
            Some([envelope.to_vec(), answer].concat())
        };
        let (message, layout) = match decode(rest) {
            Ok(read) => read,
            Err(malformed) => return refuse(malformed.code, &malformed.sentence, malformed.layout),
        };
        let Some(replies) = replies else {
            return refuse("stopping", "the service stops", layout);
        };
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
            let sentence = "too many calls wait for this service; ask again later";
            return refuse("busy", sentence, layout);
        };
        let mut fields = message.fields().into_iter();
        let body = fields.next().unwrap_or_default();
        let subject = fields.next().unwrap_or_default();
        let event = Event::new(encode_message(&[subject, body]), 1);
        let reply = Reply {
            replies: replies.clone(),
            envelope: envelope.to_vec(),
            layout,
            _room: room,
        };
        // Without who reads them, the question is dropped, and so refused.
        let _ = self.questions.send(Question::of_call(event, reply));
        None
    }
}
