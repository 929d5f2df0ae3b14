//! Moves with their reasons, and what is in the way of an even layout, in words.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::tally::Tally;
use super::{Move, TOLERANCE_PERCENT};
use crate::ids::{NodeIndex, ShardId};

/// What moves, the largest shards first; the reasons tell of the nodes as they are when the moves before are done.
pub(super) fn moves(before: &Tally<'_>, after: &Tally<'_>) -> Vec<Move> {
    let mut moved: Vec<usize> = after.moved().collect();
    moved.sort_by_key(|&shard| (Reverse(before.load(shard)), before.layout.shards[shard].shard));
    let ways: BTreeSet<(usize, usize)> = moved
        .iter()
        .map(|&shard| (before.node_of(shard), after.node_of(shard)))
        .collect();
    let mut now = before.clone();
    let planned = moved.into_iter().map(|shard| {
        let (source, target) = (before.node_of(shard), after.node_of(shard));
        let (source_was, target_was) = (now.held(source), now.held(target));
        let (source_over, target_over) = (now.over(source), now.over(target));
        now.put(shard, target);
        let name = |node: usize| before.layout.nodes[node].name.as_str();
        let is = |held: i64| standing(before, held);
        let reason = if !before.bands.takers.contains(&source) {
            format!(
                "{} gives everything away; {} is {}",
                name(source),
                name(target),
                is(target_was)
            )
        } else if !ways.contains(&(target, source)) && before.load(shard) < source_over - target_over {
            let (source_is, target_is) = (is(now.held(source)), is(now.held(target)));
            let then = if source_is == target_is {
                format!("both are {source_is}")
            } else {
                format!("{source_is} and {target_is}")
            };
            format!(
                "{} is {}, {} {}; then {then}",
                name(source),
                is(source_was),
                name(target),
                is(target_was),
            )
        } else {
            format!(
                "in exchange: with the other moves {} comes to {} and {} to {}",
                name(source),
                is(after.held(source)),
                name(target),
                is(after.held(target))
            )
        };
        Move {
            shard: before.layout.shards[shard].shard,
            source: index(source),
            target: index(target),
            load: u64::try_from(before.load(shard)).unwrap_or(0),
            reason,
        }
    });
    planned.collect()
}

fn index(node: usize) -> NodeIndex {
    NodeIndex(u16::try_from(node).unwrap_or(u16::MAX))
}

/// `60 % above the mean`
fn standing(tally: &Tally<'_>, held: i64) -> String {
    let Some(mille) = tally.mille_of_mean(held) else {
        return "nothing".to_owned();
    };
    let percent = (mille - 1000).abs().saturating_add(5) / 10;
    match (percent, mille > 1000) {
        (0, _) => "at the mean".to_owned(),
        (_, true) => format!("{percent} % above the mean"),
        (_, false) => format!("{percent} % below the mean"),
    }
}

/// Why nodes stay farther from the mean than they should.
pub(super) fn obstacles(after: &Tally<'_>) -> Vec<String> {
    let bands = after.bands;
    let (layout, unit) = (after.layout, after.layout.unit);
    let Some(mean) = bands.total.checked_div(count(bands.takers.len())) else {
        return vec!["no node is there to take shards".to_owned()];
    };
    let name = |node: usize| layout.nodes[node].name.as_str();
    let mut told = Vec::new();
    for &(shard, node) in &bands.giants {
        let ShardId(id) = layout.shards[shard].shard;
        told.push(format!(
            "shard {id} alone holds {} {unit}, and the mean of a node is {mean}: {} stays above it, since a shard is not divided",
            after.load(shard),
            name(node),
        ));
    }
    if !bands.giants.is_empty() {
        told.push("the other nodes share what is left".to_owned());
    }
    let is_full = |&node: &usize| after.was_full(node) && after.held(node) < after.band(node).low;
    let someone_is_full = bands.takers.iter().any(is_full);
    for node in 0..layout.nodes.len() {
        let Some(band) = bands.band(node) else { continue };
        let held = after.held(node);
        let is_taker = bands.takers.contains(&node);
        if !is_taker && !after.shards_on(node).is_empty() {
            told.push(stays(after, node));
        } else if is_taker && is_full(&node) {
            told.push(format!(
                "{} stays {}: it has not the memory for more (maxmemory)",
                name(node),
                standing(after, held)
            ));
        } else if is_taker && !band.holds(held) {
            let why = if held > band.high && someone_is_full {
                "those that hold less have not the memory for more".to_owned()
            } else {
                format!("no shard, and no exchange of two, brings it within {TOLERANCE_PERCENT} %")
            };
            told.push(format!("{} stays {}: {why}", name(node), standing(after, held)));
        }
    }
    told
}

/// What stays on a node that leaves.
pub(super) fn stays(after: &Tally<'_>, node: usize) -> String {
    let (shards, name) = (after.shards_on(node).len(), &after.layout.nodes[node].name);
    format!("{shards} shards stay on {name}: no node has the memory for them")
}

fn count(nodes: usize) -> i64 {
    i64::try_from(nodes).unwrap_or(i64::MAX)
}
