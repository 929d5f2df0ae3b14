//! Nodes that die, freeze, come back wrong, and connections that break in the middle.
//!
//! What must hold each time: one reply for each request, in order; the words say whether it ran (`UNCERTAIN`: perhaps,
//! `TRYAGAIN` and `CLUSTERDOWN`: no); nobody gets another one's reply; the other node's shards do not notice.

mod still;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::wire::frame;
use crate::harness::{
    Client, Metronome, Node, NodeOptions, PATIENCE, Proxy, Reply, Setup, key_in, shard_of, wait_for,
    wait_until,
};

/// How a failed request may be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    NotRun,
    Uncertain,
}

pub(crate) fn failure(reply: &Reply) -> Failure {
    let text = reply
        .error()
        .unwrap_or_else(|| panic!("neither the right reply nor an error: {reply:?}"));
    match text.split(' ').next() {
        Some("UNCERTAIN") => Failure::Uncertain,
        Some("TRYAGAIN" | "CLUSTERDOWN") => Failure::NotRun,
        _ => panic!("an error that does not say whether the command ran: {text}"),
    }
}

/// What may be logged when nodes and connections fail.
pub(crate) const FAULT_EVENTS: &[&str] = &[
    "link_closed",
    "node_down",
    "node_empty",
    "node_fault",
    "node_not_provisioned",
];

fn two_nodes(first: NodeOptions, setup: impl Fn(Setup) -> Setup) -> ([Node; 2], Proxy) {
    let nodes = [Node::with(first), Node::start()];
    let setup = setup(Setup::of(&[nodes[0].address(), nodes[1].address()]));
    let proxy = setup.announce(FAULT_EVENTS).start();
    (nodes, proxy)
}

/// `count` keys on the shards of node 1 (0..4) or node 2 (4..8).
pub(crate) fn keys_on(node: u16, count: u16) -> Vec<String> {
    (0..count)
        .map(|n| key_in(node * 4 - 4 + n % 4, 8, &format!("n{node}:{n}:")))
        .collect()
}

/// The self-describing value of a key.
pub(crate) fn value_of(key: &str) -> String {
    format!("<{key}>")
}

pub(crate) fn fill(proxy: &Proxy, keys: &[String]) {
    let mut client = proxy.client();
    for key in keys {
        // On a busy machine a short deadline may be over before it has run.
        wait_until("it is there", PATIENCE, || {
            client.call(&["SET", key, &value_of(key)]).is_ok()
        });
    }
}

/// Reads self-describing values until told to stop; counts right replies and honest failures, panics at a wrong reply.
pub(crate) fn read_until(
    done: &AtomicBool,
    proxy: &Proxy,
    keys: &[String],
    slowest_allowed: Option<Duration>,
) -> (u32, u32) {
    let mut client = proxy.client();
    let metronome = Metronome::start();
    let (mut right, mut failed) = (0, 0);
    while !done.load(Ordering::Relaxed) {
        client.send(
            &keys
                .iter()
                .flat_map(|key| frame(&["GET", key]))
                .collect::<Vec<_>>(),
        );
        let start = Instant::now();
        for key in keys {
            let reply = client.reply();
            if reply == Reply::from(value_of(key).as_str()) {
                right += 1;
            } else {
                failure(&reply);
                failed += 1;
            }
        }
        if let Some(limit) = slowest_allowed {
            let (took, late) = (start.elapsed(), metronome.late());
            assert!(took < limit + late, "a read took {took:?}, late {late:?}");
            assert_eq!(failed, 0, "reads failed on a node that has nothing");
        }
    }
    (right, failed)
}

#[test]
fn a_node_killed_under_a_pipeline_loses_no_reply_and_no_acknowledged_write() {
    const REQUESTS: usize = 12_000;
    let durable = NodeOptions {
        durable: true,
        ..NodeOptions::default()
    };
    let (mut nodes, proxy) = two_nodes(durable, |setup| setup);
    let counters = keys_on(1, 16);
    let elsewhere = keys_on(2, 8);
    fill(&proxy, &elsewhere);
    let done = AtomicBool::new(false);

    // (acknowledged, uncertain) of each counter.
    let mut tally: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    std::thread::scope(|scope| {
        let unaffected = scope.spawn(|| read_until(&done, &proxy, &elsewhere, Some(Duration::from_secs(1))));
        let mut reader = proxy.client();
        let mut writer = reader.stream().try_clone().unwrap();
        scope.spawn(move || {
            let bytes: Vec<u8> = (0..REQUESTS)
                .flat_map(|n| frame(&["INCR", &keys_on(1, 16)[n % 16]]))
                .collect();
            std::io::Write::write_all(&mut writer, &bytes).unwrap();
        });
        let mut last = BTreeMap::new();
        for number in 0..REQUESTS {
            let key = counters[number % 16].as_str();
            let (acked, uncertain) = tally.entry(key).or_default();
            match reader.reply() {
                Reply::Int(value) => {
                    assert!(
                        last.insert(key, value).unwrap_or(0) < value,
                        "{key}: replies out of order"
                    );
                    *acked += 1;
                }
                other if failure(&other) == Failure::Uncertain => *uncertain += 1,
                _ => {}
            }
            if number == 2000 {
                nodes[0].kill();
            }
        }
        done.store(true, Ordering::Relaxed);
        let (right, failed) = unaffected.join().unwrap();
        assert!(
            right > 0 && failed == 0,
            "the other node: {right} right, {failed} failed"
        );
    });

    nodes[0].restart();
    let (back, metronome) = (Instant::now(), Metronome::start());
    let mut client = proxy.client();
    wait_until("a good reply", PATIENCE, || {
        client.call(&["GET", &counters[0]]).error().is_none()
    });
    let (took, late) = (back.elapsed(), metronome.late());
    assert!(
        took < Duration::from_secs(1) + late,
        "first good reply {took:?} after the node was back, late {late:?}"
    );
    check_tally(&mut client, &tally, REQUESTS);
}

/// What was acknowledged is there; what is there was acknowledged or uncertain.
fn check_tally(client: &mut Client, tally: &BTreeMap<&str, (i64, i64)>, requests: usize) {
    let (mut acked_all, mut uncertain_all) = (0, 0);
    for (key, (acked, uncertain)) in tally {
        let stored: i64 = client.call(&["GET", key]).text().parse().unwrap_or(0);
        assert!(
            (*acked..=acked + uncertain).contains(&stored),
            "{key}: acknowledged {acked}, uncertain {uncertain}, stored {stored}"
        );
        acked_all += acked;
        uncertain_all += uncertain;
    }
    assert!(acked_all >= 2000, "{acked_all} acknowledged");
    assert!(
        uncertain_all < 6000,
        "{uncertain_all} of {requests} uncertain: what was not sent must say so"
    );
}

#[test]
fn a_node_that_is_down_is_refused_at_once_and_split_commands_are_never_half_true() {
    let (mut nodes, proxy) = two_nodes(NodeOptions::default(), |setup| setup);
    let (down, up) = (keys_on(1, 2), keys_on(2, 2));
    fill(&proxy, &[down.clone(), up.clone()].concat());
    let mut client = proxy.client();
    nodes[0].kill();
    wait_until("the node is known to be down", PATIENCE, || {
        client
            .call(&["GET", &down[0]])
            .error()
            .is_some_and(|text| text.starts_with("CLUSTERDOWN "))
    });
    let (start, metronome) = (Instant::now(), Metronome::start());
    for command in [
        vec!["MGET", &up[0], &down[0]],
        vec!["EXISTS", &up[0], &down[0], &up[1]],
        vec!["DEL", &down[0], &down[1]],
        vec!["MSET", &down[0], "x", &down[1], "y"],
        vec!["SET", &down[0], "x"],
        vec!["DBSIZE"],
        vec!["KEYS", "*"],
    ] {
        let reply = client.call(&command);
        assert_eq!(failure(&reply), Failure::NotRun, "{command:?}: {reply:?}");
    }
    // One part could run, one cannot: neither does.
    let reply = client.call(&["MSET", &up[1], "x", &down[0], "x"]);
    let shard = shard_of(&down[0], 8);
    reply.expect_error(&format!(
        "CLUSTERDOWN preshard: shard {shard}: its node is down; it has not run"
    ));
    assert_eq!(
        client.call(&["GET", &up[1]]),
        Reply::from(value_of(&up[1]).as_str())
    );
    let (took, late) = (start.elapsed(), metronome.late());
    assert!(
        took < Duration::from_secs(2) + late,
        "refusals took {took:?}, late {late:?}"
    );
    assert_eq!(
        client.call(&["GET", &up[0]]),
        Reply::from(value_of(&up[0]).as_str())
    );
    assert_eq!(client.call(&["MGET", &up[0], &up[1]]).items().len(), 2);
}

#[test]
fn a_frozen_node_costs_its_own_clients_the_deadline_and_others_nothing() {
    let (nodes, proxy) = two_nodes(NodeOptions::default(), |setup| {
        setup.proxy("request_timeout = \"3s\"")
    });
    let (frozen, free) = (keys_on(1, 20), keys_on(2, 20));
    fill(&proxy, &[frozen.clone(), free.clone()].concat());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let others = scope.spawn(|| read_until(&done, &proxy, &free, Some(Duration::from_millis(1_500))));
        let readers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| read_until(&done, &proxy, &frozen, None)))
            .collect();
        let mut client = proxy.client();
        assert_eq!(
            client.call(&["GET", &frozen[0]]),
            Reply::from(value_of(&frozen[0]).as_str())
        );

        nodes[0].freeze();
        let (start, metronome) = (Instant::now(), Metronome::start());
        let reply = client.call(&["GET", &frozen[1]]);
        // Sent, if nobody had found the node silent before.
        failure(&reply);
        let (took, late) = (start.elapsed(), metronome.late());
        assert!(
            took < Duration::from_millis(4_500) + late,
            "a deadline of 3 s took {took:?}, late {late:?}"
        );
        // Clients come and go meanwhile, with replies due.
        wait_until("five seconds of frost", PATIENCE, || {
            let mut passing = proxy.client();
            passing.send(&frame(&["GET", &frozen[2]]).repeat(3));
            start.elapsed() > Duration::from_secs(5)
        });
        nodes[0].thaw();
        let thawed = Instant::now();
        wait_until("good replies again", PATIENCE, || {
            client.call(&["GET", &frozen[3]]).error().is_none()
        });
        wait_until("a second of reads after the thaw", PATIENCE, || {
            thawed.elapsed() > Duration::from_secs(1)
        });
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            let (right, failed) = reader.join().unwrap();
            assert!(right > 0 && failed > 0, "{right} right, {failed} failed");
        }
        let (right, failed) = others.join().unwrap();
        assert!(right > 100 && failed == 0);
    });
}

#[test]
fn a_node_that_comes_back_empty_is_served_again_and_marked() {
    let (mut nodes, proxy) = two_nodes(NodeOptions::default(), |setup| setup);
    let keys = keys_on(1, 4);
    fill(&proxy, &keys);
    let metadata = proxy.setup.metadata_database();
    // All but the epoch, which another run of the node makes higher.
    let mark = |node: &Node| {
        let mark = node.client_in(metadata).ask("GET preshard:mark").text();
        mark.split_once(",\"epoch\"").map(|(mark, _)| mark.to_owned())
    };
    let before = mark(&nodes[0]);
    assert!(before.is_some());
    nodes[0].kill();
    nodes[0].restart();
    let (back, metronome) = (Instant::now(), Metronome::start());
    let mut client = proxy.client();
    wait_until("served again", PATIENCE, || {
        client.call(&["GET", &keys[0]]) == Reply::Null
    });
    let (took, late) = (back.elapsed(), metronome.late());
    assert!(
        took < Duration::from_secs(2) + late,
        "served {took:?} after it was back, late {late:?}"
    );
    assert_eq!(mark(&nodes[0]), before, "marked again");
    fill(&proxy, &keys);
    wait_until("the log says so", PATIENCE, || proxy.log().contains("empty"));
}

#[test]
fn a_node_that_comes_back_empty_is_refused_where_that_is_configured() {
    let (mut nodes, proxy) = two_nodes(NodeOptions::default(), |setup| {
        setup.nodes("on_empty = \"refuse\"")
    });
    let (keys, elsewhere) = (keys_on(1, 4), keys_on(2, 4));
    fill(&proxy, &[keys.clone(), elsewhere.clone()].concat());
    nodes[0].kill();
    nodes[0].restart();
    assert_never_served(&nodes[0], &proxy, &keys);
    assert_eq!(
        proxy.client().call(&["GET", &elsewhere[0]]),
        Reply::from(value_of(&elsewhere[0]).as_str())
    );
}

/// For a second and through some of the proxy's attempts, nothing runs on the node.
fn assert_never_served(node: &Node, proxy: &Proxy, keys: &[String]) {
    let start = Instant::now();
    let attempts = node.info("total_connections_received");
    let mut client = proxy.client();
    // What comes before the worker knows that its link has gone may be in doubt.
    wait_until("the loss is noticed", PATIENCE, || {
        let reply = client.call(&["GET", &keys[0]]);
        failure(&reply) == Failure::NotRun
    });
    wait_until("some attempts", PATIENCE, || {
        for key in keys {
            let reply = client.call(&["SET", key, "must not arrive"]);
            assert_eq!(failure(&reply), Failure::NotRun, "{reply:?}");
        }
        start.elapsed() > Duration::from_secs(1) && node.info("total_connections_received") > attempts + 1
    });
    let last = client.call(&["GET", &keys[0]]);
    last.expect_error("CLUSTERDOWN ");
    let found = node.all_keys(proxy.setup.metadata_database());
    assert!(
        !found.iter().any(|(_, key)| keys.contains(key)),
        "something ran: {found:?}"
    );
}

#[test]
fn a_node_that_comes_back_with_fewer_databases_is_refused_and_nothing_runs_elsewhere() {
    let (mut nodes, proxy) = two_nodes(NodeOptions::default(), |setup| setup);
    let (keys, elsewhere) = (keys_on(1, 8), keys_on(2, 4));
    fill(&proxy, &[keys.clone(), elsewhere.clone()].concat());
    nodes[0].kill();
    nodes[0].options.databases = 2;
    nodes[0].restart();
    assert_never_served(&nodes[0], &proxy, &keys);
    assert!(
        nodes[0].all_keys(99).is_empty(),
        "a command ran in another database: {:?}",
        nodes[0].all_keys(99)
    );
    assert_eq!(
        proxy.client().call(&["GET", &elsewhere[0]]),
        Reply::from(value_of(&elsewhere[0]).as_str())
    );
}

#[test]
fn a_foreign_node_at_a_known_address_is_refused() {
    let (mut nodes, proxy) = two_nodes(NodeOptions::default(), |setup| setup);
    let keys = keys_on(1, 8);
    fill(&proxy, &keys);
    // Another cluster's node, prepared elsewhere, moves in at the same address.
    let mut foreign = Node::with(NodeOptions {
        durable: true,
        ..NodeOptions::default()
    });
    let mark = r#"{"format":1,"cluster":"another","node":"node-1","epoch":1}"#;
    let mut client = foreign.client_in(proxy.setup.metadata_database());
    client.call(&["SET", "preshard:mark", mark]).expect_ok();
    foreign.client_in(0).call(&["SET", "theirs", "1"]).expect_ok();
    foreign.kill();
    nodes[0].kill();
    foreign.port = nodes[0].port;
    foreign.restart();
    assert_never_served(&foreign, &proxy, &keys);
    let found: Vec<_> = foreign
        .all_keys(proxy.setup.metadata_database())
        .into_iter()
        .collect();
    assert_eq!(found, [(0, "theirs".to_owned())]);
    assert_eq!(
        foreign
            .client_in(proxy.setup.metadata_database())
            .ask("GET preshard:mark"),
        Reply::from(mark)
    );
}

#[test]
fn a_node_that_became_a_replica_says_so_itself() {
    let (nodes, proxy) = two_nodes(NodeOptions::default(), |setup| setup);
    let keys = keys_on(1, 2);
    fill(&proxy, &keys);
    let mut node = nodes[0].client();
    node.ask("REPLICAOF 127.0.0.1 1").expect_ok();
    let mut client = proxy.client();
    client.call(&["SET", &keys[0], "x"]).expect_error("READONLY ");
    assert_eq!(
        client.call(&["GET", &keys[0]]),
        Reply::from(value_of(&keys[0]).as_str())
    );
    node.ask("CONFIG SET replica-serve-stale-data no").expect_ok();
    client.call(&["GET", &keys[0]]).expect_error("MASTERDOWN ");
    node.ask("REPLICAOF NO ONE").expect_ok();
    wait_until("writes again", PATIENCE, || {
        client.call(&["SET", &keys[0], "x"]).is_ok()
    });
}

#[test]
fn a_node_that_refuses_the_proxy_itself_is_down_and_its_words_stay_inside() {
    let (nodes, proxy) = two_nodes(NodeOptions::default(), |setup| setup);
    let keys = keys_on(1, 2);
    fill(&proxy, &keys);
    let mut client = proxy.client();
    let mut node = nodes[0].client();
    for (refuse, accept) in [
        // Without the login that makes them, users that are gone stay gone.
        (
            "CONFIG SET requirepass secret\r\nACL DELUSER ps-g1 ps-feed",
            "CONFIG SET requirepass \"\"",
        ),
        ("CONFIG SET maxclients 1", "CONFIG SET maxclients 10000"),
    ] {
        for line in refuse.split("\r\n") {
            assert!(node.ask(line).error().is_none(), "{line}");
        }
        node.ask("CLIENT KILL TYPE normal SKIPME yes");
        let reply = wait_for("the node is down", PATIENCE, || {
            let reply = client.call(&["GET", &keys[0]]);
            if reply.error().is_some() {
                failure(&reply);
            }
            reply
                .error()
                .is_some_and(|text| text.starts_with("CLUSTERDOWN "))
                .then_some(reply)
        });
        assert!(!reply.text().contains("NOAUTH"), "{reply:?}");
        node.send(format!("{accept}\r\n").as_bytes());
        node.reply().expect_ok();
        wait_until("well again", PATIENCE, || {
            client.call(&["GET", &keys[0]]).error().is_none()
        });
    }
}

#[test]
fn a_script_that_does_not_end_keeps_only_its_own_node_busy() {
    let more = vec!["--lua-time-limit".to_owned(), "100".to_owned()];
    let (nodes, proxy) = two_nodes(
        NodeOptions {
            more,
            ..NodeOptions::default()
        },
        |setup| setup,
    );
    let (keys, elsewhere) = (keys_on(1, 2), keys_on(2, 2));
    fill(&proxy, &[keys.clone(), elsewhere.clone()].concat());
    let mut script = nodes[0].client();
    script.command(&["EVAL", "while true do end", "0"]);
    let mut client = proxy.client();
    // The node refuses even SELECT, and what stands behind a refused SELECT must not be believed: so its shards fail
    // fast as those of a node that is down.
    wait_until("the node's shards fail", PATIENCE, || {
        client.call(&["GET", &keys[0]]).error().is_some()
    });
    let (start, metronome) = (Instant::now(), Metronome::start());
    for _ in 0..20 {
        let reply = client.call(&["GET", &keys[0]]);
        let text = reply.error().unwrap_or_else(|| panic!("{reply:?}"));
        assert!(
            text.starts_with("BUSY ") || text.starts_with("CLUSTERDOWN ") || text.starts_with("UNCERTAIN "),
            "{text}"
        );
    }
    let (took, late) = (start.elapsed(), metronome.late());
    assert!(
        took < Duration::from_secs(2) + late,
        "twenty refusals took {took:?}, late {late:?}"
    );
    assert_eq!(
        client.call(&["GET", &elsewhere[0]]),
        Reply::from(value_of(&elsewhere[0]).as_str())
    );
    nodes[0].client().ask("SCRIPT KILL").expect_ok();
    wait_until("well again", PATIENCE, || {
        client.call(&["GET", &keys[0]]) == Reply::from(value_of(&keys[0]).as_str())
    });
}

#[test]
fn nothing_runs_in_another_database_when_a_script_ends_in_the_middle_of_a_batch() {
    // SELECT is refused with BUSY while the script runs; what stands behind it arrives when the script may be over.
    let more = vec!["--lua-time-limit".to_owned(), "5".to_owned()];
    let options = NodeOptions {
        more,
        ..NodeOptions::default()
    };
    let (nodes, proxy) = two_nodes(options, |setup| setup.proxy("workers = 1"));
    let script = "local function now() local t = redis.call('TIME') return t[1] * 1000000 + t[2] end \
                  local ends = now() + 40000 while now() < ends do end return 1";
    let value = "v".repeat(500);
    for round in 0..15 {
        let mut own = nodes[0].client();
        let mut clients: Vec<(u16, Client)> = [1, 3].map(|database| (database, proxy.client())).into();
        for (database, client) in &mut clients {
            client.call(&["SELECT", &database.to_string()]).expect_ok();
            wait_until("well", PATIENCE, || client.call(&["GET", "x"]).error().is_none());
        }
        own.command(&["EVAL", script, "0"]);
        for (database, client) in &mut clients {
            let bytes: Vec<u8> = (0..400)
                .flat_map(|n| frame(&["SET", &format!("db{database}:{round}:{n}"), &value]))
                .collect();
            client.send(&bytes);
        }
        own.reply();
        for (_, client) in &mut clients {
            for _ in 0..400 {
                let reply = client.reply();
                if !reply.is_ok() && !reply.text().starts_with("BUSY ") {
                    failure(&reply);
                }
            }
        }
    }
    for (database, key) in nodes[0].all_keys(proxy.setup.metadata_database()) {
        // Pinned databases 1 and 3 are shards 8 and 10.
        let home = if key.starts_with("db1:") { 8 } else { 10 };
        assert_eq!(database, home, "{key} ran in database {database}");
    }
}
