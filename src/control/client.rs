//! The control side's own client of a node: one connection, one question at a time, a deadline for each.
//!
//! It is used for what is rare (start-up checks, probes), never for clients' commands.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::resp::{self, DecodeLimits, ReplyScanner, Value};
use crate::tls::ClientSide;
use crate::topology::Address;
use crate::worker::shared::NodeCredentials;

/// Answers to the control side's questions are small; INFO is the largest.
const REPLY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The network failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The answer is no RESP, or larger than any answer to such a question.
    #[error("its answer is not what a Redis server answers")]
    NotRedis,
    /// The node answered with an error.
    #[error("it answered: {0}")]
    Refused(String),
}

/// Any stream socket.
pub trait Socket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Socket for T {}

/// A connection of the control side to a node.
pub struct NodeClient {
    socket: Box<dyn Socket>,
    read: Vec<u8>,
    reply_max: usize,
    deadline: Duration,
}

impl std::fmt::Debug for NodeClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeClient").finish_non_exhaustive()
    }
}

impl NodeClient {
    /// Connects and logs in.
    ///
    /// # Errors
    /// The node cannot be reached in time, or refuses the login.
    pub async fn connect(
        address: &Address,
        credentials: &NodeCredentials,
        deadline: Duration,
    ) -> Result<Self, AskError> {
        let connected = timeout(deadline, open(address, credentials.tls.as_ref()))
            .await
            .map_err(|_| AskError::Timeout(deadline))?;
        let mut client = Self {
            socket: connected?,
            read: Vec::new(),
            reply_max: REPLY_BYTES_MAX,
            deadline,
        };
        if let Some(password) = &credentials.password {
            let password = password.reveal();
            match &credentials.username {
                Some(user) => client.ask(&["AUTH", user, password]).await?,
                None => client.ask(&["AUTH", password]).await?,
            };
        }
        Ok(client)
    }

    /// Takes answers of so many bytes.
    #[must_use]
    pub const fn with_reply_max(mut self, bytes: usize) -> Self {
        self.reply_max = bytes;
        self
    }

    /// Asks one question. An error reply is an `Err`.
    ///
    /// # Errors
    /// The network, the deadline, or the node's own error. After any but the last the connection is of no use.
    pub async fn ask(&mut self, words: &[&str]) -> Result<Value, AskError> {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        self.ask_bytes(&words).await
    }

    /// Asks one question whose words may be any bytes.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn ask_bytes(&mut self, words: &[&[u8]]) -> Result<Value, AskError> {
        match self.ask_all(&[words.to_vec()]).await?.pop() {
            Some(Value::Error(error)) => Err(AskError::Refused(error)),
            Some(answer) => Ok(answer),
            None => Err(AskError::NotRedis),
        }
    }

    /// Asks for a text. A nil is an empty one.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn ask_text(&mut self, words: &[&str]) -> Result<String, AskError> {
        let value = self.ask(words).await?;
        Ok(value
            .as_bytes()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .unwrap_or_default())
    }

    /// Asks several questions in one piece, with one deadline for all: their answers in order. An error reply is a value
    /// among them.
    ///
    /// # Errors
    /// The network or the deadline. The connection is of no use then.
    pub async fn ask_all(&mut self, questions: &[Vec<&[u8]>]) -> Result<Vec<Value>, AskError> {
        let deadline = self.deadline;
        let mut frames = Vec::new();
        for words in questions {
            resp::write_request(&mut frames, words);
        }
        let answers = timeout(deadline, self.exchange(&frames, questions.len())).await;
        answers.map_err(|_| AskError::Timeout(deadline))?
    }

    /// Sends requests and reads as many replies.
    async fn exchange(&mut self, frames: &[u8], replies: usize) -> Result<Vec<Value>, AskError> {
        self.socket.write_all(frames).await?;
        self.socket.flush().await?;
        self.read.clear();
        let limits = DecodeLimits {
            bytes: self.reply_max,
            ..DecodeLimits::default()
        };
        let mut values = Vec::new();
        let mut scanner = ReplyScanner::default();
        let (mut start, mut fed) = (0, 0);
        while values.len() < replies {
            match scanner.feed(&self.read[fed..]) {
                Ok(Some(end)) => {
                    fed += end;
                    let value = resp::decode(&self.read[start..fed], limits);
                    values.push(value.map_err(|_| AskError::NotRedis)?);
                    start = fed;
                }
                Ok(None) if self.read.len() <= self.reply_max => {
                    fed = self.read.len();
                    if self.socket.read_buf(&mut self.read).await? == 0 {
                        return Err(AskError::Io(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
                Ok(None) | Err(_) => return Err(AskError::NotRedis),
            }
        }
        // What nobody has asked for is not an answer.
        if fed == self.read.len() {
            Ok(values)
        } else {
            Err(AskError::NotRedis)
        }
    }
}

/// Opens a socket to a node: the one place where the control side does so. What is written over TLS leaves for certain only with
/// a flush.
///
/// # Errors
/// As the system says.
pub async fn open(address: &Address, tls: Option<&ClientSide>) -> io::Result<Box<dyn Socket>> {
    #[cfg(test)]
    if let Some(opened) = super::testing::open(address) {
        return opened;
    }
    Ok(match address {
        Address::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            match tls {
                None => Box::new(stream),
                Some(tls) => Box::new(tls.connect(host, stream).await?),
            }
        }
        Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
    })
}
