//! What an instance says, from a message.

use serde::Deserialize;
use serde_json::{Map, Value};

use event_manager_wire::model::beginning;

/// Longer messages are not looked at.
pub const MESSAGE_BYTES_MAX: usize = 16 << 10;
/// Longer ids are none.
pub const ID_BYTES_MAX: usize = 128;
/// Of a longer address only the beginning is kept.
const ADDRESS_BYTES_MAX: usize = 256;

/// What kind of message it is, as its prefix says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Heartbeat,
    /// Something else that an instance publishes.
    Event,
    /// It ends.
    Shutdown,
}

/// What the fields of messages are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    pub id: String,
    pub pid: String,
    pub address: String,
}

/// What an instance said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub kind: Kind,
    pub id: String,
    /// Its process id, if it said one. The instance with the lowest leads.
    pub pid: Option<i64>,
    /// Where it publishes, as it says itself.
    pub address: Option<String>,
}

/// Why a message says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unreadable {
    TooLarge,
    /// None of its frames is an object of JSON.
    NoJson,
    /// It has no id.
    NoId,
    /// The id is empty, too long, or has control characters.
    BadId,
}

impl Unreadable {
    /// As the counters name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "too-large",
            Self::NoJson => "no-json",
            Self::NoId => "no-id",
            Self::BadId => "bad-id",
        }
    }
}

/// Reads a message: the first of its frames that is an object of JSON.
///
/// # Errors
/// [`Unreadable`].
pub fn read<'a>(
    kind: Kind,
    frames: impl IntoIterator<Item = &'a [u8]>,
    fields: &Fields,
) -> Result<Said, Unreadable> {
    let mut left = MESSAGE_BYTES_MAX;
    for frame in frames {
        left = left.checked_sub(frame.len()).ok_or(Unreadable::TooLarge)?;
        if let Some(object) = object(frame) {
            return said(kind, &object, fields);
        }
    }
    Err(Unreadable::NoJson)
}

/// The object in a frame, or behind the NUL that ends the subject in it.
fn object(frame: &[u8]) -> Option<Map<String, Value>> {
    let text = match frame.first() {
        Some(b'{') => frame,
        _ => &frame[frame.iter().position(|byte| *byte == 0)? + 1..],
    };
    // What follows the object, if anything, is not for us.
    let mut reader = serde_json::Deserializer::from_slice(text);
    Map::deserialize(&mut reader).ok()
}

fn said(kind: Kind, object: &Map<String, Value>, fields: &Fields) -> Result<Said, Unreadable> {
    let id = match object.get(&fields.id) {
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(id)) => id.to_string(),
        _ => return Err(Unreadable::NoId),
    };
    let is_id = !id.is_empty() && id.len() <= ID_BYTES_MAX && !id.chars().any(char::is_control);
    if !is_id {
        return Err(Unreadable::BadId);
    }
    let address = object.get(&fields.address).and_then(Value::as_str);
    Ok(Said {
        kind,
        id,
        pid: object.get(&fields.pid).and_then(Value::as_i64),
        address: address.map(|address| beginning(address, ADDRESS_BYTES_MAX).to_owned()),
    })
}
