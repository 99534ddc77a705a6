//! The units of values: how each is read, from JSON or from the text of a variable or flag, and how
//! it is shown. The schema names one for each of its fields (`#[serde(with = "Seconds::<0, DAY>")]`).
//! What is shown can be read again.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};
use tracing::level_filters::LevelFilter;

use event_manager_wire::messagebus::Token;
use event_manager_wire::model::{Endpoint, ServiceName};

/// A day in seconds: the longest of most times.
pub(super) const DAY: u64 = 86_400;
/// The largest of all sizes and counts.
pub(super) const SIZE_MAX: u64 = 1 << 40;

/// How values of one kind are written.
pub(super) trait Unit {
    /// What it is in memory.
    type Of;

    /// Reads a value; an error says what is allowed.
    fn read(value: &Value) -> Result<Self::Of, String>;

    fn show(of: &Self::Of) -> Value;

    fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Self::Of, D::Error> {
        Self::read(&Value::deserialize(from)?).map_err(D::Error::custom)
    }

    fn serialize<S: Serializer>(of: &Self::Of, to: S) -> Result<S::Ok, S::Error> {
        Self::show(of).serialize(to)
    }
}

/// Units by name: the type in memory, how a value is read, how it is shown.
macro_rules! units {
    ($($(#[$doc:meta])* $name:ident: $of:ty = $read:expr, $show:expr;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl Unit for $name {
            type Of = $of;

            fn read(value: &Value) -> Result<$of, String> {
                let read: fn(&Value) -> Result<$of, String> = $read;
                read(value)
            }

            fn show(of: &$of) -> Value {
                let show: fn(&$of) -> Value = $show;
                show(of)
            }
        }
    )*};
}
units! {
    /// A path; the empty one is allowed.
    AnyPath: PathBuf = |value| text(value).map(Into::into), |of| json!(of);
    /// A path or none; none is `null`, the empty text or the text `null`.
    OptionalPath: Option<PathBuf> = optional_path, |of| json!(of);
    /// A host's name or IP address.
    Hostname: String = hostname, |of| json!(of);
    /// A truth value, in the forms that the original's environment variables take.
    Truth: bool = truth, |of| json!(of);
    /// One address.
    Address: Endpoint = |value| parsed(text(value)?), |of| json!(of.to_string());
    /// Addresses: one, or a list.
    Addresses: Vec<Endpoint> = addresses, |of| json!(of.iter().map(ToString::to_string).collect::<Vec<_>>());
    /// The same, but at least one.
    SomeAddresses: Vec<Endpoint> = some_addresses, show_some_addresses;
    /// An address without a port.
    WithoutPort: Endpoint = without_port, show_without_port;
    /// Where HTTP is served, `HOST:PORT`; none if it is `off` or empty.
    HttpAddress: Option<Endpoint> = http_address, show_http_address;
    /// Names of hosts: `NAME`, `*.DOMAIN`, or `*` for any.
    HostNames: Vec<String> = host_names, |of| json!(of);
    /// A service's name.
    Name: ServiceName = name, |of| json!(of.as_str());
    /// A token's number, in decimal or `0x…`.
    TokenNumber: Token = token_number, |of| json!(format!("{:#010x}", of.value()));
    /// A level of the log.
    Level: LevelFilter = level, |of| json!(of.to_string());
    /// Levels of single log targets: an object, or the text of one.
    Modules: BTreeMap<String, LevelFilter> = modules, show_modules;
}

/// A value that need not be there; nothing stands for it then but its key's absence.
pub(super) struct Maybe<U>(PhantomData<U>);

impl<U: Unit> Unit for Maybe<U> {
    type Of = Option<U::Of>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        U::read(value).map(Some)
    }

    fn show(of: &Self::Of) -> Value {
        of.as_ref().map_or(Value::Null, U::show)
    }
}

fn text(value: &Value) -> Result<&str, String> {
    let text = value.as_str().map(str::trim);
    text.ok_or_else(|| "a text is wanted".into())
}

/// A text that may be missing: `null` or the empty one.
fn optional_text(value: &Value) -> Result<Option<&str>, String> {
    match value {
        Value::Null => Ok(None),
        _ => Ok(Some(text(value)?).filter(|text| !text.is_empty())),
    }
}

/// Something else than `off`, `null` and the empty text.
pub(super) fn unless_off(value: &Value) -> Result<Option<&str>, String> {
    Ok(optional_text(value)?.filter(|text| *text != "off"))
}

fn optional_path(value: &Value) -> Result<Option<PathBuf>, String> {
    let text = optional_text(value).map_err(|_| "a path or null is wanted")?;
    Ok(text.filter(|text| *text != "null").map(Into::into))
}

fn hostname(value: &Value) -> Result<String, String> {
    let host = text(value)?;
    if host.is_empty() {
        return Err("it must not be empty".into());
    }
    if host.contains(['/', ' ', '*']) || (host.contains(':') && !host.starts_with('[')) {
        return Err("a host name or IP address is wanted, without scheme and port".into());
    }
    Ok(host.into())
}

/// A number that isn't negative, with a fraction if need be; from a text too, as old configurations
/// have it.
fn decimal(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Without a fraction if it has none.
fn shown_decimal(number: f64) -> Value {
    if number.fract() == 0.0 {
        json!(number as u64)
    } else {
        json!(number)
    }
}

/// A whole number within these bounds, or its text.
pub(super) struct Whole<T, const MIN: u64, const MAX: u64>(PhantomData<T>);

/// Bytes, or how many of something: from a least number to the largest of all sizes.
pub(super) type Size<const MIN: u64> = Whole<usize, MIN, SIZE_MAX>;

impl<T, const MIN: u64, const MAX: u64> Unit for Whole<T, MIN, MAX>
where
    T: TryFrom<u64> + Serialize,
{
    type Of = T;

    fn read(value: &Value) -> Result<T, String> {
        let read = match value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        let read = read.filter(|number| (MIN..=MAX).contains(number));
        let read = read.and_then(|number| T::try_from(number).ok());
        read.ok_or_else(|| format!("a whole number from {MIN} to {MAX} is wanted"))
    }

    fn show(of: &T) -> Value {
        json!(of)
    }
}

/// Seconds, with a fraction if need be, from so many milliseconds to so many seconds.
pub(super) struct Seconds<const MIN_MS: u64, const MAX: u64>;

impl<const MIN_MS: u64, const MAX: u64> Unit for Seconds<MIN_MS, MAX> {
    type Of = Duration;

    fn read(value: &Value) -> Result<Duration, String> {
        let min = MIN_MS as f64 / 1000.0;
        let read = decimal(value).filter(|seconds| (min..=MAX as f64).contains(seconds));
        read.map(Duration::from_secs_f64)
            .ok_or_else(|| format!("seconds from {min} to {MAX} are wanted"))
    }

    fn show(of: &Duration) -> Value {
        shown_decimal(of.as_secs_f64())
    }
}

/// Whole milliseconds, at most so many.
pub(super) struct Millis<const MAX: u64>;

impl<const MAX: u64> Unit for Millis<MAX> {
    type Of = Duration;

    fn read(value: &Value) -> Result<Duration, String> {
        Whole::<u64, 0, MAX>::read(value).map(Duration::from_millis)
    }

    fn show(of: &Duration) -> Value {
        json!(of.as_millis() as u64)
    }
}

/// A number within these bounds, with a fraction if need be.
pub(super) struct Decimal<const MIN: u64, const MAX: u64>;

impl<const MIN: u64, const MAX: u64> Unit for Decimal<MIN, MAX> {
    type Of = f64;

    fn read(value: &Value) -> Result<f64, String> {
        let read = decimal(value).filter(|number| (MIN as f64..=MAX as f64).contains(number));
        read.ok_or_else(|| format!("a number from {MIN} to {MAX} is wanted"))
    }

    fn show(of: &f64) -> Value {
        shown_decimal(*of)
    }
}

fn truth(value: &Value) -> Result<bool, String> {
    let text = match value {
        Value::Bool(value) => return Ok(*value),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().to_ascii_lowercase(),
        _ => "neither".into(),
    };
    match text.as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" | "" => Ok(false),
        _ => Err("true or false is wanted (1, yes, on; 0, no, off)".into()),
    }
}

/// A type of which each value has a word.
pub(super) trait Words: Sized + PartialEq + Copy + 'static {
    /// The words, and what they mean.
    const WORDS: &'static [(&'static str, Self)];
}

/// One of a type's words.
pub(super) struct Word<T>(PhantomData<T>);

impl<T: Words> Unit for Word<T> {
    type Of = T;

    fn read(value: &Value) -> Result<T, String> {
        let written = value.as_str().map(str::trim);
        let found = T::WORDS.iter().find(|(word, _)| written == Some(word));
        found.map(|(_, meant)| *meant).ok_or_else(|| {
            let words: Vec<_> = T::WORDS
                .iter()
                .map(|(word, _)| format!("{word:?}"))
                .collect();
            format!("{} is wanted", words.join(" or "))
        })
    }

    fn show(of: &T) -> Value {
        let found = T::WORDS.iter().find(|(_, meant)| meant == of);
        found.map_or(Value::Null, |(word, _)| json!(word))
    }
}

pub(super) fn parsed<T: FromStr<Err = impl Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// A list, or a text in which commas separate its parts.
pub(super) fn list<'a>(value: &'a Value, what: &str) -> Result<Vec<&'a str>, String> {
    match value {
        Value::Array(values) => values.iter().map(text).collect(),
        Value::String(text) => {
            let parts = text.split(',').map(str::trim);
            Ok(parts.filter(|part| !part.is_empty()).collect())
        }
        _ => Err(format!("{what} is wanted")),
    }
}

fn addresses(value: &Value) -> Result<Vec<Endpoint>, String> {
    let all = list(value, "an address or a list of addresses")?;
    all.into_iter().map(parsed).collect()
}

fn some_addresses(value: &Value) -> Result<Vec<Endpoint>, String> {
    let read = Addresses::read(value)?;
    if read.is_empty() {
        return Err("at least one address is wanted".into());
    }
    Ok(read)
}

fn show_some_addresses(of: &Vec<Endpoint>) -> Value {
    match &of[..] {
        // In a text, a comma separates two addresses; only a socket's path can have one.
        [one] if !one.to_string().contains(',') => Address::show(one),
        _ => Addresses::show(of),
    }
}

fn without_port(value: &Value) -> Result<Endpoint, String> {
    let endpoint = Endpoint::parse_without_port(text(value)?);
    let endpoint = endpoint.map_err(|error| error.to_string())?;
    match endpoint.port() {
        None | Some(0) => Ok(endpoint),
        Some(_) => Err(
            "no port is wanted: services get theirs from minStreamerPort to maxStreamerPort".into(),
        ),
    }
}

fn show_without_port(of: &Endpoint) -> Value {
    let text = of.to_string();
    match of.port() {
        Some(0) => json!(text.trim_end_matches(":0")),
        _ => json!(text),
    }
}

fn http_address(value: &Value) -> Result<Option<Endpoint>, String> {
    let Some(written) = unless_off(value)? else {
        return Ok(None);
    };
    let wanted = |why: &str| format!("HOST:PORT or \"off\" is wanted: {why}");
    let bare = written.strip_prefix("http://").unwrap_or(written);
    if bare.contains("://") {
        return Err(wanted("an address of HTTP has no other scheme"));
    }
    let endpoint = parsed(&format!("tcp://{}", bare.trim_end_matches('/')));
    endpoint
        .map(Some)
        .map_err(|error| wanted(&error.replacen("tcp://", "", 1)))
}

fn show_http_address(of: &Option<Endpoint>) -> Value {
    let shown = of.as_ref().map(ToString::to_string);
    json!(shown.map_or("off".into(), |text| {
        text.trim_start_matches("tcp://").to_owned()
    }))
}

fn host_names(value: &Value) -> Result<Vec<String>, String> {
    let all = list(value, "a list of host names")?;
    let is_name = |name: &str| {
        let host = name.strip_prefix("*.").unwrap_or(name);
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-_.:[]".contains(c);
        !host.is_empty() && host.chars().all(is_host)
    };
    match all.iter().find(|name| **name != "*" && !is_name(name)) {
        None => Ok(all.into_iter().map(str::to_owned).collect()),
        Some(wrong) => Err(format!(
            "{wrong:?} is none of NAME, *.DOMAIN and *, without scheme and port"
        )),
    }
}

fn name(value: &Value) -> Result<ServiceName, String> {
    ServiceName::new(text(value)?).map_err(|error| format!("the name {error}"))
}

fn token_number(value: &Value) -> Result<Token, String> {
    let read = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => {
            let text = text.trim();
            let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
            hex.map_or_else(
                || text.parse().ok(),
                |hex| u64::from_str_radix(hex, 16).ok(),
            )
        }
        _ => None,
    };
    read.filter(|value| *value <= Token::VALUE_MAX)
        .map(Token::from_value)
        .ok_or_else(|| "a token's number is wanted, such as \"0x00300001\"".into())
}

fn level(value: &Value) -> Result<LevelFilter, String> {
    let word = value.as_str().map(str::trim).unwrap_or_default();
    // The parser takes numbers too, which nobody could read.
    let is_word = word.chars().all(|c| c.is_ascii_alphabetic());
    let parsed = word.parse().ok().filter(|_| is_word && !word.is_empty());
    parsed.ok_or_else(|| "off, error, warn, info, debug or trace is wanted".into())
}

fn modules(value: &Value) -> Result<BTreeMap<String, LevelFilter>, String> {
    let parsed = value.as_str().map(serde_json::from_str::<Value>);
    let parsed = parsed.and_then(Result::ok);
    let object = parsed.as_ref().unwrap_or(value).as_object();
    let object = object.ok_or("expected an object of log targets and their levels")?;
    let read = |(name, word): (&String, &Value)| {
        let level = Level::read(word).map_err(|wanted| format!("{name}: {wanted}"))?;
        if !is_target(name) {
            return Err(format!("{name:?} is not a log target, such as em.worker"));
        }
        Ok((name.clone(), level))
    };
    object.iter().map(read).collect()
}

fn show_modules(of: &BTreeMap<String, LevelFilter>) -> Value {
    of.iter()
        .map(|(name, level)| (name.clone(), Level::show(level)))
        .collect()
}

/// Takes away what says nothing.
pub(super) fn drop_nulls(value: &mut Value) {
    if let Value::Object(object) = value {
        object.values_mut().for_each(drop_nulls);
        object.retain(|_, value| !value.is_null() && *value != json!({}));
    }
}

fn is_target(name: &str) -> bool {
    let is_identifier =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_');
    name.split("::")
        .flat_map(|part| part.split('.'))
        .all(is_identifier)
}
