//! The reactor's state, asked for as seldom as will do.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

use super::health::Watched;
use super::metrics;
use crate::ambient::{now, wall_clock_ms};
use crate::reactor::{Input, Lists, SubscriptionsAsked};
use crate::telemetry::process_readings;
use event_manager_wire::api::{InstancesPage, Process, Stats, Status, Subscriptions};
use event_manager_wire::model::{ServiceName, SubscriptionId};

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
    pub(super) status: Status,
    pub(super) process: Process,
    answered_at: Instant,
    taken_at_ms: u64,
    metrics: OnceLock<Bytes>,
    stats: OnceLock<Bytes>,
}

impl Snapshot {
    fn new(status: Status) -> Self {
        Self {
            status,
            process: process_readings(),
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
            let stats = Stats {
                status: self.status.clone(),
                instance: watched.instance().to_owned(),
                taken_at_ms: self.taken_at_ms,
                registration: watched.registration(),
                readiness: watched.readiness(Ok(self)),
                process: self.process,
            };
            // It has nothing that JSON can't say.
            serde_json::to_vec(&stats).unwrap_or_default().into()
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
    pending: Option<oneshot::Receiver<Status>>,
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

    /// A part of a service's subscriptions, as they are now; `None` if there is no such service.
    pub(super) async fn subscriptions(
        &self,
        service: ServiceName,
        after: Option<SubscriptionId>,
        max: usize,
        patience: Duration,
    ) -> Result<Option<Subscriptions>, NoAnswer> {
        let (reply, answer) = oneshot::channel();
        let asked = Input::Subscriptions(SubscriptionsAsked {
            service,
            after,
            max,
            reply,
        });
        let asking = async {
            self.inputs.send(asked).await.ok()?;
            answer.await.ok()
        };
        let answer = timeout(patience, asking).await;
        answer
            .map_err(|_| NoAnswer::Late(patience))?
            .ok_or(NoAnswer::Ended)
    }

    /// Instances of other programs, and who led when.
    pub(super) async fn instances(&self) -> Result<Arc<InstancesPage>, NoAnswer> {
        let ask = async {
            let (reply, answer) = oneshot::channel();
            let sent = self.inputs.send(Input::AskInstances(reply)).await;
            sent.map_err(|_| NoAnswer::Ended)?;
            answer.await.map_err(|_| NoAnswer::Ended)
        };
        let answer = timeout(PATIENCE, ask).await;
        answer.map_err(|_| NoAnswer::Late(PATIENCE))?
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
            let sent = self.inputs.send(Input::Status(Lists::Begun, reply)).await;
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

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;
    use tokio::sync::watch;
    use tokio::task::JoinSet;

    use super::*;
    use crate::config::Config;
    use crate::outbound::RegistrationState;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(20);

    /// Snapshots of a reactor that the test plays.
    fn with_reactor<T: Future>(
        test: impl FnOnce(Arc<Snapshots>, mpsc::Receiver<Input>) -> T,
    ) -> T::Output {
        let (inputs, reactor) = mpsc::channel(4);
        let (_, registration) = watch::channel(RegistrationState::Trying);
        let watched = Watched::new(&Config::default(), registration, Arc::default(), None);
        let snapshots = Arc::new(Snapshots::new(inputs, watched));
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(snapshots, reactor))
    }

    async fn question(reactor: &mut mpsc::Receiver<Input>) -> oneshot::Sender<Status> {
        match reactor.recv().await {
            Some(Input::Status(Lists::Begun, reply)) => reply,
            other => panic!("{other:?}"),
        }
    }

    fn numbered(n: u32) -> Status {
        Status {
            pid: n,
            ..Status::default()
        }
    }

    #[test]
    fn a_thousand_who_ask_at_once_are_one_question() {
        with_reactor(async |snapshots, mut reactor| {
            let mut asking = JoinSet::new();
            for _ in 0..1000 {
                let snapshots = Arc::clone(&snapshots);
                asking.spawn(async move { snapshots.get(LONG).await });
            }
            let reply = question(&mut reactor).await;
            reply.send(numbered(1)).unwrap();
            while let Some(answer) = asking.join_next().await {
                assert_eq!(answer.unwrap().unwrap().status.pid, 1);
            }
            assert!(reactor.try_recv().is_err(), "it is asked again");
        });
    }

    #[test]
    fn an_old_answer_is_not_good_enough() {
        with_reactor(async |snapshots, mut reactor| {
            let answering = tokio::spawn(async move {
                for n in 1..=2 {
                    question(&mut reactor).await.send(numbered(n)).unwrap();
                }
            });
            let begun = now();
            while snapshots.get(LONG).await.unwrap().status.pid == 1 {
                tokio::task::yield_now().await;
            }
            assert!(now() - begun >= FRESH);
            answering.await.unwrap();
        });
    }

    #[test]
    fn a_reactor_that_hangs_is_asked_once_and_its_late_answer_is_heard() {
        with_reactor(async |snapshots, mut reactor| {
            for _ in 0..3 {
                let answer = snapshots.get(SHORT).await;
                assert_eq!(answer.unwrap_err(), NoAnswer::Late(SHORT));
            }
            let late = question(&mut reactor).await;
            assert!(reactor.try_recv().is_err(), "it is asked again");
            late.send(numbered(7)).unwrap();
            assert_eq!(snapshots.get(LONG).await.unwrap().status.pid, 7);
        });
    }

    #[test]
    fn nobody_waits_for_a_reactor_that_has_ended() {
        with_reactor(async |snapshots, mut reactor| {
            let asking = {
                let snapshots = Arc::clone(&snapshots);
                tokio::spawn(async move { snapshots.get(LONG).await })
            };
            drop(question(&mut reactor).await);
            drop(reactor);
            assert_eq!(asking.await.unwrap().unwrap_err(), NoAnswer::Ended);
            assert_eq!(snapshots.get(LONG).await.unwrap_err(), NoAnswer::Ended);
            let readiness = snapshots.watched.readiness(Err(NoAnswer::Ended));
            assert!(!readiness.ready);
            assert!(!readiness.checks["bound"].ok);
        });
    }
}
