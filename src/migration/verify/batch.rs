//! Keys that are compared together.

use crate::ids::DbIndex;

/// Keys of one batch, at most.
pub(super) const BATCH_KEYS: usize = 128;
/// What they take together, about.
pub(super) const BATCH_BYTES: u64 = 1024 * 1024;

/// The name of a key.
pub(super) type Key = Vec<u8>;

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

/// Puts keys together as they may be read at once. Each comes with what it takes.
pub(super) fn batches(db: DbIndex, keys: impl IntoIterator<Item = (Key, u64)>, large: u64) -> Vec<Batch> {
    let mut all = Vec::new();
    let begin = || Batch {
        db,
        ..Batch::default()
    };
    let (mut batch, mut bytes) = (begin(), 0);
    for (key, size) in keys {
        if size > large {
            batch.large.push(key);
            continue;
        }
        if batch.small.len() >= BATCH_KEYS || !batch.small.is_empty() && bytes + size > BATCH_BYTES {
            all.push(std::mem::replace(&mut batch, begin()));
            bytes = 0;
        }
        bytes += size;
        batch.small.push(key);
    }
    if !batch.small.is_empty() || !batch.large.is_empty() {
        all.push(batch);
    }
    all
}
