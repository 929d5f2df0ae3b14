//! What preshard does with each command: our own judgement, apart from the facts that servers tell.
//!
//! Every command and subcommand of `table.tsv` is named here once; a test says which is missing. A name without a
//! judgement is refused, and so is a new subcommand of a container: nothing is let through by resemblance.

use super::helper::{Counter, Helper, Timeline};
use super::spec::{Class, Cluster, FanOut, Local, PubSub, Script, Split, Transaction};

const SINGLE: &str = "\
    append bitcount bitfield bitfield_ro bitpos decr decrby delifeq dump expire expireat expiretime geoadd geodist \
    geohash geopos georadius_ro georadiusbymember_ro geosearch get getbit getdel getex getrange getset hdel hexists \
    hexpire hexpireat hexpiretime hget hgetall hgetdel hgetex hincrby hincrbyfloat hkeys hlen hmget hmset hpersist \
    hpexpire hpexpireat hpexpiretime hpttl hrandfield hset hsetex hsetnx hstrlen httl hvals incr incrby \
    incrbyfloat lindex linsert llen lpop lpos lpush lpushx lrange lrem lset ltrim memory|usage object|encoding \
    object|freq object|idletime object|refcount persist pexpire pexpireat pexpiretime pfadd psetex pttl restore rpop \
    rpush rpushx sadd scard set setbit setex setnx setrange sismember smembers smismember spop srandmember srem \
    strlen substr ttl type vadd vcard vdim vemb vgetattr vinfo vismember vlinks vrandmember vrem vsetattr vsim xack \
    xackdel xadd xautoclaim xclaim xdel xdelex xgroup|create xgroup|createconsumer xgroup|delconsumer xgroup|destroy \
    xgroup|setid xinfo|consumers xinfo|groups xinfo|stream xlen xpending xrange xrevrange xsetid xtrim zadd zcard \
    zcount zincrby zlexcount zmscore zpopmax zpopmin zrandmember zrange zrangebylex zrangebyscore zrank zrem \
    zremrangebylex zremrangebyrank zremrangebyscore zrevrange zrevrangebylex zrevrangebyscore zrevrank zscore";

/// Those whose second argument is a cursor.
const ITERATE: &str = "hscan sscan zscan";

const SAME_SHARD: &str = "\
    bitop copy georadius georadiusbymember geosearchstore lcs lmove lmpop msetex msetnx pfcount pfmerge rename renamenx \
    rpoplpush sdiff sdiffstore sinter sintercard sinterstore smove sort sort_ro sunion sunionstore xread xreadgroup \
    zdiff zdiffstore zinter zintercard zinterstore zmpop zrangestore zunion zunionstore";

const BLOCKING: &str = "blpop brpop blmove brpoplpush blmpop bzpopmin bzpopmax bzmpop";

const HELP: &str = "\
    acl|help client|help command|help config|help function|help latency|help memory|help module|help object|help \
    pubsub|help script|help slowlog|help xgroup|help xinfo|help";

/// Commands about clusters that only read: clients ask to find out whether there is one.
const CLUSTER: &[(&str, Cluster)] = &[
    ("asking", Cluster::Mode),
    ("readonly", Cluster::Mode),
    ("readwrite", Cluster::Mode),
    ("cluster|count-failure-reports", Cluster::CountFailureReports),
    ("cluster|countkeysinslot", Cluster::Countkeysinslot),
    ("cluster|getkeysinslot", Cluster::Getkeysinslot),
    ("cluster|getslotmigrations", Cluster::Getslotmigrations),
    ("cluster|help", Cluster::Help),
    ("cluster|info", Cluster::Info),
    ("cluster|keyslot", Cluster::Keyslot),
    ("cluster|links", Cluster::Links),
    ("cluster|myid", Cluster::Myid),
    ("cluster|myshardid", Cluster::Myshardid),
    ("cluster|nodes", Cluster::Nodes),
    ("cluster|replicas", Cluster::Replicas),
    ("cluster|shards", Cluster::Shards),
    ("cluster|slaves", Cluster::Replicas),
    ("cluster|slot-stats", Cluster::SlotStats),
    ("cluster|slots", Cluster::Slots),
];

/// The container itself is only reached without a subcommand, which its arity refuses.
const CONTAINERS: &str = "\
    acl client cluster commandlog config function latency memory module object pubsub script slowlog xgroup xinfo";

const SPLIT: &[(&str, Split)] = &[
    ("mget", Split::Mget),
    ("mset", Split::Mset),
    ("del", Split::Del),
    ("unlink", Split::Unlink),
    ("exists", Split::Exists),
    ("touch", Split::Touch),
];

const FAN_OUT: &[(&str, FanOut)] = &[
    ("dbsize", FanOut::Dbsize),
    ("keys", FanOut::Keys),
    ("scan", FanOut::Scan),
    ("randomkey", FanOut::Randomkey),
    ("flushdb", FanOut::Flushdb),
    ("flushall", FanOut::Flushall),
    ("script|load", FanOut::ScriptLoad),
    ("script|exists", FanOut::ScriptExists),
    ("script|flush", FanOut::ScriptFlush),
    ("script|show", FanOut::AnyNode),
    ("function|delete", FanOut::EveryNode),
    ("function|dump", FanOut::AnyNode),
    ("function|flush", FanOut::EveryNode),
    ("function|list", FanOut::AnyNode),
    ("function|load", FanOut::EveryNode),
    ("function|restore", FanOut::EveryNode),
    ("function|stats", FanOut::AnyNode),
];

const LOCAL: &[(&str, Local)] = &[
    ("hello", Local::Hello),
    ("auth", Local::Auth),
    ("select", Local::Select),
    ("ping", Local::Ping),
    ("echo", Local::Echo),
    ("quit", Local::Quit),
    ("reset", Local::Reset),
    ("time", Local::Time),
    ("role", Local::Role),
    ("info", Local::Info),
    ("function|kill", Local::KillCode),
    ("script|kill", Local::KillCode),
    ("wait", Local::Wait),
    ("waitaof", Local::Wait),
    ("config|get", Local::ConfigGet),
    ("command", Local::Command),
    ("command|count", Local::CommandCount),
    ("command|docs", Local::CommandDocs),
    ("command|getkeys", Local::CommandGetkeys),
    ("command|getkeysandflags", Local::CommandGetkeysandflags),
    ("command|info", Local::CommandInfo),
    ("command|list", Local::CommandList),
    ("client|caching", Local::ClientCaching),
    ("client|getname", Local::ClientGetname),
    ("client|getredir", Local::ClientGetredir),
    ("client|id", Local::ClientId),
    ("client|info", Local::ClientInfo),
    ("client|kill", Local::ClientKill),
    ("client|list", Local::ClientList),
    ("client|no-evict", Local::ClientNoEvict),
    ("client|no-touch", Local::ClientNoTouch),
    ("client|pause", Local::ClientPause),
    ("client|reply", Local::ClientReply),
    ("client|setinfo", Local::ClientSetinfo),
    ("client|setname", Local::ClientSetname),
    ("client|tracking", Local::ClientTracking),
    ("client|trackinginfo", Local::ClientTrackinginfo),
    ("client|unblock", Local::ClientUnblock),
    ("client|unpause", Local::ClientUnpause),
    ("acl|cat", Local::AclCat),
    ("acl|dryrun", Local::AclDryrun),
    ("acl|getuser", Local::AclGetuser),
    ("acl|list", Local::AclList),
    ("acl|users", Local::AclUsers),
    ("acl|whoami", Local::AclWhoami),
    ("module|list", Local::ModuleList),
    ("memory|doctor", Local::MemoryDoctor),
    ("latency|doctor", Local::LatencyDoctor),
    ("latency|graph", Local::LatencyGraph),
    ("latency|histogram", Local::LatencyHistogram),
    ("latency|history", Local::LatencyHistory),
    ("latency|latest", Local::LatencyLatest),
    ("latency|reset", Local::LatencyReset),
    ("slowlog|get", Local::SlowlogGet),
    ("slowlog|len", Local::SlowlogLen),
    ("slowlog|reset", Local::SlowlogReset),
    ("preshard", Local::Preshard),
];

const SCRIPT: &[(&str, Script)] = &[
    ("eval", Script::Eval),
    ("eval_ro", Script::Eval),
    ("evalsha", Script::Evalsha),
    ("evalsha_ro", Script::Evalsha),
    ("fcall", Script::Fcall),
    ("fcall_ro", Script::Fcall),
];

const TRANSACTION: &[(&str, Transaction)] = &[
    ("multi", Transaction::Multi),
    ("exec", Transaction::Exec),
    ("discard", Transaction::Discard),
    ("watch", Transaction::Watch),
    ("unwatch", Transaction::Unwatch),
];

const COUNTER: &[(&str, Counter)] = &[
    ("counter.ack", Counter::Ack),
    ("counter.del", Counter::Del),
    ("counter.get", Counter::Get),
    ("counter.incr", Counter::Incr),
    ("counter.lease", Counter::Lease),
    ("counter.mget", Counter::Mget),
    ("counter.mincr", Counter::Mincr),
    ("counter.pending", Counter::Pending),
    ("counter.take", Counter::Take),
];

const TIMELINE: &[(&str, Timeline)] = &[
    ("timeline.add", Timeline::Add),
    ("timeline.fanout", Timeline::Fanout),
    ("timeline.merge", Timeline::Merge),
    ("timeline.range", Timeline::Range),
    ("timeline.trim", Timeline::Trim),
];

const PUBSUB: &[(&str, PubSub)] = &[
    ("subscribe", PubSub::Subscribe),
    ("unsubscribe", PubSub::Unsubscribe),
    ("psubscribe", PubSub::Psubscribe),
    ("punsubscribe", PubSub::Punsubscribe),
    ("ssubscribe", PubSub::Ssubscribe),
    ("sunsubscribe", PubSub::Sunsubscribe),
    ("publish", PubSub::Publish),
    ("spublish", PubSub::Spublish),
    ("pubsub|channels", PubSub::Channels),
    ("pubsub|numpat", PubSub::Numpat),
    ("pubsub|numsub", PubSub::Numsub),
    ("pubsub|shardchannels", PubSub::Shardchannels),
    ("pubsub|shardnumsub", PubSub::Shardnumsub),
];

/// Why `COPY … DB` is refused.
pub(super) const OTHER_DATABASE: &str = "a shard is one database of a node, and reaching into another one would put the key where no client finds it";

/// Why, and the commands that are refused for good.
const REFUSED: &[(&str, &str)] = &[
    (OTHER_DATABASE, "move swapdb"),
    ("name a subcommand", CONTAINERS),
    (
        "it acts on one node behind the proxy; ask that node itself",
        "bgrewriteaof bgsave save lastsave shutdown debug memory|malloc-stats memory|purge memory|stats \
         config|resetstat config|rewrite pfdebug pfselftest",
    ),
    (
        "settings are in preshard's configuration file and in PRESHARD CONFIG; nodes have their own",
        "config|set",
    ),
    (
        "who replicates what is between the nodes",
        "replicaof slaveof failover psync replconf sync",
    ),
    (
        "it would slow every client down and show each other's keys; see SLOWLOG",
        "monitor",
    ),
    (
        "use SLOWLOG, which keeps preshard's own",
        "commandlog|get commandlog|help commandlog|len commandlog|reset",
    ),
    (
        "a node would open connections to any address; move shards with PRESHARD SHARD MOVE",
        "migrate",
    ),
    (
        "users are written as [[user]] in preshard's configuration file",
        "acl|deluser acl|genpass acl|load acl|log acl|save acl|setuser",
    ),
    (
        "code that runs on nodes is installed there by their operator",
        "module|load module|loadex module|unload",
    ),
    (
        "debugging a script would stop a node that others use",
        "script|debug",
    ),
    (
        "preshard is not a Redis Cluster; shards are moved with PRESHARD SHARD MOVE",
        "cluster|addslots cluster|addslotsrange cluster|bumpepoch cluster|cancelslotmigrations cluster|delslots \
         cluster|delslotsrange cluster|failover cluster|flushslot cluster|flushslots cluster|forget cluster|meet \
         cluster|migrateslots cluster|replicate cluster|reset cluster|saveconfig cluster|set-config-epoch \
         cluster|setslot cluster|syncslots clusterscan restore-asking",
    ),
    (
        "it speaks of a connection that clients share",
        "client|capa client|import-source",
    ),
    ("it draws a picture and does nothing else", "lolwut"),
];

/// Why a name without a judgement is refused.
const UNJUDGED: &str = "this version of preshard does not know what it does";

/// The judgement about a command, if there is one.
pub(super) fn judged(name: &str) -> Option<Class> {
    if in_words(SINGLE, name) {
        return Some(Class::Single);
    }
    if in_words(ITERATE, name) {
        return Some(Class::Iterate);
    }
    if in_words(SAME_SHARD, name) {
        return Some(Class::SameShard);
    }
    if in_words(BLOCKING, name) {
        return Some(Class::Blocking);
    }
    if in_words(HELP, name) {
        return Some(Class::Local(Local::Help));
    }
    in_pairs(SPLIT, name)
        .map(Class::Split)
        .or_else(|| in_pairs(FAN_OUT, name).map(Class::FanOut))
        .or_else(|| in_pairs(LOCAL, name).map(Class::Local))
        .or_else(|| in_pairs(CLUSTER, name).map(|cluster| Class::Local(Local::Cluster(cluster))))
        .or_else(|| in_pairs(SCRIPT, name).map(Class::Script))
        .or_else(|| in_pairs(TRANSACTION, name).map(Class::Transaction))
        .or_else(|| in_pairs(PUBSUB, name).map(Class::PubSub))
        .or_else(|| in_pairs(COUNTER, name).map(|counter| Class::Helper(Helper::Counter(counter))))
        .or_else(|| in_pairs(TIMELINE, name).map(|timeline| Class::Helper(Helper::Timeline(timeline))))
        .or_else(|| {
            REFUSED
                .iter()
                .find(|(_, names)| in_words(names, name))
                .map(|&(why, _)| Class::Refused(why))
        })
}

/// What is done with a command: the judgement, or a refusal.
pub(super) fn class_of(name: &str) -> Class {
    judged(name).unwrap_or(Class::Refused(UNJUDGED))
}

fn in_words(words: &str, name: &str) -> bool {
    words.split_ascii_whitespace().any(|word| word == name)
}

fn in_pairs<T: Copy>(pairs: &[(&str, T)], name: &str) -> Option<T> {
    pairs
        .iter()
        .find(|(known, _)| *known == name)
        .map(|&(_, class)| class)
}

/// Commands of which some argument changes what they mean: `resolve` looks at them.
pub(super) fn has_rules(name: &str) -> bool {
    matches!(name, "copy" | "mset" | "msetnx" | "xread" | "xreadgroup")
}

/// Every name that is judged, as often as it is.
#[cfg(test)]
pub(super) fn all_names() -> Vec<&'static str> {
    let lists = [SINGLE, ITERATE, SAME_SHARD, BLOCKING, HELP].into_iter();
    let lists = lists.chain(REFUSED.iter().map(|&(_, names)| names));
    let mut names: Vec<_> = lists.flat_map(str::split_ascii_whitespace).collect();
    names.extend(SPLIT.iter().map(|&(name, _)| name));
    names.extend(FAN_OUT.iter().map(|&(name, _)| name));
    names.extend(LOCAL.iter().map(|&(name, _)| name));
    names.extend(CLUSTER.iter().map(|&(name, _)| name));
    names.extend(SCRIPT.iter().map(|&(name, _)| name));
    names.extend(TRANSACTION.iter().map(|&(name, _)| name));
    names.extend(PUBSUB.iter().map(|&(name, _)| name));
    names.extend(COUNTER.iter().map(|&(name, _)| name));
    names.extend(TIMELINE.iter().map(|&(name, _)| name));
    names
}
