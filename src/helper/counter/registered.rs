//! Which counters a worker has entered in the registries of shards, so that not every increment does so again.
//!
//! A table of fixed size: what falls into a taken place drives out what was there, which is then entered once more. It
//! is emptied every minute, so that a registry that was lost, with its node or by `FLUSHDB`, comes back.

use std::hash::{BuildHasher as _, RandomState};

use crate::ids::ShardId;

const PLACES: usize = 16 * 1024;
const KEPT_MS: u64 = 60_000;

/// What was registered lately.
#[derive(Debug, Default)]
pub struct Registered {
    /// Empty until the first counter, then of [`PLACES`] places; 0 is an empty one.
    places: Vec<u64>,
    emptied_ms: u64,
    /// The number of the deletions that it knows of.
    deletions: u64,
    hasher: RandomState,
}

impl Registered {
    /// The mark of a counter in a shard.
    #[must_use]
    pub fn mark(&self, counter: &[u8], shard: ShardId) -> u64 {
        self.hasher.hash_one((shard.0, counter)) | 1
    }

    /// Whether it was registered lately.
    #[must_use]
    pub fn has(&self, mark: u64, now_ms: u64) -> bool {
        let recent = now_ms.saturating_sub(self.emptied_ms) < KEPT_MS;
        recent && self.places.get(place(mark)) == Some(&mark)
    }

    /// It is being registered.
    pub fn note(&mut self, mark: u64, now_ms: u64) {
        if self.places.is_empty() || now_ms.saturating_sub(self.emptied_ms) >= KEPT_MS {
            self.places.clear();
            self.places.resize(PLACES, 0);
            self.emptied_ms = now_ms;
        }
        if let Some(place) = self.places.get_mut(place(mark)) {
            *place = mark;
        }
    }

    /// Forgets all if counters were deleted since: `deletions` counts these.
    pub fn forget_if(&mut self, deletions: u64) {
        if self.deletions != deletions {
            self.deletions = deletions;
            self.places.clear();
        }
    }
}

fn place(mark: u64) -> usize {
    usize::try_from(mark >> 48).unwrap_or_default() % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_registered_once_a_minute_for_each_shard() {
        let mut registered = Registered::default();
        let mark = registered.mark(b"events", ShardId(7));
        assert_ne!(mark, registered.mark(b"events", ShardId(8)));
        assert!(!registered.has(mark, 5));
        registered.note(mark, 5);
        assert!(registered.has(mark, 6));
        assert!(!registered.has(mark, 5 + KEPT_MS));
        registered.note(mark, 5 + KEPT_MS);
        assert!(registered.has(mark, 6 + KEPT_MS));
        registered.forget_if(0);
        assert!(registered.has(mark, 6 + KEPT_MS));
        registered.forget_if(1);
        assert!(!registered.has(mark, 6 + KEPT_MS));
    }

    #[test]
    fn its_memory_is_bounded() {
        let mut registered = Registered::default();
        for number in 0..100_000_u32 {
            let mark = registered.mark(&number.to_le_bytes(), ShardId(1));
            registered.note(mark, 1);
        }
        assert_eq!(registered.places.len(), PLACES);
    }
}
