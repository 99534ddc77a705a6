//! How much services may keep on disk: each client has a quota for all of its services together.

use std::collections::BTreeMap;

use crate::reactor::hub::Hub;
use crate::reactor::state::runs::Run;
use event_manager_core::broker::{DropReason, Service, ServiceKey};
use event_manager_core::queues::EVENT_OVERHEAD_BYTES;
use event_manager_core::security::Identity;

/// What an event takes on disk, about.
fn stored(event_bytes: usize) -> u64 {
    event_bytes as u64 + EVENT_OVERHEAD_BYTES
}

impl Hub {
    /// How much of a run a durable service may keep: so many of its first events. The others are dropped
    /// and counted.
    pub(super) fn kept_of<'a>(&mut self, key: ServiceKey, run: &Run<'a>) -> Run<'a> {
        let mut kept = run.ends.len();
        if let Some((_, quota, held)) = self.quota_of(key) {
            let mut left = quota.saturating_sub(held);
            kept = (0..kept)
                .take_while(|event| {
                    let bytes = stored(run.part(*event..event + 1).len());
                    let fits = bytes <= left;
                    left = left.saturating_sub(bytes);
                    fits
                })
                .count();
        }
        let dropped = (run.ends.len() - kept) as u64;
        let account = &mut self.broker[key].account;
        account.dropped.add(DropReason::Quota, dropped);
        Run {
            bytes: run.bytes.slice(run.part(0..kept)),
            ends: &run.ends[..kept],
            backing_bytes: run.backing_bytes,
        }
    }

    /// Why durable services may not keep an event of that size, if so.
    pub(super) fn why_not_kept(&mut self, keys: &[ServiceKey], bytes: usize) -> Option<String> {
        let mut wanted = BTreeMap::<Identity, u64>::new();
        for key in keys {
            let Some((owner, quota, held)) = self.quota_of(*key) else {
                continue;
            };
            let wanted = wanted.entry(owner.clone()).or_default();
            *wanted += stored(bytes);
            if held + *wanted > quota {
                let (name, who) = (self.broker[*key].name(), owner.name());
                let said_in = &self.clients.grant_of(&owner).said_in;
                return Some(format!(
                    "{name}: the services of {who:?} keep {held} bytes, and may keep {quota} ({said_in}.quotas.storedBytes)"
                ));
            }
        }
        None
    }

    /// A durable service keeps so many more events, of so many bytes together.
    pub(super) fn keeps_more(&mut self, key: ServiceKey, events: u64, bytes: usize) {
        if self.clients.limits_storage()
            && let Some(owner) = self.broker[key].owner()
        {
            let bytes = bytes as u64 + events * EVENT_OVERHEAD_BYTES;
            self.clients.holds_more(owner, bytes);
        }
    }

    /// Whose a durable service is, how much all of its client's may keep, and how much they do; none
    /// without a quota.
    fn quota_of(&mut self, key: ServiceKey) -> Option<(Identity, u64, u64)> {
        let owner = limited_owner(&self.broker[key])?;
        let quota = self.clients.grant_of(owner).quotas.stored_bytes?;
        let owner = owner.clone();
        let stamp = self.durable.queues.weighed() + self.broker.owned();
        let (broker, queues) = (&self.broker, &self.durable.queues);
        let held = self.clients.held_by(&owner, stamp, || {
            let theirs = broker.services().map(|(_, service)| service);
            let theirs = theirs.filter(|service| service.owner() == Some(&owner));
            theirs.map(|service| queues.holds(service.name())).sum()
        });
        Some((owner, quota, held))
    }
}

fn limited_owner(service: &Service) -> Option<&Identity> {
    service.owner().filter(|_| service.spill.is_some())
}
