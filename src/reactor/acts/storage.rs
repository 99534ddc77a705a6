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

/// How much all durable services of a client may keep, and how much they do.
struct Quota {
    owner: Identity,
    max: u64,
    held: u64,
}

/// What the services of each client would keep of one event.
#[derive(Default)]
struct Wanted(BTreeMap<Identity, u64>);

impl Wanted {
    /// Whether another service of this client may keep the event too; then it does.
    fn fits(&mut self, quota: &Quota, bytes: usize) -> bool {
        let wanted = self.0.entry(quota.owner.clone()).or_default();
        let with_this = *wanted + stored(bytes);
        let fits = quota.held + with_this <= quota.max;
        if fits {
            *wanted = with_this;
        }
        fits
    }
}

impl Hub {
    /// How much of a run a durable service may keep: so many of its first events. The others are dropped
    /// and counted.
    pub(super) fn kept_of<'a>(&mut self, key: ServiceKey, run: &Run<'a>) -> Run<'a> {
        let mut kept = run.ends.len();
        if let Some(quota) = self.quota_of(key) {
            let mut left = quota.max.saturating_sub(quota.held);
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

    /// The durable services that may not keep an event of that size, because the quotas of others than its
    /// emitter are full. They go without it, as they do when it is published: whoever has a full quota
    /// must not keep others from emitting.
    pub(super) fn left_out(
        &mut self,
        keys: &[ServiceKey],
        bytes: usize,
        emitter: &Identity,
    ) -> Vec<ServiceKey> {
        let mut wanted = Wanted::default();
        let mut out = vec![];
        if self.clients.limits_storage() {
            let quotas = keys.iter().map(|key| (*key, self.quota_of(*key)));
            let others = quotas.filter_map(|(key, quota)| Some((key, quota?)));
            let others = others.filter(|(_, quota)| quota.owner != *emitter);
            out.extend(
                others.filter_map(|(key, quota)| (!wanted.fits(&quota, bytes)).then_some(key)),
            );
        }
        out
    }

    /// Why the emitter's own durable services may not keep an event of that size, if so.
    pub(super) fn why_not_kept(
        &mut self,
        keys: &[ServiceKey],
        bytes: usize,
        emitter: &Identity,
    ) -> Option<String> {
        if !self.clients.limits_storage() {
            return None;
        }
        let mut wanted = Wanted::default();
        keys.iter().find_map(|key| {
            let quota = self.quota_of(*key).filter(|quota| quota.owner == *emitter)?;
            if wanted.fits(&quota, bytes) {
                return None;
            }
            let Quota { owner, max, held } = quota;
            let (name, who) = (self.broker[*key].name(), owner.name());
            let said_in = &self.clients.grant_of(&owner).said_in;
            Some(format!(
                "{name}: the services of {who:?} keep {held} bytes, and may keep {max} ({said_in}.quotas.storedBytes)"
            ))
        })
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

    /// The quota that holds for a durable service; none without one.
    fn quota_of(&mut self, key: ServiceKey) -> Option<Quota> {
        let owner = limited_owner(&self.broker[key])?;
        let max = self.clients.grant_of(owner).quotas.stored_bytes?;
        let owner = owner.clone();
        let stamp = self.durable.queues.weighed() + self.broker.owned();
        let (broker, queues) = (&self.broker, &self.durable.queues);
        let held = self.clients.held_by(&owner, stamp, || {
            let theirs = broker.services().map(|(_, service)| service);
            let theirs = theirs.filter(|service| service.owner() == Some(&owner));
            theirs.map(|service| queues.holds(service.name())).sum()
        });
        Some(Quota { owner, max, held })
    }
}

fn limited_owner(service: &Service) -> Option<&Identity> {
    service.owner().filter(|_| service.spill.is_some())
}
