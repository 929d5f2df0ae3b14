//! Nodes that a move which is over needs once more: to go back, or to clear what it has left.
//!
//! A move is driven alone on its nodes. The way back of one that is over is kept beside other moves, and asks here before it
//! touches anything that they touch; the mover grants it when nobody drives there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What is wanted, by task.
#[derive(Debug, Default)]
pub(super) struct Claims {
    all: Mutex<BTreeMap<String, Claim>>,
    wanted: Notify,
    granted: Notify,
}

#[derive(Debug)]
struct Claim {
    nodes: Vec<String>,
    is_granted: bool,
}

impl Claims {
    /// Wants nodes for a task. Whether it has them.
    pub(super) fn want(&self, task: &str, nodes: &[&str]) -> bool {
        let nodes: Vec<String> = nodes.iter().map(|&node| node.to_owned()).collect();
        let mut all = self.all();
        match all.get(task) {
            Some(claim) if claim.nodes == nodes => return claim.is_granted,
            Some(_) | None => {}
        }
        let is_granted = false;
        all.insert(task.to_owned(), Claim { nodes, is_granted });
        drop(all);
        self.wanted.notify_one();
        false
    }

    /// A task does not need any.
    pub(super) fn release(&self, task: &str) {
        if self.all().remove(task).is_some_and(|claim| claim.is_granted) {
            self.wanted.notify_one();
        }
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        self.all().clear();
    }

    /// Grants what is free, and adds what is granted to what is not.
    pub(super) fn grant(&self, busy: &mut BTreeSet<String>) {
        let mut all = self.all();
        let held = all.values().filter(|claim| claim.is_granted);
        busy.extend(held.flat_map(|claim| claim.nodes.clone()));
        for claim in all.values_mut().filter(|claim| !claim.is_granted) {
            if claim.nodes.iter().any(|node| busy.contains(node)) {
                continue;
            }
            claim.is_granted = true;
            busy.extend(claim.nodes.clone());
            self.granted.notify_waiters();
        }
    }

    /// Waits until something is wanted, or given back.
    pub(super) async fn until_wanted(&self) {
        self.wanted.notified().await;
    }

    /// Waits until something is granted. To be asked again now and then all the same.
    pub(super) async fn until_granted(&self) {
        self.granted.notified().await;
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Claim>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_granted_when_nobody_has_them() {
        let claims = Claims::default();
        let busy = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
        assert!(!claims.want("m1", &["a", "b"]));
        claims.grant(&mut busy(&["b"]));
        assert!(!claims.want("m1", &["a", "b"]), "somebody drives there");
        let mut others = busy(&["c"]);
        claims.grant(&mut others);
        assert_eq!(others, busy(&["a", "b", "c"]));
        assert!(claims.want("m1", &["a", "b"]));
        assert!(!claims.want("m2", &["b"]));
        claims.grant(&mut BTreeSet::new());
        assert!(!claims.want("m2", &["b"]), "the first one has it");
        claims.release("m1");
        claims.grant(&mut BTreeSet::new());
        assert!(claims.want("m2", &["b"]));
        assert!(!claims.want("m2", &["a"]), "something else is wanted now");
        claims.clear();
        assert!(!claims.want("m2", &["b"]));
    }
}
