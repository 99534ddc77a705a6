//! Whether instances that are heard here may lead, by what their event manager sees of the others.
//!
//! The instances can't be changed: whoever has the lowest process id leads. So while they may not, they are
//! told of one that is lower than all, which is none.

use std::time::{Duration, Instant};

/// When instances may not lead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FencePolicy {
    /// They always may.
    #[default]
    Off,
    /// While fewer than half of the other event managers are linked, or half of them: those on the other side
    /// may be the majority.
    Minority,
    /// Unless this event manager holds a lease, which one of several has at a time.
    Standby,
}

/// What is seen of the other event managers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Links {
    /// How many there are.
    pub others: usize,
    /// How many of them are linked.
    pub linked: usize,
}

impl Links {
    /// Whether this event manager and those that are linked are more than half of all.
    pub fn is_majority(self) -> bool {
        2 * (self.linked + 1) > self.others + 1
    }
}

/// The fence. At the start it is up.
#[derive(Debug)]
pub struct Fence {
    policy: FencePolicy,
    is_up: bool,
    /// Since when there is a majority.
    majority_since: Option<Instant>,
    /// For how long there has to be one: by then the instances here have heard of those there.
    settle: Duration,
}

impl Fence {
    /// `interval` is between two heartbeats.
    pub fn new(policy: FencePolicy, interval: Duration) -> Self {
        Self {
            policy,
            is_up: policy != FencePolicy::Off,
            majority_since: None,
            settle: 2 * interval,
        }
    }

    /// Whether they may not lead.
    pub fn is_up(&self) -> bool {
        self.is_up
    }

    /// Judges anew; whether that changed something.
    pub fn judge(&mut self, links: Links, now: Instant) -> bool {
        let is_up = match self.policy {
            FencePolicy::Off => false,
            FencePolicy::Minority if links.is_majority() => {
                let since = *self.majority_since.get_or_insert(now);
                // It goes up at once, and down only when all here have heard all there.
                self.is_up && now.saturating_duration_since(since) < self.settle
            }
            FencePolicy::Minority => {
                self.majority_since = None;
                true
            }
            // By the lease alone.
            FencePolicy::Standby => self.is_up,
        };
        std::mem::replace(&mut self.is_up, is_up) != is_up
    }

    /// The same by the lease. Instances elsewhere are told so by their own event managers, and were before this
    /// one could have it: so nothing is waited for.
    pub fn judge_by_lease(&mut self, is_held: bool) -> bool {
        let is_up = self.policy == FencePolicy::Standby && !is_held;
        std::mem::replace(&mut self.is_up, is_up) != is_up
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn links(others: usize, linked: usize) -> Links {
        Links { others, linked }
    }

    #[test]
    fn it_is_up_at_the_start_and_goes_up_at_once_and_down_later() {
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let mut fence = Fence::new(FencePolicy::Minority, INTERVAL);
        assert!(fence.is_up());
        assert!(!fence.judge(links(2, 1), at(0)) && fence.is_up());
        assert!(!fence.judge(links(2, 1), at(9)) && fence.is_up());
        assert!(fence.judge(links(2, 1), at(10)) && !fence.is_up());
        assert!(fence.judge(links(2, 0), at(11)) && fence.is_up());
        // The time counts from when there is a majority again.
        fence.judge(links(2, 2), at(12));
        fence.judge(links(2, 0), at(20));
        fence.judge(links(2, 2), at(21));
        assert!(!fence.judge(links(2, 2), at(30)) && fence.is_up());
        assert!(fence.judge(links(2, 2), at(31)) && !fence.is_up());
        let mut by_lease = Fence::new(FencePolicy::Standby, INTERVAL);
        assert!(!by_lease.judge(links(2, 2), at(0)) && by_lease.is_up());
        assert!(by_lease.judge_by_lease(true) && !by_lease.is_up());
        assert!(!by_lease.judge(links(2, 0), at(1)) && !by_lease.is_up());
        assert!(by_lease.judge_by_lease(false) && by_lease.is_up());
        let mut off = Fence::new(FencePolicy::Off, INTERVAL);
        assert!(!off.is_up() && !off.judge(links(2, 0), at(0)) && !off.is_up());
    }

    proptest! {
        /// Whoever sees whom, no two groups that don't see each other are both a majority: all hubs that
        /// are not fenced see a common one.
        #[test]
        fn no_two_parts_of_a_mesh_are_both_the_majority(hubs in 2usize..8, cut in any::<u8>()) {
            let in_part = |hub: usize| cut >> hub & 1;
            let linked = |hub: usize| (0..hubs).filter(|other| *other != hub && in_part(*other) == in_part(hub)).count();
            let free: Vec<_> = (0..hubs)
                .filter(|hub| links(hubs - 1, linked(*hub)).is_majority())
                .map(in_part)
                .collect();
            prop_assert!(free.windows(2).all(|two| two[0] == two[1]));
        }
    }
}
