//! What two nodes say of themselves, and what follows for a move from one to the other.
//!
//! | looked at | refused | warned of |
//! |---|---|---|
//! | state | loading, cluster mode, a replica, modules, users that are missing | a child that is running, a last snapshot that failed, replicas that the target lacks |
//! | versions | fields that expire where the target has none | a target that is older: commands mode, commands that it does not know |
//! | target | too few databases, databases in use, memory | eviction while the copy is made |
//! | source | scripts that are replicated as such, memory for the fork; without one, no memory left | no memory left, little memory for the fork, other users that may write, replicas that must be there |
//! | both | clocks half a second apart, functions that differ | |

use super::super::scan::{DELAYED, is_delayed};
use super::look::Look;
use super::{Survey, named};
use crate::command::USER_PREFIX;
use crate::config::CopyMethod;
use crate::ids::DbIndex;
use crate::rdb::{Family, Target};

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Terms {
    /// Databases of the shards.
    pub(super) dbs: Vec<DbIndex>,
    /// Databases that every node needs.
    pub(super) databases: u64,
    /// The target has no shards, so clients' `FUNCTION LOAD` has not reached it.
    pub(super) idle: bool,
    /// How keys are copied.
    pub(super) copy: CopyMethod,
    /// Bytes in a second.
    pub(super) rate: Option<u64>,
    /// What the shards take, if that is known better than by their part of the keys.
    pub(super) bytes: Option<u64>,
}

/// What a copy does in a second: keys that are written …
const KEYS_PER_S: u64 = 120_000;
/// … bytes of values that are …
const BYTES_PER_S: u64 = 80_000_000;
/// … and bytes of the source's snapshot that are read, those of other databases included.
const SNAPSHOT_PER_S: u64 = 200_000_000;
/// Keys that are read in a second without a snapshot.
const SCANNED_PER_S: u64 = 40_000;
/// Until a copy counts as following.
const FOLLOWS_S: u64 = 2;
/// Clocks that are further apart make expiries wrong.
const SKEW_MAX_MS: u64 = 500;
/// Said of a node that cannot fence.
const COOPERATES: &str = "has no users of preshard: the move is cooperative, and rests on it that nobody writes there past proxies of this \
                          version. All requests of its shards are held in the cutover, for which each proxy must answer";
/// Said of a source that takes no writes.
const FULL: &str = "is at its maxmemory: the move goes on, but while that lasts the shards cannot be brought back by TASK ROLLBACK, and \
                    not be compared (VERIFY). What they take there is free after TASK FINALIZE";
/// What a page of memory is copied in by a write while a child lives.
const PAGE: u64 = 4096;

/// What would come of a move. A node that could not be asked is a reason to refuse.
pub(super) fn judge(source: &Result<Look, String>, target: &Result<Look, String>, terms: &Terms) -> Survey {
    let mut survey = Survey::default();
    if let Ok(source) = source {
        estimate(source, terms, &mut survey);
    }
    for node in [source, target] {
        match node {
            Ok(node) => state(node, &mut survey),
            Err(why) => survey.refusals.push(why.clone()),
        }
    }
    if let Ok(target) = target {
        room(target, terms, &mut survey);
    }
    if let Ok(source) = source {
        as_source(source, &mut survey);
        match terms.copy {
            CopyMethod::Snapshot => snapshot(source, &mut survey),
            CopyMethod::Scan => scan(source, &mut survey),
        }
    }
    if let (Ok(source), Ok(target)) = (source, target) {
        both(source, target, terms, &mut survey);
    }
    for node in [source, target].into_iter().flatten() {
        if node.user.is_empty() {
            survey.cooperative.push(node.name.clone());
            survey.warn(node, COOPERATES);
        }
    }
    survey
}

impl Survey {
    fn refuse(&mut self, node: &Look, why: &str) {
        self.refusals.push(format!("node '{}' {why}", node.name));
    }

    fn warn(&mut self, node: &Look, why: &str) {
        self.warnings.push(format!("node '{}' {why}", node.name));
    }
}

fn estimate(source: &Look, terms: &Terms, survey: &mut Survey) {
    let all: u64 = source.keyspace().map(|found| found.keys).sum();
    let dataset = source.dataset();
    survey.keys = source.keys_in(&terms.dbs);
    let part = u128::from(dataset) * u128::from(survey.keys) / u128::from(all.max(1));
    survey.bytes = terms
        .bytes
        .unwrap_or_else(|| u64::try_from(part).unwrap_or(u64::MAX));
    let written = (survey.keys / KEYS_PER_S)
        .max(survey.bytes / terms.rate.unwrap_or(BYTES_PER_S).clamp(1, BYTES_PER_S));
    let read = match terms.copy {
        CopyMethod::Snapshot => dataset / SNAPSHOT_PER_S,
        CopyMethod::Scan => survey.keys / SCANNED_PER_S,
    };
    survey.seconds = FOLLOWS_S + written.max(read);
}

/// What any node of a move must be.
fn state(node: &Look, survey: &mut Survey) {
    if node.number("loading") == 1 {
        survey.refuse(node, "is still loading its data; wait for it");
    }
    if node.number("cluster_enabled") == 1 {
        survey.refuse(node, "runs in cluster mode, in which there is one database only");
    }
    // Redis's own word for a primary.
    if node.field("role") != "master" {
        survey.refuse(node, "is no primary; NODE SET it to the address of its primary");
    }
    if !node.modules.is_empty() {
        let modules = node.modules.join(", ");
        let why = format!("has modules loaded ({modules}), whose values cannot be copied in this version");
        survey.refuse(node, &why);
    }
    let has_user = |line: &String| line.split(' ').nth(1) == Some(node.user.as_str());
    if !node.user.is_empty() && !node.users.iter().any(has_user) {
        let why = format!(
            "does not have preshard's user {}: it was restarted, or somebody has deleted it. The leader makes it anew within \
             seconds; try again",
            node.user
        );
        survey.refuse(node, &why);
    }
}

/// Whether the target has room.
fn room(target: &Look, terms: &Terms, survey: &mut Survey) {
    if let Ok(databases) = target.setting("databases").parse::<u64>()
        && databases < terms.databases
    {
        let why = format!(
            "has {databases} databases and needs {}: set `databases {}` in its configuration and restart it",
            terms.databases, terms.databases
        );
        survey.refuse(target, &why);
    }
    let in_use: Vec<DbIndex> = target
        .keyspace()
        .map(|found| found.db)
        .filter(|db| terms.dbs.contains(db) && !target.copies.contains(db))
        .collect();
    if !in_use.is_empty() {
        let why = format!(
            "has keys that are not preshard's in database {}; empty them, or choose another node",
            named(&in_use)
        );
        survey.refuse(target, &why);
    }
    let (used, comes) = (target.number("used_memory"), survey.bytes);
    let then = used.saturating_add(comes);
    let policy = target.field("maxmemory_policy");
    match target.memory_max() {
        Some(max) if then >= max => {
            let why = format!(
                "has {} of maxmemory {} in use, and about {} would come: more than 85 %. Raise maxmemory, move fewer shards, or \
                 choose another node",
                shown(used),
                shown(target.number("maxmemory")),
                shown(comes)
            );
            survey.refuse(target, &why);
        }
        Some(max) if policy != "noeviction" && then >= max / 10 * 9 => {
            let why = format!(
                "evicts keys ({policy}) and will be close to its limit: whatever is evicted while the copy is made ends the move"
            );
            survey.warn(target, &why);
        }
        Some(_) => {}
        None => {
            let (total, resident) = (
                target.number("total_system_memory"),
                target.number("used_memory_rss"),
            );
            if total > 0 && resident.saturating_add(comes) > total / 100 * 85 {
                let why = format!(
                    "has no maxmemory, takes {} of its machine's {}, and about {} would come",
                    shown(resident),
                    shown(total),
                    shown(comes)
                );
                survey.warn(target, &why);
            }
        }
    }
}

/// Whether the source can be copied.
fn as_source(source: &Look, survey: &mut Survey) {
    if source.setting("lua-replicate-commands") == "no" {
        survey.refuse(
            source,
            "replicates scripts instead of what they do; CONFIG SET lua-replicate-commands yes",
        );
    }
    if source.is_full() {
        survey.warn(source, FULL);
        survey.no_rollback = Some(format!("node '{}' is at its maxmemory", source.name));
    }
    let required = ["min-replicas-to-write", "min-slaves-to-write"]
        .map(|name| source.setting(name).parse::<u64>().unwrap_or(0));
    if required.iter().any(|replicas| *replicas > 0) {
        survey.warn(
            source,
            "writes only with replicas (min-replicas-to-write), and counts the copy as one of them while it lasts",
        );
    }
    let others: Vec<&str> = source
        .users
        .iter()
        .filter_map(|line| may_write(line, &source.login))
        .collect();
    if !others.is_empty() {
        let why = format!(
            "lets others write past preshard (users {}): what they write to these shards after the cutover is lost",
            others.join(", ")
        );
        survey.warn(source, &why);
    }
}

/// Whether the source can make a snapshot.
fn snapshot(source: &Look, survey: &mut Survey) {
    let children = [
        "rdb_bgsave_in_progress",
        "aof_rewrite_in_progress",
        "module_fork_in_progress",
    ];
    if children.iter().any(|child| source.number(child) == 1) {
        survey.warn(
            source,
            "has a child running (a snapshot or a rewrite of its log): the copy begins when it is done",
        );
    }
    if source.field("rdb_last_bgsave_status") == "err" {
        survey.warn(
            source,
            "could not write its last snapshot; see its log, since the copy needs one",
        );
    }
    fork(source, survey);
}

/// Whether its keys can be read beside the stream without any fork.
fn scan(source: &Look, survey: &mut Survey) {
    if source.is_full() {
        survey.refuse(
            source,
            "is at its maxmemory, where it lets nobody read many keys at one moment; move with COPY SNAPSHOT, or raise maxmemory",
        );
    }
    if source.number("repl_backlog_active") == 0
        && !is_delayed(source.setting(DELAYED[0]), source.setting(DELAYED[1]))
    {
        survey.refuse(
            source,
            "keeps no history of its writes yet, and would fork to begin with it; CONFIG SET repl-diskless-sync yes and \
             repl-diskless-sync-delay 5, or give it a replica",
        );
    }
}

/// The name of a user of neither preshard nor the server itself that may write, out of a line of `ACL LIST`.
fn may_write<'a>(line: &'a str, login: &str) -> Option<&'a str> {
    let mut words = line.split(' ');
    let name = words.nth(1)?;
    let rules: Vec<&str> = words.collect();
    let writes = rules
        .iter()
        .any(|rule| matches!(*rule, "+@all" | "+@write" | "allcommands"));
    // Whether `default` is open is CHECK's to say.
    let is_other = name != login && name != "default" && !name.starts_with(USER_PREFIX);
    (is_other && writes && rules.contains(&"on")).then_some(name)
}

/// The source forks once. Pages that are written meanwhile are there twice: as many as it writes in that time, at most all.
fn fork(source: &Look, survey: &mut Survey) {
    let (total, resident) = (
        source.number("total_system_memory"),
        source.number("used_memory_rss"),
    );
    if total == 0 {
        return;
    }
    let snapshot_s = 1 + source.dataset() / SNAPSHOT_PER_S;
    let written = source
        .number("instantaneous_ops_per_sec")
        .saturating_mul(PAGE)
        .saturating_mul(snapshot_s);
    // The tables of its pages are copied in any case.
    let twice = written
        .min(source.number("used_memory"))
        .saturating_add(resident / 512);
    let needed = resident.saturating_add(twice);
    let what = format!(
        "forks for the snapshot: it takes {}, and up to about {} more meanwhile, of its machine's {}",
        shown(resident),
        shown(twice),
        shown(total)
    );
    if needed > total {
        survey.refuse(
            source,
            &format!(
                "{what}. Give it more memory, move when less is written, or copy without a fork (SHARD MOVE … COPY SCAN)"
            ),
        );
    } else if needed > total / 100 * 85 {
        survey.warn(source, &what);
    }
}

/// Whether the two go together.
fn both(source: &Look, target: &Look, terms: &Terms, survey: &mut Survey) {
    let skew = source.ahead_ms.abs_diff(target.ahead_ms);
    // What may be due to slow answers is no reason.
    let sure = skew.saturating_sub(source.unsure_ms.saturating_add(target.unsure_ms));
    if sure >= SKEW_MAX_MS {
        survey.refusals.push(format!(
            "the clocks of nodes '{}' and '{}' are {skew} ms apart, so that keys would expire at another time; set them by NTP",
            source.name, target.name
        ));
    }
    if source.number("connected_slaves") > 0 && target.number("connected_slaves") == 0 {
        survey.warn(
            target,
            "has no replica, while the source has: what is moved there is on one machine only",
        );
    }
    functions(source, target, terms.idle, survey);
    match (source.version(), target.version()) {
        (Some(from), Some(to)) => versions((source, from), (target, to), terms, survey),
        _ => survey
            .refusals
            .push("a node does not say which version it is".to_owned()),
    }
}

fn functions(source: &Look, target: &Look, idle: bool, survey: &mut Survey) {
    let Some(of_source) = source
        .libraries
        .as_ref()
        .filter(|libraries| !libraries.is_empty())
    else {
        return;
    };
    let Some(of_target) = &target.libraries else {
        survey.refuse(
            target,
            "knows no functions, and the source has some (FUNCTION LIST)",
        );
        return;
    };
    let differ: Vec<String> = of_source
        .iter()
        .filter(|(name, code)| of_target.get(*name).is_some_and(|theirs| theirs != *code))
        .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
        .collect();
    if !differ.is_empty() && idle {
        let why = format!(
            "has no shards, and other code than the source in the libraries of functions {}: it is given the source's",
            differ.join(", ")
        );
        survey.warn(target, &why);
    } else if !differ.is_empty() {
        let why = format!(
            "has other code than the source in the libraries of functions {}; FUNCTION LOAD REPLACE through preshard makes them equal",
            differ.join(", ")
        );
        survey.refuse(target, &why);
    }
}

/// `DUMP` and `RESTORE` both ways, and commands that one does not know.
fn versions(
    (source, from): (&Look, Target),
    (target, to): (&Look, Target),
    terms: &Terms,
    survey: &mut Survey,
) {
    let expiring = source
        .keyspace()
        .any(|found| terms.dbs.contains(&found.db) && found.field_expires > 0);
    if from.expires_fields() && !to.expires_fields() && expiring {
        survey.refuse(
            target,
            "cannot let fields of hashes expire, and the shards have such fields; choose a newer node",
        );
    }
    if !to.restores(from.rdb_version()) {
        survey.warn(
            target,
            "does not take the source's payloads: values are copied as commands, which is slower",
        );
    }
    if is_behind(to, from) {
        survey.warn(
            target,
            "is older than the source, or of another family: a command that it does not know ends the move",
        );
    }
    if is_behind(from, to) {
        survey.no_rollback = Some(format!(
            "node '{}' is older than '{}', or of another family: a command that it does not know ends the way back",
            source.name, target.name
        ));
    }
}

/// Whether a server may lack commands that the other has.
fn is_behind(server: Target, other: Target) -> bool {
    let number = |target: Target| (target.major, target.minor);
    match (server.family, other.family) {
        (Family::Redis, Family::Redis) | (Family::Valkey, Family::Valkey) => number(server) < number(other),
        // Valkey knows all of Redis 7.2, and has gone its own way since.
        (Family::Valkey, Family::Redis) => number(other) > (7, 2),
        (Family::Redis, Family::Valkey) => true,
    }
}

/// Bytes as people read them.
fn shown(bytes: u64) -> String {
    match bytes {
        0..10_000_000 => format!("{} KB", bytes / 1_000),
        10_000_000..10_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}
