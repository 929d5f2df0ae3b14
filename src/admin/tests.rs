//! Every word, asked of a proxy without sockets; then the listener itself, in both protocols.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::AdminContext;
use super::testing::{ask, ask_words, columns, context, error, fields, rows, text};
use super::words::WORDS;
use crate::ids::ShardId;
use crate::resp::Value;
use crate::topology::Topology;
use crate::worker::registry::ClientInfo;
use crate::worker::shared::{NodeView, NodesView};

mod listener;
mod plan;

#[tokio::test]
async fn help_names_every_word_at_every_level() {
    let context = context("");
    let lines = |value: &Value| text(value);
    let all = lines(&ask(&context, "help").await);
    for word in WORDS {
        assert!(
            all.contains(word.line().strip_prefix("PRESHARD ").unwrap()),
            "{word:?}"
        );
        let of_noun = lines(&ask(&context, &format!("HELP {}", word.noun)).await);
        assert!(of_noun.contains(word.what), "{word:?}");
        // EXPLAIN HELP explains the command of that name.
        if word.noun != "EXPLAIN" {
            assert_eq!(
                lines(&ask(&context, &format!("{} help", word.noun)).await),
                of_noun
            );
        }
    }
    assert!(error(&ask(&context, "HELP nonsense").await).contains("'nonsense'"));
}

#[tokio::test]
async fn words_of_later_versions_say_so() {
    let context = context("");
    for word in WORDS.iter().filter(|word| !word.is_served()) {
        let line = ask(&context, &format!("{} {}", word.path(), word.usage)).await;
        assert_eq!(
            error(&line),
            format!(
                "ERR PRESHARD {} is not in this version of preshard yet",
                word.path()
            )
        );
    }
}

#[tokio::test]
async fn every_word_of_this_version_answers() {
    let context = context("");
    for word in WORDS.iter().filter(|word| word.is_served()) {
        let arguments = match word.path().as_str() {
            "SHARD INFO" => "0",
            "SHARD OF" => "key",
            "EXPLAIN" => "GET key",
            "CONFIG GET" => "proxy.*",
            "CONFIG SET" => "proxy.max_clients 5",
            // The plan that the word before it has made.
            "PLAN SHOW" => "e1-f00-1",
            // These need something that is there; tests of their own.
            "SHARD PAUSE" | "SHARD RESUME" | "SHARD MOVE" | "SHARD VERIFY" | "TASK STATUS"
            | "TASK CANCEL" | "TASK CUTOVER" | "TASK ROLLBACK" | "TASK FINALIZE" | "NODE DRAIN"
            | "PLAN APPLY" | "TOPOLOGY LOAD" | "NODE ADD" | "NODE REMOVE" | "NODE SET" => {
                continue;
            }
            _ => "",
        };
        let value = ask(&context, &format!("{} {arguments}", word.path())).await;
        if word.path() == "CONFIG RELOAD" {
            // There is no such file here.
            assert!(error(&value).starts_with("ERR /etc/preshard/p.toml: cannot read the config"));
            continue;
        }
        assert!(!matches!(value, Value::Error(_)), "{word:?}: {value:?}");
    }
}

#[tokio::test]
async fn nonsense_gets_one_clear_error() {
    let context = context("");
    let big = "9".repeat(100_000);
    for (words, expected) in [
        ("", "ERR wrong number of arguments for 'preshard' command"),
        ("FOO", "ERR unknown subcommand 'FOO'. Try PRESHARD HELP."),
        (
            "SHARD",
            "ERR wrong number of arguments for 'preshard|shard' command",
        ),
        (
            "SHARD FOO 1",
            "ERR unknown subcommand 'FOO'. Try PRESHARD HELP SHARD.",
        ),
        (
            "SHARD INFO",
            "ERR wrong number of arguments for 'preshard|shard|info' command. Usage: PRESHARD SHARD INFO <n|db:d>",
        ),
        ("SHARD INFO 1 2", "ERR wrong number of arguments"),
        ("VERSION 1", "ERR wrong number of arguments"),
        ("EXPLAIN", "ERR wrong number of arguments"),
        (
            "SHARD INFO 12",
            "ERR '12' is no shard: give a number from 0 to 11, or db:1 to db:4",
        ),
        ("SHARD INFO -1", "ERR '-1' is no shard"),
        ("SHARD INFO +1", "ERR '+1' is no shard"),
        ("SHARD INFO 01", "ERR '01' is no shard"),
        ("SHARD INFO 65536", "ERR '65536' is no shard"),
        ("SHARD INFO db:0", "ERR 'db:0' is no shard"),
        ("SHARD INFO db:5", "ERR 'db:5' is no shard"),
        ("SHARD INFO db:", "ERR 'db:' is no shard"),
        ("SHARD INFO ä", "ERR 'ä' is no shard"),
        ("SHOW COMMANDS ALL", "ERR unknown option 'ALL'"),
        (
            "INFO nonsense",
            "ERR 'nonsense' is no section: give one of server,",
        ),
        (&format!("SHARD INFO {big}"), "ERR '9999"),
        (&big, "ERR unknown subcommand '9999"),
    ] {
        let value = ask(&context, words).await;
        let line = error(&value);
        assert!(line.starts_with(expected), "{words}: {line}");
        assert!(line.len() < 500, "{line}");
    }
    let value = ask_words(&context, &[b"PRESHARD", b"a\r\n+OK\0\xff"]).await;
    assert_eq!(
        error(&value),
        "ERR unknown subcommand 'a  +OK \u{fffd}'. Try PRESHARD HELP."
    );
}

#[tokio::test]
async fn shards_are_listed_with_their_columns() {
    let context = context("");
    let cells = context.shared.metrics.worker(0);
    context
        .rates
        .sample(&context.shared, Instant::now() - Duration::from_secs(10));
    for _ in 0..25 {
        cells.shard_request(ShardId(3), 10);
        cells.shard_reply(ShardId(3), 30);
    }
    context.shared.metrics.facts().set_shard_keys(ShardId(3), 77);
    let table = ask(&context, "SHOW SHARDS").await;
    let Value::Array(values) = &table else {
        panic!("{table:?}")
    };
    assert_eq!(
        columns(&values[0]),
        ["shard", "node", "db", "epoch", "state", "keys", "ops", "bytes"]
    );
    let table = rows(&table);
    assert_eq!(table.len(), 12);
    assert_eq!(table[3]["node"], "a");
    assert_eq!(
        (table[3]["keys"].as_str(), table[4]["keys"].as_str()),
        ("77", "null")
    );
    let near =
        |text: &str, expected: u64| text.parse::<u64>().unwrap().abs_diff(expected) <= expected / 10 + 1;
    assert!(
        near(&table[3]["ops"], 2) && near(&table[3]["bytes"], 100),
        "{:?}",
        table[3]
    );
    assert_eq!(
        (table[4]["ops"].as_str(), table[4]["state"].as_str()),
        ("0", "serving")
    );
}

#[tokio::test]
async fn one_shard_is_told_by_number_and_by_database() {
    let context = context("");
    let first = fields(&ask(&context, "SHARD INFO 0").await);
    assert_eq!(
        (
            first["slots"].as_str(),
            first["db"].as_str(),
            first["selects"].as_str()
        ),
        ("0-2047", "0", "0")
    );
    let pinned = fields(&ask(&context, "SHARD INFO DB:3").await);
    assert_eq!(
        (
            pinned["shard"].as_str(),
            pinned["slots"].as_str(),
            pinned["selects"].as_str()
        ),
        ("10", "", "3")
    );
    assert_eq!(fields(&ask(&context, "SHARD INFO 10").await), pinned);
    let of = ask(&context, "SHARD OF foo").await;
    assert_eq!(columns(&of), ["key", "slot", "shard", "node", "db"]);
    let of = fields(&of);
    assert_eq!(
        (of["slot"].as_str(), of["shard"].as_str(), of["node"].as_str()),
        ("12182", "5", "b")
    );
}

#[tokio::test]
async fn nodes_show_what_the_last_probe_found() {
    let context = context("");
    assert_eq!(rows(&ask(&context, "SHOW NODES").await)[0]["state"], "unknown");
    let up = NodeView {
        up: true,
        version: "7.0.15".into(),
        used_memory: 5,
        databases: 16,
        ..NodeView::default()
    };
    let down = NodeView {
        error: "no answer".into(),
        ..NodeView::default()
    };
    context.shared.nodes.store(Arc::new(NodesView {
        nodes: vec![up, down],
    }));
    let table = ask(&context, "SHOW NODES").await;
    let Value::Array(values) = &table else {
        panic!("{table:?}")
    };
    let expected = [
        "name",
        "address",
        "state",
        "version",
        "databases",
        "shards",
        "connections",
        "in_flight",
        "ops",
        "memory",
        "access",
        "error",
    ];
    assert_eq!(columns(&values[0]), expected);
    let table = rows(&table);
    assert_eq!(
        (table[0]["state"].as_str(), table[1]["state"].as_str()),
        ("up", "down")
    );
    assert_eq!(
        (table[0]["shards"].as_str(), table[0]["memory"].as_str()),
        ("6", "5")
    );
    assert_eq!(table[1]["error"], "no answer");
}

#[tokio::test]
async fn clients_have_the_fields_of_client_list() {
    let context = context("");
    assert_eq!(ask(&context, "SHOW CLIENTS").await, Value::Array(Vec::new()));
    let info = ClientInfo::new(7, "/tmp/my socket:0".into(), "127.0.0.1:6380".into(), 0, 0);
    info.names().name = "12=34".into();
    context.shared.registry.insert(Arc::new(info));
    let table = rows(&ask(&context, "SHOW CLIENTS").await);
    assert_eq!(table[0]["id"], "7");
    assert_eq!(
        (table[0]["addr"].as_str(), table[0]["name"].as_str()),
        ("/tmp/my socket:0", "12=34")
    );
    assert_eq!(
        (table[0]["cmd"].as_str(), table[0]["resp"].as_str()),
        ("NULL", "2")
    );
}

#[tokio::test]
async fn settings_are_shown_without_secrets() {
    let hash = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";
    let context = context(&format!("[admin]\npassword_sha256 = \"{hash}\"\n"));
    let table = rows(&ask(&context, "SHOW CONFIG").await);
    let value = |key: &str| table.iter().find(|row| row["key"] == key).unwrap()["value"].clone();
    assert_eq!(
        (value("admin.password"), value("topology.shards")),
        ("<redacted>".to_owned(), "8".to_owned())
    );
    assert!(table.iter().all(|row| !row["value"].contains(hash)));
}

#[tokio::test]
async fn commands_are_listed_with_reasons() {
    let context = context("");
    let worker = context.shared.metrics.worker(0);
    worker
        .requests
        .add(crate::command::lookup(b"get").unwrap().id.index(), 5);
    worker
        .unsupported
        .add(crate::command::lookup(b"monitor").unwrap().id.index(), 2);
    let served = rows(&ask(&context, "SHOW COMMANDS").await);
    let get = served.iter().find(|row| row["command"] == "get").unwrap();
    assert_eq!((get["strategy"].as_str(), get["calls"].as_str()), ("single", "5"));
    let refused = rows(&ask(&context, "SHOW COMMANDS unsupported").await);
    let monitor = refused.iter().find(|row| row["command"] == "monitor").unwrap();
    assert_eq!(monitor["calls"], "2");
    for row in &refused {
        assert!(!row["reason"].is_empty(), "{row:?}");
        assert!(
            served.iter().all(|other| other["command"] != row["command"]),
            "{row:?}"
        );
    }
}

#[tokio::test]
async fn stats_count_unknown_commands_and_rates() {
    let context = context("");
    context
        .rates
        .sample(&context.shared, Instant::now() - Duration::from_secs(10));
    context.shared.metrics.worker(0).requests.add(0, 1000);
    context.shared.metrics.worker(0).unsupported.add(usize::MAX, 3);
    let stats = fields(&ask(&context, "SHOW STATS").await);
    assert_eq!(
        (stats["requests"].as_str(), stats["unknown_commands"].as_str()),
        ("1000", "3")
    );
    assert!(
        (90..=100).contains(&stats["ops"].parse::<u64>().unwrap()),
        "{stats:?}"
    );
    assert_eq!((stats["nodes"].as_str(), stats["epoch"].as_str()), ("2", "1"));
}

#[tokio::test]
async fn explain_tells_where_a_command_goes() {
    let context = context("");
    let table = [
        ("GET foo", "get", "single", "5", "b"),
        ("mset a 1 b 2", "mset", "split", "", "a,b"),
        ("MGET {x}a {x}b", "mget", "same-shard", "", ""),
        ("RENAME {x}a {x}b", "rename", "same-shard", "", ""),
        ("DBSIZE", "dbsize", "fan-out", "0,1,2,3,4,5,6,7", "a,b"),
        (
            "FLUSHALL",
            "flushall",
            "fan-out",
            "0,1,2,3,4,5,6,7,8,9,10,11",
            "a,b",
        ),
        ("SCRIPT LOAD x", "script load", "fan-out", "", "a,b"),
        ("PING", "ping", "local", "", ""),
    ];
    for (asked, command, strategy, shards, nodes) in table {
        let value = ask(&context, &format!("EXPLAIN {asked}")).await;
        assert_eq!(
            columns(&value)[..5],
            ["command", "keys", "shards", "nodes", "strategy"]
        );
        let told = fields(&value);
        assert_eq!(
            (told["command"].as_str(), told["strategy"].as_str()),
            (command, strategy),
            "{told:?}"
        );
        assert!(shards.is_empty() || told["shards"] == shards, "{told:?}");
        assert!(nodes.is_empty() || told["nodes"] == nodes, "{told:?}");
        assert!(!told.contains_key("refused"), "{told:?}");
    }
    assert_eq!(fields(&ask(&context, "EXPLAIN MGET a b").await)["keys"], "a,b");
}

#[tokio::test]
async fn explain_of_a_refused_command_is_data() {
    let context = context("");
    for (asked, starts) in [
        ("RENAME a b", "CROSSSLOT keys 'a'"),
        ("DEBUG SLEEP 0", "ERR unknown command 'DEBUG"),
        (
            "NOSUCH a",
            "ERR unknown command 'NOSUCH', with args beginning with: 'a' ",
        ),
        (
            "CONFIG SET a b",
            "ERR unknown command 'CONFIG SET', it is not available through preshard",
        ),
        ("GET", "ERR wrong number of arguments for 'get' command"),
        ("XREAD STREAMS a b 0", "ERR Unbalanced "),
    ] {
        let told = fields(&ask(&context, &format!("EXPLAIN {asked}")).await);
        assert_eq!(told["strategy"], "refused", "{told:?}");
        assert!(told["refused"].starts_with(starts), "{told:?}");
    }
    let told = fields(&ask(&context, "EXPLAIN RENAME a b").await);
    assert_eq!((told["keys"].as_str(), told["nodes"].as_str()), ("a,b", "a,b"));
}

#[tokio::test]
async fn the_topology_is_dumped_as_it_is_stored() {
    let context = context("");
    let dump = ask(&context, "TOPOLOGY DUMP").await;
    let Value::Bulk(document) = &dump else {
        panic!("{dump:?}")
    };
    assert_eq!(
        Topology::decode(document).unwrap(),
        **context.shared.topology.load()
    );
    assert_eq!(ask(&context, "topology epoch").await, Value::Int(1));
    assert_eq!(
        ask(&context, "VERSION").await,
        Value::bulk(env!("CARGO_PKG_VERSION"))
    );
}

#[tokio::test]
async fn info_has_sections() {
    let context = context("");
    let all = text(&ask(&context, "INFO").await);
    assert!(
        all.contains("# Server\r\n")
            && all.contains("redis_version:7.0.15\r\n")
            && all.contains("role:master\r\n")
    );
    let one = text(&ask(&context, "INFO topology").await);
    assert!(
        one.starts_with("# Topology\r\ncluster_id:test\r\nepoch:1\r\n") && !one.contains("# Server"),
        "{one}"
    );
    assert!(
        text(&ask(&context, "INFO nodes").await)
            .contains("node1:name=b,address=unix:/nonexistent/b,state=unknown,shards=6")
    );
}

#[tokio::test]
async fn check_tells_of_nodes_and_of_open_listeners() {
    let extra = "[proxy]\nlisten = [\"127.0.0.1:6380\", \"0.0.0.0:6390\"]\n[admin]\nhttp = \"0.0.0.0:6382\"\n\
                 [[topology.nodes]]\nname = \"c\"\naddress = \"127.0.0.1:7003\"\n";
    let context: AdminContext = context(extra);
    let table = ask(&context, "CHECK").await;
    let Value::Array(values) = &table else {
        panic!("{table:?}")
    };
    assert_eq!(columns(&values[0]), ["node", "check", "result", "hint"]);
    let table = rows(&table);
    let found = |node: &str, check: &str, result: &str, hint: &str| {
        let is = |row: &&std::collections::BTreeMap<String, String>| {
            row["node"] == node
                && row["check"] == check
                && row["result"] == result
                && row["hint"].contains(hint)
        };
        assert!(
            table.iter().any(|row| is(&row)),
            "{node} {check} {result} {hint}: {table:?}"
        );
    };
    found(
        "a",
        "reachable",
        "failed",
        "unix:/nonexistent/a cannot be reached",
    );
    found("b", "reachable", "failed", "/nonexistent/b");
    found("", "password", "ok", "127.0.0.1:6380");
    found("", "password", "warning", "0.0.0.0:6390");
    found("", "password", "ok", "admin.listen");
    found("", "http", "warning", "0.0.0.0:6382");
    found("", "topology", "warning", "names c");
}

#[test]
fn the_page_in_docs_has_every_word() {
    let page = include_str!("../../docs/ADMIN.md");
    for word in WORDS {
        let line = format!("`{}`", word.line());
        assert!(
            page.contains(&line),
            "docs/ADMIN.md has no word on {line}: describe it there with an example"
        );
    }
}
