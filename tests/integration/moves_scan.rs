//! Moves that copy without a fork (`COPY SCAN`), on real nodes under writes: verified, cut over, and taken up by another leader.

use crate::harness::{Client, Etcd, Node, Setup, key_in, small, sys, undisturbed, wait_until};
use crate::moving::{
    BEARS, PATIENCE, Pair, field, lists, number, order, roll_back, state, tell, under_writes, until_moved,
    until_reversible,
};

fn fill(client: &mut Client) {
    for number in 0..1_600 {
        let key = key_in(number % 8, 8, &format!("k{number}-"));
        client
            .call(&["SET", &key, "v", "PX", &(100_000 + u32::from(number)).to_string()])
            .expect_ok();
    }
}

/// It goes well, and without a snapshot.
fn until_moved_by_scan(admin: &mut Client, task: &str) {
    let row = until_moved(admin, task);
    assert_eq!(field(&row, "copy"), "scan");
}

fn forks(node: &Node) -> String {
    let info = node.client().ask("INFO stats").text();
    let line = info.lines().find_map(|line| line.strip_prefix("total_forks:"));
    line.unwrap().to_owned()
}

#[test]
fn shards_go_there_and_back_without_a_fork_and_are_the_same_before_the_cutover() {
    undisturbed(BEARS, go_there_and_back);
}

fn go_there_and_back() {
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
    under_writes(&proxy, &lists(8), || {
        for (shards, target) in [("0-3", "node-2"), ("2-5", "node-1"), ("1,3,5", "node-2")] {
            let task = order(
                &mut admin,
                &format!("SHARD MOVE {shards} TO {target} VERIFY COPY SCAN"),
            );
            until_moved_by_scan(&mut admin, &task);
            let row = state(&mut admin, &task).1;
            let verify = row.field("verify").unwrap();
            assert_eq!(field(&verify, "state"), "same", "{verify:?}");
            println!("{shards}: {} ms", field(&row, "pause_ms"));
            tell(&mut admin, "FINALIZE", &task);
        }
        // And back with what was written since.
        let task = order(&mut admin, "SHARD MOVE 6-7 TO node-1 COPY SCAN");
        until_moved_by_scan(&mut admin, &task);
        until_reversible(&mut admin, &task);
        roll_back(&mut admin, &task);
    });
    assert_eq!(nodes.iter().map(forks).collect::<Vec<_>>(), ["0", "0"]);
}

/// Plans and drains go by the setting; a cancelled one leaves nothing behind.
#[test]
fn drains_go_by_the_setting_and_a_copy_can_be_cancelled() {
    let (nodes, proxy) = small();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    fill(&mut client);
    let task = order(&mut admin, "SHARD MOVE 0-3 TO node-2 COPY SCAN RATE 2000");
    wait_until("it copies", PATIENCE, || {
        number(&state(&mut admin, &task).1, "keys") > 0
    });
    assert_eq!(state(&mut admin, &task).0, "copying");
    tell(&mut admin, "CANCEL", &task);
    assert_eq!(state(&mut admin, &task).0, "cancelled");
    assert_eq!(nodes[1].client_in(0).ask("DBSIZE").int(), 0);
    let set = admin.ask("PRESHARD CONFIG SET migration.copy scan");
    assert_eq!(set.error(), None);
    under_writes(&proxy, &lists(8), || {
        let task = order(&mut admin, "NODE DRAIN node-1 TO node-2");
        until_moved_by_scan(&mut admin, &task);
        until_moved_by_scan(&mut admin, &format!("{task}-0"));
    });
    assert_eq!(forks(&nodes[0]), "0");
}

/// What the one that died was copying begins again, in the same way.
#[test]
fn another_leader_begins_the_copy_again() {
    let etcd = Etcd::start(1);
    let nodes = [Node::start(), Node::start()];
    let addresses = [nodes[0].address(), nodes[1].address()];
    let setup = Setup::of(&addresses)
        .store(&etcd.store("scan"))
        .announce(&["copy_ended", "no_way_back"]);
    let pair = Pair::start(&setup);
    let mut admin = pair.admin_of_other();
    fill(&mut pair.other().client());
    under_writes(pair.other(), &lists(8), || {
        let task = order(&mut admin, "SHARD MOVE 0-3 TO node-2 COPY SCAN RATE 60000");
        wait_until("it copies", PATIENCE, || {
            number(&state(&mut admin, &task).1, "keys") > 0
        });
        sys::send_signal(pair.leading().pid(), libc::SIGKILL);
        until_moved_by_scan(&mut admin, &task);
    });
    assert_eq!(forks(&nodes[0]), "0");
}
