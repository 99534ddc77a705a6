//! EVENTS: `after\0max`, both optional; or by name. The latest notable events.

use super::{Context, Nak, Outcome};
use crate::messagebus::Message;

/// The most events that one answer has.
const MAX: u64 = 512;
const MAX_DEFAULT: u64 = 100;

/// Which events are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventsRequest {
    /// Only those after this number; without it the latest.
    pub after: Option<u64>,
    /// At most so many; from 1 to 512.
    pub max: usize,
}

pub(super) const NAMES: &[&str] = &["after", "max"];

pub(super) fn handle(request: &Message, _: &mut Context<'_>) -> Result<Outcome, Nak> {
    let (after, max) = match request.named.as_ref().filter(|named| !named.is_empty()) {
        Some(named) => {
            let number = |name: &str| {
                let value = named.get(name).filter(|value| !value.is_null());
                let number = value.map(|value| value.as_u64().ok_or_else(|| wrong(name)));
                number.transpose()
            };
            (number("after")?, number("max")?)
        }
        None => {
            let fields = request.fields();
            let number = |index: usize, name: &str| {
                let field = fields.get(index).filter(|field| !field.is_empty());
                let number = |field: &&[u8]| std::str::from_utf8(field).ok()?.parse().ok();
                let number = field.map(|field| number(field).ok_or_else(|| wrong(name)));
                number.transpose()
            };
            (number(0, "after")?, number(1, "max")?)
        }
    };
    let max = max.unwrap_or(MAX_DEFAULT);
    if !(1..=MAX).contains(&max) {
        return Err(Nak::new("invalid-field", "\"max\": 1 to 512 is wanted"));
    }
    Ok(Outcome::Events(EventsRequest {
        after,
        max: max as usize,
    }))
}

fn wrong(name: &str) -> Nak {
    Nak::new("invalid-field", format!("{name:?}: a number is wanted"))
}
