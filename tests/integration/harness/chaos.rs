//! A TCP relay between a proxy and a node that breaks things by chance, for as long as it is told to.
//!
//! ```text
//!   proxy ──requests──▶ relay ──▶ node      about one reply in `rate` is late, cut, doubled or swallowed with all
//!   proxy ◀──replies─── relay ◀── node      behind it; now and then a request is cut, or the connection reset
//! ```
//!
//! Replies belong to requests by position, so a node that answers one request of many twice, or leaves one out, cannot be
//! found out by anybody who has no fence behind it. Doubled are therefore replies of scripts, which have one, and replies
//! that are alone on their connection; what is swallowed is all that comes from then on.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::wire::ReplyScan;

/// What the relay does to a connection, as its counters name it.
pub(crate) const CHAOS: [&str; 8] = [
    "short delay",
    "late",
    "reply cut",
    "reset",
    "script doubled",
    "reply doubled",
    "swallowed",
    "request cut",
];

/// The relay; it ends with its owner.
#[derive(Debug)]
pub(crate) struct Chaos {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    node: SocketAddr,
    seed: u64,
    /// One reply in so many is struck; 0: none.
    rate: AtomicU32,
    /// How long a late reply is held back at most.
    late: Duration,
    struck: [AtomicU64; 8],
    done: AtomicBool,
}

/// What was asked over a connection and is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Script,
    Other,
}

/// One connection: what is under way, and whether it hears messages.
#[derive(Debug, Default)]
struct Wire {
    asked: Mutex<VecDeque<Asked>>,
    feed: AtomicBool,
}

// === impl Chaos ===

impl Chaos {
    pub(crate) fn to(node: SocketAddr, seed: u64, late: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            node,
            seed,
            rate: AtomicU32::new(0),
            late,
            struck: Default::default(),
            done: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for (number, proxy) in (0..).zip(listener.incoming().map_while(Result::ok)) {
                if accepting.done.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(node) = TcpStream::connect(accepting.node) else {
                    continue;
                };
                accepting.connect(number, &proxy, &node);
            }
        });
        Self { address, shared }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Strikes about one reply in `rate` from now on; 0: none.
    pub(crate) fn strike_one_in(&self, rate: u32) {
        self.shared.rate.store(rate, Ordering::Relaxed);
    }

    /// How often each of [`CHAOS`] has happened.
    pub(crate) fn struck(&self) -> [u64; 8] {
        std::array::from_fn(|what| self.shared.struck[what].load(Ordering::Relaxed))
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

// === impl Shared ===

impl Shared {
    fn connect(self: &Arc<Self>, number: u64, proxy: &TcpStream, node: &TcpStream) {
        for stream in [proxy, node] {
            stream.set_nodelay(true).unwrap();
        }
        let wire = Arc::new(Wire::default());
        for requests in [true, false] {
            let (shared, wire) = (Arc::clone(self), Arc::clone(&wire));
            let (proxy, node) = (proxy.try_clone().unwrap(), node.try_clone().unwrap());
            let mut random = fastrand::Rng::with_seed(self.seed ^ (number << 1) ^ u64::from(requests));
            std::thread::spawn(move || {
                if requests {
                    shared.pump_requests(&wire, &proxy, &node, &mut random);
                } else {
                    shared.pump_replies(&wire, &proxy, &node, &mut random);
                }
                part(&proxy, &node);
            });
        }
    }

    fn strikes(&self, random: &mut fastrand::Rng, rarer: u32) -> bool {
        let rate = self.rate.load(Ordering::Relaxed);
        rate > 0 && random.u32(0..rate.saturating_mul(rarer)) == 0
    }

    fn count(&self, what: &str) {
        let place = CHAOS.iter().position(|name| *name == what).unwrap();
        self.struck[place].fetch_add(1, Ordering::Relaxed);
    }

    fn pump_requests(
        &self,
        wire: &Wire,
        mut proxy: &TcpStream,
        mut node: &TcpStream,
        random: &mut fastrand::Rng,
    ) {
        let (mut bytes, mut chunk) = (Vec::new(), vec![0; 65536]);
        while let Ok(count @ 1..) = proxy.read(&mut chunk) {
            bytes.extend_from_slice(&chunk[..count]);
            let mut at = 0;
            while let Some((length, name)) = request_at(&bytes[at..]) {
                if self.strikes(random, 8) {
                    self.count("request cut");
                    let _ = node.write_all(&bytes[..at + random.usize(0..length)]);
                    return;
                }
                at += length;
                let asked = match name {
                    b"EVAL" | b"EVALSHA" | b"FCALL" | b"eval" | b"evalsha" | b"fcall" => Asked::Script,
                    _ => Asked::Other,
                };
                if name.ends_with(b"SUBSCRIBE") {
                    wire.feed.store(true, Ordering::Relaxed);
                }
                wire.asked.lock().unwrap().push_back(asked);
            }
            if node.write_all(&bytes[..at]).is_err() {
                return;
            }
            bytes.drain(..at);
        }
    }

    fn pump_replies(
        &self,
        wire: &Wire,
        mut proxy: &TcpStream,
        mut node: &TcpStream,
        random: &mut fastrand::Rng,
    ) {
        let (mut bytes, mut chunk, mut scan) = (Vec::new(), vec![0; 65536], ReplyScan::default());
        let mut swallows = false;
        while let Ok(count @ 1..) = node.read(&mut chunk) {
            if swallows {
                continue;
            }
            bytes.extend_from_slice(&chunk[..count]);
            let (mut at, mut out) = (0, Vec::new());
            while let Some(length) = scan.end(&bytes[at..]) {
                scan = ReplyScan::default();
                let reply = &bytes[at..at + length];
                at += length;
                let alone = out.is_empty() && at == bytes.len();
                match self.pass(wire, reply, alone, random) {
                    Passed::Whole => out.extend_from_slice(reply),
                    Passed::Twice => out.extend_from_slice(&[reply, reply].concat()),
                    Passed::Later(time) => {
                        if proxy.write_all(&std::mem::take(&mut out)).is_err() {
                            return;
                        }
                        pause(time);
                        out.extend_from_slice(reply);
                    }
                    Passed::Part(keep) => {
                        out.extend_from_slice(&reply[..keep]);
                        let _ = proxy.write_all(&out);
                        return;
                    }
                    Passed::Reset => {
                        for stream in [proxy, node] {
                            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
                        }
                        let _ = (proxy.shutdown(Shutdown::Read), node.shutdown(Shutdown::Read));
                        return;
                    }
                    Passed::Swallowed => {
                        swallows = true;
                        break;
                    }
                }
            }
            bytes.drain(..at);
            if proxy.write_all(&out).is_err() {
                return;
            }
        }
    }

    /// What becomes of one reply. `alone`: nothing stands before or behind it in what has come.
    fn pass(&self, wire: &Wire, reply: &[u8], alone: bool, random: &mut fastrand::Rng) -> Passed {
        let feed = wire.feed.load(Ordering::Relaxed);
        let mut asked = wire.asked.lock().unwrap();
        let last = if feed || reply.starts_with(b">") {
            None
        } else {
            asked.pop_front()
        };
        let alone = alone && asked.is_empty() && reply.len() < 2000;
        drop(asked);
        // More often than the rest: only with more scripts behind it can anybody be given what is not his.
        let rate = self.rate.load(Ordering::Relaxed);
        if last == Some(Asked::Script) && rate > 0 && random.u32(0..rate / 8 + 1) == 0 {
            self.count("script doubled");
            return Passed::Twice;
        }
        if !self.strikes(random, 1) {
            return Passed::Whole;
        }
        // The rest of a batch may be on its way; the next one waits for this reply.
        pause(Duration::from_millis(2));
        let alone = alone && wire.asked.lock().unwrap().is_empty();
        let (what, passed) = match random.u8(0..20) {
            0..=6 => (
                "short delay",
                Passed::Later(Duration::from_millis(random.u64(1..20))),
            ),
            7 | 8 => ("late", Passed::Later(self.late.mul_f64(0.3 + random.f64()))),
            9..=11 => ("reply cut", Passed::Part(random.usize(0..reply.len()))),
            12 => ("reset", Passed::Reset),
            19 => ("swallowed", Passed::Swallowed),
            _ if last.is_some() && alone => ("reply doubled", Passed::Twice),
            _ => return Passed::Whole,
        };
        self.count(what);
        passed
    }
}

/// What becomes of a reply.
enum Passed {
    Whole,
    Twice,
    Later(Duration),
    Part(usize),
    Reset,
    Swallowed,
}

fn pause(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::thread::park_timeout(time.saturating_sub(start.elapsed()));
    }
}

/// Length and name of the request at the start of `bytes`, once it is whole.
fn request_at(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let line = |at: usize| -> Option<(usize, usize)> {
        let end = at + memchr::memchr(b'\r', bytes.get(at..)?)?;
        let digits = std::str::from_utf8(&bytes[at + 1..end]).ok()?;
        Some((digits.parse().expect("canonical requests"), end + 2))
    };
    let (words, mut at) = line(0)?;
    let mut name = &bytes[..0];
    for word in 0..words {
        let (length, start) = line(at)?;
        at = start + length + 2;
        if at > bytes.len() {
            return None;
        }
        if word == 0 {
            name = &bytes[start..start + length];
        }
    }
    Some((at, name))
}

/// Closes both connections, unless they are to be reset by letting go of them.
fn part(proxy: &TcpStream, node: &TcpStream) {
    for stream in [proxy, node] {
        if socket2::SockRef::from(stream).linger().ok().flatten().is_none() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
