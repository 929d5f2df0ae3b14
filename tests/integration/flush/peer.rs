//! Something that speaks like preshard to a flusher, in RESP2, and can be told to answer otherwise.
//!
//! It keeps counters in memory by the same rules (one batch outstanding of each shard, immutable, leased), so that what it is told
//! to do wrong is the only thing that is wrong.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SHARDS: usize = 4;

/// What is done with a request instead of answering it.
#[derive(Debug, Clone)]
pub(crate) enum Say {
    /// It does not run; this line is the answer.
    Instead(&'static str),
    /// It runs; this line is the answer.
    After(&'static str),
}

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    shards: Vec<Shard>,
    /// What is said to the next requests of a command.
    script: BTreeMap<String, VecDeque<Say>>,
    seen: BTreeMap<String, u64>,
    /// Added to each sequence number; may be negative, as a clock that is behind.
    seq_offset: i64,
    clock: i64,
}

#[derive(Debug, Default, Clone)]
struct Shard {
    pending: BTreeMap<String, i64>,
    leased: BTreeMap<String, i64>,
    seq: i64,
    prev: i64,
    attempt: i64,
    until: Option<Instant>,
}

impl Peer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            shards: vec![Shard::default(); SHARDS],
            clock: 1_000_000,
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(&stream, &state));
            }
        });
        Self { address, state }
    }

    pub(crate) fn count(&self, member: &str, delta: i64) {
        let mut state = self.state.lock().unwrap();
        let shard = member.bytes().map(usize::from).sum::<usize>() % SHARDS;
        *state.shards[shard].pending.entry(member.to_owned()).or_default() += delta;
    }

    /// The next request of `command` is answered so.
    pub(crate) fn say(&self, command: &str, say: Say) {
        let mut state = self.state.lock().unwrap();
        state.script.entry(command.to_owned()).or_default().push_back(say);
    }

    /// How many requests of a command have come.
    pub(crate) fn seen(&self, command: &str) -> u64 {
        self.state
            .lock()
            .unwrap()
            .seen
            .get(command)
            .copied()
            .unwrap_or_default()
    }

    /// Whether nothing is left.
    pub(crate) fn is_drained(&self) -> bool {
        let state = self.state.lock().unwrap();
        state
            .shards
            .iter()
            .all(|shard| shard.pending.is_empty() && shard.leased.is_empty())
    }

    /// All leases are over.
    pub(crate) fn forget_leases(&self) {
        let mut state = self.state.lock().unwrap();
        state.shards.iter_mut().for_each(|shard| shard.until = None);
    }

    /// Forgets its history, and sets its clock.
    pub(crate) fn forget(&self, seq_offset: i64) {
        let mut state = self.state.lock().unwrap();
        state.seq_offset = seq_offset;
        for shard in &mut state.shards {
            (shard.seq, shard.prev) = (0, 0);
        }
    }

    /// Goes back to an earlier state.
    pub(crate) fn snapshot(&self) -> impl Fn(&Self) + use<> {
        let shards = self.state.lock().unwrap().shards.clone();
        move |peer| peer.state.lock().unwrap().shards.clone_from(&shards)
    }
}

fn serve(mut stream: &TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(words) = request(&mut reader) {
        let answer = state.lock().unwrap().answer(&words);
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn request(reader: &mut impl BufRead) -> Option<Vec<String>> {
    let mut line = String::new();
    let mut number = |reader: &mut dyn BufRead| {
        line.clear();
        reader.read_line(&mut line).ok()?;
        line.trim_end().get(1..)?.parse::<usize>().ok()
    };
    let mut words = Vec::new();
    for _ in 0..number(reader)? {
        let mut bytes = vec![0; number(reader)? + 2];
        reader.read_exact(&mut bytes).ok()?;
        bytes.truncate(bytes.len() - 2);
        words.push(String::from_utf8(bytes).ok()?);
    }
    Some(words)
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

impl State {
    fn answer(&mut self, words: &[String]) -> String {
        let command = words[0].as_str();
        *self.seen.entry(command.to_owned()).or_default() += 1;
        let say = self.script.get_mut(command).and_then(VecDeque::pop_front);
        if let Some(Say::Instead(line)) = say {
            return format!("{line}\r\n");
        }
        let answer = match command {
            "COUNTER.TAKE" => self.take(words),
            "COUNTER.ACK" => self.each(&words[2..], |shard| {
                shard.leased.clear();
                shard.until = None;
            }),
            "COUNTER.LEASE" => {
                let time = Duration::from_millis(words[2].parse().unwrap());
                self.each(&words[3..], |shard| shard.until = Some(Instant::now() + time))
            }
            "COUNTER.PENDING" => format!("*2\r\n{}:{}\r\n", bulk("members"), self.shards.len()),
            "CLIENT" => "+OK\r\n".to_owned(),
            _ => "-ERR unknown command\r\n".to_owned(),
        };
        match say {
            Some(Say::After(line)) => format!("{line}\r\n"),
            _ => answer,
        }
    }

    fn take(&mut self, words: &[String]) -> String {
        let lease = words.iter().position(|word| word == "LEASE").unwrap();
        let lease = Duration::from_millis(words[lease + 1].parse().unwrap());
        let now = Instant::now();
        let mut batches = Vec::new();
        for (number, shard) in self.shards.iter_mut().enumerate() {
            if shard.leased.is_empty() {
                if shard.pending.is_empty() {
                    continue;
                }
                shard.leased = std::mem::take(&mut shard.pending);
                self.clock += 1;
                shard.prev = shard.seq;
                shard.seq = (shard.seq + 1).max(self.clock + self.seq_offset);
                shard.attempt = 0;
            } else if shard.until.is_some_and(|until| now < until) {
                continue;
            }
            shard.until = Some(now + lease);
            shard.attempt += 1;
            let entries: String = shard
                .leased
                .iter()
                .map(|(member, delta)| format!("{}:{delta}\r\n", bulk(member)))
                .collect();
            batches.push(format!(
                "*4\r\n{}:{}\r\n*{}\r\n{entries}{}",
                bulk(&format!("{number}-{}", shard.seq)),
                shard.attempt,
                2 * shard.leased.len(),
                bulk(&shard.prev.to_string())
            ));
        }
        format!("*{}\r\n{}", batches.len(), batches.concat())
    }

    fn each(&mut self, ids: &[String], change: impl Fn(&mut Shard)) -> String {
        let mut changed = 0;
        for id in ids {
            let (shard, seq) = id.split_once('-').unwrap();
            let shard = &mut self.shards[shard.parse::<usize>().unwrap()];
            if shard.seq.to_string() == seq && !shard.leased.is_empty() {
                change(shard);
                changed += 1;
            }
        }
        format!(":{changed}\r\n")
    }
}
