//! From a request's method and path to the answer. No IO.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};

use super::Readiness;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EXPOSITION: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Headers of every answer: nothing is stored, nothing is guessed, nothing from elsewhere is loaded or framed.
const ALWAYS: [(HeaderName, HeaderValue); 3] = [
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        hyper::header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (
        hyper::header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'self'; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
        ),
    ),
];

/// Makes a text when somebody asks for it.
pub type Provider = Arc<dyn Fn() -> String + Send + Sync>;

/// What the endpoints answer.
#[derive(Clone)]
pub struct Endpoints {
    /// The exposition of `/metrics`.
    pub metrics: Provider,
    /// The JSON document of `/topology`, and with it the page that lists the endpoints; none: neither.
    pub topology: Option<Provider>,
    /// The state behind `/readyz`.
    pub readiness: Readiness,
}

impl std::fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoints")
            .field("readiness", &self.readiness)
            .finish_non_exhaustive()
    }
}

impl Endpoints {
    /// The answer to a request. The body of an answer to `HEAD` is left out by the caller.
    pub(super) fn respond(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            let mut refusal = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
            refusal
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        match (path, &self.topology) {
            ("/", Some(_)) => answer(StatusCode::OK, HTML, include_str!("index.html")),
            ("/healthz", _) => answer(StatusCode::OK, TEXT, "ok\n"),
            ("/readyz", _) => self.ready(),
            ("/metrics", _) => answer(StatusCode::OK, EXPOSITION, (self.metrics)()),
            ("/topology", Some(topology)) => answer(StatusCode::OK, JSON, topology()),
            _ => answer(
                StatusCode::NOT_FOUND,
                TEXT,
                "no such page; / lists the endpoints\n",
            ),
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let reasons = self.readiness.reasons_against();
        if reasons.is_empty() {
            return answer(StatusCode::OK, TEXT, "ready\n");
        }
        answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, reasons.join("\n") + "\n")
    }
}

fn answer(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer.headers_mut().extend(ALWAYS);
    answer
}
