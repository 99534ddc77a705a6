//! How values are read, from JSON or from the text of a variable or flag. An error's text says what
//! is allowed.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;

use crate::messagebus::Token;
use crate::model::{Endpoint, ServiceName};

/// Reads a text.
pub(super) fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.trim().to_owned()),
        _ => Err("a text is wanted".into()),
    }
}

/// Reads a text that isn't empty.
pub(super) fn text_that_is_not_empty(value: &Value) -> Result<String, String> {
    text(value)?
        .some_if_not_empty()
        .ok_or_else(|| "it must not be empty".into())
}

trait NotEmpty: Sized {
    fn some_if_not_empty(self) -> Option<Self>;
}

impl NotEmpty for String {
    fn some_if_not_empty(self) -> Option<Self> {
        (!self.is_empty()).then_some(self)
    }
}

/// Reads an optional text; the empty one is none.
pub(super) fn optional_text(value: &Value) -> Result<Option<String>, String> {
    match value {
        Value::Null => Ok(None),
        _ => Ok(text(value)?.some_if_not_empty()),
    }
}

/// Reads a host name.
pub(super) fn hostname(value: &Value) -> Result<String, String> {
    let host = text_that_is_not_empty(value)?;
    if host.contains(['/', ' ', '*']) || (host.contains(':') && !host.starts_with('[')) {
        return Err("a host name or IP address is wanted, without scheme and port".into());
    }
    Ok(host)
}

/// Reads a whole number in a range; from a text too, as old configurations have it.
pub(super) fn number<T>(value: &Value, range: RangeInclusive<T>) -> Result<T, String>
where
    T: TryFrom<u64> + PartialOrd + Display + Copy,
{
    let read = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let read = read
        .and_then(|number| T::try_from(number).ok())
        .filter(|n| range.contains(n));
    read.ok_or_else(|| {
        format!(
            "a whole number from {} to {} is wanted",
            range.start(),
            range.end()
        )
    })
}

/// Reads seconds, with a fraction if need be.
pub(super) fn seconds(value: &Value, range: RangeInclusive<f64>) -> Result<Duration, String> {
    let read = decimal(value).filter(|seconds| range.contains(seconds));
    read.map(Duration::from_secs_f64).ok_or_else(|| {
        format!(
            "seconds from {} to {} are wanted",
            range.start(),
            range.end()
        )
    })
}

/// Reads a number, with a fraction if need be.
pub(super) fn factor(value: &Value, range: RangeInclusive<f64>) -> Result<f64, String> {
    let read = decimal(value).filter(|number| range.contains(number));
    read.ok_or_else(|| {
        format!(
            "a number from {} to {} is wanted",
            range.start(),
            range.end()
        )
    })
}

fn decimal(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Reads a truth value, in the forms that the original's environment variables take.
pub(super) fn boolean(value: &Value) -> Result<bool, String> {
    let text = match value {
        Value::Bool(value) => return Ok(*value),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().to_ascii_lowercase(),
        _ => String::new(),
    };
    match text.as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" | "" if !value.is_null() => Ok(false),
        _ => Err("true or false is wanted (1, yes, on; 0, no, off)".into()),
    }
}

fn parsed<T: FromStr<Err = impl Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// Reads one address.
pub(super) fn endpoint(value: &Value) -> Result<Endpoint, String> {
    parsed(&text(value)?)
}

/// Reads where HTTP is served, `HOST:PORT`; none if it is `off` or empty.
pub(super) fn http_address(value: &Value) -> Result<Option<Endpoint>, String> {
    let Some(written) = optional_text(value)?.filter(|written| written != "off") else {
        return Ok(None);
    };
    let wanted = |why: &str| format!("HOST:PORT or \"off\" is wanted: {why}");
    let bare = written.strip_prefix("http://").unwrap_or(&written);
    if bare.contains("://") {
        return Err(wanted("an address of HTTP has no other scheme"));
    }
    let endpoint = format!("tcp://{}", bare.trim_end_matches('/')).parse::<Endpoint>();
    endpoint
        .map(Some)
        .map_err(|error| wanted(&error.to_string().replacen("tcp://", "", 1)))
}

/// Reads names of hosts: a list, or a text with commas.
pub(super) fn http_hosts(value: &Value) -> Result<Vec<String>, String> {
    let all = match value {
        Value::Array(values) => values.iter().map(text).collect::<Result<Vec<_>, _>>()?,
        Value::String(text) => {
            let parts = text.split(',').map(str::trim);
            let parts = parts.filter(|part| !part.is_empty());
            parts.map(str::to_owned).collect()
        }
        _ => return Err("a list of host names is wanted".into()),
    };
    let is_name = |name: &str| {
        let host = name.strip_prefix("*.").unwrap_or(name);
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-_.:[]".contains(c);
        !host.is_empty() && host.chars().all(is_host)
    };
    match all.iter().find(|name| *name != "*" && !is_name(name)) {
        None => Ok(all),
        Some(wrong) => Err(format!(
            "{wrong:?} is none of NAME, *.DOMAIN and *, without scheme and port"
        )),
    }
}

/// Reads an address without a port.
pub(super) fn endpoint_without_port(value: &Value) -> Result<Endpoint, String> {
    let endpoint =
        Endpoint::parse_without_port(&text(value)?).map_err(|error| error.to_string())?;
    match endpoint.port() {
        None | Some(0) => Ok(endpoint),
        Some(_) => Err(
            "no port is wanted: services get theirs from minStreamerPort to maxStreamerPort".into(),
        ),
    }
}

/// Reads an address or a list of addresses; in a text they are separated by commas.
pub(super) fn endpoints(value: &Value) -> Result<Vec<Endpoint>, String> {
    match value {
        Value::Array(values) => values.iter().map(endpoint).collect(),
        Value::String(text) => {
            let parts = text
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty());
            parts.map(parsed).collect()
        }
        _ => Err("an address or a list of addresses is wanted".into()),
    }
}

/// Reads addresses of which at least one is needed.
pub(super) fn some_endpoints(value: &Value) -> Result<Vec<Endpoint>, String> {
    let read = endpoints(value)?;
    if read.is_empty() {
        Err("at least one address is wanted".into())
    } else {
        Ok(read)
    }
}

/// Reads a service's name.
pub(super) fn service(value: &Value) -> Result<ServiceName, String> {
    ServiceName::new(&text(value)?).map_err(|error| format!("the name {error}"))
}

/// A name that is known to be valid.
#[allow(clippy::expect_used, reason = "only for constants of this crate")]
pub(super) fn service_name(constant: &str) -> ServiceName {
    ServiceName::new(constant).expect("a valid constant")
}

/// Reads a token's number, in decimal or `0x…`.
pub(super) fn token(value: &Value) -> Result<Token, String> {
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

/// The words that stand for the values of a type.
pub(super) type Words<T> = [(&'static str, T)];

/// Reads one of some words.
pub(super) fn word<T: Copy>(value: &Value, words: &Words<T>) -> Result<T, String> {
    let found = words
        .iter()
        .find(|(word, _)| value.as_str().map(str::trim) == Some(word));
    found.map(|(_, meant)| *meant).ok_or_else(|| {
        let words = words.iter().map(|(word, _)| format!("{word:?}"));
        format!("{} is wanted", words.collect::<Vec<_>>().join(" or "))
    })
}

/// The word for a value.
pub(super) fn shown_word<T: PartialEq>(value: &T, words: &Words<T>) -> Value {
    let found = words.iter().find(|(_, meant)| meant == value);
    found.map_or(Value::Null, |(word, _)| Value::from(*word))
}
