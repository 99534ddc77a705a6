//! `event-manager dlq`: lists, shows, replays, purges a service's dead letters.

use std::io::Write;
use std::thread::sleep;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::output::{AnswerWasNo, Out, complain, shown};
use super::target::Target;
use event_manager_client::ClientError;
use event_manager_wire::api::DeadLetter;

/// What one request looks at.
const PAGE: u64 = 100;

/// Which services have letters is told without counting more of each.
const COUNT_MAX: usize = 10_000;
const COUNTED_AT_ONCE: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Op {
    /// Show what happened to each.
    List,
    /// Show their frames too, as JSON.
    Show,
    /// Put their events back into the service's queue.
    Replay,
    /// Delete them.
    Purge,
}

#[derive(Debug, Args)]
pub(super) struct DlqArgs {
    /// What to do.
    #[arg(value_enum)]
    op: Op,
    /// The service whose dead letters to process. `list` without it shows which services have some.
    #[arg(required_if_eq_any([("op", "show"), ("op", "replay"), ("op", "purge")]))]
    service: Option<String>,
    /// Only those with this reason.
    #[arg(long)]
    reason: Option<String>,
    /// Only those whose subject begins with this.
    #[arg(long, value_name = "PREFIX")]
    subject: Option<String>,
    /// Look at no more than this many.
    #[arg(long, value_name = "N", requires = "service", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Show what would be replayed or purged, without changing anything.
    #[arg(long, requires = "service")]
    dry_run: bool,
    /// Process at most this many per second.
    #[arg(long, value_name = "N", requires = "service", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Print one JSON object per dead letter.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[allow(
    clippy::disallowed_methods,
    reason = "a rate is kept by waiting for a time"
)]
pub(super) fn run(args: &DlqArgs) -> anyhow::Result<()> {
    let Some(service) = &args.service else {
        return list_services(args);
    };
    let op = args.op.to_possible_value();
    let op = op.as_ref().map_or("list", |value| value.get_name());
    let mut client = args.target.client()?;
    let is_json = args.json || args.op == Op::Show;
    let mut out = Out::new(is_json);
    let mut left = args.limit.unwrap_or(u64::MAX);
    let (mut from, mut count) = (0, 0);
    // An event that dies again is a new letter, which must not be replayed for ever.
    let mut before = None;
    while left > 0 {
        let limit = left.min(PAGE).min(args.rate.unwrap_or(PAGE));
        let options = json!({"from": from, "limit": limit, "reason": args.reason,
            "subject": args.subject, "before": before, "dryRun": args.dry_run});
        let page = client.dead_letters(op, service, &options)?;
        if before.is_none() && page.letters_lost > 0 {
            complain(&format!(
                "{} more could not be kept since the daemon started; see EM-0504 in its log",
                page.letters_lost
            ));
        }
        before = before.or(Some(page.now_ms));
        for letter in &page.letters {
            match is_json {
                true => writeln!(out, "{}", serde_json::to_string(letter)?)?,
                false => writeln!(out, "{}", line(letter))?,
            }
        }
        count += page.letters.len();
        if let Some(why) = page.stopped {
            complain(&format!("stopped after {count}: {why}"));
            return Err(AnswerWasNo.into());
        }
        let Some(next) = page.next else {
            break;
        };
        from = next;
        left -= limit;
        if let Some(rate) = args.rate {
            sleep(Duration::from_secs_f64(
                page.letters.len() as f64 / rate as f64,
            ));
        }
    }
    Ok(())
}

/// Says how many each service has.
fn list_services(args: &DlqArgs) -> anyhow::Result<()> {
    let mut client = args.target.client()?;
    let mut out = Out::new(args.json);
    let mut hidden = 0;
    for service in client.status()?.services {
        let (mut from, mut count) = (0, 0);
        while count < COUNT_MAX {
            let options = json!({"from": from, "limit": COUNTED_AT_ONCE, "reason": args.reason,
                "subject": args.subject});
            let page = match client.dead_letters("list", &service.name, &options) {
                Ok(page) => page,
                Err(ClientError::Nak { code, .. }) if code == "forbidden" => {
                    hidden += 1;
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            count += page.letters.len();
            let Some(next) = page.next else {
                break;
            };
            from = next;
        }
        let (name, more) = (
            &service.name,
            if count < COUNT_MAX { "" } else { " or more" },
        );
        match args.json {
            _ if count == 0 => {}
            true => writeln!(out, "{}", json!({"service": name, "letters": count}))?,
            false => writeln!(out, "{}\t{count}{more}", shown(name.as_bytes()))?,
        }
    }
    if hidden > 0 {
        complain(&format!(
            "dead letters of {hidden} more services are not shown: this client may not serve them"
        ));
    }
    Ok(())
}

fn line(letter: &DeadLetter) -> String {
    let account = &letter.account;
    let [reason, subject, detail] =
        [&account.reason, &account.subject, &account.detail].map(|text| shown(text.as_bytes()));
    format!(
        "{}\t{reason}\t{subject}\tattempts {}\t{detail}",
        letter.seq, account.attempts
    )
}
