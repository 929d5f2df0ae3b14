//! Keyspace notifications: every client hears of the databases that it sees, under its own numbers.

use super::{expect, subscribe, words};
use crate::harness::{Client, Node, NodeOptions, Proxy, Reply, Setup, key_in};

fn with_events() -> (Vec<Node>, Proxy) {
    let options = NodeOptions {
        more: vec!["--notify-keyspace-events".to_owned(), "KEA".to_owned()],
        ..NodeOptions::default()
    };
    let nodes = vec![Node::with(options.clone()), Node::with(options)];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()]).start();
    (nodes, proxy)
}

fn subscribed(proxy: &Proxy, line: &str) -> Client {
    let mut client = proxy.client3();
    subscribe(&mut client, line);
    client
}

/// The client hears these and nothing else. Those of different nodes come in any order.
fn hears(client: &mut Client, mut expected: Vec<String>) {
    let mut got: Vec<String> = expected.iter().map(|_| words(&client.reply())).collect();
    got.sort();
    expected.sort();
    assert_eq!(got, expected);
    assert_eq!(client.ask("GET nothing"), Reply::Null, "nothing else came");
}

/// Both notifications of one event, as a pattern brings them.
fn both(pattern: &str, (db, key, event): (u16, &str, &str)) -> [String; 2] {
    [
        format!("pmessage {pattern} __keyspace@{db}__:{key} {event}"),
        format!("pmessage {pattern} __keyevent@{db}__:{event} {key}"),
    ]
}

#[test]
fn keyspace_events_carry_the_database_that_the_client_sees() {
    let (nodes, proxy) = with_events();
    let (left, right) = (key_in(1, 8, "left"), key_in(6, 8, "right"));
    let mut one_key = subscribed(&proxy, &format!("SUBSCRIBE __keyspace@0__:{left}"));
    let mut one_event = subscribed(&proxy, "SUBSCRIBE __keyevent@0__:set __keyevent@2__:set");
    let mut all = subscribed(&proxy, "PSUBSCRIBE __key*__:*");
    let mut sets = subscribed(&proxy, "PSUBSCRIBE __keyevent@*__:set");
    let mut pinned = subscribed(&proxy, "PSUBSCRIBE __keyspace@3__:*");
    let mut everything = subscribed(&proxy, "PSUBSCRIBE *");

    let mut writer = proxy.client();
    writer.call(&["SET", &left, "1"]).expect_ok();
    writer.call(&["SET", &right, "1"]).expect_ok();
    writer.call(&["DEL", &left]);
    for db in ["2", "3"] {
        writer.call(&["SELECT", db]).expect_ok();
        writer.call(&["SET", "k", "1"]).expect_ok();
    }
    // Databases that are nobody's: the metadata, and one beyond.
    for node in &nodes {
        for db in [12, 13] {
            node.client_in(db).ask("SET foreign 1").expect_ok();
        }
    }
    writer.ask("PUBLISH end end");

    let events = [
        (0, left.as_str(), "set"),
        (0, &right, "set"),
        (0, &left, "del"),
        (2, "k", "set"),
        (3, "k", "set"),
    ];
    expect(
        &mut one_key,
        &[
            &format!("message __keyspace@0__:{left} set"),
            &format!("message __keyspace@0__:{left} del"),
        ],
    );
    hears(&mut one_key, Vec::new());
    let sets_of = |db: u16, key: &str| format!("message __keyevent@{db}__:set {key}");
    hears(
        &mut one_event,
        vec![sets_of(0, &left), sets_of(0, &right), sets_of(2, "k")],
    );
    hears(
        &mut all,
        events
            .into_iter()
            .flat_map(|event| both("__key*__:*", event))
            .collect(),
    );
    let mut expected: Vec<String> = events.into_iter().flat_map(|event| both("*", event)).collect();
    expected.push("pmessage * end end".to_owned());
    hears(&mut everything, expected);
    let of_sets = events.into_iter().filter(|(_, _, event)| *event == "set");
    hears(
        &mut sets,
        of_sets
            .map(|(db, key, _)| format!("pmessage __keyevent@*__:set __keyevent@{db}__:set {key}"))
            .collect(),
    );
    hears(
        &mut pinned,
        vec!["pmessage __keyspace@3__:* __keyspace@3__:k set".to_owned()],
    );
}

#[test]
fn only_nodes_publish_events() {
    let (_nodes, proxy) = with_events();
    let mut listener = subscribed(&proxy, "PSUBSCRIBE *");
    let mut publisher = proxy.client();
    publisher
        .ask("PUBLISH __keyspace@0__:x set")
        .expect_error("ERR only nodes publish");
    publisher
        .ask("PUBLISH __keyevent@12__:set x")
        .expect_error("ERR only nodes publish");
    assert_eq!(
        publisher.ask("PUBLISH __keyspace@x__:y set"),
        Reply::Int(1),
        "no event"
    );
    hears(&mut listener, vec!["pmessage * __keyspace@x__:y set".to_owned()]);
}

#[test]
fn expired_keys_are_heard_of() {
    let (_nodes, proxy) = with_events();
    let mut listener = subscribed(&proxy, "PSUBSCRIBE __keyevent@0__:expired");
    let mut writer = proxy.client();
    let keys: Vec<String> = (0..8).map(|shard| key_in(shard, 8, "short")).collect();
    for key in &keys {
        writer.call(&["SET", key, "1", "PX", "30"]).expect_ok();
    }
    let expired = |key: &String| format!("pmessage __keyevent@0__:expired __keyevent@0__:expired {key}");
    hears(&mut listener, keys.iter().map(expired).collect());
}
