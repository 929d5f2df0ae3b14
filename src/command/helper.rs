//! Helper commands: preshard's own, made out of standard commands. What they do is in the room `helper`.

/// A helper command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helper {
    /// `COUNTER.…`: counts that are collected here and written elsewhere.
    Counter(Counter),
    /// `TIMELINE.…`: sorted sets that are kept short and read in pages.
    Timeline(Timeline),
}

/// Commands about counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// `COUNTER.INCR counter member [delta]`
    Incr,
    /// `COUNTER.MINCR counter member delta [member delta …]`
    Mincr,
    /// `COUNTER.GET counter member`
    Get,
    /// `COUNTER.MGET counter member [member …]`
    Mget,
    /// `COUNTER.TAKE counter [COUNT n] [LEASE ms] [EVERY ms] [NOACK]`
    Take,
    /// `COUNTER.ACK counter id [id …]`
    Ack,
    /// `COUNTER.LEASE counter ms id [id …]`
    Lease,
    /// `COUNTER.PENDING [counter]`
    Pending,
    /// `COUNTER.DEL counter [member …]`
    Del,
}

/// Commands about timelines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeline {
    /// `TIMELINE.ADD key [MAXLEN n] [MINSCORE s] [NX|GT] score member [score member …]`
    Add,
    /// `TIMELINE.FANOUT numkeys key [key …] [MAXLEN n] [MINSCORE s] [NX|GT] [IFEXISTS] score member`
    Fanout,
    /// `TIMELINE.MERGE numkeys key [key …] [BEFORE cursor] [AFTER cursor] [COUNT n] [WITHSCORES]`
    Merge,
    /// `TIMELINE.RANGE key [BEFORE cursor] [AFTER cursor] [COUNT n] [WITHSCORES]`
    Range,
    /// `TIMELINE.TRIM key MAXLEN n | MINSCORE s`
    Trim,
}

impl Counter {
    /// Where its members stand among so many arguments: from one on, every so many. `None`: it is about all members.
    #[must_use]
    pub const fn members(self, arguments: usize) -> Option<(usize, usize)> {
        match self {
            Self::Incr | Self::Get => Some((2, usize::MAX)),
            Self::Mincr => Some((2, 2)),
            Self::Mget => Some((2, 1)),
            Self::Del if arguments > 2 => Some((2, 1)),
            Self::Take | Self::Ack | Self::Lease | Self::Pending | Self::Del => None,
        }
    }
}

/// What the names of keys begin with that helpers keep: clients may not name such a key, and are not told of one.
pub const RESERVED_PREFIX: &[u8] = b"__preshard__:";

/// Whether a key is one of those that helpers keep. Nearly every key is told by its first byte.
#[inline]
#[must_use]
pub fn is_reserved(key: &[u8]) -> bool {
    key.first() == RESERVED_PREFIX.first() && key.starts_with(RESERVED_PREFIX)
}

impl Helper {
    /// What is run where, in the words of `PRESHARD EXPLAIN` and of the page of commands.
    #[must_use]
    pub const fn detail(self) -> &'static str {
        match self {
            Self::Counter(counter) => match counter {
                Counter::Incr => "HINCRBY in the shard of `counter:member`",
                Counter::Mincr => {
                    "HINCRBY in the shard of each `counter:member`; an element that failed is an error"
                }
                Counter::Get => {
                    "a script that reads pending, drained and leased counts in the shard of `counter:member`"
                }
                Counter::Mget => {
                    "as COUNTER.GET in the shard of each `counter:member`; an element that failed is an error"
                }
                Counter::Take => "EXISTS in every shard, and a script where there is something to take",
                Counter::Ack | Counter::Lease => "a script in the shard that the id of each batch names",
                Counter::Pending => "a script that only reads in every shard, added up",
                Counter::Del => {
                    "HDEL in the shard of each `counter:member`; without members UNLINK in every shard"
                }
            },
            Self::Timeline(timeline) => match timeline {
                Timeline::Add => "ZADD, and ZREMRANGEBYRANK or ZREMRANGEBYSCORE behind it, in one piece",
                Timeline::Fanout => {
                    "what an ADD sends, for each key in its shard; with IFEXISTS a script; failures are told by key"
                }
                Timeline::Merge => {
                    "ZREVRANGEBYSCORE of each key in its shard, merged; one that fails fails the whole"
                }
                Timeline::Range => "ZREVRANGEBYSCORE; once more if many items share the cursor's score",
                Timeline::Trim => "ZREMRANGEBYRANK or ZREMRANGEBYSCORE",
            },
        }
    }
}
