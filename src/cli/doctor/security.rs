//! Who may connect.

use super::super::output::mend;
use super::finding::{Code, Finding, Severity};
use event_manager_client::TurnedAway;
use event_manager_wire::api::Status;

/// A note: the daemon works, and whether that is meant only the administrator knows.
pub(super) fn check(status: &Status) -> Option<Finding> {
    let open = &status.security.open_listeners;
    (!open.is_empty()).then(|| {
        Finding::new(
            Severity::Note,
            Code::OpenToTheNetwork,
            "security",
            format!(
                "every machine on the local networks may publish, subscribe and end services at {}",
                open.join(", ")
            ),
            "restrict it with \"security\": {\"from\": [\"10.1.0.0/16\"]} (your networks; http:// with httpTokenFile), or confirm it with \"security\": {\"open\": true}",
        )
    })
}

/// The daemon is there, and doesn't tell us its state.
pub(super) fn untold(address: &str, why: &str) -> Finding {
    let mend = "run this with keys that have the right (--key), or as the daemon's user on its machine; or add \"status\" to that list, and \"dlq\" for dead letters, and send SIGHUP";
    Finding::new(Severity::Error, Code::ShutOut, address, why, mend)
}

/// The daemon is there, and doesn't admit us.
pub(super) fn shut_out(address: &str, why: &str, told: TurnedAway) -> Finding {
    // The address is before it already.
    let why = why.strip_prefix(address).unwrap_or(why);
    let text = why.trim_start_matches([':', ' ']);
    Finding::new(Severity::Error, Code::ShutOut, address, text, mend(told))
}
