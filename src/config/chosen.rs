//! Objects whose members have names of the user's choice: clients, roles, engines, bridges.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::keys::{Schema, Wrong, probe};
use super::positions::positions;
use super::units::drop_nulls;

/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// Stands for what may be a secret.
pub(super) fn hidden() -> Value {
    json!("…")
}

/// A sentence of all that is wrong.
pub(super) fn joined<T>(read: Result<T, Vec<Wrong>>) -> Result<T, String> {
    read.map_err(|wrong| {
        let said: Vec<_> = wrong.iter().map(|wrong| wrong.said("")).collect();
        said.join("; ")
    })
}

/// An object, or the text of one, in which no key stands twice.
pub(super) fn object_of(key: &str, value: &Value) -> Result<Map<String, Value>, Vec<Wrong>> {
    // It may have a password that stands where a digest belongs.
    let refused = |why: &str| vec![Wrong::value(key, &hidden(), why)];
    let text = match value {
        Value::Object(object) => return Ok(object.clone()),
        Value::String(text) => text,
        _ => return Err(refused("an object is wanted")),
    };
    let object = serde_json::from_str(text).map_err(|error| match error.is_data() {
        true => refused("an object in JSON is wanted"),
        false => refused(&format!("an object in JSON is wanted: {error}")),
    })?;
    let mut seen = BTreeSet::new();
    match positions(text)
        .iter()
        .find(|key| !seen.insert(key.path.clone()))
    {
        None => Ok(object),
        Some(again) => Err(refused(&format!(
            "{:?} stands there twice",
            again.path.join(".")
        ))),
    }
}

/// Reads each member of an object.
pub(super) fn read_members<F>(
    key: &str,
    value: &Value,
    read: impl Fn(&str, &Value, &mut Vec<Wrong>) -> F,
) -> Result<BTreeMap<String, F>, Vec<Wrong>> {
    let (mut members, mut wrong) = (BTreeMap::new(), vec![]);
    for (name, value) in object_of(key, value)? {
        let base = format!("{key}.{name}");
        if let Some(why) = why_no_name(&name) {
            wrong.push(Wrong::value(&base, &hidden(), &why));
        }
        members.insert(name, read(&base, &value, &mut wrong));
    }
    match wrong.is_empty() {
        true => Ok(members),
        false => Err(wrong),
    }
}

fn why_no_name(name: &str) -> Option<String> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        Some(format!("a name has 1 to {NAME_BYTES_MAX} bytes"))
    } else if name.chars().any(char::is_control) {
        Some("a name has no control characters".into())
    } else {
        None
    }
}

/// Reads an object with these keys; what is wrong is added to `wrong`. The values of `secrets`
/// are not repeated: a secret may stand there, if only by a slip.
pub(super) fn read_fields<F: Default + DeserializeOwned>(
    (schema, secrets): (&Schema, &[&str]),
    base: &str,
    value: &Value,
    wrong: &mut Vec<Wrong>,
) -> F {
    let Value::Object(object) = value else {
        wrong.push(Wrong::value(base, &hidden(), "an object is wanted"));
        return F::default();
    };
    let base = format!("{base}.");
    for (field, value) in schema.values((&base, ""), object, wrong) {
        if let Err(wanted) = probe::<F>(&field, value) {
            let dots = hidden();
            let is_secret = secrets.contains(&&*field);
            let shown = if is_secret { &dots } else { value };
            wrong.push(Wrong::value(&format!("{base}{field}"), shown, &wanted));
        }
    }
    // What is wrong has been said.
    serde_json::from_value(value.clone()).unwrap_or_default()
}

/// The fields that say something, in the written form.
pub(super) fn show_fields(fields: &impl Serialize) -> Value {
    let mut shown = json!(fields);
    drop_nulls(&mut shown);
    shown
}
