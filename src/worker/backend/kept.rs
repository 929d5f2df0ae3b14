//! What was sent for shards that are about to move, until it is answered.
//!
//! ```text
//!  due    [ a | SELECT | b | C | d ]      one place for each reply that is due
//!  small  [ a b d ]   large [ C ]         their bytes, in the same order
//! ```
//!
//! A node that was told to refuse a moving unit answers `NOPERM`: the request has not run, and can go to whoever has the shard
//! then, if its bytes are still there. Only links of a unit's own user keep them, so for a few seconds around a cutover; what is due
//! on a link is limited (`link_in_flight_bytes`), and so is this.

use std::collections::VecDeque;

use bytes::Bytes;

use super::queue::{Entry, Owner};

/// The bytes of a request that goes out.
#[derive(Clone, Copy, Debug)]
pub(super) enum Frame<'a> {
    Small(&'a [u8]),
    Large(&'a Bytes),
}

/// The bytes of all requests that are due on one link, and of the one that was answered last.
#[derive(Debug, Default)]
pub(in crate::worker) struct Kept {
    small: VecDeque<u8>,
    large: VecDeque<Bytes>,
    answered: Option<Entry>,
    /// Requests that the node has refused and not run: in their order, until all of the link are answered.
    pub(super) parked: Vec<(Entry, Bytes)>,
}

impl Kept {
    pub(super) fn push(&mut self, frame: Frame<'_>) {
        match frame {
            Frame::Small(bytes) => self.small.extend(bytes),
            Frame::Large(bytes) => self.large.push_back(bytes.clone()),
        }
    }

    /// The oldest request is answered.
    pub(super) fn pop(&mut self, entry: Entry) {
        drop(self.take());
        if entry.owner != Owner::Select {
            self.answered = Some(entry);
        }
    }

    /// The bytes of the request that was answered last, once.
    fn take(&mut self) -> Option<Bytes> {
        let entry = self.answered.take()?;
        if entry.large {
            return self.large.pop_front();
        }
        let bytes = (entry.bytes as usize).min(self.small.len());
        Some(self.small.drain(..bytes).collect::<Vec<u8>>().into())
    }

    /// The request that was answered last was refused. Whether its bytes were kept.
    pub(super) fn park(&mut self, entry: Entry) -> bool {
        let frame = self.take();
        let is_kept = frame.is_some();
        self.parked.extend(frame.map(|frame| (entry, frame)));
        is_kept
    }

    /// The connection has ended: nothing that is due will be answered.
    pub(super) fn forget_due(&mut self) {
        self.small.clear();
        self.large.clear();
        self.answered = None;
    }
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
