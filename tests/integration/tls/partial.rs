//! A node's TLS connection that is full in the middle of what it was given: a part has left, and the node may have run it.
//!
//! ```text
//!  proxy ─▶ its session: 64 KiB encrypted ─▶ socket (full) ─▶ valve (closed) ─▶ node
//!           counted as written when all of it has left          opened while the proxy is stopped: the node has run more
//!                                                               than the proxy counts when it goes on
//! ```

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::{TlsNode, node, towards_nodes};
use crate::faults::{Failure, failure};
use crate::harness::wire::frame;
use crate::harness::{Certificates, Client, PATIENCE, Proxy, Reply, Setup, key_in, wait_until};

/// A relay, each direction of which can be closed: then it reads nothing more.
struct Valve {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    no_requests: AtomicBool,
    no_replies: AtomicBool,
    /// All connections are reset, and those that come after.
    broken: AtomicBool,
    done: AtomicBool,
    passed: AtomicU64,
}

const LOOK: Duration = Duration::from_millis(2);
/// A read that has brought nothing by its time; or was paused, with its container.
const NOTHING_YET: [ErrorKind; 3] = [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::Interrupted];

impl Valve {
    fn to(node: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Little room, so that a sender soon stands still.
        SockRef::from(&listener).set_recv_buffer_size(64 * 1024).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for proxy in listener.incoming().map_while(Result::ok) {
                if accepting.done.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(node) = TcpStream::connect(("localhost", node)) {
                    let sides = [Arc::new(proxy), Arc::new(node)];
                    for side in &sides {
                        side.set_nodelay(true).unwrap();
                        side.set_read_timeout(Some(LOOK)).unwrap();
                        SockRef::from(&**side).set_linger(Some(Duration::ZERO)).unwrap();
                    }
                    for requests in [true, false] {
                        let (shared, [proxy, node]) = (Arc::clone(&accepting), sides.clone());
                        let (from, to) = if requests { (proxy, node) } else { (node, proxy) };
                        std::thread::spawn(move || shared.pump(&from, &to, requests));
                    }
                }
            }
        });
        Self { address, shared }
    }

    /// Waits until nothing has passed for a while.
    fn settle(&self) {
        let (mut passed, mut since) = (0, Instant::now());
        wait_until("nothing more passes", PATIENCE, || {
            let now = self.shared.passed.load(Ordering::Relaxed);
            if now != passed {
                (passed, since) = (now, Instant::now());
            }
            since.elapsed() > Duration::from_millis(300)
        });
    }
}

impl Drop for Valve {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn pump(&self, mut from: &TcpStream, mut to: &TcpStream, requests: bool) {
        let closed = if requests {
            &self.no_requests
        } else {
            &self.no_replies
        };
        let mut chunk = [0; 16 * 1024];
        while !self.done.load(Ordering::Relaxed) && !self.broken.load(Ordering::Relaxed) {
            if closed.load(Ordering::Relaxed) {
                std::thread::park_timeout(LOOK);
                continue;
            }
            match from.read(&mut chunk) {
                Ok(count @ 1..) => {
                    if to.write_all(&chunk[..count]).is_err() {
                        break;
                    }
                    self.passed.fetch_add(count as u64, Ordering::Relaxed);
                }
                Err(error) if NOTHING_YET.contains(&error.kind()) => {}
                Ok(_) | Err(_) => break,
            }
        }
        let _ = (
            from.shutdown(std::net::Shutdown::Both),
            to.shutdown(std::net::Shutdown::Both),
        );
    }
}

const REQUESTS: usize = 3000;

struct Burst {
    _nodes: [TlsNode; 2],
    valve: Valve,
    proxy: Proxy,
    keys: Vec<String>,
    client: Client,
}

/// Twelve megabytes of `SET` behind a connection that takes a few hundred kilobytes of them; the proxy is stopped.
fn burst() -> Burst {
    let certificates = Certificates::new();
    let nodes = [node(&certificates, "yes"), node(&certificates, "yes")];
    let valve = Valve::to(nodes[0].port);
    let setup = Setup::of(&[format!("localhost:{}", valve.address.port()), nodes[1].address()]);
    let proxy = towards_nodes(setup, &certificates)
        .proxy("workers = 1")
        .proxy("request_timeout = \"30s\"")
        .proxy("in_flight_max = 10000")
        .any_warning()
        .start();
    let keys: Vec<String> = (0..REQUESTS).map(|n| key_in(2, 8, &format!("{n}:"))).collect();
    let mut client = proxy.client();
    client.call(&["GET", &keys[0]]);
    valve.shared.no_requests.store(true, Ordering::Relaxed);
    let value = "v".repeat(4000);
    for key in &keys {
        client.send(&frame(&["SET", key, &value]));
    }
    wait_until("all is queued", PATIENCE, || {
        proxy.metric("preshard_requests_total{command=\"set\"}") == REQUESTS as u64
    });
    proxy.freeze();
    Burst {
        _nodes: nodes,
        valve,
        proxy,
        keys,
        client,
    }
}

#[test]
fn a_node_that_answers_what_has_left_in_part_is_believed() {
    let mut burst = burst();
    burst.valve.shared.no_requests.store(false, Ordering::Relaxed);
    burst.valve.settle();
    burst.proxy.thaw();
    for key in &burst.keys {
        assert!(burst.client.reply().is_ok(), "{key}");
    }
    assert_eq!(burst.proxy.metric("preshard_node_links_closed_total"), 0);
}

#[test]
fn what_has_left_in_part_is_in_doubt_when_its_connection_breaks() {
    let mut burst = burst();
    let shared = Arc::clone(&burst.valve.shared);
    shared.no_replies.store(true, Ordering::Relaxed);
    shared.no_requests.store(false, Ordering::Relaxed);
    burst.valve.settle();
    shared.broken.store(true, Ordering::Relaxed);
    wait_until("connections are reset", PATIENCE, || {
        Arc::strong_count(&shared) <= 3
    });
    burst.proxy.thaw();
    let replies: Vec<Reply> = burst.keys.iter().map(|_| burst.client.reply()).collect();
    shared.no_replies.store(false, Ordering::Relaxed);
    shared.broken.store(false, Ordering::Relaxed);
    wait_until("the node is served again", PATIENCE, || {
        burst.client.call(&["GET", &burst.keys[0]]).error().is_none()
    });
    let (mut in_doubt, mut not_run) = (0, 0);
    for (key, reply) in burst.keys.iter().zip(&replies) {
        let exists = burst.client.call(&["EXISTS", key]).int() == 1;
        if reply.is_ok() {
            assert!(exists, "{key} was acknowledged");
        } else if failure(reply) == Failure::NotRun {
            assert!(!exists, "{key} has run: {reply:?}");
            not_run += 1;
        } else {
            in_doubt += 1;
        }
    }
    assert!(
        in_doubt > 0 && not_run > 0,
        "{in_doubt} in doubt, {not_run} not run"
    );
}
