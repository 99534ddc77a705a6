//! The ways in which clients write messages. Another site's layout is another row of [`LAYOUTS`].

use std::time::Duration;

use bytes::Bytes;

use super::data_type::{DataType, TypeName};
use super::json;
use super::message::Message;
use super::token::Token;

/// How a request was written; its answer is written alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[token][data type][data]`, each number in the form of the request.
    Frames {
        /// The form of the token.
        token: Form,
        /// The form of the data type.
        data_type: Form,
    },
    /// One JSON object.
    Json,
}

impl Layout {
    /// What we write when we ask: decimal digits.
    pub const NATIVE: Self = Self::Frames {
        token: Form::Decimal,
        data_type: Form::Decimal,
    };
}

/// The forms of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `2097153`
    Decimal,
    /// `0x00200001`
    Hex,
    /// `2.1`: group and number, in hex.
    Dotted,
    /// `TK_EVENT_MANAGER_SUBSCRIBE`
    Name,
    /// So many raw bytes.
    Raw {
        /// 1, 4 or 8.
        bytes: u8,
        /// The lowest byte stands first.
        little_endian: bool,
    },
}

/// What is wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {sentence}")]
pub struct Malformed {
    /// For programs: one of the codes of docs/protocol.md.
    pub code: &'static str,
    /// Why, for people; its wording may change.
    pub sentence: String,
    /// How an answer can be written.
    pub layout: Layout,
}

type Decode = fn(&[Bytes]) -> Option<Result<(Message, Layout), Malformed>>;

/// The most frames of a message: token, data type, data, timeout. An EMIT has its event's frames behind
/// these.
pub const FRAMES_MAX: usize = 4;

/// Each reads its own way of writing, and returns `None` for another.
const LAYOUTS: [Decode; 2] = [json::decode, decode_frames];

/// Reads a message from its frames, without the envelope.
///
/// # Errors
/// [`Malformed`] can be answered.
pub fn decode(frames: &[Bytes]) -> Result<(Message, Layout), Malformed> {
    LAYOUTS.iter().find_map(|decode| decode(frames)).unwrap_or_else(|| {
        let sentence = format!(
            "a message has 2 to 4 frames (token, data type, data, timeout), or one JSON object; this one has {}",
            frames.len()
        );
        Err(Malformed { code: "malformed-message", sentence, layout: Layout::NATIVE })
    })
}

/// Splits frames into the envelope and the message.
///
/// An envelope is what proxies and REQ sockets put first: routing ids, then an empty frame unless
/// the client is a DEALER that sends none. A routing id may read as a token that nobody knows
/// (`42`), and a message may itself hold an empty frame, such as empty data; so the border is where
/// the rest is a message with a token that we know, and only a message without one goes by its form.
pub fn split_envelope(frames: &[Bytes]) -> (&[Bytes], &[Bytes]) {
    let delimited = frames.iter().position(Bytes::is_empty).map(|at| at + 1);
    let has_token = || {
        let first = frames.first();
        first.is_some_and(|first| decode_token(first).is_some())
    };
    // Behind what reads as a token, an object is more likely its data: it has to name a token itself.
    let is_known_undelimited = |at: &usize| match &frames[*at..] {
        object @ [_] if has_token() => decode(object).is_ok_and(|(m, _)| m.token.name().is_some()),
        rest => is_known(rest),
    };
    let mut borders = [0].into_iter().chain(delimited);
    let known = borders
        .find(|at| is_known(&frames[*at..]))
        .or_else(|| (1..frames.len()).find(is_known_undelimited));
    let border = known.unwrap_or(match delimited {
        Some(border) if frames.len() > FRAMES_MAX || !has_token() => border,
        _ => 0,
    });
    frames.split_at(border)
}

/// Whether these frames are a message whose token has a name, or in JSON.
fn is_known(frames: &[Bytes]) -> bool {
    match frames {
        [object] => json::is_object(object),
        [first, ..] => decode_token(first).is_some_and(|(token, _)| {
            let has_room = frames.len() <= FRAMES_MAX || token.takes_frames();
            has_room && token.name().is_some()
        }),
        _ => false,
    }
}

fn decode_frames(frames: &[Bytes]) -> Option<Result<(Message, Layout), Malformed>> {
    let (token_frame, data_type_frame, data, timeout) = match frames {
        [token, data] => (token, None, data, None),
        [token, data_type, data] => (token, Some(data_type), data, None),
        [token, data_type, data, timeout] => (token, Some(data_type), data, Some(timeout)),
        [token, data_type, data, timeout, event @ ..] if may_carry(token) => {
            let message = read_frames(token, Some(data_type), data, Some(timeout));
            return Some(message.map(|(message, layout)| {
                let frames = event.to_vec();
                (Message { frames, ..message }, layout)
            }));
        }
        _ => return None,
    };
    Some(read_frames(token_frame, data_type_frame, data, timeout))
}

/// Whether an event's frames may follow a message that begins so.
fn may_carry(token: &Bytes) -> bool {
    decode_token(token).is_some_and(|(token, _)| token.takes_frames())
}

fn read_frames(
    token: &Bytes,
    data_type: Option<&Bytes>,
    data: &Bytes,
    timeout: Option<&Bytes>,
) -> Result<(Message, Layout), Malformed> {
    let malformed = |code, sentence, layout| Malformed {
        code,
        sentence,
        layout,
    };
    let Some((token, token_form)) = decode_token(token) else {
        let sentence = format!(
            "{} is not a token; write 2097153, 0x00200001, 2.1, TK_EVENT_MANAGER_SUBSCRIBE, or 4 or 8 raw bytes",
            shown(token)
        );
        return Err(malformed("malformed-token", sentence, Layout::NATIVE));
    };
    // Without a data type, the answer's is written like the token as far as that makes sense.
    let mut layout = Layout::Frames {
        token: token_form,
        data_type: fallback(token_form),
    };
    let mut kind = DataType::Param;
    if let Some(written) = data_type {
        let Some((read, form)) = decode_data_type(written) else {
            let sentence = format!(
                "{} is not a data type; write a number, or a name such as PARAM of at most {} bytes",
                shown(written),
                TypeName::BYTES_MAX
            );
            return Err(malformed("malformed-data-type", sentence, layout));
        };
        layout = Layout::Frames {
            token: token_form,
            data_type: form,
        };
        kind = read;
    }
    let timeout = match timeout {
        None => None,
        Some(written) => decode_timeout(written).map_err(|()| {
            let sentence = format!(
                "{} is not a timeout; write microseconds, or -1 for none",
                shown(written)
            );
            malformed("malformed-timeout", sentence, layout)
        })?,
    };
    let message = Message {
        token,
        data_type: kind,
        data: data.clone(),
        timeout,
        named: None,
        frames: vec![],
    };
    Ok((message, layout))
}

fn fallback(token: Form) -> Form {
    if matches!(token, Form::Raw { .. } | Form::Name) {
        token
    } else {
        Form::Decimal
    }
}

/// A peer's bytes in a sentence: bounded and printable.
fn shown(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(40)];
    let dots = if cut.len() < bytes.len() { "…" } else { "" };
    format!("\"{}{dots}\"", cut.escape_ascii())
}

fn text(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    // As a rule there is nothing to trim.
    match bytes {
        [first, .., last] if first.is_ascii_graphic() && last.is_ascii_graphic() => Some(text),
        _ => Some(text.trim()),
    }
}

fn hex(text: &str) -> Option<u64> {
    let digits = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))?;
    let valid = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16).ok().filter(|_| valid)
}

fn decimal(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// Hex digits of a number of 16 bits.
fn hex_u16(text: &str) -> Option<u16> {
    let number = text.bytes().try_fold(0u32, |number, byte| {
        let number = number << 4 | char::from(byte).to_digit(16)?;
        (number <= u32::from(u16::MAX)).then_some(number)
    });
    number.filter(|_| !text.is_empty())?.try_into().ok()
}

/// The written forms of a token.
pub(super) fn token_from_text(text: &str) -> Option<(Token, Form)> {
    let dotted = || {
        let dot = text.bytes().position(|byte| byte == b'.')?;
        let group = hex_u16(&text[..dot])?;
        // A third digit would stand where the priority does, and so name another group.
        Some(Token::new(group, hex_u16(&text[dot + 1..])?)).filter(|token| token.group() == group)
    };
    let token = |value: u64| (value <= Token::VALUE_MAX).then_some(Token::from_value(value));
    (decimal(text)
        .and_then(token)
        .map(|token| (token, Form::Decimal)))
    .or_else(|| hex(text).and_then(token).map(|token| (token, Form::Hex)))
    .or_else(|| dotted().map(|token| (token, Form::Dotted)))
    .or_else(|| {
        let is_name = text.starts_with(|c: char| c.is_ascii_alphabetic());
        let token = is_name.then(|| Token::from_name(text))?;
        token.map(|token| (token, Form::Name))
    })
}

/// Text is tried first: four raw bytes that are also digits would be a token of priority 3, which
/// nobody has. Of the two byte orders, the one that gives a token that we know is right.
fn decode_token(bytes: &[u8]) -> Option<(Token, Form)> {
    // A delimiter is none.
    if bytes.is_empty() {
        return None;
    }
    if let Some(found) = text(bytes).and_then(token_from_text) {
        return Some(found);
    }
    let possible = |value: &u64| *value <= Token::VALUE_MAX;
    let known = |value: &u64| Token::from_value(*value).name().is_some();
    let little = raw(bytes, true).filter(possible);
    let big = raw(bytes, false).filter(possible);
    let little_endian = little.is_some_and(|value| known(&value))
        || big.is_none_or(|value| little.is_some() && !known(&value));
    let value = if little_endian { little? } else { big? };
    Some((
        Token::from_value(value),
        Form::Raw {
            bytes: bytes.len() as u8,
            little_endian,
        },
    ))
}

fn raw(bytes: &[u8], little_endian: bool) -> Option<u64> {
    if bytes.len() != 4 && bytes.len() != 8 {
        return None;
    }
    let fold = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
    Some(if little_endian {
        bytes.iter().rev().fold(0, fold)
    } else {
        bytes.iter().fold(0, fold)
    })
}

fn decode_data_type(bytes: &[u8]) -> Option<(DataType, Form)> {
    if bytes.is_empty() {
        return Some((DataType::Empty, Form::Decimal));
    }
    if let Some(found) = text(bytes).and_then(data_type_from_text) {
        return Some(found);
    }
    let form = |little_endian| Form::Raw {
        bytes: bytes.len() as u8,
        little_endian,
    };
    if let [byte] = bytes {
        return Some((DataType::from_number(u64::from(*byte)), form(true)));
    }
    // Of the two byte orders the one that gives a type that we know, else the smaller number.
    let (little, big) = (raw(bytes, true)?, raw(bytes, false)?);
    let order = |number: u64| (!DataType::from_number(number).is_known(), number);
    let little_endian = order(little) <= order(big);
    let number = if little_endian { little } else { big };
    Some((DataType::from_number(number), form(little_endian)))
}

/// The written forms of a data type.
pub(super) fn data_type_from_text(text: &str) -> Option<(DataType, Form)> {
    (decimal(text).map(|n| (n, Form::Decimal)))
        .or_else(|| hex(text).map(|n| (n, Form::Hex)))
        .map(|(n, form)| (DataType::from_number(n), form))
        .or_else(|| DataType::from_name(text).map(|kind| (kind, Form::Name)))
}

/// -1, or nothing, is no timeout.
fn decode_timeout(bytes: &[u8]) -> Result<Option<Duration>, ()> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let micros = match text(bytes).and_then(|text| text.parse::<i64>().ok()) {
        Some(micros) => micros,
        // What looks like text isn't meant as raw bytes: it would be a timeout of minutes or ages.
        None if bytes.iter().all(u8::is_ascii_graphic) => return Err(()),
        None => match bytes.len() {
            // Raw timeouts have no value by which their byte order could be told; ours is taken.
            4 => raw(bytes, true)
                .map(|value| i64::from(value as u32 as i32))
                .ok_or(())?,
            _ => raw(bytes, true).ok_or(())? as i64,
        },
    };
    Ok(u64::try_from(micros).ok().map(Duration::from_micros))
}

#[cfg(test)]
mod tests {
    use super::super::{encode, encode_each};
    use super::*;
    use proptest::prelude::*;

    fn frames(parts: &[&[u8]]) -> Vec<Bytes> {
        parts
            .iter()
            .map(|part| Bytes::copy_from_slice(part))
            .collect()
    }

    #[test]
    fn every_way_to_write_a_token_is_read_and_answered_in_kind() {
        let written: [(&[u8], &[u8], &[u8]); 11] = [
            (b"2097153", b"2", b"4027580417"),
            (b"0x00200001", b"0x2", b"0xf0100001"),
            (b"0x200001", b"2", b"0xf0100001"),
            (b"2.1", b"2", b"1.1"),
            (b"2.0001", b"PARAM", b"1.1"),
            (b"TK_EVENT_MANAGER_SUBSCRIBE", b"PARAM", b"TK_SYS_ACK"),
            (b"subscribe", b"param", b"TK_SYS_ACK"),
            (&[1, 0, 0x20, 0], &[2, 0, 0, 0], &[1, 0, 0x10, 0xF0]),
            (&[0, 0x20, 0, 1], &[0, 0, 0, 2], &[0xF0, 0x10, 0, 1]),
            (
                &[1, 0, 0x20, 0, 0, 0, 0, 0],
                &[2],
                &[1, 0, 0x10, 0xF0, 0, 0, 0, 0],
            ),
            (
                &[0, 0, 0, 0, 0, 0x20, 0, 1],
                b"2",
                &[0, 0, 0, 0, 0xF0, 0x10, 0, 1],
            ),
        ];
        for (token, data_type, answer) in written {
            let (message, layout) = decode(&frames(&[token, data_type, b"a\0b\0c"])).unwrap();
            assert!(message.token.is(Token::SUBSCRIBE), "{token:?}");
            assert_eq!(message.data_type, DataType::Param, "{data_type:?}");
            assert_eq!(message.fields(), [b"a", b"b", b"c"]);
            let answered = encode(&Message::ack(DataType::Param, "x"), layout);
            assert_eq!(answered[0], answer, "{token:?}");
            assert_eq!(decode_data_type(&answered[1]).unwrap().0, DataType::Param);
            assert_eq!(decode(&answered).unwrap().1, layout);
        }
    }

    #[test]
    fn a_data_type_that_nobody_knows_passes_through() {
        let name = |name| DataType::from_name(name).unwrap();
        for (written, expected) in [
            (&b"13"[..], DataType::Number(13)),
            (b"0x1f", DataType::Number(31)),
            (b"json", name("json")),
            (b"application/JSON", name("application/JSON")),
            (&[0x1F], DataType::Number(31)),
            (&[0x01, 0x01, 0, 0], DataType::Number(257)),
            (&[0, 0, 0, 0, 0, 0, 0x01, 0x01], DataType::Number(257)),
        ] {
            let parts = frames(&[b"2.3", written, b"x"]);
            let (message, layout) = decode(&parts).unwrap();
            assert_eq!(message.data_type, expected);
            assert!(!message.data_type.is_known());
            assert_eq!(encode(&message, layout), parts);
            let object = encode(&message, Layout::Json);
            assert_eq!(decode(&object).unwrap().0.data_type, expected);
        }
        assert_eq!(name("Json").to_string(), "Json");
        assert_eq!(name("param"), DataType::Param);
    }

    #[test]
    fn the_data_type_may_be_missing_and_a_timeout_may_follow() {
        let (message, _) = decode(&frames(&[b"2.4", b"sub-1"])).unwrap();
        assert_eq!(
            (message.fields(), message.timeout),
            (vec![&b"sub-1"[..]], None)
        );
        for (written, expected) in [
            (&b"1500000"[..], Some(Duration::from_millis(1500))),
            (b"-1", None),
            (b"", None),
            (&[0xFF; 4], None),
            (&[0xFF; 8], None),
            (&[232, 3, 0, 0], Some(Duration::from_millis(1))),
        ] {
            let (message, _) = decode(&frames(&[b"2.3", b"2", b"x", written])).unwrap();
            assert_eq!(message.timeout, expected, "{written:?}");
        }
    }

    #[test]
    fn wrong_messages_are_named() {
        for (parts, code) in [
            (&[&b"nonsense"[..], b"2", b"x"][..], "malformed-token"),
            (&[b"", b"2", b"x"], "malformed-token"),
            (&[b"102.1", b"2", b"x"], "malformed-token"),
            (&[b"0x1000000200001", b"2", b"x"], "malformed-token"),
            (&[b"2.1", b"no name", b"x"], "malformed-data-type"),
            (&[b"2.1", &[b'n'; 31], b"x"], "malformed-data-type"),
            (&[b"2.1", b"2", b"x", b"soon"], "malformed-timeout"),
            (&[b"1", b"2", b"3", b"4", b"5"], "malformed-message"),
            (&[b"hello"], "malformed-message"),
        ] {
            assert_eq!(decode(&frames(parts)).unwrap_err().code, code, "{parts:?}");
        }
        let sentence = decode(&frames(&[&[0xFF; 500], b"2", b"x"]))
            .unwrap_err()
            .sentence;
        assert!(
            sentence.len() < 400 && sentence.is_ascii() || sentence.contains('…'),
            "{sentence}"
        );
    }

    #[test]
    fn envelopes_are_told_from_empty_data() {
        let sizes = |parts: &[&[u8]]| {
            let frames = frames(parts);
            let (envelope, message) = split_envelope(&frames);
            (envelope.len(), message.len())
        };
        assert_eq!(sizes(&[b"2.1", b"2", b""]), (0, 3));
        assert_eq!(sizes(&[b"", b"2.1", b"2", b""]), (1, 3));
        assert_eq!(sizes(&[b"\x00peer", b"", b"2.1", b"2", b"x"]), (2, 3));
        assert_eq!(sizes(&[b"\x00peer", b"2.1", b"2", b"x"]), (1, 3));
        assert_eq!(sizes(&[b"\x00peer", b"", b"9.9", b"2", b"x"]), (2, 3));
        assert_eq!(sizes(&[b"42", b"", b"2.1", b"x"]), (2, 2));
        assert_eq!(sizes(&[b"42", b"", b"9.9", b"2", b"x"]), (2, 3));
        assert_eq!(sizes(&[b"\x00peer", b"{}"]), (1, 1));
        assert_eq!(sizes(&[b"2.4", b"", b"{}"]), (0, 3));
        assert_eq!(sizes(&[b"9.9", b"2", b""]), (0, 3));
        assert_eq!(sizes(&[b"9.9", b"6", b"{\"a\": 1}"]), (0, 3));
        assert_eq!(sizes(&[b"42", b"{\"token\": \"2.4\"}"]), (1, 1));
        assert_eq!(sizes(&[b"2.1", b"2", b"x"]), (0, 3));
        assert_eq!(sizes(&[]), (0, 0));
        // Of an EMIT's frames each may be empty, or anything else.
        assert_eq!(sizes(&[b"emit", b"2", b"", b"", b"a", b""]), (0, 6));
        assert_eq!(sizes(&[b"", b"emit", b"2", b"", b"", b"", b"2.1"]), (1, 6));
        assert_eq!(
            sizes(&[b"\x00peer", b"", b"2.0101", b"", b"", b"", b"a"]),
            (2, 5)
        );
        assert_eq!(sizes(&[b"\x00peer", b"emit", b"2", b"", b"", b"a"]), (1, 5));
    }

    #[test]
    fn an_emit_carries_frames_and_nothing_else_does() {
        let parts: &[&[u8]] = &[b"emit", b"", b"id\0disk", b"", b"Order", b"\0\xFF", b""];
        let (message, layout) = decode(&frames(parts)).unwrap();
        assert_eq!(message.token, Token::EMIT);
        assert_eq!((&*message.data, message.timeout), (&b"id\0disk"[..], None));
        assert_eq!(message.frames, frames(&[b"Order", b"\0\xFF", b""]));
        assert_eq!(decode(&encode(&message, layout)), Ok((message, layout)));
        let parts: &[&[u8]] = &[b"status", b"", b"", b"", b"x"];
        assert_eq!(
            decode(&frames(parts)).unwrap_err().code,
            "malformed-message"
        );
    }

    proptest! {
        #[test]
        fn noise_never_panics(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..12), 0..6)) {
            let frames: Vec<Bytes> = parts.into_iter().map(Bytes::from).collect();
            let (_, message) = split_envelope(&frames);
            let _ = decode(message);
        }

        #[test]
        fn a_message_is_read_back_in_each_layout(data in proptest::collection::vec(any::<u8>(), 0..40), form in 0usize..6) {
            let form = [
                Form::Decimal, Form::Hex, Form::Dotted, Form::Name,
                Form::Raw { bytes: 4, little_endian: true }, Form::Raw { bytes: 8, little_endian: false },
            ][form];
            let layout = Layout::Frames { token: form, data_type: if form == Form::Dotted { Form::Decimal } else { form } };
            let message = Message::new(Token::KEEP_ALIVE, DataType::Png, data);
            let frames = encode(&message, layout);
            let mut one_by_one = vec![];
            encode_each(&message, layout, |frame, more| one_by_one.push((Bytes::copy_from_slice(frame), more)));
            let last = frames.len() - 1;
            let expected: Vec<_> = frames.iter().cloned().enumerate().map(|(n, frame)| (frame, n < last)).collect();
            prop_assert_eq!(one_by_one, expected);
            prop_assert_eq!(decode(&frames), Ok((message, layout)));
        }
    }
}
