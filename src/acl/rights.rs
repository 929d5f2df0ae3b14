//! Rights, and the commands that each stands for.
//!
//! Whatever is not named below needs the admin right: a command that is new to the table is nobody's by accident.

use std::fmt;

use crate::command::{Class, FanOut, Flags, Local, PubSub, Script, Spec};

/// A set of rights.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// None.
    pub const NONE: Self = Self(0);
    /// Commands that only read, and subscriptions.
    pub const READ: Self = Self(1);
    /// Commands that write, and `PUBLISH`.
    pub const WRITE: Self = Self(1 << 1);
    /// Everything about the server, and all words of `PRESHARD`.
    pub const ADMIN: Self = Self(1 << 2);
    /// What shows the state of the server, and the words of `PRESHARD` that change nothing.
    pub const MONITOR: Self = Self(1 << 3);

    /// All of them, with their words in the settings.
    pub const WORDS: [(&'static str, Self); 4] = [
        ("read", Self::READ),
        ("write", Self::WRITE),
        ("admin", Self::ADMIN),
        ("monitor", Self::MONITOR),
    ];

    /// The right of a word.
    #[must_use]
    pub fn word(word: &str) -> Option<Self> {
        Self::WORDS
            .iter()
            .find(|(known, _)| *known == word)
            .map(|&(_, right)| right)
    }

    /// Both together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are among them.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether some word of `PRESHARD` may be said.
    #[must_use]
    pub const fn may_administer(self) -> bool {
        self.0 & (Self::ADMIN.0 | Self::MONITOR.0) != 0
    }

    /// Whether they stand for a command.
    pub(super) fn grant(self, spec: &Spec) -> bool {
        let (read, write, admin) = (self.has(Self::READ), self.has(Self::WRITE), self.has(Self::ADMIN));
        match spec.class {
            _ if spec.flags.has(Flags::NO_AUTH) => true,
            Class::Single | Class::Iterate | Class::SameShard | Class::Split(_) | Class::Blocking => {
                if spec.is_write() { write } else { read }
            }
            // A script may write without saying so.
            Class::Script(Script::Eval | Script::Evalsha | Script::Fcall) => {
                read && (write || spec.name.ends_with("_ro"))
            }
            Class::FanOut(FanOut::ScriptFlush) => write,
            Class::FanOut(_) | Class::Helper(_) => {
                if spec.is_write() {
                    write
                } else {
                    read
                }
            }
            Class::Transaction(_) => read || write,
            Class::PubSub(PubSub::Publish | PubSub::Spublish) => write,
            Class::PubSub(PubSub::Unsubscribe | PubSub::Punsubscribe | PubSub::Sunsubscribe) => true,
            Class::PubSub(_) => read,
            Class::Local(local) => self.grant_local(local),
            Class::Refused(_) => admin,
        }
    }

    fn grant_local(self, local: Local) -> bool {
        match local {
            // What clients send when they connect, and about themselves.
            Local::Hello
            | Local::Auth
            | Local::Select
            | Local::Ping
            | Local::Echo
            | Local::Quit
            | Local::Reset
            | Local::Time
            | Local::Role
            | Local::Wait
            | Local::Command
            | Local::CommandCount
            | Local::CommandDocs
            | Local::CommandGetkeys
            | Local::CommandGetkeysandflags
            | Local::CommandInfo
            | Local::CommandList
            | Local::Help
            | Local::ClientCaching
            | Local::ClientGetname
            | Local::ClientGetredir
            | Local::ClientId
            | Local::ClientInfo
            | Local::ClientNoEvict
            | Local::ClientNoTouch
            | Local::ClientReply
            | Local::ClientSetinfo
            | Local::ClientSetname
            | Local::ClientTracking
            | Local::ClientTrackinginfo
            | Local::Cluster(_)
            | Local::AclCat
            | Local::AclWhoami => true,
            // Some libraries wait for it before they send anything else.
            Local::Info => self != Self::NONE,
            Local::ClientList
            | Local::ConfigGet
            | Local::ModuleList
            | Local::MemoryDoctor
            | Local::LatencyDoctor
            | Local::LatencyGraph
            | Local::LatencyHistogram
            | Local::LatencyHistory
            | Local::LatencyLatest
            | Local::SlowlogGet
            | Local::SlowlogLen
            | Local::Preshard => self.may_administer(),
            _ => self.has(Self::ADMIN),
        }
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = Self::WORDS.iter().filter(|(_, right)| self.has(*right));
        f.write_str(&words.map(|&(word, _)| word).collect::<Vec<_>>().join("+"))
    }
}
