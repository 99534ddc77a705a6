//! The locator's requests: a message in, a message out.

use std::time::{Duration, Instant};

use serde_json::json;

use super::directory::Directory;
use crate::messagebus::{DataType, Message, Token};
use crate::model::{Endpoint, ServiceName};

/// The tokens of the locator's requests; a site's own locator may have others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocatorTokens {
    /// `service_name\0address[\0ttl ms]`
    pub register: Token,
    /// `service_name`
    pub locate: Token,
    /// `service_name\0address`
    pub unregister: Token,
    /// No data.
    pub list: Token,
}

impl Default for LocatorTokens {
    fn default() -> Self {
        Self {
            register: Token::REGISTER,
            locate: Token::LOCATE,
            unregister: Token::UNREGISTER,
            list: Token::LIST,
        }
    }
}

/// How long a registration lives that doesn't say.
const TTL_DEFAULT: Duration = Duration::from_secs(30);
/// The longest life of a registration.
const TTL_MAX: Duration = Duration::from_secs(24 * 3600);

/// Answers a request to the locator. Every request gets an answer.
pub fn answer(
    request: &Message,
    tokens: &LocatorTokens,
    directory: &mut Directory,
    now: Instant,
) -> Message {
    let token = request.token;
    let result = if token.is(tokens.register) {
        register(request, directory, now)
    } else if token.is(tokens.locate) {
        locate(request, directory, now)
    } else if token.is(tokens.unregister) {
        unregister(request, directory, now)
    } else if token.is(tokens.list) {
        Ok(list(directory, now))
    } else {
        let sentence = format!("{token} is no request to a ServiceLocator");
        Err(Message::nak("unknown-token", sentence))
    };
    result.unwrap_or_else(|nak| nak)
}

fn field<'a>(fields: &[&'a [u8]], at: usize, what: &str) -> Result<&'a str, Message> {
    let bytes = fields.get(at).filter(|field| !field.is_empty());
    let bytes = bytes
        .ok_or_else(|| Message::nak("missing-field", format!("field {} is the {what}", at + 1)))?;
    std::str::from_utf8(bytes)
        .map_err(|_| Message::nak("invalid-utf8", format!("the {what} is not UTF-8")))
}

fn name(fields: &[&[u8]]) -> Result<ServiceName, Message> {
    let written = field(fields, 0, "service's name")?;
    ServiceName::new(written)
        .map_err(|error| Message::nak("invalid-name", format!("the service's name {error}")))
}

fn address<'a>(fields: &[&'a [u8]]) -> Result<&'a str, Message> {
    let written = field(fields, 1, "service's address")?;
    match written.parse::<Endpoint>() {
        Ok(_) => Ok(written),
        Err(error) => Err(Message::nak("invalid-address", error)),
    }
}

fn register(
    request: &Message,
    directory: &mut Directory,
    now: Instant,
) -> Result<Message, Message> {
    let fields = request.fields();
    let (name, address) = (name(&fields)?, address(&fields)?);
    let ttl = match fields.get(2).filter(|field| !field.is_empty()) {
        None => TTL_DEFAULT,
        Some(written) => {
            let ms = std::str::from_utf8(written)
                .ok()
                .and_then(|text| text.trim().parse().ok());
            let ttl = ms
                .map(Duration::from_millis)
                .filter(|ttl| !ttl.is_zero() && *ttl <= TTL_MAX);
            ttl.ok_or_else(|| {
                let sentence = format!(
                    "field 3 is the time to live in ms, 1 to {}",
                    TTL_MAX.as_millis()
                );
                Message::nak("invalid-ttl", sentence)
            })?
        }
    };
    directory
        .register(&name, address, ttl, now)
        .map_err(|full| Message::nak("full", full))?;
    Ok(Message::ack(DataType::Param, ttl.as_millis().to_string()))
}

fn locate(request: &Message, directory: &Directory, now: Instant) -> Result<Message, Message> {
    let name = name(&request.fields())?;
    match directory.locate(&name, now) {
        Some(address) => Ok(Message::ack(DataType::AddrPort, address.to_owned())),
        None => Err(Message::nak(
            "unknown-service",
            format!("no service {name:?} is registered"),
        )),
    }
}

fn unregister(
    request: &Message,
    directory: &mut Directory,
    now: Instant,
) -> Result<Message, Message> {
    let fields = request.fields();
    let (name, address) = (name(&fields)?, address(&fields)?);
    if directory.unregister(&name, address, now) {
        return Ok(Message::ack(DataType::Empty, ""));
    }
    Err(Message::nak(
        "unknown-service",
        format!("no service {name:?} is registered at {address}"),
    ))
}

fn list(directory: &Directory, now: Instant) -> Message {
    let entry = |(name, entry): (&ServiceName, &super::Registered)| {
        let expires_in = entry.expires_at.saturating_duration_since(now);
        json!({"service": name.as_str(), "address": entry.address, "expiresInMs": expires_in.as_millis() as u64})
    };
    let list: Vec<_> = directory.list(now).map(entry).collect();
    Message::ack(DataType::String, serde_json::Value::from(list).to_string())
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for a fake clock"
)]
mod tests {
    use super::*;

    fn ask(
        directory: &mut Directory,
        token: Token,
        fields: &[&str],
        now: Instant,
    ) -> (Token, String) {
        let request = Message::param(token, fields.iter().copied());
        let answer = answer(&request, &LocatorTokens::default(), directory, now);
        (
            answer.token,
            String::from_utf8(answer.data.to_vec()).unwrap(),
        )
    }

    #[test]
    fn a_registration_is_found_until_it_ends() {
        let mut directory = Directory::new(10);
        let now = Instant::now();
        let ack = |data: &str| (Token::ACK, data.to_owned());
        let a = "tcp://host:6001";
        assert_eq!(
            ask(&mut directory, Token::REGISTER, &["A", a, "5000"], now),
            ack("5000")
        );
        assert_eq!(ask(&mut directory, Token::LOCATE, &["A"], now), ack(a));
        assert!(
            ask(&mut directory, Token::LIST, &[""], now)
                .1
                .contains("\"expiresInMs\":5000")
        );
        let late = now + Duration::from_secs(5);
        assert!(
            ask(&mut directory, Token::LOCATE, &["A"], late)
                .1
                .starts_with("unknown-service: ")
        );
        assert_eq!(
            ask(&mut directory, Token::REGISTER, &["A", a], late),
            ack("30000")
        );
        assert_eq!(
            ask(&mut directory, Token::UNREGISTER, &["A", a], late),
            ack("")
        );
        assert!(
            ask(&mut directory, Token::UNREGISTER, &["A", a], late)
                .1
                .starts_with("unknown-service: ")
        );
    }

    #[test]
    fn wrong_requests_are_answered() {
        let mut directory = Directory::new(1);
        let now = Instant::now();
        for (token, fields, code) in [
            (Token::REGISTER, &["A"][..], "missing-field"),
            (Token::REGISTER, &["", "tcp://x:1"], "missing-field"),
            (Token::REGISTER, &["A", "x:1"], "invalid-address"),
            (Token::REGISTER, &["A", "tcp://x:1", "never"], "invalid-ttl"),
            (Token::REGISTER, &["A", "tcp://x:1", "0"], "invalid-ttl"),
            (Token::LOCATE, &["a\nb"], "invalid-name"),
            (Token::SUBSCRIBE, &["A"], "unknown-token"),
        ] {
            let (token, data) = ask(&mut directory, token, fields, now);
            assert!(
                token == Token::NAK && data.starts_with(&format!("{code}: ")),
                "{data}"
            );
        }
        ask(&mut directory, Token::REGISTER, &["A", "tcp://x:1"], now);
        assert!(
            ask(&mut directory, Token::REGISTER, &["B", "tcp://x:1"], now)
                .1
                .starts_with("full: ")
        );
    }
}
