//! Tests of judgements: each reason alone, out of what nodes say.

use std::collections::BTreeMap;

use super::super::task::Fence;
use super::judge::{Terms, judge};
use super::look::Look;
use super::{Survey, refusals};
use crate::config::CopyMethod;
use crate::ids::DbIndex;

fn node(name: &str) -> Look {
    let info = "redis_version:7.0.15\r\nloading:0\r\ncluster_enabled:0\r\nrole:master\r\nused_memory:1000000000\r\n\
                used_memory_dataset:900000000\r\nused_memory_rss:1100000000\r\ntotal_system_memory:8000000000\r\nmaxmemory:0\r\n\
                maxmemory_policy:noeviction\r\nconnected_slaves:0\r\ninstantaneous_ops_per_sec:1000\r\n";
    let keyspace = if name == "a" {
        "db3:keys=300000,expires=5\r\ndb9:keys=700000,expires=0\r\n"
    } else {
        ""
    };
    Look {
        name: name.to_owned(),
        info: format!("{info}{keyspace}"),
        settings: BTreeMap::from([("databases".to_owned(), "16".to_owned())]),
        libraries: Some(BTreeMap::new()),
        users: vec![
            "user default on nopass ~* &* +@all".to_owned(),
            "user ps-g7 on ~* +@all".to_owned(),
        ],
        user: "ps-g7".to_owned(),
        login: "default".to_owned(),
        ..Look::default()
    }
}

fn terms() -> Terms {
    Terms {
        dbs: vec![DbIndex(3)],
        databases: 10,
        ..Terms::default()
    }
}

/// The survey of a move from `a` to `b`, of which something is changed.
fn with(change: impl FnOnce(&mut Look, &mut Look)) -> Survey {
    let (mut source, mut target) = (node("a"), node("b"));
    change(&mut source, &mut target);
    judge(&Ok(source), &Ok(target), &terms())
}

fn says(node: &mut Look, line: &str) {
    let (name, _) = line.split_once(':').unwrap();
    let others = node
        .info
        .lines()
        .filter(|other| !other.starts_with(&format!("{name}:")));
    let kept: Vec<&str> = others.chain([line]).collect();
    node.info = kept.join("\r\n");
}

#[test]
fn two_plain_nodes_are_fit_and_size_and_time_are_estimated() {
    let survey = with(|_, _| {});
    assert_eq!(
        (survey.refusals.len(), survey.warnings.len()),
        (0, 0),
        "{survey:?}"
    );
    assert_eq!(
        (survey.keys, survey.bytes, survey.no_rollback),
        (300_000, 270_000_000, None)
    );
    assert_eq!(survey.seconds, 2 + 4);
    let slow = Terms {
        rate: Some(1_000_000),
        ..terms()
    };
    assert_eq!(judge(&Ok(node("a")), &Ok(node("b")), &slow).seconds, 2 + 270);
    let empty = with(|source, _| says(source, "used_memory_dataset:18446744073709548112"));
    assert_eq!(empty.bytes, 0, "a server that is nearly empty");
}

/// Asserts that a change is the one reason to refuse, and that these words tell it.
fn refused(change: &dyn Fn(&mut Look, &mut Look), words: &[&str]) {
    let survey = with(|source, target| change(source, target));
    assert_eq!(survey.refusals.len(), 1, "{words:?}: {:?}", survey.refusals);
    for word in words {
        assert!(survey.refusals[0].contains(word), "{word}: {:?}", survey.refusals);
    }
}

#[test]
fn each_reason_refuses_and_names_its_node() {
    refused(&|source, _| says(source, "loading:1"), &["'a'", "loading"]);
    refused(
        &|_, target| says(target, "cluster_enabled:1"),
        &["'b'", "cluster mode"],
    );
    refused(&|_, target| says(target, "role:slave"), &["'b'", "no primary"]);
    refused(
        &|source, _| source.modules.push("bf".to_owned()),
        &["'a'", "modules loaded (bf)"],
    );
    refused(
        &|_, target| target.users.truncate(1),
        &["'b'", "ps-g7", "try again"],
    );
    refused(
        &|_, target| drop(target.settings.insert("databases".into(), "9".into())),
        &["'b'", "9 databases", "databases 10"],
    );
    refused(
        &|_, target| says(target, "db3:keys=1,expires=0"),
        &["'b'", "not preshard's", "database 3"],
    );
    refused(
        &|_, target| says(target, "maxmemory:1400000000"),
        &["'b'", "maxmemory 1400 MB", "270 MB"],
    );
    refused(
        &|source, _| {
            drop(
                source
                    .settings
                    .insert("lua-replicate-commands".into(), "no".into()),
            )
        },
        &["'a'", "lua-replicate-commands yes"],
    );
    refused(
        &|source, _| says(source, "total_system_memory:1100000000"),
        &["'a'", "forks"],
    );
    refused(&|_, target| target.ahead_ms = -500, &["'a' and 'b'", "500 ms"]);
}

#[test]
fn a_copy_without_a_fork_needs_no_memory_for_it_but_a_history() {
    let by_scan = |line: &str, diskless: &str, delay: &str| {
        let (mut source, target) = (node("a"), node("b"));
        says(&mut source, "total_system_memory:1100000000");
        says(&mut source, line);
        for (name, value) in [
            ("repl-diskless-sync", diskless),
            ("repl-diskless-sync-delay", delay),
        ] {
            source.settings.insert(name.to_owned(), value.to_owned());
        }
        let scan = Terms {
            copy: CopyMethod::Scan,
            ..terms()
        };
        let survey = judge(&Ok(source), &Ok(target), &scan);
        assert_eq!(survey.seconds, 2 + 7, "it is slower");
        survey.refusals
    };
    assert_eq!(by_scan("repl_backlog_active:1", "no", "5"), Vec::<String>::new());
    assert_eq!(by_scan("repl_backlog_active:0", "yes", "5"), Vec::<String>::new());
    for (diskless, delay) in [("no", "5"), ("yes", "0"), ("", "")] {
        let refused = by_scan("repl_backlog_active:0", diskless, delay);
        assert!(refused[0].contains("repl-diskless-sync yes"), "{refused:?}");
    }
    let forks = with(|source, _| says(source, "total_system_memory:1100000000"));
    assert!(forks.refusals[0].contains("COPY SCAN"), "{forks:?}");
}

#[test]
fn functions_and_fields_that_expire_must_find_their_like() {
    let library = |code: &[u8]| BTreeMap::from([(b"lib".to_vec(), code.to_vec())]);
    refused(
        &|source, target| {
            source.libraries = Some(library(b"one"));
            target.libraries = Some(library(b"two"));
        },
        &["'b'", "lib", "LOAD REPLACE"],
    );
    let (mut source, mut target) = (node("a"), node("b"));
    source.libraries = Some(library(b"one"));
    target.libraries = Some(library(b"two"));
    let idle = Terms {
        idle: true,
        ..terms()
    };
    let survey = judge(&Ok(source), &Ok(target), &idle);
    assert_eq!(survey.refusals, Vec::<String>::new());
    assert!(
        survey.warnings[0].contains("it is given the source's"),
        "{survey:?}"
    );
    refused(
        &|source, target| {
            source.libraries = Some(library(b"one"));
            target.libraries = None;
            says(target, "redis_version:7.0.15");
        },
        &["'b'", "no functions"],
    );
    refused(
        &|source, target| {
            says(source, "redis_version:8.2.1");
            says(source, "db3:keys=5,expires=0,avg_ttl=0,subexpiry=1");
            says(target, "redis_version:8.2.1");
            says(target, "redis_version:7.2.0");
        },
        &["'b'", "fields of hashes"],
    );
}

#[test]
fn what_is_unlucky_is_warned_of() {
    let warned = |change: &dyn Fn(&mut Look, &mut Look), word: &str| {
        let survey = with(|source, target| change(source, target));
        assert_eq!(survey.refusals, Vec::<String>::new());
        assert!(
            survey.warnings.iter().any(|warning| warning.contains(word)),
            "{word}: {:?}",
            survey.warnings
        );
    };
    warned(
        &|source, _| says(source, "rdb_bgsave_in_progress:1"),
        "child running",
    );
    warned(
        &|source, _| says(source, "rdb_last_bgsave_status:err"),
        "last snapshot",
    );
    warned(&|source, _| says(source, "connected_slaves:1"), "no replica");
    warned(
        &|source, _| says(source, "total_system_memory:1200000000"),
        "forks",
    );
    warned(
        &|source, _| drop(source.settings.insert("min-replicas-to-write".into(), "1".into())),
        "min-replicas-to-write",
    );
    warned(
        &|source, _| source.users.push("user app on >x ~* +@all".to_owned()),
        "users app",
    );
    warned(&|_, target| says(target, "redis_version:6.2.9"), "as commands");
    warned(&|_, target| says(target, "redis_version:6.2.9"), "is older");
    warned(
        &|_, target| says(target, "total_system_memory:1500000000"),
        "no maxmemory",
    );
    warned(
        &|_, target| {
            says(target, "maxmemory:1500000000");
            says(target, "maxmemory_policy:volatile-ttl");
        },
        "volatile-ttl",
    );
}

#[test]
fn what_is_nobody_elses_is_no_reason() {
    let survey = with(|source, target| {
        says(target, "db3:keys=1,expires=0");
        target.copies.insert(DbIndex(3));
        says(target, "db4:keys=1,expires=0");
        source.users.push("user reader on ~* +@read".to_owned());
        source.users.push("user gone off ~* +@all".to_owned());
        target.libraries = Some(BTreeMap::from([(b"more".to_vec(), b"code".to_vec())]));
        says(target, "maxmemory:9000000000");
        (target.ahead_ms, target.unsure_ms) = (600, 101);
    });
    assert_eq!(
        (survey.refusals.len(), survey.warnings.len()),
        (0, 0),
        "{survey:?}"
    );
}

/// Whoever has no memory left wants to move away just then.
#[test]
fn a_full_source_may_be_left_and_is_told_what_that_costs() {
    let full = |source: &mut Look| says(source, "maxmemory:999999999");
    let survey = with(|source, _| full(source));
    assert_eq!(survey.refusals, Vec::<String>::new());
    assert!(survey.warnings[0].contains("TASK FINALIZE"), "{survey:?}");
    assert!(survey.no_rollback.is_some());
    let (mut source, target) = (node("a"), node("b"));
    full(&mut source);
    says(&mut source, "repl_backlog_active:1");
    let scan = Terms {
        copy: CopyMethod::Scan,
        ..terms()
    };
    let survey = judge(&Ok(source), &Ok(target), &scan);
    assert!(survey.refusals[0].contains("COPY SNAPSHOT"), "{survey:?}");
    let evicts = with(|source, _| {
        full(source);
        says(source, "maxmemory_policy:allkeys-lru");
    });
    assert_eq!(evicts.warnings, Vec::<String>::new());
}

#[test]
fn whether_there_is_a_way_back_goes_by_versions() {
    let back = |from: &str, to: &str| {
        let survey = with(|source, target| {
            says(source, from);
            says(target, to);
        });
        survey.no_rollback.is_none()
    };
    assert!(back("redis_version:7.2.4", "redis_version:7.0.0"));
    assert!(back("redis_version:7.0.15", "redis_version:7.0.1"));
    assert!(!back("redis_version:7.0.15", "redis_version:7.2.4"));
    let valkey = "valkey_version:8.1.3";
    assert!(back(valkey, "redis_version:7.2.4"));
    assert!(!back(valkey, "redis_version:7.4.0"));
    assert!(!back("redis_version:8.2.0", valkey));
    assert!(back(valkey, valkey));
}

#[test]
fn all_reasons_are_told_at_once_and_none_twice() {
    let survey = with(|source, target| {
        says(source, "role:slave");
        says(target, "role:slave");
        target.ahead_ms = 900;
    });
    let told = refusals(&[survey.clone(), survey]).unwrap();
    assert_eq!(told.matches("no primary").count(), 2, "one for each node: {told}");
    assert!(told.contains("900 ms"), "{told}");
    let gone = judge(
        &Err("node 'a': gone".to_owned()),
        &Err("node 'b': gone too".to_owned()),
        &terms(),
    );
    assert_eq!(refusals(&[gone]).unwrap(), "node 'a': gone; node 'b': gone too");
    assert_eq!(refusals(&[Survey::default()]), None);
}

#[test]
fn a_node_without_users_of_ours_makes_a_move_cooperative_which_is_told() {
    assert_eq!(with(|_, _| {}).fence(), Fence::Acl);
    for without in ["a", "b"] {
        let survey = with(|source, target| {
            for node in [source, target] {
                if node.name == without {
                    node.user = String::new();
                    node.users = Vec::new();
                }
            }
        });
        assert_eq!((survey.fence(), survey.refusals.len()), (Fence::Cooperative, 0));
        assert_eq!(survey.cooperative, [without]);
        assert!(survey.warnings[0].contains("is cooperative"), "{survey:?}");
    }
}
