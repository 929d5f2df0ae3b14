//! Conversations: transactions, waits, messages, scripts. Two clients on either side say the same, step by step.

use super::script::Generator;
use super::{Compare, alike, compare_of, difference};
use crate::harness::wire::{ReplyScan, decode, frame};
use crate::harness::{Client, Node, PATIENCE, Proxy, Reply, wait_until};

/// Commands that are not queued: preshard looks at their keys when they are queued, Redis when they run; and some take
/// an argument more on a newer server, which preshard lets the node say. Their replies would differ in time, not in
/// substance (docs/DIFFERENCES.md).
const NOT_QUEUED: &[&str] = &[
    "lmpop",
    "zmpop",
    "xread",
    "xreadgroup",
    "zunion",
    "zinter",
    "zdiff",
    "zunionstore",
    "zinterstore",
    "zdiffstore",
    "sintercard",
    "zintercard",
    "mset",
    "msetnx",
    "zrank",
    "zrevrank",
    "sort",
    "sort_ro",
    "nosuchcommand",
];

/// The same client on both sides.
struct Pair {
    plain: Client,
    tested: Client,
}

/// Both servers, and all that differed.
pub(super) struct Conversations<'a> {
    plain: &'a Node,
    nodes: &'a [Node],
    database: u32,
    protocol: u8,
    main: Pair,
    other: Pair,
    generator: Generator,
    random: fastrand::Rng,
    said: usize,
    pub(super) different: Vec<String>,
}

impl Pair {
    fn connect(plain: &Node, proxy: &Proxy, database: u32, protocol: u8) -> Self {
        let mut pair = Self {
            plain: plain.client(),
            tested: proxy.client(),
        };
        for client in [&mut pair.plain, &mut pair.tested] {
            client.call(&["HELLO", &protocol.to_string()]);
            client.call(&["SELECT", &database.to_string()]).expect_ok();
        }
        pair
    }

    fn send(&mut self, command: &[Vec<u8>]) {
        let bytes = frame(command);
        self.plain.send(&bytes);
        self.tested.send(&bytes);
    }
}

fn words(line: &str) -> Vec<Vec<u8>> {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

/// The raw elements of an array.
fn elements(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let end = memchr::memmem::find(bytes, b"\r\n")? + 2;
    let count: usize = std::str::from_utf8(&bytes[1..end - 2]).ok()?.parse().ok()?;
    let mut at = end;
    (0..count)
        .map(|_| {
            let length = ReplyScan::default().end(&bytes[at..])?;
            at += length;
            Some(&bytes[at - length..at])
        })
        .collect()
}

impl<'a> Conversations<'a> {
    pub(super) fn new(
        (plain, nodes, proxy): (&'a Node, &'a [Node], &Proxy),
        (database, protocol): (u32, u8),
        generator: Generator,
        random: fastrand::Rng,
    ) -> Self {
        let pair = || Pair::connect(plain, proxy, database, protocol);
        let (main, other) = (pair(), pair());
        Self {
            plain,
            nodes,
            database,
            protocol,
            main,
            other,
            generator,
            random,
            said: 0,
            different: Vec::new(),
        }
    }

    /// One conversation, chosen by chance.
    pub(super) fn talk(&mut self) {
        match self.random.u8(0..10) {
            0..=2 => self.transaction(false),
            3..=4 => self.transaction(true),
            5..=6 => self.wait(),
            7 => self.messages(),
            8 => self.scripts(),
            9 if self.random.bool() => self.fields_and_patterns(),
            _ => self.about_itself(),
        }
    }

    fn compare(&mut self, command: &[Vec<u8>], compare: Compare, want: &[u8], got: &[u8]) {
        self.said += 1;
        if !alike(compare, want, got) {
            self.different.push(difference(self.said, command, want, got));
        }
    }

    /// The main client says something: its reply on both sides.
    fn say(&mut self, command: &[Vec<u8>]) {
        self.main.send(command);
        let (want, got) = (self.main.plain.reply_bytes(), self.main.tested.reply_bytes());
        self.compare(command, compare_of(command), &want, &got);
    }

    fn say_line(&mut self, line: &str) {
        self.say(&words(line));
    }

    /// The other client does.
    fn other_says(&mut self, line: &str) {
        let command = words(line);
        self.other.send(&command);
        let (want, got) = (self.other.plain.reply_bytes(), self.other.tested.reply_bytes());
        self.compare(&command, compare_of(&command), &want, &got);
    }

    /// Something comes to the main client without its asking.
    fn hears(&mut self, what: &str) {
        let (want, got) = (self.main.plain.reply_bytes(), self.main.tested.reply_bytes());
        self.compare(&words(what), Compare::Bytes, &want, &got);
    }

    fn transaction(&mut self, watched: bool) {
        let tag = self.generator.tag();
        let mut disturbed = false;
        if watched {
            self.say_line(&format!("WATCH {tag}s0 {tag}l1"));
            match self.random.u8(0..5) {
                0 => self.other_says(&format!("SET {tag}s0 other")),
                1 => self.other_says(&format!("SET {tag}s1 other")),
                2 => self.say_line(&format!("APPEND {tag}s0 own")),
                3 => {
                    self.say_line("UNWATCH");
                    self.other_says(&format!("SET {tag}s0 other"));
                }
                _ => disturbed = true,
            }
            if disturbed {
                self.say_line(&format!("WATCH {tag}n0"));
                self.other_says(&format!("INCRBY {tag}n0 3"));
            }
        }
        self.say_line("MULTI");
        let mut queued = Vec::new();
        for _ in 0..self.random.usize(0..7) {
            let command = match self.random.u8(0..12) {
                0 => words("MULTI"),
                1 if !watched => words(&format!("WATCH {tag}s0")),
                2 => words(&format!(
                    "EVAL return{{KEYS[1],redis.call('get',KEYS[1])}} 1 {tag}s0"
                )),
                _ => self.generator.command_of(&tag),
            };
            let name = String::from_utf8_lossy(&command[0]).to_lowercase();
            if NOT_QUEUED.contains(&name.as_str()) {
                continue;
            }
            self.main.send(&command);
            let (want, got) = (self.main.plain.reply_bytes(), self.main.tested.reply_bytes());
            self.compare(&command, compare_of(&command), &want, &got);
            if want == b"+QUEUED\r\n" {
                queued.push(command);
            }
        }
        if self.random.u8(0..6) == 0 {
            self.say_line("DISCARD");
        } else {
            self.exec(&queued);
        }
        self.say_line("EXEC");
    }

    /// `EXEC`: element by element as the commands are compared.
    fn exec(&mut self, queued: &[Vec<Vec<u8>>]) {
        let exec = words("EXEC");
        self.main.send(&exec);
        let (want, got) = (self.main.plain.reply_bytes(), self.main.tested.reply_bytes());
        let (Some(wanted), Some(found)) = (elements(&want), elements(&got)) else {
            self.compare(&exec, Compare::Bytes, &want, &got);
            return;
        };
        if wanted.len() != queued.len() || found.len() != queued.len() {
            self.compare(&exec, Compare::Bytes, &want, &got);
            return;
        }
        for ((command, want), got) in queued.iter().zip(wanted).zip(found) {
            self.compare(command, compare_of(command), want, got);
        }
    }

    /// A command that waits: for what is there, for nothing, or for what the other client brings.
    fn wait(&mut self) {
        let tag = self.generator.tag();
        self.say_line(&format!("DEL {tag}wl {tag}wm {tag}wz {tag}wx"));
        self.say_line(&format!("XADD {tag}wx 1-1 f v"));
        self.say_line(&format!("XGROUP CREATE {tag}wx g $"));
        let (command, push) = *self
            .random
            .choice(
                [
                    ("BLPOP %wl %wm T", "RPUSH %wm a b"),
                    ("BRPOP %wl %wm T", "RPUSH %wm a b"),
                    ("BLMOVE %wl %wm LEFT RIGHT T", "RPUSH %wl a b"),
                    ("BRPOPLPUSH %wl %wm T", "RPUSH %wl a b"),
                    ("BLMPOP T 2 %wl %wm LEFT COUNT 2", "LPUSH %wl a b"),
                    ("BZPOPMIN %wz T", "ZADD %wz 1 a 2 b"),
                    ("BZPOPMAX %wz T", "ZADD %wz 1 a 2 b"),
                    ("BZMPOP T 1 %wz MIN COUNT 5", "ZADD %wz 1 a 2 b"),
                    ("XREAD BLOCK M COUNT 1 STREAMS %wx $", "XADD %wx 5-1 f w"),
                    ("XREADGROUP GROUP g c BLOCK M STREAMS %wx >", "XADD %wx 5-1 f w"),
                    ("BLPOP %wl -1", "PING"),
                    ("BLPOP %wl x", "PING"),
                    ("BLPOP %s0 T", "RPUSH %s0 a"),
                ]
                .iter(),
            )
            .unwrap();
        let of = |line: &str, seconds: &str| {
            let mut command = words(&line.replace('%', &tag));
            for word in &mut command {
                match word.as_slice() {
                    b"T" => *word = seconds.as_bytes().to_vec(),
                    b"M" => {
                        *word = if seconds == "0" {
                            b"0".to_vec()
                        } else {
                            b"20".to_vec()
                        }
                    }
                    _ => {}
                }
            }
            command
        };
        self.say_line(&format!("SET {tag}s0 string"));
        match self.random.u8(0..3) {
            0 => {
                self.other_says(&push.replace('%', &tag));
                self.say(&of(command, "0.02"));
            }
            1 => self.say(&of(command, "0.02")),
            _ if command.contains("%s0") || push == "PING" => self.say(&of(command, "0.02")),
            _ => {
                let command = of(command, "0");
                self.main.send(&command);
                wait_until("both wait", PATIENCE, || {
                    let on_nodes: u64 = self.nodes.iter().map(|node| node.info("blocked_clients")).sum();
                    on_nodes == 1 && self.plain.info("blocked_clients") == 1
                });
                self.other_says(&push.replace('%', &tag));
                self.hears(&String::from_utf8_lossy(&command.join(&b' ')));
            }
        }
        self.say_line(&format!("LRANGE {tag}wm 0 -1"));
    }

    /// Subscriptions, what is allowed meanwhile, messages, the end of it.
    fn messages(&mut self) {
        let number = self.random.u8(0..4);
        self.say_line(&format!("SUBSCRIBE news{number}"));
        self.other_says(&format!("PUBLISH news{number} hello"));
        self.hears("a message");
        if self.random.bool() {
            self.say_line("PSUBSCRIBE n?ws*");
            self.other_says("PUBLISH news9 pattern");
            self.hears("a message of a pattern");
        }
        for line in [
            "PING",
            "PING again",
            "GET a",
            "SUBSCRIBE",
            "MULTI",
            "PUBSUB NUMSUB news0 news1",
            "NOSUCH",
        ] {
            if self.random.bool() && !(self.protocol == 3 && (line == "MULTI" || line == "NOSUCH")) {
                self.say_line(line);
            }
        }
        self.say_line("SUBSCRIBE second");
        self.say_line(&format!("UNSUBSCRIBE news{number}"));
        self.say_line("UNSUBSCRIBE never");
        let payload = if self.random.bool() { "x" } else { "longer" };
        self.other_says(&format!("PUBLISH news{number} {payload}"));
        // The pattern may have heard that: it is let go of, and what came before is read.
        self.say_line("UNSUBSCRIBE");
        self.main.send(&words("PUNSUBSCRIBE"));
        let patterns = |client: &mut Client| {
            let mut heard = Vec::new();
            loop {
                let reply = client.reply_bytes();
                let done = memchr::memmem::find(&reply, b"punsubscribe").is_some();
                heard.push(reply);
                if done {
                    return heard;
                }
            }
        };
        let (mut want, mut got) = (patterns(&mut self.main.plain), patterns(&mut self.main.tested));
        // A message of the pattern may come before or behind the confirmation of another channel.
        want.sort();
        got.sort();
        self.compare(
            &words("PUNSUBSCRIBE"),
            Compare::Bytes,
            &want.concat(),
            &got.concat(),
        );
        self.say_line("PING");
        self.other_says("PUBLISH second nobody");
    }

    fn scripts(&mut self) {
        let tag = self.generator.tag();
        let bodies = [
            "return redis.call('GET',KEYS[1])",
            "return{1,2.9,'x',true,false,{3,'y'}}",
            "return redis.error_reply('MY mistake')",
            "return redis.status_reply('FINE')",
            "return redis.call('INCR',KEYS[1])",
            "return redis.pcall('LPUSH',KEYS[1],ARGV[1])",
            "redis.setresp(3);return redis.call('HGETALL',KEYS[2])",
            "return nosuchvariable",
            "return redis.call('NOSUCH')",
            "syntax error here",
            "return #KEYS+#ARGV",
            "return tostring(redis.call('LRANGE',KEYS[2],0,-1)[1])",
        ];
        let body = (*self.random.choice(&bodies).unwrap()).to_owned();
        let spaced = body.replace("syntax error here", "syntax\terror").into_bytes();
        let keys = format!("2 {tag}n0 {tag}h1 argument");
        let call = |name: &str, what: &[u8]| {
            let mut command = vec![name.as_bytes().to_vec(), what.to_vec()];
            command.extend(words(&keys));
            command
        };
        self.say(&call("EVAL", &spaced));
        self.say(&call("EVAL_RO", &spaced));
        self.say(&[b"SCRIPT".to_vec(), b"LOAD".to_vec(), spaced]);
        self.say(&call("EVALSHA", b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db"));
        self.say_line("SCRIPT EXISTS e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0000");
        self.say(&[
            b"EVALSHA".to_vec(),
            b"short".to_vec(),
            b"1".to_vec(),
            tag.clone().into_bytes(),
        ]);
        let library = b"#!lua name=both\nredis.register_function('both_get',function(k,a) return {k[1],a[1]} end)\n\
            redis.register_function{function_name='both_ro',callback=function(k) return redis.call('GET',k[1]) end,flags={'no-writes'}}";
        let function = |words: &[&[u8]]| -> Vec<Vec<u8>> { words.iter().map(|word| word.to_vec()).collect() };
        self.say(&function(&[b"FUNCTION", b"LOAD", b"REPLACE", library]));
        if self.random.bool() {
            self.say(&function(&[b"FUNCTION", b"LOAD", library]));
        }
        self.say_line(&format!("FCALL both_get 1 {tag}s0 argument"));
        self.say_line(&format!("FCALL_RO both_ro 1 {tag}s0"));
        self.say_line(&format!("FCALL_RO both_get 1 {tag}s0 x"));
        self.say_line(&format!("FCALL nosuch 1 {tag}s0"));
        self.say_line(&format!("FCALL both_get x {tag}s0"));
        self.say_line("FUNCTION LIST LIBRARYNAME bot?");
        self.say_line("FUNCTION DELETE both");
        self.say_line("FUNCTION DELETE both");
    }

    /// What a client can say and ask about its own connection.
    fn about_itself(&mut self) {
        for line in [
            "CLIENT SETNAME both",
            "CLIENT GETNAME",
            "CLIENT SETNAME with\nbreak",
            "CLIENT ID",
            "CLIENT INFO",
            "CLIENT NO-EVICT on",
            "CLIENT NO-EVICT maybe",
            "CLIENT UNBLOCK 999999",
            "CLIENT KILL ID 999999",
            "CLIENT KILL nobody:1",
            "CLIENT LIST TYPE nosuch",
            "CLIENT LIST ID 999999",
            "CLIENT NOSUCH",
            "CLIENT",
            "CLIENT GETREDIR",
        ] {
            if self.random.bool() {
                self.say_line(line);
            }
        }
        if self.random.u8(0..3) == 0 {
            if self.random.bool() {
                self.say_line("MULTI");
            }
            self.say_line("RESET");
            self.say_line("PING");
            self.say_line("CLIENT GETNAME");
            self.main.send(&words(&format!("HELLO {}", self.protocol)));
            let hello = [self.main.plain.reply(), self.main.tested.reply()];
            assert_eq!(hello[0].field("proto"), hello[1].field("proto"));
            self.say_line(&format!("SELECT {}", self.database));
        }
    }

    /// Fields that expire, where the server has them; keys that only a pattern names, where preshard takes them.
    fn fields_and_patterns(&mut self) {
        let tag = self.generator.tag();
        let known = self.plain.client().ask("COMMAND INFO HEXPIRE").items();
        if known.first().is_some_and(|command| *command != Reply::Null) {
            self.say_line(&format!("DEL {tag}fh"));
            self.say_line(&format!("HSET {tag}fh a 1 b 2 c 3"));
            for line in [
                "HEXPIRE %fh 1000 FIELDS 2 a nosuch",
                "HEXPIRE %fh 1000 NX FIELDS 1 a",
                "HPEXPIRE %fh 1000000 FIELDS 1 b",
                "HEXPIREAT %fh 4000000000 FIELDS 1 c",
                "HEXPIRETIME %fh FIELDS 2 c nosuch",
                "HPERSIST %fh FIELDS 2 a c",
                "HTTL %fh FIELDS 2 a nosuch",
                "HEXPIRE %fh 0 FIELDS 1 a",
                "HEXPIRE %fh 10 FIELDS 3 a",
                "HGETALL %fh",
            ] {
                self.say_line(&line.replace('%', &tag));
            }
        }
        if self.database == 0 {
            return;
        }
        for line in [
            "DEL sorted",
            "RPUSH sorted 3 1 2",
            "MSET weight:1 30 weight:2 20 weight:3 10 data:1 one data:3 three",
            "SORT sorted BY weight:* GET data:* GET #",
            "SORT_RO sorted BY weight:* DESC GET #",
            "SORT sorted BY nosort GET data:* STORE result",
            "LRANGE result 0 -1",
            "HSET hash:1 f x",
            "SORT sorted GET hash:*->f",
        ] {
            self.say_line(line);
        }
    }

    /// Both still understand one another.
    pub(super) fn end(&mut self) {
        for pair in [&mut self.main, &mut self.other] {
            pair.send(&words("PING"));
            let pong = Reply::Simple("PONG".to_owned());
            assert_eq!(
                [
                    decode(&pair.plain.reply_bytes()),
                    decode(&pair.tested.reply_bytes())
                ],
                [pong.clone(), pong]
            );
        }
        assert!(self.said > 300, "only {} replies were compared", self.said);
    }
}
