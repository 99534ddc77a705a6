//! The lease under which the daemon serves, and those of clients that an engine keeps.

use super::finding::{Code, Finding, Severity};
use event_manager_wire::api::{HeldLease, KeptLeases, Status};

/// All findings about it.
pub(super) fn check(status: &Status) -> Vec<Finding> {
    let is_active = status.leases.is_some();
    let then = match is_active {
        true => "instances here may not lead any more",
        false => "the daemon ends",
    };
    let lease = status.lease.iter();
    let found = lease.flat_map(|lease| {
        // Else it is said of those of clients.
        let forgetful = forgetful(lease).filter(|_| !is_active);
        [late(lease, then), forgetful]
    });
    let kept = status.leases.iter();
    let kept = kept.flat_map(|kept| [refused(kept), forgetful_of_clients(kept)]);
    found.chain(kept).flatten().collect()
}

/// Who keeps the leases of clients doesn't answer.
fn refused(kept: &KeptLeases) -> Option<Finding> {
    let why = kept.problem.as_ref()?;
    let source = &kept.source;
    Some(Finding::new(
        Severity::Error,
        Code::LeasesRefused,
        "leases",
        format!(
            "requests LEASE are refused, as the engine {source} keeps the leases, and can't be used: {why}"
        ),
        format!("see that {source} runs and is reached from here; nothing has to be restarted"),
    ))
}

/// It may give one to two.
fn forgetful_of_clients(kept: &KeptLeases) -> Option<Finding> {
    (kept.engine == "redis").then(|| {
        Finding::new(
            Severity::Note,
            Code::LeaseForgotten,
            "leases",
            format!(
                "engine {} is a Redis, which may forget leases in a failover, or a restart without appendonly: then two clients may have one, and its token is all that is left",
                kept.source
            ),
            "keep them at etcd, or at NATS JetStream with three replicas, or see that this Redis has appendonly and no replicas that take over",
        )
    })
}

/// It is renewed each third of its time. At half of it, that has failed once.
fn late(lease: &HeldLease, then: &str) -> Option<Finding> {
    let (ttl, left, ago) = (lease.ttl_ms?, lease.expires_in_ms?, lease.renewed_ago_ms);
    if ago <= ttl / 2 {
        return None;
    }
    let HeldLease { name, source, .. } = lease;
    let why = match &lease.problem {
        Some(why) => format!("{source} says: {why}"),
        None => format!("{source} has not answered yet"),
    };
    Some(Finding::new(
        Severity::Warning,
        Code::LeaseLate,
        format!("lease {name}"),
        format!(
            "it was renewed last {ago} ms ago, of lease.ttl {ttl} ms, and {then} in {left} ms if that goes on; {why}"
        ),
        format!(
            "see that {source} runs and is reached from here, or raise lease.ttl if that is only slow"
        ),
    ))
}

/// Its engine may give it to two.
fn forgetful(lease: &HeldLease) -> Option<Finding> {
    (lease.engine.as_deref() == Some("redis")).then(|| {
        Finding::new(
            Severity::Note,
            Code::LeaseForgotten,
            format!("lease {}", lease.name),
            format!(
                "engine {} is a Redis, which may forget it in a failover, or a restart without appendonly: then two may have it, and the state directory's epoch is all that is left",
                lease.source
            ),
            "keep the lease at etcd, or at NATS JetStream with three replicas, or see that this Redis has appendonly and no replicas that take over",
        )
    })
}
