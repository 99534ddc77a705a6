//! The locator's requests: a message in, a message out.

use std::time::{Duration, Instant};

use serde_json::json;

use super::directory::{Directory, RegisterError};
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
    /// No data, or `service_name\0address`: what comes after that.
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
/// The most registrations in one answer.
const LIST_MAX: usize = 1000;

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
        list(request, directory, now)
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
        .map_err(|error| match error {
            RegisterError::Full(_) => Message::nak("full", error),
            RegisterError::Reserved(_) => Message::nak("reserved", error),
        })?;
    Ok(Message::ack(DataType::Param, ttl.as_millis().to_string()))
}

fn locate(request: &Message, directory: &mut Directory, now: Instant) -> Result<Message, Message> {
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
    if directory.is_own(&name) {
        return Err(Message::nak("reserved", RegisterError::Reserved(name)));
    }
    if directory.unregister(&name, address, now) {
        return Ok(Message::ack(DataType::Empty, ""));
    }
    Err(Message::nak(
        "unknown-service",
        format!("no service {name:?} is registered at {address}"),
    ))
}

/// At most [`LIST_MAX`] registrations; if there are more, the last entry says after which one to go on.
fn list(request: &Message, directory: &mut Directory, now: Instant) -> Result<Message, Message> {
    directory.expire(now);
    let fields = request.fields();
    // One field alone had no meaning ever, and has none.
    let after = match fields.get(1).is_some_and(|second| !second.is_empty()) {
        true => Some((name(&fields)?, address(&fields)?)),
        false => None,
    };
    let mut live = directory.list(after, now).peekable();
    let mut list = vec![];
    let mut last = None;
    for (name, address, entry) in live.by_ref().take(LIST_MAX) {
        let expires_in = entry.expires_at.saturating_duration_since(now);
        list.push(json!({"service": name.as_str(), "address": address, "expiresInMs": expires_in.as_millis() as u64}));
        last = Some((name, address));
    }
    if let Some((name, address)) = last
        && live.peek().is_some()
    {
        let after = json!({"service": name.as_str(), "address": address});
        list.push(json!({"more": true, "after": after, "registrations": directory.len()}));
    }
    let list = serde_json::Value::from(list).to_string();
    Ok(Message::ack(DataType::String, list))
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
