//! Plans that were made, kept to be looked at.
//!
//! They live in the memory of the proxy that made them, the newest few. The id of a plan, `e12-4c09d2-3`, names the epoch of the
//! topology that it was made of and this run of the proxy, so that no plan is taken for another one after a restart or on
//! another proxy.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::plan::Measure;
use super::value::shown;
use crate::ids::Epoch;
use crate::plan::Rebalance;

/// Plans that are kept.
pub(super) const PLANS_MAX: usize = 16;
/// Characters of the run's id in a plan's.
const RUN_SHOWN: usize = 6;

/// The plans of this proxy.
#[derive(Debug)]
pub struct Plans {
    kept: Mutex<Kept>,
    /// One plan is made at a time: a plan by memory asks the nodes for a while.
    turn: Semaphore,
}

#[derive(Debug, Default)]
struct Kept {
    made: u64,
    plans: VecDeque<Arc<KeptPlan>>,
}

/// One plan, with what is shown of it.
#[derive(Debug)]
pub(super) struct KeptPlan {
    pub(super) id: String,
    /// Of the topology that it was made of.
    pub(super) epoch: Epoch,
    pub(super) by: Measure,
    /// By node: its name, and the `used_memory` that it told of.
    pub(super) nodes: Vec<(String, u64)>,
    pub(super) outcome: Rebalance,
    /// By move: the shard's keys, and how many of them were sampled.
    pub(super) keys: Vec<(u64, u64)>,
    pub(super) notes: Vec<String>,
}

impl Default for Plans {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            turn: Semaphore::new(1),
        }
    }
}

impl Plans {
    /// Who may make a plan; none while another one is being made.
    pub(super) fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turn.try_acquire().ok()
    }

    /// Keeps a plan; it gets its id here. The oldest one goes if there are too many.
    pub(super) fn keep(
        &self,
        run_id: &str,
        epoch: Epoch,
        make: impl FnOnce(String) -> KeptPlan,
    ) -> Arc<KeptPlan> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.made = kept.made.saturating_add(1);
        let plan = Arc::new(make(format!("e{epoch}-{}-{}", short(run_id), kept.made)));
        if kept.plans.len() == PLANS_MAX {
            kept.plans.pop_front();
        }
        kept.plans.push_back(Arc::clone(&plan));
        plan
    }

    /// The plan of this id, or why there is none.
    pub(super) fn find(&self, run_id: &str, id: &[u8]) -> Result<Arc<KeptPlan>, String> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = kept.plans.iter().find(|plan| plan.id.as_bytes() == id) {
            return Ok(Arc::clone(plan));
        }
        let was_here = std::str::from_utf8(id)
            .ok()
            .and_then(|id| number_of(id, short(run_id)))
            .is_some_and(|number| (1..=kept.made).contains(&number));
        Err(if was_here {
            format!(
                "ERR plan '{}' is no longer kept: a proxy keeps its newest {PLANS_MAX}. Make a new one with PRESHARD PLAN \
                 REBALANCE.",
                shown(id)
            )
        } else {
            format!(
                "ERR there is no plan '{}' here: plans are kept by the proxy that made them, until it ends. Make one with \
                 PRESHARD PLAN REBALANCE.",
                shown(id)
            )
        })
    }
}

fn short(run_id: &str) -> &str {
    run_id.get(..RUN_SHOWN).unwrap_or(run_id)
}

/// The number in `e<epoch>-<run>-<number>`, if the run is the given one.
fn number_of(id: &str, run: &str) -> Option<u64> {
    let (epoch, rest) = id.strip_prefix('e')?.split_once('-')?;
    epoch.parse::<u64>().ok()?;
    rest.strip_prefix(run)?.strip_prefix('-')?.parse().ok()
}
