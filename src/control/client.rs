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

/// Room for replies that is kept ready.
const USUAL_MAX: usize = 256 * 1024;

/// Questions that are asked in one piece, as they go over the wire.
#[derive(Debug, Default)]
pub struct Questions {
    frames: Vec<u8>,
    count: usize,
}

impl Questions {
    /// One more.
    pub fn push(&mut self, words: &[&[u8]]) {
        resp::write_request(&mut self.frames, words);
        self.count += 1;
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }
}

/// Replies as they came, in the order of the questions.
#[derive(Debug, Default)]
pub struct Replies {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Replies {
    /// The bytes of each.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(&0).chain(&self.ends);
        begins
            .zip(&self.ends)
            .map(|(&begin, &end)| &self.bytes[begin..end])
    }

    /// The bytes of the last one; none if nothing was asked.
    #[must_use]
    pub fn last(&self) -> &[u8] {
        let before = self.ends.iter().rev().nth(1).copied().unwrap_or(0);
        &self.bytes[before..]
    }
}

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
    /// What replies take together, usually.
    usual: usize,
    reply_max: usize,
    deadline: Duration,
    /// Where it is, and who we are there.
    node: (Address, NodeCredentials),
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
            usual: 0,
            reply_max: REPLY_BYTES_MAX,
            deadline,
            node: (address.clone(), credentials.clone()),
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

    /// Another connection to the same node.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub(super) async fn again(&self) -> Result<Self, AskError> {
        let (address, credentials) = &self.node;
        Self::connect(address, credentials, self.deadline).await
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
        let mut asked = Questions::default();
        for words in questions {
            asked.push(words);
        }
        let limits = DecodeLimits {
            bytes: self.reply_max,
            ..DecodeLimits::default()
        };
        let replies = self.ask_raw(&asked).await?;
        let values = replies.iter().map(|reply| resp::decode(reply, limits));
        values.collect::<Result<_, _>>().map_err(|_| AskError::NotRedis)
    }

    /// The same for whoever takes the replies apart himself, since there are very many.
    ///
    /// # Errors
    /// As [`Self::ask_all`].
    pub async fn ask_raw(&mut self, questions: &Questions) -> Result<Replies, AskError> {
        let deadline = self.deadline;
        let replies = timeout(deadline, self.exchange(questions)).await;
        replies.map_err(|_| AskError::Timeout(deadline))?
    }

    /// Sends requests and reads as many replies.
    async fn exchange(&mut self, questions: &Questions) -> Result<Replies, AskError> {
        self.socket.write_all(&questions.frames).await?;
        self.socket.flush().await?;
        let mut replies = Replies {
            bytes: Vec::with_capacity(self.usual),
            ends: Vec::with_capacity(questions.count),
        };
        let bytes = &mut replies.bytes;
        let (mut scanner, mut fed) = (ReplyScanner::default(), 0);
        while replies.ends.len() < questions.count {
            match scanner.feed(&bytes[fed..]) {
                Ok(Some(end)) => {
                    fed += end;
                    replies.ends.push(fed);
                }
                Ok(None) if bytes.len() <= self.reply_max => {
                    fed = bytes.len();
                    if self.socket.read_buf(bytes).await? == 0 {
                        return Err(AskError::Io(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
                Ok(None) | Err(_) => return Err(AskError::NotRedis),
            }
        }
        self.usual = fed.min(USUAL_MAX);
        // What nobody has asked for is not an answer.
        if fed == bytes.len() {
            Ok(replies)
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
