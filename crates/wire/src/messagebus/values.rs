//! Values of requests' fields that serde has no type for.

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

/// The bytes of a text. By position they may be any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text(pub Bytes);

/// The same, and as JSON what is no text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verbatim(pub Bytes);

struct BytesVisitor;

impl Visitor<'_> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
        Ok(Bytes::copy_from_slice(bytes))
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
        Ok(bytes.into())
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        value.deserialize_bytes(BytesVisitor).map(Self)
    }
}

impl<'de> Deserialize<'de> for Verbatim {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        value.deserialize_byte_buf(BytesVisitor).map(Self)
    }
}

/// For a field that is there even if it is empty.
///
/// # Errors
/// Those of the value.
pub fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    value: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

/// A whole number from `MIN` to `MAX`, if there is one.
///
/// # Errors
/// Any other number is out of range.
pub fn ranged<'de, D: Deserializer<'de>, const MIN: u64, const MAX: u64>(
    value: D,
) -> Result<Option<u64>, D::Error> {
    let number = Option::deserialize(value)?;
    match number {
        Some(number) if !(MIN..=MAX).contains(&number) => {
            let expected = format!("a whole number from {MIN} to {MAX}");
            Err(D::Error::invalid_value(
                Unexpected::Unsigned(number),
                &&*expected,
            ))
        }
        number => Ok(number),
    }
}
