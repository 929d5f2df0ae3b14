//! The way back of a move: after the commit the source follows the target, so that the shards can go back with all that was
//! written since.
//!
//! ```text
//!  before the pause   target's stream attached, and kept              (a fork, if it takes one, is not in the pause)
//!  seal               where the target's history is: both sides are the same there
//!  COMMIT             nothing is written to the source before it
//!  begin              what expires soon is parked on the source, then the rest; then the stream is applied
//! ```
//!
//! With each batch of writes the source notes how far it is ([`Journal`]), so another leader goes on where this one has ended. What
//! cannot be proven to be the same on both sides is not called a way back: then the task says why there is none.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

#[cfg(not(test))]
use super::Copy;
use super::cutover::Failure;
use super::drive::Driven;
use super::freeze::frozen_offset;
use super::keeper::Drained;
use super::probe::identify;
#[cfg(test)]
use super::sim::Copy;
use super::{CopyError, CopyPlan, Journal, Offset, Start};
use crate::control::{Mistake, NodeClient, makes};
use crate::rdb::Target;
use crate::resp::Value;
use crate::topology::Address;

/// How long a stream may take to attach.
const ATTACH_MAX: Duration = Duration::from_secs(15);
/// Between two looks whether a commit is in force.
const COMMIT_PACE: Duration = Duration::from_millis(2);

/// A stream from the target to the source.
pub(super) struct Back {
    pub(super) copy: Copy,
    /// Which user writes it.
    pub(super) number: u32,
    /// Where both nodes were when it began.
    ends: [Address; 2],
    drained: Option<Drained>,
    start: Option<Start>,
    /// Why it cannot begin.
    pub(super) missing: Option<String>,
}

/// What is left of a stream whose copy somebody has.
#[derive(Debug)]
pub(super) struct Parted(u32, [Address; 2]);

impl Parted {
    /// One that goes on as it is.
    pub(super) fn with(self, copy: Copy) -> Back {
        Back::new(copy, self.0, self.1)
    }
}

/// Why a stream does not go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// It may, once nodes answer again.
    Later(String),
    /// It never will.
    Never(String),
}

impl Back {
    const fn new(copy: Copy, number: u32, ends: [Address; 2]) -> Self {
        Self {
            copy,
            number,
            ends,
            drained: None,
            start: None,
            missing: None,
        }
    }

    /// The same with its copy, which somebody has had meanwhile.
    pub(super) fn part(self) -> (Copy, Parted) {
        (self.copy, Parted(self.number, self.ends))
    }

    /// Whether the nodes are where they were.
    pub(super) fn is_current(&self, driven: &Driven<'_>) -> bool {
        let topology = driven.shared.topology.load();
        [&driven.target, &driven.source]
            .into_iter()
            .zip(&self.ends)
            .all(|(name, end)| {
                let node = topology.node_named(name);
                node.is_some_and(|node| topology.node(node).address == *end)
            })
    }

    /// The target has everything.
    pub(super) fn drained(&mut self, drained: Drained) {
        self.drained = Some(drained);
    }

    /// The target was sealed; it has told its offset right behind that.
    pub(super) fn sealed(&mut self, replies: &[Value]) {
        let replid = self.copy.progress().replid;
        let offset = frozen_offset(replies, &replid);
        let drained = self.drained.take();
        let start = match (offset, drained) {
            (
                Ok(offset),
                Some(Drained {
                    paid,
                    moment_ms: Some(moment_ms),
                    ..
                }),
            ) => Ok(Start {
                at: Offset { replid, offset },
                soon: paid,
                moment_ms,
            }),
            (Ok(_), _) => Err("the cutover took so long that keys could expire".to_owned()),
            (Err(failure), _) => Err(failure.to_string()),
        };
        match start {
            Ok(start) => (self.start, self.missing) = (Some(start), None),
            Err(why) => self.missing = Some(why),
        }
    }

    /// The shards live on the target: the source may be written.
    pub(super) fn begin(&mut self) {
        if let Some(start) = self.start.take() {
            self.copy.begin_at(start);
        }
    }
}

impl Driven<'_> {
    /// Begins to keep what the target does. It is applied to nothing yet.
    pub(super) async fn attach_back(&self) -> Result<Back, Failure> {
        let number = next_number();
        let there = self.reversed(number);
        let failed = |error: CopyError| Failure::Retry(error.to_string());
        let kept = Copy::ensure_history(&there.copy_plan(&self.shared.topology.load_full())?).await;
        kept.map_err(failed)?;
        // What a leader of the past has attached would begin as soon as he hears of our commit.
        self.end_writers_back(&mut self.client(&self.source).await?)
            .await?;
        let plan = there.stream_plan().await?;
        let ends = [plan.source.address.clone(), plan.target.address.clone()];
        let attached = async {
            let mut copy = Copy::attach(plan, Journal::of(&self.id));
            copy.until_attached().await?;
            Ok::<_, CopyError>(copy)
        };
        match timeout(ATTACH_MAX, attached).await {
            Ok(Ok(copy)) => Ok(Back {
                missing: Some("its cutover did not come to its end here".to_owned()),
                ..Back::new(copy, number, ends)
            }),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(Failure::Retry(format!("it took longer than {ATTACH_MAX:?}"))),
        }
    }

    /// Has the target keep its history from now on, so that nothing is left of that for the cutover.
    pub(super) async fn prepare_back(&self) {
        let there = self.reversed(0);
        let topology = self.shared.topology.load_full();
        let kept = async {
            let kept = Copy::ensure_history(&there.copy_plan(&topology)?).await;
            kept.map_err(|error| Failure::Retry(error.to_string()))
        };
        if let Err(error) = kept.await {
            tracing::info!(event = "no_history_yet", task = self.id, %error);
        }
    }

    /// Stops a stream that is not needed. Its user goes, and with it whatever it was about to write.
    pub(super) async fn drop_back(&self, back: Back) {
        let there = self.reversed(back.number);
        let stopped = back.copy.stop().await;
        let gone = async {
            let mut client = self.client(&self.source).await?;
            let gone = there.applier_gone(&mut client, &self.source).await?;
            self.act(&mut client, &gone).await
        };
        if let (Err(error), _) | (Ok(()), Err(error)) = (
            stopped.map_err(|error| error.to_string()),
            gone.await.map_err(|error| error.to_string()),
        ) {
            tracing::info!(event = "reverse_not_tidied", task = self.id, error);
        }
    }

    /// Commits, and lets the stream begin as soon as this proxy goes by the commit: slow proxies are not waited for.
    pub(super) async fn commit_and_begin(
        &self,
        run_id: Option<&str>,
        back: &mut Option<Back>,
    ) -> Result<Instant, Failure> {
        let mut commit = pin!(self.commit(run_id));
        loop {
            tokio::select! {
                biased;
                done = &mut commit => {
                    if let (Ok(_), Some(back)) = (&done, back) {
                        back.begin();
                    }
                    return done;
                }
                () = sleep(COMMIT_PACE) => if self.is_served_by_target() && let Some(back) = back {
                    back.begin();
                },
            }
        }
    }

    pub(super) fn is_served_by_target(&self) -> bool {
        let topology = self.shared.topology.load();
        let target = topology.node_named(&self.target);
        let mut shards = self.shards.iter();
        shards.all(|&shard| Some(topology.placement(shard).node) == target)
    }

    /// Goes on where a stream has ended, be it one of this leader or of one before.
    pub(super) async fn resume_back(&self) -> Result<Back, Broken> {
        let later = |failure: Failure| Broken::Later(failure.to_string());
        let journal = Journal::of(&self.id);
        let mut client = self.client(&self.source).await.map_err(later)?;
        // Only then it is certain how far that was.
        self.end_writers_back(&mut client).await.map_err(later)?;
        let asked = async {
            client.ask(&["SELECT", &self.metadata().to_string()]).await?;
            let noted = client.ask(&journal.ask()).await?;
            Ok::<_, Failure>((noted, client.ask_text(&["INFO", "server"]).await?))
        };
        let (noted, of_source) = asked.await.map_err(later)?;
        let Some(noted) = Journal::read(&noted) else {
            return Err(Broken::Never(format!(
                "node '{}' does not know how far it was: it has lost its memory, or the leader changed at the cutover",
                self.source
            )));
        };
        if !noted.parked {
            return Err(Broken::Never("the leader changed within a cutover".to_owned()));
        }
        let there = self.reversed(next_number());
        let mut client = self.client(&self.target).await.map_err(later)?;
        let of_target = client.ask_text(&["INFO", "server"]).await;
        let of_target = of_target.map_err(|error| Broken::Later(error.to_string()))?;
        match (identify(&of_source), identify(&of_target)) {
            // What the older one has refused within its last batch, nobody has seen.
            (Some(of_source), Some(of_target)) if lacks(of_source, of_target) => {
                return Err(Broken::Never(
                    "the stream was interrupted, and the source is an older server than the target"
                        .to_owned(),
                ));
            }
            (_, _) => {}
        }
        let plan = there.stream_plan().await.map_err(later)?;
        let ends = [plan.source.address.clone(), plan.target.address.clone()];
        let mut copy = Copy::resume(plan, journal, noted);
        match timeout(ATTACH_MAX, copy.until_attached()).await {
            Ok(Ok(())) => Ok(Back::new(copy, there.reverse.unwrap_or_default(), ends)),
            Ok(Err(error)) => Err(Broken::of(&error)),
            Err(_) => Err(Broken::Later(format!("it took longer than {ATTACH_MAX:?}"))),
        }
    }

    /// Whoever has written to the source for this move, or was about to, writes nothing more.
    async fn end_writers_back(&self, client: &mut NodeClient) -> Result<(), Failure> {
        let own = BTreeSet::from([self.id.clone()]);
        let gone = self.appliers_gone(client, &own).await?;
        if !gone.is_empty() && !makes(Mistake::LeavesWriters) {
            self.act(client, &gone).await?;
        }
        Ok(())
    }

    /// A copy's plan, and the user that writes it.
    async fn stream_plan(&self) -> Result<CopyPlan, Failure> {
        let topology = self.shared.topology.load_full();
        let mut client = self.client(&self.target).await?;
        self.make_applier(&mut client).await?;
        self.copy_plan(&topology)
    }
}

impl Broken {
    pub(super) fn of(error: &CopyError) -> Self {
        match error {
            CopyError::Failed { reason, .. } => Self::of(reason),
            CopyError::Source(_)
            | CopyError::SourceSilent(_)
            | CopyError::Target(_)
            | CopyError::TargetSilent(_)
            | CopyError::SpoolFull(_)
            | CopyError::Spool(_)
            | CopyError::NotStreaming
            | CopyError::Stopped => Self::Later(error.to_string()),
            CopyError::SourceChanged(_)
            | CopyError::TargetRefused(_)
            | CopyError::TargetNotEmpty(_)
            | CopyError::Snapshot(_)
            | CopyError::Stream(_)
            | CopyError::Inapplicable(_)
            | CopyError::TooManyDebts(_)
            | CopyError::HorizonPassed
            | CopyError::Renewed
            | CopyError::TooLarge { .. }
            | CopyError::TooManyKeys(_)
            | CopyError::TooManyStale(_)
            | CopyError::NeedsFork
            | CopyError::TooMuchHeld => Self::Never(error.to_string()),
        }
    }
}

/// No user of one process has the number of another.
fn next_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Whether a server may lack commands that another one has.
fn lacks(server: Target, other: Target) -> bool {
    server.family != other.family || (server.major, server.minor) < (other.major, other.minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_tried_again_and_nothing_else() {
        let failed = |reason: CopyError| {
            Broken::of(&CopyError::Failed {
                restarts: 0,
                reason: Box::new(reason),
            })
        };
        assert!(matches!(
            failed(CopyError::Target("x".to_owned())),
            Broken::Later(_)
        ));
        assert!(matches!(
            failed(CopyError::SourceSilent(ATTACH_MAX)),
            Broken::Later(_)
        ));
        for never in [
            CopyError::SourceChanged("x"),
            CopyError::TargetRefused("x".to_owned()),
            CopyError::Renewed,
            CopyError::HorizonPassed,
        ] {
            assert!(matches!(failed(never), Broken::Never(_)));
        }
    }
}
