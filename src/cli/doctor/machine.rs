//! What the daemon has of the machine: descriptors, memory, disk, time; and who connects in vain.

use serde_json::Value;

use super::facts::Disk;
use super::finding::{Code, Finding, Severity};
use super::services::is_near;
use crate::cli::output::quoted;
use crate::reactor::RESERVED_FDS;

/// Below so much the disk is as good as full.
const DISK_FULL: u64 = 16 << 20;
const GIB: u64 = 1 << 30;
/// Clocks that differ by less are none the worse for it, in seconds.
const JUMP_MIN: f64 = 5.0;

/// All findings about the daemon's process.
pub(super) fn check(status: &Value) -> Vec<Finding> {
    let found = [
        descriptors(status),
        connections(status),
        clock(status),
        memory(status),
    ];
    let again = status["peers"]["refusedAgain"]
        .as_array()
        .into_iter()
        .flatten();
    let again = again.map(refused_again);
    found.into_iter().flatten().chain(again).collect()
}

fn refused_again(series: &Value) -> Finding {
    let text = |key: &str| series[key].as_str().unwrap_or_default();
    let (host, reason) = (text("host"), text("reason"));
    let (times, seconds) = (
        number(&series["times"]),
        series["seconds"].as_f64().unwrap_or_default(),
    );
    Finding::new(
        Severity::Warning,
        Code::RefusedAgain,
        host,
        format!(
            "refused {times} times within {seconds:.0} s ({reason}): {}",
            text("why")
        ),
        "find the client on that machine that reconnects again and again; fix it, or raise the limit that is named; EM-0602 in docs/events.md explains the reasons",
    )
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn descriptors(status: &Value) -> Option<Finding> {
    let connections = &status["connections"];
    let (max, fds_max) = (number(&connections["max"]), connections["fdsMax"].as_u64()?);
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

fn connections(status: &Value) -> Option<Finding> {
    let connections = &status["connections"];
    let (open, max) = (number(&connections["open"]), number(&connections["max"]));
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
fn clock(status: &Value) -> Option<Finding> {
    let at = |key: &str| Some(status[key].as_u64()? as f64 / 1000.0);
    let by_wall = at("wallClockMs")? - at("startedAtMs")?;
    let jump = by_wall - status["uptimeSeconds"].as_f64()?;
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

fn memory(status: &Value) -> Option<Finding> {
    let memory = &status["memory"];
    let (waiting, limit) = (
        number(&memory["waitingBytes"]),
        number(&memory["limitBytes"]),
    );
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
