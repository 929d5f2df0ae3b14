//! etcd goes away under load, frozen or killed: clients notice nothing, changes are refused, and all is well when it is back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::{PATIENCE, agreed_leader, change, cluster, dump, epoch, leader_of, load, rows};
use crate::harness::{Etcd, Proxy, Reply, Setup, wait_until};

#[derive(Clone, Copy)]
enum Outage {
    Frozen,
    Killed,
}

/// Increments by each of some clients of each proxy until `end`; how many were answered, all of them well.
fn load_until(proxies: &[Proxy], end: &AtomicBool, answered: &AtomicU64) {
    std::thread::scope(|scope| {
        for (number, proxy) in proxies.iter().cycle().take(6).enumerate() {
            scope.spawn(move || {
                let mut client = proxy.client();
                let key = format!("counter-{number}");
                let mut expected = 0;
                while !end.load(Ordering::Relaxed) {
                    expected += 1;
                    assert_eq!(client.call(&["INCR", &key]), Reply::Int(expected));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
}

fn outage(kind: Outage) {
    let mut etcd = Etcd::start(3);
    let (_nodes, setup) = cluster(&etcd, 8);
    let setup: Setup = setup.announce(&["store_unreachable"]);
    let proxies = [setup.start(), setup.start(), setup.start()];
    let all: Vec<&Proxy> = proxies.iter().collect();
    agreed_leader(&all);
    let document = dump(&proxies[0]);
    let (end, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| load_until(&proxies, &end, &answered));
        let guard = EndAtLast(&end);
        wait_until("the load runs", PATIENCE, || {
            answered.load(Ordering::Relaxed) > 100
        });
        for member in 0..3 {
            match kind {
                Outage::Frozen => etcd.freeze(member),
                Outage::Killed => etcd.kill(member),
            }
        }
        let start = Instant::now();
        let refused =
            load(&proxies[1], &document).expect_error("ERR the topology was not changed: the topology store");
        println!("refused after {:?}: {refused}", start.elapsed());
        wait_until("nobody leads", PATIENCE, || {
            all.iter().all(|proxy| leader_of(proxy).is_none())
        });
        wait_until("it is told", PATIENCE, || {
            all.iter().all(|proxy| {
                proxy.metric("preshard_store_up") == 0 && proxy.log().contains("store_unreachable")
            })
        });
        wait_until("nothing is known of the others", PATIENCE, || {
            rows(&proxies[0])
                .iter()
                .all(|row| row.state == if row.is_self { "live" } else { "unknown" })
        });
        let before = answered.load(Ordering::Relaxed);
        wait_until("clients are served", PATIENCE, || {
            answered.load(Ordering::Relaxed) > before + 1000
        });
        for member in 0..3 {
            match kind {
                Outage::Frozen => etcd.thaw(member),
                Outage::Killed => etcd.start_member(member),
            }
        }
        etcd.wait();
        let back = Instant::now();
        agreed_leader(&all);
        wait_until("all are listed", PATIENCE, || {
            all.iter().all(|proxy| rows(proxy).len() == 3)
        });
        println!(
            "all are listed and one leads {:?} after etcd was back",
            back.elapsed()
        );
        wait_until("a change is made", PATIENCE, || {
            change(&proxies[2]) == Reply::Simple("OK".to_owned())
        });
        drop(guard);
    });
    assert_all_well(&all);
}

/// All serve one changed topology, and nobody's request has failed.
fn assert_all_well(proxies: &[&Proxy]) {
    let now = epoch(proxies[2]);
    assert!(now > 1);
    wait_until("all serve it", PATIENCE, || {
        proxies.iter().all(|proxy| epoch(proxy) == now)
    });
    for proxy in proxies {
        assert_eq!(proxy.metric("preshard_request_errors_total"), 0);
        assert!(proxy.metric("preshard_store_errors_total") > 0);
        wait_until("it is told", PATIENCE, || proxy.log().contains("store_reachable"));
    }
}

/// Ends the load also when the test fails, which would wait for it.
struct EndAtLast<'a>(&'a AtomicBool);

impl Drop for EndAtLast<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn an_etcd_that_is_killed_as_a_whole_is_not_noticed_by_clients() {
    outage(Outage::Killed);
}

#[test]
fn an_etcd_that_hangs_as_a_whole_is_not_noticed_by_clients() {
    outage(Outage::Frozen);
}

#[test]
fn one_member_that_hangs_costs_nothing_but_a_moment() {
    let etcd = Etcd::start(3);
    let (_nodes, setup) = cluster(&etcd, 8);
    let setup = setup.announce(&["store_unreachable"]);
    let proxies = [setup.start(), setup.start()];
    let all: Vec<&Proxy> = proxies.iter().collect();
    agreed_leader(&all);
    for member in 0..3 {
        etcd.freeze(member);
        // If it was etcd's leader, there is no other one at once.
        wait_until("a change is made", PATIENCE, || {
            change(&proxies[member % 2]) == Reply::Simple("OK".to_owned())
        });
        assert_eq!(epoch(&proxies[0]), epoch(&proxies[1]));
        agreed_leader(&all);
        etcd.thaw(member);
    }
}
