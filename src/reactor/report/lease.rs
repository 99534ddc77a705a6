//! The lease under which the daemon serves, as it is shown.

use std::time::{Duration, Instant};

use crate::reactor::state::site::Site;
use event_manager_wire::api::{HeldLease, KeptLeases};

/// How it goes with it at this time; `None` if there is none.
pub(super) fn held_lease(site: &Site, now: Instant) -> Option<HeldLease> {
    let in_ms = |time: Duration| time.as_millis() as u64;
    let turn = site.turn.as_ref();
    let turn = turn.and_then(|turn| turn.borrow().clone());
    let turn = turn.filter(|turn| !turn.term().is_over(now));
    let tenure = site.lease.clone().or(turn)?;
    let (grant, term, renewals) = (tenure.grant(), tenure.term(), tenure.renewals());
    Some(HeldLease {
        source: grant.source.clone(),
        engine: grant.engine.clone(),
        name: grant.name.clone(),
        holder: grant.holder.clone(),
        directory: tenure.directory().map(str::to_owned),
        token: term.token(),
        epoch: site.epoch,
        ttl_ms: grant.ttl.map(in_ms),
        expires_in_ms: grant.ttl.map(|_| in_ms(term.left(now))),
        renewals: renewals.count,
        renewed_ago_ms: in_ms(now.saturating_duration_since(renewals.latest)),
        problem: renewals.problem,
    })
}

/// How it goes with who keeps the leases of clients; `None` if the daemon does.
pub(super) fn kept_leases(site: &Site) -> Option<KeptLeases> {
    let keeper = &site.leases_kept.as_ref()?.keeper;
    let dealings = keeper.dealings();
    Some(KeptLeases {
        source: keeper.source().to_owned(),
        engine: keeper.engine().to_owned(),
        required: keeper.is_required(),
        asked: dealings.asked,
        failed: dealings.failed,
        problem: dealings.problem,
    })
}
