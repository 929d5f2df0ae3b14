//! What was found, for people and for machines: the verdict first, then why and what to do, then everything.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::Audit;
use super::judge::{Example, Hindrance};
use super::tally::{Noted, Row, Who};
use crate::command::{self, CommandId, Spec};

/// Lines of one reason, and of the list of commands, for people; JSON has all.
const LINES_MAX: usize = 20;
const UNKNOWN: &str = "(unknown)";

/// What the audit does not know of itself.
#[derive(Clone, Debug)]
pub struct Circumstances {
    /// Where clients connected.
    pub listen: String,
    /// The server behind.
    pub node: String,
    /// How long it has looked.
    pub elapsed: Duration,
    /// Clients that could not be connected to the server.
    pub unconnected: u64,
}

impl Hindrance {
    const fn word(self) -> &'static str {
        match self {
            Self::KeysApart => "keys-apart",
            Self::NoKeys => "no-keys",
            Self::AnyKeys => "any-keys",
            Self::Transaction => "transaction",
            Self::Watch => "watch",
            Self::Queued => "queued",
            Self::Code => "code",
            Self::Database => "database",
            Self::Unknown => "unknown",
            Self::Refused => "refused",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::KeysApart => "keys of one command on different shards (CROSSSLOT)",
            Self::NoKeys => "a script or command that names no key (CROSSSLOT)",
            Self::AnyKeys => "a command that reaches keys that it does not name (CROSSSLOT)",
            Self::Transaction => "a transaction over several shards (CROSSSLOT, EXECABORT)",
            Self::Watch => "watched keys on different shards (CROSSSLOT)",
            Self::Queued => "a command that cannot stand between MULTI and EXEC",
            Self::Code => "code that leaves its database",
            Self::Database => "a database that there would not be",
            Self::Unknown => "a command that preshard does not know",
            Self::Refused => "a command that preshard refuses",
        }
    }

    const fn remedy(self) -> &'static str {
        match self {
            Self::KeysApart | Self::Watch => {
                "give keys that are used together one hash tag ({user:42}:name, {user:42}:mail), or use a pinned database"
            }
            Self::NoKeys => {
                "declare its keys, all with one hash tag (EVAL script 1 {jobs}:queue …), or use a pinned database"
            }
            Self::AnyKeys => {
                "put a hash tag before the * of its BY and GET patterns, the same as in its key, or use a pinned database"
            }
            Self::Transaction => {
                "give all keys between MULTI and EXEC one hash tag, or use a pinned database; what need not be atomic can \
                 be a pipeline without MULTI"
            }
            Self::Queued => "send it before MULTI or after EXEC",
            Self::Code => {
                "scripts must not call SELECT, MOVE, SWAPDB, MIGRATE, FLUSHALL or COPY … DB; change the script"
            }
            Self::Database => "raise [topology] pinned before the first start, or use lower numbers",
            Self::Unknown => {
                "it belongs to a module, or is newer than this version; the application must do without it"
            }
            Self::Refused => "the application must do without it, or ask the server behind directly",
        }
    }
}

/// The sums that the verdict is made of.
struct Sums {
    requests: u64,
    wrong: u64,
    sharded: u64,
    pinned: u64,
    as_sent: u64,
}

/// One line of a reason.
struct Found<'a> {
    who: Who,
    command: String,
    calls: u64,
    noted: &'a Noted,
}

impl Audit {
    fn sums(&self) -> Sums {
        let sum = |of: fn(&Row) -> u64| self.tally.rows.values().map(of).sum();
        Sums {
            requests: self.tally.requests,
            wrong: sum(|row| row.wrong),
            sharded: sum(|row| row.sharded),
            pinned: sum(|row| row.pinned),
            as_sent: sum(|row| row.as_sent),
        }
    }

    /// One sentence.
    fn verdict(&self, sums: &Sums) -> String {
        let mut text = self.judgement(sums);
        let blind: u64 = self.tally.blind.values().sum();
        if sums.as_sent == 0 && self.tally.scripts > 0 {
            text.push_str(", if its scripts stay with the keys that they declare");
        }
        if blind > 0 {
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "; {} could not be judged to the end",
                several(blind, "client")
            );
        }
        text
    }

    fn judgement(&self, sums: &Sums) -> String {
        let pinned = self.options.pinned;
        let &Sums {
            requests, as_sent, ..
        } = sums;
        if requests == 0 {
            return "nothing was seen; let an application use the address above".to_owned();
        }
        if as_sent == 0 {
            return format!("all {requests} requests would run through preshard as they were sent");
        }
        let nowhere = sums.pinned.min(as_sent);
        let elsewhere = match nowhere {
            0 => format!("all of them would run in a pinned database (SELECT 1 to {pinned}), unchanged"),
            _ if nowhere == as_sent => {
                "a pinned database would not help: the application must change".to_owned()
            }
            _ => format!(
                "{} of them would run in a pinned database (SELECT 1 to {pinned}), {nowhere} nowhere: there the \
                 application must change",
                as_sent - nowhere
            ),
        };
        let part = percent(as_sent, requests);
        format!(
            "{as_sent} of {requests} requests ({part}) would not run through preshard as they were sent; {elsewhere}"
        )
    }

    /// What was found, by reason, the most frequent first.
    fn reasons(&self) -> Vec<(Hindrance, Vec<Found<'_>>)> {
        let mut reasons: BTreeMap<Hindrance, Vec<Found<'_>>> = BTreeMap::new();
        for (&(who, command), row) in &self.tally.rows {
            for (&hindrance, noted) in &row.findings {
                reasons.entry(hindrance).or_default().push(Found {
                    who,
                    command: title(command),
                    calls: row.calls,
                    noted,
                });
            }
        }
        let mut reasons: Vec<_> = reasons.into_iter().collect();
        for (_, found) in &mut reasons {
            found.sort_by_key(|found| std::cmp::Reverse(found.noted.count));
        }
        reasons.sort_by_key(|(_, found)| std::cmp::Reverse(count(found)));
        reasons
    }

    /// Rows, the most frequent first.
    fn rows(&self) -> Vec<(Who, Option<u16>, &Row)> {
        let rows = self.tally.rows.iter();
        let mut rows: Vec<_> = rows.map(|(&(who, command), row)| (who, command, row)).collect();
        rows.sort_by_key(|(_, _, row)| std::cmp::Reverse(row.calls));
        rows
    }

    /// What an audit of requests cannot see.
    fn blind_spots(&self) -> Vec<String> {
        let mut spots = Vec::new();
        if self.tally.scripts > 0 {
            spots.push(format!(
                "{} calls of scripts and functions would run with the keys that they declare. Keys that a script makes up, or \
                 takes out of ARGV, cannot be seen from outside: on database 0 they would be missed. Read these scripts, or \
                 use a pinned database",
                self.tally.scripts
            ));
        }
        for (client, times) in &self.tally.blind {
            spots.push(format!(
                "{times} x {client}; its requests from there on were passed on and not judged"
            ));
        }
        spots.push(
            "only requests are looked at, not their replies: SELECT and MULTI are taken to succeed"
                .to_owned(),
        );
        spots
    }

    /// The report for people.
    #[must_use]
    pub fn text(&self, about: &Circumstances) -> String {
        let (sums, tally) = (self.sums(), &self.tally);
        let mut text = format!(
            "preshard audit: {} in front of {}, {} s, {}, {}\nassumed: {} shards in database 0, {} pinned \
             databases\n\nVERDICT: {}.\n",
            about.listen,
            about.node,
            about.elapsed.as_secs(),
            several(tally.connections, "client"),
            several(sums.requests, "request"),
            self.options.shards,
            self.options.pinned,
            self.verdict(&sums)
        );
        if sums.requests > 0 {
            let mut line = |what: &str, fails: u64| {
                let runs = sums.requests.saturating_sub(sums.wrong + fails);
                let _ = writeln!(
                    text,
                    "  {what:24} {runs:>10} would run, {fails:>8} would not ({})",
                    percent(fails, sums.requests)
                );
            };
            line("all on database 0:", sums.sharded);
            line("all in a pinned database:", sums.pinned);
        }
        if sums.wrong > 0 {
            let _ = writeln!(
                text,
                "  errors in Redis itself, such as a wrong number of arguments: {}",
                requests(sums.wrong)
            );
        }
        if tally.databases.len() > 1 || tally.databases.keys().any(|&db| db > 0) {
            text.push_str("\nDatabases in use (SELECT), and requests\n");
            for (db, requests) in &tally.databases {
                let what = if *db == 0 {
                    "sharded"
                } else {
                    "pinned, one whole shard"
                };
                let _ = writeln!(text, "  {db:>5}  {requests:>10}  {what}");
            }
        }
        if tally.transactions > 0 {
            let _ = writeln!(
                text,
                "\nTransactions: {}, {} of them over several shards of database 0",
                tally.transactions, tally.transactions_apart
            );
        }
        self.text_reasons(&mut text);
        self.text_commands(&mut text);
        text.push_str("\nNot seen\n");
        if about.unconnected > 0 {
            let _ = writeln!(
                text,
                "  * {}: the server behind did not take them",
                several(about.unconnected, "client")
            );
        }
        for spot in self.blind_spots() {
            let _ = writeln!(text, "  * {spot}");
        }
        text
    }

    fn text_reasons(&self, text: &mut String) {
        let reasons = self.reasons();
        if !reasons.is_empty() {
            text.push_str("\nWhat would not run, and what to do\n");
        }
        for (hindrance, found) in reasons {
            let _ = writeln!(text, "\n  {}: {}", hindrance.title(), requests(count(&found)));
            let _ = writeln!(text, "    do: {}", hindrance.remedy());
            for found in found.iter().take(LINES_MAX) {
                let noted = found.noted;
                let (name, times) = (
                    self.tally.name(found.who),
                    format!("{} of {}", noted.count, found.calls),
                );
                let _ = write!(text, "    {:20} {name:20} {times:>16}", found.command);
                let mut remarks: Vec<String> = noted.examples.iter().take(1).map(example).collect();
                if hindrance == Hindrance::Unknown {
                    remarks = noted.examples.iter().map(example).collect();
                }
                if !noted.reason.is_empty() {
                    remarks.push(noted.reason.to_owned());
                }
                if noted.everywhere && hindrance < Hindrance::Code {
                    remarks.push("in a pinned database too".to_owned());
                }
                let _ = writeln!(text, "  {}", remarks.join("; "));
            }
            if found.len() > LINES_MAX {
                let _ = writeln!(text, "    … {} more, see --json", found.len() - LINES_MAX);
            }
        }
    }

    fn text_commands(&self, text: &mut String) {
        let rows = self.rows();
        if rows.is_empty() {
            return;
        }
        let _ = writeln!(
            text,
            "\nAll commands\n  {:20} {:20} {:>10} {:12} {:>12} {:>12}",
            "command", "client", "calls", "served", "not on db 0", "not pinned"
        );
        for (who, command, row) in rows.iter().take(LINES_MAX) {
            let _ = writeln!(
                text,
                "  {:20} {:20} {:>10} {:12} {:>12} {:>12}",
                title(*command),
                self.tally.name(*who),
                row.calls,
                word(*command),
                row.sharded,
                row.pinned
            );
        }
        if rows.len() > LINES_MAX {
            let _ = writeln!(text, "  … {} more rows, see --json", rows.len() - LINES_MAX);
        }
    }

    /// The report for machines.
    #[must_use]
    pub fn json(&self, about: &Circumstances) -> Json {
        let (sums, tally) = (self.sums(), &self.tally);
        let reasons: Vec<Json> = self
            .reasons()
            .iter()
            .flat_map(|(hindrance, found)| found.iter().map(|found| self.json_reason(*hindrance, found)))
            .collect();
        let rows = self.rows();
        let commands: Vec<Json> = rows
            .iter()
            .map(|(who, command, row)| {
                json!({
                    "command": title(*command),
                    "client": tally.name(*who),
                    "served": word(*command),
                    "calls": row.calls,
                    "wrong": row.wrong,
                    "not_on_db_0": row.sharded,
                    "not_pinned": row.pinned,
                    "not_as_sent": row.as_sent,
                })
            })
            .collect();
        let databases: serde_json::Map<String, Json> = tally
            .databases
            .iter()
            .map(|(db, requests)| (db.to_string(), json!(requests)))
            .collect();
        json!({
            "listen": about.listen,
            "node": about.node,
            "seconds": about.elapsed.as_secs(),
            "shards": self.options.shards,
            "pinned": self.options.pinned,
            "clients": tally.connections,
            "clients_unconnected": about.unconnected,
            "requests": sums.requests,
            "wrong": sums.wrong,
            "not_on_db_0": sums.sharded,
            "not_pinned": sums.pinned,
            "not_as_sent": sums.as_sent,
            "verdict": self.verdict(&sums),
            "databases": databases,
            "transactions": tally.transactions,
            "transactions_over_shards": tally.transactions_apart,
            "findings": reasons,
            "commands": commands,
            "not_seen": self.blind_spots(),
        })
    }

    fn json_reason(&self, hindrance: Hindrance, found: &Found<'_>) -> Json {
        let noted = found.noted;
        json!({
            "why": hindrance.word(),
            "what": hindrance.title(),
            "remedy": hindrance.remedy(),
            "reason": noted.reason,
            "command": found.command,
            "client": self.tally.name(found.who),
            "count": noted.count,
            "calls": found.calls,
            "also_pinned": noted.everywhere,
            "examples": noted.examples.iter().map(example).collect::<Vec<_>>(),
        })
    }
}

fn count(found: &[Found<'_>]) -> u64 {
    found.iter().map(|found| found.noted.count).sum()
}

fn spec(command: Option<u16>) -> Option<&'static Spec> {
    command.and_then(|id| command::by_id(CommandId(id)))
}

fn title(command: Option<u16>) -> String {
    spec(command).map_or_else(|| UNKNOWN.to_owned(), Spec::title)
}

fn word(command: Option<u16>) -> &'static str {
    spec(command).map_or("refused", |spec| spec.class.word())
}

fn example(example: &Example) -> String {
    match example {
        Example::Keys(keys) => {
            let shown = |(key, shard): &(Vec<u8>, _)| match key.as_slice() {
                [] => format!("a key of shard {shard}"),
                key => format!("'{}' (shard {shard})", printable(key)),
            };
            format!("{} and {}", shown(&keys[0]), shown(&keys[1]))
        }
        Example::Name(name) => printable(name),
        Example::Database(db) => format!("SELECT {db}"),
    }
}

/// What came over the network never reaches a terminal as a control character.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

fn requests(count: u64) -> String {
    several(count, "request")
}

fn several(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

fn percent(part: u64, whole: u64) -> String {
    let tenths = (part * 1000).checked_div(whole).unwrap_or(0);
    if tenths == 0 && part > 0 {
        return "under 0.1 %".to_owned();
    }
    format!("{}.{} %", tenths / 10, tenths % 10)
}
