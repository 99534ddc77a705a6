//! One message, however it was written.

use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::data_type::DataType;
use super::token::Token;
use crate::model::{EXCERPT_BYTES_MAX, excerpt};

/// A request, an answer or a sync event, as it is in all layouts.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// What it asks for, or answers.
    pub token: Token,
    /// How `data` is to be read.
    pub data_type: DataType,
    /// Its body, of any size and content; what it has to be depends on `token`.
    pub data: Bytes,
    /// How long its sender waits; `None` leaves that to the receiver.
    pub timeout: Option<Duration>,
    /// The named fields of the JSON form. In an answer they stand beside its data, in JSON only.
    pub named: Option<Map<String, Value>>,
    /// An event's frames, behind all else; only an EMIT has some.
    pub frames: Vec<Bytes>,
}

impl Message {
    /// A message without a timeout.
    pub fn new(token: Token, data_type: DataType, data: impl Into<Bytes>) -> Self {
        Self {
            token,
            data_type,
            data: data.into(),
            timeout: None,
            named: None,
            frames: vec![],
        }
    }

    /// A message of fields.
    pub fn param<'a>(token: Token, fields: impl IntoIterator<Item = &'a str>) -> Self {
        let fields: Vec<&str> = fields.into_iter().collect();
        Self::new(token, DataType::Param, fields.join("\0"))
    }

    /// The answer yes.
    pub fn ack(data_type: DataType, data: impl Into<Bytes>) -> Self {
        Self::new(Token::ACK, data_type, data)
    }

    /// The answer no: a code for programs, a sentence for people, which is cut if it is long.
    pub fn nak(code: &str, sentence: impl Display) -> Self {
        let text = format!("{code}: {sentence}");
        let text = excerpt(&text, EXCERPT_BYTES_MAX).into_owned();
        Self::new(Token::NAK, DataType::String, text)
    }

    /// The data's fields: what stands between its NULs. Data that ends with a NUL has an empty last
    /// field, which may be one or only the end of the one before; its reader knows.
    pub fn fields(&self) -> Vec<&[u8]> {
        self.data.split(|byte| *byte == 0).collect()
    }
}
