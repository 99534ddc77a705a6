//! The command line: one file per subcommand.

mod acl;
mod bench;
mod bridges;
mod call;
pub mod check;
mod clients;
mod completions;
pub mod config_args;
mod dlq;
mod doctor;
mod emit;
mod engine_files;
mod events;
mod feed;
mod health;
mod instances;
mod key_args;
mod keys;
mod locator;
mod man;
mod output;
mod progress;
mod promote;
mod publish;
mod ready;
mod serve;
mod services;
mod signals;
mod standby;
mod sub;
mod subscribe;
mod tail;
mod target;
mod top;
mod worker;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};

/// Exit codes, as sysexits.h has them where it has them.
mod exit {
    /// The answer was no, or the work could not be done.
    pub(super) const FAILED: u8 = 1;
    /// No daemon answers.
    pub(super) const UNAVAILABLE: u8 = 69;
    /// The daemon doesn't admit us.
    pub(super) const TURNED_AWAY: u8 = 77;
    /// The startup guard's time was up.
    pub(super) const GUARD: u8 = 75;
    /// The lease is over under which the daemon served.
    pub(super) const RESIGNED: u8 = 76;
    /// The configuration, or a key, is wrong.
    pub(super) const CONFIG: u8 = super::check::EXIT_CONFIG;
}

/// Routes events between ZeroMQ services.
///
/// Without a subcommand it runs the daemon, as `serve` does.
#[derive(Debug, Parser)]
#[command(name = "event-manager", version, args_conflicts_with_subcommands = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::ServeArgs,
}

const EXIT_CODES: &str = "\
Exit codes: 0 success; 1 failure; 2 wrong usage; 69 no daemon answers; 75 the startup guard timed out; \
77 the daemon doesn't admit us; 78 the configuration or a key is wrong.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon.
    Serve(serve::ServeArgs),
    /// Validate the configuration and show the effective values.
    Check(check::CheckArgs),
    /// Run only a ServiceLocator.
    Locator(locator::LocatorArgs),
    /// Say that this machine serves from now on, and not the one that did (`lease.source` "hand").
    ///
    /// It asks you to confirm that the other is dead.
    Promote(promote::PromoteArgs),
    /// Publish one event, or each line of standard input as an event.
    ///
    /// Exits once the daemon has received all of them. If a connection breaks before that, or nothing
    /// is received for 10 s, it exits with code 1 and says how many may be lost.
    Pub(publish::PubArgs),
    /// Publish one event, or each line of standard input as an event, and wait until the daemon has
    /// confirmed it.
    ///
    /// Prints the daemon's answer, or how many events were confirmed. If one is not, it ends with an
    /// error: repeated with the same --id within `dedupWindow`, no event comes twice.
    Emit(emit::EmitArgs),
    /// Subscribe, and print events as a plain subscriber gets them.
    Sub(sub::SubArgs),
    /// Show passing events: subjects and sizes, optionally payloads.
    Tail(tail::TailArgs),
    /// Run as a worker of a service, and print its events.
    Worker(worker::WorkerArgs),
    /// Subscribe a service without running a worker, or change how it works.
    Subscribe(Box<subscribe::SubscribeArgs>),
    /// End a service's subscription, or some of its subjects.
    Unsubscribe(subscribe::UnsubscribeArgs),
    /// Measure the running daemon: rates, CPU time and latencies of publishing, subscribing, working and
    /// confirming.
    ///
    /// It uses subjects and services of its own, and ends those; subscribers to everything get its events,
    /// too.
    Bench(bench::BenchArgs),
    /// Publish a sync event and show each service's answer.
    Call(call::CallArgs),
    /// List the services: port, subjects, workers, queue.
    Services(services::ServicesArgs),
    /// Show who is connected with which keys, and what was denied to whom.
    Clients(clients::ClientsArgs),
    /// Show whether bridges to other brokers work, what went over them, and what waits.
    Bridges(bridges::BridgesArgs),
    /// Show instances of other programs that say by heartbeats that they live, and who of them leads.
    Instances(instances::InstancesArgs),
    /// Tell whether the configuration lets a client do something, and which line says so.
    ///
    /// It reads the configuration as `serve` does, without asking a daemon. Exit code 0 if it may, 1 if
    /// not.
    Acl(acl::AclArgs),
    /// Show live rates, queues and drops.
    Top(top::TopArgs),
    /// Diagnose configuration and daemon problems and suggest fixes.
    Doctor(doctor::DoctorArgs),
    /// List, show, replay or purge a service's dead letters.
    Dlq(dlq::DlqArgs),
    /// Make keys for CURVE, or say what is wrong with them.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Show notable events; docs/events.md explains each code.
    Events(events::EventsArgs),
    /// Check that the daemon answers and takes events: exit code 0 if it does.
    Health(health::HealthArgs),
    /// Print shell completions.
    Completions(completions::CompletionsArgs),
    /// Write the manual pages.
    #[command(hide = true)]
    Man(man::ManArgs),
}

/// Runs the command line.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    output::finish(run_command(args))
}

fn run_command(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = without_empty_variables(Cli::command());
    let matches = command.clone().try_get_matches_from(args);
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            let code = ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
            if let Err(error) = error.print() {
                return output::exit_code(Err(error.into()));
            }
            match error.kind() {
                ErrorKind::InvalidUtf8 => name_unreadable_variables(&command),
                ErrorKind::ValueValidation => name_variable(&command, &error),
                _ => {}
            }
            return code;
        }
    };
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => serve::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Locator(args) => locator::run(&args),
        Command::Promote(args) => output::exit_code(promote::run(&args)),
        Command::Pub(args) => output::exit_code(publish::run(&args)),
        Command::Emit(args) => output::exit_code(emit::run(&args)),
        Command::Sub(args) => output::exit_code(sub::run(&args)),
        Command::Tail(args) => output::exit_code(tail::run(&args)),
        Command::Worker(args) => output::exit_code(worker::run(&args)),
        Command::Subscribe(args) => output::exit_code(subscribe::subscribe(&args)),
        Command::Unsubscribe(args) => output::exit_code(subscribe::unsubscribe(&args)),
        Command::Bench(args) => output::exit_code(bench::run(&args)),
        Command::Call(args) => output::exit_code(call::run(&args)),
        Command::Services(args) => output::exit_code(services::run(&args)),
        Command::Clients(args) => output::exit_code(clients::run(&args)),
        Command::Bridges(args) => output::exit_code(bridges::run(&args)),
        Command::Instances(args) => output::exit_code(instances::run(&args)),
        Command::Acl(args) => acl::run(&args),
        Command::Top(args) => output::exit_code(top::run(&args)),
        Command::Doctor(args) => doctor::run(&args),
        Command::Dlq(args) => output::exit_code(dlq::run(&args)),
        Command::Keys(command) => keys::run(&command),
        Command::Events(args) => output::exit_code(events::run(&args)),
        Command::Health(args) => output::exit_code(health::run(&args)),
        Command::Completions(args) => output::exit_code(completions::run(&args, Cli::command())),
        Command::Man(args) => output::exit_code(man::run(&args, Cli::command())),
    }
}

/// A variable that is there but empty is as good as none, as it is for keys of the configuration:
/// containers and units are often given such.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |arg: &Arg| {
        let value = arg.get_env().and_then(std::env::var_os);
        value.is_some_and(|value| value.is_empty())
    };
    let command = command.mut_args(|arg| match is_empty(&arg) {
        true => arg.env(Resettable::Reset),
        false => arg,
    });
    command.mut_subcommands(without_empty_variables)
}

/// The variables of all commands.
fn variables(command: &clap::Command) -> BTreeSet<&OsStr> {
    let own = command.get_arguments().filter_map(Arg::get_env);
    own.chain(command.get_subcommands().flat_map(variables))
        .collect()
}

/// The parser names the flag, though the wrong value is a variable's.
fn name_variable(command: &clap::Command, error: &clap::Error) {
    let Some(ContextValue::String(wrong)) = error.get(ContextKind::InvalidValue) else {
        return;
    };
    if std::env::args().any(|arg| arg.contains(wrong)) {
        return;
    }
    let is_wrong = |name: &&OsStr| std::env::var_os(name).is_some_and(|value| value == **wrong);
    for name in variables(command).into_iter().filter(is_wrong) {
        let name = name.to_string_lossy();
        output::complain(&format!(
            "environment {name}: the value comes from there; correct it or unset the variable"
        ));
    }
}

/// The parser doesn't say where it found what is no text.
fn name_unreadable_variables(command: &clap::Command) {
    for name in variables(command) {
        if std::env::var_os(name).is_some_and(|value| value.to_str().is_none()) {
            let name = name.to_string_lossy();
            output::complain(&format!("environment {name}: its value is not UTF-8"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
