//! What stands still for a while and goes on: the proxy itself, or a node whose replies come when nobody waits for them any more.

use std::time::{Duration, Instant};

use super::{Failure, failure, fill, keys_on, two_nodes, value_of};
use crate::harness::wire::frame;
use crate::harness::{NodeOptions, PATIENCE, Reply, bytes_waiting_at, undisturbed, wait_until};

/// The node has answered while the proxy stood still: more than the proxy reads at once when it goes on, and less than the sockets
/// hold, so that the node has no part in the rest. All of it is older than any deadline by then, so a look at the clock before
/// everything is read would blame the node.
#[test]
fn a_proxy_that_stood_still_itself_blames_no_node_for_it() {
    undisturbed(Duration::from_secs(1), stand_still_while_a_node_answers);
}

fn stand_still_while_a_node_answers() {
    const DEADLINE: Duration = Duration::from_secs(8);
    let (nodes, proxy) = two_nodes(NodeOptions::default(), |setup| {
        setup.proxy("workers = 1").proxy("request_timeout = \"8s\"")
    });
    let keys: Vec<String> = keys_on(1, 8);
    let values: Vec<String> = keys.iter().map(|key| key.repeat(65_536 / key.len())).collect();
    let mut client = proxy.client();
    for (key, value) in keys.iter().zip(&values) {
        client.call(&["SET", key, value]).expect_ok();
    }
    nodes[0].freeze();
    let sent = Instant::now();
    let requests: Vec<u8> = keys.iter().flat_map(|key| frame(&["GET", key])).collect();
    client.send(&requests);
    wait_until("the requests are at the node", DEADLINE, || {
        bytes_waiting_at(nodes[0].socket()) >= requests.len() as u64
    });
    proxy.freeze();
    assert!(
        sent.elapsed() < DEADLINE / 2,
        "the machine is too busy for this test"
    );
    nodes[0].thaw();
    wait_until(
        "the node has answered all of them",
        Duration::from_secs(20),
        || {
            let clients = nodes[0].client().ask("CLIENT LIST").text();
            let is_written = |client: &str| client.contains(" obl=0 ") && client.contains(" omem=0 ");
            bytes_waiting_at(nodes[0].socket()) == 0 && clients.lines().all(is_written)
        },
    );
    wait_until("their deadline has passed", DEADLINE * 2, || {
        sent.elapsed() > DEADLINE + Duration::from_millis(500)
    });
    proxy.thaw();
    for (key, value) in keys.iter().zip(&values) {
        let reply = client.reply();
        assert!(
            reply == Reply::from(value.as_str()),
            "{key} is answered with {:?}",
            reply.error()
        );
    }
    assert_eq!(
        proxy.metric("preshard_limits_reached_total{limit=\"request_timeout\""),
        0
    );
    wait_until("it has noticed", PATIENCE, || {
        proxy.log().contains("worker_stood_still")
    });
}

#[test]
fn a_paused_node_runs_late_what_was_called_uncertain_and_nothing_is_mixed_up() {
    undisturbed(Duration::from_millis(200), run_late);
}

fn run_late() {
    let (nodes, proxy) = two_nodes(NodeOptions::default(), |setup| {
        setup.proxy("request_timeout = \"300ms\"")
    });
    let keys = keys_on(1, 4);
    fill(&proxy, &keys);
    let mut client = proxy.client();
    // Its worker is connected: else the request would wait for the connection, and not run.
    wait_until("it is connected", PATIENCE, || {
        client.call(&["GET", &keys[0]]).error().is_none()
    });
    nodes[0].client().ask("CLIENT PAUSE 1500 ALL").expect_ok();
    let reply = client.call(&["APPEND", &keys[0], "!"]);
    assert_eq!(failure(&reply), Failure::Uncertain, "{reply:?}");
    wait_until("well again", PATIENCE, || {
        client.call(&["GET", &keys[1]]).error().is_none()
    });
    for key in &keys[1..] {
        assert_eq!(client.call(&["GET", key]), Reply::from(value_of(key).as_str()));
    }
    let appended = client.call(&["GET", &keys[0]]).text();
    assert!(
        appended == format!("{}!", value_of(&keys[0])) || appended == value_of(&keys[0]),
        "run once or never: {appended}"
    );
}

#[test]
fn a_split_write_over_a_frozen_node_is_uncertain_and_says_how_far_it_came() {
    undisturbed(Duration::from_millis(200), split_over_a_frozen_node);
}

fn split_over_a_frozen_node() {
    let (nodes, proxy) = two_nodes(NodeOptions::default(), |setup| {
        setup.proxy("request_timeout = \"1s\"")
    });
    let (frozen, free) = (keys_on(1, 1), keys_on(2, 2));
    let mut client = proxy.client();
    wait_until("all links are there", PATIENCE, || {
        client
            .call(&["MSET", &frozen[0], "0", &free[0], "0", &free[1], "0"])
            .is_ok()
    });
    nodes[0].freeze();
    let reply = client.call(&["MSET", &frozen[0], "1", &free[0], "1", &free[1], "1"]);
    let text = reply.expect_error("UNCERTAIN ");
    assert!(text.contains("2 of 3 shards"), "{text}");
    assert_eq!(
        client.call(&["MGET", &free[0], &free[1]]).items(),
        [Reply::from("1"), Reply::from("1")]
    );
    nodes[0].thaw();
    wait_until("well again", PATIENCE, || {
        client.call(&["GET", &frozen[0]]).error().is_none()
    });
}
