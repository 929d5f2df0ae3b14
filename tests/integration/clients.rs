//! Real clients with no option changed, as their users run them. `setup.sh` installs them below `target/clients`.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::harness::{Node, Proxy, Setup, lacks};

fn behind() -> ([Node; 2], Proxy) {
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()]).start();
    (nodes, proxy)
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a program to its end; it must succeed.
pub(crate) fn run(command: &mut Command) -> String {
    let shown = format!("{command:?}");
    let Output {
        status,
        stdout,
        stderr,
    } = command.stdin(Stdio::null()).output().unwrap_or_else(|error| {
        panic!("cannot run {shown}: {error}. Run ./setup.sh, which installs what is missing")
    });
    let (said, complained) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{shown}: {status}\n{said}\n{complained}");
    said.into_owned()
}

fn redis_cli(proxy: &Proxy, arguments: &[&str]) -> String {
    run(Command::new("redis-cli")
        .args(["-h", "127.0.0.1", "-p", &proxy.data.port().to_string()])
        .args(arguments))
}

#[test]
fn redis_cli_works() {
    let (_nodes, proxy) = behind();
    assert_eq!(redis_cli(&proxy, &["PING"]), "PONG\n");
    assert_eq!(redis_cli(&proxy, &["SET", "cli:a", "1"]), "OK\n");
    assert_eq!(redis_cli(&proxy, &["-3", "HSET", "cli:h", "a", "1"]), "1\n");
    assert_eq!(redis_cli(&proxy, &["-3", "HGETALL", "cli:h"]), "a 1\n");
    assert_eq!(redis_cli(&proxy, &["-n", "2", "SET", "cli:pinned", "1"]), "OK\n");
    let mut found: Vec<String> = redis_cli(&proxy, &["--scan"])
        .lines()
        .map(str::to_owned)
        .collect();
    found.sort();
    assert_eq!(found, ["cli:a", "cli:h"]);
    assert_eq!(redis_cli(&proxy, &["-n", "2", "--scan"]), "cli:pinned\n");
    assert_eq!(redis_cli(&proxy, &["COUNTER.INCR", "cli", "a", "5"]), "5\n");
    assert_eq!(redis_cli(&proxy, &["-3", "COUNTER.GET", "cli", "a"]), "5\n");
    for protocol in ["-2", "-3"] {
        let taken = redis_cli(&proxy, &[protocol, "COUNTER.TAKE", "cli", "LEASE", "1"]);
        assert!(taken.contains("a") && taken.contains('5'), "{taken}");
    }
    assert!(redis_cli(&proxy, &["INFO", "server"]).contains("redis_version:"));
    assert!(redis_cli(&proxy, &["--bigkeys"]).contains("Sampled 2 keys"));
    assert_eq!(
        redis_cli(&proxy, &["-r", "100", "INCR", "cli:count"])
            .lines()
            .last(),
        Some("100")
    );
}

#[test]
fn redis_benchmark_runs_without_an_error() {
    let (_nodes, proxy) = behind();
    let tests = "get,set,incr,lpush,rpush,lpop,sadd,hset,spop,zadd,zpopmin,mset";
    for more in [&["-P", "16"][..], &["-P", "1", "-c", "10"]] {
        let said = run(Command::new("redis-benchmark")
            .args(["-h", "127.0.0.1", "-p", &proxy.data.port().to_string()])
            .args(["-t", tests, "-n", "2000", "-r", "1000", "-q"])
            .args(more));
        assert!(!said.to_lowercase().contains("err"), "{said}");
        for name in tests.split(',').map(str::to_uppercase) {
            let line = said
                .split(['\r', '\n'])
                .find(|line| line.starts_with(&name) && line.contains("requests per second"));
            assert!(line.is_some(), "no result of {name} in:\n{said}");
        }
    }
}

/// The path of one of `tests/clients`.
pub(crate) fn script(name: &str) -> PathBuf {
    root().join("tests/clients").join(name)
}

/// Runs one of `tests/clients` against the proxy; it prints `ok` at its end.
pub(crate) fn run_script(mut command: Command, name: &str, proxy: &Proxy) {
    let said = run(command.arg(script(name)).arg(proxy.data.port().to_string()));
    assert_eq!(said.lines().last(), Some("ok"), "{name} said:\n{said}");
}

pub(crate) fn python() -> Command {
    Command::new(root().join("target/clients/python/bin/python"))
}

#[test]
fn redis_py_works() {
    let (_nodes, proxy) = behind();
    run_script(python(), "redis_py.py", &proxy);
}

/// The page of `make matrix`: equal to what its recorded results make (`PRESHARD_BLESS=1` writes it anew).
#[test]
fn the_clients_page_is_what_the_matrix_recorded() {
    let mut report = Command::new("python3");
    report.arg(root().join("tests/matrix/report.py"));
    if std::env::var_os("PRESHARD_BLESS").is_none() {
        report.arg("--check");
    }
    run(&mut report);
}

pub(crate) fn node_js() -> Command {
    let mut command = Command::new("node");
    command.env("NODE_PATH", root().join("target/clients/node/node_modules"));
    command
}

#[test]
fn ioredis_works() {
    let (_nodes, proxy) = behind();
    run_script(node_js(), "ioredis.cjs", &proxy);
}

#[test]
fn node_redis_works() {
    let (_nodes, proxy) = behind();
    run_script(node_js(), "node_redis.cjs", &proxy);
}

/// Runs a program of the matrix on the sharded and on a pinned database: it prints `ok` at its end.
fn run_matrix_program(command: fn() -> Command, program: &str, module: Option<&str>) {
    let (_nodes, proxy) = behind();
    for database in ["0", "3"] {
        let said = run(command()
            .arg(root().join("tests/matrix/clients").join(program))
            .args(module)
            .args([&proxy.data.port().to_string(), database]));
        assert_eq!(said.lines().last(), Some("ok"), "{program} said:\n{said}");
    }
}

#[test]
fn redis_py_does_all_that_the_matrix_asks() {
    run_matrix_program(python, "redis_py.py", Some("redis"));
}

#[test]
fn valkey_py_does_all_that_the_matrix_asks() {
    run_matrix_program(python, "redis_py.py", Some("valkey"));
}

#[test]
fn ioredis_does_all_that_the_matrix_asks() {
    run_matrix_program(node_js, "ioredis.cjs", Some("ioredis"));
}

#[test]
fn node_redis_does_all_that_the_matrix_asks() {
    run_matrix_program(node_js, "node_redis.cjs", None);
}

#[test]
fn redis_py_publishes_and_subscribes() {
    let (_nodes, proxy) = behind();
    run_script(python(), "redis_py_pubsub.py", &proxy);
}

#[test]
fn redis_py_keeps_a_cache() {
    if lacks("version that redis-py keeps a cache with") {
        return;
    }
    let nodes = [Node::start(), Node::start()];
    // redis-py does it with servers from 7.4 on only.
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .proxy("redis_version = \"7.4.0\"")
        .start();
    run_script(
        Command::new(root().join("target/clients/python/bin/python")),
        "redis_py_cache.py",
        &proxy,
    );
    nodes.iter().for_each(|node| {
        assert!(
            node.calls_of("client|tracking") > 0,
            "its cache was kept true by the nodes"
        );
    });
}

#[test]
fn ioredis_publishes_and_subscribes() {
    let (_nodes, proxy) = behind();
    run_script(node_js(), "ioredis_pubsub.cjs", &proxy);
}

#[test]
fn node_redis_publishes_and_subscribes() {
    if lacks("shard channels") {
        return;
    }
    let (_nodes, proxy) = behind();
    run_script(node_js(), "node_redis_pubsub.cjs", &proxy);
}

#[test]
fn redis_rs_works() {
    use redis::Commands as _;
    let (_nodes, proxy) = behind();
    for url in [
        format!("redis://127.0.0.1:{}/", proxy.data.port()),
        format!("redis://127.0.0.1:{}/3", proxy.data.port()),
        format!("redis://127.0.0.1:{}/?protocol=resp3", proxy.data.port()),
    ] {
        let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        let _: () = connection.set("rs:a", 1).unwrap();
        let value: i64 = connection.incr("rs:a", 41).unwrap();
        assert_eq!(value, 42);
        let _: () = connection.mset(&[("rs:b", "x"), ("rs:c", "y")]).unwrap();
        let values: Vec<Option<String>> = connection.mget(&["rs:b", "rs:none", "rs:c"]).unwrap();
        assert_eq!(values, [Some("x".to_owned()), None, Some("y".to_owned())]);
        let _: () = connection.hset("rs:h", "field", 7).unwrap();
        let map: std::collections::BTreeMap<String, i64> = connection.hgetall("rs:h").unwrap();
        assert_eq!(map["field"], 7);
        let (a, b): (i64, i64) = redis::pipe()
            .incr("rs:p", 1)
            .incr("rs:q", 5)
            .query(&mut connection)
            .unwrap();
        assert_eq!((a, b), (1, 5));
        let mut keys: Vec<String> = connection
            .scan_match("rs:*")
            .unwrap()
            .map(Result::unwrap)
            .collect();
        keys.sort();
        assert_eq!(keys, ["rs:a", "rs:b", "rs:c", "rs:h", "rs:p", "rs:q"]);
        let gone: i64 = connection.del(&keys).unwrap();
        assert_eq!(gone, 6);
    }
}
