//! What the operator has run when this daemon begins to serve, and when it doesn't any more.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::ambient::now;
use crate::config::Config;
use crate::telemetry::{Journal, Notable};

/// How long one may run at most.
const HOOK_MAX: Duration = Duration::from_secs(10);
/// How often it is looked after.
const LOOK: Duration = Duration::from_millis(5);

/// What is run, and for which lease.
#[derive(Debug)]
pub struct Hook {
    /// Its key in the configuration.
    key: &'static str,
    /// The program and its arguments; none is nothing to run.
    words: Vec<String>,
    lease: String,
    token: u64,
    /// How long it may run.
    time: Duration,
}

/// A hook that runs beside the daemon, or nothing.
#[derive(Debug, Default)]
pub struct Running {
    is_unwanted: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Ends it if it still runs. When this returns, nothing of it is left that could undo what comes after.
    pub fn end(self) {
        self.is_unwanted.store(true, Ordering::Release);
        self.wait();
    }

    /// Waits until it has ended.
    pub fn wait(self) {
        // A panic there has said enough by itself.
        let _ = self.thread.map(JoinHandle::join);
    }
}

impl Hook {
    /// `lease.onLead`.
    pub fn on_lead(config: &Config, token: u64) -> Self {
        Self {
            key: "lease.onLead",
            words: config.lease.on_lead.clone(),
            lease: config.lease.name.clone(),
            token,
            time: HOOK_MAX,
        }
    }

    /// `lease.onResign`, for who has the lease still, and so may take its time.
    pub fn on_resign(config: &Config, token: u64) -> Self {
        Self {
            key: "lease.onResign",
            words: config.lease.on_resign.clone(),
            ..Self::on_lead(config, token)
        }
    }

    /// The same for who doesn't have it: another may, and begins.
    pub fn on_loss(config: &Config, token: u64) -> Self {
        let time = match config.lease.is_by_hand() {
            true => HOOK_MAX,
            false => config.lease.ttl.min(HOOK_MAX),
        };
        Self {
            time,
            ..Self::on_resign(config, token)
        }
    }

    /// Runs it to its end, which comes by force when its time is over. Its failure is noted, and changes
    /// nothing.
    pub fn run(&self, journal: &Journal) {
        self.run_unless(&AtomicBool::new(false), journal);
    }

    /// Runs it beside what comes next, once what still runs has ended.
    pub fn start_after(self, before: Running, journal: &Journal) -> Running {
        let is_unwanted = Arc::<AtomicBool>::default();
        let (seen, noted) = (Arc::clone(&is_unwanted), journal.clone());
        let (key, program) = (self.key, self.words.first().cloned());
        let thread = std::thread::Builder::new().name("hook".into());
        let started = thread.spawn(move || {
            before.wait();
            self.run_unless(&seen, &noted);
        });
        if let Err(error) = &started {
            let (program, why) = (program.unwrap_or_default(), format!("no thread: {error}"));
            journal.note(&Notable::HookFailed {
                hook: key,
                program: &program,
                why: &why,
            });
        }
        Running {
            is_unwanted,
            thread: started.ok(),
        }
    }

    /// Runs it beside what comes next.
    pub fn start(self, journal: &Journal) -> Running {
        self.start_after(Running::default(), journal)
    }

    fn run_unless(&self, is_unwanted: &AtomicBool, journal: &Journal) {
        let Some((program, arguments)) = self.words.split_first() else {
            return;
        };
        if let Err(why) = self.try_run(program, arguments, is_unwanted) {
            journal.note(&Notable::HookFailed {
                hook: self.key,
                program,
                why: &why,
            });
        }
    }

    fn try_run(
        &self,
        program: &str,
        arguments: &[String],
        is_unwanted: &AtomicBool,
    ) -> Result<(), String> {
        if is_unwanted.load(Ordering::Acquire) {
            return Err("it was not run: this daemon doesn't serve any more".into());
        }
        let begun = now();
        // In a group of its own, so that what it has started can be ended with it.
        let child = Command::new(program)
            .args(arguments)
            .env("LEASE_NAME", &self.lease)
            .env("LEASE_TOKEN", self.token.to_string())
            .stdin(Stdio::null())
            .process_group(0)
            .spawn();
        let mut child = child.map_err(|error| format!("it can't be run: {error}"))?;
        loop {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("it ended with {status}")),
                Ok(None) if is_unwanted.load(Ordering::Acquire) => {
                    end(&mut child);
                    return Err("it was ended: this daemon doesn't serve any more".into());
                }
                Ok(None) if now().saturating_duration_since(begun) < self.time => rest(),
                Ok(None) => {
                    end(&mut child);
                    return Err(format!("it was ended after {:?}", self.time));
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

/// Ends it, with what it has started.
fn end(child: &mut Child) {
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    let _ = child.kill().and_then(|()| child.wait());
}

#[allow(clippy::disallowed_methods, reason = "a child's end has no channel")]
fn rest() {
    std::thread::sleep(LOOK);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn hook(script: &str) -> Hook {
        Hook {
            key: "lease.onLead",
            words: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            lease: "x".into(),
            token: 7,
            time: HOOK_MAX,
        }
    }

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Whether a process does anything any more: nobody may have asked how it ended.
    fn lives(process: &str) -> bool {
        let stat = text(Path::new(&format!("/proc/{}/stat", process.trim())));
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
    }

    #[test]
    fn what_is_ended_does_nothing_afterwards() {
        let directory = tempfile::tempdir().unwrap();
        let note = directory.path().join("note");
        let at = note.display();
        let script =
            format!("sleep 60 & echo $! > {at}.new; mv {at}.new {at}; wait; echo up > {at}");
        let running = hook(&script).start(&Journal::in_memory("x".into()));
        while text(&note).is_empty() {
            rest();
        }
        let begun = now();
        running.end();
        assert!(begun.elapsed() < HOOK_MAX / 2);
        let process = text(&note);
        assert_ne!(process, "up\n");
        while lives(&process) {
            assert!(begun.elapsed() < HOOK_MAX, "{process} goes on");
            rest();
        }
    }

    #[test]
    fn one_waits_for_the_one_before_and_is_not_run_if_it_is_unwanted_by_then() {
        let directory = tempfile::tempdir().unwrap();
        let note = directory.path().join("note");
        let at = note.display();
        let journal = Journal::in_memory("x".into());
        let gate = directory.path().join("gate");
        let waits = format!(
            "until [ -e {} ]; do sleep 0.01; done; echo 1 >> {at}",
            gate.display()
        );
        let second = hook(&format!("echo 2 >> {at}"));
        let second = second.start_after(hook(&waits).start(&journal), &journal);
        fs::write(&gate, "").unwrap();
        second.wait();
        assert_eq!(text(&note), "1\n2\n");
        fs::remove_file(&gate).unwrap();
        let third = hook(&format!("echo 3 >> {at}"));
        let third = third.start_after(hook(&waits).start(&journal), &journal);
        third.is_unwanted.store(true, Ordering::Release);
        fs::write(&gate, "").unwrap();
        third.end();
        assert_eq!(text(&note), "1\n2\n1\n");
    }

    #[test]
    fn one_that_has_ended_is_known_by_what_it_did() {
        let directory = tempfile::tempdir().unwrap();
        let note = directory.path().join("note");
        let script = format!("echo $LEASE_NAME $LEASE_TOKEN > {}", note.display());
        hook(&script).run(&Journal::in_memory("x".into()));
        assert_eq!(text(&note), "x 7\n");
    }
}
