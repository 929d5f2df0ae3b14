//! Handshakes with nodes that are scripts: what a unit's user is refused is no failure of the node.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::{spawn_local, yield_now};

use super::*;
use crate::config::Secret;
use crate::ids::ShardId;
use crate::topology::{NodeAccess, Unit};
use crate::worker::backend::{Owner, State, keep_link};
use crate::worker::testing::{engine, in_runtime, limits};

const MOVED: ShardId = ShardId(1);
const LATER: ShardId = ShardId(2);
const NOPERM: &str = "-NOPERM this user has no permissions to run the 'info' command\r\n";
const WRONGPASS: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
const OTHER_RUN: &str = "$9\r\nrun_id:x\n\r\n";
const RUN: &str = "$9\r\nrun_id:r\n\r\n";
const OK: &str = "+OK\r\n";

/// A node that answers the requests of each connection with these replies, one after the other. Where it listens, and how many have
/// connected.
async fn node(replies: &'static [&'static str]) -> (SocketAddr, Rc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connected = Rc::new(AtomicUsize::new(0));
    let count = Rc::clone(&connected);
    spawn_local(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            count.fetch_add(1, SeqCst);
            spawn_local(async move {
                let mut read = [0; 1024];
                for reply in replies {
                    if socket.read(&mut read).await.unwrap_or(0) == 0 {
                        return;
                    }
                    socket.write_all(reply.as_bytes()).await.unwrap();
                }
                // Until the other side has had enough.
                drop(socket.read(&mut read).await);
            });
        }
    });
    (address, connected)
}

/// A worker whose first node is there, with one shard that is about to move, and another one that will.
fn engine_at(address: SocketAddr) -> Engine {
    let mut engine = engine(limits());
    drop(engine.shared.node_secret.set(Secret::new("s".to_owned())));
    adopt(&mut engine, |next| {
        next.nodes[0].address = address.to_string().parse().unwrap();
        for node in [0, 1] {
            let access = NodeAccess {
                user: "ps-g2".to_owned(),
                run_id: "r".to_owned(),
            };
            next.access.insert(NodeIndex(node), access);
        }
        for (task, shard) in [("m1", MOVED), ("m2", LATER)] {
            next.units.push(Unit {
                task: task.to_owned(),
                shards: BTreeSet::from([shard]),
                user: Some(format!("ps-u-{task}")),
                quiesced: shard == MOVED,
            });
        }
    });
    engine
}

fn adopt(engine: &mut Engine, change: impl FnOnce(&mut Topology)) {
    let next = engine.shared.topology.load().changed(|next| {
        change(next);
        Ok(())
    });
    engine.shared.adopt(next.unwrap()).unwrap();
    engine.adopt();
    engine.end_turn();
}

fn link_of(engine: &Engine, shard: ShardId) -> usize {
    engine.lane(shard, Protocol::Resp2).link as usize
}

/// What comes of a handshake as the user of a shard, and whether the control side is to look at the node's users.
async fn handshake_of(shard: ShardId, replies: &'static [&'static str]) -> (String, bool) {
    let (address, _) = node(replies).await;
    let engine = engine_at(address);
    let order = engine.connect_order(link_of(&engine, shard));
    let of_node = engine.shared.node(NodeIndex(0));
    let mut rung = std::pin::pin!(of_node.users.notified());
    let error = connect(order).await.err().unwrap();
    let rung = std::future::poll_fn(|cx| std::task::Poll::Ready(rung.as_mut().poll(cx).is_ready())).await;
    let what = match error {
        ConnectError::Frozen(_) => "frozen".to_owned(),
        other => other.to_string(),
    };
    (what, rung)
}

#[test]
fn a_unit_that_its_node_refuses_is_on_its_way_and_any_other_user_is_at_fault() {
    in_runtime(async {
        let frozen = |rung: bool| ("frozen".to_owned(), rung);
        let all: &[&str] = &[OK, NOPERM, NOPERM];
        assert_eq!(handshake_of(MOVED, all).await, frozen(false));
        // The freeze came in the middle.
        let later: &[&str] = &[OK, OK, RUN, OK, NOPERM];
        assert_eq!(handshake_of(MOVED, later).await, frozen(false));
        // It has moved or was given back; or the node came back without it, and will not get it again.
        assert_eq!(handshake_of(MOVED, &[WRONGPASS]).await, frozen(true));
        assert_eq!(
            handshake_of(LATER, all).await,
            frozen(false),
            "somebody knows more than this worker"
        );
        let (what, rung) = handshake_of(LATER, &[WRONGPASS]).await;
        assert!(
            what.contains("the login with: WRONGPASS") && rung,
            "it is made again: {what}"
        );
        let (what, rung) = handshake_of(ShardId(0), all).await;
        assert!(
            what.contains("answered INFO server with: NOPERM") && rung,
            "{what}"
        );
        let (what, rung) = handshake_of(ShardId(0), &[WRONGPASS]).await;
        assert!(what.contains("the login with: WRONGPASS") && rung, "{what}");
        let (what, rung) = handshake_of(MOVED, &[OK, OK, OTHER_RUN]).await;
        assert!(what.contains("started anew") && rung, "{what}");
    });
}

/// Waits until something is so of the engine.
async fn until(engine: &Rc<RefCell<Engine>>, is_so: impl Fn(&Engine) -> bool) {
    let start = Instant::now();
    while !is_so(&engine.borrow()) {
        assert!(start.elapsed() < Duration::from_secs(10), "it never is so");
        yield_now().await;
    }
}

#[test]
fn what_waits_for_a_link_of_a_frozen_unit_waits_at_the_gate_and_goes_where_the_unit_is_next() {
    in_runtime(async {
        let (address, connected) = node(&[OK, NOPERM, NOPERM]).await;
        let mut first = engine_at(address);
        let link = link_of(&first, MOVED);
        let owner = Owner::Client {
            index: 0,
            generation: 0,
            seq: 1,
        };
        let lane = first.lane(MOVED, Protocol::Resp2);
        first.enqueue(lane, owner, b"*1\r\n$4\r\nPING\r\n");
        let engine = Rc::new(RefCell::new(first));
        let keeper = spawn_local(keep_link(Rc::clone(&engine), link));
        until(&engine, |engine| engine.is_gate(link_of(engine, MOVED))).await;
        assert_eq!(engine.borrow().held_requests(), 1);
        assert_eq!(engine.borrow().links[link].state, State::Idle, "it is not down");
        // Longer than the pause between two attempts.
        sleep(Duration::from_millis(60)).await;
        assert_eq!(
            connected.load(SeqCst),
            1,
            "nothing is asked of the node meanwhile"
        );
        let mut engine = engine.borrow_mut();
        adopt(&mut engine, |next| {
            next.units.remove(0);
            next.placements[MOVED.index()].node = NodeIndex(1);
        });
        let link = link_of(&engine, MOVED);
        assert_eq!(
            (engine.links[link].node, engine.links[link].backlog.len()),
            (NodeIndex(1), 1)
        );
        keeper.abort();
    });
}
