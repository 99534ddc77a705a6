//! How it goes with a lease that this daemon holds, and with who keeps those of clients, for whoever shows it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::candidate::Term;

/// What is held, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Who keeps it, as the configuration calls it.
    pub source: String,
    /// What kind of engine that is, if it is one.
    pub engine: Option<String>,
    /// What the lease is called there.
    pub name: String,
    /// By which others know its holder.
    pub holder: String,
    /// For how long it is held from each renewal; `None` if no clock ends it.
    pub ttl: Option<Duration>,
}

/// What keeps a daemon from serving under a lease, although it could have it, or has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// What doesn't pass: a check of its readiness.
    pub check: &'static str,
    /// A sentence, with what mends it.
    pub why: String,
}

/// How often it was renewed, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewals {
    /// Since it was taken.
    pub count: u64,
    /// When the latest that was confirmed was asked for; before any, when the lease was.
    pub latest: Instant,
    /// Why what was asked after that failed.
    pub problem: Option<String>,
}

/// Who keeps the leases of clients, if the daemon doesn't itself, and how it goes with it.
#[derive(Debug)]
pub struct Keeper {
    source: String,
    engine: String,
    is_required: bool,
    dealings: Mutex<Dealings>,
}

/// What was asked of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dealings {
    /// Requests of clients.
    pub asked: u64,
    /// Of these, those that it didn't answer in time.
    pub failed: u64,
    /// Why it can't be used now; `None` if it answered last.
    pub problem: Option<String>,
}

impl Keeper {
    /// One that was asked nothing yet: what the configuration calls it, what kind of engine it is, and whether the
    /// daemon is ready only while it can be used.
    pub fn new(source: String, engine: String, is_required: bool) -> Self {
        Self {
            source,
            engine,
            is_required,
            dealings: Mutex::default(),
        }
    }

    /// What the configuration calls it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What kind of engine it is.
    pub fn engine(&self) -> &str {
        &self.engine
    }

    /// Whether the daemon is ready only while it can be used.
    pub fn is_required(&self) -> bool {
        self.is_required
    }

    /// What was asked of it.
    pub fn dealings(&self) -> Dealings {
        let dealings = self.dealings.lock();
        dealings.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It answered, or why it didn't.
    pub fn heard(&self, problem: Option<String>) {
        self.change(|dealings| dealings.problem = problem);
    }

    /// A request of a client was answered, or failed.
    pub fn answered(&self, failed: bool) {
        self.change(|dealings| {
            dealings.asked += 1;
            dealings.failed += u64::from(failed);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Dealings)) {
        let dealings = self.dealings.lock();
        change(&mut dealings.unwrap_or_else(PoisonError::into_inner));
    }
}

/// A lease that is held, or was.
#[derive(Debug)]
pub struct Tenure {
    grant: Grant,
    term: Arc<Term>,
    renewals: Mutex<Renewals>,
    /// The number of the state directory, once it has one.
    directory: OnceLock<String>,
}

impl Tenure {
    /// One that was asked for at this time.
    pub fn new(grant: Grant, term: Term, asked: Instant) -> Self {
        Self {
            grant,
            term: Arc::new(term),
            renewals: Mutex::new(Renewals {
                count: 0,
                latest: asked,
                problem: None,
            }),
            directory: OnceLock::new(),
        }
    }

    /// Its holder serves with the state directory of this number.
    pub fn serves_in(&self, directory: String) {
        // It is told once.
        let _ = self.directory.set(directory);
    }

    /// The number of its holder's state directory, once that is known.
    pub fn directory(&self) -> Option<&str> {
        self.directory.get().map(String::as_str)
    }

    /// What is held.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Until when.
    pub fn term(&self) -> &Arc<Term> {
        &self.term
    }

    /// How often it was renewed.
    pub fn renewals(&self) -> Renewals {
        let renewals = self.renewals.lock();
        renewals.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It is held until this time, which was asked for at `asked`. If it was known before, nothing changes.
    pub fn extend(&self, until: Instant, asked: Instant) {
        if self.term.extend(until) {
            self.change(|renewals| {
                renewals.count += 1;
                renewals.latest = asked;
                renewals.problem = None;
            });
        }
    }

    /// What was asked of its source failed.
    pub fn failed(&self, why: &str) {
        self.change(|renewals| renewals.problem = Some(why.to_owned()));
    }

    fn change(&self, change: impl FnOnce(&mut Renewals)) {
        let renewals = self.renewals.lock();
        change(&mut renewals.unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test reads the clock")]
mod tests {
    use super::super::candidate::Held;
    use super::*;

    #[test]
    fn renewals_are_counted_and_end_a_problem() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let grant = Grant {
            source: "main".into(),
            engine: None,
            name: "x".into(),
            holder: "a".into(),
            ttl: None,
        };
        let held = Held {
            token: 7,
            until: at(900),
        };
        let tenure = Tenure::new(grant, Term::new(held, begun), begun);
        assert_eq!(tenure.renewals().count, 0);
        assert_eq!(tenure.term().left(at(400)), Duration::from_millis(500));
        tenure.failed("no answer");
        assert_eq!(tenure.renewals().problem.as_deref(), Some("no answer"));
        // Known already.
        tenure.extend(at(900), at(10));
        assert_eq!(tenure.renewals().count, 0);
        tenure.extend(at(1300), at(400));
        let renewed = Renewals {
            count: 1,
            latest: at(400),
            problem: None,
        };
        assert_eq!(tenure.renewals(), renewed);
        assert_eq!(tenure.directory(), None);
        tenure.serves_in("a1".into());
        assert_eq!(tenure.directory(), Some("a1"));
        // What is over isn't renewed.
        tenure.term().end();
        tenure.extend(at(2000), at(1000));
        assert_eq!(tenure.renewals(), renewed);
        assert_eq!(tenure.term().left(at(1001)), Duration::ZERO);
    }
}
