//! Invalidations that wait for replies.
//!
//! ```text
//!  asked     GET a   GET b   GET c        the invalidation of b comes while these are under way
//!  answered  …       …       …   ▲ invalidate b: behind the reply that it may concern, however late that is
//! ```
//!
//! An invalidation and the reply that it makes worthless come by different connections, in any order. A client that got
//! the invalidation first would put the old value into its cache and keep it. So whatever comes while a client has
//! requests under way reaches it behind the replies of all of them.

use std::collections::VecDeque;

use bytes::Bytes;

/// The invalidation that names nothing: all that a client has cached is to be dropped.
pub(super) const EVERYTHING: &[u8] = b">2\r\n$10\r\ninvalidate\r\n_\r\n";
/// Invalidations that wait for one client.
const HELD_MAX: usize = 1024;
/// Their bytes.
const HELD_BYTES_MAX: usize = 64 * 1024;

/// What waits for one client.
#[derive(Debug, Default)]
pub(in crate::worker) struct Held {
    /// Each with the sequence number of the request behind whose reply it follows, in this order.
    waiting: VecDeque<(u32, Bytes)>,
    bytes: usize,
}

impl Held {
    /// Adds an invalidation behind the reply of request `after`. Returns whether those that wait became one for
    /// everything.
    pub(super) fn push(&mut self, after: u32, push: &Bytes) -> bool {
        if self.waiting.len() < HELD_MAX && self.bytes + push.len() <= HELD_BYTES_MAX {
            self.bytes += push.len();
            self.waiting.push_back((after, push.clone()));
            return false;
        }
        // The first place stays where it is: moved on with each that comes, it would never be reached.
        let first = self.waiting.front().map_or(after, |&(first, _)| first);
        self.waiting.clear();
        let places = if first == after {
            vec![after]
        } else {
            vec![first, after]
        };
        self.bytes = places.len() * EVERYTHING.len();
        self.waiting.extend(
            places
                .into_iter()
                .map(|place| (place, Bytes::from_static(EVERYTHING))),
        );
        true
    }

    /// The next invalidation that may go out when `head` is the oldest request that is not answered.
    pub(super) fn poll(&mut self, head: u32) -> Option<Bytes> {
        let &(after, _) = self.waiting.front()?;
        // Sequence numbers wrap; those in flight are close together.
        if !(1..u32::MAX / 2).contains(&head.wrapping_sub(after)) {
            return None;
        }
        let (_, push) = self.waiting.pop_front()?;
        self.bytes -= push.len();
        Some(push)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalidation_follows_the_reply_it_waits_for() {
        let mut held = Held::default();
        let first = u32::MAX - 1;
        held.push(first, &Bytes::from_static(b"a"));
        held.push(first.wrapping_add(3), &Bytes::from_static(b"b"));
        assert_eq!(held.poll(first), None);
        assert_eq!(held.poll(first.wrapping_add(1)).unwrap(), "a");
        assert_eq!(held.poll(first.wrapping_add(3)), None);
        assert_eq!(held.poll(first.wrapping_add(4)).unwrap(), "b");
        assert!(held.is_empty() && held.bytes == 0);
    }

    #[test]
    fn too_many_become_one_for_everything_that_does_come() {
        let mut held = Held::default();
        let mut came = 0;
        // A client that always has ten requests under way, each of which is invalidated.
        for seq in 10..100_000_u32 {
            for _ in 0..200 {
                held.push(seq, &Bytes::from_static(b"x"));
            }
            while let Some(push) = held.poll(seq - 10) {
                came += u32::from(push == EVERYTHING);
            }
            assert!(held.waiting.len() <= HELD_MAX + 1);
        }
        assert!(came > 1000, "{came}");
        while held.poll(200_000).is_some() {}
        assert!(held.is_empty() && held.bytes == 0);
    }
}
