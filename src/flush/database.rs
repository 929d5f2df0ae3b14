//! The connection to Postgres: opened, watched, and given up whole when its state is in doubt.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::Severity;
use tokio_postgres::{Client, Config, NoTls};

use super::fault::Fault;
use super::secured::Connector;
use crate::tls::ClientSide;

/// The two tables; what `--init-sql` prints.
pub const INIT_SQL: &str = "\
-- For `preshard flush`: what has been applied, one row for each counter and shard.
-- The flusher needs SELECT, INSERT and UPDATE on it.
CREATE TABLE IF NOT EXISTS preshard_flush (
  source text, counter text, shard int,
  seq bigint NOT NULL,
  at timestamptz DEFAULT now(),
  PRIMARY KEY (source, counter, shard)
);
-- What Postgres did not take, for somebody to look at. The flusher needs INSERT on it.
CREATE TABLE IF NOT EXISTS preshard_dead (
  source text, counter text, member text, delta bigint,
  batch text, error text,
  at timestamptz DEFAULT now()
);
";

/// Longest time to connect, unless the address says otherwise.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Where Postgres is, and how to get in.
#[derive(Clone, Debug)]
pub struct PostgresSide {
    /// Address, user, password and database.
    pub config: Config,
    /// The handshake, where TLS is spoken.
    pub tls: Option<ClientSide>,
}

impl PartialEq for PostgresSide {
    fn eq(&self, other: &Self) -> bool {
        self.config == other.config && self.tls == other.tls
    }
}

impl Eq for PostgresSide {}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Postgres refused it; nothing has been written.
    Refused {
        fault: Fault,
        code: String,
        /// For the log: no values in it.
        what: String,
        /// For the table of dead letters, which holds values anyway.
        full: String,
    },
    /// The connection is of no use any more; nothing has been written.
    Lost(String),
    /// The connection was lost in COMMIT: written or not.
    Unknown(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code, what, .. } => write!(f, "{what} (SQLSTATE {code})"),
            Self::Lost(what) | Self::Unknown(what) => f.write_str(what),
        }
    }
}

/// A connection.
pub(super) struct Database {
    pub(super) client: Client,
    /// The task that drives it. It ends with its owner, which closes the socket at once, so that the server rolls back what was open.
    _connection: JoinSet<()>,
    /// Time for one answer.
    pub(super) limit: Duration,
}

// === impl Database ===

impl Database {
    /// Connects. `limit` is the time for each answer later.
    pub(super) async fn connect(side: &PostgresSide, limit: Duration) -> Result<Self, Failure> {
        let wait = side
            .config
            .get_connect_timeout()
            .copied()
            .unwrap_or(CONNECT_LIMIT);
        let mut task = JoinSet::new();
        let opening = async {
            match &side.tls {
                Some(tls) if side.config.get_ssl_mode() != SslMode::Disable => {
                    let (client, connection) = side.config.connect(Connector(tls.clone())).await?;
                    task.spawn(watch(connection));
                    Ok(client)
                }
                Some(_) | None => {
                    let (client, connection) = side.config.connect(NoTls).await?;
                    task.spawn(watch(connection));
                    Ok(client)
                }
            }
        };
        let opened = timeout(wait, Box::pin(opening)).await;
        let opened = opened.map_err(|_| Failure::Lost(format!("no answer within {wait:?}")))?;
        let client = opened.map_err(|error| failure(&error))?;
        Ok(Self {
            client,
            _connection: task,
            limit,
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Waits for one answer, but not for ever.
    pub(super) async fn limited<T>(
        &self,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Failure> {
        match timeout(self.limit, answer).await {
            Ok(answer) => answer.map_err(|error| failure(&error)),
            Err(_) => Err(Failure::Lost(format!("no answer within {:?}", self.limit))),
        }
    }
}

/// Drives a connection to its end; what it ends with, its client is told.
async fn watch<T>(connection: T)
where
    T: Future<Output = Result<(), tokio_postgres::Error>>,
{
    if let Err(error) = connection.await {
        tracing::debug!(event = "postgres_connection_ended", %error);
    }
}

/// What an answer that is an error means before COMMIT.
pub(super) fn failure(error: &tokio_postgres::Error) -> Failure {
    let Some(told) = error.as_db_error() else {
        // The library's own words name the kind, their source the cause.
        let cause = std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
        return Failure::Lost(format!("{error}{cause}"));
    };
    let code = told.code().code().to_owned();
    let fault = Fault::of(&code);
    let fatal = matches!(told.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
    // Messages about data hold the data, which does not belong into a log.
    let what = match (fault, told.constraint()) {
        (Fault::Data, Some(constraint)) => format!("a value is refused by the constraint {constraint}"),
        (Fault::Data, None) => "a value is refused".to_owned(),
        _ => told.message().to_owned(),
    };
    if fatal {
        return Failure::Lost(format!("{what} (SQLSTATE {code})"));
    }
    Failure::Refused {
        fault,
        full: format!("{code}: {}", told.message()),
        code,
        what,
    }
}

/// What an error in COMMIT means: only a plain refusal says that nothing was written.
pub(super) fn commit_failure(failure: Failure) -> Failure {
    match failure {
        Failure::Refused {
            fault: Fault::Data | Fault::Contention,
            ..
        } => failure,
        other => Failure::Unknown(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(fault: Fault) -> Failure {
        Failure::Refused {
            fault,
            code: "c".into(),
            what: "w".into(),
            full: "f".into(),
        }
    }

    #[test]
    fn only_a_plain_refusal_of_a_commit_says_that_nothing_was_written() {
        for known in [Fault::Data, Fault::Contention] {
            assert_eq!(commit_failure(refused(known)), refused(known));
        }
        for doubtful in [
            refused(Fault::Unavailable),
            refused(Fault::Statement),
            Failure::Lost("l".into()),
        ] {
            assert!(matches!(commit_failure(doubtful), Failure::Unknown(_)));
        }
    }
}
