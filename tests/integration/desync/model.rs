//! A slot: a few keys of one client and one shard, and what must be in them.
//!
//! A command is words to send and a step of this model. The model says what the reply must be, token by token; where a
//! request may or may not have run, the slot is left behind and its number goes on with fresh keys.

use std::collections::VecDeque;

use crate::harness::Reply;

/// What must be in the keys of a slot.
#[derive(Debug, Clone, Default)]
pub(super) struct World {
    string: Option<String>,
    number: i64,
    list: VecDeque<String>,
    hash: Vec<(String, String)>,
    stream: Vec<(u64, String)>,
    last_id: u64,
}

/// The keys of one shard that only one client uses.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) world: World,
    /// Goes on when nobody can know what is in the keys.
    pub(super) generation: u32,
    /// Something may have run or not: only whose tokens these are can be judged.
    pub(super) in_doubt: bool,
}

impl Slot {
    pub(super) fn leave_behind(&mut self) {
        self.world = World::default();
        self.generation += 1;
        self.in_doubt = false;
    }
}

/// A command upon a slot. Strings are tokens.
#[derive(Debug, Clone)]
pub(super) enum Act {
    Set(String),
    /// The same with many bytes behind the token.
    SetLarge(String),
    Get,
    SetGet(String),
    Getdel,
    Incr,
    Del,
    Hset(String),
    Hgetall,
    Rpush(String),
    Lrange,
    Lpop,
    /// Waits for as many milliseconds, unless there is something.
    Blpop(u32),
    Xadd(String),
    Xread,
    Xrange,
    Eval(String),
    Evalsha(String),
    EvalSet(String),
    /// An error with a line break and a false reply behind it.
    EvalError(String),
    EvalStatus(String),
    EvalNested(String),
    EvalHuge(String),
    Fcall(String),
}

/// The library that the functions are in.
pub(super) const LIBRARY: &str = "#!lua name=desync\nredis.register_function('desync_set', function(keys, args)\n\
    redis.call('SET', keys[1], args[1]) return {keys[1], args[1]} end)";
/// The script that is called by its sum.
pub(super) const BY_SUM: &str = "return {ARGV[1], redis.call('GET', KEYS[1]) or 'none', ARGV[1]}";
const NESTED: &str = "local t = ARGV[1] for i = 1, 25 do t = {t, i} end return t";
const HUGE: &str = "local t = {} for i = 1, 1500 do t[i] = ARGV[1] end return t";
const FALSE_ERROR: &str = "return redis.error_reply('TOKEN ' .. ARGV[1] .. '\\r\\n+INJECTED')";
const FALSE_STATUS: &str = "return redis.status_reply(ARGV[1] .. '\\r\\n+INJECTED')";

/// Sizes of values with many bytes: some of them are more than the proxy takes for a whole reply.
const LARGE: std::ops::Range<usize> = 20_000..150_000;

fn large(token: &str) -> String {
    // The size comes from the token, so that the model needs not keep it.
    let size = token
        .bytes()
        .fold(7_usize, |sum, byte| sum * 31 % 1_000_003 + usize::from(byte));
    let size = LARGE.start + size % (LARGE.end - LARGE.start);
    format!("{token}{}", "x".repeat(size))
}

impl Act {
    /// One that is chosen by chance.
    pub(super) fn any(random: &mut fastrand::Rng, world: &World, token: String) -> Self {
        if world.list.len() > 12 || world.hash.len() > 12 || world.stream.len() > 12 {
            return Self::Del;
        }
        match random.u8(0..64) {
            0..=9 => Self::Set(token),
            10..=21 => Self::Get,
            22..=25 => Self::SetGet(token),
            26 => Self::Getdel,
            27..=30 => Self::Incr,
            31 => Self::Del,
            32..=34 => Self::Hset(token),
            35..=37 => Self::Hgetall,
            38..=41 => Self::Rpush(token),
            42..=44 => Self::Lrange,
            45 => Self::Lpop,
            46 => Self::Blpop(random.u32(5..40)),
            47..=48 => Self::Xadd(token),
            49 => Self::Xread,
            50 => Self::Xrange,
            51..=52 => Self::Eval(token),
            53 => Self::Evalsha(token),
            54..=55 => Self::EvalSet(token),
            56 => Self::EvalError(token),
            57 => Self::EvalStatus(token),
            58 => Self::EvalNested(token),
            59 if random.u8(0..4) == 0 => Self::EvalHuge(token),
            60..=61 => Self::Fcall(token),
            62 => Self::SetLarge(token),
            _ => Self::Get,
        }
    }

    /// Whether it goes over a connection of the client's own.
    pub(super) fn waits(&self) -> bool {
        matches!(self, Self::Blpop(_))
    }

    /// The command, for the keys that begin with `tag`.
    pub(super) fn words(&self, tag: &str, world: &World, sum: &str) -> Vec<String> {
        let key = |letter: char| format!("{tag}{letter}");
        let eval =
            |body: &str, token: &str| ["EVAL", body, "1", &key('s'), token].map(str::to_owned).to_vec();
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        match self {
            Self::Set(token) => words(&["SET", &key('s'), token]),
            Self::SetLarge(token) => words(&["SET", &key('s'), &large(token)]),
            Self::Get => words(&["GET", &key('s')]),
            Self::SetGet(token) => words(&["SET", &key('s'), token, "GET"]),
            Self::Getdel => words(&["GETDEL", &key('s')]),
            Self::Incr => words(&["INCR", &key('n')]),
            Self::Del => words(&["DEL", &key('l'), &key('h'), &key('x')]),
            Self::Hset(token) => words(&["HSET", &key('h'), token, &format!("v{token}")]),
            Self::Hgetall => words(&["HGETALL", &key('h')]),
            Self::Rpush(token) => words(&["RPUSH", &key('l'), token]),
            Self::Lrange => words(&["LRANGE", &key('l'), "0", "-1"]),
            Self::Lpop => words(&["LPOP", &key('l')]),
            Self::Blpop(time) => words(&["BLPOP", &key('l'), &format!("0.{time:03}")]),
            Self::Xadd(token) => words(&["XADD", &key('x'), &format!("{}-0", world.last_id + 1), "f", token]),
            Self::Xread => words(&["XREAD", "STREAMS", &key('x'), "0"]),
            Self::Xrange => words(&["XRANGE", &key('x'), "-", "+"]),
            Self::Eval(token) => eval("return {KEYS[1], ARGV[1]}", token),
            Self::Evalsha(token) => words(&["EVALSHA", sum, "1", &key('s'), token]),
            Self::EvalSet(token) => eval(
                "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])",
                token,
            ),
            Self::EvalError(token) => eval(FALSE_ERROR, token),
            Self::EvalStatus(token) => eval(FALSE_STATUS, token),
            Self::EvalNested(token) => eval(NESTED, token),
            Self::EvalHuge(token) => eval(HUGE, token),
            Self::Fcall(token) => words(&["FCALL", "desync_set", "1", &key('s'), token]),
        }
    }

    /// Runs it upon the model; what the reply must be, as [`leaves`] shows it.
    pub(super) fn run(&self, tag: &str, world: &mut World) -> Vec<String> {
        let key = |letter: char| format!("{tag}{letter}");
        let one = |text: &str| vec![text.to_owned()];
        let or_nil = |value: Option<String>| vec![value.unwrap_or_else(|| NIL.to_owned())];
        match self {
            Self::Set(token) => {
                world.string = Some(token.clone());
                one("OK")
            }
            Self::SetLarge(token) => {
                world.string = Some(large(token));
                one("OK")
            }
            Self::Get => or_nil(world.string.clone()),
            Self::SetGet(token) => or_nil(world.string.replace(token.clone())),
            Self::Getdel => or_nil(world.string.take()),
            Self::Incr => {
                world.number += 1;
                vec![format!(":{}", world.number)]
            }
            Self::Del => {
                let there = [
                    world.list.is_empty(),
                    world.hash.is_empty(),
                    world.stream.is_empty(),
                ];
                (world.list, world.hash, world.stream) = Default::default();
                world.last_id = 0;
                vec![format!(":{}", there.iter().filter(|empty| !**empty).count())]
            }
            Self::Hset(token) => {
                world.hash.push((token.clone(), format!("v{token}")));
                one(":1")
            }
            Self::Hgetall => world
                .hash
                .iter()
                .flat_map(|(field, value)| [field.clone(), value.clone()])
                .collect(),
            Self::Rpush(token) => {
                world.list.push_back(token.clone());
                vec![format!(":{}", world.list.len())]
            }
            Self::Lrange => world.list.iter().cloned().collect(),
            Self::Lpop => or_nil(world.list.pop_front()),
            Self::Blpop(_) => match world.list.pop_front() {
                Some(value) => vec![key('l'), value],
                None => one(NIL),
            },
            Self::Xadd(token) => {
                world.last_id += 1;
                world.stream.push((world.last_id, token.clone()));
                vec![format!("{}-0", world.last_id)]
            }
            Self::Xread if world.stream.is_empty() => one(NIL),
            Self::Xread => std::iter::once(key('x')).chain(entries(world)).collect(),
            Self::Xrange => entries(world).collect(),
            Self::Eval(_)
            | Self::Evalsha(_)
            | Self::EvalSet(_)
            | Self::EvalError(_)
            | Self::EvalStatus(_)
            | Self::EvalNested(_)
            | Self::EvalHuge(_)
            | Self::Fcall(_) => self.run_script(key('s'), world),
        }
    }

    fn run_script(&self, key: String, world: &mut World) -> Vec<String> {
        match self {
            Self::Eval(token) => vec![key, token.clone()],
            Self::Evalsha(token) => {
                let value = world.string.clone().unwrap_or_else(|| "none".to_owned());
                vec![token.clone(), value, token.clone()]
            }
            Self::EvalSet(token) => {
                world.string = Some(token.clone());
                vec![token.clone()]
            }
            Self::EvalError(token) => vec![format!("-TOKEN {token}  +INJECTED")],
            Self::EvalStatus(token) => vec![format!("{token}  +INJECTED")],
            Self::EvalNested(token) => std::iter::once(token.clone())
                .chain((1..=25).map(|number| format!(":{number}")))
                .collect(),
            Self::EvalHuge(token) => vec![token.clone(); 1500],
            Self::Fcall(token) => {
                world.string = Some(token.clone());
                vec![key, token.clone()]
            }
            _ => Vec::new(),
        }
    }
}

fn entries(world: &World) -> impl Iterator<Item = String> {
    let entry = |(id, token): &(u64, String)| [format!("{id}-0"), "f".to_owned(), token.clone()];
    world.stream.iter().flat_map(entry)
}

pub(super) const NIL: &str = "(nil)";

/// The values of a reply in the order they stand, whatever lists they are in: the same for RESP2 and RESP3.
pub(super) fn leaves(reply: &Reply) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![reply.clone()];
    while let Some(next) = left.pop() {
        match next {
            Reply::Array(items) | Reply::Set(items) | Reply::Push(items) => {
                left.extend(items.into_iter().rev())
            }
            Reply::Map(pairs) => {
                left.extend(pairs.into_iter().rev().flat_map(|(name, value)| [value, name]));
            }
            Reply::Error(text) => found.push(format!("-{text}")),
            Reply::Int(number) => found.push(format!(":{number}")),
            Reply::Null => found.push(NIL.to_owned()),
            text @ (Reply::Simple(_) | Reply::Bulk(_) | Reply::Scalar(..)) => found.push(text.text()),
        }
    }
    found
}
