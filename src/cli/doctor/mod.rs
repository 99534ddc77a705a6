//! `event-manager doctor`: what is wrong with the configuration and the running daemon, and what
//! mends it.
//!
//! `facts` gathers; the checks are functions of what it found, one file for each group.

mod bridges;
mod configuration;
mod facts;
mod finding;
mod instances;
mod lease;
mod listeners;
mod machine;
mod publishers;
mod security;
mod services;
mod subscriptions;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::config_args::ConfigArgs;
use super::exit;
use super::key_args::KeyArgs;
use super::output::{Out, exit_code, safe};
use super::standby::StandsBy;
use super::target::{address, seconds};
use event_manager_wire::model::Endpoint;
use facts::Facts;
use finding::{Code, Finding, Severity};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Warn if less space is free on the disk of stateDir [default: a tenth, at most 1 GiB]
    #[arg(long, value_name = "BYTES")]
    min_disk_free: Option<u64>,
    /// The daemon's request address [default: that of the configuration]
    #[arg(long, env = "EVENT_MANAGER_ADDRESS", value_name = "ADDRESS", value_parser = address)]
    address: Option<String>,
    #[command(flatten)]
    keys: KeyArgs,
    /// Seconds to wait for each answer.
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS", value_parser = seconds)]
    wait: f64,
}

/// Prints what is wrong. Code 0 if there is nothing above a note, 1 if there is, 69 if no daemon
/// answers and none stands by, 77 if it doesn't admit us.
pub(super) fn run(args: &DoctorArgs) -> ExitCode {
    let given = match args.keys.given() {
        Ok(given) => given,
        Err(error) => return exit_code(Err(error.into())),
    };
    let facts = Facts::gather(
        args.config.load(),
        (args.address.clone(), given),
        Duration::from_secs_f64(args.wait),
        args.min_disk_free,
    );
    let findings = check(&facts);
    let report = match args.json {
        true => format!("{:#}\n", as_json(&facts, &findings)),
        false => as_text(&facts, &findings),
    };
    if let Err(error) = Out::new(args.json).write_all(report.as_bytes()) {
        return exit_code(Err(error.into()));
    }
    match (&facts.status, findings.first()) {
        (Err(_), _) if facts.turned_away.is_some() || facts.is_forbidden => {
            ExitCode::from(exit::TURNED_AWAY)
        }
        (Err(_), _) if facts.standby.is_none() => ExitCode::from(exit::UNAVAILABLE),
        (_, Some(worst)) if worst.severity > Severity::Note => ExitCode::from(exit::FAILED),
        _ => ExitCode::SUCCESS,
    }
}

/// All findings, the worst first.
fn check(facts: &Facts) -> Vec<Finding> {
    let mut found = configuration::check(facts);
    match &facts.status {
        Err(why) => found.push(match (facts.turned_away, &facts.standby) {
            (Some(told), _) => security::shut_out(&facts.address, why, told),
            (None, Some(stands_by)) => standby(facts, stands_by),
            (None, None) if facts.is_forbidden => security::untold(&facts.address, why),
            (None, None) => no_daemon(facts, why),
        }),
        Ok(status) => {
            found.extend(services::check(status, &facts.letters));
            found.extend(subscriptions::check(status));
            found.extend(machine::check(status));
            let loaded = facts.config.as_ref().ok();
            found.extend(
                loaded.and_then(|loaded| machine::check_kept(status, &loaded.config.state_dir)),
            );
            found.extend(publishers::check(status));
            found.extend(security::check(status));
            found.extend(bridges::check(status, &facts.bridges_down_since));
            found.extend(instances::check(status));
            found.extend(lease::check(status));
        }
    }
    let disk = facts.disk.as_ref();
    found.extend(disk.and_then(|disk| machine::check_disk(disk, facts.disk_free_min)));
    found.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    found
}

fn standby(facts: &Facts, stands_by: &StandsBy) -> Finding {
    let obstacles = [
        (Code::OtherDirectory, &stands_by.other_directory),
        (Code::DiskNearlyFull, &stands_by.full_disk),
    ];
    let obstacle = obstacles
        .into_iter()
        .find_map(|(code, why)| Some((code, why.as_ref()?)));
    if let Some((code, why)) = obstacle {
        let mend = "what the sentence names; it is looked at again and again, so nothing has to be restarted";
        return Finding::new(Severity::Error, code, "stateDir", why, mend);
    }
    let reason = &stands_by.reason;
    let text = format!("the daemon takes no requests: {reason}");
    let mend = "nothing; ask the daemon that serves for the rest: --address";
    Finding::new(Severity::Note, Code::StandsBy, &facts.address, text, mend)
}

fn no_daemon(facts: &Facts, why: &str) -> Finding {
    let port = facts
        .address
        .parse::<Endpoint>()
        .ok()
        .and_then(|e| e.port());
    let holder = facts
        .listening
        .iter()
        .find(|socket| Some(socket.port) == port);
    let seen = match holder.map(|socket| &socket.process) {
        None => "nothing listens on that port of this machine".to_owned(),
        Some(Some(process)) => format!("process {} ({}) listens there", process.pid, process.name),
        Some(None) => "something listens there".to_owned(),
    };
    let mend = match holder {
        None => "start it (`event-manager serve`), or give its address: --address or EVENT_MANAGER_ADDRESS".to_owned(),
        Some(_) => "check whether that is the daemon and what its log says; otherwise give its address: --address or EVENT_MANAGER_ADDRESS".to_owned(),
    };
    let text = format!("{why}; {seen}");
    Finding::new(Severity::Error, Code::NoDaemon, &facts.address, text, mend)
}

fn count(findings: &[Finding], severity: Severity) -> usize {
    let such = findings
        .iter()
        .filter(|finding| finding.severity == severity);
    such.count()
}

fn as_text(facts: &Facts, findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let (severity, code) = (finding.severity.name(), finding.code.text());
        let (about, what) = (safe(&finding.about), safe(&finding.text));
        let _ = writeln!(text, "{severity} {code} {about}: {what}");
        let _ = writeln!(text, "    fix: {}", safe(&finding.mend));
    }
    if findings.is_empty() {
        let _ = writeln!(
            text,
            "no problems found with the daemon at {}",
            facts.address
        );
    } else {
        let [errors, warnings, notes] =
            [Severity::Error, Severity::Warning, Severity::Note].map(|s| count(findings, s));
        let _ = writeln!(
            text,
            "errors {errors}, warnings {warnings}, notes {notes}; docs/operations.md explains each code"
        );
    }
    text
}

fn as_json(facts: &Facts, findings: &[Finding]) -> Value {
    let daemon = facts.status.as_ref().ok().map(|status| {
        json!({"version": status.version, "pid": status.pid, "uptimeSeconds": status.uptime_seconds})
    });
    json!({
        "address": facts.address,
        "daemon": daemon,
        "errors": count(findings, Severity::Error),
        "warnings": count(findings, Severity::Warning),
        "notes": count(findings, Severity::Note),
        "findings": findings.iter().map(Finding::to_json).collect::<Vec<_>>(),
    })
}
