//! How one of several daemons comes to hold a lease that a third party keeps, and how long it may act.
//!
//! The third party has one entry, and replaces it only for whoever names the revision that it has: any store
//! with compare-and-set will do. Its clock counts for nothing. Who holds the lease renews its entry, and
//! counts its time from when it *sent* the last renewal that was confirmed, less a margin. Who waits counts
//! from when it *heard* of the entry that it then replaces, so it is always later: an entry that did not
//! change for its whole time is that of somebody whose time is over. Only the rates of their own clocks
//! have to be alike, by the margin.
//!
//! Revisions only grow, and the one by which a lease was taken is its token. If they don't, the third party has
//! forgotten what it had, and whoever has seen that waits as if the lease were held still.
//!
//! The entry also says which state directory its holder has, and keeps saying so when it is released. Where all
//! are to have the same, who finds another number in the entry than at home has what was kept not at hand (its
//! storage isn't mounted), and must not serve: that would look as if nothing had been kept.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How much sooner than others believe, a holder takes its time for over: this part of it.
const MARGIN_PART: u32 = 10;
/// How often it is renewed in its time.
const RENEWALS: u32 = 3;
/// How often who waits looks in that time.
const LOOKS: u32 = 12;

/// Who says that it holds a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Of one run of one daemon: no other is ever the same.
    pub id: String,
    /// For how long, from each change of the entry.
    pub ttl: Duration,
    /// Where that is, if it says so.
    pub process: Option<Process>,
}

/// A process, on its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub host: String,
    pub pid: u32,
}

/// What is kept under one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// Nobody's if it was released.
    pub claim: Option<Claim>,
    /// The number of the state directory of who holds the lease or held it last, if that is known.
    pub directory: Option<String>,
}

/// What the third party has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry<C = Content> {
    /// Grows with each change; 0 if there never was any.
    pub revision: u64,
    pub content: C,
}

/// Whose the state directories are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directories {
    /// All have the same: whoever has another one takes over from nobody, as what was kept isn't there.
    Shared,
    /// Each has its own.
    Own,
}

/// What is to be asked of the third party.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask<C = Content> {
    Read,
    /// Replace the entry if it has this revision.
    Put(u64, C),
}

impl<C> Ask<C> {
    /// The same with another form of what is kept.
    pub fn with<D>(&self, form: impl FnOnce(&C) -> D) -> Ask<D> {
        match self {
            Self::Read => Ask::Read,
            Self::Put(expected, content) => Ask::Put(*expected, form(content)),
        }
    }
}

/// What it answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<C = Content> {
    /// To [`Ask::Read`].
    Is(Entry<C>),
    /// The entry was replaced, and has this revision.
    Stored(u64),
    /// It has another revision than was named.
    Changed,
    /// None came, or an error: what was asked may have been done, or may still be.
    Unknown,
}

impl<C> Answer<C> {
    /// The same with another form of what is kept.
    pub fn with<D>(self, form: impl FnOnce(C) -> D) -> Answer<D> {
        match self {
            Self::Is(Entry { revision, content }) => Answer::Is(Entry {
                revision,
                content: form(content),
            }),
            Self::Stored(revision) => Answer::Stored(revision),
            Self::Changed => Answer::Changed,
            Self::Unknown => Answer::Unknown,
        }
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Ask(Ask),
    /// Nothing before this time.
    Rest(Instant),
    /// It held the lease and holds it no more. That is for ever: who acted must begin anew.
    Over,
}

/// What is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Higher than that of all who held it before.
    pub token: u64,
    /// From this time on, nothing that only the holder may do.
    pub until: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Waits,
    Holds(Held),
    Over,
}

/// An entry that was read or written.
#[derive(Debug)]
struct Seen {
    entry: Entry,
    /// When it was first heard of.
    since: Instant,
    /// It may have changed.
    is_doubtful: bool,
    /// The third party has forgotten what it had: for so long somebody may hold the lease whom it doesn't
    /// know any more.
    forgot: Option<Duration>,
}

impl Seen {
    /// For how long the holder that this entry doesn't know any more may go on, if revisions went back.
    fn forgotten_by(self, entry: &Entry) -> Option<Duration> {
        let went_back = entry.revision < self.entry.revision;
        let claim = self.entry.content.claim;
        let held = claim.map(|claim| claim.ttl).max(self.forgot);
        held.filter(|_| went_back)
    }
}

/// One who wants the lease, or has it.
#[derive(Debug)]
pub struct Candidate {
    own: Claim,
    directories: Directories,
    /// The number of its own, if it has one.
    directory: Option<String>,
    standing: Standing,
    seen: Option<Seen>,
    /// Nothing is asked before.
    rests_until: Option<Instant>,
}

impl Candidate {
    /// One that waits.
    pub fn new(own: Claim, directories: Directories) -> Self {
        Self {
            own,
            directories,
            directory: None,
            standing: Standing::Waits,
            seen: None,
            rests_until: None,
        }
    }

    /// What it holds, at this time.
    pub fn held(&self, now: Instant) -> Option<Held> {
        match self.standing {
            Standing::Holds(held) if now < held.until => Some(held),
            _ => None,
        }
    }

    /// Whose entry it waits for.
    pub fn holder(&self) -> Option<&Claim> {
        self.seen.as_ref()?.entry.content.claim.as_ref()
    }

    /// Its state directory has this number, or none (yet).
    pub fn found(&mut self, directory: Option<String>) {
        self.directory = directory;
    }

    /// The number of its state directory.
    pub fn directory(&self) -> Option<&str> {
        self.directory.as_deref()
    }

    /// The state directory of who holds the lease or held it last, if that is known to be another one.
    pub fn other_directory(&self) -> Option<&str> {
        let theirs = self.seen.as_ref()?.entry.content.directory.as_ref();
        let other = theirs.filter(|theirs| self.directory.as_ref() != Some(theirs));
        other.map(String::as_str)
    }

    /// Whether it may not take over, whatever the time.
    fn is_kept_off(&self) -> bool {
        let waits = self.standing == Standing::Waits && self.directories == Directories::Shared;
        waits && self.other_directory().is_some()
    }

    fn content(&self, claim: Option<Claim>) -> Content {
        let directory = self.directory.clone();
        Content { claim, directory }
    }

    /// How long an answer is waited for.
    pub fn patience(&self) -> Duration {
        self.own.ttl / RENEWALS
    }

    /// What to do at this time.
    pub fn next(&mut self, now: Instant) -> Next {
        self.end_at(now);
        let deadline = match self.standing {
            Standing::Over => return Next::Over,
            Standing::Holds(held) => Some(held.until),
            Standing::Waits => None,
        };
        if let Some(until) = self.rests_until.filter(|until| now < *until) {
            return Next::Rest(deadline.map_or(until, |deadline| until.min(deadline)));
        }
        let Some(seen) = self.seen.as_ref().filter(|seen| !seen.is_doubtful) else {
            return Next::Ask(Ask::Read);
        };
        let is_others = self.may_take_at(seen).is_some_and(|at| now < at);
        match is_others || self.is_kept_off() {
            true => Next::Ask(Ask::Read),
            false => {
                let content = self.content(Some(self.own.clone()));
                Next::Ask(Ask::Put(seen.entry.revision, content))
            }
        }
    }

    /// What was asked at `sent` is answered.
    pub fn hear(&mut self, asked: &Ask, sent: Instant, answer: Answer, now: Instant) {
        self.end_at(now);
        self.rests_until = None;
        match (asked, answer) {
            (Ask::Read, Answer::Is(entry)) => self.read(entry, now),
            (Ask::Put(_, content), Answer::Stored(revision)) if content.claim.is_some() => {
                let entry = Entry {
                    revision,
                    content: content.clone(),
                };
                self.stored(entry, sent, now);
            }
            (Ask::Put(..), Answer::Changed) => self.doubt(),
            _ => {
                self.doubt();
                self.rests_until = Some(now + self.own.ttl / LOOKS);
            }
        }
    }

    /// What to ask so that others need not wait: it gives up what it has.
    pub fn release(&mut self) -> Option<Ask> {
        let held = matches!(self.standing, Standing::Holds(_));
        self.standing = Standing::Over;
        let seen = self.seen.as_ref().filter(|_| held)?;
        Some(Ask::Put(seen.entry.revision, self.content(None)))
    }

    fn end_at(&mut self, now: Instant) {
        if let Standing::Holds(held) = self.standing
            && now >= held.until
        {
            self.standing = Standing::Over;
        }
    }

    /// When another's entry may be replaced; `None` if it is nobody's, or ours.
    fn may_take_at(&self, seen: &Seen) -> Option<Instant> {
        let theirs = seen.entry.content.claim.as_ref();
        let theirs = theirs.filter(|claim| claim.id != self.own.id);
        let ttl = theirs.map(|claim| claim.ttl).max(seen.forgot)?;
        Some(seen.since + ttl.max(self.own.ttl))
    }

    fn doubt(&mut self) {
        if let Some(seen) = &mut self.seen {
            seen.is_doubtful = true;
        }
    }

    fn read(&mut self, entry: Entry, now: Instant) {
        let claim = entry.content.claim.as_ref();
        let is_ours = claim.is_some_and(|claim| claim.id == self.own.id);
        if !is_ours && matches!(self.standing, Standing::Holds(_)) {
            self.standing = Standing::Over;
        }
        let before = self.seen.take();
        let seen = match before {
            Some(before) if before.entry == entry => Seen {
                is_doubtful: false,
                ..before
            },
            before => Seen {
                forgot: before.and_then(|before| before.forgotten_by(&entry)),
                since: now,
                is_doubtful: false,
                entry,
            },
        };
        let look = now + self.own.ttl / LOOKS;
        let may_take_at = self.may_take_at(&seen);
        self.seen = Some(seen);
        self.rests_until = match self.is_kept_off() {
            true => Some(look),
            false => may_take_at.map(|at| at.min(look)),
        };
    }

    fn stored(&mut self, entry: Entry, sent: Instant, now: Instant) {
        let revision = entry.revision;
        self.seen = Some(Seen {
            entry,
            since: now,
            is_doubtful: false,
            forgot: None,
        });
        let until = sent + (self.own.ttl - self.own.ttl / MARGIN_PART);
        let token = match self.standing {
            Standing::Waits => revision,
            Standing::Holds(held) => held.token,
            Standing::Over => return,
        };
        // An answer that is too late is worth nothing, but the entry is ours: it is renewed at once.
        if now < until {
            self.standing = Standing::Holds(Held { token, until });
            self.rests_until = Some(sent + self.own.ttl / RENEWALS);
        }
    }
}

/// Until when the holder of a lease may act, for all of its threads.
#[derive(Debug)]
pub struct Term {
    token: u64,
    begun: Instant,
    /// After `begun`, in nanoseconds; 0 is over for good.
    until: AtomicU64,
}

impl Term {
    /// That of who holds the lease now.
    pub fn new(held: Held, now: Instant) -> Self {
        let term = Self {
            token: held.token,
            begun: now,
            until: AtomicU64::new(1),
        };
        term.extend(held.until);
        term
    }

    /// Of its holder.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Whether nothing may be done any more.
    pub fn is_over(&self, now: Instant) -> bool {
        self.until.load(Ordering::Acquire) <= self.after_begin(now)
    }

    /// For how long it is held still, at this time.
    pub fn left(&self, now: Instant) -> Duration {
        let until = self.until.load(Ordering::Acquire);
        Duration::from_nanos(until.saturating_sub(self.after_begin(now)))
    }

    /// It was renewed; whether that makes it any longer. What is over stays so.
    pub fn extend(&self, until: Instant) -> bool {
        let until = self.after_begin(until);
        let later = |before| (before != 0 && before < until).then_some(until);
        let order = (Ordering::AcqRel, Ordering::Acquire);
        self.until.fetch_update(order.0, order.1, later).is_ok()
    }

    /// It is over, whatever the clock says.
    pub fn end(&self) {
        self.until.store(0, Ordering::Release);
    }

    fn after_begin(&self, at: Instant) -> u64 {
        let after = at.saturating_duration_since(self.begun).as_nanos();
        u64::try_from(after).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests;
