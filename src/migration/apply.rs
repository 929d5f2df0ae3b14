//! Snapshot and stream on their way to the target, one behind the other over the same pipe. (Without a snapshot: `scan`.)
//!
//! ```text
//!  Link (snapshot) ─▶ RdbReader ──────────────────▶ Frames ─▶ Pipe
//!  Spool ─▶ StreamReader ─▶ StreamFilter (from the snapshot's offset on) ─▶ Frames ─▶ Pipe
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;
use tokio::time::timeout;

use super::error::CopyError;
use super::journal::Journal;
use super::link::Link;
use super::lost::Lost;
use super::pipe::{Pipe, Place};
use super::plan::CopyPlan;
use super::probe::Facts;
use super::scan::{Scan, answered};
use super::spool::{Chunk, Spool};
use super::state::{Phase, Shared};
use crate::rdb::{
    CopyOptions, Databases, Event, Expiries, Frames, Outcome, RdbReader, StreamFilter, StreamOptions,
    StreamReader, Ttl, Values,
};

/// Read of a snapshot at a time.
const READ: usize = 256 * 1024;
/// Gathered of the stream before it is written.
const BATCH: usize = 32 * 1024;
/// Of the stream behind a freeze: more is not kept.
const HELD_MAX: usize = 64 * 1024 * 1024;
/// How often an idle stream looks whether the source was thawed.
const THAW_LOOK: Duration = Duration::from_millis(50);

/// Everything that one attempt applies goes through here.
#[derive(Debug)]
pub(super) struct Applier {
    pub(super) plan: Arc<CopyPlan>,
    pub(super) shared: Arc<Shared>,
    pub(super) spool: Arc<Spool>,
    pub(super) pipe: Pipe,
    pub(super) frames: Frames,
    pub(super) facts: Facts,
    /// Notes on the target how far it is.
    pub(super) journal: Option<Journal>,
    /// Keys that must not be renewed.
    pub(super) lost: Lost,
    /// What is left of a copy without a snapshot.
    pub(super) scan: Option<Box<Scan>>,
    /// What was gathered and is not written.
    pub(super) gathered: Option<Gathered>,
}

/// Behind which request of the stream something is, when that came, and which database of the source is selected there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gathered {
    offset: u64,
    received_ms: i64,
    selected: Option<u64>,
}

impl Applier {
    fn databases(&self) -> Databases {
        Databases::new(self.plan.dbs.iter().copied())
    }

    /// Writes the snapshot that comes over a link, and returns the link with what stands behind the snapshot. Also the
    /// database that is selected in the stream there, if the snapshot says.
    pub(super) async fn snapshot(&mut self, mut link: Link) -> Result<(Link, Option<u64>), CopyError> {
        let line = link.line().await?;
        let mark = line.strip_prefix("$EOF:").map(|mark| mark.as_bytes().to_vec());
        let length: Option<u64> = line.strip_prefix('$').and_then(|length| length.parse().ok());
        if mark.is_none() && length.is_none() {
            return Err(CopyError::Source("it announced no snapshot".to_owned()));
        }
        self.shared.note(|progress| {
            progress.phase = Phase::Snapshot;
            progress.bytes_total = length;
        });
        let mut reader = RdbReader::new(CopyOptions {
            databases: self.databases(),
            target: self.facts.target,
            values: Values::Payloads,
            ttl: Ttl {
                expiries: Expiries::Park,
                skew_ms: self.facts.skew_ms,
            },
            limits: self.plan.limits.values,
        });
        reader.push(&std::mem::take(&mut link.buf));
        let mut selected = None;
        loop {
            match reader.poll(&mut self.frames)? {
                Event::NeedMore => read_on(&mut link, &mut reader, self.plan.limits.silence).await?,
                Event::Full => {
                    self.note_snapshot(&reader);
                    self.pipe.write_slowly(&mut self.frames).await?;
                }
                Event::Aux { name, value } if name == b"repl-stream-db" => {
                    selected = std::str::from_utf8(&value).ok().and_then(|db| db.parse().ok());
                }
                Event::End => break,
                Event::Version { .. }
                | Event::Aux { .. }
                | Event::Database { .. }
                | Event::Sizes { .. }
                | Event::Function(_)
                | Event::ModuleAux(_) => {}
            }
        }
        self.note_snapshot(&reader);
        self.pipe.write_slowly(&mut self.frames).await?;
        self.pipe.answered().await;
        if length.is_some_and(|length| length != reader.consumed()) {
            return Err(CopyError::Source(
                "the snapshot has another length than announced".to_owned(),
            ));
        }
        link.buf = reader.into_rest();
        if let Some(mark) = mark {
            pass_mark(&mut link, &mark, self.plan.limits.silence).await?;
        }
        Ok((link, selected))
    }

    fn note_snapshot(&self, reader: &RdbReader) {
        let (counts, bytes) = (reader.counts(), reader.consumed());
        self.shared.note(|progress| {
            progress.keys = counts.restored + counts.rebuilt;
            progress.bytes = bytes;
        });
    }

    /// Applies the stream for as long as it can. It is received from `received` on, and applied from `from` on.
    pub(super) async fn stream(
        mut self,
        mut received: u64,
        from: u64,
        selected: Option<u64>,
    ) -> Result<std::convert::Infallible, CopyError> {
        let limits = self.plan.limits.stream;
        let mut reader = StreamReader::new(received, limits);
        let mut options = StreamOptions {
            databases: self.databases(),
            target: self.facts.target,
            limits,
            from,
            selected,
        };
        let mut filter = self.filter(&options);
        let (mut db, mut held) = (selected, Held::default());
        let mut gate = self.shared.gate.subscribe();
        loop {
            let frozen_at = self.shared.frozen_at();
            let thawed = if held.is_of(frozen_at) {
                None
            } else {
                // Nothing is missing if the stream has not come to where it was frozen.
                Some(std::mem::take(&mut held)).filter(|held| held.from < received)
            };
            if let Some(again) = thawed {
                // What came meanwhile was only looked at.
                options.from = again.from;
                options.selected = again.selected;
                reader = StreamReader::new(again.from, limits);
                filter = self.filter(&options);
                db = again.selected;
                received = again.from;
                let again = again.chunk()?;
                received += again.bytes.len() as u64;
                self.pass(&mut reader, &mut filter, &mut db, again, &mut Held::default())
                    .await?;
            }
            let at = *gate.borrow_and_update();
            if at <= reader.offset() {
                self.settle().await?;
                self.shared.gate.stand(at);
            }
            if !filter.is_in_transaction() && self.read_at(reader.offset()).await? {
                continue;
            }
            let Some(chunk) = self.spool.pop().await? else {
                tokio::select! {
                    // Nobody wakes us when the source is thawed.
                    _ = timeout(THAW_LOOK, self.spool.arrived()) => {}
                    _ = gate.changed() => {}
                    read = answered(&mut self.scan) => read?,
                }
                continue;
            };
            // The stream could not be gone back to within a request or a transaction: until that is over, all is done as before the freeze.
            let is_between = reader.offset() == received && !filter.is_in_transaction();
            if is_between || frozen_at >= received || held.is_used() {
                filter.freeze(frozen_at);
                held.note(frozen_at, received, db, &chunk);
            }
            received += chunk.bytes.len() as u64;
            self.pass(&mut reader, &mut filter, &mut db, chunk, &mut held)
                .await?;
        }
    }

    /// Hands a chunk through.
    async fn pass(
        &mut self,
        reader: &mut StreamReader,
        filter: &mut StreamFilter,
        db: &mut Option<u64>,
        chunk: Chunk,
        held: &mut Held,
    ) -> Result<(), CopyError> {
        reader.push(&chunk.bytes);
        // When it came, by the source's clock.
        let at_source = chunk.received_ms + self.facts.source_ahead_ms;
        let mut gate = self.shared.gate.subscribe();
        while let Some(request) = reader.poll()? {
            if request.end > *gate.borrow() {
                self.stand(&mut gate, request.end).await?;
            }
            if self.scan.is_some() && !filter.is_in_transaction() {
                self.read_up_to(request.end).await?;
            }
            let ttl = Ttl {
                expiries: self.shared.expiries(),
                skew_ms: self.facts.skew_ms,
            };
            let end = request.end;
            if end <= held.from && request.args.get(0).eq_ignore_ascii_case(b"SELECT") {
                let selected = request
                    .args
                    .try_get(1)
                    .and_then(|db| std::str::from_utf8(db).ok());
                *db = selected.and_then(|db| db.parse().ok());
                held.selected = *db;
            }
            if !self.lost.is_over() && end > filter.from() {
                // What ended before this request.
                if self.lost.is_due(end - 1) && !filter.is_in_transaction() {
                    self.settle_lost();
                }
                if let Some(target) = filter.selected().and_then(|db| self.databases().target(db)) {
                    self.lost.look(&request.args, target)?;
                }
            }
            let outcome = match &mut self.scan {
                None => filter.handle(&request, ttl, at_source, &mut self.frames),
                Some(scan) => scan.handle(filter, &request, ttl, at_source, &mut self.frames)?,
            };
            match outcome {
                Outcome::Applied | Outcome::Ignored | Outcome::Buffered => {}
                Outcome::Restart(reason) => return Err(reason.into()),
                Outcome::Alarm => self.alarm(end),
            }
            if filter.is_in_transaction() {
                continue;
            }
            self.gathered = Some(Gathered {
                offset: end,
                received_ms: chunk.received_ms,
                selected: filter.selected(),
            });
            if self.frames.len() >= BATCH {
                self.write().await?;
            }
        }
        if filter.is_in_transaction() {
            return Ok(());
        }
        if self.lost.is_due(reader.offset()) {
            self.settle_lost();
        }
        self.gathered = Some(Gathered {
            offset: reader.offset(),
            received_ms: chunk.received_ms,
            selected: filter.selected(),
        });
        self.write().await
    }

    /// From here on the stream alone says what is to be done, whoever goes on with it.
    fn settle_lost(&mut self) {
        self.lost.settle(&mut self.frames);
        if let Some(journal) = &mut self.journal {
            journal.settle();
        }
        self.shared.note(|progress| progress.phase = Phase::Streaming);
    }

    fn filter(&self, options: &StreamOptions) -> StreamFilter {
        let filter = StreamFilter::new(options.clone());
        // A batch with a note is a transaction itself.
        match self.journal {
            Some(_) => filter.bare(),
            None => filter,
        }
    }

    /// Stops before a request that ends behind the gate, until the gate is behind it.
    async fn stand(&mut self, gate: &mut watch::Receiver<u64>, end: u64) -> Result<(), CopyError> {
        loop {
            let at = *gate.borrow_and_update();
            if at >= end {
                return Ok(());
            }
            self.settle().await?;
            self.shared.gate.stand(at);
            // Whoever could open it shares it with us.
            let _ = gate.changed().await;
        }
    }

    /// Everything that was gathered is written and answered. A transaction that has not ended stays where it is.
    async fn settle(&mut self) -> Result<(), CopyError> {
        self.write().await?;
        self.pipe.answered().await;
        Ok(())
    }

    pub(super) async fn write(&mut self) -> Result<(), CopyError> {
        let Some(gathered) = self.gathered.take() else {
            return Ok(());
        };
        let debts = self.frames.take_debts();
        if !debts.is_empty() {
            self.shared.owe(debts)?;
        }
        if let (Some(journal), Some(selected)) = (&mut self.journal, gathered.selected) {
            journal.note(&mut self.frames, self.plan.metadata_db, gathered.offset, selected);
        }
        let place = Place {
            offset: gathered.offset,
            received_ms: gathered.received_ms,
        };
        self.pipe.write(&mut self.frames, Some(place)).await
    }

    fn alarm(&self, offset: u64) {
        tracing::error!(
            event = "stray_write",
            offset,
            "a write came behind the freeze: the source has taken it, and nobody will get it"
        );
        self.shared.note(|progress| progress.alarms += 1);
    }
}

/// The stream behind a freeze, kept for the case that the source is thawed.
#[derive(Debug)]
struct Held {
    /// The freeze that it is of.
    frozen_at: u64,
    /// Where it begins; `u64::MAX`: nothing is held.
    from: u64,
    /// The database of the source that is selected there.
    selected: Option<u64>,
    received_ms: i64,
    /// `None`: it cannot be gone back.
    bytes: Option<Vec<u8>>,
}

impl Default for Held {
    fn default() -> Self {
        Self {
            frozen_at: u64::MAX,
            from: u64::MAX,
            selected: None,
            received_ms: 0,
            bytes: Some(Vec::new()),
        }
    }
}

impl Held {
    const fn is_used(&self) -> bool {
        self.from != u64::MAX
    }

    /// Whether this freeze still lasts, if anything is held of one.
    const fn is_of(&self, frozen_at: u64) -> bool {
        !self.is_used() || self.frozen_at == frozen_at
    }

    /// Keeps of a chunk what is behind the freeze. `received`: where the chunk begins, between two requests if the freeze was before.
    fn note(&mut self, frozen_at: u64, received: u64, db: Option<u64>, chunk: &Chunk) {
        if frozen_at == u64::MAX {
            return;
        }
        if !self.is_used() {
            self.frozen_at = frozen_at;
            self.from = frozen_at.max(received);
            self.selected = db;
            self.received_ms = chunk.received_ms;
        }
        let before = usize::try_from(self.from.saturating_sub(received)).unwrap_or(usize::MAX);
        let behind = chunk.bytes.get(before..).unwrap_or_default();
        if let Some(bytes) = &mut self.bytes {
            bytes.extend_from_slice(behind);
            if bytes.len() > HELD_MAX {
                self.bytes = None;
            }
        }
    }

    fn chunk(self) -> Result<Chunk, CopyError> {
        let bytes = self.bytes.ok_or(CopyError::TooMuchHeld)?;
        Ok(Chunk {
            received_ms: self.received_ms,
            bytes,
        })
    }
}

async fn read_on(link: &mut Link, reader: &mut RdbReader, silence: Duration) -> Result<(), CopyError> {
    let buffer = reader.buffer();
    buffer.reserve(READ);
    match timeout(silence, link.socket.read_buf(buffer)).await {
        Err(_) => Err(CopyError::SourceSilent(silence)),
        Ok(Ok(0)) => Err(CopyError::Source("the snapshot has ended too early".to_owned())),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(CopyError::Source(error.to_string())),
    }
}

/// Passes over what a source without a length writes behind its snapshot.
async fn pass_mark(link: &mut Link, mark: &[u8], silence: Duration) -> Result<(), CopyError> {
    while link.buf.len() < mark.len() {
        let read = timeout(silence, link.socket.read_buf(&mut link.buf)).await;
        match read {
            Err(_) => return Err(CopyError::SourceSilent(silence)),
            Ok(Ok(1..)) => {}
            Ok(Ok(0)) => return Err(CopyError::Source("the snapshot has ended too early".to_owned())),
            Ok(Err(error)) => return Err(CopyError::Source(error.to_string())),
        }
    }
    let found: Vec<u8> = link.buf.drain(..mark.len()).collect();
    if found == mark {
        Ok(())
    } else {
        Err(CopyError::Source(
            "the snapshot has no end where it should".to_owned(),
        ))
    }
}
