//! Whether the keys are where the topology says, asked of the nodes themselves, behind the proxy's back.
//!
//! ```text
//!  proxy's /topology ─▶ shard → (node, db) ─┐
//!                                           ├─▶ each key in exactly that database, no key anywhere else
//!  node: SELECT db, KEYS * (all databases) ─┘
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::Failure;
use super::link::{Link, http_get, text};
use super::load::{self, PINNED_DATABASE};
use super::rig::{DATABASES, Node, Rig, SHARDS};
use crate::ids::{DbIndex, ShardId};
use crate::resp::Value;
use crate::topology::{SLOTS, Topology, slot};

/// Databases asked for at once.
const PIPELINE: u16 = 64;

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) epoch: u64,
    /// Keys of each node, in the order of the nodes, and in how many databases.
    pub(super) nodes: Vec<(usize, usize)>,
    /// A key with its slot, shard, node and database, for somebody to look at.
    pub(super) example: String,
}

/// Looks everywhere. `more`: keys that were written beside those of the load.
///
/// # Errors
/// What is not as it should be.
pub(super) fn prove(rig: &Rig, more: &BTreeSet<String>) -> Result<Found, Failure> {
    let document = http_get(&rig.proxy.http, "/topology")?;
    let topology = Topology::decode(document.as_bytes())
        .map_err(|error| Failure::Broken(format!("/topology: {error}")))?;
    let (mut sharded, mut pinned) = (BTreeSet::new(), BTreeSet::new());
    let mut nodes = Vec::new();
    for node in &rig.nodes {
        let found = keys_by_database(node)?;
        nodes.push((found.values().map(Vec::len).sum(), found.len()));
        for (database, key) in found
            .into_iter()
            .flat_map(|(database, keys)| keys.into_iter().map(move |key| (database, key)))
        {
            let shard = shard_at(&topology, node, database)?;
            let in_pinned = topology.pinned_db(shard).is_some();
            let belongs = if in_pinned {
                topology.pinned_shard(PINNED_DATABASE)
            } else {
                Some(shard_of(&key))
            };
            if belongs != Some(shard) {
                return Err(Failure::Broken(format!(
                    "{key} lies in database {database} of {}, where it does not belong",
                    node.name
                )));
            }
            let fresh = if in_pinned {
                pinned.insert(key.clone())
            } else {
                sharded.insert(key.clone())
            };
            if !fresh {
                return Err(Failure::Broken(format!("{key} is there twice")));
            }
        }
    }
    let wanted: BTreeSet<String> = load::sharded_keys().union(more).cloned().collect();
    same("database 0", &sharded, &wanted)?;
    same("the pinned database", &pinned, &load::pinned_keys())?;
    counts(&rig.proxy.data, sharded.len(), pinned.len())?;
    Ok(Found {
        epoch: topology.epoch.0,
        nodes,
        example: example(&topology),
    })
}

/// The rule in one line, written again on purpose: what the proxy did is compared with it.
fn shard_of(key: &str) -> ShardId {
    ShardId(
        u16::try_from(u32::from(slot(key.as_bytes())) * u32::from(SHARDS) / u32::from(SLOTS))
            .unwrap_or(u16::MAX),
    )
}

/// The shard that the topology puts into this database of this node.
fn shard_at(topology: &Topology, node: &Node, database: u16) -> Result<ShardId, Failure> {
    let index = topology.node_named(&node.name);
    let shard = topology
        .placements_by_shard()
        .find(|(_, placement)| Some(placement.node) == index && placement.db == DbIndex(database));
    shard.map(|(shard, _)| shard).ok_or_else(|| {
        Failure::Broken(format!(
            "database {database} of {} holds keys and no shard",
            node.name
        ))
    })
}

/// All keys of a node, preshard's own database left out.
fn keys_by_database(node: &Node) -> Result<BTreeMap<u16, Vec<String>>, Failure> {
    let mut link = Link::connect(&node.address)?;
    let mut found = BTreeMap::new();
    let databases: Vec<u16> = (0..DATABASES - 1).collect();
    for some in databases.chunks(usize::from(PIPELINE)) {
        for database in some {
            link.push(&["SELECT", &database.to_string()]);
            link.push(&["KEYS", "*"]);
        }
        link.send()?;
        for database in some {
            let selected = link.reply()?;
            let Value::Array(keys) = link.reply()? else {
                return Err(Failure::Broken(format!(
                    "{}: SELECT {database}: {}",
                    node.name,
                    text(&selected)
                )));
            };
            if !keys.is_empty() {
                found.insert(*database, keys.iter().map(text).collect());
            }
        }
    }
    Ok(found)
}

fn same(place: &str, found: &BTreeSet<String>, wanted: &BTreeSet<String>) -> Result<(), Failure> {
    if let Some(key) = wanted.difference(found).next() {
        return Err(Failure::Broken(format!(
            "{key} was written into {place} and no node has it"
        )));
    }
    if let Some(key) = found.difference(wanted).next() {
        return Err(Failure::Broken(format!(
            "{key} is in {place} and nobody wrote it"
        )));
    }
    Ok(())
}

/// The proxy counts as the nodes do.
fn counts(address: &str, sharded: usize, pinned: usize) -> Result<(), Failure> {
    let mut link = Link::connect(address)?;
    let in_sharded = link.ask_text(&["DBSIZE"])?;
    link.ask(&["SELECT", &PINNED_DATABASE.to_string()])?;
    let in_pinned = link.ask_text(&["DBSIZE"])?;
    if in_sharded == sharded.to_string() && in_pinned == pinned.to_string() {
        return Ok(());
    }
    Err(Failure::Broken(format!(
        "DBSIZE says {in_sharded} and {in_pinned}, the nodes hold {sharded} and {pinned} keys"
    )))
}

fn example(topology: &Topology) -> String {
    let key = "user:42";
    let shard = topology.shard_of_key(key.as_bytes());
    let placement = topology.placement(shard);
    let node = &topology.node(placement.node).name;
    format!(
        "{key}: slot {} · shard {shard} · database {} of {node}",
        slot(key.as_bytes()),
        placement.db
    )
}
