//! The CPU time of processes, as Linux's scheduler accounts for it.

use std::fs;
use std::time::Duration;

/// The times of this process and the daemon's, where they can be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cpu {
    pub(super) client: Option<Duration>,
    pub(super) daemon: Option<Duration>,
}

impl Cpu {
    pub(super) fn now(daemon_pid: Option<u32>) -> Self {
        Self {
            client: cpu_of("self"),
            daemon: daemon_pid.and_then(|pid| cpu_of(&pid.to_string())),
        }
    }

    pub(super) fn since(self, before: Self) -> Self {
        let between =
            |now: Option<Duration>, before: Option<Duration>| Some(now?.saturating_sub(before?));
        Self {
            client: between(self.client, before.client),
            daemon: between(self.daemon, before.daemon),
        }
    }
}

/// Whether a process of this number here is an event manager: the daemon may be elsewhere, and another
/// process have its number.
pub(super) fn is_daemon(pid: u32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm"));
    name.is_ok_and(|name| name.trim() == "event-manager")
}

fn cpu_of(process: &str) -> Option<Duration> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let mut nanos = 0;
    for thread in threads.flatten() {
        // It may have ended.
        if let Ok(stat) = fs::read_to_string(thread.path().join("schedstat")) {
            nanos += stat.split(' ').next()?.parse::<u64>().ok()?;
        }
    }
    Some(Duration::from_nanos(nanos))
}
