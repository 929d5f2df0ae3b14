//! Keys that may have expired on the target of a reverse stream before their expiries were parked there.
//!
//! ```text
//!  frozen ── sealed ── COMMIT ── parked ───────── settled           source of the move (the reverse stream's target)
//!             a key expires here │                   │
//!                                ▼                   ▼
//!              renewed on the new owner:        dead on both sides, or done with:
//!              what is done to it next would    what has not been mentioned is deleted here
//!              begin from nothing here
//! ```
//!
//! Those that could be concerned are known: what expires within seconds of a cutover is a short list, and only what was to
//! expire up to a moment after the parking matters. Up to the offset at which this has surely happened on both sides, the stream
//! may delete such a key or write it anew. Whatever else it does to one is a renewal, and then there is no way back. That is
//! rare: it takes a renewal in the last moment of a key's life, and this within the cutover.

use std::collections::{BTreeMap, BTreeSet};

use super::error::CopyError;
use super::passes::Visited;
use crate::command::{Spec, keys, lookup};
use crate::ids::DbIndex;
use crate::rdb::Frames;
use crate::resp::Args;

type Key = (DbIndex, Vec<u8>);

/// What has to be looked at.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// Keys that are gone, or may be on the other side.
    gone: BTreeSet<Key>,
    /// Hashes of which fields may be gone.
    hashes: BTreeSet<Key>,
    /// Fields that may be gone on the other side.
    fields: BTreeMap<Key, Vec<Vec<u8>>>,
    /// Up to here.
    until: u64,
    is_over: bool,
    /// Where keys stand in the request.
    at: Vec<u32>,
}

impl Lost {
    pub(super) fn new(visited: Visited, until: u64) -> Self {
        let mut fields: BTreeMap<Key, Vec<Vec<u8>>> = BTreeMap::new();
        for (db, key, names) in visited.fields {
            fields.entry((db, key)).or_default().extend(names);
        }
        Self {
            gone: visited.gone.into_iter().collect(),
            hashes: visited.hashes.into_iter().collect(),
            fields,
            until,
            is_over: false,
            at: Vec::new(),
        }
    }

    /// Nothing needs to be looked at.
    pub(super) fn none() -> Self {
        Self {
            is_over: true,
            ..Self::default()
        }
    }

    pub(super) const fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether the stream is at an offset where nothing needs to be looked at any more: [`Self::settle`] comes before what
    /// follows.
    pub(super) const fn is_due(&self, offset: u64) -> bool {
        !self.is_over && offset >= self.until
    }

    /// Deletes what is dead on the other side.
    pub(super) fn settle(&mut self, frames: &mut Frames) {
        for (db, key) in std::mem::take(&mut self.gone) {
            frames.write(db, &[b"DEL", &key]);
        }
        for ((db, key), names) in std::mem::take(&mut self.fields) {
            let words: Vec<&[u8]> = [b"HDEL", key.as_slice()]
                .into_iter()
                .chain(names.iter().map(Vec::as_slice))
                .collect();
            frames.write(db, &words);
        }
        *self = Self::none();
    }

    /// A request of the stream for a database of the target.
    pub(super) fn look(&mut self, args: &Args<'_>, db: DbIndex) -> Result<(), CopyError> {
        let Some(spec) = lookup(args.get(0)) else {
            return Ok(());
        };
        let mut at = std::mem::take(&mut self.at);
        // What has no keys, or none that can be read, is judged elsewhere.
        let _ = keys(spec, args, &mut at);
        for &place in &at {
            let key = (db, args.get(place as usize).to_vec());
            let deletes = matches!(spec.name, "del" | "unlink");
            if self.gone.contains(&key) {
                if !deletes && !is_anew(spec, args) {
                    return Err(CopyError::Renewed);
                }
                self.gone.remove(&key);
            }
            if self.hashes.contains(&key) {
                let is_unsure = self.fields.contains_key(&key);
                match spec.name {
                    "del" | "unlink" => {
                        self.hashes.remove(&key);
                        self.fields.remove(&key);
                    }
                    "hdel" => {}
                    // Writes a field anew, which must not be one that is to be deleted.
                    "hset" if !is_unsure => {}
                    _ => return Err(CopyError::Renewed),
                }
            }
        }
        self.at = at;
        Ok(())
    }
}

/// Whether the key is what this makes of it, whatever it was.
fn is_anew(spec: &Spec, args: &Args<'_>) -> bool {
    match spec.name {
        "setex" | "psetex" => true,
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

    fn look(lost: &mut Lost, line: &str) -> Result<(), CopyError> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let (mut frame, mut ranges) = (Vec::new(), Vec::new());
        write_request(&mut frame, &words);
        let found = RequestScanner::default().scan(&frame, &mut ranges, &RequestLimits::BEFORE_AUTH);
        assert!(matches!(found, Scan::Frame { .. }));
        lost.look(&Args::new(&frame, &ranges), DbIndex(3))
    }

    fn lost() -> Lost {
        let of = |db: u16, key: &str| (DbIndex(db), key.as_bytes().to_vec());
        let visited = Visited {
            gone: vec![of(3, "k"), of(4, "other")],
            hashes: vec![of(3, "h"), of(3, "i")],
            fields: vec![(DbIndex(3), b"i".to_vec(), vec![b"f".to_vec()])],
            real: Vec::new(),
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
            assert_eq!(look(&mut lost, line), Ok(()), "{line}");
            assert_eq!(look(&mut lost, "INCR k"), Ok(()), "after {line}");
        }
        assert_eq!(look(&mut lost(), "INCR other"), Ok(()), "in another database");
    }

    #[test]
    fn anything_else_ends_it() {
        for line in [
            "INCR k",
            "PEXPIREAT k 99",
            "COPY k l",
            "SET k v KEEPTTL",
            "SET k v XX",
            "HINCRBY h f 1",
            "HSET i f v",
        ] {
            assert_eq!(look(&mut lost(), line), Err(CopyError::Renewed), "{line}");
        }
        for line in ["HSET h f v", "HDEL i f", "DEL i"] {
            assert_eq!(look(&mut lost(), line), Ok(()), "{line}");
        }
    }

    #[test]
    fn what_nobody_has_mentioned_is_deleted_in_the_end() {
        let (mut lost, mut frames) = (lost(), Frames::default());
        assert_eq!(look(&mut lost, "SET k v"), Ok(()));
        assert!(!lost.is_due(99) && lost.is_due(100));
        lost.settle(&mut frames);
        let text = String::from_utf8(frames.take()).unwrap();
        let words: Vec<&str> = text
            .split("\r\n")
            .filter(|line| !line.starts_with(['*', '$']) && !line.is_empty())
            .collect();
        assert_eq!(words.join(" "), "SELECT 4 DEL other SELECT 3 HDEL i f");
        assert!(lost.is_over() && !lost.is_due(200));
    }
}
