//! The flags that every subcommand with a configuration has.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::config::{Config, ConfigErrors, KEYS, Key, Loaded, Sources, suggestion};
use crate::telemetry::LOG_KEYS;

const HEADING: &str = "Configuration";

/// The keys that have a flag of their own.
const FLAGS: &[(&str, &str)] = &[
    ("pub-address", "pubAddress"),
    ("sub-address", "subAddress"),
    ("request-address", "requestAddress"),
    ("connect-publishers", "connectPublishers"),
    ("pull-address", "pullAddress"),
    ("min-streamer-port", "minStreamerPort"),
    ("max-streamer-port", "maxStreamerPort"),
    ("public-hostname", "publicHostname"),
    ("locator-address", "locatorAddress"),
    ("embedded-locator", "embeddedLocator"),
    ("locator-register", "locatorRegister"),
    ("startup-guard", "startupGuard"),
    ("diagnostic-monitor", "diagnosticMonitor"),
    ("diagnostic-interval", "diagnosticInterval"),
    ("subscription-ttl", "subscriptionTtl"),
    ("drain-timeout", "drainTimeout"),
    ("log-path", "logPath"),
];

/// `--config`, a flag for each of the most used keys, and `--set` for all of them.
#[derive(Debug, Clone, Default)]
pub struct ConfigArgs {
    path: Option<PathBuf>,
    values: Vec<(&'static str, String)>,
}

impl ConfigArgs {
    /// Reads the configuration from the file, the environment and these flags.
    ///
    /// # Errors
    /// Everything that is wrong in any of them.
    pub fn load(&self) -> Result<Loaded, ConfigErrors> {
        let sources = Sources::from_env(self.path.clone(), self.values.clone());
        Loaded::load(&sources)
    }
}

impl Args for ConfigArgs {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("PATH")
            .value_parser(clap::value_parser!(PathBuf))
            .help("The configuration file [environment: CONFIG_PATH; default: ./config.json]");
        let flags = FLAGS
            .iter()
            .filter_map(|(flag, name)| Some(arg(flag, key_named(name)?)));
        let set = Arg::new("set")
            .long("set")
            .value_name("KEY=VALUE")
            .value_parser(key_and_value)
            .action(ArgAction::Append)
            .help("Any key, such as limits.maxMessageBytes=1000000");
        let all = [config].into_iter().chain(flags).chain([set]);
        command.args(all.map(|arg| arg.help_heading(HEADING)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ConfigArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flags = FLAGS.iter().filter_map(|(_, name)| {
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

fn key_named(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

fn arg(flag: &'static str, key: &'static Key) -> Arg {
    let arg = Arg::new(key.name)
        .long(flag)
        .value_name("VALUE")
        .help(key.about);
    if (key.show)(&Config::default()).is_boolean() {
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
    let all = || {
        let log = LOG_KEYS.iter().map(|key| key.full_name);
        KEYS.iter().map(|key| key.name).chain(log)
    };
    match all().find(|key| *key == name.trim()) {
        Some(key) => Ok((key, value.to_owned())),
        None => {
            let hint = suggestion(name, all());
            Err(format!("unknown key {name:?}{hint}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

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
        for (_, name) in FLAGS {
            assert!(key_named(name).is_some(), "{name}");
        }
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
