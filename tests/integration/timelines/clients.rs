//! `TIMELINE.*` from client libraries that have never heard of them.

use std::process::{Command, Stdio};

use crate::clients::{node_js, python, run, run_script};
use crate::harness::{Proxy, small};

fn redis_cli(proxy: &Proxy, arguments: &str) -> String {
    run(Command::new("redis-cli")
        .args(["-p", &proxy.data.port().to_string()])
        .args(arguments.split(' ')))
}

#[test]
fn redis_cli_shows_what_came() {
    let (_nodes, proxy) = small();
    for (line, said) in [
        ("TIMELINE.ADD feed 1 a 2 b", "2\n"),
        ("TIMELINE.RANGE feed COUNT 1", "2:b\nb\n"),
        (
            "--no-raw TIMELINE.RANGE feed BEFORE 2:b",
            "1) (nil)\n2) 1) \"a\"\n",
        ),
        (
            "-3 --no-raw TIMELINE.RANGE feed COUNT 1 WITHSCORES",
            "1) \"2:b\"\n2) 1) 1) \"b\"\n      2) (double) 2\n",
        ),
        (
            "-3 --no-raw TIMELINE.FANOUT 2 feed new 3 c",
            "1# \"added\" => (integer) 2\n2# \"unchanged\" => (integer) 0\n3# \"skipped\" => (integer) 0\n4# \"failed\" => (empty array)\n",
        ),
    ] {
        assert_eq!(redis_cli(&proxy, line), said, "{line}");
    }
}

#[test]
fn redis_py_works() {
    let (_nodes, proxy) = small();
    run_script(python(), "timelines.py", &proxy);
}

#[test]
fn ioredis_works() {
    let (_nodes, proxy) = small();
    run_script(node_js(), "timelines.cjs", &proxy);
}

/// Where it is installed (Debian's `ruby-redis`).
#[test]
fn redis_rb_works() {
    let there = Command::new("ruby")
        .args(["-e", "require 'redis'"])
        .stderr(Stdio::null())
        .status();
    if !there.is_ok_and(|status| status.success()) {
        println!("left out: no redis-rb here");
        return;
    }
    let (_nodes, proxy) = small();
    run_script(Command::new("ruby"), "timelines.rb", &proxy);
}
