//! Thousands of seeds, and mistakes that they must find.
//!
//! `PRESHARD_SIM_SEED=7 cargo test --lib sim::tests::seed -- --ignored --nocapture` plays one again and tells its story; with
//! `PRESHARD_SIM_MISTAKE=3` with the third of [`PLANTED`]. `PRESHARD_SIM_SEEDS=100000` plays so many in place of [`SEEDS`].

use super::faults::Slip;
use super::play::{Planted, Seen, play};
use crate::control::Mistake;

/// Seeds of a run of the tests, all parts together.
const SEEDS: u64 = 2_000;
const PARTS: u64 = 8;
/// A mistake must be found by one of so many seeds.
const FOUND_WITHIN: u64 = 600;

/// Mistakes, and a seed that has found each: others are tried if it does not any more.
const PLANTED: [(Planted, u64); 11] = [
    (Planted::Mistake(Mistake::GrantsAgain), 57),
    (Planted::Mistake(Mistake::SealsLate), 0),
    (Planted::Mistake(Mistake::IgnoresTerm), 0),
    (Planted::Mistake(Mistake::IgnoresRun), 9),
    (Planted::Mistake(Mistake::AsksNothing), 63),
    (Planted::Mistake(Mistake::DeletesToFreeze), 4),
    (Planted::Mistake(Mistake::FreezeReads), 1),
    (Planted::Slip(Slip::IgnoresRun), 3_065),
    (Planted::Slip(Slip::SendsAgain), 73),
    (Planted::Slip(Slip::Overtakes), 64),
    (Planted::Mistake(Mistake::LeavesWriters), 3),
];

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Every `PARTS`th seed from `part` on.
fn seeds(part: u64) {
    let count = env("PRESHARD_SIM_SEEDS").unwrap_or(SEEDS);
    let (begun, mut all) = (std::time::Instant::now(), Seen::default());
    for seed in part * count / PARTS..(part + 1) * count / PARTS {
        match play(seed, Planted::Nothing) {
            Ok(seen) => all.add(seen),
            Err(wrong) => panic!(
                "seed {seed}: {}\n{}\nagain: PRESHARD_SIM_SEED={seed} cargo test --lib sim::tests::seed -- --ignored --nocapture",
                wrong.what, wrong.story
            ),
        }
    }
    println!("{all:?} in {:?}", begun.elapsed());
    // What does not happen is not shown.
    let plays = count / PARTS;
    assert!(
        all.moved > plays / 2 && all.failed > plays / 40 && all.cancelled > plays / 100,
        "{all:?}"
    );
    assert!(all.attempts > plays / 20 && all.in_doubt > plays / 4, "{all:?}");
}

#[test]
fn seeds_1_of_8() {
    seeds(0);
}

#[test]
fn seeds_2_of_8() {
    seeds(1);
}

#[test]
fn seeds_3_of_8() {
    seeds(2);
}

#[test]
fn seeds_4_of_8() {
    seeds(3);
}

#[test]
fn seeds_5_of_8() {
    seeds(4);
}

#[test]
fn seeds_6_of_8() {
    seeds(5);
}

#[test]
fn seeds_7_of_8() {
    seeds(6);
}

#[test]
fn seeds_8_of_8() {
    seeds(7);
}

#[test]
#[ignore = "plays the seed that it is given"]
fn seed() {
    let seed = env("PRESHARD_SIM_SEED").unwrap();
    let planted =
        env("PRESHARD_SIM_MISTAKE").map_or(Planted::Nothing, |at| PLANTED[usize::try_from(at).unwrap()].0);
    let begun = std::time::Instant::now();
    match play(seed, planted) {
        Ok(seen) => println!("seed {seed}: {seen:?} in {:?}", begun.elapsed()),
        Err(wrong) => panic!("seed {seed}: {}\n{}", wrong.what, wrong.story),
    }
}

/// For whoever looks for seeds: all of a range, and which are wrong.
#[test]
#[ignore = "plays the seeds that it is given"]
fn range() {
    let count = env("PRESHARD_SIM_RANGE").unwrap();
    let first = env("PRESHARD_SIM_FIRST").unwrap_or(0);
    let planted =
        env("PRESHARD_SIM_MISTAKE").map_or(Planted::Nothing, |at| PLANTED[usize::try_from(at).unwrap()].0);
    let (begun, mut all, mut bad) = (std::time::Instant::now(), Seen::default(), 0);
    for seed in first..first + count {
        match play(seed, planted) {
            Ok(seen) => all.add(seen),
            Err(wrong) => {
                bad += 1;
                println!("seed {seed}: {}", wrong.what.lines().next().unwrap_or_default());
            }
        }
    }
    println!("{planted:?} {all:?} bad {bad} {:?}", begun.elapsed());
}

/// Whether some seed shows a mistake.
fn find(at: usize) {
    let (planted, first) = PLANTED[at];
    let tried = std::iter::once(first).chain(0..FOUND_WITHIN);
    for (plays, seed) in (1..).zip(tried) {
        if let Err(wrong) = play(seed, planted) {
            println!(
                "{planted:?} is found by seed {seed}, after {plays} plays: {}",
                wrong.what
            );
            return;
        }
    }
    panic!("{planted:?} is not found by {FOUND_WITHIN} seeds");
}

#[test]
fn a_frozen_user_that_gets_its_rights_back_is_found() {
    find(0);
}

#[test]
fn a_seal_behind_the_commit_is_found() {
    find(1);
}

#[test]
#[ignore = "a seed that finds it is not known yet"]
fn a_leader_of_the_past_that_is_not_shut_out_is_found() {
    find(2);
}

#[test]
fn another_history_of_the_source_that_is_not_noticed_is_found() {
    find(3);
}

#[test]
fn a_commit_that_is_not_asked_for_is_found() {
    find(4);
}

#[test]
fn a_freeze_that_deletes_the_user_is_found() {
    find(5);
}

#[test]
fn a_freeze_that_leaves_reads_is_found() {
    find(6);
}

#[test]
fn another_run_of_a_node_that_is_not_noticed_is_found() {
    find(7);
}

#[test]
fn a_request_that_is_sent_again_is_found() {
    find(8);
}

#[test]
fn a_refused_request_that_is_overtaken_is_found() {
    find(9);
}

#[test]
fn a_writer_of_the_past_that_is_not_ended_is_found() {
    find(10);
}
