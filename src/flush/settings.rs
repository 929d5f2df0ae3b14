//! All that a flusher is told, checked.

use std::path::Path;
use std::time::Duration;

use super::database::PostgresSide;
use super::reader;
use super::rows::MemberType;
use super::source::RedisSide;
use super::statement::Statement;
use crate::config::{self, ConfigErrors, LogFormat, LogLevel};
use crate::topology::Address;

/// The settings of one flusher. `config/flush.toml` explains them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where increments come from.
    pub redis: RedisSide,
    /// Where they go.
    pub postgres: PostgresSide,
    /// What this preshard installation is called in the tables of Postgres.
    pub source: String,
    /// Least time between two batches of one member.
    pub every: Duration,
    /// How long a batch is ours.
    pub lease: Duration,
    /// Members in one transaction, about.
    pub count: u32,
    /// Transactions at a time.
    pub workers: u16,
    /// Where HTTP is served; none: nowhere.
    pub metrics: Option<Address>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// The least important events that are logged.
    pub log_level: LogLevel,
    /// What is flushed, and how.
    pub counters: Vec<Counter>,
    /// What is allowed but should be logged at start.
    pub warnings: Vec<String>,
}

/// One `[[counter]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// As in `COUNTER.INCR name member`.
    pub name: String,
    /// What its members look like.
    pub member: MemberType,
    /// What adds them up.
    pub sql: Statement,
    /// What to do with members that Postgres refuses.
    pub on_bad: OnBad,
    /// What to do with a batch that may have been counted already.
    pub on_rollback: OnRollback,
}

/// What to do with members that Postgres refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBad {
    /// They go to `preshard_dead`, all others are applied.
    #[default]
    DeadLetter,
    /// Their shard's batch waits until they are taken.
    Fail,
}

/// What to do with a batch that may have been counted already, because Redis went back in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRollback {
    /// Apply it: nothing is lost, something may be counted twice.
    #[default]
    Apply,
    /// Put it into `preshard_dead`: nothing is counted twice, somebody must look.
    Park,
}

impl Settings {
    /// Reads the file and the password files that it names.
    ///
    /// # Errors
    /// Every mistake, in the order of the file.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let text = config::read_file(path)?;
        Self::parse(path, &text)
    }

    /// Like [`Settings::load`], with the text given. Relative paths start at the folder of `path`.
    ///
    /// # Errors
    /// Every mistake, in the order of the file.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigErrors> {
        reader::read(path, text)
    }
}
