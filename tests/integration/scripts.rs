//! Scripts and functions on real nodes: routed by their keys, found by their sum, harmless to everybody else.

use crate::harness::{Node, NodeOptions, PATIENCE, Proxy, Reply, Setup, key_in, lacks, small, wait_until};

const GET: &str = "return redis.call('GET', KEYS[1])";

/// The sum of [`GET`], as a server says it.
fn sum_of(node: &Node, body: &str) -> String {
    node.client().call(&["SCRIPT", "LOAD", body]).text()
}

#[test]
fn a_script_runs_on_the_shard_of_its_keys() {
    let (nodes, proxy) = small();
    let mut client = proxy.client();
    for shard in 0..8 {
        let key = key_in(shard, 8, "script:");
        let value = shard.to_string();
        client.call(&["SET", &key, &value]).expect_ok();
        assert_eq!(
            client.call(&["EVAL", GET, "1", &key]),
            Reply::from(value.as_str())
        );
        if !lacks("EVAL_RO") {
            assert_eq!(
                client.call(&["EVAL_RO", GET, "1", &key]),
                Reply::from(value.as_str())
            );
        }
    }
    let (one, other) = (key_in(2, 8, "left:"), key_in(6, 8, "right:"));
    client
        .call(&["EVAL", GET, "2", &one, &other])
        .expect_error("CROSSSLOT ");
    let keyless = "return redis.call('GET', 'a')";
    client.call(&["EVAL", keyless, "0"]).expect_error("CROSSSLOT ");
    let sum = sum_of(&nodes[0], keyless);
    client.call(&["EVALSHA", &sum, "0"]).expect_error("NOSCRIPT ");
    client.call(&["SCRIPT", "LOAD", keyless]);
    client.call(&["EVALSHA", &sum, "0"]).expect_error("CROSSSLOT ");
    // What can touch no key needs none.
    assert_eq!(
        client.call(&["EVAL", "return ARGV[1]", "0", "x"]),
        Reply::from("x")
    );
    let sum = sum_of(&nodes[0], "return ARGV[1]");
    assert_eq!(client.call(&["EVALSHA", &sum, "0", "y"]), Reply::from("y"));
    client.ask("SELECT 1").expect_ok();
    assert_eq!(client.call(&["EVAL", "return 1", "0"]), Reply::Int(1));
    client
        .call(&["EVAL", GET, "-1"])
        .expect_error("ERR Number of keys can't be negative");
    client
        .call(&["EVAL", GET, "9"])
        .expect_error("ERR Number of keys can't be greater than number of args");
    client
        .call(&["EVAL", GET, "x"])
        .expect_error("ERR value is not an integer or out of range");
}

#[test]
fn a_script_called_by_its_sum_is_found_on_every_node_and_after_a_restart() {
    let mut nodes = vec![Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .announce(&["node_down", "node_empty", "link_closed", "node_unreachable"])
        .start();
    let mut client = proxy.client();
    let elsewhere = Node::start();
    let sum = sum_of(&elsewhere, GET);
    let keys: Vec<String> = (0..8).map(|shard| key_in(shard, 8, "sum:")).collect();
    client
        .call(&["EVALSHA", &sum, "1", &keys[0]])
        .expect_error("NOSCRIPT ");
    // One node sees the body, both know it from then on.
    assert_eq!(client.call(&["EVAL", GET, "1", &keys[0]]), Reply::Null);
    for key in &keys {
        assert_eq!(
            client.call(&["EVALSHA", &sum.to_uppercase(), "1", key]),
            Reply::Null
        );
    }
    assert_eq!(
        client.call(&["SCRIPT", "EXISTS", &sum]),
        Reply::Array(vec![Reply::Int(1)])
    );
    // Somebody empties a node's cache behind the proxy's back.
    for node in &nodes {
        node.client().ask("SCRIPT FLUSH").expect_ok();
    }
    for key in &keys {
        assert_eq!(client.call(&["EVALSHA", &sum, "1", key]), Reply::Null);
    }
    nodes[0].kill();
    nodes[0].restart();
    for key in &keys {
        wait_until("the node is back", PATIENCE, || {
            client.call(&["GET", key]) == Reply::Null
        });
    }
    wait_until("scripts have their connection again", PATIENCE, || {
        client.call(&["EVAL", "return 1", "1", &keys[0]]) == Reply::Int(1)
    });
    for key in &keys {
        assert_eq!(client.call(&["EVALSHA", &sum, "1", key]), Reply::Null);
    }
    client.ask("SCRIPT FLUSH").expect_ok();
    client
        .call(&["EVALSHA", &sum, "1", &keys[0]])
        .expect_error("NOSCRIPT ");
}

#[test]
fn scripts_in_a_transaction_run_with_it() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    let sum = client.call(&["SCRIPT", "LOAD", GET]).text();
    client.ask("MULTI").expect_ok();
    for words in [
        vec!["SET", "{t}a", "1"],
        vec!["EVALSHA", &sum, "1", "{t}a"],
        vec!["EVAL", "return redis.call('INCR', KEYS[1])", "1", "{t}a"],
    ] {
        assert_eq!(client.call(&words), Reply::Simple("QUEUED".into()));
    }
    assert_eq!(
        client.ask("EXEC"),
        Reply::Array(vec![Reply::Simple("OK".into()), Reply::from("1"), Reply::Int(2)])
    );
}

#[test]
fn a_script_that_names_a_way_out_of_its_database_is_refused() {
    let (nodes, proxy) = small();
    let mut client = proxy.client();
    let body = "redis.call('SELECT', 3) return redis.call('GET', KEYS[1])";
    for words in [
        vec!["EVAL", body, "1", "a"],
        vec!["SCRIPT", "LOAD", body],
        vec![
            "FUNCTION",
            "LOAD",
            "#!lua name=x\nredis.register_function('f', function() redis.call('SELECT', 3) end)",
        ],
    ] {
        let text = client.call(&words).expect_error("ERR this script calls SELECT");
        assert!(text.contains("shard"), "{text}");
    }
    client.ask("MULTI").expect_ok();
    client
        .call(&["EVAL", body, "1", "a"])
        .expect_error("ERR this script calls SELECT");
    client.ask("EXEC").expect_error("EXECABORT ");
    assert_eq!(nodes.iter().map(|node| node.calls_of("eval")).sum::<u64>(), 0);
}

#[test]
fn functions_are_on_every_node() {
    if lacks("functions") {
        return;
    }
    let (nodes, proxy) = small();
    let mut client = proxy.client();
    let library = "#!lua name=mine\nredis.register_function('mine_get', function(keys) return redis.call('GET', keys[1]) end)";
    assert_eq!(client.call(&["FUNCTION", "LOAD", library]), Reply::from("mine"));
    for shard in 0..8 {
        let key = key_in(shard, 8, "f:");
        client.call(&["SET", &key, "v"]).expect_ok();
        assert_eq!(client.call(&["FCALL", "mine_get", "1", &key]), Reply::from("v"));
    }
    client
        .call(&["FUNCTION", "LOAD", library])
        .expect_error("ERR Library 'mine' already exists");
    for node in &nodes {
        assert_eq!(
            node.client().call(&["FUNCTION", "DELETE", "mine"]),
            Reply::Simple("OK".into())
        );
        node.client().call(&["FUNCTION", "LOAD", library]);
    }
    client.call(&["FUNCTION", "DELETE", "mine"]).expect_ok();
    client
        .call(&["FCALL", "mine_get", "1", "a"])
        .expect_error("ERR Function not found");
}

/// Redis 7.0 answers these with two frames: the error repeats a line break of the first line.
#[test]
fn a_script_that_would_make_a_node_answer_twice_never_reaches_it() {
    let (nodes, proxy) = small();
    let mut node = nodes[0].client();
    let eval = "#!lua \"flags=a\\r\\n+INJECTED\"\nreturn 1";
    node.call(&["EVAL", eval, "0"]);
    if node.call(&["ECHO", "next"]) == Reply::Simple("INJECTED".into()) {
        // This server does it, so it is worth being refused.
        assert_eq!(node.reply(), Reply::from("next"));
    }
    let calls = || nodes.iter().map(|node| node.calls_of("eval")).sum::<u64>();
    let before = calls();
    let mut client = proxy.client();
    let library = "#!lua \"name=a\\r\\n+INJECTED\"\nreturn 1";
    for words in [
        vec!["EVAL", eval, "1", "a"],
        vec!["SCRIPT", "LOAD", eval],
        vec!["FUNCTION", "LOAD", library],
        vec!["FUNCTION", "LOAD", "REPLACE", library],
    ] {
        client
            .call(&words)
            .expect_error("ERR the first line of this script");
        assert_eq!(client.ask("PING"), Reply::Simple("PONG".into()));
    }
    assert_eq!(calls(), before);
}

/// Two nodes that say soon that they are busy.
fn soon_busy() -> (Vec<Node>, Proxy) {
    let options = NodeOptions {
        more: ["--lua-time-limit", "50"].map(str::to_owned).to_vec(),
        ..NodeOptions::default()
    };
    let nodes = vec![Node::with(options.clone()), Node::with(options)];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .proxy("request_timeout = \"30s\"")
        .announce(&["probe_failed", "node_down", "link_closed", "node_unreachable"])
        .start();
    (nodes, proxy)
}

#[test]
fn a_script_that_does_not_end_is_killed_and_one_that_wrote_is_not() {
    let (nodes, proxy) = soon_busy();
    let (mut runs, mut kills) = (proxy.client(), proxy.client3());
    assert_eq!(kills.ask("SCRIPT KILL"), nodes[0].client().ask("SCRIPT KILL"));
    for shard in [0, 7] {
        let key = key_in(shard, 8, "endless:");
        runs.command(&["EVAL", "while true do end", "1", &key]);
        wait_until("the script is killed", PATIENCE, || {
            kills.ask("SCRIPT KILL").is_ok()
        });
        assert!(runs.reply().expect_error("ERR").contains("Script killed by user"));
        runs.call(&["SET", &key, "1"]).expect_ok();
    }
    assert_eq!(kills.ask("SCRIPT KILL"), nodes[0].client().ask("SCRIPT KILL"));
    let key = key_in(0, 8, "endless:");
    runs.command(&[
        "EVAL",
        "redis.call('SET', KEYS[1], '2') while redis.call('EXISTS', KEYS[1]) == 1 do end",
        "1",
        &key,
    ]);
    wait_until("the script cannot be killed", PATIENCE, || {
        let reply = kills.ask("SCRIPT KILL");
        assert!(!reply.is_ok(), "{reply:?}");
        reply.error().is_some_and(|line| line.starts_with("UNKILLABLE "))
    });
}

#[test]
fn a_function_that_does_not_end_is_killed() {
    if lacks("functions") {
        return;
    }
    let (nodes, proxy) = soon_busy();
    let (mut runs, mut kills) = (proxy.client(), proxy.client());
    let code = "#!lua name=l\nredis.register_function('endless', function() while true do end end)";
    assert_eq!(runs.call(&["FUNCTION", "LOAD", code]), Reply::from("l"));
    runs.command(&["FCALL", "endless", "1", "a"]);
    wait_until("the function is killed", PATIENCE, || {
        kills.ask("FUNCTION KILL").is_ok()
    });
    assert!(runs.reply().expect_error("ERR").contains("Script killed by user"));
    assert_eq!(kills.ask("FUNCTION KILL"), nodes[0].client().ask("FUNCTION KILL"));
}

const WHERE: &str = "#!lua name=where\nredis.register_function('where', function(keys) return keys[1] end)";

/// The function is there for keys of every shard.
fn is_everywhere(client: &mut crate::harness::Client) {
    for shard in 0..8 {
        let key = key_in(shard, 8, "f:");
        assert_eq!(
            client.call(&["FCALL", "where", "1", &key]),
            Reply::from(key.as_str())
        );
    }
}

#[test]
fn a_node_that_comes_back_empty_has_the_functions_before_it_is_asked_for_them() {
    if lacks("functions") {
        return;
    }
    let mut nodes = [Node::start(), Node::start()];
    let addresses = [nodes[0].address(), nodes[1].address()];
    let proxy = Setup::of(&addresses)
        .announce(&["node_down", "node_empty", "link_closed", "probe_failed"])
        .start();
    let mut client = proxy.client();
    assert_eq!(client.call(&["FUNCTION", "LOAD", WHERE]), Reply::from("where"));
    is_everywhere(&mut client);
    let key = key_in(7, 8, "f:");
    for _ in 0..3 {
        nodes[1].kill();
        nodes[1].restart();
        let mut reply = Reply::Null;
        wait_until("the node serves again", PATIENCE, || {
            reply = client.call(&["FCALL", "where", "1", &key]);
            !["CLUSTERDOWN", "UNCERTAIN", "TRYAGAIN"]
                .iter()
                .any(|word| reply.error().is_some_and(|line| line.starts_with(word)))
        });
        assert_eq!(reply, Reply::from(key.as_str()), "the first answer is right");
        is_everywhere(&mut client);
    }
}

#[test]
fn functions_are_brought_to_new_nodes_and_to_those_that_lost_them_while_the_proxy_was_away() {
    if lacks("functions") {
        return;
    }
    let mut nodes = [Node::start(), Node::start()];
    let addresses = [nodes[0].address(), nodes[1].address()];
    // The application had one server before.
    nodes[1].client().call(&["FUNCTION", "LOAD", WHERE]);
    let setup = Setup::of(&addresses).announce(&["node_empty", "node_down", "link_closed"]);
    let mut proxy = setup.start();
    is_everywhere(&mut proxy.client());
    let setup = setup.store(&proxy.store);
    assert!(proxy.stop().success());
    nodes[1].kill();
    nodes[1].restart();
    let mut again = setup.start();
    is_everywhere(&mut again.client());
    // What was deleted is not brought back.
    again.client().ask("FUNCTION DELETE where").expect_ok();
    assert!(again.stop().success());
    let last = setup.start();
    let reply = last.client().call(&["FCALL", "where", "1", "a"]);
    reply.expect_error("ERR Function not found");
}
