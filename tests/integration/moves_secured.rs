//! Moves between nodes that speak TLS only, and a source that comes back with users of the past.

use crate::harness::{
    Certificates, Client, Etcd, Node, NodeOptions, Reply, Scratch, Setup, key_in, wait_for, wait_until,
};
use crate::moving::{
    Arrows, PATIENCE, Pair, ask, can_stop, field, lists, order, state, under_writers, until_users,
};
use crate::tls::{node, towards_nodes};

/// Orders a move and waits until it has moved; it may be ordered again when it has failed.
fn move_at_last(admin: &mut Client, shards: &str, target: &str) {
    admin.limit = PATIENCE;
    let mut last = (String::new(), String::new());
    wait_until("the shards are there", PATIENCE, || {
        let told = ask(admin, &format!("SHARD MOVE {shards} TO {target}"));
        if let Some(error) = told.error() {
            return error.contains("live on node");
        }
        let row = end_of(admin, &told.text());
        let now = (field(&row, "state"), field(&row, "error"));
        assert!(
            now.0 == "moved" || last != now,
            "it fails the same way twice: {now:?}"
        );
        last = now;
        last.0 == "moved"
    });
}

/// Waits until a task has moved or failed.
fn end_of(admin: &mut Client, task: &str) -> Reply {
    wait_for("the task is over", PATIENCE, || {
        let (state, row) = state(admin, task);
        matches!(state.as_str(), "moved" | "failed").then_some(row)
    })
}

#[test]
fn shards_move_between_nodes_that_speak_tls_only() {
    let certificates = Certificates::new();
    let nodes = [node(&certificates, "yes"), node(&certificates, "yes")];
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()]);
    let proxy = towards_nodes(setup, &certificates).start();
    let mut client = proxy.client();
    let large = key_in(1, 8, "large");
    for first in (0..3_000).step_by(100) {
        let mut words = vec!["RPUSH".to_owned(), large.clone()];
        words.extend((first..first + 100).map(|number| format!("{number:0>60}")));
        client.call(&words).int();
    }
    let ((), writers) = under_writers(&[proxy.data], &lists(4), || {
        let mut admin = proxy.admin_client();
        move_at_last(&mut admin, "0-3", "node-2");
        move_at_last(&mut admin, "1,2", "node-1");
    });
    for writer in &writers {
        writer.check_all(&mut client);
    }
    let found = client.call(&["LRANGE", &large, "0", "-1"]).items();
    assert_eq!(found.len(), 3_000);
    let is_there = |(number, item): (usize, &Reply)| item.text() == format!("{number:0>60}");
    assert!(found.iter().enumerate().all(is_there));
}

/// The source is killed behind its freeze and comes back with users out of its file: those from before, and the moving shards' own with
/// all rights. One proxy has stood still since before the move, and wakes up when the source is back.
#[test]
fn a_source_that_comes_back_with_users_of_the_past_takes_no_write_of_theirs() {
    if !can_stop() {
        return;
    }
    let (etcd, folder) = (Etcd::start(1), Scratch::new("users"));
    let file = |name: &str| {
        let path = folder.file(name);
        std::fs::write(&path, "user default on nopass ~* &* +@all\n").unwrap();
        path.display().to_string()
    };
    let mut nodes = ["one.acl", "two.acl"].map(|name| {
        Node::with(NodeOptions {
            durable: true,
            more: vec!["--aclfile".into(), file(name)],
            ..NodeOptions::default()
        })
    });
    let arrows = Arrows::new();
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .store(&etcd.store("users"))
        .arrows(arrows.folder())
        .any_warning();
    let pair = Pair::start(&setup);
    let (leader, other) = (pair.leading(), pair.other());
    until_users(&nodes);
    let ((), writers) = under_writers(&[leader.data, other.data], &lists(6), || {
        ["users-made", "frozen"]
            .into_iter()
            .for_each(|arrow| arrows.arm(arrow));
        let mut admin = leader.admin_client();
        let task = order(&mut admin, "SHARD MOVE 0-3 TO node-2");
        arrows.until_reached("users-made");
        nodes[0].client().ask("ACL SAVE").expect_ok();
        other.freeze();
        arrows.let_go("users-made");
        arrows.until_reached("frozen");
        nodes[0].kill();
        nodes[0].restart();
        let users = users_on(&nodes[0]);
        assert!(users.iter().any(|user| user.starts_with("ps-u-")), "{users:?}");
        other.thaw();
        arrows.let_go("frozen");
        end_of(&mut admin, &task);
        move_at_last(&mut admin, "0-3", "node-2");
        move_at_last(&mut admin, "0-3", "node-1");
    });
    let mut client = other.client();
    for writer in &writers {
        writer.check(&mut client);
    }
    let left = users_on(&nodes[0]);
    assert!(left.iter().all(|user| !user.starts_with("ps-u-")), "{left:?}");
}

/// The source is killed behind the seal, comes back with the moving shards' own user out of its file, which has all rights there, and is
/// in service again before the commit: then the shards stay there, with what was written meanwhile.
#[test]
fn a_source_that_is_in_service_again_before_the_commit_keeps_its_shards() {
    if !can_stop() {
        return;
    }
    let (folder, arrows) = (Scratch::new("users"), Arrows::new());
    let file = folder.file("one.acl");
    std::fs::write(&file, "user default on nopass ~* &* +@all\n").unwrap();
    let mut source = Node::with(NodeOptions {
        durable: true,
        more: vec!["--aclfile".into(), file.display().to_string()],
        ..NodeOptions::default()
    });
    let target = Node::start();
    let proxy = Setup::of(&[source.address(), target.address()])
        .arrows(arrows.folder())
        .any_warning()
        .start();
    ["quiesced", "sealed"]
        .into_iter()
        .for_each(|arrow| arrows.arm(arrow));
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    let key = key_in(0, 8, "list");
    assert_eq!(client.call(&["RPUSH", &key, "before"]).int(), 1);
    let task = order(&mut admin, "SHARD MOVE 0 TO node-2");
    arrows.until_reached("quiesced");
    source.client().ask("ACL SAVE").expect_ok();
    arrows.let_go("quiesced");
    arrows.until_reached("sealed");
    source.kill();
    source.restart();
    let users = users_on(&source);
    assert!(users.iter().any(|user| user.starts_with("ps-u-")), "{users:?}");
    // It is in service again when this is answered.
    client.limit = PATIENCE;
    let mut written = 1;
    wait_until("a write is acknowledged", PATIENCE, || {
        let reply = client.call(&["RPUSH", &key, "meanwhile"]);
        written += i64::from(reply.error().is_none());
        reply.error().is_none()
    });
    arrows.let_go("sealed");
    let row = end_of(&mut admin, &task);
    // What had no answer may be there as well.
    let found = client.call(&["LLEN", &key]).int();
    assert!(found >= written, "{found} of {written}: {row:?}");
    let error = field(&row, "error");
    assert!(error.contains("node 'node-1' has been started anew"), "{error}");
    // Nothing is in the way of another one.
    move_at_last(&mut admin, "0", "node-2");
    assert_eq!(client.call(&["LLEN", &key]).int(), found);
}

fn users_on(node: &Node) -> Vec<String> {
    let users = node.client().ask("ACL USERS").items();
    users.iter().map(|user| user.text()).collect()
}
