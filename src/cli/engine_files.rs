//! What is wrong with the files of engines, and what the configuration's bridges promise.

use std::io::ErrorKind;

use super::keys::Problem;
use crate::config::{Config, Direction, EngineFile, FileKind, SecurityConfig};
use crate::keys::{ConfiguredFile, KeysError};

/// All that is wrong. The daemon starts with it, but a bridge that is required keeps it from being ready.
pub(super) fn problems(config: &Config) -> Vec<Problem> {
    let mut found = vec![];
    for (name, engine) in config.engines.iter() {
        let mut bridges = config.bridges.iter();
        let is_required = bridges.any(|(_, one)| one.engine() == name && one.is_required());
        for file in engine.files() {
            let Err((why, mend, is_ours)) = look(file, &config.security) else {
                continue;
            };
            found.push(Problem {
                is_fatal: is_required && !is_ours,
                text: format!("engines.{name}: {why}"),
                mend,
            });
        }
    }
    found
}

/// Why the engine can't be reached with this file, as the connection says it; what mends it; and whether that
/// may be so only for whoever asks.
fn look(file: EngineFile<'_>, security: &SecurityConfig) -> Result<(), (String, String, bool)> {
    let EngineFile { key, path, kind } = file;
    let shown = path.display();
    let opened = match kind {
        FileKind::Secret | FileKind::Credentials => {
            ConfiguredFile::secret(key, path.to_owned(), security)
        }
        FileKind::Certificates => ConfiguredFile::public(key, path.to_owned()),
    };
    let text = opened.read().map(|(_, text)| text).map_err(|error| {
        let is_ours = matches!(&error, KeysError::Unreadable { error, .. } if error.kind() == ErrorKind::PermissionDenied);
        let mend = match &error {
            KeysError::Mode { .. } => format!("chmod 600 {shown}"),
            _ if is_ours => "run this as the daemon's user; and if that can't read it, let it own the file".into(),
            _ => format!("put the file there, or correct {key}"),
        };
        (error.to_string(), mend, is_ours)
    })?;
    let has = |what: &str| text.contains(&format!("-----BEGIN {what}-----"));
    let (is_whole, wanted) = match kind {
        FileKind::Secret => (!text.trim().is_empty(), "is empty"),
        FileKind::Credentials => (
            has("NATS USER JWT") && has("USER NKEY SEED"),
            "holds no credentials as nsc writes them",
        ),
        FileKind::Certificates => (has("CERTIFICATE"), "has no certificate in PEM"),
    };
    match is_whole {
        true => Ok(()),
        false => {
            let mend = format!("put the right file there, or correct {key}");
            Err((format!("{key} {shown} {wanted}"), mend, false))
        }
    }
}

/// When an event counts as brought over.
pub(super) struct Promise {
    /// `bridges`, or `services`.
    pub(super) of: &'static str,
    pub(super) name: String,
    pub(super) said: String,
}

/// For each bridge, and each service whose queue is an engine's, when an event counts as brought over.
pub(super) fn promises(config: &Config) -> Vec<Promise> {
    let promise = |(name, bridge): (&str, &crate::config::Bridge)| {
        let engine = config.engines.get(bridge.engine())?;
        let said = match bridge.direction() {
            Direction::Out => format!("confirmed means that {}", engine.kind().confirmed()),
            Direction::In => "the engine is told that an event was taken when this daemon has it: for durable services synced to its disk, for all others in its memory".into(),
        };
        Some(Promise {
            of: "bridges",
            name: name.to_owned(),
            said,
        })
    };
    let served = config.services.served().filter_map(|(service, by)| {
        let confirmed = config.engines.get(by.engine)?.kind().confirmed();
        Some(Promise {
            of: "services",
            name: service.to_string(),
            said: format!("an event is in the queue when {confirmed}; until then it is on this daemon's disk alone"),
        })
    });
    let engine = config.engines.get(&config.lease.source);
    let lease = engine.and_then(|engine| engine.kind().lease());
    let lease = lease.map(|said| Promise {
        of: "lease",
        name: config.lease.name.clone(),
        said: said.to_owned(),
    });
    let bridges = config.bridges.iter().filter_map(promise);
    bridges.chain(served).chain(lease).collect()
}
