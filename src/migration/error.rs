//! Why a copy ends, or begins again. Each says which side it was, and never a key or a value.

use std::time::Duration;

use crate::control::AskError;
use crate::ids::DbIndex;
use crate::rdb;

/// Why a copy, or something that was asked of it, did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// A connection to the source failed.
    #[error("the source: {0}")]
    Source(String),
    /// The source takes connections and answers nothing.
    #[error("the source has not answered for {0:?}")]
    SourceSilent(Duration),
    /// The source is another process, has another history, or is no primary any more.
    #[error("the source is not the one that was copied: {0}")]
    SourceChanged(&'static str),
    /// A connection to the target failed.
    #[error("the target: {0}")]
    Target(String),
    /// The target takes connections and answers nothing.
    #[error("the target has not answered for {0:?}")]
    TargetSilent(Duration),
    /// The target refused something that the source has done.
    #[error("the target refused a write: {0}")]
    TargetRefused(String),
    /// Somebody's keys are where the copy is to go.
    #[error("database {0} of the target is not empty")]
    TargetNotEmpty(DbIndex),
    /// The snapshot cannot be read.
    #[error("the snapshot: {0}")]
    Snapshot(#[from] rdb::RdbError),
    /// The stream cannot be read.
    #[error("the stream: {0}")]
    Stream(#[from] rdb::StreamError),
    /// The stream has something that cannot be applied.
    #[error("the stream: {0}")]
    Inapplicable(#[from] rdb::Restart),
    /// More stream came than can be kept while it cannot be applied.
    #[error("the stream has outgrown its spool of {0} bytes")]
    SpoolFull(u64),
    /// The file of the spool failed.
    #[error("the spool: {0}")]
    Spool(String),
    /// Keys that expire soon, too many to be put right within a cutover.
    #[error("more than {0} bytes of keys expire soon")]
    TooManyDebts(usize),
    /// Expiries were real on the target for longer than is safe.
    #[error("the moment has passed up to which no key may expire on the target")]
    HorizonPassed,
    /// A key expired on the target before its expiry was parked, and lives on at the source.
    #[error("a key that was renewed just after the cutover had expired on the other side")]
    Renewed,
    /// The source was frozen for so long that what it wrote meanwhile was not kept.
    #[error("too much has come of the stream while the source was frozen")]
    TooMuchHeld,
    /// A copy without a fork has met a value that cannot be dumped.
    #[error(
        "a value of about {bytes} bytes is too large to be read without a snapshot: it would stop the source; move with COPY SNAPSHOT"
    )]
    TooLarge {
        /// What it takes.
        bytes: u64,
    },
    /// A copy without a fork remembers the keys of a database, and there are too many of them.
    #[error(
        "a database has more than {0} keys, too many to be read without a snapshot; move with COPY SNAPSHOT"
    )]
    TooManyKeys(usize),
    /// A copy without a fork is slower than what is written to keys that must be read again.
    #[error(
        "more than {0} bytes of names of keys must be read again: the shards are written faster than they are read"
    )]
    TooManyStale(usize),
    /// The source keeps no history yet, and would fork to begin with it.
    #[error(
        "the source keeps no history of its writes yet, and would fork to begin with it: CONFIG SET repl-diskless-sync yes and \
         repl-diskless-sync-delay 5 there, or give it a replica"
    )]
    NeedsFork,
    /// What was asked needs a copy that follows the stream.
    #[error("the copy does not follow the stream yet, or has begun again")]
    NotStreaming,
    /// It was begun too often.
    #[error("given up after {restarts} restarts: {reason}")]
    Failed {
        /// How often it was begun again.
        restarts: u32,
        /// What ended the last attempt.
        reason: Box<Self>,
    },
    /// It was stopped.
    #[error("the copy was stopped")]
    Stopped,
}

impl CopyError {
    /// Whether another attempt would end in the same way.
    pub(super) const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::TargetNotEmpty(_)
                | Self::Failed { .. }
                | Self::Stopped
                | Self::TooLarge { .. }
                | Self::TooManyKeys(_)
                | Self::NeedsFork
        )
    }

    pub(super) fn of_source(error: AskError) -> Self {
        match error {
            AskError::Timeout(time) => Self::SourceSilent(time),
            other => Self::Source(other.to_string()),
        }
    }

    pub(super) fn of_target(error: AskError) -> Self {
        match error {
            AskError::Timeout(time) => Self::TargetSilent(time),
            other => Self::Target(other.to_string()),
        }
    }
}
