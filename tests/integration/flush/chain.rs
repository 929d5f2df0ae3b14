//! Redis itself is killed: with every write on its disk nothing changes, with an old snapshot the chain of batches shows it.

use super::kit::{Flush, PATIENCE, assert_drained, count, pending, prepare, sum};
use super::postgres::Postgres;
use crate::harness::{Node, NodeOptions, Proxy, Reply, Setup, shard_of, wait_until};

/// What a proxy logs when its node is killed.
const NODE_DIES: [&str; 6] = [
    "node_down",
    "link_closed",
    "node_empty",
    "node_silent",
    "node_users_missing",
    "probe_failed",
];

fn await_node(proxy: &Proxy) {
    wait_until("the node serves again", PATIENCE, || {
        matches!(proxy.client().ask("COUNTER.GET events m0"), Reply::Int(_))
    });
}

#[test]
fn a_node_with_a_durable_log_is_killed_and_nothing_changes() {
    let postgres = Postgres::start();
    prepare(&postgres);
    let durable = NodeOptions {
        durable: true,
        ..NodeOptions::default()
    };
    let mut nodes = [Node::with(durable.clone()), Node::with(durable)];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .announce(&NODE_DIES)
        .start();
    let flusher = Flush::new(proxy.data, &postgres).start();
    let mut counted = 0;
    for round in 0..4 {
        counted += count(&mut proxy.client3(), 0..50, 2);
        nodes[round % 2].kill();
        nodes[round % 2].restart();
        await_node(&proxy);
        // The other node's members go on; those in between were acknowledged, or the count would have ended the test.
        wait_until("both nodes serve", PATIENCE, || {
            let reply = proxy
                .client()
                .ask("COUNTER.MGET events m0 m1 m2 m3 m4 m5 m6 m7 m8 m9");
            reply.items().iter().all(|reply| matches!(reply, Reply::Int(_)))
        });
        counted += count(&mut proxy.client3(), 20..60, 1);
        assert_drained(
            &mut proxy.client3(),
            &postgres,
            counted,
            &format!("round {round}"),
        );
    }
    assert_eq!(
        flusher.metric("preshard_flush_chain_total"),
        0,
        "{}",
        flusher.log()
    );
}

/// The node comes back as it was a while ago: what it counts again is told by the metric, or set aside.
#[test]
fn a_node_that_comes_back_older_is_told_by_the_chain() {
    for policy in ["apply", "park"] {
        let postgres = Postgres::start();
        prepare(&postgres);
        let mut nodes = [Node::start(), Node::start()];
        let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
            .announce(&NODE_DIES)
            .start();
        let mut flush = Flush::new(proxy.data, &postgres);
        flush.counters.push_str(&format!("on_rollback = \"{policy}\"\n"));
        let flusher = flush.start();
        let mut client = proxy.client3();
        let first = count(&mut client, 0..40, 1);
        assert_drained(&mut client, &postgres, first, "the start");
        flusher.freeze();
        let second = count(&mut client, 0..40, 1);
        // As of now: the second counts wait in it.
        nodes[0].client().ask("SAVE").expect_ok();
        let on_it: i64 = (0..40)
            .map(|member| format!("COUNTER.GET events m{member}"))
            .zip(0..40)
            .filter(|(_, member)| shard_of(&format!("events:m{member}"), 8) < 4)
            .map(|(ask, _)| client.ask(&ask).int())
            .sum();
        assert!(on_it > 0);
        flusher.thaw();
        assert_drained(&mut client, &postgres, first + second, "the second");
        // Applied, so that there is a younger batch than the one that comes back.
        let third = count(&mut client, 0..40, 1);
        assert_drained(&mut client, &postgres, first + second + third, "the third");
        assert_eq!(
            flusher.metric("preshard_flush_chain_total"),
            0,
            "{}",
            flusher.log()
        );
        nodes[0].kill();
        nodes[0].restart();
        await_node(&proxy);
        wait_until("what came back is flushed again", PATIENCE, || {
            let reply = proxy
                .client()
                .ask("COUNTER.MGET events m0 m1 m2 m3 m4 m5 m6 m7 m8 m9");
            let served = reply.items().iter().all(|reply| matches!(reply, Reply::Int(_)));
            served && pending(&mut proxy.client()) == 0
        });
        let told = flusher.metric("preshard_flush_chain_total{counter=\"events\",kind=\"rolled_back\"}");
        assert!(told > 0, "{}", flusher.log());
        let all = first + second + third;
        let dead = postgres.number("SELECT coalesce(sum(delta), 0) FROM preshard_dead");
        match policy {
            "apply" => assert_eq!((sum(&postgres), dead), (all + on_it, 0)),
            _ => assert_eq!((sum(&postgres), dead), (all, on_it)),
        }
    }
}
