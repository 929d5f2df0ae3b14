//! All ways, the fewest moves first, for layouts of few shards: there a single shard is much, and the quick way may miss
//! the one that fits.
//!
//! ```text
//!  for 1, 2, 3 … moves:  the largest shard that is worth it ─▶ each other node ─▶ the next smaller shard ─▶ …
//!                        given up as soon as the largest moves left could not make up for what is outside
//! ```

use std::cmp::Reverse;

use super::bands::Band;
use super::tally::Tally;

/// Above so many shards a plan that is even is not searched for a shorter one.
const SHORTER_SHARDS_MAX: usize = 16;
/// Moves of a plan that is searched for.
const DEPTH_MAX: usize = 16;
/// Nodes looked at in all: some ten milliseconds.
const STEPS_MAX: usize = 6_000_000;

/// The search's own small tally: nodes are positions among those that share.
struct Search {
    bands: Vec<Band>,
    room_bytes: Vec<Option<u64>>,
    held: Vec<i64>,
    came_bytes: Vec<u64>,
    /// Shards that hold something, the largest first.
    shards: Vec<Candidate>,
    /// What the first shards hold together.
    sums: Vec<i64>,
    /// Places in `shards`, each with the node that it goes to.
    chosen: Vec<(usize, usize)>,
    steps: usize,
}

#[derive(Clone, Copy)]
struct Candidate {
    shard: usize,
    home: usize,
    load: i64,
    bytes: u64,
}

/// A plan that is even and has fewer moves than `found`, or any if that is not even. None if there is none, or none was
/// found in time. Where nodes leave or a shard needs a node for itself, the quick way has to do.
pub(super) fn fewer_moves<'a>(before: &Tally<'a>, found: &Tally<'a>) -> Option<Tally<'a>> {
    let bands = before.bands;
    if bands.is_leaving() || !bands.giants.is_empty() {
        return None;
    }
    let mut search = Search::new(before);
    let most = if !found.is_even() {
        search.shards.len()
    } else if search.shards.len() <= SHORTER_SHARDS_MAX {
        found.moved().count().saturating_sub(1)
    } else {
        return None;
    };
    if !(1..=most.min(DEPTH_MAX)).any(|moves| search.finds(0, moves)) {
        return None;
    }
    let mut tally = before.clone();
    for (at, node) in search.chosen {
        tally.put(search.shards[at].shard, bands.takers[node]);
    }
    Some(tally)
}

impl Search {
    fn new(before: &Tally<'_>) -> Self {
        let takers = &before.bands.takers;
        let candidates = takers.iter().enumerate().flat_map(|(home, &node)| {
            let on = before.shards_on(node).iter();
            on.filter(|(load, _)| *load > 0)
                .map(move |&(load, shard)| Candidate {
                    shard,
                    home,
                    load,
                    bytes: before.layout.shards[shard].bytes,
                })
        });
        let mut shards: Vec<Candidate> = candidates.collect();
        shards.sort_by_key(|candidate| (Reverse(candidate.load), candidate.shard));
        let mut sums = vec![0];
        for candidate in &shards {
            sums.push(sums.last().copied().unwrap_or(0) + candidate.load);
        }
        Self {
            bands: takers.iter().map(|&node| before.band(node)).collect(),
            room_bytes: takers
                .iter()
                .map(|&node| before.layout.nodes[node].room_bytes)
                .collect(),
            held: takers.iter().map(|&node| before.held(node)).collect(),
            came_bytes: vec![0; takers.len()],
            shards,
            sums,
            chosen: Vec::new(),
            steps: STEPS_MAX,
        }
    }

    /// Whether `moves` moves of shards from the place `first` on make the layout even; they are `chosen` then. Recursion is
    /// as deep as a plan is long.
    fn finds(&mut self, first: usize, moves: usize) -> bool {
        let needed = self.needed();
        if needed == 0 {
            return true;
        }
        for at in first..self.shards.len() {
            let last = (at + moves).min(self.shards.len());
            // Those behind are smaller.
            if moves == 0 || self.sums[last] - self.sums[at] < needed {
                return false;
            }
            let shard = self.shards[at];
            for node in 0..self.held.len() {
                if self.steps == 0 {
                    return false;
                }
                let came = self.came_bytes[node].saturating_add(shard.bytes);
                if node == shard.home || self.room_bytes[node].is_some_and(|room| came > room) {
                    continue;
                }
                let came_before = std::mem::replace(&mut self.came_bytes[node], came);
                self.held[shard.home] -= shard.load;
                self.held[node] += shard.load;
                self.chosen.push((at, node));
                if self.finds(at + 1, moves - 1) {
                    return true;
                }
                self.chosen.pop();
                self.held[node] -= shard.load;
                self.held[shard.home] += shard.load;
                self.came_bytes[node] = came_before;
            }
        }
        false
    }

    /// What must at least change its node: all that is above the bands, and all that is below them.
    fn needed(&mut self) -> i64 {
        self.steps = self.steps.saturating_sub(self.held.len());
        let nodes = self.bands.iter().zip(&self.held);
        let (surplus, lack) = nodes.fold((0, 0), |(surplus, lack), (band, &held)| {
            (
                surplus + (held - band.high).max(0),
                lack + (band.low - held).max(0),
            )
        });
        surplus.max(lack)
    }
}
