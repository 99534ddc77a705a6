//! The event log's file: lines of JSON, each whole or passed over.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::log_writer::{RotatingFile, aged};
use crate::config::Rotation;
use event_manager_wire::api::NotableEvent;

/// Where lines are appended.
pub(super) trait Lines {
    /// Appends some bytes; after an error some of them may be there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl Lines for RotatingFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write(bytes)
    }
}

/// Ends what an error or a crash left of a line, so that it is no JSON and spoils no other line, even
/// if nothing but its end was missing: it counts as lost.
pub(super) const TORN: &[u8] = b" torn\n";

/// Opens the file, and its directory if need be.
pub(super) fn open(path: &Path, rotation: Rotation) -> io::Result<RotatingFile> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut lines = RotatingFile::open(path, rotation)?;
    if is_torn(path)? {
        lines.write(TORN)?;
    }
    Ok(lines)
}

fn is_torn(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    // A file that can't be sought in has no end that could be torn.
    if !file.metadata()?.is_file() || file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// Writes lines. One that can't be written is lost, and counted in the next that can.
pub(super) struct Writer<L, O> {
    open: O,
    lines: Option<L>,
    failing: bool,
    /// Lines lost since the last that was written.
    lost: u64,
    /// Lines lost since the start, for reports.
    lost_in_all: Arc<AtomicU64>,
}

impl<L: Lines, O: FnMut() -> io::Result<L>> Writer<L, O> {
    /// `open` is called at the first line, and again after each error.
    pub(super) fn new(open: O, lost_in_all: Arc<AtomicU64>) -> Self {
        Self {
            open,
            lines: None,
            failing: false,
            lost: 0,
            lost_in_all,
        }
    }

    /// Somebody may have moved the file.
    pub(super) fn reopen(&mut self) {
        self.lines = None;
    }

    /// So many lines never came here.
    pub(super) fn lose(&mut self, lines: u64) {
        self.lost += lines;
        self.lost_in_all.fetch_add(lines, Ordering::Relaxed);
    }

    /// Writes a line, which is an object of JSON and the end of the line; the error if it is the
    /// first of some.
    pub(super) fn write(&mut self, line: &[u8]) -> Option<io::Error> {
        match self.try_write(line) {
            Ok(()) => {
                (self.failing, self.lost) = (false, 0);
                None
            }
            Err(error) => {
                // It may have a part of the line: opening it anew ends that.
                self.lines = None;
                self.lose(1);
                let is_first = !std::mem::replace(&mut self.failing, true);
                is_first.then_some(error)
            }
        }
    }

    fn try_write(&mut self, line: &[u8]) -> io::Result<()> {
        let lines = match &mut self.lines {
            Some(lines) => lines,
            closed => closed.insert((self.open)()?),
        };
        if self.lost == 0 {
            return lines.append(line);
        }
        let object = line.strip_suffix(b"}\n").unwrap_or(line);
        let note = format!(",\"lost\":{}}}\n", self.lost);
        lines.append(&[object, note.as_bytes()].concat())
    }
}

/// Reads the file and what was rotated away, the oldest first. What is no whole line is passed over.
///
/// # Errors
/// The file can't be read; and those of `each`, which end it.
pub fn read_events(
    path: &Path,
    mut each: impl FnMut(NotableEvent) -> io::Result<()>,
) -> io::Result<()> {
    let mut newest = Some(File::open(path)?);
    let rotated = |age: &u64| aged(path, *age);
    let mut paths: Vec<PathBuf> = (1..)
        .map(|age| rotated(&age))
        .take_while(|path| path.exists())
        .collect();
    paths.reverse();
    let rotated = paths.into_iter().map(File::open);
    for file in rotated.chain(newest.take().map(Ok)) {
        let mut lines = BufReader::new(file?);
        let mut line = vec![];
        while lines.read_until(b'\n', &mut line)? > 0 {
            if line.ends_with(b"\n")
                && let Ok(event) = serde_json::from_slice(&line)
            {
                each(event)?;
            }
            line.clear();
        }
    }
    Ok(())
}
