//! `preshard audit`: clients notice nothing of it, and its report tells what they did.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::clients::{python, run, script};
use crate::harness::{Client, Node, PATIENCE, Scratch, run_to_end, sys, wait_for};

/// A running audit.
struct Audit {
    child: Child,
    address: String,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Audit {
    fn start(node: &str, listen: &str, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_preshard"));
        command
            .args(["audit", "--listen", listen, "--node", node])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        sys::die_with_parent(&mut command);
        let mut child = command.spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening audit=");
        let address = address.unwrap_or_else(|| panic!("it said {line}")).to_owned();
        // What it says later is not looked at, but must have somewhere to go.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            address,
            stdout,
        }
    }

    fn socket(&self) -> SocketAddr {
        self.address.parse().unwrap()
    }

    fn client(&self) -> Client {
        Client::connect(self.socket())
    }

    /// The next report, one line of JSON.
    fn report(&mut self) -> serde_json::Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// SIGTERM: the last words.
    fn stop(mut self) -> String {
        sys::send_signal(self.child.id(), libc::SIGTERM);
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).unwrap();
        assert!(self.child.wait().unwrap().success(), "{text}");
        text
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn findings(report: &serde_json::Value) -> Vec<String> {
    let found = report["findings"].as_array().unwrap().iter();
    let line = |found: &serde_json::Value| {
        let text = |name: &str| found[name].as_str().unwrap().to_owned();
        format!(
            "{} {} {} {}",
            text("client"),
            text("why"),
            text("command"),
            found["count"]
        )
    };
    let mut lines: Vec<String> = found.map(line).collect();
    lines.sort();
    lines
}

#[test]
fn an_application_runs_as_ever_and_what_would_not_shard_is_told() {
    let node = Node::start();
    let audit = Audit::start(&node.address(), "127.0.0.1:0", &["--json"]);
    let port = audit.socket().port().to_string();
    let said = run(python().arg(script("audit_workload.py")).arg(port));
    assert_eq!(said.lines().last(), Some("ok"), "{said}");
    let report: serde_json::Value = serde_json::from_str(&audit.stop()).unwrap();
    assert_eq!(
        findings(&report),
        [
            "web keys-apart BLPOP 2",
            "web keys-apart RENAME 2",
            "web no-keys EVAL 2",
            "web refused CONFIG SET 2",
            "web transaction EXEC 4",
            "web transaction INCRBY 2",
            "web transaction SET 2",
            "worker keys-apart RENAME 2"
        ]
    );
    assert_eq!(report["not_pinned"], 2, "{report}");
    assert_eq!(
        (&report["transactions"], &report["transactions_over_shards"]),
        (&4.into(), &4.into())
    );
    assert_eq!(report["databases"]["3"], 4);
    assert!(
        report["not_seen"][0]
            .as_str()
            .unwrap()
            .starts_with("2 calls of scripts")
    );
}

#[test]
fn redis_cli_and_redis_benchmark_pass_through() {
    let node = Node::start();
    let mut audit = Audit::start(&node.address(), "127.0.0.1:0", &["--json", "--shards", "8"]);
    let port = audit.socket().port().to_string();
    let said = run(Command::new("redis-benchmark").args([
        "-p",
        &port,
        "-t",
        "set,get,mset,lpush",
        "-n",
        "2000",
        "-P",
        "16",
        "-q",
    ]));
    assert!(!said.to_lowercase().contains("err"), "{said}");
    assert_eq!(
        run(Command::new("redis-cli").args(["-p", &port, "-n", "2", "SET", "k", "v"])),
        "OK\n"
    );
    sys::send_signal(audit.child.id(), libc::SIGUSR1);
    let report = audit.report();
    assert_eq!(report["shards"], 8);
    assert_eq!(report["not_as_sent"], 0, "{report}");
    assert!(report["requests"].as_u64().unwrap() >= 8000);
    assert_eq!(report["databases"]["2"], 1);
}

#[test]
fn bytes_come_through_unchanged_whatever_they_are() {
    let node = Node::start();
    let dir = Scratch::new("audit");
    let socket = dir.file("audit.sock");
    let audit = Audit::start(&node.address(), &format!("unix:{}", socket.display()), &[]);
    let mut own = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    let mut direct = std::net::TcpStream::connect(node.socket()).unwrap();
    // Half a request, a request that Redis takes and preshard would not, garbage: the server's answers, byte by byte.
    let mut sent: Vec<&[u8]> = vec![
        b"*2\r\n$4\r\nEC",
        b"HO\r\n$2\r\nhi\r\n",
        b"PING\r\n",
        b"*01\r\n$4\r\nPING\r\n",
    ];
    sent.extend([&b"GET none\r\n"[..], b"*1\r\n:5\r\n"]);
    let answer = |stream: &mut dyn ReadWrite| {
        // The last ones at once: the server closes in the middle of them.
        let (first, rest) = sent.split_at(2);
        first.iter().for_each(|bytes| stream.write_all(bytes).unwrap());
        stream.write_all(&rest.concat()).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        String::from_utf8_lossy(&all).into_owned()
    };
    let (through, expected) = (answer(&mut own), answer(&mut direct));
    assert_eq!(through, expected);
    assert!(expected.contains("Protocol error"), "{expected}");
    let text = audit.stop();
    assert!(
        text.contains("its requests from there on were passed on and not judged"),
        "{text}"
    );
    assert!(text.contains("VERDICT: all 2 requests would run"), "{text}");
}

trait ReadWrite: std::io::Read + std::io::Write {}

impl<T: std::io::Read + std::io::Write> ReadWrite for T {}

#[test]
fn a_client_that_leaves_and_a_server_that_ends_are_passed_on() {
    let mut node = Node::start();
    let audit = Audit::start(&node.address(), "127.0.0.1:0", &["--hide-keys"]);
    // Its last request is answered although it has closed its side already.
    let mut client = audit.client();
    client.command(&["RENAME", "secret1", "secret2"]);
    client.stream().shutdown(std::net::Shutdown::Write).unwrap();
    assert!(client.until_closed().starts_with(b"-ERR no such key"));
    // A waiting client that leaves is gone from the server too.
    let mut waiting = audit.client();
    waiting.command(&["BLPOP", "nothing", "0"]);
    let blocked = || node.info("blocked_clients");
    wait_for("it waits", PATIENCE, || (blocked() == 1).then_some(()));
    drop(waiting);
    wait_for("it is gone", PATIENCE, || (blocked() == 0).then_some(()));
    let mut last = audit.client();
    last.ask("SET a 1").expect_ok();
    node.kill();
    assert!(last.until_closed().is_empty());
    assert!(
        audit.client().until_closed().is_empty(),
        "nobody can be connected"
    );
    let text = audit.stop();
    assert!(
        text.contains("a key of shard ") && !text.contains("secret"),
        "{text}"
    );
    assert!(
        text.contains("1 client: the server behind did not take them"),
        "{text}"
    );
}

#[test]
fn it_ends_by_itself_and_refuses_what_cannot_be() {
    let node = Node::start();
    let (status, said) = run_to_end(&[
        "audit",
        "--listen",
        "127.0.0.1:0",
        "--node",
        &node.address(),
        "--for",
        "100ms",
    ]);
    assert!(
        status.success() && said.contains("VERDICT: nothing was seen"),
        "{said}"
    );
    let nobody = [
        "audit",
        "--listen",
        "127.0.0.1:0",
        "--node",
        "unix:/nonexistent/redis",
    ];
    let (status, said) = run_to_end(&nobody);
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(
        said.contains("cannot reach the server at unix:/nonexistent/redis"),
        "{said}"
    );
    for wrong in [["--shards", "3"], ["--for", "soon"], ["--pinned", "0"]] {
        let arguments = [
            &["audit", "--listen", "127.0.0.1:0", "--node", "127.0.0.1:1"],
            &wrong[..],
        ]
        .concat();
        let (status, said) = run_to_end(&arguments);
        assert_eq!(status.code(), Some(2), "{said}");
    }
}
