//! The lease by which instances of other programs may lead where it is: a thread that is a candidate for it as long
//! as there are instances here.
//!
//! Who has it and can't renew it, or has no instances any more, says so first, and gives it back then.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};

use super::source::{CONNECT_MAX, Source};
use super::{RELEASE_MAX, claim_of, grant_of};
use crate::ambient::now;
use crate::config::Config;
use crate::telemetry::Journal;
use event_manager_core::leases::candidate::{
    Answer, Ask, Candidate, Claim, Directories, Next, Term,
};
use event_manager_core::leases::tenure::Tenure;

/// For so long instances may still believe that they lead, when they are told otherwise.
const SETTLE: Duration = Duration::from_millis(100);

/// What is held, if anything is.
pub type Held = watch::Receiver<Option<Arc<Tenure>>>;

/// Who wants the lease, and is told of it.
#[derive(Debug)]
pub struct Turn {
    wants: watch::Sender<bool>,
    held: Held,
}

impl Turn {
    /// Whether it is wanted.
    pub fn want(&self, wants: bool) {
        let changes = |before: &mut bool| std::mem::replace(before, wants) != wants;
        self.wants.send_if_modified(changes);
    }

    /// Until when it is held; `None` if it isn't at this time.
    pub fn held_until(&self, at: Instant) -> Option<Instant> {
        let held = self.held.borrow();
        let left = held.as_ref()?.term().left(at);
        (!left.is_zero()).then(|| at + left)
    }

    /// Waits until that changes otherwise than by time.
    pub async fn changed(&mut self) {
        if self.held.changed().await.is_err() {
            // Its thread has ended, which is a fault: it isn't held any more when its time is over.
            std::future::pending().await
        }
    }

    /// What is held, for who shows it.
    pub fn held(&self) -> Held {
        self.held.clone()
    }
}

/// The thread. It ends when nobody is there any more who could want the lease.
#[derive(Debug)]
pub struct TurnTaker {
    thread: JoinHandle<()>,
}

impl TurnTaker {
    /// Starts it.
    ///
    /// # Errors
    /// The system gives no thread or no event queue.
    pub fn start(config: &Config, journal: Journal) -> io::Result<(Turn, Self)> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (wants, wanted) = watch::channel(false);
        let (tell, held) = watch::channel(None);
        let config = config.clone();
        let thread = std::thread::Builder::new()
            .name("lease".into())
            .spawn(move || {
                let source = Source::new(config.clone(), journal);
                let mut taking = Taking {
                    config,
                    source,
                    wanted,
                    tell,
                };
                runtime.block_on(taking.run());
            })?;
        Ok((Turn { wants, held }, Self { thread }))
    }

    /// Waits for its end; whether without a panic.
    pub fn join(self) -> bool {
        self.thread.join().is_ok()
    }
}

struct Taking {
    config: Config,
    source: Source,
    wanted: watch::Receiver<bool>,
    tell: watch::Sender<Option<Arc<Tenure>>>,
}

impl Taking {
    async fn run(&mut self) {
        while self.wanted.wait_for(|wanted| *wanted).await.is_ok() {
            // Of each attempt: an old claim is another's.
            let own = claim_of(&self.config);
            let mut candidate = Candidate::new(own.clone(), Directories::Own);
            let mut wanted = self.wanted.clone();
            let is_end = tokio::select! {
                biased;
                unwanted = wanted.wait_for(|wanted| !*wanted) => unwanted.is_err(),
                () = self.hold(&own, &mut candidate) => false,
            };
            let held = self.tell.send_replace(None);
            if let Some(held) = held {
                held.term().end();
                sleep(SETTLE).await;
            }
            if let Some(ask) = candidate.release() {
                let _ = self.ask(&ask, now() + RELEASE_MAX).await;
            }
            // Whoever wanted it is gone; what it said last stays.
            if is_end {
                return;
            }
        }
    }

    /// Waits for it and renews it, until it is lost.
    async fn hold(&mut self, own: &Claim, candidate: &mut Candidate) {
        loop {
            let at = now();
            if self
                .tell
                .borrow()
                .as_ref()
                .is_some_and(|held| held.term().is_over(at))
            {
                return;
            }
            let ask = match candidate.next(at) {
                Next::Over => return,
                Next::Rest(until) => {
                    sleep_until(until.min(at + candidate.patience()).into()).await;
                    continue;
                }
                Next::Ask(ask) => ask,
            };
            let held = candidate.held(at).map(|held| held.until);
            let connected = self.source.connect(held.unwrap_or(at + CONNECT_MAX)).await;
            let sent = now();
            let answer = match connected {
                Ok(()) => {
                    let patience = sent + candidate.patience();
                    self.ask(&ask, held.map_or(patience, |held| held.min(patience)))
                        .await
                }
                Err(why) => {
                    self.failed(&why);
                    Answer::Unknown
                }
            };
            candidate.hear(&ask, sent, answer, now());
            self.tell(own, candidate, sent);
        }
    }

    async fn ask(&mut self, ask: &Ask, until: Instant) -> Answer {
        let answer = self.source.ask_of_daemons(ask, until).await;
        answer.unwrap_or_else(|why| {
            self.failed(&why);
            Answer::Unknown
        })
    }

    fn failed(&self, why: &str) {
        if let Some(held) = &*self.tell.borrow() {
            held.failed(why);
        }
    }

    fn tell(&self, own: &Claim, candidate: &Candidate, asked: Instant) {
        let Some(held) = candidate.held(now()) else {
            return;
        };
        let known = self.tell.borrow().clone();
        match known {
            Some(known) => known.extend(held.until, asked),
            None => {
                let grant = grant_of(&self.config, &own.id);
                let tenure = Tenure::new(grant, Term::new(held, now()), asked);
                self.tell.send_replace(Some(Arc::new(tenure)));
            }
        }
    }
}
