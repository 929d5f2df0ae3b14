//! `WAIT` and `WAITAOF`: have the replicas what this client wrote, and the nodes' own disks?
//!
//! ```text
//!  WAIT n t ─▶ node 1: MARK, WAIT n t ─count─▶ node 2: MARK, WAIT n (what is left of t) ─count─▶ … ─▶ the least count
//! ```
//!
//! A node waits for what its connection wrote last. Clients' writes go over connections that many share, so the question
//! goes over one that the client has for itself, behind something that counts as written ([`MARK`]): all that the node had done
//! before is waited for, and the client's own writes, which are answered, are among it. In database 0 every node is asked, one after the
//! other, since nobody keeps which ones a client wrote to; in a pinned database its node alone.

use std::time::Duration;

use super::blocking::{SLACK, micros};
use super::client::Via;
use super::input::Taken;
use crate::command::Spec;
use crate::ids::ShardId;
use crate::merge::integer;
use crate::metrics::RequestClass;
use crate::resp::{self, Args};
use crate::worker::engine::Engine;

/// What a node that is asked only to count may wait, in milliseconds: zero would be for ever.
const COUNT_ONLY_MS: u64 = 1;

/// Two commands that change nothing and make a node wait for all that it has done so far. Servers before 7.2 wait for what was
/// written before the connection's last command, whichever that was; later ones for the last command that replicas are sent, and
/// a message is. Nobody can have subscribed to this channel by a pattern, and servers before 7.0 do not know the command.
const MARK: &[u8] = b"*1\r\n$4\r\nPING\r\n*3\r\n$8\r\nSPUBLISH\r\n$13\r\npreshard:wait\r\n$0\r\n\r\n";
/// What is answered to [`MARK`] and the question behind it.
const FRAMES: u32 = 3;

/// A question to several nodes, one after the other.
#[derive(Debug)]
pub(in crate::worker) struct ReplicaWait {
    name: &'static str,
    seq: u32,
    /// One shard of each node that is still to be asked, the next one last.
    nodes: Vec<ShardId>,
    /// What has to be reached: `[replicas]` of `WAIT`, `[local, replicas]` of `WAITAOF`.
    wanted: Vec<u64>,
    /// The least that was counted so far.
    least: Option<Vec<u64>>,
    /// Worker time at which the wait is over. None: never.
    until: Option<u64>,
}

impl ReplicaWait {
    /// A node did not reach what is wanted in its time: the others need not wait either.
    fn has_given_up(&self) -> bool {
        self.least.as_ref().is_some_and(|least| {
            least
                .iter()
                .zip(&self.wanted)
                .any(|(count, wanted)| count < wanted)
        })
    }

    /// Milliseconds that the next node may wait; zero is for ever.
    fn time_left_ms(&self, now: u64) -> u64 {
        match self.until {
            _ if self.has_given_up() => COUNT_ONLY_MS,
            None => 0,
            Some(until) => (until.saturating_sub(now) / 1000).max(COUNT_ONLY_MS),
        }
    }

    /// Takes one node's answer. `None` if it is none of those that the question has.
    fn take(&mut self, reply: &[u8]) -> Option<()> {
        let counts = counts(reply, self.wanted.len())?;
        match &mut self.least {
            None => self.least = Some(counts),
            Some(least) => {
                let pairs = least.iter_mut().zip(counts);
                pairs.for_each(|(least, count)| *least = count.min(*least));
            }
        }
        Some(())
    }

    fn reply(&self) -> Vec<u8> {
        let mut reply = Vec::new();
        let least = self.least.as_deref().unwrap_or_default();
        if self.wanted.len() > 1 {
            resp::write_array_header(&mut reply, least.len());
        }
        for &count in least {
            resp::write_int(&mut reply, i64::try_from(count).unwrap_or(i64::MAX));
        }
        reply
    }
}

/// What a node answers behind [`MARK`]; an error line if it did not take that, so that its count would mean nothing.
fn behind_mark(reply: &[u8]) -> Result<&[u8], Vec<u8>> {
    // The connection has ended: the line says how.
    let Some(rest) = reply.strip_prefix(b"+PONG\r\n") else {
        return Err(reply.to_vec());
    };
    let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
    let (marked, answer) = rest.split_at(end);
    if marked.starts_with(b":") || marked.starts_with(b"-ERR unknown command") {
        return Ok(answer);
    }
    let said = String::from_utf8_lossy(marked);
    let line = format!(
        "ERR preshard: WAIT needs the right to SPUBLISH on the nodes; one says: {}",
        said.trim_start_matches('-').trim_end()
    );
    Err(resp::error_line(line))
}

/// The numbers of `:2` or of an array of so many.
fn counts(reply: &[u8], many: usize) -> Option<Vec<u64>> {
    let numbers: Vec<u64> = if many == 1 {
        vec![u64::try_from(integer(reply)?).ok()?]
    } else {
        let rest = reply.strip_prefix(format!("*{many}\r\n").as_bytes())?;
        let lines = rest.split_inclusive(|&byte| byte == b'\n');
        let numbers = lines.map(|line| u64::try_from(integer(line)?).ok());
        numbers.collect::<Option<_>>()?
    };
    (numbers.len() == many).then_some(numbers)
}

/// What `WAIT replicas timeout` or `WAITAOF local replicas timeout` asks for.
fn question(args: &Args<'_>) -> Result<(Vec<u64>, u64), &'static str> {
    const NUMBER: &str = "ERR value is not an integer or out of range";
    let parse = |place| -> Option<i64> { std::str::from_utf8(args.get(place)).ok()?.parse().ok() };
    let timeout_at = args.len() - 1;
    // A negative number of replicas is reached at once, in Redis too.
    let wanted = (1..timeout_at).map(|place| parse(place).map(|number| u64::try_from(number).unwrap_or(0)));
    let wanted: Vec<u64> = wanted.collect::<Option<_>>().ok_or(NUMBER)?;
    let timeout = parse(timeout_at).ok_or("ERR timeout is not an integer or out of range")?;
    let timeout = u64::try_from(timeout).map_err(|_| "ERR timeout is negative")?;
    Ok((wanted, timeout))
}

impl Engine {
    /// Begins to ask.
    pub(super) fn wait_for_replicas(&mut self, index: usize, spec: &'static Spec, args: &Args<'_>) -> Taken {
        let (wanted, timeout_ms) = match question(args) {
            Ok(question) => question,
            Err(line) => {
                self.answer_error(index, line);
                return Taken::Yes;
            }
        };
        if !self.goes_by(index, Via::Dedicated) {
            return self.wait_for_answers(index);
        }
        self.count_request(index, spec);
        let mut nodes = match self.clients[index].db {
            0 => self.shard_of_each_node(),
            db => self.topology.pinned_shard(db).into_iter().collect(),
        };
        nodes.reverse();
        let wait = Duration::from_millis(timeout_ms);
        let seq = self.push_slot(index, spec.id, args.frame().len(), RequestClass::Blocking);
        self.clients[index].replica_wait = Some(Box::new(ReplicaWait {
            name: spec.name,
            seq,
            nodes,
            wanted,
            least: None,
            until: (timeout_ms > 0).then(|| self.now.saturating_add(micros(wait))),
        }));
        self.ask_next_node(index);
        Taken::Yes
    }

    /// One node has answered, or cannot. Whether this was such a question; else the reply is the client's.
    pub(in crate::worker) fn replicas_counted(&mut self, index: usize, seq: u32, reply: &[u8]) -> bool {
        let Some(wait) = self.clients[index].replica_wait.as_mut() else {
            return false;
        };
        if wait.seq != seq {
            return false;
        }
        match behind_mark(reply) {
            Ok(answer) if wait.take(answer).is_some() => self.ask_next_node(index),
            Ok(answer) => self.end_replica_wait(index, answer),
            Err(line) => self.end_replica_wait(index, &line),
        }
        true
    }

    /// Asks the next node, or answers when all have been asked.
    fn ask_next_node(&mut self, index: usize) {
        let now = self.now;
        let Some(wait) = self.clients[index].replica_wait.as_mut() else {
            return;
        };
        let Some(shard) = wait.nodes.pop() else {
            let reply = wait.reply();
            return self.end_replica_wait(index, &reply);
        };
        let left_ms = wait.time_left_ms(now);
        let (name, seq) = (wait.name, wait.seq);
        let mut words = vec![name.to_ascii_uppercase()];
        words.extend(wait.wanted.iter().map(u64::to_string));
        words.push(left_ms.to_string());
        let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
        let mut bytes = MARK.to_vec();
        resp::write_request(&mut bytes, &words);
        let limit = (left_ms > 0).then(|| Duration::from_millis(left_ms).saturating_add(SLACK));
        match self.dedicated_to_node_of(index, shard) {
            Ok(at) => {
                let mut job = self.job_of(index, seq, (name, shard), (bytes, FRAMES), limit);
                job.keeps_all = true;
                self.ask_own(index, at, job);
            }
            Err(line) => self.end_replica_wait(index, &resp::error_line(&line)),
        }
    }

    fn end_replica_wait(&mut self, index: usize, reply: &[u8]) {
        let client = &mut self.clients[index];
        let (generation, wait) = (client.generation, client.replica_wait.take());
        if let Some(wait) = wait {
            self.complete(index, generation, wait.seq, reply, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::testing::request;

    fn asked(line: &str) -> Result<(Vec<u64>, u64), &'static str> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        request(&words, |args| question(&args))
    }

    fn wait(wanted: &[u64], until: Option<u64>) -> ReplicaWait {
        ReplicaWait {
            name: "wait",
            seq: 0,
            nodes: Vec::new(),
            wanted: wanted.to_vec(),
            least: None,
            until,
        }
    }

    #[test]
    fn numbers_are_read_as_redis_reads_them() {
        assert_eq!(asked("WAIT 2 100"), Ok((vec![2], 100)));
        assert_eq!(asked("WAIT -1 0"), Ok((vec![0], 0)));
        assert_eq!(asked("WAITAOF 1 2 0"), Ok((vec![1, 2], 0)));
        assert_eq!(asked("WAIT 1 -5"), Err("ERR timeout is negative"));
        assert_eq!(
            asked("WAIT x 1"),
            Err("ERR value is not an integer or out of range")
        );
        assert_eq!(
            asked("WAIT 1 1.5"),
            Err("ERR timeout is not an integer or out of range")
        );
    }

    #[test]
    fn the_least_count_is_answered_in_the_form_of_the_question() {
        let mut one = wait(&[1], None);
        assert_eq!(one.take(b":3\r\n"), Some(()));
        assert_eq!(one.take(b":1\r\n"), Some(()));
        assert_eq!(one.take(b":2\r\n"), Some(()));
        assert_eq!(one.reply(), b":1\r\n");
        let mut two = wait(&[1, 2], None);
        assert_eq!(two.take(b"*2\r\n:1\r\n:0\r\n"), Some(()));
        assert_eq!(two.take(b"*2\r\n:0\r\n:4\r\n"), Some(()));
        assert_eq!(two.reply(), b"*2\r\n:0\r\n:0\r\n");
    }

    #[test]
    fn a_node_that_does_not_take_the_mark_has_no_say() {
        assert_eq!(behind_mark(b"+PONG\r\n:0\r\n:2\r\n"), Ok(&b":2\r\n"[..]));
        let old = b"+PONG\r\n-ERR unknown command `SPUBLISH`, with args\r\n:2\r\n";
        assert_eq!(behind_mark(old), Ok(&b":2\r\n"[..]));
        let refused = behind_mark(b"+PONG\r\n-NOPERM no rights\r\n:2\r\n").unwrap_err();
        assert!(refused.starts_with(b"-ERR preshard: WAIT needs the right"));
        let lost = b"-UNCERTAIN preshard: sent, no answer\r\n";
        assert_eq!(behind_mark(lost), Err(lost.to_vec()));
        assert_eq!(
            behind_mark(b"+PONG\r\n"),
            Err(resp::error_line(
                "ERR preshard: WAIT needs the right to SPUBLISH on the nodes; one says: "
            ))
        );
    }

    #[test]
    fn what_is_no_count_ends_the_wait() {
        for reply in [
            &b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n"[..],
            b"*2\r\n:1\r\n:1\r\n",
            b":-1\r\n",
            b"+OK\r\n",
        ] {
            assert_eq!(wait(&[1], None).take(reply), None, "{reply:?}");
        }
        assert_eq!(wait(&[1, 1], None).take(b"*2\r\n:1\r\n"), None);
    }

    #[test]
    fn later_nodes_get_what_is_left_of_the_time_and_only_count_when_one_has_given_up() {
        let mut forever = wait(&[1], None);
        assert_eq!(forever.time_left_ms(7), 0);
        forever.take(b":1\r\n");
        assert_eq!(forever.time_left_ms(7), 0);
        forever.take(b":0\r\n");
        assert_eq!(forever.time_left_ms(7), COUNT_ONLY_MS);
        let bounded = wait(&[1], Some(5_000_000));
        assert_eq!(bounded.time_left_ms(3_000_000), 2000);
        assert_eq!(bounded.time_left_ms(6_000_000), COUNT_ONLY_MS);
    }
}
