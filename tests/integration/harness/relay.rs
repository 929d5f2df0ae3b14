//! A TCP relay between a proxy and a node that does one wrong thing when told to.
//!
//! ```text
//!   proxy ──requests──▶ relay ──▶ node          armed with a Fault and a marker; the first frame that
//!   proxy ◀──replies─── relay ◀── node          holds the marker suffers it, then all is as before
//! ```

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::process::{PATIENCE, wait_until};
use super::wire::ReplyScan;

/// What happens to the frame that holds the marker.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Only the first bytes of the reply pass, then both sides are closed.
    CutReply(usize),
    /// Both sides are reset before the reply passes.
    Reset,
    /// The reply waits, and everything behind it.
    Delay(Duration),
    /// The reply passes twice.
    Duplicate,
    /// The reply does not pass.
    Eat,
    /// Other bytes pass instead.
    Replace(Vec<u8>),
    /// The request passes up to its marker, then both sides are closed.
    CutRequest,
    /// The request passes with other bytes in place of its marker.
    Rewrite(Vec<u8>),
}

/// The relay; it ends with its owner.
#[derive(Debug)]
pub(crate) struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    node: SocketAddr,
    armed: Mutex<Option<(Vec<u8>, Fault)>>,
    fired: AtomicU32,
    accepted: AtomicU32,
    done: AtomicBool,
}

/// Where a marker was found, and what is to happen to it.
struct Struck {
    at: usize,
    length: usize,
    fault: Fault,
}

// === impl Relay ===

impl Relay {
    pub(crate) fn to(node: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            node,
            armed: Mutex::new(None),
            fired: AtomicU32::new(0),
            accepted: AtomicU32::new(0),
            done: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for proxy in listener.incoming().map_while(Result::ok) {
                if accepting.done.load(Ordering::Relaxed) {
                    return;
                }
                accepting.accepted.fetch_add(1, Ordering::Relaxed);
                let Ok(node) = TcpStream::connect(accepting.node) else {
                    continue;
                };
                accepting.clone().connect(&proxy, &node);
            }
        });
        Self { address, shared }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// The next frame that holds `marker` suffers `fault`.
    pub(crate) fn arm(&self, marker: &str, fault: Fault) {
        *self.shared.armed.lock().unwrap() = Some((marker.as_bytes().to_vec(), fault));
    }

    /// How many faults have happened.
    pub(crate) fn fired(&self) -> u32 {
        self.shared.fired.load(Ordering::Relaxed)
    }

    /// Waits until the armed fault has happened.
    pub(crate) fn await_fault(&self, number: u32) {
        wait_until("the relay's fault happens", PATIENCE, || self.fired() >= number);
    }

    /// How many connections the proxy has made.
    pub(crate) fn accepted(&self) -> u32 {
        self.shared.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

// === impl Shared ===

impl Shared {
    fn connect(self: Arc<Self>, proxy: &TcpStream, node: &TcpStream) {
        for stream in [proxy, node] {
            stream.set_nodelay(true).unwrap();
        }
        let clones = || (proxy.try_clone().unwrap(), node.try_clone().unwrap());
        let (requests, replies) = (Arc::clone(&self), self);
        let (proxy_half, node_half) = clones();
        std::thread::spawn(move || requests.pump_requests(&proxy_half, &node_half));
        let (proxy_half, node_half) = clones();
        std::thread::spawn(move || replies.pump_replies(&proxy_half, &node_half));
    }

    /// Takes the armed fault when `bytes` hold its marker and it is of the wanted kind.
    fn strike(&self, bytes: &[u8], on_request: bool) -> Option<Struck> {
        let mut armed = self.armed.lock().unwrap();
        let (marker, fault) = armed.as_ref()?;
        if matches!(fault, Fault::CutRequest | Fault::Rewrite(_)) != on_request {
            return None;
        }
        let at = memchr::memmem::find(bytes, marker)?;
        let struck = Struck {
            at,
            length: marker.len(),
            fault: fault.clone(),
        };
        *armed = None;
        self.fired.fetch_add(1, Ordering::Relaxed);
        Some(struck)
    }

    fn pump_requests(&self, mut proxy: &TcpStream, mut node: &TcpStream) {
        let mut chunk = [0; 65536];
        while let Ok(count @ 1..) = proxy.read(&mut chunk) {
            if let Some(struck) = self.strike(&chunk[..count], true) {
                let _ = node.write_all(&chunk[..struck.at]);
                let Fault::Rewrite(other) = struck.fault else {
                    break;
                };
                let _ = node.write_all(&other);
                let _ = node.write_all(&chunk[struck.at + struck.length..count]);
                continue;
            }
            if node.write_all(&chunk[..count]).is_err() {
                break;
            }
        }
        part(proxy, node);
    }

    fn pump_replies(&self, mut proxy: &TcpStream, mut node: &TcpStream) {
        let (mut bytes, mut chunk, mut scan) = (Vec::new(), [0; 65536], ReplyScan::default());
        while let Ok(count @ 1..) = node.read(&mut chunk) {
            bytes.extend_from_slice(&chunk[..count]);
            let (mut at, mut out, mut open) = (0, Vec::new(), true);
            while let Some(length) = scan.end(&bytes[at..]).filter(|_| open) {
                scan = ReplyScan::default();
                open = self.pass(&bytes[at..at + length], &mut out, proxy, node);
                at += length;
            }
            bytes.drain(..at);
            if proxy.write_all(&out).is_err() || !open {
                break;
            }
        }
        part(proxy, node);
    }

    /// Adds one reply to what goes to the proxy, as it is or as the fault makes it; false ends the connection.
    fn pass(&self, reply: &[u8], out: &mut Vec<u8>, mut proxy: &TcpStream, node: &TcpStream) -> bool {
        let Some(struck) = self.strike(reply, false) else {
            out.extend_from_slice(reply);
            return true;
        };
        match struck.fault {
            Fault::CutReply(keep) => {
                out.extend_from_slice(&reply[..keep.min(reply.len())]);
                return false;
            }
            Fault::Reset => {
                for stream in [proxy, node] {
                    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
                }
                // Wakes the other pump without sending anything; the last one to let go of the socket resets it.
                let _ = (proxy.shutdown(Shutdown::Read), node.shutdown(Shutdown::Read));
                out.clear();
                return false;
            }
            Fault::Delay(time) => {
                if proxy.write_all(&std::mem::take(out)).is_err() {
                    return false;
                }
                let start = Instant::now();
                while start.elapsed() < time {
                    std::thread::park_timeout(time.saturating_sub(start.elapsed()));
                }
                out.extend_from_slice(reply);
            }
            Fault::Duplicate => {
                out.extend_from_slice(reply);
                out.extend_from_slice(reply);
            }
            Fault::Eat | Fault::CutRequest | Fault::Rewrite(_) => {}
            Fault::Replace(other) => out.extend_from_slice(&other),
        }
        true
    }
}

/// Closes both connections, unless they are to be reset by letting go of them.
fn part(proxy: &TcpStream, node: &TcpStream) {
    for stream in [proxy, node] {
        if socket2::SockRef::from(stream).linger().ok().flatten().is_none() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
