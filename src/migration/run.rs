//! One attempt after the other, until one is ended by who asked for it, or there were too many.
//!
//! ```text
//!  look ─▶ pipe to the target ─▶ attach ─▶ snapshot ─▶ stream …          beside them: receive, both watches, the keeper
//!    ▲                                                    │ anything that is not as it should be
//!    └── wait ◀── FLUSHDB ASYNC ◀── end the writing connections ◀──┘
//! ```

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::apply::Applier;
use super::error::CopyError;
use super::journal::{Journal, Noted};
use super::keeper::{Keeper, Order, millis};
use super::link::{Link, Psync, cut};
use super::lost::Lost;
use super::passes::{Walk, Walker};
use super::pipe::open_pipe;
use super::plan::{CopyPlan, Endpoint, Offset};
use super::probe::{Facts, connect, field, history, look, watch_source, watch_target};
use super::receive::{attach_at, receive};
use super::scan::{self, Scan};
use super::spool::Spool;
use super::state::{Phase, Shared, now_ms};
use crate::config::CopyMethod;
use crate::control::{AskError, NodeClient, ask_with_room};
use crate::ids::DbIndex;
use crate::rdb::{Expiries, Frames};
use crate::resp::Value;

/// The key in the source's metadata database whose writing makes the source say which database it writes to.
const MARKER_KEY: &str = "preshard:migration:marker";
/// How often a stream is asked for before its snapshot.
const ATTACH_MAX: u32 = 3;
/// Clocks of nodes that take part in a move differ by less.
const CLOCKS: Duration = Duration::from_millis(100);
/// Parking is over so long before anything could expire.
const PARK_MARGIN: Duration = Duration::from_secs(1);
/// Between two looks whether a node has begun to keep its history.
const HISTORY_PACE: Duration = Duration::from_millis(20);
/// Longest pause between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Where a copy begins.
#[derive(Debug)]
pub(super) enum Begin {
    /// With all keys that the source has, on empty databases.
    Empty,
    /// With the stream of now, which is kept until it is told from where on it is applied.
    Attach {
        journal: Journal,
        told: Option<oneshot::Receiver<Start>>,
    },
    /// Where it has ended before.
    Resume { journal: Journal, noted: Noted },
}

/// From where on an attached stream is applied: both sides are the same there. Nobody but the copy may write to the target's
/// databases from then on.
#[derive(Clone, Debug)]
pub struct Start {
    /// Not before the copy was attached.
    pub at: Offset,
    /// Keys that expire before the moment. They are parked first.
    pub soon: Arc<Vec<(DbIndex, Vec<u8>)>>,
    /// Of the target's clock: no other key expires before, so all must be parked by then.
    pub moment_ms: i64,
}

/// Connections on which things will come.
#[derive(Debug, Default)]
struct Attached {
    /// The stream, and where it begins.
    stream: Option<(Link, Offset)>,
    /// The snapshot, and which offset it stands for. Without a stream beside it, the stream follows on the same link.
    snapshot: Option<(Link, Offset)>,
}

/// Runs attempts.
pub(super) async fn supervise(
    plan: Arc<CopyPlan>,
    shared: Arc<Shared>,
    mut begin: Begin,
    mut orders: mpsc::Receiver<Order>,
) {
    let (mut restarts, mut backoff) = (0, plan.limits.backoff);
    loop {
        let clean = shared.writers().is_empty();
        let cleared = if clean {
            Ok(())
        } else {
            begin_again(&plan, &shared).await
        };
        let error = match cleared {
            Ok(()) => match Box::pin(attempt(&plan, &shared, &mut begin, &mut orders)).await {
                Ok(never) => match never {},
                Err(error) => error,
            },
            Err(error) => error,
        };
        while let Ok(order) = orders.try_recv() {
            order.refuse();
        }
        let again = matches!(begin, Begin::Empty) && !error.is_final() && restarts < plan.limits.restarts_max;
        tracing::warn!(event = "copy_ended", restarts, again, %error, "an attempt to copy has ended");
        if !again {
            let reason = Box::new(error);
            shared.note(|progress| {
                progress.phase = Phase::Failed;
                progress.last_error = Some(CopyError::Failed { restarts, reason });
            });
            return;
        }
        restarts += 1;
        shared.note(|progress| {
            progress.phase = Phase::Restarting;
            progress.restarts = restarts;
            progress.last_error = Some(error);
        });
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

async fn attempt(
    plan: &Arc<CopyPlan>,
    shared: &Arc<Shared>,
    begin: &mut Begin,
    orders: &mut mpsc::Receiver<Order>,
) -> Result<Infallible, CopyError> {
    shared.begin();
    let facts = look(plan, matches!(begin, Begin::Empty)).await?;
    shared.skew_ms.store(facts.skew_ms, Ordering::Relaxed);
    shared.note(|progress| {
        progress.run_id.clone_from(&facts.source_run_id);
        progress.target_run_id.clone_from(&facts.target_run_id);
    });
    let (pipe, replies) = open_pipe(&plan.target, &facts.target_run_id, shared).await?;
    let spool = Arc::new(Spool::new(plan.limits.clone()));
    let mut tasks = JoinSet::new();
    tasks.spawn(replies.read());
    tasks.spawn(watch_target(Arc::clone(plan), Arc::clone(shared)));
    let run_id = facts.source_run_id.clone();
    tasks.spawn(watch_source(Arc::clone(plan), Arc::clone(shared), run_id));
    let (hand, handed) = oneshot::channel();
    let (source, received) = (plan.source.clone(), (Arc::clone(shared), Arc::clone(&spool)));
    tasks.spawn(async move {
        match handed.await {
            Ok((link, from)) => receive(link, source, from, received.0, received.1).await,
            Err(_) => CopyError::Stopped,
        }
    });
    let applier = Applier {
        plan: Arc::clone(plan),
        shared: Arc::clone(shared),
        spool,
        pipe,
        frames: Frames::default(),
        facts: facts.clone(),
        journal: None,
        lost: Lost::none(),
        scan: None,
        gathered: None,
    };
    let keeper = Keeper::new(Arc::clone(plan), Arc::clone(shared), facts);
    tokio::select! {
        end = flow(applier, begin, hand) => end,
        error = keeper.keep(orders) => Err(error),
        Some(ended) = tasks.join_next() => {
            Err(ended.unwrap_or_else(|error| CopyError::Target(error.to_string())))
        }
    }
}

/// From attaching to the stream, which does not end.
async fn flow(
    mut applier: Applier,
    begin: &mut Begin,
    hand: oneshot::Sender<(Link, Offset)>,
) -> Result<Infallible, CopyError> {
    let (plan, shared) = (Arc::clone(&applier.plan), Arc::clone(&applier.shared));
    let attached = attach(&plan, &applier.facts, begin).await?;
    let (mut hand, mut received) = (Some(hand), 0);
    let (from, selected);
    // Whoever was handed the link is gone only if the attempt has ended.
    let mut pass = |link: Link, at: Offset| {
        received = at.offset;
        shared.note(|progress| {
            progress.replid.clone_from(&at.replid);
            progress.stream_offset = at.offset;
            progress.applied_offset = at.offset;
        });
        hand.take().map(|hand| hand.send((link, at)))
    };
    let apart = attached.stream.is_some();
    if let Some((link, at)) = attached.stream {
        pass(link, at);
    }
    if let Some((link, at)) = attached.snapshot {
        let (link, db) = applier.snapshot(link).await?;
        (from, selected) = (at.offset, db);
        if !apart {
            pass(link, at);
        }
    } else {
        (from, selected) = applier.without_snapshot(begin, received).await?;
    }
    if applier.scan.is_some() {
        shared.note(|progress| progress.phase = Phase::Snapshot);
    } else if applier.lost.is_over() {
        shared.note(|progress| progress.phase = Phase::Streaming);
    }
    applier.stream(received, from, selected).await
}

/// Connects to the source in the way that it can.
async fn attach(plan: &CopyPlan, facts: &Facts, begin: &Begin) -> Result<Attached, CopyError> {
    let silence = plan.limits.silence;
    let mut attached = Attached::default();
    if let Begin::Resume { noted, .. } = begin {
        let link = attach_at(&plan.source, &noted.at, silence).await?;
        attached.stream = Some((link, noted.at.clone()));
        return Ok(attached);
    }
    let client = connect(&plan.source, silence).await;
    let mut client = client.map_err(CopyError::of_source)?;
    if let Begin::Attach { .. } = begin {
        attached.stream = Some(attach_now(plan, &mut client).await?);
        return Ok(attached);
    }
    if plan.limits.method == CopyMethod::Scan {
        attached.stream = Some(scan::attach(plan, &mut client).await?);
        return Ok(attached);
    }
    if facts.two_links && history(&mut client).await?.has_backlog {
        attached.stream = Some(attach_now(plan, &mut client).await?);
    }
    let mut link = Link::open(&plan.source, silence).await?;
    if facts.two_links {
        link.rdb_only().await?;
    }
    let Psync::Full(at) = link.psync(None).await? else {
        return Err(CopyError::Source("it sends no snapshot".to_owned()));
    };
    match &attached.stream {
        Some((_, stream)) if stream.replid != at.replid || stream.offset > at.offset => {
            return Err(CopyError::SourceChanged("its history has another name"));
        }
        Some(_) => {}
        // The snapshot has made the backlog that the stream needs.
        None if facts.two_links => {
            attached.stream = Some((attach_at(&plan.source, &at, silence).await?, at.clone()));
        }
        None => {}
    }
    attached.snapshot = Some((link, at));
    Ok(attached)
}

/// A node that has never had a replica keeps no history, and a stream needs one. Asking for everything makes it begin, and what
/// it would send is not waited for.
pub(super) async fn ensure_history(node: &Endpoint, silence: Duration) -> Result<(), CopyError> {
    let mut client = connect(node, silence).await.map_err(CopyError::of_source)?;
    if history(&mut client).await?.has_backlog {
        return Ok(());
    }
    let mut link = Link::open(node, silence).await?;
    link.wake().await?;
    let until = Instant::now() + silence;
    while !history(&mut client).await?.has_backlog {
        if Instant::now() >= until {
            return Err(CopyError::Source("it does not keep its history".to_owned()));
        }
        sleep(HISTORY_PACE).await;
    }
    Ok(())
}

/// The stream from where the source is now.
pub(super) async fn attach_now(
    plan: &CopyPlan,
    client: &mut NodeClient,
) -> Result<(Link, Offset), CopyError> {
    let mut tried = 0;
    loop {
        tried += 1;
        let now = history(client).await?;
        let at = Offset {
            replid: now.replid,
            offset: now.offset,
        };
        match attach_at(&plan.source, &at, plan.limits.silence).await {
            Ok(link) => return Ok((link, at)),
            // So much was written meanwhile that the backlog does not reach back.
            Err(CopyError::SourceChanged(_)) if tried < ATTACH_MAX => {}
            Err(error) => return Err(error),
        }
    }
}

impl Applier {
    /// Says from where on the stream is applied that was not begun with a snapshot, and which database is selected there.
    async fn without_snapshot(
        &mut self,
        begin: &mut Begin,
        received: u64,
    ) -> Result<(u64, Option<u64>), CopyError> {
        match begin {
            Begin::Empty => {
                // Keys are read from here on. What was written before the mark, to whichever database, is in them.
                mark(&self.plan).await?;
                self.scan = Some(Box::new(Scan::open(self).await?));
                Ok((received, Some(u64::from(self.plan.metadata_db.0))))
            }
            Begin::Resume { journal, noted } => {
                self.journal = Some(journal.clone());
                Ok((noted.at.offset, Some(noted.selected)))
            }
            Begin::Attach { journal, told } => {
                // Until the source names another one from here on, nothing that it writes is for a database of ours.
                mark(&self.plan).await?;
                self.shared.note(|progress| progress.phase = Phase::Attached);
                let told = told.take().ok_or(CopyError::Stopped)?;
                let start = told.await.map_err(|_| CopyError::Stopped)?;
                self.park_first(&start, journal).await?;
                Ok((start.at.offset, Some(u64::from(self.plan.metadata_db.0))))
            }
        }
    }

    /// Parks what the target has, what expires soon first, and notes that the stream can be followed from here.
    async fn park_first(&mut self, start: &Start, journal: &Journal) -> Result<(), CopyError> {
        if self.shared.progress().replid != start.at.replid {
            return Err(CopyError::SourceChanged("its history has another name"));
        }
        let mut walker = Walker::open(&self.plan, &self.facts, &self.shared).await?;
        let target_now_ms = || now_ms() + self.facts.target_ahead_ms;
        // What has just expired on one side may not have on the other: clocks differ a little.
        let unsure = Walk::ParkUnless(target_now_ms() + millis(CLOCKS));
        let visited = walker.visit(&start.soon, unsure).await?;
        let mut journal = journal.clone();
        if visited.gone.is_empty() && visited.hashes.is_empty() {
            journal.settle();
        } else {
            sleep(CLOCKS * 2).await;
            let client = connect(&self.plan.source, self.plan.limits.silence).await;
            let mut client = client.map_err(CopyError::of_source)?;
            self.lost = Lost::new(visited, history(&mut client).await?.offset);
        }
        walker.walk(Walk::Park).await?;
        if target_now_ms() + millis(PARK_MARGIN) >= start.moment_ms {
            return Err(CopyError::HorizonPassed);
        }
        let metadata = self.plan.metadata_db;
        walker.note(metadata, &journal.begun(&start.at, metadata)).await?;
        self.journal = Some(journal);
        Ok(())
    }
}

/// Makes the source write a SELECT into its stream.
async fn mark(plan: &CopyPlan) -> Result<(), CopyError> {
    let client = connect(&plan.source, plan.limits.silence).await;
    let mut client = client.map_err(CopyError::of_source)?;
    let metadata = plan.metadata_db.to_string();
    let marker = MARKER_KEY.as_bytes();
    let written: [Vec<&[u8]>; 3] = [
        vec![b"SELECT", metadata.as_bytes()],
        vec![b"SET", marker, b"1"],
        vec![b"DEL", marker],
    ];
    let answers = ask_with_room(&mut client, &written).await;
    for answer in answers.map_err(CopyError::of_source)? {
        if let Value::Error(error) = answer {
            return Err(CopyError::of_source(AskError::Refused(error)));
        }
    }
    Ok(())
}

// === clearing ===

/// What an earlier attempt has written is removed, and it can write nothing more.
async fn begin_again(plan: &CopyPlan, shared: &Shared) -> Result<(), CopyError> {
    end_writers(plan, shared).await?;
    let dbs: Vec<DbIndex> = plan.dbs.iter().map(|(_, db)| *db).collect();
    clear(&plan.target, &dbs, plan.limits.silence).await
}

/// Ends the connections that have written, at the target itself: it may still have bytes of them that it has not read.
pub(super) async fn end_writers(plan: &CopyPlan, shared: &Shared) -> Result<(), CopyError> {
    let writers = shared.writers().clone();
    let ended = async {
        let mut client = connect(&plan.target, plan.limits.silence).await?;
        let server = client.ask_text(&["INFO", "server"]).await?;
        let run_id = field(&server, "run_id");
        // A process that is gone took its connections with it, and another one uses their numbers anew.
        for writer in writers.iter().filter(|writer| writer.run_id == run_id) {
            match client
                .ask(&["CLIENT", "KILL", "ID", &writer.id.to_string()])
                .await
            {
                Ok(_) => {}
                Err(AskError::Refused(error)) => return Err(AskError::Refused(cut(&error))),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    ended.await.map_err(CopyError::of_target)?;
    shared.writers().retain(|writer| !writers.contains(writer));
    shared.in_flight.store(0, Ordering::SeqCst);
    Ok(())
}

/// Removes all keys of these databases, without waiting for their memory.
///
/// # Errors
/// The node cannot be asked, or refuses.
pub async fn clear(target: &Endpoint, dbs: &[DbIndex], deadline: Duration) -> Result<(), CopyError> {
    let cleared = async {
        let mut client = connect(target, deadline).await?;
        for db in dbs {
            client.ask(&["SELECT", &db.to_string()]).await?;
            client.ask(&["FLUSHDB", "ASYNC"]).await?;
        }
        Ok(())
    };
    cleared.await.map_err(CopyError::of_target)
}

impl Shared {
    /// As before the first attempt.
    fn begin(&self) {
        self.set_expiries(Expiries::Park);
        self.freeze(u64::MAX);
        self.gate.open();
        drop(self.take_debts());
        self.window.store(self.limits.window, Ordering::Relaxed);
        self.waiting_since_ms.store(0, Ordering::Relaxed);
        self.note(|progress| {
            *progress = super::state::Progress {
                phase: Phase::Attaching,
                restarts: progress.restarts,
                last_error: progress.last_error.take(),
                ..super::state::Progress::default()
            };
        });
    }
}
