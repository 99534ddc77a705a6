//! The locator's requests: a message in, a message out.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;

use super::directory::{Directory, RegisterError};
use crate::security::Deed;
use event_manager_wire::messagebus::{DataType, Message, Nak, Positions, Token, Verbatim, read};
use event_manager_wire::model::{Endpoint, ServiceName, excerpt};

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

/// Whether who asks may do something.
type Judge<'a> = dyn Fn(Deed<'_>) -> Result<(), Nak> + 'a;

/// Answers a request to the locator, if `judge` allows it. Every request gets an answer.
pub fn answer(
    request: &Message,
    tokens: &LocatorTokens,
    directory: &mut Directory,
    judge: &Judge<'_>,
    now: Instant,
) -> Message {
    let token = request.token;
    // Whatever their numbers are here, rights have their names.
    let asks = |known| judge(Deed::Ask(known));
    let result = if token.is(tokens.register) {
        asks(Token::REGISTER).and_then(|()| register(request, directory, judge, now))
    } else if token.is(tokens.locate) {
        locate(request, directory, now)
    } else if token.is(tokens.unregister) {
        asks(Token::UNREGISTER).and_then(|()| unregister(request, directory, judge, now))
    } else if token.is(tokens.list) {
        asks(Token::LIST).and_then(|()| list(request, directory, now))
    } else {
        let sentence = format!("{token} is not a ServiceLocator request");
        Err(Nak::new("unknown-token", sentence))
    };
    result.unwrap_or_else(Message::from)
}

/// REGISTER.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Register {
    service: String,
    address: String,
    /// In ms.
    ttl: Verbatim,
}

/// LOCATE.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Locate {
    service: String,
}

/// UNREGISTER, and LIST, which may go on after such a registration.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Registration {
    service: String,
    address: String,
}

/// All of them have the first of these fields.
const POSITIONS: Positions = Positions::new(&["service", "address", "ttl"]);

fn name(request: &Message, service: &str) -> Result<ServiceName, Nak> {
    POSITIONS.checked(request, "service", service, ServiceName::new)
}

fn checked_address<'a>(request: &Message, address: &'a str) -> Result<&'a str, Nak> {
    if address.is_empty() {
        return Err(POSITIONS.missing(request, "address"));
    }
    match address.parse::<Endpoint>() {
        Ok(_) => Ok(address),
        Err(error) => Err(Nak::new("invalid-address", error)),
    }
}

fn checked_ttl(ttl: &[u8]) -> Result<Duration, Nak> {
    let text = str::from_utf8(ttl).unwrap_or("?").trim();
    if text.is_empty() {
        return Ok(TTL_DEFAULT);
    }
    let ttl = text.parse().map(Duration::from_millis).ok();
    let ttl = ttl.filter(|ttl| !ttl.is_zero() && *ttl <= TTL_MAX);
    ttl.ok_or_else(|| {
        let (max, got) = (TTL_MAX.as_millis(), excerpt(text, 40));
        let sentence = format!("\"ttl\": expected milliseconds from 1 to {max}, got {got:?}");
        Nak::new("invalid-ttl", sentence)
    })
}

fn register(
    request: &Message,
    directory: &mut Directory,
    judge: &Judge<'_>,
    now: Instant,
) -> Result<Message, Nak> {
    let fields: Register = read(request, &POSITIONS)?;
    let name = name(request, &fields.service)?;
    let address = checked_address(request, &fields.address)?;
    let ttl = checked_ttl(&fields.ttl.0)?;
    // Ours is at our address or nowhere, whoever asks.
    if !directory.is_own(&name) {
        judge(Deed::Serve(name.as_str()))?;
        judge_replacing(&name, address, directory, judge, now)?;
    }
    directory
        .register(&name, address, ttl, now)
        .map_err(|error| match error {
            RegisterError::Full(_) => Nak::new("full", error),
            RegisterError::Reserved(_) => Nak::new("reserved", error),
        })?;
    Ok(Message::ack(DataType::Param, ttl.as_millis().to_string()))
}

fn judge_replacing(
    name: &ServiceName,
    address: &str,
    directory: &Directory,
    judge: &Judge<'_>,
    now: Instant,
) -> Result<(), Nak> {
    match directory.is_anothers(name, address, now) {
        true => judge(Deed::Replace(name.as_str())),
        false => Ok(()),
    }
}

fn locate(request: &Message, directory: &mut Directory, now: Instant) -> Result<Message, Nak> {
    let fields: Locate = read(request, &Positions::new(&["service"]))?;
    let name = name(request, &fields.service)?;
    match directory.locate(&name, now) {
        Some(address) => Ok(Message::ack(DataType::AddrPort, address.to_owned())),
        None => Err(Nak::new(
            "unknown-service",
            format!("no service {name:?} is registered"),
        )),
    }
}

fn unregister(
    request: &Message,
    directory: &mut Directory,
    judge: &Judge<'_>,
    now: Instant,
) -> Result<Message, Nak> {
    let fields: Registration = read(request, &Positions::new(&["service", "address"]))?;
    let name = name(request, &fields.service)?;
    let address = checked_address(request, &fields.address)?;
    if directory.is_own(&name) {
        return Err(Nak::new("reserved", RegisterError::Reserved(name)));
    }
    judge(Deed::Serve(name.as_str()))?;
    judge_replacing(&name, address, directory, judge, now)?;
    if directory.unregister(&name, address, now) {
        return Ok(Message::ack(DataType::Empty, ""));
    }
    Err(Nak::new(
        "unknown-service",
        format!("no service {name:?} is registered at {address}"),
    ))
}

/// At most [`LIST_MAX`] registrations; if there are more, the last entry says after which one to go on.
fn list(request: &Message, directory: &mut Directory, now: Instant) -> Result<Message, Nak> {
    directory.expire(now);
    let fields: Registration = read(request, &Positions::new(&["service", "address"]))?;
    // One field alone had no meaning ever, and has none.
    let after = match &*fields.address {
        "" => None,
        address => Some((
            name(request, &fields.service)?,
            checked_address(request, address)?,
        )),
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
    use event_manager_wire::messagebus::decode;

    fn ask(
        directory: &mut Directory,
        token: Token,
        fields: &[&str],
        now: Instant,
    ) -> (Token, String) {
        let request = Message::param(token, fields.iter().copied());
        let answer = answer(
            &request,
            &LocatorTokens::default(),
            directory,
            &|_| Ok(()),
            now,
        );
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
    fn fields_may_be_named() {
        let (mut directory, now) = (Directory::new(10), Instant::now());
        let mut json = |request: &str| {
            let (request, _) = decode(&[request.as_bytes().to_vec().into()]).unwrap();
            let answer = answer(
                &request,
                &LocatorTokens::default(),
                &mut directory,
                &|_| Ok(()),
                now,
            );
            String::from_utf8(answer.data.to_vec()).unwrap()
        };
        let register = r#"{"token": "3.1", "service": "A", "address": "tcp://x:1", "ttl": 7}"#;
        assert_eq!(json(register), "7");
        assert_eq!(json(r#"{"token": "3.2", "service": "A"}"#), "tcp://x:1");
        assert_eq!(
            json(r#"{"token": "3.2", "name": "A"}"#),
            r#"unknown-field: unknown field "name", expected "service""#
        );
        assert!(json(&register.replace('7', "-7")).starts_with("invalid-ttl: "));
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
