//! Counts by client and command, and a few examples of each reason: bounded, whatever clients send.

use std::collections::BTreeMap;

use super::judge::{Example, Finding, Hindrance, Judged, Outcome};
use crate::command::{Class, Spec};

/// Names of clients that are told apart; later ones share a row.
const NAMES_MAX: usize = 64;
/// Examples of one reason in one row.
const EXAMPLES_MAX: usize = 4;
/// Databases that are told apart.
const DATABASES_MAX: usize = 256;
/// Lines about clients that could not be judged.
const BLIND_MAX: usize = 16;

/// A client's name, by its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Who(u16);

/// Who has not said who it is.
pub(super) const NAMELESS: Who = Who(0);
const OTHERS: Who = Who(1);

/// One client's use of one command.
#[derive(Debug, Default)]
pub(super) struct Row {
    pub(super) calls: u64,
    /// Of `calls`: Redis itself answers with an error.
    pub(super) wrong: u64,
    /// Of `calls`: would not run on database 0, or in a pinned database.
    pub(super) sharded: u64,
    pub(super) pinned: u64,
    /// Of `calls`: would not run in the database that it was sent to.
    pub(super) as_sent: u64,
    pub(super) findings: BTreeMap<Hindrance, Noted>,
}

/// One reason in one row.
#[derive(Debug, Default)]
pub(super) struct Noted {
    pub(super) count: u64,
    /// Also in a pinned database.
    pub(super) everywhere: bool,
    pub(super) reason: &'static str,
    pub(super) examples: Vec<Example>,
}

/// All counts.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) show_keys: bool,
    pub(super) connections: u64,
    pub(super) requests: u64,
    pub(super) names: Vec<String>,
    /// By client and command; a command that is unknown is none.
    pub(super) rows: BTreeMap<(Who, Option<u16>), Row>,
    pub(super) databases: BTreeMap<u16, u64>,
    pub(super) transactions: u64,
    /// Of `transactions`: have keys of several shards of database 0.
    pub(super) transactions_apart: u64,
    /// Calls of scripts that name keys: what else they reach cannot be seen.
    pub(super) scripts: u64,
    /// Clients that could not be judged to their end, by reason.
    pub(super) blind: BTreeMap<String, u64>,
}

impl Tally {
    pub(super) fn new(show_keys: bool) -> Self {
        Self {
            show_keys,
            connections: 0,
            requests: 0,
            names: vec!["(no name)".to_owned(), "(others)".to_owned()],
            rows: BTreeMap::new(),
            databases: BTreeMap::new(),
            transactions: 0,
            transactions_apart: 0,
            scripts: 0,
            blind: BTreeMap::new(),
        }
    }

    /// The number of a client's name.
    pub(super) fn who(&mut self, name: &str) -> Who {
        if name.is_empty() {
            return NAMELESS;
        }
        let known = self.names.iter().position(|known| known == name);
        let at = known.or_else(|| {
            (self.names.len() < NAMES_MAX).then(|| {
                self.names.push(name.to_owned());
                self.names.len() - 1
            })
        });
        at.and_then(|at| u16::try_from(at).ok()).map_or(OTHERS, Who)
    }

    /// The name behind a number.
    pub(super) fn name(&self, who: Who) -> &str {
        self.names.get(usize::from(who.0)).map_or("", String::as_str)
    }

    /// Counts a request that was sent to database `db`.
    pub(super) fn count(&mut self, who: Who, judged: Judged, db: u16) {
        let Judged {
            spec,
            sharded,
            pinned,
            ..
        } = judged;
        self.requests += 1;
        let is_told = self.databases.len() < DATABASES_MAX || self.databases.contains_key(&db);
        if is_told && spec.is_none_or(|spec| !matches!(spec.class, Class::Local(_))) {
            *self.databases.entry(db).or_default() += 1;
        }
        self.note_kind(spec, &sharded);
        let row = self.rows.entry((who, spec.map(|spec| spec.id.0))).or_default();
        row.calls += 1;
        row.wrong += u64::from(sharded == Outcome::Wrong);
        let fails = |outcome: &Outcome| matches!(outcome, Outcome::Fails(_));
        let (on_sharded, on_pinned) = (fails(&sharded), fails(&pinned));
        row.sharded += u64::from(on_sharded);
        row.pinned += u64::from(on_pinned);
        row.as_sent += u64::from(if db == 0 { on_sharded } else { on_pinned });
        if let Outcome::Fails(finding) = sharded {
            row.note(finding, on_pinned, self.show_keys);
        } else if let Outcome::Fails(finding) = pinned {
            row.note(finding, true, self.show_keys);
        }
    }

    fn note_kind(&mut self, spec: Option<&Spec>, sharded: &Outcome) {
        let Some(spec) = spec else { return };
        if spec.name == "exec" && *sharded != Outcome::Wrong {
            self.transactions += 1;
            let apart = matches!(sharded, Outcome::Fails(found) if found.hindrance == Hindrance::Transaction);
            self.transactions_apart += u64::from(apart);
        }
        self.scripts += u64::from(matches!(spec.class, Class::Script(_)) && *sharded == Outcome::Runs);
    }

    /// A client that cannot be judged any more.
    pub(super) fn cannot_judge(&mut self, who: Who, why: &str) {
        let mut line = format!("{}: {why}", self.name(who));
        if self.blind.len() >= BLIND_MAX && !self.blind.contains_key(&line) {
            "(others)".clone_into(&mut line);
        }
        *self.blind.entry(line).or_default() += 1;
    }
}

impl Row {
    fn note(&mut self, finding: Finding, everywhere: bool, show_keys: bool) {
        let noted = self.findings.entry(finding.hindrance).or_default();
        noted.count += 1;
        noted.everywhere |= everywhere;
        noted.reason = finding.reason;
        let Some(example) = finding.example else { return };
        let example = match example {
            Example::Keys(keys) if !show_keys => Example::Keys(keys.map(|(_, shard)| (Vec::new(), shard))),
            shown => shown,
        };
        if noted.examples.len() < EXAMPLES_MAX && !noted.examples.contains(&example) {
            noted.examples.push(example);
        }
    }
}
