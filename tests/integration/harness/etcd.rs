//! A real etcd of one or three members, in temporary folders on free ports.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::ports::free_port;
use super::process::{PATIENCE, Scratch, wait_until};
use super::sys;

/// How long a member may take for an answer: its disk may be busy with other things.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A cluster of etcd; members are stopped and started by number.
#[derive(Debug)]
pub(crate) struct Etcd {
    members: Vec<Member>,
    /// CA, certificate and key, if it speaks TLS with its clients, which must show certificates then.
    tls: Option<[String; 3]>,
}

#[derive(Debug)]
struct Member {
    name: String,
    client: u16,
    peer: u16,
    dir: Scratch,
    child: Option<Child>,
}

impl Etcd {
    /// Started, with a leader.
    pub(crate) fn start(count: usize) -> Self {
        let mut etcd = Self::planned(count);
        (0..count).for_each(|member| etcd.start_member(member));
        etcd.wait();
        etcd
    }

    /// Not started yet; its addresses are known.
    pub(crate) fn planned(count: usize) -> Self {
        let member = |number| Member {
            name: format!("m{number}"),
            client: free_port(),
            peer: free_port(),
            dir: Scratch::new("etcd"),
            child: None,
        };
        Self {
            members: (0..count).map(member).collect(),
            tls: None,
        }
    }

    /// One member that speaks TLS and wants certificates: CA, certificate, key. Who asks it waits until it is up.
    pub(crate) fn start_tls(files: [String; 3]) -> Self {
        let mut etcd = Self::planned(1);
        etcd.tls = Some(files);
        etcd.start_member(0);
        etcd
    }

    pub(crate) fn start_member(&mut self, number: usize) {
        let cluster: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("{}=http://127.0.0.1:{}", member.name, member.peer))
            .collect();
        let member = &mut self.members[number];
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let client = format!("{scheme}://127.0.0.1:{}", member.client);
        let peer = format!("http://127.0.0.1:{}", member.peer);
        let log = std::fs::File::create(member.dir.file("etcd.log")).unwrap();
        let mut command = Command::new("etcd");
        command
            // What a member that is killed has written is in the system's hands; no test waits for a disk that others keep busy.
            .env("ETCD_UNSAFE_NO_FSYNC", "true")
            .args(["--name", &member.name, "--data-dir"])
            .arg(member.dir.file("data"))
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &cluster.join(","), "--logger", "zap"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Some([ca, certificate, key]) = &self.tls {
            command.args(["--client-cert-auth", "--trusted-ca-file", ca]);
            command.args(["--cert-file", certificate, "--key-file", key]);
        }
        sys::die_with_parent(&mut command);
        member.child = Some(command.spawn().unwrap_or_else(|error| {
            panic!("cannot start etcd: {error}. Run ./setup.sh, which installs what is missing")
        }));
    }

    /// Waits until it takes writes.
    pub(crate) fn wait(&self) {
        wait_until("etcd has a leader", PATIENCE, || {
            self.post(0, "kv/put", r#"{"key":"cmVhZHk=","value":"MQ=="}"#)
                .is_some_and(|answer| answer.contains("revision"))
        });
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, number: usize) {
        if let Some(mut child) = self.members[number].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP: it keeps its connections and says nothing.
    pub(crate) fn freeze(&self, number: usize) {
        self.signal(number, libc::SIGSTOP);
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self, number: usize) {
        self.signal(number, libc::SIGCONT);
    }

    fn signal(&self, number: usize, signal: libc::c_int) {
        let child = self.members[number].child.as_ref();
        sys::send_signal(child.expect("a member that runs").id(), signal);
    }

    /// A member that was killed loses its data, as one whose disk was exchanged.
    #[allow(
        dead_code,
        reason = "only the store's own tests, which stand on this harness too, need it"
    )]
    pub(crate) fn forget(&self, number: usize) {
        std::fs::remove_dir_all(self.members[number].dir.file("data")).unwrap();
    }

    /// The revision that a member is at.
    pub(crate) fn revision(&self, number: usize) -> u64 {
        let answer = self.post(number, "kv/range", r#"{"key":"cmVhZHk="}"#).unwrap();
        let (_, rest) = answer.split_once(r#""revision":""#).unwrap();
        rest.split('"').next().unwrap().parse().unwrap()
    }

    /// Throws the history away, up to now.
    #[allow(
        dead_code,
        reason = "only the store's own tests, which stand on this harness too, need it"
    )]
    pub(crate) fn compact(&self, number: usize) {
        let revision = self.revision(number);
        let body = format!(r#"{{"revision":"{revision}","physical":true}}"#);
        let answer = self.post(number, "kv/compaction", &body).unwrap();
        assert!(answer.contains("200 OK"), "{answer}");
    }

    /// The store below `name`, all members named.
    pub(crate) fn store(&self, name: &str) -> String {
        let members: Vec<String> = self
            .members
            .iter()
            .map(|m| format!("127.0.0.1:{}", m.client))
            .collect();
        format!("etcd://{}/{name}", members.join(","))
    }

    pub(crate) fn address(&self, number: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.members[number].client))
    }

    /// A call of the gateway; its whole answer, header included. `None` without an answer.
    pub(crate) fn post(&self, number: usize, path: &str, body: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address(number)).ok()?;
        stream.set_read_timeout(Some(ANSWER_LIMIT)).ok()?;
        let length = body.len();
        let request = format!(
            "POST /v3/{path} HTTP/1.1\r\nhost: etcd\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
    }
}
