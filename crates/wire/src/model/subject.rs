//! Subjects of events, and the patterns that subscriptions name.

use std::fmt;
use std::sync::Arc;

/// The subject of an event: its first frame up to the first NUL, all of it if there is none.
pub fn subject_of(first_frame: &[u8]) -> &[u8] {
    match first_frame.iter().position(|&byte| byte == 0) {
        Some(end) => &first_frame[..end],
        None => first_frame,
    }
}

/// Why a text is no subject of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidSubject {
    /// It has no characters.
    Empty,
    /// Longer than the limit: its length and the limit, in bytes.
    TooLong(usize, usize),
    /// A NUL ends a subject.
    Nul,
    /// It begins with `exact:`, `glob:` or `prefix:`.
    Pattern,
}

impl fmt::Display for InvalidSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "is empty"),
            Self::TooLong(len, max) => write!(f, "has {len} bytes; the limit is {max}"),
            Self::Nul => write!(f, "holds a NUL"),
            Self::Pattern => write!(
                f,
                "is a pattern: an event has one subject, without a dialect"
            ),
        }
    }
}

impl std::error::Error for InvalidSubject {}

/// The subject of events that the daemon publishes itself, as somebody chose it; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSubject(Arc<str>);

impl EventSubject {
    /// Takes a subject of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`InvalidSubject`] says what is wrong; its text continues "the subject …".
    pub fn new(text: &str, bytes_max: usize) -> Result<Self, InvalidSubject> {
        if text.is_empty() {
            Err(InvalidSubject::Empty)
        } else if text.len() > bytes_max {
            Err(InvalidSubject::TooLong(text.len(), bytes_max))
        } else if text.contains('\0') {
            Err(InvalidSubject::Nul)
        } else if DIALECTS.iter().any(|dialect| text.starts_with(dialect)) {
            Err(InvalidSubject::Pattern)
        } else {
            Ok(Self(text.into()))
        }
    }

    /// The subject as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What patterns begin with that are no plain prefixes.
const DIALECTS: [&str; 3] = ["exact:", "glob:", "prefix:"];

/// How a pattern's text is compared with a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dialect {
    /// The subject begins with the text, as in ZeroMQ; the empty text matches all.
    Prefix,
    /// The subject is the text.
    Exact,
    /// `*` within one dot-separated word, `**` across words, `?` one character but a dot.
    Glob,
}

/// Why a pattern was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidPattern {
    /// Longer than the limit: its length and the limit, in bytes.
    TooLong(usize, usize),
    /// A NUL cannot be part of a subject.
    Nul,
    /// `exact:` or `glob:` without a text matches nothing.
    EmptyText,
    /// A glob with more than [`SubjectPattern::WILDCARDS_MAX`] stars, which would be slow to match.
    TooManyWildcards,
}

impl fmt::Display for InvalidPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(len, max) => write!(f, "has {len} bytes; the limit is {max}"),
            Self::Nul => write!(f, "holds a NUL"),
            Self::EmptyText => write!(f, "names a dialect but no subject"),
            Self::TooManyWildcards => {
                write!(f, "has more than {} stars", SubjectPattern::WILDCARDS_MAX)
            }
        }
    }
}

impl std::error::Error for InvalidPattern {}

/// A subject that a subscription asks for: a bare one is a prefix, `exact:` and `glob:` say
/// otherwise (`prefix:` says it aloud, for a text that itself begins with one of these words).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectPattern {
    dialect: Dialect,
    text: Box<str>,
}

impl SubjectPattern {
    /// The most stars in a glob.
    pub const WILDCARDS_MAX: usize = 16;

    /// Takes the written form, at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`InvalidPattern`] says what is wrong; its text continues "the subject …".
    pub fn parse(written: &str, bytes_max: usize) -> Result<Self, InvalidPattern> {
        if written.len() > bytes_max {
            return Err(InvalidPattern::TooLong(written.len(), bytes_max));
        }
        if written.contains('\0') {
            return Err(InvalidPattern::Nul);
        }
        let (dialect, text) = if let Some(text) = written.strip_prefix("exact:") {
            (Dialect::Exact, text)
        } else if let Some(text) = written.strip_prefix("glob:") {
            (Dialect::Glob, text)
        } else {
            (
                Dialect::Prefix,
                written.strip_prefix("prefix:").unwrap_or(written),
            )
        };
        if text.is_empty() && dialect != Dialect::Prefix {
            return Err(InvalidPattern::EmptyText);
        }
        let stars = text.bytes().filter(|byte| *byte == b'*').count();
        if dialect == Dialect::Glob && stars > Self::WILDCARDS_MAX {
            return Err(InvalidPattern::TooManyWildcards);
        }
        Ok(Self {
            dialect,
            text: text.into(),
        })
    }

    /// How [`Self::text`] is compared.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The text without the dialect's word.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether an event with this subject is asked for.
    pub fn matches(&self, subject: &[u8]) -> bool {
        match self.dialect {
            Dialect::Prefix => subject.starts_with(self.text.as_bytes()),
            Dialect::Exact => subject == self.text.as_bytes(),
            Dialect::Glob => glob_matches(self.text.as_bytes(), subject),
        }
    }
}

impl fmt::Display for SubjectPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dialect {
            Dialect::Exact => write!(f, "exact:{}", self.text),
            Dialect::Glob => write!(f, "glob:{}", self.text),
            Dialect::Prefix => {
                let prefix = if DIALECTS.iter().any(|n| self.text.starts_with(n)) {
                    "prefix:"
                } else {
                    ""
                };
                write!(f, "{prefix}{}", self.text)
            }
        }
    }
}

/// Where matching goes on after a mismatch: the wildcard takes one byte more.
#[derive(Clone, Copy)]
struct Retry {
    after_star: usize,
    subject_at: usize,
}

/// Matches without recursion, in at most `pattern × subject` steps: of each kind of wildcard only
/// the latest needs to be tried again, and `**` outlives a `*` that ran into a dot.
fn glob_matches(pattern: &[u8], subject: &[u8]) -> bool {
    let (mut p, mut s) = (0, 0);
    let (mut in_word, mut across): (Option<Retry>, Option<Retry>) = (None, None);
    loop {
        if pattern[p..].starts_with(b"**") {
            p += 2;
            across = Some(Retry {
                after_star: p,
                subject_at: s,
            });
            in_word = None;
            continue;
        }
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            in_word = Some(Retry {
                after_star: p,
                subject_at: s,
            });
            continue;
        }
        let step = match (pattern.get(p), subject.get(s)) {
            (None, None) => return true,
            (Some(b'?'), Some(&byte)) if byte != b'.' => Some(character_len(&subject[s..])),
            (Some(expected), Some(byte)) if expected == byte && *expected != b'?' => Some(1),
            _ => None,
        };
        if let Some(len) = step {
            p += 1;
            s += len;
            continue;
        }
        let star = in_word.filter(|r| subject.get(r.subject_at).is_some_and(|&b| b != b'.'));
        if let Some(retry) = star {
            let next = Retry {
                subject_at: retry.subject_at + 1,
                ..retry
            };
            in_word = Some(next);
            (p, s) = (next.after_star, next.subject_at);
        } else if let Some(retry) = across.filter(|r| r.subject_at < subject.len()) {
            let next = Retry {
                subject_at: retry.subject_at + 1,
                ..retry
            };
            across = Some(next);
            in_word = None;
            (p, s) = (next.after_star, next.subject_at);
        } else {
            return false;
        }
    }
}

/// Bytes of the UTF-8 character at the front; subjects that are not UTF-8 count byte by byte.
fn character_len(rest: &[u8]) -> usize {
    let len = match rest[0] {
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => 1,
    };
    let whole = rest.len() >= len && rest[1..len].iter().all(|byte| byte & 0xC0 == 0x80);
    if whole { len } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(written: &str) -> SubjectPattern {
        SubjectPattern::parse(written, 255).unwrap()
    }

    #[test]
    fn a_bare_subject_is_a_prefix() {
        assert!(pattern("OrderCreated").matches(b"OrderCreatedV2"));
        assert!(pattern("").matches(b""));
        assert!(pattern("").matches(b"anything"));
        assert!(!pattern("exact:POS1").matches(b"POS10"));
        assert!(pattern("POS1").matches(b"POS10"));
        assert!(!pattern("glob:POS1").matches(b"POS10"));
        assert!(pattern("prefix:exact:a").matches(b"exact:ab"));
    }

    #[test]
    fn globs_know_words() {
        for (glob, subject, matches) in [
            ("order.*", "order.created", true),
            ("order.*", "order.created.v2", false),
            ("order.**", "order.created.v2", true),
            ("*.created", "order.created", true),
            ("**.created", "shop.order.created", true),
            ("*", "a.b", false),
            ("**", "a.b", true),
            ("**", "", true),
            ("*", "", true),
            ("a?c", "abc", true),
            ("a?c", "a.c", false),
            ("a?c", "aüc", true),
            ("a*b*c", "aXbXbc", true),
            ("a.*.c.**", "a.b.c.", true),
            ("**a*.b", "xa.xa1.b", true),
        ] {
            assert_eq!(
                pattern(&format!("glob:{glob}")).matches(subject.as_bytes()),
                matches,
                "{glob} on {subject}"
            );
        }
    }

    #[test]
    fn wrong_patterns_are_named() {
        assert_eq!(
            SubjectPattern::parse("abc", 2),
            Err(InvalidPattern::TooLong(3, 2))
        );
        let stars = format!("glob:{}", "*a".repeat(17));
        let error = SubjectPattern::parse(&stars, 99);
        assert_eq!(error, Err(InvalidPattern::TooManyWildcards));
        assert_eq!(
            SubjectPattern::parse("glob:", 9),
            Err(InvalidPattern::EmptyText)
        );
        assert_eq!(SubjectPattern::parse("a\0b", 9), Err(InvalidPattern::Nul));
    }

    #[test]
    fn the_subject_ends_at_a_nul() {
        assert_eq!(subject_of(b"Order\0rest"), b"Order");
        assert_eq!(subject_of(b"Order"), b"Order");
        assert_eq!(subject_of(b""), b"");
    }

    /// The definition, as naive as it can be said.
    fn oracle(pattern: &[u8], subject: &[u8]) -> bool {
        match pattern {
            [] => subject.is_empty(),
            [b'*', b'*', rest @ ..] => (0..=subject.len()).any(|n| oracle(rest, &subject[n..])),
            [b'*', rest @ ..] => (0..=subject.len())
                .take_while(|&n| !subject[..n].contains(&b'.'))
                .any(|n| oracle(rest, &subject[n..])),
            [b'?', rest @ ..] => {
                subject.first().is_some_and(|&b| b != b'.') && oracle(rest, &subject[1..])
            }
            [byte, rest @ ..] => subject.first() == Some(byte) && oracle(rest, &subject[1..]),
        }
    }

    proptest! {
        #[test]
        fn globs_agree_with_the_definition(
            glob in "[ab.*?]{1,10}",
            subject in "[ab.]{0,12}",
        ) {
            let agreed = oracle(glob.as_bytes(), subject.as_bytes());
            prop_assert_eq!(pattern(&format!("glob:{glob}")).matches(subject.as_bytes()), agreed);
        }

        #[test]
        fn the_written_form_is_read_back(
            written in "(exact:|glob:|prefix:)?[a-c:.*]{1,8}",
        ) {
            let parsed = pattern(&written);
            prop_assert_eq!(pattern(&parsed.to_string()), parsed);
        }
    }
}
