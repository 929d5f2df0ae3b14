//! What a copy of the simulation does: a snapshot and the stream, or the stream alone with the real [`Journal`] of a way back.
//!
//! ```text
//!  move       snapshot ─▶ stream …                        anything wrong: cleared, and again
//!  way back   attached ─▶ told where both are the same ─▶ first note ─▶ stream, each batch a transaction with its note …
//!  resumed    stream behind what was noted …              anything wrong: it ends, and its leader decides
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::copy::{PATIENCE, Shared};
use super::data::Data;
use super::node::Words;
use super::play::is_calm;
use super::wire::{Line, requests, round_trip, some};
use super::world::Peer;
use crate::config::Secret;
use crate::control::fence::TERM_KEY;
use crate::ids::DbIndex;
use crate::migration::{CopyError, Journal, Noted, Phase, Signature, Start};
use crate::rdb::Frames;
use crate::resp::Value;

/// Unanswered commands at the target.
const WINDOW: usize = 8;
const RESTARTS_MAX: u32 = 2;
/// A source that writes nothing is heard of so often.
const IDLE: Duration = Duration::from_secs(4);

/// Where a copy begins.
pub(super) enum Begin {
    Snapshot,
    Attach {
        journal: Journal,
        told: oneshot::Receiver<Start>,
    },
    Resume {
        journal: Journal,
        noted: Noted,
    },
}

/// A place in the history of a node: its run, and the offset.
type Place = (u64, u64);

pub(super) async fn supervise(shared: Arc<Shared>, begin: Begin) {
    let mut rng = shared.world.rng("copy", shared.source);
    let error = match begin {
        Begin::Snapshot => return Box::pin(copy(&shared, &mut rng)).await,
        Begin::Attach { journal, told } => Box::pin(attach(&shared, journal, told, &mut rng)).await,
        Begin::Resume { journal, noted } => Box::pin(resume(&shared, journal, &noted, &mut rng)).await,
    };
    if let Err(error) = error {
        shared
            .world
            .tell(|| format!("way back by p{}: {error}", shared.who));
        shared.note(|now| {
            now.phase = Phase::Failed;
            now.last_error = Some(error);
        });
    }
}

// === a move ===

async fn copy(shared: &Shared, rng: &mut Rng) {
    let mut restarts = 0;
    loop {
        let begun = async {
            if restarts > 0 {
                shared.end_writer().await?;
                let line = login(shared, rng).await?;
                let dbs = shared.plan.dbs.clone();
                for (_, db) in dbs {
                    ask(shared, &line, &[select(db), vec![b"FLUSHDB".to_vec()]]).await?;
                }
            }
            Box::pin(attempt(shared, rng)).await
        };
        let Err(error) = begun.await else { return };
        shared.world.tell(|| format!("copy by p{}: {error}", shared.who));
        let is_over = restarts >= RESTARTS_MAX || matches!(error, CopyError::TargetNotEmpty(_));
        restarts += 1;
        shared.note(|now| {
            now.phase = if is_over { Phase::Failed } else { Phase::Restarting };
            now.restarts = restarts;
            now.last_error = Some(error);
        });
        if is_over {
            return;
        }
        sleep(Duration::from_millis(500)).await;
    }
}

// === both ===

/// A connection as the user that writes the copy.
async fn login(shared: &Shared, rng: &mut Rng) -> Result<Arc<Line>, CopyError> {
    let gone = || CopyError::Target("no connection".to_owned());
    let connected = round_trip(&shared.world, shared.who, shared.target, rng);
    timeout(PATIENCE, connected).await.map_err(|_| gone())?;
    let line = Line::open(&shared.world, shared.who, shared.target).ok_or_else(gone)?;
    let credentials = &shared.plan.target.credentials;
    let user = credentials.username.clone().unwrap_or_default();
    let password = credentials.password.as_ref().map_or("", Secret::reveal);
    let auth = vec![b"AUTH".to_vec(), user.into_bytes(), password.as_bytes().to_vec()];
    ask(shared, &line, &[auth]).await?;
    if let Some(signature) = &shared.plan.target.signature {
        sign(&line, signature).await?;
    }
    *shared.line.lock().unwrap() = Some(Arc::clone(&line));
    Ok(line)
}

/// Who has no user of its own says whose connection it is, and looks behind that whether it still leads.
async fn sign(line: &Line, signature: &Signature) -> Result<(), CopyError> {
    let words = |words: [&str; 2]| words.map(|word| word.as_bytes().to_vec()).to_vec();
    line.send(
        [
            words(["CLIENT", "SETNAME"]),
            vec![signature.name.clone().into_bytes()],
        ]
        .concat(),
    );
    line.send(words(["SELECT", &signature.metadata_db.to_string()]));
    line.send(words(["GET", TERM_KEY]));
    let mut found = None;
    for _ in 0..3 {
        found = line.recv().await;
    }
    if found.as_ref().and_then(Value::as_bytes) == Some(signature.term.to_string().as_bytes()) {
        return Ok(());
    }
    line.hang_up();
    Err(CopyError::Target("another proxy leads now".to_owned()))
}

/// Sends all, and reads as many replies, none of which may be an error.
async fn ask(shared: &Shared, line: &Line, commands: &[Words]) -> Result<(), CopyError> {
    let mut due = VecDeque::from(commands.to_vec());
    let mut awaited = 0;
    while awaited > 0 || !due.is_empty() {
        while awaited < WINDOW
            && let Some(words) = due.pop_front()
        {
            line.send(words);
            awaited += 1;
            shared.in_flight.fetch_add(1, Relaxed);
        }
        let reply = line.recv().await;
        let reply = reply.ok_or_else(|| CopyError::Target("the connection has ended".to_owned()))?;
        awaited -= 1;
        shared.in_flight.fetch_sub(1, Relaxed);
        let refused = match reply {
            Value::Error(error) => Some(error),
            Value::Array(replies) => replies.into_iter().find_map(|reply| match reply {
                Value::Error(error) => Some(error),
                _ => None,
            }),
            _ => None,
        };
        if let Some(error) = refused {
            return Err(CopyError::TargetRefused(error));
        }
    }
    Ok(())
}

fn select(db: DbIndex) -> Words {
    vec![b"SELECT".to_vec(), db.to_string().into_bytes()]
}

async fn attempt(shared: &Shared, rng: &mut Rng) -> Result<(), CopyError> {
    shared.note(|now| now.phase = Phase::Attaching);
    let (world, plan) = (&shared.world, &shared.plan);
    let source = &world.nodes[shared.source];
    round_trip(world, shared.who, shared.source, rng).await;
    let line = login(shared, rng).await?;
    if source.is_down() {
        return Err(CopyError::Source("no connection".to_owned()));
    }
    let taken = plan
        .dbs
        .iter()
        .find(|(_, db)| world.nodes[shared.target].keys(db.0) > 0);
    if let Some((_, db)) = taken {
        return Err(CopyError::TargetNotEmpty(*db));
    }
    // The snapshot.
    let (run, from) = source.position();
    let (replid, run_id) = (source.replid(), source.run_id());
    let target_run_id = world.nodes[shared.target].run_id();
    let all: Vec<_> = plan
        .dbs
        .iter()
        .map(|(from, to)| (*to, source.db(from.0)))
        .collect();
    shared.note(|now| {
        now.phase = Phase::Snapshot;
        now.replid = replid;
        (now.run_id, now.target_run_id) = (run_id, target_run_id);
        (now.stream_offset, now.applied_offset, now.source_offset) = (from, from, from);
    });
    sleep(some(rng, 50)).await;
    for (db, keys) in all {
        let mut commands = vec![select(db)];
        commands.extend(keys.into_iter().filter_map(restore));
        for part in commands.chunks(16) {
            ask(shared, &line, part).await?;
            sleep(some(rng, 4)).await;
        }
        shared.note(|now| now.keys += 1);
    }
    shared.note(|now| now.phase = Phase::Streaming);
    follow(shared, &line, (run, from), None, rng).await
}

// === a way back ===

/// Connects to both, and keeps what the source does from now on, until it is told from where on that is applied.
async fn attach(
    shared: &Shared,
    mut journal: Journal,
    mut told: oneshot::Receiver<Start>,
    rng: &mut Rng,
) -> Result<(), CopyError> {
    let (line, run) = connect(shared, rng).await?;
    let source = &shared.world.nodes[shared.source];
    let at = source.position().1;
    note_place(shared, at, Phase::Attached);
    let start = loop {
        let wrote = source.wrote.notified();
        if source.position().0 != run {
            return Err(CopyError::SourceChanged("it is another process"));
        }
        tokio::select! {
            biased;
            start = &mut told => break start.map_err(|_| CopyError::Stopped)?,
            () = wrote => {}
            _ = line.recv() => return Err(CopyError::Target("the connection has ended".to_owned())),
        }
    };
    if start.at.replid != shared.progress().replid {
        return Err(CopyError::SourceChanged("its history has another name"));
    }
    sleep(some(rng, 20)).await;
    if !is_calm(shared.world.seed) && rng.u8(0..40) == 0 {
        return Err(CopyError::HorizonPassed);
    }
    let metadata = shared.plan.metadata_db;
    let mut first = vec![select(metadata)];
    first.extend(journal.begun(&start.at, metadata));
    ask(shared, &line, &first).await?;
    journal.settle();
    note_place(shared, start.at.offset, Phase::Streaming);
    follow(shared, &line, (run, start.at.offset), Some(journal), rng).await
}

/// Goes on behind what is noted.
async fn resume(shared: &Shared, journal: Journal, noted: &Noted, rng: &mut Rng) -> Result<(), CopyError> {
    let (line, run) = connect(shared, rng).await?;
    let source = &shared.world.nodes[shared.source];
    if source.replid() != noted.at.replid || source.since(run, noted.at.offset).is_none() {
        return Err(CopyError::SourceChanged(
            "it does not have the history that was noted",
        ));
    }
    note_place(shared, noted.at.offset, Phase::Streaming);
    follow(shared, &line, (run, noted.at.offset), Some(journal), rng).await
}

/// The connection that writes, and which run the source is.
async fn connect(shared: &Shared, rng: &mut Rng) -> Result<(Arc<Line>, u64), CopyError> {
    round_trip(&shared.world, shared.who, shared.source, rng).await;
    let line = login(shared, rng).await?;
    let source = &shared.world.nodes[shared.source];
    if source.is_down() {
        return Err(CopyError::Source("no connection".to_owned()));
    }
    Ok((line, source.position().0))
}

fn note_place(shared: &Shared, at: u64, phase: Phase) {
    let source = &shared.world.nodes[shared.source];
    let (replid, run_id) = (source.replid(), source.run_id());
    let target_run_id = shared.world.nodes[shared.target].run_id();
    shared.note(|now| {
        (now.phase, now.replid, now.run_id) = (phase, replid, run_id);
        now.target_run_id = target_run_id;
        (now.stream_offset, now.applied_offset, now.source_offset) = (at, at, at);
    });
}

// === the stream ===

/// Applies what the source writes, as long as it is the same process.
async fn follow(
    shared: &Shared,
    line: &Line,
    (run, from): Place,
    mut journal: Option<Journal>,
    rng: &mut Rng,
) -> Result<(), CopyError> {
    let (world, plan) = (&shared.world, &shared.plan);
    let source = &world.nodes[shared.source];
    let (mut at, mut selected, mut frames) = (from, u64::from(plan.metadata_db.0), Frames::default());
    loop {
        let wrote = source.wrote.notified();
        let Some(writes) = source.since(run, at) else {
            // A connection that is half open tells nothing; another one is asked now and then.
            if rng.bool() {
                sleep(some(rng, 4_000)).await;
            }
            return Err(CopyError::SourceChanged("it is another process"));
        };
        if writes.is_empty() && timeout(IDLE, wrote).await.is_ok() {
            continue;
        }
        // On its way to us.
        world
            .cross(Some(shared.who), Peer::Node(shared.source), rng)
            .await;
        at = writes.last().map_or(at, |(end, ..)| *end);
        shared.note(|now| (now.stream_offset, now.source_offset) = (at, at));
        for (_, db, words) in writes {
            selected = u64::from(db);
            if let Some((_, to)) = plan.dbs.iter().find(|(of, _)| of.0 == db) {
                let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
                frames.write(*to, &words);
            }
        }
        if let Some(journal) = &mut journal {
            journal.note(&mut frames, plan.metadata_db, at, selected);
        }
        let commands = requests(&frames.take());
        if journal.is_some() && !commands.is_empty() {
            world.batch(shared.who).await;
        }
        ask(shared, line, &commands).await?;
        shared.note(|now| now.applied_offset = at);
    }
}

/// A key as a command that makes it.
fn restore((key, data): (Vec<u8>, Data)) -> Option<Words> {
    match data {
        Data::List(list) => Some([vec![b"RPUSH".to_vec(), key], list].concat()),
        Data::Text(text) => Some(vec![b"SET".to_vec(), key, text]),
        Data::Hash(_) => None,
    }
}
