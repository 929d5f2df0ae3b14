//! Users and their rights: who is who on both ports, what is refused, and that guessing passwords harms nobody else.

mod differential;

use std::process::Command;
use std::time::{Duration, Instant};

use crate::clients::{python, run, run_script};
use crate::harness::wire::frame;
use crate::harness::{Metronome, Node, PATIENCE, Proxy, Reply, Setup, key_in, wait_until};

const LATER: Duration = Duration::from_secs(1);

/// An application that is limited to its keys, who watches, and who administers. `default` is off.
fn three() -> ([Node; 2], Proxy) {
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .user(
            "app",
            "p1",
            "rights = [\"read\", \"write\"]\nkeys = [\"app:*\"]\nchannels = [\"app.*\"]",
        )
        .user("eye", "p2", "rights = [\"monitor\"]")
        .user("root", "p3", "rights = [\"read\", \"write\", \"admin\"]")
        .announce(&["admin_auth_failed"])
        .start();
    (nodes, proxy)
}

fn error(reply: &Reply) -> String {
    match reply {
        Reply::Error(line) => line.clone(),
        other => panic!("no error: {other:?}"),
    }
}

#[test]
fn nobody_is_somebody_without_a_password() {
    let (_nodes, proxy) = three();
    let mut client = proxy.client();
    let wrong = "WRONGPASS invalid username-password pair or user is disabled.";
    assert_eq!(error(&client.ask("GET app:1")), "NOAUTH Authentication required.");
    assert!(error(&client.ask("HELLO 3")).starts_with("NOAUTH HELLO"));
    for (name, line) in ["AUTH p1", "AUTH eye p1", "AUTH nobody p1", "HELLO 3 AUTH root p1"]
        .iter()
        .enumerate()
    {
        // Each of another user, so that none has to wait.
        assert_eq!(error(&client.ask(line)), wrong, "{name} {line}");
    }
    assert_eq!(
        client.ask("HELLO 2 AUTH app p1").field("proto"),
        Some(Reply::Int(2))
    );
    assert_eq!(client.ask("ACL WHOAMI").text(), "app");
    assert_eq!(client.ask("SET app:1 x").text(), "OK");
    proxy.await_metric("preshard_auth_failures_total{listener=\"data\"}", 4);
    proxy.await_metric("preshard_user_clients{user=\"app\"}", 1);
    proxy.await_metric("preshard_user_clients{user=\"default\"}", 0);
}

#[test]
fn a_password_in_the_middle_of_a_pipeline_counts_from_there_on() {
    let (_nodes, proxy) = three();
    let mut client = proxy.client();
    let lines = [
        "GET app:1",
        "AUTH app p1",
        "SET app:1 1",
        "GET other",
        "AUTH root p3",
        "SET other 2",
        "GET app:1",
        "AUTH app p1",
        "GET other",
        "GET app:1",
        "RESET",
        "GET app:1",
    ];
    let bytes: Vec<u8> = lines
        .iter()
        .flat_map(|line| frame(&line.split(' ').collect::<Vec<_>>()))
        .collect();
    client.send(&bytes);
    let key = "NOPERM this user has no permissions to access one of the keys used as arguments";
    let expected = [
        "NOAUTH Authentication required.",
        "OK",
        "OK",
        key,
        "OK",
        "OK",
        "1",
        "OK",
        key,
        "1",
        "RESET",
        "NOAUTH Authentication required.",
    ];
    for (line, expected) in lines.iter().zip(expected) {
        let reply = client.reply();
        let found = match &reply {
            Reply::Error(line) => line.clone(),
            other => other.text(),
        };
        assert_eq!(found, expected, "{line}");
    }
    proxy.await_metric("preshard_acl_refusals_total{kind=\"key\"}", 2);
}

#[test]
fn a_refusal_fails_the_transaction_that_it_is_in() {
    let (_nodes, proxy) = three();
    let mut client = proxy.client();
    client.ask("AUTH app p1");
    assert_eq!(client.ask("MULTI").text(), "OK");
    assert_eq!(client.ask("SET app:1 1").text(), "QUEUED");
    assert!(error(&client.ask("GET other")).starts_with("NOPERM"));
    assert!(error(&client.ask("EXEC")).starts_with("EXECABORT"));
    assert_eq!(client.ask("GET app:1"), Reply::Null);
    assert!(error(&client.ask("WATCH other")).starts_with("NOPERM"));
    assert!(error(&client.ask("EVAL return(1) 1 app:1")).starts_with("NOPERM"));
}

#[test]
fn who_lists_clients_sees_who_they_are_and_may_end_them_by_name() {
    let (_nodes, proxy) = three();
    let (mut app, mut root, mut eye) = (proxy.client(), proxy.client(), proxy.client());
    app.ask("AUTH app p1");
    root.ask("AUTH root p3");
    eye.ask("AUTH eye p2");
    let list = eye.ask("CLIENT LIST").text();
    for name in ["app", "root", "eye"] {
        assert_eq!(list.matches(&format!(" user={name} ")).count(), 1, "{list}");
    }
    assert!(error(&eye.ask("CLIENT KILL USER app")).starts_with("NOPERM"));
    assert_eq!(
        error(&root.ask("CLIENT KILL USER nosuch")),
        "ERR No such user 'nosuch'"
    );
    assert_eq!(root.ask("CLIENT KILL USER app"), Reply::Int(1));
    assert!(app.try_reply_bytes().is_err());
    assert_eq!(eye.ask("ACL WHOAMI").text(), "eye");
    assert_eq!(root.ask("ACL USERS").items().len(), 4);
    let list = format!("{:?}", root.ask("ACL LIST"));
    assert!(
        list.contains("user app on #<redacted> ~app:* resetchannels &app.* "),
        "{list}"
    );
    assert!(list.contains("user default off resetchannels -@all"), "{list}");
    for line in ["ACL SETUSER x on", "ACL DELUSER app", "ACL LOAD", "ACL SAVE"] {
        let told = error(&root.ask(line));
        assert!(
            told.contains("[[user]] in preshard's configuration file"),
            "{told}"
        );
    }
}

#[test]
fn guessing_is_slow_and_nobody_else_waits() {
    let (_nodes, proxy) = three();
    let (mut guesser, mut app) = (proxy.client(), proxy.client());
    app.ask("AUTH app p1");
    assert!(error(&guesser.ask("AUTH root x")).starts_with("WRONGPASS"));
    let (asked, metronome) = (Instant::now(), Metronome::start());
    guesser.send(
        &[
            frame(&["AUTH", "root", "y"]),
            frame(&["PING"]),
            frame(&["HELLO", "2", "AUTH", "root", "p3"]),
        ]
        .concat(),
    );
    for number in 0..50 {
        assert_eq!(app.ask(&format!("SET app:{number} 1")).text(), "OK");
    }
    // Other users, and other connections of users that nobody guesses, come in at once.
    let (waits, free) = (asked.elapsed(), Instant::now());
    assert_eq!(proxy.client().ask("AUTH eye p2").text(), "OK");
    let took = free.elapsed();
    assert!(error(&guesser.reply()).starts_with("WRONGPASS"));
    assert!(asked.elapsed() >= LATER);
    let late = metronome.late();
    assert!(
        waits < LATER + late && took < LATER + late,
        "{waits:?} {took:?}, late {late:?}: others wait too"
    );
    assert!(error(&guesser.reply()).starts_with("NOAUTH"));
    let greeting = guesser.reply();
    assert_eq!(
        greeting.field("proto"),
        Some(Reply::Int(2)),
        "a right one is only later"
    );
    assert!(asked.elapsed() >= 2 * LATER);
    assert_eq!(guesser.ask("ACL WHOAMI").text(), "root");
    // Who leaves while it waits leaves nothing behind.
    for _ in 0..20 {
        let mut leaving = proxy.client();
        leaving.send(&frame(&["AUTH", "root", "z"]));
    }
    assert_eq!(app.ask("GET app:1").text(), "1");
    wait_until("those who have left are gone", PATIENCE, || {
        proxy.metric("preshard_client_connections") == 2
    });
    proxy.await_metric("preshard_user_clients{user=\"root\"}", 1);
}

#[test]
fn preshard_is_answered_on_the_data_port_for_who_may_and_in_its_turn() {
    let (_nodes, proxy) = three();
    let (mut app, mut eye, mut root) = (proxy.client(), proxy.client(), proxy.client());
    app.ask("AUTH app p1");
    eye.ask("AUTH eye p2");
    root.ask("HELLO 3 AUTH root p3");
    // Its commands do not have it; who had it by `+@all` would lack the right.
    assert!(error(&app.ask("PRESHARD VERSION")).starts_with("NOPERM"));
    assert_eq!(eye.ask("PRESHARD SHOW SHARDS").items().len(), 12);
    assert_eq!(
        error(&eye.ask("PRESHARD SHARD PAUSE 1")),
        "NOPERM this user has no permissions to run PRESHARD SHARD PAUSE; it needs the right admin"
    );
    assert!(error(&root.ask("PRESHARD NOSUCH")).starts_with("ERR unknown subcommand"));
    assert!(!error(&root.ask("PRESHARD SHARD MOVE")).starts_with("NOPERM"));
    assert!(matches!(
        &root.ask("PRESHARD SHOW NODES").items()[0],
        Reply::Map(_)
    ));
    let mut bytes = Vec::new();
    for number in 0..30 {
        bytes.extend(frame(&["SET", "n", &number.to_string()]));
        bytes.extend(frame(&["PRESHARD", "SHARD", "OF", "n"]));
        bytes.extend(frame(&["GET", "n"]));
        bytes.extend(frame(&["PRESHARD", "TOPOLOGY", "EPOCH"]));
    }
    root.send(&bytes);
    for number in 0..30 {
        assert_eq!(root.reply().text(), "OK");
        assert!(matches!(root.reply(), Reply::Map(_)));
        assert_eq!(root.reply().text(), number.to_string());
        assert!(matches!(root.reply(), Reply::Int(_)));
    }
    let mut leaving = proxy.client();
    leaving.ask("AUTH root p3");
    leaving.send(&frame(&["PRESHARD", "CHECK"]));
    drop(leaving);
    assert_eq!(root.ask("MULTI").text(), "OK");
    assert!(
        matches!(root.ask("PRESHARD VERSION"), Reply::Error(_)),
        "it cannot be queued"
    );
    proxy.await_metric("preshard_acl_refusals_total{kind=\"right\"}", 1);
}

#[test]
fn the_admin_port_knows_the_same_users() {
    let (_nodes, proxy) = three();
    let mut admin = proxy.admin_client();
    assert_eq!(
        error(&admin.ask("PRESHARD VERSION")),
        "NOAUTH Authentication required."
    );
    assert_eq!(
        error(&admin.ask("AUTH app p1")),
        "NOPERM this user has neither the right monitor nor the right admin"
    );
    assert_eq!(admin.ask("AUTH eye p2").text(), "OK");
    assert_eq!(admin.ask("PRESHARD SHOW SHARDS").items().len(), 12);
    assert!(error(&admin.ask("PRESHARD SHARD PAUSE 1")).starts_with("NOPERM"));
    assert!(error(&admin.ask("CLIENT UNPAUSE")).starts_with("NOPERM"));
    assert_eq!(
        admin.ask("HELLO 2 AUTH root p3").field("proto"),
        Some(Reply::Int(2))
    );
    admin.ask("PRESHARD SHARD PAUSE 1").expect_ok();
    assert_eq!(admin.ask("CLIENT UNPAUSE").text(), "OK");
    assert_eq!(admin.ask("RESET").text(), "RESET");
    assert!(error(&admin.ask("PRESHARD VERSION")).starts_with("NOAUTH"));
    assert!(error(&admin.ask("AUTH root p1")).starts_with("WRONGPASS"));
    proxy.await_metric("preshard_auth_failures_total{listener=\"admin\"}", 1);
}

#[test]
fn redis_cli_and_redis_py_are_users() {
    let (_nodes, proxy) = three();
    let port = proxy.data.port().to_string();
    let cli = |arguments: &[&str]| {
        let login = ["-p", &port, "--user", "app", "--pass", "p1", "--no-auth-warning"];
        run(Command::new("redis-cli").args(login).args(arguments))
    };
    assert_eq!(cli(&["SET", "app:cli", "1"]), "OK\n");
    assert_eq!(cli(&["-3", "ACL", "WHOAMI"]), "app\n");
    assert!(cli(&["GET", "other"]).contains("NOPERM"));
    run_script(python(), "redis_py_users.py", &proxy);
}

#[test]
fn more_preshard_requests_than_are_taken_at_once_are_told_so_and_delay_nobody() {
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .nodes("connect_timeout = \"5s\"")
        .user("root", "p3", "rights = [\"read\", \"write\", \"admin\"]")
        .announce(&[
            "node_unreachable",
            "node_down",
            "link_closed",
            "node_silent",
            "subscriptions_interrupted",
        ])
        .start();
    let key = key_in(0, 8, "live");
    let mut roots: Vec<_> = (0..120)
        .map(|_| {
            let mut root = proxy.client();
            assert_eq!(root.ask("AUTH root p3").text(), "OK");
            root
        })
        .collect();
    let mut other = proxy.client();
    other.ask("AUTH root p3");
    nodes[1].freeze();
    roots
        .iter_mut()
        .for_each(|root| root.send(&frame(&["PRESHARD", "CHECK"])));
    let (asked, metronome) = (Instant::now(), Metronome::start());
    for _ in 0..100 {
        assert_eq!(other.ask(&format!("SET {key} 1")).text(), "OK");
    }
    let (took, late) = (asked.elapsed(), metronome.late());
    assert!(took < 4 * LATER + late, "{took:?}, late {late:?}");
    nodes[1].thaw();
    let mut refused = 0;
    for root in &mut roots {
        root.limit = Duration::from_secs(60);
        match root.reply() {
            Reply::Error(line) => {
                assert!(line.starts_with("TRYAGAIN "), "{line}");
                refused += 1;
            }
            rows => assert!(!rows.items().is_empty()),
        }
    }
    assert!(
        (20..=56).contains(&refused),
        "16 run and 64 wait: {refused} of 120 refused"
    );
    proxy.await_metric("preshard_limits_reached_total{limit=\"admin_requests\"}", refused);
    assert_eq!(roots[0].ask(&format!("GET {key}")).text(), "1");
}
