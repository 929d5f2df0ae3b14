//! One run: which faults there are, and what they allow.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

use super::ledger::{Counts, Ledger};
use crate::faults::Failure;
use crate::harness::{Proxy, Reply};

/// What a run does to the proxy, and what may be answered then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) name: &'static str,
    /// Requests of all clients together, unless `PRESHARD_DESYNC_REQUESTS` says another number.
    pub(super) requests: u64,
    pub(super) clients: usize,
    /// Requests may fail with `UNCERTAIN`, `TRYAGAIN`, `CLUSTERDOWN`.
    pub(super) fails: bool,
    /// Scripts may run long, so that nodes answer `BUSY`.
    pub(super) busy: bool,
}

/// What all clients of a run share.
pub(super) struct Stage<'a> {
    pub(super) plan: Plan,
    pub(super) proxy: &'a Proxy,
    pub(super) seed: u64,
    /// The sum of the script that is called by it.
    pub(super) sum: String,
    pub(super) counts: Counts,
    pub(super) ledger: Ledger,
    /// Who is connected, by the proxy's numbers; 0: nobody.
    pub(super) ids: Vec<AtomicI64>,
    pub(super) killed: Mutex<HashSet<i64>>,
    /// Requests that may still be asked.
    budget: AtomicU64,
    stop: AtomicBool,
}

/// Stops all when the thread that holds it panics.
pub(super) struct StopAll<'a>(pub(super) &'a AtomicBool);

impl Drop for StopAll<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Relaxed);
        }
    }
}

impl Plan {
    /// What an error says about its request, if this run allows it.
    pub(super) fn failure(&self, reply: &Reply) -> Option<Failure> {
        let word = reply.error()?.split(' ').next()?;
        match word {
            "UNCERTAIN" if self.fails => Some(Failure::Uncertain),
            "TRYAGAIN" | "CLUSTERDOWN" | "EXECABORT" | "NOSCRIPT" if self.fails => Some(Failure::NotRun),
            "BUSY" if self.busy => Some(Failure::NotRun),
            _ => None,
        }
    }
}

impl<'a> Stage<'a> {
    pub(super) fn new(plan: Plan, proxy: &'a Proxy, seed: u64, sum: String) -> Self {
        Self {
            plan,
            proxy,
            seed,
            sum,
            counts: Counts::default(),
            ledger: Ledger::default(),
            ids: (0..plan.clients).map(|_| AtomicI64::new(0)).collect(),
            killed: Mutex::default(),
            budget: AtomicU64::new(plan.requests),
            stop: AtomicBool::new(false),
        }
    }

    /// Takes requests out of the budget; false when it is used up or somebody has failed.
    pub(super) fn may_ask(&self, requests: u64) -> bool {
        !self.is_over()
            && self
                .budget
                .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(requests))
                .is_ok()
    }

    pub(super) fn is_over(&self) -> bool {
        self.stop.load(Relaxed)
    }

    pub(super) fn end(&self) {
        self.stop.store(true, Relaxed);
    }

    pub(super) fn guard(&self) -> StopAll<'_> {
        StopAll(&self.stop)
    }
}
