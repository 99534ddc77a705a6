//! What the daemon has of the machine: descriptors, memory, disk, time; and who connects in vain.

use std::path::Path;

use super::facts::Disk;
use super::finding::{Code, Finding, Severity};
use super::services::is_near;
use crate::cli::output::quoted;
use crate::reactor::RESERVED_FDS;
use event_manager_wire::api::{RefusedAgain, Status};

/// Below so much the disk is as good as full.
const DISK_FULL: u64 = 16 << 20;
const GIB: u64 = 1 << 30;
/// Clocks that differ by less are none the worse for it, in seconds.
const JUMP_MIN: f64 = 5.0;

/// All findings about the daemon's process.
pub(super) fn check(status: &Status) -> Vec<Finding> {
    let found = [
        descriptors(status),
        connections(status),
        clock(status),
        memory(status),
    ];
    let again = status.peers.refused_again.iter().map(refused_again);
    found.into_iter().flatten().chain(again).collect()
}

fn refused_again(series: &RefusedAgain) -> Finding {
    let (reason, why) = (&series.reason, &series.why);
    let (times, seconds) = (series.times, series.seconds);
    Finding::new(
        Severity::Warning,
        Code::RefusedAgain,
        &series.host,
        format!("refused {times} times within {seconds:.0} s ({reason}): {why}"),
        format!(
            "{}; EM-0602 in docs/events.md explains the reasons",
            mend_of(reason)
        ),
    )
}

fn mend_of(reason: &str) -> &'static str {
    match reason {
        "mechanism" | "unknown-key" | "password" | "address" | "forbidden" => {
            "find the client on that machine that reconnects again and again, and admit it as the sentence says, or stop it"
        }
        "mesh" => "do there, or here, what the sentence says",
        "curve-server-key" => {
            "give the client on that machine the daemon's public key (server.key)"
        }
        "quota" | "unread" => {
            "find out why that client has so much to do, or raise its quota in security"
        }
        "too-many-subscriptions"
        | "message-too-large"
        | "too-many-parts"
        | "subject-too-long"
        | "too-many-connections"
        | "slow-subscriber" => {
            "find the client on that machine that reconnects again and again; fix it, or raise the limit that is named"
        }
        _ => "find the client on that machine that reconnects again and again, and fix it",
    }
}

fn descriptors(status: &Status) -> Option<Finding> {
    let (max, fds_max) = (status.connections.max, status.connections.fds_max?);
    let needed = max.saturating_add(RESERVED_FDS);
    (needed > fds_max).then(|| {
        Finding::new(
            Severity::Warning,
            Code::FewDescriptors,
            "maxConnections",
            format!("{max} connections and the rest need {needed} file descriptors, but the process may open only {fds_max}"),
            format!("allow more: `ulimit -n {needed}` before it starts, or LimitNOFILE={needed} in its unit; or set \"maxConnections\" to 0"),
        )
    })
}

fn connections(status: &Status) -> Option<Finding> {
    let (open, max) = (status.connections.open, status.connections.max);
    is_near(open, max).then(|| {
        Finding::new(
            Severity::Warning,
            Code::ManyConnections,
            "maxConnections",
            format!("{open} of {max} connections are open; further ones are refused"),
            "raise \"maxConnections\", or set it to 0 and allow more file descriptors (`ulimit -n`, LimitNOFILE=)",
        )
    })
}

/// Since the start both clocks should have gone on alike.
fn clock(status: &Status) -> Option<Finding> {
    // An older daemon doesn't tell the time.
    if status.wall_clock_ms == 0 || status.started_at_ms == 0 {
        return None;
    }
    let by_wall = (status.wall_clock_ms as f64 - status.started_at_ms as f64) / 1000.0;
    let jump = by_wall - status.uptime_seconds;
    let direction = if jump > 0.0 { "forward" } else { "back" };
    (jump.abs() >= JUMP_MIN).then(|| {
        Finding::new(
            Severity::Warning,
            Code::ClockJumped,
            "clock",
            format!("the wall clock moved {direction} by {:.0} s since the daemon started, or the machine slept: leases over a restart and times in logs are wrong", jump.abs()),
            "synchronise the clock (`timedatectl set-ntp true`), then restart the daemon",
        )
    })
}

fn memory(status: &Status) -> Option<Finding> {
    let (waiting, limit) = (status.memory.waiting_bytes, status.memory.limit_bytes);
    is_near(waiting, limit).then(|| {
        Finding::new(
            Severity::Warning,
            Code::MemoryNearLimit,
            "memoryLimit",
            format!(
                "{waiting} of {limit} bytes are queued; beyond that the largest queues drop events"
            ),
            format!(
                "find out who reads too slowly (`event-manager top`), or set \"memoryLimit\" to {}",
                limit.saturating_mul(2)
            ),
        )
    })
}

/// What the daemon keeps in its state directory, if it is to keep anything.
pub(super) fn check_kept(status: &Status, directory: &Path) -> Option<Finding> {
    if directory.as_os_str().is_empty() {
        return None;
    }
    let (text, mend) = match (status.state.kept, status.store.kept, status.state.failing) {
        (false, false, _) => (
            "can't be used: the daemon keeps no subscriptions, dead letters or leases over a restart",
            "and restart it",
        ),
        (false, true, _) => (
            "has a state database that can't be used: subscriptions, ports and leases are not kept over a restart",
            "and restart it",
        ),
        (true, false, _) => (
            "can't have queues: dead letters are not kept, and SUBSCRIBE to a durable service is refused",
            "and restart it",
        ),
        (true, true, true) => (
            "has a state database that can't be written: changes are lost in a restart",
            "which is tried again",
        ),
        (true, true, false) => return None,
    };
    let path = directory.display().to_string();
    Some(Finding::new(
        Severity::Error,
        Code::NothingKept,
        path.clone(),
        text,
        format!(
            "let the daemon's user write there (`ls -ld {}`; EM-0505, EM-0511 and EM-0514 in its log say what is wrong), {mend}",
            quoted(&path)
        ),
    ))
}

/// The state directory's file system.
pub(super) fn check_disk(disk: &Disk, free_min: Option<u64>) -> Option<Finding> {
    let wanted = free_min.unwrap_or((disk.total / 10).min(GIB));
    let severity = match disk.free < DISK_FULL {
        true => Severity::Error,
        false => Severity::Warning,
    };
    let path = disk.path.display().to_string();
    (disk.free < wanted).then(|| {
        Finding::new(
            severity,
            Code::DiskNearlyFull,
            path.clone(),
            format!("{} of {} MiB are free, but {} should be; without space durable services take no events", disk.free >> 20, disk.total >> 20, wanted >> 20),
            format!("free some space (`du -xsh {0}`), or move \"stateDir\" to a larger disk", quoted(&path)),
        )
    })
}
