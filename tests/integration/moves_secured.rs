//! Moves between nodes that speak TLS only, and a source that comes back with users of the past.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::harness::{
    Certificates, Client, Etcd, Node, NodeOptions, Proxy, Scratch, Setup, key_in, wait_for, wait_until,
};
use crate::moves_faults::Writer;
use crate::tls::{node, towards_nodes};

const PATIENCE: Duration = Duration::from_secs(120);

/// Orders a move and waits until it has moved; it may be ordered again when it has failed.
fn move_shards(admin: &mut Client, shards: &str, target: &str) {
    admin.limit = PATIENCE;
    let mut last = (String::new(), crate::harness::Reply::Null);
    wait_until("the shards are there", PATIENCE, || {
        let said = admin.ask(&format!("PRESHARD SHARD MOVE {shards} TO {target}"));
        if let Some(error) = said.error() {
            return error.contains("live on node");
        }
        let task = said.text();
        let state = wait_for("the move ends", PATIENCE, || {
            let row = admin.ask(&format!("PRESHARD TASK STATUS {task}"));
            let state = row.field("state")?.text();
            matches!(state.as_str(), "moved" | "failed").then(|| (state, row.field("error").unwrap()))
        });
        assert!(
            state.0 == "moved" || last != state,
            "it fails the same way twice: {state:?}"
        );
        last = state.clone();
        state.0 == "moved"
    });
}

/// Writers of one list each through these proxies, while something is done.
fn under_writes(proxies: &[&Proxy], work: impl FnOnce()) -> Vec<Writer> {
    let (addresses, stop): (Vec<_>, _) = (
        proxies.iter().map(|proxy| proxy.data).collect(),
        AtomicBool::new(false),
    );
    thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|number| {
                let key = key_in(number, 8, &format!("list{number}-"));
                let number = usize::from(number);
                let writer = Writer::new(number % proxies.len(), number, key);
                let (addresses, stop) = (&addresses, &stop);
                scope.spawn(move || writer.run(addresses, stop))
            })
            .collect();
        let guard = StopAtEnd(&stop);
        work();
        drop(guard);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    })
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
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
    let writers = under_writes(&[&proxy], || {
        let mut admin = proxy.admin_client();
        move_shards(&mut admin, "0-3", "node-2");
        move_shards(&mut admin, "1,2", "node-1");
    });
    for writer in &writers {
        writer.check_all(&mut client);
    }
    let found = client.call(&["LRANGE", &large, "0", "-1"]).items();
    assert_eq!(found.len(), 3_000);
    let is_there = |(number, item): (usize, &crate::harness::Reply)| item.text() == format!("{number:0>60}");
    assert!(found.iter().enumerate().all(is_there));
}

/// The source is killed behind its freeze and comes back with users out of its file: those from before, and the moving shards' own with
/// all rights. One proxy has stood still since before the move, and wakes up when the source is back.
#[test]
fn a_source_that_comes_back_with_users_of_the_past_takes_no_write_of_theirs() {
    if !cfg!(debug_assertions) {
        println!("left out: a release build does not stop at arrows");
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
    let arrows = Scratch::new("arrows");
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .store(&etcd.store("users"))
        .arrows(arrows.path())
        .any_warning();
    let proxies = [setup.start(), setup.start()];
    let leads = |proxy: &Proxy| proxy.metric("preshard_leader") == 1;
    let leader = wait_for("one of them leads", PATIENCE, || proxies.iter().position(leads));
    let (leader, other) = (&proxies[leader], &proxies[1 - leader]);
    let reached = |arrow: &str| {
        let file = arrows.file(&format!("{arrow}.here"));
        wait_until(arrow, PATIENCE, || file.exists());
    };
    let let_go = |arrow: &str| std::fs::remove_file(arrows.file(&format!("{arrow}.here"))).unwrap();
    wait_until("preshard's users are on the nodes", PATIENCE, || {
        nodes.iter().all(|node| {
            let users = node.client().ask("ACL USERS").items();
            users.iter().any(|user| user.text().starts_with("ps-g"))
        })
    });
    let writers = under_writes(&[leader, other], || {
        for arrow in ["users-made", "frozen"] {
            std::fs::write(arrows.file(arrow), "").unwrap();
        }
        let mut admin = leader.admin_client();
        let task = admin.ask("PRESHARD SHARD MOVE 0-3 TO node-2").text();
        reached("users-made");
        nodes[0].client().ask("ACL SAVE").expect_ok();
        other.freeze();
        let_go("users-made");
        reached("frozen");
        nodes[0].kill();
        nodes[0].restart();
        let users = users_on(&nodes[0]);
        assert!(users.iter().any(|user| user.starts_with("ps-u-")), "{users:?}");
        other.thaw();
        let_go("frozen");
        wait_until("the task is over", PATIENCE, || {
            let row = admin.ask(&format!("PRESHARD TASK STATUS {task}"));
            row.field("state")
                .is_some_and(|state| matches!(state.text().as_str(), "moved" | "failed"))
        });
        move_shards(&mut admin, "0-3", "node-2");
        move_shards(&mut admin, "0-3", "node-1");
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
    if !cfg!(debug_assertions) {
        println!("left out: a release build does not stop at arrows");
        return;
    }
    let (folder, arrows) = (Scratch::new("users"), Scratch::new("arrows"));
    let file = folder.file("one.acl");
    std::fs::write(&file, "user default on nopass ~* &* +@all\n").unwrap();
    let mut source = Node::with(NodeOptions {
        durable: true,
        more: vec!["--aclfile".into(), file.display().to_string()],
        ..NodeOptions::default()
    });
    let target = Node::start();
    let proxy = Setup::of(&[source.address(), target.address()])
        .arrows(arrows.path())
        .any_warning()
        .start();
    let reached = |arrow: &str| {
        let file = arrows.file(&format!("{arrow}.here"));
        wait_until(arrow, PATIENCE, || file.exists());
    };
    let let_go = |arrow: &str| std::fs::remove_file(arrows.file(&format!("{arrow}.here"))).unwrap();
    for arrow in ["quiesced", "sealed"] {
        std::fs::write(arrows.file(arrow), "").unwrap();
    }
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    let key = key_in(0, 8, "list");
    assert_eq!(client.call(&["RPUSH", &key, "before"]).int(), 1);
    let task = admin.ask("PRESHARD SHARD MOVE 0 TO node-2").text();
    reached("quiesced");
    source.client().ask("ACL SAVE").expect_ok();
    let_go("quiesced");
    reached("sealed");
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
    let_go("sealed");
    let row = wait_for("the task is over", PATIENCE, || {
        let row = admin.ask(&format!("PRESHARD TASK STATUS {task}"));
        let state = row.field("state")?.text();
        matches!(state.as_str(), "moved" | "failed").then_some(row)
    });
    // What had no answer may be there as well.
    let found = client.call(&["LLEN", &key]).int();
    assert!(found >= written, "{found} of {written}: {row:?}");
    let error = row.field("error").unwrap().text();
    assert!(error.contains("node 'node-1' has been started anew"), "{error}");
    // Nothing is in the way of another one.
    move_shards(&mut admin, "0", "node-2");
    assert_eq!(client.call(&["LLEN", &key]).int(), found);
}

fn users_on(node: &Node) -> Vec<String> {
    let users = node.client().ask("ACL USERS").items();
    users.iter().map(|user| user.text()).collect()
}
