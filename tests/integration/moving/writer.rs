//! A writer of one list, who knows what was acknowledged, what is in doubt, and how long he waited.
//!
//! An error and a lost connection leave a write in doubt: it may be there, once, at any place (a node that stood still reads what
//! was sent to it before the connection was closed). What was acknowledged is there once, in its order, whatever happens.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::harness::{Client, Reply};

/// Between two requests of a writer.
const PACE: Duration = Duration::from_millis(4);
/// Longer than every limit of the proxy.
const REPLY_MAX: Duration = Duration::from_secs(45);
const SCRIPT: &str = "return redis.call('RPUSH', KEYS[1], ARGV[1])";

/// One writer, and all it knows.
#[derive(Debug)]
pub(crate) struct Writer {
    /// The proxy it began with.
    pub(crate) home: usize,
    pub(crate) key: String,
    how: usize,
    acknowledged: Vec<i64>,
    written: Arc<AtomicI64>,
    doubtful: BTreeSet<i64>,
    next: i64,
    /// What it was told instead of a reply to a write, and when.
    pub(crate) errors: Vec<(Instant, String)>,
    /// Connections that it lost.
    pub(crate) lost: usize,
    /// Waits for one reply that were long: when they ended, and how long they were.
    pub(crate) waits: Vec<(Instant, Duration)>,
}

impl Writer {
    pub(crate) fn new(home: usize, how: usize, key: String) -> Self {
        Self {
            home,
            key,
            how,
            acknowledged: Vec::new(),
            written: Arc::default(),
            doubtful: BTreeSet::new(),
            next: 0,
            errors: Vec::new(),
            lost: 0,
            waits: Vec::new(),
        }
    }

    /// How much was acknowledged, as it grows.
    pub(crate) fn written(&self) -> Arc<AtomicI64> {
        Arc::clone(&self.written)
    }

    /// Writes until it is told to stop; to its own proxy, or to another one while that is away.
    pub(crate) fn run(mut self, proxies: &[SocketAddr], stop: &AtomicBool) -> Self {
        let mut client: Option<Client> = None;
        let mut turn = self.home;
        while !stop.load(Relaxed) {
            let Some(open) = client.as_mut() else {
                client = Client::try_connect(proxies[turn % proxies.len()]).ok();
                turn += 1;
                if let Some(open) = client.as_mut() {
                    open.limit = REPLY_MAX;
                }
                std::thread::park_timeout(PACE);
                continue;
            };
            let begun = Instant::now();
            if self.write(open).is_err() {
                self.lost += 1;
                (client, turn) = (None, self.home);
            }
            if begun.elapsed() > Duration::from_millis(100) {
                self.waits.push((Instant::now(), begun.elapsed()));
            }
            std::thread::park_timeout(PACE);
        }
        self
    }

    /// Some writes in one of four ways; an error is a connection that was lost.
    fn write(&mut self, client: &mut Client) -> std::io::Result<()> {
        match self.how % 4 {
            0 => {
                let number = self.number();
                self.send(client, &["RPUSH", "", &number.to_string()])?;
                self.judge(number, &reply(client)?);
                self.send(client, &["LINDEX", "", "-1"])?;
                self.read(&reply(client)?);
            }
            1 => {
                let numbers: Vec<i64> = (0..8).map(|_| self.number()).collect();
                for number in &numbers {
                    self.send(client, &["RPUSH", "", &number.to_string()])?;
                }
                for number in numbers {
                    self.judge(number, &reply(client)?);
                }
            }
            2 => {
                let (one, two) = (self.number(), self.number());
                self.send(client, &["MULTI"])?;
                self.send(client, &["RPUSH", "", &one.to_string()])?;
                self.send(client, &["RPUSH", "", &two.to_string()])?;
                self.send(client, &["EXEC"])?;
                let mut replies = Vec::new();
                for _ in 0..4 {
                    replies.push(reply(client)?);
                }
                match &replies[3] {
                    Reply::Array(items) => {
                        self.judge(one, &items[0]);
                        self.judge(two, &items[1]);
                    }
                    other => {
                        let told = replies.iter().find_map(Reply::error).unwrap_or("no array");
                        self.errors
                            .push((Instant::now(), format!("{told} … EXEC: {other:?}")));
                    }
                }
            }
            _ => {
                let number = self.number();
                self.send(client, &["EVAL", SCRIPT, "1", "", &number.to_string()])?;
                self.judge(number, &reply(client)?);
            }
        }
        Ok(())
    }

    /// The next number, in doubt until it is acknowledged.
    fn number(&mut self) -> i64 {
        let number = self.next;
        self.next += 1;
        self.doubtful.insert(number);
        number
    }

    /// An empty word stands for the key.
    fn send(&self, client: &mut Client, words: &[&str]) -> std::io::Result<()> {
        let words: Vec<&str> = words
            .iter()
            .map(|&word| if word.is_empty() { &*self.key } else { word })
            .collect();
        client.try_send(&crate::harness::wire::frame(&words))
    }

    fn judge(&mut self, number: i64, reply: &Reply) {
        match reply {
            Reply::Int(length) => {
                self.doubtful.remove(&number);
                self.acknowledged.push(number);
                self.written.fetch_add(1, Relaxed);
                let least = self.acknowledged.len() as i64;
                let most = least + self.doubtful.len() as i64;
                assert!(
                    (least..=most).contains(length),
                    "{}: {length} elements behind {number}, not {least} to {most}",
                    self.key
                );
            }
            other => self.errors.push((Instant::now(), format!("{other:?}"))),
        }
    }

    /// What is last must be the last that was acknowledged, or in doubt.
    fn read(&mut self, reply: &Reply) {
        match reply {
            Reply::Bulk(_) => {
                let last: i64 = reply.text().parse().unwrap();
                let known = self.doubtful.contains(&last) || self.acknowledged.last() == Some(&last);
                assert!(known, "{}: {last} is read, of the past", self.key);
            }
            Reply::Null => assert!(
                self.acknowledged.is_empty(),
                "{}: nothing is read, of the past",
                self.key
            ),
            other => self.errors.push((Instant::now(), format!("{other:?}"))),
        }
    }

    /// Nothing may be in doubt, since nobody got an error.
    pub(crate) fn check_all(&self, client: &mut Client) {
        assert!(self.errors.is_empty() && self.lost == 0, "{self:?}");
        assert!(self.doubtful.is_empty(), "{self:?}");
        self.check(client);
    }

    /// What is stored is what was acknowledged, in its order; and perhaps what is in doubt, each once.
    pub(crate) fn check(&self, client: &mut Client) {
        let stored = client.call(&["LRANGE", &self.key, "0", "-1"]).items();
        let stored: Vec<i64> = stored.iter().map(|item| item.text().parse().unwrap()).collect();
        let unique: BTreeSet<i64> = stored.iter().copied().collect();
        let key = &self.key;
        assert_eq!(unique.len(), stored.len(), "{key}: something is there twice");
        let certain: Vec<i64> = stored
            .into_iter()
            .filter(|number| !self.doubtful.contains(number))
            .collect();
        let lost: Vec<&i64> = self
            .acknowledged
            .iter()
            .filter(|number| !unique.contains(number))
            .collect();
        assert!(lost.is_empty(), "{key}: acknowledged and not there: {lost:?}");
        assert_eq!(certain, self.acknowledged, "{key}: another order");
        assert!(
            self.acknowledged.len() > 20,
            "{key}: hardly anything was written: {self:?}"
        );
    }
}

fn reply(client: &mut Client) -> std::io::Result<Reply> {
    Ok(crate::harness::wire::decode(&client.try_reply_bytes()?))
}
