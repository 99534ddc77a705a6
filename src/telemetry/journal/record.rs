//! One line of the event log.

use serde::Serialize;
use serde_json::{Map, Value};

use super::notable::{Notable, cut};
use crate::telemetry::printable::printable_json;

/// A notable event, as the file and the ring have it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    /// When, as RFC 3339 in UTC with milliseconds.
    pub ts: String,
    /// Its kind.
    pub code: &'static str,
    /// The kind's name.
    #[serde(rename = "type")]
    pub name: &'static str,
    /// How grave that is: `info`, `warn` or `error`.
    pub level: &'static str,
    /// Who says it.
    pub instance: String,
    /// Its number in this run of the daemon, from 1.
    pub seq: u64,
    /// The sentence that the ordinary log has too.
    pub message: String,
    /// What else is known of it.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

impl Record {
    /// Of an event at a time in milliseconds since 1970.
    pub(super) fn new(notable: &Notable<'_>, seq: u64, at_ms: u64, instance: &str) -> Self {
        let kind = notable.kind();
        Self {
            ts: rfc3339(at_ms),
            code: kind.code,
            name: kind.name,
            level: kind.level,
            instance: instance.to_owned(),
            seq,
            message: cut(notable.sentence()),
            fields: notable.fields(),
        }
    }

    /// As a line of the file, with the end of the line.
    pub(super) fn line(&self) -> Vec<u8> {
        // It has nothing that JSON can't say.
        let line = serde_json::to_string(self).unwrap_or_default();
        let mut line = printable_json(&line).into_owned().into_bytes();
        line.push(b'\n');
        line
    }
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
