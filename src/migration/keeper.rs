//! When expiries are parked and when they are real, and what a cutover asks for.
//!
//! ```text
//!            unpark                                  drain                     thaw
//!  Parked ──────────────▶ real behind a moment ────────────▶ all real, frozen ────────▶ real behind a moment
//!    ▲      (walk over      │ (the rest is owed)     (debts paid)        (debts parked again)   │
//!    └──────────────────────┴──────────────── in time before the moment: all parked ────────────┘
//! ```
//!
//! Up to the *moment* nothing expires on the target by itself, whatever the lag. So a key that the source renews in time is
//! never missing when the renewal arrives. Everything that would expire before is owed: a short list that is put right
//! when the source is frozen. If the cutover does not come in time, all is parked again before the moment.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, interval};

use super::error::CopyError;
use super::passes::{Walk, Walker};
use super::plan::CopyPlan;
use super::probe::Facts;
use super::state::{Phase, Shared, now_ms};
use crate::ids::DbIndex;
use crate::rdb::Expiries;

/// What a walk surely does in a second.
const KEYS_PER_S: u64 = 60_000;
/// At least so long before the moment everything is parked again.
const MARGIN: Duration = Duration::from_secs(2);
/// More of them, and those are dropped that nobody owes any more.
const DEBTS_CHECKED: usize = 20_000;
/// How often it is looked where renamed keys are now.
const RENAMED_MAX: usize = 20;

/// What is asked of a copy that follows the stream.
#[derive(Debug)]
pub(super) enum Order {
    Unpark {
        horizon: Duration,
        reply: oneshot::Sender<Result<Unparked, CopyError>>,
    },
    Drain {
        offset: u64,
        reply: oneshot::Sender<Result<Drained, CopyError>>,
    },
    Thaw {
        reply: oneshot::Sender<Result<(), CopyError>>,
    },
    Park {
        reply: oneshot::Sender<Result<(), CopyError>>,
    },
}

/// Expiries on the target are real now, but for those of the next seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unparked {
    /// For so long nothing expires on the target by itself; the freeze must come before. Then all is parked again.
    pub safe_for: Duration,
    /// Keys whose expiry is put right at the freeze.
    pub debts: usize,
    /// How long the walk took.
    pub took: Duration,
}

/// The target is what the source was when it was frozen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Up to where the target has answered everything.
    pub applied_offset: u64,
    /// Keys whose expiry was put right: all that expire before the moment.
    pub paid: Arc<Vec<(DbIndex, Vec<u8>)>>,
    /// Of the source's clock; none: all expiries were put right at once, and nobody knows which come soon.
    pub moment_ms: Option<i64>,
    /// How long it took.
    pub took: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Parking {
    Parked,
    /// Up to this moment of the target's clock; a walk takes so long.
    Until {
        moment_ms: i64,
        took: Duration,
    },
}

type Paid = Arc<Vec<(DbIndex, Vec<u8>)>>;

#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) plan: Arc<CopyPlan>,
    pub(super) shared: Arc<Shared>,
    pub(super) facts: Facts,
    walker: Option<Walker>,
    parking: Parking,
    /// What was paid at the freeze; `None`: the source is not frozen. An empty list with [`Parking::Parked`]: all of it.
    paid: Option<Paid>,
}

impl Keeper {
    pub(super) const fn new(plan: Arc<CopyPlan>, shared: Arc<Shared>, facts: Facts) -> Self {
        Self {
            plan,
            shared,
            facts,
            walker: None,
            parking: Parking::Parked,
            paid: None,
        }
    }

    /// Does what is asked, and parks again in time.
    pub(super) async fn keep(mut self, orders: &mut mpsc::Receiver<Order>) -> CopyError {
        let mut ticks = interval(Duration::from_millis(250));
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => if let Err(error) = self.obey(order).await {
                        return error;
                    },
                    None => return CopyError::Stopped,
                },
                _ = ticks.tick() => if let Err(error) = self.look_after().await {
                    return error;
                },
            }
        }
    }

    /// An error of the target ends the attempt; the one who asked is told before.
    async fn obey(&mut self, order: Order) -> Result<(), CopyError> {
        if self.shared.progress().phase != Phase::Streaming {
            order.refuse();
            return Ok(());
        }
        // Whoever has left does not want to know.
        match order {
            Order::Unpark { horizon, reply } => {
                let done = self.unpark(horizon).await;
                let failed = done.clone().err();
                let _ = reply.send(done);
                failed.map_or(Ok(()), Err)
            }
            Order::Drain { offset, mut reply } => {
                let begin = Instant::now();
                self.shared.freeze(offset);
                tokio::select! {
                    () = self.shared.applied(offset) => {}
                    // Who asked has given up, and wants to thaw.
                    () = reply.closed() => return Ok(()),
                }
                let done = self.pay(begin).await;
                let failed = done.as_ref().err().cloned();
                let _ = reply.send(done);
                failed.map_or(Ok(()), Err)
            }
            Order::Thaw { reply } => {
                let done = self.thaw().await;
                let _ = reply.send(done.clone());
                done
            }
            Order::Park { reply } => {
                let done = self.park().await;
                let _ = reply.send(done.clone());
                done
            }
        }
    }

    async fn walker(&mut self) -> Result<&mut Walker, CopyError> {
        let walker = match self.walker.take() {
            Some(walker) => walker,
            None => Walker::open(&self.plan, &self.facts, &self.shared).await?,
        };
        Ok(self.walker.insert(walker))
    }

    fn target_now_ms(&self) -> i64 {
        now_ms() + self.facts.target_ahead_ms
    }

    /// From here on the stream's expiries are handled in another way; waits until nothing is under way in the old one.
    async fn switch(&self, expiries: Expiries) {
        self.shared.set_expiries(expiries);
        self.shared.applied(self.shared.received()).await;
    }

    async fn unpark(&mut self, horizon: Duration) -> Result<Unparked, CopyError> {
        let begin = Instant::now();
        if let Parking::Until { .. } = self.parking {
            self.park().await?;
        }
        let used = self.walker().await?.used().await?;
        let keys: u64 = used
            .iter()
            .filter(|used| used.expires + used.field_expires > 0)
            .map(|used| used.keys)
            .sum();
        let estimate = Duration::from_millis(keys * 1000 / KEYS_PER_S);
        let wide = horizon.max(MARGIN * 2 + estimate * 4);
        let moment = self.target_now_ms() + millis(wide);
        self.switch(Expiries::ParkUntil(moment)).await;
        self.walker().await?.walk(Walk::Unpark(moment)).await?;
        let took = begin.elapsed();
        let mut moment_ms = moment;
        // A long walk needs a far moment; what is owed for that alone can be put right at once.
        let near = self.target_now_ms() + millis(horizon.max(MARGIN * 2 + took * 3));
        if near < moment {
            self.switch(Expiries::ParkUntil(near)).await;
            self.visit_debts(Walk::Unpark(near)).await?;
            moment_ms = near;
        }
        self.parking = Parking::Until { moment_ms, took };
        let left = moment_ms - self.target_now_ms() - millis(margin(took));
        Ok(Unparked {
            safe_for: Duration::from_millis(left.try_into().unwrap_or(0)),
            debts: self.shared.debts().keys.len(),
            took: begin.elapsed(),
        })
    }

    /// Looks at all that is owed; what stays so is owed again. What may expire from now on is said: many debts are of keys that
    /// were only renamed, and have no expiry at all.
    async fn visit_debts(&mut self, walk: Walk) -> Result<Vec<(DbIndex, Vec<u8>)>, CopyError> {
        let debts: Vec<_> = self.shared.take_debts().keys.into_iter().collect();
        if debts.is_empty() {
            return Ok(Vec::new());
        }
        let visited = self.walker().await?.visit(&debts, walk).await?;
        Ok(visited.real)
    }

    /// Everything is parked again.
    async fn park(&mut self) -> Result<(), CopyError> {
        let before = self.parking;
        self.switch(Expiries::Parking).await;
        self.walker().await?.walk(Walk::Park).await?;
        self.park_renamed().await?;
        self.switch(Expiries::Park).await;
        drop(self.shared.take_debts());
        self.parking = Parking::Parked;
        match before {
            Parking::Until { moment_ms, .. } if self.target_now_ms() >= moment_ms => {
                Err(CopyError::HorizonPassed)
            }
            Parking::Until { .. } | Parking::Parked => Ok(()),
        }
    }

    /// Keys that were renamed while others were parked may have gone around the walk, and on to another name just before they are
    /// looked at here. Only one that is renamed all the time, each time within a moment, is missed.
    async fn park_renamed(&mut self) -> Result<(), CopyError> {
        for _ in 0..RENAMED_MAX {
            let renamed: Vec<_> = self.shared.take_debts().keys.into_iter().collect();
            // What was there and parked already has left nothing behind.
            let visited = self
                .walker()
                .await?
                .visit(&renamed, Walk::ParkUnless(i64::MAX))
                .await?;
            if visited.gone.is_empty() && visited.fields.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Everything up to the freeze is applied: what is still parked becomes real.
    async fn pay(&mut self, begin: Instant) -> Result<Drained, CopyError> {
        let mut moment = None;
        let paid = match self.parking {
            Parking::Until { moment_ms, .. } => {
                if self.target_now_ms() >= moment_ms {
                    return Err(CopyError::HorizonPassed);
                }
                moment = Some(moment_ms - self.facts.skew_ms);
                self.visit_debts(Walk::ALL).await?
            }
            Parking::Parked => {
                self.walker().await?.walk(Walk::ALL).await?;
                drop(self.shared.take_debts());
                Vec::new()
            }
        };
        let paid = Arc::new(paid);
        self.paid = Some(Arc::clone(&paid));
        Ok(Drained {
            applied_offset: self.shared.progress().applied_offset,
            paid,
            moment_ms: moment,
            took: begin.elapsed(),
        })
    }

    async fn thaw(&mut self) -> Result<(), CopyError> {
        match (self.paid.take(), self.parking) {
            (Some(_), Parking::Parked) => {
                self.walker().await?.walk(Walk::Park).await?;
            }
            (Some(paid), Parking::Until { .. }) => {
                self.walker().await?.visit(&paid, Walk::Park).await?;
                let owed = paid.iter().map(|(db, key)| crate::rdb::Debt {
                    db: *db,
                    key: key.clone(),
                });
                self.shared.owe(owed.collect())?;
            }
            (None, _) => {}
        }
        self.shared.freeze(u64::MAX);
        Ok(())
    }

    /// What nobody has asked for.
    async fn look_after(&mut self) -> Result<(), CopyError> {
        let Parking::Until { moment_ms, took } = self.parking else {
            return Ok(());
        };
        if self.paid.is_some() {
            return Ok(());
        }
        if self.target_now_ms() + millis(margin(took)) >= moment_ms {
            return self.park().await;
        }
        if self.shared.debts().keys.len() > DEBTS_CHECKED * 2 {
            self.visit_debts(Walk::Unpark(moment_ms)).await?;
        }
        // It must be there at once when the source is frozen.
        if self.walker().await?.ping().await.is_err() {
            self.walker = None;
        }
        Ok(())
    }
}

impl Order {
    /// Says that there is nothing to do it with.
    pub(super) fn refuse(self) {
        match self {
            Self::Unpark { reply, .. } => drop(reply.send(Err(CopyError::NotStreaming))),
            Self::Drain { reply, .. } => drop(reply.send(Err(CopyError::NotStreaming))),
            Self::Thaw { reply } | Self::Park { reply } => drop(reply.send(Err(CopyError::NotStreaming))),
        }
    }
}

fn margin(took: Duration) -> Duration {
    MARGIN + took * 2
}

pub(super) fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 4)
}
