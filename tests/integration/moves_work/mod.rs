//! Clients of all kinds at work while shards go there and back between two nodes, through three proxies: each of them knows what it
//! must find, and nobody gets an error.
//!
//! ```text
//!  values · queues  ─▶ 3 proxies, one etcd ─▶ 2 redis-servers       0-3 ─▶ node-2, 2-6 ─▶ node-1, … ; every third move lags
//! ```
//!
//! `PRESHARD_WORK_MOVES=300` goes on longer.

mod queues;
mod values;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::harness::{Client, Etcd, Node, NodeOptions, Proxy, Setup, key_in};
use crate::moving::{field, order, tell, until_moved, until_ready, until_users};

/// Between two things that a client does.
const PACE: Duration = Duration::from_millis(3);
/// How long the target stands still in a move that lags: longer than the expiries that are refreshed meanwhile.
const LAG: Duration = Duration::from_secs(3);

/// One client at work.
type Job<'a> = Box<dyn FnOnce() + Send + 'a>;

/// Where the work is done.
struct Site {
    proxies: Vec<SocketAddr>,
    /// Clients begin no more.
    stop: AtomicBool,
    /// Producers have stopped, so consumers may leave when nothing is left.
    drained: AtomicBool,
}

impl Site {
    fn client(&self, proxy: usize) -> Client {
        Client::connect(self.proxies[proxy % self.proxies.len()])
    }

    /// Whether work goes on; waits a little before it does.
    fn goes_on(&self) -> bool {
        thread::park_timeout(PACE);
        !self.stop.load(Relaxed)
    }
}

/// A key `name…` in one of eight shards.
fn key(shard: u16, name: &str) -> String {
    key_in(shard, 8, name)
}

fn moves() -> usize {
    let named = std::env::var("PRESHARD_WORK_MOVES");
    named.map_or(6, |number| number.parse().expect("a number of moves"))
}

/// Moves shards, and waits until they are there. The target may stand still while it is copied to.
fn move_shards(proxy: &Proxy, target: &Node, shards: &str, name: &str, lags: bool) -> String {
    let mut admin = proxy.admin_client();
    let manual = if lags { " MANUAL" } else { "" };
    let task = order(&mut admin, &format!("SHARD MOVE {shards} TO {name}{manual}"));
    if lags {
        until_ready(&mut admin, &task);
        target.freeze();
        let until = Instant::now() + LAG;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            thread::park_timeout(left);
        }
        target.thaw();
        tell(&mut admin, "CUTOVER", &task);
    }
    let row = until_moved(&mut admin, &task);
    tell(&mut admin, "FINALIZE", &task);
    field(&row, "pause_ms")
}

fn begin<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    jobs: Vec<Job<'scope>>,
) -> Vec<ScopedJoinHandle<'scope, ()>> {
    jobs.into_iter().map(|job| scope.spawn(job)).collect()
}

#[test]
fn clients_of_all_kinds_notice_nothing_of_moves() {
    let etcd = Etcd::start(1);
    let options = NodeOptions {
        // A target that lags behind must not be taken for a replica that is lost.
        more: vec!["--client-output-buffer-limit".into(), "replica 0 0 0".into()],
        ..NodeOptions::default()
    };
    let nodes = [Node::with(options.clone()), Node::with(options)];
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .store(&etcd.store("work"))
        .proxy("workers = 1")
        // A target stands still on purpose.
        .any_warning();
    let launched = [setup.launch(), setup.launch(), setup.launch()];
    let proxies = launched.map(|launch| setup.until_ready(launch));
    until_users(&nodes);
    let site = Site {
        proxies: proxies.iter().map(|proxy| proxy.data).collect(),
        stop: AtomicBool::new(false),
        drained: AtomicBool::new(false),
    };
    let (values, queues) = (values::Tally::prepared(&site), queues::Tally::prepared(&site));
    thread::scope(|scope| {
        let begin = |jobs| begin(scope, jobs);
        let producers = [begin(values.jobs(&site)), begin(queues.producers(&site))];
        let consumers = begin(queues.consumers(&site));
        let guard = StopAtEnd(&site);
        for number in 0..moves() {
            let (shards, target, name) = [
                ("0-3", 1, "node-2"),
                ("4-6,1,db:1", 0, "node-1"),
                ("0-6", 1, "node-2"),
                ("0-5,db:1", 0, "node-1"),
                ("db:1,0-2,4", 1, "node-2"),
                ("0-7", 0, "node-1"),
            ][number % 6];
            let pause = move_shards(
                &proxies[number % 3],
                &nodes[target],
                shards,
                name,
                number % 3 == 2,
            );
            println!("{shards} to {name}: {pause} ms");
        }
        site.stop.store(true, Relaxed);
        for producer in producers.into_iter().flatten() {
            producer.join().unwrap();
        }
        site.drained.store(true, Relaxed);
        for consumer in consumers {
            consumer.join().unwrap();
        }
        drop(guard);
    });
    values.check(&site);
    queues.check(&site);
}

/// Nobody goes on when the test has failed.
struct StopAtEnd<'a>(&'a Site);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Relaxed);
        self.0.drained.store(true, Relaxed);
    }
}
