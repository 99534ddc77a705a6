//! DLQ: `op\0service[\0options]`, the options a JSON object; or all of it by name.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{Context, Nak, Outcome, check_names};
use crate::messagebus::Message;
use crate::model::ServiceName;

/// The most letters that one request looks at.
const LIMIT_MAX: u64 = 1000;
const LIMIT_DEFAULT: u64 = 100;

/// What is done with dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LettersOp {
    /// Shows what happened to each.
    List,
    /// Shows their frames too.
    Show,
    /// Puts their events back into the service's queue.
    Replay,
    /// Deletes them.
    Purge,
}

/// A request about a service's dead letters.
#[derive(Debug)]
pub struct LettersRequest {
    /// What to do.
    pub op: LettersOp,
    /// Whose letters.
    pub service: ServiceName,
    /// The lowest place to look at.
    pub from: u64,
    /// The most letters to look at; at most 1000.
    pub limit: usize,
    /// Only those that died of this.
    pub reason: Option<String>,
    /// Only those whose subject begins with this.
    pub subject: Option<String>,
    /// Only those that were kept before this time, in milliseconds since 1970.
    pub before: Option<u64>,
    /// Only those at these places.
    pub seqs: Option<BTreeSet<u64>>,
    /// Changes nothing.
    pub dry_run: bool,
}

pub(super) const NAMES: &[&str] = &[
    "op", "service", "from", "limit", "reason", "subject", "seqs", "before", "dryRun",
];

pub(super) fn handle(request: &Message, _: &mut Context<'_>) -> Result<Outcome, Nak> {
    let fields = match request.named.as_ref().filter(|named| !named.is_empty()) {
        Some(named) => named.clone(),
        None => positional(request)?,
    };
    read(&fields).map(Outcome::Letters)
}

fn positional(request: &Message) -> Result<Map<String, Value>, Nak> {
    let fields = request.fields();
    let text = |index: usize| {
        let field = fields.get(index).copied().unwrap_or_default();
        std::str::from_utf8(field)
            .map_err(|_| Nak::new("invalid-utf8", format!("field {} is not UTF-8", index + 1)))
    };
    let mut named = match text(2)? {
        "" => Map::new(),
        options => serde_json::from_str(options)
            .map_err(|error| Nak::new("invalid-field", format!("field 3, the options: {error}")))?,
    };
    named.insert("op".into(), text(0)?.into());
    named.insert("service".into(), text(1)?.into());
    Ok(named)
}

fn read(fields: &Map<String, Value>) -> Result<LettersRequest, Nak> {
    let field = |name: &str| fields.get(name).filter(|value| !value.is_null());
    let wrong = |name: &str, wanted: &str| {
        Nak::new("invalid-field", format!("{name:?}: {wanted} is wanted"))
    };
    let text = |name: &str| {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        field(name)
            .map(|value| text(value).ok_or_else(|| wrong(name, "a text")))
            .transpose()
    };
    let number = |name: &str| {
        field(name)
            .map(|value| value.as_u64().ok_or_else(|| wrong(name, "a number")))
            .transpose()
    };
    // Those of the options, too.
    check_names(fields.keys(), NAMES)?;
    let op = match text("op")?.as_deref() {
        Some("list") => LettersOp::List,
        Some("show") => LettersOp::Show,
        Some("replay") => LettersOp::Replay,
        Some("purge") => LettersOp::Purge,
        _ => return Err(wrong("op", "list, show, replay or purge")),
    };
    let service = ServiceName::new(&text("service")?.unwrap_or_default())
        .map_err(|error| Nak::new("invalid-name", format!("the service's name {error}")))?;
    let seqs = field("seqs").map(|value| {
        let places = value.as_array().ok_or_else(|| wrong("seqs", "a list"))?;
        let place = |value: &Value| value.as_u64().ok_or_else(|| wrong("seqs", "numbers"));
        places.iter().map(place).collect::<Result<BTreeSet<_>, _>>()
    });
    let dry_run = field("dryRun").map(|value| {
        value
            .as_bool()
            .ok_or_else(|| wrong("dryRun", "true or false"))
    });
    let limit = number("limit")?.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(wrong("limit", "a number from 1 to 1000"));
    }
    Ok(LettersRequest {
        op,
        service,
        from: number("from")?.unwrap_or_default(),
        limit: limit as usize,
        reason: text("reason")?,
        subject: text("subject")?,
        before: number("before")?,
        seqs: seqs.transpose()?,
        dry_run: dry_run.transpose()?.unwrap_or_default(),
    })
}
