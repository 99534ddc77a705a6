//! Log lines on their way to a file or standard error, without a wait for those who log.
//!
//! Lines go through a queue that is bounded in bytes; when it is full, lines are dropped, counted and
//! reported. One thread writes them, so a full disk or a pipe that nobody reads stalls only the log.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::json;

use crate::config::{LogConfig, LogFormat, Rotation};

/// What may wait to be written, in bytes.
const QUEUE_BYTES_MAX: usize = 4 << 20;

/// Where lines enter; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct LineQueue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    dropped: u64,
    /// The file is to be opened anew, as somebody may have moved it.
    reopen: bool,
    closed: bool,
    /// Everything is written and the thread is about to end.
    finished: bool,
}

/// What the writing thread does next.
pub(super) struct Work {
    pub(super) line: Option<Vec<u8>>,
    /// So many were dropped after that line.
    pub(super) dropped: u64,
    /// The file is to be opened anew, before that line.
    pub(super) reopen: bool,
}

impl LineQueue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.bytes + line.len() > QUEUE_BYTES_MAX || state.closed {
            state.dropped += 1;
        } else {
            state.bytes += line.len();
            state.lines.push_back(line.to_vec());
        }
        self.0.changed.notify_all();
    }

    pub(super) fn reopen(&self) {
        self.lock().reopen = true;
        self.0.changed.notify_all();
    }

    /// Waits for something to do; `None` at the end.
    fn next(&self) -> Option<Work> {
        let idle = |state: &mut State| {
            state.lines.is_empty() && state.dropped == 0 && !state.reopen && !state.closed
        };
        let state = self.lock();
        let waited = self.0.changed.wait_while(state, idle);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        let line = state.lines.pop_front();
        state.bytes -= line.as_ref().map_or(0, Vec::len);
        // The gap is reported where it is: after the lines that came before it.
        let dropped = if state.lines.is_empty() {
            std::mem::take(&mut state.dropped)
        } else {
            0
        };
        let reopen = std::mem::take(&mut state.reopen);
        if line.is_none() && dropped == 0 && !reopen {
            return None;
        }
        Some(Work {
            line,
            dropped,
            reopen,
        })
    }

    /// Hands out what there is to do, until the queue is closed and empty.
    pub(super) fn serve(&self, mut handle: impl FnMut(Work)) {
        while let Some(work) = self.next() {
            handle(work);
        }
        self.lock().finished = true;
        self.0.changed.notify_all();
    }

    /// Takes no more lines and waits until those that it has are written, for at most `patience`.
    /// Returns whether they are.
    pub(super) fn close(&self, patience: Duration) -> bool {
        let mut state = self.lock();
        state.closed = true;
        self.0.changed.notify_all();
        let unfinished = |state: &mut State| !state.finished;
        let waited = self
            .0
            .changed
            .wait_timeout_while(state, patience, unfinished);
        waited.unwrap_or_else(PoisonError::into_inner).0.finished
    }
}

/// Starts the thread that writes the queue's lines until it is closed.
///
/// # Errors
/// The system has no thread for it.
pub(super) fn spawn(queue: LineQueue, config: &LogConfig) -> io::Result<JoinHandle<()>> {
    let mut sink = Sink::new(config);
    let mut handle = move |work: Work| {
        if work.reopen {
            sink.open();
        }
        if let Some(line) = &work.line {
            sink.write(line);
        }
        if work.dropped > 0 {
            let dropped = work.dropped;
            sink.notice(&format!(
                "{dropped} log lines were dropped: they came too fast"
            ));
        }
    };
    thread::Builder::new()
        .name("log".into())
        .spawn(move || queue.serve(&mut handle))
}

/// The file, or standard error where there is none or it failed.
struct Sink {
    path: Option<PathBuf>,
    file: Option<RotatingFile>,
    rotation: Rotation,
    format: LogFormat,
}

impl Sink {
    fn new(config: &LogConfig) -> Self {
        let mut sink = Self {
            path: config.file.clone(),
            file: None,
            rotation: config.rotate,
            format: config.format,
        };
        sink.open();
        sink
    }

    fn open(&mut self) {
        let Some(path) = &self.path else { return };
        match RotatingFile::open(path, self.rotation) {
            Ok(file) => self.file = Some(file),
            Err(error) => self.give_up(&error),
        }
    }

    fn write(&mut self, line: &[u8]) {
        if let Some(file) = &mut self.file {
            match file.write(line) {
                Ok(()) => return,
                Err(error) => self.give_up(&error),
            }
        }
        // Who can't even write there can tell nobody.
        let _ = io::stderr().write_all(line);
    }

    /// Said once: until the file is opened anew, lines go to standard error.
    fn give_up(&mut self, error: &io::Error) {
        self.file = None;
        if let Some(path) = &self.path {
            let path = path.display();
            self.notice(&format!(
                "the log file {path} failed, lines go to standard error: {error}"
            ));
        }
    }

    fn notice(&mut self, message: &str) {
        let line = match self.format {
            LogFormat::Text => format!("WARN em.log: {message}\n"),
            LogFormat::Json => {
                let target = "em.log";
                format!(
                    "{}\n",
                    json!({ "level": "WARN", "target": target, "message": message })
                )
            }
        };
        self.write(line.as_bytes());
    }
}

/// A file that is set aside when it is full.
#[derive(Debug)]
pub(super) struct RotatingFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    rotation: Rotation,
}

impl RotatingFile {
    pub(super) fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self {
            bytes: file.metadata()?.len(),
            path: path.to_owned(),
            file,
            rotation,
        })
    }

    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let len = line.len() as u64;
        if self.bytes > 0 && self.bytes.saturating_add(len) > self.rotation.bytes_max {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.bytes += len;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let keep = self.rotation.keep;
        if keep == 0 {
            fs::remove_file(&self.path)?;
        }
        for age in (0..keep).rev() {
            match fs::rename(aged(&self.path, age), aged(&self.path, age + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        *self = Self::open(&self.path, self.rotation)?;
        Ok(())
    }
}

/// The name of an old file; age 0 is the one that is written.
pub(super) fn aged(path: &Path, age: u64) -> PathBuf {
    if age == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{age}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn config(path: &Path, bytes_max: u64, keep: u64) -> LogConfig {
        LogConfig {
            file: Some(path.to_owned()),
            rotate: Rotation { bytes_max, keep },
            ..LogConfig::default()
        }
    }

    fn read(path: &Path, age: u64) -> String {
        fs::read_to_string(aged(path, age)).unwrap_or_default()
    }

    #[test]
    fn old_files_are_kept_up_to_a_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let queue = LineQueue::default();
        let thread = spawn(queue.clone(), &config(&path, 10, 2)).unwrap();
        for n in 0..5 {
            queue.push(format!("line {n}\n").as_bytes());
        }
        assert!(queue.close(PATIENCE));
        thread.join().unwrap();
        let kept = [0, 1, 2, 3].map(|age| read(&path, age));
        assert_eq!(kept, ["line 4\n", "line 3\n", "line 2\n", ""]);
    }

    #[test]
    fn without_old_files_the_file_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut file = RotatingFile::open(
            &path,
            Rotation {
                bytes_max: 6,
                keep: 0,
            },
        )
        .unwrap();
        for line in [
            "one\n",
            "two\n",
            "a line that is larger than a file\n",
            "four\n",
        ] {
            file.write(line.as_bytes()).unwrap();
        }
        assert_eq!(
            (read(&path, 0), read(&path, 1)),
            ("four\n".into(), String::new())
        );
    }

    #[test]
    fn what_does_not_fit_is_dropped_counted_and_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let queue = LineQueue::default();
        let line = vec![b'x'; QUEUE_BYTES_MAX / 2];
        for _ in 0..5 {
            queue.push(&line);
        }
        let held = queue.lock();
        assert_eq!((held.lines.len(), held.dropped), (2, 3));
        drop(held);
        let thread = spawn(queue.clone(), &config(&path, u64::MAX, 0)).unwrap();
        assert!(queue.close(PATIENCE));
        thread.join().unwrap();
        let written = read(&path, 0);
        assert!(written.ends_with("3 log lines were dropped: they came too fast\n"));
    }

    #[test]
    fn a_file_that_fails_is_given_up_and_opened_anew_on_demand() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("absent/log");
        let mut sink = Sink::new(&config(&path, 1000, 1));
        assert!(sink.file.is_none(), "there is no such directory");
        sink.write(b"to standard error\n");
        fs::create_dir(dir.path().join("absent")).unwrap();
        sink.open();
        sink.write(b"to the file\n");
        assert_eq!(read(&path, 0), "to the file\n");
    }
}
