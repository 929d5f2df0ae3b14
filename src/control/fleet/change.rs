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

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{Fleet, RETRY};
use crate::control::highest_epoch;
use crate::ids::Epoch;
use crate::store::{ProxyRecord, Revision, Snapshot, StoreError, Term};
use crate::topology::Topology;

/// How long a change waits for the other proxies.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How long it is tried to find out what became of a save.
const RESOLVE_MAX: Duration = Duration::from_secs(5);
/// So long other proxies may be faster again and again.
const RACES_MAX: Duration = Duration::from_secs(5);
/// Longest pause before the next attempt; by chance, so that two proxies do not go on meeting.
const RACE_PAUSE: Duration = Duration::from_millis(30);
/// Between two looks whether all workers here serve what was adopted.
const WORKERS_PACE: Duration = Duration::from_millis(1);

/// A change that was made.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The new epoch.
    pub epoch: Epoch,
    /// Proxies that live and have not said in time that they serve it. They will, or their leases end.
    pub waiting: Vec<ProxyRecord>,
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

    /// Waits until every proxy that lives serves at least this epoch, and names those that do not in time.
    pub async fn acknowledged(&self, epoch: Epoch, written: Revision, within: Duration) -> Vec<ProxyRecord> {
        let mut news = self.snapshot.subscribe();
        let all = async {
            loop {
                let is_here = self.shared.epoch_served() >= epoch;
                let snapshot = news.borrow_and_update().clone();
                if is_here && snapshot.revision >= written && self.behind(&snapshot, epoch).is_empty() {
                    return;
                }
                tokio::select! {
                    // Its sender is the fleet, which lives.
                    _ = news.changed() => {}
                    () = sleep(WORKERS_PACE), if !is_here => {}
                }
            }
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
        while start.elapsed() < RACES_MAX {
            let before = self.shared.topology.load().epoch;
            let stored = self.store.load().await.map_err(|error| unchanged(&error))?;
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

    async fn publish(&self, next: Topology, written: Revision, patience: Duration) -> Changed {
        let epoch = next.epoch;
        self.made.fetch_max(epoch.0, Relaxed);
        self.revision.fetch_max(written.0, Relaxed);
        self.changes.fetch_add(1, Relaxed);
        tracing::info!(event = "topology_changed", epoch = epoch.0);
        self.adopt(&next);
        let waiting = self.acknowledged(epoch, written, patience).await;
        for proxy in &waiting {
            tracing::info!(event = "proxy_behind", proxy = proxy.id, epoch = proxy.epoch);
        }
        Changed { epoch, waiting }
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
                        Ok(Some(true)) => Ok(Some(Revision(over.0 + 1))),
                        Ok(Some(false)) => Ok(None),
                        Ok(None) => Err(unknown(next, &"etcd's history was compacted")),
                        Err(error) => Err(unknown(next, &error)),
                    };
                }
                Err(error @ StoreError::Unreachable { .. }) => {
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
