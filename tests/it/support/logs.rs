//! The log of this process: what all daemons in it tell.

use std::io;
use std::sync::{Mutex, Once};

use tracing_subscriber::filter::LevelFilter;

static LINES: Mutex<Vec<String>> = Mutex::new(vec![]);

struct Sink;

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(bytes).into_owned();
        LINES.lock().expect("no panic").push(line);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins to keep what is logged. Daemons of other tests log too: look for what is your own.
pub fn keep() {
    static KEPT: Once = Once::new();
    KEPT.call_once(|| {
        tracing_subscriber::fmt()
            .with_max_level(LevelFilter::INFO)
            .with_ansi(false)
            .with_writer(|| Sink)
            .init();
    });
}

/// The lines that hold this text.
pub fn lines_with(text: &str) -> Vec<String> {
    let lines = LINES.lock().expect("no panic");
    lines
        .iter()
        .filter(|line| line.contains(text))
        .cloned()
        .collect()
}
