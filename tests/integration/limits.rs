//! Every limit has a named outcome; a stopping proxy leaves nobody in doubt.

use std::time::{Duration, Instant};

use crate::harness::wire::frame;
use crate::harness::{
    Client, Metronome, Node, NodeOptions, PATIENCE, Proxy, Reply, Scratch, Setup, key_in, undisturbed,
    wait_for, wait_until,
};

fn behind(setup: impl Fn(Setup) -> Setup) -> ([Node; 2], Proxy) {
    let nodes = [Node::start(), Node::start()];
    let proxy = setup(Setup::of(&[nodes[0].address(), nodes[1].address()])).start();
    (nodes, proxy)
}

#[test]
fn one_client_too_many_is_told_so_and_closed() {
    let (_nodes, proxy) = behind(|setup| setup.proxy("max_clients = 3"));
    let mut clients: Vec<Client> = (0..3).map(|_| proxy.client()).collect();
    for client in &mut clients {
        assert_eq!(client.ask("PING"), Reply::Simple("PONG".to_owned()));
    }
    let said = String::from_utf8_lossy(&proxy.client().until_closed()).into_owned();
    assert_eq!(said, "-ERR max number of clients reached\r\n");
    clients.pop();
    wait_until("a place is free again", PATIENCE, || {
        let mut client = proxy.client();
        client.try_send(b"PING\r\n").is_ok()
            && client.try_reply_bytes().is_ok_and(|reply| reply == b"+PONG\r\n")
    });
    assert_eq!(clients[0].ask("PING"), Reply::Simple("PONG".to_owned()));
}

#[test]
fn a_pipeline_deeper_than_the_limit_is_slowed_down_never_failed() {
    let (_nodes, proxy) = behind(|setup| setup.proxy("in_flight_max = 10"));
    let mut client = proxy.client();
    let bytes: Vec<u8> = (0..5000)
        .flat_map(|n| frame(&["ECHO".to_owned(), n.to_string()]))
        .collect();
    let incrs: Vec<u8> = (0..5000)
        .flat_map(|n| frame(&["INCR".to_owned(), format!("counter:{}", n % 7)]))
        .collect();
    client.send(&bytes);
    client.send(&incrs);
    for n in 0..5000 {
        assert_eq!(client.reply(), Reply::from(n.to_string().as_str()));
    }
    for n in 0..5000 {
        assert_eq!(client.reply(), Reply::Int(n / 7 + 1));
    }
}

#[test]
fn a_full_queue_answers_tryagain_at_once_and_nothing_of_it_ran() {
    // Two waits are over before the node is given up.
    undisturbed(Duration::from_millis(500), fill_a_queue);
}

fn fill_a_queue() {
    let (nodes, proxy) = behind(|setup| {
        setup
            .proxy("request_timeout = \"1500ms\"")
            .proxy("workers = 1")
            .nodes("in_flight_max = 8")
            .nodes("queue_max = 16")
    });
    let (stuck, free) = (key_in(0, 8, "stuck:"), key_in(7, 8, "free:"));
    let mut client = proxy.client();
    client.call(&["SET", &free, "x"]).expect_ok();
    client.call(&["SET", &stuck, "0"]).expect_ok();
    nodes[0].freeze();
    let mut others = proxy.client();
    let (start, metronome) = (Instant::now(), Metronome::start());
    client.send(&frame(&["INCR", &stuck]).repeat(200));
    assert_eq!(others.call(&["GET", &free]), Reply::from("x"));
    let (took, late) = (start.elapsed(), metronome.late());
    assert!(
        took < Duration::from_secs(1) + late,
        "the other node waited {took:?}, late {late:?}"
    );
    // Who comes later waits longer than what is in the queue then, so the queue is full again when that wait is over.
    others.send(&frame(&["INCR", &stuck]).repeat(200));
    wait_until("the queue is full", PATIENCE, || {
        proxy.metric("preshard_limits_reached_total{limit=\"node_queue\"}") > 0
    });
    let (took, late) = (start.elapsed(), metronome.late());
    assert!(
        took < Duration::from_millis(1500) + late,
        "found at the deadline only: {took:?}, late {late:?}"
    );
    let (mut full, mut late, mut down, mut uncertain) = (0, 0, 0, 0);
    for client in [&mut client, &mut others] {
        for _ in 0..200 {
            let reply = client.reply();
            let text = reply
                .error()
                .unwrap_or_else(|| panic!("a frozen node's key answered {reply:?}"));
            match text.split(' ').next() {
                Some("TRYAGAIN") if text.contains("the queue of its node is full") => full += 1,
                Some("TRYAGAIN") if text.contains("it waited too long for its node") => late += 1,
                Some("UNCERTAIN") => uncertain += 1,
                Some("CLUSTERDOWN") => down += 1,
                _ => panic!("{text}"),
            }
        }
    }
    nodes[0].thaw();
    assert!(
        full > 0 && late > 0 && uncertain > 0,
        "{full} found the queue full, {late} waited too long in it, {uncertain} in doubt"
    );
    // What is in flight, at most, was sent; the node has not run more.
    assert!(
        uncertain <= 8,
        "{uncertain} uncertain, {full} and {late} and {down} refused"
    );
    let stored = wait_for_good(&mut client, &stuck);
    assert!(stored <= uncertain, "{stored} ran, only {uncertain} may have");
}

/// The most memory that it ever had since it was told to forget that.
fn peak_bytes(proxy: &Proxy) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_merged_reply_that_is_too_large_costs_no_more_than_its_limit() {
    let node = || {
        Node::with(NodeOptions {
            databases: 70,
            ..NodeOptions::default()
        })
    };
    let nodes = [node(), node()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .layout(64, 1)
        .proxy("workers = 1")
        .proxy("output_bytes_hard = \"8MiB\"")
        .proxy("output_bytes_soft = \"1MiB\"")
        .start();
    let mut client = proxy.client();
    let value = "v".repeat(4 << 20);
    let keys: Vec<String> = (0..64).map(|shard| key_in(shard, 64, "large:")).collect();
    for key in &keys {
        client.call(&["SET", key, &value]).expect_ok();
    }
    let mget: Vec<&str> = std::iter::once("MGET")
        .chain(keys.iter().map(String::as_str))
        .collect();
    std::fs::write(format!("/proc/{}/clear_refs", proxy.pid()), "5").unwrap();
    let before = peak_bytes(&proxy);
    client
        .call(&mget)
        .expect_error("ERR the reply is larger than output_bytes_hard");
    let more = peak_bytes(&proxy).saturating_sub(before);
    assert!(more < 40 << 20, "a limit of 8 MB cost {more} bytes");
    assert_eq!(
        proxy.metric("preshard_limits_reached_total{limit=\"reply_bytes\"}"),
        1
    );
    // Its client is as well as before.
    assert_eq!(
        client.call(&["MGET", &keys[0], "none"]).items()[0],
        Reply::from(&*value)
    );
}

/// GETs until a number comes.
fn wait_for_good(client: &mut Client, key: &str) -> i64 {
    wait_for("a good reply again", PATIENCE, || {
        match client.call(&["GET", key]) {
            Reply::Bulk(value) => Some(String::from_utf8(value).unwrap().parse().unwrap()),
            _ => None,
        }
    })
}

#[test]
fn an_idle_client_is_closed_and_a_busy_one_is_not() {
    let (_nodes, proxy) = behind(|setup| setup.proxy("idle_timeout = \"1s\""));
    let (mut idle, mut busy) = (proxy.client(), proxy.client());
    let start = Instant::now();
    idle.ask("PING");
    idle.stream().set_nonblocking(true).unwrap();
    let mut asked = Instant::now();
    wait_until("the idle client is closed", PATIENCE, || {
        let before = std::mem::replace(&mut asked, Instant::now());
        let sent = busy.try_send(b"PING\r\n");
        if sent.and_then(|()| busy.try_reply_bytes()).is_err() {
            // On a machine that stood still it was idle itself.
            let idled = before.elapsed();
            assert!(
                idled > Duration::from_millis(900),
                "a busy client was closed after {idled:?}"
            );
            busy = proxy.client();
        }
        matches!(idle.stream().peek(&mut [0; 1]), Ok(0))
    });
    assert!(
        start.elapsed() > Duration::from_millis(900),
        "closed after {:?}",
        start.elapsed()
    );
}

/// A client that has given the password. On a machine that stood still it may have come too late with it, and comes again.
fn known(proxy: &Proxy) -> Client {
    wait_for("the password comes in time", PATIENCE, || {
        let mut client = proxy.client();
        client.try_send(&frame(&["AUTH", "open sesame"])).ok()?;
        (client.try_reply_bytes().ok()? == b"+OK\r\n").then_some(client)
    })
}

/// A proxy with the password `open sesame`.
fn locked(more: impl Fn(Setup) -> Setup) -> ([Node; 2], Proxy, Scratch) {
    let dir = Scratch::new("password");
    let file = dir.file("password");
    std::fs::write(&file, "open sesame\n").unwrap();
    let line = format!("password_file = \"{}\"", file.display());
    let (nodes, proxy) = behind(|setup| more(setup.proxy(&line)));
    (nodes, proxy, dir)
}

#[test]
fn without_the_password_nothing_is_answered_but_noauth() {
    let (_nodes, proxy, _dir) = locked(|setup| setup);
    let mut client = proxy.client();
    for command in [
        "GET a",
        "SET a b",
        "PING",
        "SELECT 1",
        "INFO",
        "CLIENT LIST",
        "COMMAND",
        "NOSUCH",
        "DBSIZE",
    ] {
        client
            .ask(command)
            .expect_error("NOAUTH Authentication required.");
    }
    client
        .ask("HELLO 3")
        .expect_error("NOAUTH HELLO must be called with the client already authenticated");
    client
        .call(&["AUTH", "wrong"])
        .expect_error("WRONGPASS invalid username-password pair or user is disabled.");
    client
        .call(&["AUTH", "nobody", "open sesame"])
        .expect_error("WRONGPASS ");
    client
        .call(&["HELLO", "3", "AUTH", "default", "wrong"])
        .expect_error("WRONGPASS ");
    client.ask("GET a").expect_error("NOAUTH ");
    client.call(&["AUTH", "open sesame"]).expect_ok();
    client.ask("SET a b").expect_ok();
    // A wrong password later does not take away what was given.
    client.call(&["AUTH", "wrong"]).expect_error("WRONGPASS ");
    assert_eq!(client.ask("GET a"), Reply::from("b"));
    client.ask("RESET");
    client.ask("GET a").expect_error("NOAUTH ");

    let mut client = proxy.client();
    client.call(&["AUTH", "default", "open sesame"]).expect_ok();
    let mut client = proxy.client();
    let hello = client.call(&["HELLO", "3", "AUTH", "default", "open sesame", "SETNAME", "me"]);
    assert_eq!(hello.field("proto"), Some(Reply::Int(3)));
    assert_eq!(client.ask("CLIENT GETNAME"), Reply::from("me"));
    assert!(!proxy.log().contains("sesame"), "the password is in the log");
}

#[test]
fn a_stranger_may_send_only_little() {
    let (_nodes, proxy, _dir) = locked(|setup| setup.proxy("handshake_timeout = \"3s\""));
    let before = proxy.resident_bytes();
    for (bytes, words) in [
        (
            "*11\r\n$4\r\nPING\r\n",
            "-ERR Protocol error: unauthenticated multibulk length\r\n",
        ),
        (
            "*2\r\n$4\r\nAUTH\r\n$16385\r\n",
            "-ERR Protocol error: unauthenticated bulk length\r\n",
        ),
    ] {
        let told = wait_for("it is told before its time is over", PATIENCE, || {
            let mut client = proxy.client();
            client.try_send(bytes.as_bytes()).ok()?;
            Some(client.until_closed()).filter(|told| !told.is_empty())
        });
        assert_eq!(String::from_utf8_lossy(&told), words);
    }
    // One that asks for ever and never reads is closed too; it takes no memory meanwhile.
    let mut client = proxy.client();
    client.limit = Duration::from_secs(10);
    let flood = "PING\r\n".repeat(10_000);
    let mut sent = 0;
    while client.try_send(flood.as_bytes()).is_ok() && sent < 2000 {
        sent += 1;
    }
    assert!(
        sent < 2000,
        "120 MB of refused requests were taken from one that never reads"
    );
    let grown = proxy.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "grew by {grown} bytes");
    // After the password the same sizes pass.
    let mut client = known(&proxy);
    client.call(&["SET", "a", &"x".repeat(20_000)]).expect_ok();
    let many = [
        "DEL", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12",
    ];
    assert_eq!(client.call(&many), Reply::Int(0));
}

#[test]
fn a_stranger_that_falls_silent_is_closed() {
    let (_nodes, proxy, _dir) = locked(|setup| setup.proxy("handshake_timeout = \"500ms\""));
    let mut known = known(&proxy);
    known.send(b"*2\r\n$4\r\nECHO\r\n$2\r\nh");
    let start = Instant::now();
    for half in ["", "*1\r\n$4\r\nPI"] {
        let mut client = proxy.client();
        // On a machine that stood still its time may be over already.
        let _ = client.try_send(half.as_bytes());
        client.until_closed();
    }
    assert!(
        start.elapsed() > Duration::from_millis(900),
        "closed after {:?}",
        start.elapsed()
    );
    known.send(b"i\r\n");
    assert_eq!(
        known.reply(),
        Reply::from("hi"),
        "who has authenticated may take his time"
    );
}

#[test]
fn an_argument_beyond_the_limit_is_a_protocol_error() {
    let (_nodes, proxy) = behind(|setup| setup.proxy("request_bytes_max = \"1MiB\""));
    let mut client = proxy.client();
    client.call(&["SET", "fits", &"x".repeat(1 << 20)]).expect_ok();
    client.send(format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n${}\r\n", (1 << 20) + 1).as_bytes());
    assert_eq!(
        String::from_utf8_lossy(&client.until_closed()),
        "-ERR Protocol error: invalid bulk length\r\n"
    );
}

#[test]
fn large_values_pass_whole_in_both_directions() {
    let (_nodes, proxy) = behind(|setup| setup);
    let mut client = proxy.client();
    for size in [1000, 65_535, 65_536, 1 << 20, 12 << 20] {
        let value: Vec<u8> = (0..size).map(|n: u32| (n % 251) as u8).collect();
        let key = format!("large:{size}");
        client.call(&[b"SET", key.as_bytes(), &value]).expect_ok();
        assert!(
            client.call(&["GET", &key]) == Reply::Bulk(value),
            "{size} bytes came back changed"
        );
    }
}

#[test]
fn an_idle_client_does_not_delay_the_exit() {
    let (_nodes, mut proxy) = behind(|setup| setup);
    let mut idle: Vec<Client> = (0..20).map(|_| proxy.client()).collect();
    idle[0].ask("PING");
    let (start, metronome) = (Instant::now(), Metronome::start());
    let status = proxy.stop();
    assert!(status.success(), "{status}");
    let (took, late) = (start.elapsed(), metronome.late());
    assert!(
        took < Duration::from_secs(2) + late,
        "took {took:?}, late {late:?}"
    );
    for client in &mut idle {
        assert!(client.until_closed().is_empty());
    }
}

#[test]
fn a_stop_under_load_leaves_nothing_uncertain() {
    let (nodes, mut proxy) = behind(|setup| setup);
    let address = proxy.data;
    let started = std::sync::atomic::AtomicU32::new(0);
    let acked: Vec<(String, i64)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..6)
            .map(|number| {
                let started = &started;
                scope.spawn(move || {
                    let mut client = Client::connect(address);
                    let key = key_in(number % 8, 8, &format!("drain:{number}:"));
                    let batch = frame(&["INCR", &key]).repeat(20);
                    let mut acked = 0;
                    while client.try_send(&batch).is_ok() {
                        for _ in 0..20 {
                            match client.try_reply_bytes() {
                                Ok(bytes) => match crate::harness::wire::decode(&bytes) {
                                    Reply::Int(count) => {
                                        acked += 1;
                                        assert_eq!(count, acked);
                                    }
                                    other => panic!("during a stop: {other:?}"),
                                },
                                Err(_) => return (key, acked),
                            }
                        }
                        started.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                    (key, acked)
                })
            })
            .collect();
        wait_until("load runs", PATIENCE, || {
            started.load(std::sync::atomic::Ordering::Relaxed) > 100
        });
        let (start, metronome) = (Instant::now(), Metronome::start());
        let status = proxy.stop();
        assert!(status.success(), "{status}");
        let (took, late) = (start.elapsed(), metronome.late());
        assert!(
            took < Duration::from_secs(5) + late,
            "took {took:?}, late {late:?}"
        );
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    for (key, acked) in acked {
        let shard = crate::harness::shard_of(&key, 8);
        let stored = nodes[usize::from(shard >= 4)]
            .client_in(u32::from(shard))
            .call(&["GET", &key])
            .text();
        assert_eq!(stored, acked.to_string(), "{key}: what ran is what was answered");
    }
}

#[test]
fn out_of_file_descriptors_the_door_stays_alive() {
    let (_nodes, proxy) = behind(|setup| {
        setup
            .open_files(100)
            .announce(&["accept_paused"])
            .proxy("max_clients = 10000")
    });
    let mut early = proxy.client();
    early.ask("SET k v").expect_ok();
    let crowd: Vec<Client> = (0..150).map(|_| proxy.client()).collect();
    for _ in 0..20 {
        assert_eq!(early.ask("GET k"), Reply::from("v"), "who is in is served");
    }
    drop(crowd);
    wait_until("newcomers are served again", PATIENCE, || {
        let mut client = proxy.client();
        client.try_send(b"PING\r\n").is_ok()
            && client.try_reply_bytes().is_ok_and(|reply| reply == b"+PONG\r\n")
    });
}

#[test]
fn request_bytes_of_all_clients_together_are_bounded() {
    let (_nodes, proxy) = behind(|setup| {
        setup
            .proxy("request_memory_max = \"16MiB\"")
            .proxy("request_bytes_max = \"8MiB\"")
    });
    let mut witness = proxy.client();
    witness.ask("SET k v").expect_ok();
    let before = proxy.resident_bytes();
    let piece = vec![b'x'; 3 << 20];
    let mut holding = Vec::new();
    for _ in 0..20 {
        let mut client = proxy.client();
        client.send(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$8388608\r\n");
        let _ = client.try_send(&piece);
        holding.push(client);
        assert_eq!(witness.ask("GET k"), Reply::from("v"));
    }
    let grown = proxy.resident_bytes().saturating_sub(before);
    assert!(
        grown < 48 << 20,
        "60 MiB of unfinished requests: grew by {grown} bytes"
    );
    drop(holding);
    witness.call(&["SET", "b", &"y".repeat(3 << 20)]).expect_ok();
}

#[test]
fn the_password_may_be_given_as_its_hash() {
    use sha2::Digest as _;
    let hash: String = sha2::Sha256::digest(b"open sesame")
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let (_nodes, proxy) = behind(|setup| setup.proxy(&format!("password_sha256 = \"{hash}\"")));
    let mut client = proxy.client();
    client.ask("GET a").expect_error("NOAUTH ");
    client.call(&["AUTH", &hash]).expect_error("WRONGPASS ");
    client.call(&["AUTH", "open sesame"]).expect_ok();
    assert_eq!(client.ask("GET a"), Reply::Null);
}
