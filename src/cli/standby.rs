//! Whether the daemon of a configuration stands by. It takes no requests then; its HTTP says so.

use std::time::Duration;

use super::key_args::is_of;
use crate::config::Config;
use crate::http::readiness;
use event_manager_wire::api::Check;

/// A daemon that stands by.
#[derive(Debug)]
pub(super) struct StandsBy {
    /// For what.
    pub(super) reason: String,
    /// Why it can't take over, as its directory is another one.
    pub(super) other_directory: Option<String>,
    /// Why it can't, as its disk is full.
    pub(super) full_disk: Option<String>,
}

/// How it does that, if the daemon of this configuration stands by. If it is looked for at an address, that has
/// to be its own.
pub(super) fn stands_by(
    config: &Config,
    address: Option<&str>,
    wait: Duration,
) -> Option<StandsBy> {
    let is_its = |address: &str| address.parse().is_ok_and(|asked| is_of(config, &asked));
    if !config.lease.stands_by() || !address.is_none_or(is_its) {
        return None;
    }
    let readiness = readiness(config, wait).ok()?;
    let reason = |check: &Check| check.reason.clone();
    Some(StandsBy {
        reason: readiness.failed("standby").map(reason)?,
        other_directory: readiness.failed("stateDir").map(reason),
        full_disk: readiness.failed("disk").map(reason),
    })
}
