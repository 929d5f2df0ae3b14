//! Scripts that are called by their sum in pipelines and transactions: found after restarts, moves and flushes.
//!
//! Client libraries ask `SCRIPT EXISTS` before a pipeline, and load nothing that exists: preshard says that what it keeps exists,
//! so the node that gets the call must know it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::clients::{node_js, python, run, script};
use crate::harness::wire::frame;
use crate::harness::{Client, Node, Proxy, Reply, Setup, key_in, wait_until};
use crate::moving::move_shards;

const RAISE: &str = "return redis.call('INCRBY', KEYS[1], ARGV[1])";
const PATIENCE: Duration = Duration::from_secs(20);

/// One worker, so that all clients share the connections of which something may be noted wrongly.
fn one_worker(nodes: &[Node; 2]) -> Proxy {
    Setup::of(&[nodes[0].address(), nodes[1].address()])
        .proxy("workers = 1")
        .announce(&[
            "node_down",
            "node_empty",
            "link_closed",
            "node_unreachable",
            "probe_failed",
        ])
        .start()
}

/// Has the proxy know the script, over the first node only.
fn known(client: &mut Client) -> String {
    let key = key_in(0, 8, "known:");
    client.call(&["EVAL", RAISE, "1", &key, "1"]).int();
    let server = Node::start();
    server.client().call(&["SCRIPT", "LOAD", RAISE]).text()
}

/// Words that say that a node is not there yet.
fn is_away(reply: &Reply) -> bool {
    let words = ["CLUSTERDOWN", "TRYAGAIN", "UNCERTAIN"];
    reply
        .error()
        .is_some_and(|line| words.iter().any(|word| line.starts_with(word)))
}

/// Kills a node; a client calls the script again and again meanwhile; the node comes back empty.
fn restart_under_calls(node: &mut Node, client: &mut Client, sum: &str, key: &str) {
    node.kill();
    let mut refused = 0;
    wait_until("calls are refused", PATIENCE, || {
        let reply = client.call(&["EVALSHA", sum, "1", key, "1"]);
        assert!(is_away(&reply), "{reply:?}");
        refused += i32::from(reply.error().is_some_and(|line| line.starts_with("CLUSTERDOWN")));
        refused >= 5
    });
    node.restart();
}

/// Asks until the node is there; what is asked is answered in one piece, in the way of a pipeline.
fn until_back(client: &mut Client, requests: &[&[&str]]) -> Vec<Reply> {
    let mut replies = Vec::new();
    wait_until("the node is back", PATIENCE, || {
        let bytes: Vec<u8> = requests.iter().flat_map(|words| frame(words)).collect();
        client.send(&bytes);
        replies = requests.iter().map(|_| client.reply()).collect();
        let aborted = |reply: &Reply| {
            reply
                .error()
                .is_some_and(|line| line.starts_with("EXECABORT preshard"))
        };
        !replies.iter().any(|reply| is_away(reply) || aborted(reply))
    });
    replies
}

#[test]
fn pipelines_and_transactions_find_their_scripts_after_a_restart_that_somebody_retried_through() {
    let mut nodes = [Node::start(), Node::start()];
    let proxy = one_worker(&nodes);
    let (mut client, mut other) = (proxy.client(), proxy.client());
    let sum = known(&mut client);
    let key = key_in(1, 8, "found:");
    let call: &[&str] = &["EVALSHA", &sum, "1", &key, "1"];
    assert_eq!(client.call(call), Reply::Int(1));
    restart_under_calls(&mut nodes[0], &mut other, &sum, &key);
    let replies = until_back(&mut client, &[call, call]);
    assert_eq!(replies[1].int(), replies[0].int() + 1, "{replies:?}");
    restart_under_calls(&mut nodes[0], &mut other, &sum, &key);
    let queued = || Reply::Simple("QUEUED".into());
    let ok = || Reply::Simple("OK".into());
    assert_eq!(
        until_back(&mut client, &[&["MULTI"], &["SET", &key, "5"], call, &["EXEC"]]),
        [ok(), queued(), queued(), Reply::Array(vec![ok(), Reply::Int(6)])]
    );
    restart_under_calls(&mut nodes[0], &mut other, &sum, &key);
    for _ in 0..2 {
        let replies = until_back(
            &mut client,
            &[
                &["WATCH", &key],
                &["MULTI"],
                &["SET", &key, "5"],
                call,
                call,
                &["EXEC"],
            ],
        );
        assert_eq!(
            replies.last(),
            Some(&Reply::Array(vec![ok(), Reply::Int(6), Reply::Int(7)]))
        );
    }
}

#[test]
fn a_transaction_finds_its_scripts_where_it_runs_though_it_was_queued_for_another_node() {
    let nodes = [Node::start(), Node::start()];
    let proxy = one_worker(&nodes);
    let mut client = proxy.client();
    let sum = known(&mut client);
    let key = key_in(0, 8, "moved:");
    let call: &[&str] = &["EVALSHA", &sum, "1", &key, "1"];
    for expected in [1, 3] {
        client.ask("MULTI").expect_ok();
        assert_eq!(client.call(call), Reply::Simple("QUEUED".into()));
        let target = if expected == 1 { "node-2" } else { "node-1" };
        move_shards(&mut proxy.admin_client(), "0", target);
        // Whoever comes back finds a node that has forgotten.
        assert_eq!(client.ask("EXEC"), Reply::Array(vec![Reply::Int(expected)]));
        assert_eq!(client.call(call), Reply::Int(expected + 1));
        nodes[0].client().ask("SCRIPT FLUSH").expect_ok();
    }
}

#[test]
fn a_node_whose_scripts_are_flushed_by_hand_says_so_to_one_pipeline_only() {
    let nodes = [Node::start(), Node::start()];
    let proxy = one_worker(&nodes);
    let mut client = proxy.client();
    let sum = known(&mut client);
    let key = key_in(0, 8, "flushed:");
    let call: &[&str] = &["EVALSHA", &sum, "1", &key, "1"];
    let mut count = 0;
    for round in 0..6 {
        for node in &nodes {
            node.client().ask("SCRIPT FLUSH").expect_ok();
        }
        // Nobody calls alone.
        let requests: &[&[&str]] = if round % 2 == 0 {
            &[call, call]
        } else {
            &[&["MULTI"], call, call, &["EXEC"]]
        };
        let values = |client: &mut Client| {
            let replies = until_back(client, requests);
            let values = if round % 2 == 0 {
                replies
            } else {
                replies.last().unwrap().items()
            };
            assert_eq!(values.len(), 2);
            values
        };
        for reply in values(&mut client) {
            match reply {
                Reply::Int(number) => count = number,
                other => drop(other.expect_error("NOSCRIPT ")),
            }
        }
        assert_eq!(
            values(&mut client),
            [Reply::Int(count + 1), Reply::Int(count + 2)]
        );
        count += 2;
    }
    assert_eq!(
        client.call(&["GET", &key]),
        Reply::from(count.to_string().as_str())
    );
}

/// A program that loads nothing that is said to exist, before and after the node was emptied under somebody's calls.
fn works_over_a_restart(command: fn() -> Command, name: &str) {
    let mut nodes = [Node::start(), Node::start()];
    let proxy = one_worker(&nodes);
    let program: PathBuf = script(name);
    let key = key_in(0, 8, "program:");
    let run_once = || {
        let said = run(command()
            .arg(&program)
            .args([&proxy.data.port().to_string(), &key]));
        let sum = said
            .lines()
            .last()
            .unwrap()
            .strip_prefix("ok ")
            .unwrap()
            .to_owned();
        assert_eq!(sum.len(), 40, "{said}");
        sum
    };
    let sum = run_once();
    let mut other = proxy.client();
    restart_under_calls(&mut nodes[0], &mut other, &sum, &key);
    until_back(&mut other, &[&["EVAL", "return 1", "1", &key]]);
    assert_eq!(run_once(), sum);
}

#[test]
fn redis_py_pipelines_find_their_scripts_after_a_restart() {
    works_over_a_restart(python, "redis_py_scripts.py");
}

#[test]
fn ioredis_pipelines_find_their_scripts_after_a_restart() {
    works_over_a_restart(node_js, "ioredis_scripts.cjs");
}
