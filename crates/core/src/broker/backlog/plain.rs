//! An item of which there is nothing else to know than what it is.

use bytes::Bytes;

use super::item::{Item, OrderKey, Position};
use crate::seq::Seq;

/// Many of them may wait, so they are kept small. A key is kept beside it.
#[derive(Debug)]
pub(super) struct Plain {
    pub(super) body: Bytes,
    pub(super) position: Position,
    /// Its position is its sequence number.
    has_seq: bool,
}

impl Plain {
    /// The item as a plain one and its key, if that is all it is. One with a sequence number is at that position.
    pub(super) fn try_from(item: Item) -> Result<(Self, Option<OrderKey>), Item> {
        match item {
            Item {
                body,
                seq,
                key,
                not_before: None,
                expires_at: None,
                first_at: None,
                attempt: 0,
                given_before: false,
                late: None,
                by_clock: _,
                position,
            } if seq.is_none_or(|seq| Position::try_from(seq.0) == Ok(position)) => {
                let plain = Self {
                    body,
                    position,
                    has_seq: seq.is_some(),
                };
                Ok((plain, key))
            }
            item => Err(item),
        }
    }

    /// The item again.
    pub(super) fn with_key(self, key: Option<OrderKey>) -> Item {
        Item {
            seq: self.has_seq.then(|| Seq(self.position.unsigned_abs())),
            key,
            position: self.position,
            ..Item::new(self.body)
        }
    }
}
