//! The lease under which a daemon serves: a thread that waits for it, renews it, and says when it is over.
//!
//! The rules are in the core (`leases::candidate`). Until when anything may be written is a [`Term`], which
//! the store, the state database and each connection ask before they write: it ends by the clock, whatever
//! this thread does.

mod clients;
mod directory;
mod hand;
mod hook;
mod source;
mod turn;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::sync::{oneshot, watch};
use tokio::time::sleep_until;

use crate::ambient::{now, random};
use crate::config::Config;
use crate::store::{By, Holding};
use crate::telemetry::{Journal, Notable, host_name, instance_name};
pub use clients::{Asked, Clients};
use directory::Directory;
use event_manager_core::leases::candidate::{
    Answer, Ask, Candidate, Claim, Held as HeldNow, Next, Process, Term,
};
use event_manager_core::leases::tenure::{Grant, Obstacle, Tenure};
pub use hook::{Hook, Running};
use source::{CONNECT_MAX, Source};
pub use turn::{Held, Turn, TurnTaker};

/// How often who waits is asked whether it still should.
const LOOK: Duration = Duration::from_millis(100);
/// How long giving it back may take.
const RELEASE_MAX: Duration = Duration::from_secs(2);

/// What is taken: the lease, and the command that takes away what a predecessor of this machine left.
type Taken = (Arc<Tenure>, Running);

/// A lease that is held.
#[derive(Debug)]
pub struct Lease {
    holding: Holding,
    tenure: Arc<Tenure>,
    clearing: Running,
    is_over: watch::Receiver<bool>,
    release: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("the lease can't be waited for: {0}")]
    System(#[from] io::Error),
    #[error("lease.source names no engine")]
    NoEngine,
    #[error("the thread that waits for the lease has ended")]
    Died,
}

impl Lease {
    /// Waits until this daemon holds it, for as long as that takes. Meanwhile `waiting` is called again and
    /// again. What keeps it from ever taking over is in `obstacle`, as long as it does.
    ///
    /// # Errors
    /// [`LeaseError`].
    pub fn wait(
        config: &Config,
        journal: Journal,
        obstacle: watch::Sender<Option<Obstacle>>,
        mut waiting: impl FnMut(),
    ) -> Result<Self, LeaseError> {
        let by_hand = config.lease.is_by_hand();
        if !by_hand && config.engines.get(&config.lease.source).is_none() {
            return Err(LeaseError::NoEngine);
        }
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (held, is_held) = sync_channel(1);
        let (over, is_over) = watch::channel(false);
        let (release, released) = oneshot::channel();
        let config = config.clone();
        let thread =
            std::thread::Builder::new()
                .name("lease".into())
                .spawn(move || match by_hand {
                    true => runtime.block_on(hand::wait(&config, &journal, (held, over), released)),
                    false => runtime
                        .block_on(Work::new(config, held, obstacle, journal).run(over, released)),
                })?;
        let (tenure, clearing) = loop {
            waiting();
            match wait_for(&is_held) {
                Ok(taken) => break taken,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(LeaseError::Died),
            }
        };
        let by = match by_hand {
            true => By::Hand(host_name()),
            false => By::Lease,
        };
        Ok(Self {
            holding: Holding {
                term: Arc::clone(tenure.term()),
                by,
            },
            tenure,
            clearing,
            is_over,
            release,
            thread,
        })
    }

    /// Until when it is held, and by what right.
    pub fn holding(&self) -> &Holding {
        &self.holding
    }

    /// How it goes with it.
    pub fn tenure(&self) -> &Arc<Tenure> {
        &self.tenure
    }

    /// Until when it is held.
    pub fn term(&self) -> &Arc<Term> {
        &self.holding.term
    }

    /// The command that was run when it began to stand by, which may run still.
    pub fn take_clearing(&mut self) -> Running {
        std::mem::take(&mut self.clearing)
    }

    /// Waits until it is over.
    pub async fn over(&self) {
        let mut is_over = self.is_over.clone();
        // Its sender is gone only if its thread is.
        let _ = is_over.wait_for(|over| *over).await;
    }

    /// Gives it back, so that others need not wait for its end.
    pub fn release(self) {
        self.holding.term.end();
        let _ = self.release.send(());
        let _ = self.thread.join();
    }
}

fn wait_for(held: &Receiver<Taken>) -> Result<Taken, RecvTimeoutError> {
    held.recv_timeout(LOOK)
}

struct Work {
    config: Config,
    candidate: Candidate,
    source: Source,
    /// Its own id.
    id: String,
    directory: Directory,
    tenure: Option<Arc<Tenure>>,
    held: SyncSender<Taken>,
    clearing: Clearing,
    /// Who was last said to hold it.
    said: Option<String>,
    journal: Journal,
}

impl Work {
    fn new(
        config: Config,
        held: SyncSender<Taken>,
        obstacle: watch::Sender<Option<Obstacle>>,
        journal: Journal,
    ) -> Self {
        let own = claim_of(&config);
        let id = own.id.clone();
        Self {
            candidate: Candidate::new(own, config.lease.state_dir),
            directory: Directory::new(&config, obstacle),
            source: Source::new(config.clone(), journal.clone()),
            config,
            id,
            tenure: None,
            held,
            clearing: Clearing::default(),
            said: None,
            journal,
        }
    }

    async fn run(mut self, over: watch::Sender<bool>, mut released: oneshot::Receiver<()>) {
        loop {
            self.find_directory();
            let at = now();
            if self.term().is_some_and(|term| term.is_over(at)) {
                break;
            }
            let step = match self.candidate.next(at) {
                Next::Over => break,
                Next::Rest(until) => Err(until),
                Next::Ask(ask) => Ok(ask),
            };
            tokio::select! {
                biased;
                // Nobody is there any more who would give it back.
                _ = &mut released => return self.give_back().await,
                () = self.step(step) => {}
            }
        }
        if let Some(term) = self.term() {
            term.end();
        }
        over.send_replace(true);
        // What may still be there of it is given back when it is told so, or left to its end.
        if released.await.is_ok() {
            self.give_back().await;
        }
    }

    /// Who stands by looks each time, as storage is mounted and unmounted. Who serves has been told; a look at
    /// storage that hangs would cost it the lease.
    fn find_directory(&mut self) {
        match &self.tenure {
            None => self.candidate.found(self.directory.look()),
            Some(tenure) => {
                if let Some(number) = tenure.directory() {
                    self.candidate.found(Some(number.to_owned()));
                }
            }
        }
    }

    async fn step(&mut self, step: Result<Ask, Instant>) {
        match step {
            Err(until) => sleep_until(until.min(now() + self.candidate.patience()).into()).await,
            Ok(ask) => {
                let connected = self.connect().await;
                let sent = now();
                let answer = match connected {
                    true => self.ask(&ask, self.deadline(sent)).await,
                    false => Answer::Unknown,
                };
                self.candidate.hear(&ask, sent, answer, now());
                self.tell(sent);
            }
        }
    }

    /// Until when an answer is waited for.
    fn deadline(&self, sent: Instant) -> Instant {
        let patience = sent + self.candidate.patience();
        let held = self.candidate.held(sent);
        held.map_or(patience, |held| held.until.min(patience))
    }

    /// Connects, unless it is connected. That may take longer than an answer, for who has nothing to lose.
    async fn connect(&mut self) -> bool {
        let at = now();
        let until = match self.candidate.held(at) {
            Some(_) => self.deadline(at),
            None => at + self.candidate.patience().max(CONNECT_MAX),
        };
        let connected = self.source.connect(until).await;
        connected.map_err(|why| self.failed(&why)).is_ok()
    }

    async fn ask(&mut self, ask: &Ask, until: Instant) -> Answer {
        let answer = self.source.ask_of_daemons(ask, until).await;
        answer.unwrap_or_else(|why| {
            self.failed(&why);
            Answer::Unknown
        })
    }

    fn failed(&mut self, why: &str) {
        if let Some(tenure) = &self.tenure {
            tenure.failed(why);
        } else {
            // Nobody else on this machine holds it either, or not for long.
            self.clearing.begin(&self.config, &self.journal);
        }
    }

    /// Says to the rest of the process how it stands.
    fn tell(&mut self, asked: Instant) {
        if let Some(held) = self.candidate.held(now()) {
            match &self.tenure {
                Some(tenure) => tenure.extend(held.until, asked),
                None => self.begin(held, asked),
            }
        } else if self.tenure.is_none() {
            self.directory.compare(&self.candidate, &self.journal);
            self.tell_of_holder();
        }
    }

    fn tell_of_holder(&mut self) {
        let holder = self.candidate.holder();
        let Some(holder) = holder.filter(|holder| self.said.as_ref() != Some(&holder.id)) else {
            return;
        };
        self.journal.note(&Notable::StandingBy {
            name: &self.config.lease.name,
            holder: &holder.id,
        });
        let lives_here = holder
            .process
            .as_ref()
            .is_some_and(|process| lives_here(process, &host_name()));
        self.said = Some(holder.id.clone());
        if !lives_here {
            self.clearing.begin(&self.config, &self.journal);
        }
    }

    fn begin(&mut self, held: HeldNow, asked: Instant) {
        let grant = grant_of(&self.config, &self.id);
        let tenure = Arc::new(Tenure::new(grant, Term::new(held, now()), asked));
        self.tenure = Some(Arc::clone(&tenure));
        // Nobody is there any more; it is given back then.
        let _ = self.held.send((tenure, self.clearing.take()));
    }

    fn term(&self) -> Option<&Arc<Term>> {
        self.tenure.as_ref().map(|tenure| tenure.term())
    }

    async fn give_back(&mut self) {
        if let Some(ask) = self.candidate.release() {
            let _ = self.ask(&ask, now() + RELEASE_MAX).await;
        }
    }
}

/// That of this run, or of one attempt of it.
fn claim_of(config: &Config) -> Claim {
    let service = config.locator.service_name.as_str();
    Claim {
        id: format!("{}:{:016x}", instance_name(service), random()),
        ttl: config.lease.ttl,
        process: Some(Process {
            host: host_name(),
            pid: std::process::id(),
        }),
    }
}

/// What is held by the one with this id.
fn grant_of(config: &Config, id: &str) -> Grant {
    let lease = &config.lease;
    let engine = config.engines.get(&lease.source);
    Grant {
        source: lease.source.clone(),
        engine: engine.map(|engine| engine.kind().to_string()),
        name: lease.name.clone(),
        holder: id.to_owned(),
        ttl: Some(lease.ttl),
    }
}

/// What who stands by has run, once: a predecessor on this machine may have been killed, and have left
/// something that it would have taken away.
#[derive(Debug, Default)]
struct Clearing(Option<Running>);

impl Clearing {
    fn begin(&mut self, config: &Config, journal: &Journal) {
        // It never had a lease.
        const TOKEN: u64 = 0;
        self.0
            .get_or_insert_with(|| Hook::on_loss(config, TOKEN).start(journal));
    }

    fn take(&mut self) -> Running {
        self.0.take().unwrap_or_default()
    }
}

/// Whether a holder is another daemon on this machine, which lives: what it has is its own.
fn lives_here(holder: &Process, host: &str) -> bool {
    let Process { host: theirs, pid } = holder;
    // A former run may have had our number, in a container.
    let is_another = theirs == host && *pid != std::process::id();
    is_another && Path::new(&format!("/proc/{pid}")).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_on_this_machine_is_one_that_lives() {
        let process = |host: &str, pid| Process {
            host: host.into(),
            pid,
        };
        let (own, parent) = (std::process::id(), std::os::unix::process::parent_id());
        assert!(lives_here(&process("vm", parent), "vm"));
        // Elsewhere, a former run of ours, one that is gone.
        for (holder, host) in [
            (process("vm", parent), "vm2"),
            (process("vm", parent), "v"),
            (process("vm", own), "vm"),
            (process("vm", u32::MAX), "vm"),
        ] {
            assert!(!lives_here(&holder, host), "{holder:?} {host}");
        }
    }
}
