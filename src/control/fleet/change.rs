//! A change of the topology: made from what is stored at this moment, acknowledged by every proxy that lives.
//!
//! ```text
//!  load (linearizable) ─▶ the next topology ─▶ save over the revision that was loaded
//!        ▲                                        │ another proxy was faster: from the beginning
//!        └────────────────────────────────────────┤ no answer: the same again, until it is certain
//!                                                 ▼
//!                        adopt here ─▶ wait until every proxy reports the epoch ─▶ who did not
//! ```
//!
//! The same save may be asked again because it compares the revision: it is done once or not at all. If another proxy's change
//! came between, etcd's history tells whether ours was done before it. What cannot be found out is said to be unknown.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{Fleet, RETRY};
use crate::control::highest_epoch;
use crate::ids::Epoch;
use crate::store::{ProxyRecord, Revision, Snapshot, StoreError, Stored, Term};
use crate::topology::Topology;

/// How long a change waits for the other proxies.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How long it is tried to find out what became of a save.
const RESOLVE_MAX: Duration = Duration::from_secs(5);
/// So long other proxies may be faster again and again.
const RACES_MAX: Duration = Duration::from_secs(5);
/// Longest pause before the next attempt; by chance, so that two proxies do not go on meeting.
const RACE_PAUSE: Duration = Duration::from_millis(30);

/// A change that was made.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The new epoch.
    pub epoch: Epoch,
    /// Proxies that live and have not said in time that they serve it. They will, or their leases end.
    pub waiting: Vec<ProxyRecord>,
    /// Since when this proxy serves it.
    pub here: Instant,
}

impl Changed {
    /// What to tell an operator of proxies that are behind; nothing if there are none.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let names: Vec<String> = self
            .waiting
            .iter()
            .map(|proxy| format!("{} ({}, epoch {})", proxy.id, proxy.address, proxy.epoch))
            .collect();
        (!names.is_empty()).then(|| {
            format!(
                "epoch {} is in force, but these proxies have not said within {PATIENCE:?} that they serve it: {}",
                self.epoch,
                names.join(", ")
            )
        })
    }
}

impl Fleet {
    /// Changes the topology. `make` gets what is stored now and returns what it should be; its epoch is set here. It may be asked
    /// several times, if other proxies change something meanwhile.
    ///
    /// # Errors
    /// As a sentence: `make` refuses, the store gives no answer, or it is unknown whether the change was made, which the words say.
    pub async fn change(
        &self,
        make: impl Fn(&Topology) -> Result<Topology, String> + Send + Sync,
    ) -> Result<Changed, String> {
        self.change_in(None, PATIENCE, make).await
    }

    /// The same, done only if `term` still lasts when it is stored, and waiting so long for the other proxies.
    ///
    /// # Errors
    /// As [`Self::change`].
    pub async fn change_in(
        &self,
        term: Option<Term>,
        patience: Duration,
        make: impl Fn(&Topology) -> Result<Topology, String> + Send + Sync,
    ) -> Result<Changed, String> {
        let next = |base: Option<&Topology>| {
            let base = base.ok_or("the topology store is empty; restore it with PRESHARD TOPOLOGY LOAD")?;
            let epoch = Epoch(
                base.epoch
                    .0
                    .checked_add(1)
                    .ok_or("there is no epoch after this one")?,
            );
            Ok(Topology { epoch, ..make(base)? })
        };
        self.commit(&next, term, patience).await
    }

    /// Puts a saved topology in force. Its epoch becomes higher than any that the store or a node has seen. `force`: although
    /// shards live elsewhere in it, or nodes give no answer.
    ///
    /// # Errors
    /// As [`Self::change`].
    pub async fn restore(&self, saved: &Topology, force: bool) -> Result<Changed, String> {
        let served = self.shared.topology.load_full();
        let may_follow = |base: &Topology| {
            let elsewhere = saved.tell_placed_elsewhere(base).filter(|_| !force);
            let elsewhere = elsewhere
                .map(|why| format!("{why}. If the keys are where it says, say TOPOLOGY LOAD <json> FORCE"));
            saved.tell_other_cluster(base).or(elsewhere).map_or(Ok(()), Err)
        };
        may_follow(&served)?;
        let (credentials, deadline) = self.shared.admin_login();
        let highest = highest_epoch(saved, &credentials, deadline, force).await?;
        let next = |base: Option<&Topology>| {
            // What is in force, be it that the store has it or not.
            let base = base.filter(|base| base.epoch >= served.epoch).unwrap_or(&served);
            may_follow(base)?;
            let highest = highest.max(base.epoch).max(served.epoch);
            let epoch = Epoch(
                highest
                    .0
                    .checked_add(1)
                    .ok_or("there is no epoch after this one")?,
            );
            Ok(Topology {
                epoch,
                ..saved.clone().with_logins_of(base)
            })
        };
        self.commit(&next, None, PATIENCE).await
    }

    /// Has the store get ready for a change that is about to be made, so that making it takes less time. Nothing changes.
    ///
    /// # Errors
    /// As [`Self::change`].
    pub async fn stage(
        &self,
        make: impl Fn(&Topology) -> Result<Topology, String> + Send + Sync,
    ) -> Result<(), String> {
        let stored = self.store.load().await.map_err(|error| unchanged(&error))?;
        let Some(base) = stored.topology.as_deref() else {
            return Ok(());
        };
        let epoch = Epoch(base.epoch.0.saturating_add(1));
        let next = Topology { epoch, ..make(base)? };
        self.store.stage(&next).await.map_err(|error| unchanged(&error))
    }

    /// Waits until every proxy that lives serves at least this epoch, and names those that do not in time.
    pub async fn acknowledged(&self, epoch: Epoch, written: Revision, within: Duration) -> Vec<ProxyRecord> {
        let mut news = self.snapshot.subscribe();
        let others = async {
            loop {
                let snapshot = news.borrow_and_update().clone();
                if snapshot.revision >= written && self.behind(&snapshot, epoch).is_empty() {
                    return;
                }
                // Its sender is the fleet, which lives.
                drop(news.changed().await);
            }
        };
        let all = async {
            tokio::join!(self.shared.until_served(epoch), others);
        };
        // Who is late is found below.
        drop(timeout(within, all).await);
        let snapshot = self.snapshot.borrow().clone();
        let mut waiting = self.behind(&snapshot, epoch);
        let own = self.own_record();
        if own.epoch() < epoch {
            waiting.push(own);
        }
        waiting
    }

    /// Other proxies that serve a lower epoch.
    fn behind(&self, snapshot: &Snapshot, epoch: Epoch) -> Vec<ProxyRecord> {
        let others = snapshot
            .proxies
            .values()
            .filter(|proxy| proxy.id != self.shared.run_id);
        others.filter(|proxy| proxy.epoch() < epoch).cloned().collect()
    }

    async fn commit(
        &self,
        make: &(dyn Fn(Option<&Topology>) -> Result<Topology, String> + Send + Sync),
        term: Option<Term>,
        patience: Duration,
    ) -> Result<Changed, String> {
        let one = self.changing.lock().await;
        let start = Instant::now();
        // An operator is told that nothing was changed, if the store is away; that takes a question. A leader finds out by itself.
        let mut known = self.known().filter(|_| term.is_some());
        while start.elapsed() < RACES_MAX {
            let before = self.shared.topology.load().epoch;
            let stored = match known.take() {
                Some(stored) => stored,
                None => self.store.load().await.map_err(|error| unchanged(&error))?,
            };
            let base = stored.topology.as_deref();
            let served = self.shared.topology.load_full();
            let next = make(base)?;
            if next.epoch <= served.epoch && next.epoch > before {
                // Another proxy's change has come here since the store was read.
                continue;
            }
            if next.epoch <= served.epoch {
                return Err(format!(
                    "epoch {} is stored and epoch {} is served: the store is old. Nothing was changed; restore it with \
                     PRESHARD TOPOLOGY LOAD",
                    base.map_or(0, |base| base.epoch.0),
                    served.epoch
                ));
            }
            if let Some(why) = base.and_then(|base| next.tell_other_cluster(base)) {
                return Err(why);
            }
            // What this proxy could not take over, the others could not either.
            let taken_over = next.clone().succeed(&served);
            drop(taken_over.map_err(|error| error.to_string())?);
            if let Some(written) = self.save(&next, stored.revision, term).await? {
                drop(one);
                return Ok(self.publish(next, written, patience).await);
            }
            sleep(RACE_PAUSE.mul_f64(fastrand::f64())).await;
        }
        Err(format!(
            "other proxies changed the topology all the time for {RACES_MAX:?}; nothing was changed, try again"
        ))
    }

    /// What is stored, as far as it is known without asking: it is what is served. If it has changed meanwhile, the save says so,
    /// since it compares the revision.
    fn known(&self) -> Option<Stored> {
        let stored = self.snapshot.borrow().stored.clone();
        let served = self.shared.topology.load().epoch;
        let is_served = |topology: &Arc<Topology>| topology.epoch == served;
        stored.topology.as_ref().is_some_and(is_served).then_some(stored)
    }

    async fn publish(&self, next: Topology, written: Revision, patience: Duration) -> Changed {
        let epoch = next.epoch;
        self.made.fetch_max(epoch.0, Relaxed);
        self.revision.fetch_max(written.0, Relaxed);
        self.changes.fetch_add(1, Relaxed);
        tracing::info!(event = "topology_changed", epoch = epoch.0);
        self.adopt(&next);
        // Who is late here is named below.
        drop(timeout(patience, self.shared.until_served(epoch)).await);
        let here = Instant::now();
        let waiting = self.acknowledged(epoch, written, patience).await;
        for proxy in &waiting {
            tracing::info!(event = "proxy_behind", proxy = proxy.id, epoch = proxy.epoch);
        }
        Changed { epoch, waiting, here }
    }

    /// Saves; nothing if another proxy was faster, and an error if nothing was changed or nobody knows.
    async fn save(
        &self,
        next: &Topology,
        over: Revision,
        term: Option<Term>,
    ) -> Result<Option<Revision>, String> {
        let start = Instant::now();
        loop {
            match self.store.save(next, over, term).await {
                Ok(written) => return Ok(Some(written)),
                Err(error @ StoreError::Unconfirmed { .. }) => {
                    tracing::error!(event = "topology_unconfirmed", %error);
                    let stored = self.store.load().await.map_err(|error| unknown(next, &error))?;
                    return Ok(Some(stored.revision));
                }
                // An attempt that had no answer may have been done before the other proxy's.
                Err(StoreError::Changed { .. }) => {
                    return match self.store.was_saved(next, over).await {
                        Ok(Some(true)) => {
                            // Its own revision nobody has told: what is known from before it must not count as seen behind it.
                            let stored = self.store.load().await;
                            Ok(Some(stored.map_err(|error| unknown(next, &error))?.revision))
                        }
                        Ok(Some(false)) => Ok(None),
                        Ok(None) => Err(unknown(next, &"etcd's history was compacted")),
                        Err(error) => Err(unknown(next, &error)),
                    };
                }
                Err(error) if error.is_unanswered() => {
                    self.note_error(&error);
                    if start.elapsed() >= RESOLVE_MAX {
                        return Err(unknown(next, &error));
                    }
                    sleep(RETRY).await;
                }
                Err(error) => return Err(unchanged(&error)),
            }
        }
    }
}

fn unchanged(error: &StoreError) -> String {
    format!("the topology was not changed: {error}")
}

fn unknown(next: &Topology, why: &dyn std::fmt::Display) -> String {
    format!(
        "it is unknown whether the topology was changed: {why}. Once the store answers, PRESHARD TOPOLOGY EPOCH tells: {} or more if \
         it was",
        next.epoch
    )
}
