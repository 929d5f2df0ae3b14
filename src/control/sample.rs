//! How much memory shards take, by looking at a few keys of each.
//!
//! ```text
//!  each node, all at the same time:
//!    each shard with keys ─▶ SELECT, RANDOMKEY … ─▶ MEMORY USAGE key … ─▶ mean of what was seen × keys of the shard
//!                            └ as many as its part of the node's keys ┘   at most SAMPLES_RATE keys a second
//! ```
//!
//! No server tells what a database takes. The answer is an estimate and says how many keys it stands on; a shard that was not
//! reached in time gets the mean of those of its node that were.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::client::{AskError, NodeClient};
use crate::ids::{DbIndex, NodeIndex, ShardId};
use crate::resp::Value;
use crate::topology::{Address, Topology};
use crate::worker::shared::Shared;

/// Keys looked at in one shard, at least (if it has any) and at most.
const SAMPLES_MIN: u64 = 4;
const SAMPLES_MAX: u64 = 20;
/// Keys looked at on one node, but for the least of each shard.
const SAMPLES_OF_NODE: u64 = 4096;
/// Keys looked at in a second on one node: some hundredths of what it can do.
const SAMPLES_RATE: u64 = 4096;
/// Time for one node. What was not reached then is estimated out of the rest.
const TIME_MAX: Duration = Duration::from_secs(4);
/// Elements of a large value that are looked at for its size.
const ELEMENTS: &[u8] = b"5";

/// A shard that is to be looked at.
#[derive(Clone, Copy, Debug)]
pub struct ShardKeys {
    /// The shard.
    pub shard: ShardId,
    /// Its database.
    pub db: DbIndex,
    /// How many keys it holds.
    pub keys: u64,
}

/// What a shard takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampled {
    /// About how many bytes.
    pub bytes: u64,
    /// Keys that were looked at; 0: estimated out of other shards of its node.
    pub samples: u64,
}

/// A node that did not tell.
#[derive(Debug, thiserror::Error)]
#[error("node {node} does not tell how much memory its keys take: {error}")]
pub struct SampleError {
    /// Its name.
    pub node: String,
    /// Why not.
    pub error: AskError,
}

/// Estimates what these shards take, on all their nodes at the same time. Shards without keys may be left out.
///
/// # Errors
/// A node that cannot be asked, or refuses to say.
pub async fn sample_memory(
    shared: &Arc<Shared>,
    topology: &Topology,
    wanted: BTreeMap<NodeIndex, Vec<ShardKeys>>,
) -> Result<BTreeMap<ShardId, Sampled>, SampleError> {
    let mut nodes = JoinSet::new();
    for (node, shards) in wanted {
        let described = topology.node(node).clone();
        let shared = Arc::clone(shared);
        nodes.spawn(async move {
            let sampled = sample_node(&shared, &described.address, &shards).await;
            sampled.map_err(|error| SampleError {
                node: described.name,
                error,
            })
        });
    }
    let mut all = BTreeMap::new();
    while let Some(ended) = nodes.join_next().await {
        // A node's task ends in no other way than by itself.
        if let Ok(sampled) = ended {
            all.extend(sampled?);
        }
    }
    Ok(all)
}

async fn sample_node(
    shared: &Shared,
    address: &Address,
    shards: &[ShardKeys],
) -> Result<BTreeMap<ShardId, Sampled>, AskError> {
    let begin = Instant::now();
    let end = begin + TIME_MAX;
    let mut client = connect(shared, address).await?;
    let all_keys = shards.iter().map(|shard| shard.keys).fold(0, u64::saturating_add);
    let mut seen: BTreeMap<ShardId, Seen> = BTreeMap::new();
    let mut asked = 0;
    let mut order: Vec<&ShardKeys> = shards.iter().filter(|shard| shard.keys > 0).collect();
    // What is not reached in time should be little.
    order.sort_by_key(|shard| Reverse(shard.keys));
    for shard in order {
        let samples = samples_of(shard.keys, all_keys);
        let Ok(looked) = timeout_at(end, look(&mut client, shard.db, samples)).await else {
            break;
        };
        match looked {
            Ok(looked) => {
                seen.insert(shard.shard, looked);
            }
            // Names of keys too large to be read: another shard may have smaller ones.
            Err(AskError::NotRedis) => client = connect(shared, address).await?,
            Err(error) => return Err(error),
        }
        asked += samples;
        let due = begin + Duration::from_millis(asked * 1000 / SAMPLES_RATE);
        if due > Instant::now() {
            sleep_until(due.min(end)).await;
        }
    }
    Ok(estimate(shards, &seen))
}

async fn connect(shared: &Shared, address: &Address) -> Result<NodeClient, AskError> {
    let (credentials, deadline) = shared.admin_login();
    NodeClient::connect(address, &credentials, deadline).await
}

/// How many keys to look at in a shard that has `keys` of the node's `all_keys`.
fn samples_of(keys: u64, all_keys: u64) -> u64 {
    let part = u128::from(SAMPLES_OF_NODE) * u128::from(keys) / u128::from(all_keys.max(1));
    let part = u64::try_from(part).unwrap_or(SAMPLES_MAX);
    part.clamp(SAMPLES_MIN, SAMPLES_MAX)
}

/// What was seen of a shard.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    samples: u64,
    bytes: u64,
}

/// Looks at keys by chance. A key that is gone meanwhile does not count.
async fn look(client: &mut NodeClient, db: DbIndex, samples: u64) -> Result<Seen, AskError> {
    let db = db.to_string();
    let mut questions: Vec<Vec<&[u8]>> = vec![vec![b"SELECT", db.as_bytes()]];
    questions.extend((0..samples).map(|_| vec![&b"RANDOMKEY"[..]]));
    let keys = answered(client.ask_all(&questions).await?)?;
    let names = keys.iter().skip(1).filter_map(Value::as_bytes);
    let questions: Vec<Vec<&[u8]>> = names
        .map(|key| vec![&b"MEMORY"[..], b"USAGE", key, b"SAMPLES", ELEMENTS])
        .collect();
    let mut seen = Seen::default();
    for size in answered(client.ask_all(&questions).await?)? {
        if let Value::Int(bytes) = size {
            seen.samples += 1;
            seen.bytes = seen.bytes.saturating_add(u64::try_from(bytes).unwrap_or(0));
        }
    }
    Ok(seen)
}

/// The answers, if none of them is an error.
fn answered(answers: Vec<Value>) -> Result<Vec<Value>, AskError> {
    let refused = answers.iter().find_map(|answer| match answer {
        Value::Error(line) => Some(line.clone()),
        _ => None,
    });
    refused.map_or(Ok(answers), |line| Err(AskError::Refused(line)))
}

/// Means times keys.
fn estimate(shards: &[ShardKeys], seen: &BTreeMap<ShardId, Seen>) -> BTreeMap<ShardId, Sampled> {
    let times = |seen: Seen, keys: u64| {
        let bytes = u128::from(seen.bytes) * u128::from(keys) / u128::from(seen.samples.max(1));
        u64::try_from(bytes).unwrap_or(u64::MAX)
    };
    let mut estimated: BTreeMap<ShardId, Sampled> = BTreeMap::new();
    let (mut bytes, mut keys) = (0_u64, 0_u64);
    for shard in shards {
        if let Some(&seen) = seen.get(&shard.shard).filter(|seen| seen.samples > 0) {
            let sampled = Sampled {
                bytes: times(seen, shard.keys),
                samples: seen.samples,
            };
            bytes = bytes.saturating_add(sampled.bytes);
            keys = keys.saturating_add(shard.keys);
            estimated.insert(shard.shard, sampled);
        }
    }
    let of_others = Seen { samples: keys, bytes };
    for shard in shards {
        estimated.entry(shard.shard).or_insert_with(|| Sampled {
            bytes: times(of_others, shard.keys),
            samples: 0,
        });
    }
    estimated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_shards_are_looked_at_more_and_none_without_limit() {
        assert_eq!(samples_of(1, 1), SAMPLES_MAX);
        assert_eq!(samples_of(1, u64::MAX), SAMPLES_MIN);
        assert_eq!(samples_of(u64::MAX, 1), SAMPLES_MAX);
        // 512 shards of one size.
        assert_eq!(samples_of(1000, 512_000), 8);
        assert_eq!(samples_of(0, 0), SAMPLES_MIN);
    }

    #[test]
    fn a_shard_that_was_not_reached_gets_the_mean_of_its_node() {
        let shard = |shard: u16, keys: u64| ShardKeys {
            shard: ShardId(shard),
            db: DbIndex(shard),
            keys,
        };
        let shards = [shard(1, 10), shard(2, 30), shard(3, 5), shard(4, 0)];
        let seen = |samples, bytes| Seen { samples, bytes };
        let seen = BTreeMap::from([
            (ShardId(1), seen(2, 200)),
            (ShardId(2), seen(4, 1200)),
            (ShardId(3), seen(0, 0)),
        ]);
        let estimated = estimate(&shards, &seen);
        let of = |shard: u16| {
            (
                estimated[&ShardId(shard)].bytes,
                estimated[&ShardId(shard)].samples,
            )
        };
        assert_eq!(of(1), (1000, 2));
        assert_eq!(of(2), (9000, 4));
        assert_eq!(of(3), (1250, 0), "250 bytes a key");
        assert_eq!(of(4), (0, 0));
        assert_eq!(
            estimate(&[shard(1, 7)], &BTreeMap::new())[&ShardId(1)],
            Sampled::default()
        );
    }
}
