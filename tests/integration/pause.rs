//! `CLIENT PAUSE`: who waits is who waits in front of one Redis; all are served afterwards, nobody is forgotten.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::harness::wire::frame;
use crate::harness::{
    Client, Metronome, Node, PATIENCE, Proxy, Reply, Setup, key_in, lacks, left_out, small, undisturbed,
    wait_for, wait_until,
};

fn words(line: &str) -> Vec<u8> {
    frame(&line.split(' ').collect::<Vec<_>>())
}

/// Whether something has come for a client, without waiting for it.
fn has_answer(client: &Client) -> bool {
    client.stream().set_nonblocking(true).unwrap();
    let came = client.stream().peek(&mut [0]).is_ok();
    client.stream().set_nonblocking(false).unwrap();
    came
}

/// Whether the client of this id waits, as `CLIENT LIST` says.
fn is_blocked(observer: &mut Client, id: i64) -> bool {
    let list = observer.ask("CLIENT LIST").text();
    let line = list.lines().find(|line| line.starts_with(&format!("id={id} ")));
    line.and_then(|line| line.split(" flags=").nth(1))
        .and_then(|rest| rest.split(' ').next())
        .is_some_and(|flags| flags.contains('b'))
}

/// Whether a request waits during a pause of writes. The client's lines before the last are sent before the pause.
fn waits(connect: &dyn Fn() -> Client, lines: &[&str]) -> bool {
    let (mut client, mut observer) = (connect(), connect());
    let id = client.ask("CLIENT ID").int();
    let (last, before) = lines.split_last().unwrap();
    for line in before {
        client.ask(line);
    }
    observer.ask("CLIENT PAUSE 60000 WRITE").expect_ok();
    client.send(&words(last));
    let waits = wait_for("it waits or is answered", PATIENCE, || {
        if has_answer(&client) {
            Some(false)
        } else {
            is_blocked(&mut observer, id).then_some(true)
        }
    });
    observer.ask("CLIENT UNPAUSE").expect_ok();
    client.reply();
    waits
}

#[test]
fn a_pause_of_writes_holds_back_what_redis_holds_back() {
    if lacks("shard channels") {
        return;
    }
    let (_nodes, proxy) = small();
    let plain = Node::start();
    let requests: &[&[&str]] = &[
        &["GET {t}a"],
        &["SET {t}a 1"],
        &["MGET {t}a b c"],
        &["MSET {t}a 1 b 2 c 3"],
        &["DEL {t}a"],
        &["EXISTS {t}a b"],
        &["GETEX {t}a"],
        &["PUBLISH c m"],
        &["SPUBLISH c m"],
        &["PFCOUNT {t}h"],
        &["PFADD {t}h x"],
        &["EVAL return{1} 1 {t}a"],
        &["EVAL_RO return{1} 1 {t}a"],
        &["EVAL #!lua\tflags=no-writes\nreturn{1} 1 {t}a"],
        &["EVAL #!lua\tflags=allow-stale\nreturn{1} 1 {t}a"],
        &["EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 1 {t}a"],
        &["FCALL f 1 {t}a"],
        &["FCALL_RO f 1 {t}a"],
        &["SCRIPT EXISTS abc"],
        &["SCRIPT LOAD return{1}"],
        &["FUNCTION FLUSH"],
        &["FUNCTION LIST"],
        &["FLUSHALL"],
        &["FLUSHDB"],
        &["DBSIZE"],
        &["KEYS x*"],
        &["SCAN 0"],
        &["SORT {t}l"],
        &["SORT_RO {t}l"],
        &["BLPOP {t}q 0.01"],
        &["WATCH {t}a"],
        &["SUBSCRIBE c"],
        &["PING"],
        &["SELECT 1"],
        &["CONFIG GET maxmemory"],
        &["NOSUCH"],
        &["SET {t}a"],
        &["MULTI"],
        &["MULTI", "GET {t}a"],
        &["MULTI", "SET {t}a 1"],
        &["MULTI", "SET {t}a 1", "EXEC"],
        &["MULTI", "GET {t}a", "EXEC"],
        &["MULTI", "PUBLISH c m", "EXEC"],
        &["MULTI", "SET {t}a 1", "DISCARD"],
        &["WATCH {t}a", "MULTI", "SET {t}a 1", "EXEC"],
        &["WATCH {t}a", "MULTI", "GET {t}a", "EXEC"],
        &["EXEC"],
    ];
    for request in requests {
        let ours = waits(&|| proxy.client(), request);
        let theirs = waits(&|| plain.client(), request);
        assert_eq!(ours, theirs, "{request:?} waits here: {ours}, in Redis: {theirs}");
    }
}

#[test]
fn a_pause_of_all_holds_everything_until_its_time() {
    let (_nodes, proxy) = small();
    wait_for("all is asked before the pause is over", PATIENCE, || {
        all_wait_until_its_time(&proxy)
    });
}

/// None: the machine stood still, so that the pause was over before all had asked.
fn all_wait_until_its_time(proxy: &Proxy) -> Option<()> {
    let mut first = proxy.client();
    let mut others: Vec<Client> = (0..20).map(|_| proxy.client()).collect();
    let (begin, metronome) = (Instant::now(), Metronome::start());
    first.ask("CLIENT PAUSE 700").expect_ok();
    let lines = [
        "GET {t}a",
        "PING",
        "CLIENT UNPAUSE",
        "SET b 1",
        "MGET a b c",
        "HELLO 3",
    ];
    for (number, client) in others.iter_mut().enumerate() {
        client.send(&words(lines[number % lines.len()]));
    }
    others[0].send(&words("PING"));
    // What is wrong by itself is told at once, as in Redis.
    proxy.client().ask("NOSUCH").expect_error("ERR unknown command");
    if begin.elapsed() >= Duration::from_millis(700) {
        return None;
    }
    for client in &mut others {
        assert_eq!(client.reply().error(), None);
    }
    let (took, late) = (begin.elapsed(), metronome.late());
    assert!(took >= Duration::from_millis(699), "{took:?}");
    assert!(
        took < Duration::from_millis(1_700) + late,
        "{took:?}, late {late:?}: they were not woken at its end"
    );
    assert_eq!(others[0].reply(), Reply::Simple("PONG".into()));
    assert!(first.ask("PING").error().is_none());
    Some(())
}

#[test]
fn what_stands_behind_it_in_one_pipeline_waits_too() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    client.send(
        &[
            words("CLIENT PAUSE 60000 WRITE"),
            words("GET x"),
            words("SET x 1"),
            words("GET x"),
        ]
        .concat(),
    );
    client.reply().text();
    assert_eq!(client.reply(), Reply::Null);
    let mut other = proxy.client();
    wait_until("it waits", PATIENCE, || {
        proxy.metric("preshard_paused_clients") == 1
    });
    assert_eq!(other.ask("GET x"), Reply::Null);
    assert!(!has_answer(&client));
    let info = other.ask("INFO clients").text();
    assert!(info.contains("blocked_clients:1"), "{info}");
    other.ask("CLIENT UNPAUSE").expect_ok();
    assert!(client.reply().is_ok());
    assert_eq!(client.reply(), Reply::from("1"));
    wait_until("nobody waits", PATIENCE, || {
        proxy.metric("preshard_paused_clients") == 0
    });
}

#[test]
fn unpause_wakes_clients_of_all_workers_and_the_admin_port_ends_any_pause() {
    let (_nodes, proxy) = small();
    for mode in ["WRITE", "ALL"] {
        let mut clients: Vec<Client> = (0..30).map(|_| proxy.client()).collect();
        let mut first = proxy.client();
        first.ask(&format!("CLIENT PAUSE 3600000000 {mode}")).expect_ok();
        for (number, client) in clients.iter_mut().enumerate() {
            client.command(&["INCR", &format!("k:{number}:{mode}")]);
        }
        wait_until("all wait", PATIENCE, || {
            proxy.metric("preshard_paused_clients") == 30
        });
        if mode == "ALL" {
            first.send(&words("CLIENT UNPAUSE"));
            wait_until("it waits too", PATIENCE, || {
                proxy.metric("preshard_paused_clients") == 31
            });
            proxy.admin_client().ask("CLIENT UNPAUSE").expect_ok();
            assert!(first.reply().is_ok());
        } else {
            first.ask("CLIENT UNPAUSE").expect_ok();
        }
        for client in &mut clients {
            assert_eq!(client.reply(), Reply::Int(1));
        }
    }
}

#[test]
fn who_leaves_or_is_killed_while_it_waits_is_gone_and_has_done_nothing() {
    let (_nodes, proxy) = small();
    let mut observer = proxy.client();
    let [mut leaver, mut killed, mut half_closed] = [(); 3].map(|()| proxy.client());
    let id = killed.ask("CLIENT ID").int().to_string();
    observer.ask("CLIENT PAUSE 3600000 WRITE").expect_ok();
    leaver.send(&words("SET left 1"));
    leaver.send(&[words("SET left 2"), vec![b'x'; 10_000]].concat());
    killed.send(&words("SET killed 1"));
    half_closed.send(&words("SET half 1"));
    half_closed.stream().shutdown(std::net::Shutdown::Write).unwrap();
    wait_until("two wait", PATIENCE, || {
        proxy.metric("preshard_paused_clients") == 2
    });
    drop(leaver);
    assert_eq!(observer.call(&["CLIENT", "KILL", "ID", &id]).int(), 1);
    assert_eq!(killed.until_closed(), b"");
    wait_until("they are gone", PATIENCE, || {
        proxy.metric("preshard_client_connections{") == 1
    });
    proxy.await_metric("preshard_client_disconnects_total{reason=\"admin_kill\"}", 1);
    observer.ask("CLIENT UNPAUSE").expect_ok();
    assert_eq!(observer.ask("EXISTS left killed half").int(), 0);
}

#[test]
fn to_wait_for_its_end_is_no_idleness() {
    let nodes = [Node::start()];
    let proxy = Setup::of(&[nodes[0].address()])
        .proxy("idle_timeout = \"2s\"")
        .start();
    // Who stands still between two steps is idle himself.
    undisturbed(Duration::from_millis(400), || stay_over_a_pause(&proxy));
}

fn stay_over_a_pause(proxy: &Proxy) {
    let mut client = proxy.client();
    client.ask("CLIENT PAUSE 3000 ALL").expect_ok();
    let mut others: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
    for other in &mut others {
        other.send(&words("INCR n"));
    }
    let begin = Instant::now();
    for other in &mut others {
        assert_eq!(other.reply().error(), None);
    }
    let end = Instant::now();
    wait_until("idle clients would be closed", PATIENCE, || {
        end.elapsed() > Duration::from_millis(400)
    });
    for other in &mut others {
        assert_eq!(other.ask("PING").error(), None, "closed right behind the pause");
    }
    assert!(begin.elapsed() > Duration::from_millis(2_500));
    // The one that has asked for nothing since was idle.
    assert_eq!(client.until_closed(), b"");
}

#[test]
fn nothing_is_lost_or_doubled_while_pauses_come_and_go() {
    let (_nodes, proxy) = small();
    let stop = AtomicBool::new(false);
    let keys: Vec<String> = (0..8).map(|shard| key_in(shard, 8, "n:")).collect();
    let rounds = 60;
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..6)
            .map(|writer| {
                let (proxy, keys) = (&proxy, &keys);
                scope.spawn(move || {
                    let mut client = proxy.client();
                    for round in 0..rounds {
                        let mut bytes = Vec::new();
                        for key in keys {
                            bytes.extend(frame(&["INCR", key]));
                            bytes.extend(frame(&["GET", "none"]));
                        }
                        bytes.extend(words("MULTI"));
                        bytes.extend(words("INCR {t}multi"));
                        bytes.extend(words("EXEC"));
                        bytes.extend(frame(&["ECHO", &format!("{writer}:{round}")]));
                        client.send(&bytes);
                        for _ in keys {
                            assert!(matches!(client.reply(), Reply::Int(_)));
                            assert_eq!(client.reply(), Reply::Null);
                        }
                        assert!(client.reply().is_ok());
                        assert_eq!(client.reply(), Reply::Simple("QUEUED".into()));
                        assert_eq!(client.reply().items().len(), 1);
                        assert_eq!(client.reply(), Reply::from(format!("{writer}:{round}").as_str()));
                    }
                })
            })
            .collect();
        let (proxy, stop) = (&proxy, &stop);
        let pauser = scope.spawn(move || {
            let mut client = proxy.client();
            let mut rng = fastrand::Rng::with_seed(crate::harness::seed());
            while !stop.load(Relaxed) {
                let mode = if rng.bool() { "WRITE" } else { "ALL" };
                let time = rng.u32(0..30).to_string();
                client.call(&["CLIENT", "PAUSE", &time, mode]).expect_ok();
                if rng.bool() {
                    client.ask("CLIENT UNPAUSE").expect_ok();
                }
                client.ask("PING").text();
            }
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        stop.store(true, Relaxed);
        pauser.join().unwrap();
    });
    let mut client = proxy.client();
    for key in &keys {
        assert_eq!(
            client.call(&["GET", key]),
            Reply::from((6 * rounds).to_string().as_str())
        );
    }
    assert_eq!(
        client.ask("GET {t}multi"),
        Reply::from((6 * rounds).to_string().as_str())
    );
}

#[test]
fn a_proxy_that_stops_lets_paused_clients_go_unserved() {
    let (nodes, mut proxy) = small();
    let mut client = proxy.client();
    client.ask("CLIENT PAUSE 3600000 ALL").expect_ok();
    client.send(&words("SET {t}a 1"));
    wait_until("it waits", PATIENCE, || {
        proxy.metric("preshard_paused_clients") == 1
    });
    let (begin, metronome) = (Instant::now(), Metronome::start());
    proxy.terminate();
    client.reply().expect_error("TRYAGAIN ");
    assert!(proxy.stop().success());
    let (took, late) = (begin.elapsed(), metronome.late());
    assert!(took < Duration::from_secs(10) + late, "{took:?}, late {late:?}");
    let metadata = proxy.setup.metadata_database();
    assert!(nodes.iter().all(|node| node.all_keys(metadata).is_empty()));
}

#[test]
fn subscribers_hear_and_waiting_clients_are_woken_during_a_pause() {
    let (nodes, proxy) = small();
    let [mut listener, mut waiter, mut observer] = [(); 3].map(|()| proxy.client());
    listener.ask("SUBSCRIBE c");
    waiter.send(&words("BLPOP {t}q 0"));
    wait_until("it waits", PATIENCE, || {
        nodes.iter().map(|node| node.info("blocked_clients")).sum::<u64>() == 1
    });
    observer.ask("CLIENT PAUSE 3600000 ALL").expect_ok();
    let node = usize::from(crate::harness::shard_of("{t}", 8)) / 4;
    let database = u32::from(crate::harness::shard_of("{t}", 8));
    // Who writes is no client of this proxy.
    nodes[node].client().ask("PUBLISH c hello");
    assert_eq!(listener.reply().items()[2], Reply::from("hello"));
    let found = (0..16).any(|place| {
        nodes[node].client_in((database + place) % 16).ask("RPUSH {t}q v");
        has_answer(&waiter)
    });
    let _ = found;
    assert_eq!(waiter.reply().items()[1], Reply::from("v"));
    proxy.admin_client().ask("CLIENT UNPAUSE").expect_ok();
}

#[test]
fn wrong_words_get_redis_own_errors() {
    if lacks("words of errors like these") || left_out(&["valkey"], "takes other words") {
        return;
    }
    let (_nodes, proxy) = small();
    let plain = Node::start();
    for line in [
        "CLIENT PAUSE abc",
        "CLIENT PAUSE -1",
        "CLIENT PAUSE 0 x",
        "CLIENT PAUSE abc x",
        "CLIENT PAUSE 0 WRITE x",
        "CLIENT PAUSE 99999999999999999999",
        "CLIENT PAUSE",
        "CLIENT PAUSE 0",
        "CLIENT PAUSE 0 ALL",
        "CLIENT UNPAUSE",
        "CLIENT UNPAUSE x",
    ] {
        assert_eq!(proxy.client().ask(line), plain.client().ask(line), "{line}");
    }
    proxy
        .client()
        .ask("CLIENT PAUSE 9223372036854775807")
        .expect_error("ERR timeout is out of range");
}
