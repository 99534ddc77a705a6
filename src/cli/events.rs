//! `event-manager events`: notable events, from the daemon or from its file.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::Value;

use super::output::{Out, complain, shown};
use super::signals::{StopFlag, until_terminated};
use super::target::Target;
use crate::config::{Loaded, Sources};
use crate::telemetry::{KINDS, RING_MAX, printable_json, read_events};
use event_manager_client::ClientError;
use event_manager_client::blocking::Client;
use event_manager_wire::api::{EventsPage, NotableEvent};

/// Between two questions of `--follow`.
const POLL: Duration = Duration::from_millis(200);
/// How long `--follow` waits for an answer: it has to end soon after a signal.
const FOLLOW_WAIT: Duration = Duration::from_secs(1);

fn codes() -> PossibleValuesParser {
    KINDS.iter().map(|kind| kind.code).into()
}

fn names() -> PossibleValuesParser {
    KINDS.iter().map(|kind| kind.name).into()
}

#[derive(Debug, Clone, Args)]
pub(super) struct EventsArgs {
    /// Keep printing new events until interrupted.
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    filter: Filter,
    /// Show only the latest events, this many.
    #[arg(short = 'n', long, value_name = "EVENTS", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print each event as a JSON object.
    #[arg(long)]
    json: bool,
    /// Read this file and its rotated predecessors instead of asking the daemon.
    #[arg(long, value_name = "PATH", conflicts_with = "follow")]
    file: Option<PathBuf>,
    /// The configuration that names the file to read if no daemon answers.
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Clone, Args)]
struct Filter {
    /// Only events with this code; may be repeated.
    #[arg(long = "code", value_name = "EM-nnnn", value_parser = codes(), hide_possible_values = true, ignore_case = true)]
    codes: Vec<String>,
    /// Only events of this type; may be repeated.
    #[arg(long = "type", value_name = "TYPE", value_parser = names(), hide_possible_values = true)]
    types: Vec<String>,
    /// Only events of this service; may be repeated.
    #[arg(long = "service", value_name = "SERVICE")]
    services: Vec<String>,
}

impl Filter {
    fn wants(&self, event: &NotableEvent) -> bool {
        let has = |wanted: &[String], value: &str| wanted.iter().any(|one| one == value);
        let mut services = ["service", "queue"].iter().filter_map(|f| event.text(f));
        (self.types.is_empty() || has(&self.types, &event.name))
            && (self.services.is_empty() || services.any(|value| has(&self.services, value)))
            && (self.codes.is_empty() || has(&self.codes, &event.code))
    }
}

pub(super) fn run(args: &EventsArgs) -> anyhow::Result<()> {
    let mut args = args.clone();
    for code in &mut args.filter.codes {
        code.make_ascii_uppercase();
    }
    if let Some(path) = args.file.clone() {
        return args.print_file(&path);
    }
    let mut client = args.target.client()?;
    let cursor = match client.events(None, RING_MAX) {
        Ok(page) => {
            args.print_latest(&page.events)?;
            Cursor::of(&page)
        }
        Err(ClientError::NoAnswer(address)) => {
            args.print_without_daemon(&address)?;
            Cursor::default()
        }
        Err(error) => return Err(error.into()),
    };
    if !args.follow {
        return Ok(());
    }
    let wait = args.target.wait().min(FOLLOW_WAIT);
    let client = Client::new(client.address(), wait).with_keys(args.target.keys()?);
    until_terminated(move |stop| args.follow(client, cursor, &stop))
}

/// How far a daemon's events were seen.
#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    /// Which run of the daemon.
    started_ms: u64,
    after: u64,
}

impl Cursor {
    fn of(page: &EventsPage) -> Self {
        Self {
            started_ms: page.started_ms,
            after: page.events_after,
        }
    }
}

impl EventsArgs {
    fn print(&self, event: &NotableEvent) -> io::Result<()> {
        let mut out = Out::new(self.json);
        let line = match self.json {
            true => serde_json::to_string(event)?,
            false => line(event),
        };
        writeln!(out, "{line}")?;
        out.flush()
    }

    fn print_latest(&self, events: &[NotableEvent]) -> io::Result<()> {
        let wanted = events.iter().filter(|event| self.filter.wants(event));
        let wanted: Vec<_> = wanted.collect();
        let count = self.count_max(wanted.len());
        let latest = &wanted[wanted.len() - count..];
        latest.iter().try_for_each(|event| self.print(event))
    }

    fn count_max(&self, of: usize) -> usize {
        let count = self.count.and_then(|count| usize::try_from(count).ok());
        count.map_or(of, |count| count.min(of))
    }

    /// Nobody answers, so it is the file that tells.
    fn print_without_daemon(&self, address: &str) -> anyhow::Result<()> {
        let loaded = Loaded::load(&Sources::from_env(self.config.clone(), vec![]))?;
        let no_answer = || ClientError::NoAnswer(address.to_owned());
        let path = loaded.config.event_log_path();
        match path.filter(|path| path.exists()) {
            Some(path) => {
                complain(&format!(
                    "no event manager answers at {address}; reading {}",
                    path.display()
                ));
                self.print_file(&path)
            }
            None if self.follow => {
                complain(&format!(
                    "no event manager answers at {address}; waiting for it"
                ));
                Ok(())
            }
            None => Err(no_answer().into()),
        }
    }

    fn print_file(&self, path: &Path) -> anyhow::Result<()> {
        let mut latest = VecDeque::new();
        let context = || format!("{} can't be read", path.display());
        let count = self.count_max(usize::MAX);
        let read = read_events(path, |event| {
            if !self.filter.wants(&event) {
                return Ok(());
            }
            if self.count.is_none() {
                return self.print(&event);
            }
            if latest.len() == count {
                latest.pop_front();
            }
            latest.push_back(event);
            Ok(())
        });
        match read {
            // Whoever read our output has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(error.into()),
            read => read.with_context(context)?,
        }
        Ok(latest.iter().try_for_each(|event| self.print(event))?)
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "the daemon is asked again after a time"
    )]
    fn follow(
        &self,
        mut client: Client,
        mut cursor: Cursor,
        stop: &StopFlag,
    ) -> anyhow::Result<()> {
        let mut is_there = true;
        while !stop.is_set() {
            let page = match client.events(Some(cursor.after), RING_MAX) {
                Ok(page) => page,
                Err(ClientError::NoAnswer(address)) => {
                    if std::mem::take(&mut is_there) {
                        complain(&format!(
                            "no event manager answers at {address}; waiting for it"
                        ));
                    }
                    sleep(POLL);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            is_there = true;
            if page.started_ms != cursor.started_ms {
                // Another run, whose numbers begin anew.
                cursor = Cursor {
                    started_ms: page.started_ms,
                    after: 0,
                };
                continue;
            }
            if page.missed > 0 {
                complain(&format!(
                    "{} events came too fast to follow; the file has them",
                    page.missed
                ));
            }
            for event in page.events.iter().filter(|event| self.filter.wants(event)) {
                self.print(event)?;
            }
            let is_latest = page.events_after == page.latest;
            cursor = Cursor::of(&page);
            if is_latest {
                sleep(POLL);
            }
        }
        Ok(())
    }
}

/// An event on a line: what all have, the sentence, and the fields that it doesn't say.
fn line(event: &NotableEvent) -> String {
    /// The sentence says them.
    const SAID: [&str; 2] = ["why", "how"];
    let text = |text: &str| shown(text.as_bytes());
    let mut line = format!(
        "{} {:5} {} {}: {}",
        text(&event.ts),
        text(&event.level).to_uppercase(),
        text(&event.code),
        text(&event.name),
        text(&event.message)
    );
    let fields = event.fields.iter();
    let rest = fields.filter(|(name, _)| !SAID.contains(&name.as_str()));
    for (name, value) in rest {
        let value = match value {
            Value::String(text) if !text.is_empty() && !text.contains([' ', '"', '=']) => {
                shown(text.as_bytes())
            }
            value => printable_json(&value.to_string()).into_owned(),
        };
        line.push_str(&format!(" {}={value}", shown(name.as_bytes())));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(value: Value) -> NotableEvent {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_event_is_shown_on_one_line_without_control_characters() {
        let dead = event(json!({
            "ts": "2026-11-21T15:44:04.123Z", "code": "EM-0302", "type": "dead-letter",
            "level": "warn", "instance": "x@y/1", "seq": 3, "message": "it is dead", "why": "said",
            "service": "Billing", "subject": "a\u{1b}[2J\u{9b}", "attempts": 8, "detail": "no\nway",
        }));
        assert_eq!(
            line(&dead),
            "2026-11-21T15:44:04.123Z WARN  EM-0302 dead-letter: it is dead attempts=8 \
             detail=no\\nway service=Billing subject=a\\u{1b}[2J\\u{9b}"
        );
    }

    #[test]
    fn filters_are_combined() {
        let of = |code: &str, name: &str, service: &str| {
            event(json!({"code": code, "type": name, "queue": service}))
        };
        let filter = |codes: &[&str], types: &[&str], services: &[&str]| {
            let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
            Filter {
                codes: owned(codes),
                types: owned(types),
                services: owned(services),
            }
        };
        let failed = of("EM-0501", "store-failed", "Billing");
        assert!(filter(&[], &[], &[]).wants(&failed));
        assert!(filter(&["EM-0101", "EM-0501"], &["store-failed"], &["Billing"]).wants(&failed));
        assert!(!filter(&["EM-0101"], &["store-failed"], &[]).wants(&failed));
        assert!(!filter(&[], &["stopped"], &[]).wants(&failed));
        assert!(!filter(&[], &[], &["Kitchen"]).wants(&failed));
    }
}
