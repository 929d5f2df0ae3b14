//! The disk of the topology's file stands still: nothing else does, and nobody is told what is not known.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Metronome, Node, Proxy, Setup, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);
/// What stands still does so for five seconds and more.
const PROMPT: Duration = Duration::from_secs(3);

/// Whoever opens a pipe to write waits for one who reads, as long as it takes: so does the next write of a topology.
fn block(proxy: &Proxy) -> PathBuf {
    let next = PathBuf::from(format!("{}.tmp", proxy.store));
    let _ = std::fs::remove_file(&next);
    assert!(Command::new("mkfifo").arg(&next).status().unwrap().success());
    next
}

#[test]
fn a_disk_that_stands_still_holds_up_nothing_but_changes_whose_outcome_is_said_to_be_unknown() {
    let (nodes, third) = ([Node::start(), Node::start()], Node::start());
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()]);
    let setup = setup.announce(&["store_unreachable"]);
    let mut proxy = setup.start();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    let epoch = admin.ask("PRESHARD TOPOLOGY EPOCH").int();
    let pipe = block(&proxy);
    let add = format!("PRESHARD NODE ADD node-3 {}", third.address());
    let metronome = Metronome::start();
    let changed = std::thread::scope(|scope| {
        let changing = scope.spawn(|| proxy.admin_client().ask(&add));
        wait_until("the change is answered", PATIENCE, || {
            let begun = Instant::now();
            admin.ask("PRESHARD SHOW NODES").items();
            client.call(&["SET", "k", "v"]).expect_ok();
            assert_eq!(proxy.http_get("/readyz").0, 200);
            let (took, late) = (begun.elapsed(), metronome.late());
            assert!(took < PROMPT + late, "{took:?}, late {late:?}");
            changing.is_finished()
        });
        changing.join().unwrap()
    });
    let told = changed.error().unwrap_or_default().to_owned();
    assert!(
        told.contains("it is unknown whether the topology was changed") && told.contains("check the disk"),
        "{changed:?}"
    );
    wait_until("everybody is told", PATIENCE, || {
        proxy.metric("preshard_store_up") == 0 && proxy.log().contains("store_unreachable")
    });
    let tasks = admin.ask("PRESHARD TASK LIST");
    assert!(
        tasks.error().is_some_and(|told| told.contains("check the disk")),
        "{tasks:?}"
    );
    let leads = |proxy: &Proxy| proxy.metric("preshard_leader") == 1;
    assert!(leads(&proxy), "its lease is no matter of the disk");

    // A pipe cannot be synced, so that what was under way ends with an error.
    let reader = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&pipe);
    std::fs::remove_file(&pipe).unwrap();
    wait_until("the disk answers", PATIENCE, || {
        admin.ask("PRESHARD TASK LIST").error().is_none() && proxy.metric("preshard_store_up") == 1
    });
    drop(reader.unwrap());
    assert_eq!(admin.ask("PRESHARD TOPOLOGY EPOCH").int(), epoch);
    admin.ask(&add).expect_ok();
    proxy.kill();
    let again = setup.store(&proxy.store).start();
    let named = again.admin_client().ask("PRESHARD SHOW NODES").items();
    assert_eq!(named.len(), 3, "{named:?}");
}
