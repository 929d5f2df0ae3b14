//! Sets of words that servers use of commands, as bits: flags, ACL categories, flags of keys.
//!
//! The words are Redis's own, so that `COMMAND INFO` can be answered from the bits.

macro_rules! words {
    ($(#[$doc:meta])* $set:ident($bits:ty) { $($(#[$word_doc:meta])* $name:ident = $bit:literal, $word:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $set(pub $bits);

        impl $set {
            $($(#[$word_doc])* pub const $name: Self = Self(1 << $bit);)*

            const WORDS: &'static [(Self, &'static str)] = &[$((Self::$name, $word)),*];

            /// The empty set.
            pub const NONE: Self = Self(0);

            /// Whether all of `other` is in this set.
            #[must_use]
            pub const fn has(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Both sets together.
            #[must_use]
            pub const fn with(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// The words of this set, in the order that Redis prints them.
            pub fn words(self) -> impl Iterator<Item = &'static str> {
                Self::WORDS.iter().filter(move |(bit, _)| self.has(*bit)).map(|&(_, word)| word)
            }

            /// The set with this one word, case-insensitively.
            #[must_use]
            pub fn word(word: &[u8]) -> Option<Self> {
                Self::WORDS.iter().find(|(_, known)| known.as_bytes().eq_ignore_ascii_case(word)).map(|&(bit, _)| bit)
            }

            /// The set of words parted by spaces; a word that is not known gives `Err` with it.
            ///
            /// # Errors
            /// The first unknown word.
            pub fn parse(words: &str) -> Result<Self, &str> {
                let mut set = Self::NONE;
                for word in words.split(' ').filter(|word| !word.is_empty()) {
                    set = set.with(Self::word(word.as_bytes()).ok_or(word)?);
                }
                Ok(set)
            }
        }
    };
}

words! {
    /// What a command does and where it may run, as in the third field of `COMMAND INFO`.
    Flags(u32) {
        /// May change the dataset.
        WRITE = 0, "write";
        /// Only reads keys.
        READONLY = 1, "readonly";
        /// Refused by a node that is out of memory.
        DENYOOM = 2, "denyoom";
        /// Comes from a module, built in or loaded.
        MODULE = 3, "module";
        /// For administrators.
        ADMIN = 4, "admin";
        /// Publishes or subscribes.
        PUBSUB = 5, "pubsub";
        /// Not callable from scripts.
        NOSCRIPT = 6, "noscript";
        /// May block its connection.
        BLOCKING = 7, "blocking";
        /// Runs while the dataset loads.
        LOADING = 8, "loading";
        /// Runs on a replica with stale data.
        STALE = 9, "stale";
        /// Not shown by `MONITOR`.
        SKIP_MONITOR = 10, "skip_monitor";
        /// Not kept in the slow log, in Redis's word.
        SKIP_SLOWLOG = 11, "skip_slowlog";
        /// Not kept in the slow log, in Valkey's word.
        SKIP_COMMANDLOG = 12, "skip_commandlog";
        /// Implies `ASKING` in a cluster.
        ASKING = 13, "asking";
        /// Constant or logarithmic time.
        FAST = 14, "fast";
        /// Runs before authentication.
        NO_AUTH = 15, "no_auth";
        /// May be called by replicas.
        MAY_REPLICATE = 16, "may_replicate";
        /// Not allowed in a transaction.
        NO_MULTI = 17, "no_multi";
        /// Positions of keys depend on other arguments.
        MOVABLEKEYS = 18, "movablekeys";
        /// Runs while a script blocks the server.
        ALLOW_BUSY = 19, "allow_busy";
        /// Not during asynchronous loading.
        NO_ASYNC_LOADING = 20, "no_async_loading";
        /// Has keys in some forms only.
        NO_MANDATORY_KEYS = 21, "no_mandatory_keys";
    }
}

words! {
    /// ACL categories of a command, without the `@`.
    Categories(u32) {
        /// Writing or reading keys without regard to their type.
        KEYSPACE = 0, "keyspace";
        /// Reads.
        READ = 1, "read";
        /// Writes.
        WRITE = 2, "write";
        /// Sets.
        SET = 3, "set";
        /// Sorted sets.
        SORTEDSET = 4, "sortedset";
        /// Lists.
        LIST = 5, "list";
        /// Hashes.
        HASH = 6, "hash";
        /// Strings.
        STRING = 7, "string";
        /// Bits of strings.
        BITMAP = 8, "bitmap";
        /// HyperLogLogs.
        HYPERLOGLOG = 9, "hyperloglog";
        /// Geographical indexes.
        GEO = 10, "geo";
        /// Streams.
        STREAM = 11, "stream";
        /// Publish and subscribe.
        PUBSUB = 12, "pubsub";
        /// Administration.
        ADMIN = 13, "admin";
        /// Constant or logarithmic time.
        FAST = 14, "fast";
        /// Not fast.
        SLOW = 15, "slow";
        /// May block.
        BLOCKING = 16, "blocking";
        /// To be handled with care.
        DANGEROUS = 17, "dangerous";
        /// About the connection itself.
        CONNECTION = 18, "connection";
        /// Transactions.
        TRANSACTION = 19, "transaction";
        /// Scripts and functions.
        SCRIPTING = 20, "scripting";
    }
}

words! {
    /// What a command does with the keys of one key specification.
    KeyFlags(u16) {
        /// Reads and writes.
        RW = 0, "RW";
        /// Reads only.
        RO = 1, "RO";
        /// Overwrites without reading.
        OW = 2, "OW";
        /// Removes.
        RM = 3, "RM";
        /// Returns or uses the user's data.
        ACCESS = 4, "access";
        /// Changes data, depending on what is there.
        UPDATE = 5, "update";
        /// Adds data, without depending on what is there.
        INSERT = 6, "insert";
        /// Deletes content.
        DELETE = 7, "delete";
        /// Looks like a key, is none (channels of sharded pub/sub).
        NOT_KEY = 8, "not_key";
        /// There may be more keys than the specification finds.
        INCOMPLETE = 9, "incomplete";
        /// The flags depend on other arguments.
        VARIABLE_FLAGS = 10, "variable_flags";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_bits_are_one_to_one() {
        let set = Flags::WRITE.with(Flags::FAST);
        assert_eq!(set.words().collect::<Vec<_>>(), ["write", "fast"]);
        assert_eq!(Flags::parse("fast write"), Ok(set));
        assert_eq!(Flags::parse("fast strange"), Err("strange"));
        assert!(set.has(Flags::FAST) && !set.has(Flags::READONLY));
        assert_eq!(Categories::word(b"HASH"), Some(Categories::HASH));
    }
}
