//! The lease under which a daemon stands by, and takes over; or by which it serves beside others.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::units::{Seconds, Truth, Unit, Word, Words};
use event_manager_core::leases::candidate::Directories;

/// The longest name of a lease, and of an engine, in bytes.
const NAME_BYTES_MAX: usize = 255;
/// The most words of a command, and their bytes.
const WORDS_MAX: usize = 64;
const WORD_BYTES_MAX: usize = 4096;

/// The source of a lease that a person gives.
pub(super) const BY_HAND: &str = "hand";

/// The lease.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct LeaseConfig {
    /// The engine that keeps it, one of `engines`, or `hand`; none serves without a lease.
    #[serde(with = "EngineName")]
    pub source: String,
    /// What it is for.
    #[serde(with = "Word::<Role>")]
    pub role: Role,
    /// What it is called there: the same for all daemons of which one serves.
    #[serde(with = "LeaseName")]
    pub name: String,
    /// For so long nobody else has it, from each renewal.
    #[serde(with = "Seconds::<500, 3600>")]
    pub ttl: Duration,
    /// Whose the state directories are.
    #[serde(with = "WhoseDirectories")]
    pub state_dir: Directories,
    /// Whether a daemon that serves beside others is ready only while the engine can be used.
    #[serde(with = "Truth")]
    pub required: bool,
    /// What is run when this daemon serves.
    #[serde(with = "Command")]
    pub on_lead: Vec<String>,
    /// What is run when it does no more.
    #[serde(with = "Command")]
    pub on_resign: Vec<String>,
}

/// What a daemon does without the lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Role {
    /// It stands by: it serves under the lease only.
    #[default]
    Standby,
    /// It serves. The engine keeps the leases of its clients, for all daemons of the same name.
    Active,
}

impl Words for Role {
    const WORDS: &'static [(&'static str, Self)] =
        &[("standby", Self::Standby), ("active", Self::Active)];
}

impl LeaseConfig {
    /// Whether a person says who serves.
    pub fn is_by_hand(&self) -> bool {
        self.source == BY_HAND
    }

    /// Whether there is one.
    pub fn is_on(&self) -> bool {
        !self.source.is_empty()
    }

    /// Whether the daemon serves under a lease only.
    pub fn stands_by(&self) -> bool {
        self.is_on() && self.role == Role::Standby
    }

    /// Whether the engine keeps the leases of clients.
    pub fn is_active(&self) -> bool {
        self.is_on() && self.role == Role::Active
    }
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            source: String::new(),
            role: Role::default(),
            name: "event-manager".into(),
            ttl: Duration::from_secs(3),
            state_dir: Directories::Shared,
            required: false,
            on_lead: vec![],
            on_resign: vec![],
        }
    }
}

/// `shared` or `own`.
struct WhoseDirectories;

impl Unit for WhoseDirectories {
    type Of = Directories;

    fn read(value: &Value) -> Result<Directories, String> {
        match value.as_str().map(str::trim) {
            Some("shared") => Ok(Directories::Shared),
            Some("own") => Ok(Directories::Own),
            _ => Err("\"shared\" or \"own\" is wanted".into()),
        }
    }

    fn show(of: &Directories) -> Value {
        json!(match of {
            Directories::Shared => "shared",
            Directories::Own => "own",
        })
    }
}

/// The name of an engine, or none.
struct EngineName;

impl Unit for EngineName {
    type Of = String;

    fn read(value: &Value) -> Result<String, String> {
        if value.is_null() {
            return Ok(String::new());
        }
        let text = value.as_str().map(str::trim);
        let text = text.filter(|text| text.len() <= NAME_BYTES_MAX);
        text.map(str::to_owned)
            .ok_or_else(|| "the name of one of engines, or \"hand\", is wanted".into())
    }

    fn show(of: &String) -> Value {
        match of.is_empty() {
            true => Value::Null,
            false => json!(of),
        }
    }
}

/// A name that means nothing special anywhere.
struct LeaseName;

impl Unit for LeaseName {
    type Of = String;

    fn read(value: &Value) -> Result<String, String> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let text = value.as_str().map(str::trim);
        let text = text.filter(|text| (1..=64).contains(&text.len()) && text.chars().all(is_plain));
        text.map(str::to_owned)
            .ok_or_else(|| "1 to 64 letters, digits, - and _ are wanted".into())
    }

    fn show(of: &String) -> Value {
        json!(of)
    }
}

/// A program and its arguments: a list, or the text of one.
struct Command;

impl Unit for Command {
    type Of = Vec<String>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        let wanted = || "a list is wanted: a program and its arguments".to_owned();
        let words: Vec<String> = match value {
            Value::Null => vec![],
            Value::String(text) if text.trim().is_empty() => vec![],
            Value::String(text) => serde_json::from_str(text).map_err(|_| wanted())?,
            _ => serde_json::from_value(value.clone()).map_err(|_| wanted())?,
        };
        let is_word = |word: &String| word.len() <= WORD_BYTES_MAX && !word.contains('\0');
        let is_command = words.len() <= WORDS_MAX && words.iter().all(is_word);
        let has_program = words.first().is_none_or(|program| !program.is_empty());
        (is_command && has_program)
            .then_some(words)
            .ok_or_else(wanted)
    }

    fn show(of: &Self::Of) -> Value {
        json!(of)
    }
}
