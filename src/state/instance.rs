//! The id of this daemon among others, which it keeps as long as its state directory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::ambient::random_bytes;
use event_manager_zmtp::HubId;

/// The name of its file: 16 hex digits.
pub const INSTANCE_FILE: &str = "instance";

/// The id in this directory, which says whose directory it is wherever it is mounted.
///
/// # Errors
/// Why it has none, for people.
pub fn known_instance(directory: &Path) -> Result<HubId, String> {
    let path = directory.join(INSTANCE_FILE);
    let read = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let id = HubId::parse(read.trim_ascii());
    id.ok_or_else(|| format!("{}: it has no id of 16 hex digits", path.display()))
}

/// The id in this directory; a new one, which is written there, if there is none. One that can't be
/// written holds until the daemon ends, as without a directory.
pub fn instance(directory: Option<&Path>) -> HubId {
    let new = || HubId::from_bytes(random_bytes());
    let Some(directory) = directory else {
        return new();
    };
    let path = directory.join(INSTANCE_FILE);
    let read = fs::read(&path);
    let known = read.as_ref().ok();
    if let Some(known) = known.and_then(|text| HubId::parse(text.trim_ascii())) {
        return known;
    }
    let new = new();
    let shown = path.display();
    match write(directory, &path, new) {
        Ok(()) if read.is_ok() => {
            tracing::warn!(target: "em.state", path = %shown, hub = %new, "the file had no id of 16 hex digits: it has a new one");
        }
        Ok(()) => {}
        Err(error) => {
            tracing::warn!(target: "em.state", path = %shown, hub = %new, %error, "the daemon's id can't be written, and is another one after a restart");
        }
    }
    new
}

/// All of it, or nothing.
fn write(directory: &Path, path: &Path, id: HubId) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    writeln!(file, "{id}")?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_as_long_as_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        let first = instance(Some(directory.path()));
        assert_eq!(instance(Some(directory.path())), first);
        let path = directory.path().join(INSTANCE_FILE);
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{first}\n"));
        fs::write(&path, "00000000000000AB").unwrap();
        assert_eq!(
            instance(Some(directory.path())).to_string(),
            "00000000000000ab"
        );
        fs::write(&path, "no id").unwrap();
        let other = instance(Some(directory.path()));
        assert!(other != first && instance(Some(directory.path())) == other);
        // Without a directory that can be written to, it is another one each time.
        let missing = directory.path().join("missing");
        assert_ne!(instance(Some(&missing)), instance(Some(&missing)));
        assert_ne!(instance(None), instance(None));
    }
}
