//! Keyspace notifications: what nodes say of their databases, in the numbers that clients see.

use crate::harness::{Client, Node, NodeOptions, Proxy, Reply, Setup, key_in};
use crate::pubsub::{expect, subscribe, words};

fn with_events() -> (Vec<Node>, Proxy) {
    let options = NodeOptions {
        more: vec!["--notify-keyspace-events".to_owned(), "KEA".to_owned()],
        ..NodeOptions::default()
    };
    let nodes = vec![Node::with(options.clone()), Node::with(options)];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()]).start();
    (nodes, proxy)
}

#[test]
#[expect(clippy::too_many_lines, reason = "one scene, told from front to back")]
fn keyspace_events_carry_the_database_that_the_client_sees() {
    let (nodes, proxy) = with_events();
    let (left, right) = (key_in(1, 8, "left"), key_in(6, 8, "right"));
    let mut one_key = proxy.client3();
    subscribe(&mut one_key, &format!("SUBSCRIBE __keyspace@0__:{left}"));
    let mut one_event = proxy.client3();
    subscribe(&mut one_event, "SUBSCRIBE __keyevent@0__:set __keyevent@2__:set");
    let mut all = proxy.client3();
    subscribe(&mut all, "PSUBSCRIBE __key*__:*");
    let mut sets = proxy.client3();
    subscribe(&mut sets, "PSUBSCRIBE __keyevent@*__:set");
    let mut pinned = proxy.client3();
    subscribe(&mut pinned, "PSUBSCRIBE __keyspace@3__:*");
    let mut everything = proxy.client3();
    subscribe(&mut everything, "PSUBSCRIBE *");

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
    expect(
        &mut one_key,
        &[
            &format!("message __keyspace@0__:{left} set"),
            &format!("message __keyspace@0__:{left} del"),
        ],
    );
    let sorted = |client: &mut Client, count: usize| {
        let mut got: Vec<String> = (0..count).map(|_| words(&client.reply())).collect();
        got.sort();
        got
    };
    let mut expected = vec![
        format!("message __keyevent@0__:set {left}"),
        format!("message __keyevent@0__:set {right}"),
        "message __keyevent@2__:set k".to_owned(),
    ];
    expected.sort();
    assert_eq!(sorted(&mut one_event, 3), expected);
    let events = [(0, &left, "set"), (0, &right, "set"), (0, &left, "del")];
    let k = "k".to_owned();
    let events: Vec<_> = events
        .into_iter()
        .chain([(2, &k, "set"), (3, &k, "set")])
        .collect();
    for (client, pattern, ends) in [(&mut all, "__key*__:*", 0), (&mut everything, "*", 1)] {
        let mut expected: Vec<String> = events
            .iter()
            .flat_map(|(db, key, event)| {
                [
                    format!("pmessage {pattern} __keyspace@{db}__:{key} {event}"),
                    format!("pmessage {pattern} __keyevent@{db}__:{event} {key}"),
                ]
            })
            .collect();
        if ends == 1 {
            expected.push("pmessage * end end".to_owned());
        }
        expected.sort();
        assert_eq!(sorted(client, expected.len()), expected);
    }
    let mut expected: Vec<String> = events
        .iter()
        .filter(|(_, _, event)| *event == "set")
        .map(|(db, key, _)| format!("pmessage __keyevent@*__:set __keyevent@{db}__:set {key}"))
        .collect();
    expected.sort();
    assert_eq!(sorted(&mut sets, expected.len()), expected);
    expect(&mut pinned, &["pmessage __keyspace@3__:* __keyspace@3__:k set"]);
    for client in [
        &mut one_key,
        &mut one_event,
        &mut all,
        &mut sets,
        &mut pinned,
        &mut everything,
    ] {
        assert_eq!(client.ask("GET nothing"), Reply::Null, "nothing else came");
    }
    writer
        .ask("PUBLISH __keyspace@0__:x set")
        .expect_error("ERR only nodes publish");
}
