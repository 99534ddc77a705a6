//! The flags that every subcommand with a configuration has.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::config::{ConfigErrors, KEYS, Key, Loaded, Sources, suggestion};
use crate::telemetry::check_rust_log;

const HEADING: &str = "Configuration";

/// A flag, its key, and what it means.
struct Flag(&'static str, &'static str, &'static str);

/// The keys that have a flag of their own.
#[rustfmt::skip]
const FLAGS: &[Flag] = &[
    Flag("pub-address", "pubAddress", "publishers connect here; one address or a list"),
    Flag("sub-address", "subAddress", "subscribers connect here; one address or a list"),
    Flag("request-address", "requestAddress", "requests come in here; one address or a list"),
    Flag("connect-publishers", "connectPublishers", "publishers that bind: the daemon connects to them"),
    Flag("pull-address", "pullAddress", "services' sockets bind here, on ports of the range"),
    Flag("min-streamer-port", "minStreamerPort", "first port for services; 0 (with maxStreamerPort 0) lets the system choose each"),
    Flag("max-streamer-port", "maxStreamerPort", "last port for services; ports in use are skipped"),
    Flag("public-hostname", "publicHostname", "host in the addresses that clients are given"),
    Flag("locator-address", "locatorAddress", "where the ServiceLocator is"),
    Flag("embedded-locator", "embeddedLocator", "run a ServiceLocator in the daemon, at locatorAddress; if that is taken, the one that runs there is used"),
    Flag("locator-register", "locatorRegister", "register with the ServiceLocator"),
    Flag("startup-guard", "startupGuard", "before binding, wait until a predecessor that the locator knows is gone"),
    Flag("diagnostic-monitor", "diagnosticMonitor", "write a diagnostic record to the log at each diagnosticInterval"),
    Flag("diagnostic-interval", "diagnosticInterval", "seconds between diagnostic records"),
    Flag("subscription-ttl", "subscriptionTtl", "seconds that a subscription lives without a keep-alive"),
    Flag("drain-timeout", "drainTimeout", "seconds that stopping may take"),
    Flag("log-path", "logPath", "file of the log configuration; without it, \"log\" in config.json"),
];

/// Keys of which a bare flag means true.
const SWITCHES: [&str; 4] = [
    "embeddedLocator",
    "locatorRegister",
    "startupGuard",
    "diagnosticMonitor",
];

/// `--config`, a flag for each of the most used keys, and `--set` for all of them.
#[derive(Debug, Clone, Default)]
pub struct ConfigArgs {
    path: Option<PathBuf>,
    values: Vec<(&'static str, String)>,
}

impl ConfigArgs {
    /// Reads the configuration from the file, the environment and these flags, and `RUST_LOG`.
    ///
    /// # Errors
    /// Everything that is wrong in any of them.
    pub fn load(&self) -> Result<Loaded, ConfigErrors> {
        let sources = Sources::from_env(self.path.clone(), self.values.clone());
        let loaded = Loaded::load(&sources);
        let Err(error) = check_rust_log(std::env::var("RUST_LOG").ok()) else {
            return loaded;
        };
        let mut errors = loaded.err().map_or(vec![], |errors| errors.0);
        errors.push(error.to_string());
        Err(ConfigErrors(errors))
    }
}

impl Args for ConfigArgs {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("PATH")
            .value_parser(clap::value_parser!(PathBuf))
            .help("The configuration file [environment: CONFIG_PATH; default: ./config.json]");
        let set = Arg::new("set")
            .long("set")
            .value_name("KEY=VALUE")
            .value_parser(key_and_value)
            .action(ArgAction::Append)
            .help("Any key, such as limits.maxMessageBytes=1000000");
        let all = [config]
            .into_iter()
            .chain(FLAGS.iter().map(arg))
            .chain([set]);
        command.args(all.map(|arg| arg.help_heading(HEADING)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ConfigArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flags = FLAGS.iter().filter_map(|Flag(_, name, _)| {
            let value = matches.get_one::<String>(name)?;
            Some((*name, value.clone()))
        });
        let set = matches.get_many::<(&'static str, String)>("set");
        Ok(Self {
            path: matches.get_one::<PathBuf>("config").cloned(),
            values: flags.chain(set.unwrap_or_default().cloned()).collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn arg(Flag(flag, key, about): &Flag) -> Arg {
    let arg = Arg::new(*key).long(*flag).value_name("VALUE").help(*about);
    if SWITCHES.contains(key) {
        // A bare `--embedded-locator` reads as it is meant.
        arg.num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
    } else {
        arg
    }
}

fn key_and_value(written: &str) -> Result<(&'static str, String), String> {
    let (name, value) = written.split_once('=').ok_or("write KEY=VALUE")?;
    let name = name.trim();
    let unknown = || {
        let hint = suggestion(name, KEYS.iter().map(|key| &*key.name));
        format!("unknown key {name:?}{hint}")
    };
    Ok((Key::named(name).ok_or_else(unknown)?, value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::Config;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        config: ConfigArgs,
    }

    fn values(arguments: &[&str]) -> Vec<(&'static str, String)> {
        let line = [&["event-manager"], arguments].concat();
        Line::try_parse_from(line).unwrap().config.values
    }

    #[test]
    fn flags_become_keys() {
        assert_eq!(values(&[]), []);
        assert_eq!(
            values(&[
                "--sub-address",
                "tcp://*:1",
                "--embedded-locator",
                "--startup-guard=no"
            ]),
            [
                ("subAddress", "tcp://*:1".into()),
                ("embeddedLocator", "true".into()),
                ("startupGuard", "no".into())
            ]
        );
        assert_eq!(
            values(&[
                "--set",
                "limits.maxMessageParts=5",
                "--set",
                "publicHostname=a=b"
            ]),
            [
                ("limits.maxMessageParts", "5".into()),
                ("publicHostname", "a=b".into())
            ]
        );
    }

    #[test]
    fn wrong_flags_are_refused_with_a_hint() {
        ConfigArgs::augment_args(Command::new("event-manager")).debug_assert();
        for Flag(_, name, _) in FLAGS {
            assert!(Key::named(name).is_some(), "{name}");
        }
        let defaults = Config::default().shown();
        let flags = FLAGS
            .iter()
            .filter(|Flag(_, name, _)| defaults[name].is_boolean());
        assert!(flags.map(|Flag(_, name, _)| *name).eq(SWITCHES));
        for (wrong, hint) in [
            (&["--set", "x"][..], "write KEY=VALUE"),
            (
                &["--set", "drainTimeuot=1"],
                "did you mean \"drainTimeout\"?",
            ),
            (&["--sub-adress", "x"], "--sub-address"),
            (&["--sub-address"], "value is required"),
        ] {
            let line = [&["event-manager"], wrong].concat();
            let Err(error) = Line::try_parse_from(line) else {
                panic!("{wrong:?} is taken")
            };
            assert!(error.to_string().contains(hint), "{error}");
        }
    }
}
