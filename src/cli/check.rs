//! `event-manager check`: is the configuration valid, and what does it amount to?

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value, json};

use super::config_args::ConfigArgs;
use super::engine_files::{self, Promise};
use super::keys::problems;
use super::output::{Out, complain, exit_code};
use crate::config::{KEYS, Loaded};
use crate::http::Guards;
use crate::telemetry::outdated_targets;

/// EX_CONFIG of sysexits.h.
pub const EXIT_CONFIG: u8 = 78;

/// Validates the configuration and prints each value with its origin.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The sources.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Print one JSON object: {"KEY": {"value": …, "origin": …}, …}; `bridges` has for each of them what it
    /// means there that an event is confirmed ("confirmed")
    #[arg(long)]
    pub json: bool,
}

/// Prints the effective configuration to standard output, or what is wrong to standard error (exit
/// code 78), in files of keys too.
pub fn run(args: &CheckArgs) -> ExitCode {
    match args.config.load() {
        Ok(loaded) => {
            let mut found = problems(&loaded.config.security);
            found.extend(engine_files::problems(&loaded.config));
            let rows = rows_of(&loaded);
            let promises = engine_files::promises(&loaded.config);
            let report = if args.json {
                as_json(rows, &promises)
            } else {
                as_text(&single_values(rows, &loaded.origins), &promises)
            };
            let outdated = outdated_targets(&loaded.config.log, std::env::var("RUST_LOG").ok());
            let warnings = loaded.warnings.iter().chain(&outdated);
            warnings.for_each(|warning| complain(warning));
            for problem in &found {
                complain(&format!("{}; fix: {}", problem.text, problem.mend));
            }
            let http = Guards::load(&loaded.config);
            if let Err(error) = &http {
                complain(&error.to_string());
            }
            if http.is_err() || found.iter().any(|problem| problem.is_fatal) {
                return ExitCode::from(EXIT_CONFIG);
            }
            let written = Out::new(args.json).write_all(report.as_bytes());
            exit_code(written.map_err(Into::into))
        }
        Err(errors) => {
            complain(&errors.to_string());
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

/// A key, its value, and where that comes from.
type Row = (String, Value, String);

fn rows_of(loaded: &Loaded) -> Vec<Row> {
    let values = loaded.config.shown();
    let rows = KEYS.iter().map(|key| {
        let value = values.pointer(&format!("/{}", key.name.replace('.', "/")));
        let origin = loaded.origins.get(&key.name);
        (
            key.name.clone(),
            value.cloned().unwrap_or_default(),
            origin.map_or("default", String::as_str).to_owned(),
        )
    });
    rows.collect()
}

/// A row for each value inside of objects; `origins` may know their own lines.
fn single_values(rows: Vec<Row>, origins: &BTreeMap<String, String>) -> Vec<Row> {
    let mut single = Vec::new();
    for (name, value, origin) in rows {
        match value {
            Value::Object(object) if !object.is_empty() => {
                let inner = object.into_iter().map(|(key, value)| {
                    let name = format!("{name}.{key}");
                    let origin = origins.get(&name).unwrap_or(&origin).clone();
                    (name, value, origin)
                });
                single.extend(single_values(inner.collect(), origins));
            }
            value => single.push((name, value, origin)),
        }
    }
    single
}

/// When an event counts as brought over, for each bridge, and each service whose queue is an engine's.
type Promises = [Promise];

fn as_text(rows: &[Row], promises: &Promises) -> String {
    let values: Vec<_> = rows.iter().map(|(_, value, _)| value.to_string()).collect();
    let name_width = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
    let value_width = values.iter().map(String::len).max().unwrap_or(0);
    let mut text = String::new();
    for ((name, _, origin), value) in rows.iter().zip(&values) {
        let _ = writeln!(text, "{name:name_width$}  {value:value_width$}  {origin}");
    }
    for Promise { of, name, said } in promises {
        let _ = writeln!(text, "{of}.{name}: {said}");
    }
    text
}

fn as_json(rows: Vec<Row>, promises: &Promises) -> String {
    let members = rows
        .into_iter()
        .map(|(name, value, origin)| (name, json!({ "value": value, "origin": origin })));
    let mut members: Map<_, _> = members.collect();
    for section in ["bridges", "services"] {
        let those = promises.iter().filter(|promise| promise.of == section);
        let those: Map<_, _> = those
            .map(|promise| (promise.name.clone(), json!(promise.said)))
            .collect();
        if let Some(shown) = members.get_mut(section).filter(|_| !those.is_empty()) {
            shown["confirmed"] = Value::Object(those);
        }
    }
    format!("{:#}\n", Value::Object(members))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const JSON: &str = "{\n\"drainTimeout\": 2.5,\n\"log\": {\"level\": \"warn\"}\n}";

    fn loaded(json: &str) -> Loaded {
        parse("config.json", json, &BTreeMap::new(), &[]).unwrap()
    }

    fn text(json: &str) -> String {
        let loaded = loaded(json);
        as_text(&single_values(rows_of(&loaded), &loaded.origins), &[])
    }

    #[test]
    fn each_key_is_printed_with_value_and_origin() {
        let text = text(JSON);
        assert_eq!(text.lines().count(), KEYS.len());
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
    fn each_value_of_a_service_is_printed_with_its_own_line() {
        let text = text(
            "{\"services\": {\n\"Billing\": {\"retry\":\n{\"maxMs\": 7000}, \"ackTimeout\": 5},\n\"Kit*\": {}}}",
        );
        let lines = text.lines().filter(|line| line.starts_with("services"));
        let lines: Vec<_> = lines
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let expected = [
            "services.Billing.ackTimeout 5 config.json:3",
            "services.Billing.retry.maxMs 7000 config.json:3",
            "services.Kit* {} config.json:4",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_programs_get_is_read_back() {
        let json = r#"{"services": {
            "Billing": {"delivery": "queue", "subjects": ["Order", "glob:a.*"], "whenFull": "spill",
                        "queueBytes": 67108864, "queueEvents": 1000, "ackTimeout": 0.5, "orderBy": 2,
                        "retry": {"initialMs": 100, "multiplier": 1.5, "maxMs": 30000, "maxDeliveries": 8},
                        "retention": {"maxBytes": 10737418240, "maxAge": 604800}},
            "a.b": {"orderBy": null, "delivery": "live"},
            "Kit*": {"whenFull": "drop-newest", "orderBy": "subject", "retry": {"multiplier": 3}},
            "*": {}}}"#;
        let before = loaded(json);
        let report: Value = serde_json::from_str(&as_json(rows_of(&before), &[])).unwrap();
        let written: Value = serde_json::from_str(json).unwrap();
        assert_eq!(report["services"]["value"], written["services"]);
        let again = json!({"services": report["services"]["value"]}).to_string();
        assert_eq!(loaded(&again).config, before.config);
    }

    #[test]
    fn programs_get_json() {
        let report: Value = serde_json::from_str(&as_json(rows_of(&loaded(JSON)), &[])).unwrap();
        assert_eq!(
            report["drainTimeout"],
            json!({"value": 2.5, "origin": "config.json:2"})
        );
        assert_eq!(report["pubAddress"]["value"], "tcp://*:5000");
        assert_eq!(report["log.format"]["value"], "text");
    }
}
