//! Users of a model node, and what they may do. A node without users serves everybody, as Redis 5 does.

use std::collections::{BTreeMap, BTreeSet};

use super::faults::Users;
use super::node::Words;
use super::world::World;
use crate::command::UNIT_PREFIX;
use crate::config::{PasswordHash, Secret};
use crate::resp::Value;

const NOPERM: &str = "NOPERM User has no permissions to run the command";
const UNKNOWN: &str = "ERR unknown command 'ACL'";

#[derive(Clone, Copy, Debug, Default)]
struct Rights {
    all: bool,
    read: bool,
    select: bool,
    ping: bool,
}

#[derive(Clone, Debug, Default)]
struct User {
    hash: Vec<u8>,
    rights: Rights,
}

#[derive(Debug, Default)]
pub(super) struct Accounts {
    /// It knows no users: whoever connects may do everything.
    open: bool,
    users: BTreeMap<String, User>,
    /// Those on its disk.
    saved: BTreeMap<String, User>,
    /// Users of moving shards that have lost their rights.
    frozen: BTreeSet<String>,
}

impl Accounts {
    pub(super) fn new(open: bool) -> Self {
        Self {
            open,
            ..Self::default()
        }
    }

    pub(super) const fn is_open(&self) -> bool {
        self.open
    }

    pub(super) fn make(&mut self, user: &str, password: &Secret) {
        let hash = PasswordHash::of(password.reveal().as_bytes())
            .to_acl()
            .into_bytes();
        let rights = Rights {
            all: true,
            ..Rights::default()
        };
        self.users.insert(user.to_owned(), User { hash, rights });
        self.save();
    }

    pub(super) fn save(&mut self) {
        self.saved = self.users.clone();
    }

    pub(super) fn restart(&mut self, users: Users) {
        match users {
            Users::Kept => {}
            Users::Saved => self.users = self.saved.clone(),
            Users::Lost => self.users.clear(),
        }
    }

    /// Whether a user of such a name may do anything.
    pub(super) fn may_write(&self, is: impl Fn(&str) -> bool) -> bool {
        self.users.iter().any(|(name, user)| is(name) && user.rights.all)
    }

    /// Why a command is not taken.
    pub(super) fn refusal(&self, user: &str, command: &str) -> Option<&'static str> {
        if self.open {
            return (command == "ACL").then_some(UNKNOWN);
        }
        if user.starts_with("admin-") {
            return None;
        }
        let rights = self
            .users
            .get(user)
            .map_or_else(Rights::default, |user| user.rights);
        let may = match command {
            "PING" if rights.ping => true,
            "SELECT" if rights.select => true,
            "GET" | "DBSIZE" if rights.read => true,
            _ => rights.all,
        };
        (!may).then_some(NOPERM)
    }

    pub(super) fn knows(&self, user: &str, password: &[u8]) -> bool {
        let hash = || PasswordHash::of(password).to_acl().into_bytes();
        user.starts_with("admin-") || self.users.get(user).is_some_and(|known| known.hash == hash())
    }

    /// `ACL …`. The users that are gone behind it, too.
    pub(super) fn change(&mut self, world: &World, node: &str, words: &Words) -> (Value, Vec<String>) {
        let word = |at: usize| String::from_utf8_lossy(&words[at]).into_owned();
        let reply = match word(1).to_ascii_uppercase().as_str() {
            "USERS" => Value::Array(self.users.keys().map(|user| Value::bulk(user.as_str())).collect()),
            "LIST" => {
                let lines = self
                    .users
                    .keys()
                    .map(|user| Value::bulk(format!("user {user} on")));
                Value::Array(lines.collect())
            }
            "SETUSER" => {
                self.set(world, node, &word(2), &words[3..]);
                Value::OK
            }
            "DELUSER" => {
                let named = (2..words.len()).map(word);
                let gone: Vec<_> = named.filter(|name| self.users.remove(name).is_some()).collect();
                world.tell(|| format!("{node} users {gone:?} deleted"));
                return (Value::Int(i64::try_from(gone.len()).unwrap()), gone);
            }
            other => Value::error(format!("ERR unknown ACL {other}")),
        };
        (reply, Vec::new())
    }

    fn set(&mut self, world: &World, node: &str, name: &str, rules: &[Vec<u8>]) {
        let user = self.users.entry(name.to_owned()).or_default();
        for rule in rules {
            match rule.as_slice() {
                b"reset" => *user = User::default(),
                b"+@all" => user.rights.all = true,
                b"-@all" => user.rights = Rights::default(),
                b"+@read" => user.rights.read = true,
                b"+select" => user.rights.select = true,
                b"+ping" => user.rights.ping = true,
                hash if hash.first() == Some(&b'#') => user.hash = hash.to_vec(),
                _ => {}
            }
        }
        let rights = user.rights;
        if name.starts_with(UNIT_PREFIX) && !rights.all {
            self.frozen.insert(name.to_owned());
        } else if self.frozen.contains(name) {
            world.judge.wrong(world, || {
                format!("I2: {name} has lost its rights on {node}, and gets them back")
            });
        }
        world.tell(|| format!("{node} user {name} {rights:?}"));
    }
}
