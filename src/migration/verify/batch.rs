//! Keys that are compared together.

use super::super::reading::{Key, LARGE_BYTES, TOGETHER_BYTES};
use crate::ids::DbIndex;

/// Keys of one batch, at most.
pub(super) const BATCH_KEYS: usize = 128;

/// Keys of one database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    /// The database on the source.
    pub(super) db: DbIndex,
    /// Those that are dumped.
    pub(super) small: Vec<Key>,
    /// Those of which a part is compared.
    pub(super) large: Vec<Key>,
}

/// Puts keys of one database together as they may be read at once.
#[derive(Debug)]
pub(super) struct Batcher {
    batch: Batch,
    bytes: u64,
}

impl Batcher {
    pub(super) fn of(db: DbIndex) -> Self {
        let batch = Batch {
            db,
            ..Batch::default()
        };
        Self { batch, bytes: 0 }
    }

    /// One key more, and what it takes. What is full comes back.
    pub(super) fn push(&mut self, key: Key, size: u64) -> Option<Batch> {
        if size > LARGE_BYTES {
            self.batch.large.push(key);
            // Each of them is looked at for long enough.
            return (self.batch.large.len() >= BATCH_KEYS).then(|| self.begin());
        }
        let is_heavy = !self.batch.small.is_empty() && self.bytes + size > TOGETHER_BYTES;
        let full = (is_heavy || self.batch.small.len() >= BATCH_KEYS).then(|| self.begin());
        self.bytes += size;
        self.batch.small.push(key);
        full
    }

    /// What is left.
    pub(super) fn rest(mut self) -> Option<Batch> {
        let rest = self.begin();
        (!rest.small.is_empty() || !rest.large.is_empty()).then_some(rest)
    }

    fn begin(&mut self) -> Batch {
        self.bytes = 0;
        let next = Batch {
            db: self.batch.db,
            ..Batch::default()
        };
        std::mem::replace(&mut self.batch, next)
    }
}
