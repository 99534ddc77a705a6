//! Figures of this process, from the operating system.

use event_manager_wire::api::Process;

/// Reads them now.
pub fn process_readings() -> Process {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let open_fds = std::fs::read_dir("/proc/self/fd")
        .ok()
        .map(|entries| entries.count() as u64);
    let cpu_ticks = cpu_ticks(&std::fs::read_to_string("/proc/self/stat").unwrap_or_default());
    Process {
        resident_bytes: status_field(&status, "VmRSS:").map(|kib| kib * 1024),
        virtual_bytes: status_field(&status, "VmSize:").map(|kib| kib * 1024),
        cpu_seconds: cpu_ticks.map(|ticks| ticks as f64 / 100.0),
        // The listing itself used one.
        open_fds: open_fds.map(|count| count.saturating_sub(1)),
        max_fds: rlimit::Resource::NOFILE.get_soft().ok(),
        threads: status_field(&status, "Threads:"),
    }
}

/// User and system time, which Linux always reports in hundredths of a second.
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The program's name may contain anything.
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut times = after_name.split(' ').skip(11).map(str::parse::<u64>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

fn status_field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_threads() {
        let readings = process_readings();
        assert!(readings.resident_bytes > Some(100_000) && readings.threads >= Some(1));
        assert!(readings.open_fds > Some(2) && readings.max_fds >= readings.open_fds);
        assert!(
            readings.virtual_bytes >= readings.resident_bytes && readings.cpu_seconds.is_some()
        );
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 98 0 0 0 12 30 0 0 20";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(status_field("VmRSS:\t  12 kB\n", "VmRSS:"), Some(12));
    }
}
