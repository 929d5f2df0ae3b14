//! The cutover: a few milliseconds in which the shards' requests wait, and at whose end another node has them.
//!
//! ```text
//!  prepare   R and U made on the source ─▶ topology: unit as U, rest as R ─▶ every proxy says so ─▶ O deleted
//!  quiesce   topology: scripts, waits and watches of the unit are held ─▶ every proxy says that none is under way
//!  freeze    U may do nothing more, and behind that the source's offset F                          ┐
//!  drain     the target has everything up to F; the counts agree                                 │ the pause
//!  seal      the applier's user is deleted                                                       │
//!  commit    topology: the shards live on the target          ◀── the point of no return         ┘
//! ```
//!
//! The freeze is kept by the source itself: it refuses what it is sent, proxies keep what was refused and send it, in its order, to
//! whoever has the shards then. One that has heard of nothing is refused as well. Before the commit, whatever is wrong gives
//! the shards back to the source, as a user that was never frozen; what was frozen is never let go again. Nothing ends by a timeout
//! of its own. Where the source's users are not preshard's, the first two steps are other ones: see [`super::cooperative`].

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::arrow::reached;
use super::commit::Commit;
use super::cooperative::Freeze;
use super::drive::{Driven, Running};
use super::error::CopyError;
use super::freeze::frozen_offset;
use super::ledger::Ledger;
use super::reverse::Back;
use super::task::{State, Wish};
use crate::command::{APPLIER_PREFIX, FEED_USER, UNIT_PREFIX, traffic_rules};
use crate::control::fence::{Words, words};
use crate::control::{AskError, Mistake, NodeClient, make_users, makes};
use crate::store::StoreError;
use crate::topology::{NodeAccess, Topology, Unit};

/// How long proxies have to take over new users.
const PREPARE_MAX: Duration = Duration::from_secs(10);
/// Between two looks at what an operator wishes.
const WISH_PACE: Duration = Duration::from_millis(500);
/// Expiries that come within this time after the pass are put right in the pause.
const HORIZON: Duration = Duration::from_secs(10);

/// Why a move does not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Nothing has moved; it may be tried again.
    #[error("{0}")]
    Retry(String),
    /// Nothing has moved, and it ends.
    #[error("{0}")]
    Final(String),
    /// Nothing has moved, and an operator wants it to stop.
    #[error("it was cancelled")]
    Cancelled,
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        Self::Retry(error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Retry(error.to_string())
    }
}

/// What a pause is spent on, for whoever reads the log.
struct Steps {
    since: Instant,
    told: String,
}

impl Steps {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            told: String::new(),
        }
    }

    async fn done(&mut self, step: &'static str) {
        self.done_at(step, Instant::now()).await;
    }

    async fn done_at(&mut self, step: &'static str, now: Instant) {
        let took = now.duration_since(self.since);
        self.since = now;
        let separator = if self.told.is_empty() { "" } else { ", " };
        self.told += &format!("{separator}{step} {} us", took.as_micros());
        reached(step).await;
    }
}

impl std::fmt::Display for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.told)
    }
}

/// What is there before anything is held.
struct Prepared {
    /// The unit's user.
    user: String,
    /// The proxies that go by it.
    proxies: BTreeSet<String>,
}

/// One attempt.
pub(super) struct Cutover<'a> {
    pub(super) driven: &'a Driven<'a>,
    pub(super) attempt: u32,
    pub(super) max_pause: Duration,
}

impl Cutover<'_> {
    /// Cuts over. Returns how long the shards were held.
    /// `back` becomes the stream that the source follows from then on.
    pub(super) async fn run(
        &self,
        copy: &mut Running,
        back: &mut Option<Back>,
        ledger: &mut Ledger<'_>,
    ) -> Result<Duration, Failure> {
        let done = Box::pin(self.attempt(copy, back, ledger)).await;
        if done.is_err()
            && let Some(back) = back.take()
        {
            self.driven.drop_back(back).await;
        }
        done
    }

    async fn attempt(
        &self,
        copy: &mut Running,
        back: &mut Option<Back>,
        ledger: &mut Ledger<'_>,
    ) -> Result<Duration, Failure> {
        let prepared = match self.until_ready(copy, ledger).await {
            Ok(prepared) => prepared,
            Err(failure) => {
                self.driven.until_released(ledger).await?;
                return Err(failure);
            }
        };
        reached("unparked").await;
        if self.driven.reverse.is_none() {
            *back = self.way_back(ledger).await?;
            ledger.enter(State::CuttingOver).await?;
            if ledger.task.wish == Some(Wish::Cancel) {
                self.driven.until_released(ledger).await?;
                return Err(Failure::Cancelled);
            }
        }
        reached("cutting-over").await;
        let mut source = self.driven.client(&self.driven.source).await?;
        let mut target = self.driven.client(&self.driven.target).await?;
        match self
            .close_and_pause(copy, back, prepared.as_ref(), &mut source, &mut target)
            .await
        {
            Ok(pause) => {
                self.driven.tidy().await;
                reached("tidied").await;
                Ok(pause)
            }
            Err(failure) => {
                if self.driven.has_moved().await? {
                    if let Some(back) = back {
                        back.begin();
                    }
                    self.driven.tidy().await;
                    return Ok(Duration::ZERO);
                }
                // The target may have been told to forget parked expiries: the copy goes on as before. Clients wait for this, so a
                // target that does not answer is given up instead of waited for.
                let thawed = match copy.copy() {
                    Ok(copy) => match timeout(self.max_pause, copy.thaw()).await {
                        Ok(thawed) => thawed.map_err(|error| error.to_string()),
                        Err(_) => Err("the target does not answer".to_owned()),
                    },
                    Err(stopped) => Err(stopped.to_string()),
                };
                self.driven.until_released(ledger).await?;
                match (failure, thawed) {
                    (Failure::Retry(why), Ok(())) => Err(Failure::Retry(why)),
                    (Failure::Retry(why), Err(error)) => Err(Failure::Final(format!("{why}; {error}"))),
                    (failure @ (Failure::Final(_) | Failure::Cancelled), _) => Err(failure),
                }
            }
        }
    }

    /// All that can be done before the shards are held. Whoever wants it to stop is heard meanwhile. None: the cutover is a
    /// cooperative one, for which there is nothing to prepare.
    async fn until_ready(
        &self,
        copy: &mut Running,
        ledger: &mut Ledger<'_>,
    ) -> Result<Option<Prepared>, Failure> {
        let prepared = if self.is_cooperative() {
            self.driven.release().await?;
            None
        } else {
            Some(self.prepare().await?)
        };
        let copy = copy.copy()?;
        let ready = async {
            copy.until_streaming()
                .await
                .map_err(|error| Failure::Final(error.to_string()))?;
            copy.unpark(HORIZON)
                .await
                .map_err(|error| Failure::Retry(error.to_string()))
        };
        tokio::select! {
            ready = ready => ready.map(|_| prepared),
            stopped = until_cancelled(ledger) => Err(stopped),
        }
    }

    /// The stream for the way back, attached. Without one the move goes on: why, stands in the record.
    async fn way_back(&self, ledger: &mut Ledger<'_>) -> Result<Option<Back>, Failure> {
        match Box::pin(self.driven.attach_back()).await {
            Ok(back) => Ok(Some(back)),
            Err(failure) => {
                tracing::warn!(event = "no_way_back", task = self.driven.id, why = %failure);
                ledger
                    .write(|task| task.error = format!("the source cannot follow the target: {failure}"))
                    .await?;
                Ok(None)
            }
        }
    }

    /// Gives the unit a user of its own, and all other shards of the source a new one, so that the old one can go.
    async fn prepare(&self) -> Result<Prepared, Failure> {
        let driven = self.driven;
        driven.release().await?;
        let topology = driven.shared.topology.load_full();
        let source = driven.node(&topology, &driven.source)?;
        let access = topology.access.get(&source).cloned().ok_or_else(|| {
            Failure::Final(format!(
                "node '{}' has no users of preshard, so it cannot be fenced",
                driven.source
            ))
        })?;
        let rest = next_user(&access.user);
        let user = format!("{UNIT_PREFIX}{}-{}-{}", driven.id, driven.term, self.attempt);
        let mut client = driven.client(&driven.source).await?;
        let users = [(rest.clone(), traffic_rules()), (user.clone(), traffic_rules())];
        make_users(
            &mut client,
            driven.metadata(),
            driven.term,
            driven.secret()?,
            &users,
        )
        .await?;
        reached("users-made").await;
        let unit = Unit {
            task: driven.id.clone(),
            shards: driven.shards.clone(),
            user: Some(user.clone()),
            quiesced: false,
        };
        let changed = driven
            .fleet
            .change_in(Some(driven.term), PREPARE_MAX, |topology| {
                let next = topology.with_access(&[(
                    driven.source.clone(),
                    Some(NodeAccess {
                        user: rest.clone(),
                        run_id: access.run_id.clone(),
                    }),
                )]);
                let next = next.and_then(|next| next.with_unit(unit.clone()));
                next.map_err(|error| error.to_string())
            })
            .await;
        let changed = changed.map_err(Failure::Retry)?;
        if let Some(why) = changed.warning() {
            driven.release().await?;
            return Err(Failure::Retry(why));
        }
        let proxies = driven.proxies();
        reached("unit-published").await;
        // Whoever has not heard of it loses the source here, and comes back when he has.
        let command = driven.old_users(&mut client, &access.user).await?;
        driven.act(&mut client, &[command]).await?;
        reached("old-user-deleted").await;
        Ok(Prepared { user, proxies })
    }

    /// Holds what the source could refuse half-way, then everything, for as long as the handover takes: that long is returned.
    async fn close_and_pause(
        &self,
        copy: &mut Running,
        back: &mut Option<Back>,
        prepared: Option<&Prepared>,
        source: &mut NodeClient,
        target: &mut NodeClient,
    ) -> Result<Duration, Failure> {
        let driven = self.driven;
        let Some(Prepared { user, proxies }) = prepared else {
            let begun = Instant::now();
            let closed = self.close().await?;
            let freeze = Freeze::Closed(closed);
            let served = self.pause(copy, back, freeze, source, target).await?;
            return Ok(served.duration_since(begun));
        };
        let quiesced = driven
            .fleet
            .change_in(Some(driven.term), self.max_pause, |topology| {
                driven.quiesced(topology)
            })
            .await
            .map_err(Failure::Retry)?;
        if let Some(why) = quiesced.warning() {
            return Err(Failure::Retry(why));
        }
        // What it already waits for would be served by a node before Redis 7.2 without another look at its rights, also with what the
        // way back writes there. The next attempt deletes the user that it waits as.
        if let Some(gone) = proxies.difference(&driven.proxies()).next() {
            return Err(Failure::Retry(format!(
                "proxy {gone} has gone since it was told of the move, and may still ask the source"
            )));
        }
        reached("quiesced").await;
        let run_id = copy.copy()?.progress().run_id;
        driven
            .fleet
            .stage(|topology| driven.committed(topology, Some(&run_id)))
            .await
            .map_err(Failure::Retry)?;
        let begun = Instant::now();
        let freeze = Freeze::User(user, &run_id);
        let served = self.pause(copy, back, freeze, source, target).await?;
        Ok(served.duration_since(begun))
    }

    /// A node that stands still must not make clients wait: longer than the pause may be, and it is given up.
    async fn in_time<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let late = |_| {
            Err(Failure::Retry(format!(
                "{what} took longer than {:?}",
                self.max_pause
            )))
        };
        timeout(self.max_pause, work).await.unwrap_or_else(late)
    }

    async fn pause(
        &self,
        copy: &mut Running,
        back: &mut Option<Back>,
        freeze: Freeze<'_>,
        source: &mut NodeClient,
        target: &mut NodeClient,
    ) -> Result<Instant, Failure> {
        let driven = self.driven;
        let mut steps = Steps::new();
        let run_id = freeze.run_id();
        let replies = self.in_time("the freeze", self.freeze(freeze, source)).await?;
        steps.done("frozen").await;
        let offset = frozen_offset(&replies, &copy.copy()?.progress().replid)?;
        let drained = self
            .in_time("the drain", told(copy.copy()?.drain_to(offset)))
            .await?;
        if let Some(back) = back {
            back.drained(drained);
        }
        steps.done("drained").await;
        for count in self.in_time("the count", told(copy.copy()?.counts())).await? {
            if !count.agree() {
                let lasting = count.lasting();
                return Err(Failure::Final(format!(
                    "database {} has {} keys without expiry on the source and {} on the target; the move has been given up, and \
                     nothing has moved",
                    count.source_db, lasting.0, lasting.1
                )));
            }
        }
        steps.done("counted").await;
        self.in_time("the end of the copy", copy.stop()).await?;
        if makes(Mistake::SealsLate) {
            driven.commit(run_id).await?;
        }
        // Where the target's history is now, both sides are the same.
        let seal = async {
            let seal = driven.applier_gone(target, &driven.target).await?;
            driven.act_and_ask_offset(target, &seal).await
        };
        let replies = self.in_time("the seal", seal).await?;
        if let Some(back) = back {
            back.sealed(&replies);
        }
        steps.done("sealed").await;
        let served = driven.commit_and_begin(run_id, back).await?;
        steps.done_at("committed", served).await;
        tracing::info!(event = "cutover", task = driven.id, steps = %steps, "what the pause was spent on");
        Ok(served)
    }
}

impl Driven<'_> {
    /// The proxies that live.
    fn proxies(&self) -> BTreeSet<String> {
        let proxies = self.fleet.view().proxies.into_iter();
        proxies.map(|proxy| proxy.id).collect()
    }

    /// What deletes all users of clients' requests on the source that the topology does not name: `known`, and those that leaders of
    /// the past have left. A proxy that has heard of nothing since then still goes by them, and no freeze would stop it.
    async fn old_users(&self, client: &mut NodeClient, known: &str) -> Result<Words, Failure> {
        let topology = self.shared.topology.load_full();
        let source = self.node(&topology, &self.source)?;
        let mut command = words(["ACL", "DELUSER", known]);
        for name in self.own_users_on(client).await? {
            let is_for_requests = !name.starts_with(APPLIER_PREFIX) && name != FEED_USER;
            if is_for_requests && name != known && !topology.has_user(source, Some(&name)) {
                command.push(name.into_bytes());
            }
        }
        Ok(command)
    }

    fn quiesced(&self, topology: &Topology) -> Result<Topology, String> {
        let next = topology.changed(|next| {
            next.units
                .iter_mut()
                .filter(|unit| unit.task == self.id)
                .for_each(|unit| unit.quiesced = true);
            Ok(())
        });
        next.map_err(|error| error.to_string())
    }

    /// What the commit says: the shards live on the target. `run_id`: the source's process that was copied, if
    /// it was told to refuse.
    fn committed(&self, topology: &Topology, run_id: Option<&str>) -> Result<Topology, String> {
        let commit = Commit {
            task: &self.id,
            shards: &self.shards,
            source: &self.source,
            target: &self.target,
            run_id,
        };
        commit.of(topology)
    }

    /// The point of no return. Returns since when this proxy goes by it.
    pub(super) async fn commit(&self, run_id: Option<&str>) -> Result<Instant, Failure> {
        let committed = self
            .fleet
            .change_in(Some(self.term), PREPARE_MAX, |topology| {
                self.committed(topology, run_id)
            })
            .await;
        match committed {
            Ok(changed) => {
                if let Some(why) = changed.warning() {
                    tracing::warn!(event = "proxies_behind", task = self.id, why);
                }
                Ok(changed.here)
            }
            // Whether it was done is asked before anything else is.
            Err(why) => Err(Failure::Retry(why)),
        }
    }

    /// Gives the shards back to the source's own user, which was never frozen. Whoever may have frozen them calls
    /// [`Self::until_released`].
    pub(super) async fn release(&self) -> Result<(), Failure> {
        let Some(Unit { user, .. }) = self.own_unit().await? else {
            return Ok(());
        };
        reached("releasing").await;
        if let Some(user) = user.as_ref().filter(|_| makes(Mistake::GrantsAgain)) {
            let users = [(user.clone(), traffic_rules())];
            let mut client = self.client(&self.source).await?;
            make_users(&mut client, self.metadata(), self.term, self.secret()?, &users).await?;
        }
        let known = self.shared.topology.load_full();
        let released = self.fleet.change_in(Some(self.term), PREPARE_MAX, |stored| {
            let topology = if makes(Mistake::AsksNothing) {
                &*known
            } else {
                stored
            };
            let next = topology.changed(|next| {
                next.units.retain(|unit| unit.task != self.id);
                Ok(())
            });
            next.map_err(|error| error.to_string())
        });
        released.await.map_err(Failure::Retry)?;
        reached("released").await;
        let Some(user) = user else {
            return Ok(());
        };
        let gone = async {
            let mut client = self.client(&self.source).await?;
            self.act(&mut client, &[words(["ACL", "DELUSER", &user])]).await
        };
        // Nobody goes by it any more, and the next move from there deletes it before it freezes anything.
        if let Err(error) = gone.await {
            tracing::info!(event = "unit_user_left", task = self.id, %error);
        }
        Ok(())
    }
}

/// What a copy answers; its errors may not come again.
async fn told<T>(answer: impl Future<Output = Result<T, CopyError>>) -> Result<T, Failure> {
    answer.await.map_err(|error| Failure::Retry(error.to_string()))
}

/// Ends when an operator wants the move to stop, or nobody can say. May be dropped at any time.
pub(super) async fn until_cancelled(ledger: &mut Ledger<'_>) -> Failure {
    loop {
        match ledger.wish().await {
            Ok(Some(Wish::Cancel)) => return Failure::Cancelled,
            Ok(_) => sleep(WISH_PACE).await,
            Err(error) => return error.into(),
        }
    }
}

/// `ps-g8` behind `ps-g7`.
fn next_user(user: &str) -> String {
    let digits = user.len() - user.bytes().rev().take_while(u8::is_ascii_digit).count();
    let number: u64 = user[digits..].parse().unwrap_or(0);
    format!("{}{}", &user[..digits], number.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbered() {
        assert_eq!(next_user("ps-g1"), "ps-g2");
        assert_eq!(next_user("ps-g99"), "ps-g100");
        assert_eq!(next_user("odd"), "odd1");
    }
}
