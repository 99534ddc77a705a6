//! Leases: whoever holds one may do what only one may do at a time, until it ends.
//!
//! Each time a lease is acquired it gets a number, its token, which is higher than all before, also over
//! restarts. Whoever guards what is protected refuses lower tokens than it has seen: a holder that was
//! stopped and goes on later doesn't know that its time is over.
//!
//! A holder counts its time from when it asked, and here it counts from when its request was read, which is
//! later. So it is over there first. What is kept is who holds the lease and with which token; after a
//! restart it is held for its whole time again, as it isn't known when it was renewed last.
//!
//! That is for leases that the daemon gives. [`candidate`] is for one that it wants itself.

pub mod candidate;
#[cfg(test)]
mod chance;
pub mod shared;
pub mod tenure;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::security::Identity;
use event_manager_wire::model::{LeaseHolder, ServiceName};

/// The most leases that are known.
pub const LEASES_MAX: usize = 1000;
/// How short and how long a lease may be.
pub const TTL_MIN: Duration = Duration::from_millis(100);
/// See [`TTL_MIN`].
pub const TTL_MAX: Duration = Duration::from_secs(3600);

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// What it calls itself.
    pub name: LeaseHolder,
    /// Whose connection it asked by: nobody else renews or releases it.
    pub client: Identity,
}

/// A lease that is, or was, held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    token: u64,
    ttl: Duration,
    /// By whom, and until when.
    held: Option<(Holder, Instant)>,
    /// When it was touched last, for who has to make room.
    touched: Instant,
}

/// How a lease is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View<'a> {
    /// The number that it was given last; 0 if it never was.
    pub token: u64,
    /// Who holds it, and for how long still.
    pub held: Option<(&'a Holder, Duration)>,
}

/// What is kept of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Former {
    pub token: u64,
    pub ttl: Duration,
    pub holder: Option<Holder>,
}

/// Why a lease can't be had, renewed or released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Another holds it, for so long still.
    Held(LeaseHolder, Duration),
    /// It isn't held by who asks, with this token.
    Lost,
    /// All that are known are held.
    Full,
}

/// All leases.
#[derive(Debug, Default)]
pub struct Leases {
    all: BTreeMap<ServiceName, Lease>,
    /// The highest token that was ever given.
    highest: u64,
}

impl Leases {
    /// A lease of an earlier run. It is held from now on for its whole time.
    pub fn restore(&mut self, name: ServiceName, former: Former, now: Instant) {
        self.highest = self.highest.max(former.token);
        let ttl = former.ttl.clamp(TTL_MIN, TTL_MAX);
        let lease = Lease {
            token: former.token,
            ttl,
            held: former.holder.map(|holder| (holder, now + ttl)),
            touched: now,
        };
        self.all.insert(name, lease);
    }

    /// No token up to this one is given again.
    pub fn restore_highest(&mut self, token: u64) {
        self.highest = self.highest.max(token);
    }

    /// The highest token that was ever given.
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// Gives the lease to who asks, with a new token; or with the one that it has, if it holds it already:
    /// it may not have heard the answer. The token is at least `floor`, which is to keep tokens growing when
    /// all that was kept is lost. A lease that made room for it is returned.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn acquire(
        &mut self,
        name: &ServiceName,
        holder: Holder,
        ttl: Duration,
        floor: u64,
        now: Instant,
    ) -> Result<Option<ServiceName>, Refused> {
        let ttl = ttl.clamp(TTL_MIN, TTL_MAX);
        let known = self.all.get_mut(name);
        if let Some(lease) = known
            && let Some((current, until)) = lease.held_at(now)
        {
            if *current != holder {
                let left = until.saturating_duration_since(now);
                return Err(Refused::Held(current.name.clone(), left));
            }
            // After a restart it is held for at least as long as was ever said.
            lease.ttl = lease.ttl.max(ttl);
            lease.touched = now;
            // It never ends sooner than was said before.
            let until = (now + ttl).max(until);
            lease.held = Some((holder, until));
            return Ok(None);
        }
        let forgotten = match self.all.contains_key(name) {
            true => None,
            false => self.make_room(now)?,
        };
        self.highest = self.highest.saturating_add(1).max(floor);
        let lease = Lease {
            token: self.highest,
            ttl,
            held: Some((holder, now + ttl)),
            touched: now,
        };
        self.all.insert(name.clone(), lease);
        Ok(forgotten)
    }

    /// Lets the holder hold it for its time again.
    ///
    /// # Errors
    /// [`Refused::Lost`].
    pub fn renew(
        &mut self,
        name: &ServiceName,
        holder: &Holder,
        token: u64,
        now: Instant,
    ) -> Result<(), Refused> {
        let lease = self.held_by(name, holder, token, now)?;
        let until = now + lease.ttl;
        lease.touched = now;
        if let Some((_, held_until)) = &mut lease.held {
            *held_until = until.max(*held_until);
        }
        Ok(())
    }

    /// The holder gives it back.
    ///
    /// # Errors
    /// [`Refused::Lost`].
    pub fn release(
        &mut self,
        name: &ServiceName,
        holder: &Holder,
        token: u64,
        now: Instant,
    ) -> Result<(), Refused> {
        let lease = self.held_by(name, holder, token, now)?;
        lease.touched = now;
        lease.held = None;
        Ok(())
    }

    /// How a lease is now.
    pub fn view(&self, name: &ServiceName, now: Instant) -> View<'_> {
        let lease = self.all.get(name);
        let held = lease.and_then(|lease| lease.held_at(now));
        View {
            token: lease.map_or(0, |lease| lease.token),
            held: held.map(|(holder, until)| (holder, until.saturating_duration_since(now))),
        }
    }

    /// What is to be kept of it.
    pub fn kept(&self, name: &ServiceName) -> Option<Former> {
        let lease = self.all.get(name)?;
        Some(Former {
            token: lease.token,
            ttl: lease.ttl,
            holder: lease.held.as_ref().map(|(holder, _)| holder.clone()),
        })
    }

    fn held_by(
        &mut self,
        name: &ServiceName,
        holder: &Holder,
        token: u64,
        now: Instant,
    ) -> Result<&mut Lease, Refused> {
        let lease = self.all.get_mut(name).ok_or(Refused::Lost)?;
        let is_theirs = lease
            .held_at(now)
            .is_some_and(|(current, _)| current == holder);
        match is_theirs && lease.token == token {
            true => Ok(lease),
            false => Err(Refused::Lost),
        }
    }

    /// Of those that nobody holds, the one that was touched longest ago makes room.
    fn make_room(&mut self, now: Instant) -> Result<Option<ServiceName>, Refused> {
        if self.all.len() < LEASES_MAX {
            return Ok(None);
        }
        let free = self.all.iter();
        let free = free.filter(|(_, lease)| lease.held_at(now).is_none());
        let oldest = free.min_by_key(|(_, lease)| lease.touched);
        let oldest = oldest.map(|(name, _)| name.clone()).ok_or(Refused::Full)?;
        self.all.remove(&oldest);
        Ok(Some(oldest))
    }
}

impl Lease {
    /// Who holds it at this time, and until when. At its end it is not held any more.
    fn held_at(&self, now: Instant) -> Option<(&Holder, Instant)> {
        let (holder, until) = self.held.as_ref()?;
        (now < *until).then_some((holder, *until))
    }
}

#[cfg(test)]
mod tests;
