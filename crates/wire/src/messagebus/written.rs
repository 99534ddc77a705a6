//! Messages as they are written, in the layout of who reads them.

use std::fmt::{self, Write};

use bytes::Bytes;

use super::codec::{FRAMES_MAX, Form, Layout};
use super::data_type::DataType;
use super::json;
use super::message::Message;
use super::token::Token;

/// Writes a message.
pub fn encode(message: &Message, layout: Layout) -> Vec<Bytes> {
    let mut frames = Vec::with_capacity(FRAMES_MAX + message.frames.len());
    each_frame(message, layout, |frame, _| {
        frames.push(match frame {
            Frame::Short(written) => Bytes::copy_from_slice(written.bytes()),
            Frame::Shared(bytes) => bytes.clone(),
        });
    });
    frames
}

/// Gives the same frames to who writes them on, one after the other, and whether there are more.
pub fn encode_each(message: &Message, layout: Layout, mut put: impl FnMut(&[u8], bool)) {
    each_frame(message, layout, |frame, more| match frame {
        Frame::Short(written) => put(written.bytes(), more),
        Frame::Shared(bytes) => put(bytes, more),
    });
}

/// A frame that is written.
enum Frame<'a> {
    Short(Written),
    Shared(&'a Bytes),
}

fn each_frame(message: &Message, layout: Layout, mut put: impl FnMut(Frame<'_>, bool)) {
    let (token, data_type) = match layout {
        Layout::Json => return put(Frame::Shared(&json::encode(message)), false),
        Layout::Frames { token, data_type } => (token, data_type),
    };
    let mut left = message.frames.len();
    let has_timeout = message.timeout.is_some() || left > 0;
    put(Frame::Short(encode_token(message.token, token)), true);
    let data_type = encode_data_type(message.data_type, data_type);
    put(Frame::Short(data_type), true);
    put(Frame::Shared(&message.data), has_timeout);
    if has_timeout {
        let micros = message.timeout.map(|timeout| timeout.as_micros());
        let micros = micros.map_or(Written::default(), Written::shown);
        put(Frame::Short(micros), left > 0);
    }
    for frame in &message.frames {
        left -= 1;
        put(Frame::Shared(frame), left > 0);
    }
}

/// A number or a name, as it is written.
#[derive(Default)]
struct Written {
    bytes: [u8; Self::BYTES_MAX],
    len: usize,
}

impl Written {
    /// More than the longest name and the longest timeout have.
    const BYTES_MAX: usize = 32;

    fn of(bytes: &[u8]) -> Self {
        let mut written = Self::default();
        written.push(bytes);
        written
    }

    fn shown(what: impl fmt::Display) -> Self {
        let mut written = Self::default();
        // It has room for all of them.
        let _ = write!(written, "{what}");
        written
    }

    fn decimal(number: u64) -> Self {
        Self::of(itoa::Buffer::new().format(number).as_bytes())
    }

    fn push(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(bytes);
            self.len = end;
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Write for Written {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

fn encode_token(token: Token, form: Form) -> Written {
    match form {
        Form::Decimal => Written::decimal(token.value()),
        Form::Hex => Written::shown(format_args!("{:#010x}", token.value())),
        Form::Dotted => match (token.group(), token.number()) {
            // As most are, and all answers.
            (group @ ..10, number @ ..10) => {
                Written::of(&[b'0' + group as u8, b'.', b'0' + number as u8])
            }
            (group, number) => Written::shown(format_args!("{group:X}.{number:X}")),
        },
        Form::Name => Written::shown(token),
        Form::Raw { .. } => encode_raw(token.value(), form),
    }
}

/// One that has no number, or no name, is written as what it has.
fn encode_data_type(kind: DataType, form: Form) -> Written {
    match (form, kind.number()) {
        (Form::Name, _) | (_, None) => Written::shown(kind),
        (Form::Decimal | Form::Dotted, Some(number)) => Written::decimal(number),
        (Form::Hex, Some(number)) => Written::shown(format_args!("{number:#x}")),
        (Form::Raw { .. }, Some(number)) => encode_raw(number, form),
    }
}

fn encode_raw(value: u64, form: Form) -> Written {
    let Form::Raw {
        bytes,
        little_endian,
    } = form
    else {
        return Written::default();
    };
    let len = usize::from(bytes);
    match little_endian {
        true => Written::of(&value.to_le_bytes()[..len]),
        false => Written::of(&value.to_be_bytes()[8 - len..]),
    }
}
