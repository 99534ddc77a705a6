//! A broker's process, and what the kernel says of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A process that ends with its value, and all that it started with it.
pub struct Process {
    child: Child,
    /// The process whose CPU time and memory count: some brokers are started by a script.
    accounted: u32,
}

/// CPU time that a process took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    /// From the scheduler's accounting, in µs.
    pub total_us: f64,
    /// Of that, by the clock's ticks and so coarser: in user space, in µs.
    pub user_us: f64,
    /// And in the kernel.
    pub system_us: f64,
}

impl Cpu {
    pub fn since(self, before: Self) -> Self {
        Self {
            total_us: self.total_us - before.total_us,
            user_us: self.user_us - before.user_us,
            system_us: self.system_us - before.system_us,
        }
    }
}

impl Process {
    /// Starts it without output.
    pub fn quiet(command: &mut Command) -> Result<Self> {
        let name = format!("{:?}", command.get_program());
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command
            .spawn()
            .with_context(|| format!("{name} can't be started"))?;
        Ok(Self {
            accounted: child.id(),
            child,
        })
    }

    /// Starts it; the first line that it writes to standard output is its address or so.
    pub fn with_line(command: &mut Command) -> Result<(Self, String)> {
        let name = format!("{:?}", command.get_program());
        command.process_group(0).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command
            .spawn()
            .with_context(|| format!("{name} can't be started"))?;
        let output = child.stdout.take();
        let process = Self {
            accounted: child.id(),
            child,
        };
        let mut line = String::new();
        BufReader::new(output.context("no pipe")?).read_line(&mut line)?;
        if line.is_empty() {
            bail!("{name} ended before it was ready");
        }
        Ok((process, line))
    }

    pub fn cpu(&self) -> Result<Cpu> {
        let pid = self.accounted;
        let mut total_ns = 0.0;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            total_ns += schedstat_ns(&task?.path());
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok());
        Ok(Cpu {
            total_us: total_ns / 1000.0,
            user_us: ticks(11).context("utime")? * 10_000.0,
            system_us: ticks(12).context("stime")? * 10_000.0,
        })
    }

    /// CPU time that its threads of this name took, in µs.
    pub fn cpu_us_of(&self, thread: &str) -> Result<f64> {
        let mut total_ns = 0.0;
        for task in fs::read_dir(format!("/proc/{}/task", self.accounted))? {
            let task = task?.path();
            if fs::read_to_string(task.join("comm"))
                .unwrap_or_default()
                .trim()
                == thread
            {
                total_ns += schedstat_ns(&task);
            }
        }
        Ok(total_ns / 1000.0)
    }

    fn status_kib(&self, field: &str) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.accounted))?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(number.context("a line of status")?.parse()?)
    }

    /// The most memory that it had resident, in KiB.
    pub fn peak_kib(&self) -> Result<u64> {
        self.status_kib("VmHWM")
    }

    /// The memory that it has resident, in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        self.status_kib("VmRSS")
    }

    /// Whether it still runs.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("the broker ended: {status}"),
            None => Ok(()),
        }
    }

    /// What counts is the process of this name that was started by it, as soon as there is one.
    pub fn account(&mut self, name: &str) -> Result<bool> {
        for entry in fs::read_dir("/proc")? {
            let stat = fs::read_to_string(entry?.path().join("stat")).unwrap_or_default();
            let Some((pid, rest)) = stat.split_once(" (") else {
                continue;
            };
            let Some((found, rest)) = rest.rsplit_once(") ") else {
                continue;
            };
            let group = rest.split(' ').nth(2).and_then(|text| text.parse().ok());
            if found == name && group == Some(self.child.id()) {
                self.accounted = pid.parse()?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// CPU time of a thread; none if it ended meanwhile.
fn schedstat_ns(task: &Path) -> f64 {
    let text = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
    text.split(' ').next().unwrap_or("").parse().unwrap_or(0.0)
}

impl Drop for Process {
    fn drop(&mut self) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago, for brokers that can't choose one themselves.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Connects as soon as somebody listens.
pub fn connect_soon(port: u16, within: Duration) -> Result<TcpStream> {
    let begun = Instant::now();
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => return Ok(stream),
            Err(error) if begun.elapsed() > within => {
                return Err(error).context(format!("nobody listens at port {port}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}
