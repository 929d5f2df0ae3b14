//! `PRESHARD SHARD …`: one shard, by its number or by a key.

use std::collections::BTreeSet;
use std::time::Instant;

use super::AdminContext;
use super::node::{done, refusal};
use super::show::shard_row;
use super::value::{int, number, row, shown, text};
use crate::ids::ShardId;
use crate::resp::Value;
use crate::topology::codec::shard_list;
use crate::topology::{Topology, slot};

/// `SHARD INFO <n|db:d>`: the row of `SHOW SHARDS`, the shard's slots, and the database that clients see it in.
pub(super) fn info(context: &AdminContext, word: &[u8]) -> Result<Value, String> {
    let topology = context.shared.topology.load();
    let shard = named(&topology, word)?;
    let window = context.rates.window(Instant::now());
    let mut fields = shard_row(context, &topology, &window, shard);
    let slots = topology
        .slots_of(shard)
        .map_or_else(String::new, |slots| format!("{}-{}", slots.start(), slots.end()));
    fields.push((Value::bulk("slots"), text(slots)));
    fields.push((
        Value::bulk("selects"),
        int(topology.pinned_db(shard).unwrap_or(0)),
    ));
    Ok(Value::Map(fields))
}

/// `SHARD OF <key>`, in the sharded keyspace.
pub(super) fn of(context: &AdminContext, key: &[u8]) -> Value {
    let topology = context.shared.topology.load();
    let shard = topology.shard_of_key(key);
    let placement = topology.placement(shard);
    row([
        ("key", Value::bulk(key)),
        ("slot", int(slot(key))),
        ("shard", int(shard.0)),
        ("node", text(topology.node(placement.node).name.as_str())),
        ("db", int(placement.db.0)),
    ])
}

/// `SHARD PAUSE | RESUME <n[-m][,…]|db:d>`.
pub(super) async fn pause(context: &AdminContext, word: &[u8], paused: bool) -> Result<Value, String> {
    let shards = listed(&context.shared.topology.load(), word)?;
    let changed = context.fleet.change(|topology| {
        let next = topology.with_paused(&shards, paused);
        next.map_err(|error| error.to_string())
    });
    changed.await.map(done).map_err(refusal)
}

/// The shards that a word names: a list such as `0-63,80,db:3`.
pub(super) fn listed(topology: &Topology, word: &[u8]) -> Result<Vec<ShardId>, String> {
    let mut shards = BTreeSet::new();
    for part in word.split(|&byte| byte == b',') {
        let text = std::str::from_utf8(part).ok().filter(|text| text.contains('-'));
        match text.and_then(|text| shard_list(text, topology.total_shards()).ok()) {
            Some(range) => shards.extend(range),
            None => {
                shards.insert(named(topology, part)?);
            }
        }
    }
    Ok(shards.into_iter().collect())
}

/// The shard that a word names: its number, or `db:3` for the one that is database 3.
fn named(topology: &Topology, word: &[u8]) -> Result<ShardId, String> {
    let shard = match word.split_at_checked(3) {
        Some((prefix, db)) if prefix.eq_ignore_ascii_case(b"db:") => {
            number(db).and_then(|db| topology.pinned_shard(db))
        }
        Some(_) | None => number(word)
            .map(ShardId)
            .filter(|&shard| topology.has_shard(shard)),
    };
    shard.ok_or_else(|| {
        let last = topology.total_shards().saturating_sub(1);
        let pinned = match topology.pinned {
            0 => String::new(),
            pinned => format!(", or db:1 to db:{pinned}"),
        };
        format!(
            "ERR '{}' is no shard: give a number from 0 to {last}{pinned}",
            shown(word)
        )
    })
}
