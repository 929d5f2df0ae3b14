//! The config of a running proxy: reloaded, set, refused; under load, and by many at once.

mod users;

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::harness::sys::send_signal;
use crate::harness::wire::frame;
use crate::harness::{
    Certificates, Client, Node, PATIENCE, Proxy, Reply, Scratch, Setup, key_in, wait_until,
};

fn behind(setup: impl Fn(Setup) -> Setup) -> ([Node; 2], Proxy) {
    let nodes = [Node::start(), Node::start()];
    let proxy = setup(Setup::of(&[nodes[0].address(), nodes[1].address()])).start();
    (nodes, proxy)
}

/// Puts a line below the head of its section, in the place of the one with the same key.
fn edit(proxy: &Proxy, section: &str, line: &str) {
    let (key, _) = line.split_once(' ').unwrap();
    let text = fs::read_to_string(proxy.config()).unwrap();
    let (mut inside, mut lines) = (false, Vec::new());
    for old in text.lines() {
        if old.starts_with('[') {
            inside = old == format!("[{section}]");
        }
        let same = inside && old.split_once(' ').is_some_and(|(name, _)| name == key);
        if !same {
            lines.push(old.to_owned());
        }
        if inside && old.starts_with('[') {
            lines.push(line.to_owned());
        }
    }
    fs::write(proxy.config(), lines.join("\n") + "\n").unwrap();
}

fn reload(proxy: &Proxy) -> Reply {
    proxy.admin_client().ask("PRESHARD CONFIG RELOAD")
}

fn lines(change: &Reply, field: &str) -> Vec<String> {
    let lines = change
        .field(field)
        .unwrap_or_else(|| panic!("no {field} in {change:?}"));
    lines.items().iter().map(Reply::text).collect()
}

/// The row of SHOW CONFIG: value, state, what the file says.
fn shown(proxy: &Proxy, key: &str) -> [String; 3] {
    let rows = proxy.admin_client().ask("PRESHARD SHOW CONFIG").items();
    let row = rows.iter().find(|row| row.field("key").unwrap().text() == key);
    let row = row.unwrap_or_else(|| panic!("no row {key}"));
    ["value", "state", "file"].map(|field| row.field(field).unwrap().text())
}

fn reloads(proxy: &Proxy, result: &str) -> u64 {
    proxy.metric(&format!("preshard_config_reloads_total{{result=\"{result}\"}}"))
}

/// Every key without a relation to files, with another value than the tests' own.
const CHANGES: &[(&str, &str, &str)] = &[
    ("proxy", "max_clients", "500"),
    ("proxy", "idle_timeout", "\"300s\""),
    ("proxy", "tcp_keepalive", "\"30s\""),
    ("proxy", "handshake_timeout", "\"3s\""),
    ("proxy", "request_bytes_max", "\"2MiB\""),
    ("proxy", "request_memory_max", "\"512MiB\""),
    ("proxy", "in_flight_max", "77"),
    ("proxy", "in_flight_bytes_max", "\"1MiB\""),
    ("proxy", "output_bytes_soft", "\"1MiB\""),
    ("proxy", "output_bytes_hard", "\"32MiB\""),
    ("proxy", "output_stall_timeout", "\"9s\""),
    ("proxy", "request_timeout", "\"11s\""),
    ("proxy", "drain_timeout", "\"7s\""),
    ("proxy", "keys_max", "1000"),
    ("proxy", "tracking_keys_max", "1000"),
    ("proxy", "redis_version", "\"7.0.1\""),
    ("nodes", "connect_timeout", "\"3s\""),
    ("nodes", "in_flight_max", "99"),
    ("nodes", "in_flight_bytes_max", "\"1MiB\""),
    ("nodes", "queue_max", "99"),
    ("nodes", "queue_bytes_max", "\"1MiB\""),
    ("nodes", "dedicated_max", "5"),
    ("nodes", "batches_in_flight", "2"),
    ("nodes", "on_empty", "\"refuse\""),
    ("nodes", "on_gap", "\"close\""),
    ("nodes", "reconnect_backoff_max", "\"100ms\""),
    ("slowlog", "slower_than", "\"20ms\""),
    ("slowlog", "entries_max", "9"),
    ("slowlog", "show_args", "true"),
];

#[test]
fn every_key_that_is_reloaded_is_in_force_afterwards() {
    let (_nodes, proxy) = behind(|setup| setup);
    let mut client = proxy.client();
    for (section, key, value) in CHANGES {
        edit(&proxy, section, &format!("{key} = {value}"));
    }
    let change = reload(&proxy);
    assert_eq!(lines(&change, "applied").len(), CHANGES.len(), "{change:?}");
    assert_eq!(lines(&change, "restart"), [""; 0]);
    for (section, key, value) in CHANGES {
        let value = value.trim_matches('"').to_owned();
        assert_eq!(
            shown(&proxy, &format!("{section}.{key}")),
            [value, String::new(), String::new()]
        );
    }
    // Not only shown: by what a client sees.
    let get = |client: &mut Client, name: &str| client.ask(&format!("CONFIG GET {name}")).items()[1].text();
    assert_eq!(get(&mut client, "maxclients"), "500");
    assert_eq!(get(&mut client, "timeout"), "300");
    assert_eq!(get(&mut client, "tcp-keepalive"), "30");
    assert_eq!(get(&mut client, "proto-max-bulk-len"), (2 << 20).to_string());
    assert_eq!(get(&mut client, "slowlog-max-len"), "9");
    assert!(client.ask("INFO server").text().contains("redis_version:7.0.1"));
    assert_eq!(proxy.metric("preshard_client_connections_max"), 500);
    client.send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", 3 << 20).as_bytes());
    client
        .reply()
        .expect_error("ERR Protocol error: invalid bulk length");
    // A second time there is nothing to do.
    assert_eq!(lines(&reload(&proxy), "applied"), [""; 0]);
    assert_eq!(reloads(&proxy, "ok"), 2);
}

#[test]
fn limits_that_change_count_for_who_is_connected_already() {
    let (_nodes, proxy) = behind(|setup| setup);
    let mut client = proxy.client();
    (0..20).for_each(|n| client.call(&["SET", &format!("k{n}"), "v"]).expect_ok());
    assert_eq!(client.ask("KEYS *").items().len(), 20);
    let mut admin = proxy.admin_client();
    let set = |admin: &mut Client, words: &str| admin.ask(&format!("PRESHARD CONFIG SET {words}"));
    assert_eq!(
        lines(&set(&mut admin, "proxy.keys_max 10"), "applied"),
        ["proxy.keys_max = 10"]
    );
    client.ask("KEYS *").expect_error("ERR");
    assert_eq!(
        shown(&proxy, "proxy.keys_max"),
        ["10", "set", ""].map(str::to_owned)
    );
    set(&mut admin, "slowlog.show_args true");
    set(&mut admin, "slowlog.slower_than 1ms");
    client.call(&[
        "EVAL",
        "local n = 0; for i = 1, 3000000 do n = n + i end return n",
        "0",
    ]);
    let slow = client.ask("SLOWLOG GET 1").items()[0].items()[3].items();
    assert!(slow.len() == 3, "its arguments are shown: {slow:?}");
    set(&mut admin, "slowlog.show_args false");
    client.call(&[
        "EVAL",
        "local n = 0; for i = 1, 3000000 do n = n + i end return n",
        "0",
    ]);
    let slow = client.ask("SLOWLOG GET 1").items()[0].items()[3].items();
    assert!(
        slow[0].text().to_lowercase().contains("eval") && !format!("{slow:?}").contains("local"),
        "{slow:?}"
    );
    set(&mut admin, "proxy.idle_timeout 1s");
    assert_eq!(client.until_closed(), b"");
    // max_clients: the one that asks for metrics is on another port.
    set(&mut admin, "proxy.idle_timeout 0");
    proxy.await_metric("preshard_client_connections", 0);
    set(&mut admin, "proxy.max_clients 1");
    let mut one = proxy.client();
    one.ask("PING");
    assert_eq!(
        proxy.client().until_closed(),
        b"-ERR max number of clients reached\r\n"
    );
    // What was set ends with a reload.
    let change = reload(&proxy);
    assert!(
        lines(&change, "applied").contains(&"proxy.max_clients = 10000".to_owned()),
        "{change:?}"
    );
    assert_eq!(
        shown(&proxy, "proxy.keys_max"),
        ["1000000", "", ""].map(str::to_owned)
    );
    proxy.assert_alive("the reload");
}

#[test]
fn a_wrong_file_changes_nothing_and_says_where() {
    let (_nodes, proxy) = behind(|setup| setup.announce(&["config_reload_failed"]));
    let good = fs::read_to_string(proxy.config()).unwrap();
    edit(&proxy, "proxy", "max_clients = 5");
    edit(&proxy, "proxy", "request_timeout = \"soon\"");
    let said = reload(&proxy).expect_error("ERR ");
    assert!(
        said.contains("preshard.toml:2:") && said.contains("proxy.request_timeout must be"),
        "{said}"
    );
    assert!(said.ends_with("; nothing was changed"), "{said}");
    assert_eq!(shown(&proxy, "proxy.max_clients")[0], "10000");
    fs::write(proxy.config(), "[proxy\n").unwrap();
    assert!(reload(&proxy).expect_error("ERR ").contains("this is no TOML"));
    fs::remove_file(proxy.config()).unwrap();
    assert!(
        reload(&proxy)
            .expect_error("ERR ")
            .contains("cannot read the config")
    );
    send_signal(proxy.pid(), libc::SIGHUP);
    wait_until("the signal's reload has failed too", PATIENCE, || {
        reloads(&proxy, "failed") == 4
    });
    wait_until("it is told", PATIENCE, || {
        proxy.log().contains("config_reload_failed")
    });
    fs::write(proxy.config(), good).unwrap();
    assert_eq!(lines(&reload(&proxy), "applied"), [""; 0]);
    proxy.assert_alive("wrong files");
}

#[test]
fn keys_that_wait_for_a_restart_are_listed_and_marked() {
    let (_nodes, proxy) = behind(|setup| setup);
    edit(&proxy, "proxy", "workers = 3");
    edit(&proxy, "topology", "shards = 16");
    edit(&proxy, "proxy", "max_clients = 9");
    let change = reload(&proxy);
    assert_eq!(lines(&change, "applied"), ["proxy.max_clients = 9"]);
    assert_eq!(
        lines(&change, "restart"),
        ["proxy.workers = 3", "topology.shards = 16"]
    );
    assert_eq!(
        shown(&proxy, "proxy.workers"),
        ["2", "restart", "3"].map(str::to_owned)
    );
    assert_eq!(proxy.metric("preshard_config_restart_pending"), 2);
    let mut admin = proxy.admin_client();
    admin.ask("PRESHARD CONFIG SET proxy.keys_max 5");
    assert_eq!(shown(&proxy, "proxy.workers")[1], "restart", "it still waits");
    let refused = admin
        .ask("PRESHARD CONFIG SET proxy.workers 3")
        .expect_error("ERR ");
    assert!(refused.contains("only after a restart"), "{refused}");
    edit(&proxy, "proxy", "workers = 2");
    edit(&proxy, "topology", "shards = 8");
    assert_eq!(lines(&reload(&proxy), "restart"), [""; 0]);
    assert_eq!(shown(&proxy, "proxy.workers"), ["2", "", ""].map(str::to_owned));
}

#[test]
fn values_are_found_by_pattern_and_checked_when_they_are_set() {
    let (_nodes, proxy) = behind(|setup| setup);
    let mut admin = proxy.admin_client();
    let found = admin.ask("PRESHARD CONFIG GET proxy.output_*");
    let names: Vec<String> = found.items().iter().step_by(2).map(Reply::text).collect();
    assert_eq!(
        names,
        [
            "proxy.output_bytes_soft",
            "proxy.output_bytes_hard",
            "proxy.output_stall_timeout"
        ]
    );
    assert_eq!(
        admin.ask("PRESHARD CONFIG GET log.level").field("log.level"),
        Some(Reply::from("info"))
    );
    assert_eq!(admin.ask("PRESHARD CONFIG GET nothing").items(), []);
    for (words, why) in [
        ("proxy.max_clients none", "must be a whole number"),
        ("proxy.max_clientz 5", "there is no key"),
        (
            "proxy.output_bytes_soft 128MiB",
            "exceeds proxy.output_bytes_hard",
        ),
        ("proxy.password_file /etc/passwd", "change the config file"),
    ] {
        let said = admin
            .ask(&format!("PRESHARD CONFIG SET {words}"))
            .expect_error("ERR ");
        assert!(
            said.contains(why) && said.contains("nothing was changed"),
            "{said}"
        );
    }
    let change = admin.ask("PRESHARD CONFIG SET proxy.max_clients 50");
    assert!(
        lines(&change, "notes")[0].contains("the file is not changed"),
        "{change:?}"
    );
    let before = proxy.log().len();
    admin.ask("PRESHARD CONFIG SET log.level debug");
    drop(proxy.client());
    wait_until("a client's leaving is logged", PATIENCE, || {
        proxy.log()[before..].contains("client_left")
    });
}

#[test]
fn passwords_are_exchanged_while_clients_stay() {
    let passwords = Scratch::new("passwords");
    let file = passwords.file("clients");
    fs::write(&file, "old\n").unwrap();
    let admin_file = passwords.file("admin");
    fs::write(&admin_file, "first\n").unwrap();
    let (_nodes, proxy) = behind(|setup| {
        setup
            .proxy(&format!("password_file = \"{}\"", file.display()))
            .admin(&format!("password_file = \"{}\"", admin_file.display()))
            .announce(&["admin_auth_failed"])
    });
    let mut stays = proxy.client();
    stays.ask("AUTH old").expect_ok();
    let mut admin = proxy.admin_client();
    admin.ask("AUTH first").expect_ok();
    fs::write(&file, "new\n").unwrap();
    fs::write(&admin_file, "second\n").unwrap();
    let change = admin.ask("PRESHARD CONFIG RELOAD");
    assert_eq!(
        lines(&change, "applied"),
        ["proxy.password = <redacted>", "admin.password = <redacted>"]
    );
    assert_eq!(stays.ask("PING"), Reply::Simple("PONG".to_owned()));
    stays.ask("AUTH old").expect_error("WRONGPASS");
    let mut comes = proxy.client();
    comes.ask("AUTH old").expect_error("WRONGPASS");
    comes.ask("AUTH new").expect_ok();
    proxy.admin_client().ask("AUTH first").expect_error("WRONGPASS");
    proxy.admin_client().ask("AUTH second").expect_ok();
}

#[test]
fn the_nodes_password_is_rotated_without_a_failed_request() {
    let passwords = Scratch::new("passwords");
    let file = passwords.file("nodes");
    fs::write(&file, "old\n").unwrap();
    let nodes = [Node::start(), Node::start()];
    let on_nodes = |words: &[&str]| {
        for node in &nodes {
            node.client().call(words).expect_ok();
        }
    };
    // Redis takes several passwords of one user: both are right while they are exchanged.
    on_nodes(&["ACL", "SETUSER", "preshard", "on", ">old", "~*", "&*", "+@all"]);
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .nodes("username = \"preshard\"")
        .nodes("acl_users = \"off\"")
        .nodes(&format!("password_file = \"{}\"", file.display()))
        .announce(&["node_warning"])
        .start();
    let mut client = proxy.client();
    let keys = [key_in(0, 8, "k:"), key_in(7, 8, "k:")];
    keys.iter()
        .for_each(|key| client.call(&["SET", key, "0"]).expect_ok());
    on_nodes(&["ACL", "SETUSER", "preshard", ">new"]);
    fs::write(&file, "new\n").unwrap();
    assert_eq!(lines(&reload(&proxy), "applied"), ["nodes.password = <redacted>"]);
    on_nodes(&["ACL", "SETUSER", "preshard", "<old"]);
    // The old connections serve on, and a new one is made with the new password.
    keys.iter()
        .for_each(|key| assert_eq!(client.call(&["INCR", key]), Reply::Int(1)));
    client.command(&["BLPOP", "queue", "20"]);
    assert_eq!(proxy.client().ask("RPUSH queue x"), Reply::Int(1));
    assert_eq!(client.reply().items()[1], Reply::from("x"));
}

#[test]
fn certificates_are_exchanged_while_clients_stay() {
    let certificates = Certificates::new();
    let (certificate, key) = certificates.make("proxy", "localhost");
    let (_nodes, proxy) = behind(|setup| {
        setup
            .proxy("listen_tls = \"127.0.0.1:0\"")
            .tls(&format!("certificate_file = \"{certificate}\""))
            .tls(&format!("key_file = \"{key}\""))
            .announce(&["config_reload_failed"])
    });
    let config = certificates.client(None);
    let connect = || Client::connect(proxy.address("data_tls")).secured(&config);
    let expiry = "preshard_tls_certificate_expiry_timestamp_seconds{certificate=\"listeners\"}";
    let mut stays = connect();
    stays.ask("SET k 1").expect_ok();
    let first = stays.shown_certificate();
    let ends = proxy.metric(expiry);
    certificates.make_until("proxy", "localhost", 2040);
    assert_eq!(
        lines(&reload(&proxy), "applied"),
        [format!("tls.certificate_file = {certificate}")]
    );
    assert!(proxy.metric(expiry) < ends && proxy.metric(expiry) > 0);
    let mut comes = connect();
    assert_eq!(comes.ask("GET k"), Reply::from("1"));
    assert_ne!(comes.shown_certificate(), first);
    assert_eq!(stays.ask("GET k"), Reply::from("1"));
    let second = comes.shown_certificate();
    // Half of a rotation, or an old one: the one in force stays.
    fs::copy(certificates.make("other", "localhost").1, &key).unwrap();
    let said = reload(&proxy).expect_error("ERR ");
    assert!(said.contains("does not belong to the certificate"), "{said}");
    certificates.make_until("proxy", "localhost", 2001);
    assert!(reload(&proxy).expect_error("ERR ").contains("has expired"));
    let mut after = connect();
    assert_eq!(after.ask("GET k"), Reply::from("1"));
    assert_eq!(after.shown_certificate(), second);
    // From now on certificates of clients are wanted.
    certificates.make("proxy", "localhost");
    certificates.make("client", "somebody");
    edit(
        &proxy,
        "tls",
        &format!("client_ca_file = \"{}\"", certificates.ca()),
    );
    reload(&proxy);
    let mut without = connect();
    let sent = without.try_send(b"PING\r\n");
    assert!(
        sent.and_then(|()| without.try_reply_bytes()).is_err(),
        "it was let in"
    );
    let own = certificates.client(Some("client"));
    let mut with = Client::connect(proxy.address("data_tls")).secured(&own);
    assert_eq!(with.ask("GET k"), Reply::from("1"));
    assert_eq!(stays.ask("GET k"), Reply::from("1"));
}

#[test]
fn reloads_by_many_under_load_lose_no_request() {
    let (_nodes, proxy) = behind(|setup| setup);
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for number in 0..6 {
            let (proxy, stop, asked) = (&proxy, &stop, &asked);
            scope.spawn(move || {
                let mut client = proxy.client();
                let mut count = 0;
                while !stop.load(Relaxed) {
                    let key = format!("count:{number}");
                    client.send(&frame(&["INCR", &key]).repeat(50));
                    for _ in 0..50 {
                        count += 1;
                        assert_eq!(client.reply(), Reply::Int(count));
                    }
                    asked.fetch_add(50, Relaxed);
                }
            });
        }
        let admins: Vec<_> = (0..3)
            .map(|number: u64| {
                let proxy = &proxy;
                scope.spawn(move || {
                    let mut admin = proxy.admin_client();
                    for round in 0..30 {
                        let limit = 1 + (round * 7 + number) % 64;
                        let change = admin.ask(&format!("PRESHARD CONFIG SET proxy.in_flight_max {limit}"));
                        assert!(change.error().is_none(), "{change:?}");
                        admin.ask(&format!("PRESHARD CONFIG SET nodes.in_flight_max {limit}"));
                        let change = admin.ask("PRESHARD CONFIG RELOAD");
                        assert!(change.error().is_none(), "{change:?}");
                        send_signal(proxy.pid(), libc::SIGHUP);
                    }
                })
            })
            .collect();
        admins.into_iter().for_each(|admin| admin.join().unwrap());
        let before = asked.load(Relaxed);
        wait_until("they go on afterwards", PATIENCE, || {
            asked.load(Relaxed) > before + 1000
        });
        stop.store(true, Relaxed);
    });
    assert!(reloads(&proxy, "ok") >= 90);
    assert_eq!(reloads(&proxy, "failed"), 0);
    assert_eq!(shown(&proxy, "proxy.in_flight_max")[0], "1024");
}
