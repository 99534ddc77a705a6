//! Tokens: what a message asks for, or answers.

use std::fmt;

/// A token is a number written in hex as `0xPGGXNNNN`: priority `P`, message group `GG`, `X` unused,
/// number `NNNN`. A group may have three digits; such a token has more than 32 bits if its priority
/// isn't low.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(u64);

const NAMES: [(Token, &str); 18] = [
    (Token::SUBSCRIBE, "TK_EVENT_MANAGER_SUBSCRIBE"),
    (Token::UNSUBSCRIBE, "TK_EVENT_MANAGER_UNSUBSCRIBE"),
    (Token::PUBLISH, "TK_EVENT_MANAGER_PUBLISH"),
    (Token::KEEP_ALIVE, "TK_EVENT_MANAGER_KEEP_ALIVE"),
    (Token::STATUS, "TK_EVENT_MANAGER_STATUS"),
    (Token::EMIT, "TK_EVENT_MANAGER_EMIT"),
    (Token::END, "TK_EVENT_MANAGER_END"),
    (Token::DLQ, "TK_EVENT_MANAGER_DLQ"),
    (Token::EVENTS, "TK_EVENT_MANAGER_EVENTS"),
    (Token::LEASE, "TK_EVENT_MANAGER_LEASE"),
    (Token::INSTANCES, "TK_EVENT_MANAGER_INSTANCES"),
    (Token::REGISTER, "TK_SERVICE_LOCATOR_REGISTER"),
    (Token::LOCATE, "TK_SERVICE_LOCATOR_LOCATE"),
    (Token::UNREGISTER, "TK_SERVICE_LOCATOR_UNREGISTER"),
    (Token::LIST, "TK_SERVICE_LOCATOR_LIST"),
    (Token::ACK, "TK_SYS_ACK"),
    (Token::NAK, "TK_SYS_NAK"),
    (Token::EVENT, "TK_EVT_EVENT"),
];

impl Token {
    /// Subscribes a service.
    pub const SUBSCRIBE: Self = Self::new(2, 1);
    /// Ends a subscription.
    pub const UNSUBSCRIBE: Self = Self::new(2, 2);
    /// Calls all matching services, and returns their answers: a sync event.
    pub const PUBLISH: Self = Self::new(2, 3);
    /// Refreshes a subscription's lease.
    pub const KEEP_ALIVE: Self = Self::new(2, 4);
    /// The state of the daemon as JSON; ours.
    pub const STATUS: Self = Self::new(2, 0x0100);
    /// Publishes an event and confirms it; ours.
    pub const EMIT: Self = Self::new(2, 0x0101);
    /// Ends a durable service, with what waits for it; ours.
    pub const END: Self = Self::new(2, 0x0102);
    /// A service's dead letters; ours.
    pub const DLQ: Self = Self::new(2, 0x0103);
    /// The latest notable events; ours.
    pub const EVENTS: Self = Self::new(2, 0x0104);
    /// Acquires, renews, releases or shows a lease; ours.
    pub const LEASE: Self = Self::new(2, 0x0105);
    /// The instances of other programs, and who of them leads; ours.
    pub const INSTANCES: Self = Self::new(2, 0x0106);
    /// Registers a service's address with the ServiceLocator.
    pub const REGISTER: Self = Self::new(3, 1);
    /// Asks for a service's address.
    pub const LOCATE: Self = Self::new(3, 2);
    /// Ends a registration.
    pub const UNREGISTER: Self = Self::new(3, 3);
    /// Asks for all registrations.
    pub const LIST: Self = Self::new(3, 4);
    /// The answer yes, with what was asked for.
    pub const ACK: Self = Self(0xF010_0001);
    /// The answer no, with a code and a sentence.
    pub const NAK: Self = Self(0xF010_0002);
    /// A sync event on its way to a service.
    pub const EVENT: Self = Self(0xF040_0001);

    /// The largest value: nine hex digits.
    pub const VALUE_MAX: u64 = 0xF_FFFF_FFFF;

    /// A token of low priority.
    pub const fn new(group: u16, number: u16) -> Self {
        Self((group as u64) << 20 | number as u64)
    }

    /// The token with this value.
    pub const fn from_value(value: u64) -> Self {
        Self(value)
    }

    /// Whether an event's frames may follow such a message.
    pub fn takes_frames(self) -> bool {
        self.is(Self::EMIT)
    }

    /// The whole number.
    pub const fn value(self) -> u64 {
        self.0
    }

    /// The message group.
    pub const fn group(self) -> u16 {
        let digits = if self.0 > u32::MAX as u64 {
            0xFFF
        } else {
            0xFF
        };
        (self.0 >> 20) as u16 & digits
    }

    /// The number within the group.
    pub const fn number(self) -> u16 {
        self.0 as u16
    }

    /// Whether both ask for the same: group and number agree, whatever the priority.
    pub const fn is(self, other: Self) -> bool {
        self.group() == other.group() && self.number() == other.number()
    }

    /// The well-known name.
    pub fn name(self) -> Option<&'static str> {
        NAMES
            .iter()
            .find(|(token, _)| token.is(self))
            .map(|(_, name)| *name)
    }

    /// The token of a well-known name, or of its last words: `subscribe`, in any case, and with `-` or `_`
    /// between words.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = &*name.replace('-', "_");
        let prefixes = [
            "TK_EVENT_MANAGER_",
            "TK_SERVICE_LOCATOR_",
            "TK_SYS_",
            "TK_EVT_",
        ];
        let is_name = |known: &str| {
            let short = prefixes
                .iter()
                .find_map(|prefix| known.strip_prefix(prefix));
            known.eq_ignore_ascii_case(name) || short.is_some_and(|s| s.eq_ignore_ascii_case(name))
        };
        NAMES
            .iter()
            .find(|(_, known)| is_name(known))
            .map(|(token, _)| *token)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#010x}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_numbers_and_priorities() {
        assert_eq!(Token::SUBSCRIBE.value(), 0x0020_0001);
        assert_eq!((Token::ACK.group(), Token::ACK.number()), (1, 1));
        assert!(Token::from_value(0xF020_0001).is(Token::SUBSCRIBE));
        assert!(!Token::from_value(0xF020_0002).is(Token::SUBSCRIBE));
        let wide = Token::from_value(0xF_1230_0001);
        assert_eq!((wide.group(), wide.number()), (0x123, 1));
    }

    #[test]
    fn names() {
        assert_eq!(
            Token::from_name("TK_EVENT_MANAGER_SUBSCRIBE"),
            Some(Token::SUBSCRIBE)
        );
        assert_eq!(Token::from_name("keep_alive"), Some(Token::KEEP_ALIVE));
        assert_eq!(Token::from_name("Keep-Alive"), Some(Token::KEEP_ALIVE));
        assert_eq!(Token::from_name("nonsense"), None);
        assert_eq!(
            Token::from_value(0xF020_0003).to_string(),
            "TK_EVENT_MANAGER_PUBLISH"
        );
        assert_eq!(Token::new(9, 9).to_string(), "0x00900009");
    }
}
