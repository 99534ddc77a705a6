//! A process with the class that isn't ours, and what it wrote down.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::super::server::installed;
use super::super::support::program::wait_until;

/// The file with the class, which whoever runs this has.
pub fn file() -> PathBuf {
    let file = std::env::var_os("EVENT_MANAGER_SCHEDULER_FILE").filter(|file| !file.is_empty());
    let file = file.map(PathBuf::from).filter(|file| file.is_file());
    file.expect(
        "EVENT_MANAGER_SCHEDULER_FILE names no file. Run `just schedulers FILE`; FILE is the module of ScheduleZero \
         that has its class ZMQEventBroker, which is not part of this project",
    )
}

/// What it looked like at a time.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// By the monotonic clock of the machine.
    pub at_ns: u64,
    /// Since 1970.
    pub wall_ms: u64,
    pub leads: bool,
}

/// All looks of one process.
#[derive(Debug, Default)]
pub struct Run {
    pub pid: i64,
    pub started_ns: u64,
    pub looks: Vec<Look>,
}

/// The process, which ends with this.
pub struct Instance {
    pub id: String,
    pub publishes: String,
    subscribes: String,
    interval: u64,
    has_pids_of_its_own: bool,
    log: PathBuf,
    pid: i64,
    child: Option<Child>,
}

impl Instance {
    /// In a namespace of process ids of its own it has the number 1, as all that are so.
    pub fn start(
        log: &Path,
        id: &str,
        (publishes, subscribes): (String, String),
        interval: u64,
        has_pids_of_its_own: bool,
    ) -> Self {
        let mut instance = Self {
            id: id.into(),
            publishes,
            subscribes,
            interval,
            has_pids_of_its_own,
            log: log.join(id),
            pid: 0,
            child: None,
        };
        instance.run();
        instance
    }

    fn run(&mut self) {
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/engines/scheduler_instance.py"
        );
        let python = installed("venv/bin/python");
        let mut command = match self.has_pids_of_its_own {
            true => {
                let mut command = Command::new("unshare");
                command
                    .args(["--pid", "--fork", "--kill-child"])
                    .arg(python);
                command
            }
            false => Command::new(python),
        };
        let runs = self.runs().len();
        let child = command
            .args([script.as_ref(), file().as_os_str()])
            .args([&*self.publishes, &*self.subscribes, &*self.id])
            .arg(self.interval.to_string())
            .arg(&self.log)
            .stdin(Stdio::piped())
            .spawn();
        self.child = Some(child.expect("python, and unshare"));
        let looking = wait_until(|| {
            let run = self.runs().into_iter().nth(runs);
            run.filter(|run| !run.looks.is_empty())
        });
        self.pid = looking.expect("it runs").pid;
    }

    /// Its process id, as it knows that itself.
    pub fn pid(&self) -> i64 {
        self.pid
    }

    /// SIGKILL, and once more with the same id.
    pub fn restart(&mut self) {
        self.kill();
        self.run();
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// What its processes wrote down, one after the other.
    pub fn runs(&self) -> Vec<Run> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let mut runs = Vec::<Run>::new();
        // The last line may be half there.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        for line in text[..whole].lines() {
            let words: Vec<_> = line.split(' ').collect();
            let number = |word: &str| word.parse::<u64>().expect("a number");
            match (&words[..], runs.last_mut()) {
                (["started", pid, at], _) => runs.push(Run {
                    pid: pid.parse().expect("a number"),
                    started_ns: number(at),
                    looks: vec![],
                }),
                ([at, wall, leads], Some(run)) => run.looks.push(Look {
                    at_ns: number(at),
                    wall_ms: number(wall),
                    leads: *leads == "1",
                }),
                _ => {}
            }
        }
        runs
    }

    /// Whether it led when it looked last.
    pub fn leads(&self) -> bool {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = std::fs::File::open(&self.log).expect("its log");
        let length = file.metadata().expect("a length").len();
        file.seek(SeekFrom::Start(length.saturating_sub(200)))
            .expect("a place");
        let mut end = String::new();
        file.read_to_string(&mut end).expect("text");
        let whole = end.rfind('\n').map_or(0, |end| end + 1);
        end[..whole]
            .lines()
            .next_back()
            .is_some_and(|line| line.ends_with(" 1"))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill();
    }
}
