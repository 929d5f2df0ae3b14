//! Seeds, and mistakes that they must find.

use super::faults::Slip;
use super::play::{Planted, Seen, play};
use crate::control::Mistake;

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

const ALL: [Planted; 11] = [
    Planted::Nothing,
    Planted::Mistake(Mistake::GrantsAgain),
    Planted::Mistake(Mistake::SealsLate),
    Planted::Mistake(Mistake::IgnoresTerm),
    Planted::Mistake(Mistake::IgnoresRun),
    Planted::Mistake(Mistake::AsksNothing),
    Planted::Mistake(Mistake::DeletesToFreeze),
    Planted::Mistake(Mistake::FreezeReads),
    Planted::Slip(Slip::IgnoresRun),
    Planted::Slip(Slip::SendsAgain),
    Planted::Slip(Slip::Overtakes),
];

fn planted() -> Planted {
    ALL[usize::try_from(env("PRESHARD_SIM_MISTAKE").unwrap_or(0)).unwrap()]
}

#[test]
fn one() {
    let Some(seed) = env("PRESHARD_SIM_SEED") else {
        return;
    };
    let begun = std::time::Instant::now();
    match play(seed, planted()) {
        Ok(seen) => println!("{seen:?} {:?}", begun.elapsed()),
        Err(wrong) => panic!("seed {seed}: {}\n{}", wrong.what, wrong.story),
    }
}

#[test]
fn many() {
    let first = env("PRESHARD_SIM_FIRST").unwrap_or(0);
    let count = env("PRESHARD_SIM_SEEDS").unwrap_or(50);
    let begun = std::time::Instant::now();
    let mut all = Seen::default();
    let mut bad = 0;
    for seed in first..first + count {
        match play(seed, planted()) {
            Ok(seen) => {
                all.moved += seen.moved;
                all.failed += seen.failed;
                all.cancelled += seen.cancelled;
                all.answered += seen.answered;
                all.in_doubt += seen.in_doubt;
                all.not_run += seen.not_run;
                all.attempts += seen.attempts;
            }
            Err(wrong) => {
                bad += 1;
                println!("seed {seed}: {}", wrong.what.lines().next().unwrap_or_default());
            }
        }
    }
    println!("{all:?} bad {bad} {:?}", begun.elapsed());
}
