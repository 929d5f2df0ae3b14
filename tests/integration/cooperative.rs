//! Moves from nodes whose ACL cannot be changed: proxies keep themselves from the source, and nothing that was acknowledged is lost,
//! also by a proxy that was stopped or cut off all the while.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use crate::harness::{
    Client, Etcd, Node, NodeOptions, Reply, Setup, bytes_waiting_at, key_in, shard_of, undisturbed,
    wait_until,
};
use crate::moving::{
    Arrows, BEARS, PATIENCE, Pair, can_stop, field, lists, move_shards, move_there, order, roll_back, state,
    tell, under_writers, under_writes, until_moved, until_users,
};

/// A server as Redis 5 is one: it knows nothing of users.
fn without_acl() -> Node {
    Node::with(NodeOptions {
        more: ["--rename-command", "ACL", ""].map(str::to_owned).to_vec(),
        ..NodeOptions::default()
    })
}

fn setup(nodes: &[&Node]) -> Setup {
    let addresses: Vec<String> = nodes.iter().map(|node| node.address()).collect();
    Setup::of(&addresses).migration("cooperative = true")
}

#[test]
fn without_the_word_of_an_operator_nothing_is_moved_and_the_answer_says_what_to_do() {
    let (source, target) = (without_acl(), Node::start());
    let proxy = Setup::of(&[source.address(), target.address()]).start();
    until_users([&target]);
    let mut admin = proxy.admin_client();
    for order in ["SHARD MOVE 0 TO node-2", "NODE DRAIN node-1"] {
        let error = admin.ask(&format!("PRESHARD {order}")).expect_error("ERR ");
        assert!(error.contains("[migration] cooperative = true"), "{error}");
    }
    let error = admin.ask("PRESHARD SHARD MOVE 4 TO node-1").expect_error("ERR ");
    assert!(error.contains("[migration] cooperative = true"), "{error}");
    assert_eq!(admin.ask("PRESHARD TASK LIST"), Reply::Array(Vec::new()));
}

/// Three moves there, one of which is rolled back, and one back.
fn move_there_and_back(admin: &mut Client) {
    let mut tasks = Vec::new();
    for shards in ["0", "1-2"] {
        let row = move_shards(admin, shards, "node-2");
        println!("{shards}: {} ms", field(&row, "pause_ms"));
        assert_eq!(field(&row, "fence"), "cooperative");
        tasks.push(field(&row, "task"));
    }
    let back = move_there(admin, "3", "node-2");
    let row = roll_back(admin, &back);
    assert_eq!(field(&row, "fence"), "cooperative");
    println!(
        "3: {} ms, and back: {} ms",
        field(&row, "pause_ms"),
        field(&row, "rollback_pause_ms")
    );
    for task in tasks {
        tell(admin, "FINALIZE", &task);
    }
    let row = move_shards(admin, "0,4-5", "node-1");
    println!("0,4-5, back: {} ms", field(&row, "pause_ms"));
    tell(admin, "FINALIZE", &field(&row, "task"));
}

/// Shards go there, some back by a rollback with all that was written since, others by a move, under writers who get no error.
fn there_and_back(nodes: [Node; 2]) {
    let proxy = setup(&[&nodes[0], &nodes[1]]).start();
    for node in &nodes {
        if node.client().ask("ACL USERS").error().is_none() {
            until_users([node]);
        }
    }
    let (mut admin, lists) = (proxy.admin_client(), lists(8));
    let row = admin.ask("PRESHARD SHARD MOVE 0 TO node-2 DRY").items().remove(0);
    assert_eq!(
        (field(&row, "fence"), field(&row, "rollback")),
        ("cooperative".to_owned(), "yes".to_owned())
    );
    let warnings = format!("{:?}", row.field("warnings"));
    assert!(warnings.contains("the move is cooperative"), "{warnings}");
    let queue = key_in(1, 8, "queue");
    let mut waiting = proxy.client();
    waiting.command(&["BLPOP", &queue, "0"]);
    let mut watching = proxy.client();
    let watched = key_in(2, 8, "watched");
    watching.call(&["WATCH", &watched]).expect_ok();
    under_writes(&proxy, &lists, || move_there_and_back(&mut admin));
    proxy.client().call(&["RPUSH", &queue, "late"]).int();
    assert_eq!(
        waiting.reply().items()[1].text(),
        "late",
        "who waited waits there"
    );
    watching.call(&["MULTI"]).expect_ok();
    watching.call(&["SET", &watched, "v"]);
    assert_eq!(
        watching.call(&["EXEC"]),
        Reply::Null,
        "what moves counts as changed"
    );
    let kept = nodes[0].all_keys(12).len() + nodes[1].all_keys(12).len();
    assert_eq!(kept, lists.len(), "no copy is left");
}

#[test]
fn shards_leave_a_node_without_acl_and_nothing_is_lost_doubled_or_reordered() {
    undisturbed(BEARS, || there_and_back([without_acl(), Node::start()]));
}

#[test]
fn shards_come_to_a_node_without_acl_and_nothing_is_lost_doubled_or_reordered() {
    undisturbed(BEARS, || there_and_back([Node::start(), without_acl()]));
}

#[test]
fn shards_go_between_nodes_without_acl_and_nothing_is_lost_doubled_or_reordered() {
    undisturbed(BEARS, || there_and_back([without_acl(), without_acl()]));
}

#[test]
fn a_node_without_acl_is_emptied_by_one_task() {
    let (source, target) = (without_acl(), Node::start());
    let proxy = setup(&[&source, &target]).start();
    until_users([&target]);
    let mut admin = proxy.admin_client();
    let key = key_in(3, 8, "k");
    proxy.client().call(&["SET", &key, "v"]).expect_ok();
    let task = order(&mut admin, "NODE DRAIN node-1");
    let row = until_moved(&mut admin, &task);
    assert_eq!(field(&row, "fence"), "cooperative");
    for child in row.field("children").unwrap().items() {
        let row = state(&mut admin, &child.text()).1;
        assert_eq!(field(&row, "fence"), "cooperative");
    }
    assert_eq!(proxy.client().call(&["GET", &key]).text(), "v");
}

/// Two proxies on an etcd, in front of a node without ACL and one with it.
struct World {
    source: Node,
    target: Node,
    pair: Pair,
    arrows: Arrows,
}

impl World {
    fn start(etcd: &Etcd) -> Self {
        let (source, target) = (without_acl(), Node::start());
        let arrows = Arrows::new();
        let setup = setup(&[&source, &target])
            .store(&etcd.store(&format!("cooperative-{}", fastrand::u64(..))))
            .arrows(arrows.folder())
            .any_warning();
        let pair = Pair::start(&setup);
        until_users([&target]);
        Self {
            source,
            target,
            pair,
            arrows,
        }
    }

    fn order(&self) -> String {
        order(&mut self.pair.admin(self.pair.leader), "SHARD MOVE 0-3 TO node-2")
    }

    fn until_moved(&self, proxy: usize, task: &str) -> Reply {
        until_moved(&mut self.pair.admin(proxy), task)
    }
}

fn elements(client: &mut Client, key: &str) -> Vec<String> {
    let items = client.call(&["LRANGE", key, "0", "-1"]).items();
    items.iter().map(Reply::text).collect()
}

/// It was stopped with an executed write's reply in its socket, and with a request of its client that it had not read: when it goes
/// on, its lease has ended, and the shards live elsewhere.
#[test]
fn a_proxy_that_stood_still_acknowledges_nothing_that_is_lost() {
    let etcd = Etcd::start(1);
    let world = World::start(&etcd);
    let key = key_in(0, 8, "list");
    let db = 0;
    let mut first = world.pair.other().client();
    first.limit = PATIENCE;
    assert_eq!(first.call(&["RPUSH", &key, "before"]).int(), 1);
    let mut second = world.pair.other().client3();
    second.limit = PATIENCE;
    assert_eq!(second.call(&["LLEN", &key]).int(), 1);
    // The source gets a request, and executes it when the proxy does not read any more.
    world.source.freeze();
    first.command(&["RPUSH", &key, "sent"]);
    wait_until("the request is at the source", PATIENCE, || {
        bytes_waiting_at(world.source.socket()) > 0
    });
    world.pair.other().freeze();
    world.source.thaw();
    wait_until("it was executed", PATIENCE, || {
        elements(&mut world.source.client_in(db), &key) == ["before", "sent"]
    });
    second.command(&["RPUSH", &key, "late"]);
    let task = world.order();
    let row = world.until_moved(world.pair.leader, &task);
    assert_eq!(field(&row, "fence"), "cooperative");
    let mut other = world.pair.leading().client();
    assert_eq!(elements(&mut other, &key), ["before", "sent"]);
    assert_eq!(other.call(&["RPUSH", &key, "after"]).int(), 3);
    world.pair.other().thaw();
    assert_eq!(
        first.reply(),
        Reply::Int(2),
        "what it was told was true, however late"
    );
    let told = second.reply();
    let now = elements(&mut other, &key);
    match told {
        Reply::Int(length) => {
            assert_eq!(length, 4);
            assert_eq!(now, ["before", "sent", "after", "late"]);
        }
        other => {
            let word = other.error().unwrap().split(' ').next().unwrap().to_owned();
            assert!(
                ["TRYAGAIN", "CLUSTERDOWN", "UNCERTAIN"].contains(&&*word),
                "{other:?}"
            );
            assert_eq!(now, ["before", "sent", "after"]);
        }
    }
    wait_until("the source follows, and has nothing more", PATIENCE, || {
        elements(&mut world.source.client_in(db), &key) == now
    });
    wait_until("it serves the shards where they are", PATIENCE, || {
        first.call(&["LLEN", &key]).int() == now.len() as i64
    });
}

/// What a proxy waits for on the source ends there, and is asked again where the shard is.
#[test]
fn who_waits_at_a_proxy_that_stood_still_gets_what_comes_where_the_shards_are() {
    let etcd = Etcd::start(1);
    let world = World::start(&etcd);
    let queue = key_in(0, 8, "queue");
    let mut waiting = world.pair.other().client();
    waiting.limit = PATIENCE;
    waiting.command(&["BLPOP", &queue, "0"]);
    wait_until("it waits", PATIENCE, || world.source.info("blocked_clients") == 1);
    world.pair.other().freeze();
    let task = world.order();
    world.until_moved(world.pair.leader, &task);
    wait_until("nobody waits there", PATIENCE, || {
        world.source.info("blocked_clients") == 0
    });
    let mut other = world.pair.leading().client();
    other.call(&["RPUSH", &queue, "one"]).int();
    world.pair.other().thaw();
    let told = waiting.reply();
    match &told {
        Reply::Array(_) => assert_eq!(other.call(&["LLEN", &queue]).int(), 0),
        _ => assert_eq!(other.call(&["LLEN", &queue]).int(), 1, "{told:?}"),
    }
    assert!(world.target.client().ask("PING").text() == "PONG");
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    KillLeader,
    StopLeader,
    KillFollower,
    StopFollower,
}

const ARROWS: [&str; 7] = [
    "cutting-over",
    "quiesced",
    "frozen",
    "drained",
    "sealed",
    "committed",
    "tidied",
];

/// One fault at one point of a cooperative move, under writers through both proxies.
fn strike(etcd: &Etcd, arrow: &str, fault: Fault) {
    let mut world = World::start(etcd);
    let addresses: Vec<SocketAddr> = world.pair.proxies.iter().map(|proxy| proxy.data).collect();
    let lists: Vec<String> = lists(12)
        .into_iter()
        .filter(|list| shard_of(list, 8) < 4)
        .take(6)
        .collect();
    let (survivor, writers) = under_writers(&addresses, &lists, || {
        world.arrows.arm(arrow);
        let task = world.order();
        world.arrows.until_reached(arrow);
        let (leader, follower) = (world.pair.leader, 1 - world.pair.leader);
        let survivor = match fault {
            Fault::KillLeader => {
                world.pair.proxies[leader].kill();
                follower
            }
            Fault::StopLeader => {
                world.pair.proxies[leader].freeze();
                world.arrows.let_go(arrow);
                world.pair.until_alone(follower);
                world.pair.proxies[leader].thaw();
                follower
            }
            Fault::KillFollower => {
                world.pair.proxies[follower].kill();
                world.arrows.let_go(arrow);
                leader
            }
            Fault::StopFollower => {
                world.pair.proxies[follower].freeze();
                world.arrows.let_go(arrow);
                world.pair.until_alone(leader);
                world.until_moved(leader, &task);
                world.pair.proxies[follower].thaw();
                leader
            }
        };
        world.until_moved(survivor, &task);
        survivor
    });
    let mut client = world.pair.proxies[survivor].client();
    client.limit = PATIENCE;
    for writer in &writers {
        writer.check(&mut client);
    }
}

#[test]
fn proxies_that_die_or_stand_still_at_any_point_of_a_cooperative_move_lose_nothing() {
    if !can_stop() {
        return;
    }
    let faults = [
        Fault::KillLeader,
        Fault::StopFollower,
        Fault::StopLeader,
        Fault::KillFollower,
    ];
    // Each point once with a fault, and those where a proxy that stands still matters most with that.
    let mut cases: Vec<(&str, Fault)> = ARROWS.into_iter().zip(faults.into_iter().cycle()).collect();
    cases.push(("cutting-over", Fault::StopFollower));
    cases.push(("frozen", Fault::StopFollower));
    cases.push(("sealed", Fault::StopLeader));
    let etcd = Etcd::start(1);
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(&(arrow, fault)) = cases.get(next.fetch_add(1, Relaxed)) {
                    let run = std::panic::AssertUnwindSafe(|| strike(&etcd, arrow, fault));
                    if std::panic::catch_unwind(run).is_err() {
                        failed.lock().unwrap().push(format!("{arrow}:{fault:?}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{failed:?}");
}
