//! The reactor's state, asked for as seldom as will do.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

use super::health::Watched;
use super::metrics;
use crate::ambient::{now, wall_clock_ms};
use crate::reactor::Input;
use crate::telemetry::ProcessReadings;

/// For so long the last answer is good enough.
const FRESH: Duration = Duration::from_millis(250);
/// How long somebody who wants to see the state waits for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// Why there is no state to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("the reactor did not answer within {} s", .0.as_secs())]
    Late(Duration),
    #[error("the daemon has stopped")]
    Ended,
}

/// The state at one time, and what was made of it.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) status: Value,
    pub(super) process: ProcessReadings,
    answered_at: Instant,
    taken_at_ms: u64,
    metrics: OnceLock<Bytes>,
    stats: OnceLock<Bytes>,
}

impl Snapshot {
    fn new(status: Value) -> Self {
        Self {
            status,
            process: ProcessReadings::read(),
            answered_at: now(),
            taken_at_ms: wall_clock_ms(),
            metrics: OnceLock::new(),
            stats: OnceLock::new(),
        }
    }

    /// As OpenMetrics. Written once, for all who ask.
    pub(super) fn metrics(self: &Arc<Self>, watched: &Watched) -> Bytes {
        let written = || metrics::write(self, watched).into();
        self.metrics.get_or_init(written).clone()
    }

    /// As JSON.
    pub(super) fn stats(&self, watched: &Watched) -> Bytes {
        let written = || {
            let mut stats = self.status.clone();
            stats["instance"] = json!(watched.instance());
            stats["startedAtMs"] = json!(watched.started_at_ms());
            stats["takenAtMs"] = json!(self.taken_at_ms);
            stats["registration"] = watched.registration();
            stats["readiness"] = watched.readiness(Ok(self)).to_json();
            stats["process"] = self.process.to_json();
            stats.to_string().into()
        };
        self.stats.get_or_init(written).clone()
    }
}

/// What all who ask share.
#[derive(Debug)]
pub(super) struct Snapshots {
    inputs: mpsc::Sender<Input>,
    pub(super) watched: Watched,
    asked: Mutex<Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    last: Option<Arc<Snapshot>>,
    /// The answer that the reactor owes us: while it hangs it is asked once.
    pending: Option<oneshot::Receiver<Value>>,
}

impl Snapshots {
    pub(super) fn new(inputs: mpsc::Sender<Input>, watched: Watched) -> Self {
        Self {
            inputs,
            watched,
            asked: Mutex::default(),
        }
    }

    /// The state, at most 250 ms old.
    pub(super) async fn get(&self, patience: Duration) -> Result<Arc<Snapshot>, NoAnswer> {
        let answer = timeout(patience, self.ask()).await;
        answer.map_err(|_| NoAnswer::Late(patience))?
    }

    async fn ask(&self) -> Result<Arc<Snapshot>, NoAnswer> {
        // Whoever comes meanwhile waits here, and finds the answer.
        let mut asked = self.asked.lock().await;
        if let Some(last) = &asked.last
            && now().saturating_duration_since(last.answered_at) < FRESH
        {
            return Ok(Arc::clone(last));
        }
        if asked.pending.is_none() {
            let (reply, pending) = oneshot::channel();
            let sent = self.inputs.send(Input::Status(reply)).await;
            sent.map_err(|_| NoAnswer::Ended)?;
            asked.pending = Some(pending);
        }
        let answer = match &mut asked.pending {
            Some(pending) => pending.await,
            None => return Err(NoAnswer::Ended),
        };
        asked.pending = None;
        let snapshot = Arc::new(Snapshot::new(answer.map_err(|_| NoAnswer::Ended)?));
        asked.last = Some(Arc::clone(&snapshot));
        Ok(snapshot)
    }
}
