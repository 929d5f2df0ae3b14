//! Tasks of many moves that go back: in which order, where it ends, and that the records are all that is needed.

use super::*;
use crate::ids::ShardId;
use crate::topology::{Node, Topology};

/// Nobody is told.
const NOBODY: [usize; 0] = [];

fn topology() -> Topology {
    let nodes = ["a", "b"].iter().zip(7001..).map(|(name, port)| Node {
        name: (*name).to_owned(),
        address: format!("127.0.0.1:{port}").parse().unwrap(),
    });
    Topology::seed("test".to_owned(), 1024, 0, nodes.collect()).unwrap()
}

fn moved(finished: u64, shards: &str) -> Move {
    Move {
        kind: "move".to_owned(),
        state: State::Moved,
        rollback: "yes".to_owned(),
        shards: shards.to_owned(),
        source: "a".to_owned(),
        finished,
        ..Move::default()
    }
}

/// A task whose three children have moved, the second one last.
fn task() -> (Group, Children) {
    let shards = (0..192).map(ShardId).collect();
    let mut group = Group::in_chunks("drain", "a", vec![("a".to_owned(), "b".to_owned(), shards)]);
    let children = Children::from([
        (0, moved(10, "0-63")),
        (1, moved(30, "64-127")),
        (2, moved(20, "128-191")),
    ]);
    advance(&mut group, &children);
    assert_eq!((group.state, group.outcomes.as_str()), (State::Moved, "mmm"));
    (group, children)
}

/// One step, by whoever reads the record.
fn advance(group: &mut Group, children: &Children) -> Vec<usize> {
    *group = Group::decode(&group.encode()).unwrap();
    let step = group.advance("d1", children, &topology(), 99);
    assert!(step.begin.is_empty());
    step.tell
        .iter()
        .map(|(number, wish)| {
            assert_eq!(*wish, Wish::Rollback);
            *number
        })
        .collect()
}

fn wished(group: &mut Group, children: &Children) {
    *group = group.clone().wished_back("d1", children).unwrap().unwrap();
}

#[test]
fn children_go_back_one_after_the_other_the_last_one_first() {
    let (mut group, mut children) = task();
    wished(&mut group, &children);
    assert_eq!(group.summary(children.values()).state, State::RollingBack);
    for (number, left) in [(1, "mbm"), (2, "mbb"), (0, "bbb")] {
        assert_eq!(advance(&mut group, &children), [number]);
        let child = children.get_mut(&number).unwrap();
        child.wish = Some(Wish::Rollback);
        assert_eq!(advance(&mut group, &children), NOBODY, "it is told");
        let child = children.get_mut(&number).unwrap();
        (child.state, child.wish) = (State::RollingBack, None);
        assert_eq!(advance(&mut group, &children), NOBODY, "it is on its way");
        children.get_mut(&number).unwrap().state = State::RolledBack;
        if number != 0 {
            let mut other = group.clone();
            assert_eq!(advance(&mut other, &children).len(), 1);
            assert_eq!(other.outcomes, left);
        }
    }
    assert_eq!(advance(&mut group, &children), NOBODY);
    assert_eq!(
        (group.state, group.wish, group.outcomes.as_str()),
        (State::RolledBack, None, "bbb")
    );
    let summary = group.summary(children.values());
    assert_eq!((summary.moved, summary.rolled_back), (0, 3));
    assert_eq!(group.after(Wish::Rollback), Ok(()));
    assert_eq!(group.wished_back("d1", &children), Ok(None));
}

#[test]
fn it_ends_at_the_first_that_cannot_go_back_and_says_which() {
    let (mut group, mut children) = task();
    children.get_mut(&2).unwrap().rollback = "no (the target's history does not reach back)".to_owned();
    wished(&mut group, &children);
    assert_eq!(advance(&mut group, &children), [1]);
    children.get_mut(&1).unwrap().state = State::RolledBack;
    assert_eq!(advance(&mut group, &children), NOBODY);
    assert_eq!(
        (group.state, group.wish, group.outcomes.as_str()),
        (State::Moved, None, "mbm")
    );
    let said = "1 of its moves are rolled back, 2 are not. task d1-2 cannot be rolled back: no (the target's history does not reach \
                back). To bring the shards back, move them: PRESHARD SHARD MOVE 128-191 TO a. Others can be rolled back one by one";
    assert_eq!(group.error, said);
    assert_eq!(group.after(Wish::Rollback), Err(said.to_owned()));
    // Asked again, it is said at once.
    let again = group.wished_back("d1", &children);
    assert!(
        again
            .unwrap_err()
            .starts_with("task d1-2 cannot be rolled back: no (")
    );
}

#[test]
fn one_that_is_given_up_or_finalized_ends_it() {
    for (state, wish, said) in [
        (State::Moved, None, "task d1-1: not rolled back: why"),
        (State::Moved, Some(Wish::Finalize), "task d1-1 is being finalized"),
        (State::Finalized, None, "task d1-1 is over: finalized"),
    ] {
        let (mut group, mut children) = task();
        wished(&mut group, &children);
        assert_eq!(advance(&mut group, &children), [1]);
        let child = children.get_mut(&1).unwrap();
        (child.state, child.wish, child.error) = (state, wish, "not rolled back: why".to_owned());
        assert_eq!(advance(&mut group, &children), NOBODY);
        assert!(group.error.contains(said), "{}", group.error);
        assert_eq!((group.wish, group.outcomes.as_str()), (None, "mmm"));
    }
}

#[test]
fn what_is_not_over_or_has_nothing_to_take_back_is_refused() {
    let (group, children) = task();
    let refused = |group: Group, children: &Children| group.wished_back("d1", children).unwrap_err();
    let running = Group {
        state: State::Copying,
        ..group.clone()
    };
    assert!(refused(running, &children).starts_with("task d1 goes on; TASK CANCEL"));
    let finalizing = Group {
        wish: Some(Wish::Finalize),
        ..group.clone()
    };
    assert_eq!(refused(finalizing, &children), "task d1 is being finalized");
    let none = "task d1 has no move that can be rolled back";
    assert_eq!(refused(group.clone(), &Children::new()), none);
    // While it goes back nothing else is taken.
    let (mut group, children) = task();
    wished(&mut group, &children);
    for wish in [Wish::Finalize, Wish::Cancel, Wish::Cutover] {
        let refused = group.clone().wished("d1", wish).unwrap_err();
        assert_eq!(refused, "task d1 is being rolled back");
    }
}

#[test]
fn a_child_that_was_rolled_back_by_its_own_word_counts() {
    let (mut group, mut children) = task();
    for child in children.values_mut() {
        child.state = State::RolledBack;
    }
    assert_eq!(advance(&mut group, &children), NOBODY);
    assert_eq!((group.state, group.outcomes.as_str()), (State::RolledBack, "bbb"));
}
