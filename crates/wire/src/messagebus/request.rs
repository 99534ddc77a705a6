//! Requests as types: a message's fields, by position or by name, become a struct that derives
//! `Deserialize`. All requests are read here, so all are strict in the same way.

use std::vec;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

use super::message::Message;
use super::nak::{Nak, SHOWN_BYTES_MAX, one_of, shown};
use crate::model::{InvalidName, excerpt};

/// A request's fields by position: what stands between the NULs of its data.
#[derive(Debug, Clone, Copy)]
pub struct Positions {
    names: &'static [&'static str],
    required: usize,
    rest: Rest,
}

/// What the last name of a [`Positions`] stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// One field. Nobody looks at those behind it.
    Field,
    /// All the rest of the data, with its NULs.
    Raw,
    /// A list of all further fields. A NUL at the end of the data only ends the last of them, unless
    /// there are fewer than this number then.
    List(usize),
    /// A JSON object with fields that have no position, if it is there.
    Options,
}

impl Positions {
    /// These fields, each of which may be missing.
    pub const fn new(names: &'static [&'static str]) -> Self {
        Self {
            names,
            required: 0,
            rest: Rest::Field,
        }
    }

    /// The first `required` fields have to be there, though they may be empty.
    pub const fn required(self, required: usize) -> Self {
        Self { required, ..self }
    }

    /// What the last name stands for.
    pub const fn last_is(self, rest: Rest) -> Self {
        Self { rest, ..self }
    }

    /// What the last name stands for.
    pub const fn rest(&self) -> Rest {
        self.rest
    }

    /// Their names.
    pub const fn names(&self) -> &'static [&'static str] {
        self.names
    }

    /// The value of the field `name`, which is a name and has to be there; `new` checks it.
    ///
    /// # Errors
    /// A [`Nak`] with the code `missing-field` or `invalid-name`.
    pub fn checked<T>(
        &self,
        message: &Message,
        name: &'static str,
        value: &str,
        new: fn(&str) -> Result<T, InvalidName>,
    ) -> Result<T, Nak> {
        match value {
            "" => Err(self.missing(message, name)),
            value => {
                new(value).map_err(|error| Nak::new("invalid-name", format!("{name:?} {error}")))
            }
        }
    }

    /// The refusal of a request that lacks a field.
    pub fn missing(&self, message: &Message, name: &'static str) -> Nak {
        match self.names.iter().position(|known| *known == name) {
            Some(at) if named(message).is_none() => {
                let (position, names) = (at + 1, self.names.join(", "));
                let sentence = format!("field {position}, {name:?}, is missing; they are {names}");
                Nak::new("missing-field", sentence)
            }
            _ => Nak::missing_field(name),
        }
    }
}

/// The fields of the JSON form, if the request has any.
fn named(message: &Message) -> Option<&Map<String, Value>> {
    message.named.as_ref().filter(|named| !named.is_empty())
}

/// Reads a request. A name that `T` doesn't have is refused, whatever it stands for. One whose value
/// is null is not there, nor is an empty field by position that is an `Option`.
///
/// # Errors
/// A [`Nak`] with the code `unknown-field`, `missing-field`, `invalid-field` or `invalid-utf8`, which
/// names the field, what was expected and what came.
pub fn read<T: DeserializeOwned>(message: &Message, positions: &Positions) -> Result<T, Nak> {
    if let Some(named) = named(message) {
        return T::deserialize(Fields::new(by_name(named).collect()));
    }
    let mut fields = by_position(&message.data, positions);
    if fields.len() < positions.required {
        return Err(positions.missing(message, positions.names[fields.len()]));
    }
    let mut options = Map::new();
    if positions.rest == Rest::Options && fields.len() == positions.names.len() {
        options = read_options(fields.pop())?;
    }
    fields.extend(by_name(&options));
    T::deserialize(Fields::new(fields))
}

fn by_name(named: &Map<String, Value>) -> impl Iterator<Item = (&str, Given<'_>)> {
    let fields = named.iter();
    fields.map(|(name, value)| (name.as_str(), Given::Json(value)))
}

fn by_position<'a>(data: &'a [u8], positions: &Positions) -> Vec<(&'a str, Given<'a>)> {
    let mut fields = Vec::with_capacity(positions.names.len());
    let Some((last, names)) = positions.names.split_last() else {
        return fields;
    };
    let mut left = Some(data);
    for name in names {
        let Some(data) = left else { return fields };
        let (field, behind) = cut(data);
        fields.push((*name, Given::Bytes(field)));
        left = behind;
    }
    let Some(data) = left else { return fields };
    let value = match positions.rest {
        Rest::Field | Rest::Options => Given::Bytes(cut(data).0),
        Rest::Raw => Given::Bytes(data),
        Rest::List(fewest) => {
            let mut list: Vec<_> = data.split(|byte| *byte == 0).collect();
            if list.len() > fewest {
                list.pop_if(|last| last.is_empty());
            }
            Given::List(list)
        }
    };
    fields.push((*last, value));
    fields
}

/// What stands before the first NUL, and behind it.
fn cut(data: &[u8]) -> (&[u8], Option<&[u8]>) {
    match data.iter().position(|byte| *byte == 0) {
        Some(at) => (&data[..at], Some(&data[at + 1..])),
        None => (data, None),
    }
}

fn read_options(field: Option<(&str, Given<'_>)>) -> Result<Map<String, Value>, Nak> {
    match field {
        Some((name, Given::Bytes(written))) if !written.is_empty() => {
            serde_json::from_slice(written).map_err(|error| {
                let got = shown(&String::from_utf8_lossy(written));
                // That it is something else is seen.
                let got = match error.is_data() {
                    true => got,
                    false => format!("{got} ({error})"),
                };
                Nak::expected("a JSON object", got).in_field(name)
            })
        }
        _ => Ok(Map::new()),
    }
}

/// A field's value, as it came.
#[derive(Debug, Clone)]
enum Given<'a> {
    Json(&'a Value),
    Bytes(&'a [u8]),
    List(Vec<&'a [u8]>),
}

/// The fields of a request.
struct Fields<'a> {
    left: vec::IntoIter<(&'a str, Given<'a>)>,
    /// That of the name that was read last.
    value: Option<(&'a str, Given<'a>)>,
}

impl<'a> Fields<'a> {
    fn new(fields: Vec<(&'a str, Given<'a>)>) -> Self {
        Self {
            left: fields.into_iter(),
            value: None,
        }
    }
}

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = Nak;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Nak> {
        visitor.visit_map(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Nak> {
        let names = self.left.as_slice().iter().map(|(name, _)| *name);
        if let Some(unknown) = names.into_iter().find(|name| !known.contains(name)) {
            return Err(Nak::unknown_field(unknown, known));
        }
        visitor.visit_map(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Nak;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Nak> {
        let is_there = |(_, value): &(&str, Given<'_>)| !matches!(value, Given::Json(Value::Null));
        self.value = self.left.find(is_there);
        let name = self.value.as_ref().map(|(name, _)| *name);
        name.map(|name| seed.deserialize(name.into_deserializer()))
            .transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Nak> {
        let Some((name, value)) = self.value.take() else {
            return Err(Nak::custom("a value without a name"));
        };
        seed.deserialize(value).map_err(|nak| nak.in_field(name))
    }
}

fn text(bytes: &[u8]) -> Result<&str, Nak> {
    str::from_utf8(bytes).map_err(|_| {
        let got = shown(&String::from_utf8_lossy(bytes));
        Nak::new("invalid-utf8", format!("expected UTF-8, got {got}"))
    })
}

impl<'de> Deserializer<'de> for Given<'_> {
    type Error = Nak;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Nak> {
        match self {
            Self::Bytes(bytes) => visitor.visit_str(text(bytes)?),
            Self::List(list) => visitor.visit_seq(List(list.into_iter().map(Self::Bytes))),
            Self::Json(Value::Array(list)) => visitor.visit_seq(List(list.iter().map(Self::Json))),
            Self::Json(Value::Number(number)) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (None, Some(number)) => visitor.visit_i64(number),
                (None, None) => visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN)),
            },
            Self::Json(Value::String(text)) => visitor.visit_str(text),
            Self::Json(Value::Bool(value)) => visitor.visit_bool(*value),
            Self::Json(Value::Null) => visitor.visit_unit(),
            Self::Json(Value::Object(_)) => Err(Nak::invalid_type(Unexpected::Map, &visitor)),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Nak> {
        if let Self::Bytes(bytes) = self
            && let Ok(number) = text(bytes)?.parse()
        {
            return visitor.visit_u64(number);
        }
        self.deserialize_any(visitor)
    }

    /// The bytes of a text.
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Nak> {
        match self {
            Self::Bytes(bytes) => visitor.visit_bytes(bytes),
            Self::Json(Value::String(text)) => visitor.visit_bytes(text.as_bytes()),
            other => other.deserialize_any(visitor),
        }
    }

    /// Those of anything else, too, as JSON.
    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Nak> {
        match self {
            Self::Json(value) if !value.is_string() => {
                visitor.visit_byte_buf(value.to_string().into())
            }
            other => other.deserialize_bytes(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Nak> {
        match self {
            Self::Bytes([]) => visitor.visit_none(),
            given => visitor.visit_some(given),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Nak> {
        match self {
            Self::Json(Value::Object(members)) => {
                let members = members.iter();
                let members = members.map(|(name, value)| (&**name, Given::Json(value)));
                Fields::new(members.collect()).deserialize_struct(name, known, visitor)
            }
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Nak> {
        let name = match self {
            Self::Bytes(bytes) => text(bytes)?,
            Self::Json(Value::String(text)) => text,
            Self::Json(other) => {
                let got = other.to_string();
                return Err(Nak::expected(one_of(names), excerpt(&got, SHOWN_BYTES_MAX)));
            }
            Self::List(_) => return Err(Nak::expected(one_of(names), "a list")),
        };
        let name: StrDeserializer<'_, Nak> = name.into_deserializer();
        visitor.visit_enum(name)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u128 f32 f64 char str string
        unit unit_struct newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}

/// The elements of a list.
struct List<I>(I);

impl<'a, 'de, I: Iterator<Item = Given<'a>>> SeqAccess<'de> for List<I> {
    type Error = Nak;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Nak> {
        self.0
            .next()
            .map(|value| seed.deserialize(value))
            .transpose()
    }
}
