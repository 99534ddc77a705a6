//! Finds the `traceparent` that an event carries.

use serde_json::{Map, Value};

use crate::config::Carrier;
use event_manager_wire::model::{MalformedTraceparent, TraceContext};

/// The key of a header, and the field of an object in a header's frame.
const TRACEPARENT: &str = "traceparent";
/// Frames of more bytes are not looked into: that is done between events.
const LOOKED_INTO_MAX: usize = 16 << 10;

/// The context that an event with these frames carries, if any.
///
/// # Errors
/// [`MalformedTraceparent`]: it carries something else where that should be, or the frame has more
/// than 16 KiB.
pub(super) fn carried<'a>(
    carrier: &Carrier,
    frame: impl FnOnce(usize) -> Option<&'a [u8]>,
) -> Result<Option<TraceContext>, MalformedTraceparent> {
    let index = match carrier {
        Carrier::Header(index) => *index,
        Carrier::Json(_) => 1,
    };
    let Some(frame) = frame(index).map(<[u8]>::trim_ascii) else {
        return Ok(None);
    };
    if frame.len() > LOOKED_INTO_MAX {
        return Err(MalformedTraceparent);
    }
    match carrier {
        Carrier::Header(_) => in_header(frame),
        Carrier::Json(field) => in_object(frame, field),
    }
}

/// `traceparent` itself, lines of `key: value`, or a JSON object.
fn in_header(frame: &[u8]) -> Result<Option<TraceContext>, MalformedTraceparent> {
    if frame.is_empty() {
        return Ok(None);
    }
    if frame[0] == b'{' {
        return in_object(frame, TRACEPARENT);
    }
    if !frame.contains(&b':') {
        return TraceContext::parse(frame).map(Some);
    }
    let mut headers = frame.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((line[..colon].trim_ascii(), line[colon + 1..].trim_ascii()))
    });
    headers
        .find(|(key, _)| key.eq_ignore_ascii_case(TRACEPARENT.as_bytes()))
        .map(|(_, value)| TraceContext::parse(value))
        .transpose()
}

/// What is no JSON object carries nothing.
fn in_object(frame: &[u8], field: &str) -> Result<Option<TraceContext>, MalformedTraceparent> {
    let Ok(object) = serde_json::from_slice::<Map<String, Value>>(frame) else {
        return Ok(None);
    };
    match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => TraceContext::parse(text.as_bytes()).map(Some),
        Some(_) => Err(MalformedTraceparent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn find(carrier: &Carrier, frames: &[&[u8]]) -> Result<Option<String>, MalformedTraceparent> {
        let found = carried(carrier, |index| frames.get(index).copied())?;
        Ok(found.map(|context| context.to_string()))
    }

    fn in_frame_2(text: &str) -> Result<Option<String>, MalformedTraceparent> {
        find(&Carrier::Header(2), &[b"Subject", b"data", text.as_bytes()])
    }

    #[test]
    fn a_header_is_the_text_itself_or_lines_or_json() {
        for text in [
            EXAMPLE.to_owned(),
            format!(" {EXAMPLE}\r\n"),
            format!("traceparent: {EXAMPLE}"),
            format!("content-type: text\r\nTraceParent:{EXAMPLE}\r\ntracestate: a=b\r\n"),
            json!({"a": [1], "traceparent": EXAMPLE}).to_string(),
        ] {
            assert_eq!(in_frame_2(&text), Ok(Some(EXAMPLE.into())), "{text}");
        }
    }

    #[test]
    fn an_event_may_carry_none() {
        for text in [
            "",
            " ",
            "content-type: text",
            "{}",
            "{\"traceparent\": null}",
            "{no json",
        ] {
            assert_eq!(in_frame_2(text), Ok(None), "{text}");
        }
        assert_eq!(find(&Carrier::Header(2), &[b"Subject", b"data"]), Ok(None));
        assert_eq!(find(&Carrier::Json("tp".into()), &[b"Subject"]), Ok(None));
        assert_eq!(
            find(&Carrier::Json("tp".into()), &[b"Subject", b"[1]"]),
            Ok(None)
        );
    }

    #[test]
    fn what_is_no_traceparent_is_malformed() {
        for text in [
            "00-0af7",
            "traceparent: 00-zz",
            "{\"traceparent\": 7}",
            "{\"traceparent\": \"\"}",
        ] {
            assert_eq!(in_frame_2(text), Err(MalformedTraceparent), "{text}");
        }
    }

    #[test]
    fn a_field_of_the_data_is_found_by_its_name() {
        let data = json!({"traceparent": "no", "tp": EXAMPLE}).to_string();
        let frames: [&[u8]; 2] = [b"Subject", data.as_bytes()];
        assert_eq!(
            find(&Carrier::Json("tp".into()), &frames),
            Ok(Some(EXAMPLE.into()))
        );
    }

    #[test]
    fn large_frames_are_not_looked_into() {
        let padded = |bytes| format!("{:bytes$}traceparent:{EXAMPLE}", "x:\n");
        let fits = LOOKED_INTO_MAX - "traceparent:".len() - EXAMPLE.len();
        assert_eq!(in_frame_2(&padded(fits)), Ok(Some(EXAMPLE.into())));
        assert_eq!(in_frame_2(&padded(fits + 1)), Err(MalformedTraceparent));
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_into(frame in prop::collection::vec(any::<u8>(), 0..300)) {
            for carrier in [Carrier::Header(1), Carrier::Json("tp".into())] {
                let _ = find(&carrier, &[b"", &frame]);
            }
        }

        #[test]
        fn a_header_among_others_is_found(
            before in prop::collection::vec("[a-z]{1,8}: [a-z0-9]{0,20}", 0..5),
            after in prop::collection::vec("[a-z]{1,8}: [a-z0-9:]{0,20}", 0..5),
        ) {
            let own = format!("traceparent: {EXAMPLE}");
            let lines = [before, vec![own], after].concat().join("\n");
            prop_assert_eq!(in_frame_2(&lines), Ok(Some(EXAMPLE.into())));
        }
    }
}
