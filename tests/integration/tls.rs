//! TLS on every side: clients, nodes, administrators, etcd; who is let in, and who is not.

mod partial;

use std::io::{Read as _, Write as _};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::clients::run;
use crate::harness::wire::frame;
use crate::harness::{
    Certificates, Client, Etcd, Metronome, Node, NodeOptions, PATIENCE, Proxy, Reply, Setup, free_port,
    key_in, run_to_end, undisturbed, wait_until,
};

/// A node that speaks TLS only on one port and plain on another, for the test to look at.
pub(crate) struct TlsNode {
    node: Node,
    port: u16,
}

pub(crate) fn node(certificates: &Certificates, clients: &str) -> TlsNode {
    let (certificate, key) = certificates.make("node", "localhost");
    let port = free_port();
    let options = [
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &certificates.ca(),
        "--tls-auth-clients",
        clients,
    ];
    let node = Node::with(NodeOptions {
        more: options.map(str::to_owned).to_vec(),
        ..NodeOptions::default()
    });
    TlsNode { node, port }
}

impl TlsNode {
    pub(crate) fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }
}

/// With a TLS port for clients.
fn listening(setup: Setup, certificates: &Certificates) -> Setup {
    let (certificate, key) = certificates.make("proxy", "localhost");
    setup
        .proxy("listen_tls = \"127.0.0.1:0\"")
        .tls(&format!("certificate_file = \"{certificate}\""))
        .tls(&format!("key_file = \"{key}\""))
}

/// With TLS towards nodes that want a certificate.
pub(crate) fn towards_nodes(setup: Setup, certificates: &Certificates) -> Setup {
    let (certificate, key) = certificates.make("to-nodes", "preshard");
    setup
        .nodes("tls = true")
        .nodes(&format!("tls_ca_file = \"{}\"", certificates.ca()))
        .nodes(&format!("tls_certificate_file = \"{certificate}\""))
        .nodes(&format!("tls_key_file = \"{key}\""))
}

/// Two nodes, which want certificates, and a proxy: TLS on both sides.
fn all_tls(certificates: &Certificates) -> ([TlsNode; 2], Proxy) {
    let nodes = [node(certificates, "yes"), node(certificates, "yes")];
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()]);
    let proxy = towards_nodes(listening(setup, certificates), certificates).start();
    (nodes, proxy)
}

fn plain_nodes() -> ([Node; 2], Setup) {
    let nodes = [Node::start(), Node::start()];
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()]);
    (nodes, setup)
}

fn secured(proxy: &Proxy, config: &Arc<ClientConfig>) -> Client {
    Client::connect(proxy.address("data_tls")).secured(config)
}

/// That many handshakes ended so. Who is refused may know it before it is counted.
fn assert_handshakes(proxy: &Proxy, result: &str, count: u64) {
    proxy.await_metric(
        &format!("preshard_tls_handshakes_total{{result=\"{result}\"}}"),
        count,
    );
}

#[test]
fn everything_works_over_tls_on_both_sides() {
    let certificates = Certificates::new();
    let (nodes, proxy) = all_tls(&certificates);
    let config = certificates.client(None);
    let mut client = secured(&proxy, &config);
    assert_eq!(client.ask("HELLO 3").field("proto"), Some(Reply::Int(3)));
    for shard in 0..8 {
        let key = key_in(shard, 8, "k:");
        client.call(&["SET", &key, &shard.to_string()]).expect_ok();
        assert_eq!(client.call(&["GET", &key]), Reply::from(&*shard.to_string()));
    }
    assert_eq!(client.ask("DBSIZE"), Reply::Int(8));
    // Over connections of its own, in a transaction, by a script, in a pinned database.
    client.command(&["BLPOP", "queue", "10"]);
    assert_eq!(secured(&proxy, &config).ask("RPUSH queue x"), Reply::Int(1));
    assert_eq!(client.reply().items()[1], Reply::from("x"));
    client.ask("WATCH {t}a").expect_ok();
    client.ask("MULTI").expect_ok();
    client.ask("INCR {t}a");
    assert_eq!(client.ask("EXEC").items(), [Reply::Int(1)]);
    assert_eq!(client.ask("EVAL return{KEYS[1]} 1 k").items(), [Reply::from("k")]);
    client.ask("SELECT 2").expect_ok();
    client.ask("SET pinned 1").expect_ok();
    // A message, and an invalidation.
    let mut listener = secured(&proxy, &config);
    listener.ask("SUBSCRIBE news");
    assert_eq!(client.ask("PUBLISH news hello"), Reply::Int(1));
    assert_eq!(listener.reply().items()[2], Reply::from("hello"));
    assert_handshakes(&proxy, "done", 3);
    let shown = CertificateDer::from_pem_file(certificates.path("proxy.crt")).unwrap();
    assert_eq!(client.shown_certificate(), &shown[..]);
    let (status, said) = run_to_end(&[
        "check",
        "--connect",
        "--config",
        &proxy.config().display().to_string(),
    ]);
    assert!(status.success(), "{said}");
    // Nothing of it went by the plain ports: the only client there is the one that asks.
    for node in &nodes {
        assert_eq!(
            node.node
                .client()
                .ask("CLIENT LIST")
                .text()
                .matches(&format!("laddr=127.0.0.1:{}", node.node.port))
                .count(),
            1
        );
    }
}

#[test]
fn large_values_and_deep_pipelines_pass_unchanged() {
    let certificates = Certificates::new();
    let (_nodes, proxy) = all_tls(&certificates);
    let config = certificates.client(None);
    let mut client = secured(&proxy, &config);
    for megabytes in [1, 5, 16] {
        let value: Vec<u8> = (0..megabytes << 20).map(|n: u32| (n % 251) as u8).collect();
        client.call(&[&b"SET"[..], b"large", &value]).expect_ok();
        assert_eq!(client.call(&["GET", "large"]), Reply::Bulk(value));
    }
    // One writes ten thousand requests, another thread reads as slowly as it can.
    let requests: Vec<u8> = (0..10_000)
        .flat_map(|n| frame(&["SET".to_owned(), format!("p:{n}"), "x".repeat(n % 3000)]))
        .chain((0..10_000).flat_map(|n| frame(&["GET".to_owned(), format!("p:{n}")])))
        .collect();
    // Both at once, since the proxy stops reading who does not read: in pieces that one side can hold.
    for piece in requests.chunks(1 << 20) {
        client.send(piece);
    }
    for _ in 0..10_000 {
        client.reply().expect_ok();
    }
    for n in 0..10_000 {
        assert_eq!(client.reply(), Reply::Bulk("x".repeat(n % 3000).into_bytes()));
    }
}

#[test]
fn who_says_that_nothing_follows_gets_all_answers_and_an_end() {
    let certificates = Certificates::new();
    let (_nodes, proxy) = all_tls(&certificates);
    let config = certificates.client(None);
    let mut client = secured(&proxy, &config);
    client.ask("SET k v").expect_ok();
    client.send(&frame(&["GET", "k"]).repeat(500));
    client.end_sending();
    assert_eq!(client.until_closed(), b"$1\r\nv\r\n".repeat(500));
    // QUIT ends with the word of TLS that it is the end, not with a cut.
    let mut client = secured(&proxy, &config);
    client.send(&frame(&["QUIT"]));
    assert_eq!(client.until_closed(), b"+OK\r\n");
    assert!(client.was_told_the_end(), "no close_notify");
}

#[test]
fn a_reader_that_stops_is_waited_for_and_then_gets_everything() {
    let certificates = Certificates::new();
    let (_nodes, proxy) = all_tls(&certificates);
    let config = certificates.client(None);
    let mut client = secured(&proxy, &config);
    let value = "v".repeat(100_000);
    client.call(&["SET", "k", &value]).expect_ok();
    client.send(&frame(&["GET", "k"]).repeat(200));
    // Others are served meanwhile.
    wait_until("replies wait for the reader", PATIENCE, || {
        proxy.metric("preshard_client_output_buffer_bytes") > 1 << 20
    });
    assert_eq!(
        secured(&proxy, &config).ask("PING"),
        Reply::Simple("PONG".to_owned())
    );
    for _ in 0..200 {
        assert_eq!(client.reply(), Reply::from(&*value));
    }
}

#[test]
fn clients_show_certificates_where_they_are_required() {
    let certificates = Certificates::new();
    let (_nodes, setup) = plain_nodes();
    let setup = listening(setup, &certificates).tls(&format!("client_ca_file = \"{}\"", certificates.ca()));
    let proxy = setup.start();
    certificates.make("client", "somebody");
    assert_eq!(
        secured(&proxy, &certificates.client(Some("client"))).ask("PING"),
        Reply::Simple("PONG".to_owned())
    );
    let refused = |config: &Arc<ClientConfig>| {
        let mut client = secured(&proxy, config);
        // The client's side of the handshake is over before the proxy has looked at its certificate.
        let sent = client.try_send(b"PING\r\n");
        assert!(
            sent.and_then(|()| client.try_reply_bytes()).is_err(),
            "it was let in"
        );
    };
    refused(&certificates.client(None));
    // One of another authority; it trusts ours.
    let strangers = Certificates::new();
    let (certificate, key) = strangers.make("client", "somebody");
    std::fs::copy(certificate, certificates.path("stranger.crt")).unwrap();
    std::fs::copy(key, certificates.path("stranger.key")).unwrap();
    refused(&certificates.client(Some("stranger")));
    certificates.make_until("old", "somebody", 2001);
    refused(&certificates.client(Some("old")));
    assert_handshakes(&proxy, "client_certificate", 3);
    let (_nodes, setup) = plain_nodes();
    let setup = listening(setup, &certificates).tls(&format!("client_ca_file = \"{}\"", certificates.ca()));
    let proxy = setup.tls("client_certificates = \"optional\"").start();
    assert_eq!(
        secured(&proxy, &certificates.client(None)).ask("PING"),
        Reply::Simple("PONG".to_owned())
    );
    let mut stranger = secured(&proxy, &certificates.client(Some("stranger")));
    let sent = stranger.try_send(b"PING\r\n");
    assert!(
        sent.and_then(|()| stranger.try_reply_bytes()).is_err(),
        "a wrong one is worse than none"
    );
}

#[test]
fn a_client_at_the_wrong_port_is_closed_and_counted() {
    let certificates = Certificates::new();
    let (_nodes, setup) = plain_nodes();
    let proxy = listening(setup, &certificates).start();
    let mut plain = Client::connect(proxy.address("data_tls"));
    plain.send(b"*1\r\n$4\r\nPING\r\n");
    let said = String::from_utf8(plain.until_closed()).unwrap();
    assert_eq!(
        said,
        "-ERR this port speaks TLS: connect with TLS, or to the port without\r\n"
    );
    assert_handshakes(&proxy, "plain", 1);
    let mut tls = proxy.client().secured(&certificates.client(None));
    assert!(
        tls.try_send(b"PING\r\n").is_err(),
        "a handshake with a plain port"
    );
    proxy.await_metric("preshard_client_disconnects_total{reason=\"tls_hello\"}", 1);
    // Who does not trust the certificate says so, and is counted.
    let strangers = Certificates::new();
    assert!(
        secured(&proxy, &strangers.client(None))
            .try_send(b"PING\r\n")
            .is_err()
    );
    assert_handshakes(&proxy, "our_certificate", 1);
    proxy.assert_alive("all of that");
}

#[test]
fn a_handshake_that_stands_still_is_ended_and_hinders_nobody() {
    // Whoever stands still himself for as long as a handshake may take is ended too.
    undisturbed(Duration::from_millis(500), stand_still_in_handshakes);
}

fn stand_still_in_handshakes() {
    let certificates = Certificates::new();
    let (_nodes, setup) = plain_nodes();
    let proxy = listening(setup, &certificates)
        .proxy("handshake_timeout = \"2s\"")
        .start();
    let address = proxy.address("data_tls");
    let silent: Vec<Client> = (0..50).map(|_| Client::connect(address)).collect();
    let mut halves: Vec<Client> = (0..50).map(|_| Client::connect(address)).collect();
    // The beginning of a hello, and one whose length is a lie.
    for half in &mut halves {
        half.send(&[0x16, 3, 1, 2, 0, 1, 0]);
    }
    let mut odd = Client::connect(address);
    odd.send(&[0x16; 300]);
    let (start, metronome) = (Instant::now(), Metronome::start());
    assert_eq!(
        secured(&proxy, &certificates.client(None)).ask("PING"),
        Reply::Simple("PONG".to_owned())
    );
    let took = start.elapsed();
    assert!(
        took < Duration::from_millis(900) + metronome.late(),
        "it waited {took:?}"
    );
    odd.until_closed();
    for mut client in silent.into_iter().chain(halves) {
        client.until_closed();
    }
    assert_handshakes(&proxy, "timeout", 100);
    assert_handshakes(&proxy, "protocol", 1);
    proxy.await_metric("preshard_client_connections", 0);
}

#[test]
fn garbage_after_the_handshake_ends_that_client_alone() {
    let certificates = Certificates::new();
    let (_nodes, setup) = plain_nodes();
    let proxy = listening(setup, &certificates).start();
    let config = certificates.client(None);
    let mut other = secured(&proxy, &config);
    other.ask("SET k v").expect_ok();
    let mut client = secured(&proxy, &config);
    client.ask("PING");
    client
        .stream()
        .write_all(&[0x17, 3, 3, 0, 40, 1, 2, 3, 4])
        .unwrap();
    client.stream().write_all(&[7; 100]).unwrap();
    let mut rest = Vec::new();
    // An alert, then the end.
    let _ = client.stream().read_to_end(&mut rest);
    assert!(rest.len() < 100, "{rest:?}");
    assert_eq!(other.ask("GET k"), Reply::from("v"));
}

#[test]
fn nodes_that_cannot_be_trusted_are_not_served() {
    let certificates = Certificates::new();
    let nodes = [node(&certificates, "no"), node(&certificates, "no")];
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()]).nodes("tls = true");
    let strangers = Certificates::new();
    let (status, log) = setup
        .clone()
        .nodes(&format!("tls_ca_file = \"{}\"", strangers.ca()))
        .start_refused();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("node-1") && log.contains("UnknownIssuer"), "{log}");
    let trusting = setup.nodes(&format!("tls_ca_file = \"{}\"", certificates.ca()));
    let (status, log) = trusting
        .clone()
        .nodes("tls_server_name = \"elsewhere\"")
        .start_refused();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("not valid for name"), "{log}");
    // Towards a plain port.
    let plain = Node::start();
    let other = Setup::of(&[plain.address()])
        .nodes("tls = true")
        .nodes(&format!("tls_ca_file = \"{}\"", certificates.ca()));
    let (status, log) = other.start_refused();
    assert_eq!(status.code(), Some(1), "{log}");
    let proxy = trusting.start();
    proxy.client().ask("SET k v").expect_ok();
}

#[test]
fn a_node_that_dies_and_comes_back_is_served_over_tls_again() {
    let certificates = Certificates::new();
    let nodes = [node(&certificates, "yes"), node(&certificates, "yes")];
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()]);
    let setup = towards_nodes(listening(setup, &certificates), &certificates).announce(&[
        "node_down",
        "node_lost",
        "node_empty",
        "node_prepared",
        "node_probe_failed",
        "link_closed",
    ]);
    let proxy = setup.start();
    let [mut first, _second] = nodes;
    let mut client = secured(&proxy, &certificates.client(None));
    let key = key_in(0, 8, "k:");
    client.call(&["SET", &key, "1"]).expect_ok();
    first.node.kill();
    wait_until("its shards are refused", PATIENCE, || {
        client.call(&["GET", &key]).error().is_some()
    });
    first.node.restart();
    wait_until("its shards are served", PATIENCE, || {
        client.call(&["SET", &key, "2"]).is_ok()
    });
}

#[test]
fn wrong_files_are_told_with_their_line() {
    let certificates = Certificates::new();
    let (_nodes, setup) = plain_nodes();
    let (certificate, key) = certificates.make("proxy", "localhost");
    let (_, other_key) = certificates.make("other", "localhost");
    let (old, old_key) = certificates.make_until("old", "localhost", 2001);
    let missing = certificates.path("missing");
    for (certificate, key, line, words) in [
        (&missing, &key, 10, "No such file"),
        (&certificate, &missing, 11, "No such file"),
        (&certificate, &other_key, 11, "does not belong to the certificate"),
        (&old, &old_key, 10, "has expired"),
        (&key, &key, 10, "no certificate in it"),
    ] {
        let setup = setup.clone().proxy("listen_tls = \"127.0.0.1:0\"");
        let setup = setup
            .tls(&format!("certificate_file = \"{certificate}\""))
            .tls(&format!("key_file = \"{key}\""));
        let (status, log) = setup.start_refused();
        assert_eq!(status.code(), Some(2), "{log}");
        assert!(
            log.contains(&format!("preshard.toml:{line}:")) && log.contains(words),
            "{words}: {log}"
        );
        assert!(log.contains("1 mistake in"), "{log}");
    }
    let (status, log) = setup.proxy("listen_tls = \"127.0.0.1:0\"").start_refused();
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(
        log.contains("proxy.listen_tls is set without tls.certificate_file"),
        "{log}"
    );
}

#[test]
fn the_admin_and_http_ports_speak_tls_too() {
    let certificates = Certificates::new();
    let (_nodes, setup) = plain_nodes();
    let setup = listening(setup, &certificates)
        .admin("listen_tls = \"127.0.0.1:0\"")
        .admin("http_tls = \"127.0.0.1:0\"");
    let proxy = setup.start();
    let config = certificates.client(None);
    let mut admin = Client::connect(proxy.address("admin_tls")).secured(&config);
    assert!(admin.ask("PRESHARD SHOW SHARDS").items().len() == 12);
    let epoch = admin.ask("PRESHARD TOPOLOGY EPOCH").int().to_string();
    let mut http = Client::connect(proxy.address("https")).secured(&config);
    http.send(b"GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(
        String::from_utf8(http.until_closed())
            .unwrap()
            .starts_with("HTTP/1.1 200")
    );
    let address = format!("localhost:{}", proxy.address("admin_tls").port());
    let command = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_preshard"));
        command.args(["admin", "--addr", &address]).args(arguments);
        command
    };
    let (ca, strangers) = (certificates.ca(), Certificates::new());
    assert_eq!(
        run(&mut command(&["--tls", "--cacert", &ca, "TOPOLOGY", "EPOCH"])).trim(),
        epoch
    );
    assert_eq!(
        run(&mut command(&["--tls", "--insecure", "TOPOLOGY", "EPOCH"])).trim(),
        epoch
    );
    for (arguments, status) in [
        (&["--tls", "TOPOLOGY", "EPOCH"][..], 2),
        (&["--tls", "--cacert", "/nonexistent", "TOPOLOGY", "EPOCH"], 2),
        (&["--tls", "--cacert", &strangers.ca(), "TOPOLOGY", "EPOCH"], 3),
    ] {
        let output = command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {output:?}");
    }
}

#[test]
fn redis_cli_and_redis_benchmark_speak_tls_with_it() {
    let certificates = Certificates::new();
    let (_nodes, proxy) = all_tls(&certificates);
    let port = proxy.address("data_tls").port().to_string();
    let ca = certificates.ca();
    let cli = |program: &str, arguments: &[&str]| {
        run(Command::new(program)
            .args(["-h", "localhost", "-p", &port, "--tls", "--cacert", &ca])
            .args(arguments))
    };
    assert_eq!(cli("redis-cli", &["SET", "a", "1"]), "OK\n");
    assert_eq!(cli("redis-cli", &["-3", "GET", "a"]), "1\n");
    let said = cli(
        "redis-benchmark",
        &["-t", "get,set", "-n", "5000", "-P", "16", "-q"],
    );
    assert!(
        said.contains("GET:") && !said.to_lowercase().contains("err"),
        "{said}"
    );
}

#[test]
fn proxies_share_their_topology_through_an_etcd_that_speaks_tls() {
    let certificates = Certificates::new();
    // etcd's gateway is a client of etcd itself, with the server's certificate.
    let (certificate, key) = certificates.make("etcd", "127.0.0.1");
    let etcd = Etcd::start_tls([certificates.ca(), certificate, key]);
    let (_nodes, setup) = plain_nodes();
    let (own, own_key) = certificates.make("to-etcd", "preshard");
    let setup = setup.store(&etcd.store("shop")).announce(&["store_unreachable"]);
    let trusting = setup
        .clone()
        .topology("store_tls = true")
        .topology(&format!("store_ca_file = \"{}\"", certificates.ca()));
    let showing = trusting
        .clone()
        .topology(&format!("store_certificate_file = \"{own}\""))
        .topology(&format!("store_key_file = \"{own_key}\""));
    let first = showing.start();
    first.client().ask("SET k v").expect_ok();
    let second = showing.start();
    assert_eq!(second.client().ask("GET k"), Reply::from("v"));
    let expiry = "preshard_tls_certificate_expiry_timestamp_seconds{certificate=\"store\"}";
    assert!(first.metric(expiry) > 0);
    // Without a certificate, with another authority, without TLS: none reaches the store, and each says why.
    let strangers = Certificates::new();
    let stranger = strangers.ca();
    for (setup, why) in [
        (trusting, "ertificate"),
        (
            setup
                .clone()
                .topology("store_tls = true")
                .topology(&format!("store_ca_file = \"{stranger}\"")),
            "UnknownIssuer",
        ),
        (setup, "store_unreachable"),
    ] {
        let launch = setup.launch();
        wait_until(&format!("it says {why}"), PATIENCE, || {
            let log = launch.log();
            log.contains("store_unreachable") && log.contains(why)
        });
        launch.end();
    }
}

#[test]
fn more_handshakes_than_there_are_places_are_refused_at_once() {
    let certificates = Certificates::new();
    let (_nodes, setup) = plain_nodes();
    let proxy = listening(setup, &certificates)
        .proxy("handshake_timeout = \"20s\"")
        .start();
    let address = proxy.address("data_tls");
    let silent: Vec<Client> = (0..520).map(|_| Client::connect(address)).collect();
    assert_handshakes(&proxy, "too_many", 8);
    drop(silent);
    assert_handshakes(&proxy, "closed", 512);
    let config = certificates.client(None);
    assert_eq!(
        secured(&proxy, &config).ask("PING"),
        Reply::Simple("PONG".to_owned())
    );
}
