//! What a leader does on a node, so that a leader of the past cannot do it too.
//!
//! ```text
//!  take_over  WATCH term ─▶ GET: higher than ours? ─▶ we are of the past ─▶ MULTI, SET term ours, EXEC
//!  act        WATCH term ─▶ GET: ours?             ─▶ MULTI, commands …, EXEC ─▶ nil: somebody took over meanwhile
//!  ask        the same, and a question right behind EXEC: where a stream of writes is then, no transaction is cut in two
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
        if run(client, &[set], None).await?.is_some() {
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
        if run(client, &[set], None).await?.is_some() {
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

/// The same, and one more command behind it, on the same way: its reply is the last one. So that an offset which is asked for has the whole
/// transaction before it: up to 6.2 a server begins it in its stream with the first write, and up to 6.0 with an `INFO` as well.
///
/// # Errors
/// As [`act`].
pub async fn act_and_ask(
    client: &mut NodeClient,
    metadata: DbIndex,
    term: Term,
    commands: &[Words],
    question: &Words,
) -> Result<Vec<Value>, FenceError> {
    watch_ours(client, metadata, term, &|| true).await?;
    run(client, commands, Some(question))
        .await?
        .ok_or_else(|| lost(term))
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
    watch_ours(client, metadata, term, holds).await?;
    run(client, commands, None).await?.ok_or_else(|| lost(term))
}

/// Somebody took over between the look and the deed.
fn lost(ours: Term) -> FenceError {
    FenceError::Deposed {
        found: "unknown".to_owned(),
        ours,
    }
}

/// Watches the term, which must be ours.
async fn watch_ours(
    client: &mut NodeClient,
    metadata: DbIndex,
    term: Term,
    holds: &(dyn Fn() -> bool + Send + Sync),
) -> Result<(), FenceError> {
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
    Ok(())
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

fn slices(command: &Words) -> Vec<&[u8]> {
    command.iter().map(Vec::as_slice).collect()
}

/// `MULTI … EXEC`, in one piece, and what is asked behind it. None: what is watched has changed.
async fn run(
    client: &mut NodeClient,
    commands: &[Words],
    question: Option<&Words>,
) -> Result<Option<Vec<Value>>, FenceError> {
    let mut block: Vec<Vec<&[u8]>> = vec![vec![b"MULTI"]];
    block.extend(commands.iter().map(slices));
    block.push(vec![b"EXEC"]);
    block.extend(question.map(slices));
    let mut answers = client.ask_all(&block).await?;
    let asked = question.and_then(|_| answers.pop());
    let executed = answers.pop();
    // A command that is not taken aborts the transaction: nothing has run.
    for answer in answers {
        if let Value::Error(error) = answer {
            return Err(AskError::Refused(error).into());
        }
    }
    let mut replies = match executed {
        Some(Value::Array(replies)) => replies,
        Some(Value::Error(error)) => return Err(AskError::Refused(error).into()),
        Some(_) | None => return Ok(None),
    };
    replies.extend(asked);
    for (command, reply) in commands.iter().chain(question).zip(&replies) {
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;
    use crate::control::testing::set_network;
    use crate::worker::shared::NodeCredentials;

    /// What the node says when it is asked for the term.
    const OURS: &str = "+OK\r\n+OK\r\n$1\r\n7\r\n";

    /// Asks a node that answers the transaction, and what stands behind it, with these bytes. Also what it was asked.
    async fn ask(replies: &str) -> (Result<Vec<Value>, FenceError>, String) {
        let (ours, mut theirs) = duplex(64 * 1024);
        let ours = RefCell::new(Some(ours));
        set_network(Some(Box::new(move |_| Ok(Box::new(ours.take().unwrap())))));
        let node = async {
            let (mut heard, mut chunk) = (String::new(), [0; 1024]);
            for replies in [OURS, replies] {
                let count = theirs.read(&mut chunk).await.unwrap();
                heard += &String::from_utf8_lossy(&chunk[..count]);
                theirs.write_all(replies.as_bytes()).await.unwrap();
            }
            heard
        };
        let asked = async {
            let (address, patience) = ("127.0.0.1:1".parse().unwrap(), Duration::from_secs(60));
            let client = NodeClient::connect(&address, &NodeCredentials::default(), patience).await;
            let freeze = [words(["ACL", "SETUSER", "u", "-@all"])];
            let question = words(["INFO", "replication"]);
            act_and_ask(&mut client.unwrap(), DbIndex(9), Term(7), &freeze, &question).await
        };
        let (heard, told) = tokio::join!(node, asked);
        set_network(None);
        let words = heard.split("\r\n").filter(|line| !line.starts_with(['*', '$']));
        (told, words.collect::<Vec<_>>().join(" "))
    }

    #[tokio::test]
    async fn a_question_is_asked_behind_the_transaction_and_its_reply_is_the_last() {
        let (told, heard) = ask("+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n$1\r\nx\r\n").await;
        assert_eq!(told.unwrap(), [Value::OK, Value::bulk("x")]);
        assert!(
            heard.contains("MULTI ACL SETUSER u -@all EXEC INFO replication"),
            "{heard}"
        );
    }

    #[tokio::test]
    async fn a_question_has_no_answer_if_the_transaction_was_not_done() {
        let (told, _) = ask("+OK\r\n+QUEUED\r\n*-1\r\n$1\r\nx\r\n").await;
        assert!(matches!(told, Err(FenceError::Deposed { .. })), "{told:?}");
        let (told, _) = ask("+OK\r\n-ERR no\r\n-EXECABORT no\r\n$1\r\nx\r\n").await;
        assert!(
            matches!(told, Err(FenceError::Ask(AskError::Refused(_)))),
            "{told:?}"
        );
        let (told, _) = ask("+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n-ERR no\r\n").await;
        assert!(matches!(told, Err(FenceError::Refused { .. })), "{told:?}");
    }
}
