//! Where spans go, and where events say what trace they belong to.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::units::{self, Unit};
use event_manager_wire::model::Endpoint;

/// Spans of what happens to single events. Only a binary with the cargo feature `traces` has them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TracesConfig {
    /// The collector, which speaks OTLP over HTTP; without one there are no spans.
    #[serde(with = "Collector")]
    pub endpoint: Option<Endpoint>,
    /// Where events carry a `traceparent`, if they do.
    #[serde(with = "Traceparent")]
    pub traceparent: Option<Carrier>,
}

/// Where an event carries its `traceparent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carrier {
    /// In this frame, counted from 0 for the subject.
    Header(usize),
    /// In this field of the JSON object in frame 1.
    Json(String),
}

const FRAME_MAX: usize = 255;
const FIELD_BYTES_MAX: usize = 255;

/// What was asked for, if it isn't to be off; only this feature can do it.
fn wanted(value: &Value) -> Result<Option<&str>, String> {
    let written = units::unless_off(value)?;
    if written.is_some() && !cfg!(feature = "traces") {
        return Err(
            "this binary can't export traces; build it with `cargo build --features traces`".into(),
        );
    }
    Ok(written)
}

/// `http://HOST:PORT`, or `off`.
struct Collector;

impl Unit for Collector {
    type Of = Option<Endpoint>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        let Some(written) = wanted(value)? else {
            return Ok(None);
        };
        let refused = |why: &str| format!("http://HOST:PORT or \"off\" is wanted: {why}");
        let rest = written
            .strip_prefix("http://")
            .ok_or_else(|| refused("spans go over plain HTTP, and to its path /v1/traces"))?;
        let endpoint = format!("tcp://{}", rest.trim_end_matches('/')).parse::<Endpoint>();
        let endpoint = endpoint.map_err(|error| refused(&error.to_string()))?;
        match &endpoint {
            Endpoint::Tcp { host, .. } if host == "*" => Err(refused("\"*\" is no host")),
            _ if endpoint.port() == Some(0) => Err(refused("a port is from 1 to 65535")),
            _ => Ok(Some(endpoint)),
        }
    }

    fn show(of: &Self::Of) -> Value {
        let shown = of.as_ref().map(ToString::to_string);
        json!(shown.map_or("off".into(), |text| text.replacen("tcp://", "http://", 1)))
    }
}

/// `header:N`, `json:FIELD` or `off`.
struct Traceparent;

impl Unit for Traceparent {
    type Of = Option<Carrier>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        let Some(written) = wanted(value)? else {
            return Ok(None);
        };
        let carrier = match written.split_once(':') {
            Some(("header", frame)) => frame
                .parse()
                .ok()
                .filter(|frame| (1..=FRAME_MAX).contains(frame))
                .map(Carrier::Header),
            Some(("json", field)) => (!field.is_empty() && field.len() <= FIELD_BYTES_MAX)
                .then(|| Carrier::Json(field.to_owned())),
            _ => None,
        };
        carrier.map(Some).ok_or_else(|| {
            format!(
                "header:N, with a frame from 1 to {FRAME_MAX}, json:FIELD, with a field of at most \
                 {FIELD_BYTES_MAX} bytes, or \"off\" is wanted"
            )
        })
    }

    fn show(of: &Self::Of) -> Value {
        match of {
            Some(Carrier::Header(frame)) => json!(format!("header:{frame}")),
            Some(Carrier::Json(field)) => json!(format!("json:{field}")),
            None => json!("off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_is_always_allowed() {
        for off in [json!("off"), json!(""), json!(null)] {
            assert_eq!(Collector::read(&off), Ok(None));
            assert_eq!(Traceparent::read(&off), Ok(None));
        }
    }

    #[cfg(not(feature = "traces"))]
    #[test]
    fn without_the_feature_the_keys_say_how_to_get_it() {
        for refused in [
            Collector::read(&json!("http://127.0.0.1:4318")).map(drop),
            Traceparent::read(&json!("header:2")).map(drop),
        ] {
            assert!(refused.unwrap_err().contains("--features traces"));
        }
    }

    #[cfg(feature = "traces")]
    #[test]
    fn what_is_shown_is_read() {
        for written in [
            "http://127.0.0.1:4318",
            "http://[::1]:4318",
            "http://otel:1",
        ] {
            let read = Collector::read(&json!(written)).unwrap();
            assert_eq!(Collector::show(&read), written);
        }
        for written in ["header:1", "header:255", "json:traceparent", "json:a:b"] {
            let read = Traceparent::read(&json!(written)).unwrap();
            assert_eq!(Traceparent::show(&read), written);
        }
    }

    #[cfg(feature = "traces")]
    #[test]
    fn anything_else_is_refused() {
        for wrong in [
            json!("https://127.0.0.1:4318"),
            json!("127.0.0.1:4318"),
            json!("http://host"),
            json!("http://host:4318/path"),
            json!("http://*:4318"),
            json!("http://host:0"),
            json!(4318),
        ] {
            assert!(Collector::read(&wrong).is_err(), "{wrong}");
        }
        for wrong in [
            "header:0",
            "header:256",
            "header:-1",
            "header",
            "json:",
            "json",
            "frame:1",
        ] {
            assert!(Traceparent::read(&json!(wrong)).is_err(), "{wrong}");
        }
        let long = format!("json:{}", "f".repeat(256));
        assert!(Traceparent::read(&json!(long)).is_err());
    }
}
