//! What a client may do: lists of what is allowed. Nothing is ever forbidden, so rights only add up.

use std::collections::BTreeSet;
use std::fmt;

use event_manager_wire::messagebus::Token;
use event_manager_wire::model::{Dialect, ServiceName, SubjectPattern};

/// Subjects, by the patterns that subscriptions have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subjects {
    /// Every subject.
    All,
    /// Those that one of the patterns matches.
    Only(Box<[SubjectPattern]>),
}

impl FromIterator<SubjectPattern> for Subjects {
    fn from_iter<I: IntoIterator<Item = SubjectPattern>>(patterns: I) -> Self {
        let patterns: Box<[_]> = patterns.into_iter().collect();
        match patterns
            .iter()
            .any(|pattern| whole_prefix(pattern) == Some(""))
        {
            true => Self::All,
            false => Self::Only(patterns),
        }
    }
}

impl Subjects {
    /// Whether a subject is among them. Of subjects above `bytes_max` only the beginning is known, so
    /// only prefixes match these, however they are written.
    pub fn have(&self, subject: &[u8], bytes_max: usize) -> bool {
        let Self::Only(patterns) = self else {
            return true;
        };
        let is_whole = subject.len() <= bytes_max;
        patterns.iter().any(|pattern| {
            pattern.matches(subject) && (is_whole || whole_prefix(pattern).is_some())
        })
    }

    /// Whether any subject that begins so may be among them.
    pub fn may_begin_with(&self, prefix: &[u8]) -> bool {
        let Self::Only(patterns) = self else {
            return true;
        };
        patterns.iter().any(|pattern| {
            let text = pattern.text();
            let (begin, goes_on) = match pattern.dialect() {
                Dialect::Prefix => (text, true),
                Dialect::Exact => (text, false),
                Dialect::Glob => {
                    let begin = text.split(WILDCARDS).next().unwrap_or_default();
                    (begin, begin.len() < text.len())
                }
            };
            let begin = begin.as_bytes();
            begin.starts_with(prefix) || (goes_on && prefix.starts_with(begin))
        })
    }

    /// Whether each subject that a pattern matches is among them by one of the patterns. Of globs only
    /// what is plain to see counts, so the answer may be no where a proof would say yes.
    pub fn cover(&self, asked: &SubjectPattern) -> bool {
        match self {
            Self::All => true,
            Self::Only(patterns) => patterns.iter().any(|allowed| covers(allowed, asked)),
        }
    }
}

/// The prefix that a pattern is: a glob is one if its only wildcard is `**` at the end.
fn whole_prefix(pattern: &SubjectPattern) -> Option<&str> {
    match pattern.dialect() {
        Dialect::Prefix => Some(pattern.text()),
        Dialect::Exact => None,
        Dialect::Glob => {
            let head = pattern.text().strip_suffix("**")?;
            (!head.contains(WILDCARDS)).then_some(head)
        }
    }
}

const WILDCARDS: [char; 2] = ['*', '?'];

fn covers(allowed: &SubjectPattern, asked: &SubjectPattern) -> bool {
    let text = asked.text();
    let is_one = match asked.dialect() {
        Dialect::Exact => true,
        Dialect::Prefix => false,
        Dialect::Glob => !text.contains(WILDCARDS),
    };
    if is_one {
        return allowed.matches(text.as_bytes());
    }
    // What each subject that it matches begins with.
    let head = match asked.dialect() {
        Dialect::Glob => text.split(WILDCARDS).next().unwrap_or_default(),
        Dialect::Exact | Dialect::Prefix => text,
    };
    allowed == asked || whole_prefix(allowed).is_some_and(|prefix| head.starts_with(prefix))
}

/// Names of services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceNames {
    /// Every name.
    All,
    /// These.
    Only(Box<[NamePattern]>),
}

/// A service's name, or how it begins: `Billing`, `Billing-*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern {
    text: Box<str>,
    is_begin: bool,
}

/// Why a text is no pattern of services' names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNamePattern {
    /// No service could be called so.
    #[error("the name {0:?} {1}")]
    Name(String, String),
    /// A star elsewhere.
    #[error("{0:?}: a star stands only at the end of a name, for any rest")]
    Star(String),
}

impl NamePattern {
    /// Takes the written form.
    ///
    /// # Errors
    /// [`InvalidNamePattern`].
    pub fn parse(written: &str) -> Result<Self, InvalidNamePattern> {
        let begin = written.strip_suffix('*');
        let text = begin.unwrap_or(written);
        if text.contains('*') {
            return Err(InvalidNamePattern::Star(written.into()));
        }
        // A star alone is any name.
        if begin != Some("")
            && let Err(error) = ServiceName::new(text)
        {
            return Err(InvalidNamePattern::Name(text.into(), error.to_string()));
        }
        Ok(Self {
            text: text.into(),
            is_begin: begin.is_some(),
        })
    }

    /// Whether a service may be called so.
    pub fn matches(&self, name: &str) -> bool {
        match self.is_begin {
            true => name.starts_with(&*self.text),
            false => name == &*self.text,
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.text, if self.is_begin { "*" } else { "" })
    }
}

impl FromIterator<NamePattern> for ServiceNames {
    fn from_iter<I: IntoIterator<Item = NamePattern>>(patterns: I) -> Self {
        let patterns: Box<[_]> = patterns.into_iter().collect();
        match patterns
            .iter()
            .any(|all| all.is_begin && all.text.is_empty())
        {
            true => Self::All,
            false => Self::Only(patterns),
        }
    }
}

impl ServiceNames {
    /// Whether a name is among them.
    pub fn have(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(patterns) => patterns.iter().any(|pattern| pattern.matches(name)),
        }
    }
}

/// Requests by their tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestKinds {
    /// Every request.
    All,
    /// What is not for administrators: those that need another right, too.
    Usual,
    /// These.
    Only(BTreeSet<Token>),
}

/// Requests for which another right is needed, too.
const USUAL: [Token; 8] = [
    Token::SUBSCRIBE,
    Token::UNSUBSCRIBE,
    Token::KEEP_ALIVE,
    Token::PUBLISH,
    Token::EMIT,
    Token::LEASE,
    Token::REGISTER,
    Token::UNREGISTER,
];

/// Every request that may be named.
const NAMED: [Token; 15] = [
    Token::SUBSCRIBE,
    Token::UNSUBSCRIBE,
    Token::KEEP_ALIVE,
    Token::PUBLISH,
    Token::EMIT,
    Token::LEASE,
    Token::REGISTER,
    Token::UNREGISTER,
    Token::LOCATE,
    Token::LIST,
    Token::STATUS,
    Token::EVENTS,
    Token::INSTANCES,
    Token::DLQ,
    Token::END,
];

/// The name of a request, as configurations have it: `keep-alive`.
pub fn request_name(token: Token) -> String {
    let name = token.name().unwrap_or_default();
    let own = ["TK_EVENT_MANAGER_", "TK_SERVICE_LOCATOR_"];
    let short = own.iter().find_map(|prefix| name.strip_prefix(prefix));
    short.unwrap_or(name).to_ascii_lowercase().replace('_', "-")
}

/// The names of all requests.
pub fn request_names() -> impl Iterator<Item = String> {
    NAMED.into_iter().map(request_name)
}

/// The request of this name, in any case, with `-` or `_`.
pub fn request_named(name: &str) -> Option<Token> {
    let token = Token::from_name(&name.replace('-', "_"));
    token.filter(|token| NAMED.contains(token))
}

impl RequestKinds {
    /// Whether a request is among them. Who may subscribe may also refresh and end that; everybody may
    /// ask where a service is.
    pub fn have(&self, token: Token) -> bool {
        let is_among = |mut all: std::slice::Iter<'_, Token>| all.any(|known| known.is(token));
        if token.is(Token::LOCATE) {
            return true;
        }
        match self {
            Self::All => true,
            Self::Usual => is_among(USUAL.iter()),
            Self::Only(tokens) => {
                let ends = [Token::KEEP_ALIVE, Token::UNSUBSCRIBE];
                let follows = tokens.contains(&Token::SUBSCRIBE) && is_among(ends.iter());
                follows || tokens.iter().any(|known| known.is(token))
            }
        }
    }
}

/// What a client may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// The events that it may publish.
    pub publish: Subjects,
    /// The events that it may get.
    pub subscribe: Subjects,
    /// The services that it may subscribe, work for and register.
    pub services: ServiceNames,
    /// The requests that it may send.
    pub requests: RequestKinds,
    /// Whether it may be a hub of the mesh: dial as one, that is.
    pub hub: bool,
}

impl Rights {
    /// Everything.
    pub const ALL: Self = Self {
        publish: Subjects::All,
        subscribe: Subjects::All,
        services: ServiceNames::All,
        requests: RequestKinds::All,
        hub: true,
    };
}

#[cfg(test)]
mod tests;
