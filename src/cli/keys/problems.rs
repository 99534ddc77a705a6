//! What is wrong with the files of keys that a configuration names.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::SecurityConfig;
use crate::keys::{KeysError, load, own_pair};
use event_manager_client::{PublicKey, load_public};
use event_manager_zmtp::curve::CertificateError;

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Problem {
    /// The daemon doesn't start with it. Else it works, for others.
    pub(in crate::cli) is_fatal: bool,
    pub(in crate::cli) text: String,
    pub(in crate::cli) mend: String,
}

/// What was looked at.
#[derive(Debug, Default)]
pub(in crate::cli) struct Looked {
    pub(in crate::cli) own: Vec<PublicKey>,
    pub(in crate::cli) clients: usize,
    pub(in crate::cli) problems: Vec<Problem>,
}

/// All that is wrong.
pub(in crate::cli) fn problems(security: &SecurityConfig) -> Vec<Problem> {
    look(security).problems
}

/// Looks at all files.
pub(super) fn look(security: &SecurityConfig) -> Looked {
    let mut looked = Looked::default();
    if security.offers_curve() {
        look_at_own(security, &mut looked);
    } else if !security.offers_plain() && security.clients.users().next().is_none() {
        // No client of the configuration has any effect, which is a warning of its own.
        return looked;
    }
    look_at_clients(security, &mut looked);
    looked
}

fn look_at_own(security: &SecurityConfig, looked: &mut Looked) {
    let mut known = BTreeMap::<PublicKey, &PathBuf>::new();
    for path in &security.secret_key {
        // Each by itself, so that all are named.
        let only = SecurityConfig {
            secret_key: vec![path.clone()],
            ..security.clone()
        };
        match own_pair(&only) {
            Ok(None) => {}
            Ok(Some(pair)) => {
                looked.own.push(*pair.public());
                if let Some(other) = known.insert(*pair.public(), path) {
                    looked.problems.push(Problem {
                        is_fatal: false,
                        text: format!(
                            "security.secretKey {} and {} have the same keys",
                            other.display(),
                            path.display()
                        ),
                        mend: "leave one of them out; a new pair is made by `event-manager keys init --dir DIR`".into(),
                    });
                }
            }
            Err(error) => looked.problems.push(of_own(&error)),
        }
    }
}

fn of_own(error: &KeysError) -> Problem {
    let (is_fatal, mend): (_, &str) = match error {
        KeysError::Unreadable { error, .. } if error.kind() == ErrorKind::PermissionDenied => (
            false,
            "run this as the daemon's user; and if that can't read it, let it own the file",
        ),
        KeysError::Unreadable { .. } | KeysError::NoFile { .. } => (
            true,
            "make it with `event-manager keys init`, or correct security.secretKey",
        ),
        KeysError::Mode { path, .. } => (true, &format!("chmod 600 {}", path.display())),
        KeysError::Certificate {
            error: CertificateError::OnlyPublic,
            ..
        } => (
            true,
            "name the file with both keys in security.secretKey: NAME.key_secret, which `event-manager keys init` makes beside it",
        ),
        _ => (
            true,
            "restore the file with both keys, NAME.key_secret; or make another with `event-manager keys init --dir DIR`",
        ),
    };
    Problem {
        is_fatal,
        text: error.to_string(),
        mend: mend.to_owned(),
    }
}

fn look_at_clients(security: &SecurityConfig, looked: &mut Looked) {
    let without_own = SecurityConfig {
        secret_key: vec![],
        ..security.clone()
    };
    let mut errors = vec![];
    match load(&without_own, &mut errors) {
        Ok(keyring) => looked.clients = keyring.clients(),
        Err(error) => looked.problems.push(Problem {
            is_fatal: true,
            text: error.to_string(),
            mend: "make the directory, or correct security.keysDir".into(),
        }),
    }
    let clients = errors.iter().map(|error| Problem {
        is_fatal: false,
        text: error.to_string(),
        mend: mend_of_client(error, security),
    });
    looked.problems.extend(clients);
    for (name, key) in security.clients.keys() {
        if looked.own.contains(&key) {
            let error = KeysError::Own {
                said_in: format!("security.clients.{name}.keys"),
            };
            looked.problems.push(Problem {
                is_fatal: false,
                text: error.to_string(),
                mend: mend_of_client(&error, security),
            });
        }
    }
    if let Some(directory) = security
        .keys_dir
        .as_deref()
        .filter(|_| security.offers_curve())
    {
        look_at_directory(directory, looked);
    }
}

fn mend_of_client(error: &KeysError, security: &SecurityConfig) -> String {
    let mend = match error {
        KeysError::Secret { .. } => {
            "put the client's NAME.key there, and give the client another pair if others could read this one"
        }
        KeysError::SameKey { error, .. } => {
            let mut said = security.clients.keys();
            match said.find(|(_, key)| *key == error.2) {
                None => "remove one of the two files",
                Some((name, _)) => {
                    return format!(
                        "remove the file, or the key from security.clients.{name}.keys"
                    );
                }
            }
        }
        KeysError::Own { .. } => {
            "put the client's public key there, or remove this one; the daemon knows itself"
        }
        KeysError::Nobody { .. } => "give it a key, or correct its name",
        KeysError::Dangling { .. } => "remove the link, or bring back what it leads to",
        _ => "put the client's public file there, NAME.key, or remove this one",
    };
    mend.to_owned()
}

/// What the daemon doesn't look at, or takes as it is.
fn look_at_directory(directory: &Path, looked: &mut Looked) {
    let mut warn = |text: String, mend: &str| {
        looked.problems.push(Problem {
            is_fatal: false,
            text: format!("security.keysDir {text}"),
            mend: mend.to_owned(),
        });
    };
    if fs::metadata(directory).is_ok_and(|metadata| metadata.mode() & 0o002 != 0) {
        let text = format!(
            "{}: everybody may write there, and admit keys",
            directory.display()
        );
        warn(text, "chmod o-w it");
    }
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with("_secret") {
            let text = format!("{}: no secret belongs there", path.display());
            warn(text, "move it to the client, which alone needs it");
        } else if name.ends_with(".key")
            && path.is_file()
            && let Some(text) = path.to_str()
            && load_public(text).is_ok_and(|key| looked.own.contains(&key))
        {
            let text = format!(
                "{}: it is the daemon's own key, not a client's",
                path.display()
            );
            warn(text, "remove it; the daemon knows itself");
        }
    }
}
