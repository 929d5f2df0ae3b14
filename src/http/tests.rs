//! The HTTP port over raw TCP bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::*;

struct Server {
    address: SocketAddr,
    readiness: Readiness,
    stop: oneshot::Sender<()>,
    stop_seen: oneshot::Receiver<()>,
    tasks: JoinSet<()>,
}

const QUICK: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(60);

async fn start(limits: HttpLimits, metrics: String) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let readiness = Readiness::new(|| true);
    let endpoints = Endpoints {
        metrics: Arc::new(move || metrics.clone()),
        topology: Some(Arc::new(|| r#"{"epoch":1}"#.to_owned())),
        readiness: readiness.clone(),
    };
    let (stop, stopped) = oneshot::channel();
    let (saw_stop, stop_seen) = oneshot::channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(listener, endpoints, limits, async move {
        drop(stopped.await);
        saw_stop.send(()).unwrap_or_default();
    }));
    Server {
        address,
        readiness,
        stop,
        stop_seen,
        tasks,
    }
}

async fn server() -> Server {
    start(HttpLimits::default(), "up 1\n".to_owned()).await
}

/// Sends bytes and reads until the server closes.
async fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    // The server may have answered and closed before it took everything.
    drop(socket.write_all(request).await);
    read_all(&mut socket).await
}

async fn read_all(socket: &mut TcpStream) -> String {
    let mut reply = Vec::new();
    // A reset after the answer ends the reading as well as an end of file.
    drop(
        timeout(PATIENCE, socket.read_to_end(&mut reply))
            .await
            .expect("the server did not close"),
    );
    String::from_utf8(reply).unwrap()
}

async fn get(address: SocketAddr, path: &str) -> String {
    exchange(
        address,
        format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes(),
    )
    .await
}

#[tokio::test]
async fn endpoints_answer_and_close() {
    let server = server().await;
    let metrics = get(server.address, "/metrics").await;
    assert!(
        metrics.starts_with("HTTP/1.1 200 OK\r\n") && metrics.ends_with("\r\n\r\nup 1\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{metrics}"
    );
    let topology = get(server.address, "/topology?pretty").await;
    assert!(
        topology.contains("application/json") && topology.ends_with(r#"{"epoch":1}"#),
        "{topology}"
    );
    assert!(get(server.address, "/healthz").await.ends_with("\r\n\r\nok\n"));
    let index = get(server.address, "/").await;
    for page in ["/metrics", "/healthz", "/readyz", "/topology"] {
        assert!(index.contains(&format!("href=\"{page}\"")), "{index}");
    }
    assert!(get(server.address, "/nothing").await.starts_with("HTTP/1.1 404 "));
    assert!(
        get(server.address, "//metrics/..")
            .await
            .starts_with("HTTP/1.1 404 ")
    );
}

#[tokio::test]
async fn readyz_says_why_not() {
    let server = server().await;
    let reply = get(server.address, "/readyz").await;
    assert!(
        reply.starts_with("HTTP/1.1 503 ") && reply.contains("starting"),
        "{reply}"
    );
    server.readiness.started();
    assert!(get(server.address, "/readyz").await.starts_with("HTTP/1.1 200 "));
    server.readiness.drain();
    let reply = get(server.address, "/readyz").await;
    assert!(
        reply.starts_with("HTTP/1.1 503 ") && reply.contains("draining"),
        "{reply}"
    );
    assert!(get(server.address, "/healthz").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn only_get_and_head_are_served() {
    let server = server().await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"] {
        let request = format!("{method} /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc");
        let reply = exchange(server.address, request.as_bytes()).await;
        assert!(
            reply.starts_with("HTTP/1.1 405 ") && reply.contains("allow: GET, HEAD\r\n"),
            "{method}: {reply}"
        );
    }
    let reply = exchange(server.address, b"HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(
        reply.contains("content-length: 5\r\n") && reply.ends_with("\r\n\r\n"),
        "{reply}"
    );
}

#[tokio::test]
async fn one_request_is_served_and_no_second_one() {
    let server = server().await;
    let twice = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2);
    let reply = exchange(server.address, &twice).await;
    assert_eq!(reply.matches("HTTP/1.1 ").count(), 1, "{reply}");
}

#[tokio::test]
async fn a_header_beyond_the_limit_is_refused() {
    let server = server().await;
    let mut request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nx: ".to_vec();
    request.resize(64 * 1024, b'a');
    let reply = exchange(server.address, &request).await;
    assert!(
        !reply.contains(" 200 ") && (reply.is_empty() || reply.starts_with("HTTP/1.1 431 ")),
        "{reply}"
    );
    assert!(get(server.address, "/healthz").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn what_is_not_http_is_closed() {
    let server = server().await;
    for bytes in [
        &b"*1\r\n$4\r\nPING\r\n"[..],
        b"\x16\x03\x01\x00\xff",
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
    ] {
        let reply = exchange(server.address, bytes).await;
        assert!(
            reply.is_empty() || reply.starts_with("HTTP/1.1 400 "),
            "{bytes:?}: {reply}"
        );
    }
    assert!(get(server.address, "/healthz").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_slow_header_loses_its_connection() {
    let server = start(
        HttpLimits {
            header_timeout: QUICK,
            ..HttpLimits::default()
        },
        String::new(),
    )
    .await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut half = TcpStream::connect(server.address).await.unwrap();
    half.write_all(b"GET /metrics HTT").await.unwrap();
    assert!(!read_all(&mut half).await.contains(" 200 "));
    assert!(!read_all(&mut silent).await.contains(" 200 "));
}

#[tokio::test]
async fn a_peer_that_takes_no_answer_loses_its_connection() {
    let limits = HttpLimits {
        header_timeout: QUICK,
        answer_timeout: QUICK,
        ..HttpLimits::default()
    };
    let huge = 64 << 20;
    let mut server = start(limits, "x".repeat(huge)).await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    socket
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    socket.readable().await.unwrap();
    // The stop waits for the connection, which ends by its own deadline though nobody reads.
    server.stop.send(()).unwrap();
    timeout(PATIENCE, server.tasks.join_next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(read_all(&mut socket).await.len() < huge);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_refused_and_places_come_back() {
    let limits = HttpLimits {
        connections_max: 8,
        ..HttpLimits::default()
    };
    let server = start(limits, String::new()).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(TcpStream::connect(server.address).await.unwrap());
    }
    for _ in 0..50 {
        let mut refused = TcpStream::connect(server.address).await.unwrap();
        let reply = read_all(&mut refused).await;
        assert!(
            reply.starts_with("HTTP/1.1 503 ") && reply.ends_with("\r\n\r\ntoo many connections\n"),
            "{reply}"
        );
    }
    for mut socket in held {
        socket
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        assert!(read_all(&mut socket).await.starts_with("HTTP/1.1 200 "));
    }
    let freed = async { while !get(server.address, "/healthz").await.starts_with("HTTP/1.1 200 ") {} };
    timeout(PATIENCE, freed).await.unwrap();
}

#[tokio::test]
async fn many_connections_at_once_are_all_answered() {
    let server = start(HttpLimits::default(), String::new()).await;
    let mut clients = JoinSet::new();
    for _ in 0..60 {
        clients.spawn(async move { get(server.address, "/healthz").await });
    }
    while let Some(reply) = clients.join_next().await {
        assert!(reply.unwrap().starts_with("HTTP/1.1 200 "));
    }
}

#[tokio::test]
async fn a_stop_lets_a_running_request_end() {
    let mut server = server().await;
    let mut running = TcpStream::connect(server.address).await.unwrap();
    running.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
    // Accepted in order: once this later one is answered, the first one is being served.
    assert!(get(server.address, "/healthz").await.contains(" 200 "));
    server.stop.send(()).unwrap();
    timeout(PATIENCE, server.stop_seen).await.unwrap().unwrap();
    running.write_all(b"host: x\r\n\r\n").await.unwrap();
    assert!(read_all(&mut running).await.ends_with("up 1\n"));
    timeout(PATIENCE, server.tasks.join_next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let limits = HttpLimits {
        stop_timeout: QUICK,
        header_timeout: PATIENCE * 6,
        ..HttpLimits::default()
    };
    let mut server = start(limits, String::new()).await;
    let silent = TcpStream::connect(server.address).await.unwrap();
    assert!(get(server.address, "/healthz").await.contains(" 200 "));
    server.stop.send(()).unwrap();
    timeout(PATIENCE, server.tasks.join_next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    drop(silent);
}
