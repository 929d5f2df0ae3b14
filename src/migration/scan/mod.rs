//! A copy without a fork: keys are read one batch after the other, beside the stream, and put in place exactly where the stream was
//! when they were read.
//!
//! ```text
//!  source ──stream──▶ Spool ─▶ requests ── all keys clean? ─▶ applied                    ┐
//!    │                           │           else: its keys are read again               ├─▶ Pipe ─▶ target
//!    │                           ▼ up to offset P, no further                            │
//!    └─ SCAN, MULTI (DUMP PEXPIRETIME)* INFO EXEC ─▶ Answer { P, values } ───────────────┘ at P
//! ```
//!
//! While an answer is put in place the next question is on its way, one ahead. The stream is not handled beyond the last offset
//! that is known to stand before the next answer. Which keys the target has right, is kept by the [`Shelf`].

mod large;
mod pieces;
mod shelf;
mod source;

use self::large::PutPiece;
use self::shelf::{Put, Shelf, ShelfLimits};
use self::source::{Answer, Source};
use super::apply::Applier;
use super::error::CopyError;
use super::link::Link;
use super::plan::{CopyPlan, Offset};
use super::probe::history;
use super::run::{attach_now, ensure_history};
use super::state::Phase;
use crate::control::NodeClient;
use crate::rdb::{
    CopyOptions, Databases, DumpReader, Expiries, Frames, Outcome, StreamFilter, StreamRequest, Ttl, Values,
};
use crate::resp::Value;

/// What is left to be read.
#[derive(Debug)]
pub(super) struct Scan {
    shelf: Shelf,
    source: Source,
    dumps: DumpReader,
    /// A question is on its way.
    is_asked: bool,
    /// What waits for the stream.
    answer: Option<Answer>,
    /// Bytes of values so far.
    bytes: u64,
    /// Keys that were copied in pieces.
    large_keys: u64,
}

impl Scan {
    /// `applier`: whose target is empty.
    pub(super) async fn open(applier: &Applier) -> Result<Self, CopyError> {
        let plan = &applier.plan;
        let source = Source::open(&plan.source, plan.limits.silence, applier.facts.source);
        let dumps = DumpReader::new(CopyOptions {
            databases: Databases::new(plan.dbs.iter().copied()),
            target: applier.facts.target,
            values: Values::Payloads,
            ttl: Ttl {
                expiries: Expiries::Park,
                skew_ms: applier.facts.skew_ms,
            },
            limits: plan.limits.values,
        });
        let mut scan = Self {
            shelf: Shelf::new(plan.dbs.iter().copied(), ShelfLimits::default()),
            source: source.await?,
            dumps,
            is_asked: false,
            answer: None,
            bytes: 0,
            large_keys: 0,
        };
        scan.ask_on()?;
        Ok(scan)
    }

    /// The stream may be handled up to here.
    fn bound(&self) -> u64 {
        self.answer.as_ref().map_or(0, |answer| answer.offset)
    }

    /// Whether a request that ends here must wait.
    fn holds_back(&self, end: u64) -> bool {
        end > self.bound()
    }

    /// Decides about one request of the stream, as the filter does, and whether its keys are right on the target.
    pub(super) fn handle(
        &mut self,
        filter: &mut StreamFilter,
        request: &StreamRequest<'_>,
        ttl: Ttl,
        received_ms: i64,
        out: &mut Frames,
    ) -> Result<Outcome, CopyError> {
        let shelf = &mut self.shelf;
        let outcome = filter.handle_if(request, ttl, received_ms, out, &mut |spec, args, db| {
            shelf.judge(spec, args, db)
        });
        shelf.check()?;
        Ok(outcome)
    }

    /// Puts a piece of a large value in place, if there is one.
    fn put_piece(&mut self, answer: &Answer, out: &mut Frames) -> Result<(), CopyError> {
        let (Some(ask), Some(piece)) = (&answer.ask.piece, &answer.piece) else {
            return Ok(());
        };
        let (db, key) = (answer.ask.target, ask.key.as_slice());
        let last = match self.shelf.put_piece(db, ask, piece.kind) {
            PutPiece::Nothing | PutPiece::Never(_) => return Ok(()),
            PutPiece::Again => {
                out.write(db, &[b"DEL", key]);
                return Ok(());
            }
            PutPiece::Write { first, last } => {
                if first {
                    out.write(db, &[b"DEL", key]);
                }
                last
            }
        };
        if !piece.args.is_empty() {
            let words: Vec<&[u8]> = [piece.verb, key]
                .into_iter()
                .chain(piece.args.iter().map(Vec::as_slice))
                .collect();
            out.write(db, &words);
            self.bytes += piece.args.iter().map(|arg| arg.len() as u64).sum::<u64>();
        }
        self.dumps.expire_fields(db, key, &piece.fields, out)?;
        if last {
            self.large_keys += 1;
            if let Some(expires_ms) = piece.expires_ms {
                self.dumps.expire(db, key, expires_ms, out)?;
            }
        }
        Ok(())
    }

    fn ask_on(&mut self) -> Result<(), CopyError> {
        if !self.is_asked
            && let Some(ask) = self.shelf.ask()
        {
            self.source.ask(ask)?;
            self.is_asked = true;
        }
        Ok(())
    }

    /// Waits until there is an answer that waits for the stream. It may be given up at any time.
    async fn until_answered(&mut self) -> Result<(), CopyError> {
        if self.answer.is_some() {
            return Ok(());
        }
        let mut answer = self.source.answer().await?;
        self.is_asked = false;
        let found = std::mem::take(&mut answer.found);
        self.shelf.answered(&mut answer.ask, found);
        self.answer = Some(answer);
        self.ask_on()
    }
}

/// Waits until an answer has come that was not there. For ever, if none will.
pub(super) async fn answered(scan: &mut Option<Box<Scan>>) -> Result<(), CopyError> {
    match scan {
        Some(scan) if scan.answer.is_none() => scan.until_answered().await,
        Some(_) | None => std::future::pending().await,
    }
}

impl Applier {
    /// Lets the stream go on to `end`: answers that stand before it are put in place, and others are waited for.
    pub(super) async fn read_up_to(&mut self, end: u64) -> Result<(), CopyError> {
        while let Some(scan) = &mut self.scan {
            if !scan.holds_back(end) {
                break;
            }
            if scan.answer.is_none() {
                // What was gathered is not held back meanwhile.
                self.write().await?;
            }
            if let Some(scan) = &mut self.scan {
                scan.until_answered().await?;
                if !scan.holds_back(end) {
                    break;
                }
            }
            self.put_in_place().await?;
        }
        Ok(())
    }

    /// The stream was handled up to `at`: an answer that stands there is put in place. Whether there was one.
    pub(super) async fn read_at(&mut self, at: u64) -> Result<bool, CopyError> {
        let stands = self
            .scan
            .as_ref()
            .is_some_and(|scan| scan.answer.as_ref().is_some_and(|answer| answer.offset <= at));
        if stands {
            self.put_in_place().await?;
        }
        Ok(stands)
    }

    /// Puts the values of the answer that waits in place.
    async fn put_in_place(&mut self) -> Result<(), CopyError> {
        self.write().await?;
        let Some(scan) = &mut self.scan else { return Ok(()) };
        let Some(answer) = scan.answer.take() else {
            return Ok(());
        };
        for read in &answer.read {
            let put = scan.shelf.put(answer.ask.target, &read.key, read.dump.is_some());
            if put == Put::Instead {
                self.frames.write(answer.ask.target, &[b"DEL", &read.key]);
            }
            let Some(dump) = read.dump.as_ref().filter(|_| put != Put::Nothing) else {
                continue;
            };
            scan.bytes += dump.len() as u64;
            scan.dumps
                .push(answer.ask.source, &read.key, dump, read.expires_ms)?;
            while scan.dumps.poll(&mut self.frames)? {
                self.pipe.write_slowly(&mut self.frames).await?;
            }
        }
        scan.put_piece(&answer, &mut self.frames)?;
        scan.shelf.is_in_place(&answer.ask);
        scan.shelf.check()?;
        let (counts, bytes, keys) = (scan.dumps.counts(), scan.bytes, scan.large_keys);
        self.shared.note(|progress| {
            progress.keys = keys + counts.restored + counts.rebuilt;
            progress.bytes = bytes;
        });
        scan.ask_on()?;
        let is_done = scan.shelf.is_done();
        write_whole(&mut self.pipe, &mut self.frames).await?;
        if is_done {
            self.scan = None;
            self.shared.note(|progress| progress.phase = Phase::Streaming);
        }
        Ok(())
    }
}

async fn write_whole(pipe: &mut super::pipe::Pipe, frames: &mut Frames) -> Result<(), CopyError> {
    if frames.is_empty() {
        return Ok(());
    }
    pipe.write_slowly(frames).await
}

/// The stream from where the source is now, without a fork of the source.
pub(super) async fn attach(plan: &CopyPlan, client: &mut NodeClient) -> Result<(Link, Offset), CopyError> {
    if !history(client).await?.has_backlog {
        if !begins_without_fork(client).await? {
            return Err(CopyError::NeedsFork);
        }
        ensure_history(&plan.source, plan.limits.silence).await?;
    }
    attach_now(plan, client).await
}

/// Whether a node begins to keep its history without forking: if it waits before it sends its first snapshot, and by then nobody
/// wants that any more.
async fn begins_without_fork(client: &mut NodeClient) -> Result<bool, CopyError> {
    let mut says = [String::new(), String::new()];
    for (name, says) in DELAYED.iter().zip(&mut says) {
        let answer = client.ask(&["CONFIG", "GET", name]).await;
        if let Value::Array(pair) = answer.map_err(CopyError::of_source)? {
            let value = pair.get(1).and_then(Value::as_bytes);
            *says = String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
        }
    }
    Ok(is_delayed(&says[0], &says[1]))
}

/// The settings that say whether a node waits before it sends a snapshot, and for how many seconds.
pub(super) const DELAYED: [&str; 2] = ["repl-diskless-sync", "repl-diskless-sync-delay"];

pub(super) fn is_delayed(diskless: &str, delay: &str) -> bool {
    diskless == "yes" && delay.parse::<u64>().is_ok_and(|seconds| seconds > 0)
}
