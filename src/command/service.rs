//! How each command is served, in the words of `PRESHARD SHOW COMMANDS`, `PRESHARD EXPLAIN` and `docs/COMMANDS.md`.

use super::policy;
use super::spec::{Class, Cluster, FanOut, Local, PubSub, Script, Spec, Split};

impl Class {
    /// One word for how it is served.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Single | Self::Iterate => "single",
            Self::SameShard => "same-shard",
            Self::Split(_) => "split",
            Self::FanOut(_) => "fan-out",
            Self::Local(_) => "local",
            Self::Transaction(_) => "transaction",
            Self::Blocking => "blocking",
            Self::Script(_) => "script",
            Self::PubSub(_) => "pub/sub",
            Self::Helper(_) => "helper",
            Self::Refused(_) => "refused",
        }
    }

    /// Why it is not served; empty if it is.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Refused(why) => why,
            Self::Single
            | Self::Iterate
            | Self::SameShard
            | Self::Split(_)
            | Self::FanOut(_)
            | Self::Local(_)
            | Self::Transaction(_)
            | Self::Blocking
            | Self::Script(_)
            | Self::PubSub(_)
            | Self::Helper(_) => "",
        }
    }

    /// What is done with it, where the word alone does not tell.
    #[must_use]
    pub const fn detail(self) -> &'static str {
        match self {
            Self::Single | Self::SameShard => "sent to its shard as it is",
            Self::Iterate => {
                "sent to its shard; begun again if the shard has moved since the cursor was made"
            }
            Self::Split(split) => split.detail(),
            Self::FanOut(fan_out) => fan_out.detail(),
            Self::Local(Local::Cluster(_)) => {
                "cluster support disabled, or a cluster of one node with cluster_emulation"
            }
            Self::Local(_) => "answered by preshard itself",
            Self::Transaction(_) => {
                "queued by preshard; EXEC sends all of it to the shard of its keys at once"
            }
            Self::Blocking => "sent to its shard over a connection of its own, which may wait",
            Self::Script(_) => "sent to its shard over connections for scripts, with a fence behind it",
            Self::PubSub(PubSub::Publish | PubSub::Spublish) => {
                "sent to the node of the channel's shard; heard everywhere"
            }
            Self::PubSub(_) => "channels live on no shard",
            Self::Helper(helper) => helper.detail(),
            Self::Refused(why) => why,
        }
    }
}

impl Split {
    const fn detail(self) -> &'static str {
        match self {
            Self::Mget => "one part for each shard; values in the order asked",
            Self::Mset => "one part for each shard; OK if all succeed",
            Self::Del | Self::Unlink | Self::Exists | Self::Touch => {
                "one part for each shard; counts are summed"
            }
        }
    }
}

impl FanOut {
    const fn detail(self) -> &'static str {
        match self {
            Self::Dbsize => "asked of every shard, summed",
            Self::Keys => "asked of every shard, joined",
            Self::Scan => "shards in turn; the cursor says where it goes on",
            Self::Randomkey => "asked of one shard after the other until one has a key",
            Self::Flushdb => "sent to every sharded database",
            Self::Flushall => "sent to every sharded and every pinned database",
            Self::ScriptExists => "asked of every node that has shards; true where all have the script",
            Self::ScriptLoad | Self::ScriptFlush | Self::EveryNode => "sent to every node that has shards",
            Self::AnyNode => "asked of one node, which stands for all",
        }
    }

    /// Whether it concerns one keyspace, so that in a pinned database, which is one database of one node, the node's
    /// own command does it.
    #[must_use]
    pub const fn is_of_one_keyspace(self) -> bool {
        match self {
            Self::Dbsize | Self::Keys | Self::Scan | Self::Randomkey | Self::Flushdb => true,
            Self::Flushall
            | Self::ScriptLoad
            | Self::ScriptExists
            | Self::ScriptFlush
            | Self::EveryNode
            | Self::AnyNode => false,
        }
    }
}

impl Spec {
    /// Whether it is a container that only leads to its subcommands.
    #[must_use]
    pub fn only_leads_on(&self) -> bool {
        self.container && !self.facts.subcommands.is_empty() && !self.is_supported()
    }

    /// How it is served in a pinned database.
    #[must_use]
    pub const fn in_pinned(&self) -> &'static str {
        match self.class {
            Class::Single | Class::Iterate => "single",
            Class::SameShard | Class::Split(_) => "any keys",
            Class::Blocking => "blocking, any keys",
            Class::Script(_) => "script, any keys or none",
            Class::Transaction(_) => "transaction, any keys",
            Class::FanOut(fan_out) if fan_out.is_of_one_keyspace() => "its own database",
            Class::FanOut(_) => "fan-out",
            Class::Local(_) => "local",
            Class::PubSub(_) => "pub/sub",
            Class::Helper(_) => "helper, all in its own database",
            Class::Refused(_) => "refused",
        }
    }

    /// What is special about it in database 0; empty for most.
    #[must_use]
    pub fn remark(&self) -> String {
        match (self.name, self.class) {
            ("copy", _) => format!("`DB` is refused: {}", policy::OTHER_DATABASE),
            (_, Class::Local(Local::Wait)) => {
                "asked of every node, in a pinned database of its own; the least count".to_owned()
            }
            (_, Class::Local(Local::KillCode)) => "asked of every node".to_owned(),
            ("xread" | "xreadgroup", _) => "with `BLOCK` as *blocking*".to_owned(),
            ("sort" | "sort_ro", _) => {
                "patterns of `BY` and `GET` need a hash tag before their `*`".to_owned()
            }
            (_, Class::Script(Script::Fcall)) => "without keys refused".to_owned(),
            (_, Class::Script(_)) => "without keys only if its text can reach none".to_owned(),
            (
                _,
                Class::Local(Local::Cluster(
                    Cluster::Countkeysinslot | Cluster::Getkeysinslot | Cluster::SlotStats,
                )),
            ) => "an error in both: keys are kept by shard".to_owned(),
            _ => String::new(),
        }
    }
}
