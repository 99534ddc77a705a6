//! A clock that tests can set, for daemons in a process of their own: see `clock.c`, which is built
//! for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::program::Site;

/// The clock of a site's programs.
pub struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    /// Gives a clock to the programs of this site.
    pub fn of(site: Site) -> (Self, Site) {
        let clock = Self::within(&site.path(""));
        let site = clock
            .variables()
            .iter()
            .fold(site, |site, (name, value)| site.with(name, value));
        (clock, site)
    }

    /// One whose files are in this directory.
    pub fn within(directory: &Path) -> Self {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/clock.c");
        let library = directory.join("clock.so");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(source)
            .status();
        assert!(built.expect("a C compiler").success());
        let file = directory.join("clock");
        Self { file, library }
    }

    /// By which a program has this clock.
    pub fn variables(&self) -> [(String, String); 2] {
        let text = |path: &Path| path.to_str().expect("text").to_owned();
        [
            ("LD_PRELOAD".into(), text(&self.library)),
            ("TEST_CLOCK".into(), text(&self.file)),
        ]
    }

    /// Sets the wall clock to so many seconds later than it is.
    pub fn set(&self, seconds: i64) {
        self.write(&seconds.to_string());
    }

    /// The reactor has no wall clock any more, which Rust's standard library takes for a reason to
    /// panic.
    pub fn break_it(&self) {
        self.write("broken");
    }

    /// The reactor waits when it looks at any clock next, until this one is [set](Self::set).
    pub fn hang(&self) {
        self.write("hung");
    }

    /// At once, as it is read all the time.
    fn write(&self, text: &str) {
        let new = self.file.with_extension("new");
        fs::write(&new, text).expect("a file");
        fs::rename(new, &self.file).expect("it is there");
    }
}
