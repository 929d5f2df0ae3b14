//! The record of a task of many moves: a plan that is carried out, a node that is emptied, shards of several nodes.
//!
//! ```text
//!  Order (ways) ─▶ Group ─▶ chunks, one move each: child 0 · child 1 · child 2 …
//!                    ▲            │ at most one at a time for each node
//!                    └─ outcomes ─┘ a letter each: open · moved · failed · cancelled · rolled back
//! ```
//!
//! A child is an ordinary move whose id is its parent's with a number behind. Which chunks there are follows from the record
//! alone, so a leader that dies between two steps leaves nothing to guess. What has moved stays moved, whatever becomes of
//! the rest.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::chunk::Chunk;
use super::outcome::Outcome;
use super::task::{Fence, Move, State, Wish};
use super::verify::{Sample, Verification};
use crate::config::CopyMethod;
use crate::ids::ShardId;
use crate::topology::Topology;
use crate::topology::codec::{ranges, shard_list};

/// Shards in one cutover of a plan or a drain. What fits no more than [`CHUNKS_MAX`] of them gets larger ones.
const CHUNK_SHARDS: usize = 64;
/// Children of one task.
const CHUNKS_MAX: usize = 96;
/// So many failed children, and no further ones are begun.
const FAILURES_MAX: usize = 3;
/// Warnings that are kept.
const WARNINGS_MAX: usize = 8;
/// Characters of an error, or of a warning, that are kept.
const ERROR_CHARS: usize = 400;

/// Shards that go from one node to another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// The node that has them.
    pub source: String,
    /// The node that gets them.
    pub target: String,
    /// As a list such as `0-63`.
    pub shards: String,
}

/// A task of many moves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// `plan`, `drain` or `moves`.
    pub kind: String,
    /// The plan's id, or the name of the node that is emptied.
    #[serde(default)]
    pub of: String,
    /// `planned`, `copying` (its children are under way), and how it ended.
    pub state: State,
    /// What goes where.
    pub ways: Vec<Way>,
    /// Shards in one child.
    pub chunk: usize,
    /// A letter for each chunk.
    pub outcomes: String,
    /// Nodes without users of preshard's: moves from and to them are [`Fence::Cooperative`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub cooperative: BTreeSet<String>,
    /// Its children cut over only when they are told to.
    #[serde(default)]
    pub manual: bool,
    /// Source and target are compared before each cutover.
    #[serde(default)]
    pub verify: Option<Sample>,
    /// How keys are copied.
    #[serde(default)]
    pub copy: CopyMethod,
    /// Bytes to the target in a second; none: as fast as it can.
    #[serde(default)]
    pub rate: Option<u64>,
    /// The longest that shards may be held, in milliseconds.
    pub max_pause_ms: u64,
    /// Keys that children which are over have copied.
    #[serde(default)]
    pub keys: u64,
    /// Bytes that they have copied.
    #[serde(default)]
    pub bytes: u64,
    /// The longest pause of a child, in milliseconds.
    #[serde(default)]
    pub pause_ms: f64,
    /// Why the first child that failed did.
    #[serde(default)]
    pub error: String,
    /// Unix seconds.
    #[serde(default)]
    pub started: u64,
    /// Unix seconds; 0: it is not over.
    #[serde(default)]
    pub finished: u64,
    /// What an operator should know.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What an operator wants, until it is done.
    #[serde(default)]
    pub wish: Option<Wish>,
    /// The child that was told to go back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_back: Option<usize>,
}

/// The records of children, by number.
pub(super) type Children = BTreeMap<usize, Move>;

/// What is to be done next about a group, beside writing its record.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Step {
    /// Children to be made.
    pub(super) begin: Vec<(usize, Move)>,
    /// Children that are to be told of a wish.
    pub(super) tell: Vec<(usize, Wish)>,
}

impl Group {
    /// A new one, in chunks that are held for a moment each. Shards of a way are ascending, and none is in two.
    #[must_use]
    pub fn in_chunks(kind: &str, of: &str, ways: Vec<(String, String, Vec<ShardId>)>) -> Self {
        Self::new(kind, of, ways, Some(CHUNK_SHARDS))
    }

    /// The same, with all shards of a way in one chunk.
    #[must_use]
    pub fn whole(kind: &str, of: &str, ways: Vec<(String, String, Vec<ShardId>)>) -> Self {
        Self::new(kind, of, ways, None)
    }

    fn new(kind: &str, of: &str, ways: Vec<(String, String, Vec<ShardId>)>, chunk: Option<usize>) -> Self {
        let count =
            |chunk: usize| -> usize { ways.iter().map(|(.., shards)| shards.len().div_ceil(chunk)).sum() };
        let most = ways
            .iter()
            .map(|(.., shards)| shards.len())
            .max()
            .unwrap_or(1)
            .max(1);
        let mut chunk = chunk.unwrap_or(most);
        while count(chunk) > CHUNKS_MAX && chunk < most {
            chunk *= 2;
        }
        Self {
            kind: kind.to_owned(),
            of: of.to_owned(),
            outcomes: std::iter::repeat_n(Outcome::Open.letter(), count(chunk)).collect(),
            ways: ways
                .into_iter()
                .map(|(source, target, shards)| Way {
                    source,
                    target,
                    shards: ranges(&shards),
                })
                .collect(),
            chunk,
            ..Self::default()
        }
    }

    /// Reads a record; none if it is something else.
    #[must_use]
    pub fn decode(document: &str) -> Option<Self> {
        serde_json::from_str::<Self>(document)
            .ok()
            .filter(|group| matches!(group.kind.as_str(), "plan" | "drain" | "moves") && group.chunk > 0)
    }

    /// The record.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::json!(self).to_string()
    }

    /// Adds what an operator should know, a few lines at most, each once.
    pub(super) fn note_warnings(&mut self, more: impl Iterator<Item = String>) {
        for warning in more {
            let warning: String = warning.chars().take(ERROR_CHARS).collect();
            if self.warnings.len() < WARNINGS_MAX && !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }

    /// The weakest of what its moves rely on.
    #[must_use]
    pub fn fence(&self) -> Fence {
        Fence::of(self.cooperative.is_empty())
    }

    /// The name of a child.
    pub(super) fn child_id(id: &str, number: usize) -> String {
        format!("{id}-{number}")
    }

    /// The number in a child's name.
    pub(super) fn number_of(id: &str, child: &str) -> Option<usize> {
        child.strip_prefix(id)?.strip_prefix('-')?.parse().ok()
    }

    /// What the children move, in their order.
    pub(super) fn chunks(&self) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        for way in &self.ways {
            let shards = shard_list(&way.shards, u16::MAX).unwrap_or_default();
            for shards in shards.chunks(self.chunk) {
                chunks.push(Chunk {
                    source: way.source.clone(),
                    target: way.target.clone(),
                    shards: shards.to_vec(),
                });
            }
        }
        chunks
    }

    /// All shards, ascending.
    #[must_use]
    pub fn shards(&self) -> Vec<ShardId> {
        let all: BTreeSet<ShardId> = self.chunks().into_iter().flat_map(|chunk| chunk.shards).collect();
        all.into_iter().collect()
    }

    /// Shards that are not where they should be.
    #[must_use]
    pub fn shards_left(&self, topology: &Topology) -> usize {
        let mut left = 0;
        for chunk in self.chunks() {
            let target = topology.node_named(&chunk.target);
            let elsewhere = |shard: &&ShardId| {
                topology.has_shard(**shard) && Some(topology.placement(**shard).node) != target
            };
            left += chunk.shards.iter().filter(elsewhere).count();
        }
        left
    }

    /// Shards that are not settled: no other task may have them.
    pub(super) fn claimed(&self) -> Vec<ShardId> {
        self.open_chunks().flat_map(|chunk| chunk.shards).collect()
    }

    /// What is not settled.
    pub(super) fn open_chunks(&self) -> impl Iterator<Item = Chunk> {
        let open = self.chunks().into_iter().zip(self.outcomes());
        open.filter(|(_, outcome)| *outcome == Outcome::Open)
            .map(|(chunk, _)| chunk)
    }

    fn outcomes(&self) -> impl Iterator<Item = Outcome> {
        self.outcomes.chars().map(Outcome::of)
    }

    /// Whether a chunk is not settled.
    pub(super) fn is_open(&self, number: usize) -> bool {
        self.is(number, Outcome::Open)
    }

    /// Whether a chunk is settled in this way.
    pub(super) fn is(&self, number: usize, outcome: Outcome) -> bool {
        self.outcomes().nth(number) == Some(outcome)
    }

    pub(super) fn count(&self, outcome: Outcome) -> usize {
        self.outcomes().filter(|of| *of == outcome).count()
    }

    /// Notes how a chunk is settled.
    pub(super) fn settle(&mut self, number: usize, outcome: Outcome) {
        self.outcomes = self
            .outcomes
            .char_indices()
            .map(|(at, letter)| if at == number { outcome.letter() } else { letter })
            .collect();
    }

    fn note_failure(&mut self, child: &str, why: &str) {
        if self.error.is_empty() {
            self.error = format!("{child}: {why}").chars().take(ERROR_CHARS).collect();
        }
    }

    /// Takes over what has become of its children, and says what is to be done next.
    pub(super) fn advance(&mut self, id: &str, children: &Children, topology: &Topology, now: u64) -> Step {
        let mut step = Step::default();
        if !self.state.is_over() {
            self.take_over(id, children);
            self.begin_some(id, children, topology, &mut step);
            if self.state == State::Planned && (!children.is_empty() || !step.begin.is_empty()) {
                self.state = State::Copying;
            }
            self.end(now);
        }
        self.go_back(id, children, &mut step);
        if self.wish != Some(Wish::Rollback) {
            self.pass_on(children, &mut step);
        }
        step
    }

    fn take_over(&mut self, id: &str, children: &Children) {
        let open: Vec<usize> = (0..)
            .zip(self.outcomes())
            .filter(|(_, outcome)| *outcome == Outcome::Open)
            .map(|(number, _)| number)
            .collect();
        for number in open {
            let Some(child) = children.get(&number) else {
                continue;
            };
            let outcome = Outcome::of_child(child.state);
            if outcome == Outcome::Open {
                continue;
            }
            self.settle(number, outcome);
            self.keys = self.keys.saturating_add(child.keys);
            self.bytes = self.bytes.saturating_add(child.bytes);
            self.pause_ms = self.pause_ms.max(child.pause_ms);
            if outcome == Outcome::Failed {
                self.note_failure(&Self::child_id(id, number), &child.error);
            }
        }
    }

    /// Whether no further child is begun.
    fn stops(&self) -> bool {
        self.wish == Some(Wish::Cancel) || self.count(Outcome::Failed) >= FAILURES_MAX
    }

    /// Makes children for chunks whose nodes no other child uses; gives the rest up if it is to stop.
    fn begin_some(&mut self, id: &str, children: &Children, topology: &Topology, step: &mut Step) {
        let mut busy: BTreeSet<String> = children
            .values()
            .filter(|child| !child.state.is_over())
            .flat_map(|child| [child.source.clone(), child.target.clone()])
            .collect();
        let open: Vec<(usize, Chunk)> = (0..)
            .zip(self.chunks())
            .zip(self.outcomes())
            .filter(|((number, _), outcome)| *outcome == Outcome::Open && !children.contains_key(number))
            .map(|(numbered, _)| numbered)
            .collect();
        for (number, chunk) in open {
            if self.stops() {
                self.settle(number, Outcome::Cancelled);
                continue;
            }
            if busy.contains(&chunk.source) || busy.contains(&chunk.target) {
                continue;
            }
            match chunk.still_to_move(topology) {
                Ok(shards) if shards.is_empty() => self.settle(number, Outcome::Moved),
                Ok(shards) => {
                    busy.extend([chunk.source.clone(), chunk.target.clone()]);
                    step.begin.push((number, self.child(id, &chunk, &shards)));
                }
                Err(why) => {
                    self.settle(number, Outcome::Failed);
                    self.note_failure(&Self::child_id(id, number), &why);
                }
            }
        }
    }

    fn child(&self, id: &str, chunk: &Chunk, shards: &[ShardId]) -> Move {
        let has_users = |node: &String| !self.cooperative.contains(node);
        Move {
            fence: Fence::of(has_users(&chunk.source) && has_users(&chunk.target)),
            kind: "move".to_owned(),
            parent: id.to_owned(),
            shards: ranges(shards),
            source: chunk.source.clone(),
            target: chunk.target.clone(),
            manual: self.manual,
            copy: self.copy,
            rate: self.rate,
            max_pause_ms: self.max_pause_ms,
            verify: self.verify.map(Verification::asked),
            started: self.started,
            ..Move::default()
        }
    }

    /// Ends it if all chunks are settled.
    fn end(&mut self, now: u64) {
        if self.count(Outcome::Open) > 0 {
            return;
        }
        let cancelled = self.wish == Some(Wish::Cancel);
        self.state = match (self.count(Outcome::Failed), self.count(Outcome::Cancelled)) {
            (0, 0) => State::Moved,
            (1.., _) if !cancelled => State::Failed,
            _ => State::Cancelled,
        };
        self.finished = now;
        self.wish = self.wish.filter(|wish| *wish == Wish::Finalize);
    }

    /// Tells the children what an operator wants.
    fn pass_on(&mut self, children: &Children, step: &mut Step) {
        let is_clear = |child: &Move| matches!(child.state, State::Finalized | State::RolledBack);
        if self.state == State::Moved && !children.is_empty() && children.values().all(is_clear) {
            // Each by its own word, or because it was there for long enough.
            self.state = if children.values().all(|child| child.state == State::RolledBack) {
                State::RolledBack
            } else {
                State::Finalized
            };
        }
        let Some(wish) = self.wish else { return };
        let concerned = |child: &Move| match wish {
            Wish::Cancel => !child.state.is_over(),
            Wish::Cutover => child.manual && !child.state.is_over(),
            Wish::Finalize | Wish::Rollback => child.state == State::Moved,
        };
        let concerned: Vec<(usize, &Move)> = children
            .iter()
            .filter(|(_, child)| concerned(child))
            .map(|(number, child)| (*number, child))
            .collect();
        let untold = concerned.iter().filter(|(_, child)| child.wish != Some(wish));
        step.tell.extend(untold.map(|(number, _)| (*number, wish)));
        match wish {
            // Until it is over.
            Wish::Cancel => {}
            // Said once; who begins later waits for the next word.
            Wish::Cutover => self.wish = None,
            Wish::Finalize | Wish::Rollback if !concerned.is_empty() || !self.state.is_over() => {}
            Wish::Finalize | Wish::Rollback => {
                self.wish = None;
                if self.state == State::Moved {
                    self.state = State::Finalized;
                }
            }
        }
    }

    /// The record with a wish in it; none if it is so already.
    pub(super) fn wished(mut self, id: &str, wish: Wish) -> Result<Option<Self>, String> {
        let state = serde_json::json!(self.state);
        let state = state.as_str().unwrap_or_default();
        if self.wish == Some(Wish::Rollback) {
            return Err(format!("task {id} is being rolled back"));
        }
        match wish {
            Wish::Cancel if self.state == State::Cancelled => return Ok(None),
            Wish::Cancel | Wish::Cutover if self.state.is_over() => {
                return Err(format!("task {id} is over: {state}"));
            }
            Wish::Cutover if !self.manual => {
                return Err(format!(
                    "task {id} cuts over by itself; only a MANUAL one waits for the word"
                ));
            }
            Wish::Cancel | Wish::Cutover => {}
            Wish::Finalize if self.state == State::Finalized => return Ok(None),
            Wish::Finalize if !self.state.is_over() => {
                return Err(format!("task {id} has not moved its shards"));
            }
            // A rollback is wished with the children in view: `wished_back`.
            Wish::Finalize | Wish::Rollback => {}
        }
        self.wish = Some(wish);
        Ok(Some(self))
    }
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
