//! Commands that the proxy answers by itself: what clients and tools send to find out where they are.
//!
//! None of them touches a node, so a storm of reconnects costs the nodes nothing. What they tell of nodes is what
//! the control side heard last.

mod clients;
mod config;
mod hello;
mod info;

use super::input::Taken;
use crate::command::{self, Local, Spec};
use crate::metrics::{Disconnect, RequestClass};
use crate::resp::{self, Args, Value};
use crate::worker::engine::Engine;

impl Engine {
    /// Answers a local command.
    pub(super) fn handle_local(
        &mut self,
        index: usize,
        spec: &'static Spec,
        local: Local,
        args: &Args<'_>,
    ) -> Taken {
        let barrier = matches!(local, Local::Hello | Local::Reset) && !self.clients[index].slots.is_empty();
        if barrier {
            // The protocol may change: what was asked before must be answered in the old one.
            return self.wait_for_answers(index);
        }
        self.count_request(index, spec);
        let value = match local {
            Local::Ping => return self.ping(index, args),
            Local::KillCode => return self.kill_code(index, spec),
            Local::Wait => return self.wait_for_replicas(index, spec, args),
            Local::ClientUnblock => return self.client_unblock(index, args),
            Local::Echo => Value::bulk(args.get(1)),
            Local::Quit => {
                self.answer(index, b"+OK\r\n", RequestClass::Local);
                self.clients[index].closing = Some(Disconnect::Client);
                return Taken::Yes;
            }
            Local::Hello | Local::Auth | Local::Select | Local::Reset => {
                self.session_command(index, local, args)
            }
            Local::Time => time(),
            Local::Role => Value::Array(vec![
                Value::bulk("master"),
                Value::Int(0),
                Value::Array(Vec::new()),
            ]),
            Local::Info => self.info(args),
            Local::ConfigGet => self.config_get(args),
            Local::Command
            | Local::CommandCount
            | Local::CommandDocs
            | Local::CommandGetkeys
            | Local::CommandGetkeysandflags
            | Local::CommandInfo
            | Local::CommandList
            | Local::Help
            | Local::AclCat => command::introspect(spec, args).unwrap_or(Value::Null),
            Local::ClientGetname
            | Local::ClientGetredir
            | Local::ClientId
            | Local::ClientInfo
            | Local::ClientKill
            | Local::ClientList
            | Local::ClientNoEvict
            | Local::ClientNoTouch
            | Local::ClientSetinfo
            | Local::ClientSetname
            | Local::ClientTrackinginfo => self.client_command(index, local, args),
            Local::ClusterDisabled => Value::error("ERR This instance has cluster support disabled"),
            Local::AclWhoami => Value::bulk("default"),
            Local::ModuleList | Local::LatencyHistory | Local::LatencyLatest | Local::SlowlogGet => {
                Value::Array(Vec::new())
            }
            Local::LatencyHistogram => Value::Map(Vec::new()),
            Local::SlowlogLen | Local::LatencyReset => Value::Int(0),
            Local::SlowlogReset => ok(),
            Local::LatencyGraph => Value::error("ERR No samples available for event"),
            Local::LatencyDoctor => Value::bulk("preshard keeps no latency events; look at its metrics."),
            Local::MemoryDoctor => Value::bulk("preshard stores no data; ask the nodes."),
            Local::Preshard => Value::error(
                "NOPERM PRESHARD commands are answered on the admin listener ([admin] listen), not on this one",
            ),
        };
        self.answer_value(index, &value);
        Taken::Yes
    }

    /// Answers with a value in the client's protocol version.
    fn answer_value(&mut self, index: usize, value: &Value) {
        let mut reply = self.spares.take();
        value.encode(self.clients[index].protocol, &mut reply);
        self.answer(index, &reply, RequestClass::Local);
        self.spares.give(reply);
    }

    fn ping(&mut self, index: usize, args: &Args<'_>) -> Taken {
        match args.try_get(1) {
            None => self.answer(index, b"+PONG\r\n", RequestClass::Local),
            // The table says "at least one": Redis too refuses more than one text only here.
            Some(_) if args.len() > 2 => {
                let refusal = Value::error("ERR wrong number of arguments for 'ping' command");
                self.answer_value(index, &refusal);
            }
            Some(text) => {
                let mut reply = self.spares.take();
                resp::write_bulk(&mut reply, text);
                self.answer(index, &reply, RequestClass::Local);
                self.spares.give(reply);
            }
        }
        Taken::Yes
    }
}

fn time() -> Value {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Value::Array(vec![
        Value::bulk(now.as_secs().to_string()),
        Value::bulk(now.subsec_micros().to_string()),
    ])
}

fn ok() -> Value {
    Value::Simple("OK".into())
}

/// Text in the form that clients of the newer protocol may show as it is.
fn verbatim(text: String) -> Value {
    Value::Verbatim {
        format: *b"txt",
        text: text.into_bytes(),
    }
}

/// A canonical decimal number.
fn number(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}
