//! Clients whose every reply is foretold, and when each was answered.
//!
//! ```text
//!  Batch    RPUSH list n … n+19, LPOP list 20     1, 2, … 20, then exactly these numbers in this order
//!  Single   INCR counter                          one more than before
//! ```
//!
//! What is lost, doubled or out of order shows in the next reply. A client that gets an error or loses its connection does not know
//! what has run: it goes on with other keys, and the end of the run looks at what the old ones hold.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use preshard::resp::{Value, write_request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use crate::admin::{Asker, text};
use crate::rig::{BYSTANDERS, SHARDS};
use crate::{Result, process};

/// How long a reply may take; all limits of the proxy are shorter.
const REPLY_MAX: Duration = Duration::from_secs(30);
/// Lists of one client, each in another shard.
const LISTS: u32 = 5;
/// Errors whose words are kept.
const KEPT: usize = 20;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// So many writes in a pipeline, and one that reads them back.
    Batch(u32),
    /// One write at a time.
    Single,
    /// The same on shards that do not move.
    Bystander,
}

/// One client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    pub(crate) kind: Kind,
    /// From one request to the next.
    pub(crate) pace: Duration,
}

/// One answer: since the load began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) bystander: bool,
    pub(crate) due: Duration,
    pub(crate) answered: Duration,
}

/// What somebody does not know: whether numbers of a list, or a counter's next one, are there.
#[derive(Clone, Debug)]
struct Doubt {
    key: String,
    kind: Kind,
    first: u64,
}

#[derive(Debug)]
struct Shared {
    begun: Instant,
    ports: Vec<u16>,
    stop: AtomicBool,
    writes: AtomicU64,
    errors: AtomicU64,
    wrong: AtomicU64,
    samples: Mutex<Vec<Sample>>,
    words: Mutex<Vec<String>>,
    doubts: Mutex<Vec<Doubt>>,
}

/// What a load has come to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) writes: u64,
    /// Errors and lost connections.
    pub(crate) errors: u64,
    /// Replies that were not the foretold ones, and old keys that hold what they must not.
    pub(crate) wrong: u64,
    pub(crate) words: Vec<String>,
}

/// Clients at work, on a thread of their own.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// How a request went wrong.
enum Odd {
    /// An error, or no reply.
    Unknown(String),
    /// Another reply than the foretold one.
    Wrong(String),
}

impl Load {
    pub(crate) fn start(ports: Vec<u16>, specs: &[Spec]) -> Result<Self> {
        let shared = Arc::new(Shared {
            begun: Instant::now(),
            ports,
            stop: AtomicBool::new(false),
            writes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            samples: Mutex::new(Vec::new()),
            words: Mutex::new(Vec::new()),
            doubts: Mutex::new(Vec::new()),
        });
        let (own, specs) = (Arc::clone(&shared), specs.to_vec());
        let thread = std::thread::Builder::new().spawn(move || -> Result<()> {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut clients = JoinSet::new();
                for (number, spec) in (0..).zip(specs) {
                    clients.spawn(client(Arc::clone(&own), number, spec));
                }
                while let Some(ended) = clients.join_next().await {
                    ended?;
                }
                Ok(())
            })
        })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// What was answered since the last call.
    pub(crate) fn take(&self) -> Vec<Sample> {
        let mut samples = self.shared.samples.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut samples)
    }

    /// What is answered in so long a time.
    pub(crate) fn quiet(&self, length: Duration) -> Vec<Sample> {
        self.take();
        let until = Instant::now() + length;
        while Instant::now() < until {
            process::pause();
        }
        self.take()
    }

    pub(crate) fn writes(&self) -> u64 {
        self.shared.writes.load(Relaxed)
    }

    pub(crate) fn errors(&self) -> u64 {
        self.shared.errors.load(Relaxed)
    }

    /// Ends it, and looks at what was in doubt.
    pub(crate) fn stop(mut self, port: u16) -> Result<Verdict> {
        self.shared.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| "the load panicked")??;
        }
        let shared = &self.shared;
        let doubts = shared.doubts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut asker = Asker::connect(port)?;
        for doubt in doubts.iter() {
            if let Some(why) = doubt.look(&mut asker)? {
                shared.note(&why);
                shared.wrong.fetch_add(1, Relaxed);
            }
        }
        Ok(Verdict {
            writes: shared.writes.load(Relaxed),
            errors: shared.errors.load(Relaxed),
            wrong: shared.wrong.load(Relaxed),
            words: shared
                .words
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
    }
}

impl Shared {
    fn note(&self, why: &str) {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        if words.len() < KEPT {
            words.push(format!("{:.3} s: {why}", self.begun.elapsed().as_secs_f64()));
        }
    }
}

impl Doubt {
    /// What is wrong with what the key holds.
    fn look(&self, asker: &mut Asker) -> Result<Option<String>> {
        let key = self.key.as_bytes();
        let Kind::Batch(size) = self.kind else {
            let found = text(&asker.call(&[b"GET", key])?);
            let known = [self.first, self.first + 1].map(|number| number.to_string());
            // A counter that has never been written is not there.
            let fits = known.contains(&found) || (self.first == 0 && found == "Null");
            return Ok((!fits).then(|| format!("{}: {found}, not one of {known:?}", self.key)));
        };
        let Value::Array(items) = asker.call(&[b"LRANGE", key, b"0", b"-1"])? else {
            return Ok(Some(format!("{}: is no list", self.key)));
        };
        let found: Vec<u64> = items.iter().filter_map(|item| text(item).parse().ok()).collect();
        let in_order = found.windows(2).all(|pair| pair[0] < pair[1]);
        let range = self.first..self.first + u64::from(size);
        let fits =
            in_order && found.len() == items.len() && found.iter().all(|number| range.contains(number));
        Ok((!fits).then(|| format!("{}: {found:?}, not of {range:?} in order", self.key)))
    }
}

/// One client until the load ends.
async fn client(shared: Arc<Shared>, number: u32, spec: Spec) {
    let mut stream = None;
    let (mut generation, mut turn, mut counted) = (0_u32, 0_u64, 0_u64);
    // Not all at the same moment.
    let first = tokio::time::Instant::now() + spec.pace * (number % 20) / 20;
    let mut due = first;
    while !shared.stop.load(Relaxed) {
        tokio::time::sleep_until(due).await;
        let key = key(&spec, number, generation, turn);
        let (sent, foretold) = exchange(&spec, &key, turn, counted);
        let answer = match stream.take() {
            Some(open) => ask(open, &sent, &foretold).await,
            None => match connect(&shared.ports, number + generation).await {
                Ok(open) => ask(open, &sent, &foretold).await,
                Err(error) => {
                    // Nothing was sent, so nothing is in doubt; whoever is killed comes back.
                    shared.errors.fetch_add(1, Relaxed);
                    shared.note(&format!("no connection: {error}"));
                    generation += 1;
                    counted = 0;
                    due = tokio::time::Instant::now() + Duration::from_millis(50);
                    continue;
                }
            },
        };
        match answer {
            Ok(open) => {
                stream = Some(open);
                let size = if let Kind::Batch(size) = spec.kind {
                    size
                } else {
                    1
                };
                shared.writes.fetch_add(u64::from(size), Relaxed);
                (turn, counted) = (turn + 1, counted + 1);
                let now = shared.begun.elapsed();
                let sample = Sample {
                    bystander: spec.kind == Kind::Bystander,
                    due: now.saturating_sub(due.elapsed()),
                    answered: now,
                };
                let mut samples = shared.samples.lock().unwrap_or_else(PoisonError::into_inner);
                samples.push(sample);
            }
            Err(odd) => {
                let (counter, why) = match odd {
                    Odd::Unknown(why) => (&shared.errors, why),
                    Odd::Wrong(why) => (&shared.wrong, why),
                };
                counter.fetch_add(1, Relaxed);
                shared.note(&format!("{key}: {why}"));
                let first = match spec.kind {
                    Kind::Batch(size) => turn * u64::from(size),
                    Kind::Single | Kind::Bystander => counted,
                };
                let mut doubts = shared.doubts.lock().unwrap_or_else(PoisonError::into_inner);
                doubts.push(Doubt {
                    key,
                    kind: spec.kind,
                    first,
                });
                generation += 1;
                (turn, counted) = (turn + 1, 0);
            }
        }
        due += spec.pace;
    }
}

async fn connect(ports: &[u16], which: u32) -> std::io::Result<TcpStream> {
    let port = ports[which as usize % ports.len()];
    let stream = TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A key in a shard of those that move, or of those that do not.
fn key(spec: &Spec, number: u32, generation: u32, turn: u64) -> String {
    let (name, shards) = match spec.kind {
        Kind::Batch(_) => {
            let list = u32::try_from(turn % u64::from(LISTS)).unwrap_or(0);
            (format!("list:{number}:{generation}:{list}"), 0..64)
        }
        Kind::Single => (format!("count:{number}:{generation}"), 0..64),
        Kind::Bystander => (format!("beside:{number}:{generation}"), BYSTANDERS),
    };
    key_in(&name, shards)
}

/// The name with a tag in front of it that brings it into one of the shards.
fn key_in(name: &str, shards: std::ops::Range<u32>) -> String {
    (0_u32..)
        .map(|tag| format!("{{{tag}}}{name}", tag = salted(name, tag)))
        .find(|key| shards.contains(&shard_of(key)))
        .unwrap_or_default()
}

fn salted(name: &str, tag: u32) -> u32 {
    name.bytes().fold(tag, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u32::from(byte))
    }) % 100_000
}

fn shard_of(key: &str) -> u32 {
    let tag = key[1..].split('}').next().unwrap_or_default();
    let slot = crc16::State::<crc16::XMODEM>::calculate(tag.as_bytes()) & 16383;
    u32::from(slot) * SHARDS / 16384
}

/// What is sent, and what must come.
fn exchange(spec: &Spec, key: &str, turn: u64, counted: u64) -> (Vec<u8>, Vec<u8>) {
    let (mut sent, mut foretold) = (Vec::new(), Vec::new());
    let Kind::Batch(size) = spec.kind else {
        write_request(&mut sent, &[&b"INCR"[..], key.as_bytes()]);
        return (sent, format!(":{}\r\n", counted + 1).into_bytes());
    };
    let size = u64::from(size);
    let mut popped = format!("*{size}\r\n");
    for (length, number) in (1..).zip(turn * size..(turn + 1) * size) {
        let number = number.to_string();
        write_request(&mut sent, &[&b"RPUSH"[..], key.as_bytes(), number.as_bytes()]);
        foretold.extend_from_slice(format!(":{length}\r\n").as_bytes());
        popped += &format!("${}\r\n{number}\r\n", number.len());
    }
    write_request(
        &mut sent,
        &[&b"LPOP"[..], key.as_bytes(), size.to_string().as_bytes()],
    );
    foretold.extend_from_slice(popped.as_bytes());
    (sent, foretold)
}

async fn ask(mut stream: TcpStream, sent: &[u8], foretold: &[u8]) -> std::result::Result<TcpStream, Odd> {
    let lost = |error: std::io::Error| Odd::Unknown(error.to_string());
    stream.write_all(sent).await.map_err(lost)?;
    let (mut read, mut at) = (vec![0; foretold.len()], 0);
    while at < foretold.len() {
        let reading = tokio::time::timeout(REPLY_MAX, stream.read(&mut read[at..]));
        let count = reading
            .await
            .map_err(|_| Odd::Unknown(format!("no reply within {REPLY_MAX:?}")))?
            .map_err(lost)?;
        if count == 0 {
            return Err(Odd::Unknown("the connection was closed".to_owned()));
        }
        let end = at + count;
        if read[at..end] != foretold[at..end] {
            return Err(judge(&read[..end], foretold));
        }
        at = end;
    }
    Ok(stream)
}

/// Why these bytes are not the foretold ones.
fn judge(read: &[u8], foretold: &[u8]) -> Odd {
    let common = read.iter().zip(foretold).take_while(|(a, b)| a == b).count();
    let start = read[..common]
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |at| at + 1);
    let line = String::from_utf8_lossy(&read[start..]);
    let line = line.lines().next().unwrap_or_default().to_owned();
    if line.starts_with('-') {
        return Odd::Unknown(line);
    }
    let wanted = String::from_utf8_lossy(&foretold[start..]);
    let wanted = wanted.lines().next().unwrap_or_default();
    Odd::Wrong(format!("{line:?}, not {wanted:?}"))
}

/// Keys that only move along.
#[derive(Debug)]
pub(crate) struct Ballast(u32);

impl Ballast {
    pub(crate) fn fill(port: u16, keys: u32) -> Result<Self> {
        let mut asker = Asker::connect(port)?;
        for first in (0..keys).step_by(1000) {
            let pairs: Vec<(String, String)> = (first..keys.min(first + 1000)).map(ballast).collect();
            let requests: Vec<Vec<&[u8]>> = pairs
                .iter()
                .map(|(key, value)| vec![&b"SET"[..], key.as_bytes(), value.as_bytes()])
                .collect();
            let replies = asker.call_all(&requests)?;
            if let Some(odd) = replies.iter().find(|reply| text(reply) != "OK") {
                return Err(format!("the ballast cannot be written: {odd:?}").into());
            }
        }
        Ok(Self(keys))
    }

    /// How many of them are not what was written.
    pub(crate) fn wrong(&self, port: u16) -> Result<u64> {
        let (mut asker, mut wrong) = (Asker::connect(port)?, 0);
        for first in (0..self.0).step_by(1000) {
            let pairs: Vec<(String, String)> = (first..self.0.min(first + 1000)).map(ballast).collect();
            let requests: Vec<Vec<&[u8]>> = pairs
                .iter()
                .map(|(key, _)| vec![&b"GET"[..], key.as_bytes()])
                .collect();
            let replies = asker.call_all(&requests)?;
            let odd = replies
                .iter()
                .zip(&pairs)
                .filter(|(reply, (_, value))| text(reply) != *value);
            wrong += odd.count() as u64;
        }
        Ok(wrong)
    }
}

/// Sixteen keys of the moving shards share a tag each, since finding one takes some tries.
fn ballast(number: u32) -> (String, String) {
    let tag = key_in(&format!("b{}", number / 16), 0..64);
    let tag = tag.split('}').next().unwrap_or_default().to_owned();
    (format!("{tag}}}ballast:{number}"), format!("{number:0>100}"))
}
