//! Asks the daemon for its state again and again, in a task of its own: a daemon that doesn't answer
//! must not hold up the keyboard.

use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::ambient::now;
use event_manager_client::Client;
use event_manager_wire::api::Status;

/// When an answer came, and what it was, or why there was none.
pub(super) type Answer = (Instant, Result<Status, String>);

/// The task; it ends with this.
pub(super) struct Poller {
    answers: mpsc::Receiver<Answer>,
    task: JoinHandle<()>,
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Poller {
    /// Asks at once, and then at each interval, in the runtime that this thread works for.
    pub(super) fn start(client: Client, interval: Duration) -> Self {
        let (answering, answers) = mpsc::channel(1);
        let task = tokio::spawn(poll(client, interval, answering));
        Self { answers, task }
    }

    /// The next answer, if it comes in time.
    pub(super) fn next(&mut self, wait: Duration) -> Option<Answer> {
        let answer = timeout(wait, self.answers.recv());
        Handle::current().block_on(answer).ok().flatten()
    }
}

async fn poll(mut client: Client, interval: Duration, answering: mpsc::Sender<Answer>) {
    loop {
        let asked = now();
        let answer = client.status().await;
        let answer = answer.map_err(|error| error.to_string());
        if answering.send((now(), answer)).await.is_err() {
            return;
        }
        tokio::time::sleep_until((asked + interval).into()).await;
    }
}
