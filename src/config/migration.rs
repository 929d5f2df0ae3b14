//! `[migration]`: how much moves of shards may take.

use super::validate::Reader;
use std::path::PathBuf;
use std::time::Duration;

/// `[migration]`: moves of shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Bytes to the target in a second, for one move; none: as fast as it can.
    pub rate: Option<u64>,
    /// The longest that a cutover may hold its shards.
    pub max_pause: Duration,
    /// How long a source keeps what has moved; none: until it is told.
    pub retention: Option<Duration>,
    /// Whether shards are moved from nodes that cannot fence them.
    pub cooperative: bool,
    /// The time of the target's PING above which less is written at a time.
    pub target_latency: Duration,
    /// Bytes of stream that wait in memory.
    pub spool_memory: usize,
    /// Bytes of stream that wait in files.
    pub spool_max: usize,
    /// The folder of these files; none: the system's.
    pub spool_dir: Option<PathBuf>,
}

impl Default for Migration {
    /// As a config that says nothing of it.
    fn default() -> Self {
        super::validate::build(&mut super::raw::Raw::default(), "".as_ref()).migration
    }
}

impl Reader<'_> {
    pub(super) fn migration(&mut self) -> Migration {
        Migration {
            rate: self.bytes_or_zero("migration.rate"),
            max_pause: self.time("migration.max_pause"),
            retention: self.time_or_zero("migration.retention"),
            cooperative: self.switch("migration.cooperative"),
            target_latency: self.time("migration.target_latency"),
            spool_memory: self.bytes("migration.spool_memory"),
            spool_max: self.bytes("migration.spool_max"),
            spool_dir: self.folder("migration.spool_dir"),
        }
    }

    /// A folder that is there, or none.
    fn folder(&mut self, path: &str) -> Option<PathBuf> {
        let (folder, origin) = self.file(path)?;
        if folder.is_dir() {
            return Some(folder);
        }
        let what = format!("{path} {} is no folder", folder.display());
        self.raw
            .tell(origin, what, "make it, and let preshard's user write there");
        None
    }
}
