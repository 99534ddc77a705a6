//! A clock that tests can set, for daemons in a process of their own: see `clock.c`, which is built
//! for it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::program::Site;

/// The clock of a site's programs.
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// Gives a clock to the programs of this site.
    pub fn of(site: Site) -> (Self, Site) {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/clock.c");
        let library = site.path("clock.so");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(source)
            .status();
        assert!(built.expect("a C compiler").success());
        let file = site.path("clock");
        let site = site
            .with("LD_PRELOAD", library.to_str().expect("text"))
            .with("TEST_CLOCK", file.to_str().expect("text"));
        (Self { file }, site)
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
