//! The table of words: what can be said after `PRESHARD`, with its help, and how a request is matched with it.
//!
//! A word is added by adding a row; `HELP`, the checks of the number of arguments and the errors come out of the
//! same row. Words of later versions have rows too: who asks for them is told so, not that they do not exist.

use super::value::shown;
use crate::resp::Args;

/// One word: a noun, mostly with a verb.
#[derive(Debug)]
pub struct Word {
    /// What it is about: `SHARD`.
    pub noun: &'static str,
    /// What is asked about it: `MOVE`. Empty where the noun says it all.
    pub verb: &'static str,
    /// Its arguments, as the help shows them.
    pub usage: &'static str,
    /// One sentence.
    pub what: &'static str,
    /// The least and the greatest number of arguments.
    arguments: (usize, usize),
    pub(super) action: Action,
}

/// What is done for a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Help,
    HelpOfNoun,
    Version,
    Info,
    Check,
    ShowShards,
    ShowNodes,
    ShowProxies,
    ShowClients,
    ShowConfig,
    ShowStats,
    ShowCommands,
    ShowSlowlog,
    ShardInfo,
    ShardOf,
    ShardPause,
    ShardResume,
    NodeAdd,
    NodeRemove,
    NodeSet,
    NodeDrain,
    Explain,
    ConfigGet,
    ConfigSet,
    ConfigReload,
    PlanRebalance,
    PlanShow,
    PlanApply,
    TopologyDump,
    TopologyEpoch,
    TopologyLoad,
    TaskList,
    TaskStatus,
    TaskCancel,
    TaskCutover,
    TaskFinalize,
    TaskRollback,
    ShardMove,
    ShardVerify,
    /// The word belongs to a later version.
    NotYet,
}

impl Word {
    /// Noun and verb: `SHARD MOVE`.
    #[must_use]
    pub fn path(&self) -> String {
        if self.verb.is_empty() {
            self.noun.to_owned()
        } else {
            format!("{} {}", self.noun, self.verb)
        }
    }

    /// The whole line to type, with its arguments.
    #[must_use]
    pub fn line(&self) -> String {
        let path = self.path();
        if self.usage.is_empty() {
            format!("PRESHARD {path}")
        } else {
            format!("PRESHARD {path} {}", self.usage)
        }
    }

    /// Whether this version has it.
    #[must_use]
    pub const fn is_served(&self) -> bool {
        !matches!(self.action, Action::NotYet)
    }
}

const ANY: usize = usize::MAX;

const fn word(
    noun: &'static str,
    verb: &'static str,
    (usage, least, most): (&'static str, usize, usize),
    what: &'static str,
    action: Action,
) -> Word {
    Word {
        noun,
        verb,
        usage,
        what,
        arguments: (least, most),
        action,
    }
}

const fn later(noun: &'static str, verb: &'static str, usage: &'static str, what: &'static str) -> Word {
    word(noun, verb, (usage, 0, ANY), what, Action::NotYet)
}

const NONE: (&str, usize, usize) = ("", 0, 0);

/// All words, in the order of the help.
pub const WORDS: &[Word] = &[
    word(
        "HELP",
        "",
        ("[noun]", 0, 1),
        "All words, or those of one noun.",
        Action::Help,
    ),
    word("VERSION", "", NONE, "The version of preshard.", Action::Version),
    word(
        "INFO",
        "",
        ("[section]", 0, 1),
        "What there is to know about this proxy, as text.",
        Action::Info,
    ),
    word(
        "CHECK",
        "",
        NONE,
        "Asks every node whether it fits, and looks for risky settings.",
        Action::Check,
    ),
    word(
        "SHOW",
        "SHARDS",
        NONE,
        "Where every shard lives and how busy it is.",
        Action::ShowShards,
    ),
    word(
        "SHOW",
        "NODES",
        NONE,
        "All nodes with their state, load and memory.",
        Action::ShowNodes,
    ),
    word(
        "SHOW",
        "PROXIES",
        NONE,
        "All proxies of this cluster, what they serve, and which one leads.",
        Action::ShowProxies,
    ),
    word(
        "SHOW",
        "CLIENTS",
        NONE,
        "Who is connected, with the fields of CLIENT LIST.",
        Action::ShowClients,
    ),
    word(
        "SHOW",
        "TASKS",
        NONE,
        "All tasks, as TASK LIST.",
        Action::TaskList,
    ),
    word(
        "SHOW",
        "STATS",
        NONE,
        "Sums and rates of this proxy.",
        Action::ShowStats,
    ),
    word(
        "SHOW",
        "CONFIG",
        NONE,
        "The settings in force, secrets left out; what was set while serving, and what waits for a restart.",
        Action::ShowConfig,
    ),
    word(
        "SHOW",
        "COMMANDS",
        ("[UNSUPPORTED]", 0, 1),
        "Every command with how it is served, or those that are refused with the reason.",
        Action::ShowCommands,
    ),
    later("SHOW", "HOTKEYS", "", "Keys that are asked for most."),
    later("SHOW", "BIGKEYS", "", "Keys that take the most memory."),
    word(
        "SHOW",
        "SLOWLOG",
        ("[count]", 0, 1),
        "Requests that took long, the newest first.",
        Action::ShowSlowlog,
    ),
    word(
        "SHARD",
        "INFO",
        ("<n|db:d>", 1, 1),
        "One shard: its row of SHOW SHARDS and its slots.",
        Action::ShardInfo,
    ),
    word(
        "SHARD",
        "OF",
        ("<key>", 1, 1),
        "Slot, shard and node of a key.",
        Action::ShardOf,
    ),
    word(
        "SHARD",
        "MOVE",
        (
            "<n[-m][,...]> TO <node> [MANUAL] [VERIFY] [COPY SNAPSHOT|SCAN] [RATE bytes/s] [MAXPAUSE ms] [DRY]",
            3,
            10,
        ),
        "Moves shards to another node while they are served.",
        Action::ShardMove,
    ),
    word(
        "SHARD",
        "VERIFY",
        ("<n[-m][,...]|task> [SAMPLE keys|ALL]", 1, 3),
        "Compares what both nodes of a move hold, before its cutover or while it can be rolled back.",
        Action::ShardVerify,
    ),
    word(
        "SHARD",
        "PAUSE",
        ("<n[-m][,...]|db:d>", 1, 1),
        "Holds the requests of shards on all proxies, each for up to hold_max.",
        Action::ShardPause,
    ),
    word(
        "SHARD",
        "RESUME",
        ("<n[-m][,...]|db:d>", 1, 1),
        "Lets the requests of paused shards go.",
        Action::ShardResume,
    ),
    word(
        "NODE",
        "ADD",
        ("<name> <address>", 2, 2),
        "Adds a node without shards, after a look whether it fits.",
        Action::NodeAdd,
    ),
    word(
        "NODE",
        "REMOVE",
        ("<name>", 1, 1),
        "Removes a node that has no shards.",
        Action::NodeRemove,
    ),
    word(
        "NODE",
        "DRAIN",
        ("<name> [TO node[,node...]]", 1, 3),
        "Moves all shards of a node to others while they are served.",
        Action::NodeDrain,
    ),
    word(
        "NODE",
        "SET",
        ("<name> address <address> [FORCE]", 3, 4),
        "Says that another server has a node's data now; FORCE: or has none.",
        Action::NodeSet,
    ),
    word(
        "PLAN",
        "REBALANCE",
        ("[BY keys|ops|memory]", 0, 2),
        "Plans moves that even out the nodes. Nothing is moved.",
        Action::PlanRebalance,
    ),
    word(
        "PLAN",
        "SHOW",
        ("<id>", 1, 1),
        "A plan that was made, and whether it is stale.",
        Action::PlanShow,
    ),
    word(
        "PLAN",
        "APPLY",
        ("<id>", 1, 1),
        "Carries a plan out, as long as it is not stale.",
        Action::PlanApply,
    ),
    word("TASK", "LIST", NONE, "All tasks.", Action::TaskList),
    word(
        "TASK",
        "STATUS",
        ("<id>", 1, 1),
        "How far a task is.",
        Action::TaskStatus,
    ),
    word(
        "TASK",
        "CUTOVER",
        ("<id>", 1, 1),
        "Lets a task that waits for the word switch its shards over.",
        Action::TaskCutover,
    ),
    word(
        "TASK",
        "CANCEL",
        ("<id>", 1, 1),
        "Stops a task before its cutover.",
        Action::TaskCancel,
    ),
    word(
        "TASK",
        "ROLLBACK",
        ("<id>", 1, 1),
        "Brings moved shards back to their source, with all that was written since.",
        Action::TaskRollback,
    ),
    word(
        "TASK",
        "FINALIZE",
        ("<id>", 1, 1),
        "Clears what a finished move has left on its source.",
        Action::TaskFinalize,
    ),
    word(
        "EXPLAIN",
        "",
        ("<command> [argument ...]", 1, ANY),
        "Where a command would go, or why it would be refused. It is not run.",
        Action::Explain,
    ),
    word(
        "CONFIG",
        "GET",
        ("<key|pattern> [...]", 1, ANY),
        "The values in force of the keys that a pattern such as proxy.* means.",
        Action::ConfigGet,
    ),
    word(
        "CONFIG",
        "SET",
        ("<key> <value>", 2, 2),
        "Changes a setting while serving, until the next reload or restart; the file stays as it is.",
        Action::ConfigSet,
    ),
    word(
        "CONFIG",
        "RELOAD",
        NONE,
        "Reads the config file again and puts it in force, or says what is wrong and changes nothing.",
        Action::ConfigReload,
    ),
    word(
        "TOPOLOGY",
        "DUMP",
        NONE,
        "The whole topology as a JSON document.",
        Action::TopologyDump,
    ),
    word(
        "TOPOLOGY",
        "LOAD",
        ("<json> [FORCE]", 1, 2),
        "Puts a dumped topology in force, with a new epoch. Keys do not move with it.",
        Action::TopologyLoad,
    ),
    word(
        "TOPOLOGY",
        "EPOCH",
        NONE,
        "The version of the topology in force.",
        Action::TopologyEpoch,
    ),
];

/// The word that a request means, and the index of its first own argument.
pub(super) fn find(args: &Args<'_>) -> Result<(&'static Word, usize), String> {
    let Some(noun) = args.try_get(1) else {
        return Err("ERR wrong number of arguments for 'preshard' command. Try PRESHARD HELP.".to_owned());
    };
    let mut of_noun = WORDS.iter().filter(|word| is(noun, word.noun)).peekable();
    let Some(&first) = of_noun.peek() else {
        return Err(format!(
            "ERR unknown subcommand '{}'. Try PRESHARD HELP.",
            shown(noun)
        ));
    };
    let own_help = args
        .try_get(2)
        .filter(|verb| is(verb, "HELP"))
        .and_then(|_| help_of(first.noun));
    let (word, rest) = if let Some(help) = own_help {
        (help, 3)
    } else if first.verb.is_empty() {
        (first, 2)
    } else {
        let Some(verb) = args.try_get(2) else {
            let name = first.noun.to_ascii_lowercase();
            return Err(format!(
                "ERR wrong number of arguments for 'preshard|{name}' command. Try PRESHARD HELP {}.",
                first.noun
            ));
        };
        match of_noun.find(|word| is(verb, word.verb)) {
            Some(word) => (word, 3),
            None => {
                let verb = shown(verb);
                return Err(format!(
                    "ERR unknown subcommand '{verb}'. Try PRESHARD HELP {}.",
                    first.noun
                ));
            }
        }
    };
    let count = args.len().saturating_sub(rest);
    if count < word.arguments.0 || count > word.arguments.1 {
        let name = word.path().to_ascii_lowercase().replace(' ', "|");
        return Err(format!(
            "ERR wrong number of arguments for 'preshard|{name}' command. Usage: {}",
            word.line()
        ));
    }
    Ok((word, rest))
}

/// `PRESHARD SHARD HELP` of every noun but `EXPLAIN`, which explains the command of that name.
fn help_of(noun: &str) -> Option<&'static Word> {
    const HELPS: &[Word] = &[
        word("HELP", "HELP", NONE, "", Action::HelpOfNoun),
        word("VERSION", "HELP", NONE, "", Action::HelpOfNoun),
        word("INFO", "HELP", NONE, "", Action::HelpOfNoun),
        word("CHECK", "HELP", NONE, "", Action::HelpOfNoun),
        word("SHOW", "HELP", NONE, "", Action::HelpOfNoun),
        word("SHARD", "HELP", NONE, "", Action::HelpOfNoun),
        word("NODE", "HELP", NONE, "", Action::HelpOfNoun),
        word("PLAN", "HELP", NONE, "", Action::HelpOfNoun),
        word("TASK", "HELP", NONE, "", Action::HelpOfNoun),
        word("CONFIG", "HELP", NONE, "", Action::HelpOfNoun),
        word("TOPOLOGY", "HELP", NONE, "", Action::HelpOfNoun),
    ];
    HELPS.iter().find(|word| word.noun == noun)
}

pub(super) fn is(given: &[u8], word: &str) -> bool {
    given.eq_ignore_ascii_case(word.as_bytes())
}
