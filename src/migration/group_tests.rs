//! Tasks of many moves: how they are cut, what is begun when, how they end, and that their records are all that is needed.

use super::*;
use crate::migration::chores::{Chore, FINISHED_MAX, chores};
use crate::store::{Record, Revision};
use std::collections::BTreeMap;
use std::sync::Arc;

const NODES: [&str; 4] = ["a", "b", "c", "d"];

/// 1,024 shards on four nodes.
fn topology() -> Topology {
    let nodes = NODES
        .iter()
        .zip(7001..)
        .map(|(name, port)| crate::topology::Node {
            name: (*name).to_owned(),
            address: format!("127.0.0.1:{port}").parse().unwrap(),
        });
    Topology::seed("test".to_owned(), 1024, 0, nodes.collect()).unwrap()
}

fn way(source: &str, target: &str, shards: std::ops::Range<u16>) -> (String, String, Vec<ShardId>) {
    (
        source.to_owned(),
        target.to_owned(),
        shards.map(ShardId).collect(),
    )
}

fn over(state: State) -> Move {
    Move {
        kind: "move".to_owned(),
        state,
        keys: 10,
        pause_ms: 2.5,
        error: "why".to_owned(),
        ..Move::default()
    }
}

/// Advances with these children.
fn advance(group: &mut Group, children: &Children) -> Vec<usize> {
    let step = group.advance("d1", children, &topology(), 99);
    step.begin.iter().map(|(number, _)| *number).collect()
}

#[test]
fn shards_are_cut_into_chunks_that_say_what_they_move() {
    let group = Group::in_chunks("drain", "a", vec![way("a", "b", 0..100), way("a", "c", 100..130)]);
    let chunks = group.chunks();
    let sizes: Vec<usize> = chunks.iter().map(|chunk| chunk.shards.len()).collect();
    assert_eq!(sizes, [64, 36, 30]);
    assert_eq!(group.outcomes, "...");
    assert_eq!((chunks[2].source.as_str(), chunks[2].target.as_str()), ("a", "c"));
    assert_eq!(group.shards(), (0..130).map(ShardId).collect::<Vec<_>>());
    assert_eq!(Group::decode(&group.encode()), Some(group));
    assert_eq!(Group::decode(&Move::default().encode()), None);
}

#[test]
fn a_task_has_a_bounded_number_of_children_whose_size_grows_instead() {
    let group = Group::in_chunks("drain", "a", vec![way("a", "b", 0..16_383)]);
    assert_eq!(group.chunk, 256);
    assert_eq!(group.outcomes.len(), 64);
    assert_eq!(group.chunks().len(), 64);
    let one = Group::whole("moves", "", vec![way("a", "b", 0..300), way("c", "b", 300..310)]);
    assert_eq!(one.chunks().len(), 2, "a chunk for each source");
}

#[test]
fn children_begin_one_at_a_time_for_each_node_and_apart_ones_together() {
    let ways = vec![
        way("a", "b", 0..128),
        way("a", "c", 128..140),
        way("c", "d", 512..520),
    ];
    let mut group = Group::in_chunks("plan", "e1", ways);
    // Chunks: 0 and 1 from a to b, 2 from a to c, 3 from c to d.
    let step = group.advance("d1", &Children::new(), &topology(), 1);
    let begun: Vec<usize> = step.begin.iter().map(|(number, _)| *number).collect();
    assert_eq!(begun, [0, 3]);
    assert_eq!(group.state, State::Copying);
    let child = &step.begin[0].1;
    assert_eq!((child.parent.as_str(), child.shards.as_str()), ("d1", "0-63"));
    let mut children = Children::new();
    for (number, child) in step.begin {
        children.insert(number, child);
    }
    assert_eq!(
        advance(&mut group, &children),
        Vec::<usize>::new(),
        "all nodes are busy"
    );
    children.get_mut(&0).unwrap().state = State::Moved;
    assert_eq!(advance(&mut group, &children), [1]);
    assert_eq!(group.outcomes, "m...");
}

#[test]
fn what_is_where_it_should_be_is_not_moved_and_what_is_elsewhere_fails() {
    // 256 to 511 live on b.
    let mut group = Group::in_chunks("drain", "a", vec![way("a", "b", 250..260)]);
    let step = group.advance("d1", &Children::new(), &topology(), 1);
    assert_eq!(step.begin[0].1.shards, "250-255", "the others are there already");
    let mut group = Group::in_chunks("drain", "a", vec![way("a", "b", 256..260)]);
    advance(&mut group, &Children::new());
    assert_eq!((group.state, group.outcomes.as_str()), (State::Moved, "m"));
    let mut group = Group::in_chunks("drain", "a", vec![way("a", "b", 600..602)]);
    advance(&mut group, &Children::new());
    assert_eq!(group.state, State::Failed);
    assert!(
        group
            .error
            .contains("shard 600 does not live on node 'a' any more"),
        "{}",
        group.error
    );
    let mut group = Group::in_chunks("drain", "a", vec![way("a", "gone", 0..2)]);
    advance(&mut group, &Children::new());
    assert_eq!(group.state, State::Failed);
}

#[test]
fn a_failed_child_lets_the_others_go_on_and_three_stop_the_rest() {
    let mut group = Group::in_chunks("drain", "a", vec![way("a", "b", 0..256), way("a", "c", 256..257)]);
    let mut children = Children::new();
    for number in 0..3 {
        children.insert(number, over(State::Failed));
        let begun = advance(&mut group, &children);
        let expected = if number < 2 { vec![number + 1] } else { Vec::new() };
        assert_eq!(begun, expected);
    }
    assert_eq!((group.state, group.outcomes.as_str()), (State::Failed, "fffcc"));
    assert_eq!(group.error, "d1-0: why");
    assert_eq!((group.finished, group.keys), (99, 30));
    let mut one = Group::in_chunks("drain", "a", vec![way("a", "b", 0..100)]);
    let children = Children::from([(0, over(State::Failed)), (1, over(State::Moved))]);
    advance(&mut one, &children);
    assert_eq!((one.state, one.outcomes.as_str()), (State::Failed, "fm"));
    assert!(one.pause_ms > 2.0);
}

#[test]
fn a_cancelled_task_keeps_what_has_moved_and_begins_nothing() {
    let mut group = Group::in_chunks("drain", "a", vec![way("a", "b", 0..200)]);
    let running = Move {
        source: "a".to_owned(),
        target: "b".to_owned(),
        ..over(State::Streaming)
    };
    let mut children = Children::from([(0, over(State::Moved)), (1, running)]);
    advance(&mut group, &children);
    let mut group = group.wished("d1", Wish::Cancel).unwrap().unwrap();
    let step = group.advance("d1", &children, &topology(), 5);
    assert_eq!((step.begin.len(), step.tell), (0, vec![(1, Wish::Cancel)]));
    assert_eq!((group.state, group.outcomes.as_str()), (State::Copying, "m.cc"));
    // It was too late for the one that was under way.
    children.insert(1, over(State::Moved));
    advance(&mut group, &children);
    assert_eq!(
        (group.state, group.outcomes.as_str(), group.wish),
        (State::Cancelled, "mmcc", None)
    );
    assert_eq!(group.clone().wished("d1", Wish::Cancel), Ok(None));
    assert!(group.wished("d1", Wish::Cutover).is_err());
}

#[test]
fn a_task_is_finalized_when_all_its_children_are() {
    let mut group = Group::in_chunks("drain", "a", vec![way("a", "b", 0..100)]);
    assert!(
        group.clone().wished("d1", Wish::Finalize).is_err(),
        "nothing has moved yet"
    );
    let mut children = Children::from([(0, over(State::Moved)), (1, over(State::Moved))]);
    advance(&mut group, &children);
    assert_eq!(group.state, State::Moved);
    let mut group = group.wished("d1", Wish::Finalize).unwrap().unwrap();
    let step = group.advance("d1", &children, &topology(), 5);
    assert_eq!(step.tell, [(0, Wish::Finalize), (1, Wish::Finalize)]);
    children
        .values_mut()
        .for_each(|child| child.wish = Some(Wish::Finalize));
    children.get_mut(&0).unwrap().state = State::Finalized;
    let step = group.advance("d1", &children, &topology(), 5);
    assert_eq!(
        (step, group.state),
        (Step::default(), State::Moved),
        "told once, and one is not done"
    );
    children.get_mut(&1).unwrap().state = State::Finalized;
    group.advance("d1", &children, &topology(), 5);
    assert_eq!((group.state, group.wish), (State::Finalized, None));
    let mut group = Group {
        outcomes: "mm".to_owned(),
        state: State::Moved,
        ..Group::in_chunks("drain", "a", vec![way("a", "b", 0..100)])
    };
    advance(&mut group, &children);
    assert_eq!(group.state, State::Finalized, "nobody had to say it of the whole");
}

#[test]
fn a_summary_has_what_is_over_and_what_is_under_way() {
    let mut group = Group::in_chunks("drain", "a", vec![way("a", "b", 0..200)]);
    let mut children = Children::from([(0, over(State::Moved)), (1, over(State::CuttingOver))]);
    children.get_mut(&1).unwrap().lag_bytes = 7;
    advance(&mut group, &children);
    let summary = group.summary(children.values());
    assert_eq!(
        (summary.state, summary.keys, summary.lag_bytes),
        (State::CuttingOver, 20, 7)
    );
    assert_eq!((summary.children, summary.moved, summary.failed), (4, 1, 0));
    assert_eq!(group.shards_left(&topology()), 200);
}

// === records ===

fn record(id: &str, document: String) -> (String, Arc<Record>) {
    let record = Record {
        id: id.to_owned(),
        document,
        revision: Revision(7),
    };
    (id.to_owned(), Arc::new(record))
}

/// Carries chores out in memory.
fn apply(records: &mut BTreeMap<String, Arc<Record>>, done: Vec<Chore>) {
    for chore in done {
        match chore {
            Chore::Write { id, document, over } => {
                let now = records.get(&id).map_or(Revision::NONE, |record| record.revision);
                assert_eq!(now, over, "{id}");
                let (id, record) = record(&id, document);
                records.insert(id, record);
            }
            Chore::Forget { id, .. } => drop(records.remove(&id).unwrap()),
        }
    }
}

#[test]
fn whoever_goes_on_from_the_records_at_any_moment_comes_to_the_same_end() {
    let group = Group::in_chunks("drain", "a", vec![way("a", "b", 0..100), way("a", "c", 100..200)]);
    let mut records = BTreeMap::from([record("d1", group.encode())]);
    let mut moved = 0;
    for _ in 0..50 {
        // Each step could be another leader's: nothing is kept between two of them.
        let todo = chores(&records, &topology(), 5);
        // One that dies in the middle of it has done a part.
        let part = todo.into_iter().take(1).collect();
        apply(&mut records, part);
        let open = records
            .values()
            .find(|record| Move::decode(&record.document).is_some_and(|child| !child.state.is_over()));
        let child = open.map(|record| (record.id.clone(), Move::decode(&record.document).unwrap()));
        if let Some((id, mut child)) = child {
            let running = records
                .values()
                .filter_map(|record| Move::decode(&record.document));
            assert_eq!(
                running.filter(|child| !child.state.is_over()).count(),
                1,
                "one at a time"
            );
            child.state = State::Moved;
            moved += shard_list(&child.shards, 1024).unwrap().len();
            let (id, record) = record(&id, child.encode());
            records.insert(id, record);
        }
    }
    let group = Group::decode(&records["d1"].document).unwrap();
    assert_eq!(
        (group.state, group.outcomes.as_str(), moved),
        (State::Moved, "mmmm", 200)
    );
    assert_eq!(
        chores(&records, &topology(), 6),
        [],
        "and then there is nothing to do"
    );
}

#[test]
fn only_the_newest_tasks_that_are_over_are_kept() {
    let mut records = BTreeMap::new();
    for number in 0..FINISHED_MAX as u64 + 20 {
        let task = Move {
            finished: number,
            ..over(if number == 3 {
                State::Moved
            } else {
                State::Finalized
            })
        };
        records.extend([record(&format!("m{number}"), task.encode())]);
    }
    records.extend([record("leading-7", "{}".to_owned())]);
    let group = Group {
        outcomes: "f.".to_owned(),
        state: State::Copying,
        ..Group::in_chunks("drain", "a", vec![way("a", "b", 0..100)])
    };
    records.extend([record("d1", group.encode())]);
    for (id, state) in [("d1-0", State::Failed), ("d1-1", State::Streaming)] {
        let child = Move {
            parent: "d1".to_owned(),
            source: "a".to_owned(),
            target: "b".to_owned(),
            ..over(state)
        };
        records.extend([record(id, child.encode())]);
    }
    let gone: Vec<String> = chores(&records, &topology(), 5)
        .into_iter()
        .filter_map(|chore| match chore {
            Chore::Forget { id, .. } => Some(id),
            Chore::Write { .. } => None,
        })
        .collect();
    // 119 that are over and clear, and the child whose outcome its parent has noted.
    assert_eq!(gone.len(), 20, "{gone:?}");
    assert!(
        gone.contains(&"d1-0".to_owned()) && gone.contains(&"m0".to_owned()),
        "{gone:?}"
    );
    assert!(!gone.contains(&"m3".to_owned()), "its source still has its copy");
    // A child that its parent has not heard of stays.
    let waiting = Group {
        outcomes: "..".to_owned(),
        ..group
    };
    records.extend([record("d1", waiting.encode())]);
    let kept = chores(&records, &topology(), 5);
    assert!(
        !kept
            .iter()
            .any(|chore| matches!(chore, Chore::Forget { id, .. } if id == "d1-0"))
    );
}
