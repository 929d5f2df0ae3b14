//! The same script to one plain Redis and to preshard: byte-equal replies, or a difference that is listed here with its
//! reason.
//!
//! ```text
//!   generator (seed) ─▶ commands ─┬─▶ redis-server, one database ──▶ replies ─┐
//!                                 └─▶ preshard, batches and chunks ─▶ replies ─┴─▶ equal?
//! ```

use std::time::Duration;

use crate::harness::wire::{decode, frame};
use crate::harness::{Client, Node, Reply, Setup, seed};

const COMMANDS: usize = 8000;

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
        Compare::Within(1),
        "the two servers run the script at slightly different times",
    ),
    (
        "pttl",
        Compare::Within(60_000),
        "the two servers run the script at slightly different times",
    ),
    (
        "expiretime",
        Compare::Within(1),
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
    DIFFERENCES
        .iter()
        .find(|(listed, ..)| *listed == name)
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
            if matches!(item, Reply::Array(_) | Reply::Set(_)) {
                sorted(item)
            } else {
                vec![item.text()]
            }
        })
        .collect();
    texts.sort();
    texts
}

// === the generator ===

/// Makes commands over a small world of keys: the first letter after the tag is the type they usually have.
struct Generator {
    random: fastrand::Rng,
    /// Database 0: keys of one command share a tag. A pinned database: any keys.
    tagged: bool,
    next_id: u64,
    dumps: Vec<Vec<u8>>,
}

impl Generator {
    fn tag(&mut self) -> String {
        if self.tagged {
            format!("{{{}}}", self.random.u8(0..12))
        } else {
            String::new()
        }
    }

    /// A key of a type: s string, n number, l list, u set, h hash, z sorted set, y one with equal scores (else
    /// its order by name depends on chance), x stream, b bitmap, p HLL, g geo.
    fn key(&mut self, tag: &str, kind: char) -> String {
        // Now and then a key of another type: WRONGTYPE must look the same.
        let kind = if self.random.u8(0..16) == 0 && kind != 'y' {
            char::from(*self.random.choice(b"snluhzxbpg").unwrap())
        } else {
            kind
        };
        format!("{tag}{kind}{}", self.random.u8(0..4))
    }

    fn value(&mut self) -> String {
        match self.random.u8(0..12) {
            0 => String::new(),
            1 => "x".repeat(self.random.usize(0..3000)),
            2 => format!("with space \r\n and {}", self.random.u8(..)),
            3..=6 => self.random.i64(-50..1000).to_string(),
            7 => format!("{}.5", self.random.i16(-9..9)),
            _ => format!("v{}", self.random.u8(0..20)),
        }
    }

    fn member(&mut self) -> String {
        format!("m{}", self.random.u8(0..12))
    }

    fn number(&mut self) -> String {
        match self.random.u8(0..20) {
            0 => "notanumber".to_owned(),
            1 => "9223372036854775807".to_owned(),
            2 => "99999999999999999999".to_owned(),
            3 => "1.5".to_owned(),
            _ => self.random.i32(-20..20).to_string(),
        }
    }

    /// One placeholder of a template.
    fn fill(&mut self, word: &str, tag: &str) -> Vec<u8> {
        let text = match word {
            "%v" => self.value(),
            // Short: a hash keeps its order as long as it is small.
            "%w" => format!("w{}", self.random.i16(-99..99)),
            "%m" => self.member(),
            "%i" => self.number(),
            "%c" => self.random.u8(0..5).to_string(),
            "%f" => format!("{}.25", self.random.i16(-30..30)),
            "%bit" => self.random.u8(0..2).to_string(),
            "%off" => self.random.u16(0..300).to_string(),
            "%at" => (4_000_000_000_u64 + self.random.u64(0..1000)).to_string(),
            "%id" => {
                self.next_id += 1;
                format!("{}-{}", self.next_id, self.random.u8(0..3))
            }
            "%oldid" => format!("{}-0", self.random.u64(0..self.next_id + 2)),
            "%lon" => format!("{}.1{}", self.random.i16(-170..170), self.random.u8(..)),
            "%lat" => format!("{}.2{}", self.random.i16(-80..80), self.random.u8(..)),
            "%dump" => return self.random.choice(self.dumps.iter()).unwrap().clone(),
            _ => match word.strip_prefix("%k") {
                Some(kind) => self.key(tag, kind.chars().next().unwrap()),
                None => return self.any_case(word),
            },
        };
        text.into_bytes()
    }

    fn any_case(&mut self, word: &str) -> Vec<u8> {
        if self.random.u8(0..6) == 0 {
            word.to_lowercase().into_bytes()
        } else {
            word.as_bytes().to_vec()
        }
    }

    fn command(&mut self) -> Vec<Vec<u8>> {
        let (_, templates) = *self.random.choice(TEMPLATES).unwrap();
        let template = *self.random.choice(templates).unwrap();
        let tag = self.tag();
        let words: Vec<&str> = template.split(' ').collect();
        let mut command: Vec<Vec<u8>> = words.iter().map(|word| self.fill(word, &tag)).collect();
        match self.random.u8(0..60) {
            // Wrong arity, in both directions.
            0 if command.len() > 2 && !template.contains("RAND") && !template.starts_with("SPOP") => {
                command.pop();
            }
            1 => command.push(format!("{tag}extra").into_bytes()),
            _ => {}
        }
        command
    }
}

/// Templates by theme; `%kT` is a key of type T, the other words stand in `Generator::fill`.
const TEMPLATES: &[(&str, &[&str])] = &[
    (
        "strings",
        &[
            "SET %ks %v",
            "SET %kn %i",
            "SET %ks %v NX",
            "SET %ks %v XX GET",
            "SET %ks %v EXAT %at",
            "SET %ks %v KEEPTTL",
            "SET %ks %v EX 0",
            "SET %ks %v FOO",
            "GET %ks",
            "GET %kn",
            "GETDEL %ks",
            "GETEX %ks PERSIST",
            "GETEX %ks EXAT %at",
            "GETSET %ks %v",
            "SETNX %ks %v",
            "SETEX %ks 1000 %v",
            "PSETEX %ks 1000000 %v",
            "APPEND %ks %v",
            "STRLEN %ks",
            "INCR %kn",
            "DECR %kn",
            "INCRBY %kn %i",
            "DECRBY %kn %i",
            "INCRBYFLOAT %kn %f",
            "GETRANGE %ks %i %i",
            "SUBSTR %ks 0 2",
            "SETRANGE %ks %off %v",
            "LCS %ks %ks",
            "LCS %ks %ks LEN",
            "LCS %ks %ks IDX",
        ],
    ),
    (
        "split and whole-key",
        &[
            "MGET %ks %kn %ks",
            "MSET %ks %v %kn %i",
            "MSETNX %ks %v %ks %v",
            "DEL %ks",
            "DEL %kl %ku %kh",
            "UNLINK %kz %kx",
            "EXISTS %ks %ks %kl",
            "TOUCH %ks %kh",
            "TYPE %ks",
            "TYPE %kx",
            "RENAME %ks %ks",
            "RENAMENX %kl %kl",
            "COPY %kh %kh",
            "COPY %kz %kz REPLACE",
            "COPY %ks %ks",
            "DUMP %ks",
            "DUMP %kl",
            "RESTORE %ks 0 %dump",
            "RESTORE %kl 0 %dump REPLACE",
            "RESTORE %ks 0 garbage",
            "OBJECT ENCODING %ks",
            "OBJECT ENCODING %kl",
            "OBJECT ENCODING %kh",
            "OBJECT ENCODING %kz",
            "OBJECT REFCOUNT %kh",
            "OBJECT FREQ %ks",
            "OBJECT NOSUCH %ks",
        ],
    ),
    (
        "expiry",
        &[
            "EXPIRE %ks 1000",
            "EXPIRE %kl -1",
            "EXPIRE %kh 1x",
            "PEXPIRE %ks 1000000",
            "EXPIREAT %ks %at",
            "EXPIREAT %kh %at NX",
            "EXPIREAT %kz %at GT",
            "PEXPIREAT %ks 4000000000123",
            "TTL %ks",
            "TTL %kl",
            "PTTL %ks",
            "EXPIRETIME %ks",
            "PEXPIRETIME %ks",
            "PERSIST %ks",
            "PERSIST %kh",
        ],
    ),
    (
        "lists",
        &[
            "LPUSH %kl %v",
            "RPUSH %kl %v %v %v",
            "LPUSHX %kl %v",
            "RPUSHX %kl %v",
            "LPOP %kl",
            "RPOP %kl",
            "LPOP %kl %c",
            "RPOP %kl %i",
            "LLEN %kl",
            "LRANGE %kl %i %i",
            "LRANGE %kl 0 -1",
            "LINDEX %kl %i",
            "LSET %kl %i %v",
            "LREM %kl %i %v",
            "LTRIM %kl 0 30",
            "LINSERT %kl BEFORE %v %v",
            "LINSERT %kl SIDE %v %v",
            "LPOS %kl %v",
            "LPOS %kl %v COUNT %c",
            "LMOVE %kl %kl LEFT RIGHT",
            "RPOPLPUSH %kl %kl",
            "LMPOP 2 %kl %kl LEFT COUNT 2",
            "LMPOP 0 %kl LEFT",
            "LMPOP %i %kl LEFT",
        ],
    ),
    (
        "sets",
        &[
            "SADD %ku %m",
            "SADD %ku %m %m %m",
            "SADD %ku %c %c",
            "SREM %ku %m",
            "SCARD %ku",
            "SISMEMBER %ku %m",
            "SMISMEMBER %ku %m %m",
            "SMEMBERS %ku",
            "SINTER %ku %ku",
            "SUNION %ku %ku",
            "SDIFF %ku %ku",
            "SINTERSTORE %ku %ku %ku",
            "SUNIONSTORE %ku %ku %ku",
            "SDIFFSTORE %ku %ku %ku",
            "SINTERCARD 2 %ku %ku",
            "SINTERCARD 2 %ku %ku LIMIT 1",
            "SINTERCARD %i %ku",
            "SMOVE %ku %ku %m",
            "SSCAN %ku 0 COUNT 1000",
            "SSCAN %ku x",
            "SPOP %ku 0",
            "SRANDMEMBER %ku 0",
        ],
    ),
    (
        "hashes",
        &[
            "HSET %kh %m %w",
            "HSET %kh %m %w %m %i",
            "HSETNX %kh %m %w",
            "HGET %kh %m",
            "HMGET %kh %m %m",
            "HMSET %kh %m %w",
            "HDEL %kh %m %m",
            "HLEN %kh",
            "HEXISTS %kh %m",
            "HKEYS %kh",
            "HVALS %kh",
            "HGETALL %kh",
            "HINCRBY %kh %m %i",
            "HINCRBYFLOAT %kh %m %f",
            "HSTRLEN %kh %m",
            "HSCAN %kh 0 COUNT 1000",
            "HSCAN %kh 0 MATCH m1* COUNT 1000",
            "HRANDFIELD %kh 0",
        ],
    ),
    (
        "sorted sets",
        &[
            "ZADD %kz %f %m",
            "ZADD %kz %i %m %i %m",
            "ZADD %kz NX %f %m",
            "ZADD %kz GT CH %f %m",
            "ZADD %kz INCR %f %m",
            "ZADD %kz nan %m",
            "ZINCRBY %kz %f %m",
            "ZREM %kz %m",
            "ZCARD %kz",
            "ZSCORE %kz %m",
            "ZMSCORE %kz %m %m",
            "ZRANK %kz %m",
            "ZREVRANK %kz %m",
            "ZCOUNT %kz -inf +inf",
            "ZCOUNT %kz (1 5",
            "ZADD %ky 0 %m 0 %m",
            "ZADD %ky 0 %m",
            "ZLEXCOUNT %ky - +",
            "ZRANGE %kz 0 -1",
            "ZRANGE %kz 0 -1 WITHSCORES",
            "ZRANGE %kz -inf +inf BYSCORE LIMIT 0 5",
            "ZRANGE %ky - + BYLEX",
            "ZREVRANGE %kz 0 3 WITHSCORES",
            "ZRANGEBYSCORE %kz -inf 5 WITHSCORES",
            "ZREVRANGEBYSCORE %kz 10 -10",
            "ZRANGEBYLEX %ky [m1 [m5",
            "ZREVRANGEBYLEX %ky + -",
            "ZREMRANGEBYSCORE %kz 5 7",
            "ZREMRANGEBYRANK %kz 8 9",
            "ZREMRANGEBYLEX %ky [m9 [m91",
            "ZPOPMIN %kz",
            "ZPOPMAX %kz %c",
            "ZUNIONSTORE %kz 2 %kz %kz WEIGHTS 1 2",
            "ZINTERSTORE %kz 2 %kz %kz AGGREGATE MAX",
            "ZDIFFSTORE %kz 2 %kz %kz",
            "ZUNION 2 %kz %kz WITHSCORES",
            "ZINTER 2 %kz %kz",
            "ZDIFF 2 %kz %kz",
            "ZINTERCARD 2 %kz %kz",
            "ZRANGESTORE %kz %kz 0 3",
            "ZUNIONSTORE %kz 2147483647 %kz",
            "ZUNION 0 %kz",
            "ZMPOP 1 %kz MIN COUNT 2",
            "ZSCAN %kz 0 COUNT 1000",
            "ZRANDMEMBER %kz 0",
        ],
    ),
    (
        "streams",
        &[
            "XADD %kx %id a %v",
            "XADD %kx MAXLEN 20 %id a %v b %i",
            "XADD %kx NOMKSTREAM %id a 1",
            "XADD %kx %oldid a 1",
            "XLEN %kx",
            "XRANGE %kx - +",
            "XRANGE %kx %oldid + COUNT 2",
            "XREVRANGE %kx + - COUNT 3",
            "XDEL %kx %oldid",
            "XTRIM %kx MAXLEN 10",
            "XREAD COUNT 2 STREAMS %kx 0",
            "XREAD STREAMS %kx %kx 0 %oldid",
            "XREAD COUNT 1 STREAMS %kx",
            "XGROUP CREATE %kx g1 0",
            "XGROUP CREATE %kx g2 $ MKSTREAM",
            "XGROUP DESTROY %kx g2",
            "XGROUP NOSUCH %kx g",
            "XREADGROUP GROUP g1 c1 COUNT 2 STREAMS %kx >",
            "XREADGROUP GROUP g1 c2 STREAMS %kx 0",
            "XACK %kx g1 %oldid",
            "XPENDING %kx g1",
            "XSETID %kx 900000-0",
            "XGROUP CREATECONSUMER %kx g1 c3",
            "XGROUP DELCONSUMER %kx g1 c3",
        ],
    ),
    (
        "bits, HLL, geo",
        &[
            "SETBIT %kb %off %bit",
            "GETBIT %kb %off",
            "BITCOUNT %kb",
            "BITCOUNT %kb 0 3 BIT",
            "BITPOS %kb 1",
            "BITOP OR %kb %kb %kb",
            "BITOP NOT %kb %kb",
            "BITFIELD %kb SET u8 #1 77 INCRBY i5 10 3",
            "BITFIELD %kb OVERFLOW FAIL INCRBY u2 0 3",
            "BITFIELD_RO %kb GET u8 0",
            "PFADD %kp %v %v",
            "PFCOUNT %kp",
            "PFCOUNT %kp %kp",
            "PFMERGE %kp %kp %kp",
            "GEOADD %kg %lon %lat %m",
            "GEOPOS %kg %m",
            "GEODIST %kg m1 m2 km",
            "GEOHASH %kg %m",
            "GEOSEARCH %kg FROMMEMBER m1 BYRADIUS 5000 km ASC",
            "GEOSEARCH %kg FROMLONLAT 10 10 BYBOX 9000 9000 km ASC WITHCOORD WITHDIST",
            "GEOSEARCHSTORE %kg %kg FROMLONLAT 10 10 BYRADIUS 9000 km ASC",
            "GEORADIUS_RO %kg 0 0 4000 km ASC",
        ],
    ),
    (
        "sort",
        &[
            "SORT %kl ALPHA",
            "SORT %kl",
            "SORT %ku ALPHA LIMIT 0 3",
            "SORT %kz ALPHA DESC",
            "SORT %kl ALPHA STORE %kl",
            "SORT_RO %ku ALPHA",
        ],
    ),
    (
        "errors and the rest",
        &[
            "NOSUCHCOMMAND %ks %v",
            "GET",
            "SET %ks",
            "PING %v",
            "ECHO %v",
            "PING",
            "HGET %kh",
            "XADD %kx",
            "OBJECT",
            "MEMORY",
            "ECHO",
        ],
    ),
];

// === running it ===

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

/// All keys of a type, in order.
fn scan_type(client: &mut Client, kind: &str) -> Vec<String> {
    let (mut found, mut cursor) = (Vec::new(), "0".to_owned());
    loop {
        let page = client
            .call(&["SCAN", &cursor, "TYPE", kind, "COUNT", "50"])
            .items();
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
