//! `event-manager acl`: what the configuration lets a client do.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::config_args::ConfigArgs;
use super::exit;
use super::output::{AnswerWasNo, Out, complain, exit_code};
use crate::config::{Loaded, SecurityConfig};
use event_manager_core::security::{Deed, request_named, request_names};
use event_manager_wire::model::SubjectPattern;

#[derive(Debug, Args)]
pub(super) struct AclArgs {
    /// The name of the client's keys; `anonymous` for peers without.
    name: String,
    /// What it would do.
    #[arg(value_parser = ["publish", "subscribe", "serve", "request"])]
    what: String,
    /// A subject, which is that of an event; for `subscribe` also what a service asks for: `prefix:TEXT`
    /// (what SUBSCRIBE TEXT means), `exact:TEXT`, `glob:TEXT`; the name of a service, or of a request
    /// such as `dlq`; `request hub` is to be a hub of the mesh.
    object: String,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Exit code 0 if it may, 1 if not.
pub(super) fn run(args: &AclArgs) -> ExitCode {
    match args.config.load() {
        Ok(loaded) => exit_code(answer(args, &loaded)),
        Err(errors) => {
            complain(&errors.to_string());
            ExitCode::from(exit::CONFIG)
        }
    }
}

fn answer(args: &AclArgs, loaded: &Loaded) -> anyhow::Result<()> {
    let (security, limits) = (&loaded.config.security, &loaded.config.limits);
    let object = &args.object;
    let pattern;
    let (deed, list) = match &*args.what {
        "publish" => (Deed::Publish(object.as_bytes()), "publish"),
        "subscribe" => {
            pattern = asked(object, limits.subject_bytes_max)?;
            (Deed::Subscribe(&pattern), "subscribe")
        }
        "serve" => (Deed::Serve(object), "services"),
        _ if object == "hub" => (Deed::BeHub, "hub"),
        _ => {
            let token = request_named(object).ok_or_else(|| {
                let known: Vec<_> = request_names().collect();
                anyhow::anyhow!("{object:?} is no request; there are {}", known.join(", "))
            })?;
            (Deed::Ask(token), "requests")
        }
    };
    let identity = SecurityConfig::identity_of(&args.name);
    let access = security.access(limits);
    let grant = access.of(&identity);
    let mut judged = match deed {
        Deed::Subscribe(pattern) => said_of(pattern),
        _ => String::new(),
    };
    if !is_known(&args.name, security) {
        let nobody = format!(
            "\n    nobody is called {:?}: this is what a key alone gives",
            args.name
        );
        judged.push_str(&nobody);
    }
    if let Err(denied) = grant.judge(&identity, deed, access.subject_bytes_max()) {
        writeln!(
            Out::new(false),
            "no: {denied}{}{judged}",
            origin_of(&grant.said_in, loaded)
        )?;
        return Err(AnswerWasNo.into());
    }
    let sources = security.sources_of(&identity, list);
    // Of its own list and its role's, those that say so alone.
    let say_so = sources.iter().filter(|(_, granted)| {
        let bytes_max = access.subject_bytes_max();
        granted.judge(&identity, deed, bytes_max).is_ok()
    });
    let named: Vec<_> = say_so.map(|(path, _)| at(path, loaded)).collect();
    let why = match named.is_empty() {
        true => format!("{} is not set", grant.said_in),
        false => named.join(" and "),
    };
    Ok(writeln!(Out::new(false), "yes: {why}{judged}")?)
}

/// Whether the configuration names this client, or has a file for it.
fn is_known(name: &str, security: &SecurityConfig) -> bool {
    let has_file = |directory: &PathBuf| directory.join(format!("{name}.key")).exists();
    let is_other = ["anonymous", "event-manager"].contains(&name);
    is_other || security.clients.names(name) || security.keys_dir.as_ref().is_some_and(has_file)
}

/// What was judged.
fn said_of(pattern: &SubjectPattern) -> String {
    let written = pattern.to_string();
    match written.strip_prefix("exact:") {
        Some(subject) => format!(
            "\n    judged: events with the subject {subject:?} alone; what a service gets by SUBSCRIBE {subject} is \"prefix:{subject}\""
        ),
        None if written.starts_with("glob:") => {
            format!("\n    judged: all events with subjects like {written:?}")
        }
        None => {
            let prefix = written.strip_prefix("prefix:").unwrap_or(&written);
            format!("\n    judged: all events whose subjects begin with {prefix:?}")
        }
    }
}

/// A subject alone is one that events have.
fn asked(written: &str, bytes_max: usize) -> anyhow::Result<SubjectPattern> {
    let dialects = ["prefix:", "exact:", "glob:"];
    let is_pattern =
        written.is_empty() || dialects.iter().any(|dialect| written.starts_with(dialect));
    let pattern = match is_pattern {
        true => SubjectPattern::parse(written, bytes_max),
        false => SubjectPattern::parse(&format!("exact:{written}"), bytes_max),
    };
    pattern.map_err(|error| anyhow::anyhow!("the subject {written:?} {error}"))
}

/// A list of the configuration, and where it stands.
fn at(path: &str, loaded: &Loaded) -> String {
    match loaded.origins.get(path) {
        Some(origin) => format!("{path} ({origin})"),
        None => format!("{path} (not set)"),
    }
}

/// The line of what is said of a client, if anything is.
fn origin_of(path: &str, loaded: &Loaded) -> String {
    let origin = loaded.origins.get(path);
    origin.map_or(String::new(), |origin| format!(" ({origin})"))
}
