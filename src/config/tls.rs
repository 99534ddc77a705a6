//! Files for HTTPS.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::units::{Unit, unless_off};

/// A path; none if it is empty. Only a binary with the cargo feature `tls` knows what to do with it.
pub(super) struct TlsFile;

impl Unit for TlsFile {
    type Of = Option<PathBuf>;

    fn read(value: &Value) -> Result<Self::Of, String> {
        let path = unless_off(value)?.filter(|path| !path.is_empty());
        if path.is_some() && !cfg!(feature = "tls") {
            return Err(
                "this binary can't serve HTTPS; build it with `cargo build --features tls`".into(),
            );
        }
        Ok(path.map(Into::into))
    }

    fn show(of: &Self::Of) -> Value {
        json!(of)
    }
}
