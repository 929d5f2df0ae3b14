//! Bad inputs, each on its own connection: what the sender gets, and that nobody else notices.
//!
//! The rows are those of the "bad inputs" list of the design's reliability page, with what is wanted of preshard.

use std::collections::BTreeSet;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use crate::harness::wire::frame;
use crate::harness::{Client, Metronome, Node, PATIENCE, Proxy, Reply, Setup, sys, wait_until};

/// What one bad input must lead to.
enum Want {
    /// These replies (each the start of one), and the connection goes on.
    Goes(&'static [&'static str]),
    /// One error line with these words, then closed.
    Fails(&'static str),
    /// Closed; before it at most error replies.
    Closed,
}

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    want: Want,
}

fn case(name: &'static str, bytes: impl Into<Vec<u8>>, want: Want) -> Case {
    Case {
        name,
        bytes: bytes.into(),
        want,
    }
}

fn goes(name: &'static str, bytes: impl Into<Vec<u8>>, replies: &'static [&'static str]) -> Case {
    case(name, bytes, Want::Goes(replies))
}

fn fails(name: &'static str, bytes: impl Into<Vec<u8>>, words: &'static str) -> Case {
    case(name, bytes, Want::Fails(words))
}

fn closed(name: &'static str, bytes: impl Into<Vec<u8>>) -> Case {
    case(name, bytes, Want::Closed)
}

const MULTIBULK: &str = "Protocol error: invalid multibulk length";
const BULK: &str = "Protocol error: invalid bulk length";
const EXPECTED: &str = "Protocol error: expected '$', got ";
const PROTOCOL: &str = "Protocol error: ";

fn framing_cases() -> Vec<Case> {
    vec![
        goes("inline", "PING\r\n", &["+PONG"]),
        goes("inline, LF only", "PING\n", &["+PONG"]),
        goes("an empty line first", "\r\nPING\r\n", &["+PONG"]),
        goes("*0 first", "*0\r\n*1\r\n$4\r\nPING\r\n", &["+PONG"]),
        goes("*-1 first", "*-1\r\n*1\r\n$4\r\nPING\r\n", &["+PONG"]),
        goes(
            "*-10 first",
            "*-10\r\nPING\r\n*0\r\nPING\r\n",
            &["+PONG", "+PONG"],
        ),
        fails("*3000000000", "*3000000000\r\n", MULTIBULK),
        fails("*2147483648", "*2147483648\r\n", MULTIBULK),
        fails("*99999999999999999999", "*99999999999999999999\r\n", MULTIBULK),
        fails("*1048577", "*1048577\r\n", MULTIBULK),
        fails("*abc", "*abc\r\n", MULTIBULK),
        fails("a lone *", "*\r\n", MULTIBULK),
        fails("*+1", "*+1\r\n$4\r\nPING\r\n", MULTIBULK),
        fails("* 1", "* 1\r\n$4\r\nPING\r\n", MULTIBULK),
        fails("*01", "*01\r\n$4\r\nPING\r\n", MULTIBULK),
    ]
}

fn bulk_cases() -> Vec<Case> {
    vec![
        fails("$03", "*2\r\n$3\r\nGET\r\n$03\r\nabc\r\n", BULK),
        fails("$-1 argument", "*2\r\n$3\r\nGET\r\n$-1\r\n", BULK),
        fails("$-10 argument", "*2\r\n$3\r\nGET\r\n$-10\r\n", BULK),
        fails("$abc argument", "*2\r\n$3\r\nGET\r\n$abc\r\n", BULK),
        fails("$+3 argument", "*2\r\n$3\r\nGET\r\n$+3\r\nabc\r\n", BULK),
        fails("2 GB announced", "*2\r\n$3\r\nGET\r\n$2000000000\r\n", BULK),
        fails(
            "512 MB and 1 announced",
            "*2\r\n$3\r\nGET\r\n$536870913\r\n",
            BULK,
        ),
        fails(
            "20 nines announced",
            "*2\r\n$3\r\nGET\r\n$99999999999999999999\r\n",
            BULK,
        ),
        fails(":1 argument", "*2\r\n$3\r\nGET\r\n:1\r\n", EXPECTED),
        fails("+a argument", "*2\r\n$3\r\nGET\r\n+a\r\n", EXPECTED),
        fails("nested array", "*2\r\n$3\r\nGET\r\n*1\r\n$1\r\na\r\n", EXPECTED),
        fails("40 KB of nested arrays", "*1\r\n".repeat(10_000), EXPECTED),
        fails(
            "a bulk longer than its length",
            "*2\r\n$3\r\nGET\r\n$3\r\nabcd\r\nPING\r\n",
            PROTOCOL,
        ),
        fails(
            "a bulk ended by XX",
            "*2\r\n$3\r\nGET\r\n$3\r\nabcXX*1\r\n$4\r\nPING\r\n",
            PROTOCOL,
        ),
        fails(
            "a bulk ended by two LF",
            "*2\r\n$3\r\nGET\r\n$3\r\nabc\n\n",
            PROTOCOL,
        ),
        fails(
            "header ended by CR and another byte",
            "*1\rX$4\rYPING\r\n",
            PROTOCOL,
        ),
        fails(
            "bulk header ended by CR and another byte",
            "*1\r\n$4\rYPING\r\n",
            PROTOCOL,
        ),
        fails(
            "an inline of 70 KB",
            vec![b'x'; 70_000],
            "Protocol error: too big inline request",
        ),
        fails(
            "open quotes",
            "SET \"a b\r\n",
            "Protocol error: unbalanced quotes in request",
        ),
        goes(
            "an escape in quotes",
            "SET hostile:q \"\\x41\"\r\nGET hostile:q\r\n",
            &["+OK", "$1\r\nA"],
        ),
    ]
}

fn stranger_cases() -> Vec<Case> {
    let host = "*2\r\n$5\r\nHost:\r\n$1\r\nx\r\nSET hostile:ran 1\r\n";
    vec![
        closed(
            "an HTTP GET",
            "GET / HTTP/1.1\r\nHost: localhost\r\n\r\nSET hostile:ran 1\r\n",
        ),
        closed(
            "an HTTP POST",
            "POST / HTTP/1.1\r\nHost: localhost\r\n\r\nSET hostile:ran 1\r\n",
        ),
        closed(
            "post in RESP",
            "*2\r\n$4\r\npost\r\n$1\r\n/\r\nSET hostile:ran 1\r\n",
        ),
        closed("Host: in RESP", host),
        closed(
            "a TLS hello",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        ),
        closed("a RESP3 push", ">1\r\n$4\r\nPING\r\n"),
        closed("a RESP3 map", "%1\r\n$4\r\nPING\r\n$1\r\na\r\n"),
        closed("a simple string", "+OK\r\n"),
        closed("an error", "-ERR x\r\n"),
        closed("a bulk", "$-1\r\n"),
        closed("header ended by LF", "*1\n$4\nPING\n*1\r\n"),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn command_cases() -> Vec<Case> {
    let unknown_line = frame(&["a\r\n+OK\r\nb"]);
    let with_nul = [frame(&["PI\0NG"]), frame(&["GET\0", "x"]), frame(&["\0GET", "x"])].concat();
    let arities = "*1\r\n$3\r\nGET\r\n*4\r\n$4\r\nMSET\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n*1\r\n$4\r\nMGET\r\nPING\r\n";
    let big_counts = ["-1", "99", "9223372036854775808", "2147483647"]
        .iter()
        .flat_map(|count| {
            [
                frame(&["EVAL", "return 1", count, "hostile:k"]),
                frame(&["ZUNIONSTORE", "hostile:z", count, "hostile:k"]),
            ]
        })
        .collect::<Vec<_>>()
        .concat();
    let escapes = [
        frame(&[
            "EVAL",
            "redis.call('SELECT',3) return redis.call('GET','x')",
            "1",
            "x",
        ]),
        frame(&["EVAL", "#!lua \"flags=a\r\n+INJECTED\"\nreturn 1", "1", "x"]),
        frame(&["COPY", "hostile:a", "hostile:b", "DB", "1"]),
        frame(&["MOVE", "hostile:a", "1"]),
        frame(&["MIGRATE", "127.0.0.1", "1", "hostile:a", "0", "10"]),
        frame(&["SWAPDB", "0", "1"]),
        frame(&["MONITOR"]),
        frame(&["SYNC"]),
        frame(&["PSYNC", "?", "-1"]),
    ]
    .concat();
    vec![
        goes(
            "an unknown name with CR LF",
            unknown_line,
            &["-ERR unknown command 'a  +OK  b'"],
        ),
        goes(
            "an unknown name of 100 KB",
            frame(&["x".repeat(100_000)]),
            &["-ERR unknown command 'xxx"],
        ),
        goes(
            "NUL in a name",
            with_nul,
            &[
                "-ERR unknown command",
                "-ERR unknown command",
                "-ERR unknown command",
            ],
        ),
        goes(
            "a key of 1 MB",
            frame(&["GET".to_owned(), "k".repeat(1 << 20)]),
            &["$-1"],
        ),
        goes(
            "wrong arity in a pipeline",
            arities,
            &[
                "-ERR wrong number",
                "-ERR wrong number",
                "-ERR wrong number",
                "+PONG",
            ],
        ),
        goes("absurd key counts", big_counts, &["-ERR"; 8]),
        goes("ways out of a database", escapes, &["-ERR"; 9]),
        goes(
            "10,000 PINGs in one write",
            "PING\r\n".repeat(10_000),
            &["+PONG"; 10_000],
        ),
    ]
}

/// Two nodes and a proxy, a client that stays, and the node connections as they were at the start.
struct Scene {
    proxy: Proxy,
    nodes: [Node; 2],
    witness: Client,
    links: [BTreeSet<u64>; 2],
}

impl Scene {
    fn new(setup: impl Fn(Setup) -> Setup) -> Self {
        let nodes = [Node::start(), Node::start()];
        let proxy = setup(Setup::of(&[nodes[0].address(), nodes[1].address()])).start();
        let mut witness = proxy.client();
        // Values that say whose they are, on every shard.
        for number in 0..64 {
            witness
                .call(&["SET", &format!("witness:{number}"), &format!("value of {number}")])
                .expect_ok();
        }
        let links = [nodes[0].links(), nodes[1].links()];
        Self {
            nodes,
            proxy,
            witness,
            links,
        }
    }

    /// The client that was there before, a fresh one, and the shared connections are as they were.
    fn assert_unharmed(&mut self, after: &str) {
        for number in [3, 17, 42] {
            let value = self.witness.ask(&format!("GET witness:{number}"));
            assert_eq!(
                value,
                Reply::from(format!("value of {number}").as_str()),
                "after {after}"
            );
        }
        self.proxy.assert_alive(after);
        for (node, links) in self.nodes.iter().zip(&self.links) {
            assert!(
                links.is_subset(&node.links()),
                "a shared connection was closed by: {after}"
            );
        }
    }
}

fn check(scene: &mut Scene, case: &Case) {
    let name = case.name;
    let mut client = scene.proxy.client();
    // A peer that is closed at once may not take all of it.
    let sent = client.try_send(&case.bytes);
    match case.want {
        Want::Goes(starts) => {
            sent.unwrap();
            for start in starts {
                let reply = client.reply_bytes();
                let text = String::from_utf8_lossy(&reply);
                assert!(text.starts_with(start), "{name}: wanted '{start}…', got {text:?}");
                assert!(
                    !text.starts_with('-') || text.len() < 700,
                    "{name}: an error of {} bytes",
                    text.len()
                );
            }
            assert_eq!(
                client.ask("PING"),
                Reply::Simple("PONG".to_owned()),
                "{name}: the connection goes on"
            );
        }
        Want::Fails(words) => {
            let all = String::from_utf8_lossy(&client.until_closed()).into_owned();
            assert!(
                all.starts_with(&format!("-ERR {words}")),
                "{name}: wanted '{words}' and the end, got {all:?}"
            );
            assert_eq!(all.matches("\r\n").count(), 1, "{name}: one line: {all:?}");
        }
        Want::Closed => {
            let all = String::from_utf8_lossy(&client.until_closed()).into_owned();
            assert!(
                all.lines().all(|line| line.starts_with('-')),
                "{name}: something was answered: {all:?}"
            );
        }
    }
    scene.assert_unharmed(name);
}

#[test]
fn malformed_frames_close_only_their_sender() {
    let mut scene = Scene::new(|setup| setup);
    for case in framing_cases().into_iter().chain(bulk_cases()) {
        check(&mut scene, &case);
    }
}

#[test]
fn strangers_of_other_protocols_are_closed_and_nothing_of_theirs_runs() {
    let mut scene = Scene::new(|setup| setup);
    for case in stranger_cases() {
        check(&mut scene, &case);
        assert_eq!(
            scene.witness.ask("EXISTS hostile:ran"),
            Reply::Int(0),
            "{} ran a command",
            case.name
        );
    }
}

#[test]
fn odd_commands_get_one_reply_each_and_the_connection_goes_on() {
    let mut scene = Scene::new(|setup| setup);
    for case in command_cases() {
        check(&mut scene, &case);
    }
}

#[test]
fn commands_that_would_change_a_shared_connection_never_do() {
    // The control side runs no transactions of its own there once the proxy is ready, so that they can be counted.
    let mut scene = Scene::new(|setup| setup.nodes("acl_users = \"off\""));
    let multi_before: Vec<u64> = scene.nodes.iter().map(|node| node.calls_of("multi")).collect();
    let changing = [
        "CLIENT REPLY OFF",
        "CLIENT REPLY SKIP",
        "CLIENT NO-EVICT ON",
        "CLIENT TRACKING ON",
        "CLIENT PAUSE 3000",
        "CLIENT KILL TYPE normal SKIPME yes",
        "HELLO 3",
        "RESET",
        "SUBSCRIBE c",
        "PSUBSCRIBE *",
        "MULTI",
        "WATCH a",
        "BLPOP nothing 0",
        "READONLY",
        "ASKING",
        "WAIT 1 100",
        "AUTH x",
        "CLIENT UNBLOCK 1",
        "DEBUG SLEEP 1",
        "SHUTDOWN",
        "QUIT",
    ];
    let mut left = Vec::new();
    for command in changing {
        if command.starts_with("CLIENT KILL") {
            continue;
        }
        let mut client = scene.proxy.client();
        client.send(format!("{command}\r\nGET witness:5\r\n").as_bytes());
        scene.assert_unharmed(command);
        left.push(client);
    }
    // And they leave, in whatever state they are.
    drop(left);
    scene.assert_unharmed("all of them leaving");
    for (node, multi_before) in scene.nodes.iter().zip(multi_before) {
        for name in [
            "hello",
            "reset",
            "monitor",
            "multi",
            "debug",
            "client|reply",
            "client|tracking",
            "client|pause",
        ] {
            let most = match name {
                "hello" => 40,
                "multi" => multi_before,
                _ => 0,
            };
            assert!(node.calls_of(name) <= most, "{name} reached a node");
        }
    }
}

#[test]
fn requests_may_come_byte_by_byte() {
    let mut scene = Scene::new(|setup| setup);
    let mut client = scene.proxy.client();
    let bytes = [
        frame(&["SET", "slow", "drip\r\n"]),
        frame(&["GET", "slow"]),
        b"PING\r\n".to_vec(),
    ]
    .concat();
    for byte in &bytes {
        client.send(std::slice::from_ref(byte));
    }
    client.reply().expect_ok();
    assert_eq!(client.reply(), Reply::from("drip\r\n"));
    assert_eq!(client.reply(), Reply::Simple("PONG".to_owned()));
    scene.assert_unharmed("a client that sends byte by byte");
}

#[test]
fn half_a_command_and_the_end_closes_the_connection() {
    let mut scene = Scene::new(|setup| setup);
    for half in ["*2\r\n$3\r\nGET\r\n$5\r\nab", "*2\r\n$3", "PIN", "*"] {
        let mut client = scene.proxy.client();
        client.send(half.as_bytes());
        client.stream().shutdown(Shutdown::Write).unwrap();
        assert!(client.until_closed().is_empty(), "{half:?} was answered");
    }
    // What was complete is answered first.
    let mut client = scene.proxy.client();
    client.send(b"GET witness:1\r\nGET wit");
    client.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.reply(), Reply::from("value of 1"));
    assert!(client.until_closed().is_empty());
    scene.assert_unharmed("half a command and FIN");
}

#[test]
fn a_reset_with_replies_due_harms_nobody() {
    let mut scene = Scene::new(|setup| setup);
    let value = "x".repeat(20_000);
    scene.witness.call(&["SET", "big", &value]).expect_ok();
    for _ in 0..20 {
        let mut client = scene.proxy.client();
        client.send(
            &"GET big\r\nGET witness:9\r\nINCR resets\r\n"
                .repeat(50)
                .into_bytes(),
        );
        socket2::SockRef::from(client.stream())
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(client);
        assert_eq!(scene.witness.ask("GET witness:9"), Reply::from("value of 9"));
    }
    scene.assert_unharmed("twenty resets");
}

#[test]
fn an_announced_giant_takes_no_memory() {
    let mut scene = Scene::new(|setup| setup);
    let before = scene.proxy.resident_bytes();
    let mut clients = Vec::new();
    for _ in 0..50 {
        // As large as is allowed, announced and not sent; and one array of a million announced.
        for bytes in [
            "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$67108864\r\nabc",
            "*1048576\r\n$3\r\nDEL\r\n",
        ] {
            let mut client = scene.proxy.client();
            client.send(bytes.as_bytes());
            clients.push(client);
        }
    }
    scene.assert_unharmed("fifty announced giants");
    let grown = scene.proxy.resident_bytes().saturating_sub(before);
    assert!(
        grown < 32 << 20,
        "grew by {grown} bytes for what was only announced"
    );
}

#[test]
fn a_client_that_never_reads_is_closed_and_nobody_else_waits() {
    let mut scene = Scene::new(|setup| {
        setup
            .proxy("output_bytes_soft = \"1MiB\"")
            .proxy("output_bytes_hard = \"8MiB\"")
            .proxy("output_stall_timeout = \"1s\"")
            .proxy("request_timeout = \"60s\"")
    });
    let value = "x".repeat(1 << 20);
    scene.witness.call(&["SET", "big", &value]).expect_ok();
    let before = scene.proxy.resident_bytes();
    let mut greedy = scene.proxy.client();
    greedy.call(&["CLIENT", "SETNAME", "greedy"]).expect_ok();
    greedy.send("GET big\r\n".repeat(150).as_bytes());

    let (mut most, mut slowest, metronome) = (0, Duration::ZERO, Metronome::start());
    wait_until("the client that never reads is closed", PATIENCE, || {
        let start = Instant::now();
        assert_eq!(scene.witness.ask("GET witness:9"), Reply::from("value of 9"));
        slowest = slowest.max(start.elapsed());
        most = most.max(scene.proxy.resident_bytes());
        !scene.witness.ask("CLIENT LIST").text().contains("name=greedy")
    });
    let grown = most.saturating_sub(before);
    assert!(
        grown < 48 << 20,
        "150 MiB asked and not read: grew by {grown} bytes"
    );
    let late = metronome.late();
    assert!(
        slowest < Duration::from_secs(1) + late,
        "another client waited {slowest:?}, late {late:?}"
    );
    scene.assert_unharmed("a client that never read");
}

#[test]
fn thousands_of_silent_connections_cost_little() {
    let limit = sys::raise_open_files();
    let count = usize::try_from(limit).unwrap().saturating_sub(300).min(9_900);
    let mut scene = Scene::new(|setup| setup);
    let before = scene.proxy.resident_bytes();
    let silent: Vec<Client> = (0..count).map(|_| scene.proxy.client()).collect();
    scene.assert_unharmed("thousands of silent connections");
    wait_until("all are counted", PATIENCE, || {
        let info = scene.witness.ask("INFO clients").text();
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("connected_clients:"))
            .unwrap();
        line.trim().parse::<usize>().unwrap() > count
    });
    let each = scene.proxy.resident_bytes().saturating_sub(before) / count as u64;
    assert!(each < 8 << 10, "{each} bytes for each silent connection");
    drop(silent);
    scene.assert_unharmed("thousands of connections leaving");
}
