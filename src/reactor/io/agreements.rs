//! Keys are agreed on in a thread of its own: that takes a hundred times longer than all else about a
//! handshake, and anybody may ask for it. Connected peers don't wait meanwhile.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::BytesMut;
use tokio::sync::oneshot;

use event_manager_zmtp::{Handshake, HandshakeError, Progress};

/// A handshake whose keys were agreed on.
pub(crate) struct Agreed {
    pub(crate) handshake: Handshake,
    /// What is to be sent.
    pub(crate) out: BytesMut,
    pub(crate) progress: Result<Progress, HandshakeError>,
}

/// A handshake that waits for its turn.
struct Waiting {
    handshake: Handshake,
    out: BytesMut,
    reply: oneshot::Sender<Agreed>,
}

/// The way to the thread. `None` ends it.
#[derive(Clone)]
pub(crate) struct Agreements(SyncSender<Option<Waiting>>);

impl Agreements {
    /// Starts the thread. Whoever asks for more than `waiting_max` at once is refused.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(waiting_max: usize) -> io::Result<(Self, JoinHandle<()>)> {
        let (sender, waiting) = sync_channel(waiting_max);
        let thread = std::thread::Builder::new()
            .name("handshakes".into())
            .spawn(move || agree(&waiting))?;
        Ok((Self(sender), thread))
    }

    /// Agrees on the keys of a handshake, when those before it have had their turn. `None` if too many
    /// wait, or if it failed by a fault of ours.
    pub(crate) async fn agree(&self, handshake: Handshake, out: BytesMut) -> Option<Agreed> {
        let (reply, agreed) = oneshot::channel();
        let waiting = Waiting {
            handshake,
            out,
            reply,
        };
        self.0.try_send(Some(waiting)).ok()?;
        agreed.await.ok()
    }

    /// Ends the thread when it has looked at all that wait; those that nobody waits for any more cost
    /// nothing.
    pub(crate) fn end(self) {
        // It fails only if the thread is gone.
        let _ = self.0.send(None);
    }
}

fn agree(waiting: &Receiver<Option<Waiting>>) {
    while let Ok(Some(next)) = waiting.recv() {
        if next.reply.is_closed() {
            continue;
        }
        // A fault of ours costs one connection, as it would on the reactor's thread: the sender of its
        // reply is dropped.
        let _ = catch_unwind(AssertUnwindSafe(move || {
            let Waiting {
                mut handshake,
                mut out,
                reply,
            } = next;
            let progress = handshake.agree(&mut out);
            // It fails only if nobody waits any more.
            let _ = reply.send(Agreed {
                handshake,
                out,
                progress,
            });
        }));
    }
}
