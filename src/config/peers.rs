//! Peers that the daemon connects to, and their keys.

use serde_json::{Value, json};

use super::units::{Unit, list, parsed};
use event_manager_wire::model::Endpoint;
use event_manager_zmtp::curve::{PublicKey, parse_key};

/// A publisher that is dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialledPublisher {
    /// Where it is bound.
    pub address: Endpoint,
    /// Its key, if it has CURVE.
    pub server_key: Option<PublicKey>,
}

impl From<Endpoint> for DialledPublisher {
    fn from(address: Endpoint) -> Self {
        Self {
            address,
            server_key: None,
        }
    }
}

/// A public key, or none: `null` and the empty text.
pub(super) struct OptionalKey;

impl Unit for OptionalKey {
    type Of = Option<PublicKey>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        match value {
            Value::Null => Ok(None),
            Value::String(text) if text.trim().is_empty() => Ok(None),
            _ => key(value).map(Some),
        }
    }

    fn show(of: &Self::Of) -> Value {
        json!(of.map(|key| key.to_string()))
    }
}

/// The key of a service, or `none`: it is called without CURVE.
pub(super) struct ServiceKey;

impl Unit for ServiceKey {
    type Of = Option<PublicKey>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        match value.as_str() {
            Some("none") => Ok(None),
            _ => key(value).map(Some),
        }
    }

    fn show(of: &Self::Of) -> Value {
        json!(of.map_or("none".to_owned(), |key| key.to_string()))
    }
}

fn key(value: &Value) -> Result<PublicKey, String> {
    let key = value.as_str().and_then(|text| parse_key(text.trim()));
    key.map(PublicKey::from_bytes).ok_or_else(|| {
        "a public key is wanted: 40 characters of Z85, 64 of hex or 44 of base64".into()
    })
}

/// The public key of somebody whom we dial.
pub(super) struct ServerKey;

impl Unit for ServerKey {
    type Of = PublicKey;

    fn read(value: &Value) -> Result<PublicKey, String> {
        key(value)
    }

    fn show(of: &PublicKey) -> Value {
        json!(of.to_string())
    }
}

/// Publishers: addresses, and objects with a key beside the address.
pub(super) struct Publishers;

impl Unit for Publishers {
    type Of = Vec<DialledPublisher>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        const WANTED: &str = "an address or a list of addresses";
        match value {
            Value::Array(all) => all.iter().map(publisher).collect(),
            Value::String(text) if text.trim_start().starts_with('[') => {
                let all: Vec<Value> = serde_json::from_str(text)
                    .map_err(|error| format!("a list in JSON is wanted: {error}"))?;
                all.iter().map(publisher).collect()
            }
            _ => {
                let all = list(value, WANTED)?.into_iter();
                all.map(|text| Ok(parsed::<Endpoint>(text)?.into()))
                    .collect()
            }
        }
    }

    fn show(of: &Self::Of) -> Value {
        let shown = of.iter().map(|publisher| {
            let address = publisher.address.to_string();
            match publisher.server_key {
                None => json!(address),
                Some(key) => json!({"address": address, "serverKey": key.to_string()}),
            }
        });
        shown.collect()
    }
}

fn publisher(value: &Value) -> Result<DialledPublisher, String> {
    if let Value::String(text) = value {
        return Ok(parsed::<Endpoint>(text.trim())?.into());
    }
    let wanted = || "an address or {\"address\": …, \"serverKey\": …} is wanted".to_owned();
    let object = value.as_object().ok_or_else(wanted)?;
    if let Some(other) = object
        .keys()
        .find(|name| !["address", "serverKey"].contains(&name.as_str()))
    {
        return Err(format!("unknown key {other:?}; {}", wanted()));
    }
    let address = object.get("address").and_then(Value::as_str);
    Ok(DialledPublisher {
        address: parsed(address.ok_or_else(wanted)?.trim())?,
        server_key: object.get("serverKey").map(key).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishers_may_have_keys() {
        let key = PublicKey::from_bytes([7; 32]);
        let text = key.to_string();
        let value = json!(["tcp://a:1", {"address": "tcp://b:2", "serverKey": text}]);
        let read = Publishers::read(&value).unwrap();
        assert_eq!(read[0], Endpoint::tcp("a", 1).into());
        assert_eq!(read[1].server_key, Some(key));
        assert_eq!(Publishers::show(&read), value);
        // As a variable has it.
        assert_eq!(Publishers::read(&json!(value.to_string())), Ok(read));
        let plain = Publishers::read(&json!("tcp://a:1, tcp://b:2")).unwrap();
        assert_eq!(Publishers::show(&plain), json!(["tcp://a:1", "tcp://b:2"]));
        for (wrong, why) in [
            (json!([{"serverKey": text}]), "an address or {"),
            (
                json!([{"address": "tcp://a:1", "serverkey": text}]),
                "unknown key",
            ),
            (
                json!([{"address": "tcp://a:1", "serverKey": "x"}]),
                "a public key is wanted",
            ),
            (json!([7]), "an address or {"),
            (json!("[7"), "a list in JSON is wanted"),
        ] {
            let error = Publishers::read(&wrong).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_service_may_be_called_without_a_key() {
        let key = PublicKey::from_bytes([7; 32]);
        for (value, expected) in [(json!("none"), None), (json!(key.to_string()), Some(key))] {
            let read = ServiceKey::read(&value).unwrap();
            assert_eq!((read, ServiceKey::show(&read)), (expected, value));
        }
        assert!(ServiceKey::read(&Value::Null).is_err());
        assert_eq!(OptionalKey::read(&json!("")), Ok(None));
    }
}
