//! etcd's HTTP/JSON gateway: a handful of calls, several endpoints, one answer.
//!
//! ```text
//!  call ─▶ endpoint that answered last ─▶ down, slow, no leader? ─▶ the next one … ─▶ all tried: the last one's error
//!              │ "invalid auth token": log in, ask again
//! ```
//!
//! A call may be tried at several endpoints though an earlier one may have done it, so all that is asked here must bear to
//! be done twice: reads do, and transactions that compare a revision. Each call opens a connection of its own, since
//! calls are rare and a kept connection is one more thing that can be half dead.

use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::Secret;
use crate::tls::Connector;

/// Answers are a topology in base64, or small.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// gRPC's number for "unauthenticated", and the words of etcd's older versions for the same.
const UNAUTHENTICATED: u64 = 16;

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

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

/// The client.
#[derive(Debug)]
pub(super) struct Gateway {
    access: EtcdAccess,
    /// The endpoint that answered last.
    preferred: usize,
    token: Option<String>,
}

impl Gateway {
    pub(super) fn new(access: EtcdAccess) -> Self {
        Self {
            access,
            preferred: 0,
            token: None,
        }
    }

    /// The endpoints, for people.
    pub(super) fn endpoints(&self) -> String {
        self.access.endpoints.join(",")
    }

    /// Calls `/v3/PATH`, at one endpoint after the other until one answers.
    pub(super) async fn call(&mut self, path: &str, body: &Value) -> Result<Value, GatewayError> {
        if self.access.login.is_some() && self.token.is_none() {
            self.log_in().await?;
        }
        match self.anywhere(path, body).await {
            Err(GatewayError::Refused(why)) if self.token.is_some() && is_about_token(&why) => {
                self.log_in().await?;
                self.anywhere(path, body).await
            }
            answer => answer,
        }
    }

    async fn log_in(&mut self) -> Result<(), GatewayError> {
        let Some((name, password)) = self.access.login.clone() else {
            return Ok(());
        };
        self.token = None;
        let body = json!({ "name": name, "password": password.reveal() });
        let answer = self.anywhere("auth/authenticate", &body).await?;
        let token = answer.get("token").and_then(Value::as_str);
        let token =
            token.ok_or_else(|| GatewayError::Refused("its answer to the login has no token".to_owned()))?;
        self.token = Some(token.to_owned());
        Ok(())
    }

    async fn anywhere(&mut self, path: &str, body: &Value) -> Result<Value, GatewayError> {
        let count = self.access.endpoints.len();
        let mut last = GatewayError::Unreachable("no endpoint is known".to_owned());
        for turn in 0..count {
            let at = (self.preferred + turn) % count;
            let endpoint = &self.access.endpoints[at];
            let told = |why: String| GatewayError::Unreachable(format!("{endpoint}: {why}"));
            let asked = timeout(self.access.deadline, self.ask(endpoint, path, body));
            last = match asked.await {
                Ok(Ok(Ok(answer))) => {
                    self.preferred = at;
                    return Ok(answer);
                }
                Ok(Ok(Err(refusal))) => {
                    self.preferred = at;
                    return Err(GatewayError::Refused(refusal));
                }
                Ok(Err(why)) => told(why),
                Err(_) => told(format!("no answer within {:?}", self.access.deadline)),
            };
        }
        Err(last)
    }

    async fn connect(&self, endpoint: &str) -> io::Result<Box<dyn Socket>> {
        let stream = TcpStream::connect(endpoint).await?;
        let Some(tls) = &self.access.tls else {
            return Ok(Box::new(stream));
        };
        let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Ok(Box::new(tls.current().connect(host, stream).await?))
    }

    /// One call at one endpoint. The inner error is etcd's own and final; the outer one is worth another endpoint.
    async fn ask(&self, endpoint: &str, path: &str, body: &Value) -> Result<Result<Value, String>, String> {
        let text = |error: &dyn std::error::Error| with_sources(error);
        let stream = self.connect(endpoint).await.map_err(|error| text(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| text(&error))?;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("/v3/{path}"))
            .header(HOST, endpoint)
            .header(CONNECTION, "close")
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|error| text(&error))?;
        let exchange = async move {
            let response = sender.send_request(request).await.map_err(|error| text(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
            let body = body.collect().await.map_err(|error| text(&*error))?;
            Ok::<_, String>((status, body.to_bytes()))
        };
        let (answered, _) = tokio::join!(exchange, connection);
        let (status, bytes) = answered?;
        let answer: Value = serde_json::from_slice(&bytes)
            .map_err(|_| format!("its answer ({status}) is not what etcd's gateway says"))?;
        if status.is_success() {
            return Ok(Ok(answer));
        }
        let why = answer.get("message").or_else(|| answer.get("error"));
        let why = why
            .and_then(Value::as_str)
            .unwrap_or("no reason given")
            .to_owned();
        let code = answer.get("code").and_then(Value::as_u64);
        // A member without a leader, one that is shutting down, one that is overloaded: others may be well.
        if status.is_server_error() && code != Some(UNAUTHENTICATED) && !is_about_token(&why) {
            return Err(why);
        }
        Ok(Err(why))
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
    why.contains("invalid auth token") || why.contains("user name is empty")
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
}
