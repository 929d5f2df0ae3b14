//! The command line: one file for each subcommand, words and exit statuses that scripts can rely on.
//!
//! | subcommand | 0 | 1 | 2 | 3 |
//! |---|---|---|---|---|
//! | `serve` | stopped as asked | the store or the nodes forbid it | the config or the arguments are wrong | an address or the system refuses |
//! | `check` | all is well | a node or the store is not | likewise | |
//! | `demo` | proved, stopped as asked (130: stopped earlier) | the proof failed | the arguments are wrong | |
//! | `restore` | restored | it would be wrong, or cannot be done | likewise | |
//! | `audit` | stopped as asked | | the arguments are wrong | the server is not reachable, or an address refuses |
//! | `flush` | stopped as asked, or all flushed | something is left, or Postgres refuses the statement | likewise | a side is not reachable, or an address refuses |
//! | `admin` | answered | answered with an error | the arguments are wrong | not reachable |
//!
//! Answers go to the standard output, everything else to the standard error stream.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is where preshard speaks to people"
)]

mod admin;
mod audit;
mod check;
mod demo;
#[cfg(feature = "flush")]
mod flush;
mod json;
mod render;
mod restore;
mod serve;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, ConfigErrors, EXIT_STATUS};

#[derive(Debug, Parser)]
#[command(name = "preshard", version, about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve clients until a signal ends it
    Serve(ConfigFile),
    /// Start two Redis nodes and the proxy, run a guided load, prove where the keys are, keep serving
    Demo(demo::Demo),
    /// Tell every mistake of a config, and with --connect whether the nodes fit
    Check(check::Check),
    /// Pass clients through to one plain Redis, and report which of their requests would not run behind preshard
    Audit(audit::AuditArgs),
    /// Add up in Postgres what COUNTER.INCR gathered, each increment exactly once
    #[cfg(feature = "flush")]
    Flush(flush::Flush),
    /// Put a saved topology back into the store, where no proxy starts because the store is lost, old or damaged
    Restore(restore::Restore),
    /// Send PRESHARD WORDS to the admin listener of a running proxy and print the answer
    Admin(admin::Admin),
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The config file
    #[arg(long = "config", value_name = "FILE", env = "PRESHARD_CONFIG")]
    path: PathBuf,
}

/// Runs the command line of this process.
#[must_use]
pub fn run() -> ExitCode {
    let status = match Cli::parse().command {
        Command::Serve(config) => serve::serve(&config.path),
        Command::Demo(demo) => demo::demo(&demo),
        Command::Check(check) => check::check(&check),
        Command::Audit(audit) => audit::audit(&audit),
        #[cfg(feature = "flush")]
        Command::Flush(flush) => flush::flush(&flush),
        Command::Restore(restore) => restore::restore(&restore),
        Command::Admin(admin) => admin::admin(&admin),
    };
    ExitCode::from(status)
}

/// Reads the config, or tells all that is wrong with it and gives the exit status.
fn load(path: &Path) -> Result<Config, u8> {
    Config::load(path).map_err(|errors| tell_mistakes(&errors, path))
}

/// Tells all that is wrong with a file: the exit status.
fn tell_mistakes(errors: &ConfigErrors, path: &Path) -> u8 {
    eprintln!("{errors}");
    let count = errors.0.len();
    eprintln!(
        "{count} {} in {}",
        if count == 1 { "mistake" } else { "mistakes" },
        path.display()
    );
    EXIT_STATUS
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn words_of_admin_are_taken_as_they_are() {
        let cli = Cli::try_parse_from([
            "preshard", "admin", "--json", "EXPLAIN", "ZADD", "k", "-1", "--json",
        ])
        .unwrap();
        let Command::Admin(admin) = cli.command else {
            panic!("{cli:?}")
        };
        assert!(admin.json);
        assert_eq!(admin.words, ["EXPLAIN", "ZADD", "k", "-1", "--json"]);
        assert!(Cli::try_parse_from(["preshard", "admin", "--nonsense"]).is_err());
        assert!(Cli::try_parse_from(["preshard", "check", "--config", "f", "--connect"]).is_ok());
    }
}
