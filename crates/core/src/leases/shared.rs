//! Leases of clients of several daemons: a third party keeps them, one entry for each.
//!
//! The third party is that of [`candidate`](super::candidate): it replaces an entry only for whoever names the
//! revision that it has, and its clock counts for nothing. A client counts its time from when it asked, which
//! is before its entry was written. Whoever wants the lease after it asks a daemon that counts from when it
//! *heard* of that entry, and adds a margin for the rates of the clocks. So the client is always done first.
//!
//! A token is one higher than the last one in the entry. It is also never below the wall clock in
//! milliseconds, so that it goes on growing when the third party has lost its entries.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::candidate::{Answer, Ask, Entry};
use super::{Holder, LEASES_MAX, Refused, TTL_MAX, TTL_MIN};
use event_manager_wire::model::{LeaseHolder, ServiceName};

/// For how much longer than its holder a lease is taken for held: this part of its time.
const MARGIN_PART: u32 = 10;

/// What is kept of a lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// The number that was given last; 0 before any.
    pub token: u64,
    /// By whom it is held, and for how long from each change of the entry.
    pub held: Option<(Holder, Duration)>,
}

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    Acquire(Holder, Duration),
    Renew(Holder, u64),
    Release(Holder, u64),
    Get,
}

/// One request of a client, until it is answered.
#[derive(Debug)]
pub struct Deal {
    name: ServiceName,
    wish: Wish,
    /// The entry was read for it, or replaced.
    is_fresh: bool,
    is_done: bool,
}

impl Deal {
    /// One that begins.
    pub fn new(name: ServiceName, wish: Wish) -> Self {
        Self {
            name,
            wish,
            is_fresh: false,
            is_done: false,
        }
    }
}

/// How a lease is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub token: u64,
    /// Who holds it, and for how long from now, unless it is renewed.
    pub held: Option<(LeaseHolder, Duration)>,
    /// It was given for so long, or renewed, which counts from when that was asked for.
    pub given: Option<Duration>,
}

/// What is done next for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Ask(Ask<Kept>),
    Done(Result<Shown, Refused>),
}

/// An entry that was read or written here.
#[derive(Debug)]
struct Sight {
    entry: Entry<Kept>,
    /// When it was first heard of.
    since: Instant,
    /// It may have changed.
    is_doubtful: bool,
    /// Who may hold it although the third party has forgotten that.
    forgotten: Option<(Holder, Duration)>,
    /// No lower token is given.
    token: u64,
}

impl Sight {
    fn held(&self) -> Option<&(Holder, Duration)> {
        self.entry.content.held.as_ref()
    }

    /// Until when nobody else may have it, and who may.
    fn taken(&self) -> Option<(&Holder, Instant)> {
        let (holder, ttl) = self.held().or(self.forgotten.as_ref())?;
        let longest = self.forgotten.as_ref().map_or(*ttl, |(_, other)| *other);
        let ttl = longest.max(*ttl);
        Some((holder, self.since + ttl + ttl / MARGIN_PART))
    }

    fn taken_at(&self, now: Instant) -> Option<(&Holder, Instant)> {
        self.taken().filter(|(_, until)| now < *until)
    }

    /// Whether it is this one's with this token, as far as is known.
    fn is_of(&self, holder: &Holder, token: u64, now: Instant) -> bool {
        let theirs = self.held().is_some_and(|(current, _)| current == holder);
        theirs && self.entry.content.token == token && self.taken_at(now).is_some()
    }
}

/// What is known of the entries.
#[derive(Debug, Default)]
pub struct Shared {
    seen: BTreeMap<ServiceName, Sight>,
}

impl Shared {
    /// What to do for a request at this time. A new token is at least `floor`.
    pub fn next(&self, deal: &Deal, floor: u64, now: Instant) -> Next {
        let sight = self.seen.get(&deal.name);
        let sight = sight.filter(|sight| !sight.is_doubtful);
        let Some(sight) = sight.filter(|sight| deal.is_fresh || is_renewal(deal, sight, now))
        else {
            return Next::Ask(Ask::Read);
        };
        if deal.is_done {
            let is_given = matches!(deal.wish, Wish::Acquire(..) | Wish::Renew(..));
            let given = sight.held().filter(|_| is_given).map(|(_, ttl)| *ttl);
            return Next::Done(Ok(Shown {
                given,
                ..shown(sight, now)
            }));
        }
        let content = match &deal.wish {
            Wish::Get => return Next::Done(Ok(shown(sight, now))),
            Wish::Acquire(holder, ttl) => match self.acquired(sight, holder, *ttl, floor, now) {
                Ok(content) => content,
                Err(refused) => return Next::Done(Err(refused)),
            },
            Wish::Renew(holder, token) if sight.is_of(holder, *token, now) => {
                sight.entry.content.clone()
            }
            Wish::Release(holder, token) if sight.is_of(holder, *token, now) => Kept {
                token: *token,
                held: None,
            },
            Wish::Renew(..) | Wish::Release(..) => return Next::Done(Err(Refused::Lost)),
        };
        Next::Ask(Ask::Put(sight.entry.revision, content))
    }

    /// What the third party said to what was asked for this request.
    pub fn hear(&mut self, deal: &mut Deal, asked: &Ask<Kept>, answer: Answer<Kept>, now: Instant) {
        match (asked, answer) {
            (Ask::Read, Answer::Is(entry)) => {
                self.read(&deal.name, entry, now);
                deal.is_fresh = true;
            }
            (Ask::Put(_, content), Answer::Stored(revision)) => {
                let token = self.seen.get(&deal.name).map_or(0, |sight| sight.token);
                let sight = Sight {
                    token: token.max(content.token),
                    entry: Entry {
                        revision,
                        content: content.clone(),
                    },
                    since: now,
                    is_doubtful: false,
                    forgotten: None,
                };
                self.keep(deal.name.clone(), sight, now);
                deal.is_fresh = true;
                deal.is_done = true;
            }
            // It is read anew.
            _ => {
                deal.is_fresh = false;
                if let Some(sight) = self.seen.get_mut(&deal.name) {
                    sight.is_doubtful = true;
                }
            }
        }
    }

    /// What is to be kept for who acquires it.
    fn acquired(
        &self,
        sight: &Sight,
        holder: &Holder,
        ttl: Duration,
        floor: u64,
        now: Instant,
    ) -> Result<Kept, Refused> {
        let ttl = ttl.clamp(TTL_MIN, TTL_MAX);
        match sight.taken_at(now) {
            // It may not have heard the answer. It never ends sooner than was said before.
            Some((current, _)) if current == holder && sight.held().is_some() => {
                let before = sight.held().map_or(ttl, |(_, before)| *before);
                Ok(Kept {
                    token: sight.entry.content.token,
                    held: Some((holder.clone(), before.max(ttl))),
                })
            }
            Some((current, until)) => {
                let left = until.saturating_duration_since(now);
                Err(Refused::Held(current.name.clone(), left))
            }
            None => {
                let free = |sight: &Sight| sight.taken_at(now).is_none();
                if self.seen.len() >= LEASES_MAX && !self.seen.values().any(free) {
                    return Err(Refused::Full);
                }
                Ok(Kept {
                    token: sight.token.saturating_add(1).max(floor),
                    held: Some((holder.clone(), ttl)),
                })
            }
        }
    }

    fn read(&mut self, name: &ServiceName, entry: Entry<Kept>, now: Instant) {
        let before = self.seen.remove(name);
        let token = before.as_ref().map_or(0, |before| before.token);
        let token = token.max(entry.content.token);
        let sight = match before {
            Some(before) if before.entry == entry => Sight {
                is_doubtful: false,
                ..before
            },
            before => {
                let went_back = |before: &Sight| entry.revision < before.entry.revision;
                let forgotten = before.filter(went_back);
                Sight {
                    forgotten: forgotten
                        .and_then(|before| before.entry.content.held.or(before.forgotten)),
                    since: now,
                    is_doubtful: false,
                    token,
                    entry,
                }
            }
        };
        self.keep(name.clone(), sight, now);
    }

    /// Of those that nobody holds, the one that was heard of longest ago makes room; else of all. It is read
    /// anew when it is asked for, and whoever wants it waits a little longer.
    fn keep(&mut self, name: ServiceName, sight: Sight, now: Instant) {
        if self.seen.len() >= LEASES_MAX && !self.seen.contains_key(&name) {
            let is_taken = |sight: &Sight| sight.taken_at(now).is_some();
            let oldest = self.seen.iter();
            let oldest = oldest.min_by_key(|(_, sight)| (is_taken(sight), sight.since));
            let oldest = oldest.map(|(name, _)| name.clone());
            oldest.and_then(|name| self.seen.remove(&name));
        }
        self.seen.insert(name, sight);
    }
}

/// Whether it is renewed or given back by who has it, as far as is known: then nothing has to be read first.
fn is_renewal(deal: &Deal, sight: &Sight, now: Instant) -> bool {
    match &deal.wish {
        Wish::Renew(holder, token) | Wish::Release(holder, token) => {
            sight.is_of(holder, *token, now)
        }
        Wish::Acquire(..) | Wish::Get => false,
    }
}

fn shown(sight: &Sight, now: Instant) -> Shown {
    let left = |until: Instant| until.saturating_duration_since(now);
    let taken = sight.taken_at(now);
    Shown {
        token: sight.token,
        held: taken.map(|(holder, until)| (holder.name.clone(), left(until))),
        given: None,
    }
}

#[cfg(test)]
mod tests;
