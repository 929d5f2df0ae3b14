//! `preshard serve`: the proxy itself.

use std::io::{self, Write as _};
use std::path::Path;

use super::load;
use crate::config::{Log, LogFormat};
use crate::logging::{self, LogOptions};
use crate::proxy::{self, Logs};

/// The system refuses something.
const SYSTEM: u8 = 3;

pub(super) fn serve(path: &Path) -> u8 {
    let config = match load(path) {
        Ok(config) => config,
        Err(status) => return status,
    };
    let guard = match logging::init(&log_options(&config.log)) {
        Ok(guard) => guard,
        Err(error) => {
            eprintln!("{error}");
            return SYSTEM;
        }
    };
    for warning in &config.warnings {
        tracing::warn!(event = "config_warning", "{warning}");
    }
    let set_filter = guard.set_filter();
    let logs = Logs {
        dropped_lines: Box::new(guard.dropped_lines()),
        set_level: Box::new(move |level| set_filter(level.as_str())),
    };
    let served = proxy::serve(config, logs, announce);
    // What is still queued of the log is written before the last word.
    drop(guard);
    match served {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            error.exit_status()
        }
    }
}

/// A line for whoever started the proxy. That nobody reads it is no reason to stop.
fn announce(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

pub(super) fn log_options(log: &Log) -> LogOptions {
    let format = match log.format {
        LogFormat::Auto => logging::LogFormat::Auto,
        LogFormat::Text => logging::LogFormat::Text,
        LogFormat::Json => logging::LogFormat::Json,
    };
    LogOptions {
        format,
        filter: log.level.as_str().to_owned(),
    }
}
