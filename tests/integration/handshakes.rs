//! Handshakes of clients that are not installed here, as fixtures: each request gets exactly one acceptable reply, in order.
//!
//! ```text
//!  tests/matrix/handshakes/*.txt ─▶ blocks of requests (one write each) and what may come ─▶ a real proxy
//! ```
//!
//! The format, and what is known of each client, stands in the folder's own README.

use std::fs;
use std::path::PathBuf;

use crate::harness::{Client, Node, Proxy, Reply, Setup};

/// SHA-256 of the word `secret`, the password of those fixtures that name one.
const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

/// One write and what must come back.
#[derive(Debug, Default)]
struct Block {
    requests: Vec<String>,
    expected: Vec<String>,
}

#[derive(Debug)]
struct Handshake {
    name: String,
    password: bool,
    blocks: Vec<Block>,
}

fn handshakes() -> Vec<Handshake> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/matrix/handshakes");
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "txt"))
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| parse(&path.display().to_string(), &fs::read_to_string(path).unwrap()))
        .collect()
}

fn parse(name: &str, text: &str) -> Handshake {
    let mut found = Handshake {
        name: name.to_owned(),
        password: false,
        blocks: vec![Block::default()],
    };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let block = found.blocks.last_mut().unwrap();
        match line.split_once(' ') {
            Some((">", request)) => block.requests.push(request.to_owned()),
            Some(("<", expected)) => block.expected.push(expected.to_owned()),
            Some(("password", "secret")) => found.password = true,
            None if line.is_empty() => found.blocks.push(Block::default()),
            _ => panic!("{name}: '{line}' is none of the lines that its README names"),
        }
    }
    found.blocks.retain(|block| !block.requests.is_empty());
    for block in &found.blocks {
        assert_eq!(
            block.requests.len(),
            block.expected.len(),
            "{name}: one '<' for each '>'"
        );
    }
    assert!(!found.blocks.is_empty(), "{name} sends nothing");
    found
}

/// Whether a reply is what one of the alternatives says.
fn acceptable(reply: &Reply, expected: &str) -> bool {
    expected.split(" | ").any(|one| {
        let (kind, rest) = one.split_once(' ').unwrap_or((one, ""));
        match kind {
            "ok" => reply.is_ok(),
            "pong" => *reply == Reply::Simple("PONG".to_owned()),
            "int" => matches!(reply, Reply::Int(_)),
            "null" => *reply == Reply::Null,
            "list" => matches!(reply, Reply::Array(_) | Reply::Map(_) | Reply::Push(_)),
            "bulk" => matches!(reply, Reply::Bulk(_)) && reply.text().contains(rest),
            "error" => reply.error().is_some_and(|text| text.starts_with(rest)),
            "hello" => is_hello(reply, rest),
            other => panic!("'{other}' is none of the words that the README names"),
        }
    })
}

/// The seven fields, in the protocol that was asked for.
fn is_hello(reply: &Reply, protocol: &str) -> bool {
    let right_kind = match protocol {
        "3" => matches!(reply, Reply::Map(_)),
        _ => matches!(reply, Reply::Array(_)),
    };
    let text = |name| reply.field(name).map(|value| value.text());
    right_kind
        && text("server").as_deref() == Some("redis")
        && text("version").is_some_and(|version| version.split('.').count() == 3)
        && reply.field("proto") == protocol.parse().ok().map(Reply::Int)
        && matches!(reply.field("id"), Some(Reply::Int(1..)))
        && text("mode").as_deref() == Some("standalone")
        && text("role").as_deref() == Some("master")
        && reply.field("modules") == Some(Reply::Array(Vec::new()))
}

fn replay(handshake: &Handshake, proxy: &Proxy) {
    let mut client = proxy.client();
    for block in &handshake.blocks {
        let mut bytes = Vec::new();
        for request in &block.requests {
            bytes.extend(crate::harness::wire::frame(
                &request.split(' ').collect::<Vec<_>>(),
            ));
        }
        client.send(&bytes);
        for (request, expected) in block.requests.iter().zip(&block.expected) {
            let reply = client.reply();
            assert!(
                acceptable(&reply, expected),
                "{}: '{request}' wants '{expected}', got {reply:?}",
                handshake.name
            );
        }
    }
    nothing_more_comes(&mut client, handshake);
}

/// One reply too many would answer the next request: a text that nothing else says must be the next thing read.
fn nothing_more_comes(client: &mut Client, handshake: &Handshake) {
    let subscribed = handshake
        .blocks
        .iter()
        .flat_map(|block| &block.requests)
        .any(|request| request.starts_with("SUBSCRIBE"));
    let reply = client.ask(if subscribed { "PING last" } else { "ECHO last" });
    let last = match &reply {
        // A RESP2 subscriber's PONG is a list.
        Reply::Array(items) => items.last().cloned(),
        other => Some(other.clone()),
    };
    assert_eq!(last, Some(Reply::from("last")), "{}", handshake.name);
}

#[test]
fn every_request_of_a_handshake_gets_one_acceptable_reply() {
    let nodes = [Node::start(), Node::start()];
    let addresses = [nodes[0].address(), nodes[1].address()];
    let open = Setup::of(&addresses[..1]).start();
    let guarded = Setup::of(&addresses[1..])
        .proxy(&format!("password_sha256 = \"{SECRET}\""))
        .start();
    let all = handshakes();
    assert!(all.len() >= 10, "the fixtures are missing");
    for handshake in &all {
        replay(handshake, if handshake.password { &guarded } else { &open });
    }
}

#[test]
fn what_is_not_acceptable_is_noticed() {
    let hello = |proto: i64| {
        let fields = [
            ("server", Reply::from("redis")),
            ("version", Reply::from("7.0.15")),
            ("proto", Reply::Int(proto)),
            ("id", Reply::Int(7)),
            ("mode", Reply::from("standalone")),
            ("role", Reply::from("master")),
            ("modules", Reply::Array(Vec::new())),
        ];
        Reply::Map(fields.map(|(name, value)| (Reply::from(name), value)).to_vec())
    };
    assert!(acceptable(&hello(3), "hello 3"));
    assert!(!acceptable(&hello(2), "hello 3"));
    assert!(!acceptable(
        &Reply::Error("ERR no".to_owned()),
        "ok | error NOPROTO"
    ));
    assert!(acceptable(&Reply::Error("ERR no".to_owned()), "ok | error ERR"));
}
