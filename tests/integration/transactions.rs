//! `MULTI` to `EXEC` on real nodes: all of it or nothing, on one shard, whoever else uses the same connections.

use crate::harness::{Client, Node, PATIENCE, Proxy, Reply, Setup, key_in, small, wait_until};

fn queue(client: &mut Client, lines: &[&str]) {
    client.ask("MULTI").expect_ok();
    for line in lines {
        assert_eq!(client.ask(line), Reply::Simple("QUEUED".into()), "{line}");
    }
}

/// Nodes on which the control side runs no transactions of its own once the proxy is ready, so that they can be counted.
fn counted() -> ([Node; 2], Proxy) {
    let nodes = [Node::start(), Node::start()];
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()]);
    (nodes, setup.nodes("acl_users = \"off\"").start())
}

fn calls_of(nodes: &[Node], command: &str) -> u64 {
    nodes.iter().map(|node| node.calls_of(command)).sum()
}

#[test]
fn a_transaction_runs_on_the_shard_of_its_first_key() {
    let (nodes, proxy) = counted();
    let before = calls_of(&nodes, "exec");
    let mut client = proxy.client();
    queue(
        &mut client,
        &["SET {t}a 1", "INCR {t}a", "PING", "MGET {t}a {t}b"],
    );
    assert_eq!(
        client.ask("EXEC"),
        Reply::Array(vec![
            Reply::Simple("OK".into()),
            Reply::Int(2),
            Reply::Simple("PONG".into()),
            Reply::Array(vec![Reply::from("2"), Reply::Null]),
        ])
    );
    assert_eq!(client.ask("GET {t}a"), Reply::from("2"));
    assert_eq!(calls_of(&nodes, "exec"), before + 1);
}

#[test]
fn a_pinned_database_takes_any_keys_and_its_whole_keyspace() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    client.ask("SELECT 2").expect_ok();
    queue(
        &mut client,
        &["SET a 1", "SET b 2", "DBSIZE", "FLUSHDB", "DBSIZE"],
    );
    let ok = || Reply::Simple("OK".into());
    assert_eq!(
        client.ask("EXEC"),
        Reply::Array(vec![ok(), ok(), Reply::Int(2), ok(), Reply::Int(0)])
    );
}

#[test]
fn a_foreign_key_is_refused_when_it_is_queued_and_nothing_runs() {
    let (nodes, proxy) = counted();
    let before = calls_of(&nodes, "multi");
    let mut client = proxy.client();
    let (one, other) = (key_in(2, 8, "left:"), key_in(6, 8, "right:"));
    client.ask("MULTI").expect_ok();
    assert_eq!(client.call(&["SET", &one, "1"]), Reply::Simple("QUEUED".into()));
    let text = client.call(&["SET", &other, "1"]).expect_error("CROSSSLOT ");
    for part in ["shard 2", "shard 6", "{x}", "SELECT"] {
        assert!(text.contains(part), "no '{part}' in: {text}");
    }
    assert_eq!(client.call(&["GET", &one]), Reply::Simple("QUEUED".into()));
    client.ask("EXEC").expect_error("EXECABORT ");
    assert_eq!(client.call(&["GET", &one]), Reply::Null);
    assert_eq!(calls_of(&nodes, "multi"), before);
}

#[test]
fn what_cannot_be_queued_fails_the_transaction_and_says_why() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    for (line, why) in [
        ("NOSUCH a", "ERR unknown command 'NOSUCH'"),
        ("GET", "ERR wrong number of arguments for 'get' command"),
        ("CLIENT ID", "ERR 'CLIENT ID' cannot be queued"),
        ("SELECT 1", "ERR 'SELECT' cannot be queued"),
        ("DBSIZE", "CROSSSLOT 'dbsize'"),
        ("DEBUG SLEEP 0", "ERR unknown command 'DEBUG'"),
    ] {
        queue(&mut client, &["SET {t}a 1"]);
        client.ask(line).expect_error(why);
        client.ask("EXEC").expect_error("EXECABORT ");
    }
    assert_eq!(client.ask("GET {t}a"), Reply::Null);
}

#[test]
fn words_out_of_place_get_redis_own_errors() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    client.ask("EXEC").expect_error("ERR EXEC without MULTI");
    client.ask("DISCARD").expect_error("ERR DISCARD without MULTI");
    client.ask("MULTI").expect_ok();
    client
        .ask("MULTI")
        .expect_error("ERR MULTI calls can not be nested");
    client.ask("DISCARD").expect_ok();
    client.ask("MULTI").expect_ok();
    assert_eq!(client.ask("EXEC"), Reply::Array(Vec::new()));
    client.ask("MULTI").expect_ok();
    client.ask("RESET");
    client.ask("EXEC").expect_error("ERR EXEC without MULTI");
}

#[test]
fn an_error_inside_exec_is_its_own_and_the_rest_runs() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    queue(&mut client, &["SET {t}a x", "INCR {t}a", "SET {t}b 1"]);
    let Reply::Array(replies) = client.ask("EXEC") else {
        panic!()
    };
    replies[1].clone().expect_error("ERR value is not an integer");
    assert_eq!(client.ask("GET {t}b"), Reply::from("1"));
}

#[test]
fn transactions_of_many_clients_share_connections_and_never_mix() {
    let (_nodes, proxy) = small();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let mut client = proxy.client();
            std::thread::spawn(move || {
                for round in 0..300 {
                    let key = format!("{{{}}}", (writer + round) % 11);
                    let token = format!("{writer}:{round}");
                    let mine = format!("{key}mine:{writer}");
                    let lines = [
                        vec!["MULTI"],
                        vec!["INCR", &key],
                        vec!["SET", &mine, &token],
                        vec!["GET", &mine],
                        vec!["EXEC"],
                        vec!["GET", &mine],
                    ];
                    for words in &lines {
                        client.command(words);
                    }
                    let replies: Vec<Reply> = lines.iter().map(|_| client.reply()).collect();
                    let Reply::Array(ran) = &replies[4] else {
                        panic!("{replies:?}")
                    };
                    assert_eq!(ran[2], Reply::from(token.as_str()));
                    assert_eq!(replies[5], Reply::from(token.as_str()));
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    let mut client = proxy.client();
    let sum: i64 = (0..11)
        .map(|key| match client.ask(&format!("INCRBY {{{key}}} 0")) {
            Reply::Int(count) => count,
            other => panic!("{other:?}"),
        })
        .sum();
    assert_eq!(sum, 4 * 300);
}

#[test]
fn a_client_that_leaves_in_the_middle_leaves_nothing() {
    let (nodes, proxy) = counted();
    let before = calls_of(&nodes, "multi");
    let mut client = proxy.client();
    queue(&mut client, &["SET {t}a 1"]);
    drop(client);
    let mut other = proxy.client();
    assert_eq!(other.ask("GET {t}a"), Reply::Null);
    assert_eq!(calls_of(&nodes, "multi"), before);
}

#[test]
fn a_watched_key_that_changes_undoes_the_transaction() {
    let (_nodes, proxy) = small();
    for database in ["SELECT 0", "SELECT 2"] {
        for three in [false, true] {
            let mut client = if three { proxy.client3() } else { proxy.client() };
            let mut other = proxy.client();
            client.ask(database).expect_ok();
            other.ask(database).expect_ok();
            other.ask("SET {t}a 1").expect_ok();
            for (who_writes, undone) in [("nobody", false), ("other", true), ("itself", true)] {
                client.ask("WATCH {t}a {t}b").expect_ok();
                client.ask("WATCH {t}c").expect_ok();
                let before = client.ask("GET {t}a");
                match who_writes {
                    "other" => other.ask("INCR {t}a").int(),
                    "itself" => client.ask("INCR {t}a").int(),
                    _ => 0,
                };
                queue(&mut client, &["INCRBY {t}a 10", "GET {t}a"]);
                let ran = client.ask("EXEC");
                assert_eq!(
                    ran == Reply::Null,
                    undone,
                    "{who_writes}: {ran:?} after {before:?}"
                );
                // Nothing is watched any more.
                other.ask("INCR {t}a").int();
                queue(&mut client, &["INCR {t}a"]);
                assert_ne!(client.ask("EXEC"), Reply::Null);
            }
            for ends in ["UNWATCH", "DISCARD", "RESET"] {
                client.ask("WATCH {t}a").expect_ok();
                if ends == "DISCARD" {
                    client.ask("MULTI").expect_ok();
                }
                client.ask(ends);
                client.ask(database).expect_ok();
                other.ask("INCR {t}a").int();
                queue(&mut client, &["INCR {t}a"]);
                assert_ne!(client.ask("EXEC"), Reply::Null, "after {ends}");
            }
        }
    }
}

#[test]
fn a_pipeline_of_watch_and_all_that_follows_keeps_its_order() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    for round in 0..50 {
        let round = round.to_string();
        let lines: Vec<Vec<&str>> = vec![
            vec!["SET", "{t}a", &round],
            vec!["WATCH", "{t}a"],
            vec!["GET", "{t}a"],
            vec!["MULTI"],
            vec!["SET", "{t}b", &round],
            vec!["EVAL", "return redis.call('GET', KEYS[1])", "1", "{t}b"],
            vec!["EXEC"],
            vec!["GET", "{t}b"],
            vec!["UNWATCH"],
        ];
        for words in &lines {
            client.command(words);
        }
        let replies: Vec<Reply> = lines.iter().map(|_| client.reply()).collect();
        assert_eq!(replies[2], Reply::from(round.as_str()));
        assert_eq!(
            replies[6],
            Reply::Array(vec![Reply::Simple("OK".into()), Reply::from(round.as_str())])
        );
        assert_eq!(replies[7], Reply::from(round.as_str()));
    }
}

#[test]
fn keys_of_two_shards_cannot_be_watched_together_nor_used_beside_watched_ones() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    let (one, other) = (key_in(2, 8, "left:"), key_in(6, 8, "right:"));
    client.call(&["WATCH", &one, &other]).expect_error("CROSSSLOT ");
    client.call(&["WATCH", &one]).expect_ok();
    client.call(&["WATCH", &other]).expect_error("CROSSSLOT ");
    client.ask("MULTI").expect_ok();
    client
        .call(&["WATCH", &one])
        .expect_error("ERR WATCH inside MULTI is not allowed");
    client.call(&["SET", &other, "1"]).expect_error("CROSSSLOT ");
    client.ask("EXEC").expect_error("EXECABORT ");
    assert_eq!(client.call(&["GET", &other]), Reply::Null);
}

#[test]
fn a_watch_whose_connection_is_lost_runs_nothing() {
    let mut nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .announce(crate::faults::FAULT_EVENTS)
        .start();
    let key = key_in(1, 8, "watched:");
    let mut client = proxy.client();
    client.call(&["WATCH", &key]).expect_ok();
    nodes[0].kill();
    nodes[0].restart();
    wait_until("the node is back", PATIENCE, || {
        client.call(&["GET", &key]) == Reply::Null
    });
    client.ask("MULTI").expect_ok();
    assert_eq!(client.call(&["SET", &key, "1"]), Reply::Simple("QUEUED".into()));
    client.ask("EXEC").expect_error("EXECABORT ");
    assert_eq!(client.call(&["GET", &key]), Reply::Null);
    client.call(&["WATCH", &key]).expect_ok();
    client.ask("MULTI").expect_ok();
    client.call(&["SET", &key, "2"]);
    assert_eq!(client.ask("EXEC"), Reply::Array(vec![Reply::Simple("OK".into())]));
}

#[test]
fn a_transaction_that_ends_while_its_watch_is_under_way_is_answered_in_full() {
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()]).start();
    let mut client = proxy.client();
    for end in ["DISCARD", "GET\r\nEXEC"] {
        client
            .send(format!("WATCH a\r\nMULTI\r\n{end}\r\nWATCH b\r\nMULTI\r\nSET b 1\r\nEXEC\r\n").as_bytes());
        client.reply().expect_ok();
        client.reply().expect_ok();
        match end {
            "DISCARD" => client.reply().expect_ok(),
            _ => {
                client.reply().expect_error("ERR wrong number of arguments");
                client.reply().expect_error("EXECABORT ");
            }
        }
        client.reply().expect_ok();
        client.reply().expect_ok();
        assert_eq!(client.reply().text(), "QUEUED");
        assert_eq!(client.reply(), Reply::Array(vec![Reply::Simple("OK".into())]));
    }
}
