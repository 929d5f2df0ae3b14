//! Which keys are compared: all, by `SCAN`, or some by chance. They are looked for a little ahead of those who read them.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::plan::Endpoint;
use super::super::probe::connect;
use super::LARGE_BYTES;
use super::batch::{BATCH_KEYS, Batch, Key, batches};
use crate::control::{AskError, NodeClient};
use crate::ids::DbIndex;
use crate::resp::Value;

/// Batches that wait.
const AHEAD: usize = 2;
/// Elements that are looked at for the size of a value.
const ELEMENTS: &[u8] = b"5";

/// Batches of keys, one after the other. It ends with its handle.
#[derive(Debug)]
pub(super) struct Feed {
    batches: mpsc::Receiver<Result<Batch, AskError>>,
    _task: JoinSet<()>,
}

/// A database by its name on the source, its name on the node that is asked, and how many keys it has there.
type Place = (DbIndex, DbIndex, u64);

impl Feed {
    /// `by_chance`: so many keys of all of them.
    pub(super) fn start(
        node: Endpoint,
        silence: Duration,
        places: Vec<Place>,
        by_chance: Option<u64>,
    ) -> Self {
        let (sender, batches) = mpsc::channel(AHEAD);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let fed = async {
                let mut client = connect(&node, silence).await?;
                match by_chance {
                    Some(keys) => chance(&mut client, &places, keys, &sender).await,
                    None => scan(&mut client, &places, &sender).await,
                }
            };
            if let Err(error) = fed.await {
                // Whoever has left does not want to know.
                let _ = sender.send(Err(error)).await;
            }
        });
        Self { batches, _task: task }
    }

    /// The next batch; none: that was all.
    pub(super) async fn next(&mut self) -> Result<Option<Batch>, AskError> {
        self.batches.recv().await.transpose()
    }
}

type Batches = mpsc::Sender<Result<Batch, AskError>>;

async fn scan(client: &mut NodeClient, places: &[Place], out: &Batches) -> Result<(), AskError> {
    let count = BATCH_KEYS.to_string();
    for (db, here, _) in places {
        client.ask(&["SELECT", &here.to_string()]).await?;
        let mut cursor = b"0".to_vec();
        loop {
            let reply = client
                .ask_bytes(&[b"SCAN", &cursor, b"COUNT", count.as_bytes()])
                .await?;
            let (next, keys) = scanned(reply).ok_or(AskError::NotRedis)?;
            if !give(client, *db, keys, out).await? {
                return Ok(());
            }
            cursor = next;
            if cursor == b"0" {
                break;
            }
        }
    }
    Ok(())
}

async fn chance(client: &mut NodeClient, places: &[Place], keys: u64, out: &Batches) -> Result<(), AskError> {
    let all: u64 = places.iter().map(|(_, _, keys)| *keys).sum();
    // What rounding has left over of the databases before.
    let (mut seen, mut asked) = (0, 0);
    for (db, here, of_db) in places {
        client.ask(&["SELECT", &here.to_string()]).await?;
        seen += of_db;
        let due = part(keys, seen, all);
        while asked < due {
            let now = (due - asked).min(BATCH_KEYS as u64);
            asked += now;
            let questions: Vec<Vec<&[u8]>> = (0..now).map(|_| vec![&b"RANDOMKEY"[..]]).collect();
            let mut names = Vec::new();
            for answer in client.ask_all(&questions).await? {
                match answer {
                    Value::Bulk(name) => names.push(name),
                    Value::Null => {}
                    Value::Error(error) => return Err(AskError::Refused(error)),
                    _ => return Err(AskError::NotRedis),
                }
            }
            names.sort_unstable();
            names.dedup();
            if !give(client, *db, names, out).await? {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// `keys` × `seen` / `all`
pub(super) fn part(keys: u64, seen: u64, all: u64) -> u64 {
    let part = u128::from(keys) * u128::from(seen) / u128::from(all.max(1));
    u64::try_from(part).unwrap_or(keys)
}

/// Passes keys on, in batches by their sizes. False: nobody takes them any more.
async fn give(client: &mut NodeClient, db: DbIndex, keys: Vec<Key>, out: &Batches) -> Result<bool, AskError> {
    let questions: Vec<Vec<&[u8]>> = keys
        .iter()
        .map(|key| vec![&b"MEMORY"[..], b"USAGE", key, b"SAMPLES", ELEMENTS])
        .collect();
    let sizes = if questions.is_empty() {
        Vec::new()
    } else {
        client.ask_all(&questions).await?
    };
    let mut sized = Vec::with_capacity(keys.len());
    for (key, size) in keys.into_iter().zip(sizes) {
        match size {
            Value::Int(bytes) => sized.push((key, u64::try_from(bytes).unwrap_or(0))),
            // Gone meanwhile; the other side may have it all the same.
            Value::Null => sized.push((key, 0)),
            Value::Error(error) => return Err(AskError::Refused(error)),
            _ => return Err(AskError::NotRedis),
        }
    }
    for batch in batches(db, sized, LARGE_BYTES) {
        if out.send(Ok(batch)).await.is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn scanned(reply: Value) -> Option<(Vec<u8>, Vec<Key>)> {
    let Value::Array(parts) = reply else { return None };
    let mut parts = parts.into_iter();
    let (Some(Value::Bulk(cursor)), Some(Value::Array(keys))) = (parts.next(), parts.next()) else {
        return None;
    };
    let names = keys.into_iter().map(|key| match key {
        Value::Bulk(name) => Some(name),
        _ => None,
    });
    Some((cursor, names.collect::<Option<Vec<_>>>()?))
}
