//! The quick way to an even layout, for any number of shards.
//!
//! Each step takes the fullest and the emptiest node and moves the shard that comes nearest to what one has too much and the
//! other too little, if neither ends beyond its band. Every step brings the two nearer to their goals, so that none is
//! ever taken back and forth. What is left then is tried by exchanges: a larger shard there, a smaller one back.

use std::cmp::Reverse;

use super::tally::Tally;

/// Shards looked at beside the best one, where nodes lack the memory for it.
const TRIES: usize = 64;
/// Exchanges in one plan. Each is work for all nodes, and where hundreds do not help, no more will.
const EXCHANGES_MAX: usize = 256;

/// Moves everything off nodes that leave, the largest shards first, each to the node that lacks most.
pub(super) fn empty_leaving(tally: &mut Tally<'_>) {
    let leaves = |node: usize| tally.bands.band(node).is_some() && !tally.bands.takers.contains(&node);
    let mut shards: Vec<(i64, usize)> = (0..tally.layout.nodes.len())
        .filter(|&node| leaves(node))
        .flat_map(|node| tally.shards_on(node).to_vec())
        .collect();
    shards.sort_by_key(|&(load, shard)| (Reverse(load), shard));
    for (_, shard) in shards {
        let mut takers = tally.bands.takers.clone();
        takers.sort_by_key(|&node| (tally.over(node), tally.shards_on(node).len(), node));
        if let Some(node) = takers.into_iter().find(|&node| tally.has_room(shard, node)) {
            tally.put(shard, node);
        }
    }
}

/// Gives shards that are larger than the mean the node that is left to them.
pub(super) fn part_giants(tally: &mut Tally<'_>) {
    let bands = tally.bands;
    for &(shard, node) in &bands.giants {
        if tally.has_room(shard, node) {
            tally.put(shard, node);
        }
    }
}

pub(super) fn even_out(tally: &mut Tally<'_>) {
    let mut exchanges = EXCHANGES_MAX;
    while !tally.is_even() && exchanges > 0 {
        if step(tally) {
            continue;
        }
        if !exchange(tally) {
            return;
        }
        exchanges -= 1;
    }
}

/// One move that serves both its nodes.
fn step(tally: &mut Tally<'_>) -> bool {
    let takers = &tally.bands.takers;
    let fullest = takers
        .iter()
        .copied()
        .max_by_key(|&node| (tally.over(node), node));
    let emptiest = takers
        .iter()
        .copied()
        .min_by_key(|&node| (tally.over(node), node));
    let (Some(fullest), Some(emptiest)) = (fullest, emptiest) else {
        return false;
    };
    if moves_one(tally, fullest, emptiest) {
        return true;
    }
    // Mostly that pair has such a move.
    let mut nodes = takers.clone();
    nodes.sort_by_key(|&node| (tally.over(node), node));
    nodes.iter().any(|&target| moves_one(tally, fullest, target))
        || nodes
            .iter()
            .rev()
            .any(|&source| moves_one(tally, source, emptiest))
}

/// Moves the shard that fits best from one node to another, if one of the two is not as it should be.
fn moves_one(tally: &mut Tally<'_>, source: usize, target: usize) -> bool {
    let holds = |node: usize| tally.band(node).holds(tally.held(node));
    if source == target || (holds(source) && holds(target)) {
        return false;
    }
    let Some(shard) = fitting(tally, source, target) else {
        return false;
    };
    tally.put(shard, target);
    true
}

/// The shard whose load is nearest to what `source` has too much and `target` too little.
fn fitting(tally: &mut Tally<'_>, source: usize, target: usize) -> Option<usize> {
    let (surplus, lack) = (tally.over(source), -tally.over(target));
    let wanted = surplus.min(lack);
    let most = (tally.held(source) - tally.band(source).low)
        .min(tally.band(target).high - tally.held(target))
        // The two come nearer to their goals: no two steps undo each other.
        .min(surplus.saturating_add(lack).saturating_sub(1));
    if wanted <= 0 || most <= 0 {
        return None;
    }
    let near = nearest(tally.shards_on(source), wanted, most);
    near.into_iter().find(|&shard| tally.has_room(shard, target))
}

/// Shards of a load from 1 to `most`, the one nearest to `wanted` first.
fn nearest(shards: &[(i64, usize)], wanted: i64, most: i64) -> Vec<usize> {
    let above = shards.partition_point(|&(load, _)| load <= wanted);
    let (mut below, mut above) = (
        shards[..above].iter().rev().peekable(),
        shards[above..].iter().peekable(),
    );
    let mut found = Vec::new();
    while found.len() < TRIES {
        let down = below.peek().filter(|(load, _)| *load > 0);
        let up = above.peek().filter(|(load, _)| *load <= most);
        let takes_down = match (down, up) {
            (Some((down, _)), Some((up, _))) => wanted - down <= up - wanted,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => break,
        };
        let next = if takes_down { below.next() } else { above.next() };
        let Some(&(load, shard)) = next else { break };
        if load <= most {
            found.push(shard);
        }
    }
    found
}

/// A larger shard there, a smaller one back: the exchange that brings all nodes nearest to their bands. Also a single move
/// that serves one of its nodes more than it costs the other.
fn exchange(tally: &mut Tally<'_>) -> bool {
    let nodes = tally.bands.takers.clone();
    let worst = nodes
        .iter()
        .copied()
        .max_by_key(|&node| (tally.band(node).outside(tally.held(node)), Reverse(node)));
    let Some(worst) = worst else { return false };
    let mut best: Option<(Cost, usize, Option<usize>, usize, usize)> = None;
    for &other in nodes.iter().filter(|&&other| other != worst) {
        let (source, target) = if tally.over(worst) > 0 {
            (worst, other)
        } else {
            (other, worst)
        };
        let now = cost(tally, source, target, 0);
        for (shard, back, net) in exchanges(tally, source, target) {
            let then = cost(tally, source, target, net);
            // What counts is how much is won, over all pairs of nodes.
            let won = Cost {
                outside: then.outside - now.outside,
                squares: then.squares - now.squares,
            };
            let is_won = won
                < Cost {
                    outside: 0,
                    squares: 0,
                };
            if is_won
                && best.as_ref().is_none_or(|(least, ..)| won < *least)
                && tally.has_room(shard, target)
                && back.is_none_or(|back| tally.has_room(back, source))
            {
                best = Some((won, shard, back, source, target));
            }
        }
    }
    let Some((_, shard, back, source, target)) = best else {
        return false;
    };
    tally.put(shard, target);
    if let Some(back) = back {
        tally.put(back, source);
    }
    true
}

/// How far two nodes are outside their bands, and then from their goals. Each exchange makes the sum over all nodes
/// smaller, so they come to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    outside: i64,
    squares: i128,
}

fn cost(tally: &Tally<'_>, source: usize, target: usize, net: i64) -> Cost {
    let of = |node: usize, held: i64| {
        let band = tally.band(node);
        let over = i128::from(held - band.goal);
        (band.outside(held), over * over)
    };
    let (source_outside, source_square) = of(source, tally.held(source) - net);
    let (target_outside, target_square) = of(target, tally.held(target) + net);
    Cost {
        outside: source_outside + target_outside,
        squares: source_square + target_square,
    }
}

/// For each shard of `source`: alone, and against the shards of `target` that leave a difference next to what is wanted.
fn exchanges(tally: &Tally<'_>, source: usize, target: usize) -> Vec<(usize, Option<usize>, i64)> {
    let wanted = i64::midpoint(tally.over(source), -tally.over(target));
    let backs = tally.shards_on(target);
    let mut found = Vec::new();
    for &(load, shard) in tally.shards_on(source).iter().filter(|(load, _)| *load > 0) {
        found.push((shard, None, load));
        let place = backs.partition_point(|&(back, _)| back <= load - wanted);
        for at in [place.checked_sub(1), Some(place)].into_iter().flatten() {
            if let Some(&(back_load, back)) = backs.get(at)
                && back_load > 0
                && back_load < load
            {
                found.push((shard, Some(back), load - back_load));
            }
        }
    }
    found
}

/// Leaves shards where they are that later steps made needless to move, the smallest first.
pub(super) fn take_back(tally: &mut Tally<'_>) {
    let mut moved: Vec<usize> = tally.moved().collect();
    moved.sort_by_key(|&shard| (tally.load(shard), shard));
    for shard in moved {
        let (node, home) = (tally.node_of(shard), tally.home(shard));
        if !tally.bands.takers.contains(&home) {
            continue;
        }
        let outside = tally.outside();
        tally.put(shard, home);
        if tally.outside() > outside {
            tally.put(shard, node);
        }
    }
}
