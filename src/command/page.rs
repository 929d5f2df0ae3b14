//! The page `docs/COMMANDS.md`: every command, how it is served, and which servers have it, out of the table.

use super::spec::{Class, Spec};
use super::table::all;

const HEAD: &str = "\
# Commands

<!-- Generated from src/command/table.tsv and src/command/policy.rs: PRESHARD_BLESS=1 cargo test --lib command -->

Every command and subcommand that preshard knows, in Redis's groups. `PRESHARD SHOW COMMANDS` shows the same of a running
proxy, with the number of calls; `PRESHARD EXPLAIN SUNION a b` tells what becomes of one request, and `preshard audit` what
becomes of all that an application sends ([AUDIT.md](AUDIT.md)). What a served command does differently is in
[DIFFERENCES.md](DIFFERENCES.md).

Database 0 is sharded: its keys live on many nodes. Databases 1 to `pinned` are *pinned*: each is one whole shard on one node,
as a Redis of its own.

| in database 0 | means |
|---|---|
| single | has one key, and runs on the shard of that key |
| same-shard | has several keys, and runs if all of them live on one shard: give them one hash tag, `{user:42}:a` and `{user:42}:b`. Else refused with `-CROSSSLOT` |
| split | has several keys on any shards: each shard gets its part, and the answers are merged into one. Not atomic over shards |
| fan-out | goes to all shards, or to all nodes; merged as its row says |
| local | answered by preshard; no node is asked, unless its row says so |
| transaction | queued by preshard and run by one shard as one piece: all keys between `MULTI` and `EXEC` must live on one shard |
| blocking | as same-shard; the client has a connection to the node for itself while it waits |
| script | as same-shard with the keys that the call declares; keys that it does not declare are not seen |
| pub/sub | channels belong to no shard; every subscriber hears every node |
| helper | made by preshard out of standard commands: [HELPERS.md](HELPERS.md) |
| **refused** | refused, with the reason |

In a pinned database all keys share a shard: *any keys* means that nothing is refused for its keys. *Its own database* means
that the command concerns that database only.

Servers: *all* are Redis 7.0 and 8.2 and Valkey 9.1, otherwise those that are named. A node that lacks a command answers that
itself.
";

/// Groups in the order of Redis's documentation: as the table calls them, and their titles.
const GROUPS: [(&str, &str); 18] = [
    ("generic", "Generic"),
    ("string", "Strings"),
    ("hash", "Hashes"),
    ("list", "Lists"),
    ("set", "Sets"),
    ("sorted-set", "Sorted sets"),
    ("stream", "Streams"),
    ("bitmap", "Bitmaps"),
    ("hyperloglog", "HyperLogLog"),
    ("geo", "Geospatial"),
    ("module", "Vector sets"),
    ("pubsub", "Publish and subscribe"),
    ("transactions", "Transactions"),
    ("scripting", "Scripts and functions"),
    ("connection", "Connection"),
    ("server", "Server"),
    ("cluster", "Cluster"),
    (HELPERS, "Preshard's helpers"),
];
/// Helpers have a heading of their own here; to clients they are of the group `module`.
const HELPERS: &str = "helper";
const SERVERS: [(&str, &str); 3] = [
    ("redis7", "Redis 7.0"),
    ("redis8", "Redis 8.2"),
    ("valkey", "Valkey 9.1"),
];

/// The text of `docs/COMMANDS.md`.
#[must_use]
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for (group, title) in GROUPS {
        line(&mut page, &format!("\n## {title}\n"));
        line(
            &mut page,
            "| command | what it does | in database 0 | in a pinned database | servers |\n|---|---|---|---|---|",
        );
        let rows = all()
            .iter()
            .filter(|spec| group_of(spec) == group && !spec.only_leads_on());
        rows.for_each(|spec| line(&mut page, &row(spec)));
    }
    page
}

fn group_of(spec: &Spec) -> &'static str {
    match spec.class {
        Class::Helper(_) => HELPERS,
        _ => spec.facts.group,
    }
}

fn row(spec: &Spec) -> String {
    format!(
        "| `{}` | {} | {} | {} | {} |",
        spec.title(),
        cell(spec.facts.summary),
        cell(&sharded(spec)),
        spec.in_pinned(),
        servers(spec)
    )
}

/// The word, and what the word alone does not tell.
fn sharded(spec: &Spec) -> String {
    let class = spec.class;
    let mut text = match class {
        Class::Refused(why) => format!("**refused**: {why}"),
        Class::Split(_) | Class::FanOut(_) | Class::Helper(_) => {
            format!("{}: {}", class.word(), class.detail())
        }
        Class::Local(super::Local::Cluster(_)) => format!("{}: {}", class.word(), class.detail()),
        Class::Single
        | Class::Iterate
        | Class::SameShard
        | Class::Local(_)
        | Class::Transaction(_)
        | Class::Blocking
        | Class::Script(_)
        | Class::PubSub(_) => class.word().to_owned(),
    };
    let remark = spec.remark();
    if !remark.is_empty() {
        text.push_str("; ");
        text.push_str(&remark);
    }
    text
}

fn servers(spec: &Spec) -> String {
    let having: Vec<&str> = SERVERS
        .iter()
        .filter(|(word, _)| spec.facts.is_in(word))
        .map(|&(_, name)| name)
        .collect();
    match having.len() {
        3 => "all".to_owned(),
        0 => "preshard".to_owned(),
        _ => having.join(", "),
    }
}

/// Text that may stand in a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn line(page: &mut String, line: &str) {
    page.push_str(line);
    page.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_docs_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/COMMANDS.md");
        let page = page();
        if std::env::var_os("PRESHARD_BLESS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == page,
            "docs/COMMANDS.md differs from the table of commands: run PRESHARD_BLESS=1 cargo test --lib command and \
             commit the page"
        );
    }

    #[test]
    fn every_command_has_one_row_in_a_group_that_is_listed() {
        let page = page();
        for spec in all().iter().filter(|spec| !spec.only_leads_on()) {
            let row = format!("\n| `{}` |", spec.title());
            assert_eq!(
                page.matches(&row).count(),
                1,
                "{}: {}",
                spec.name,
                spec.facts.group
            );
        }
    }

    #[test]
    fn what_is_refused_says_why() {
        for spec in all() {
            assert_eq!(
                spec.class.reason().is_empty(),
                spec.is_supported(),
                "{}",
                spec.name
            );
        }
    }
}
