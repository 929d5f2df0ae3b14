//! The same script to one plain Redis and to preshard: byte-equal replies, or a difference that is listed here with its
//! reason.
//!
//! ```text
//!   generator (seed) ─▶ commands ─┬─▶ redis-server, one database ──▶ replies ─┐
//!                                 └─▶ preshard, batches and chunks ─▶ replies ─┴─▶ equal?
//! ```

mod conversation;
mod script;

use std::time::Duration;

use self::conversation::Conversations;
use self::script::Generator;
use crate::harness::wire::{decode, frame};
use crate::harness::{Client, Node, Reply, Setup, lacks, left_out, seed};

const COMMANDS: usize = 8000;
const CONVERSATIONS: usize = 250;

/// How the replies of a command are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Bytes,
    /// The elements in any order.
    Elements,
    /// Both are of one kind: what is inside depends on chance.
    Kind,
    /// Both are errors that begin alike.
    Error(&'static str),
    /// Integers at most so far apart.
    Within(i64),
}

/// The listed differences: command, how it is compared, why not byte by byte.
const DIFFERENCES: &[(&str, Compare, &str)] = &[
    (
        "smembers",
        Compare::Elements,
        "the order of a hash table depends on the process's random seed",
    ),
    (
        "sinter",
        Compare::Elements,
        "the order of a hash table depends on the process's random seed",
    ),
    (
        "sunion",
        Compare::Elements,
        "the order of a hash table depends on the process's random seed",
    ),
    (
        "sdiff",
        Compare::Elements,
        "the order of a hash table depends on the process's random seed",
    ),
    (
        "sscan",
        Compare::Elements,
        "the order of a hash table depends on the process's random seed",
    ),
    (
        "zscan",
        Compare::Elements,
        "the order of a hash table depends on the process's random seed",
    ),
    (
        "ttl",
        Compare::Within(60),
        "the two servers run the script at slightly different times",
    ),
    (
        "pttl",
        Compare::Within(60_000),
        "the two servers run the script at slightly different times",
    ),
    (
        "expiretime",
        Compare::Within(60),
        "the two servers run the script at slightly different times",
    ),
    (
        "pexpiretime",
        Compare::Within(60_000),
        "the two servers run the script at slightly different times",
    ),
    (
        "dump",
        Compare::Kind,
        "the order of a hash table depends on the process's random seed",
    ),
    (
        "function list",
        Compare::Elements,
        "the order of a hash table depends on the process's random seed",
    ),
    (
        "memory usage",
        Compare::Kind,
        "what a table of keys needs depends on how it has grown",
    ),
    (
        "object idletime",
        Compare::Kind,
        "the two servers run the script at slightly different times",
    ),
    (
        "xpending",
        Compare::Kind,
        "the two servers run the script at slightly different times",
    ),
    ("client id", Compare::Kind, "preshard counts its own clients"),
    ("client info", Compare::Kind, "preshard counts its own clients"),
    (
        "client nosuch",
        Compare::Error("ERR unknown subcommand"),
        "preshard shows fewer of an unknown command's arguments",
    ),
    (
        "nosuch",
        Compare::Error("ERR unknown command"),
        "preshard shows fewer of an unknown command's arguments",
    ),
    (
        "lmpop",
        Compare::Error(""),
        "a key count one too high makes the next word a key, of another shard",
    ),
    (
        "zmpop",
        Compare::Error(""),
        "a key count one too high makes the next word a key, of another shard",
    ),
    (
        "xread",
        Compare::Error("ERR "),
        "preshard finds the keys itself and words it as Redis 7.2 and later do",
    ),
    (
        "xreadgroup",
        Compare::Error("ERR "),
        "preshard finds the keys itself and words it as Redis 7.2 and later do",
    ),
    (
        "nosuchcommand",
        Compare::Error("ERR unknown command"),
        "preshard shows fewer of an unknown command's arguments",
    ),
];

fn compare_of(command: &[Vec<u8>]) -> Compare {
    let name = String::from_utf8_lossy(&command[0]).to_lowercase();
    let second = command
        .get(1)
        .map(|word| String::from_utf8_lossy(word).to_lowercase());
    let both = format!("{name} {}", second.unwrap_or_default());
    DIFFERENCES
        .iter()
        .find(|(listed, ..)| *listed == name || *listed == both)
        .map_or(Compare::Bytes, |(_, compare, _)| *compare)
}

fn alike(compare: Compare, want: &[u8], got: &[u8]) -> bool {
    if want == got {
        return true;
    }
    match (compare, decode(want), decode(got)) {
        (
            Compare::Elements,
            want @ (Reply::Array(_) | Reply::Set(_)),
            got @ (Reply::Array(_) | Reply::Set(_)),
        ) => sorted(&want) == sorted(&got),
        (Compare::Kind, _, _) => want[0] == got[0],
        (Compare::Error(""), Reply::Error(_), Reply::Error(_)) => true,
        (Compare::Error(start), Reply::Error(want), Reply::Error(got)) => {
            want.starts_with(start) && got.starts_with(start)
        }
        (Compare::Within(apart), Reply::Int(want), Reply::Int(got)) => {
            want.signum() == got.signum() && (want - got).abs() <= apart
        }
        _ => false,
    }
}

/// All texts in a list, nested ones too, in order.
fn sorted(reply: &Reply) -> Vec<String> {
    let mut texts: Vec<String> = reply
        .items()
        .iter()
        .flat_map(|item| {
            if matches!(item, Reply::Array(_) | Reply::Set(_) | Reply::Map(_)) {
                sorted(item)
            } else {
                vec![item.text()]
            }
        })
        .collect();
    texts.sort();
    texts
}

/// DUMP payloads of the node's own version, to RESTORE later.
fn dumps(plain: &Node) -> Vec<Vec<u8>> {
    let mut client = plain.client_in(15);
    client.ask("SET s hello").expect_ok();
    client.ask("RPUSH l a b c");
    client.ask("HSET h a 1 b 2");
    client.ask("ZADD z 1 a 2.5 b");
    let payload = |client: &mut Client, key: &str| match client.call(&["DUMP", key]) {
        Reply::Bulk(bytes) => bytes,
        other => panic!("DUMP answered {other:?}"),
    };
    ["s", "l", "h", "z"].map(|key| payload(&mut client, key)).to_vec()
}

/// Sends the frames of a batch in chunks of random sizes.
fn send_chunked(client: &mut Client, bytes: &[u8], random: &mut fastrand::Rng) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let most = if random.u8(0..4) == 0 { 3 } else { 2000 };
        let (chunk, after) = rest.split_at(random.usize(1..=most).min(rest.len()));
        client.send(chunk);
        rest = after;
    }
}

/// All keys of a type, in order; or the error, which newer servers give for a type that they do not know.
fn scan_type(client: &mut Client, kind: &str) -> Vec<String> {
    let (mut found, mut cursor) = (Vec::new(), "0".to_owned());
    loop {
        let reply = client.call(&["SCAN", &cursor, "TYPE", kind, "COUNT", "50"]);
        if let Some(error) = reply.error() {
            return vec![error.to_owned()];
        }
        let page = reply.items();
        found.extend(sorted(&page[1]));
        cursor = page[0].text();
        if cursor == "0" {
            found.sort();
            found.dedup();
            return found;
        }
    }
}

fn difference(number: usize, command: &[Vec<u8>], want: &[u8], got: &[u8]) -> String {
    let shown: Vec<String> = command
        .iter()
        .map(|word| word.escape_ascii().to_string())
        .collect();
    format!(
        "command {number}: {}\n  Redis:    {:?}\n  preshard: {:?}",
        shown.join(" "),
        decode(want),
        decode(got)
    )
}

/// Runs one script on both sides, batch by batch.
fn compare_runs(database: u32, protocol: u8, tagged: bool) {
    if lacks("SINTERCARD and others that the script sends, and words of errors like these") {
        return;
    }
    let seed = seed() ^ (u64::from(database) << 8) ^ u64::from(protocol);
    let plain = Node::start();
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()]).start();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut generator = Generator {
        random: random.fork(),
        tagged,
        next_id: 0,
        dumps: dumps(&plain),
    };

    let (mut reference, mut tested) = (plain.client(), proxy.client());
    for client in [&mut reference, &mut tested] {
        client.limit = Duration::from_secs(20);
        client.call(&["HELLO", &protocol.to_string()]);
        client.call(&["SELECT", &database.to_string()]).expect_ok();
    }
    let (mut done, mut different) = (0, Vec::new());
    while done < COMMANDS && different.len() < 8 {
        let batch: Vec<Vec<Vec<u8>>> = (0..random.usize(1..120)).map(|_| generator.command()).collect();
        let bytes: Vec<u8> = batch.iter().flat_map(|command| frame(command)).collect();
        reference.send(&bytes);
        send_chunked(&mut tested, &bytes, &mut random);
        for command in &batch {
            let (want, got) = (reference.reply_bytes(), tested.reply_bytes());
            if !alike(compare_of(command), &want, &got) {
                different.push(difference(done, command, &want, &got));
            }
            done += 1;
        }
    }
    assert!(
        different.is_empty(),
        "seed {seed}, database {database}, RESP{protocol}:\n{}",
        different.join("\n")
    );
    let sizes = [&mut reference, &mut tested].map(|client| client.ask("DBSIZE").int());
    assert_eq!(sizes[0], sizes[1], "as many keys at the end");
    for pattern in ["*", "*[lu]?", "*\\{1}*", "nothing*", "*h[^1]"] {
        let found = [&mut reference, &mut tested].map(|client| sorted(&client.call(&["KEYS", pattern])));
        assert_eq!(found[0], found[1], "KEYS {pattern}");
    }
    for kind in ["string", "list", "set", "zset", "hash", "stream", "nosuch"] {
        let found = [&mut reference, &mut tested].map(|client| scan_type(client, kind));
        assert_eq!(found[0], found[1], "SCAN TYPE {kind}");
    }
    assert!(sizes[0] > 10, "the script left keys behind");
}

#[test]
fn the_sharded_database_answers_as_one_redis_in_resp2() {
    compare_runs(0, 2, true);
}

#[test]
fn the_sharded_database_answers_as_one_redis_in_resp3() {
    compare_runs(0, 3, true);
}

#[test]
fn a_pinned_database_answers_as_one_redis_in_resp2() {
    compare_runs(3, 2, false);
}

#[test]
fn a_pinned_database_answers_as_one_redis_in_resp3() {
    compare_runs(3, 3, false);
}

/// Runs conversations on both sides.
fn compare_conversations(database: u32, protocol: u8, tagged: bool) {
    let seed = seed() ^ (u64::from(database) << 8) ^ u64::from(protocol) ^ (1 << 20);
    let plain = Node::start();
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()]).start();
    let mut random = fastrand::Rng::with_seed(seed);
    let generator = Generator {
        random: random.fork(),
        tagged,
        next_id: 0,
        dumps: dumps(&plain),
    };
    let servers = (&plain, nodes.as_slice(), &proxy);
    let mut conversations = Conversations::new(servers, (database, protocol), generator, random);
    for _ in 0..CONVERSATIONS {
        conversations.talk();
        // What comes after many differences is only their consequence.
        if conversations.different.len() > 12 {
            break;
        }
    }
    assert!(
        conversations.different.is_empty(),
        "seed {seed}, database {database}, RESP{protocol}:\n{}",
        conversations.different.join("\n")
    );
    conversations.end();
}

#[test]
fn conversations_go_as_with_one_redis_in_the_sharded_database_in_resp2() {
    if lacks("commands that the conversations send")
        || left_out(&["valkey"], "discards a transaction at a MULTI inside it")
    {
        return;
    }
    compare_conversations(0, 2, true);
}

#[test]
fn conversations_go_as_with_one_redis_in_the_sharded_database_in_resp3() {
    if lacks("commands that the conversations send")
        || left_out(&["valkey"], "discards a transaction at a MULTI inside it")
    {
        return;
    }
    compare_conversations(0, 3, true);
}

#[test]
fn conversations_go_as_with_one_redis_in_a_pinned_database_in_resp2() {
    if lacks("commands that the conversations send")
        || left_out(&["valkey"], "discards a transaction at a MULTI inside it")
    {
        return;
    }
    compare_conversations(3, 2, false);
}

#[test]
fn conversations_go_as_with_one_redis_in_a_pinned_database_in_resp3() {
    if lacks("commands that the conversations send")
        || left_out(&["valkey"], "discards a transaction at a MULTI inside it")
    {
        return;
    }
    compare_conversations(3, 3, false);
}
