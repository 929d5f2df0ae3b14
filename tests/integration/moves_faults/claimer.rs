//! Clients with connections of their own while shards move: one that watches what it changes, one that waits for what it pushes.
//!
//! Neither may ever be served by a node that has given its shards away: a transaction there would be acknowledged and lost, and an
//! element popped there is popped once more where the shards are.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::harness::{Client, Reply, StopAtEnd, key_in, wire};

/// Between two rounds.
const PACE: Duration = Duration::from_millis(12);
/// Longer than every limit of the proxy.
const REPLY_MAX: Duration = Duration::from_secs(45);

/// What it does again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `WATCH`, `GET`, `MULTI`, `SET` one more, `EXEC`.
    Watch,
    /// `BLPOP` without end over one connection, then `RPUSH` over another.
    Wait,
}

/// One client, and all it knows.
#[derive(Debug)]
pub(super) struct Claimer {
    /// The proxy it began with.
    pub(super) home: usize,
    key: String,
    way: Way,
    /// Acknowledged increments, or pushed numbers.
    done: BTreeSet<i64>,
    /// Increments or pushes of which nobody knows whether they ran.
    doubtful: BTreeSet<i64>,
    popped: BTreeSet<i64>,
    /// Waits that ended without a word of what they took.
    untold: usize,
    next: i64,
    pub(super) errors: Vec<(Instant, String)>,
    pub(super) lost: usize,
}

/// The proxy that each begins with, and what it does.
const CLAIMERS: [(usize, Way); 4] = [(0, Way::Watch), (1, Way::Watch), (0, Way::Wait), (1, Way::Wait)];

/// Clients with connections of their own, beside whatever is done: what came of that, and they.
pub(super) fn under_claimers<T>(proxies: &[SocketAddr], work: impl FnOnce() -> T) -> (T, Vec<Claimer>) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stopping = StopAtEnd(&stop);
        let claimers: Vec<_> = (CLAIMERS.into_iter().zip(0..))
            .map(|((home, way), shard)| {
                let claimer = Claimer::new(home, way, key_in(shard, 8, &format!("claim{shard}-")));
                let stop = &stop;
                scope.spawn(move || claimer.run(proxies, stop))
            })
            .collect();
        let done = work();
        drop(stopping);
        let claimers = claimers.into_iter().map(|claimer| claimer.join().unwrap());
        (done, claimers.collect())
    })
}

impl Claimer {
    fn new(home: usize, way: Way, key: String) -> Self {
        Self {
            home,
            key,
            way,
            done: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            popped: BTreeSet::new(),
            untold: 0,
            next: 0,
            errors: Vec::new(),
            lost: 0,
        }
    }

    /// Works until it is told to stop; at its own proxy, or at another one while that is away.
    fn run(mut self, proxies: &[SocketAddr], stop: &AtomicBool) -> Self {
        let mut turn = self.home;
        let mut clients: Option<(Client, Client)> = None;
        while !stop.load(Relaxed) {
            std::thread::park_timeout(PACE);
            let Some((one, other)) = clients.as_mut() else {
                let proxy = proxies[turn % proxies.len()];
                turn += 1;
                if let (Ok(mut one), Ok(mut other)) = (Client::try_connect(proxy), Client::try_connect(proxy))
                {
                    (one.limit, other.limit) = (REPLY_MAX, REPLY_MAX);
                    clients = Some((one, other));
                }
                continue;
            };
            let round = match self.way {
                Way::Watch => self.watch(one),
                Way::Wait => self.wait(one, other),
            };
            if round.is_err() {
                self.lost += 1;
                (clients, turn) = (None, self.home);
            }
        }
        self
    }

    /// One more, if nobody has changed it.
    fn watch(&mut self, client: &mut Client) -> std::io::Result<()> {
        let key = self.key.clone();
        let watched = ask(client, &["WATCH", &key])?;
        let value = ask(client, &["GET", &key])?;
        let (Reply::Simple(_), Reply::Bulk(_) | Reply::Null) = (&watched, &value) else {
            self.told(&[watched, value]);
            // Nothing is changed, and nothing is watched any more.
            return ask(client, &["UNWATCH"]).map(|_| ());
        };
        let before: i64 = match &value {
            Reply::Null => 0,
            value => value.text().parse().unwrap(),
        };
        let known = self.done.len() as i64..=(self.done.len() + self.doubtful.len()) as i64;
        assert!(known.contains(&before), "{key}: {before} is read, not {known:?}");
        self.next += 1;
        self.doubtful.insert(self.next);
        for words in [
            &["MULTI"][..],
            &["SET", &key, &(before + 1).to_string()],
            &["EXEC"],
        ] {
            client.try_send(&wire::frame(words))?;
        }
        let replies = [reply(client)?, reply(client)?, reply(client)?];
        match &replies[2] {
            Reply::Array(_) => {
                self.doubtful.remove(&self.next);
                self.done.insert(self.next);
            }
            // Nothing has run: it may have moved.
            Reply::Null => {
                self.doubtful.remove(&self.next);
            }
            _ => self.told(&replies),
        }
        Ok(())
    }

    /// What is waited for is pushed.
    fn wait(&mut self, waits: &mut Client, pushes: &mut Client) -> std::io::Result<()> {
        let key = self.key.clone();
        self.untold += 1;
        waits.try_send(&wire::frame(&["BLPOP", &key, "0"]))?;
        std::thread::park_timeout(PACE);
        // Until something is there for certain the other one may wait for ever.
        loop {
            self.next += 1;
            let number = self.next;
            self.doubtful.insert(number);
            let pushed = ask(pushes, &["RPUSH", &key, &number.to_string()])?;
            if let Reply::Int(_) = pushed {
                self.doubtful.remove(&number);
                self.done.insert(number);
                break;
            }
            self.told(&[pushed]);
            std::thread::park_timeout(PACE);
        }
        match reply(waits)? {
            Reply::Array(items) => {
                self.untold -= 1;
                let number: i64 = items[1].text().parse().unwrap();
                assert!(self.popped.insert(number), "{key}: {number} is popped twice");
            }
            other => {
                let ran = other.error().is_some_and(|error| error.starts_with("UNCERTAIN"));
                self.untold -= usize::from(!ran);
                self.told(&[other]);
            }
        }
        Ok(())
    }

    fn told(&mut self, replies: &[Reply]) {
        self.errors.push((Instant::now(), format!("{replies:?}")));
    }

    /// What was acknowledged is there, or has been taken out once.
    pub(super) fn check(&mut self, client: &mut Client) {
        let (key, done, doubtful) = (&self.key, self.done.len(), self.doubtful.len());
        assert!(done > 10, "{key}: hardly anything was done: {self:?}");
        match self.way {
            Way::Watch => {
                let value: usize = client.call(&["GET", key]).text().parse().unwrap();
                assert!(
                    (done..=done + doubtful).contains(&value),
                    "{key}: {value} of {done} transactions, and {doubtful} in doubt"
                );
            }
            Way::Wait => {
                for left in client.call(&["LRANGE", key, "0", "-1"]).items() {
                    let number = left.text().parse().unwrap();
                    assert!(
                        self.popped.insert(number),
                        "{key}: {number} is there, and was popped"
                    );
                }
                let missing = self.done.difference(&self.popped).count();
                assert!(
                    missing <= self.untold,
                    "{key}: {missing} elements are gone, and {} waits were not told what they took",
                    self.untold
                );
            }
        }
    }
}

fn ask(client: &mut Client, words: &[&str]) -> std::io::Result<Reply> {
    client.try_send(&wire::frame(words))?;
    reply(client)
}

fn reply(client: &mut Client) -> std::io::Result<Reply> {
    Ok(wire::decode(&client.try_reply_bytes()?))
}
