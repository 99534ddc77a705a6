//! Names that peers choose: validated once, then trusted.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidName {
    /// It has no characters.
    Empty,
    /// It is longer than [`ServiceName::BYTES_MAX`] bytes; holds its length.
    TooLong(usize),
    /// It contains a control character, which would break fields and logs.
    ControlCharacter,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "is empty"),
            Self::TooLong(len) => {
                write!(
                    f,
                    "has {len} bytes; the limit is {}",
                    ServiceName::BYTES_MAX
                )
            }
            Self::ControlCharacter => write!(f, "contains a control character"),
        }
    }
}

impl std::error::Error for InvalidName {}

fn checked(text: &str) -> Result<Arc<str>, InvalidName> {
    if text.is_empty() {
        return Err(InvalidName::Empty);
    }
    if text.len() > ServiceName::BYTES_MAX {
        return Err(InvalidName::TooLong(text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err(InvalidName::ControlCharacter);
    }
    Ok(Arc::from(text))
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The longest name, in bytes of UTF-8.
            pub const BYTES_MAX: usize = 255;

            /// Takes a name of 1 to [`Self::BYTES_MAX`] bytes without control characters.
            ///
            /// # Errors
            /// [`InvalidName`] says what is wrong; its text continues "the name …".
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                checked(text).map(Self)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// The name under which a service's subscriptions are grouped, such as `Billing`.
    ServiceName
}

name! {
    /// What a client calls one of its subscriptions, such as `sub-1`.
    SubscriptionId
}

name! {
    /// What the holder of a lease calls itself, such as `scheduler-4711`.
    LeaseHolder
}

impl ServiceName {
    /// What the name of a service's dead letters ends with.
    pub const DEAD_LETTERS: &str = ".DLQ";

    /// The longest file name of most file systems, in bytes.
    pub const FILE_NAME_BYTES_MAX: usize = 255;

    /// What its queue is called on disk: as it is, but for `/`, `%` and a leading dot, which are written
    /// `%2F`, `%25` and `%2E`. It may be longer than [`Self::FILE_NAME_BYTES_MAX`].
    pub fn file_name(&self) -> String {
        let mut name = self.0.replace('%', "%25").replace('/', "%2F");
        if name.starts_with('.') {
            name.replace_range(..1, "%2E");
        }
        name
    }

    /// The name of its dead letters; none if that would be too long, as it is or as a file name.
    pub fn dead_letters(&self) -> Option<Self> {
        let letters = Self::new(&format!("{self}{}", Self::DEAD_LETTERS)).ok()?;
        (letters.file_name().len() <= Self::FILE_NAME_BYTES_MAX).then_some(letters)
    }

    /// Why its queue and its dead letters can't both be on disk, if they can't: the rest of a sentence
    /// about it.
    pub fn why_not_on_disk(&self) -> Option<String> {
        if self.dead_letters().is_some() {
            return None;
        }
        let bytes = self.file_name().len();
        let most = Self::FILE_NAME_BYTES_MAX - Self::DEAD_LETTERS.len();
        Some(format!(
            "as a file name, in which each / and % and a dot at its beginning take three bytes, it has {bytes} bytes; the limit is {most}"
        ))
    }

    /// The service whose dead letters have this name; none if it is no such name.
    pub fn of_dead_letters(&self) -> Option<Self> {
        Self::new(self.0.strip_suffix(Self::DEAD_LETTERS)?).ok()
    }

    /// Whether this is the name of some service's dead letters.
    pub fn is_of_dead_letters(&self) -> bool {
        self.0.ends_with(Self::DEAD_LETTERS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_printable() {
        assert_eq!(ServiceName::new("Billing").unwrap().as_str(), "Billing");
        assert_eq!(ServiceName::new("Küche").unwrap().to_string(), "Küche");
        assert_eq!(ServiceName::new(""), Err(InvalidName::Empty));
        assert!(ServiceName::new(&"x".repeat(255)).is_ok());
        assert_eq!(
            ServiceName::new(&"x".repeat(256)),
            Err(InvalidName::TooLong(256))
        );
        assert_eq!(
            SubscriptionId::new("a\nb"),
            Err(InvalidName::ControlCharacter)
        );
    }

    #[test]
    fn a_name_and_that_of_its_dead_letters_fit_a_file_name_or_are_refused() {
        for (fits, longer) in [
            ("x".repeat(251), "x".repeat(252)),
            ("%".repeat(83), "%".repeat(84)),
            ("a/".repeat(62), "a/".repeat(63)),
            (
                [".", &"x".repeat(248)].concat(),
                [".", &"x".repeat(249)].concat(),
            ),
        ] {
            let fits = ServiceName::new(&fits).unwrap();
            let letters = fits.dead_letters().expect("a name");
            assert!(letters.file_name().len() <= ServiceName::FILE_NAME_BYTES_MAX);
            assert_eq!(fits.why_not_on_disk(), None);
            let longer = ServiceName::new(&longer).unwrap();
            assert_eq!(longer.dead_letters(), None);
            let why = longer.why_not_on_disk().expect("a reason");
            assert!(why.ends_with("bytes; the limit is 251"), "{why}");
        }
    }
}
