//! Writers of one list each while something is done. They stop when it is done and each of them has written some, however the test
//! ends.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use super::{PATIENCE, Writer};
use crate::harness::{Proxy, StopAtEnd, key_in, wait_until};

/// Between two requests of a writer, so that eight of them leave some of the machine to those who move.
const PACE: Duration = Duration::from_millis(2);
/// A list that is shorter at the end has hardly been written to while something was done.
const LEAST: i64 = 40;

/// Names of lists, in eight shards in turn.
pub(crate) fn lists(count: u16) -> Vec<String> {
    let name = |number: u16| key_in(number % 8, 8, &format!("list{number}-"));
    (0..count).map(name).collect()
}

/// Writes lists through a proxy, in four ways, while something is done. Nobody gets an error; afterwards every list is what was
/// acknowledged.
pub(crate) fn under_writes<T>(proxy: &Proxy, lists: &[String], work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    let counts: Vec<AtomicI64> = lists.iter().map(|_| AtomicI64::new(0)).collect();
    let done = thread::scope(|scope| {
        let stopping = StopAtEnd(&stop);
        let writers: Vec<_> = lists
            .iter()
            .zip(&counts)
            .enumerate()
            .map(|(how, (key, count))| {
                let stop = &stop;
                scope.spawn(move || write_list(proxy, key, how, stop, count))
            })
            .collect();
        let done = work();
        wait_until("each list has got longer", PATIENCE, || {
            counts.iter().all(|count| count.load(Relaxed) >= LEAST)
                || writers.iter().any(thread::ScopedJoinHandle::is_finished)
        });
        drop(stopping);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done
    });
    let mut client = proxy.client();
    client.limit = PATIENCE;
    for (key, count) in lists.iter().zip(&counts) {
        let found = client.call(&["LRANGE", key, "0", "-1"]).items();
        let found: Vec<i64> = found.iter().map(|item| item.text().parse().unwrap()).collect();
        assert_eq!(found, (0..count.load(Relaxed)).collect::<Vec<_>>(), "{key}");
    }
    done
}

/// One list: what was acknowledged is counted.
fn write_list(proxy: &Proxy, key: &str, how: usize, stop: &AtomicBool, count: &AtomicI64) {
    let mut client = if how.is_multiple_of(2) {
        proxy.client()
    } else {
        proxy.client3()
    };
    let mut sent = 0;
    while !stop.load(Relaxed) {
        match how % 4 {
            0 | 1 => {
                let reply = client.call(&["RPUSH", key, &sent.to_string()]);
                assert_eq!(reply.int(), sent + 1, "{key}");
                sent += 1;
            }
            2 => {
                for number in sent..sent + 8 {
                    client.command(&["RPUSH", key, &number.to_string()]);
                }
                for _ in 0..8 {
                    sent += 1;
                    assert_eq!(client.reply().int(), sent, "{key}");
                }
            }
            _ => {
                let script = "return redis.call('RPUSH', KEYS[1], ARGV[1])";
                let reply = client.call(&["EVAL", script, "1", key, &sent.to_string()]);
                assert_eq!(reply.int(), sent + 1, "{key}");
                sent += 1;
                client.call(&["MULTI"]).expect_ok();
                client.call(&["RPUSH", key, &sent.to_string()]);
                assert_eq!(client.call(&["EXEC"]).items()[0].int(), sent + 1, "{key}");
                sent += 1;
            }
        }
        count.store(sent, Relaxed);
        thread::park_timeout(PACE);
    }
}

/// Writes lists through several proxies, which may die, while something is done; whoever is told errors by then tells of it.
pub(crate) fn under_writers<T>(
    proxies: &[SocketAddr],
    lists: &[String],
    work: impl FnOnce() -> T,
) -> (T, Vec<Writer>) {
    let stop = AtomicBool::new(false);
    let all: Vec<Writer> = lists
        .iter()
        .enumerate()
        .map(|(number, key)| {
            let (home, way) = (number % proxies.len(), number / proxies.len());
            Writer::new(home, way + home, key.clone())
        })
        .collect();
    let written: Vec<_> = all.iter().map(Writer::written).collect();
    thread::scope(|scope| {
        let stopping = StopAtEnd(&stop);
        let writers: Vec<_> = all
            .into_iter()
            .map(|writer| {
                let stop = &stop;
                scope.spawn(move || writer.run(proxies, stop))
            })
            .collect();
        let done = work();
        wait_until("each list has got longer", PATIENCE, || {
            written.iter().all(|count| count.load(Relaxed) >= LEAST)
                || writers.iter().any(thread::ScopedJoinHandle::is_finished)
        });
        drop(stopping);
        (
            done,
            writers.into_iter().map(|writer| writer.join().unwrap()).collect(),
        )
    })
}
