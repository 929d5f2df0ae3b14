//! Keys that have expired on the target of a reverse stream before their expiries were parked there.
//!
//! ```text
//!  frozen ────── sealed ── COMMIT ─────── parked           source of the move (the reverse stream's target)
//!             a key expires here │             │
//!                                ▼             ▼
//!              renewed on the new owner: what is done to it next would begin from nothing here
//! ```
//!
//! Those that could be concerned are known: what expires within seconds of a cutover is a short list. If the stream does
//! anything to a key that is gone but delete it or write it anew, the two sides are not the same any more, and there is no way
//! back. That is rare: it takes a renewal in the last milliseconds of a key's life, within those of the cutover.

use std::collections::BTreeSet;

use super::error::CopyError;
use super::passes::Visited;
use crate::command::{Spec, keys, lookup};
use crate::ids::DbIndex;
use crate::resp::Args;

/// What has to be looked at.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// Keys that are gone.
    gone: BTreeSet<(DbIndex, Vec<u8>)>,
    /// Hashes of which fields may be gone.
    hashes: BTreeSet<(DbIndex, Vec<u8>)>,
    /// What was done up to here may have renewed such a field.
    hashes_until: u64,
    /// Where keys stand in the request.
    at: Vec<u32>,
}

impl Lost {
    pub(super) fn new(visited: Visited, hashes_until: u64) -> Self {
        Self {
            gone: visited.gone.into_iter().collect(),
            hashes: visited.hashes.into_iter().collect(),
            hashes_until,
            at: Vec::new(),
        }
    }

    /// Whether nothing has to be looked at any more.
    pub(super) fn is_over(&self) -> bool {
        self.gone.is_empty() && self.hashes.is_empty()
    }

    /// A request of the stream, that ends at an offset, for a database of the target.
    pub(super) fn look(&mut self, args: &Args<'_>, end: u64, db: DbIndex) -> Result<(), CopyError> {
        if end > self.hashes_until {
            self.hashes.clear();
        }
        let Some(spec) = lookup(args.get(0)).filter(|_| !self.is_over()) else {
            return Ok(());
        };
        let mut at = std::mem::take(&mut self.at);
        // What has no keys, or none that can be read, is judged elsewhere.
        let _ = keys(spec, args, &mut at);
        for &place in &at {
            let key = (db, args.get(place as usize).to_vec());
            if self.gone.contains(&key) {
                if !is_anew(spec, args) {
                    return Err(CopyError::Renewed);
                }
                self.gone.remove(&key);
            }
            if self.hashes.contains(&key) && !matches!(spec.name, "hset" | "hdel" | "del" | "unlink") {
                return Err(CopyError::Renewed);
            }
        }
        self.at = at;
        Ok(())
    }
}

/// Whether keys are what this makes of them, whatever they were.
fn is_anew(spec: &Spec, args: &Args<'_>) -> bool {
    match spec.name {
        "del" | "unlink" | "setex" | "psetex" => true,
        "set" => (3..args.len()).all(|at| {
            let option = args.get(at);
            !option.eq_ignore_ascii_case(b"XX") && !option.eq_ignore_ascii_case(b"KEEPTTL")
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{RequestLimits, RequestScanner, Scan, write_request};

    fn look(lost: &mut Lost, line: &str, end: u64) -> Result<(), CopyError> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let (mut frame, mut ranges) = (Vec::new(), Vec::new());
        write_request(&mut frame, &words);
        let found = RequestScanner::default().scan(&frame, &mut ranges, &RequestLimits::BEFORE_AUTH);
        assert!(matches!(found, Scan::Frame { .. }));
        lost.look(&Args::new(&frame, &ranges), end, DbIndex(3))
    }

    fn lost() -> Lost {
        let visited = Visited {
            gone: vec![(DbIndex(3), b"k".to_vec()), (DbIndex(4), b"other".to_vec())],
            hashes: vec![(DbIndex(3), b"h".to_vec())],
        };
        Lost::new(visited, 100)
    }

    #[test]
    fn a_key_that_is_gone_may_be_deleted_or_written_anew() {
        for line in [
            "DEL a k",
            "SET k v",
            "SET k v PXAT 99",
            "UNLINK k",
            "SETEX k 10 v",
        ] {
            let mut lost = lost();
            assert_eq!(look(&mut lost, line, 1), Ok(()), "{line}");
            assert_eq!(look(&mut lost, "INCR k", 2), Ok(()), "after {line}");
        }
        assert_eq!(look(&mut lost(), "INCR other", 1), Ok(()), "in another database");
    }

    #[test]
    fn anything_else_ends_it() {
        for line in [
            "INCR k",
            "PEXPIREAT k 99",
            "COPY k l",
            "SET k v KEEPTTL",
            "SET k v XX",
        ] {
            assert_eq!(look(&mut lost(), line, 1), Err(CopyError::Renewed), "{line}");
        }
    }

    #[test]
    fn hashes_are_looked_at_for_a_moment_only() {
        let mut lost = lost();
        assert_eq!(look(&mut lost, "HSET h f v", 50), Ok(()));
        assert_eq!(look(&mut lost, "HINCRBY h f 1", 100), Err(CopyError::Renewed));
        assert_eq!(look(&mut lost, "HINCRBY h f 1", 101), Ok(()));
    }
}
