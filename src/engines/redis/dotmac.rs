//! Entries as the Redis adapter of `dotmac.events` writes and reads them: the field `data` has the whole
//! event as JSON, and other fields repeat parts of it.
//!
//! Here an event has the subject, the payload as body, and what else there is as the headers of a third
//! frame, by the convention of docs/protocol.md.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use event_manager_zmtp::frames;

/// What repeats the event's id.
const EVENT_ID: &str = "x-event-id";
/// What stands before the name of a header.
const HEADER: &str = "header_";
const JSON: &str = "application/json";

/// The event that `data` holds.
#[derive(Debug, Serialize, Deserialize)]
struct Event<'a> {
    topic: String,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    headers: Option<BTreeMap<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Metadata {
    id: String,
    timestamp: String,
    content_type: Option<String>,
    encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    producer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    causation_id: Option<String>,
}

/// The fields of an entry for an event of ours; `now` is for one that doesn't say when it happened.
///
/// # Errors
/// Why those who read there could make nothing of it.
pub(super) fn fields(
    event: &Bytes,
    id: &str,
    now: String,
) -> Result<Vec<(String, Vec<u8>)>, String> {
    let all: Vec<&[u8]> = frames(event).collect();
    let (subject, body, headers) = match all[..] {
        [subject, body] => (subject, body, None),
        [subject, body, headers] => (subject, body, Some(headers)),
        _ => return Err("it has not two frames, or three with headers, as DotMac's have".into()),
    };
    let topic = std::str::from_utf8(subject).map_err(|_| "its subject is no text")?;
    let payload =
        serde_json::from_slice(body).map_err(|error| format!("its body is no JSON: {error}"))?;
    // What is no such object is no headers.
    let headers = headers.and_then(|frame| serde_json::from_slice(frame).ok());
    let mut headers: BTreeMap<String, String> = headers.unwrap_or_default();
    let own_id = headers.remove("id").unwrap_or_else(|| id.to_owned());
    let time = headers.remove("time").unwrap_or_default();
    let metadata = Metadata {
        id: uuid(&own_id),
        timestamp: if is_time(&time) { time } else { now },
        content_type: Some(
            headers
                .remove("content-type")
                .unwrap_or_else(|| JSON.into()),
        ),
        encoding: Some("utf-8".into()),
        producer: headers.remove("x-producer"),
        correlation_id: headers.remove("correlation-id"),
        causation_id: headers.remove("x-causation-id"),
    };
    let key = headers.remove("x-event-key");
    let tenant_id = headers.remove("tenant-id");
    let text = |text: &str| text.as_bytes().to_vec();
    let mut fields = vec![
        ("content_type".to_owned(), text(JSON)),
        (EVENT_ID.to_owned(), text(&metadata.id)),
        ("x-timestamp".to_owned(), text(&metadata.timestamp)),
    ];
    let repeated = headers
        .iter()
        .map(|(name, value)| (format!("{HEADER}{name}"), text(value)));
    fields.extend(repeated);
    let headers: BTreeMap<_, _> = headers
        .into_iter()
        .map(|(name, value)| (name, Value::String(value)))
        .collect();
    let event = Event {
        topic: topic.to_owned(),
        payload,
        key,
        headers: (!headers.is_empty()).then_some(headers),
        tenant_id,
        metadata: Some(metadata),
    };
    let data = serde_json::to_vec(&event).map_err(|error| error.to_string())?;
    fields.insert(0, (super::DATA.to_owned(), data));
    Ok(fields)
}

/// What an entry is here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Read {
    /// By which it is known again, if it says that.
    pub(super) id: Option<String>,
    /// The frames behind the subject.
    pub(super) frames: Vec<Bytes>,
}

/// Reads an entry by its `data` and its other fields.
///
/// # Errors
/// Why it is no event.
pub(super) fn read(data: &[u8], fields: &[(String, String)]) -> Result<Read, String> {
    let event: Event<'_> = serde_json::from_slice(data)
        .map_err(|error| format!("its data is no event of DotMac: {error}"))?;
    let as_text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let mut headers: BTreeMap<String, String> = event
        .headers
        .unwrap_or_default()
        .into_iter()
        .map(|(name, value)| (name, as_text(value)))
        .collect();
    let repeated = fields.iter().filter_map(|(name, value)| {
        let name = name.strip_prefix(HEADER)?;
        Some((name.to_owned(), value.clone()))
    });
    headers.extend(repeated);
    let metadata = event.metadata.unwrap_or_default();
    let said = |text: String| (!text.is_empty()).then_some(text);
    let id = said(metadata.id).or_else(|| {
        let found = fields.iter().find(|(name, _)| name == EVENT_ID);
        found.map(|(_, id)| id.clone())
    });
    let others = [
        ("id", id.clone()),
        ("time", said(metadata.timestamp)),
        (
            "content-type",
            metadata.content_type.filter(|of| of != JSON),
        ),
        ("x-producer", metadata.producer),
        ("correlation-id", metadata.correlation_id),
        ("x-causation-id", metadata.causation_id),
        ("x-event-key", event.key),
        ("tenant-id", event.tenant_id),
    ];
    for (name, value) in others {
        if let Some(value) = value {
            headers.insert(name.into(), value);
        }
    }
    let mut all = vec![Bytes::copy_from_slice(event.payload.get().as_bytes())];
    if !headers.is_empty() {
        let mut frame = BytesMut::new().writer();
        serde_json::to_writer(&mut frame, &headers).map_err(|error| error.to_string())?;
        all.push(frame.into_inner().freeze());
    }
    Ok(Read { id, frames: all })
}

/// An id as one has to be there: itself, or one that is made of it and is always the same.
fn uuid(id: &str) -> String {
    let digits = id.bytes().filter(|byte| *byte != b'-');
    let is_one = digits.clone().all(|digit| digit.is_ascii_hexdigit()) && digits.count() == 32;
    if is_one {
        return id.to_owned();
    }
    // FNV-1a of 128 bits.
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for byte in id.bytes() {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    // Version 8: made by a way of one's own.
    let hash = (hash & !(0xF << 76) & !(0x3 << 62)) | (0x8 << 76) | (0x2 << 62);
    let text = format!("{hash:032x}");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &text[part]);
    parts.join("-")
}

/// Whether every Python reads it as a time: `2026-11-21T15:44:04`, with three or six more digits, or an
/// offset, or `Z`.
fn is_time(text: &str) -> bool {
    let shape: Cow<'_, str> = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    let Some(rest) = shape.strip_prefix("0000-00-00T00:00:00") else {
        return false;
    };
    let fraction = [".000000", ".000"]
        .into_iter()
        .find(|of| rest.starts_with(of));
    let rest = &rest[fraction.map_or(0, str::len)..];
    matches!(rest, "" | "Z" | "+00:00" | "-00:00")
}

#[cfg(test)]
mod tests {
    use super::*;
    use event_manager_zmtp::encode_message;

    fn text(fields: &[(String, Vec<u8>)], name: &str) -> Option<String> {
        let found = fields.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| String::from_utf8(value.clone()).unwrap())
    }

    const ID: &str = "6f1ed002-ab59-4b16-8d5e-1b0c0f7e6f9a";

    #[test]
    fn an_event_with_headers_goes_there_and_back() {
        let headers = format!(
            r#"{{"id": "{ID}", "source": "pos", "tenant-id": "acme", "time": "2026-11-21T15:44:04.123456", "x-event-key": "k"}}"#
        );
        let payload = r#"{"total": 12345678901234567890123, "x": 0.10}"#;
        let event = encode_message(&[
            "order.created".as_bytes(),
            payload.as_bytes(),
            headers.as_bytes(),
        ]);
        let fields = fields(&event, "a.b.1.2", "now".into()).unwrap();
        assert_eq!(text(&fields, "x-event-id").as_deref(), Some(ID));
        assert_eq!(text(&fields, "header_source").as_deref(), Some("pos"));
        let data = text(&fields, "data").unwrap();
        let json: Value = serde_json::from_str(&data).unwrap();
        assert_eq!(json["topic"], "order.created");
        assert_eq!(json["tenant_id"], "acme");
        assert_eq!(json["key"], "k");
        assert_eq!(json["metadata"]["id"], ID);
        assert_eq!(json["metadata"]["timestamp"], "2026-11-21T15:44:04.123456");
        let back = read(data.as_bytes(), &[]).unwrap();
        assert_eq!(back.id.as_deref(), Some(ID));
        assert_eq!(back.frames[0], payload.as_bytes());
        let again: BTreeMap<String, String> = serde_json::from_slice(&back.frames[1]).unwrap();
        let before: BTreeMap<String, String> = serde_json::from_str(&headers).unwrap();
        assert_eq!(again, before);
    }

    #[test]
    fn an_event_without_headers_has_an_id_that_stays_the_same() {
        let event = encode_message(&[&b"order.created"[..], b"{}"]);
        let now = "2026-11-21T15:44:04.123Z";
        let [first, second] = [(); 2].map(|()| fields(&event, "a.b.1.2", now.into()).unwrap());
        let id = text(&first, "x-event-id").unwrap();
        assert_eq!(text(&second, "x-event-id").as_ref(), Some(&id));
        assert_eq!((id.len(), &id[14..15]), (36, "8"));
        assert_ne!(
            text(
                &fields(&event, "a.b.1.3", now.into()).unwrap(),
                "x-event-id"
            )
            .unwrap(),
            id
        );
        assert_eq!(text(&first, "x-timestamp").as_deref(), Some(now));
    }

    #[test]
    fn what_nobody_there_could_read_is_refused() {
        for (event, wanted) in [
            (vec![&b"a"[..]], "two frames"),
            (vec![b"a", b"{}", b"{}", b""], "two frames"),
            (vec![b"\xff", b"{}"], "no text"),
            (vec![b"a", b"plain"], "no JSON"),
        ] {
            let said = fields(&encode_message(&event), "id", "now".into()).unwrap_err();
            assert!(said.contains(wanted), "{said}");
        }
        for data in ["plain", "{}", r#"{"topic": "a"}"#, r#"{"payload": {}}"#] {
            assert!(
                read(data.as_bytes(), &[])
                    .unwrap_err()
                    .contains("no event of DotMac")
            );
        }
    }

    #[test]
    fn fields_say_what_the_data_does_not() {
        let fields = [("x-event-id", ID), ("header_a", "1"), ("other", "2")];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let read = read(br#"{"topic": "t", "payload": [1]}"#, &fields).unwrap();
        assert_eq!(read.id.as_deref(), Some(ID));
        assert_eq!(read.frames[0], &b"[1]"[..]);
        assert_eq!(
            read.frames[1],
            format!(r#"{{"a":"1","id":"{ID}"}}"#).as_bytes()
        );
    }

    #[test]
    fn times_that_every_python_reads() {
        for (text, expected) in [
            ("2026-11-21T15:44:04", true),
            ("2026-11-21T15:44:04.123Z", true),
            ("2026-11-21T15:44:04.123456+01:00", true),
            ("2026-11-21T15:44:04.1234", false),
            ("2026-11-21", false),
            ("", false),
        ] {
            assert_eq!(is_time(text), expected, "{text}");
        }
    }
}
