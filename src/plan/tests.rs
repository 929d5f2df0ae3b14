//! Plans against what must hold of every plan, and, where shards are few, against all assignments there are.

use std::time::Instant;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn node(number: usize, role: Role) -> NodeLoad {
    NodeLoad {
        name: format!("n{number}"),
        role,
        room_bytes: None,
    }
}

/// Shards with their loads on nodes; both by position.
fn layout(nodes: usize, shards: &[(u64, usize)]) -> Layout {
    let shard = |(id, &(load, node)): (u16, &(u64, usize))| ShardLoad {
        shard: ShardId(id),
        node: NodeIndex(u16::try_from(node).unwrap()),
        load,
        bytes: load,
    };
    Layout {
        unit: "keys",
        nodes: (0..nodes).map(|number| node(number, Role::Shares)).collect(),
        shards: (0..).zip(shards).map(shard).collect(),
    }
}

fn loads(shares: &[NodeShare]) -> Vec<u64> {
    shares.iter().map(|share| share.load).collect()
}

/// Whether each load is within the tolerance of the mean, by the definition.
fn is_even(loads: &[u64]) -> bool {
    let (total, count) = (
        loads.iter().map(|&load| u128::from(load)).sum::<u128>(),
        loads.len() as u128,
    );
    loads
        .iter()
        .all(|&load| (u128::from(load) * count).abs_diff(total) * 100 <= total * 5)
}

fn worst(loads: &[u64]) -> u128 {
    let (total, count) = (
        loads.iter().map(|&load| u128::from(load)).sum::<u128>(),
        loads.len() as u128,
    );
    let off = loads
        .iter()
        .map(|&load| (u128::from(load) * count).abs_diff(total));
    off.max().unwrap_or(0)
}

/// What must hold of every plan: each shard once, from where it is, and the shares are what the moves make of them.
fn check(layout: &Layout, plan: &Rebalance) {
    let mut held: Vec<u64> = loads(&plan.before);
    let mut seen = std::collections::BTreeSet::new();
    for planned in &plan.moves {
        assert!(seen.insert(planned.shard), "{:?} moves twice", planned.shard);
        let shard = layout
            .shards
            .iter()
            .find(|shard| shard.shard == planned.shard)
            .unwrap();
        assert_eq!(shard.node, planned.source);
        assert_ne!(planned.source, planned.target);
        let (source, target) = (
            &layout.nodes[planned.source.index()],
            &layout.nodes[planned.target.index()],
        );
        assert_ne!(source.role, Role::Away);
        assert_eq!(target.role, Role::Shares);
        held[planned.source.index()] -= planned.load;
        held[planned.target.index()] += planned.load;
        assert!(
            planned.reason.contains("the mean") || planned.reason.contains("gives"),
            "{planned:?}"
        );
    }
    assert_eq!(held, loads(&plan.after));
    for (number, node) in layout.nodes.iter().enumerate() {
        let came = plan
            .moves
            .iter()
            .filter(|planned| planned.target.index() == number);
        let bytes: u128 = came
            .map(|planned| u128::from(layout.shards[usize::from(planned.shard.0)].bytes))
            .sum();
        assert!(node.room_bytes.is_none_or(|room| bytes <= u128::from(room)));
    }
    if layout.nodes.iter().all(|node| node.role == Role::Shares) {
        assert!(
            worst(&loads(&plan.after)) <= worst(&loads(&plan.before)),
            "{plan:?}"
        );
        assert_eq!(
            plan.obstacles.is_empty(),
            is_even(&loads(&plan.after)),
            "{layout:?} {plan:?}"
        );
    }
}

fn planned(layout: &Layout) -> Rebalance {
    let plan = rebalance(layout);
    check(layout, &plan);
    assert_eq!(plan, rebalance(layout), "the same layout, the same plan");
    plan
}

/// The fewest moves that make a layout even, out of all assignments.
fn fewest_moves(nodes: usize, shards: &[(u64, usize)]) -> Option<usize> {
    let all = nodes.pow(u32::try_from(shards.len()).unwrap());
    let assignment = |number: usize| {
        let mut held = vec![0; nodes];
        let (mut number, mut moves) = (number, 0);
        for &(load, home) in shards {
            held[number % nodes] += load;
            moves += usize::from(number % nodes != home);
            number /= nodes;
        }
        is_even(&held).then_some(moves)
    };
    (0..all).filter_map(assignment).min()
}

fn few_shards() -> impl Strategy<Value = (usize, Vec<(u64, usize)>)> {
    let load = prop_oneof![Just(0), 1..12_u64, 1..400_u64, 1000..100_000_u64];
    (1..4_usize).prop_flat_map(move |nodes| (Just(nodes), vec((load.clone(), 0..nodes), 0..8)))
}

proptest! {
    #[test]
    fn a_few_shards_are_evened_out_whenever_there_is_a_way_with_the_fewest_moves((nodes, shards) in few_shards()) {
        let layout = layout(nodes, &shards);
        let plan = planned(&layout);
        match fewest_moves(nodes, &shards) {
            Some(moves) => {
                prop_assert!(is_even(&loads(&plan.after)), "{plan:?}");
                prop_assert_eq!(plan.moves.len(), moves);
            }
            None => prop_assert!(!is_even(&loads(&plan.after)) && !plan.obstacles.is_empty()),
        }
    }

    /// No shard larger than the tolerance: then there is always a way, and it takes little more than what has to move at
    /// least.
    #[test]
    fn many_shards_are_evened_out_with_few_moves(
        nodes in 2..12_usize,
        shards in vec((50..150_u64, any::<prop::sample::Index>()), 400..900),
        skew in 1..6_usize,
    ) {
        // The higher the skew, the more shards are on the first nodes.
        let skewed = |index: &prop::sample::Index| {
            (0..skew).fold(nodes, |below, _| index.index(below) + 1) - 1
        };
        let shards: Vec<(u64, usize)> = shards.iter().map(|(load, index)| (*load, skewed(index))).collect();
        let layout = layout(nodes, &shards);
        let plan = planned(&layout);
        prop_assert!(is_even(&loads(&plan.after)), "{plan:?}");
        let total: u64 = shards.iter().map(|(load, _)| load).sum();
        let most = total * 105 / (100 * nodes as u64);
        let surplus: u64 = loads(&plan.before).iter().map(|load| load.saturating_sub(most)).sum();
        let least: u64 = loads(&plan.before).iter().map(|load| (total * 95 / (100 * nodes as u64)).saturating_sub(*load)).sum();
        // No shard holds more than 150.
        let needed = usize::try_from(surplus.max(least) / 150).unwrap();
        prop_assert!(plan.moves.len() <= needed * 2 + nodes, "{} moves, {needed} needed", plan.moves.len());
    }

    #[test]
    fn roles_and_room_are_kept_whatever_the_loads(
        roles in vec(prop_oneof![4 => Just(Role::Shares), 1 => Just(Role::Leaves), 1 => Just(Role::Away)], 1..6),
        shards in vec((prop_oneof![0..50_u64, 0..5000_u64, Just(u64::MAX)], any::<prop::sample::Index>()), 0..60),
        rooms in vec(prop::option::of(0..20_000_u64), 6),
    ) {
        let shards: Vec<(u64, usize)> = shards.iter().map(|(load, index)| (*load, index.index(roles.len()))).collect();
        let mut layout = layout(roles.len(), &shards);
        for (number, node) in layout.nodes.iter_mut().enumerate() {
            (node.role, node.room_bytes) = (roles[number], rooms[number]);
        }
        for shard in &mut layout.shards {
            // A load beyond counting is counted as the most that can be.
            shard.load = shard.load.min(1 << 44);
        }
        let plan = rebalance(&layout);
        check(&layout, &plan);
        let no_limits = rooms.iter().all(Option::is_none) && roles.contains(&Role::Shares);
        if no_limits {
            for (number, role) in roles.iter().enumerate() {
                prop_assert!(*role != Role::Leaves || plan.after[number].shards == 0);
            }
        }
    }
}

#[test]
fn a_skewed_cluster_is_evened_out_and_says_why() {
    let layout = layout(2, &[(400, 0), (300, 0), (100, 0), (0, 0), (100, 1), (100, 1)]);
    let plan = planned(&layout);
    assert_eq!(loads(&plan.before), [800, 200]);
    assert_eq!(plan.moves.len(), 1);
    let planned = &plan.moves[0];
    assert_eq!(
        (planned.shard, planned.source, planned.target, planned.load),
        (ShardId(1), NodeIndex(0), NodeIndex(1), 300)
    );
    assert_eq!(
        planned.reason,
        "n0 is 60 % above the mean, n1 60 % below the mean; then both are at the mean"
    );
    assert_eq!(plan.before[0].percent_of_mean, Some(160.0));
    assert_eq!(
        (plan.after[1].shards, plan.after[1].percent_of_mean),
        (3, Some(100.0))
    );
}

#[test]
fn an_even_cluster_an_empty_one_and_a_single_node_are_left_alone() {
    for shards in [&[(100, 0), (104, 1)][..], &[(0, 0), (0, 0)], &[]] {
        let plan = planned(&layout(2, shards));
        assert_eq!((plan.moves.len(), plan.obstacles.len()), (0, 0), "{shards:?}");
    }
    assert_eq!(planned(&layout(2, &[(0, 0)])).before[0].percent_of_mean, None);
    let alone = planned(&layout(1, &[(5, 0), (7, 0)]));
    assert_eq!((alone.moves.len(), alone.obstacles.len()), (0, 0));
    let nobody = rebalance(&Layout {
        nodes: vec![node(0, Role::Away)],
        ..layout(1, &[(5, 0)])
    });
    assert_eq!(nobody.obstacles, ["no node is there to take shards"]);
}

#[test]
fn a_shard_larger_than_the_mean_gets_a_node_for_itself() {
    let shards = [(900, 0), (50, 0), (50, 0), (50, 1), (50, 1)];
    let plan = planned(&layout(3, &shards));
    assert_eq!(loads(&plan.after), [900, 100, 100]);
    assert_eq!(
        plan.obstacles,
        [
            "shard 0 alone holds 900 keys, and the mean of a node is 366: n0 stays above it, since a shard is not divided",
            "the other nodes share what is left"
        ]
    );
    assert!(plan.moves.iter().all(|planned| planned.shard != ShardId(0)));
    // Two of them on one node: one has to go.
    let two = planned(&layout(3, &[(1100, 0), (1060, 0), (420, 1), (420, 2)]));
    let mut after = loads(&two.after);
    after.sort_unstable();
    assert_eq!(after, [840, 1060, 1100]);
}

#[test]
fn what_is_too_coarse_is_told() {
    let plan = planned(&layout(2, &[(10, 0), (10, 0), (10, 0)]));
    assert_eq!(plan.moves.len(), 1);
    assert_eq!(
        plan.obstacles[0],
        "n0 stays 33 % above the mean: no shard, and no exchange of two, brings it within 5 %"
    );
}

#[test]
fn an_exchange_is_found_where_no_single_move_helps() {
    let shards = [(60, 0), (61, 0), (50, 1), (45, 1)];
    let plan = planned(&layout(2, &shards));
    assert!(is_even(&loads(&plan.after)));
    assert_eq!(plan.moves.len(), 2);
    for planned in &plan.moves {
        assert!(planned.reason.starts_with("in exchange: "), "{planned:?}");
    }
}

#[test]
fn a_node_that_leaves_is_emptied_and_one_that_is_away_is_left_alone() {
    let mut layout = layout(4, &[(10, 0), (0, 0), (10, 1), (10, 2), (7, 3)]);
    layout.nodes[0].role = Role::Leaves;
    layout.nodes[3].role = Role::Away;
    let plan = planned(&layout);
    assert_eq!(plan.after[0].shards, 0);
    assert_eq!(plan.moves.len(), 2);
    assert_eq!(plan.after[3], plan.before[3]);
    assert_eq!(plan.after[3].percent_of_mean, None);
    assert!(
        plan.moves[0].reason.starts_with("n0 gives everything away"),
        "{plan:?}"
    );
}

#[test]
fn a_node_without_memory_gets_nothing_and_that_is_told() {
    let mut layout = layout(2, &[(10, 0), (10, 0), (10, 0), (10, 0)]);
    layout.nodes[1].room_bytes = Some(9);
    let plan = planned(&layout);
    assert_eq!(plan.moves, []);
    assert_eq!(
        plan.obstacles,
        [
            "n0 stays 100 % above the mean: those that hold less have not the memory for more",
            "n1 stays 100 % below the mean: it has not the memory for more (maxmemory)"
        ]
    );
    layout.nodes[1].room_bytes = Some(20);
    assert_eq!(planned(&layout).moves.len(), 2);
}

#[test]
fn thousands_of_shards_are_planned_at_once() {
    let shards: Vec<(u64, usize)> = (0..4096_u64)
        .map(|shard| {
            let node = usize::try_from(shard * 8 / 4096).unwrap();
            (100 + shard * 7919 % 1000, node * node / 8)
        })
        .collect();
    let layout = layout(8, &shards);
    let begin = Instant::now();
    let plan = rebalance(&layout);
    let took = begin.elapsed();
    check(&layout, &plan);
    assert!(is_even(&loads(&plan.after)));
    println!("{} moves in {took:?}", plan.moves.len());
    assert!(took.as_secs() < 5, "{took:?}");
}

#[test]
fn a_node_that_leaves_gives_everything_to_those_that_hold_least_and_nobody_else_moves() {
    let mut layout = layout(3, &[(50, 0), (30, 0), (20, 0), (0, 0), (60, 1), (10, 2), (10, 2)]);
    layout.nodes[0].role = Role::Leaves;
    let plan = empty(&layout);
    check(&layout, &plan);
    assert!(
        plan.moves.iter().all(|planned| planned.source == NodeIndex(0)),
        "{plan:?}"
    );
    assert_eq!((plan.moves.len(), plan.after[0].shards), (4, 0));
    // 50 and 20 to the one with 20, 30 to the one with 60.
    assert_eq!(loads(&plan.after), [0, 90, 90]);
    assert_eq!(plan.obstacles, Vec::<String>::new());
    let moved = &plan.moves[0].reason;
    assert!(moved.contains("n0 gives everything away"), "{moved}");
}

#[test]
fn what_no_node_has_the_memory_for_stays_and_is_told_of() {
    let mut layout = layout(3, &[(50, 0), (30, 0), (60, 1), (10, 2)]);
    layout.nodes[0].role = Role::Leaves;
    layout.nodes[1].room_bytes = Some(10);
    layout.nodes[2].role = Role::Away;
    let plan = empty(&layout);
    assert_eq!(plan.moves, []);
    assert_eq!(
        plan.obstacles,
        ["2 shards stay on n0: no node has the memory for them"]
    );
}
