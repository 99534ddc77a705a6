//! `event-manager check`: is the configuration valid, and what does it amount to?

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value, json};

use super::config_args::ConfigArgs;
use crate::config::{KEYS, Loaded, Origin};

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
    let loaded = match args.config.load() {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let report = if args.json {
        as_json(&loaded)
    } else {
        as_text(&loaded)
    };
    // A reader such as `head` may have left; the configuration is valid all the same.
    let _ = io::stdout().write_all(report.as_bytes());
    ExitCode::SUCCESS
}

fn rows(loaded: &Loaded) -> impl Iterator<Item = (&'static str, Value, &Origin)> {
    KEYS.iter().map(|key| {
        let origin = loaded.origins.get(key.name).unwrap_or(&Origin::Default);
        (key.name, (key.show)(&loaded.config), origin)
    })
}

fn as_text(loaded: &Loaded) -> String {
    let rows: Vec<_> = rows(loaded)
        .map(|(name, value, origin)| (name, value.to_string(), origin))
        .collect();
    let name_width = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
    let value_width = rows
        .iter()
        .map(|(_, value, _)| value.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for (name, value, origin) in rows {
        let _ = writeln!(text, "{name:name_width$}  {value:value_width$}  {origin}");
    }
    text
}

fn as_json(loaded: &Loaded) -> String {
    let rows = rows(loaded).map(|(name, value, origin)| {
        (
            name.to_owned(),
            json!({ "value": value, "origin": origin.to_string() }),
        )
    });
    format!("{:#}\n", Value::Object(rows.collect::<Map<_, _>>()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::parse;

    fn loaded() -> Loaded {
        parse(
            "config.json",
            "{\n\"drainTimeout\": 2.5\n}",
            &BTreeMap::new(),
            &[],
        )
        .unwrap()
    }

    #[test]
    fn each_key_is_printed_with_value_and_origin() {
        let text = as_text(&loaded());
        assert_eq!(text.lines().count(), KEYS.len());
        let line = |key| {
            let mut lines = text
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>());
            lines.find(|words| words[0] == key).unwrap()
        };
        assert_eq!(
            line("drainTimeout"),
            ["drainTimeout", "2.5", "config.json:2"]
        );
        assert_eq!(line("logPath"), ["logPath", "null", "default"]);
    }

    #[test]
    fn programs_get_json() {
        let report: Value = serde_json::from_str(&as_json(&loaded())).unwrap();
        assert_eq!(
            report["drainTimeout"],
            json!({"value": 2.5, "origin": "config.json:2"})
        );
        assert_eq!(report["pubAddress"]["value"], "tcp://*:5000");
        assert_eq!(report.as_object().unwrap().len(), KEYS.len());
    }
}
