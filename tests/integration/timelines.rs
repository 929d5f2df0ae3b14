//! `TIMELINE.*` on real nodes: replies to the byte, the cap, pages of timelines that change, what other clients see.

mod clients;
mod fanout;
mod pages;

use std::thread;

use crate::harness::{Client, Proxy, Reply, Setup, key_in, lacks, small};

fn bytes(client: &mut Client, line: &str) -> String {
    client.command(&line.split_whitespace().collect::<Vec<_>>());
    String::from_utf8(client.reply_bytes()).unwrap()
}

/// Newest first, as another client reads it.
fn newest_first(client: &mut Client, key: &str) -> Vec<String> {
    let items = client.call(&["ZREVRANGE", key, "0", "-1"]).items();
    items.iter().map(Reply::text).collect()
}

/// A page: where the next one begins, and its items.
fn page<A: AsRef<[u8]>>(client: &mut Client, words: &[A]) -> (Option<String>, Vec<String>) {
    let reply = client.call(words);
    let parts = match &reply {
        Reply::Array(parts) if parts.len() == 2 => parts,
        other => panic!("no page: {other:?}"),
    };
    let next = (parts[0] != Reply::Null).then(|| parts[0].text());
    (next, parts[1].items().iter().map(Reply::text).collect())
}

#[test]
fn replies_are_the_same_bytes_as_told() {
    let (_nodes, proxy) = small();
    let (mut two, mut three) = (proxy.client(), proxy.client3());
    for client in [&mut two, &mut three] {
        client.ask("FLUSHALL").expect_ok();
        for (line, reply) in [
            ("TIMELINE.RANGE t", None),
            ("TIMELINE.ADD t 1 a", Some(":1\r\n")),
            ("TIMELINE.ADD t MAXLEN 3 2 b 3 c 3.5 d 2 b", Some(":3\r\n")),
            ("TIMELINE.ADD t 4 b", Some(":0\r\n")),
            ("TIMELINE.ADD t NX 9 b 5 e", Some(":1\r\n")),
            ("ZCARD t", Some(":4\r\n")),
            ("TIMELINE.TRIM t MAXLEN 3", Some(":1\r\n")),
            ("TIMELINE.TRIM t MINSCORE 4", Some(":1\r\n")),
            (
                "TIMELINE.RANGE t COUNT 2",
                Some("*2\r\n$3\r\n4:b\r\n*2\r\n$1\r\ne\r\n$1\r\nb\r\n"),
            ),
            ("TIMELINE.RANGE t COUNT 2 BEFORE 4:b", None),
            ("TIMELINE.TRIM t MAXLEN 0", Some(":2\r\n")),
            ("EXISTS t", Some(":0\r\n")),
            ("TIMELINE.ADD t MINSCORE 2 1 a 2 b inf c", Some(":3\r\n")),
            (
                "TIMELINE.MERGE 2 t none COUNT 2",
                Some("*2\r\n$3\r\n2:b\r\n*2\r\n$1\r\nc\r\n$1\r\nb\r\n"),
            ),
        ] {
            let said = bytes(client, line);
            assert_eq!(Some(said.as_str()), reply.or(Some(said.as_str())), "{line}");
        }
    }
    assert_eq!(bytes(&mut two, "TIMELINE.RANGE none"), "*2\r\n$-1\r\n*0\r\n");
    assert_eq!(bytes(&mut three, "TIMELINE.RANGE none"), "*2\r\n_\r\n*0\r\n");
    assert_eq!(
        bytes(&mut two, "TIMELINE.RANGE t WITHSCORES"),
        "*2\r\n$-1\r\n*4\r\n$1\r\nc\r\n$3\r\ninf\r\n$1\r\nb\r\n$1\r\n2\r\n"
    );
    assert_eq!(
        bytes(&mut three, "TIMELINE.MERGE 1 t WITHSCORES"),
        "*2\r\n_\r\n*2\r\n*2\r\n$1\r\nc\r\n,inf\r\n*2\r\n$1\r\nb\r\n,2\r\n"
    );
    let fanout = "TIMELINE.FANOUT 3 t u wrong MAXLEN 2 7 x";
    two.ask("SET wrong 1").expect_ok();
    let wrong = "WRONGTYPE Operation against a key holding the wrong kind of value";
    let failed = format!("$6\r\nfailed\r\n*1\r\n*2\r\n$5\r\nwrong\r\n$65\r\n{wrong}\r\n");
    let counts = |added, unchanged| {
        format!(
            "$5\r\nadded\r\n:{added}\r\n$9\r\nunchanged\r\n:{unchanged}\r\n$7\r\nskipped\r\n:0\r\n{failed}"
        )
    };
    assert_eq!(bytes(&mut two, fanout), format!("*8\r\n{}", counts(2, 0)));
    assert_eq!(bytes(&mut three, fanout), format!("%4\r\n{}", counts(0, 2)));
    assert_eq!(newest_first(&mut two, "t"), ["c", "x"]);
    assert_eq!(
        bytes(
            &mut three,
            "TIMELINE.FANOUT 3 t v wrong IFEXISTS GT MAXLEN 2 MINSCORE 7 8 y"
        ),
        format!("%4\r\n$5\r\nadded\r\n:1\r\n$9\r\nunchanged\r\n:0\r\n$7\r\nskipped\r\n:1\r\n{failed}")
    );
    assert_eq!(newest_first(&mut two, "t"), ["c", "y"]);
    assert_eq!(two.ask("EXISTS v").int(), 0, "nobody reads that timeline");
}

#[test]
fn what_is_wrong_is_refused_and_changes_nothing() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    client.ask("SET wrong 1").expect_ok();
    client.ask("ZADD t 1 a 2 b").int();
    for (line, error) in [
        (
            "TIMELINE.ADD t 1",
            "ERR wrong number of arguments for 'timeline.add' command",
        ),
        ("TIMELINE.ADD t 1 a 2", "ERR syntax error"),
        ("TIMELINE.ADD t MAXLEN 1 2 x 3", "ERR syntax error"),
        ("TIMELINE.ADD t MAXLEN 1 x m", "ERR value is not a valid float"),
        (
            "TIMELINE.ADD t MAXLEN x 1 m",
            "ERR MAXLEN must be a number of items, 0 or more",
        ),
        (
            "TIMELINE.ADD t MINSCORE x 1 m",
            "ERR MINSCORE is not a valid float",
        ),
        ("TIMELINE.ADD wrong MAXLEN 1 1 m", "WRONGTYPE"),
        (
            "TIMELINE.TRIM t MAXLEN",
            "ERR wrong number of arguments for 'timeline.trim' command",
        ),
        ("TIMELINE.TRIM t NX 1", "ERR syntax error"),
        ("TIMELINE.TRIM wrong MAXLEN 1", "WRONGTYPE"),
        (
            "TIMELINE.RANGE",
            "ERR wrong number of arguments for 'timeline.range' command",
        ),
        ("TIMELINE.RANGE t BEFORE x", "ERR invalid cursor"),
        ("TIMELINE.RANGE wrong", "WRONGTYPE"),
        ("TIMELINE.MERGE 2 t wrong", "WRONGTYPE"),
        ("TIMELINE.MERGE 3 t wrong", "ERR syntax error"),
        ("TIMELINE.MERGE 257 t", "ERR "),
        ("TIMELINE.FANOUT 1 t x m", "ERR value is not a valid float"),
        ("TIMELINE.FANOUT 0 t 1 m", "ERR at least 1 input key is needed"),
        (
            "TIMELINE.ADD __preshard__:x 1 m",
            "ERR keys starting with '__preshard__:' are reserved",
        ),
        (
            "TIMELINE.RANGE __preshard__:x",
            "ERR keys starting with '__preshard__:' are reserved",
        ),
        (
            "TIMELINE.FANOUT 2 t __preshard__:x 1 m",
            "ERR keys starting with '__preshard__:' are reserved",
        ),
        (
            "TIMELINE.MERGE 2 t __preshard__:x",
            "ERR keys starting with '__preshard__:' are reserved",
        ),
        ("TIMELINE.POP t", "ERR unknown command 'TIMELINE.POP'"),
    ] {
        client.ask(line).expect_error(error);
    }
    assert_eq!(newest_first(&mut client, "t"), ["b", "a"]);
    client.ask("MULTI").expect_ok();
    client
        .ask("TIMELINE.ADD t 3 c")
        .expect_error("ERR COUNTER.* and TIMELINE.* are not allowed in MULTI");
    client.ask("EXEC").expect_error("EXECABORT");
    assert_eq!(newest_first(&mut client, "t"), ["b", "a"]);
}

/// P4. Slide 37 of the deck that the pattern comes from would drop the newest.
#[test]
fn a_timeline_never_stays_longer_than_it_may_and_keeps_the_newest() {
    const KEPT: usize = 10;
    const ADDED: usize = 600;
    let (_nodes, proxy) = small();
    let keys: Vec<String> = (0..4).map(|shard| key_in(shard * 2, 8, "t")).collect();
    thread::scope(|scope| {
        for writer in 0..4_usize {
            let (proxy, keys) = (&proxy, &keys);
            scope.spawn(move || {
                let mut client = if writer % 2 == 0 {
                    proxy.client()
                } else {
                    proxy.client3()
                };
                // 7 and 600 have no common divisor: every score comes once, in no order.
                for number in (0..ADDED)
                    .map(|number| (number * 7 + 1) % ADDED)
                    .filter(|number| number % 4 == writer)
                {
                    for key in keys {
                        let score = number.to_string();
                        client.command(&["TIMELINE.ADD", key, "MAXLEN", &KEPT.to_string(), &score, &score]);
                    }
                    for key in keys {
                        assert_eq!(client.reply().int(), 1, "{key}");
                    }
                }
            });
        }
    });
    let expected: Vec<String> = (ADDED - KEPT..ADDED)
        .rev()
        .map(|number| number.to_string())
        .collect();
    let mut client = proxy.client();
    for key in &keys {
        assert_eq!(newest_first(&mut client, key), expected, "{key}");
    }
}

#[test]
fn the_first_or_the_greater_score_stays() {
    if lacks("ZADD … GT") {
        return;
    }
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    let mut score = |line: &str| {
        client.ask(line).int();
        client.ask("ZSCORE t m").text()
    };
    assert_eq!(score("TIMELINE.ADD t 5 m"), "5");
    assert_eq!(score("TIMELINE.ADD t GT 4 m"), "5");
    assert_eq!(score("TIMELINE.ADD t gt maxlen 9 6 m"), "6");
    assert_eq!(score("TIMELINE.ADD t NX 7 m"), "6");
    assert_eq!(score("TIMELINE.ADD t 1 m"), "1");
    client
        .ask("TIMELINE.FANOUT 1 t GT 0.5 m")
        .field("unchanged")
        .map(|unchanged| assert_eq!(unchanged.int(), 1))
        .unwrap();
    assert_eq!(client.ask("ZSCORE t m").text(), "1");
}

#[test]
fn old_clients_and_timelines_share_their_keys() {
    let (nodes, proxy) = small();
    let (mut old, mut new) = (proxy.client(), proxy.client3());
    old.ask("ZADD t 1 a 2 b 3 c 4 d").int();
    assert_eq!(new.ask("TIMELINE.ADD t MAXLEN 4 5 e").int(), 1);
    assert_eq!(newest_first(&mut old, "t"), ["e", "d", "c", "b"]);
    assert_eq!(old.ask("ZREM t d").int(), 1);
    assert_eq!(
        page(&mut new, &["TIMELINE.RANGE", "t", "BEFORE", "4:d"]).1,
        ["c", "b"]
    );
    assert_eq!(old.ask("ZINCRBY t 10 b").text(), "12");
    assert_eq!(page(&mut new, &["TIMELINE.RANGE", "t"]).1, ["b", "e", "c"]);
    assert_eq!(old.ask("TYPE t").text(), "zset");
    assert_eq!(
        nodes[0].all_keys(12).len() + nodes[1].all_keys(12).len(),
        1,
        "nothing else is kept"
    );
}

#[test]
fn a_pinned_database_is_a_keyspace_of_its_own() {
    let (_nodes, proxy) = small();
    let (mut sharded, mut pinned) = (proxy.client(), proxy.client());
    pinned.ask("SELECT 2").expect_ok();
    assert_eq!(
        pinned.ask("TIMELINE.FANOUT 3 a b c 1 m").field("added"),
        Some(Reply::Int(3))
    );
    assert_eq!(sharded.ask("EXISTS a b c").int(), 0);
    assert_eq!(
        page(&mut pinned, &["TIMELINE.MERGE", "3", "a", "b", "c"]).1,
        ["m"]
    );
    assert_eq!(
        pinned.ask("TIMELINE.FANOUT 2 a d IFEXISTS 2 n").field("skipped"),
        Some(Reply::Int(1))
    );
    assert_eq!(pinned.ask("TIMELINE.TRIM a MAXLEN 1").int(), 1);
    assert_eq!(newest_first(&mut pinned, "a"), ["n"]);
}

#[test]
fn every_key_of_a_call_is_looked_at_for_a_limited_user() {
    let nodes = [crate::harness::Node::start(), crate::harness::Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .user(
            "feeds",
            "secret",
            "rights = [\"read\", \"write\"]\nkeys = [\"feed:*\"]",
        )
        .user("reader", "secret", "rights = [\"read\"]")
        .start();
    let mut client = proxy.client();
    client.ask("AUTH feeds secret").expect_ok();
    assert_eq!(
        client.ask("TIMELINE.FANOUT 2 feed:1 feed:2 1 m").field("added"),
        Some(Reply::Int(2))
    );
    for line in [
        "TIMELINE.ADD other 1 m",
        "TIMELINE.TRIM other MAXLEN 1",
        "TIMELINE.FANOUT 2 feed:1 other 1 m",
        "TIMELINE.FANOUT 2 feed:1 other IFEXISTS 1 m",
        "TIMELINE.RANGE other",
        "TIMELINE.MERGE 3 feed:1 feed:2 other",
    ] {
        client.ask(line).expect_error("NOPERM");
    }
    assert_eq!(
        page(&mut client, &["TIMELINE.MERGE", "2", "feed:1", "feed:2"]).1,
        ["m"]
    );
    client.ask("AUTH reader secret").expect_ok();
    assert_eq!(page(&mut client, &["TIMELINE.RANGE", "feed:1"]).1, ["m"]);
    client.ask("TIMELINE.ADD feed:1 1 m").expect_error("NOPERM");
}

#[test]
fn clients_are_told_of_the_commands_and_their_keys() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client3();
    let keys = |client: &mut Client, line: &str| -> Vec<String> {
        let keys = client.ask(&format!("COMMAND GETKEYS {line}")).items();
        keys.iter().map(Reply::text).collect()
    };
    assert_eq!(keys(&mut client, "TIMELINE.ADD k MAXLEN 9 1 m"), ["k"]);
    assert_eq!(
        keys(&mut client, "TIMELINE.FANOUT 2 k l MAXLEN 9 1 m"),
        ["k", "l"]
    );
    assert_eq!(
        keys(&mut client, "TIMELINE.MERGE 3 k l m COUNT 9"),
        ["k", "l", "m"]
    );
    let docs = client.ask("COMMAND DOCS timeline.fanout timeline.range");
    for (name, word) in [("timeline.fanout", "IFEXISTS"), ("timeline.range", "BEFORE")] {
        let docs = docs.field(name).unwrap();
        assert_eq!(docs.field("group").unwrap().text(), "module");
        assert!(format!("{docs:?}").contains(word), "{docs:?}");
    }
    for (name, arity, first) in [
        ("timeline.add", -4, 1),
        ("timeline.fanout", -5, 0),
        ("timeline.merge", -3, 0),
        ("timeline.range", -2, 1),
        ("timeline.trim", 4, 1),
    ] {
        let info = client.ask(&format!("COMMAND INFO {name}")).items()[0].items();
        assert_eq!((info[1].int(), info[3].int()), (arity, first), "{name}");
        let flags: Vec<String> = info[2].items().iter().map(Reply::text).collect();
        assert_eq!(
            flags.contains(&"movablekeys".to_owned()),
            first == 0,
            "{name}: {flags:?}"
        );
    }
    let mut admin = proxy.admin_client();
    let told = format!("{:?}", admin.ask("PRESHARD EXPLAIN TIMELINE.FANOUT 2 k l 1 m"));
    assert!(told.contains("an ADD"), "{told}");
}

#[test]
fn who_caches_a_page_is_told_when_it_changes() {
    let (_nodes, proxy) = small();
    let (mut client, mut other) = (proxy.client3(), proxy.client());
    client.ask("CLIENT TRACKING ON").expect_ok();
    for read in ["TIMELINE.RANGE feed", "TIMELINE.MERGE 2 star feed"] {
        client.ask(read).items();
        assert_eq!(
            other
                .ask(&format!("TIMELINE.ADD feed {} m", read.len()))
                .int()
                .max(1),
            1
        );
        let told = client.reply();
        assert!(matches!(&told, Reply::Push(_)), "{read}: {told:?}");
        assert!(format!("{told:?}").contains("feed"), "{read}: {told:?}");
    }
}

/// A pipeline mixes helpers and plain commands on the same key: each sees what stood before it.
#[test]
fn a_pipeline_is_answered_and_run_in_its_order() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    let keys: Vec<String> = (0..700).map(|key| format!("k{key}")).collect();
    let fanout = |item: &str| -> Vec<String> {
        let mut words = vec!["TIMELINE.FANOUT".to_owned(), keys.len().to_string()];
        words.extend(keys.iter().cloned());
        words.extend([
            "MAXLEN".to_owned(),
            "2".to_owned(),
            item.to_owned(),
            item.to_owned(),
        ]);
        words
    };
    for round in 0..5 {
        client.ask("FLUSHALL").expect_ok();
        client.command(&fanout("1"));
        client.command(&["ZADD", "k1", "2", "2"]);
        client.command(&["TIMELINE.RANGE", "k1"]);
        client.command(&fanout("3"));
        client.command(&["TIMELINE.RANGE", "k699"]);
        client.command(&["TIMELINE.ADD", "k1", "MAXLEN", "1", "0", "0"]);
        client.command(&["ZREVRANGE", "k1", "0", "-1"]);
        assert_eq!(
            client.reply().field("added"),
            Some(Reply::Int(700)),
            "round {round}"
        );
        assert_eq!(client.reply().int(), 1);
        assert_eq!(
            client.reply().items()[1].items(),
            [Reply::from("2"), Reply::from("1")]
        );
        assert_eq!(client.reply().field("added"), Some(Reply::Int(700)));
        assert_eq!(
            client.reply().items()[1].items(),
            [Reply::from("3"), Reply::from("1")]
        );
        assert_eq!(client.reply().int(), 1);
        assert_eq!(client.reply().items(), [Reply::from("3")]);
    }
}

fn timelines(proxy: &Proxy, count: usize) -> Vec<String> {
    let mut client = proxy.client();
    let keys: Vec<String> = (0..count).map(|key| format!("feed:{key}")).collect();
    client.ask("FLUSHALL").expect_ok();
    keys
}
