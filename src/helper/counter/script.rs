//! The scripts that counters run on nodes: their text, sent whole each time, so that no node has to know it beforehand.
//!
//! Those that only read are scripts and no transactions because a node that is full takes no command behind `MULTI`, and
//! that is when what it holds must be looked at. They return what nodes store, text: Lua's numbers are exact to 2^53 only.

use std::sync::LazyLock;

use super::keys::{Kind, REGISTRY};
use crate::resp;

/// Hands out a batch.
pub(super) static TAKE: LazyLock<String> = LazyLock::new(|| stripped(include_str!("take.lua")));
/// Confirms a batch.
pub(super) static ACK: LazyLock<String> = LazyLock::new(|| stripped(include_str!("ack.lua")));
/// Reads members.
pub(super) static READ: LazyLock<String> = LazyLock::new(|| stripped(include_str!("read.lua")));
/// Tells how large the hashes are.
pub(super) static SIZES: LazyLock<String> = LazyLock::new(|| stripped(include_str!("sizes.lua")));
/// Tells of a shard.
pub(super) static PENDING: LazyLock<String> = LazyLock::new(|| stripped(include_str!("pending.lua")));
/// Sets a batch's deadline.
pub(super) static LEASE: LazyLock<String> = LazyLock::new(|| stripped(include_str!("lease.lua")));

/// A script without its comments and indentation.
fn stripped(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    let lines: Vec<&str> = lines
        .filter(|line| !line.is_empty() && !line.starts_with("--"))
        .collect();
    lines.join("\n")
}

/// Appends a call of a script with some of a counter's keys, and the registry behind them if it is wanted.
pub(super) fn write_call(
    script: &str,
    counter: &[u8],
    (keys, registry): (&[Kind], bool),
    args: &[&[u8]],
    out: &mut Vec<u8>,
) {
    let count = keys.len() + usize::from(registry);
    resp::write_array_header(out, 3 + count + args.len());
    resp::write_bulk(out, b"EVAL");
    resp::write_bulk(out, script.as_bytes());
    resp::write_bulk(out, count.to_string().as_bytes());
    keys.iter().for_each(|kind| kind.write(counter, out));
    if registry {
        resp::write_bulk(out, REGISTRY);
    }
    args.iter().for_each(|arg| resp::write_bulk(out, arg));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_sent_without_what_is_for_readers() {
        for script in [&*TAKE, &*ACK, &*LEASE, &*READ, &*SIZES, &*PENDING] {
            assert!(!script.contains("--"), "{script}");
            assert!(script.contains("KEYS[") && script.contains("return"));
        }
        assert!(TAKE.len() < 3000, "{} bytes", TAKE.len());
    }
}
