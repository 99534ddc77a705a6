//! What the operator has run when this daemon begins to serve, and when it doesn't any more.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::ambient::now;
use crate::telemetry::{Journal, Notable};

/// How long one may run.
const HOOK_MAX: Duration = Duration::from_secs(10);
/// How often it is looked after.
const LOOK: Duration = Duration::from_millis(5);

/// Runs it to its end, which comes by force after 10 s. Its failure is noted, and changes nothing.
pub fn run_hook(
    key: &'static str,
    words: &[String],
    (name, token): (&str, u64),
    journal: &Journal,
) {
    let Some((program, arguments)) = words.split_first() else {
        return;
    };
    let failed = |why: &str| {
        journal.note(&Notable::HookFailed {
            hook: key,
            program,
            why,
        });
    };
    let begun = now();
    let child = Command::new(program)
        .args(arguments)
        .env("LEASE_NAME", name)
        .env("LEASE_TOKEN", token.to_string())
        .stdin(Stdio::null())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return failed(&format!("it can't be run: {error}")),
    };
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return,
            Ok(Some(status)) => return failed(&format!("it ended with {status}")),
            Ok(None) if now().saturating_duration_since(begun) < HOOK_MAX => rest(),
            Ok(None) => {
                let _ = child.kill().and_then(|()| child.wait());
                return failed(&format!("it was ended after {HOOK_MAX:?}"));
            }
            Err(error) => return failed(&error.to_string()),
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a child's end has no channel")]
fn rest() {
    std::thread::sleep(LOOK);
}
