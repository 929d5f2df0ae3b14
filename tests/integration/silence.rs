//! `CLIENT REPLY`: what is left out, and what is not, as one Redis has it; and nothing else gets out of place.

use crate::harness::relay::{Fault, Relay};
use crate::harness::wire::frame;
use crate::harness::{Client, Node, PATIENCE, Reply, Setup, key_in, lacks, left_out, small, wait_until};

const END: &[u8] = b"$3\r\nend\r\n";

fn words(line: &str) -> Vec<u8> {
    frame(&line.split(' ').collect::<Vec<_>>())
}

/// All bytes that come before the answer to `ECHO end`.
fn before_the_end(client: &mut Client) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let reply = client.reply_bytes();
        if reply == END {
            return bytes;
        }
        bytes.extend(reply);
    }
}

/// What the lines are answered, sent at once or one by one, with an `ECHO end` behind them.
fn answers(mut client: Client, lines: &[&str], at_once: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        let line = if line.is_empty() {
            b"\r\n".to_vec()
        } else {
            words(line)
        };
        if at_once {
            bytes.extend(line);
        } else {
            client.send(&line);
        }
    }
    bytes.extend(words("CLIENT REPLY ON"));
    bytes.extend(words("ECHO end"));
    client.send(&bytes);
    before_the_end(&mut client)
}

const SCRIPTS: &[&[&str]] = &[
    &["CLIENT REPLY SKIP", "PING", "PING"],
    &["CLIENT REPLY SKIP", "", "PING", "ECHO a"],
    &["CLIENT REPLY SKIP", "CLIENT REPLY ON", "PING"],
    &["CLIENT REPLY SKIP", "CLIENT REPLY SKIP", "ECHO a", "ECHO b"],
    &["CLIENT REPLY SKIP", "NOSUCH", "PING"],
    &["CLIENT REPLY SKIP", "GET", "PING"],
    &["CLIENT REPLY SKIP", "CLIENT REPLY OFF", "PING"],
    &["CLIENT REPLY SKIP", "RESET", "PING"],
    &["CLIENT REPLY SKIP", "CLIENT REPLY bogus", "PING"],
    &["CLIENT REPLY SKIP", "MULTI", "SET {t}a 1", "EXEC"],
    &[
        "MULTI",
        "SET {t}a 1",
        "INCR {t}a",
        "EXEC",
        "CLIENT REPLY SKIP",
        "GET {t}a",
    ],
    &["CLIENT REPLY SKIP", "WATCH {t}a", "MULTI", "GET {t}a", "EXEC"],
    &[
        "CLIENT REPLY SKIP",
        "SELECT 3",
        "SET a 1",
        "GET a",
        "CLIENT REPLY SKIP",
        "SELECT 0",
        "GET {t}zz",
    ],
    &["CLIENT REPLY SKIP", "EVAL #!lua\nreturn{1,2} 1 {t}a", "GET {t}zz"],
    &["CLIENT REPLY SKIP", "BLPOP {t}none 0.01", "GET {t}zz"],
    &["CLIENT REPLY SKIP", "SUBSCRIBE c", "UNSUBSCRIBE c", "PING"],
    &[
        "CLIENT REPLY OFF",
        "PING",
        "NOSUCH",
        "GET",
        "CLIENT REPLY SKIP",
        "ECHO a",
        "CLIENT REPLY ON",
        "ECHO b",
    ],
    &[
        "CLIENT REPLY OFF",
        "MSET a 1 b 2 c 3 d 4",
        "MGET a b c d",
        "DEL a b",
        "DBSIZE",
        "CLIENT REPLY ON",
        "MGET a b c",
    ],
    &["CLIENT REPLY OFF", "MULTI", "SET {t}a 1", "EXEC"],
    &[
        "CLIENT REPLY OFF",
        "MULTI",
        "SET {t}a 5",
        "CLIENT REPLY bogus",
        "DISCARD",
        "CLIENT REPLY ON",
        "GET {t}a",
    ],
    &["CLIENT REPLY OFF", "RESET", "PING"],
    &["CLIENT REPLY OFF", "HELLO 3"],
    &["CLIENT REPLY OFF", "SUBSCRIBE c", "PING", "GET x", "UNSUBSCRIBE"],
    &["CLIENT REPLY bogus", "PING"],
    &["CLIENT REPLY", "PING"],
];

#[test]
fn what_is_left_out_is_what_redis_leaves_out() {
    if lacks("words of errors like these")
        || left_out(&["redis 8"], "does not count an empty line as a request")
    {
        return;
    }
    let (_nodes, proxy) = small();
    let plain = Node::start();
    for three in [false, true] {
        for script in SCRIPTS {
            for at_once in [true, false] {
                let [mut ours, mut theirs] = [proxy.client(), plain.client()];
                if three {
                    ours.ask("HELLO 3");
                    theirs.ask("HELLO 3");
                }
                let (ours, theirs) = (answers(ours, script, at_once), answers(theirs, script, at_once));
                assert_eq!(
                    String::from_utf8_lossy(&ours),
                    String::from_utf8_lossy(&theirs),
                    "{script:?}, RESP3 {three}, at once {at_once}"
                );
            }
        }
    }
}

#[test]
fn large_and_small_replies_of_all_shards_keep_their_places_round_those_that_are_left_out() {
    if lacks("words of errors like these") {
        return;
    }
    let (_nodes, proxy) = small();
    let plain = Node::start();
    let mut rng = fastrand::Rng::with_seed(crate::harness::seed());
    let keys: Vec<String> = (0..8).map(|shard| key_in(shard, 8, "k:")).collect();
    let mut setter = proxy.client();
    let mut theirs = plain.client();
    for (number, key) in keys.iter().enumerate() {
        let value = format!("{number}:{}", "x".repeat([3, 200_000, 40, 5_000][number % 4]));
        setter.call(&["SET", key, &value]).expect_ok();
        theirs.call(&["SET", key, &value]).expect_ok();
    }
    for round in 0..60 {
        let mut bytes = Vec::new();
        for _ in 0..rng.usize(1..20) {
            if rng.u8(..3) == 0 {
                bytes.extend(words("CLIENT REPLY SKIP"));
            }
            match rng.u8(..12) {
                0 => bytes.extend(words("CLIENT REPLY OFF")),
                1 => bytes.extend(words("CLIENT REPLY ON")),
                2 => bytes.extend(frame(&["MGET", &keys[0], &keys[1], &keys[5]])),
                3 => bytes.extend(words("NOSUCH")),
                4 => bytes.extend(words("PING")),
                _ => bytes.extend(frame(&["GET", &keys[rng.usize(..8)]])),
            }
        }
        bytes.extend(words("CLIENT REPLY ON"));
        bytes.extend(words("ECHO end"));
        let [ours, theirs] = [proxy.client(), plain.client()].map(|mut client| {
            client.send(&bytes);
            before_the_end(&mut client)
        });
        assert!(
            ours == theirs,
            "round {round}: {}",
            String::from_utf8_lossy(&bytes)
        );
    }
}

#[test]
fn what_nobody_reads_takes_no_memory_and_closes_nobody() {
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .proxy("output_bytes_soft = \"64KiB\"")
        .proxy("output_bytes_hard = \"1MiB\"")
        .start();
    let mut client = proxy.client();
    let large = "x".repeat(3_000_000);
    client.call(&["SET", "{t}large", &large]).expect_ok();
    client.command(&["CLIENT", "REPLY", "OFF"]);
    for _ in 0..40 {
        client.send(&words("GET {t}large"));
        client.send(&words("GET {t}none"));
    }
    client.command(&["CLIENT", "REPLY", "ON"]);
    assert!(client.reply().is_ok());
    // Nor while an older request of another node is not answered.
    let other_node = usize::from(crate::harness::shard_of("{t}large", 8) < 4);
    let elsewhere = key_in(other_node as u16 * 4, 8, "k:");
    client.call(&["SET", &elsewhere, "1"]).expect_ok();
    let read = || proxy.metric("preshard_shard_reply_bytes_total");
    let before = read();
    nodes[other_node].freeze();
    client.command(&["CLIENT", "REPLY", "SKIP"]);
    client.command(&["GET", &elsewhere]);
    for _ in 0..3 {
        client.command(&["CLIENT", "REPLY", "SKIP"]);
        client.command(&["GET", "{t}large"]);
    }
    wait_until("they are answered", PATIENCE, || read() > before + 9_000_000);
    nodes[other_node].thaw();
    assert_eq!(client.ask("ECHO still"), Reply::from("still"));
    let resident = proxy.resident_bytes();
    assert!(resident < 100_000_000, "{resident}");
    assert_eq!(client.ask("GET {t}none"), Reply::Null);
}

#[test]
fn a_wait_is_left_out_and_still_takes_what_it_waited_for() {
    let (nodes, proxy) = small();
    let mut client = proxy.client();
    client.send(&words("CLIENT REPLY SKIP"));
    client.send(&words("BLPOP {t}q 0"));
    client.send(&words("PING"));
    wait_until("it waits", PATIENCE, || {
        nodes.iter().map(|node| node.info("blocked_clients")).sum::<u64>() == 1
    });
    let mut other = proxy.client();
    assert_eq!(other.ask("RPUSH {t}q v").int(), 1);
    assert_eq!(client.reply(), Reply::Simple("PONG".into()));
    assert_eq!(other.ask("LLEN {t}q").int(), 0);
    // One that is ended by another client, the same.
    let id = client.ask("CLIENT ID").int().to_string();
    client.send(&words("CLIENT REPLY SKIP"));
    client.send(&words("BLPOP {t}q 0"));
    wait_until("it is unblocked", PATIENCE, || {
        other.call(&["CLIENT", "UNBLOCK", &id, "ERROR"]).int() == 1
    });
    assert_eq!(client.ask("ECHO x"), Reply::from("x"));
}

#[test]
fn messages_come_to_who_wants_no_replies() {
    let (_nodes, proxy) = small();
    for three in [false, true] {
        let mut client = if three { proxy.client3() } else { proxy.client() };
        client.send(&words("CLIENT REPLY OFF"));
        client.send(&words("SUBSCRIBE news"));
        let first = client.reply().items();
        assert_eq!(first[0], Reply::from("subscribe"));
        assert_eq!(proxy.client().ask("PUBLISH news hello").int(), 1);
        let message = client.reply().items();
        assert_eq!(message[2], Reply::from("hello"));
        client.send(&words("UNSUBSCRIBE"));
        assert_eq!(client.reply().items()[0], Reply::from("unsubscribe"));
        client.send(&words("GET x"));
        assert!(client.ask("CLIENT REPLY ON").is_ok());
    }
}

#[test]
fn a_script_that_a_node_has_forgotten_runs_once_and_in_silence() {
    let (nodes, proxy) = small();
    let mut client = proxy.client();
    let sum = client
        .call(&["SCRIPT", "LOAD", "return redis.call('INCR', KEYS[1])"])
        .text();
    assert_eq!(client.call(&["EVALSHA", &sum, "1", "{t}n"]).int(), 1);
    for node in &nodes {
        node.client().ask("SCRIPT FLUSH").expect_ok();
    }
    client.send(&words("CLIENT REPLY SKIP"));
    client.command(&["EVALSHA", &sum, "1", "{t}n"]);
    assert_eq!(client.ask("GET {t}n"), Reply::from("2"));
}

#[test]
fn errors_of_a_dead_node_are_left_out_too() {
    let mut nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .announce(&["link_closed", "link_down", "node_down", "node_unreachable"])
        .start();
    let mut client = proxy.client();
    let (dead, alive) = (key_in(1, 8, "k:"), key_in(6, 8, "k:"));
    client.call(&["SET", &dead, "1"]).expect_ok();
    client.call(&["SET", &alive, "1"]).expect_ok();
    nodes[0].freeze();
    client.send(&words("CLIENT REPLY OFF"));
    for _ in 0..20 {
        client.command(&["GET", &dead]);
        client.command(&["MGET", &dead, &alive]);
        client.command(&["GET", &alive]);
    }
    nodes[0].kill();
    client.send(&words("CLIENT REPLY ON"));
    assert!(client.reply().is_ok());
    assert_eq!(client.call(&["GET", &alive]), Reply::from("1"));
    client.send(&words("CLIENT REPLY SKIP"));
    client.command(&["GET", &dead]);
    assert_eq!(client.call(&["GET", &alive]), Reply::from("1"));
}

#[test]
fn a_goodbye_in_silence_closes_all_the_same() {
    let (_nodes, proxy) = small();
    for last in ["QUIT", "CLIENT KILL SKIPME no TYPE normal", "*1\r\nbroken"] {
        let mut client = proxy.client();
        client.send(&words("CLIENT REPLY OFF"));
        if last.starts_with('*') {
            client.send(format!("{last}\r\n").as_bytes());
        } else {
            client.send(&words(last));
        }
        assert_eq!(client.until_closed(), b"", "{last}");
    }
}

#[test]
fn a_large_reply_that_is_cut_closes_only_who_has_its_half() {
    let nodes = [Node::start()];
    let relay = Relay::to(nodes[0].socket());
    let proxy = Setup::of(&[relay.address()])
        .announce(crate::faults::FAULT_EVENTS)
        .start();
    let mut client = proxy.client();
    client
        .call(&["SET", "{t}large", &format!("marked{}", "x".repeat(2_000_000))])
        .expect_ok();
    client.call(&["SET", "{t}small", "1"]).expect_ok();
    for silent in [true, false] {
        let struck = relay.fired();
        relay.arm("marked", Fault::CutReply(500_000));
        if silent {
            client.send(&words("CLIENT REPLY SKIP"));
        }
        client.send(&[words("GET {t}large"), words("PING")].concat());
        relay.await_fault(struck + 1);
        if silent {
            assert_eq!(client.reply(), Reply::Simple("PONG".into()));
            wait_until("the node is back", PATIENCE, || {
                client.ask("GET {t}small") == Reply::from("1")
            });
        } else {
            let half = client.until_closed();
            assert!(half.len() < 600_000, "{}", half.len());
        }
    }
}
