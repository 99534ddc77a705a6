//! What is logged, how and where: the object `log` of the configuration, or the file that `logPath`
//! names.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde_json::{Value, json};
use tracing::level_filters::LevelFilter;

use crate::config::{ConfigErrors, Loaded, LogSection, Origin, suggestion};

/// What is logged, how and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The least severe level that is written; `RUST_LOG` goes before it.
    pub level: LevelFilter,
    /// Levels of single targets, such as `em.store`.
    pub modules: BTreeMap<String, LevelFilter>,
    /// How a record is written.
    pub format: LogFormat,
    /// The file; `None` is standard error.
    pub file: Option<PathBuf>,
    /// When a new file is begun.
    pub rotate: Rotation,
}

/// How a record is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// One JSON object on a line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// When a new log file is begun, and what becomes of the old ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// The largest file, in bytes.
    pub bytes_max: u64,
    /// How many old files are kept, as `FILE.1` (the youngest) and so on.
    pub keep: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: LevelFilter::INFO,
            modules: BTreeMap::new(),
            format: LogFormat::Text,
            file: None,
            rotate: Rotation {
                bytes_max: 64 << 20,
                keep: 5,
            },
        }
    }
}

/// A valid log configuration, and where its values come from.
#[derive(Debug, Clone, Default)]
pub struct LoadedLog {
    /// Its values.
    pub config: LogConfig,
    /// The origin of each key; a key that isn't here has its default.
    pub origins: BTreeMap<&'static str, Origin>,
}

/// One key of the log configuration.
pub struct LogKey {
    /// Its name; a dot leads into an object.
    pub name: &'static str,
    /// The same from the root of the configuration.
    pub full_name: &'static str,
    /// What it means, for the documentation.
    pub about: &'static str,
    set: fn(&mut LogConfig, &Value) -> Result<(), String>,
    /// The value in force.
    pub show: fn(&LogConfig) -> Value,
    /// SIGHUP puts another value in force; else that needs a restart.
    pub is_live: bool,
}

/// All keys.
#[rustfmt::skip]
pub const LOG_KEYS: &[LogKey] = &[
    LogKey { name: "level", full_name: "log.level", about: "least severe level that is written: off, error, warn, info, debug, trace",
        set: |c, v| { c.level = level(v)?; Ok(()) }, show: |c| json!(c.level.to_string()), is_live: true },
    LogKey { name: "modules", full_name: "log.modules", about: "levels of single log targets, an object such as {\"em.worker\": \"debug\"}",
        set: |c, v| { c.modules = modules(v)?; Ok(()) },
        show: |c| c.modules.iter().map(|(name, level)| (name.clone(), json!(level.to_string()))).collect(), is_live: true },
    LogKey { name: "format", full_name: "log.format", about: "text, or json: one object on a line",
        set: |c, v| { c.format = format(v)?; Ok(()) },
        show: |c| json!(c.format.to_string()), is_live: false },
    LogKey { name: "file", full_name: "log.file", about: "the log file; null is standard error",
        set: |c, v| { c.file = file(v)?; Ok(()) }, show: |c| json!(c.file), is_live: false },
    LogKey { name: "rotate.maxBytes", full_name: "log.rotate.maxBytes", about: "size in bytes at which a new file is begun",
        set: |c, v| { c.rotate.bytes_max = number(v, 4096..=1 << 50)?; Ok(()) }, show: |c| json!(c.rotate.bytes_max), is_live: false },
    LogKey { name: "rotate.keep", full_name: "log.rotate.keep", about: "how many old files are kept, as FILE.1, FILE.2 and so on",
        set: |c, v| { c.rotate.keep = number(v, 0..=1000)?; Ok(()) }, show: |c| json!(c.rotate.keep), is_live: false },
];

impl LogKey {
    /// Reads a value as the command line has it: JSON, or a text without quotes.
    fn set_text(&self, config: &mut LogConfig, text: &str) -> Result<(), String> {
        let json = serde_json::from_str(text).ok();
        match json.map(|value| (self.set)(config, &value)) {
            Some(Ok(())) => Ok(()),
            _ => (self.set)(config, &json!(text)),
        }
    }
}

impl LoadedLog {
    /// Reads the file that `logPath` names, else the object `log` of the configuration; then what the
    /// command line says.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(loaded: &Loaded) -> Result<Self, ConfigErrors> {
        let mut log = Self::load_files(loaded)?;
        let mut errors = Vec::new();
        for (name, value) in &loaded.log_flags {
            let key = LOG_KEYS.iter().find(|key| key.full_name == *name);
            match key.map(|key| (key, key.set_text(&mut log.config, value))) {
                None => errors.push(format!("{}: unknown key {name:?}", Origin::Flag)),
                Some((key, Ok(()))) => drop(log.origins.insert(key.name, Origin::Flag)),
                Some((_, Err(wanted))) => {
                    errors.push(format!("{}: {name}: {value:?}: {wanted}", Origin::Flag));
                }
            }
        }
        match errors.is_empty() {
            true => Ok(log),
            false => Err(ConfigErrors(errors)),
        }
    }

    fn load_files(loaded: &Loaded) -> Result<Self, ConfigErrors> {
        let canonical = |path: &PathBuf| path.canonicalize().ok();
        let own = loaded.path.as_ref().and_then(canonical);
        match &loaded.config.log_path {
            // A path that names the configuration itself means its object `log`.
            Some(path) if own.is_none() || canonical(path) != own => {
                let name = path.display().to_string();
                let text = std::fs::read_to_string(path).map_err(|error| {
                    ConfigErrors(vec![format!("logPath: {name}: can't be read: {error}")])
                })?;
                Self::read(&LogSection::parse(&name, &text)?, "")
            }
            _ => match &loaded.log {
                Some(section) => Self::read(section, "log."),
                None => Ok(Self::default()),
            },
        }
    }

    /// `prefix` stands before the keys in errors.
    fn read(section: &LogSection, prefix: &str) -> Result<Self, ConfigErrors> {
        let mut reading = Reading {
            section,
            prefix,
            loaded: Self::default(),
            errors: Vec::new(),
        };
        reading.object("", &section.value);
        if reading.errors.is_empty() {
            Ok(reading.loaded)
        } else {
            Err(ConfigErrors(reading.errors))
        }
    }
}

struct Reading<'a> {
    section: &'a LogSection,
    prefix: &'a str,
    loaded: LoadedLog,
    errors: Vec<String>,
}

impl Reading<'_> {
    fn object(&mut self, path: &str, value: &Value) {
        let Value::Object(object) = value else {
            self.refuse(path.trim_end_matches('.'), value, "an object is wanted");
            return;
        };
        for (name, value) in object {
            self.member(&format!("{path}{name}"), value);
        }
    }

    fn member(&mut self, name: &str, value: &Value) {
        if name == "rotate" {
            self.object("rotate.", value);
        } else if let Some(key) = LOG_KEYS.iter().find(|key| key.name == name) {
            match (key.set)(&mut self.loaded.config, value) {
                Ok(()) => {
                    self.loaded.origins.insert(key.name, self.origin(name));
                }
                Err(wanted) => self.refuse(name, value, &wanted),
            }
        } else {
            let known = LOG_KEYS.iter().map(|key| key.name);
            let hint = suggestion(name, known.chain(["rotate"]));
            let (origin, prefix) = (self.origin(name), self.prefix);
            let error = format!("{origin}: unknown key \"{prefix}{name}\"{hint}");
            self.errors.push(error);
        }
    }

    fn origin(&self, name: &str) -> Origin {
        let line = self.section.lines.get(name).copied().unwrap_or(1);
        Origin::File(self.section.file.clone(), line)
    }

    fn refuse(&mut self, name: &str, value: &Value, wanted: &str) {
        let key = format!("{}{name}", self.prefix);
        let key = key.trim_end_matches('.');
        let error = format!("{}: {key}: {value}: {wanted}", self.origin(name));
        self.errors.push(error);
    }
}

fn level(value: &Value) -> Result<LevelFilter, String> {
    let word = value.as_str().unwrap_or_default();
    // The parser takes numbers too, which nobody could read.
    let is_word = word.chars().all(|c| c.is_ascii_alphabetic());
    let parsed = word.parse().ok().filter(|_| is_word && !word.is_empty());
    parsed.ok_or_else(|| "off, error, warn, info, debug or trace is wanted".into())
}

fn modules(value: &Value) -> Result<BTreeMap<String, LevelFilter>, String> {
    let object = value
        .as_object()
        .ok_or("expected an object of log targets and their levels")?;
    object
        .iter()
        .map(|(name, word)| {
            let level = level(word).map_err(|wanted| format!("{name}: {wanted}"))?;
            if is_target(name) {
                Ok((name.clone(), level))
            } else {
                Err(format!("{name:?} is not a log target, such as em.worker"))
            }
        })
        .collect()
}

fn is_target(name: &str) -> bool {
    let is_identifier =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_');
    name.split("::")
        .flat_map(|part| part.split('.'))
        .all(is_identifier)
}

fn format(value: &Value) -> Result<LogFormat, String> {
    match value.as_str() {
        Some("text") => Ok(LogFormat::Text),
        Some("json") => Ok(LogFormat::Json),
        _ => Err("\"text\" or \"json\" is wanted".into()),
    }
}

fn file(value: &Value) -> Result<Option<PathBuf>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(path) if !path.is_empty() => Ok(Some(path.into())),
        _ => Err("a path or null is wanted".into()),
    }
}

fn number(value: &Value, range: RangeInclusive<u64>) -> Result<u64, String> {
    let number = value.as_u64().filter(|number| range.contains(number));
    let (min, max) = (range.start(), range.end());
    number.ok_or_else(|| format!("a whole number from {min} to {max} is wanted"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn load(log: &str) -> Result<LoadedLog, ConfigErrors> {
        let json = format!("{{\n\"log\": {log}}}");
        LoadedLog::load(&parse("c.json", &json, &BTreeMap::new(), &[]).unwrap())
    }

    #[test]
    fn values_are_read_and_know_their_origin() {
        let log = load(
            "{\"level\": \"WARN\", \"modules\": {\"em.worker\": \"debug\", \"event_manager::reactor\": \"warn\"},\n\
             \"format\": \"json\", \"file\": \"x.log\",\n\"rotate\": {\"maxBytes\": 5000, \"keep\": 0}}",
        )
        .unwrap();
        let expected = LogConfig {
            level: LevelFilter::WARN,
            modules: [
                ("em.worker".into(), LevelFilter::DEBUG),
                ("event_manager::reactor".into(), LevelFilter::WARN),
            ]
            .into(),
            format: LogFormat::Json,
            file: Some("x.log".into()),
            rotate: Rotation {
                bytes_max: 5000,
                keep: 0,
            },
        };
        assert_eq!(log.config, expected);
        assert_eq!(log.origins["rotate.keep"].to_string(), "c.json:4");
        assert_eq!(log.origins.len(), LOG_KEYS.len());
        let mut copy = LogConfig::default();
        for key in LOG_KEYS {
            (key.set)(&mut copy, &(key.show)(&expected)).unwrap();
        }
        assert_eq!(copy, expected, "what is shown is read back");
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        let errors = load(
            "{\"levle\": \"info\",\n\"level\": \"3\", \"modules\": {\"a b\": \"info\"},\n\
             \"format\": \"xml\", \"file\": 5, \"rotate\": {\"keep\": -1, \"size\": 5}}",
        )
        .unwrap_err()
        .0;
        for expected in [
            "c.json:2: unknown key \"log.levle\"; did you mean \"level\"?",
            "c.json:3: log.level: \"3\": off, error, warn, info, debug or trace is wanted",
            "\"a b\" is not a log target",
            "c.json:4: log.format: \"xml\": \"text\" or \"json\" is wanted",
            "c.json:4: log.file: 5: a path or null is wanted",
            "c.json:4: log.rotate.keep: -1: a whole number from 0 to 1000 is wanted",
            "c.json:4: unknown key \"log.rotate.size\"",
        ] {
            assert!(
                errors.iter().any(|e| e.contains(expected)),
                "{expected}\n{errors:#?}"
            );
        }
        assert_eq!(errors.len(), 7, "{errors:#?}");
        assert!(load("7").unwrap_err().0[0].contains("log: 7: an object is wanted"));
        assert!(load("{\"rotate\": 7}").unwrap_err().0[0].contains("log.rotate: 7: an object"));
    }

    #[test]
    fn a_file_of_its_own_goes_before_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.json");
        let mut loaded =
            parse("c", r#"{"log": {"level": "warn"}}"#, &BTreeMap::new(), &[]).unwrap();
        loaded.config.log_path = Some(path.clone());
        let error = LoadedLog::load(&loaded).unwrap_err().to_string();
        assert!(
            error.contains("logPath") && error.contains("can't be read"),
            "{error}"
        );
        std::fs::write(&path, "{\n\"level\": \"debug\"}").unwrap();
        let log = LoadedLog::load(&loaded).unwrap();
        assert_eq!(log.config.level, LevelFilter::DEBUG);
        assert!(log.origins["level"].to_string().ends_with("log.json:2"));
    }

    #[test]
    fn a_path_to_the_configuration_means_its_own_section() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.json");
        let json = r#"{"log": {"level": "warn"}, "drainTimeout": 1}"#;
        std::fs::write(&path, json).unwrap();
        let mut loaded = parse("c", json, &BTreeMap::new(), &[]).unwrap();
        loaded.config.log_path = Some(path.clone());
        loaded.path = Some(path);
        assert_eq!(
            LoadedLog::load(&loaded).unwrap().config.level,
            LevelFilter::WARN
        );
    }
}
