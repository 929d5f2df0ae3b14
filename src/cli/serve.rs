//! `preshard serve`: the proxy itself.

use std::io::{self, Write as _};
use std::path::Path;

use super::load;
use crate::config::{Log, LogFormat, LogLevel};
use crate::logging::{self, LogOptions};
use crate::proxy;

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
    let served = proxy::serve(config, guard.dropped_lines(), announce);
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

fn log_options(log: &Log) -> LogOptions {
    let format = match log.format {
        LogFormat::Auto => logging::LogFormat::Auto,
        LogFormat::Text => logging::LogFormat::Text,
        LogFormat::Json => logging::LogFormat::Json,
    };
    let filter = match log.level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    LogOptions {
        format,
        filter: filter.to_owned(),
    }
}
