//! What the tests of copies need: connections, writers, relays that cut, and the comparison at the end.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use preshard::ids::DbIndex;
use preshard::migration::{Copy, CopyLimits, CopyPlan, Endpoint, Phase, Progress};
use preshard::resp::{DecodeLimits, ReplyScanner, Value, decode, write_request};
use preshard::topology::Address;
use preshard::worker::shared::NodeCredentials;

use crate::data::describe;
use crate::server::{Server, bytes};

/// Databases of the source that are copied go so many further on the target.
pub(crate) const MOVED: u16 = 10;
/// Nobody copies it.
pub(crate) const OTHER: u16 = 1;
pub(crate) const METADATA: u16 = 39;

pub(crate) struct Conn {
    stream: UnixStream,
    read: Vec<u8>,
}

impl Conn {
    pub(crate) fn to(server: &Server, db: u16) -> Self {
        Self::at(&server.socket(), db)
    }

    pub(crate) fn at(socket: &Path, db: u16) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        let mut conn = Self {
            stream,
            read: Vec::new(),
        };
        conn.line(&format!("SELECT {db}"));
        conn
    }

    pub(crate) fn line(&mut self, line: &str) -> Value {
        self.ask(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>())
    }

    pub(crate) fn ask(&mut self, words: &[&[u8]]) -> Value {
        self.try_ask(words).unwrap()
    }

    pub(crate) fn try_ask(&mut self, words: &[&[u8]]) -> std::io::Result<Value> {
        let mut frame = Vec::new();
        write_request(&mut frame, words);
        self.stream.write_all(&frame)?;
        let (mut scanner, mut chunk) = (ReplyScanner::default(), [0; 65536]);
        self.read.clear();
        loop {
            let count = self.stream.read(&mut chunk)?;
            if count == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let end = scanner.feed(&chunk[..count]).unwrap();
            self.read.extend_from_slice(&chunk[..end.unwrap_or(count)]);
            if end.is_some() {
                return Ok(decode(&self.read, DecodeLimits::default()).unwrap());
            }
        }
    }

    pub(crate) fn info(&mut self, field: &str) -> String {
        let info = String::from_utf8(bytes(self.line("INFO everything"))).unwrap();
        let found = info
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        found.unwrap_or_default().to_owned()
    }

    pub(crate) fn offset(&mut self) -> u64 {
        self.info("master_repl_offset").parse().unwrap()
    }
}

/// Writes all kinds of things, by chance and from its own seed, until it is told to stop.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    pub(crate) written: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(source: &Server, db: u16, seed: u64) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count, socket) = (Arc::clone(&stop), Arc::clone(&written), source.socket());
        let fields = source.expires_fields();
        let thread = std::thread::spawn(move || {
            let mut conn = Conn::at(&socket, db);
            let mut random = fastrand::Rng::with_seed(seed);
            while !stopped.load(Ordering::Relaxed) {
                for words in request(&mut random, fields) {
                    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
                    if conn.try_ask(&words).is_err() {
                        return;
                    }
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self {
            stop,
            written,
            thread: Some(thread),
        }
    }

    pub(crate) fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Longest of the short lives.
const SHORT: Duration = Duration::from_millis(250);

/// Either so short that it is over before the end, or so long that it is not.
fn life(random: &mut fastrand::Rng) -> u64 {
    if random.bool() {
        random.u64(20..250)
    } else {
        random.u64(40_000..120_000)
    }
}

/// One request, or several that belong together.
fn request(random: &mut fastrand::Rng, fields: bool) -> Vec<Vec<String>> {
    let key = |kind: &str, random: &mut fastrand::Rng| format!("w:{kind}:{}", random.u32(0..60));
    let number = random.u32(0..1000);
    let line = match random.u32(0..if fields { 34 } else { 31 }) {
        0 => format!("SET {} v{number}", key("s", random)),
        1 => format!("SET {} v{number} PX {}", key("s", random), life(random)),
        2 => format!("SET {} v{number} EX 100 NX", key("s", random)),
        3 => format!("INCRBYFLOAT {} 1.5", key("f", random)),
        4 => format!("INCR {}", key("n", random)),
        5 => format!("PEXPIRE {} {}", key("n", random), life(random)),
        6 => format!("APPEND {} {number}", key("s", random)),
        7 => format!("RPUSH {} {number} x y", key("l", random)),
        8 => format!("LPOP {} 2", key("l", random)),
        9 => format!("LMOVE {} {} LEFT RIGHT", key("l", random), key("l", random)),
        10 => format!("SADD {} a{number} b{}", key("t", random), number % 7),
        11 => format!("SPOP {} 2", key("t", random)),
        12 => format!("SMOVE {} {} b1", key("t", random), key("t", random)),
        13 => format!("ZADD {} {number} m{}", key("z", random), number % 30),
        14 => format!("ZPOPMIN {}", key("z", random)),
        15 => format!("HSET {} f{} {number}", key("h", random), number % 40),
        16 => format!("HDEL {} f{}", key("h", random), number % 40),
        17 => format!("HINCRBYFLOAT {} n 0.1", key("h", random)),
        18 => format!("XADD {} MAXLEN ~ 50 * field {number}", key("x", random)),
        19 => format!("RENAME {} {}", key("s", random), key("s", random)),
        20 => format!("COPY {} {} REPLACE", key("n", random), key("n", random)),
        21 => format!("DEL {} {}", key("s", random), key("n", random)),
        22 => format!("EXPIRE {} 1000", key("z", random)),
        23 => format!("PERSIST {}", key("n", random)),
        24 => format!("GETEX {} PX {}", key("s", random), life(random)),
        25 => format!("SETEX {} 90 v", key("s", random)),
        26 => format!("PFADD {} {number}", key("p", random)),
        27 => format!("SETRANGE {} 5 {number}", key("r", random)),
        28 => {
            let script = "redis.call('INCR', KEYS[1]) redis.call('PEXPIRE', KEYS[1], ARGV[1]) return redis.call('LPUSH', KEYS[2], redis.call('GET', KEYS[1]))";
            let mut words: Vec<String> = vec!["EVAL".into(), script.into(), "2".into()];
            words.extend([key("n", random), key("l", random), life(random).to_string()]);
            return vec![words];
        }
        29 | 30 => {
            let lines = [
                "MULTI".to_owned(),
                format!("INCR {}", key("n", random)),
                format!("SET {} in PX {}", key("s", random), life(random)),
                format!("LPUSH {} in", key("s", random)),
                format!("SADD {} {number}", key("t", random)),
                "EXEC".to_owned(),
            ];
            return lines.iter().map(|line| words(line)).collect();
        }
        31 => format!(
            "HPEXPIRE {} {} FIELDS 1 f{}",
            key("h", random),
            life(random),
            number % 40
        ),
        32 => format!("HPERSIST {} FIELDS 1 f{}", key("h", random), number % 40),
        _ => format!("HEXPIRE {} 1000 FIELDS 1 f{}", key("h", random), number % 40),
    };
    vec![words(&line)]
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

// === copies ===

pub(crate) fn endpoint(socket: PathBuf) -> Endpoint {
    Endpoint {
        address: Address::Unix(socket),
        credentials: NodeCredentials::default(),
        signature: None,
    }
}

pub(crate) fn plan(source: &Server, target: &Server, dbs: &[u16]) -> CopyPlan {
    CopyPlan {
        source: endpoint(source.socket()),
        target: endpoint(target.socket()),
        dbs: dbs.iter().map(|db| (DbIndex(*db), DbIndex(db + MOVED))).collect(),
        metadata_db: DbIndex(METADATA),
        limits: CopyLimits {
            backoff: Duration::from_millis(50),
            silence: Duration::from_secs(20),
            ..CopyLimits::default()
        },
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// How long is waited for what comes in a moment: for a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until what is known of a copy fits.
pub(crate) fn wait_until(
    copy: &Copy,
    what: &str,
    limit: Duration,
    fits: impl Fn(&Progress) -> bool,
) -> Progress {
    let begin = Instant::now();
    loop {
        let now = copy.progress();
        if fits(&now) {
            return now;
        }
        assert!(
            begin.elapsed() < limit,
            "waited {limit:?} in vain for: {what}; {now:?}"
        );
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

pub(crate) fn wait_streaming(copy: &Copy) -> Progress {
    wait_until(copy, "the copy streams", PATIENCE, |now| {
        assert_ne!(now.phase, Phase::Failed, "{now:?}");
        now.phase == Phase::Streaming
    })
}

/// Nothing writes any more: drains and compares.
pub(crate) fn assert_same(
    runtime: &tokio::runtime::Runtime,
    copy: &mut Copy,
    (source, target): (&mut Server, &mut Server),
    dbs: &[u16],
    what: &str,
) {
    let offset = Conn::to(source, 0).offset();
    let drained = runtime.block_on(copy.drain_to(offset)).unwrap();
    println!("{what}: {drained:?}");
    // What was to live shortly is gone before anybody looks.
    let begin = Instant::now();
    while begin.elapsed() < SHORT {
        std::thread::park_timeout(SHORT.saturating_sub(begin.elapsed()));
    }
    for db in dbs {
        let (mut expected, mut found) = (describe(source, *db), describe(target, db + MOVED));
        for all in [&mut expected, &mut found] {
            if !source.target.restores(10) || !target.target.restores(10) {
                drop_expiries(all);
            }
        }
        for (key, value) in &expected {
            let other = found.get(key).map_or("nothing", String::as_str);
            // What has expired between the two looks is no difference.
            let soon = !value.contains(" until never") && other == "nothing";
            let shown = |text: &str| text.chars().take(2_000).collect::<String>();
            assert!(
                value == other
                    || soon && bytes(Conn::to(source, *db).ask(&[b"EXISTS", key.as_bytes()])) == b"0",
                "{what}: database {db}: {key}\n{}\n{}",
                shown(value),
                shown(other)
            );
        }
        let more = found.keys().find(|key| !expected.contains_key(*key));
        assert!(
            more.is_none(),
            "{what}: database {db}: {more:?} is on the target only"
        );
    }
    for db in [0, OTHER, OTHER + MOVED, METADATA] {
        target.well(&format!("SELECT {db}"));
        assert_eq!(target.line("DBSIZE"), Value::Int(0), "{what}: database {db}");
    }
}

fn drop_expiries(all: &mut BTreeMap<String, String>) {
    for value in all.values_mut() {
        if let Some((kind, rest)) = value.split_once(" until ") {
            let rest = rest.split_once(':').unwrap().1;
            *value = format!("{kind}: {rest}");
        }
    }
}

// === relays ===

/// A relay before a server that can cut all its connections, now or after so many bytes from the server.
pub(crate) struct Cutter {
    pub(crate) socket: PathBuf,
    open: Arc<Mutex<Vec<UnixStream>>>,
    /// Bytes from the server that still pass.
    budget: Arc<AtomicUsize>,
    pub(crate) accepted: Arc<AtomicUsize>,
}

impl Cutter {
    pub(crate) fn to(server: &Server) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let socket = server.socket().with_file_name(format!("relay-{number}"));
        let listener = UnixListener::bind(&socket).unwrap();
        let cutter = Self {
            socket,
            open: Arc::default(),
            budget: Arc::new(AtomicUsize::new(usize::MAX)),
            accepted: Arc::default(),
        };
        let (open, budget, accepted) = (
            Arc::clone(&cutter.open),
            Arc::clone(&cutter.budget),
            Arc::clone(&cutter.accepted),
        );
        let behind = server.socket();
        std::thread::spawn(move || {
            for before in listener.incoming().map_while(Result::ok) {
                accepted.fetch_add(1, Ordering::Relaxed);
                let Ok(server) = UnixStream::connect(&behind) else {
                    continue;
                };
                for end in [&before, &server] {
                    open.lock().unwrap().push(end.try_clone().unwrap());
                }
                let (from, to) = (before.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || pump(&from, &to, &AtomicUsize::new(usize::MAX)));
                let budget = Arc::clone(&budget);
                std::thread::spawn(move || pump(&server, &before, &budget));
            }
        });
        cutter
    }

    pub(crate) fn cut(&self) {
        for end in self.open.lock().unwrap().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Once so many bytes have come from the server, the connection that brought the last one is cut; once.
    pub(crate) fn cut_after(&self, bytes: usize) {
        self.budget.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn has_cut(&self) -> bool {
        self.budget.load(Ordering::Relaxed) > usize::MAX / 2
    }
}

fn pump(mut from: &UnixStream, mut to: &UnixStream, budget: &AtomicUsize) {
    let mut chunk = [0; 16384];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        let left = budget.load(Ordering::Relaxed);
        if left < usize::MAX / 2 {
            let pass = left.min(count);
            let _ = to.write_all(&chunk[..pass]);
            if pass < count {
                budget.store(usize::MAX, Ordering::Relaxed);
                break;
            }
            budget.store(left - pass, Ordering::Relaxed);
        } else if to.write_all(&chunk[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// SIGSTOP until it is dropped.
pub(crate) struct Frozen(String);

impl Frozen {
    pub(crate) fn new(server: &Server) -> Self {
        let pid = server.pid().to_string();
        signal("-STOP", &pid);
        Self(pid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        signal("-CONT", &self.0);
    }
}

fn signal(which: &str, pid: &str) {
    let status = std::process::Command::new("kill").args([which, pid]).status();
    assert!(status.unwrap().success());
}
