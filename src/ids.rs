//! Small numbers with names: a shard is never passed where a database is meant.
//!
//! All of them are plain newtypes. They order and hash like the number inside and print as it.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// One preallocated part of the keyspace: `0..shards` are sharded, the pinned databases follow.
    ShardId(u16)
}
number! {
    /// Position of a node in the topology's list of nodes.
    NodeIndex(u16)
}
number! {
    /// A logical database on a node, as `SELECT` takes it.
    DbIndex(u16)
}
number! {
    /// Version of the topology. Grows by one with every change; a lower one is refused everywhere.
    Epoch(u64)
}

impl ShardId {
    /// The number as an index into a table that has one row for each shard.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl NodeIndex {
    /// The number as an index into the topology's list of nodes.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}
