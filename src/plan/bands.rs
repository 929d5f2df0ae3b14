//! What each node should hold.
//!
//! The goal is the mean of the nodes that share. A shard that is larger than that, a *giant*, has a node of its own: what is
//! left is then evened out among the others, whose mean is lower.

use super::{LOAD_MAX, Layout, Role, TOLERANCE_PERCENT};

/// What one node should hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Band {
    pub(super) low: i64,
    pub(super) goal: i64,
    pub(super) high: i64,
}

impl Band {
    const NOTHING: Self = Self {
        low: 0,
        goal: 0,
        high: 0,
    };

    pub(super) const fn holds(&self, load: i64) -> bool {
        self.low <= load && load <= self.high
    }

    /// How far a load is outside.
    pub(super) const fn outside(&self, load: i64) -> i64 {
        if load > self.high {
            load - self.high
        } else if load < self.low {
            self.low - load
        } else {
            0
        }
    }
}

/// The goals of all nodes.
#[derive(Clone, Debug)]
pub(super) struct Bands {
    /// By node; none for one that neither gives nor takes.
    pub(super) by_node: Vec<Option<Band>>,
    /// Nodes that share, by position.
    pub(super) takers: Vec<usize>,
    /// What is to be shared, by all nodes that share or leave.
    pub(super) total: i64,
    /// Shards (by position) that are larger than the mean, each with the node that is left to it.
    pub(super) giants: Vec<(usize, usize)>,
    leaving: bool,
}

impl Bands {
    /// Whether some node is to be emptied.
    pub(super) const fn is_leaving(&self) -> bool {
        self.leaving
    }

    pub(super) fn band(&self, node: usize) -> Option<Band> {
        self.by_node.get(node).copied().flatten()
    }
}

/// A shard's load as it is counted with.
pub(super) fn load_of(layout: &Layout, shard: usize) -> i64 {
    let load = layout.shards.get(shard).map_or(0, |shard| shard.load);
    i64::try_from(load).unwrap_or(LOAD_MAX).min(LOAD_MAX)
}

pub(super) fn bands(layout: &Layout) -> Bands {
    let role = |node: usize| layout.nodes.get(node).map_or(Role::Away, |node| node.role);
    let takers: Vec<usize> = (0..layout.nodes.len())
        .filter(|&node| role(node) == Role::Shares)
        .collect();
    let counted = |shard: &usize| role(layout.shards[*shard].node.index()) != Role::Away;
    let mut shards: Vec<usize> = (0..layout.shards.len()).filter(counted).collect();
    shards.sort_by_key(|&shard| (-load_of(layout, shard), shard));
    let total: i64 = shards.iter().map(|&shard| load_of(layout, shard)).sum();
    let mut bands = Bands {
        by_node: (0..layout.nodes.len())
            .map(|node| (role(node) == Role::Leaves).then_some(Band::NOTHING))
            .collect(),
        leaving: layout.nodes.iter().any(|node| node.role == Role::Leaves),
        giants: Vec::new(),
        takers,
        total,
    };
    let mut held = vec![0_i64; layout.nodes.len()];
    for &shard in &shards {
        held[layout.shards[shard].node.index()] += load_of(layout, shard);
    }
    let (mut rest, mut sharing) = (total, bands.takers.clone());
    for &shard in &shards {
        let load = load_of(layout, shard);
        let is_giant = sharing.len() > 1 && load > high(rest, sharing.len());
        if !is_giant {
            break;
        }
        let home = layout.shards[shard].node.index();
        let node = match sharing.contains(&home) {
            true => home,
            false => sharing
                .iter()
                .copied()
                .min_by_key(|&node| (held[node], node))
                .unwrap_or(home),
        };
        sharing.retain(|&other| other != node);
        rest -= load;
        bands.giants.push((shard, node));
        bands.by_node[node] = Some(Band {
            low: load,
            goal: load,
            high: high(load, 1),
        });
    }
    for &node in &sharing {
        bands.by_node[node] = Some(Band {
            low: low(rest, sharing.len()),
            goal: rest / count(sharing.len()),
            high: high(rest, sharing.len()),
        });
    }
    bands
}

const PERCENT: i64 = 100;

/// The most that one of `nodes` may hold of `total`. All shards together are below 2⁵⁹, so nothing overflows below.
fn high(total: i64, nodes: usize) -> i64 {
    wide(total, PERCENT + TOLERANCE_PERCENT, nodes, 0)
}

fn low(total: i64, nodes: usize) -> i64 {
    let nearly_one = PERCENT * count(nodes) - 1;
    wide(total, PERCENT - TOLERANCE_PERCENT, nodes, nearly_one)
}

/// `(total · percent + more) / (100 · nodes)`
fn wide(total: i64, percent: i64, nodes: usize, more: i64) -> i64 {
    let product = i128::from(total) * i128::from(percent) + i128::from(more);
    let quotient = product / i128::from(PERCENT * count(nodes));
    i64::try_from(quotient).unwrap_or(i64::MAX)
}

fn count(nodes: usize) -> i64 {
    i64::try_from(nodes).unwrap_or(i64::MAX).max(1)
}
