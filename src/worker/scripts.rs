//! The bodies of scripts that went through this proxy, by their SHA-1: so that `EVALSHA` finds them on any node.
//!
//! ```text
//!  EVAL body ──┐                         EVALSHA sha ─▶ has the node been told over this connection?
//!  SCRIPT LOAD ┴─▶ ScriptCache (all workers) ──body──▶   no: SCRIPT LOAD goes before it
//! ```
//!
//! Clients load a script once and then name it by its sum, wherever its keys lead. A node that was restarted, or one
//! that never saw the script, would answer `NOSCRIPT`. The cache is bounded; what was used longest ago goes first, and
//! its clients then see `NOSCRIPT`, which they know how to mend. That a script was sent with `EVAL` tells no node of it: from Redis 7.4
//! on, nodes forget such scripts by themselves.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use sha1::{Digest as _, Sha1};

use crate::resp::{self, RequestLimits, RequestScanner, Scan};

/// Bytes of all bodies together.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Scripts that one link remembers to have told its node.
const TOLD_MAX: usize = 10_000;

/// A script's SHA-1 sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Sha([u8; 20]);

impl Sha {
    pub(super) fn of(body: &[u8]) -> Self {
        Self(Sha1::digest(body).into())
    }

    /// Forty hexadecimal digits in either case.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut sha = [0; 20];
        if text.len() != 40 {
            return None;
        }
        for (byte, digits) in sha.iter_mut().zip(text.chunks(2)) {
            let digits = std::str::from_utf8(digits).ok()?;
            // Digits only: this would take a sign as well.
            if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            *byte = u8::from_str_radix(digits, 16).ok()?;
        }
        Some(Self(sha))
    }
}

/// The bodies, shared by all workers. Its lock is taken for scripts only.
#[derive(Debug)]
pub struct ScriptCache {
    bodies: Mutex<Bodies>,
    flushes: AtomicU64,
}

#[derive(Debug)]
struct Bodies {
    by_sha: LruCache<Sha, Arc<[u8]>>,
    bytes: usize,
}

impl Default for ScriptCache {
    fn default() -> Self {
        Self {
            bodies: Mutex::new(Bodies {
                by_sha: LruCache::unbounded(),
                bytes: 0,
            }),
            flushes: AtomicU64::new(0),
        }
    }
}

impl ScriptCache {
    fn bodies(&self) -> MutexGuard<'_, Bodies> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a body. Returns how many others had to go.
    pub(super) fn keep(&self, sha: Sha, body: &[u8]) -> u64 {
        let mut bodies = self.bodies();
        if bodies.by_sha.get(&sha).is_some() || body.len() > BYTES_MAX {
            return 0;
        }
        let mut gone = 0;
        while bodies.bytes + body.len() > BYTES_MAX {
            let Some((_, oldest)) = bodies.by_sha.pop_lru() else {
                break;
            };
            bodies.bytes -= oldest.len();
            gone += 1;
        }
        bodies.bytes += body.len();
        bodies.by_sha.put(sha, body.into());
        gone
    }

    /// The body of this sum, if it is known.
    pub(super) fn body(&self, sha: Sha) -> Option<Arc<[u8]>> {
        self.bodies().by_sha.get(&sha).cloned()
    }

    /// `SCRIPT FLUSH`: nothing is known any more, and no node has been told anything.
    pub(super) fn flush(&self) {
        let mut bodies = self.bodies();
        bodies.by_sha.clear();
        bodies.bytes = 0;
        self.flushes.fetch_add(1, Relaxed);
    }

    /// Scripts known, and the bytes of their bodies.
    pub(super) fn size(&self) -> (u64, u64) {
        let bodies = self.bodies();
        (bodies.by_sha.len() as u64, bodies.bytes as u64)
    }
}

/// Finds the sums that a request calls scripts by: that of its first command, or those of all commands of a transaction.
pub(super) fn each_sum(request: &[u8], is_transaction: bool, mut call: impl FnMut(Sha)) {
    if !is_transaction {
        return sum_called(request).into_iter().for_each(call);
    }
    // It was read under the limits of the settings, which allow no more than these.
    let limits = RequestLimits {
        bulk_max: resp::BULK_HARD_MAX,
        ..RequestLimits::default()
    };
    let (mut rest, mut args) = (request, Vec::new());
    while let Scan::Frame { end } = RequestScanner::default().scan(rest, &mut args, &limits) {
        sum_called(&rest[..end]).into_iter().for_each(&mut call);
        rest = &rest[end..];
    }
}

/// The sum that a command calls a script by. Only canonical frames come here: each length is written in one way.
fn sum_called(frame: &[u8]) -> Option<Sha> {
    const NAMES: [&[u8]; 2] = [b"$7\r\nEVALSHA\r\n$40\r\n", b"$10\r\nEVALSHA_RO\r\n$40\r\n"];
    let header = memchr::memchr(b'\n', frame)? + 1;
    let rest = &frame[header..];
    let named = |name: &&&[u8]| {
        rest.get(..name.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(name))
    };
    let name = NAMES.iter().find(named)?;
    Sha::parse(rest.get(name.len()..name.len() + 40)?)
}

/// What the node behind one connection has been told, over that connection.
#[derive(Debug, Default)]
pub(super) struct Told {
    shas: HashSet<Sha>,
    /// The number of flushes that it knows of.
    flushes: u64,
}

impl Told {
    /// The connection is gone, and the node may have been restarted; or the node has said that it does not know a script.
    pub(super) fn forget(&mut self) {
        self.shas = HashSet::new();
    }

    /// Notes that the node is told of a script now. Whether it was noted already.
    pub(super) fn note(&mut self, cache: &ScriptCache, sha: Sha) -> bool {
        let flushes = cache.flushes.load(Relaxed);
        if self.flushes != flushes || self.shas.len() >= TOLD_MAX {
            self.shas.clear();
            self.flushes = flushes;
        }
        !self.shas.insert(sha)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_forty_hexadecimal_digits() {
        let sha = Sha::of(b"return 1");
        let text = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
        assert_eq!(Sha::parse(text.as_bytes()), Some(sha));
        assert_eq!(Sha::parse(text.to_uppercase().as_bytes()), Some(sha));
        for wrong in [
            "",
            "e0",
            &text[1..],
            &text.replace('e', "+"),
            &text.replace('e', "g"),
        ] {
            assert_eq!(Sha::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn the_cache_never_holds_more_than_its_limit_and_drops_what_was_used_longest_ago() {
        let cache = ScriptCache::default();
        let body = |number: u8| vec![number; BYTES_MAX / 4];
        let shas: Vec<Sha> = (0..5).map(|number| Sha::of(&body(number))).collect();
        for number in 0..4 {
            assert_eq!(cache.keep(shas[usize::from(number)], &body(number)), 0);
        }
        assert!(cache.body(shas[0]).is_some());
        assert_eq!(cache.keep(shas[4], &body(4)), 1);
        assert!(cache.body(shas[0]).is_some() && cache.body(shas[1]).is_none());
        assert_eq!(cache.size(), (4, BYTES_MAX as u64));
        assert_eq!(cache.keep(Sha::of(b"large"), &vec![0; BYTES_MAX + 1]), 0);
        cache.flush();
        assert_eq!(cache.size(), (0, 0));
    }

    #[test]
    fn after_a_flush_every_node_has_to_be_told_anew() {
        let (cache, mut told) = (ScriptCache::default(), Told::default());
        let sha = Sha::of(b"return 1");
        assert!(!told.note(&cache, sha));
        assert!(told.note(&cache, sha));
        cache.flush();
        assert!(!told.note(&cache, sha));
        told.forget();
        assert!(!told.note(&cache, sha));
    }

    #[test]
    fn the_sums_of_a_request_are_found_wherever_they_are_called() {
        let sums = |request: &[u8], is_transaction| {
            let mut sums = Vec::new();
            each_sum(request, is_transaction, |sha| sums.push(sha));
            sums
        };
        let (one, other) = (Sha::of(b"return 1"), Sha::of(b"return 2"));
        let (a, b) = (
            "e0e1f9fabfc9d4800c877a703b823ac0578ff8db",
            "7f923f79fe76194c868d7e1d0820de36700eb649",
        );
        let request = |words: &[&str]| {
            let mut frame = Vec::new();
            let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
            resp::write_request(&mut frame, &words);
            frame
        };
        assert_eq!(sums(&request(&["evalsha", a, "1", "k"]), false), [one]);
        assert_eq!(
            sums(&request(&["EVALSHA_RO", &b.to_uppercase(), "0"]), false),
            [other]
        );
        for none in [
            &["EVAL", a, "0"][..],
            &["EVALSHA", &a[1..], "0"],
            &["EVALSHA"],
            &["ECHO", a],
        ] {
            assert_eq!(sums(&request(none), false), [], "{none:?}");
        }
        assert_eq!(sums(b"", false), []);
        assert_eq!(sums(b"", true), []);
        let commands = [
            request(&["MULTI"]),
            request(&["SET", "k", a]),
            request(&["EVALSHA", a, "1", "k"]),
            request(&["EVAL", "return 1", "0"]),
            request(&["EVALSHA_RO", b, "1", "k"]),
            request(&["EXEC"]),
        ];
        assert_eq!(sums(&commands.concat(), true), [one, other]);
        assert_eq!(sums(&commands.concat(), false), []);
    }
}
