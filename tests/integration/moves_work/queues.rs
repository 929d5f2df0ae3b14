//! Lists, queues that are waited for, streams with groups, and messages: each element once, in its order.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use super::{Job, Site, key};
use crate::harness::Reply;
use crate::moving::Writer;

/// Queues and streams, each in another shard.
const SHARDS: [u16; 2] = [1, 6];

/// What was sent and what came.
#[derive(Debug, Default)]
pub(super) struct Tally {
    queued: AtomicI64,
    popped: Mutex<Vec<i64>>,
    added: Mutex<BTreeSet<String>>,
    delivered: Mutex<Vec<String>>,
    published: AtomicI64,
    lists: Mutex<Vec<Writer>>,
}

impl Tally {
    pub(super) fn prepared(site: &Site) -> Self {
        let mut client = site.client(0);
        for shard in SHARDS {
            client
                .call(&["XGROUP", "CREATE", &key(shard, "stream"), "g", "$", "MKSTREAM"])
                .expect_ok();
        }
        Self::default()
    }

    pub(super) fn producers<'a>(&'a self, site: &'a Site) -> Vec<Job<'a>> {
        let mut jobs: Vec<Job<'a>> = Vec::new();
        for (number, shard) in (0..8).zip((0..8).cycle()) {
            jobs.push(Box::new(move || {
                let writer = Writer::new(number % 3, number, key(shard, &format!("list{number}-")));
                let writer = writer.run(&site.proxies, &site.stop);
                self.lists.lock().unwrap().push(writer);
            }));
        }
        for shard in SHARDS {
            jobs.push(Box::new(move || self.queue(site, shard)));
            jobs.push(Box::new(move || self.add(site, shard)));
        }
        jobs.push(Box::new(move || self.publish(site)));
        jobs
    }

    pub(super) fn consumers<'a>(&'a self, site: &'a Site) -> Vec<Job<'a>> {
        let mut jobs: Vec<Job<'a>> = Vec::new();
        for shard in SHARDS {
            for proxy in 0..2 {
                jobs.push(Box::new(move || self.pop(site, shard, proxy)));
                jobs.push(Box::new(move || self.consume(site, shard, proxy)));
            }
        }
        jobs
    }

    fn queue(&self, site: &Site, shard: u16) {
        let (mut client, key) = (site.client(usize::from(shard)), key(shard, "queue"));
        while site.goes_on() {
            let number = self.queued.fetch_add(1, Relaxed);
            client.call(&["RPUSH", &key, &number.to_string()]).int();
        }
    }

    fn pop(&self, site: &Site, shard: u16, proxy: usize) {
        let (mut client, key) = (site.client(proxy), key(shard, "queue"));
        loop {
            let last = site.drained.load(Relaxed);
            match client.call(&["BLPOP", &key, "0.5"]) {
                Reply::Null if last => return,
                Reply::Null => {}
                reply => {
                    let number = reply.items()[1].text().parse().unwrap();
                    self.popped.lock().unwrap().push(number);
                }
            }
        }
    }

    fn add(&self, site: &Site, shard: u16) {
        let (mut client, key) = (site.client(usize::from(shard) + 1), key(shard, "stream"));
        let mut number = 0;
        while site.goes_on() {
            let value = format!("{shard}-{number}");
            let reply = client.call(&["XADD", &key, "*", "n", &value]);
            assert_eq!(reply.error(), None);
            self.added.lock().unwrap().insert(value);
            number += 1;
        }
    }

    /// Reads as one of two consumers, and acknowledges each entry once.
    fn consume(&self, site: &Site, shard: u16, proxy: usize) {
        let (mut client, key) = (site.client(proxy + 1), key(shard, "stream"));
        let name = format!("c{proxy}");
        loop {
            let last = site.drained.load(Relaxed);
            let read = client.call(&[
                "XREADGROUP",
                "GROUP",
                "g",
                &name,
                "COUNT",
                "10",
                "BLOCK",
                "500",
                "STREAMS",
                &key,
                ">",
            ]);
            if read == Reply::Null {
                if last {
                    return;
                }
                continue;
            }
            assert_eq!(read.error(), None);
            for entry in read.items()[0].items()[1].items() {
                let entry = entry.items();
                let value = entry[1].items()[1].text();
                let acknowledged = client.call(&["XACK", &key, "g", &entry[0].text()]);
                assert_eq!(acknowledged, Reply::Int(1), "{value} is acknowledged once");
                self.delivered.lock().unwrap().push(value);
            }
        }
    }

    /// Numbers that another client hears in order, each once.
    fn publish(&self, site: &Site) {
        let (mut client, mut listener) = (site.client(0), site.client(2));
        listener.call(&["SUBSCRIBE", "news"]).items();
        while site.goes_on() {
            let number = self.published.fetch_add(1, Relaxed).to_string();
            assert_eq!(client.call(&["PUBLISH", "news", &number]).error(), None);
            assert_eq!(listener.reply().items()[2].text(), number);
        }
    }

    pub(super) fn check(&self, site: &Site) {
        let mut client = site.client(0);
        for writer in self.lists.lock().unwrap().iter() {
            writer.check_all(&mut client);
        }
        let mut popped = self.popped.lock().unwrap().clone();
        popped.sort_unstable();
        assert_eq!(popped, (0..self.queued.load(Relaxed)).collect::<Vec<_>>());
        let delivered = self.delivered.lock().unwrap();
        let unique: BTreeSet<String> = delivered.iter().cloned().collect();
        assert_eq!(unique.len(), delivered.len(), "an entry was delivered twice");
        assert_eq!(unique, *self.added.lock().unwrap());
        assert!(popped.len() > 50 && unique.len() > 50 && self.published.load(Relaxed) > 50);
        println!(
            "{} popped, {} delivered, {} heard",
            popped.len(),
            unique.len(),
            self.published.load(Relaxed)
        );
    }
}
