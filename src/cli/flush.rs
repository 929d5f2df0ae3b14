//! `preshard flush`: adds up in Postgres what `COUNTER.INCR` gathered.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;

use super::serve::log_options;
use super::tell_mistakes;
use crate::config::Log;
use crate::flush::{self, INIT_SQL, Mode, Settings};
use crate::logging;

/// The system refuses something.
const SYSTEM: u8 = 3;

#[derive(Debug, Args)]
pub(super) struct Flush {
    /// The flusher's file (config/flush.toml explains it)
    #[arg(
        long = "config",
        value_name = "FILE",
        env = "PRESHARD_FLUSH_CONFIG",
        required_unless_present = "init_sql"
    )]
    path: Option<PathBuf>,
    /// Flush everything that is due, and end
    #[arg(long, conflicts_with = "dry_run")]
    once: bool,
    /// Say what would be done; take nothing and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the two tables that it needs in Postgres, and end
    #[arg(long, conflicts_with_all = ["once", "dry_run"])]
    init_sql: bool,
}

pub(super) fn flush(args: &Flush) -> u8 {
    if args.init_sql {
        INIT_SQL.lines().for_each(announce);
        return 0;
    }
    let path = args.path.clone().unwrap_or_default();
    let settings = match Settings::load(&path) {
        Ok(settings) => settings,
        Err(errors) => return tell_mistakes(&errors, &path),
    };
    let log = Log {
        format: settings.log_format,
        level: settings.log_level,
    };
    let guard = match logging::init(&log_options(&log)) {
        Ok(guard) => guard,
        Err(error) => {
            eprintln!("{error}");
            return SYSTEM;
        }
    };
    let mode = match (args.once, args.dry_run) {
        (true, _) => Mode::Once,
        (false, true) => Mode::DryRun,
        (false, false) => Mode::Forever,
    };
    let ended = flush::run(settings, mode, announce);
    // What is still queued of the log is written before the last word.
    drop(guard);
    match ended {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            error.exit_status()
        }
    }
}

/// A line for whoever started it. That nobody reads it is no reason to stop.
fn announce(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
