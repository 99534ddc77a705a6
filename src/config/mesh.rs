//! Other event managers whose clients' events are wanted here.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::peers::{DialledPublisher, Publishers};
use super::units::Unit;

/// The most prefixes of [`MeshConfig::subjects`].
const SUBJECTS_MAX: usize = 256;

/// The mesh.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MeshConfig {
    /// The subscribers' sockets of other event managers: we dial them.
    #[serde(with = "Publishers")]
    pub peers: Vec<DialledPublisher>,
    /// Nothing is asked of them but subjects with these prefixes.
    #[serde(with = "Prefixes")]
    pub subjects: Vec<String>,
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            peers: vec![],
            subjects: vec![String::new()],
        }
    }
}

/// Prefixes of subjects: a list, or a text in which commas separate them.
struct Prefixes;

impl Unit for Prefixes {
    type Of = Vec<String>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        let wanted = || "a list of prefixes is wanted; \"\" is that of every subject".to_owned();
        let all: Vec<Value> = match value {
            Value::Array(all) => all.clone(),
            Value::String(text) if text.trim_start().starts_with('[') => {
                serde_json::from_str(text).map_err(|_| wanted())?
            }
            Value::String(text) => text.split(',').map(|part| json!(part.trim())).collect(),
            _ => return Err(wanted()),
        };
        let all = all.iter().map(|one| one.as_str().map(str::to_owned));
        let all: Vec<_> = all.collect::<Option<_>>().ok_or_else(wanted)?;
        let pattern = all.iter().find(|one| {
            let is_of = |kind: &str| one.starts_with(kind);
            is_of("exact:") || is_of("glob:")
        });
        if let Some(pattern) = pattern {
            return Err(format!(
                "{pattern:?}: only prefixes are wanted here, such as \"Order\": event managers ask each other for nothing else (docs/mesh.md)"
            ));
        }
        match all.len() {
            0 => Err(wanted()),
            1..=SUBJECTS_MAX => Ok(all),
            more => Err(format!("{more} prefixes are more than {SUBJECTS_MAX}")),
        }
    }

    fn show(of: &Self::Of) -> Value {
        json!(of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_prefixes() {
        let read = |value: Value| Prefixes::read(&value);
        assert_eq!(read(json!([""])), Ok(vec![String::new()]));
        assert_eq!(read(json!(["a", " b"])), Ok(vec!["a".into(), " b".into()]));
        assert_eq!(read(json!("a, b")), Ok(vec!["a".into(), "b".into()]));
        assert_eq!(read(json!("")), Ok(vec![String::new()]));
        assert_eq!(read(json!("[\"a,b\"]")), Ok(vec!["a,b".into()]));
        for wrong in [json!([]), json!(7), json!([7]), json!("[7"), json!({})] {
            let error = read(wrong).unwrap_err();
            assert!(error.contains("a list of prefixes is wanted"), "{error}");
        }
        for pattern in ["exact:Order", "glob:order.*"] {
            let error = read(json!(["a", pattern])).unwrap_err();
            assert!(
                error.contains(pattern) && error.contains("only prefixes are wanted here"),
                "{error}"
            );
        }
        let many = read(json!(vec!["a"; 257])).unwrap_err();
        assert!(many.contains("more than 256"), "{many}");
    }
}
