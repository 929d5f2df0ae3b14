//! `SHARD VERIFY`: an order that any proxy takes, and that the leader carries out.

use super::super::mover::Mover;
use super::super::task::{Move, State};
use super::record::{Sample, Verification};
use crate::ids::ShardId;
use crate::store::StoreError;
use crate::topology::codec::shard_list;

/// What is to be verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    /// A task, by its id.
    Task(String),
    /// Whatever moves these shards.
    Shards(Vec<ShardId>),
}

/// Times that the leader may write a record just before we do.
const RACES_MAX: usize = 20;

impl Mover {
    /// Orders that moves are verified, before their cutover or while they can be rolled back. Returns their ids.
    ///
    /// # Errors
    /// There is nothing to compare, or no store.
    pub async fn verify(&self, what: &Verified, sample: Sample) -> Result<Vec<String>, String> {
        let records = self
            .fleet()
            .store()
            .records()
            .await
            .map_err(|error| error.to_string())?;
        let total = self.topology().total_shards();
        let mut ids = Vec::new();
        for record in records {
            let Some(task) = Move::decode(&record.document) else {
                continue;
            };
            let is_meant = match what {
                Verified::Task(id) => *id == record.id,
                Verified::Shards(shards) => {
                    let moved = shard_list(&task.shards, total).unwrap_or_default();
                    (!task.state.is_over() || task.is_reversible())
                        && moved.iter().any(|shard| shards.contains(shard))
                }
            };
            if is_meant {
                self.order_verification(&record.id, sample).await?;
                ids.push(record.id);
            }
        }
        if ids.is_empty() {
            return Err(match what {
                Verified::Task(id) => format!("there is no move '{id}'"),
                Verified::Shards(_) => {
                    "none of these shards is being moved, or has moved and can be rolled back: there is nothing to compare them with"
                        .to_owned()
                }
            });
        }
        Ok(ids)
    }

    async fn order_verification(&self, id: &str, sample: Sample) -> Result<(), String> {
        for _ in 0..RACES_MAX {
            let store = self.fleet().store();
            let record = store.record(id).await.map_err(|error| error.to_string())?;
            let task = record.as_ref().and_then(|record| Move::decode(&record.document));
            let (Some(record), Some(mut task)) = (record, task) else {
                return Err(format!("there is no move '{id}'"));
            };
            if let Some(why) = why_not(&task) {
                return Err(format!("task {id} {why}"));
            }
            task.verify = Some(Verification::asked(sample));
            match store.put_record(id, &task.encode(), record.revision, None).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Changed { .. }) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(format!(
            "the record of task {id} is written all the time; try again"
        ))
    }
}

fn why_not(task: &Move) -> Option<String> {
    if let Some(why) = task.why_not_verified() {
        return Some(format!("cannot be verified: {why}"));
    }
    if task.state == State::CuttingOver {
        return Some("is just cutting over".to_owned());
    }
    let open = task.verify.as_ref().is_some_and(Verification::is_open);
    open.then(|| "is being verified already; see its TASK STATUS".to_owned())
}
