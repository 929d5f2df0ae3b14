//! Every fault at every point of a move, with real processes: what was acknowledged is there, once and in order, and the move can
//! be made again.
//!
//! ```text
//!  writers (10 keys, 6 ways) ─▶ 2 proxies ─▶ 2 redis-servers          the move stands still at an arrow ─▶ the fault ─▶ it goes on
//!                                  └─ etcd ─┘                          ─▶ it ends somehow ─▶ there and back once more ─▶ the judge
//! ```
//!
//! `cargo nextest run` takes a choice in which each point and each fault occurs; `PRESHARD_FAULTS=all` takes all of them,
//! `PRESHARD_FAULTS=frozen:KillLeader,sealed` these.

mod case;
mod claimer;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::harness::{Etcd, seed};
use crate::moving::can_stop;

use case::{ARROWS, Case, FAULTS, run};

/// Cases under way at once; most of the time they wait.
const AT_ONCE: usize = 5;

/// Each point once, each fault at least twice, and the freeze with everything that may happen to a leader.
fn chosen(seed: u64) -> Vec<Case> {
    let mut random = fastrand::Rng::with_seed(seed);
    let shift = random.usize(..FAULTS.len());
    let mut cases: Vec<Case> = ARROWS
        .iter()
        .enumerate()
        .map(|(number, &arrow)| Case {
            arrow,
            fault: FAULTS[(number + shift) % FAULTS.len()],
        })
        .collect();
    for arrow in ["frozen", "sealed"] {
        cases.push(Case {
            arrow,
            fault: FAULTS[0],
        });
    }
    cases
}

/// Cases by name: `arrow:Fault`, or an arrow or a fault with everything.
fn named(names: &str) -> Vec<Case> {
    let mut all = Vec::new();
    for arrow in ARROWS {
        for fault in FAULTS {
            all.push(Case { arrow, fault });
        }
    }
    if names == "all" {
        return all;
    }
    let names: Vec<&str> = names.split(',').collect();
    let is_named = |case: &Case| {
        let (arrow, fault) = (case.arrow.to_owned(), format!("{:?}", case.fault));
        names
            .iter()
            .any(|&name| name == case.name() || name == arrow || name == fault)
    };
    all.into_iter().filter(is_named).collect()
}

#[test]
fn every_fault_at_every_point_loses_doubles_and_reorders_nothing() {
    if !can_stop() {
        return;
    }
    let cases = std::env::var("PRESHARD_FAULTS").map_or_else(|_| chosen(seed()), |names| named(&names));
    assert!(!cases.is_empty(), "PRESHARD_FAULTS names no case");
    let etcd = Etcd::start(1);
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(&case) = cases.get(next.fetch_add(1, Relaxed)) {
                    match catch_unwind(AssertUnwindSafe(|| run(case, &etcd))) {
                        Ok(outcome) => {
                            println!(
                                "{}: {}, longest wait {:?}",
                                case.name(),
                                outcome.ended,
                                outcome.longest
                            );
                            outcomes.lock().unwrap().push((case, outcome));
                        }
                        Err(panic) => {
                            let why = panic
                                .downcast_ref::<String>()
                                .cloned()
                                .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                            println!("{}: FAILED: {why:?}", case.name());
                            failed.lock().unwrap().insert(case.name(), why);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(
        failed.is_empty(),
        "{} of {} cases failed; again with PRESHARD_FAULTS=…: {failed:#?}",
        failed.len(),
        cases.len()
    );
    let outcomes = outcomes.into_inner().unwrap();
    let longest = outcomes.iter().map(|(_, outcome)| outcome.longest).max();
    println!(
        "{} cases; the longest wait of all: {:?}",
        outcomes.len(),
        longest.unwrap_or(Duration::ZERO)
    );
}
