//! Whether source and target hold the same: keys of both are read at one offset of the source's history, and compared.
//!
//! ```text
//!  Feed ─batch of keys─▶ source: MULTI (DUMP PEXPIRETIME)* INFO EXEC ─▶ offset P ─▶ Steps::to(P) ─▶ target: the same reads
//!  (SCAN, or by chance)              │                                        └─ the next batch of the source meanwhile
//!                                    └────────────▶ compare: bytes, else digests; expiries ◀─────────────┘
//!                                                      └─ different? read again at a later P, up to three times
//! ```
//!
//! It does not matter which of the two will have the shards in the end: whoever has the copy's applier may ask. While it lasts
//! the applier goes step by step, a batch behind at most. Values above [`LARGE_BYTES`](super::reading::LARGE_BYTES) are compared by their size and by about a
//! thousand of their elements (`large`).

mod back;
mod batch;
mod compare;
mod feed;
mod large;
mod order;
mod phase;
mod record;
mod side;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

pub(super) use self::back::Comparison;
use self::batch::Batch;
use self::compare::{Difference, Rules};
use self::feed::Feed;
pub use self::order::Verified;
pub(super) use self::record::merged;
pub use self::record::{Sample, Verification, VerifyState};
use self::side::{Read, Side};
use super::copy::Copy;
use super::error::CopyError;
use super::plan::CopyPlan;
use super::reading::Key;
use super::state::Shared;
use super::steps::Steps;
use crate::ids::DbIndex;

/// Up to so many keys all are compared, if nothing is said …
const ALL_UP_TO: u64 = 1_000_000;
/// … and of more so many, by chance.
const SAMPLE: u64 = 100_000;
/// How often a key that seems to differ is looked at again.
const LOOKS_AGAIN: usize = 3;
/// With so many keys that differ nobody needs to know of more.
const MISMATCHES_MAX: u64 = 1000;
/// Keys that are named.
const NAMED_MAX: usize = 20;
/// Both nodes rest for as long as they were busy, in pieces of at least this.
const REST_MIN: Duration = Duration::from_millis(3);

/// What has been compared so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Keys that were compared.
    pub keys: u64,
    /// Keys that there are to compare, about.
    pub of: u64,
    /// Those of the compared ones of which only a part was, since they are large.
    pub large: u64,
    /// Keys that differ, and databases with another number of keys.
    pub mismatches: u64,
    /// Some of them.
    pub found: Vec<Mismatch>,
}

/// What is to be compared, and by what.
#[derive(Clone, Debug)]
pub struct Compare {
    /// Which keys.
    pub sample: Sample,
    /// How people call the node that has the shards …
    pub source: String,
    /// … and the one that follows it.
    pub target: String,
    /// Expiries that differ by no more are the same.
    pub slack: Duration,
}

impl From<Sample> for Compare {
    fn from(sample: Sample) -> Self {
        Self {
            sample,
            source: "the source".to_owned(),
            target: "the target".to_owned(),
            slack: Duration::ZERO,
        }
    }
}

/// A key that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Its database on the source.
    pub db: DbIndex,
    /// Its name; none: it is about the whole database.
    pub key: Option<Vec<u8>>,
    /// In what.
    pub what: String,
}

impl Mismatch {
    /// As operators read it. It names a key: it is for those who asked, not for a log.
    #[must_use]
    pub fn told(&self) -> String {
        let Self { db, what, .. } = self;
        match &self.key {
            Some(key) => {
                let name: String = key.escape_ascii().to_string().chars().take(200).collect();
                format!("database {db}, key \"{name}\": {what}")
            }
            None => format!("database {db}: {what}"),
        }
    }
}

impl Copy {
    /// Compares what the source and the target hold, as the story of this room tells. The copy must follow the stream and does so
    /// afterwards; dropped in the middle it leaves nothing behind. There is one at a time. `seen` is told how far it is.
    ///
    /// # Errors
    /// A node cannot be asked, or the copy has begun again: nothing is known then.
    pub fn verify<C: Into<Compare>>(
        &self,
        compare: C,
        seen: &watch::Sender<Checked>,
    ) -> impl Future<Output = Result<Checked, CopyError>> + Send + use<C> {
        let (plan, shared) = self.parts();
        let (plan, shared, compare, seen) =
            (Arc::clone(plan), Arc::clone(shared), compare.into(), seen.clone());
        async move {
            let mut run = Run::begin(&plan, &shared, &compare, &seen).await?;
            run.sweep(Origin::Source, compare.sample).await?;
            run.counts().await?;
            Ok(run.checked)
        }
    }
}

/// On which side keys are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Source,
    Target,
}

/// One comparison.
struct Run<'a> {
    plan: &'a CopyPlan,
    compare: &'a Compare,
    steps: Steps,
    source: Side,
    target: Side,
    rules: Rules,
    checked: Checked,
    /// Keys that the target lacks.
    lacking: u64,
    seen: &'a watch::Sender<Checked>,
    rest: Rest,
}

impl<'a> Run<'a> {
    async fn begin(
        plan: &'a CopyPlan,
        shared: &Arc<Shared>,
        compare: &'a Compare,
        seen: &'a watch::Sender<Checked>,
    ) -> Result<Self, CopyError> {
        let silence = plan.limits.silence;
        let (source, target) = tokio::join!(
            Side::open(&plan.source, silence),
            Side::open(&plan.target, silence)
        );
        let source = source.map_err(CopyError::of_source)?;
        let target = target.map_err(CopyError::of_target)?;
        let skew_ms = shared.skew_ms.load(std::sync::atomic::Ordering::Relaxed);
        let rules = Rules::of(&source, &target, skew_ms, compare.slack);
        let mut run = Self {
            plan,
            compare,
            steps: Steps::hold(shared)?,
            source,
            target,
            rules,
            checked: Checked::default(),
            lacking: 0,
            seen,
            rest: Rest::default(),
        };
        let all: u64 = run
            .keys_of(Origin::Source)
            .await?
            .iter()
            .map(|(_, keys)| keys)
            .sum();
        run.checked.of = match compare.sample {
            Sample::Keys(keys) => keys.min(all),
            Sample::All => all,
            Sample::Usual if all <= ALL_UP_TO => all,
            Sample::Usual => SAMPLE,
        };
        run.tell();
        Ok(run)
    }

    fn tell(&self) {
        self.seen.send_replace(self.checked.clone());
    }

    /// The copied databases that hold something on one side, by their names on the source, with their keys.
    async fn keys_of(&mut self, origin: Origin) -> Result<Vec<(DbIndex, u64)>, CopyError> {
        let (side, of) = match origin {
            Origin::Source => (&mut self.source, CopyError::of_source as fn(_) -> _),
            Origin::Target => (&mut self.target, CopyError::of_target as fn(_) -> _),
        };
        let found = super::probe::keyspace(&mut side.client).await.map_err(of)?;
        let keys = self.plan.dbs.iter().filter_map(|pair| {
            let wanted = if origin == Origin::Source { pair.0 } else { pair.1 };
            let found = found.iter().find(|found| found.db == wanted)?;
            Some((pair.0, found.keys))
        });
        Ok(keys.collect())
    }

    fn target_db(&self, db: DbIndex) -> DbIndex {
        let mut pairs = self.plan.dbs.iter();
        pairs.find(|pair| pair.0 == db).map_or(db, |pair| pair.1)
    }

    /// Compares keys that one side has.
    async fn sweep(&mut self, origin: Origin, sample: Sample) -> Result<(), CopyError> {
        let dbs = self.keys_of(origin).await?;
        let all: u64 = dbs.iter().map(|(_, keys)| keys).sum();
        let by_chance = match sample {
            Sample::Keys(keys) if keys < all => Some(keys),
            Sample::Usual if all > ALL_UP_TO => Some(SAMPLE),
            Sample::Keys(_) | Sample::Usual | Sample::All => None,
        };
        let place = match origin {
            Origin::Source => dbs.iter().map(|(db, keys)| (*db, *db, *keys)).collect(),
            Origin::Target => dbs
                .iter()
                .map(|(db, keys)| (*db, self.target_db(*db), *keys))
                .collect(),
        };
        let endpoint = match origin {
            Origin::Source => &self.plan.source,
            Origin::Target => &self.plan.target,
        };
        let mut feed = Feed::start(endpoint.clone(), self.plan.limits.silence, place, by_chance);
        let failed = |error| match origin {
            Origin::Source => CopyError::of_source(error),
            Origin::Target => CopyError::of_target(error),
        };
        let mut ahead = match feed.next().await.map_err(failed)? {
            Some(batch) => Some(self.of_source(batch).await?),
            None => None,
        };
        while let Some((batch, read)) = ahead.take() {
            if self.checked.mismatches >= MISMATCHES_MAX {
                break;
            }
            let next = feed.next().await.map_err(failed)?;
            ahead = self.batch(batch, read, next).await?;
        }
        Ok(())
    }

    async fn of_source(&mut self, batch: Batch) -> Result<(Batch, Read), CopyError> {
        let read = self.source.read_at(batch.db, &batch.small).await;
        Ok((batch, read.map_err(CopyError::of_source)?))
    }

    /// Compares a batch whose source side has been read, and reads that of the next one meanwhile.
    async fn batch(
        &mut self,
        batch: Batch,
        read: Read,
        next: Option<Batch>,
    ) -> Result<Option<(Batch, Read)>, CopyError> {
        let target_db = self.target_db(batch.db);
        let (steps, silence) = (&self.steps, self.plan.limits.silence);
        let (source, target) = (&mut self.source, &mut self.target);
        let (of_target, ahead) = tokio::join!(
            async {
                steps.to(read.offset, silence).await?;
                let of_target = target.read(target_db, &batch.small).await;
                of_target.map_err(CopyError::of_target)
            },
            // Where the source stands now is behind that step, so the next one leads there.
            async {
                match next {
                    Some(next) => {
                        let read = source.read_at(next.db, &next.small).await;
                        read.map(|read| Some((next, read)))
                    }
                    None => Ok(None),
                }
            }
        );
        let (of_target, ahead) = (of_target?, ahead.map_err(CopyError::of_source)?);
        let busy = read.took.max(of_target.took);
        let suspects = self.differing(&batch.small, &read, &of_target)?;
        let suspects: Vec<Key> = suspects.into_iter().map(|(key, _)| key.clone()).collect();
        self.checked.keys += batch.small.len() as u64;
        if !suspects.is_empty() {
            self.look_again(batch.db, suspects).await?;
        }
        for key in &batch.large {
            self.large(batch.db, key).await?;
        }
        self.tell();
        self.rest.after(busy).await;
        // What was read ahead is of an offset that has passed, once others were asked for.
        match ahead {
            Some((next, read)) if read.offset < self.source.offset => self.of_source(next).await.map(Some),
            ahead => Ok(ahead),
        }
    }

    /// The keys that are not the same on both sides.
    fn differing<'k>(
        &self,
        keys: &'k [Key],
        source: &Read,
        target: &Read,
    ) -> Result<Vec<(&'k Key, Difference)>, CopyError> {
        let of_source = source.found().map_err(CopyError::of_source)?;
        let of_target = target.found().map_err(CopyError::of_target)?;
        let pairs = of_source.into_iter().zip(of_target);
        let each = keys.iter().zip(pairs);
        let each =
            each.filter_map(|(key, (source, target))| Some((key, self.rules.compare(source, target)?)));
        Ok(each.collect())
    }

    async fn step(&self, offset: u64) -> Result<(), CopyError> {
        self.steps.to(offset, self.plan.limits.silence).await
    }

    /// Keys that seem to differ: an expiry that the source has only just noticed is told a moment later.
    async fn look_again(&mut self, db: DbIndex, mut suspects: Vec<Key>) -> Result<(), CopyError> {
        let mut differences: Vec<Difference> = Vec::new();
        for _ in 0..LOOKS_AGAIN {
            let read = self
                .source
                .read_at(db, &suspects)
                .await
                .map_err(CopyError::of_source)?;
            self.step(read.offset).await?;
            let of_target = self.target.read(self.target_db(db), &suspects).await;
            let of_target = of_target.map_err(CopyError::of_target)?;
            let still = self.differing(&suspects, &read, &of_target)?;
            differences = still.iter().map(|(_, difference)| *difference).collect();
            suspects = still.into_iter().map(|(key, _)| key.clone()).collect();
            if suspects.is_empty() {
                return Ok(());
            }
        }
        for (key, difference) in suspects.into_iter().zip(differences) {
            self.lacking += u64::from(difference == Difference::TargetLacks);
            self.differs(db, Some(key), self.told(difference));
        }
        Ok(())
    }

    fn told(&self, difference: Difference) -> String {
        difference.told(&self.compare.source, &self.compare.target)
    }

    fn differs(&mut self, db: DbIndex, key: Option<Key>, what: String) {
        // Whoever goes over the target's keys as well meets it a second time.
        let is_known = |found: &Mismatch| found.db == db && found.key.is_some() && found.key == key;
        if self.checked.found.iter().any(is_known) {
            return;
        }
        self.checked.mismatches += 1;
        if self.checked.found.len() < NAMED_MAX {
            self.checked.found.push(Mismatch { db, key, what });
        }
    }

    /// A value of which a part is compared.
    async fn large(&mut self, db: DbIndex, key: &Key) -> Result<(), CopyError> {
        let mut looked = None;
        for _ in 0..=LOOKS_AGAIN {
            looked = self.look_at_large(db, key).await?;
            if looked.is_none() {
                break;
            }
        }
        self.checked.keys += 1;
        self.checked.large += 1;
        if let Some(difference) = looked {
            self.lacking += u64::from(difference == Difference::TargetLacks);
            self.differs(db, Some(key.clone()), self.told(difference));
        }
        Ok(())
    }

    async fn look_at_large(&mut self, db: DbIndex, key: &Key) -> Result<Option<Difference>, CopyError> {
        let both = self.source.fields && self.target.fields;
        let questions = large::questions(&mut self.source, db, key, both).await;
        let questions = questions.map_err(CopyError::of_source)?;
        for together in questions.chunks(large::TOGETHER) {
            let begun = Instant::now();
            let asked = self.source.ask_at(db, together).await;
            let (of_source, offset) = asked.map_err(CopyError::of_source)?;
            self.step(offset).await?;
            let of_target = self.target.ask(self.target_db(db), together).await;
            let of_target = of_target.map_err(CopyError::of_target)?;
            let answers = together.iter().zip(of_source.iter().zip(&of_target));
            for (question, (of_source, of_target)) in answers {
                if !question.is_same(of_source, of_target, &self.rules) {
                    return Ok(Some(question.difference(of_source, of_target)));
                }
            }
            self.rest.after(begun.elapsed() / 2).await;
        }
        Ok(None)
    }

    /// Whether there are as many keys in each database; if the target has more, which.
    async fn counts(&mut self) -> Result<(), CopyError> {
        let mut found = Vec::new();
        for _ in 0..=LOOKS_AGAIN {
            found.clear();
            let counted = self.source.count_at().await;
            let (of_source, offset) = counted.map_err(CopyError::of_source)?;
            self.step(offset).await?;
            let of_target = super::probe::keyspace(&mut self.target.client).await;
            let of_target = of_target.map_err(CopyError::of_target)?;
            for (db, target_db) in &self.plan.dbs {
                let of_source = of_source.iter().find(|found| found.db == *db);
                let of_target = of_target.iter().find(|found| found.db == *target_db);
                let count = |keyspace: Option<&super::probe::Keyspace>| {
                    keyspace.map_or((0, 0), |found| (found.keys, found.expires))
                };
                if count(of_source) != count(of_target) {
                    found.push((*db, count(of_source), count(of_target)));
                }
            }
            // Where the target lacks some, as many keys are not the same ones.
            if found.is_empty() && self.lacking == 0 {
                return Ok(());
            }
        }
        let has_more = self.lacking > 0 || found.iter().any(|(_, source, target)| target.0 > source.0);
        for (db, source, target) in found {
            let (here, there) = (&self.compare.source, &self.compare.target);
            let what = format!(
                "{} keys on {here} ({} expire), {} on {there} ({} expire)",
                source.0, source.1, target.0, target.1
            );
            self.differs(db, None, what);
        }
        if has_more && self.checked.mismatches < MISMATCHES_MAX {
            let compared = self.checked.keys;
            self.sweep(Origin::Target, Sample::All).await?;
            self.checked.keys = compared;
        }
        self.tell();
        Ok(())
    }
}

/// How long both nodes are left alone: over all, they rest for as long as they were busy.
#[derive(Debug)]
struct Rest {
    owed: Duration,
    /// Up to when that was reckoned.
    until: Instant,
}

impl Default for Rest {
    fn default() -> Self {
        Self {
            owed: Duration::ZERO,
            until: Instant::now(),
        }
    }
}

impl Rest {
    /// They were busy for so long since the last time, and rested for the rest of it.
    async fn after(&mut self, busy: Duration) {
        let now = Instant::now();
        let rested = now.duration_since(self.until).saturating_sub(busy);
        self.until = now;
        // Rest that nobody owed is not kept for later.
        self.owed = (self.owed + busy).saturating_sub(rested);
        if self.owed >= REST_MIN {
            sleep(self.owed).await;
        }
    }
}
