//! ACL words about commands: `+get`, `-@dangerous`, `+config|get`, as `ACL SETUSER` takes them.
//!
//! A word is applied to what was allowed before it, so their order counts. A container stands for all of its
//! subcommands.

use super::Rights;
use crate::command::{self, Categories, CommandId, Spec};

/// A set of commands and subcommands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    bits: Box<[u64]>,
}

/// What a word is about.
enum Meant {
    All,
    Category(Categories),
    Command(&'static Spec),
}

impl Allowed {
    /// No command.
    #[must_use]
    pub fn none() -> Self {
        Self {
            bits: vec![0; command::all().len().div_ceil(64)].into_boxed_slice(),
        }
    }

    /// Every command.
    #[must_use]
    pub fn all() -> Self {
        let mut all = Self::none();
        command::all().iter().for_each(|spec| all.set(spec, true));
        all
    }

    /// What rights stand for.
    #[must_use]
    pub fn by_rights(rights: Rights) -> Self {
        let mut allowed = Self::none();
        if rights != Rights::NONE {
            for spec in command::all().iter().filter(|spec| rights.grant(spec)) {
                allowed.set(spec, true);
            }
        }
        allowed
    }

    /// Whether a command is among them.
    #[inline]
    #[must_use]
    pub fn has(&self, id: CommandId) -> bool {
        let word = self.bits.get(id.index() / 64).copied().unwrap_or_default();
        word >> (id.index() % 64) & 1 != 0
    }

    /// Whether every command is among them.
    #[must_use]
    pub fn is_all(&self) -> bool {
        let mut commands = command::all().iter().filter(|spec| !spec.only_leads_on());
        commands.all(|spec| self.has(spec.id))
    }

    /// Applies a word. `false`: it is none.
    pub fn apply(&mut self, word: &str) -> bool {
        let Some((allow, meant)) = parse(word) else {
            return false;
        };
        match meant {
            Meant::All => command::all().iter().for_each(|spec| self.set(spec, allow)),
            Meant::Category(category) => {
                let of_it = command::all().iter();
                of_it
                    .filter(|spec| spec.facts.categories.has(category))
                    .for_each(|spec| self.set(spec, allow));
            }
            Meant::Command(spec) => {
                self.set(spec, allow);
                let subcommands = spec.facts.subcommands.iter();
                subcommands
                    .filter_map(|&id| command::by_id(id))
                    .for_each(|spec| self.set(spec, allow));
            }
        }
        true
    }

    /// A container that does nothing by itself has no bit of its own.
    fn set(&mut self, spec: &Spec, allow: bool) {
        let at = spec.id.index();
        if let Some(word) = self.bits.get_mut(at / 64).filter(|_| !spec.only_leads_on()) {
            *word = *word & !(1 << (at % 64)) | u64::from(allow) << (at % 64);
        }
    }

    /// The set as ACL words that make it again: out of nothing or out of everything, whichever takes fewer.
    #[must_use]
    pub fn text(&self) -> String {
        let commands = || command::all().iter().filter(|spec| !spec.only_leads_on());
        let allowed = commands().filter(|spec| self.has(spec.id)).count();
        let from_all = allowed > commands().count() / 2;
        let mut text = if from_all { "+@all" } else { "-@all" }.to_owned();
        let mut push = |allow: bool, spec: &Spec| {
            text.push_str(if allow { " +" } else { " -" });
            text.push_str(spec.name);
        };
        for spec in command::all().iter().filter(|spec| spec.facts.parent.is_none()) {
            let subcommands = || spec.facts.subcommands.iter().filter_map(|&id| command::by_id(id));
            // What most of them are, said of all of them; then the others.
            let own = if spec.only_leads_on() {
                let of_them = subcommands().filter(|other| self.has(other.id)).count();
                if of_them == subcommands().count() {
                    true
                } else {
                    of_them > 0 && from_all
                }
            } else {
                self.has(spec.id)
            };
            if own != from_all {
                push(own, spec);
            }
            for other in subcommands().filter(|other| self.has(other.id) != own) {
                push(!own, other);
            }
        }
        text
    }
}

/// Whether this is an ACL word about commands that are known.
#[must_use]
pub fn is_command_word(word: &str) -> bool {
    parse(word).is_some()
}

fn parse(word: &str) -> Option<(bool, Meant)> {
    match word {
        "allcommands" => return Some((true, Meant::All)),
        "nocommands" => return Some((false, Meant::All)),
        _ => {}
    }
    let (allow, name) = match word.split_at_checked(1)? {
        ("+", name) => (true, name),
        ("-", name) => (false, name),
        _ => return None,
    };
    let meant = match name.strip_prefix('@') {
        Some(category) if category.eq_ignore_ascii_case("all") => Meant::All,
        Some(category) => Meant::Category(Categories::word(category.as_bytes())?),
        None => Meant::Command(by_name(name)?),
    };
    Some((allow, meant))
}

fn by_name(name: &str) -> Option<&'static Spec> {
    match name.split_once('|') {
        None => command::lookup(name.as_bytes()),
        Some((container, name)) => {
            let container = command::lookup(container.as_bytes())?;
            command::subcommand(container, name.as_bytes())
        }
    }
}
