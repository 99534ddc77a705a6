//! Whether the state directory here is the one in which who serves keeps what others are to find.

use std::path::PathBuf;

use tokio::sync::watch;

use crate::config::Config;
use crate::state::known_instance;
use crate::telemetry::{Journal, Notable};
use event_manager_core::leases::candidate::{Candidate, Directories};
use event_manager_core::leases::tenure::Obstacle;

/// The one here, while this daemon stands by.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    lease: String,
    directories: Directories,
    /// Its number, or why it has none.
    found: Result<String, String>,
    /// That of theirs, and the one here, of which was told last.
    told: Option<(String, Option<String>)>,
    /// Why this daemon can't take over.
    obstacle: watch::Sender<Option<Obstacle>>,
}

impl Directory {
    pub(super) fn new(config: &Config, obstacle: watch::Sender<Option<Obstacle>>) -> Self {
        Self {
            path: config.state_dir.clone(),
            lease: config.lease.name.clone(),
            directories: config.lease.state_dir,
            found: Err("it was not looked for".into()),
            told: None,
            obstacle,
        }
    }

    /// Its number, if it has one now.
    pub(super) fn look(&mut self) -> Option<String> {
        self.found = known_instance(&self.path).map(|number| number.to_string());
        self.found.clone().ok()
    }

    /// Tells of it if theirs is another one, once.
    pub(super) fn compare(&mut self, candidate: &Candidate, journal: &Journal) {
        let Some(theirs) = candidate.other_directory() else {
            self.told = None;
            self.obstacle
                .send_if_modified(|before| before.take().is_some());
            return;
        };
        let pair = (theirs.to_owned(), self.found.clone().ok());
        if self.told.as_ref() == Some(&pair) {
            return;
        }
        let why = self.sentence(theirs);
        journal.note(&Notable::OtherDirectory {
            name: &self.lease,
            theirs,
            ours: pair.1.as_deref().unwrap_or("none"),
            why: &why,
        });
        self.told = Some(pair);
        if self.directories == Directories::Shared {
            let check = "stateDir";
            self.obstacle.send_replace(Some(Obstacle { check, why }));
        }
    }

    fn sentence(&self, theirs: &str) -> String {
        let path = self.path.display();
        let ours = match &self.found {
            Ok(number) => format!("stateDir {path} has the number {number}, and theirs {theirs}"),
            Err(why) => format!("stateDir {path} has no number ({why}), and theirs {theirs}"),
        };
        let then = match self.directories {
            Directories::Shared => {
                "so this daemon won't take over, as it would serve without what was kept: see that the storage is mounted and stateDir is the same on each machine; if each daemon is to have a directory of its own, set lease.stateDir to \"own\"; if that directory is lost for good, delete the lease at the engine"
            }
            Directories::Own => {
                "so what it keeps there stays there when this daemon serves (lease.stateDir \"own\")"
            }
        };
        format!("{ours}, {then}")
    }
}
