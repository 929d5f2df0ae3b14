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
const PLANTED: [(Planted, u64); 15] = [
    (Planted::Mistake(Mistake::GrantsAgain), 21),
    (Planted::Mistake(Mistake::SealsLate), 0),
    (Planted::Mistake(Mistake::IgnoresTerm), 0),
    (Planted::Mistake(Mistake::IgnoresRun), 1),
    (Planted::Mistake(Mistake::AsksNothing), 77),
    (Planted::Mistake(Mistake::DeletesToFreeze), 4),
    (Planted::Mistake(Mistake::FreezeReads), 0),
    (Planted::Slip(Slip::IgnoresRun), 3_065),
    (Planted::Slip(Slip::SendsAgain), 174),
    (Planted::Slip(Slip::Overtakes), 4),
    (Planted::Mistake(Mistake::LeavesWriters), 13),
    (Planted::Mistake(Mistake::LeavesStrangers), 2),
    (Planted::Slip(Slip::HoldsNot), 0),
    (Planted::Slip(Slip::Unheard), 2),
    (Planted::Mistake(Mistake::IgnoresHolder), 6),
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
    assert!(all.cooperative > plays / 40, "{all:?}");
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

/// For whoever looks for seeds: all of a range, and which are wrong. Without a mistake to make: each of them, and how many seeds find it.
#[test]
#[ignore = "plays the seeds that it is given"]
fn range() {
    let count = env("PRESHARD_SIM_RANGE").unwrap();
    let first = env("PRESHARD_SIM_FIRST").unwrap_or(0);
    let chosen = env("PRESHARD_SIM_MISTAKE").map(|at| PLANTED[usize::try_from(at).unwrap()].0);
    let is_all = env("PRESHARD_SIM_ALL").is_some();
    let planted: Vec<_> = match chosen {
        None if is_all => PLANTED.iter().map(|(planted, _)| *planted).collect(),
        None => vec![Planted::Nothing],
        Some(planted) => vec![planted],
    };
    for planted in planted {
        let (begun, mut all, mut bad) = (std::time::Instant::now(), Seen::default(), Vec::new());
        for seed in first..first + count {
            match play(seed, planted) {
                Ok(seen) => all.add(seen),
                Err(wrong) => {
                    bad.push(seed);
                    println!("seed {seed}: {}", wrong.what.lines().next().unwrap_or_default());
                }
            }
        }
        let (share, took) = (bad.len(), begun.elapsed());
        println!("{planted:?} is found by {share} of {count} seeds: {bad:?}\n{all:?} in {took:?}");
    }
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
#[ignore = "a seed that finds it is not known since clients ask less"]
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

#[test]
fn connections_that_the_freeze_leaves_open_are_found() {
    find(11);
}

#[test]
fn a_proxy_that_does_not_hold_what_it_says_it_holds_is_found() {
    find(12);
}

#[test]
fn a_connection_that_is_used_before_its_mark_is_understood_is_found() {
    find(13);
}

#[test]
fn another_server_that_gets_shards_without_their_copy_is_found() {
    find(14);
}
