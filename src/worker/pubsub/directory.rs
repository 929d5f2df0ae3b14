//! Who of this proxy listens to what, for all workers: `PUBSUB …`, and how many a `PUBLISH` has reached.
//!
//! Each worker writes its own view when somebody subscribes or leaves; all read all views. No message comes by here.
//!
//! Here also stands whether some worker has more messages to deliver than it can: then publishers wait, as they would
//! for a Redis that is busy delivering, instead of filling the nodes' output buffers until these cut the feeds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::task::Waker;

use super::names::Kind;
use crate::command::glob_matches;
use crate::ids::NodeIndex;

/// The name of a channel or a pattern.
pub(super) type Name = Arc<[u8]>;

/// What all workers hear.
#[derive(Debug, Default)]
pub struct Directory {
    views: Vec<RwLock<View>>,
    /// Feeds that have not handled all that has come.
    behind: AtomicUsize,
    /// Publishers that wait until there are none: by worker and client.
    publishers: Mutex<BTreeMap<(usize, usize), Waker>>,
}

/// What one worker hears.
#[derive(Debug, Default)]
pub(super) struct View {
    /// Confirmed subscriptions: clients by name.
    clients: [BTreeMap<Name, u64>; 3],
    /// What the worker's own connections to nodes are subscribed to.
    asked: [BTreeSet<Name>; 3],
    /// Whether the worker hears a node.
    hears: Vec<bool>,
}

impl Directory {
    /// Room for so many workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            views: (0..workers).map(|_| RwLock::default()).collect(),
            ..Self::default()
        }
    }

    fn read(&self) -> impl Iterator<Item = RwLockReadGuard<'_, View>> {
        self.views
            .iter()
            .map(|view| view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the view of one worker.
    pub(super) fn write(&self, worker: usize, change: impl FnOnce(&mut View)) {
        if let Some(view) = self.views.get(worker) {
            change(&mut view.write().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// A feed has fallen behind.
    pub(super) fn falls_behind(&self) {
        self.behind.fetch_add(1, Relaxed);
    }

    /// A feed has caught up.
    pub(super) fn catches_up(&self) {
        let mut publishers = self.publishers.lock().unwrap_or_else(PoisonError::into_inner);
        if self.behind.fetch_sub(1, Relaxed) == 1 {
            std::mem::take(&mut *publishers)
                .into_values()
                .for_each(Waker::wake);
        }
    }

    /// Whether a publisher has to wait; it is woken when it no longer has.
    pub(super) fn must_wait(&self, worker: usize, client: usize, waker: Option<&Waker>) -> bool {
        if self.behind.load(Relaxed) == 0 {
            return false;
        }
        let mut publishers = self.publishers.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at again behind the lock, where the last feed that catches up wakes.
        let (true, Some(waker)) = (self.behind.load(Relaxed) > 0, waker) else {
            return false;
        };
        publishers.insert((worker, client), waker.clone());
        true
    }

    /// Names that somebody has subscribed to, those that match a pattern if there is one.
    pub(in crate::worker) fn names(&self, kind: Kind, pattern: Option<&[u8]>) -> BTreeSet<Name> {
        let mut names = BTreeSet::new();
        for view in self.read() {
            let all = view.clients[kind as usize].keys();
            let matching =
                all.filter(|name| pattern.is_none_or(|pattern| glob_matches(pattern, name, false)));
            names.extend(matching.cloned());
        }
        names
    }

    /// How many clients have subscribed to a name.
    pub(in crate::worker) fn clients(&self, kind: Kind, name: &[u8]) -> u64 {
        self.read()
            .filter_map(|view| view.clients[kind as usize].get(name).copied())
            .sum()
    }

    /// How many a message reached, out of how many of a node's connections got it: each of those of this proxy
    /// stands for all clients that it serves.
    pub(in crate::worker) fn reached(&self, kind: Kind, channel: &[u8], node: NodeIndex, count: u64) -> u64 {
        let (mut clients, mut connections) = (0, 0);
        for view in self.read() {
            if !view.hears.get(node.index()).copied().unwrap_or(false) {
                continue;
            }
            clients += view.clients[kind as usize].get(channel).copied().unwrap_or(0);
            connections += u64::from(view.asked[kind as usize].contains(channel));
            if kind == Kind::Channel {
                let matches = |name: &Name| glob_matches(name, channel, false);
                let patterns = view.clients[Kind::Pattern as usize].iter();
                clients += patterns
                    .filter(|(name, _)| matches(name))
                    .map(|(_, clients)| clients)
                    .sum::<u64>();
                let asked = view.asked[Kind::Pattern as usize].iter();
                connections += asked.filter(|&name| matches(name)).count() as u64;
            }
        }
        clients + count.saturating_sub(connections)
    }
}

impl View {
    pub(super) fn client_joined(&mut self, kind: Kind, name: &Name) {
        let clients = &mut self.clients[kind as usize];
        match clients.get_mut(&**name) {
            Some(count) => *count += 1,
            None => {
                clients.insert(Arc::clone(name), 1);
            }
        }
    }

    pub(super) fn client_left(&mut self, kind: Kind, name: &Name) {
        let clients = &mut self.clients[kind as usize];
        if let Some(count) = clients.get_mut(&**name) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&**name);
            }
        }
    }

    pub(super) fn asked(&mut self, kind: Kind, name: &Name) {
        self.asked[kind as usize].insert(Arc::clone(name));
    }

    pub(super) fn no_longer_asked(&mut self, kind: Kind, name: &Name) {
        self.asked[kind as usize].remove(&**name);
    }

    pub(super) fn hears(&mut self, node: NodeIndex, hears: bool) {
        if self.hears.len() <= node.index() {
            self.hears.resize(node.index() + 1, false);
        }
        self.hears[node.index()] = hears;
    }
}

#[cfg(test)]
impl Directory {
    /// Whether nobody listens to anything.
    pub(super) fn is_empty(&self) -> bool {
        self.read().all(|view| {
            view.clients.iter().all(BTreeMap::is_empty) && view.asked.iter().all(BTreeSet::is_empty)
        })
    }
}
