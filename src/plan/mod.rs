//! Which shards should move, so that every node holds about as much: `PRESHARD PLAN REBALANCE`, `NODE DRAIN`.
//!
//! ```text
//!  Layout ─▶ bands.rs ─▶ what each node should hold, 5 % less or more
//!            tally.rs ─▶ what it holds while shards are tried elsewhere
//!               │
//!               ├─ even.rs     from the fullest to the emptiest, the shard that fits best; then exchanges
//!               └─ search.rs   few shards: all ways, the fewest moves first
//!               ▼
//!            words.rs ─▶ Rebalance { moves with reasons, shares before and after, obstacles }
//! ```
//!
//! A plan is the difference between where shards are and where they were tried last, so that none moves twice. Every
//! choice is made by numbers and positions only: the same layout gives the same plan.

mod bands;
mod even;
mod search;
mod tally;
#[cfg(test)]
mod tests;
mod words;

use crate::ids::{NodeIndex, ShardId};
use bands::bands;
use tally::Tally;

/// How far from its goal a node may be, in percent.
pub const TOLERANCE_PERCENT: i64 = 5;

/// The most that one shard is taken to hold: no sum of all shards and no product with percent overflows.
const LOAD_MAX: i64 = 1 << 44;

/// What is to be evened out.
#[derive(Clone, Debug)]
pub struct Layout {
    /// What is counted, as it is said: `keys`.
    pub unit: &'static str,
    /// The nodes; a [`NodeIndex`] is a position in this list.
    pub nodes: Vec<NodeLoad>,
    /// The shards. Pinned ones move like others.
    pub shards: Vec<ShardLoad>,
}

/// One node.
#[derive(Clone, Debug)]
pub struct NodeLoad {
    /// Its name.
    pub name: String,
    /// What a plan may do with it.
    pub role: Role,
    /// Bytes that it can take in addition, if it has a limit that is known.
    pub room_bytes: Option<u64>,
}

/// What a plan may do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Gives and takes.
    Shares,
    /// Gives everything and takes nothing.
    Leaves,
    /// Neither gives nor takes, and does not count: nobody knows what it holds.
    Away,
}

/// One shard.
#[derive(Clone, Copy, Debug)]
pub struct ShardLoad {
    /// Its id.
    pub shard: ShardId,
    /// Where it is.
    pub node: NodeIndex,
    /// What it holds of what is counted.
    pub load: u64,
    /// About how much memory it takes, for the room of nodes.
    pub bytes: u64,
}

/// Which shards to move, and what comes of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rebalance {
    /// The moves, each shard at most once.
    pub moves: Vec<Move>,
    /// By node, as it is.
    pub before: Vec<NodeShare>,
    /// By node, after all moves.
    pub after: Vec<NodeShare>,
    /// Why nodes stay farther than the tolerance from the mean, one sentence each.
    pub obstacles: Vec<String>,
}

/// One shard to another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The shard.
    pub shard: ShardId,
    /// Where it is.
    pub source: NodeIndex,
    /// Where it should be.
    pub target: NodeIndex,
    /// What it holds of what is counted.
    pub load: u64,
    /// Why, in words.
    pub reason: String,
}

/// What a node has of the whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NodeShare {
    /// How many shards.
    pub shards: usize,
    /// What they hold together.
    pub load: u64,
    /// That in percent of the mean of the nodes that share, to a tenth; none if there is no mean.
    pub percent_of_mean: Option<f64>,
}

/// Plans only what nodes that leave give away: each shard goes to the node that lacks most then. What no node has the
/// memory for stays, and is told of.
#[must_use]
pub fn empty(layout: &Layout) -> Rebalance {
    let bands = bands(layout);
    let before = Tally::new(layout, &bands);
    let mut after = before.clone();
    even::empty_leaving(&mut after);
    let moves = words::moves(&before, &after);
    let is_stuck =
        |node: &usize| layout.nodes[*node].role == Role::Leaves && !after.shards_on(*node).is_empty();
    let stuck = (0..layout.nodes.len()).filter(is_stuck);
    let obstacles = stuck.map(|node| words::stays(&after, node)).collect();
    Rebalance {
        moves,
        before: before.shares(),
        after: after.shares(),
        obstacles,
    }
}

/// Plans moves.
#[must_use]
pub fn rebalance(layout: &Layout) -> Rebalance {
    let bands = bands(layout);
    let before = Tally::new(layout, &bands);
    let mut after = before.clone();
    even::empty_leaving(&mut after);
    even::part_giants(&mut after);
    even::even_out(&mut after);
    even::take_back(&mut after);
    let found = search::fewer_moves(&before, &after).unwrap_or(after);
    // What is evened out must not be paid for by the node that is worst off.
    let spoilt = !bands.is_leaving() && found.worst() > before.worst();
    let after = if spoilt { before.clone() } else { found };
    Rebalance {
        moves: words::moves(&before, &after),
        before: before.shares(),
        after: after.shares(),
        obstacles: words::obstacles(&after),
    }
}
