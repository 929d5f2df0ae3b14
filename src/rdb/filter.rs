//! What becomes of each request of the stream: applied as it is or changed, left out, or the end of this copy.
//!
//! ```text
//!  request ─▶ SELECT · MULTI · EXEC ────────────────▶ remembered
//!          ├▶ of the whole node (PING, PUBLISH, …) ──▶ ignored
//!          ├▶ FLUSHALL ──────────────────────────────▶ FLUSHDB in each wanted database
//!          ├▶ of no wanted database ─────────────────▶ ignored, unless it reaches into one (SWAPDB, MOVE): restart
//!          └▶ of a wanted database
//!               ├─ sets an expiry ─▶ absolute, parked or real (rewrite)
//!               ├─ not as a replica should be told it (a script, a command that waits) ─▶ restart
//!               ├─ behind the freeze ─▶ alarm, unless something expired
//!               └─ any other write ─▶ as it is
//! ```

use super::expiry::Ttl;
use super::frames::{Databases, Frames};
use super::replication::{StreamLimits, StreamRequest};
use super::rewrite::{Rewrite, rewrite};
use super::target::Target;
use crate::command::{Class, Spec, lookup, subcommand};
use crate::ids::DbIndex;
use crate::resp::Args;

/// What is wanted of a stream, and for whom.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// The wanted databases.
    pub databases: Databases,
    /// The server that gets them.
    pub target: Target,
    /// How much is held at once.
    pub limits: StreamLimits,
    /// Requests that end here or before are in the snapshot already: of them only `SELECT` counts.
    pub from: u64,
    /// The database that is selected at the beginning, where that is known (`repl-stream-db` of the snapshot).
    pub selected: Option<u64>,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is applied when the target has answered what is in [`Frames`] now.
    Applied,
    /// It does not concern the wanted databases.
    Ignored,
    /// It waits for the end of its transaction: the target has not got it.
    Buffered,
    /// The copy must begin again.
    Restart(Restart),
    /// Something wrote to a wanted database behind the freeze.
    Alarm,
}

/// Why a copy must begin again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Restart {
    /// A write came before any `SELECT`.
    #[error("it is not known which database the stream writes to")]
    UnknownDatabase,
    /// `SWAPDB` with a wanted database.
    #[error("a database of the move was swapped")]
    Swapped,
    /// `MOVE` or `COPY … DB` into or out of a wanted database.
    #[error("a key was moved between databases")]
    MovedKey,
    /// A transaction above its limit.
    #[error("a transaction is too large to be held")]
    TransactionTooLarge,
    /// A script came as such instead of its effects.
    #[error("the source replicates scripts instead of their effects")]
    Script,
    /// `GT` or `LT` on expiries of fields, of which some are parked and some are real.
    #[error("expiries of fields are compared while they are put right")]
    Compared,
    /// A command that no source replicates, or only in another form.
    #[error("'{0}' is not expected in a stream")]
    Unexpected(&'static str),
    /// A command that the table does not have.
    #[error("the stream has a command that is not known")]
    UnknownCommand,
    /// Arguments that the source cannot have accepted.
    #[error("the arguments of '{0}' make no sense")]
    Malformed(&'static str),
    /// A payload or expiry that cannot be carried over.
    #[error(transparent)]
    Value(#[from] super::RdbError),
}

/// Whether a write to a database of the target shall be applied.
pub type Asked<'a> = dyn FnMut(&'static Spec, &Args<'_>, DbIndex) -> Result<bool, Restart> + 'a;

/// Decides about the requests of one stream, in their order.
#[derive(Debug)]
pub struct StreamFilter {
    options: StreamOptions,
    /// The selected database of the source; `None` until it is known.
    source: Option<u64>,
    /// Where it goes, if it is wanted.
    db: Option<DbIndex>,
    /// What a transaction holds so far.
    block: Option<Frames>,
    frozen_at: Option<u64>,
    /// Transactions are applied without `MULTI` and `EXEC`.
    bare: bool,
}

impl StreamFilter {
    /// A filter before the first request.
    #[must_use]
    pub fn new(options: StreamOptions) -> Self {
        let mut filter = Self {
            source: None,
            db: None,
            block: None,
            frozen_at: None,
            bare: false,
            options,
        };
        if let Some(source) = filter.options.selected {
            filter.select(source);
        }
        filter
    }

    /// For somebody who writes whole transactions of his own around what comes out ([`Frames::enclose`]): those of the stream
    /// are parts of them.
    #[must_use]
    pub const fn bare(mut self) -> Self {
        self.bare = true;
        self
    }

    /// The source's database that is selected, where it is known.
    #[must_use]
    pub const fn selected(&self) -> Option<u64> {
        self.source
    }

    /// Requests that end here or before are not applied.
    #[must_use]
    pub const fn from(&self) -> u64 {
        self.options.from
    }

    /// From this offset on nothing may write any more.
    pub const fn freeze(&mut self, offset: u64) {
        self.frozen_at = Some(offset);
    }

    /// Whether a transaction has begun and not ended.
    #[must_use]
    pub const fn is_in_transaction(&self) -> bool {
        self.block.is_some()
    }

    /// Decides about one request and appends to `out` what the target shall do. `ttl` says what becomes of expiries from
    /// now on; `received_ms` is when the request came, by the source's clock, for sources that replicate relative
    /// expiries (up to 6.2).
    ///
    /// After [`Outcome::Restart`] and [`Outcome::Alarm`] nothing of `out` may be written any more: it may end within a
    /// request.
    pub fn handle(
        &mut self,
        request: &StreamRequest<'_>,
        ttl: Ttl,
        received_ms: i64,
        out: &mut Frames,
    ) -> Outcome {
        self.handle_if(request, ttl, received_ms, out, &mut |_, _, _| Ok(true))
    }

    /// As [`Self::handle`]; of each write to a wanted database it is asked whether it shall be applied. The database is
    /// that of the target. `FLUSHALL` is asked of for each of them, and applied in any case.
    pub fn handle_if(
        &mut self,
        request: &StreamRequest<'_>,
        ttl: Ttl,
        received_ms: i64,
        out: &mut Frames,
        asked: &mut Asked<'_>,
    ) -> Outcome {
        match self.decide(request, ttl, received_ms, out, asked) {
            Ok(outcome) => outcome,
            Err(restart) => Outcome::Restart(restart),
        }
    }

    fn decide(
        &mut self,
        request: &StreamRequest<'_>,
        ttl: Ttl,
        received_ms: i64,
        out: &mut Frames,
        asked: &mut Asked<'_>,
    ) -> Result<Outcome, Restart> {
        let args = &request.args;
        let Some(spec) = find(args) else {
            let concerned = request.end > self.options.from && (self.db.is_some() || self.source.is_none());
            return if concerned {
                Err(Restart::UnknownCommand)
            } else {
                Ok(self.passed())
            };
        };
        if spec.name == "select" {
            let db = number(args, 1).ok_or(Restart::Malformed("select"))?;
            self.select(db);
            return Ok(self.passed());
        }
        if request.end <= self.options.from {
            return Ok(Outcome::Ignored);
        }
        match spec.name {
            "multi" => self.begin_block(out),
            "exec" => self.end_block(out),
            // For the whole node; scripts and functions are brought to nodes by the proxy itself.
            "ping" | "replconf" | "publish" | "spublish" => Ok(self.passed()),
            name if name.starts_with("script|") || name.starts_with("function|") => Ok(self.passed()),
            "flushall" => self.flush_all(spec, request, out, asked),
            "swapdb" => {
                let touched = [1, 2].map(|at| number(args, at).ok_or(Restart::Malformed("swapdb")));
                for db in touched {
                    if self.options.databases.target(db?).is_some() {
                        return Err(Restart::Swapped);
                    }
                }
                Ok(self.passed())
            }
            _ if matches!(spec.class, Class::Script(_)) => Err(Restart::Script),
            _ if !spec.is_write() && spec.name != "pfcount" => Ok(self.passed()),
            _ => self.write(spec, request, (ttl, received_ms), out, asked),
        }
    }

    fn select(&mut self, source: u64) {
        self.source = Some(source);
        self.db = self.options.databases.target(source);
    }

    /// What is to be said of a request that nothing was written for.
    const fn passed(&self) -> Outcome {
        if self.block.is_some() {
            Outcome::Buffered
        } else {
            Outcome::Ignored
        }
    }

    // === transactions ===

    fn begin_block(&mut self, out: &Frames) -> Result<Outcome, Restart> {
        if self.block.is_some() {
            return Err(Restart::Malformed("multi"));
        }
        self.block = Some(out.continued());
        Ok(Outcome::Buffered)
    }

    fn end_block(&mut self, out: &mut Frames) -> Result<Outcome, Restart> {
        let mut block = self.block.take().ok_or(Restart::Malformed("exec"))?;
        if block.is_empty() {
            return Ok(Outcome::Ignored);
        }
        if self.bare {
            out.append(&mut block);
            return Ok(Outcome::Applied);
        }
        out.request(&[b"MULTI"]);
        out.append(&mut block);
        out.request(&[b"EXEC"]);
        Ok(Outcome::Applied)
    }

    /// What was appended is part of a transaction, or applied.
    fn appended(&self) -> Result<Outcome, Restart> {
        match &self.block {
            Some(block) if block.len() > self.options.limits.transaction_bytes => {
                Err(Restart::TransactionTooLarge)
            }
            Some(_) => Ok(Outcome::Buffered),
            None => Ok(Outcome::Applied),
        }
    }

    // === writes ===

    fn is_frozen(&self, request: &StreamRequest<'_>) -> bool {
        self.frozen_at.is_some_and(|offset| request.end > offset)
    }

    fn flush_all(
        &mut self,
        spec: &'static Spec,
        request: &StreamRequest<'_>,
        out: &mut Frames,
        asked: &mut Asked<'_>,
    ) -> Result<Outcome, Restart> {
        if self.is_frozen(request) {
            return Ok(Outcome::Alarm);
        }
        let out = self.block.as_mut().unwrap_or(out);
        for db in self.options.databases.targets() {
            asked(spec, &request.args, db)?;
            out.select(db);
            let flush: Vec<&[u8]> = std::iter::once(&b"FLUSHDB"[..])
                .chain(request.args.iter().skip(1))
                .collect();
            out.request(&flush);
        }
        self.appended()
    }

    fn write(
        &mut self,
        spec: &'static Spec,
        request: &StreamRequest<'_>,
        (ttl, received_ms): (Ttl, i64),
        out: &mut Frames,
        asked: &mut Asked<'_>,
    ) -> Result<Outcome, Restart> {
        if self.source.is_none() {
            return Err(Restart::UnknownDatabase);
        }
        let args = &request.args;
        let elsewhere = match spec.name {
            "move" => Some(number(args, 2).ok_or(Restart::Malformed("move"))?),
            "copy" => copied_to(args)?,
            _ => None,
        };
        let reaches = elsewhere.is_some_and(|db| self.options.databases.target(db).is_some());
        if reaches || self.db.is_some() && elsewhere.is_some() {
            return Err(Restart::MovedKey);
        }
        let Some(db) = self.db else {
            return Ok(self.passed());
        };
        if self.is_frozen(request) {
            // Keys and fields may still expire, and nothing of that needs to be told.
            let expired = matches!(spec.name, "del" | "unlink" | "hdel" | "pfcount");
            return Ok(if expired { self.passed() } else { Outcome::Alarm });
        }
        if is_unexpected(spec) {
            return Err(Restart::Unexpected(spec.name));
        }
        if !asked(spec, args, db)? {
            return Ok(self.passed());
        }
        let out = self.block.as_mut().unwrap_or(out);
        let rewriting = Rewrite {
            name: spec.name,
            db,
            ttl,
            received_ms,
            target: self.options.target,
        };
        out.select(db);
        // Whatever expiry the key has goes with it, to a name that may have been looked at already.
        let renamed = matches!(spec.name, "rename" | "renamenx" | "copy");
        if renamed && ttl.is_mixed() {
            out.owe(db, args.get(2));
        }
        if !rewrite(&rewriting, args, out)? {
            out.frame(args.frame());
        }
        self.appended()
    }
}

/// The row of a request, that of its subcommand where it has one.
fn find(args: &Args<'_>) -> Option<&'static Spec> {
    let spec = lookup(args.get(0))?;
    if spec.container && args.len() > 1 {
        return subcommand(spec, args.get(1));
    }
    Some(spec)
}

/// Writes that a source replicates in another form, since their outcome depends on chance, waiting or the node.
fn is_unexpected(spec: &Spec) -> bool {
    matches!(spec.class, Class::Blocking)
        || matches!(
            spec.name,
            "spop" | "xreadgroup" | "xautoclaim" | "migrate" | "move" | "pfdebug"
        )
        || spec.name.starts_with("cluster|")
}

/// The database of `COPY … DB n`.
fn copied_to(args: &Args<'_>) -> Result<Option<u64>, Restart> {
    match (3..args.len()).find(|&at| args.get(at).eq_ignore_ascii_case(b"DB")) {
        None => Ok(None),
        Some(at) => number(args, at + 1).map(Some).ok_or(Restart::Malformed("copy")),
    }
}

fn number(args: &Args<'_>, at: usize) -> Option<u64> {
    std::str::from_utf8(args.try_get(at)?).ok()?.parse().ok()
}
