//! Client-side caching through real nodes: what a client may have cached and somebody changes is told to it, whoever
//! changes it and where; and what happens when a node cannot tell.

mod faults;
mod load;

use crate::harness::{
    Client, Etcd, Node, PATIENCE, Proxy, Reply, Setup, key_in, lacks, small, wait_for, wait_until,
};

fn tracking(proxy: &Proxy, options: &str) -> Client {
    let mut client = proxy.client3();
    client.ask(&format!("CLIENT TRACKING ON {options}")).expect_ok();
    client
}

/// The names of the next frame, which must be an invalidation; `everything` for the one that names nothing.
fn invalidated(client: &mut Client) -> Vec<String> {
    let reply = client.reply();
    let Reply::Push(items) = &reply else {
        panic!("wanted an invalidation, got {reply:?}")
    };
    assert_eq!(items[0].text(), "invalidate");
    match &items[1] {
        Reply::Null => vec!["everything".to_owned()],
        names => names.items().iter().map(Reply::text).collect(),
    }
}

fn expect(client: &mut Client, keys: &[&str]) {
    for key in keys {
        let mut told = invalidated(client);
        while told == ["preshard:mark"] {
            // Who is told of all keys is told of preshard's own too: it is raised after the topology has changed.
            told = invalidated(client);
        }
        assert_eq!(told, [*key]);
    }
}

/// Invalidations in any order, as they come from several nodes.
fn expect_all(client: &mut Client, keys: &[&str]) {
    let mut got: Vec<String> = (0..keys.len()).flat_map(|_| invalidated(client)).collect();
    got.sort();
    let mut keys = keys.to_vec();
    keys.sort_unstable();
    assert_eq!(got, keys);
}

/// Nothing is under way to a client but what is told of these keys, one of each node, which it reads and another writes.
fn quiet(client: &mut Client, writer: &mut Client) {
    let keys = [key_in(0, 8, "quiet"), key_in(7, 8, "quiet")];
    for key in &keys {
        client.call(&["GET", key]);
    }
    for key in &keys {
        writer.call(&["SET", key, "x"]).expect_ok();
    }
    expect_all(client, &[&keys[0], &keys[1]]);
}

fn nothing_is_left(nodes: &[Node], proxy: &Proxy) {
    for name in ["clients", "keys", "prefixes", "bytes"] {
        let name = format!("preshard_tracking_{name}");
        wait_until(&name, PATIENCE, || proxy.metric(&name) == 0);
    }
    for node in nodes {
        wait_until("a node tells nobody any more", PATIENCE, || {
            node.info("tracking_clients") == 0
        });
    }
}

#[test]
fn a_key_that_was_read_is_told_once_whoever_changes_it() {
    let etcd = Etcd::start(1);
    let nodes = [Node::start(), Node::start()];
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()]).store(&etcd.store("shop"));
    let (proxy, second) = (setup.start(), setup.start());
    let mut client = tracking(&proxy, "");
    let (mut writer, mut foreign) = (proxy.client(), second.client());
    let keys: Vec<String> = (0..8).map(|shard| key_in(shard, 8, "k")).collect();
    let names: Vec<&str> = keys.iter().map(String::as_str).collect();
    for key in &keys {
        assert_eq!(client.call(&["GET", key]), Reply::Null);
    }
    let mut mset = vec!["MSET"];
    names.iter().for_each(|key| mset.extend([*key, "1"]));
    writer.call(&mset).expect_ok();
    expect_all(&mut client, &names);
    // Told once: what is not read again is not told again.
    writer.call(&mset).expect_ok();
    let mut mget = vec!["MGET"];
    mget.extend(&names);
    client.call(&mget);
    foreign.call(&mset).expect_ok();
    expect_all(&mut client, &names);
    for (shard, key) in keys.iter().enumerate() {
        client.call(&["STRLEN", key]);
        let node = &nodes[shard / 4];
        node.client_in(u32::try_from(shard).unwrap()).call(&["DEL", key]);
        expect(&mut client, &[key]);
        client.call(&["EXISTS", key]);
        // Its own writes too.
        client.command(&["APPEND", key, "x"]);
        let mut both = [client.reply(), client.reply()];
        both.sort_by_key(|reply| matches!(reply, Reply::Push(_)));
        assert_eq!(both[0], Reply::Int(1));
        assert!(matches!(both[1], Reply::Push(_)));
    }
    client.ask("SUNION {t}a {t}b");
    writer.ask("SADD {t}b 1");
    expect(&mut client, &["{t}b"]);
    writer.ask("SADD {t}a 1");
    expect(&mut client, &["{t}a"]);
    // A command that writes is no read, as in Redis.
    client.ask("GETSET {t}c 1");
    writer.ask("SET {t}c 2").expect_ok();
    quiet(&mut client, &mut writer);
    assert_eq!(client.ask("PING"), Reply::Simple("PONG".into()));
    drop(client);
    nothing_is_left(&nodes, &proxy);
    wait_until("all are counted", PATIENCE, || {
        proxy.metric("preshard_tracking_invalidations_total") >= 36
    });
}

#[test]
fn opting_in_and_out_holds_for_one_command_or_one_transaction() {
    let (nodes, proxy) = small();
    let mut writer = proxy.client();
    let mut write = |keys: &[&str]| {
        for key in keys {
            writer.call(&["SET", key, "1"]).expect_ok();
        }
    };
    let mut optin = tracking(&proxy, "OPTIN");
    optin.ask("GET {x}a");
    optin.ask("CLIENT CACHING YES").expect_ok();
    optin.ask("CLIENT ID");
    optin.ask("GET {x}b");
    optin.ask("GET {x}c");
    write(&["{x}a", "{x}c", "{x}b"]);
    expect(&mut optin, &["{x}b"]);
    for line in [
        "CLIENT CACHING YES",
        "MULTI",
        "GET {x}a",
        "GET {x}b",
        "EXEC",
        "GET {x}c",
    ] {
        optin.ask(line);
    }
    write(&["{x}c", "{x}b", "{x}a"]);
    expect(&mut optin, &["{x}b", "{x}a"]);
    for line in [
        "MULTI",
        "GET {x}a",
        "EXEC",
        "CLIENT CACHING YES",
        "NOSUCH",
        "GET {x}b",
    ] {
        optin.ask(line);
    }
    let mut optout = tracking(&proxy, "OPTOUT");
    for line in ["GET {x}a", "CLIENT CACHING NO", "GET {x}b", "GET {x}c"] {
        optout.ask(line);
    }
    write(&["{x}b", "{x}a", "{x}c"]);
    expect(&mut optout, &["{x}a", "{x}c"]);
    for line in [
        "CLIENT CACHING NO",
        "NOSUCH",
        "GET {x}b",
        "CLIENT CACHING NO",
        "MULTI",
        "GET {x}c",
        "EXEC",
    ] {
        optout.ask(line);
    }
    write(&["{x}c", "{x}b"]);
    expect(&mut optout, &["{x}b"]);
    optin.ask("CLIENT CACHING YES").expect_ok();
    optin.ask("GET {x}last");
    write(&["{x}last"]);
    expect(&mut optin, &["{x}last"]);
    drop((optin, optout));
    nothing_is_left(&nodes, &proxy);
}

#[test]
fn prefixes_are_told_of_all_changes() {
    let (nodes, proxy) = small();
    let mut client = tracking(&proxy, "BCAST PREFIX user: PREFIX item:");
    let mut all = tracking(&proxy, "BCAST NOLOOP");
    let mut writer = proxy.client();
    for key in ["user:1", "other:1", "item:9", "user", "item:"] {
        writer.call(&["SET", key, "1"]).expect_ok();
        if key.contains(':') && !key.starts_with("other") {
            expect(&mut client, &[key]);
        }
        expect(&mut all, &[key]);
    }
    // Names that come with one push of a node stay together.
    writer.ask("SELECT 2").expect_ok();
    writer.ask("MSET user:2 x user:3 x item:1 x else x").expect_ok();
    let mut got = [invalidated(&mut client), invalidated(&mut client)];
    got.sort();
    got[1].sort();
    assert_eq!(got, [vec!["item:1"], vec!["user:2", "user:3"]]);
    assert_eq!(invalidated(&mut all).len(), 4);
    client.ask("CLIENT TRACKING ON BCAST PREFIX x").expect_ok();
    writer.ask("SET xy 1").expect_ok();
    expect(&mut client, &["xy"]);
    expect(&mut all, &["xy"]);
    wait_until("three prefixes and the empty one", PATIENCE, || {
        proxy.metric("preshard_tracking_prefixes") == 4
    });
    client.ask("CLIENT TRACKING OFF").expect_ok();
    all.ask("CLIENT TRACKING OFF").expect_ok();
    writer.ask("SET user:1 2").expect_ok();
    assert_eq!(client.ask("PING"), Reply::Simple("PONG".into()));
    nothing_is_left(&nodes, &proxy);
}

#[test]
fn expiry_and_flushes_are_told() {
    let (nodes, proxy) = small();
    let mut client = tracking(&proxy, "");
    let mut writer = proxy.client();
    // It must be read before it expires; what was read too late never changes again.
    let mut names = (0..).map(|attempt| format!("gone{attempt}"));
    let gone = wait_for("it is cached", PATIENCE, || {
        let gone = names.next().unwrap();
        writer.call(&["SET", &gone, "1", "PX", "100"]).expect_ok();
        client.command(&["GET", &gone]);
        let mut reply = client.reply();
        while matches!(reply, Reply::Push(_)) {
            reply = client.reply();
        }
        (reply == Reply::from("1")).then_some(gone)
    });
    while invalidated(&mut client) != [gone.as_str()] {}
    client.ask("SET own 1").expect_ok();
    client.ask("GET own");
    writer.ask("FLUSHALL").expect_ok();
    expect(&mut client, &["everything"]);
    // Each shard's own flush is told; more of them may come, and a read after the last is told by its name.
    let mut pinned = proxy.client();
    pinned.ask("SELECT 3").expect_ok();
    until_named(&mut client, &mut writer);
    assert_eq!(client.ask("GET own"), Reply::Null);
    pinned.ask("FLUSHDB").expect_ok();
    expect(&mut client, &["everything"]);
    quiet(&mut client, &mut writer);
    // Eviction, as far as a node can be made to.
    nodes[0]
        .client()
        .ask("CONFIG SET maxmemory-policy allkeys-random")
        .expect_ok();
    let key = key_in(1, 8, "evicted");
    writer.call(&["SET", &key, "1"]).expect_ok();
    client.call(&["GET", &key]);
    nodes[0].client().ask("CONFIG SET maxmemory 1").expect_ok();
    writer.call(&["SET", &key_in(2, 8, "more"), "1"]);
    expect(&mut client, &[&key]);
    nodes[0].client().ask("CONFIG SET maxmemory 0").expect_ok();
}

/// Reads and writes a key of each shard until each is told by its name and nothing else is.
fn until_named(client: &mut Client, writer: &mut Client) {
    wait_until("nothing more comes of the flush", PATIENCE, || {
        let mut named = 0;
        for shard in 0..8 {
            let key = key_in(shard, 8, "named");
            client.command(&["GET", &key]);
            while matches!(client.reply(), Reply::Push(_)) {}
            writer.call(&["SET", &key, "x"]).expect_ok();
            named += usize::from(invalidated(client) == [key]);
        }
        named == 8
    });
    // One that came in the same turn as the last of the names may stand behind it.
    client.command(&["PING"]);
    while matches!(client.reply(), Reply::Push(_)) {}
}

#[test]
fn transactions_scripts_waits_and_pinned_databases_are_reads_too() {
    let (nodes, proxy) = small();
    let mut client = tracking(&proxy, "");
    let mut writer = proxy.client();
    // A change between MULTI and EXEC must not use the note up.
    client.ask("MULTI").expect_ok();
    client.ask("GET {x}a");
    writer.ask("SET {x}a 1").expect_ok();
    client.ask("SET {x}b 1");
    assert_eq!(client.ask("EXEC").items()[0], Reply::from("1"));
    expect_nothing_of_own_write(&mut client, "{x}b");
    writer.ask("SET {x}a 2").expect_ok();
    expect(&mut client, &["{x}a"]);
    // Behind WATCH, over a connection of its own.
    client.ask("WATCH {x}w").expect_ok();
    client.ask("MULTI").expect_ok();
    client.ask("GET {x}a");
    client.ask("EXEC");
    writer.ask("SET {x}a 3").expect_ok();
    expect(&mut client, &["{x}a"]);
    for line in [
        "EVAL_RO return(redis.call('GET',KEYS[1])) 1 {x}a",
        "EVAL return(redis.call('GET',KEYS[1])) 1 {x}a",
        "XREAD BLOCK 10 STREAMS {x}a 0",
    ] {
        writer.ask("DEL {x}a");
        client.ask(line);
        writer.ask("XADD {x}a * f v");
        expect(&mut client, &["{x}a"]);
    }
    // One that waits gets its answer first, and then learns that it is old.
    writer.ask("DEL {x}s");
    client.command(&["XREAD", "BLOCK", "0", "STREAMS", "{x}s", "$"]);
    wait_until("it waits", PATIENCE, || {
        nodes.iter().any(|node| node.info("blocked_clients") == 1)
    });
    writer.ask("XADD {x}s * f v");
    assert!(matches!(client.reply(), Reply::Map(_)));
    expect(&mut client, &["{x}s"]);
    for db in ["1", "4"] {
        client.call(&["SELECT", db]).expect_ok();
        writer.call(&["SELECT", db]).expect_ok();
        client.ask("SINTER a b");
        writer.ask("RENAME nothing b");
        writer.ask("MSET c 1 b 2 a 3").expect_ok();
        expect_all(&mut client, &["b", "a"]);
    }
    drop(client);
    nothing_is_left(&nodes, &proxy);
}

/// A key that a client has only written is not told to it: nothing comes before the answer to this.
fn expect_nothing_of_own_write(client: &mut Client, key: &str) {
    assert_eq!(
        client.call(&["TYPE", "{x}none"]),
        Reply::Simple("none".into()),
        "{key}"
    );
}

const WORDS: &[&str] = &[
    "CLIENT TRACKINGINFO",
    "CLIENT GETREDIR",
    "CLIENT CACHING YES",
    "CLIENT TRACKING",
    "CLIENT TRACKING maybe",
    "CLIENT TRACKING ON NOSUCH",
    "CLIENT TRACKING ON PREFIX",
    "CLIENT TRACKING ON PREFIX a",
    "CLIENT TRACKING ON OPTIN OPTOUT",
    "CLIENT TRACKING ON BCAST OPTIN",
    "CLIENT TRACKING ON BCAST PREFIX a PREFIX ab",
    "CLIENT TRACKING ON BCAST PREFIX ab PREFIX c PREFIX a",
    "CLIENT TRACKING OFF",
    "CLIENT TRACKING OFF NOSUCH",
    "CLIENT TRACKING on bcast prefix a prefix b",
    "CLIENT TRACKINGINFO",
    "CLIENT GETREDIR",
    "CLIENT CACHING YES",
    "CLIENT TRACKING ON BCAST PREFIX ax",
    "CLIENT TRACKING ON",
    "CLIENT TRACKING ON BCAST PREFIX c NOLOOP",
    "CLIENT TRACKINGINFO",
    "CLIENT TRACKING OFF",
    "CLIENT TRACKINGINFO",
    "CLIENT TRACKING ON OPTIN",
    "CLIENT TRACKING ON BCAST",
    "CLIENT TRACKING ON OPTOUT",
    "CLIENT CACHING maybe",
    "CLIENT CACHING NO",
    "CLIENT CACHING YES",
    "CLIENT TRACKINGINFO",
    "GET k",
    "CLIENT TRACKINGINFO",
    "CLIENT CACHING YES",
    "MULTI",
    "GET k",
    "CLIENT LIST BAD",
    "EXEC",
    "CLIENT TRACKINGINFO",
    "CLIENT TRACKING OFF",
    "CLIENT TRACKING ON OPTOUT NOLOOP",
    "CLIENT CACHING YES",
    "CLIENT CACHING NO",
    "CLIENT TRACKINGINFO",
    "CLIENT TRACKING ON OPTIN",
    "CLIENT TRACKING ON",
    "CLIENT TRACKINGINFO",
    "RESET",
    "CLIENT TRACKINGINFO",
    "CLIENT GETREDIR",
];

#[test]
fn words_are_those_of_redis() {
    if lacks("words of errors like these") {
        return;
    }
    let (_nodes, proxy) = small();
    let alone = Node::start();
    let (mut ours, mut redis) = (proxy.client3(), alone.client());
    redis.ask("HELLO 3");
    for line in WORDS {
        let words: Vec<&str> = line.split_whitespace().collect();
        ours.command(&words);
        redis.command(&words);
        let (got, expected) = (ours.reply_bytes(), redis.reply_bytes());
        // CLIENT cannot be queued here, so the transaction differs.
        if line.starts_with("CLIENT LIST") || *line == "EXEC" {
            continue;
        }
        assert_eq!(
            String::from_utf8_lossy(&got),
            String::from_utf8_lossy(&expected),
            "after {line}"
        );
    }
    ours.ask("CLIENT TRACKING ON REDIRECT 1")
        .expect_error("ERR CLIENT TRACKING with REDIRECT");
    ours.ask("CLIENT TRACKING ON")
        .expect_error("ERR CLIENT TRACKING ON needs RESP3");
    ours.ask("CLIENT TRACKING OFF").expect_ok();
}

#[test]
fn whoever_stops_in_whatever_way_leaves_nothing() {
    let (nodes, proxy) = small();
    let mut writer = proxy.client();
    let mut clients: Vec<Client> = (0..6)
        .map(|number| tracking(&proxy, if number % 2 == 0 { "" } else { "BCAST" }))
        .collect();
    for client in &mut clients {
        client.ask("CLIENT SETNAME tracker").expect_ok();
        for key in 0..50 {
            client.call(&["GET", &format!("left:{key}")]);
        }
    }
    wait_until("the levels are shown", PATIENCE, || {
        proxy.metric("preshard_tracking_clients") == 6 && proxy.metric("preshard_tracking_keys") >= 50
    });
    wait_until("they are listed", PATIENCE, || {
        let list = writer.ask("CLIENT LIST").text();
        let flagged = |flags: &str| {
            let lines = list.lines().filter(|line| line.contains("name=tracker"));
            lines
                .filter(|line| line.contains(&format!(" flags={flags} ")))
                .count()
        };
        let info = writer.ask("INFO clients").text();
        info.contains("tracking_clients:6\r\n") && (flagged("t"), flagged("tB")) == (3, 3)
    });
    assert!(nodes.iter().all(|node| node.info("tracking_clients") > 0));
    clients[0].ask("CLIENT TRACKING OFF").expect_ok();
    clients[1].ask("RESET");
    assert_eq!(clients[2].ask("HELLO 2").field("proto"), Some(Reply::Int(2)));
    clients[3].ask("QUIT").expect_ok();
    let id = clients[4].ask("CLIENT ID").int();
    assert_eq!(
        writer.call(&["CLIENT", "KILL", "ID", &id.to_string()]),
        Reply::Int(1)
    );
    drop(clients.pop());
    nothing_is_left(&nodes, &proxy);
    writer.ask("SET left:1 x").expect_ok();
    for client in &mut clients[..3] {
        assert_eq!(client.ask("GET left:1"), Reply::from("x"));
    }
    // And it begins again.
    clients[0].ask("CLIENT TRACKING ON").expect_ok();
    clients[0].ask("GET left:1");
    writer.ask("SET left:1 y").expect_ok();
    expect(&mut clients[0], &["left:1"]);
}

#[test]
fn a_pipeline_that_begins_to_track_misses_nothing() {
    let (_nodes, proxy) = small();
    let mut writer = proxy.client();
    for round in 0..20 {
        let mut client = proxy.client();
        client
            .send(b"HELLO 3\r\nGET before\r\nCLIENT TRACKING ON\r\nGET pipe\r\nSUBSCRIBE c\r\nGET pipe2\r\n");
        assert!(matches!(client.reply(), Reply::Map(_)));
        client.reply();
        client.reply().expect_ok();
        assert!(matches!(client.reply(), Reply::Bulk(_) | Reply::Null));
        assert_eq!(client.reply().items()[0].text(), "subscribe");
        client.reply();
        writer.call(&["SET", "before", &round.to_string()]).expect_ok();
        writer.call(&["SET", "pipe2", &round.to_string()]).expect_ok();
        expect(&mut client, &["pipe2"]);
        writer.call(&["SET", "pipe", &round.to_string()]).expect_ok();
        expect(&mut client, &["pipe"]);
    }
}

#[test]
fn names_that_are_too_many_or_too_large_are_everything() {
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .proxy("output_bytes_soft = \"64KiB\"")
        .proxy("output_bytes_hard = \"64KiB\"")
        .start();
    let (mut client, mut all) = (tracking(&proxy, ""), tracking(&proxy, "BCAST"));
    let mut writer = nodes[1].client_in(7);
    for number in 0..3 {
        let key = key_in(7, 8, "small");
        client.call(&["GET", &key]);
        // One name that the worker does not keep, with small ones before and behind it in the same push.
        let large = format!("m{}", "x".repeat(200_000 + number));
        writer
            .call(&["MSET", "a", "1", &large, "1", &key, "1"])
            .expect_ok();
        expect(&mut client, &["everything"]);
        expect(&mut all, &["everything"]);
        client.call(&["GET", &key]);
        writer.call(&["SET", &key, "2"]).expect_ok();
        expect(&mut client, &[&key]);
        expect(&mut all, &[&key]);
    }
    wait_until("it is counted", PATIENCE, || {
        proxy.metric("preshard_limits_reached_total{limit=\"tracking_names\"}") > 0
    });
    // Many at once, which fit: one script of the node's own.
    let many = "for i=1,tonumber(ARGV[1]) do redis.call('SET','n'..i,1) end return 1";
    client.call(&["GET", "n1"]);
    for node in &nodes {
        assert_eq!(node.client().call(&["EVAL", many, "0", "20000"]), Reply::Int(1));
    }
    expect(&mut client, &["everything"]);
    expect(&mut all, &["everything"]);
}

#[test]
fn beyond_the_limit_a_key_goes_and_is_told() {
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .proxy("workers = 1")
        .proxy("tracking_keys_max = 10")
        .start();
    let mut client = tracking(&proxy, "");
    let mut known: std::collections::BTreeSet<String> = std::collections::BTreeSet::new();
    for number in 0..100 {
        let key = format!("many{number}");
        client.call(&["GET", &key]);
        known.insert(key);
        while known.len() > 10 {
            for gone in invalidated(&mut client) {
                assert!(known.remove(&gone), "{gone} was told twice");
            }
        }
    }
    proxy.await_metric("preshard_tracking_evictions_total", 90);
    proxy.await_metric("preshard_limits_reached_total{limit=\"tracking_keys\"}", 90);
    for key in known {
        proxy.client().call(&["SET", &key, "1"]).expect_ok();
        expect(&mut client, &[&key]);
    }
    // A name that is too long to be kept is not to be cached at all.
    let long = "x".repeat(20_000);
    client.call(&["GET", &long]);
    expect(&mut client, &[&long]);
    let many: Vec<String> = (0..1001)
        .flat_map(|n| ["PREFIX".to_owned(), format!("p{n}x")])
        .collect();
    let mut words = vec!["CLIENT", "TRACKING", "ON", "BCAST"];
    words.extend(many.iter().map(String::as_str));
    proxy
        .client3()
        .call(&words)
        .expect_error("ERR more than 1000 prefixes");
}
