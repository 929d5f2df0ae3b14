//! The etcd store itself against a real etcd: who is first wins, a lost answer is no lost write, nothing older is stored.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "a test that cannot go on should stop where it is; it stands on a part of the integration tests' harness"
)]

#[path = "etcd_store/fleet.rs"]
mod fleet;
#[path = "integration/harness/mod.rs"]
mod harness;
#[path = "etcd_store/watch.rs"]
mod watch;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use harness::Etcd;
use preshard::ids::{Epoch, NodeIndex};
use std::sync::Arc;

use preshard::store::{EtcdAccess, EtcdStore, FleetStore, StoreError, TopologyStore as _};
use preshard::topology::{Node, Topology};

fn store(endpoints: &[SocketAddr]) -> EtcdStore {
    store_within(endpoints, Duration::from_secs(5))
}

fn store_within(endpoints: &[SocketAddr], deadline: Duration) -> EtcdStore {
    let access = EtcdAccess {
        endpoints: endpoints.iter().map(ToString::to_string).collect(),
        login: None,
        deadline,
        tls: None,
    };
    EtcdStore::new(access, "/shop/")
}

/// The same store as the tasks of a proxy use it.
fn fleet_store(endpoints: &[SocketAddr]) -> Arc<dyn FleetStore> {
    Box::new(store_within(endpoints, Duration::from_secs(4)))
        .into_fleet()
        .unwrap()
}

/// Runs a test of leases and signs of life, which end on a machine that stands still: there it is made anew.
fn undisturbed<F: Future<Output = ()>>(test: impl Fn() -> F) {
    harness::undisturbed(Duration::from_millis(500), || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
    });
}

fn topology(shards: u16) -> Topology {
    let nodes = ["a:1", "b:1"].map(|address| Node {
        name: address[..1].to_owned(),
        address: address.parse().unwrap(),
    });
    Topology::seed("c".to_owned(), shards, 15, nodes.to_vec()).unwrap()
}

fn at(epoch: u64) -> Topology {
    Topology {
        epoch: Epoch(epoch),
        ..topology(1024)
    }
}

#[tokio::test]
async fn only_the_first_of_two_writers_succeeds() {
    let etcd = Etcd::start(1);
    let (mut one, mut other) = (store(&[etcd.address(0)]), store(&[etcd.address(0)]));
    assert_eq!(one.load().await.unwrap(), None);
    assert_eq!(other.load().await.unwrap(), None);
    one.save(&at(1)).await.unwrap();
    let rival = Topology {
        cluster_id: "rival".to_owned(),
        ..at(1)
    };
    let refused = other.save(&rival).await;
    assert!(matches!(refused, Err(StoreError::Changed { .. })), "{refused:?}");
    assert_eq!(other.load().await.unwrap(), Some(at(1)));
    other.save(&at(2)).await.unwrap();
    assert!(matches!(one.save(&at(3)).await, Err(StoreError::Changed { .. })));
    one.save(&at(3)).await.unwrap();
    one.save(&at(4)).await.unwrap();
    let older = one.save(&at(4)).await;
    assert!(matches!(older, Err(StoreError::Stale { .. })), "{older:?}");
    let foreign = Topology {
        cluster_id: "d".to_owned(),
        ..at(9)
    };
    let foreign = one.save(&foreign).await;
    assert!(
        matches!(foreign, Err(StoreError::OtherCluster { .. })),
        "{foreign:?}"
    );
    assert_eq!(store(&[etcd.address(0)]).load().await.unwrap(), Some(at(4)));
}

/// Passes one request on and throws the answer away, as often as it is asked.
fn swallows_answers(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut etcd) = (client.unwrap(), TcpStream::connect(to).unwrap());
            let mut request = vec![0; 1 << 20];
            let mut length = 0;
            loop {
                length += client.read(&mut request[length..]).unwrap();
                let text = String::from_utf8_lossy(&request[..length]).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else {
                    continue;
                };
                let announced = head
                    .lines()
                    .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                if announced == Some(body.len()) {
                    break;
                }
            }
            etcd.write_all(&request[..length]).unwrap();
            let mut answer = Vec::new();
            etcd.read_to_end(&mut answer).unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 200"));
        }
    });
    address
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_recognised() {
    let etcd = Etcd::start(1);
    let lossy = swallows_answers(etcd.address(0));
    let mut store = store(&[lossy, etcd.address(0)]);
    store.save(&at(1)).await.unwrap();
    store.save(&at(2)).await.unwrap();
    assert_eq!(store.load().await.unwrap(), Some(at(2)));
}

#[tokio::test]
async fn an_etcd_that_is_away_or_is_none_is_an_error_that_names_it() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = store(&[nobody]).load().await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&nobody.to_string()), "{error}");
    let node = harness::Node::start();
    let error = store(&[node.socket()]).load().await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn the_largest_topology_is_far_below_the_limits_of_etcd() {
    let etcd = Etcd::start(1);
    let mut scattered = topology(4096);
    for (number, placement) in scattered.placements.iter_mut().enumerate() {
        placement.node = NodeIndex((number % 2) as u16);
    }
    let bytes = scattered.encode().len();
    // etcd refuses requests of more than 1.5 MiB.
    assert!(bytes < 256 * 1024, "{bytes}");
    let mut store = store(&[etcd.address(0)]);
    store.save(&scattered).await.unwrap();
    assert_eq!(store.load().await.unwrap(), Some(scattered));
}
