//! The listener over real sockets, on ports that the system picks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::admin::AdminContext;
use crate::admin::listener::{AdminLimits, serve_within};
use crate::admin::testing::{context, fields, rows, text};
use crate::config::PasswordHash;
use crate::metrics::Limit;
use crate::resp::{DecodeLimits, ReplyScanner, Value, decode, write_request};

/// No answer of these tests takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

struct Listener {
    context: Arc<AdminContext>,
    address: std::net::SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinSet<()>,
}

async fn listen(extra: &str, limits: AdminLimits) -> Listener {
    let context = Arc::new(context(extra));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let mut served = JoinSet::new();
    let serving = Arc::clone(&context);
    served.spawn(serve_within(listener, serving, limits, async {
        let _ = stopped.await;
    }));
    Listener {
        context,
        address,
        stop,
        served,
    }
}

impl Listener {
    async fn client(&self) -> Client {
        Client {
            socket: TcpStream::connect(self.address).await.unwrap(),
            unread: Vec::new(),
        }
    }
}

struct Client {
    socket: TcpStream,
    unread: Vec<u8>,
}

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// The raw bytes of the next reply; empty at the end.
    async fn raw(&mut self) -> Vec<u8> {
        let mut scanner = ReplyScanner::default();
        let mut fed = 0;
        loop {
            if let Some(end) = scanner.feed(&self.unread[fed..]).unwrap() {
                let rest = self.unread.split_off(fed + end);
                return std::mem::replace(&mut self.unread, rest);
            }
            fed = self.unread.len();
            let read = timeout(PATIENCE, self.socket.read_buf(&mut self.unread))
                .await
                .unwrap();
            if !matches!(read, Ok(1..)) {
                return Vec::new();
            }
        }
    }

    async fn reply(&mut self) -> Value {
        decode(&self.raw().await, DecodeLimits::default()).unwrap()
    }

    async fn ask(&mut self, line: &str) -> Value {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut frame = Vec::new();
        write_request(&mut frame, &words);
        self.send(&frame).await;
        self.reply().await
    }

    async fn is_closed(&mut self) -> bool {
        self.raw().await.is_empty()
    }
}

fn with_password() -> String {
    // The hash of "password".
    "[admin]\npassword_sha256 = \"5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8\"\n"
        .to_owned()
}

fn quick() -> AdminLimits {
    AdminLimits {
        wrong_password_delay: Duration::from_millis(200),
        ..AdminLimits::default()
    }
}

#[tokio::test]
async fn rows_are_flat_arrays_in_resp2_and_maps_in_resp3() {
    let listener = listen("", quick()).await;
    let mut client = listener.client().await;
    let flat = client.ask("PRESHARD SHARD OF foo").await;
    let Value::Array(flat) = flat else {
        panic!("{flat:?}")
    };
    assert_eq!(
        flat[..4],
        [
            Value::bulk("key"),
            Value::bulk("foo"),
            Value::bulk("slot"),
            Value::Int(12182)
        ]
    );
    let Value::Array(table) = client.ask("PRESHARD SHOW SHARDS").await else {
        panic!()
    };
    assert!(
        matches!(&table[0], Value::Array(row) if row.len() == 16),
        "{:?}",
        table[0]
    );

    let greeting = fields(&client.ask("HELLO 3 SETNAME me").await);
    assert_eq!(
        (greeting["proto"].as_str(), greeting["role"].as_str()),
        ("3", "master")
    );
    assert_eq!(
        fields(&client.ask("PRESHARD SHARD OF foo").await)["slot"],
        "12182"
    );
    assert_eq!(rows(&client.ask("PRESHARD SHOW SHARDS").await).len(), 12);
    assert_eq!(client.ask("CLIENT GETNAME").await, Value::bulk("me"));
    assert!(matches!(client.ask("HELLO 4").await, Value::Error(line) if line.starts_with("NOPROTO")));
    assert!(matches!(client.ask("HELLO 2").await, Value::Array(fields) if fields.len() == 14));
}

#[tokio::test]
async fn clients_and_tools_can_connect() {
    let listener = listen("", quick()).await;
    let mut client = listener.client().await;
    assert_eq!(client.ask("ping").await, Value::Simple("PONG".into()));
    assert_eq!(client.ask("PING x").await, Value::bulk("x"));
    assert_eq!(client.ask("ECHO y").await, Value::bulk("y"));
    assert_eq!(client.ask("SELECT 0").await, Value::OK);
    assert!(matches!(client.ask("SELECT 1").await, Value::Error(_)));
    assert_eq!(client.ask("CLIENT SETINFO LIB-NAME x").await, Value::OK);
    assert!(matches!(client.ask("CLIENT ID").await, Value::Int(1..)));
    assert_eq!(client.ask("COMMAND DOCS").await, Value::Array(Vec::new()));
    assert_eq!(client.ask("COMMAND").await, Value::Array(Vec::new()));
    assert!(text(&client.ask("INFO server").await).starts_with("# Server"));
    assert!(
        matches!(client.ask("AUTH x").await, Value::Error(line) if line.starts_with("ERR AUTH <password> called"))
    );
    let unknown = client.ask("GET k").await;
    assert!(
        matches!(&unknown, Value::Error(line) if line.starts_with("ERR unknown command 'GET'") && line.contains("PRESHARD HELP")),
        "{unknown:?}"
    );
    client.send(b"preshard shard of \"foo\"\r\nPING\r\n").await;
    assert!(
        matches!(client.reply().await, Value::Array(_)),
        "inline requests work"
    );
    assert_eq!(
        client.reply().await,
        Value::Simple("PONG".into()),
        "and are answered in order"
    );
    assert_eq!(client.ask("QUIT").await, Value::OK);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn nothing_is_told_before_the_password() {
    let listener = listen(&with_password(), quick()).await;
    assert_eq!(
        listener.context.live.config().admin.password,
        Some(PasswordHash::of(b"password"))
    );
    let mut client = listener.client().await;
    for line in ["PRESHARD VERSION", "PING", "INFO", "GET k"] {
        assert_eq!(
            client.ask(line).await,
            Value::error("NOAUTH Authentication required."),
            "{line}"
        );
    }
    assert!(matches!(client.ask("HELLO 3").await, Value::Error(line) if line.starts_with("NOAUTH HELLO")));
    assert_eq!(client.ask("AUTH password").await, Value::OK);
    assert!(matches!(client.ask("PRESHARD VERSION").await, Value::Bulk(_)));
    let mut client = listener.client().await;
    assert!(matches!(
        client.ask("HELLO 3 AUTH default password").await,
        Value::Map(_)
    ));
    client.send(b"*1025\r\n").await;
    client.send(b"$4\r\nPING\r\n").await;
    drop(client);
    let mut stranger = listener.client().await;
    stranger.send(b"*11\r\n").await;
    assert_eq!(
        stranger.reply().await,
        Value::error("ERR Protocol error: unauthenticated multibulk length")
    );
    assert!(stranger.is_closed().await);
}

#[tokio::test]
async fn a_second_wrong_password_is_late_and_all_are_counted() {
    let limits = quick();
    let listener = listen(&with_password(), limits).await;
    let mut client = listener.client().await;
    let wrong = Value::error("WRONGPASS invalid username-password pair or user is disabled.");
    assert_eq!(client.ask("AUTH no").await, wrong);
    let asked = Instant::now();
    assert_eq!(client.ask("AUTH nobody password").await, wrong);
    assert!(asked.elapsed() >= limits.wrong_password_delay);
    let asked = Instant::now();
    let mut other = listener.client().await;
    assert_eq!(other.ask("HELLO 3 AUTH default no").await, wrong);
    assert!(
        asked.elapsed() >= limits.wrong_password_delay,
        "another connection is no way round"
    );
    assert_eq!(listener.context.shared.metrics.control().auth_failures.load(), 3);
    assert_eq!(other.ask("AUTH default password").await, Value::OK);
}

#[tokio::test]
async fn broken_and_endless_requests_end_the_connection() {
    let limits = AdminLimits {
        request_bytes_max: 64 * 1024,
        ..quick()
    };
    let listener = listen("", limits).await;
    for (bytes, expected) in [
        (&b"*1\r\n$-5\r\n"[..], "ERR Protocol error: invalid bulk length"),
        (b"*99999999\r\n", "ERR Protocol error: invalid multibulk length"),
        (b"*1\r\n$99999\r\n", "ERR Protocol error: invalid bulk length"),
        (
            b"PING \"x\r\n",
            "ERR Protocol error: unbalanced quotes in request",
        ),
    ] {
        let mut client = listener.client().await;
        client.send(bytes).await;
        assert_eq!(client.reply().await, Value::error(expected));
        assert!(client.is_closed().await);
    }
    let mut client = listener.client().await;
    let mut frame = Vec::new();
    write_request(
        &mut frame,
        &[
            b"PRESHARD",
            b"EXPLAIN",
            b"DEL",
            &[b'x'; 30_000],
            &[b'y'; 30_000],
            &[b'z'; 30_000],
        ],
    );
    client.send(&frame).await;
    assert_eq!(
        client.reply().await,
        Value::error("ERR Protocol error: too big multibulk request")
    );
    let mut browser = listener.client().await;
    browser.send(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(browser.is_closed().await, "and is told nothing");
    assert_eq!(
        listener.client().await.ask("PING").await,
        Value::Simple("PONG".into())
    );
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let listener = listen(
        "",
        AdminLimits {
            connections_max: 2,
            ..quick()
        },
    )
    .await;
    let (mut first, mut second) = (listener.client().await, listener.client().await);
    assert_eq!(first.ask("PING").await, second.ask("PING").await);
    let mut third = listener.client().await;
    assert_eq!(
        third.reply().await,
        Value::error("ERR max number of clients reached")
    );
    assert!(third.is_closed().await);
    assert_eq!(
        listener.context.shared.metrics.control().limits[Limit::AdminConnections].load(),
        1
    );
    assert_eq!(first.ask("PING").await, Value::Simple("PONG".into()));
}

#[tokio::test]
async fn silent_and_idle_connections_give_their_place_back() {
    let short = Duration::from_millis(50);
    let limits = AdminLimits {
        handshake_timeout: short,
        idle_timeout: short,
        ..quick()
    };
    for extra in [String::new(), with_password()] {
        let listener = listen(&extra, limits).await;
        assert!(listener.client().await.is_closed().await);
    }
}

#[tokio::test]
async fn a_stranger_cannot_buy_time_with_requests() {
    let limits = AdminLimits {
        handshake_timeout: Duration::from_millis(100),
        ..quick()
    };
    let listener = listen(&with_password(), limits).await;
    let mut client = listener.client().await;
    let came = Instant::now();
    // Ends when the listener closes; the replies are NOAUTH, or the reset that unread requests bring.
    while client.socket.write_all(b"*1\r\n$4\r\nPING\r\n").await.is_ok() && !client.raw().await.is_empty() {
        assert!(came.elapsed() < PATIENCE);
    }
}

#[tokio::test]
async fn the_stop_closes_idle_connections() {
    let mut listener = listen("", quick()).await;
    let mut client = listener.client().await;
    assert_eq!(client.ask("PING").await, Value::Simple("PONG".into()));
    listener.stop.send(()).unwrap();
    assert!(client.is_closed().await);
    timeout(PATIENCE, listener.served.join_next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(listener.address).await.is_err());
}
