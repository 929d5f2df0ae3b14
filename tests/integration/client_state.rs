//! `CLIENT KILL`, `LIST`, `INFO`, `UNBLOCK`: who is meant, what is shown, and what is left behind.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::harness::wire::frame;
use crate::harness::{Client, Node, PATIENCE, Reply, key_in, lacks, left_out, small, wait_until};

fn words(line: &str) -> Vec<u8> {
    frame(&line.split(' ').collect::<Vec<_>>())
}

fn id_of(client: &mut Client) -> String {
    client.ask("CLIENT ID").int().to_string()
}

/// A field of a client's line in `CLIENT LIST`.
fn field(observer: &mut Client, id: &str, name: &str) -> String {
    let line = observer.call(&["CLIENT", "LIST", "ID", id]).text();
    let start = format!("{name}=");
    line.trim()
        .split(' ')
        .find_map(|word| word.strip_prefix(&start))
        .unwrap_or_else(|| panic!("no {name} in: {line}"))
        .to_owned()
}

/// Waits until a client is shown so: counters are up to 100 ms old.
fn until_shown(observer: &mut Client, id: &str, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        wait_until(&format!("{name}={value}"), PATIENCE, || {
            field(observer, id, name) == *value
        });
    }
}

#[test]
fn what_a_client_does_is_shown_as_redis_shows_it() {
    if lacks("fields of CLIENT LIST like these") || left_out(&["valkey"], "shows a client otherwise") {
        return;
    }
    let (nodes, proxy) = small();
    let plain = Node::start();
    for (connect, waits) in [
        (&(|| proxy.client()) as &dyn Fn() -> Client, true),
        (&|| plain.client(), false),
    ] {
        let (mut client, mut observer) = (connect(), connect());
        let id = id_of(&mut client);
        let shown = |observer: &mut Client, expected: &[(&str, &str)]| until_shown(observer, &id, expected);
        shown(
            &mut observer,
            &[
                ("flags", "N"),
                ("multi", "-1"),
                ("user", "default"),
                ("resp", "2"),
            ],
        );
        client.ask("WATCH {t}a {t}b").expect_ok();
        client.ask("MULTI").expect_ok();
        shown(&mut observer, &[("flags", "x"), ("multi", "0")]);
        client.ask("SET {t}a 1");
        client.ask("GET {t}a");
        shown(&mut observer, &[("multi", "2"), ("db", "0")]);
        client.ask("DISCARD").expect_ok();
        client.ask("SELECT 2").expect_ok();
        client.ask("CLIENT NO-EVICT on").expect_ok();
        shown(
            &mut observer,
            &[
                ("flags", "e"),
                ("multi", "-1"),
                ("db", "2"),
                ("cmd", "client|no-evict"),
            ],
        );
        client.ask("CLIENT NO-EVICT off").expect_ok();
        client.send(&words("BLPOP {t}q 0"));
        if waits {
            wait_until("it waits", PATIENCE, || {
                nodes.iter().map(|node| node.info("blocked_clients")).sum::<u64>() == 1
            });
        }
        shown(&mut observer, &[("flags", "b"), ("cmd", "blpop")]);
        assert_eq!(observer.call(&["CLIENT", "UNBLOCK", &id]).int(), 1);
        assert_eq!(client.reply(), Reply::Null);
        client.ask("SUBSCRIBE a b");
        client.reply();
        client.ask("PSUBSCRIBE p*");
        shown(
            &mut observer,
            &[("flags", "P"), ("sub", "2"), ("psub", "1"), ("ssub", "0")],
        );
        client.ask("RESET");
        shown(&mut observer, &[("flags", "N"), ("sub", "0"), ("db", "0")]);
    }
}

#[test]
fn bytes_and_keys_are_counted_truly() {
    let (nodes, proxy) = small();
    let (mut client, mut observer) = (proxy.client(), proxy.client());
    let id = id_of(&mut client);
    let mut sent = words("CLIENT ID").len();
    let mut received = format!(":{id}\r\n").len();
    for line in [
        "SET {t}a hello",
        "GET {t}a",
        "WATCH {t}a {t}b",
        "CLIENT NO-TOUCH on",
    ] {
        client.send(&words(line));
        received += client.reply_bytes().len();
        sent += words(line).len();
    }
    let (sent, received) = (sent.to_string(), received.to_string());
    until_shown(
        &mut observer,
        &id,
        &[
            ("tot-net-in", &sent),
            ("tot-net-out", &received),
            ("watch", "2"),
            ("tot-cmds", "5"),
            ("flags", "T"),
        ],
    );
    client.ask("UNWATCH").expect_ok();
    until_shown(
        &mut observer,
        &id,
        &[("watch", "0"), ("qbuf", "0"), ("in-flight", "0")],
    );
    // Half a request, and one that is on its way.
    let node = usize::from(crate::harness::shard_of("{t}a", 8)) / 4;
    nodes[node].freeze();
    client.send(&[words("GET {t}a"), b"*2\r\n$3\r\nGET\r\n$100\r\nxxxx".to_vec()].concat());
    until_shown(&mut observer, &id, &[("qbuf", "23"), ("in-flight", "1")]);
    nodes[node].thaw();
    assert_eq!(client.reply(), Reply::from("hello"));
    // Replies that are not taken.
    let mut lazy = proxy.client();
    let lazy_id = id_of(&mut lazy);
    lazy.call(&["SET", "{t}large", &"x".repeat(4_000_000)])
        .expect_ok();
    (0..4).for_each(|_| lazy.send(&words("GET {t}large")));
    wait_until("it is full", PATIENCE, || {
        field(&mut observer, &lazy_id, "events") == "rw"
    });
    wait_until("bytes wait", PATIENCE, || {
        field(&mut observer, &lazy_id, "omem").parse::<u64>().unwrap() > 1_000_000
    });
}

#[test]
fn a_client_that_is_killed_leaves_nothing_behind_whatever_it_does() {
    if lacks("shard channels") {
        return;
    }
    let (nodes, proxy) = small();
    let mut observer = proxy.client();
    let doings: &[(&str, &[&str], &str)] = &[
        ("idle", &[], ""),
        ("waiting for data", &[], "BLPOP {t}q 0"),
        ("waiting in a stream", &[], "XREAD BLOCK 0 STREAMS {t}s $"),
        ("in a transaction", &["MULTI", "SET {t}a 1"], ""),
        ("watching", &["WATCH {t}a {t}b"], ""),
        (
            "watching, in a transaction",
            &["WATCH {t}a", "MULTI", "SET {t}a 1"],
            "",
        ),
        (
            "subscribed",
            &["SUBSCRIBE news", "PSUBSCRIBE n*", "SSUBSCRIBE s"],
            "",
        ),
        ("silent", &["PING"], "CLIENT REPLY OFF"),
    ];
    let mut killed = 0;
    for (what, lines, last) in doings {
        for by_type in [false, true] {
            let mut client = proxy.client();
            let id = id_of(&mut client);
            for line in *lines {
                assert_eq!(client.ask(line).error(), None, "{what}");
            }
            if !last.is_empty() {
                client.send(&words(last));
            }
            let waits = what.starts_with("waiting");
            wait_until("it waits", PATIENCE, || {
                nodes.iter().map(|node| node.info("blocked_clients")).sum::<u64>() == u64::from(waits)
            });
            let count = if by_type {
                let kind = if *what == "subscribed" { "PUBSUB" } else { "NORMAL" };
                observer.call(&["CLIENT", "KILL", "TYPE", kind, "MAXAGE", "3600", "ID", &id]);
                observer.call(&["CLIENT", "KILL", "TYPE", kind]).int()
            } else {
                observer.call(&["CLIENT", "KILL", "ID", &id]).int()
            };
            assert_eq!(count, 1, "{what}");
            client.until_closed();
            killed += 1;
            wait_until(&format!("nothing is left of one {what}"), PATIENCE, || {
                proxy.metric("preshard_client_connections{") == 1
                    && proxy.metric("preshard_node_dedicated_used") == 0
                    && proxy.metric("preshard_pubsub_clients") == 0
                    && proxy.metric("preshard_pubsub_channels") == 0
                    && proxy.metric("preshard_pubsub_patterns") == 0
                    && nodes.iter().map(|node| node.info("blocked_clients")).sum::<u64>() == 0
            });
            assert_eq!(observer.call(&["CLIENT", "LIST", "ID", &id]).text(), "", "{what}");
            assert_eq!(observer.ask("PUBSUB NUMSUB news").items()[1].int(), 0);
            assert_eq!(observer.ask("PUBSUB NUMPAT").int(), 0);
        }
    }
    proxy.await_metric("preshard_client_disconnects_total{reason=\"admin_kill\"}", killed);
    assert_eq!(observer.ask("EXISTS {t}a").int(), 0);
    assert_eq!(proxy.metric("preshard_popped_for_nobody_total"), 0);
}

#[test]
fn who_kills_itself_gets_its_answer_and_nothing_more() {
    let (_nodes, proxy) = small();
    let plain = Node::start();
    for line in ["CLIENT KILL SKIPME no TYPE normal", "CLIENT KILL self"] {
        let [ours, theirs] = [proxy.data, plain.socket()].map(|address| {
            let mut client = Client::connect(address);
            let own = client.stream().local_addr().unwrap().to_string();
            let line = line.replace("self", &own);
            client.send(&[words(&line), words("PING"), words("SET {t}a 1")].concat());
            client.until_closed()
        });
        assert_eq!(
            String::from_utf8_lossy(&ours),
            String::from_utf8_lossy(&theirs),
            "{line}"
        );
    }
    assert_eq!(proxy.client().ask("EXISTS {t}a").int(), 0);
}

#[test]
fn each_killed_client_is_counted_once_whoever_kills() {
    let (_nodes, proxy) = small();
    let victims: Vec<Client> = (0..60)
        .map(|_| {
            let mut client = proxy.client();
            client.ask("CLIENT SETNAME victim").expect_ok();
            client
        })
        .collect();
    let killed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            let (proxy, killed) = (&proxy, &killed);
            scope.spawn(move || {
                let mut client = proxy.client();
                for _ in 0..10 {
                    killed.fetch_add(client.ask("CLIENT KILL NAME victim").int() as u64, Relaxed);
                }
            });
        }
    });
    assert_eq!(killed.load(Relaxed), 60);
    for mut victim in victims {
        victim.until_closed();
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one scene, told from front to back")]
fn filters_find_the_same_clients_as_in_redis() {
    if lacks("filters like these") || left_out(&["valkey"], "has other filters") {
        return;
    }
    let (_nodes, proxy) = small();
    let plain = Node::start();
    let [ours, theirs] = [proxy.data, plain.socket()].map(|address| {
        let mut clients: Vec<Client> = (0..4).map(|_| Client::connect(address)).collect();
        let ids: Vec<String> = clients.iter_mut().map(id_of).collect();
        clients[1].ask("SUBSCRIBE c");
        let peer = clients[2].stream().local_addr().unwrap().to_string();
        let mut observer = Client::connect(address);
        let server = address.to_string();
        let mut seen = Vec::new();
        for line in [
            "CLIENT LIST TYPE pubsub".to_owned(),
            "CLIENT LIST TYPE normal".to_owned(),
            "CLIENT LIST TYPE master".to_owned(),
            format!("CLIENT LIST ID {} 999999 {}", ids[3], ids[1]),
            format!("CLIENT LIST ID {}", ids[0]),
        ] {
            let list = observer.ask(&line).text();
            let found: Vec<usize> = (0..ids.len())
                .filter(|&place| {
                    list.lines()
                        .any(|line| line.starts_with(&format!("id={} ", ids[place])))
                })
                .collect();
            seen.push(format!("{found:?}"));
        }
        for line in [
            "CLIENT KILL 1.2.3.4:5".to_owned(),
            "CLIENT KILL ID 999999".to_owned(),
            "CLIENT KILL ADDR 1.2.3.4:5 TYPE normal".to_owned(),
            format!("CLIENT KILL ADDR {peer} TYPE pubsub"),
            format!(
                "CLIENT KILL ADDR {peer} LADDR {server} USER default ID {} SKIPME yes",
                ids[2]
            ),
            format!("CLIENT KILL ADDR {peer}"),
            "CLIENT KILL TYPE pubsub".to_owned(),
            "CLIENT KILL TYPE replica".to_owned(),
            format!("CLIENT KILL LADDR {server}"),
            "CLIENT KILL TYPE normal".to_owned(),
            "CLIENT KILL ID".to_owned(),
            "CLIENT KILL ID x".to_owned(),
            "CLIENT KILL USER nobody".to_owned(),
            "CLIENT KILL TYPE foo".to_owned(),
            "CLIENT KILL SKIPME maybe".to_owned(),
            "CLIENT KILL FOO bar".to_owned(),
            "CLIENT LIST ID".to_owned(),
            "CLIENT LIST ID x".to_owned(),
            "CLIENT LIST TYPE".to_owned(),
            "CLIENT LIST TYPE foo".to_owned(),
            "CLIENT UNBLOCK -1".to_owned(),
            "CLIENT UNBLOCK +1".to_owned(),
            "CLIENT UNBLOCK 1 foo".to_owned(),
            "CLIENT UNBLOCK x foo".to_owned(),
            "CLIENT UNBLOCK 1 ERROR x".to_owned(),
            "CLIENT NO-EVICT x".to_owned(),
            "CLIENT SETNAME a\tb".to_owned(),
            "CLIENT SETNAME \u{e4}".to_owned(),
        ] {
            let verdict = observer.ask(&line);
            let place = line.replace(&peer, "PEER").replace(&server, "SERVER");
            seen.push(format!(
                "{}: {verdict:?}",
                place.split(" ID ").next().unwrap_or(&place)
            ));
        }
        seen
    });
    assert_eq!(ours, theirs);
}

#[test]
fn names_are_checked_and_bounded() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    client.ask("CLIENT SETINFO LIB-NAME redis-py(x_1.0)").expect_ok();
    client.ask("CLIENT SETINFO lib-ver 8.1.0").expect_ok();
    let info = client.ask("CLIENT INFO").text();
    assert!(
        info.contains(" lib-name=redis-py(x_1.0) lib-ver=8.1.0 "),
        "{info}"
    );
    let spaced = client.call(&["CLIENT", "SETINFO", "Lib-Name", "a b"]);
    spaced.expect_error("ERR Lib-Name cannot contain spaces, newlines or special characters.");
    client
        .call(&["CLIENT", "SETINFO", "Foo", "a"])
        .expect_error("ERR Unrecognized option 'Foo'");
    client.call(&["CLIENT", "SETINFO", "LIB-VER", ""]).expect_ok();
    let long = "n".repeat(1025);
    for words in [
        &["CLIENT", "SETNAME", &long][..],
        &["CLIENT", "SETINFO", "LIB-NAME", &long],
        &["HELLO", "2", "SETNAME", &long],
    ] {
        assert!(client.call(words).expect_error("ERR ").contains("1024 bytes"));
    }
    client.call(&["CLIENT", "SETNAME", &long[1..]]).expect_ok();
    assert_eq!(client.ask("CLIENT GETNAME").text().len(), 1024);
    client.ask("CLIENT SETNAME web").expect_ok();
    client.call(&["CLIENT", "SETNAME", ""]).expect_ok();
    assert_eq!(client.ask("CLIENT GETNAME"), Reply::Null);
    let help = client.ask("CLIENT HELP").items();
    let help: Vec<String> = help.iter().map(Reply::text).collect();
    for word in [
        "KILL", "LIST", "PAUSE", "REPLY", "UNBLOCK", "UNPAUSE", "NO-TOUCH", "SETINFO",
    ] {
        assert!(help.iter().any(|line| line == word), "{word} in {help:?}");
    }
    for word in ["CAPA", "IMPORT-SOURCE"] {
        assert!(!help.iter().any(|line| line == word), "{word} in {help:?}");
    }
}

#[test]
fn a_connection_whose_wait_somebody_ended_serves_nobody_else() {
    let (nodes, proxy) = small();
    let (mut client, mut other) = (proxy.client(), proxy.client());
    let id = id_of(&mut client);
    let idle = || proxy.metric("preshard_node_dedicated_idle");
    assert_eq!(client.ask("BLPOP {t}q 0.01"), Reply::Null);
    wait_until("its connection is kept for the next one", PATIENCE, || {
        idle() == 1
    });
    client.send(&words("BLPOP {t}q 0"));
    wait_until("it waits", PATIENCE, || {
        nodes.iter().map(|node| node.info("blocked_clients")).sum::<u64>() == 1
    });
    assert_eq!(other.call(&["CLIENT", "UNBLOCK", &id]).int(), 1);
    assert_eq!(client.reply(), Reply::Null);
    // An order that comes late would end the wait of whoever has it then.
    wait_until("its connection is closed", PATIENCE, || {
        idle() == 0 && proxy.metric("preshard_node_dedicated_used") == 0
    });
    assert_eq!(client.ask("BLPOP {t}q 0.01"), Reply::Null);
    wait_until("the next one is kept", PATIENCE, || idle() == 1);
}

#[test]
fn who_unblocks_one_client_never_hits_another() {
    let (_nodes, proxy) = small();
    let stop = AtomicBool::new(false);
    let mut target = proxy.client();
    let id = id_of(&mut target);
    let keys: Vec<String> = (0..8).map(|shard| key_in(shard, 8, "q:")).collect();
    std::thread::scope(|scope| {
        let (proxy, stop, id, keys) = (&proxy, &stop, &id, &keys);
        // They take the connections over that the target has just given back.
        let others: Vec<_> = (0..4)
            .map(|number: usize| {
                scope.spawn(move || {
                    let mut client = proxy.client();
                    let mut rounds = 0;
                    while !stop.load(Relaxed) {
                        let reply = client.call(&["BLPOP", &keys[number * 2], "0.002"]);
                        assert_eq!(reply, Reply::Null, "somebody else was meant");
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        let attackers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(move || {
                    let mut client = proxy.client();
                    let mut hits = 0;
                    while !stop.load(Relaxed) {
                        (0..8).for_each(|_| client.command(&["CLIENT", "UNBLOCK", id, "ERROR"]));
                        hits += (0..8).map(|_| client.reply().int()).sum::<i64>();
                    }
                    hits
                })
            })
            .collect();
        let mut unblocked = 0;
        for round in 0..600 {
            let reply = target.call(&["BLPOP", &keys[round % 8], "0.003"]);
            if reply != Reply::Null {
                reply.expect_error("UNBLOCKED ");
                unblocked += 1;
            }
        }
        stop.store(true, Relaxed);
        let hits: i64 = attackers
            .into_iter()
            .map(|attacker| attacker.join().unwrap())
            .sum();
        let rounds: i64 = others.into_iter().map(|other| other.join().unwrap()).sum();
        assert_eq!(hits, unblocked, "each order hit the client that was meant");
        assert!(hits > 0 && rounds > 0, "{hits} {rounds}");
    });
    wait_until("all connections are given back", PATIENCE, || {
        proxy.metric("preshard_node_dedicated_used") == 0
    });
    assert_eq!(proxy.metric("preshard_popped_for_nobody_total"), 0);
}
