//! Logging through `tracing`.

use std::io::{self, IsTerminal, Write};
use std::thread::JoinHandle;
use std::time::Duration;

use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use super::log_writer::{self, LineQueue};
use super::printable::{printable, printable_json};
use super::targets::{outdated, with_targets};
use crate::config::{LogConfig, LogFormat};

/// How long the end waits for the last lines to be written.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The running log. Call [`Logging::close`] before the process ends.
#[derive(Debug)]
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
    /// The levels from the environment, which go before those of the configuration.
    rust_log: Option<String>,
    queue: LineQueue,
    writer: JoinHandle<()>,
}

/// Why logging could not be started or changed; nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The value of `RUST_LOG` can't be read.
    #[error("environment RUST_LOG: {0:?}: {1}")]
    RustLog(String, tracing_subscriber::filter::ParseError),
    /// No thread for writing.
    #[error("the log's thread can't be started: {0}")]
    Thread(#[from] io::Error),
    /// This process logs already.
    #[error("logging has been started already")]
    Started,
    #[error("logging has ended")]
    Ended,
}

impl Logging {
    /// Starts logging for the whole process; `rust_log` is the value of `RUST_LOG`, which replaces
    /// all levels of the configuration.
    ///
    /// # Errors
    /// [`LoggingError`]. A log file that can't be written is none: its lines go to standard error.
    pub fn init(config: &LogConfig, rust_log: Option<String>) -> Result<Self, LoggingError> {
        let (logging, subscriber) = Self::build(config, rust_log)?;
        tracing::subscriber::set_global_default(subscriber).map_err(|_| LoggingError::Started)?;
        Ok(logging)
    }

    fn build(
        config: &LogConfig,
        rust_log: Option<String>,
    ) -> Result<(Self, impl Subscriber + Send + Sync + use<>), LoggingError> {
        let rust_log = wanted(rust_log);
        let (filter, handle) = reload::Layer::new(filter(config, rust_log.as_deref())?);
        let queue = LineQueue::default();
        let writer = log_writer::spawn(queue.clone(), config)?;
        let subscriber = Registry::default()
            .with(filter)
            .with(formatter(config, queue.clone()).with_filter(filter_fn(may_be_logged)));
        let logging = Self {
            filter: handle,
            rust_log,
            queue,
            writer,
        };
        Ok((logging, subscriber))
    }

    /// Takes the levels of another configuration and opens the log file anew, in case somebody moved
    /// it. Format, file and rotation stay as they were.
    ///
    /// # Errors
    /// [`LoggingError`]; all levels are as they were then.
    pub fn reload(&self, config: &LogConfig) -> Result<(), LoggingError> {
        let filter = filter(config, self.rust_log.as_deref())?;
        self.filter
            .reload(filter)
            .map_err(|_| LoggingError::Ended)?;
        self.queue.reopen();
        Ok(())
    }

    /// Writes what is still to be written, within a second. Later lines are lost.
    pub fn close(self) {
        // A writer that is stuck in a pipe that nobody reads can't be joined; it must not hold up the end.
        if self.queue.close(CLOSE_TIMEOUT) {
            let _ = self.writer.join();
        }
    }
}

/// Whether the value of `RUST_LOG` can be read.
///
/// # Errors
/// [`LoggingError::RustLog`].
pub fn check_rust_log(rust_log: Option<String>) -> Result<(), LoggingError> {
    filter(&LogConfig::default(), wanted(rust_log).as_deref()).map(drop)
}

/// What is to be said of these levels: log targets that are module paths of earlier versions.
pub fn outdated_targets(config: &LogConfig, rust_log: Option<String>) -> Vec<String> {
    outdated(&wanted(rust_log).unwrap_or_else(|| levels(config)))
}

/// A blank variable is as good as none.
fn wanted(rust_log: Option<String>) -> Option<String> {
    rust_log.filter(|levels| !levels.trim().is_empty())
}

/// Not so of a library that logs passwords and events, whatever levels are wanted.
fn may_be_logged(about: &Metadata<'_>) -> bool {
    about.target().split("::").next() != Some("lapin")
}

/// A library that says the same at each attempt to connect, for as long as a server is away; what it is, we say
/// once. Who names it in the levels has it all the same.
const QUIET: &str = "async_nats=off";

fn filter(config: &LogConfig, rust_log: Option<&str>) -> Result<EnvFilter, LoggingError> {
    let levels = rust_log.map_or_else(|| levels(config), str::to_owned);
    EnvFilter::builder()
        .parse(format!("{QUIET},{}", with_targets(&levels)))
        .map_err(|error| LoggingError::RustLog(levels, error))
}

fn levels(config: &LogConfig) -> String {
    let modules = config.modules.iter();
    let mut levels = vec![config.level.to_string()];
    levels.extend(modules.map(|(module, level)| format!("{module}={level}")));
    levels.join(",")
}

fn formatter<S>(config: &LogConfig, queue: LineQueue) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let colours = config.file.is_none() && io::stderr().is_terminal();
    let format = config.format;
    let layer = tracing_subscriber::fmt::layer().with_writer(move || Printable {
        queue: queue.clone(),
        format,
        colours,
    });
    match config.format {
        LogFormat::Text => layer.with_ansi(colours).boxed(),
        LogFormat::Json => layer.with_ansi(false).json().flatten_event(true).boxed(),
    }
}

/// A record on its way to the queue: what it quotes of peers may be shown by a terminal, now or later,
/// and must not look like another record.
struct Printable {
    queue: LineQueue,
    format: LogFormat,
    /// The formatter's own escapes stay; those of values it has escaped itself.
    colours: bool,
}

/// One record is written in one call.
impl Write for Printable {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(record);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = match self.format {
            LogFormat::Text => printable(line, |c| c == '\t' || (c == '\u{1b}' && self.colours)),
            LogFormat::Json => printable_json(line),
        };
        self.queue.push(&[line.as_bytes(), b"\n"].concat());
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tracing::level_filters::LevelFilter;

    use super::*;

    fn config(path: &Path, format: LogFormat) -> LogConfig {
        LogConfig {
            modules: [("quiet".to_owned(), LevelFilter::ERROR)].into(),
            format,
            file: Some(path.to_owned()),
            ..LogConfig::default()
        }
    }

    #[test]
    fn a_library_that_repeats_itself_is_heard_by_who_names_it() {
        let levels = |said: &str| {
            filter(&LogConfig::default(), Some(said))
                .unwrap()
                .to_string()
        };
        assert!(levels("debug").contains("async_nats=off"));
        let named = levels("info,async_nats=debug");
        assert!(named.contains("async_nats=debug"), "{named}");
        assert!(!named.contains("off"), "{named}");
    }

    #[test]
    fn levels_are_kept_and_can_be_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut config = config(&path, LogFormat::Text);
        let (logging, subscriber) = Logging::build(&config, None).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("one");
            tracing::debug!("two");
            tracing::warn!(target: "quiet", "three");
            config.level = LevelFilter::DEBUG;
            config.modules.clear();
            logging.reload(&config).unwrap();
            tracing::debug!("four");
            tracing::warn!(target: "quiet", "five");
        });
        logging.close();
        let text = std::fs::read_to_string(&path).unwrap();
        let words: Vec<_> = text
            .lines()
            .filter_map(|line| line.split(' ').next_back())
            .collect();
        assert_eq!(words, ["one", "four", "five"], "{text}");
    }

    #[test]
    fn libraries_that_log_secrets_are_silent_whatever_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let config = config(&path, LogFormat::Text);
        let wanted = Some("trace,lapin=trace,lapin::frames=trace".to_owned());
        let (logging, subscriber) = Logging::build(&config, wanted).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(target: "lapin", "one");
            tracing::error!(target: "lapin::returned_messages", "two");
            tracing::error!(target: "lapin::frames", "three");
            tracing::trace!("four");
        });
        logging.close();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            (text.lines().count(), text.contains("four")),
            (1, true),
            "{text}"
        );
    }

    #[test]
    fn a_record_is_one_line_without_what_a_terminal_acts_on() {
        let dir = tempfile::tempdir().unwrap();
        let evil = "a\u{1b}[2J\u{9b}31m\u{202e}\u{7f}\n2026-01-01T00:00:00Z INFO forged";
        for format in [LogFormat::Text, LogFormat::Json] {
            let path = dir.path().join(format!("{format:?}"));
            let (logging, subscriber) = Logging::build(&config(&path, format), None).unwrap();
            tracing::subscriber::with_default(subscriber, || {
                tracing::info!(name = evil, shown = %evil, "said: {evil}");
            });
            logging.close();
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text.lines().count(), 1, "{text:?}");
            let line = text.trim_end_matches('\n');
            assert!(
                !line.contains(event_manager_wire::model::is_unsafe),
                "{line:?}"
            );
            if format == LogFormat::Json {
                let record: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(record["name"], evil);
            }
        }
    }

    #[test]
    fn json_is_an_object_on_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (logging, subscriber) =
            Logging::build(&config(&path, LogFormat::Json), Some(String::new())).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(port = 5002, "streamer opened");
        });
        logging.close();
        let text = std::fs::read_to_string(&path).unwrap();
        let record: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(
            (&record["level"], &record["port"]),
            (&"INFO".into(), &5002.into())
        );
        assert_eq!(record["message"], "streamer opened");
    }

    #[test]
    fn the_environment_goes_before_the_file_and_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let config = config(&path, LogFormat::Text);
        let (logging, subscriber) =
            Logging::build(&config, Some("warn,quiet=trace".into())).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("one");
            tracing::trace!(target: "quiet", "two");
            logging.reload(&config).unwrap();
            tracing::info!("three");
        });
        logging.close();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() == 1 && text.contains("two"), "{text}");

        let error = Logging::build(&config, Some("quiet=loud".into()))
            .err()
            .unwrap();
        let error = error.to_string();
        assert!(
            error.starts_with("environment RUST_LOG: \"quiet=loud\""),
            "{error}"
        );
    }
}
