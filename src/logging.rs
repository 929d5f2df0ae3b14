//! Logging: events as text on a terminal, as JSON lines otherwise, never in the way of a worker.
//!
//! ```text
//!  any thread ── event ──▶ filter ──▶ text | JSON ──▶ bounded queue (lossy) ──▶ writer thread ──▶ stderr
//! ```
//!
//! A pipe that nobody reads fills up. A worker that waited for it would stop serving, so the queue drops lines
//! instead and counts them (`preshard_log_lines_dropped_total`). Events have a stable `event=` name and numbers
//! of shards, nodes, epochs, tasks and clients as fields; never keys, values or arguments of requests.

use std::io::{self, IsTerminal as _};
use std::sync::Arc;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Lines that wait for the writer at most; beyond it they are dropped.
const LINES_QUEUED_MAX: usize = 16_384;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text when stderr is a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// What is logged and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// How a line looks.
    pub format: LogFormat,
    /// A level (`error warn info debug trace off`), or levels by module: `info,preshard::worker=debug`.
    pub filter: String,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            format: LogFormat::Auto,
            filter: "info".to_owned(),
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not valid.
    #[error(
        "the log level {filter:?} is not valid: {source}; use error, warn, info, debug, trace or off, \
         or levels by module as in info,preshard::worker=debug"
    )]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// This process has a subscriber already.
    #[error("logging is set up already in this process")]
    AlreadySet,
}

/// Keeps the writer thread; what is queued is written when this is dropped.
#[must_use = "log lines are written only while this is kept"]
pub struct LogGuard {
    _writer: WorkerGuard,
    dropped: ErrorCounter,
    exchange: Exchange,
}

/// Puts another filter in the place of the one in force.
type Exchange = Arc<dyn Fn(EnvFilter) + Send + Sync>;

impl std::fmt::Debug for LogGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogGuard").finish_non_exhaustive()
    }
}

impl LogGuard {
    /// A function that tells how many lines were dropped so far.
    pub fn dropped_lines(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let dropped = self.dropped.clone();
        move || u64::try_from(dropped.dropped_lines()).unwrap_or(u64::MAX)
    }

    /// A function that puts another filter in force, if it is valid.
    pub fn set_filter(&self) -> impl Fn(&str) + Send + Sync + 'static {
        let exchange = Arc::clone(&self.exchange);
        move |filter| {
            if let Ok(filter) = EnvFilter::builder().parse(filter) {
                exchange(filter);
            }
        }
    }
}

/// Sends this process's events to stderr.
///
/// # Errors
/// When the filter is not valid, or when logging was set up before.
pub fn init(options: &LogOptions) -> Result<LogGuard, LogError> {
    let terminal = io::stderr().is_terminal();
    let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (subscriber, guard) = subscriber(options, terminal, colours, io::stderr())?;
    subscriber.try_init().map_err(|_| LogError::AlreadySet)?;
    Ok(guard)
}

type Subscriber = Box<dyn tracing::Subscriber + Send + Sync>;

fn subscriber(
    options: &LogOptions,
    terminal: bool,
    colours: bool,
    out: impl io::Write + Send + 'static,
) -> Result<(Subscriber, LogGuard), LogError> {
    let filter = EnvFilter::builder()
        .parse(&options.filter)
        .map_err(|source| LogError::Filter {
            filter: options.filter.clone(),
            source,
        })?;
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_QUEUED_MAX)
        .thread_name("preshard-log")
        .finish(out);
    let dropped = writer.error_counter();
    let json = match options.format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    let (subscriber, exchange): (Subscriber, Exchange) = if json {
        let builder = builder.json().flatten_event(true).with_filter_reloading();
        let handle = builder.reload_handle();
        // An error means that the subscriber is gone, and with it the lines.
        let exchange = move |filter| drop(handle.reload(filter));
        (Box::new(builder.finish()), Arc::new(exchange))
    } else {
        let builder = builder.with_ansi(colours).with_filter_reloading();
        let handle = builder.reload_handle();
        let exchange = move |filter| drop(handle.reload(filter));
        (Box::new(builder.finish()), Arc::new(exchange))
    };
    let guard = LogGuard {
        dropped,
        exchange,
        _writer: guard,
    };
    Ok((subscriber, guard))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, terminal: bool) -> String {
        let sink = Sink::default();
        let options = LogOptions {
            format,
            filter: filter.to_owned(),
        };
        let (subscriber, guard) = subscriber(&options, terminal, false, sink.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(event = "node_up", node = "redis-1", "a node answers");
            tracing::debug!(event = "detail");
        });
        drop(guard);
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_terminal_gets_text_and_everything_else_json() {
        let text = logged(LogFormat::Auto, "info", true);
        assert!(
            text.contains("INFO") && text.contains("node=\"redis-1\"") && text.contains("a node answers")
        );
        let json: serde_json::Value = serde_json::from_str(&logged(LogFormat::Auto, "info", false)).unwrap();
        assert_eq!(json["event"], "node_up");
        assert_eq!(json["node"], "redis-1");
        assert_eq!(json["level"], "INFO");
        assert!(logged(LogFormat::Json, "info", true).starts_with('{'));
        assert!(!logged(LogFormat::Text, "info", false).starts_with('{'));
    }

    #[test]
    fn the_filter_takes_levels_and_modules() {
        assert_eq!(logged(LogFormat::Text, "warn", true), "");
        assert_eq!(logged(LogFormat::Text, "debug", true).lines().count(), 2);
        assert_eq!(
            logged(LogFormat::Text, "off,preshard=debug", true)
                .lines()
                .count(),
            2
        );
        assert_eq!(logged(LogFormat::Text, "debug,preshard=off", true), "");
    }

    #[test]
    fn another_filter_counts_from_its_exchange_on() {
        let sink = Sink::default();
        let (subscriber, guard) = subscriber(&LogOptions::default(), false, false, sink.clone()).unwrap();
        let set = guard.set_filter();
        tracing::subscriber::with_default(subscriber, || {
            for filter in ["warn", "preshard=loud", "debug"] {
                tracing::info!(before = filter);
                set(filter);
            }
            tracing::debug!(before = "end");
        });
        drop(guard);
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let seen: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split("before\":\"").nth(1))
            .collect();
        assert_eq!(seen.len(), 2, "{text}");
        assert!(
            seen[0].starts_with("warn") && seen[1].starts_with("end"),
            "{text}"
        );
    }

    #[test]
    fn a_wrong_filter_says_what_to_write() {
        let options = LogOptions {
            format: LogFormat::Text,
            filter: "preshard=loud".to_owned(),
        };
        let Err(error) = subscriber(&options, true, false, io::sink()) else {
            panic!("the filter was taken")
        };
        assert!(error.to_string().contains("use error, warn, info"), "{error}");
    }

    #[test]
    fn a_writer_that_nobody_reads_drops_lines_and_never_waits() {
        /// Takes nothing until it is let go.
        struct Stuck(std::sync::mpsc::Receiver<()>);
        impl io::Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                // An error is the release: the sender is gone.
                self.0
                    .recv()
                    .map_or(Ok(bytes.len()), |()| Err(io::ErrorKind::BrokenPipe.into()))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (release, stuck) = std::sync::mpsc::channel();
        let (subscriber, guard) = subscriber(&LogOptions::default(), false, false, Stuck(stuck)).unwrap();
        let dropped = guard.dropped_lines();
        tracing::subscriber::with_default(subscriber, || {
            for line in 0..LINES_QUEUED_MAX + 10 {
                tracing::info!(line);
            }
        });
        assert!(dropped() >= 8, "{}", dropped());
        drop(release);
        drop(guard);
    }
}
