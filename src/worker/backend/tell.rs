//! A node is told of a script before the first call by its sum that goes over a connection.
//!
//! ```text
//!  about to be sent    EVALSHA a · EVALSHA b · MULTI … EVALSHA a … EXEC
//!  told here before    a
//!  sent                SCRIPT LOAD b · SELECT · EVALSHA a · EVALSHA b · MULTI … EVALSHA a … EXEC
//! ```
//!
//! It is decided when a request is written, not when it comes: a request may wait, be refused, go to another node or over another
//! connection. So what is noted is what was written to the connection that is noted for, and it is forgotten with the connection.
//! Nothing stands between a script and its call but more of their kind. Should a node lose scripts and keep its connections
//! (`SCRIPT FLUSH` by hand), its first `NOSCRIPT` has all of them told anew.

use super::block::push_fence;
use super::kept::Frame;
use super::link::Link;
use super::queue::{Entry, Owner, Shape};
use crate::resp;
use crate::worker::outbuf::Spares;
use crate::worker::scripts::{ScriptCache, each_sum};

/// What a node answers to a call of a script that it does not know.
pub(in crate::worker) const NOSCRIPT: &str = "NOSCRIPT No matching script. Please use EVAL.";

impl Link {
    /// Writes the scripts that the node has to know before it gets the requests of the shard that is next, up to so many of so
    /// many bytes. Whether there were any.
    pub(super) fn tell_scripts(
        &mut self,
        most: (usize, usize),
        cache: &ScriptCache,
        now: u32,
        spares: &mut Spares,
    ) -> bool {
        let Self {
            backlog,
            told,
            out,
            due,
            due_bytes,
            kept,
            fence,
            ..
        } = self;
        let before = due.len();
        backlog.look_front(most, |entry, frame| {
            each_sum(frame, entry.shape.is_transaction(), |sha| {
                let Some(body) = cache.body(sha) else { return };
                if told.note(cache, sha) {
                    return;
                }
                let mut load = spares.take();
                resp::write_request(&mut load, &[b"SCRIPT", b"LOAD", &body]);
                push_fence(fence, &mut load);
                if let Some(kept) = kept {
                    kept.push(Frame::Small(&load));
                }
                *due_bytes += load.len();
                due.push_back(Entry {
                    owner: Owner::Order,
                    bytes: u32::try_from(load.len()).unwrap_or(u32::MAX),
                    since: now,
                    shard: entry.shard,
                    large: false,
                    shape: Shape::Fenced,
                    frames: 2,
                });
                out.push(&load, spares);
                spares.give(load);
            });
        });
        due.len() > before
    }
}

/// Whether an answer says that a node lacks scripts that it was told of: one could not be loaded, or one that was called is not
/// there. In a transaction it stands among other answers; what only looks like it costs no more than telling again.
pub(super) fn lacks_scripts(entry: Entry, answer: &[u8]) -> bool {
    match (entry.owner, entry.shape) {
        (Owner::Order, _) => answer.first() == Some(&b'-'),
        (_, Shape::Fenced) => answer.starts_with(b"-NOSCRIPT"),
        (_, Shape::FencedTransaction) => memchr::memmem::find(answer, b"\n-NOSCRIPT").is_some(),
        (_, Shape::Plain | Shape::First | Shape::Transaction) => false,
    }
}

/// Whether a script was not run because its node does not know it. A script can answer with another error of this name, or with
/// this one, but not by mistake.
pub(super) fn has_not_run(entry: Entry, answer: &[u8]) -> bool {
    let line = answer
        .strip_prefix(b"-")
        .and_then(|line| line.strip_suffix(b"\r\n"));
    entry.shape == Shape::Fenced && line == Some(NOSCRIPT.as_bytes())
}

#[cfg(test)]
#[path = "tell_tests.rs"]
mod tests;
