//! A connection on which a node is told to be a primary of ours: login, what we say of ourselves, and where to begin.
//!
//! ```text
//!  AUTH ─▶ REPLCONF ip-address preshard-migrator ─▶ [REPLCONF rdb-only 1] ─▶ PSYNC replid offset
//!                                                     +CONTINUE: the stream follows
//!                                                     +FULLRESYNC replid offset, then $length and the snapshot
//! ```
//!
//! `ip-address` is no address on purpose: Sentinel drops replicas whose address it cannot resolve. `capa eof` is not said:
//! with it Redis 7.0 waits five seconds for others before it begins.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::error::CopyError;
use super::plan::{Endpoint, Offset};
use crate::control::client::{Socket, open};
use crate::resp::write_request;

/// How the source shows us among its replicas.
const NAME: &[u8] = b"preshard-migrator";
/// Longest line of a handshake.
const LINE_MAX: usize = 4 * 1024;

/// A connection to a source, before and behind the handshake.
pub(super) struct Link {
    pub(super) socket: Box<dyn Socket>,
    /// What has come and was not used.
    pub(super) buf: Vec<u8>,
    silence: Duration,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

/// How the source answers `PSYNC`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Psync {
    /// A snapshot follows; the stream begins behind this offset.
    Full(Offset),
    /// The stream follows from where it was asked for.
    Continue,
}

fn lost(error: impl ToString) -> CopyError {
    CopyError::Source(error.to_string())
}

impl Link {
    /// Connects, logs in and says who we are.
    pub(super) async fn open(source: &Endpoint, silence: Duration) -> Result<Self, CopyError> {
        let opened = timeout(silence, open(&source.address, source.credentials.tls.as_ref())).await;
        let socket = opened
            .map_err(|_| CopyError::SourceSilent(silence))?
            .map_err(lost)?;
        let mut link = Self {
            socket,
            buf: Vec::new(),
            silence,
        };
        if let Some(password) = &source.credentials.password {
            let password = password.reveal().as_bytes();
            match &source.credentials.username {
                Some(user) => link.told(&[b"AUTH", user.as_bytes(), password]).await?,
                None => link.told(&[b"AUTH", password]).await?,
            }
        }
        link.told(&[b"REPLCONF", b"ip-address", NAME]).await?;
        link.told(&[b"REPLCONF", b"capa", b"psync2"]).await?;
        Ok(link)
    }

    /// Asks for the snapshot alone (since 6.2): the source keeps no stream for us meanwhile.
    pub(super) async fn rdb_only(&mut self) -> Result<(), CopyError> {
        self.told(&[b"REPLCONF", b"rdb-only", b"1"]).await
    }

    /// Asks for what follows an offset, or for everything.
    pub(super) async fn psync(&mut self, from: Option<&Offset>) -> Result<Psync, CopyError> {
        match from {
            Some(from) => {
                let next = (from.offset + 1).to_string();
                self.say(&[b"PSYNC", from.replid.as_bytes(), next.as_bytes()])
                    .await?;
            }
            None => self.say(&[b"PSYNC", b"?", b"-1"]).await?,
        }
        let line = self.line().await?;
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("+FULLRESYNC"), Some(replid), Some(offset)) => {
                let offset = offset
                    .parse()
                    .map_err(|_| lost("it answered PSYNC without an offset"))?;
                Ok(Psync::Full(Offset {
                    replid: replid.to_owned(),
                    offset,
                }))
            }
            (Some("+CONTINUE"), replid, None) => {
                let asked = from.map(|from| from.replid.as_str());
                if replid.is_some() && replid != asked {
                    return Err(CopyError::SourceChanged("its history has another name"));
                }
                Ok(Psync::Continue)
            }
            _ => Err(lost(format!("it answered PSYNC with {}", cut(&line)))),
        }
    }

    /// Has a node begin to keep its history, as it does for its first replica. What it would send is not asked for: with
    /// `capa eof` most wait some seconds before they begin with that, and by then this connection is gone.
    pub(super) async fn wake(&mut self) -> Result<(), CopyError> {
        self.told(&[b"REPLCONF", b"capa", b"eof"]).await?;
        self.say(&[b"PSYNC", b"?", b"-1"]).await
    }

    /// Writes one request.
    pub(super) async fn say(&mut self, words: &[&[u8]]) -> Result<(), CopyError> {
        let mut frame = Vec::new();
        write_request(&mut frame, words);
        let writing = async {
            self.socket.write_all(&frame).await?;
            self.socket.flush().await
        };
        timeout(self.silence, writing)
            .await
            .map_err(|_| CopyError::SourceSilent(self.silence))?
            .map_err(lost)
    }

    async fn told(&mut self, words: &[&[u8]]) -> Result<(), CopyError> {
        self.say(words).await?;
        let line = self.line().await?;
        if line.starts_with('+') {
            return Ok(());
        }
        let word = String::from_utf8_lossy(words[0]).into_owned();
        Err(lost(format!("it answered {word} with {}", cut(&line))))
    }

    /// The next line that is not empty: empty ones are signs of life.
    pub(super) async fn line(&mut self) -> Result<String, CopyError> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buf) {
                let line: Vec<u8> = self.buf.drain(..=end).collect();
                let line = String::from_utf8_lossy(line.trim_ascii()).into_owned();
                if !line.is_empty() {
                    return Ok(line);
                }
            } else if self.buf.len() > LINE_MAX {
                return Err(lost("its handshake is not what a Redis server says"));
            } else {
                self.read().await?;
            }
        }
    }

    /// Reads something more.
    async fn read(&mut self) -> Result<(), CopyError> {
        match timeout(self.silence, self.socket.read_buf(&mut self.buf)).await {
            Err(_) => Err(CopyError::SourceSilent(self.silence)),
            Ok(Ok(0)) => Err(lost("it closed the connection")),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(lost(error)),
        }
    }
}

/// The beginning of a line, without what might be somebody's data.
pub(super) fn cut(line: &str) -> String {
    let line = line.split(", with args").next().unwrap_or_default();
    line.chars().take(200).filter(|c| !c.is_control()).collect()
}
