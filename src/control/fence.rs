//! What a leader does on a node, so that a leader of the past cannot do it too.
//!
//! ```text
//!  take_over  WATCH term ─▶ GET: higher than ours? ─▶ we are of the past ─▶ MULTI, SET term ours, EXEC
//!  act        WATCH term ─▶ GET: ours?             ─▶ MULTI, commands …, EXEC ─▶ nil: somebody took over meanwhile
//! ```
//!
//! The term of the newest leader stands in the node's metadata database. Redis runs the commands only if it has not changed since
//! it was looked at, so nobody needs a clock to be safe.

use super::client::{AskError, NodeClient};
use super::seeded::{Mistake, makes};
use crate::ids::DbIndex;
use crate::resp::Value;
use crate::store::Term;

/// The key in the metadata database that holds the term of the newest leader that has touched the node.
pub const TERM_KEY: &str = "preshard:term";

/// Why nothing was done on a node, or why nobody knows.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// A newer leader has taken over: this one must stop.
    #[error("the leader of term {found} has taken over; this one is of term {ours}")]
    Deposed {
        /// What the node carries.
        found: String,
        /// Our own.
        ours: Term,
    },
    /// A command was refused; those before it were done.
    #[error("it refused {command}: {reply}")]
    Refused {
        /// The command's first words.
        command: String,
        /// The node's reply.
        reply: String,
    },
    /// The network, or the node's own error. What was asked may have been done.
    #[error(transparent)]
    Ask(#[from] AskError),
}

/// One command, as words.
pub type Words = Vec<Vec<u8>>;

/// A command out of text.
pub fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Words {
    words.into_iter().map(|word| word.as_bytes().to_vec()).collect()
}

/// Makes `term` the newest that the node knows.
///
/// # Errors
/// A newer leader was there, or the node cannot be asked.
pub async fn take_over(client: &mut NodeClient, metadata: DbIndex, term: Term) -> Result<(), FenceError> {
    loop {
        let found = watched(client, metadata).await?;
        let known: Option<i64> = found.as_deref().map(str::parse).and_then(Result::ok);
        match (known, &found) {
            (Some(known), _) if known == term.0 => {
                client.ask(&["UNWATCH"]).await?;
                return Ok(());
            }
            (Some(known), _) if known < term.0 => {}
            (None, None) => {}
            (_, Some(found)) => {
                client.ask(&["UNWATCH"]).await?;
                let found = found.clone();
                return Err(FenceError::Deposed { found, ours: term });
            }
            (Some(_), None) => {}
        }
        let set = words(["SET", TERM_KEY, &term.to_string()]);
        // Nil: another leader was here at the same time; it is decided by who has the higher term.
        if run(client, &[set]).await?.is_some() {
            return Ok(());
        }
    }
}

/// Makes `term` the newest that the node knows, in place of a higher one that no leader of this store has had.
///
/// # Errors
/// Something else stands there than was `found`, or the node cannot be asked.
pub async fn replace(
    client: &mut NodeClient,
    metadata: DbIndex,
    term: Term,
    found: &str,
) -> Result<(), FenceError> {
    let now = watched(client, metadata).await?.unwrap_or_default();
    if now == found {
        let set = words(["SET", TERM_KEY, &term.to_string()]);
        if run(client, &[set]).await?.is_some() {
            return Ok(());
        }
    } else {
        client.ask(&["UNWATCH"]).await?;
    }
    Err(FenceError::Deposed {
        found: now,
        ours: term,
    })
}

/// Runs commands, all or none, only while `term` is the newest that the node knows. Returns their replies.
///
/// # Errors
/// Nothing was done if a newer leader was there; see [`FenceError`].
pub async fn act(
    client: &mut NodeClient,
    metadata: DbIndex,
    term: Term,
    commands: &[Words],
) -> Result<Vec<Value>, FenceError> {
    act_while(client, metadata, term, commands, &|| true).await
}

/// The same, only if what it was decided by still holds when the node is watched. A leader that takes rights away touches the term then,
/// so what it has decided before, and what is still on its way, is not done.
///
/// # Errors
/// As [`act`].
pub async fn act_while(
    client: &mut NodeClient,
    metadata: DbIndex,
    term: Term,
    commands: &[Words],
    holds: &(dyn Fn() -> bool + Send + Sync),
) -> Result<Vec<Value>, FenceError> {
    let found = watched(client, metadata).await?.unwrap_or_default();
    if makes(Mistake::IgnoresTerm) {
        client.ask(&["UNWATCH"]).await?;
    } else if found != term.to_string() {
        client.ask(&["UNWATCH"]).await?;
        return Err(FenceError::Deposed { found, ours: term });
    }
    if !holds() {
        client.ask(&["UNWATCH"]).await?;
        return Err(AskError::Refused("BUSY what was decided does not hold any more".to_owned()).into());
    }
    match run(client, commands).await? {
        Some(replies) => Ok(replies),
        None => Err(FenceError::Deposed {
            found: "unknown".to_owned(),
            ours: term,
        }),
    }
}

/// What the node carries, watched from now on.
async fn watched(client: &mut NodeClient, metadata: DbIndex) -> Result<Option<String>, FenceError> {
    let metadata = metadata.to_string();
    let replies = all(
        client,
        &[&["SELECT", &metadata], &["WATCH", TERM_KEY], &["GET", TERM_KEY]],
    )
    .await?;
    let mut found = None;
    for reply in replies {
        match reply {
            Value::Error(error) => return Err(AskError::Refused(error).into()),
            reply => found = Some(reply),
        }
    }
    let found = found.as_ref().and_then(Value::as_bytes);
    Ok(found.map(|found| String::from_utf8_lossy(found).into_owned()))
}

async fn all(client: &mut NodeClient, commands: &[&[&str]]) -> Result<Vec<Value>, AskError> {
    let commands: Vec<Vec<&[u8]>> = commands
        .iter()
        .map(|command| command.iter().map(|word| word.as_bytes()).collect())
        .collect();
    client.ask_all(&commands).await
}

/// `MULTI … EXEC`, in one piece. None: what is watched has changed.
async fn run(client: &mut NodeClient, commands: &[Words]) -> Result<Option<Vec<Value>>, FenceError> {
    let mut block: Vec<Vec<&[u8]>> = vec![vec![b"MULTI"]];
    block.extend(
        commands
            .iter()
            .map(|command| command.iter().map(Vec::as_slice).collect()),
    );
    block.push(vec![b"EXEC"]);
    let mut answers = client.ask_all(&block).await?;
    let executed = answers.pop();
    // A command that is not taken aborts the transaction: nothing has run.
    for answer in answers {
        if let Value::Error(error) = answer {
            return Err(AskError::Refused(error).into());
        }
    }
    let replies = match executed {
        Some(Value::Array(replies)) => replies,
        Some(Value::Error(error)) => return Err(AskError::Refused(error).into()),
        Some(_) | None => return Ok(None),
    };
    for (command, reply) in commands.iter().zip(&replies) {
        if let Value::Error(reply) = reply {
            let first: Vec<_> = command
                .iter()
                .take(2)
                .map(|word| String::from_utf8_lossy(word))
                .collect();
            return Err(FenceError::Refused {
                command: first.join(" "),
                reply: reply.clone(),
            });
        }
    }
    Ok(Some(replies))
}
