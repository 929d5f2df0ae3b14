//! Tests of what is decided about a move that is over.

use super::super::verify::{Verification, VerifyState};
use super::*;

fn moved(rollback: &str, wish: Option<Wish>) -> Move {
    Move {
        kind: "move".to_owned(),
        state: State::Moved,
        rollback: rollback.to_owned(),
        wish,
        finished: 1_000,
        ..Move::default()
    }
}

#[test]
fn a_way_back_ends_by_a_word_by_time_or_by_another_move() {
    let day = Some(Duration::from_secs(100));
    let stays = moved("yes", None);
    assert_eq!(next(&stays, true, Taker::Nobody, 1_099, day), Next::Stay);
    assert_eq!(
        next(&stays, true, Taker::Nobody, 1_100, day),
        Next::Finalize("its time is over")
    );
    assert_eq!(next(&stays, true, Taker::Nobody, u64::MAX, None), Next::Stay);
    let taken = next(&stays, true, Taker::Task("m2"), 1_000, day);
    assert_eq!(taken, Next::GiveWay("m2".to_owned()));
    let given = moved("no (moved again)", None);
    assert!(matches!(
        next(&given, false, Taker::Task("m2"), 1_000, day),
        Next::Finalize(_)
    ));
    // The other one may be over before this one could clear what is left.
    for rollback in ["yes", "no (moved again)"] {
        let past = next(&moved(rollback, None), true, Taker::Past, 1_000, day);
        assert_eq!(past, Next::Finalize("its shards are moved again"));
    }
    let finalize = moved("yes", Some(Wish::Finalize));
    assert_eq!(
        next(&finalize, true, Taker::Nobody, 1_000, day),
        Next::Finalize("finalized")
    );
}

#[test]
fn it_is_gone_back_only_while_the_source_follows() {
    let wished = |rollback| moved(rollback, Some(Wish::Rollback));
    assert_eq!(next(&wished("yes"), true, Taker::Nobody, 1, None), Next::RollBack);
    assert_eq!(next(&wished("soon"), false, Taker::Nobody, 1, None), Next::Stay);
    assert_eq!(
        next(&wished("no (lost)"), false, Taker::Nobody, 1, None),
        Next::Stay
    );
    // In time is in time; but who takes the shards was there before.
    let late = next(&wished("yes"), true, Taker::Nobody, u64::MAX, Some(PACE));
    assert_eq!(late, Next::RollBack);
    assert!(matches!(
        next(&wished("yes"), true, Taker::Task("m2"), 1, None),
        Next::GiveWay(_)
    ));
}

#[test]
fn a_task_that_is_not_over_takes_its_shards() {
    let record = |id: &str, state, shards: &str| {
        let task = Move {
            kind: "move".to_owned(),
            state,
            shards: shards.to_owned(),
            ..Move::default()
        };
        let record = Record {
            id: id.to_owned(),
            document: task.encode(),
            revision: crate::store::Revision::NONE,
        };
        (id.to_owned(), Arc::new(record))
    };
    let records: BTreeMap<_, _> = [
        record("m1", State::Moved, "0-3"),
        record("m2", State::Planned, "3-5"),
        record("m3", State::Failed, "0-2"),
    ]
    .into();
    let of = |shards: &[u16]| {
        let is_ours = |shard: &ShardId| shards.contains(&shard.0);
        taker_of("m1", &is_ours, &records, 8)
    };
    assert_eq!(of(&[0, 1, 2, 3]), Some("m2"));
    assert_eq!(of(&[0, 1, 2]), None);
    let is_ours = |_: &ShardId| true;
    assert_eq!(
        taker_of("m2", &is_ours, &records, 8),
        None,
        "itself, and what is over"
    );
}

#[test]
fn shards_do_not_go_back_to_a_node_that_is_known_to_differ() {
    let verified = |state, follower: &str| Move {
        source: "a".to_owned(),
        target: "b".to_owned(),
        shards: "0-3".to_owned(),
        verify: Some(Verification {
            state,
            mismatches: 1,
            found: vec!["database 1, key \"k\": the values differ".to_owned()],
            follower: follower.to_owned(),
            ..Verification::default()
        }),
        ..moved("yes", Some(Wish::Rollback))
    };
    let of = |task: &Move| next(task, true, Taker::Nobody, 1_000, None);
    let differs = verified(VerifyState::Different, "a");
    let Next::Refuse(why) = of(&differs) else {
        panic!("{:?}", of(&differs))
    };
    assert!(
        why.contains("node 'a' is not the same as 'b' (differences: 1; the first: database 1")
            && why.contains("SHARD MOVE 0-3 TO a"),
        "{why}"
    );
    for other in [
        verified(VerifyState::Same, "a"),
        verified(VerifyState::Failed, "a"),
        verified(VerifyState::Running, "a"),
        // Before the cutover, and put right since.
        verified(VerifyState::Different, "b"),
    ] {
        assert_eq!(of(&other), Next::RollBack, "{other:?}");
    }
}
