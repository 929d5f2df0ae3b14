//! What the tests stand on: real nodes, the real proxy, a client that sees bytes, a relay that breaks things.

mod certificates;
mod chaos;
mod etcd;
mod link;
mod log;
mod metronome;
mod node;
mod ports;
mod process;
mod proxy;
pub(crate) mod relay;
pub(crate) mod sys;
pub(crate) mod wire;

pub(crate) use certificates::Certificates;
pub(crate) use chaos::{CHAOS, Chaos};
pub(crate) use etcd::Etcd;
pub(crate) use link::{Link, Weather, Whose};
pub(crate) use log::Log;
pub(crate) use metronome::{Metronome, undisturbed};
pub(crate) use node::{Node, NodeOptions, lacks, left_out};
pub(crate) use ports::free_port;
pub(crate) use process::{PATIENCE, Scratch, StopAtEnd, bytes_waiting_at, wait_for, wait_until};
pub(crate) use proxy::{Proxy, Setup, end_of, run_to_end, spawn};
pub(crate) use wire::{Client, Reply};

/// Two nodes, and a proxy with eight shards in front of them.
pub(crate) fn small() -> (Vec<Node>, Proxy) {
    let nodes = vec![Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()]).start();
    (nodes, proxy)
}

/// The shard of a key; the rule is written here once more, on purpose.
pub(crate) fn shard_of(key: &str, shards: u16) -> u16 {
    let tag = match key.find('{') {
        Some(open) => match key[open + 1..].find('}') {
            Some(0) | None => key,
            Some(length) => &key[open + 1..open + 1 + length],
        },
        None => key,
    };
    let slot = crc16::State::<crc16::XMODEM>::calculate(tag.as_bytes()) & 16383;
    (u32::from(slot) * u32::from(shards) / 16384) as u16
}

/// A key `<prefix><n>` that lives in the given shard.
pub(crate) fn key_in(shard: u16, shards: u16, prefix: &str) -> String {
    (0..1_000_000)
        .map(|n| format!("{prefix}{n}"))
        .find(|key| shard_of(key, shards) == shard)
        .unwrap_or_else(|| panic!("no key '{prefix}N' of shard {shard} of {shards}"))
}

/// The seed of generated tests: `PRESHARD_TEST_SEED` (a number, or `random`), else always the same one.
pub(crate) fn seed() -> u64 {
    let seed = match std::env::var("PRESHARD_TEST_SEED").as_deref() {
        Ok("random") => fastrand::u64(..),
        Ok(number) => number
            .parse()
            .expect("PRESHARD_TEST_SEED is a number or 'random'"),
        Err(_) => 20_261_122,
    };
    println!("seed {seed}: run again with PRESHARD_TEST_SEED={seed}");
    seed
}
