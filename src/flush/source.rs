//! The connection to preshard: a connection that is made when it is needed, and given up when it answers strangely.
//!
//! `TAKE` is never sent again by itself: what an unknown one took comes back after its lease. `ACK` and `LEASE` may be repeated as
//! often as one likes.

use std::fmt;
use std::time::Duration;

use super::batch::{Batch, batches, number};
use crate::config::Secret;
use crate::control::client::{AskError, NodeClient};
use crate::resp::Value;
use crate::tls::ClientSide;
use crate::topology::Address;
use crate::worker::shared::NodeCredentials;

/// Time for one answer: longer than any proxy lets a request run.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// Members may have 64 KiB each. No proxy sends more than its `output_bytes_hard`.
const ANSWER_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Where preshard is, and how to get in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisSide {
    /// The data port of a proxy.
    pub address: Address,
    /// Who to be there.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// The handshake, where TLS is spoken.
    pub tls: Option<ClientSide>,
    /// The database: 0, or a pinned one.
    pub database: u32,
}

/// Why a question to preshard has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// The proxy cannot be reached, or the connection broke: it may have run.
    Lost(String),
    /// It has not run, or nobody knows; the same again may work.
    Later(String),
    /// The same again would fail again.
    Refused(String),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(what) | Self::Later(what) | Self::Refused(what) => f.write_str(what),
        }
    }
}

impl NoAnswer {
    /// The word of the metric.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Lost(_) => "lost",
            Self::Later(_) => "later",
            Self::Refused(_) => "refused",
        }
    }

    fn of(error: AskError) -> Self {
        let AskError::Refused(line) = error else {
            return Self::Lost(error.to_string());
        };
        let code = line.split(' ').next().unwrap_or_default();
        match code {
            "TRYAGAIN" | "CLUSTERDOWN" | "UNCERTAIN" | "LOADING" | "BUSY" | "MASTERDOWN" | "READONLY" => {
                Self::Later(line)
            }
            _ => Self::Refused(line),
        }
    }
}

/// A connection to preshard, or the wish for one.
pub(super) struct Source {
    side: RedisSide,
    client: Option<NodeClient>,
}

// === impl Source ===

impl Source {
    pub(super) const fn new(side: RedisSide) -> Self {
        Self { side, client: None }
    }

    /// Work to do, at most one batch of a shard; empty if nothing is due.
    pub(super) async fn take(
        &mut self,
        counter: &str,
        count: u32,
        lease: Duration,
        every: Duration,
    ) -> Result<Vec<Batch>, NoAnswer> {
        let [count, lease, every] = [u128::from(count), lease.as_millis(), every.as_millis()];
        let [count, lease, every] = [count, lease, every].map(|number| number.to_string());
        let mut words = vec!["COUNTER.TAKE", counter, "COUNT", &count, "LEASE", &lease];
        if every != "0" {
            words.extend(["EVERY", &every]);
        }
        let answer = self.ask(&words).await?;
        batches(&answer).ok_or_else(|| self.not_understood("COUNTER.TAKE"))
    }

    /// Ends batches for good: how many were outstanding until now.
    pub(super) async fn ack(&mut self, counter: &str, ids: &[&str]) -> Result<i64, NoAnswer> {
        let mut words = vec!["COUNTER.ACK", counter];
        words.extend(ids);
        let answer = self.ask(&words).await?;
        number(&answer).ok_or_else(|| self.not_understood("COUNTER.ACK"))
    }

    /// Sets the time that batches stay ours: how many of them are outstanding.
    pub(super) async fn lease(
        &mut self,
        counter: &str,
        time: Duration,
        ids: &[&str],
    ) -> Result<i64, NoAnswer> {
        let time = time.as_millis().to_string();
        let mut words = vec!["COUNTER.LEASE", counter, &time];
        words.extend(ids);
        let answer = self.ask(&words).await?;
        number(&answer).ok_or_else(|| self.not_understood("COUNTER.LEASE"))
    }

    /// What waits of a counter, as names and numbers.
    pub(super) async fn pending(&mut self, counter: &str) -> Result<Vec<(String, Option<i64>)>, NoAnswer> {
        let answer = self.ask(&["COUNTER.PENDING", counter]).await?;
        let named = |name: &Value, value: &Value| {
            let name = String::from_utf8_lossy(name.as_bytes()?).into_owned();
            Some((name, number(value)))
        };
        let fields: Option<Vec<_>> = match &answer {
            Value::Map(pairs) => pairs.iter().map(|(name, value)| named(name, value)).collect(),
            Value::Array(flat) => flat
                .as_chunks::<2>()
                .0
                .iter()
                .map(|[name, value]| named(name, value))
                .collect(),
            _ => None,
        };
        fields.ok_or_else(|| self.not_understood("COUNTER.PENDING"))
    }

    fn not_understood(&mut self, command: &str) -> NoAnswer {
        self.client = None;
        NoAnswer::Refused(format!("the answer to {command} is not what preshard answers"))
    }

    async fn ask(&mut self, words: &[&str]) -> Result<Value, NoAnswer> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => Box::pin(self.connect()).await.map_err(NoAnswer::of)?,
        };
        let answer = client.ask(words).await;
        // After anything but an answer nobody knows what comes next on it.
        if matches!(answer, Ok(_) | Err(AskError::Refused(_))) {
            self.client = Some(client);
        }
        answer.map_err(NoAnswer::of)
    }

    /// Connects, logs in, speaks RESP3 if the other side does, and selects the database.
    async fn connect(&self) -> Result<NodeClient, AskError> {
        let credentials = NodeCredentials {
            username: self.side.username.clone(),
            password: self.side.password.clone(),
            tls: self.side.tls.clone(),
        };
        let client = NodeClient::connect(&self.side.address, &credentials, ANSWER_LIMIT).await?;
        let mut client = client.with_reply_max(ANSWER_BYTES_MAX);
        for optional in [&["HELLO", "3"][..], &["CLIENT", "SETNAME", "preshard-flush"]] {
            match client.ask(optional).await {
                Ok(_) | Err(AskError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if self.side.database != 0 {
            client.ask(&["SELECT", &self.side.database.to_string()]).await?;
        }
        Ok(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_line_says_whether_to_come_again() {
        for (line, word) in [
            ("TRYAGAIN 3 shards not checked", "later"),
            ("UNCERTAIN shard 3: lost", "later"),
            ("CLUSTERDOWN shard 3: its node is down", "later"),
            ("ERR unknown command 'COUNTER.TAKE'", "refused"),
            ("NOAUTH Authentication required.", "refused"),
        ] {
            assert_eq!(
                NoAnswer::of(AskError::Refused(line.into())).word(),
                word,
                "{line}"
            );
        }
        assert_eq!(NoAnswer::of(AskError::NotRedis).word(), "lost");
    }
}
