//! A node that is a script: as much of Redis as preshard asks for, and one trick for one key when told so.
//!
//! ```text
//!  proxy ──requests──▶ [ AUTH HELLO CLIENT SELECT INFO CONFIG GET MGET SET ] ──replies──▶ proxy
//!                        the first GET of the armed key, or SELECT of the armed database, is played the trick
//! ```

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What happens instead of the plain reply.
#[derive(Debug, Clone)]
pub(crate) enum Trick {
    /// The first bytes of the reply, then the end of the connection.
    Cut(usize),
    /// The first bytes of the reply, then a reset.
    Reset(usize),
    /// The reply one byte at a time, this long apart.
    Drip(Duration),
    /// The reply when [`FakeNode::release`] is called, and all others of the connection behind it.
    Hold,
    /// The reply twice.
    Twice,
    /// No reply.
    Nothing,
    /// Other bytes.
    Instead(Arc<Vec<u8>>),
}

/// A listening fake node; its threads end with their connections.
#[derive(Debug)]
pub(crate) struct FakeNode {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// Values by database and key.
type Data = BTreeMap<(u16, Vec<u8>), Vec<u8>>;

#[derive(Debug, Default)]
struct Shared {
    data: Mutex<Data>,
    trick: Mutex<Option<(Vec<u8>, Trick)>>,
    bad_select: Mutex<Option<u16>>,
    /// A connection that gives itself a name is answered twice.
    names_doubled: AtomicBool,
    played: AtomicU32,
    /// Connections that gave themselves a worker's name.
    links: AtomicU32,
    released: Mutex<bool>,
    release: Condvar,
    done: AtomicBool,
}

// === impl FakeNode ===

impl FakeNode {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if accepting.done.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || Connection::new(shared, &stream).serve());
            }
        });
        Self { address, shared }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Plays a trick on the next GET of `key`.
    pub(crate) fn arm(&self, key: &str, trick: Trick) {
        *self.shared.released.lock().unwrap() = false;
        *self.shared.trick.lock().unwrap() = Some((key.as_bytes().to_vec(), trick));
    }

    /// The next SELECT of `db` is refused.
    pub(crate) fn refuse_select(&self, db: u16) {
        *self.shared.bad_select.lock().unwrap() = Some(db);
    }

    /// Whether new connections get a reply too many while they are made.
    pub(crate) fn double_names(&self, doubled: bool) {
        self.shared.names_doubled.store(doubled, Ordering::SeqCst);
    }

    /// Lets a held reply go.
    pub(crate) fn release(&self) {
        *self.shared.released.lock().unwrap() = true;
        self.shared.release.notify_all();
    }

    /// How many tricks were played.
    pub(crate) fn played(&self) -> u32 {
        self.shared.played.load(Ordering::SeqCst)
    }

    /// How many links workers have opened so far.
    pub(crate) fn links(&self) -> u32 {
        self.shared.links.load(Ordering::SeqCst)
    }

    pub(crate) fn put(&self, db: u16, key: &str, value: &[u8]) {
        let entry = ((db, key.as_bytes().to_vec()), value.to_vec());
        self.shared.data.lock().unwrap().extend([entry]);
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::Relaxed);
        self.release();
        let _ = TcpStream::connect(self.address);
    }
}

/// One connection: its selected database, as Redis has it, is all its state.
struct Connection<'a> {
    shared: Arc<Shared>,
    stream: &'a TcpStream,
    db: u16,
    open: bool,
}

// === impl Connection ===

impl<'a> Connection<'a> {
    fn new(shared: Arc<Shared>, stream: &'a TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self {
            shared,
            stream,
            db: 0,
            open: true,
        }
    }

    fn serve(mut self) {
        let mut reader = BufReader::new(self.stream);
        while let Some(words) = request(&mut reader) {
            let reply = self.reply_to(&words);
            self.give(&words, &reply);
            if !self.open {
                return;
            }
        }
    }

    fn reply_to(&mut self, words: &[Vec<u8>]) -> Vec<u8> {
        let name = String::from_utf8_lossy(&words[0]).to_ascii_uppercase();
        let key = |place: usize| (self.db, words[place].clone());
        match name.as_str() {
            "AUTH" => b"+OK\r\n".to_vec(),
            "HELLO" => b"%1\r\n$5\r\nproto\r\n:3\r\n".to_vec(),
            "CLIENT" => {
                self.shared.links.fetch_add(1, Ordering::SeqCst);
                let doubled = self.shared.names_doubled.load(Ordering::SeqCst);
                b"+OK\r\n".repeat(1 + usize::from(doubled))
            }
            "SELECT" => self.select(&words[1]),
            "INFO" => bulk(b"redis_version:7.0.15\r\nrole:master\r\nloading:0\r\ncluster_enabled:0\r\n"),
            "CONFIG" => b"*2\r\n$9\r\ndatabases\r\n$2\r\n16\r\n".to_vec(),
            "GET" => match self.shared.data.lock().unwrap().get(&key(1)) {
                Some(value) => bulk(value),
                None => b"$-1\r\n".to_vec(),
            },
            "MGET" => {
                let data = self.shared.data.lock().unwrap();
                let values = (1..words.len()).map(|place| data.get(&key(place)));
                let mut reply = format!("*{}\r\n", words.len() - 1).into_bytes();
                values.for_each(|value| {
                    reply.extend(value.map_or_else(|| b"$-1\r\n".to_vec(), |value| bulk(value)))
                });
                reply
            }
            // Nobody else writes here, so what is said within a transaction is done at once.
            "WATCH" | "UNWATCH" | "MULTI" | "DISCARD" => b"+OK\r\n".to_vec(),
            "EXEC" => b"*1\r\n+OK\r\n".to_vec(),
            "ECHO" => bulk(&words[1]),
            // Whatever the script: the value of its first key.
            "EVAL" => match self.shared.data.lock().unwrap().get(&key(3)) {
                Some(value) => bulk(value),
                None => b"$-1\r\n".to_vec(),
            },
            "SET" => {
                self.shared.data.lock().unwrap().insert(key(1), words[2].clone());
                b"+OK\r\n".to_vec()
            }
            other => format!("-ERR unknown command '{other}'\r\n").into_bytes(),
        }
    }

    fn select(&mut self, db: &[u8]) -> Vec<u8> {
        let db: u16 = String::from_utf8_lossy(db).parse().unwrap();
        if self
            .shared
            .bad_select
            .lock()
            .unwrap()
            .take_if(|bad| *bad == db)
            .is_some()
        {
            self.shared.played.fetch_add(1, Ordering::SeqCst);
            return b"-ERR DB index is out of range\r\n".to_vec();
        }
        self.db = db;
        b"+OK\r\n".to_vec()
    }

    fn give(&mut self, words: &[Vec<u8>], reply: &[u8]) {
        let name = words[0].to_ascii_uppercase();
        let key = match name.as_slice() {
            b"GET" | b"MGET" => words.get(1),
            b"EVAL" => words.get(3),
            _ => None,
        };
        let armed = self
            .shared
            .trick
            .lock()
            .unwrap()
            .take_if(|(armed, _)| key == Some(&*armed));
        let Some((_, trick)) = armed else {
            self.write(reply);
            return;
        };
        self.shared.played.fetch_add(1, Ordering::SeqCst);
        match trick {
            Trick::Cut(count) => {
                self.write(&reply[..count]);
                let _ = self.stream.shutdown(Shutdown::Both);
                self.open = false;
            }
            Trick::Reset(count) => {
                self.write(&reply[..count]);
                let _ = socket2::SockRef::from(self.stream).set_linger(Some(Duration::ZERO));
                self.open = false;
            }
            Trick::Drip(pause) => reply.chunks(1).for_each(|byte| {
                self.write(byte);
                std::thread::park_timeout(pause);
            }),
            Trick::Hold => {
                let released = self.shared.released.lock().unwrap();
                let limit = Duration::from_secs(60);
                let waited = self
                    .shared
                    .release
                    .wait_timeout_while(released, limit, |released| !*released);
                drop(waited);
                self.write(reply);
            }
            Trick::Twice => {
                self.write(&[reply, reply].concat());
            }
            Trick::Nothing => {}
            Trick::Instead(bytes) => self.write(&bytes),
        }
    }

    /// The proxy may have closed already.
    fn write(&mut self, bytes: &[u8]) {
        if self.stream.write_all(bytes).is_err() {
            self.open = false;
        }
    }
}

fn bulk(value: &[u8]) -> Vec<u8> {
    let mut bytes = format!("${}\r\n", value.len()).into_bytes();
    bytes.extend_from_slice(value);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// The words of the next request; none when the connection ends. Requests of the proxy are canonical.
fn request(reader: &mut impl BufRead) -> Option<Vec<Vec<u8>>> {
    let count = header(reader, b'*')?;
    (0..count)
        .map(|_| {
            let mut word = vec![0; header(reader, b'$')? + 2];
            reader.read_exact(&mut word).ok()?;
            assert!(word.ends_with(b"\r\n"), "a bulk that ends elsewhere: {word:?}");
            word.truncate(word.len() - 2);
            Some(word)
        })
        .collect()
}

fn header(reader: &mut impl BufRead, kind: u8) -> Option<usize> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).ok()?;
    if line.is_empty() {
        return None;
    }
    assert_eq!(
        line[0],
        kind,
        "a frame that is not canonical: {}",
        line.escape_ascii()
    );
    let digits = line[1..].strip_suffix(b"\r\n")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
