//! `SCRIPT KILL` and `FUNCTION KILL`: asked of every node, over a connection that is opened for the question.
//!
//! ```text
//!  a script that does not end ─▶ its node answers BUSY to nearly everything: links are refused, new ones cannot be checked
//!  SCRIPT KILL ─▶ connect, log in, SCRIPT KILL, on all nodes at once ─▶ one OK is OK
//! ```
//!
//! A node that runs a script reads nothing before its `busy-reply-threshold`, five seconds by default, and then answers.
//! So the question may take a little longer than that.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::client::Via;
use super::input::Taken;
use crate::command::Spec;
use crate::metrics::RequestClass;
use crate::resp::{self, Protocol};
use crate::worker::backend::{Order, ask_once};
use crate::worker::dedicated::Place;
use crate::worker::engine::Engine;

/// How long a node may take until it listens.
const ANSWER_MAX: Duration = Duration::from_secs(10);

impl Engine {
    /// Asks all nodes to end what they run.
    pub(super) fn kill_code(&mut self, index: usize, spec: &'static Spec) -> Taken {
        if !self.goes_by(index, Via::Dedicated) {
            return self.wait_for_answers(index);
        }
        let nodes = self.topology.nodes_by_index();
        let asked: Result<Vec<_>, String> = nodes
            .map(|(node, described)| {
                let order = self.node_order(node, Protocol::Resp2);
                let place = self.place_at(node)?;
                Ok(ask(order, spec, described.name.clone(), place))
            })
            .collect();
        let (asked, engine) = match (asked, self.dedicated.engine()) {
            (Ok(asked), Some(engine)) => (asked, engine),
            (Err(line), _) => {
                self.answer_error(index, &line);
                return Taken::Yes;
            }
            (Ok(_), None) => {
                self.answer_error(index, "TRYAGAIN preshard: the proxy stops; it has not run");
                return Taken::Yes;
            }
        };
        self.count_request(index, spec);
        let generation = self.clients[index].generation;
        let seq = self.push_slot(index, 0, RequestClass::Blocking);
        tokio::task::spawn_local(async move {
            let mut asked: JoinSet<_> = asked.into_iter().collect();
            let mut replies = Vec::new();
            while let Some(reply) = asked.join_next().await {
                replies.extend(reply);
            }
            let reply = merge(replies);
            let mut engine = engine.borrow_mut();
            engine.begin_turn();
            engine.complete(index, generation, seq, &reply, false);
            if !engine.client_is_gone(index, generation) {
                engine.clients[index].wake();
            }
            engine.end_turn();
        });
        Taken::Yes
    }
}

async fn ask(order: Order, spec: &'static Spec, node: String, _place: Place) -> Vec<u8> {
    let title = spec.title();
    let words: Vec<&[u8]> = title.split(' ').map(str::as_bytes).collect();
    let why = match timeout(ANSWER_MAX, ask_once(&order, &words)).await {
        Ok(Ok(reply)) => return reply,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {ANSWER_MAX:?}"),
    };
    resp::error_line(format!(
        "CLUSTERDOWN preshard: node {node} could not be asked whether it runs a script: {why}"
    ))
}

/// One answer out of the nodes': that something was ended, or why nothing was.
fn merge(mut replies: Vec<Vec<u8>>) -> Vec<u8> {
    let rank = |reply: &Vec<u8>| match reply.as_slice() {
        b"+OK\r\n" => 0,
        reply if reply.starts_with(b"-UNKILLABLE ") => 1,
        // Nothing runs there: what another node says matters more.
        reply if reply.starts_with(b"-NOTBUSY ") => 3,
        _ => 2,
    };
    replies.sort_by_key(rank);
    let first = replies.into_iter().next();
    first.unwrap_or_else(|| resp::error_line("CLUSTERDOWN preshard: there is no node"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_script_that_was_ended_is_a_success_and_silence_is_no_proof_that_nothing_runs() {
        let ok = b"+OK\r\n".to_vec();
        let idle = b"-NOTBUSY No scripts in execution right now.\r\n".to_vec();
        let writes = b"-UNKILLABLE Sorry the script already executed write commands.\r\n".to_vec();
        let down = b"-CLUSTERDOWN preshard: node b could not be asked\r\n".to_vec();
        let merged = |replies: &[&Vec<u8>]| merge(replies.iter().map(|&reply| reply.clone()).collect());
        assert_eq!(merged(&[&idle, &ok, &down, &writes]), ok);
        assert_eq!(merged(&[&idle, &down, &writes]), writes);
        assert_eq!(merged(&[&idle, &down]), down);
        assert_eq!(merged(&[&idle, &idle]), idle);
        assert!(merged(&[]).starts_with(b"-CLUSTERDOWN "));
    }
}
