//! A message as one JSON object.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::codec::{Layout, Malformed, data_type_from_text, token_from_text};
use super::data_type::DataType;
use super::message::Message;
use super::token::Token;
use crate::model::excerpt;

/// Larger objects would take long to read, and many times their size in memory.
const JSON_BYTES_MAX: usize = 4 << 20;

/// Reads `{"token": …, "data": …}` from a single frame. `data` is a text (with NULs) or a list of
/// fields; fields may be named instead. `timeout` is in microseconds, as in frames.
pub(super) fn decode(frames: &[Bytes]) -> Option<Result<(Message, Layout), Malformed>> {
    let [frame] = frames else { return None };
    is_object(frame).then(|| match frame.len() {
        ..=JSON_BYTES_MAX => read(frame),
        len => {
            let sentence = format!("{len} bytes; JSON may have {JSON_BYTES_MAX}, frames more");
            Err(malformed("malformed-json", sentence))
        }
    })
}

/// Whether a frame is meant as a JSON object.
pub(super) fn is_object(frame: &[u8]) -> bool {
    frame.trim_ascii_start().starts_with(b"{")
}

fn malformed(code: &'static str, sentence: impl Into<String>) -> Malformed {
    Malformed {
        code,
        sentence: sentence.into(),
        layout: Layout::Json,
    }
}

fn token_of(value: Option<Value>) -> Result<Token, Malformed> {
    let token = match &value {
        Some(Value::String(text)) => token_from_text(text).map(|(token, _)| token),
        Some(Value::Number(number)) => number
            .as_u64()
            .filter(|value| *value <= Token::VALUE_MAX)
            .map(Token::from_value),
        _ => None,
    };
    token.ok_or_else(|| {
        malformed(
            "malformed-token",
            "\"token\" is missing or unknown; write \"subscribe\", \"2.1\" or a number",
        )
    })
}

fn data_type_of(value: Option<Value>) -> Result<DataType, Malformed> {
    let data_type = match &value {
        None | Some(Value::Null) => Some(DataType::Param),
        Some(Value::String(text)) => data_type_from_text(text).map(|(kind, _)| kind),
        Some(other) => other.as_u64().map(DataType::from_number),
    };
    data_type.ok_or_else(|| {
        malformed(
            "malformed-data-type",
            "\"dataType\" must be a number, or a name such as \"PARAM\" of at most 30 bytes",
        )
    })
}

/// In microseconds; a negative number, like none, is no timeout.
fn timeout_of(value: Option<Value>) -> Result<Option<Duration>, Malformed> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let micros = value.as_i64().ok_or_else(|| {
        malformed(
            "malformed-timeout",
            "\"timeout\" must be in microseconds, or -1 for none",
        )
    })?;
    Ok(u64::try_from(micros).ok().map(Duration::from_micros))
}

fn read(frame: &[u8]) -> Result<(Message, Layout), Malformed> {
    let mut named: Map<String, Value> = serde_json::from_slice(frame).map_err(|error| {
        let what = match error.is_data() {
            true => "the message is JSON, but not an object".to_owned(),
            false => format!("the message is not valid JSON: {error}"),
        };
        malformed("malformed-json", what)
    })?;
    let token = token_of(named.remove("token"))?;
    let data_type = named
        .remove("dataType")
        .or_else(|| named.remove("data_type"));
    let data_type = data_type_of(data_type)?;
    let data = named.remove("data");
    let timeout = timeout_of(named.remove("timeout"))?;
    // Answers do so: a NAK's code and sentence stand beside its data.
    let is_answer = token.is(Token::ACK) || token.is(Token::NAK);
    if let (Some(_), Some(name), false) = (&data, named.keys().next(), is_answer) {
        let name = excerpt(name, 40);
        let sentence = format!(
            "give fields either in \"data\" or by name, not both: {name:?} is beside \"data\""
        );
        return Err(malformed("malformed-data", sentence));
    }
    Ok((
        Message {
            token,
            data_type,
            data: self::data(data)?,
            timeout,
            named: Some(named),
            frames: vec![],
        },
        Layout::Json,
    ))
}

fn data(value: Option<Value>) -> Result<Bytes, Malformed> {
    let field = |value: Value| match value {
        Value::String(text) => Ok(text),
        Value::Null => Ok(String::new()),
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
        // A payload that is itself JSON goes on as it was written, but for white space.
        Value::Object(_) => Ok(value.to_string()),
        Value::Array(_) => Err(malformed(
            "malformed-data",
            "a field of \"data\" can't be a list",
        )),
    };
    match value {
        None => Ok(Bytes::new()),
        Some(Value::Array(fields)) => {
            let fields: Vec<String> = fields.into_iter().map(field).collect::<Result<_, _>>()?;
            Ok(fields.join("\0").into())
        }
        Some(value) => field(value).map(Bytes::from),
    }
}

/// A data type's name, or its number if it has none.
pub fn shown_type(kind: DataType) -> Value {
    match (kind.name(), kind.number()) {
        (Some(name), _) => json!(name),
        (None, number) => json!(number),
    }
}

/// Writes an answer. Fields become a list, text that is JSON becomes JSON, a NAK's code and sentence
/// stand by themselves too, and so does what an answer names; what is no text is written as an array of
/// numbers.
pub(super) fn encode(message: &Message) -> Bytes {
    let text = std::str::from_utf8(&message.data);
    let data = match (message.data_type, text) {
        (_, Err(_)) => json!(message.data.to_vec()),
        (DataType::Param, Ok(text)) => json!(text.split('\0').collect::<Vec<_>>()),
        (_, Ok(text)) if text.starts_with(['{', '[']) => {
            serde_json::from_str(text).unwrap_or_else(|_| json!(text))
        }
        (_, Ok(text)) => json!(text),
    };
    let token = message.token.to_string();
    let is_sentence = data.is_string();
    let mut object =
        json!({"token": token, "dataType": shown_type(message.data_type), "data": data});
    // The NAK of a sync event has the results instead.
    if message.token.is(Token::NAK)
        && is_sentence
        && let Some((code, sentence)) = text.ok().and_then(|text| text.split_once(": "))
    {
        object["code"] = json!(code);
        object["error"] = json!(sentence);
    }
    for (name, value) in message.named.iter().flatten() {
        object[name.as_str()] = value.clone();
    }
    object.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messagebus::{decode, encode};

    fn read(text: &str) -> Result<(Message, Layout), Malformed> {
        decode(&[Bytes::copy_from_slice(text.as_bytes())])
    }

    #[test]
    fn a_nak_that_is_json_has_no_code() {
        let written = |text: &'static str| -> Value {
            let nak = Message::new(Token::NAK, DataType::String, text);
            serde_json::from_slice(&encode(&nak, Layout::Json)[0]).unwrap()
        };
        let plain = written("busy: too much waits: ask later");
        assert_eq!(
            (&plain["code"], &plain["error"]),
            (&json!("busy"), &json!("too much waits: ask later"))
        );
        let results = written(r#"{"results": [{"data": "away: gone"}]}"#);
        assert_eq!(results["data"]["results"][0]["data"], "away: gone");
        assert_eq!(
            (&results["code"], &results["error"]),
            (&Value::Null, &Value::Null)
        );
    }

    #[test]
    fn objects_are_read() {
        let (message, layout) = read(
            r#" {"token": "TK_EVENT_MANAGER_SUBSCRIBE", "data": ["sub-1", "Billing", "Order"]}"#,
        )
        .unwrap();
        assert_eq!(message.fields(), [&b"sub-1"[..], b"Billing", b"Order"]);
        assert_eq!((message.token, layout), (Token::SUBSCRIBE, Layout::Json));
        let (message, _) =
            read(r#"{"token": 2097156, "data": "sub-1\u0000", "timeout": 5000}"#).unwrap();
        assert_eq!(message.fields(), [&b"sub-1"[..], b""]);
        assert_eq!(message.timeout, Some(Duration::from_millis(5)));
        let (message, _) =
            read(r#"{"token": "2.1", "service": "Billing", "subjects": ["a"]}"#).unwrap();
        assert_eq!(message.named.unwrap()["service"], "Billing");
    }

    #[test]
    fn answers_are_objects() {
        let answer = |message: &Message| -> Value {
            serde_json::from_slice(&encode(message, Layout::Json)[0]).unwrap()
        };
        let ack = answer(&Message::param(Token::ACK, ["a", "b"]));
        assert_eq!(
            ack,
            json!({"token": "TK_SYS_ACK", "dataType": "PARAM", "data": ["a", "b"]})
        );
        let nak = answer(&Message::nak("unknown-subscription", "no subscription"));
        assert_eq!(
            (&nak["code"], &nak["error"]),
            (&json!("unknown-subscription"), &json!("no subscription"))
        );
        let status = answer(&Message::ack(DataType::String, r#"{"x":1}"#));
        assert_eq!(status["data"]["x"], 1);
    }

    #[test]
    fn objects_are_bounded() {
        let huge = format!("{{\"token\": \"{}\"}}", "x".repeat(JSON_BYTES_MAX));
        assert_eq!(read(&huge).unwrap_err().code, "malformed-json");
    }

    #[test]
    fn wrong_objects_are_named() {
        for (text, code) in [
            ("{", "malformed-json"),
            ("{}", "malformed-token"),
            (r#"{"token": "nonsense"}"#, "malformed-token"),
            (r#"{"token": 281474978807809}"#, "malformed-token"),
            (r#"{"token": "2.1", "dataType": -1}"#, "malformed-data-type"),
            (
                r#"{"token": "2.1", "dataType": "a b"}"#,
                "malformed-data-type",
            ),
            (r#"{"token": "2.1", "data": [["x"]]}"#, "malformed-data"),
            (
                r#"{"token": "2.3", "data": "x", "subject": "a"}"#,
                "malformed-data",
            ),
            (
                r#"{"token": "2.1", "timeout": "soon"}"#,
                "malformed-timeout",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!((error.code, error.layout), (code, Layout::Json), "{text}");
        }
    }
}
