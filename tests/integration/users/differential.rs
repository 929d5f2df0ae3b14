//! The same rules on one Redis (`ACL SETUSER`) and in preshard, the same commands: byte-equal replies, or a difference that
//! is listed with its reason.

use crate::harness::wire::{Reply, decode};
use crate::harness::{Client, Node, Setup, left_out, seed};

/// Users: name, ACL words about commands, key patterns, channel patterns. None: all.
type Row = (
    &'static str,
    &'static str,
    Option<&'static str>,
    Option<&'static str>,
);

const USERS: &[Row] = &[
    ("all", "+@all", None, None),
    ("reader", "+@read +@connection -keys", None, None),
    ("keyed", "+@all -@scripting -@dangerous", Some("a:* x?"), None),
    ("wide", "+@all -@scripting", Some("a:* b:[12] x?"), Some("n.*")),
    ("heard", "+@all -@scripting", None, Some("n.* *.m")),
    (
        "few",
        "+get +set +select +multi +exec +config|get +acl|whoami +object|encoding",
        Some("*"),
        Some("*"),
    ),
    (
        "most",
        "+@all -@write +set +del -config +config|get -client|kill -exec",
        None,
        Some("n.*"),
    ),
    ("nobody", "+select", Some("nothing"), Some("nothing")),
];

const KEYS: [&str; 6] = ["a:1", "a:2", "b:1", "b:3", "x1", "other"];
const CHANNELS: [&str; 5] = ["n.1", "n.*", "o.m", "other", "*.m"];

/// Commands; K is a key, C a channel.
const COMMANDS: &str = "\
GET K|SET K 1|SET K 2 GET|MGET K K|MSET K 1 K 2|MSETNX K 1 K 2|DEL K K|UNLINK K|EXISTS K K|TOUCH K|TYPE K|TTL K|EXPIRE K 100|\
PERSIST K|INCR K|DECRBY K 2|APPEND K 1|STRLEN K|GETRANGE K 0 1|SETRANGE K 0 1|GETDEL K|GETEX K|RENAME K K|COPY K K|\
RENAMENX K K|OBJECT ENCODING K|OBJECT HELP|DUMP K|LPUSH K 1|RPUSH K 1|LPOP K|LRANGE K 0 -1|LLEN K|LMOVE K K LEFT RIGHT|\
LMPOP 2 K K LEFT|LMPOP 1 K RIGHT COUNT 2|RPOPLPUSH K K|SADD K 1|SREM K 1|SISMEMBER K 1|SINTER K K|SINTERSTORE K K K|\
SINTERCARD 2 K K|SUNION K|SMOVE K K 1|HSET K f 1|HGET K f|HDEL K f|HLEN K|HINCRBY K f 1|ZADD K 1 m|ZRANGE K 0 -1|ZSCORE K m|\
ZUNIONSTORE K 2 K K|ZUNION 2 K K|ZDIFFSTORE K 1 K|ZMPOP 1 K MIN|ZINTERCARD 2 K K|ZRANGESTORE K K 0 -1|PFADD K a|PFCOUNT K K|\
PFMERGE K K|SETBIT K 1 1|GETBIT K 1|BITCOUNT K|BITOP AND K K K|BITFIELD K GET u8 0|BITFIELD_RO K GET u8 0|GEOADD K 1 1 m|\
GEODIST K m m|GEOSEARCHSTORE K K FROMLONLAT 1 1 BYRADIUS 1 m|GEORADIUS K 1 1 1 m STORE K|GEORADIUS_RO K 1 1 1 m|XADD K 1-1 f v|\
XLEN K|XRANGE K - +|XREAD STREAMS K K 0 0|XREAD COUNT 1 STREAMS K 0|XGROUP CREATE K g 0|XINFO STREAM K|XREADGROUP GROUP g c STREAMS K >|\
XACK K g 1-1|XTRIM K MAXLEN 5|SORT K|SORT K BY nosort|SORT K BY w_*|SORT K GET #|SORT K LIMIT 0 1 BY w_* GET K|SORT K STORE K|\
SORT_RO K GET w_*|SCAN 0 COUNT 1000 MATCH nothing|KEYS nothing|DBSIZE|RANDOMKEY|PING|PING a|ECHO a|SELECT 1|CLIENT GETNAME|\
CLIENT SETNAME me|CLIENT NO-EVICT ON|CLIENT KILL ID 99999999|CLIENT KILL USER nosuch|CLIENT TRACKINGINFO|CLIENT UNBLOCK 99999999|\
COMMAND GETKEYS GET K|CONFIG GET databases-none|ACL WHOAMI|ACL DRYRUN keyed GET K|ACL DRYRUN few SET K|\
ACL DRYRUN wide MGET K K|ACL DRYRUN heard PUBLISH C m|ACL DRYRUN nosuch GET K|ACL DRYRUN few GET|ACL DRYRUN few NOSUCH|\
ACL DRYRUN most CLIENT KILL ID 3|ACL DRYRUN nobody GET K|ACL DRYRUN all GET K|ACL USERS a|ACL GETUSER nosuch|\
WATCH K|UNWATCH|DISCARD|EXEC|SUBSCRIBE|PUBLISH C|PUBLISH C m|SPUBLISH C m|GET|SET K|EVAL_RO|FLUSHDB WRONG|\
WAIT 0 0|SLOWLOG LEN a|MEMORY USAGE K|LCS K K|BLPOP K K 0.01|BLMOVE K K LEFT LEFT 0.01|BZPOPMIN K 0.01|READONLY|\
BLMPOP 0.01 2 K K LEFT|SUBSTR K 0 1|HELLO 9|AUTH|EXPIRETIME K|HRANDFIELD K|SRANDMEMBER K 0|ZRANDMEMBER K 0";

/// Listed differences, beside what preshard refuses to everybody: how the request begins, and why the reply is another one.
/// That it is refused or not is compared all the same.
const DIFFERENCES: &[(&str, &str)] = &[
    ("OBJECT HELP", "the texts are those of the command table"),
    ("RANDOMKEY", "by chance"),
];

const ROUNDS: usize = 700;

fn login(client: &mut Client, name: &str) {
    assert_eq!(client.ask(&format!("AUTH {name} pw-{name}")).text(), "OK");
    assert_eq!(client.ask("SELECT 1").text(), "OK");
}

fn setup(setup: Setup) -> Setup {
    let list = |words: &str| {
        let quoted: Vec<String> = words.split_whitespace().map(|word| format!("{word:?}")).collect();
        quoted.join(", ")
    };
    USERS.iter().fold(setup, |setup, (name, words, keys, channels)| {
        let mut lines = format!("commands = [{}]\n", list(words));
        // Without a list of channels, one of keys would mean none.
        for (field, patterns) in [("keys", keys), ("channels", &channels.or(keys.map(|_| "*")))] {
            if let Some(patterns) = patterns {
                lines.push_str(&format!("{field} = [{}]\n", list(patterns)));
            }
        }
        setup.user(name, &format!("pw-{name}"), &lines)
    })
}

fn set_users(client: &mut Client) {
    for (name, words, keys, channels) in USERS {
        let mut line = format!("ACL SETUSER {name} on >pw-{name} {words}");
        keys.unwrap_or("*")
            .split(' ')
            .for_each(|pattern| line.push_str(&format!(" ~{pattern}")));
        channels
            .unwrap_or("*")
            .split(' ')
            .for_each(|pattern| line.push_str(&format!(" &{pattern}")));
        assert_eq!(client.ask(&line).text(), "OK", "{line}");
    }
}

/// A request by chance.
fn request(random: &mut fastrand::Rng) -> String {
    let templates: Vec<&str> = COMMANDS.split('|').map(str::trim).collect();
    let template = random.choice(&templates).unwrap();
    let words: Vec<String> = template
        .split(' ')
        .map(|word| match word {
            "K" => random.choice(KEYS).unwrap().to_owned(),
            "C" => random.choice(CHANNELS).unwrap().to_owned(),
            word => word.to_owned(),
        })
        .collect();
    words.join(" ")
}

#[test]
fn rules_allow_and_refuse_what_they_do_in_redis() {
    if left_out(
        &["redis 5", "redis 6", "redis 8", "valkey"],
        "words its refusals otherwise",
    ) {
        return;
    }
    let (node, plain) = (Node::start(), Node::start());
    let proxy = setup(Setup::of(&[node.address()])).start();
    set_users(&mut plain.client());
    let mut random = fastrand::Rng::with_seed(seed());
    let (mut compared, mut refused) = (0, 0);
    let mut different = Vec::new();
    for (name, ..) in USERS {
        let (mut here, mut there) = (proxy.client(), plain.client());
        login(&mut here, name);
        login(&mut there, name);
        for _ in 0..ROUNDS {
            let line = request(&mut random);
            let words: Vec<&str> = line.split(' ').collect();
            here.command(&words);
            there.command(&words);
            let (found, expected) = (here.reply_bytes(), there.reply_bytes());
            if found.starts_with(b"-ERR unknown command") {
                continue;
            }
            compared += 1;
            refused += usize::from(expected.starts_with(b"-NOPERM"));
            let alike = if DIFFERENCES.iter().any(|(begins, _)| line.starts_with(begins)) {
                found.starts_with(b"-NOPERM") == expected.starts_with(b"-NOPERM")
            } else {
                found == expected || elements(&found) == elements(&expected)
            };
            if !alike {
                different.push(format!(
                    "{name}: {line}\n  Redis:    {:?}\n  preshard: {:?}\n",
                    String::from_utf8_lossy(&expected),
                    String::from_utf8_lossy(&found)
                ));
            }
        }
    }
    assert!(
        different.is_empty(),
        "{} differ, the first of them:\n{}",
        different.len(),
        different[..different.len().min(20)].concat()
    );
    println!("{compared} compared, {refused} refused by both");
    assert!(
        compared > ROUNDS * USERS.len() / 2 && refused > ROUNDS,
        "{compared} {refused}"
    );
}

/// Sets have no order.
fn elements(reply: &[u8]) -> Vec<String> {
    let mut elements = match decode(reply) {
        Reply::Array(elements) => elements.iter().map(|element| format!("{element:?}")).collect(),
        other => vec![format!("{other:?}")],
    };
    elements.sort();
    elements
}

#[test]
fn transactions_end_as_in_redis() {
    if left_out(
        &["redis 5", "redis 6", "redis 8", "valkey"],
        "words its refusals otherwise",
    ) {
        return;
    }
    let (node, plain) = (Node::start(), Node::start());
    let proxy = setup(Setup::of(&[node.address()])).start();
    set_users(&mut plain.client());
    let mut random = fastrand::Rng::with_seed(seed());
    let commands = [
        "SET K 1", "GET K", "MGET K K", "DEL K K", "INCR K", "NOSUCH", "GET", "LLEN K", "PING", "WATCH K",
        "MULTI",
    ];
    for (name, ..) in USERS {
        let (mut here, mut there) = (proxy.client(), plain.client());
        login(&mut here, name);
        login(&mut there, name);
        for _ in 0..100 {
            let inner: Vec<&str> = (0..random.usize(0..5))
                .map(|_| commands[random.usize(0..commands.len())])
                .collect();
            let first = if random.bool() { "WATCH K" } else { "PING" };
            let last = if random.bool() { "EXEC" } else { "DISCARD" };
            let lines = [&[first, "MULTI"][..], &inner, &[last, "PING"]].concat();
            for line in lines {
                let line = line.replace('K', random.choice(KEYS).unwrap());
                let (found, expected) = (here.ask(&line), there.ask(&line));
                let unknown = expected
                    .error()
                    .is_some_and(|line| line.starts_with("ERR unknown"));
                assert!(
                    found == expected || unknown,
                    "{name}: {line}\n{expected:?}\n{found:?}"
                );
            }
        }
    }
}

#[test]
fn subscriptions_are_refused_as_in_redis() {
    if left_out(
        &["redis 5", "redis 6", "redis 8", "valkey"],
        "words its refusals otherwise",
    ) {
        return;
    }
    let (node, plain) = (Node::start(), Node::start());
    let proxy = setup(Setup::of(&[node.address()])).start();
    set_users(&mut plain.client());
    for (name, ..) in USERS {
        for verb in ["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"] {
            for channel in CHANNELS {
                let (mut here, mut there) = (proxy.client(), plain.client());
                login(&mut here, name);
                login(&mut there, name);
                let line = format!("{verb} {channel}");
                let (found, expected) = (here.ask(&line), there.ask(&line));
                assert_eq!(found, expected, "{name}: {line}");
            }
        }
    }
}
