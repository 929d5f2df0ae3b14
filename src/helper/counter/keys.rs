//! The names of the keys that counters keep in every shard's database. They hold no number of a shard or a node, so that
//! a shard takes them along wherever it goes.

use crate::command::RESERVED_PREFIX;
use crate::resp;

/// The set of the names of all counters that a shard has.
pub const REGISTRY: &[u8] = b"__preshard__:cn";

/// One of a counter's keys in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// P: a hash of new counts by member.
    Pending,
    /// D: what is being drained and not leased yet.
    Drained,
    /// L: the batch that is out; it is there as long as the batch is, and does not change.
    Leased,
    /// M: a hash of `seq`, the last batch's number, `prev`, the one before, `dl`, its deadline, `att`, its deliveries, `tk`, when
    /// draining began, and `cur`, how far it has come.
    Meta,
}

/// All kinds.
pub const KINDS: [Kind; 4] = [Kind::Pending, Kind::Drained, Kind::Leased, Kind::Meta];

impl Kind {
    const fn middle(self) -> &'static [u8; 3] {
        match self {
            Self::Pending => b"cp:",
            Self::Drained => b"cd:",
            Self::Leased => b"cl:",
            Self::Meta => b"cm:",
        }
    }

    /// Appends the key as an argument of a request.
    pub fn write(self, counter: &[u8], out: &mut Vec<u8>) {
        const ROOM: usize = RESERVED_PREFIX.len() + 3 + super::parse::COUNTER_MAX;
        let mut room = [0; ROOM];
        let length = RESERVED_PREFIX.len() + 3 + counter.len();
        let (prefix, rest) = room.split_at_mut(RESERVED_PREFIX.len());
        prefix.copy_from_slice(RESERVED_PREFIX);
        let (middle, rest) = rest.split_at_mut(3);
        middle.copy_from_slice(self.middle());
        if let Some(name) = rest.get_mut(..counter.len()) {
            name.copy_from_slice(counter);
        }
        resp::write_bulk(out, room.get(..length).unwrap_or_default());
    }
}
