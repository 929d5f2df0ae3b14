//! Moves that copy without a fork (`COPY SCAN`), on real nodes under writes: verified, cut over, and taken up by another leader.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use crate::harness::{Client, Etcd, Node, Proxy, Setup, key_in, small, wait_for, wait_until};
use crate::moves::{PATIENCE, assert_lists, state, write_list};

/// Tells the writers to stop, however the test ends.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Writes lists while something is done; then every list is what was acknowledged.
fn under_writes(proxy: &Proxy, what: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    let lists = thread::scope(|scope| {
        let ending = Ending(&stop);
        let writers: Vec<_> = (0..8)
            .map(|number| {
                let key = key_in(number % 8, 8, &format!("list{number}-"));
                let stop = &stop;
                scope.spawn(move || {
                    let count = write_list(proxy, &key, usize::from(number), stop);
                    (key, count)
                })
            })
            .collect();
        what();
        drop(ending);
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert!(lists.iter().all(|(_, count)| *count > 20), "{lists:?}");
    assert_lists(proxy, &lists);
}

fn fill(client: &mut Client) {
    for number in 0..1_600 {
        let key = key_in(number % 8, 8, &format!("k{number}-"));
        client
            .call(&["SET", &key, "v", "PX", &(100_000 + u32::from(number)).to_string()])
            .expect_ok();
    }
}

fn until_moved(admin: &mut Client, task: &str) {
    wait_for("the move ends", PATIENCE, || {
        let (state, row) = state(admin, task);
        assert!(!matches!(state.as_str(), "failed" | "cancelled"), "{row:?}");
        assert_eq!(row.field("copy").unwrap().text(), "scan");
        (state == "moved").then_some(())
    });
}

fn forks(node: &Node) -> String {
    let info = node.client().ask("INFO stats").text();
    let line = info.lines().find_map(|line| line.strip_prefix("total_forks:"));
    line.unwrap().to_owned()
}

#[test]
fn shards_go_there_and_back_without_a_fork_and_are_the_same_before_the_cutover() {
    let (nodes, proxy) = small();
    let mut admin = proxy.admin_client();
    fill(&mut proxy.client());
    let unknown = admin.ask("PRESHARD SHARD MOVE 0 TO node-2 COPY FORK");
    let unknown = unknown.expect_error("ERR ");
    assert!(unknown.contains("COPY with SNAPSHOT or SCAN"), "{unknown}");
    let dry = admin
        .ask("PRESHARD SHARD MOVE 0-3 TO node-2 COPY SCAN DRY")
        .items();
    assert_eq!(dry[0].field("refused").unwrap().items().len(), 0, "{dry:?}");
    under_writes(&proxy, || {
        for (shards, target) in [("0-3", "node-2"), ("2-5", "node-1"), ("1,3,5", "node-2")] {
            let task = admin
                .ask(&format!(
                    "PRESHARD SHARD MOVE {shards} TO {target} VERIFY COPY SCAN"
                ))
                .text();
            until_moved(&mut admin, &task);
            let row = state(&mut admin, &task).1;
            let verify = row.field("verify").unwrap();
            assert_eq!(verify.field("state").unwrap().text(), "same", "{verify:?}");
            println!("{shards}: {} ms", row.field("pause_ms").unwrap().text());
            admin.ask(&format!("PRESHARD TASK FINALIZE {task}")).expect_ok();
        }
        // And back with what was written since.
        let task = admin.ask("PRESHARD SHARD MOVE 6-7 TO node-1 COPY SCAN").text();
        until_moved(&mut admin, &task);
        wait_until("the way back is there", PATIENCE, || {
            state(&mut admin, &task).1.field("rollback").unwrap().text() == "yes"
        });
        admin.ask(&format!("PRESHARD TASK ROLLBACK {task}")).expect_ok();
    });
    assert_eq!(nodes.iter().map(forks).collect::<Vec<_>>(), ["0", "0"]);
}

/// Plans and drains go by the setting; a cancelled one leaves nothing behind.
#[test]
fn drains_go_by_the_setting_and_a_copy_can_be_cancelled() {
    let (nodes, proxy) = small();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    fill(&mut client);
    let task = admin
        .ask("PRESHARD SHARD MOVE 0-3 TO node-2 COPY SCAN RATE 2000")
        .text();
    wait_until("it copies", PATIENCE, || {
        state(&mut admin, &task).1.field("keys").unwrap().int() > 0
    });
    assert_eq!(state(&mut admin, &task).0, "copying");
    admin.ask(&format!("PRESHARD TASK CANCEL {task}")).expect_ok();
    assert_eq!(state(&mut admin, &task).0, "cancelled");
    assert_eq!(nodes[1].client_in(0).ask("DBSIZE").int(), 0);
    let set = admin.ask("PRESHARD CONFIG SET migration.copy scan");
    assert_eq!(set.error(), None);
    under_writes(&proxy, || {
        let task = admin.ask("PRESHARD NODE DRAIN node-1 TO node-2").text();
        until_moved(&mut admin, &task);
        until_moved(&mut admin, &format!("{task}-0"));
    });
    assert_eq!(forks(&nodes[0]), "0");
}

/// What the one that died was copying begins again, in the same way.
#[test]
fn another_leader_begins_the_copy_again() {
    let etcd = Etcd::start(1);
    let nodes = [Node::start(), Node::start()];
    let addresses = [nodes[0].address(), nodes[1].address()];
    let setup = || {
        Setup::of(&addresses)
            .store(&etcd.store("scan"))
            .announce(&["copy_ended", "no_way_back"])
    };
    let mut first = setup().start();
    let second = setup().start();
    let mut admin = second.admin_client();
    fill(&mut second.client());
    under_writes(&second, || {
        let task = admin
            .ask("PRESHARD SHARD MOVE 0-3 TO node-2 COPY SCAN RATE 60000")
            .text();
        wait_until("it copies", PATIENCE, || {
            let row = admin.ask(&format!("PRESHARD TASK STATUS {task}"));
            row.error().is_none() && row.field("keys").unwrap().int() > 0
        });
        first.kill();
        // The store may be slow to answer while leases end.
        wait_for("the move ends", PATIENCE, || {
            let row = admin.ask(&format!("PRESHARD TASK STATUS {task}"));
            let state = row
                .error()
                .is_none()
                .then(|| row.field("state").unwrap().text())?;
            assert!(!matches!(state.as_str(), "failed" | "cancelled"), "{row:?}");
            (state == "moved").then_some(())
        });
        until_moved(&mut admin, &task);
    });
    assert_eq!(forks(&nodes[0]), "0");
}
