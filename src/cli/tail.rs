//! `event-manager tail`: what passes, without its payloads unless they are asked for.

use std::io::Write;

use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};

use super::feed::Feed;
use super::output::{Out, frame_json, shown};
use crate::ambient::wall_clock_ms;
use crate::telemetry::rfc3339;
use event_manager_wire::model::subject_of;

#[derive(Debug, Args)]
pub(super) struct TailArgs {
    #[command(flatten)]
    feed: Feed,
    /// Also show the first bytes of payloads.
    #[arg(long)]
    payload: bool,
    /// How many bytes of each payload to show.
    #[arg(long, value_name = "N", default_value_t = 64, requires = "payload")]
    bytes: usize,
    /// Print each event as a JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &TailArgs) -> anyhow::Result<()> {
    let (json, payload_bytes) = (args.json, args.payload.then_some(args.bytes));
    args.feed.each(move |frames| {
        let mut out = Out::new(json);
        let ts = rfc3339(wall_clock_ms());
        let line = match json {
            true => as_json(&ts, frames, payload_bytes).to_string(),
            false => as_text(&ts, frames, payload_bytes),
        };
        writeln!(out, "{line}")?;
        out.flush()
    })
}

fn as_json(ts: &str, frames: &[Bytes], payload_bytes: Option<usize>) -> Value {
    let sizes: Vec<usize> = frames.iter().map(Bytes::len).collect();
    let mut event = json!({
        "ts": ts,
        "subject": String::from_utf8_lossy(subject(frames)),
        "frames": frames.len(),
        "bytes": sizes.iter().sum::<usize>(),
        "sizes": sizes,
    });
    if let Some(max) = payload_bytes {
        let (parts, more) = payload(frames, max);
        event["payload"] = parts.into_iter().map(frame_json).collect();
        event["more"] = more.into();
    }
    event
}

fn as_text(ts: &str, frames: &[Bytes], payload_bytes: Option<usize>) -> String {
    let sizes: Vec<String> = frames.iter().map(|frame| frame.len().to_string()).collect();
    let total: usize = frames.iter().map(Bytes::len).sum();
    let mut line = format!(
        "{ts}\t{}\t{total} bytes in {} frames\t{}",
        shown(subject(frames)),
        frames.len(),
        sizes.join("+")
    );
    if let Some(max) = payload_bytes {
        let (parts, more) = payload(frames, max);
        let parts = parts.into_iter().map(|part| format!("\t{}", shown(part)));
        line.extend(parts);
        line.extend(more.then_some("…"));
    }
    line
}

fn subject(frames: &[Bytes]) -> &[u8] {
    subject_of(frames.first().map(|frame| &frame[..]).unwrap_or_default())
}

/// The first bytes of what comes after the subject, by frames; and whether there are more. A text is
/// cut between characters.
fn payload(frames: &[Bytes], bytes_max: usize) -> (Vec<&[u8]>, bool) {
    let rest = frames.first().map(|first| &first[subject(frames).len()..]);
    let rest = rest.filter(|rest| !rest.is_empty());
    let parts = rest
        .into_iter()
        .chain(frames.iter().skip(1).map(|frame| &frame[..]));
    let (mut left, mut shown, mut more) = (bytes_max, vec![], false);
    for part in parts {
        let mut end = part.len().min(left);
        if let Ok(text) = std::str::from_utf8(part) {
            while !text.is_char_boundary(end) {
                end -= 1;
            }
        }
        more |= end < part.len();
        if end > 0 || part.is_empty() {
            shown.push(&part[..end]);
        }
        left -= end;
        if more {
            break;
        }
    }
    (shown, more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::printable_json;

    fn frames(frames: &[&[u8]]) -> Vec<Bytes> {
        frames
            .iter()
            .map(|frame| Bytes::copy_from_slice(frame))
            .collect()
    }

    #[test]
    fn payloads_are_shown_on_request_only_and_cut_between_characters() {
        let event = frames(&[b"Order", "für dich".as_bytes(), b"\xFF\x1b[2J"]);
        let text = |max| as_text("now", &event, max);
        assert_eq!(text(None), "now\tOrder\t19 bytes in 3 frames\t5+9+5");
        let begin = "now\tOrder\t19 bytes in 3 frames\t5+9+5\t";
        assert_eq!(text(Some(2)), format!("{begin}f…"));
        assert_eq!(text(Some(3)), format!("{begin}fü…"));
        let all = format!("{begin}für dich\t\\xff\\x1b[2J");
        assert_eq!(text(Some(14)), all);
        assert_eq!(text(Some(11)), format!("{begin}für dich\t\\xff\\x1b…"));
        assert_eq!(text(Some(0)), format!("{}…", begin.trim_end()));
        let json = as_json("now", &event, Some(9));
        assert_eq!(json["payload"], json!(["für dich"]));
        assert_eq!((&json["more"], &json["bytes"]), (&json!(true), &json!(19)));
        assert!(as_json("now", &event, None).get("payload").is_none());
    }

    #[test]
    fn no_control_character_gets_through() {
        let controls: String = (0..0xA0).filter_map(char::from_u32).collect();
        let all_bytes: Vec<u8> = (0..=255).collect();
        for nasty in [controls.as_bytes(), &all_bytes] {
            let event = frames(&[nasty, nasty]);
            let json = as_json("now", &event, Some(1000)).to_string();
            let json = printable_json(&json).into_owned();
            for line in [as_text("now", &event, Some(1000)), json] {
                assert!(
                    !line.chars().any(|c| c.is_control() && c != '\t'),
                    "{line:?}"
                );
            }
        }
    }
}
