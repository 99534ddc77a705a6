//! Instances of other programs, and leases.

use super::finding::{Code, Finding, Severity};
use event_manager_wire::api::{Instance, InstanceState, Status};

/// All findings about them.
pub(super) fn check(status: &Status) -> Vec<Finding> {
    let instances = &status.instances;
    let mut found = vec![];
    if instances.leaders.len() > 1 {
        found.push(Finding::new(
            Severity::Error,
            Code::TwoLeaders,
            "instances",
            format!(
                "{} have the lowest process id, so each of them takes itself for the leader",
                instances.leaders.join(", ")
            ),
            "give them different process ids, or have the programs use a lease (docs/instances.md)",
        ));
    }
    found.extend(instances.known.iter().filter_map(trouble));
    found
}

fn trouble(one: &Instance) -> Option<Finding> {
    let link = one.link.as_deref().unwrap_or("its host");
    let (text, mend) = match one.state {
        InstanceState::Silent => (
            format!("it is connected from {link}, and sends no heartbeats"),
            "restart that program; or set instances.interval and instances.timeout as it has them"
                .to_owned(),
        ),
        InstanceState::CutOff => (
            format!("it was heard here from {link}, and now only another event manager hears it"),
            format!("mend the network between {link} and this machine"),
        ),
        InstanceState::Deaf => (
            format!(
                "it is heard from {link}, but nobody there subscribes to heartbeats here: it will take itself for the only one"
            ),
            "correct the addresses to which that program subscribes, or the network".to_owned(),
        ),
        InstanceState::Alive | InstanceState::Gone | InstanceState::Unknown => return None,
    };
    Some(Finding::new(
        Severity::Warning,
        Code::InstanceApart,
        format!("instance {}", one.id),
        text,
        mend,
    ))
}
