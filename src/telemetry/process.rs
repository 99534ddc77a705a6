//! What the system says of this process.

use serde_json::{Value, json};

/// Readings of this process; `None` where the system doesn't tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessReadings {
    /// Memory that is resident.
    pub resident_bytes: Option<u64>,
    /// Memory that has addresses.
    pub virtual_bytes: Option<u64>,
    /// The processor time that it has used, in hundredths of a second.
    pub cpu_ticks: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// How many may be open.
    pub fds_max: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
}

impl ProcessReadings {
    /// Reads them now.
    pub fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let open_fds = std::fs::read_dir("/proc/self/fd")
            .ok()
            .map(|entries| entries.count() as u64);
        Self {
            resident_bytes: status_field(&status, "VmRSS:").map(|kib| kib * 1024),
            virtual_bytes: status_field(&status, "VmSize:").map(|kib| kib * 1024),
            cpu_ticks: cpu_ticks(&std::fs::read_to_string("/proc/self/stat").unwrap_or_default()),
            // The listing itself held one.
            open_fds: open_fds.map(|count| count.saturating_sub(1)),
            fds_max: rlimit::Resource::NOFILE.get_soft().ok(),
            threads: status_field(&status, "Threads:"),
        }
    }

    /// As reports show them.
    pub fn to_json(self) -> Value {
        json!({
            "residentBytes": self.resident_bytes,
            "virtualBytes": self.virtual_bytes,
            "cpuSeconds": self.cpu_ticks.map(|ticks| ticks as f64 / 100.0),
            "openFds": self.open_fds,
            "maxFds": self.fds_max,
            "threads": self.threads,
        })
    }
}

/// User and system time. Linux counts them in hundredths of a second wherever it tells them.
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The program's name may hold anything.
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
        let readings = ProcessReadings::read();
        assert!(readings.resident_bytes > Some(100_000) && readings.threads >= Some(1));
        assert!(readings.open_fds > Some(2) && readings.fds_max >= readings.open_fds);
        assert!(readings.virtual_bytes >= readings.resident_bytes && readings.cpu_ticks.is_some());
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 98 0 0 0 12 30 0 0 20";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(status_field("VmRSS:\t  12 kB\n", "VmRSS:"), Some(12));
    }
}
