//! One row of the table: what servers say of a command, and what preshard does with it.

use super::flags::{Categories, Flags, KeyFlags};
use super::helper::Helper;

/// Dense index of a command or subcommand in [`super::all`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u16);

impl CommandId {
    /// No command.
    pub const NONE: Self = Self(u16::MAX);

    /// The id as an index into [`super::all`], or into a metric's cells, one for each command.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A command, or a subcommand under its full name.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Where it stands in [`super::all`].
    pub id: CommandId,
    /// Lower case; `config|get` for a subcommand.
    pub name: &'static str,
    /// What preshard does with it.
    pub class: Class,
    /// How its keys are found.
    pub keys: KeySpec,
    /// What it does and where it may run.
    pub flags: Flags,
    /// Redis's word: the exact number of arguments, name included, or minus the least number.
    pub arity: i32,
    /// The least number of arguments, name (and subcommand) included: the arity, and never less than a fixed key needs.
    pub args_min: u32,
    /// The greatest number of arguments, `u32::MAX` where the arity is open.
    pub args_max: u32,
    /// Whether some argument changes what the command means (`COPY … DB`): judged by [`super::resolve()`].
    pub rules: bool,
    /// Whether the first argument names a subcommand.
    pub container: bool,
    /// What is rarely needed.
    pub facts: &'static Facts,
}

impl Spec {
    /// Whether it may change the dataset.
    #[must_use]
    pub const fn is_write(&self) -> bool {
        self.flags.has(Flags::WRITE)
    }

    /// Whether preshard runs it at all, so that `COMMAND` may list it.
    #[must_use]
    pub const fn is_supported(&self) -> bool {
        match self.class {
            Class::Single
            | Class::Iterate
            | Class::SameShard
            | Class::Split(_)
            | Class::FanOut(_)
            | Class::Local(_)
            | Class::Transaction(_)
            | Class::Blocking
            | Class::Script(_)
            | Class::PubSub(_)
            | Class::Helper(_) => true,
            Class::Refused(_) => false,
        }
    }

    /// The name as people write it: `CONFIG GET`.
    #[must_use]
    pub fn title(&self) -> String {
        self.name.to_ascii_uppercase().replace('|', " ")
    }
}

/// The cold half of a row.
#[derive(Debug)]
pub struct Facts {
    /// ACL categories.
    pub categories: Categories,
    /// Key specifications, as servers give them.
    pub keys: Vec<KeyFact>,
    /// Legacy positions: first key, last key, step.
    pub positions: [i32; 3],
    /// Redis's tips for proxies, parted by spaces: `request_policy:all_shards response_policy:agg_sum`.
    pub tips: &'static str,
    /// Group of the documentation: `string`, `server`, …
    pub group: &'static str,
    /// Version that brought it; empty if unknown.
    pub since: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// Time complexity, in words.
    pub complexity: &'static str,
    /// Words of the servers that have it, parted by spaces: `valkey redis8 redis7`.
    pub servers: &'static str,
    /// What older servers say differently, as JSON by server; empty where all agree.
    pub older: &'static str,
    /// What else `COMMAND DOCS` says, as JSON: arguments, history, flags, …; empty if nothing.
    pub docs: &'static str,
    /// The container, for a subcommand.
    pub parent: Option<CommandId>,
    /// The subcommands, for a container.
    pub subcommands: Vec<CommandId>,
}

impl Facts {
    /// The value of the tip `request_policy`, if there is one.
    #[must_use]
    pub fn request_policy(&self) -> Option<&'static str> {
        self.tip("request_policy:")
    }

    /// The value of the tip `response_policy`, if there is one.
    #[must_use]
    pub fn reply_policy(&self) -> Option<&'static str> {
        self.tip("response_policy:")
    }

    fn tip(&self, prefix: &str) -> Option<&'static str> {
        self.tips.split(' ').find_map(|tip| tip.strip_prefix(prefix))
    }

    /// Whether a server that `generate.py` was told to call by this word has the command.
    #[must_use]
    pub fn is_in(&self, server: &str) -> bool {
        self.servers.split(' ').any(|word| word == server)
    }
}

/// How routing finds the keys of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySpec {
    /// It has none.
    None,
    /// One key, always at this index of the arguments.
    Fixed {
        /// Index in the request, the command's name being 0.
        pos: u32,
    },
    /// All specifications of [`Facts::keys`] are followed.
    Walk,
    /// The specifications are not enough: read as the command itself reads its arguments.
    Special(Special),
}

/// Commands whose options must be read to find the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// `SORT key [BY …] [LIMIT …] [GET …] [STORE destination]`, also `SORT_RO`.
    Sort,
    /// `XREAD … STREAMS key … id …`
    Xread,
    /// `XREADGROUP GROUP … STREAMS key … id …`
    Xreadgroup,
    /// `GEORADIUS key longitude latitude radius unit … [STORE key] [STOREDIST key]`
    Georadius,
    /// `GEORADIUSBYMEMBER key member radius unit … [STORE key] [STOREDIST key]`
    Georadiusbymember,
    /// `MIGRATE host port key|"" db timeout … [KEYS key …]`
    Migrate,
}

/// One key specification, in Redis's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyFact {
    /// What is done with the keys.
    pub flags: KeyFlags,
    /// Where the first argument of interest is.
    pub begin: BeginSearch,
    /// Which arguments from there on are keys.
    pub find: FindKeys,
    /// Remarks, for readers.
    pub notes: &'static str,
}

/// Where the keys of one specification begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeginSearch {
    /// At a fixed index.
    Index(i32),
    /// Behind a word, searched from an index (negative: backwards, from the end).
    Keyword {
        /// The word, matched case-insensitively.
        word: &'static str,
        /// Where the search begins.
        start_from: i32,
    },
    /// Not told.
    Unknown,
}

/// Which arguments are keys, from the beginning on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindKeys {
    /// A range of arguments.
    Range {
        /// Last key relative to the first; negative: from the end.
        last: i32,
        /// Distance between keys.
        step: i32,
        /// With `last` -1: keys end after one part in `limit` of the rest.
        limit: i32,
    },
    /// A number of keys is an argument.
    Keynum {
        /// Where that number is, relative to the beginning.
        number_at: i32,
        /// First key, relative to the beginning.
        first: i32,
        /// Distance between keys.
        step: i32,
    },
    /// Not told.
    Unknown,
}

/// What preshard does with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// One key at a fixed position: its shard answers. The hot path.
    Single,
    /// As single, with a cursor behind its key, which is good for one node only: `HSCAN`, `SSCAN`, `ZSCAN`.
    Iterate,
    /// Several keys, or movable ones: they must share a shard.
    SameShard,
    /// Parts by shard, merged.
    Split(Split),
    /// To all owned databases, or all nodes, merged.
    FanOut(FanOut),
    /// Answered by preshard itself.
    Local(Local),
    /// Begins, ends or guards a transaction.
    Transaction(Transaction),
    /// May wait for data: needs a connection to the node of its own. Its keys must share a shard.
    Blocking,
    /// Code that runs on the node, on connections apart. Its keys must share a shard.
    Script(Script),
    /// Channels.
    PubSub(PubSub),
    /// Preshard's own, made out of standard commands.
    Helper(Helper),
    /// Refused: why.
    Refused(&'static str),
}

/// Commands that are split by shard and merged without losing their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Values in the order asked.
    Mget,
    /// Pairs, `+OK` if all parts succeed.
    Mset,
    /// Sum of deleted keys.
    Del,
    /// Sum of unlinked keys.
    Unlink,
    /// Sum of existing keys.
    Exists,
    /// Sum of touched keys.
    Touch,
}

/// Commands about a whole keyspace, or all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FanOut {
    /// Sum over owned databases.
    Dbsize,
    /// All keys that match.
    Keys,
    /// Owned databases in turn, with a cursor of preshard's own.
    Scan,
    /// A key of some owned database.
    Randomkey,
    /// Empties the selected keyspace.
    Flushdb,
    /// Empties the sharded and all pinned keyspaces.
    Flushall,
    /// A script to every node.
    ScriptLoad,
    /// Whether every node has the scripts.
    ScriptExists,
    /// Empties the script cache of every node.
    ScriptFlush,
    /// The same to every node; all must answer alike.
    EveryNode,
    /// To one node, which stands for all.
    AnyNode,
}

/// Commands about transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// `MULTI`
    Multi,
    /// `EXEC`
    Exec,
    /// `DISCARD`
    Discard,
    /// `WATCH key …`
    Watch,
    /// `UNWATCH`
    Unwatch,
}

/// Commands that run code on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// `EVAL body numkeys …` and `EVAL_RO`
    Eval,
    /// `EVALSHA sha numkeys …` and `EVALSHA_RO`
    Evalsha,
    /// `FCALL function numkeys …` and `FCALL_RO`
    Fcall,
}

/// Commands about channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PubSub {
    /// `SUBSCRIBE channel …`
    Subscribe,
    /// `UNSUBSCRIBE [channel …]`
    Unsubscribe,
    /// `PSUBSCRIBE pattern …`
    Psubscribe,
    /// `PUNSUBSCRIBE [pattern …]`
    Punsubscribe,
    /// `SSUBSCRIBE shardchannel …`
    Ssubscribe,
    /// `SUNSUBSCRIBE [shardchannel …]`
    Sunsubscribe,
    /// `PUBLISH channel message`
    Publish,
    /// `SPUBLISH shardchannel message`
    Spublish,
    /// `PUBSUB CHANNELS [pattern]`
    Channels,
    /// `PUBSUB NUMPAT`
    Numpat,
    /// `PUBSUB NUMSUB [channel …]`
    Numsub,
    /// `PUBSUB SHARDCHANNELS [pattern]`
    Shardchannels,
    /// `PUBSUB SHARDNUMSUB [shardchannel …]`
    Shardnumsub,
}

/// Commands about clusters that change nothing. Without cluster emulation all are answered as by a server that has
/// cluster support disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// `READONLY`, `READWRITE`, `ASKING`
    Mode,
    /// `CLUSTER COUNT-FAILURE-REPORTS node`
    CountFailureReports,
    /// `CLUSTER COUNTKEYSINSLOT slot`
    Countkeysinslot,
    /// `CLUSTER GETKEYSINSLOT slot count`
    Getkeysinslot,
    /// `CLUSTER GETSLOTMIGRATIONS`
    Getslotmigrations,
    /// `CLUSTER HELP`
    Help,
    /// `CLUSTER INFO`
    Info,
    /// `CLUSTER KEYSLOT key`
    Keyslot,
    /// `CLUSTER LINKS`
    Links,
    /// `CLUSTER MYID`
    Myid,
    /// `CLUSTER MYSHARDID`
    Myshardid,
    /// `CLUSTER NODES`
    Nodes,
    /// `CLUSTER REPLICAS node` and its older name
    Replicas,
    /// `CLUSTER SHARDS`
    Shards,
    /// `CLUSTER SLOT-STATS …`
    SlotStats,
    /// `CLUSTER SLOTS`
    Slots,
}

/// Commands that preshard answers itself, one for each reply to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// `HELLO [proto [AUTH …] [SETNAME …]]`
    Hello,
    /// `AUTH [user] password`
    Auth,
    /// `SELECT n`
    Select,
    /// `PING [message]`
    Ping,
    /// `ECHO message`
    Echo,
    /// `QUIT`
    Quit,
    /// `RESET`
    Reset,
    /// `TIME`
    Time,
    /// `ROLE`
    Role,
    /// `INFO [section …]`
    Info,
    /// `SCRIPT KILL`, `FUNCTION KILL`: asked of the nodes over connections of their own
    KillCode,
    /// `WAIT replicas timeout`, `WAITAOF local replicas timeout`
    Wait,
    /// `CONFIG GET pattern …`
    ConfigGet,
    /// `COMMAND`
    Command,
    /// `COMMAND COUNT`
    CommandCount,
    /// `COMMAND DOCS [name …]`
    CommandDocs,
    /// `COMMAND GETKEYS command …`
    CommandGetkeys,
    /// `COMMAND GETKEYSANDFLAGS command …`
    CommandGetkeysandflags,
    /// `COMMAND INFO [name …]`
    CommandInfo,
    /// `COMMAND LIST [FILTERBY …]`
    CommandList,
    /// `X HELP` of any container
    Help,
    /// `CLIENT CACHING YES|NO`
    ClientCaching,
    /// `CLIENT GETNAME`
    ClientGetname,
    /// `CLIENT GETREDIR`
    ClientGetredir,
    /// `CLIENT ID`
    ClientId,
    /// `CLIENT INFO`
    ClientInfo,
    /// `CLIENT KILL …`
    ClientKill,
    /// `CLIENT LIST …`
    ClientList,
    /// `CLIENT NO-EVICT ON|OFF`
    ClientNoEvict,
    /// `CLIENT NO-TOUCH ON|OFF`
    ClientNoTouch,
    /// `CLIENT PAUSE timeout [WRITE|ALL]`
    ClientPause,
    /// `CLIENT REPLY ON|OFF|SKIP`
    ClientReply,
    /// `CLIENT SETINFO LIB-NAME|LIB-VER value`
    ClientSetinfo,
    /// `CLIENT SETNAME name`
    ClientSetname,
    /// `CLIENT TRACKING ON|OFF …`
    ClientTracking,
    /// `CLIENT TRACKINGINFO`
    ClientTrackinginfo,
    /// `CLIENT UNBLOCK id [TIMEOUT|ERROR]`
    ClientUnblock,
    /// `CLIENT UNPAUSE`
    ClientUnpause,
    /// `CLUSTER …` reads, `READONLY`, `READWRITE`, `ASKING`
    Cluster(Cluster),
    /// `ACL CAT [category]`
    AclCat,
    /// `ACL DRYRUN user command …`
    AclDryrun,
    /// `ACL GETUSER user`
    AclGetuser,
    /// `ACL LIST`
    AclList,
    /// `ACL USERS`
    AclUsers,
    /// `ACL WHOAMI`
    AclWhoami,
    /// `MODULE LIST`
    ModuleList,
    /// `MEMORY DOCTOR`
    MemoryDoctor,
    /// `LATENCY DOCTOR`
    LatencyDoctor,
    /// `LATENCY GRAPH event`
    LatencyGraph,
    /// `LATENCY HISTOGRAM [command …]`
    LatencyHistogram,
    /// `LATENCY HISTORY event`
    LatencyHistory,
    /// `LATENCY LATEST`
    LatencyLatest,
    /// `LATENCY RESET [event …]`
    LatencyReset,
    /// `SLOWLOG GET [count]`
    SlowlogGet,
    /// `SLOWLOG LEN`
    SlowlogLen,
    /// `SLOWLOG RESET`
    SlowlogReset,
    /// `PRESHARD …`: admin commands, for users who have that right
    Preshard,
}
