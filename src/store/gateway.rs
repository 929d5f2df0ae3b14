//! etcd's HTTP/JSON gateway: a handful of calls, several endpoints, one answer.
//!
//! ```text
//!  call ─▶ endpoint that answered last ─▶ down, slow, no leader? ─▶ the next one … ─▶ all tried: the last one's error
//!              │ "invalid auth token", "revision of auth store is old": log in, ask again
//! ```
//!
//! A call may be tried at several endpoints though an earlier one may have done it, so all that is asked here must bear to
//! be done twice: reads do, and transactions that compare a revision. Each call opens a connection of its own, since
//! calls are rare and a kept connection is one more thing that can be half dead. A watch is the exception: one request whose
//! answer never ends, a line for each news ([`Lines`]).

use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection};
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::Secret;
use crate::tls::Connector;

/// Answers are all that a cluster keeps here in base64, or small.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// The only call whose answer has no end.
const WATCH: &str = "watch";
/// gRPC's number for "unauthenticated", and the words of etcd's older versions for the same.
const UNAUTHENTICATED: u64 = 16;

/// Where etcd is, and as whom it is asked.
#[derive(Clone, Debug)]
pub struct EtcdAccess {
    /// `host:port` of each member.
    pub endpoints: Vec<String>,
    /// Name and password, if etcd wants them.
    pub login: Option<(String, Secret)>,
    /// For one call at one endpoint.
    pub deadline: Duration,
    /// TLS, if etcd speaks it.
    pub tls: Option<Connector>,
}

/// Why etcd has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum GatewayError {
    /// No endpoint answered as etcd does. What was asked may have been done all the same.
    Unreachable(String),
    /// etcd refuses; nothing was done.
    Refused(String),
}

/// A connection to a member of etcd.
trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

type Link = Connection<TokioIo<Box<dyn Socket>>, Full<Bytes>>;

/// The client. Several tasks may ask at the same time.
#[derive(Debug)]
pub(super) struct Gateway {
    access: EtcdAccess,
    /// The endpoint that answered last.
    preferred: AtomicUsize,
    token: Mutex<Option<String>>,
}

impl Gateway {
    pub(super) fn new(access: EtcdAccess) -> Self {
        Self {
            access,
            preferred: AtomicUsize::new(0),
            token: Mutex::default(),
        }
    }

    /// The endpoints, for people.
    pub(super) fn endpoints(&self) -> String {
        self.access.endpoints.join(",")
    }

    /// Calls `/v3/PATH`, at one endpoint after the other until one answers.
    pub(super) async fn call(&self, path: &str, body: &Value) -> Result<Value, GatewayError> {
        self.call_within(path, body, self.access.deadline).await
    }

    /// As [`Self::call`], for what is worth nothing when it comes late: no endpoint gets more time than this.
    pub(super) async fn call_within(
        &self,
        path: &str,
        body: &Value,
        deadline: Duration,
    ) -> Result<Value, GatewayError> {
        let deadline = deadline.min(self.access.deadline);
        self.logged_in(path, body, deadline).await?.whole()
    }

    /// Asks for news, an answer without an end.
    pub(super) async fn watch(&self, body: &Value) -> Result<Lines, GatewayError> {
        self.logged_in(WATCH, body, self.access.deadline).await?.lines()
    }

    /// Whether these lines come from the endpoint that answered last.
    pub(super) fn is_preferred(&self, lines: &Lines) -> bool {
        lines.endpoint == self.access.endpoints[self.preferred.load(Relaxed)]
    }

    /// Asks with a token where etcd has users, and again with a new one if it does not take the old one any more.
    async fn logged_in(&self, path: &str, body: &Value, deadline: Duration) -> Result<Reply, GatewayError> {
        if self.access.login.is_some() && self.token().is_none() {
            self.log_in().await?;
        }
        match self.anywhere(path, body, deadline).await {
            Err(GatewayError::Refused(why)) if self.access.login.is_some() && is_about_token(&why) => {
                self.log_in().await?;
                self.anywhere(path, body, deadline).await
            }
            reply => reply,
        }
    }

    fn token(&self) -> Option<String> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn log_in(&self) -> Result<(), GatewayError> {
        let Some((name, password)) = self.access.login.clone() else {
            return Ok(());
        };
        let store = |token| *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
        store(None);
        let body = json!({ "name": name, "password": password.reveal() });
        let answer = self
            .anywhere("auth/authenticate", &body, self.access.deadline)
            .await?
            .whole()?;
        let token = answer.get("token").and_then(Value::as_str);
        let token =
            token.ok_or_else(|| GatewayError::Refused("its answer to the login has no token".to_owned()))?;
        store(Some(token.to_owned()));
        Ok(())
    }

    /// One endpoint after the other, the one that answered last first.
    async fn anywhere(&self, path: &str, body: &Value, deadline: Duration) -> Result<Reply, GatewayError> {
        let count = self.access.endpoints.len();
        let first = self.preferred.load(Relaxed);
        let mut last = GatewayError::Unreachable("no endpoint is known".to_owned());
        for turn in 0..count {
            let at = (first + turn) % count;
            let endpoint = &self.access.endpoints[at];
            let told = |why: String| GatewayError::Unreachable(format!("{endpoint}: {why}"));
            last = match timeout(deadline, self.ask(endpoint, path, body)).await {
                Ok(Ok(answer)) => {
                    self.preferred.store(at, Relaxed);
                    return answer.map_err(GatewayError::Refused);
                }
                Ok(Err(why)) => told(why),
                Err(_) => told(format!("no answer within {deadline:?}")),
            };
        }
        // Whoever asks next begins with another one: this one may hang.
        self.preferred.store((first + 1) % count.max(1), Relaxed);
        Err(last)
    }

    /// Connects to a member. All that is ever said to etcd goes through here.
    async fn connect(&self, endpoint: &str) -> io::Result<Box<dyn Socket>> {
        let stream = TcpStream::connect(endpoint).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.access.tls else {
            return Ok(Box::new(stream));
        };
        let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Ok(Box::new(tls.current().connect(host, stream).await?))
    }

    /// One call at one endpoint. The inner error is etcd's own and final; the outer one is worth another endpoint.
    async fn ask(&self, endpoint: &str, path: &str, body: &Value) -> Result<Result<Reply, String>, String> {
        let endless = path == WATCH;
        let (exchange, link) = self
            .send(endpoint, path, body, if endless { "keep-alive" } else { "close" })
            .await?;
        let mut exchange = pin!(exchange);
        let mut link = Some(Box::pin(link));
        let response = loop {
            let Some(open) = &mut link else {
                break exchange.await?;
            };
            // A link may end with its last word, so that its end says nothing about the answer.
            tokio::select! {
                biased;
                response = &mut exchange => break response?,
                _ = open => link = None,
            }
        };
        let status = response.status();
        if endless && status.is_success() {
            return Ok(Ok(Reply::Lines(Lines {
                link,
                body: response.into_body(),
                read: Vec::new(),
                endpoint: endpoint.to_owned(),
            })));
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let carried = async {
            if let Some(link) = link {
                // What became of it is told by the body.
                drop(link.await);
            }
        };
        let (body, ()) = tokio::join!(body.collect(), carried);
        let bytes = body.map_err(|error| with_sources(&*error))?.to_bytes();
        let answer: Value = serde_json::from_slice(&bytes)
            .map_err(|_| format!("its answer ({status}) is not what etcd's gateway says"))?;
        if status.is_success() {
            return Ok(Ok(Reply::Whole(answer)));
        }
        refusal(status.is_server_error(), &answer).map(Err)
    }

    /// Sends a request; its answer comes while the link is polled.
    async fn send(
        &self,
        endpoint: &str,
        path: &str,
        body: &Value,
        after: &'static str,
    ) -> Result<(impl Future<Output = Result<Response<Incoming>, String>>, Link), String> {
        let text = |error: &dyn std::error::Error| with_sources(error);
        let socket = self.connect(endpoint).await.map_err(|error| text(&error))?;
        let (mut sender, link) = http1::handshake(TokioIo::new(socket))
            .await
            .map_err(|error| text(&error))?;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("/v3/{path}"))
            .header(HOST, endpoint)
            .header(CONNECTION, after)
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = self.token() {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|error| text(&error))?;
        let exchange = async move {
            let answered = sender.send_request(request).await;
            answered.map_err(|error| with_sources(&error))
        };
        Ok((exchange, link))
    }
}

/// etcd's own words; as an error if another member may know better.
fn refusal(is_server_error: bool, answer: &Value) -> Result<String, String> {
    let why = answer.get("message").or_else(|| answer.get("error"));
    let why = why
        .and_then(Value::as_str)
        .unwrap_or("no reason given")
        .to_owned();
    let code = answer.get("code").and_then(Value::as_u64);
    // A member without a leader, one that is shutting down, one that is overloaded: others may be well.
    if is_server_error && code != Some(UNAUTHENTICATED) && !is_about_token(&why) {
        return Err(why);
    }
    Ok(why)
}

/// What etcd answers.
enum Reply {
    Whole(Value),
    Lines(Lines),
}

impl Reply {
    fn whole(self) -> Result<Value, GatewayError> {
        match self {
            Self::Whole(answer) => Ok(answer),
            Self::Lines(_) => Err(GatewayError::Unreachable("its answer has no end".to_owned())),
        }
    }

    fn lines(self) -> Result<Lines, GatewayError> {
        match self {
            Self::Lines(lines) => Ok(lines),
            Self::Whole(_) => Err(GatewayError::Unreachable("its answer has an end".to_owned())),
        }
    }
}

/// An answer that goes on: one JSON value a line.
pub(super) struct Lines {
    /// Carries the answer while it is polled; none once it has ended.
    link: Option<Pin<Box<Link>>>,
    body: Incoming,
    read: Vec<u8>,
    /// Who answers.
    endpoint: String,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}

impl Lines {
    /// The next line.
    ///
    /// # Cancel safety
    /// What has come stays for the next call.
    pub(super) async fn next(&mut self) -> Result<Value, String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line)
                    .map_err(|_| "a line of its answer is not what etcd's gateway says".to_owned());
            }
            if self.read.len() > ANSWER_BYTES_MAX {
                return Err("a line of its answer has no end".to_owned());
            }
            let frame = match &mut self.link {
                None => self.body.frame().await,
                Some(link) => tokio::select! {
                    biased;
                    frame = self.body.frame() => frame,
                    _ = link => {
                        self.link = None;
                        continue;
                    }
                },
            };
            let frame = frame.ok_or_else(|| "it ended the answer".to_owned())?;
            if let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() {
                self.read.extend_from_slice(&data);
            }
        }
    }
}

/// An error with what is behind it: hyper says "connection error", and TLS why.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !told.contains(&more) {
            told.push_str(": ");
            told.push_str(&more);
        }
        source = error.source();
    }
    told
}

fn is_about_token(why: &str) -> bool {
    const WORDS: [&str; 3] = [
        "invalid auth token",
        "user name is empty",
        // A signed token tells of which change of users and roles it is; etcd refuses it behind the next one.
        "revision of auth store is old",
    ];
    WORDS.iter().any(|words| why.contains(words))
}

/// Bytes as the gateway wants them.
pub(super) fn encoded(bytes: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// Bytes as the gateway gives them.
pub(super) fn decoded(value: Option<&Value>) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(value?.as_str()?).ok()
}

/// A 64-bit number, which JSON carries as text.
pub(super) fn number(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::String(digits) => digits.parse().ok(),
        other => other.as_i64(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn numbers_come_as_text_and_bytes_as_base64() {
        let answer = json!({ "revision": "9223372036854775807", "count": 3, "value": "aMOkCg==" });
        assert_eq!(number(answer.get("revision")), Some(i64::MAX));
        assert_eq!(number(answer.get("count")), Some(3));
        assert_eq!(number(answer.get("none")), None);
        assert_eq!(decoded(answer.get("value")), Some("hä\n".as_bytes().to_vec()));
        assert_eq!(decoded(answer.get("revision")), None);
        assert_eq!(encoded("hä\n"), "aMOkCg==");
    }

    /// An etcd whose signed tokens are good until its users change: each call is answered by its path and token.
    fn scripted(answer: impl Fn(&str, Option<&str>) -> (u16, Value) + Send + 'static) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for mut socket in listener.incoming().map_while(Result::ok) {
                let (mut asked, mut chunk) = (Vec::new(), [0; 4096]);
                while !asked.ends_with(b"}") {
                    let count = socket.read(&mut chunk).unwrap();
                    asked.extend_from_slice(&chunk[..count]);
                }
                let asked = String::from_utf8(asked).unwrap();
                let path = asked.split(' ').nth(1).unwrap();
                let token = asked
                    .lines()
                    .find_map(|line| line.strip_prefix("authorization: "));
                let (status, body) = answer(path, token);
                let body = body.to_string();
                let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n", body.len());
                let _ = write!(socket, "{head}connection: close\r\n\r\n{body}");
            }
        });
        address
    }

    #[test]
    fn a_token_that_is_not_taken_any_more_is_exchanged() {
        for words in [
            "etcdserver: invalid auth token",
            "etcdserver: user name is empty",
            "etcdserver: revision of auth store is old",
        ] {
            let logins = AtomicUsize::new(0);
            let address = scripted(move |path, token| match (path, token) {
                ("/v3/auth/authenticate", _) => {
                    let login = logins.fetch_add(1, Relaxed);
                    (200, json!({ "token": format!("token-{login}") }))
                }
                (_, Some("token-1")) => (200, json!({ "count": "7" })),
                _ => (400, json!({ "error": words, "code": 3, "message": words })),
            });
            let gateway = Gateway::new(EtcdAccess {
                endpoints: vec![address],
                login: Some(("root".to_owned(), Secret::new("secret".to_owned()))),
                deadline: Duration::from_secs(10),
                tls: None,
            });
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let answer = runtime.unwrap().block_on(gateway.call("kv/range", &json!({})));
            assert_eq!(answer, Ok(json!({ "count": "7" })), "{words}");
        }
    }
}
