//! Commands over many shards: split and merged where that keeps their meaning, refused otherwise.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::{
    Client, Node, NodeOptions, PATIENCE, Reply, Setup, key_in, shard_of, small, wait_until,
};

/// Two nodes of 16 databases behind a proxy with 8 shards and 4 pinned databases.
/// Twenty keys over all eight shards.
fn spread_keys() -> Vec<String> {
    (0..24)
        .map(|n| key_in(n % 8, 8, &format!("spread:{n}:")))
        .collect()
}

fn words<'a>(first: &'a str, rest: &'a [String]) -> Vec<&'a str> {
    std::iter::once(first)
        .chain(rest.iter().map(String::as_str))
        .collect()
}

#[test]
fn keys_of_two_shards_are_refused_with_both_keys_both_shards_and_a_way_out() {
    let (nodes, proxy) = small();
    let mut client = proxy.client();
    let (one, other) = (key_in(2, 8, "left:"), key_in(6, 8, "right:"));
    let commands: &[&[&str]] = &[
        &["RENAME", &one, &other],
        &["MSETNX", &one, "1", &other, "2"],
        &["SINTERSTORE", &one, &one, &other],
        &["LMOVE", &one, &other, "LEFT", "RIGHT"],
        &["PFMERGE", &one, &other],
        &["BITOP", "AND", &one, &other],
        &["ZUNIONSTORE", &one, "2", &one, &other],
        &["COPY", &one, &other],
    ];
    for command in commands {
        let text = client.call(command).expect_error("CROSSSLOT ");
        for part in [one.as_str(), "shard 2", other.as_str(), "shard 6", "{", "SELECT"] {
            assert!(text.contains(part), "{command:?}: no '{part}' in: {text}");
        }
    }
    for command in [
        "rename",
        "msetnx",
        "sinterstore",
        "lmove",
        "pfmerge",
        "bitop",
        "zunionstore",
        "copy",
    ] {
        assert_eq!(
            nodes.iter().map(|node| node.calls_of(command)).sum::<u64>(),
            0,
            "{command} reached a node"
        );
    }
}

#[test]
fn keys_of_one_tag_may_be_used_together() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    client.ask("SET {t}a 1").expect_ok();
    client.ask("RENAME {t}a {t}b").expect_ok();
    assert_eq!(client.ask("GET {t}b"), Reply::from("1"));
    assert_eq!(client.ask("MSETNX {t}c 1 {t}d 2"), Reply::Int(1));
    assert_eq!(client.ask("SADD {t}s 1 2 3"), Reply::Int(3));
    assert_eq!(client.ask("SADD {t}u 2 3 4"), Reply::Int(3));
    assert_eq!(client.ask("SINTERSTORE {t}both {t}s {t}u"), Reply::Int(2));
}

#[test]
fn split_commands_keep_order_duplicates_and_sums() {
    let (_nodes, proxy) = small();
    let keys = spread_keys();
    for mut client in [proxy.client(), proxy.client3()] {
        client.ask("FLUSHALL").expect_ok();
        let mut mset = vec!["MSET"];
        mset.extend(keys.iter().flat_map(|key| [key.as_str(), key.as_str()]));
        client.call(&mset).expect_ok();

        let mut asked = keys.clone();
        asked.push("missing".to_owned());
        asked.insert(3, keys[0].clone());
        asked.push(keys[0].clone());
        let got = client.call(&words("MGET", &asked)).items();
        let want: Vec<Reply> = asked
            .iter()
            .map(|key| {
                if key == "missing" {
                    Reply::Null
                } else {
                    Reply::from(key.as_str())
                }
            })
            .collect();
        assert_eq!(got, want);

        // As Redis: EXISTS and TOUCH count a key each time it is named, DEL only once.
        let named = asked.len() as i64 - 1;
        assert_eq!(client.call(&words("EXISTS", &asked)), Reply::Int(named));
        assert_eq!(client.call(&words("TOUCH", &asked)), Reply::Int(named));
        assert_eq!(client.call(&words("UNLINK", &asked[..6])), Reply::Int(5));
        assert_eq!(
            client.call(&words("DEL", &asked)),
            Reply::Int(keys.len() as i64 - 5)
        );
        assert_eq!(client.call(&words("EXISTS", &asked)), Reply::Int(0));
    }
}

#[test]
fn mset_with_a_key_twice_keeps_the_last_value() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    let (one, other) = (key_in(1, 8, "a:"), key_in(5, 8, "b:"));
    client
        .call(&["MSET", &one, "first", &other, "x", &one, "last"])
        .expect_ok();
    assert_eq!(
        client.call(&["MGET", &one, &other]).items(),
        [Reply::from("last"), Reply::from("x")]
    );
    client
        .call(&["MSET", &one, "1", &other])
        .expect_error("ERR wrong number of arguments for 'mset' command");
}

#[test]
fn mget_answers_nil_for_keys_of_another_type() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    let (list, string) = (key_in(0, 8, "l:"), key_in(7, 8, "s:"));
    client.call(&["RPUSH", &list, "1"]);
    client.call(&["SET", &string, "x"]).expect_ok();
    assert_eq!(
        client.call(&["MGET", &list, &string]).items(),
        [Reply::Null, Reply::from("x")]
    );
}

/// All keys that SCAN gives, asserting that no call asks for endless work.
fn scan_all(client: &mut Client, options: &[&str]) -> Vec<String> {
    let (mut found, mut cursor, mut calls) = (Vec::new(), "0".to_owned(), 0);
    loop {
        let mut command = vec!["SCAN", &cursor];
        command.extend(options);
        let items = client.call(&command).items();
        found.extend(items[1].items().iter().map(Reply::text));
        let next = items[0].text();
        assert!(
            next.parse::<u64>().unwrap() < 1 << 53,
            "a cursor that JavaScript cannot hold: {next}"
        );
        calls += 1;
        assert!(calls < 20_000, "SCAN does not end");
        if next == "0" {
            return found;
        }
        cursor = next;
    }
}

#[test]
fn scan_over_a_thousand_shards_gives_every_key() {
    let options = NodeOptions {
        databases: 1040,
        ..NodeOptions::default()
    };
    let nodes = [Node::with(options.clone()), Node::with(options)];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .layout(1024, 15)
        .start();
    let mut client = proxy.client();
    let keys: BTreeSet<String> = (0..5000).map(|n| format!("key:{n}")).collect();
    for part in keys.iter().cloned().collect::<Vec<_>>().chunks(500) {
        let pairs: Vec<String> = part
            .iter()
            .flat_map(|key| [key.clone(), "v".to_owned()])
            .collect();
        client.call(&words("MSET", &pairs)).expect_ok();
    }
    client.ask("SELECT 3").expect_ok();
    client.ask("SET only:here 1").expect_ok();
    client.ask("SELECT 0").expect_ok();

    assert_eq!(client.ask("DBSIZE"), Reply::Int(5000));
    for options in [&[][..], &["COUNT", "100"], &["COUNT", "5000"]] {
        let found = scan_all(&mut client, options);
        assert_eq!(
            found.len(),
            5000,
            "nothing moves and nothing grows: no key twice, {options:?}"
        );
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), keys, "{options:?}");
    }
    let some: BTreeSet<String> = keys
        .iter()
        .filter(|key| key.starts_with("key:49"))
        .cloned()
        .collect();
    assert_eq!(
        scan_all(&mut client, &["MATCH", "key:49*", "COUNT", "1000"])
            .into_iter()
            .collect::<BTreeSet<_>>(),
        some
    );
    assert!(scan_all(&mut client, &["TYPE", "list", "COUNT", "1000"]).is_empty());
    assert_eq!(client.ask("KEYS key:49*").items().len(), some.len());
    client.ask("SELECT 3").expect_ok();
    assert_eq!(scan_all(&mut client, &[]), ["only:here"]);
    // What is where: every key in the database of its shard, on the node of its shard.
    for (shard, key) in keys.iter().take(50).map(|key| (shard_of(key, 1024), key)) {
        let node = &nodes[usize::from(shard >= 512)];
        assert_eq!(
            node.client_in(u32::from(shard)).call(&["EXISTS", key]),
            Reply::Int(1),
            "{key} of shard {shard}"
        );
    }
}

#[test]
fn databases_that_are_not_ours_are_never_counted_shown_or_flushed() {
    let (nodes, proxy) = small();
    // Databases of nobody, and databases of shards that live on the other node.
    let foreign = [(0, 13), (0, 15), (1, 14), (0, 7), (1, 0)];
    for (node, database) in foreign {
        nodes[node].client_in(database).ask("SET foreign 1").expect_ok();
    }
    let mut client = proxy.client();
    client.ask("SET {x}mine 1").expect_ok();
    client.ask("SELECT 2").expect_ok();
    client.ask("SET pinned 1").expect_ok();
    client.ask("SELECT 0").expect_ok();
    assert_eq!(client.ask("DBSIZE"), Reply::Int(1));
    assert_eq!(client.ask("KEYS *").items(), [Reply::from("{x}mine")]);
    assert_eq!(client.ask("RANDOMKEY"), Reply::from("{x}mine"));
    assert_eq!(scan_all(&mut client, &[]), ["{x}mine"]);

    client.ask("FLUSHDB").expect_ok();
    assert_eq!(client.ask("DBSIZE"), Reply::Int(0));
    assert_eq!(client.ask("RANDOMKEY"), Reply::Null);
    client.ask("SELECT 2").expect_ok();
    assert_eq!(
        client.ask("DBSIZE"),
        Reply::Int(1),
        "FLUSHDB of database 0 left database 2 alone"
    );
    client.ask("FLUSHALL").expect_ok();
    assert_eq!(
        client.ask("DBSIZE"),
        Reply::Int(0),
        "FLUSHALL clears the pinned databases too"
    );
    for (node, database) in foreign {
        let left = nodes[node].client_in(database).ask("GET foreign");
        assert_eq!(
            left,
            Reply::from("1"),
            "the foreign key of database {database} on node {node}"
        );
    }
}

#[test]
fn flushdb_of_a_pinned_database_leaves_all_others_alone() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    for database in 0..=4 {
        client.call(&["SELECT", &database.to_string()]).expect_ok();
        client
            .call(&["SET", "k", &format!("value of {database}")])
            .expect_ok();
    }
    client.ask("SELECT 3").expect_ok();
    client.ask("FLUSHDB").expect_ok();
    for database in 0..=4 {
        client.call(&["SELECT", &database.to_string()]).expect_ok();
        let want = if database == 3 {
            Reply::Null
        } else {
            Reply::from(format!("value of {database}").as_str())
        };
        assert_eq!(client.ask("GET k"), want);
    }
}

#[test]
fn select_reaches_the_pinned_databases_and_no_further() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    for database in 0..=4 {
        client.call(&["SELECT", &database.to_string()]).expect_ok();
    }
    client.ask("SET here 1").expect_ok();
    for beyond in ["5", "12", "15", "-1", "99999999999999999999"] {
        client.call(&["SELECT", beyond]).expect_error("ERR ");
        assert_eq!(
            client.ask("GET here"),
            Reply::from("1"),
            "still database 4 after SELECT {beyond}"
        );
    }
    client
        .ask("SELECT 5")
        .expect_error("ERR DB index is out of range");
    client.ask("SELECT x").expect_error("ERR ");
    assert_eq!(
        proxy.client().ask("CONFIG GET databases").field("databases"),
        Some(Reply::from("5"))
    );
}

#[test]
fn commands_of_many_keys_work_in_a_pinned_database() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    client.ask("SELECT 1").expect_ok();
    client.ask("MSET a 1 b 2 c 3").expect_ok();
    client.ask("RENAME a z").expect_ok();
    assert_eq!(client.ask("MSETNX z 1 y 2"), Reply::Int(0));
    client.ask("SADD s1 1 2");
    client.ask("SADD s2 2 3");
    assert_eq!(client.ask("SUNIONSTORE s3 s1 s2"), Reply::Int(3));
    assert_eq!(client.ask("DBSIZE"), Reply::Int(6));
    let keys: BTreeSet<String> = client.ask("KEYS *").items().iter().map(Reply::text).collect();
    assert_eq!(
        keys.into_iter().collect::<Vec<_>>(),
        ["b", "c", "s1", "s2", "s3", "z"]
    );
}

#[test]
fn refused_commands_say_why_and_never_reach_a_node() {
    let (nodes, proxy) = small();
    // (command as sent, name in the node's statistics)
    let refused = [
        ("DEBUG SLEEP 0", "debug"),
        ("SHUTDOWN NOSAVE", "shutdown"),
        ("REPLICAOF NO ONE", "replicaof"),
        ("SLAVEOF NO ONE", "slaveof"),
        ("CONFIG SET maxmemory 1", "config|set"),
        ("CONFIG REWRITE", "config|rewrite"),
        ("MONITOR", "monitor"),
        ("SYNC", "sync"),
        ("PSYNC ? -1", "psync"),
        ("REPLCONF ack 0", "replconf"),
        ("SWAPDB 0 1", "swapdb"),
        ("MOVE k 1", "move"),
        ("COPY k k2 DB 1", "copy"),
        ("MIGRATE 127.0.0.1 1 k 0 100", "migrate"),
        ("ACL SETUSER x on", "acl|setuser"),
        ("MODULE LOAD /x", "module|load"),
        ("FAILOVER", "failover"),
        ("SAVE", "save"),
        ("BGREWRITEAOF", "bgrewriteaof"),
        ("NOSUCHCOMMAND a b", "nosuchcommand"),
    ];
    // Then the control side has made all that it makes there.
    crate::moving::until_users(&nodes);
    let before: BTreeMap<&str, u64> = refused
        .iter()
        .map(|(_, name)| (*name, nodes.iter().map(|node| node.calls_of(name)).sum()))
        .collect();
    let mut client = proxy.client();
    client.ask("SET k v").expect_ok();
    for (command, _) in refused {
        let reply = client.ask(command);
        let text = reply.expect_error("ERR ");
        assert!(text.len() > 20, "{command}: no reason in '{text}'");
        assert_eq!(
            client.ask("GET k"),
            Reply::from("v"),
            "the session goes on after {command}"
        );
    }
    for (_, name) in refused {
        let calls: u64 = nodes.iter().map(|node| node.calls_of(name)).sum();
        assert_eq!(calls, before[name], "'{name}' reached a node");
    }
    client
        .ask("DEBUG SLEEP 0")
        .expect_error("ERR unknown command 'DEBUG'");
    client
        .ask("NOSUCHCOMMAND")
        .expect_error("ERR unknown command 'NOSUCHCOMMAND'");
}

#[test]
fn what_tools_ask_at_connect_is_answered_locally() {
    let (nodes, proxy) = small();
    let version = format!("redis_version:{}", nodes[0].version());
    // Known from the first probe on.
    wait_until("the nodes' version is known", PATIENCE, || {
        proxy.client().ask("INFO server").text().contains(&version)
    });
    for mut client in [proxy.client(), proxy.client3()] {
        let hello = client.ask("HELLO");
        for field in ["server", "version", "proto", "id", "mode", "role", "modules"] {
            assert!(hello.field(field).is_some(), "no {field} in {hello:?}");
        }
        assert_eq!(hello.field("mode"), Some(Reply::from("standalone")));
        let info = client.ask("INFO").text();
        for line in [
            version.as_str(),
            "redis_mode:standalone",
            "role:master",
            "loading:0",
            "connected_clients:",
        ] {
            assert!(info.contains(line), "no '{line}' in INFO");
        }
        client.ask("CLIENT SETNAME me").expect_ok();
        assert_eq!(client.ask("CLIENT GETNAME"), Reply::from("me"));
        client.ask("CLIENT SETINFO LIB-NAME test").expect_ok();
        assert!(client.ask("CLIENT LIST").text().contains("name=me"));
        assert!(client.ask("COMMAND COUNT").int() > 150);
        assert_eq!(client.ask("COMMAND INFO get nosuch").items().len(), 2);
        assert_eq!(client.ask("ECHO hi"), Reply::from("hi"));
        client
            .ask("CLUSTER INFO")
            .expect_error("ERR This instance has cluster support disabled");
        client
            .ask("CLIENT MAINT_NOTIFICATIONS ON")
            .expect_error("ERR unknown subcommand 'MAINT_NOTIFICATIONS'");
        client.ask("HELLO 4").expect_error("NOPROTO ");
    }
    let mut client = proxy.client();
    let one = client.ask("CLIENT ID").int();
    assert_ne!(
        one,
        proxy.client().ask("CLIENT ID").int(),
        "every client has its own id"
    );
    client.ask("QUIT").expect_ok();
    assert!(client.until_closed().is_empty());
}

#[test]
fn a_client_may_change_its_protocol_and_reset() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    client.ask("HSET {h}h a 1 b 2");
    let flat = client.ask("HGETALL {h}h");
    assert!(matches!(flat, Reply::Array(_)), "{flat:?}");
    client.ask("HELLO 3");
    let map = client.ask("HGETALL {h}h");
    assert!(matches!(map, Reply::Map(_)), "{map:?}");
    client.ask("SELECT 2").expect_ok();
    assert_eq!(client.ask("RESET"), Reply::Simple("RESET".to_owned()));
    let flat = client.ask("HGETALL {h}h");
    assert!(
        matches!(flat, Reply::Array(_)),
        "RESET goes back to RESP2 and database 0: {flat:?}"
    );
    assert_eq!(flat.items().len(), 4);
}

#[test]
fn many_clients_share_few_node_connections() {
    let (nodes, proxy) = small();
    let mut clients: Vec<Client> = (0..200).map(|_| proxy.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.command(&["SET", &format!("share:{number}"), "x"]);
    }
    for client in &mut clients {
        client.reply().expect_ok();
    }
    for node in &nodes {
        let links = node.links().len();
        assert!(
            (1..=8).contains(&links),
            "{links} node connections for 200 clients and two workers"
        );
    }
}

#[test]
fn a_pipeline_may_change_protocol_and_database_in_its_middle() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    client.ask("HSET h a 1");
    client.send(
        b"HGETALL h\r\nHELLO 3\r\nHGETALL h\r\nGET none\r\nHELLO 2\r\nHGETALL h\r\nGET none\r\nSELECT 1\r\nSET k one\r\n\
          SELECT 2\r\nGET k\r\nSET k two\r\nSELECT 0\r\nGET k\r\nSELECT 1\r\nGET k\r\nSELECT 9\r\nGET k\r\nPING\r\n",
    );
    assert_eq!(client.reply_bytes(), b"*2\r\n$1\r\na\r\n$1\r\n1\r\n");
    assert!(matches!(client.reply(), Reply::Map(_)));
    assert_eq!(client.reply_bytes(), b"%1\r\n$1\r\na\r\n$1\r\n1\r\n");
    assert_eq!(client.reply_bytes(), b"_\r\n");
    assert!(matches!(client.reply(), Reply::Array(_)));
    assert_eq!(client.reply_bytes(), b"*2\r\n$1\r\na\r\n$1\r\n1\r\n");
    assert_eq!(client.reply_bytes(), b"$-1\r\n");
    let rest: Vec<Reply> = (0..12).map(|_| client.reply()).collect();
    let ok = || Reply::Simple("OK".to_owned());
    assert_eq!(
        rest[..10],
        [
            ok(),
            ok(),
            ok(),
            Reply::Null,
            ok(),
            ok(),
            Reply::Null,
            ok(),
            Reply::from("one"),
            Reply::Error("ERR DB index is out of range".to_owned()),
        ]
    );
    assert_eq!(rest[10..], [Reply::from("one"), Reply::Simple("PONG".to_owned())]);
}

#[test]
fn what_scan_and_flush_are_given_wrong_is_refused_as_redis_does() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    client.ask("SET k v").expect_ok();
    for database in ["0", "2"] {
        client.call(&["SELECT", database]).expect_ok();
        client.ask("SCAN x").expect_error("ERR invalid cursor");
        client.ask("SCAN 0 COUNT 0").expect_error("ERR syntax error");
        client
            .ask("SCAN 0 COUNT x")
            .expect_error("ERR value is not an integer or out of range");
        client.ask("SCAN 0 MATCH").expect_error("ERR syntax error");
        client.ask("SCAN 0 FOO bar").expect_error("ERR syntax error");
        client.ask("FLUSHDB NOW").expect_error("ERR syntax error");
        client.ask("FLUSHALL NOW").expect_error("ERR syntax error");
        // Cursors that nobody was given: any answer but a failure of the proxy.
        for cursor in ["1", "77777", "9007199254740991", "18446744073709551615"] {
            let reply = client.call(&["SCAN", cursor]);
            assert!(matches!(reply, Reply::Array(_) | Reply::Error(_)), "{reply:?}");
        }
    }
    client.ask("SELECT 0").expect_ok();
    assert_eq!(client.ask("GET k"), Reply::from("v"));
    client.ask("FLUSHALL ASYNC").expect_ok();
    client.ask("FLUSHDB SYNC").expect_ok();
    assert_eq!(client.ask("DBSIZE"), Reply::Int(0));
}

#[test]
fn keys_beyond_the_cap_is_refused_and_names_scan() {
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .proxy("keys_max = 100")
        .start();
    let mut client = proxy.client();
    for number in 0..150 {
        client.call(&["SET", &format!("many:{number}"), "x"]).expect_ok();
    }
    let text = client.ask("KEYS *").expect_error("ERR ");
    assert!(text.contains("SCAN"), "{text}");
    assert_eq!(client.ask("KEYS many:14?").items().len(), 10);
    assert_eq!(scan_all(&mut client, &[]).len(), 150);
}

#[test]
fn help_helps() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    for container in ["OBJECT", "CLIENT", "CONFIG", "COMMAND", "XINFO", "MEMORY"] {
        let lines = client.call(&[container, "HELP"]).items();
        assert!(lines.len() > 1, "{container} HELP: {lines:?}");
        assert!(lines[0].text().contains(container), "{container} HELP: {lines:?}");
    }
}

#[test]
fn unix_sockets_serve_on_both_sides() {
    use std::io::{Read as _, Write as _};
    let socket = crate::harness::Scratch::new("sockets");
    let (node_path, data_path) = (socket.file("node.sock"), socket.file("data.sock"));
    let more = vec!["--unixsocket".to_owned(), node_path.display().to_string()];
    let node = Node::with(NodeOptions {
        more,
        ..NodeOptions::default()
    });
    let setup = Setup::of(&[format!("unix:{}", node_path.display())]);
    let proxy = setup
        .listen(&format!("[\"127.0.0.1:0\", \"unix:{}\"]", data_path.display()))
        .start();
    proxy.client().ask("SET k over-tcp").expect_ok();
    let mut stream = std::os::unix::net::UnixStream::connect(&data_path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET k\r\nQUIT\r\n").unwrap();
    let mut got = String::new();
    stream.read_to_string(&mut got).unwrap();
    assert_eq!(got, "$8\r\nover-tcp\r\n+OK\r\n");
    assert!(node.calls_of("get") > 0);
}
