//! Ids that publishers give to their events, and to whom each of them belongs.

mod recent;
mod shares;

use std::borrow::Borrow;

use bytes::Bytes;

pub use recent::Recent;
pub use shares::Shares;

/// What an id with an owner begins with. No publisher can say that: an id by position has no NUL, and
/// one in JSON is UTF-8.
const MARK: [u8; 2] = [0xFF, 0];
/// The kind of owner that is a part of the daemon.
const INSIDE: u8 = 3;

/// Who gives ids to events. Ids of different emitters are different, whatever they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Emitter<'a> {
    /// One among all, where nobody has a name. What has such an id is known to everybody, also when others
    /// have names meanwhile.
    Anybody,
    /// Peers without a name, where others have one.
    Nameless,
    /// The client of this name.
    Client(&'a str),
    /// Who has a key of the daemon's own.
    Own,
    /// A part of the daemon that publishes by itself, by its name.
    Inside(&'a str),
}

impl<'a> Emitter<'a> {
    /// Its kind on disk and its name.
    fn parts(self) -> Option<(u8, &'a str)> {
        match self {
            Self::Anybody => None,
            Self::Nameless => Some((0, "")),
            Self::Client(name) => Some((1, name)),
            Self::Own => Some((2, "")),
            Self::Inside(name) => Some((INSIDE, name)),
        }
    }
}

/// The id of an event together with its owner; empty for none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(Bytes);

impl EventId {
    /// What an emitter calls an event. A name is at most 255 bytes long.
    pub fn of(emitter: Emitter<'_>, said: Bytes) -> Self {
        let owner = emitter.parts().filter(|_| !said.is_empty());
        let Some((kind, name)) = owner else {
            return Self(said);
        };
        let name = &name.as_bytes()[..name.len().min(usize::from(u8::MAX))];
        let head = [MARK[0], MARK[1], kind, name.len() as u8];
        Self([&head[..], name, &said].concat().into())
    }

    /// What the emitter called the event.
    pub fn said(&self) -> &[u8] {
        self.shared().unwrap_or(&self.0)
    }

    /// If it has an owner, the same id as it would be anybody's.
    pub fn shared(&self) -> Option<&[u8]> {
        shared(&self.0)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As it is on disk.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl Borrow<[u8]> for EventId {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// Whether an id on disk is that of a part of the daemon, which never gives one again to another event.
pub fn is_from_inside(id: &[u8]) -> bool {
    id.strip_prefix(&MARK).and_then(<[u8]>::first) == Some(&INSIDE)
}

/// Of an id with an owner, the same one as it would be anybody's.
pub fn shared(id: &[u8]) -> Option<&[u8]> {
    let owned = id.strip_prefix(&MARK)?;
    let name_bytes = usize::from(*owned.get(1)?);
    owned.get(2 + name_bytes..)
}

/// What tells whose an id is; empty if it is anybody's.
fn owner_of(id: &[u8]) -> &[u8] {
    let said_bytes = shared(id).map_or(id.len(), <[u8]>::len);
    &id[..id.len() - said_bytes]
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_of_anybody_is_what_was_said() {
        let id = EventId::of(Emitter::Anybody, "a-1".into());
        assert_eq!(
            (id.said(), &*id.clone().into_bytes()),
            (&b"a-1"[..], &b"a-1"[..])
        );
        for emitter in [Emitter::Anybody, Emitter::Nameless, Emitter::Client("till")] {
            assert!(EventId::of(emitter, Bytes::new()).is_empty());
        }
        let id = EventId::of(Emitter::Client("till"), "a-1".into());
        assert_eq!(&*id.into_bytes(), b"\xFF\0\x01\x04tilla-1");
    }

    #[test]
    fn bytes_that_only_begin_like_an_owner_have_none() {
        for id in [
            &b""[..],
            b"\xFF",
            b"\xFF\0",
            b"\xFF\0\x01",
            b"\xFF\0\x01\x05till",
        ] {
            assert_eq!(shared(id), None, "{id:?}");
        }
    }

    /// What a publisher may say: any bytes without a NUL, or UTF-8.
    fn said() -> impl Strategy<Value = Bytes> {
        let by_position = vec(1u8..=255, 1..6).prop_map(Bytes::from);
        let by_name = ".{1,4}".prop_map(Bytes::from);
        prop_oneof![by_position, by_name, "[ab\0]{1,3}".prop_map(Bytes::from)]
    }

    fn emitters() -> impl Strategy<Value = (u8, String)> {
        (0u8..5, "[ab]{0,2}|.{0,255}")
    }

    fn emitter((kind, name): &(u8, String)) -> Emitter<'_> {
        let mut end = name.len().min(255);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        let name = &name[..end];
        match kind {
            0 => Emitter::Anybody,
            1 => Emitter::Nameless,
            2 => Emitter::Client(name),
            3 => Emitter::Own,
            _ => Emitter::Inside(name),
        }
    }

    proptest! {
        #[test]
        fn ids_are_the_same_if_emitter_and_words_are(
            (one, other) in (emitters(), emitters()),
            (said, again) in (said(), said()),
        ) {
            let (one, other) = (emitter(&one), emitter(&other));
            let id = EventId::of(one, said.clone());
            prop_assert_eq!(id.said(), &said[..]);
            let expected = (one, &said) == (other, &again);
            prop_assert_eq!(id == EventId::of(other, again), expected);
            let expected = (one != Emitter::Anybody).then_some(&said[..]);
            prop_assert_eq!(shared(id.borrow()), expected);
        }
    }
}
