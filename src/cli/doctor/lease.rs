//! The lease under which the daemon serves.

use super::finding::{Code, Finding, Severity};
use event_manager_wire::api::{HeldLease, Status};

/// All findings about it.
pub(super) fn check(status: &Status) -> Vec<Finding> {
    let lease = status.lease.iter();
    let found = lease.flat_map(|lease| [late(lease), forgetful(lease)]);
    found.flatten().collect()
}

/// It is renewed each third of its time. At half of it, that has failed once.
fn late(lease: &HeldLease) -> Option<Finding> {
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
            "it was renewed last {ago} ms ago, of lease.ttl {ttl} ms, and the daemon ends in {left} ms if that goes on; {why}"
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
