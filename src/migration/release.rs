//! Shards that do not move after all go back to their source, whatever it takes: as long as their unit stands in the topology, its
//! user may be frozen, and clients wait.
//!
//! ```text
//!  given up ─▶ release ─┬─ done ─▶ the task goes on, or is over
//!                 ▲     └─ the store cannot be written ─▶ the task says why it waits ─▶ a pause that grows ─┐
//!                 └─────────────────────────────────────────────────────────────────────────────────────────┘
//!  a unit whose task is over, or is not there ─▶ the leader releases it
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::cutover::Failure;
use super::drive::Driven;
use super::ledger::Ledger;
use super::task::{Fence, Move, State};
use crate::control::Fleet;
use crate::store::{Record, Term};
use crate::topology::{Topology, Unit};
use crate::worker::shared::Shared;

/// Between two attempts: doubled up to the longest, which clients wait for when the store is back.
const RETRY: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(2);

impl Driven<'_> {
    /// This task's unit, if there is one. What is served here may be behind what is stored.
    pub(super) async fn own_unit(&self) -> Result<Option<Unit>, Failure> {
        let own = |topology: &Topology| {
            let mut units = topology.units.iter();
            units.find(|unit| unit.task == self.id).cloned()
        };
        if let Some(unit) = own(&self.shared.topology.load()) {
            return Ok(Some(unit));
        }
        let stored = self.fleet.store().load().await?;
        Ok(stored.topology.as_deref().and_then(own))
    }

    /// Gives the shards back to the source's own user, and does not end before that is so. Meanwhile the task says what it waits for.
    ///
    /// # Errors
    /// Another proxy leads, which goes on with it.
    pub(super) async fn until_released(&self, ledger: &mut Ledger<'_>) -> Result<(), Failure> {
        let (mut pause, mut before) = (RETRY, None);
        loop {
            let Err(failure) = self.release().await else {
                break;
            };
            if self.fleet.leads() != Some(self.term) {
                return Err(Failure::Final(failure.to_string()));
            }
            tracing::warn!(event = "shards_not_released", task = self.id, %failure, "it is tried again");
            let why = format!(
                "its shards are not given back to node '{}' yet, which is tried again: {failure}",
                self.source
            );
            before.get_or_insert_with(|| ledger.task.error.clone());
            note(ledger, &why).await;
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
        if let Some(before) = before {
            tracing::info!(event = "shards_released", task = self.id);
            note(ledger, &before).await;
        }
        Ok(())
    }
}

/// Writes what the task says of itself, if the store takes it.
async fn note(ledger: &mut Ledger<'_>, why: &str) {
    if ledger.task.error == why {
        return;
    }
    // A store that gives no answer would be asked for as long as it takes; the release comes first.
    let written = ledger.write(|task| why.clone_into(&mut task.error));
    if let Ok(Err(error)) = timeout(RETRY_MAX, written).await {
        tracing::debug!(event = "task_not_written", task = ledger.id, %error);
    }
}

/// Units that nobody does anything with any more. One that has moved has its way back, which is somebody's.
pub(super) fn orphans<'a>(
    topology: &'a Topology,
    records: &BTreeMap<String, Arc<Record>>,
) -> impl Iterator<Item = &'a Unit> {
    topology.units.iter().filter(|unit| {
        let record = records.get(&unit.task).map(Arc::as_ref);
        is_given_up(record)
    })
}

fn is_given_up(record: Option<&Record>) -> bool {
    let task = record.and_then(|record| Move::decode(&record.document));
    task.is_none_or(|task| task.state.is_over() && task.state != State::Moved)
}

/// Releases a unit that is left of a task that is over.
pub(super) async fn release_orphan(shared: Arc<Shared>, fleet: Arc<Fleet>, unit: Unit, term: Term) {
    // What is known here of records may be older than the topology.
    let record = fleet.store().record(&unit.task).await;
    let done = match record {
        Ok(record) if !is_given_up(record.as_ref()) => return,
        Ok(_) => {
            let topology = shared.topology.load_full();
            let node = unit.shards.first().map(|&shard| topology.placement(shard).node);
            let source = node.map_or_else(String::new, |node| topology.node(node).name.clone());
            let driven = Driven {
                shared: &shared,
                fleet: &fleet,
                id: unit.task.clone(),
                term,
                shards: unit.shards.clone(),
                source,
                target: String::new(),
                fence: Fence::default(),
                reverse: None,
                functions: Arc::default(),
            };
            driven.release().await
        }
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(()) => tracing::warn!(
            event = "orphan_released",
            task = unit.task,
            "shards were held for a task that is over"
        ),
        Err(error) => {
            tracing::warn!(event = "shards_not_released", task = unit.task, %error, "it is tried again");
            sleep(RETRY_MAX).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;
    use crate::store::Revision;

    #[test]
    fn a_unit_is_nobodys_when_its_task_is_over_or_was_never_heard_of() {
        let node = crate::topology::Node {
            name: "a".to_owned(),
            address: "127.0.0.1:7001".parse().unwrap(),
        };
        let mut topology = Topology::seed("test".to_owned(), 8, 0, vec![node]).unwrap();
        topology.units = (0..)
            .map(ShardId)
            .zip([
                "copying",
                "cut",
                "failed",
                "cancelled",
                "moved",
                "back",
                "unheard",
            ])
            .map(|(shard, task)| Unit {
                task: task.to_owned(),
                shards: [shard].into(),
                user: Some(format!("ps-u-{task}")),
                quiesced: true,
            })
            .collect();
        let records = [
            ("copying", State::Copying),
            ("cut", State::CuttingOver),
            ("failed", State::Failed),
            ("cancelled", State::Cancelled),
            ("moved", State::Moved),
            ("back", State::RollingBack),
        ]
        .map(|(id, state)| {
            let task = Move {
                kind: "move".to_owned(),
                state,
                ..Move::default()
            };
            let record = Record {
                id: id.to_owned(),
                document: task.encode(),
                revision: Revision::NONE,
            };
            (id.to_owned(), Arc::new(record))
        });
        let left: Vec<&str> = orphans(&topology, &records.into())
            .map(|unit| unit.task.as_str())
            .collect();
        assert_eq!(left, ["failed", "cancelled", "unheard"]);
    }
}
