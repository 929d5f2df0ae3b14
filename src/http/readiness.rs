//! Whether this proxy wants traffic, and if not, why.
//!
//! The composition root says when the proxy has started and when it drains; whether a node is reachable is
//! asked at the moment of the question, so that nobody has to keep a second copy of it current.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A handle on the one state; clones share it.
#[derive(Clone)]
pub struct Readiness {
    state: Arc<State>,
}

struct State {
    started: AtomicBool,
    draining: AtomicBool,
    node_reachable: Box<dyn Fn() -> bool + Send + Sync>,
    /// Asked instead of all that, where no proxy is.
    others: Option<Reasons>,
}

type Reasons = Box<dyn Fn() -> Vec<&'static str> + Send + Sync>;

impl std::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readiness")
            .field("reasons_against", &self.reasons_against())
            .finish()
    }
}

impl Readiness {
    /// Not ready: starting. `node_reachable` says whether any node can be reached now.
    #[must_use]
    pub fn new(node_reachable: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        let state = State {
            started: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            node_reachable: Box::new(node_reachable),
            others: None,
        };
        Self {
            state: Arc::new(state),
        }
    }

    /// Of something else than a proxy, which knows its own reasons.
    #[must_use]
    pub fn by(reasons_against: impl Fn() -> Vec<&'static str> + Send + Sync + 'static) -> Self {
        let state = State {
            started: AtomicBool::new(true),
            draining: AtomicBool::new(false),
            node_reachable: Box::new(|| true),
            others: Some(Box::new(reasons_against)),
        };
        Self {
            state: Arc::new(state),
        }
    }

    /// The listeners are open and the topology is loaded.
    pub fn started(&self) {
        self.state.started.store(true, Ordering::Release);
    }

    /// The proxy stops; there is no way back.
    pub fn drain(&self) {
        self.state.draining.store(true, Ordering::Release);
    }

    /// Whether the proxy is stopping.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.state.draining.load(Ordering::Acquire)
    }

    /// Why this proxy should get no traffic now; empty when it is ready.
    #[must_use]
    pub fn reasons_against(&self) -> Vec<&'static str> {
        if let Some(others) = &self.state.others {
            return others();
        }
        let mut reasons = Vec::new();
        if self.is_draining() {
            reasons.push("draining: the proxy stops");
        }
        if !self.state.started.load(Ordering::Acquire) {
            reasons.push("starting: the listeners are not open yet");
        } else if !(self.state.node_reachable)() {
            reasons.push("no node is reachable");
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_follows_start_nodes_and_drain() {
        let node = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&node);
        let readiness = Readiness::new(move || seen.load(Ordering::Relaxed));
        assert_eq!(
            readiness.reasons_against(),
            ["starting: the listeners are not open yet"]
        );
        readiness.started();
        assert_eq!(readiness.reasons_against(), ["no node is reachable"]);
        node.store(true, Ordering::Relaxed);
        assert!(readiness.reasons_against().is_empty());
        readiness.clone().drain();
        assert_eq!(readiness.reasons_against(), ["draining: the proxy stops"]);
    }
}
