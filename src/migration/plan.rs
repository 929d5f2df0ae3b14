//! What a copy is told: from where to where, which databases, and how much it may take.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::Migration;
use crate::ids::DbIndex;
use crate::rdb;
use crate::store::Term;
use crate::topology::Address;
use crate::worker::shared::NodeCredentials;

/// A node, and how to log in to it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// A user that may do on it what the copy does.
    pub credentials: NodeCredentials,
    /// By what connections of this copy are told from others, if not by their user.
    pub signature: Option<Signature>,
}

/// Who writes, where that has no user of its own on the node: a name for its connections, which are of use only while the node knows
/// no later leader. Whoever takes over sets his term first and closes connections of such names then; one that is made later finds
/// the term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// What its connections are called.
    pub name: String,
    /// The leader's.
    pub term: Term,
    /// Where the node has the term of the newest leader.
    pub metadata_db: DbIndex,
}

/// What is to be copied.
#[derive(Clone, Debug)]
pub struct CopyPlan {
    /// The node that has the data. It is only read, but for a key in its metadata database.
    pub source: Endpoint,
    /// The node that gets it. Nothing but the named databases is written there.
    pub target: Endpoint,
    /// Databases of the source, each with the one of the target.
    pub dbs: Vec<(DbIndex, DbIndex)>,
    /// The source's metadata database.
    pub metadata_db: DbIndex,
    /// How much it may take.
    pub limits: CopyLimits,
}

/// Bounds of a copy.
#[derive(Clone, Debug)]
pub struct CopyLimits {
    /// Bytes to the target in a second while the snapshot is written; `None`: as fast as it takes them.
    pub rate_bytes_per_s: Option<u64>,
    /// Bytes of stream that wait in memory.
    pub spool_memory: usize,
    /// Where the stream waits that does not fit into memory.
    pub spool_dir: PathBuf,
    /// Bytes of it; above them the copy begins again.
    pub spool_max: u64,
    /// Unanswered bytes at the target: at most so many.
    pub window: usize,
    /// When the target's PING takes longer, the window is halved.
    pub target_latency: Duration,
    /// No sign of life for so long, and a node counts as silent.
    pub silence: Duration,
    /// Bytes of names whose expiry is to be put right at the cutover.
    pub debts_bytes: usize,
    /// How often a copy is begun again by itself.
    pub restarts_max: u32,
    /// Pause before it is; doubled each time.
    pub backoff: Duration,
    /// Snapshot and stream over one connection, as for sources before 6.2: the source keeps the stream meanwhile.
    pub one_link: bool,
    /// How values are taken apart.
    pub values: rdb::Limits,
    /// How large a request of the stream may be.
    pub stream: rdb::StreamLimits,
}

impl CopyLimits {
    /// As the settings say.
    #[must_use]
    pub fn of(settings: &Migration) -> Self {
        let usual = Self::default();
        Self {
            rate_bytes_per_s: settings.rate,
            spool_memory: settings.spool_memory,
            spool_dir: settings.spool_dir.clone().unwrap_or(usual.spool_dir),
            spool_max: settings.spool_max as u64,
            target_latency: settings.target_latency,
            ..usual
        }
    }
}

impl Default for CopyLimits {
    fn default() -> Self {
        Self {
            rate_bytes_per_s: None,
            spool_memory: 64 * 1024 * 1024,
            spool_dir: std::env::temp_dir(),
            spool_max: 8 * 1024 * 1024 * 1024,
            window: 128 * 1024,
            target_latency: Duration::from_millis(5),
            silence: Duration::from_secs(10),
            debts_bytes: 64 * 1024 * 1024,
            restarts_max: 5,
            backoff: Duration::from_millis(500),
            one_link: false,
            values: rdb::Limits {
                frames_bytes: 64 * 1024,
                ..rdb::Limits::default()
            },
            stream: rdb::StreamLimits::default(),
        }
    }
}

/// A place in a node's history of writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offset {
    /// Which history.
    pub replid: String,
    /// Bytes of it.
    pub offset: u64,
}
