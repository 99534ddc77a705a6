//! `event-manager check`: is the configuration valid, and what does it amount to?

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value, json};

use super::config_args::ConfigArgs;
use crate::config::{ConfigErrors, KEYS, Loaded, Origin};
use crate::telemetry::{LOG_KEYS, LoadedLog, check_rust_log};

/// EX_CONFIG of sysexits.h.
pub const EXIT_CONFIG: u8 = 78;

/// Validates the configuration and prints each value with its origin.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The sources.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Print one JSON object: {"KEY": {"value": …, "origin": …}, …}
    #[arg(long)]
    pub json: bool,
}

/// Prints the effective configuration to standard output, or what is wrong to standard error (exit
/// code 78).
pub fn run(args: &CheckArgs) -> ExitCode {
    match rows(args) {
        Ok(rows) => {
            let report = if args.json {
                as_json(rows)
            } else {
                as_text(&rows)
            };
            // A reader such as `head` may have left; the configuration is valid all the same.
            let _ = io::stdout().write_all(report.as_bytes());
            ExitCode::SUCCESS
        }
        Err(errors) => {
            eprintln!("{errors}");
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

/// A key, its value, and where that comes from.
type Row = (String, Value, Origin);

fn rows(args: &CheckArgs) -> Result<Vec<Row>, ConfigErrors> {
    let loaded = args.config.load()?;
    let log = LoadedLog::load(&loaded)?;
    check_rust_log(std::env::var("RUST_LOG").ok())
        .map_err(|error| ConfigErrors(vec![error.to_string()]))?;
    Ok(rows_of(&loaded, &log))
}

fn rows_of(loaded: &Loaded, log: &LoadedLog) -> Vec<Row> {
    let origin = |origins: &BTreeMap<&str, Origin>, name| {
        origins.get(name).cloned().unwrap_or(Origin::Default)
    };
    let keys = KEYS.iter().map(|key| {
        let value = (key.show)(&loaded.config);
        (
            key.name.to_owned(),
            value,
            origin(&loaded.origins, key.name),
        )
    });
    let log_keys = LOG_KEYS.iter().map(|key| {
        let value = (key.show)(&log.config);
        (
            format!("log.{}", key.name),
            value,
            origin(&log.origins, key.name),
        )
    });
    keys.chain(log_keys).collect()
}

fn as_text(rows: &[Row]) -> String {
    let values: Vec<_> = rows.iter().map(|(_, value, _)| value.to_string()).collect();
    let name_width = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
    let value_width = values.iter().map(String::len).max().unwrap_or(0);
    let mut text = String::new();
    for ((name, _, origin), value) in rows.iter().zip(&values) {
        let _ = writeln!(text, "{name:name_width$}  {value:value_width$}  {origin}");
    }
    text
}

fn as_json(rows: Vec<Row>) -> String {
    let members = rows.into_iter().map(|(name, value, origin)| {
        (
            name,
            json!({ "value": value, "origin": origin.to_string() }),
        )
    });
    format!("{:#}\n", Value::Object(members.collect::<Map<_, _>>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn rows() -> Vec<Row> {
        let json = "{\n\"drainTimeout\": 2.5,\n\"log\": {\"level\": \"warn\"}\n}";
        let loaded = parse("config.json", json, &BTreeMap::new(), &[]).unwrap();
        rows_of(&loaded, &LoadedLog::load(&loaded).unwrap())
    }

    #[test]
    fn each_key_is_printed_with_value_and_origin() {
        let text = as_text(&rows());
        assert_eq!(text.lines().count(), KEYS.len() + LOG_KEYS.len());
        let words = |line: &str| {
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let line = |key: &str| {
            text.lines()
                .map(words)
                .find(|words| words[0] == key)
                .unwrap()
        };
        assert_eq!(
            line("drainTimeout"),
            ["drainTimeout", "2.5", "config.json:2"]
        );
        assert_eq!(
            line("log.level"),
            ["log.level", "\"warn\"", "config.json:3"]
        );
        assert_eq!(line("logPath"), ["logPath", "null", "default"]);
    }

    #[test]
    fn programs_get_json() {
        let report: Value = serde_json::from_str(&as_json(rows())).unwrap();
        assert_eq!(
            report["drainTimeout"],
            json!({"value": 2.5, "origin": "config.json:2"})
        );
        assert_eq!(report["pubAddress"]["value"], "tcp://*:5000");
        assert_eq!(report["log.format"]["value"], "text");
    }
}
