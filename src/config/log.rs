//! What is logged, how and where: the object `log`, or the file that `logPath` names.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;

use super::units::{Level, Modules, OptionalPath, Unit, Whole, Word, Words};

/// What is logged, how and where.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// The least severe level that is written; `RUST_LOG` goes before it.
    #[serde(with = "Level")]
    pub level: LevelFilter,
    /// Levels of single targets, such as `em.store`.
    #[serde(with = "Modules")]
    pub modules: BTreeMap<String, LevelFilter>,
    /// How a record is written.
    #[serde(with = "Word::<LogFormat>")]
    pub format: LogFormat,
    /// The file; `None` is standard error.
    #[serde(with = "OptionalPath")]
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

impl Words for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

/// When a new log file is begun, and what becomes of the old ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rotation {
    /// The largest file, in bytes.
    #[serde(rename = "maxBytes", with = "Whole::<u64, 4096, { 1 << 50 }>")]
    pub bytes_max: u64,
    /// How many old files are kept, as `FILE.1` (the youngest) and so on.
    #[serde(with = "Whole::<u64, 0, 1000>")]
    pub keep: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: LevelFilter::INFO,
            modules: BTreeMap::new(),
            format: LogFormat::Text,
            file: None,
            rotate: Rotation::default(),
        }
    }
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            bytes_max: 64 << 20,
            keep: 5,
        }
    }
}
