//! What each node holds while shards are tried elsewhere.

use super::bands::{Band, Bands, load_of};
use super::{Layout, NodeShare};

/// Where every shard is for now, and what that makes of the nodes. Shards and nodes are positions in the layout.
#[derive(Clone, Debug)]
pub(super) struct Tally<'a> {
    pub(super) layout: &'a Layout,
    pub(super) bands: &'a Bands,
    /// By shard.
    at: Vec<usize>,
    loads: Vec<i64>,
    /// By node.
    held: Vec<i64>,
    came_bytes: Vec<u64>,
    full: Vec<bool>,
    /// By node: its shards, by load and position.
    on: Vec<Vec<(i64, usize)>>,
}

impl<'a> Tally<'a> {
    pub(super) fn new(layout: &'a Layout, bands: &'a Bands) -> Self {
        let nodes = layout.nodes.len();
        let mut tally = Self {
            layout,
            bands,
            at: layout.shards.iter().map(|shard| shard.node.index()).collect(),
            loads: (0..layout.shards.len())
                .map(|shard| load_of(layout, shard))
                .collect(),
            held: vec![0; nodes],
            came_bytes: vec![0; nodes],
            full: vec![false; nodes],
            on: vec![Vec::new(); nodes],
        };
        for (shard, &node) in tally.at.iter().enumerate() {
            tally.held[node] += tally.loads[shard];
            tally.on[node].push((tally.loads[shard], shard));
        }
        tally.on.iter_mut().for_each(|shards| shards.sort_unstable());
        tally
    }

    pub(super) fn load(&self, shard: usize) -> i64 {
        self.loads[shard]
    }

    pub(super) fn node_of(&self, shard: usize) -> usize {
        self.at[shard]
    }

    pub(super) fn home(&self, shard: usize) -> usize {
        self.layout.shards[shard].node.index()
    }

    pub(super) fn held(&self, node: usize) -> i64 {
        self.held[node]
    }

    /// A node's shards, by load and position, the smallest first.
    pub(super) fn shards_on(&self, node: usize) -> &[(i64, usize)] {
        &self.on[node]
    }

    /// How much more than its goal a node holds. Only for one that shares or leaves.
    pub(super) fn over(&self, node: usize) -> i64 {
        self.held[node] - self.band(node).goal
    }

    pub(super) fn band(&self, node: usize) -> Band {
        // A node that is away is never asked for: it is neither a taker nor left.
        self.bands.band(node).unwrap_or(Band {
            low: i64::MIN,
            goal: 0,
            high: i64::MAX,
        })
    }

    /// Whether every node that shares or leaves holds what it should.
    pub(super) fn is_even(&self) -> bool {
        let mut all = self.bands.by_node.iter().zip(&self.held);
        all.all(|(band, &held)| band.is_none_or(|band| band.holds(held)))
    }

    /// How far all nodes together are outside of what they should hold.
    pub(super) fn outside(&self) -> i64 {
        let all = self.bands.by_node.iter().zip(&self.held);
        all.map(|(band, &held)| band.map_or(0, |band| band.outside(held)))
            .sum()
    }

    /// How far the node that is worst off is from the mean, times the number of nodes.
    pub(super) fn worst(&self) -> i128 {
        let takers = &self.bands.takers;
        let count = takers.len() as i128;
        let off = |&node: &usize| (i128::from(self.held[node]) * count - i128::from(self.bands.total)).abs();
        takers.iter().map(off).max().unwrap_or(0)
    }

    /// Whether a node has the memory for a shard. What a plan takes from it is not there to be had: it goes when the move
    /// is over.
    pub(super) fn has_room(&mut self, shard: usize, node: usize) -> bool {
        let fits = self.fits(shard, node);
        self.full[node] |= !fits;
        fits
    }

    fn fits(&self, shard: usize, node: usize) -> bool {
        let came = self.came_bytes[node].saturating_add(self.layout.shards[shard].bytes);
        let room = self.layout.nodes[node].room_bytes;
        node == self.home(shard) || room.is_none_or(|room| came <= room)
    }

    /// Whether a shard was kept off a node for want of memory.
    pub(super) fn was_full(&self, node: usize) -> bool {
        self.full[node]
    }

    /// Puts a shard on a node.
    pub(super) fn put(&mut self, shard: usize, node: usize) {
        let (from, load) = (self.at[shard], self.loads[shard]);
        if from == node {
            return;
        }
        let bytes = self.layout.shards[shard].bytes;
        let home = self.home(shard);
        if from != home {
            self.came_bytes[from] = self.came_bytes[from].saturating_sub(bytes);
        }
        if node != home {
            self.came_bytes[node] = self.came_bytes[node].saturating_add(bytes);
        }
        self.held[from] -= load;
        self.held[node] += load;
        if let Ok(place) = self.on[from].binary_search(&(load, shard)) {
            self.on[from].remove(place);
        }
        if let Err(place) = self.on[node].binary_search(&(load, shard)) {
            self.on[node].insert(place, (load, shard));
        }
        self.at[shard] = node;
    }

    /// Shards that are not where they were, by position.
    pub(super) fn moved(&self) -> impl Iterator<Item = usize> {
        (0..self.at.len()).filter(|&shard| self.at[shard] != self.home(shard))
    }

    pub(super) fn shares(&self) -> Vec<NodeShare> {
        let share = |node: usize| NodeShare {
            shards: self.on[node].len(),
            load: u64::try_from(self.held[node]).unwrap_or(0),
            percent_of_mean: self.percent_of_mean(node),
        };
        (0..self.held.len()).map(share).collect()
    }

    fn percent_of_mean(&self, node: usize) -> Option<f64> {
        self.bands.band(node)?;
        let mille = self.mille_of_mean(self.held[node])?;
        Some(f64::from(i32::try_from(mille).unwrap_or(i32::MAX)) / 10.0)
    }

    /// A load in tenths of a percent of the mean, rounded; none if there is no mean.
    pub(super) fn mille_of_mean(&self, load: i64) -> Option<i128> {
        let total = i128::from(self.bands.total);
        let scaled = i128::from(load) * 1000 * self.bands.takers.len() as i128;
        (total > 0 && !self.bands.takers.is_empty()).then(|| (scaled + total / 2) / total)
    }
}
