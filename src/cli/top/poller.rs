//! Asks the daemon for its state again and again, in a thread of its own: a daemon that doesn't
//! answer must not hold up the keyboard.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::snapshot::Snapshot;
use crate::ambient::now;
use crate::client::Client;

/// When an answer came, and what it was, or why there was none.
pub(super) type Answer = (Instant, Result<Snapshot, String>);

/// The thread; it ends with this.
pub(super) struct Poller {
    /// Gone when it is told to end.
    parts: Option<(Receiver<Answer>, Sender<()>)>,
    context: zmq::Context,
    thread: Option<JoinHandle<()>>,
}

impl Poller {
    /// Asks at once, and then at each interval.
    pub(super) fn start(
        context: zmq::Context,
        client: Client,
        interval: Duration,
    ) -> std::io::Result<Self> {
        let (answers, answers_rx) = sync_channel(1);
        let (stop, stop_rx) = channel();
        let thread = std::thread::Builder::new()
            .name("poller".into())
            .spawn(move || poll(client, interval, &answers, &stop_rx))?;
        Ok(Self {
            parts: Some((answers_rx, stop)),
            context,
            thread: Some(thread),
        })
    }

    /// The next answer, if it comes in time.
    pub(super) fn next(&self, wait: Duration) -> Option<Answer> {
        let (answers, _) = self.parts.as_ref()?;
        answers.recv_timeout(wait).ok()
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        drop(self.parts.take());
        // Whatever it waits for ends.
        let _ = self.context.destroy();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn poll(mut client: Client, interval: Duration, answers: &SyncSender<Answer>, stop: &Receiver<()>) {
    loop {
        let asked = now();
        let answer = match client.status() {
            Ok(status) => Ok(Snapshot::read(&status)),
            Err(error) => Err(error.to_string()),
        };
        if answers.send((now(), answer)).is_err() {
            return;
        }
        let left = interval.saturating_sub(now().saturating_duration_since(asked));
        if stop.recv_timeout(left) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}
