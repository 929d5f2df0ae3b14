//! The server that has a copy. A node is a name: behind it another server may stand by now, and another process at the same address.
//!
//! ```text
//!  copied to A ─▶ the node is at B ── before the cutover ─▶ copied anew, to B
//!                                 └── a rollback ─────────▶ given up, the shards stay
//!  seal: asked is A, and it is the process that has the copy        commit: the topology says A, and that process
//! ```

use super::cutover::Failure;
use super::drive::Driven;
use super::ledger::Ledger;
use super::verify::Verification;
use crate::control::{Mistake, makes};
use crate::resp::Value;
use crate::topology::{Address, Topology};

/// A server that has a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) address: Address,
    /// The process.
    pub(super) run_id: String,
}

impl Holder {
    /// Whether it is what the topology means by a node. Otherwise why not.
    pub(super) fn check(&self, topology: &Topology, name: &str) -> Result<(), String> {
        if makes(Mistake::IgnoresHolder) {
            return Ok(());
        }
        let node = topology.node_named(name).ok_or_else(|| has_left(name))?;
        let address = &topology.node(node).address;
        if *address != self.address {
            return Err(is_elsewhere(name, address, &self.address));
        }
        if topology.access.contains_key(&node) && !topology.is_run(node, &self.run_id) {
            return Err(is_another_process(name));
        }
        Ok(())
    }

    /// Whether it was this process that was sealed: the last reply but one is its `INFO server`.
    pub(super) fn check_sealed(&self, replies: &[Value], name: &str) -> Result<(), Failure> {
        let server = replies.iter().rev().nth(1).and_then(Value::as_bytes);
        let server = String::from_utf8_lossy(server.unwrap_or_default());
        let mut lines = server.lines();
        let run_id = lines.find_map(|line| line.strip_prefix("run_id:"));
        if run_id.map(str::trim) == Some(self.run_id.as_str()) || makes(Mistake::IgnoresHolder) {
            return Ok(());
        }
        Err(Failure::Final(is_another_process(name)))
    }
}

fn has_left(name: &str) -> String {
    format!("there is no node '{name}' any more; nothing has moved")
}

fn is_elsewhere(name: &str, now: &Address, copied_to: &Address) -> String {
    format!("node '{name}' is at {now} now, and the copy at {copied_to}; nothing has moved")
}

fn is_another_process(name: &str) -> String {
    format!("node '{name}' is not the process that was copied to; nothing has moved")
}

impl Driven<'_> {
    /// Whether the target is where it was copied to, as far as it is known here: the commit looks again.
    pub(super) fn check_place(&self, copied_to: &Address) -> Result<(), Failure> {
        let topology = self.shared.topology.load();
        let node = topology.node_named(&self.target);
        let node = node.ok_or_else(|| Failure::Final(has_left(&self.target)))?;
        let now = &topology.node(node).address;
        if now == copied_to || makes(Mistake::IgnoresHolder) {
            return Ok(());
        }
        Err(Failure::Final(is_elsewhere(&self.target, now, copied_to)))
    }

    /// Whether what has failed was a copy to a server that the target is not any more, while there is another one to copy to.
    pub(super) fn is_replaced(&self, copied_to: Option<&Address>) -> bool {
        let is_there = self.shared.topology.load().node_named(&self.target).is_some();
        let is_elsewhere = copied_to.is_some_and(|copied_to| self.check_place(copied_to).is_err());
        is_there && is_elsewhere && self.fleet.leads() == Some(self.term)
    }

    /// Notes that the copy begins anew. What was verified was another one.
    pub(super) async fn note_replaced(&self, ledger: &mut Ledger<'_>, why: &Failure) {
        let why = format!("copied anew: {why}");
        tracing::warn!(event = "move_target_replaced", task = self.id, why);
        let noted = ledger.write(|task| {
            task.error.clone_from(&why);
            let sample = task.verify.as_ref().map(|verify| verify.sample);
            task.verify = sample.map(Verification::asked);
        });
        // Whatever keeps the store from it is met again at once.
        if let Err(error) = noted.await {
            tracing::debug!(event = "task_not_written", task = self.id, %error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_counts_only_for_the_process_that_has_the_copy() {
        let holder = Holder {
            address: "127.0.0.1:7002".parse().unwrap(),
            run_id: "5a9f".to_owned(),
        };
        let replication = "role:master\r\nmaster_replid:abc\r\n";
        let sealed = |server: &str| [Value::Int(1), Value::bulk(server), Value::bulk(replication)];
        let told = |replies: &[Value]| {
            holder
                .check_sealed(replies, "b")
                .map_err(|failure| failure.to_string())
        };
        assert_eq!(told(&sealed("# Server\r\nrun_id:5a9f\r\ntcp_port:1\r\n")), Ok(()));
        let why = Err("node 'b' is not the process that was copied to; nothing has moved".to_owned());
        assert_eq!(told(&sealed("# Server\r\nrun_id:5a9e\r\n")), why);
        assert_eq!(told(&sealed("# Server\r\n")), why);
        assert_eq!(told(&[Value::bulk(replication)]), why);
    }
}
