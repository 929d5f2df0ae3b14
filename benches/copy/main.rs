//! What a copy costs: keys in a second, the source's and the target's stalls, this process's time and memory.
//!
//! ```text
//!  source (keys to copy, and others) ──Copy──▶ target        a PING every millisecond at both of them, meanwhile
//!                                    ──MIGRATE COPY──▶       the same by the server's own word, so many keys a call
//! ```
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a command line tool reports on its terminal, and its probes wait a millisecond"
)]

mod verify;

use std::error::Error;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use preshard::ids::DbIndex;
use preshard::migration::{Copy, CopyLimits, CopyPlan, Endpoint, Phase};
use preshard::resp::write_request;
use preshard::topology::Address;
use preshard::worker::shared::NodeCredentials;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Measure a copy between two nodes on this machine.
#[derive(Debug, Parser)]
#[command(name = "copy")]
struct Args {
    /// Keys that are copied
    #[arg(long, default_value_t = 400_000)]
    keys: u32,
    /// Keys of other databases on the source
    #[arg(long, default_value_t = 400_000)]
    others: u32,
    /// Bytes of a value
    #[arg(long, default_value_t = 100)]
    size: usize,
    /// Elements of one large hash besides
    #[arg(long, default_value_t = 0)]
    giant: u32,
    /// Writes a second to the source meanwhile; 0: none
    #[arg(long, default_value_t = 0)]
    writes: u32,
    /// Unanswered bytes at the target
    #[arg(long, default_value_t = 131_072)]
    window: usize,
    /// Compare source and target afterwards
    #[arg(long)]
    verify: bool,
    /// Keys in one call of MIGRATE, for comparison behind each round; 0: none
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000])]
    migrate: Vec<u32>,
    /// How often
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Ignored: cargo passes it
    #[arg(long, hide = true)]
    bench: bool,
}

struct Node {
    child: Child,
    /// MIGRATE knows no socket files.
    port: u16,
    folder: PathBuf,
}

impl Node {
    fn start(name: &str) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("preshard-bench-copy-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--save", "", "--databases", "40", "--dir"])
            .arg(&folder)
            .arg("--unixsocket")
            .arg(folder.join("s"))
            .stdout(Stdio::null())
            .spawn()?;
        let node = Self { child, port, folder };
        let begin = Instant::now();
        while UnixStream::connect(node.socket()).is_err() {
            if begin.elapsed() > Duration::from_secs(10) {
                return Err("redis-server does not start".into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(node)
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("s")
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint {
            address: Address::Unix(self.socket()),
            credentials: NodeCredentials::default(),
            signature: None,
        }
    }

    /// Seconds of processor time so far.
    fn busy(&self) -> f64 {
        busy(&format!("/proc/{}/stat", self.child.id()))
    }

    fn info(&self, field: &str) -> Result<String> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.write_all(b"INFO all\r\nQUIT\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(found.unwrap_or_default().to_owned())
    }

    /// Writes requests, and reads a line for each.
    fn fill(&self, db: u16, frames: &[u8], replies: usize) -> Result<()> {
        let mut stream = UnixStream::connect(self.socket())?;
        let mut hello = Vec::new();
        write_request(&mut hello, &[&b"SELECT"[..], db.to_string().as_bytes()]);
        stream.write_all(&hello)?;
        let mut writer = stream.try_clone()?;
        std::thread::scope(|scope| {
            let writing = scope.spawn(move || writer.write_all(frames));
            let (mut lines, mut chunk) = (0, vec![0; 1 << 16]);
            while lines < replies + 1 {
                let count = stream.read(&mut chunk)?;
                if count == 0 {
                    return Err("the node has closed the connection".into());
                }
                lines += memchr::memchr_iter(b'\n', &chunk[..count]).count();
            }
            writing.join().map_err(|_| "the writer has failed")??;
            Ok(())
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn busy(stat: &str) -> f64 {
    let text = fs::read_to_string(stat).unwrap_or_default();
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|ticks| ticks.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / 100.0
}

fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok())
        .unwrap_or(0)
}

/// Pings every millisecond until it is told to stop; all durations.
fn probe(socket: &Path, stop: &AtomicBool) -> Result<Vec<Duration>> {
    let mut stream = UnixStream::connect(socket)?;
    let (mut all, mut reply) = (Vec::new(), [0; 64]);
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        stream.write_all(b"PING\r\n")?;
        if stream.read(&mut reply)? == 0 {
            return Err("the node has closed the connection".into());
        }
        all.push(begin.elapsed());
        std::thread::sleep(Duration::from_millis(1));
    }
    all.sort_unstable();
    Ok(all)
}

fn show(all: &[Duration]) -> String {
    let of = |share: usize| {
        let at = all.len() * share / 1_000;
        all.get(at.min(all.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    };
    format!(
        "p50 {:?} p99 {:?} p99.9 {:?} max {:?}",
        of(500),
        of(990),
        of(999),
        of(1_000)
    )
}

fn sets(count: u32, size: usize, first: u32) -> Vec<u8> {
    let (mut frames, mut random) = (Vec::new(), fastrand::Rng::with_seed(u64::from(first)));
    for n in first..first + count {
        let value: Vec<u8> = (0..size).map(|_| random.alphanumeric() as u8).collect();
        write_request(&mut frames, &[&b"SET"[..], format!("key:{n}").as_bytes(), &value]);
    }
    frames
}

fn main() -> Result<()> {
    let args = Args::parse();
    let source = Node::start("source")?;
    for (db, count) in [(3, args.keys), (4, args.others)] {
        for first in (0..count).step_by(50_000) {
            let count = 50_000.min(count - first);
            source.fill(db, &sets(count, args.size, first), count as usize)?;
        }
    }
    for first in (0..args.giant).step_by(500) {
        let fields: Vec<String> = (first..first + 500).map(|n| format!("field:{n}")).collect();
        let value = vec![b'v'; args.size];
        let mut words: Vec<&[u8]> = vec![b"HSET", b"giant"];
        words.extend(
            fields
                .iter()
                .flat_map(|field| [field.as_bytes(), value.as_slice()]),
        );
        let mut frame = Vec::new();
        write_request(&mut frame, &words);
        source.fill(3, &frame, 1)?;
    }
    println!(
        "source: {} keys in all, {}",
        args.keys + args.others,
        source.info("used_memory_human")?
    );
    for _ in 0..args.rounds {
        round(&args, &source)?;
        for &keys in args.migrate.iter().filter(|&&keys| keys > 0) {
            migrate(&args, &source, keys)?;
        }
    }
    Ok(())
}

fn round(args: &Args, source: &Node) -> Result<()> {
    let target = Node::start("target")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let stop = Arc::new(AtomicBool::new(false));
    let probes = [source.socket(), target.socket()].map(|socket| {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || probe(&socket, &stop))
    });
    let writer = (args.writes > 0).then(|| {
        let (stop, socket, writes) = (Arc::clone(&stop), source.socket(), args.writes);
        std::thread::spawn(move || write_on(&socket, writes, &stop))
    });
    let (own, at_source, at_target) = (busy("/proc/self/stat"), source.busy(), target.busy());
    let plan = CopyPlan {
        source: source.endpoint(),
        target: target.endpoint(),
        dbs: vec![(DbIndex(3), DbIndex(13))],
        metadata_db: DbIndex(39),
        limits: CopyLimits {
            window: args.window,
            ..CopyLimits::default()
        },
    };
    let begin = Instant::now();
    let mut copy = runtime.block_on(async { Copy::start(plan) });
    runtime.block_on(copy.until_attached())?;
    let took = begin.elapsed();
    let (own, at_source, at_target) = (
        busy("/proc/self/stat") - own,
        source.busy() - at_source,
        target.busy() - at_target,
    );
    runtime.block_on(copy.until_streaming())?;
    stop.store(true, Ordering::Relaxed);
    if let Some(writer) = writer {
        writer.join().map_err(|_| "the writer has failed")??;
    }
    let now = copy.progress();
    assert_eq!((now.phase, now.restarts), (Phase::Streaming, 0));
    let keys = now.keys as f64;
    println!(
        "{} keys, {:.1} MB of snapshot in {took:?}: {:.0} keys/s, {:.1} MB/s; CPU per key: here {:.2} us, source {:.2} us, target {:.2} us; peak memory {} MB",
        now.keys,
        now.bytes as f64 / 1e6,
        keys / took.as_secs_f64(),
        now.bytes as f64 / 1e6 / took.as_secs_f64(),
        own * 1e6 / keys,
        at_source * 1e6 / keys,
        at_target * 1e6 / keys,
        peak_memory() / 1024,
    );
    for (what, probe) in ["source", "target"].iter().zip(probes) {
        let all = probe.join().map_err(|_| "a probe has failed")??;
        println!("  PING of the {what}: {}", show(&all));
    }
    println!("  fork of the source: {} us", source.info("latest_fork_usec")?);
    if args.verify {
        let key = format!("key:{}", args.keys - 1);
        verify::verify(args, [source, &target], &runtime, &copy, &key)?;
    }
    Ok(runtime.block_on(copy.stop())?)
}

/// The same keys by `MIGRATE … COPY`, `at_once` in a call, one call behind the other, as tools do it.
fn migrate(args: &Args, source: &Node, at_once: u32) -> Result<()> {
    let target = Node::start("migrated")?;
    let stop = Arc::new(AtomicBool::new(false));
    let probes = [source.socket(), target.socket()].map(|socket| {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || probe(&socket, &stop))
    });
    let mut stream = UnixStream::connect(source.socket())?;
    let (own, at_source, at_target) = (busy("/proc/self/stat"), source.busy(), target.busy());
    let begin = Instant::now();
    stream.write_all(b"SELECT 3\r\n")?;
    let mut reply = [0; 512];
    let count = stream.read(&mut reply)?;
    if !reply[..count].starts_with(b"+OK") {
        return Err("no database 3".into());
    }
    for first in (0..args.keys).step_by(at_once as usize) {
        let names: Vec<String> = (first..args.keys.min(first + at_once))
            .map(|n| format!("key:{n}"))
            .collect();
        let port = target.port.to_string();
        let mut words: Vec<&[u8]> = vec![b"MIGRATE", b"127.0.0.1", port.as_bytes(), b"", b"13", b"60000"];
        words.extend([&b"COPY"[..], b"REPLACE", b"KEYS"]);
        words.extend(names.iter().map(String::as_bytes));
        let mut frame = Vec::new();
        write_request(&mut frame, &words);
        stream.write_all(&frame)?;
        let count = stream.read(&mut reply)?;
        if !reply[..count].starts_with(b"+OK") {
            return Err(format!("MIGRATE: {}", String::from_utf8_lossy(&reply[..count])).into());
        }
    }
    let took = begin.elapsed();
    let keys = f64::from(args.keys);
    println!(
        "MIGRATE, {at_once} keys a call: {} keys in {took:?}: {:.0} keys/s; CPU per key: here {:.2} us, source {:.2} us, target {:.2} us",
        args.keys,
        keys / took.as_secs_f64(),
        (busy("/proc/self/stat") - own) * 1e6 / keys,
        (source.busy() - at_source) * 1e6 / keys,
        (target.busy() - at_target) * 1e6 / keys,
    );
    stop.store(true, Ordering::Relaxed);
    for (what, probe) in ["source", "target"].iter().zip(probes) {
        let all = probe.join().map_err(|_| "a probe has failed")??;
        println!("  PING of the {what}: {}", show(&all));
    }
    Ok(())
}

fn write_on(socket: &Path, writes: u32, stop: &AtomicBool) -> Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    let mut frames = Vec::new();
    write_request(&mut frames, &[&b"SELECT"[..], b"3"]);
    stream.write_all(&frames)?;
    let (mut chunk, begin, mut written) = (vec![0; 1 << 16], Instant::now(), 0_u32);
    while !stop.load(Ordering::Relaxed) {
        let due = begin.elapsed().as_millis() * u128::from(writes) / 1_000;
        let due = u32::try_from(due).unwrap_or(u32::MAX);
        let count = due.saturating_sub(written).min(1_000);
        frames.clear();
        for n in written..written + count {
            write_request(
                &mut frames,
                &[
                    &b"SET"[..],
                    format!("key:{}", n % 100_000).as_bytes(),
                    &[b'w'; 100],
                ],
            );
        }
        written += count;
        stream.write_all(&frames)?;
        let mut lines = 0;
        while lines < count as usize {
            let read = stream.read(&mut chunk)?;
            if read == 0 {
                return Err("the source has closed the connection".into());
            }
            lines += memchr::memchr_iter(b'\n', &chunk[..read]).count();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("  {written} writes meanwhile");
    Ok(())
}
