//! Transactions on a node that is at its `maxmemory`.
//!
//! Such a node queues nothing behind `MULTI`, not even what frees memory or takes rights away, and nothing else can be made to depend on
//! a watched key. So its limit is lifted for the moment of one transaction:
//!
//! ```text
//!  MULTI … EXEC ─▶ OOM: nothing has run ─▶ how much is used, what is the limit? ─▶ WATCH … again ─▶ CONFIG SET maxmemory  used + 16 MiB ┐
//!                                                                                                   MULTI … EXEC                        │ one write
//!                                                                                                   CONFIG SET maxmemory  as it was     ┘
//! ```
//!
//! What arrives in one piece is done without a pause, so nobody else has use of the room; else it is little, and it is for a moment. What
//! the transaction depends on it still depends on. A lifted limit is known by its last digits, so that nobody takes it for the
//! node's own.

use std::time::Duration;

use tokio::time::sleep;

use super::client::{AskError, NodeClient};
use super::info_field;
use crate::resp::Value;

/// What a transaction of ours may take, and what others may take until it comes.
const ROOM: u64 = 16 * 1024 * 1024;
/// A lifted limit is a multiple of the one and the other more: nobody else chooses such a number.
const SIGN: (u64, u64) = (8192, 4093);
/// How often it is looked whether somebody's lifted limit has gone, and the pause between.
const LOOKS: usize = 20;
const LOOK_PACE: Duration = Duration::from_millis(50);
/// How often room is made for one transaction: what is used may grow meanwhile.
const ROOMS_MAX: usize = 3;

/// Whether a node has refused because it is at its limit.
fn is_full(reply: &str) -> bool {
    reply.starts_with("OOM")
}

/// Room for one transaction, where it was found to be needed.
#[derive(Debug, Default)]
pub(super) struct Room {
    limits: Option<Limits>,
    made: usize,
}

/// Of memory, in bytes.
#[derive(Clone, Copy, Debug)]
struct Limits {
    own: u64,
    lifted: u64,
}

impl Room {
    /// Whether a refusal is one for want of memory, and room was made: then it is worth another attempt.
    pub(super) async fn is_made(
        &mut self,
        client: &mut NodeClient,
        refusal: &AskError,
    ) -> Result<bool, AskError> {
        let AskError::Refused(reply) = refusal else {
            return Ok(false);
        };
        if !is_full(reply) || self.made == ROOMS_MAX {
            return Ok(false);
        }
        self.made += 1;
        self.limits = match Limits::of(client).await {
            Ok(limits) => limits,
            Err(AskError::Refused(error)) => return Err(stays_full(&error)),
            Err(error) => return Err(error),
        };
        Ok(true)
    }

    /// Asks in one piece, with the limit lifted if that was needed before.
    pub(super) async fn ask_all(
        &self,
        client: &mut NodeClient,
        questions: &[Vec<&[u8]>],
    ) -> Result<Vec<Value>, AskError> {
        match &self.limits {
            None => client.ask_all(questions).await,
            Some(limits) => limits.ask_all(client, questions).await,
        }
    }
}

/// Asks in one piece what may be done twice; with the limit lifted if the node refuses it for want of memory.
///
/// # Errors
/// As [`NodeClient::ask_all`].
pub async fn ask_with_room(
    client: &mut NodeClient,
    questions: &[Vec<&[u8]>],
) -> Result<Vec<Value>, AskError> {
    let mut room = Room::default();
    loop {
        let answers = room.ask_all(client, questions).await?;
        match answers.iter().find_map(refusal) {
            Some(refused)
                if room
                    .is_made(client, &AskError::Refused(refused.to_owned()))
                    .await? => {}
            Some(_) | None => return Ok(answers),
        }
    }
}

impl Limits {
    /// What a node's limit is, and what it is to be for a moment. None: it has no limit any more.
    async fn of(client: &mut NodeClient) -> Result<Option<Self>, AskError> {
        let mut own = limit_of(&client.ask(&["CONFIG", "GET", "maxmemory"]).await?)?;
        for _ in 0..LOOKS {
            if !is_lifted(own) {
                break;
            }
            sleep(LOOK_PACE).await;
            own = limit_of(&client.ask(&["CONFIG", "GET", "maxmemory"]).await?)?;
        }
        let info = client.ask_text(&["INFO", "memory"]).await?;
        let used = info_field(&info, "used_memory").and_then(|used| used.parse().ok());
        let used: u64 = used.ok_or(AskError::NotRedis)?;
        Ok((own > 0).then(|| Self {
            own,
            lifted: lifted(used.max(own)),
        }))
    }

    async fn ask_all(
        self,
        client: &mut NodeClient,
        questions: &[Vec<&[u8]>],
    ) -> Result<Vec<Value>, AskError> {
        let (own, lifted) = (self.own.to_string(), self.lifted.to_string());
        let mut all: Vec<Vec<&[u8]>> = vec![
            vec![b"CONFIG", b"GET", b"maxmemory"],
            vec![b"CONFIG", b"SET", b"maxmemory", lifted.as_bytes()],
        ];
        all.extend_from_slice(questions);
        all.push(vec![b"CONFIG", b"SET", b"maxmemory", own.as_bytes()]);
        let mut answers = match client.ask_all(&all).await {
            Ok(answers) => answers,
            Err(error) => {
                self.lower(client).await;
                return Err(error);
            }
        };
        let lowered = answers.pop();
        let before: Vec<Value> = answers.drain(..2).collect();
        let [found, raised] = &before[..] else {
            return Err(AskError::NotRedis);
        };
        // An operator who has set it since it was read means it.
        let found = limit_of(found).unwrap_or(self.own);
        if found != self.own && !is_lifted(found) {
            client
                .ask(&["CONFIG", "SET", "maxmemory", &found.to_string()])
                .await?;
        }
        match (raised, lowered) {
            (Value::Error(error), _) if answers.iter().any(|answer| refusal(answer).is_some_and(is_full)) => {
                return Err(stays_full(error));
            }
            (Value::Error(_), _) => {}
            (_, Some(Value::Error(error))) => self.tell(&error),
            (_, _) => {}
        }
        Ok(answers)
    }

    /// The connection has broken, and nobody knows how far the node has come.
    async fn lower(self, broken: &NodeClient) {
        let lowered = async {
            let mut client = broken.again().await?;
            let found = limit_of(&client.ask(&["CONFIG", "GET", "maxmemory"]).await?)?;
            if found == self.lifted {
                client
                    .ask(&["CONFIG", "SET", "maxmemory", &self.own.to_string()])
                    .await?;
            }
            Ok::<_, AskError>(())
        };
        if let Err(error) = lowered.await {
            self.tell(&error.to_string());
        }
    }

    fn tell(self, error: &str) {
        tracing::warn!(
            event = "maxmemory_unclear",
            maxmemory = self.own,
            lifted = self.lifted,
            error,
            "maxmemory of a full node was raised for a moment, and may have stayed so: look, and set it back"
        );
    }
}

/// What is said of a node that cannot be given room. It begins as the node's own refusal, which may pass.
fn stays_full(error: &str) -> AskError {
    AskError::Refused(format!(
        "OOM it is at its maxmemory, where it takes no transaction, and does not let preshard raise that for a moment ({error}); raise it"
    ))
}

fn refusal(answer: &Value) -> Option<&str> {
    match answer {
        Value::Error(error) => Some(error),
        _ => None,
    }
}

/// The answer to `CONFIG GET maxmemory`.
fn limit_of(answer: &Value) -> Result<u64, AskError> {
    let limit = match answer {
        Value::Array(pair) => pair.get(1).and_then(Value::as_bytes),
        Value::Error(error) => return Err(AskError::Refused(error.clone())),
        _ => None,
    };
    let limit = limit.and_then(|limit| std::str::from_utf8(limit).ok()?.parse().ok());
    limit.ok_or(AskError::NotRedis)
}

fn lifted(used: u64) -> u64 {
    used.saturating_add(ROOM) / SIGN.0 * SIGN.0 + SIGN.1
}

const fn is_lifted(limit: u64) -> bool {
    limit % SIGN.0 == SIGN.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifted_limit_is_above_what_is_used_and_known_by_its_digits() {
        for used in [1, 4093, 20_971_520, u64::MAX / 2] {
            assert!(lifted(used) > used && is_lifted(lifted(used)));
        }
        for own in [0, 1, 100_000_000, 20 << 20, 3 << 30] {
            assert!(!is_lifted(own));
        }
    }

    #[test]
    fn only_a_number_is_a_limit() {
        let answer = |limit: &str| Value::Array(["maxmemory", limit].map(Value::bulk).into());
        assert_eq!(limit_of(&answer("7")).unwrap(), 7);
        assert!(limit_of(&answer("x")).is_err());
        assert!(limit_of(&Value::Array(Vec::new())).is_err());
        assert!(limit_of(&Value::error("NOPERM")).is_err());
    }
}
