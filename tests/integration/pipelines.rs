//! What one client sends in one piece: commands over the whole keyspace keep their place among its others.

use crate::harness::wire::frame;
use crate::harness::{Client, Node, NodeOptions, Proxy, Reply, Setup, key_in};

/// More shards than are asked at a time.
const SHARDS: u16 = 256;

fn many_shards() -> (Node, Proxy) {
    let node = Node::with(NodeOptions {
        databases: 300,
        ..NodeOptions::default()
    });
    let proxy = Setup::of(&[node.address()]).layout(SHARDS, 2).start();
    (node, proxy)
}

/// One key of each shard.
fn keys() -> Vec<String> {
    (0..SHARDS).map(|shard| key_in(shard, SHARDS, "k:")).collect()
}

fn sets(keys: &[String], value: &str) -> Vec<u8> {
    keys.iter().flat_map(|key| frame(&["SET", key, value])).collect()
}

fn expect_oks(client: &mut Client, count: usize) {
    (0..count).for_each(|_| client.reply().expect_ok());
}

#[test]
fn what_stands_behind_a_flush_is_not_flushed() {
    let (_node, proxy) = many_shards();
    let (mut client, keys) = (proxy.client(), keys());
    for flush in ["FLUSHALL", "FLUSHDB"] {
        let mut bytes = sets(&keys, "old");
        bytes.extend(frame(&[flush]));
        bytes.extend(sets(&keys[1..], "new"));
        bytes.extend(frame(&["DBSIZE"]));
        client.send(&bytes);
        expect_oks(&mut client, 2 * keys.len());
        assert_eq!(client.reply(), Reply::Int(i64::from(SHARDS) - 1), "{flush}");
        for key in &keys[1..] {
            assert_eq!(client.call(&["GET", key]), Reply::from("new"), "{flush}");
        }
    }
}

#[test]
fn what_looks_at_all_keys_sees_what_stands_before_it_and_nothing_behind() {
    let (_node, proxy) = many_shards();
    let (mut client, keys) = (proxy.client(), keys());
    for (command, rest) in [("DBSIZE", vec![]), ("KEYS", vec!["*"])] {
        let words: Vec<&str> = std::iter::once(command).chain(rest).collect();
        let mut bytes = sets(&keys, "v");
        bytes.extend(frame(&words));
        bytes.extend(frame(&["FLUSHDB"]));
        bytes.extend(frame(&words));
        bytes.extend(sets(&keys[..3], "v"));
        bytes.extend(frame(&["FLUSHDB"]));
        client.send(&bytes);
        expect_oks(&mut client, keys.len());
        let counted = |reply: &Reply| match reply {
            Reply::Int(count) => *count,
            other => i64::try_from(other.items().len()).unwrap(),
        };
        assert_eq!(counted(&client.reply()), i64::from(SHARDS), "{command}");
        client.reply().expect_ok();
        assert_eq!(counted(&client.reply()), 0, "{command}");
        expect_oks(&mut client, 4);
    }
    // A walk sees what stands before it as well.
    let mut bytes = sets(&keys[..1], "v");
    bytes.extend(frame(&["SCAN", "0", "COUNT", "1000"]));
    client.send(&bytes);
    client.reply().expect_ok();
    assert_eq!(client.reply().items()[1].items().len(), 1);
}
