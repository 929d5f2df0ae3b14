//! What somebody who sets a flusher up sees: exit statuses, words, the end that it comes to when it is asked to.

use super::kit::{COMMIT, Flush, PATIENCE, prepare, sum};
use super::peer::{Peer, Say};
use super::postgres::Postgres;
use super::shim::{Hold, Shim};
use crate::harness::{Certificates, free_port, run_to_end, wait_until};

#[test]
fn once_drains_what_is_due_and_says_how_it_went() {
    let postgres = Postgres::start();
    let peer = Peer::start();
    let mut flush = Flush::new(peer.address, &postgres);
    let (status, told) = flush.run(&["--once"]);
    assert_eq!(status, Some(1), "{told}");
    assert!(
        told.contains("--init-sql makes it") && told.contains("42P01"),
        "{told}"
    );
    prepare(&postgres);
    assert_eq!(flush.run(&["--once"]).0, Some(0), "nothing is due");
    for member in 0..50 {
        peer.count(&format!("m{member}"), 2);
    }
    let (status, told) = flush.run(&["--once"]);
    assert_eq!((status, sum(&postgres)), (Some(0), 100), "{told}");
    assert!(peer.is_drained());
    // A row that is locked: it is left, and that is said.
    peer.count("m1", 1);
    let shim = Shim::to(([127, 0, 0, 1], postgres.port).into());
    let mut slow = flush.clone();
    slow.lease = "1h";
    slow.postgres = format!("postgres://app@{}/postgres", shim.address);
    shim.arm(COMMIT, Hold::Before);
    let mut standing = slow.launch(&["--once"]);
    shim.await_strike();
    peer.forget_leases();
    let (status, told) = flush.run(&["--once"]);
    assert_eq!(status, Some(1), "{told}");
    assert!(told.contains("not everything could be flushed"), "{told}");
    standing.kill();
    drop(shim);
    wait_until("the lock has gone", PATIENCE, || {
        peer.forget_leases();
        flush.run(&["--once"]).0 == Some(0) && peer.is_drained()
    });
    assert_eq!(sum(&postgres), 101);
    // Nobody there.
    flush.redis = format!("redis://127.0.0.1:{}", free_port());
    let (status, told) = flush.run(&["--once"]);
    assert_eq!(status, Some(3), "{told}");
    assert!(told.contains("preshard could not be reached"), "{told}");
    flush.postgres = format!("postgres://app@127.0.0.1:{}/postgres", free_port());
    let (status, told) = flush.run(&["--once"]);
    assert_eq!(status, Some(3), "{told}");
    assert!(told.contains("Postgres could not be reached"), "{told}");
}

#[test]
fn a_dry_run_shows_what_would_be_done_and_changes_nothing() {
    let postgres = Postgres::start();
    prepare(&postgres);
    let peer = Peer::start();
    peer.count("a", 1);
    let mut flush = Flush::new(peer.address, &postgres);
    let (status, told) = flush.run(&["--dry-run"]);
    assert_eq!(status, Some(0), "{told}");
    assert!(told.contains("counter events: members 4"), "{told}");
    assert!(told.contains("Insert on event"), "{told}");
    assert!(!peer.is_drained() && peer.seen("COUNTER.TAKE") == 0);
    assert_eq!(sum(&postgres), 0);
    assert_eq!(postgres.number("SELECT count(*) FROM preshard_flush"), 0);
    flush.counters = flush.counters.replace("INTO event", "INTO evnt");
    let (status, told) = flush.run(&["--dry-run"]);
    assert_eq!(status, Some(1), "{told}");
    assert!(
        told.contains("the statement of the counter events") && told.contains("evnt"),
        "{told}"
    );
    let (status, told) = flush.run(&[]);
    assert_eq!(status, Some(1), "{told}");
}

#[test]
fn mistakes_are_told_all_at_once_and_no_password_is() {
    let postgres = Postgres::planned();
    let mut flush = Flush::new(([127, 0, 0, 1], 1).into(), &postgres);
    flush.redis = "redis://me:s3cret@127.0.0.1:x".to_owned();
    flush.count = 0;
    flush.more = "sorce = 1".to_owned();
    let (status, told) = flush.run(&[]);
    assert_eq!(status, Some(2), "{told}");
    for wanted in [
        "3 mistakes in",
        "redis: ",
        "count must be",
        "did you mean source?",
        "flush.toml:6:",
    ] {
        assert!(told.contains(wanted), "{wanted}: {told}");
    }
    assert!(!told.contains("s3cret"), "{told}");
    let (status, told) = run_to_end(&["flush"]);
    assert_eq!(status.code(), Some(2), "{told}");
}

#[test]
fn it_ends_when_asked_to_with_what_it_has_taken() {
    let postgres = Postgres::start();
    prepare(&postgres);
    let peer = Peer::start();
    let shim = Shim::to(([127, 0, 0, 1], postgres.port).into());
    let mut flush = Flush::new(peer.address, &postgres);
    flush.postgres = format!("postgres://app@{}/postgres", shim.address);
    flush.lease = "30s";
    let mut flusher = flush.start();
    shim.arm("INTO event", Hold::Before);
    peer.count("a", 3);
    shim.await_strike();
    flusher.terminate();
    wait_until("it has heard", PATIENCE, || {
        flusher.log().contains("flush_stopping")
    });
    // It acknowledges, although the first attempt fails.
    peer.say("COUNTER.ACK", Say::Instead("-TRYAGAIN shard 1 is moving"));
    shim.release();
    assert_eq!(flusher.end().code(), Some(0), "{}", flusher.log());
    assert!(peer.is_drained());
    assert_eq!(sum(&postgres), 3);
    // A second signal ends it at once; what it had taken comes again.
    let mut flusher = flush.start();
    shim.arm(COMMIT, Hold::Before);
    peer.count("a", 4);
    shim.await_strike();
    flusher.terminate();
    wait_until("it has heard", PATIENCE, || {
        flusher.log().contains("flush_stopping")
    });
    assert_eq!(flusher.stop().code(), Some(130), "{}", flusher.log());
    shim.cut();
    assert!(!peer.is_drained());
    peer.forget_leases();
    assert_eq!(flush.run(&["--once"]).0, Some(0));
    assert_eq!(sum(&postgres), 7);
    // While Postgres is away nothing is taken, and it ends at once all the same.
    let mut nowhere = Flush::new(peer.address, &postgres);
    nowhere.postgres = format!("postgres://app@127.0.0.1:{}/postgres", free_port());
    let takes = peer.seen("COUNTER.TAKE");
    let mut flusher = nowhere.start();
    wait_until("it tries", PATIENCE, || {
        flusher.log().matches("postgres_unreachable").count() > 2
    });
    assert_eq!(peer.seen("COUNTER.TAKE"), takes);
    assert_eq!(flusher.stop().code(), Some(0));
}

#[test]
fn postgres_over_tls_is_verified_with_a_password_out_of_a_file() {
    let certificates = Certificates::new();
    let (certificate, key) = certificates.make("db", "127.0.0.1");
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let postgres = Postgres::start_tls(&read(&certificate), &read(&key));
    prepare(&postgres);
    let peer = Peer::start();
    let mut flush = Flush::new(peer.address, &postgres);
    let secret = certificates.path("password");
    std::fs::write(&secret, "secret\n").unwrap();
    flush.more = format!(
        "postgres_ca_file = \"{}\"\npostgres_password_file = \"{secret}\"",
        certificates.ca()
    );
    peer.count("a", 1);
    let (status, told) = flush.run(&["--once"]);
    assert_eq!((status, sum(&postgres)), (Some(0), 1), "{told}");
    // `prefer` speaks TLS where it is offered, with whoever it is.
    let mut prefer = flush.clone();
    prefer.more = format!("postgres_password_file = \"{secret}\"");
    peer.count("a", 1);
    assert_eq!(prefer.run(&["--once"]).0, Some(0));
    // Another authority, another name, another password.
    let other = Certificates::new();
    let mut wrong = flush.clone();
    wrong.more = wrong.more.replace(&certificates.ca(), &other.ca());
    let (status, told) = wrong.run(&["--once"]);
    assert_eq!(status, Some(3), "{told}");
    assert!(told.contains("certificate"), "{told}");
    wrong = flush.clone();
    wrong.more.push_str("\npostgres_server_name = \"elsewhere\"");
    let (status, told) = wrong.run(&["--once"]);
    assert_eq!(status, Some(3), "{told}");
    std::fs::write(&secret, "hunter2\n").unwrap();
    let (status, told) = flush.run(&["--once"]);
    assert_eq!(status, Some(3), "{told}");
    assert!(told.contains("password") && !told.contains("hunter2"), "{told}");
    assert_eq!(sum(&postgres), 2);
}
