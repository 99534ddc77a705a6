//! One line of the event log.

use super::kinds::cut;
use super::notable::Notable;
use crate::telemetry::printable::printable_json;
use event_manager_wire::api::NotableEvent;

/// The record of an event at a time in milliseconds since 1970.
pub(super) fn record(notable: &Notable<'_>, seq: u64, at_ms: u64, instance: &str) -> NotableEvent {
    let kind = notable.kind();
    NotableEvent {
        ts: rfc3339(at_ms),
        code: kind.code.into(),
        name: kind.name.into(),
        level: kind.level.into(),
        instance: instance.to_owned(),
        seq,
        message: cut(notable.sentence()),
        fields: notable.fields(),
    }
}

/// A line of the file, with the end of the line.
pub(super) fn line_of(event: &NotableEvent) -> Vec<u8> {
    // It has nothing that JSON can't say.
    let line = serde_json::to_string(event).unwrap_or_default();
    let mut line = printable_json(&line).into_owned().into_bytes();
    line.push(b'\n');
    line
}

/// A time in milliseconds since 1970 as RFC 3339 has it: `2026-11-21T15:44:04.123Z`.
pub fn rfc3339(ms: u64) -> String {
    let (days, of_day) = (ms / 86_400_000, ms % 86_400_000);
    // The civil calendar, in eras of 400 years from 0000-03-01, so that a leap day ends its year.
    let from_march = days + 719_468;
    let (era, day) = (from_march / 146_097, from_march % 146_097);
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hours, minutes) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (seconds, millis) = (of_day / 1000 % 60, of_day % 1000);
    format!(
        "{year:04}-{month:02}-{day_of_month:02}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z"
    )
}
