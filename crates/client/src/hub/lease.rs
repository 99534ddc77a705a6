//! Leases: of several programs, one at a time does what only one may do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use event_manager_wire::api;
use event_manager_wire::messagebus::{Layout, Message, Token, encode};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until};

use super::Hub;
use super::asking::{Asker, Patience};
use crate::Error;
use crate::ambient::{chance, now, unique};

/// How long a lease is held without being renewed, unless it is said.
const TTL_DEFAULT: Duration = Duration::from_secs(10);
/// As the daemon allows.
const TTL_BOUNDS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(3600)];
/// Of the waits for one that another holds, the longest.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What kind of lease is wanted; see [`Hub::lease`].
#[derive(Clone)]
pub struct LeaseBuilder {
    hub: Hub,
    name: String,
    holder: Option<String>,
    ttl: Duration,
}

/// A lease that is held, and renewed in the background until it is released, dropped or lost.
///
/// It is lost when it can't be renewed in time; [`is_held`](Self::is_held) says so a moment before the daemon
/// gives it to another. Whoever is stopped between a look at it and what follows doesn't know that its time
/// is over: so give the [token](Self::token) along with what you write, and let what keeps it refuse a lower
/// one than it has seen. The clock stands still while the machine is suspended.
pub struct Lease {
    name: String,
    token: u64,
    until: watch::Receiver<Held>,
    asker: Arc<Asker>,
    holder: String,
    renewing: JoinHandle<()>,
    is_released: bool,
}

/// Until when it is held for certain; or that it isn't.
#[derive(Debug, Clone, Copy)]
enum Held {
    Until(Instant),
    Lost,
}

impl Hub {
    /// A lease of this name: of all programs that want it, one has it at a time.
    ///
    /// ```no_run
    /// # async fn example(hub: event_manager_client::Hub) -> Result<(), event_manager_client::Error> {
    /// let lease = hub.lease("scheduler").acquire().await?;
    /// tokio::select! {
    ///     () = lease.lost() => eprintln!("another may have it now"),
    ///     () = do_it(lease.token()) => {}
    /// }
    /// lease.release().await;
    /// # Ok(())
    /// # }
    /// # async fn do_it(_: u64) {}
    /// ```
    pub fn lease(&self, name: impl Into<String>) -> LeaseBuilder {
        LeaseBuilder {
            hub: self.clone(),
            name: name.into(),
            holder: None,
            ttl: TTL_DEFAULT,
        }
    }
}

impl LeaseBuilder {
    /// For how long it is held without being renewed: after that another may have it. From 0.1 s to an hour;
    /// 10 s unless it is said.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// What this program calls itself, which no other may; one is made up unless it is said.
    #[must_use]
    pub fn holder(mut self, holder: impl Into<String>) -> Self {
        self.holder = Some(holder.into());
        self
    }

    /// Waits until it is held, for as long as that takes.
    ///
    /// # Errors
    /// [`Error::Nak`] if the daemon has no leases or this may not be had, [`Error::InvalidArgument`],
    /// [`Error::TooOld`], [`Error::Closed`].
    pub async fn acquire(&self) -> Result<Lease, Error> {
        loop {
            if let Some(lease) = self.try_acquire().await? {
                return Ok(lease);
            }
            let pause = (self.ttl / 5).min(PAUSE_MAX);
            sleep(pause.mul_f64(0.8 + 0.4 * chance())).await;
        }
    }

    /// Asks once: `None` if another holds it.
    ///
    /// # Errors
    /// Those of [`acquire`](Self::acquire).
    pub async fn try_acquire(&self) -> Result<Option<Lease>, Error> {
        let [min, max] = TTL_BOUNDS;
        if !(min..=max).contains(&self.ttl) {
            let sentence = format!(
                "a lease's ttl is from {min:?} to {max:?}, not {:?}",
                self.ttl
            );
            return Err(Error::InvalidArgument(sentence));
        }
        let holder = self.holder.clone().unwrap_or_else(unique);
        if [&self.name, &holder].iter().any(|text| text.contains('\0')) {
            let sentence = "the names of a lease and of its holder have no NUL";
            return Err(Error::InvalidArgument(sentence.to_owned()));
        }
        let asker = Arc::clone(self.hub.asker()?);
        let asked_at = now();
        let ttl_ms = self.ttl.as_millis().to_string();
        let fields = ["acquire", &self.name, &holder, &ttl_ms];
        // An answer that comes later is of no use.
        let answer = match ask(&asker, fields, Patience::of(self.ttl)).await {
            Ok(answer) => answer,
            Err(Error::NoAnswer { .. }) => return Ok(None),
            Err(Error::Nak { code, .. }) if may_pass(&code) => return Ok(None),
            Err(error) => return Err(error),
        };
        let until = asked_at + self.ttl;
        if until <= now() {
            return Ok(None);
        }
        let (tell, held) = watch::channel(Held::Until(until));
        let renewal = Renewal {
            asker: Arc::clone(&asker),
            name: self.name.clone(),
            holder: holder.clone(),
            token: answer.token,
            ttl: self.ttl,
            tell,
        };
        Ok(Some(Lease {
            name: self.name.clone(),
            token: answer.token,
            until: held,
            asker,
            holder,
            renewing: tokio::spawn(renewal.run(until)),
            is_released: false,
        }))
    }
}

/// Whether asking again may be answered otherwise.
fn may_pass(code: &str) -> bool {
    let passing = ["held", "store-failed", "engine-failed", "busy", "full"];
    passing.contains(&code)
}

async fn ask<const N: usize>(
    asker: &Asker,
    fields: [&str; N],
    patience: Patience,
) -> Result<api::Lease, Error> {
    let request = encode(&Message::param(Token::LEASE, fields), Layout::NATIVE);
    let what = || format!("LEASE {} of {:?}", fields[0], fields[1]);
    let answer = asker.ask(&what, &request, patience, true).await?;
    serde_json::from_slice(&answer.data).map_err(|error| Error::Decode {
        what: "the answer to LEASE".into(),
        why: error.to_string(),
    })
}

impl Lease {
    /// The name that it was acquired by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number that it was given, which is higher than all before.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Whether it is held now.
    pub fn is_held(&self) -> bool {
        match *self.until.borrow() {
            Held::Until(until) => now() < until,
            Held::Lost => false,
        }
    }

    /// Waits until it is not held any more.
    pub async fn lost(&self) {
        let mut held = self.until.clone();
        loop {
            let Held::Until(until) = *held.borrow_and_update() else {
                return;
            };
            let changed = tokio::select! {
                // By the clock, whatever the task that renews it does.
                () = sleep_until(until.into()) => Ok(()),
                changed = held.changed() => changed,
            };
            if changed.is_err() {
                // Its runtime ends.
                sleep_until(until.into()).await;
            }
            if !self.is_held() {
                return;
            }
        }
    }

    /// Gives it back, so that another needn't wait until its time is over; whether the daemon has taken it
    /// back. Else it ends by itself.
    pub async fn release(mut self) -> bool {
        self.is_released = true;
        self.renewing.abort();
        if !self.is_held() {
            return false;
        }
        let Held::Until(until) = *self.until.borrow() else {
            return false;
        };
        let left = until.saturating_duration_since(now());
        let token = self.token.to_string();
        // Four fields: the third is the holder, and a time is not needed.
        let fields = ["release", &self.name, &self.holder, "", &token];
        ask(&self.asker, fields, Patience::of(left)).await.is_ok()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
        if self.is_released || !self.is_held() {
            return;
        }
        // Nobody waits for it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (asker, name, holder) = (
            Arc::clone(&self.asker),
            std::mem::take(&mut self.name),
            std::mem::take(&mut self.holder),
        );
        let token = self.token.to_string();
        runtime.spawn(async move {
            let fields = ["release", &name, &holder, "", &token];
            let _ = ask(&asker, fields, Patience::of(PAUSE_MAX)).await;
        });
    }
}

/// Renews a lease until it is lost.
struct Renewal {
    asker: Arc<Asker>,
    name: String,
    holder: String,
    token: u64,
    ttl: Duration,
    tell: watch::Sender<Held>,
}

impl Renewal {
    async fn run(self, mut until: Instant) {
        let token = self.token.to_string();
        let fields = ["renew", &self.name, &self.holder, "", &token];
        let mut pause = self.ttl / 3;
        loop {
            tokio::select! {
                () = sleep_until(until.into()) => break,
                () = sleep(pause) => {}
            }
            let asked_at = now();
            let left = until.saturating_duration_since(asked_at);
            match ask(&self.asker, fields, Patience::of(left)).await {
                Ok(_) => {
                    // Counted from when it was asked for: the daemon counts from later.
                    until = until.max(asked_at + self.ttl);
                    self.tell.send_replace(Held::Until(until));
                    pause = self.ttl / 3;
                }
                Err(Error::Nak { code, .. }) if code == "lost" => break,
                Err(_) => pause = self.ttl / 6,
            }
        }
        self.tell.send_replace(Held::Lost);
    }
}
