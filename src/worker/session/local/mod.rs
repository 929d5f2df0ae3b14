//! Commands that the proxy answers by itself: what clients and tools send to find out where they are.
//!
//! None of them touches a node, so a storm of reconnects costs the nodes nothing. What they tell of nodes is what
//! the control side heard last.

mod acl;
mod clients;
mod cluster;
mod config;
mod filter;
mod hello;
mod info;
mod preshard;
mod slowlog;

pub(super) use hello::HelloOptions;

use super::access::named_user;
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
        let barrier = matches!(local, Local::Hello | Local::Reset | Local::ClientTracking)
            && !self.clients[index].slots.is_empty();
        if barrier {
            // The protocol may change, or what pushes may come: what was asked before must be answered in the old way.
            return self.wait_for_answers(index);
        }
        if let Some(user) = named_user(local, args)
            && self.password_waits(index, user)
        {
            return Taken::NotNow;
        }
        match local {
            // These count themselves, once they are sure to be answered.
            Local::ClientTracking => return self.client_tracking(index, spec, args),
            Local::ClientUnblock => {
                let taken = self.client_unblock(index, spec, args);
                if taken == Taken::Yes {
                    self.count_request(index, spec);
                }
                return taken;
            }
            Local::KillCode => return self.kill_code(index, spec),
            Local::Wait => return self.wait_for_replicas(index, spec, args),
            Local::Preshard => return self.preshard(index, spec, args),
            _ => self.count_request(index, spec),
        }
        match local {
            Local::Ping => self.ping(index, args),
            Local::ClientReply => self.client_reply(index, args),
            Local::Quit => {
                self.answer(index, b"+OK\r\n", RequestClass::Local);
                self.clients[index].closing = Some(Disconnect::Client);
                Taken::Yes
            }
            _ => {
                if let Some(value) = self.local_value(index, spec, local, args) {
                    self.answer_value(index, &value);
                }
                Taken::Yes
            }
        }
    }

    /// The answer of a command that has just one. `None` for those that [`Self::handle_local`] answers otherwise.
    fn local_value(
        &mut self,
        index: usize,
        spec: &'static Spec,
        local: Local,
        args: &Args<'_>,
    ) -> Option<Value> {
        Some(match local {
            Local::ClientReply
            | Local::ClientTracking
            | Local::ClientUnblock
            | Local::KillCode
            | Local::Ping
            | Local::Preshard
            | Local::Quit
            | Local::Wait => return None,
            Local::Echo => Value::bulk(args.get(1)),
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
            Local::ClientCaching
            | Local::ClientGetname
            | Local::ClientGetredir
            | Local::ClientId
            | Local::ClientInfo
            | Local::ClientKill
            | Local::ClientList
            | Local::ClientNoEvict
            | Local::ClientNoTouch
            | Local::ClientPause
            | Local::ClientSetinfo
            | Local::ClientSetname
            | Local::ClientTrackinginfo
            | Local::ClientUnpause => self.client_command(index, local, args),
            Local::Cluster(cluster) => self.cluster_command(spec, cluster, args),
            Local::AclDryrun | Local::AclGetuser | Local::AclList | Local::AclUsers | Local::AclWhoami => {
                self.acl_command(index, local, args)
            }
            Local::ModuleList | Local::LatencyHistory | Local::LatencyLatest => Value::Array(Vec::new()),
            Local::SlowlogGet | Local::SlowlogLen | Local::SlowlogReset => self.slowlog(local, args),
            Local::LatencyHistogram => Value::Map(Vec::new()),
            Local::LatencyReset => Value::Int(0),
            Local::LatencyGraph => Value::error("ERR No samples available for event"),
            Local::LatencyDoctor => Value::bulk("preshard keeps no latency events; look at its metrics."),
            Local::MemoryDoctor => Value::bulk("preshard stores no data; ask the nodes."),
        })
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

/// What Redis says of a subcommand that has too many arguments.
pub(super) fn wrong_subcommand(args: &Args<'_>) -> String {
    let [container, subcommand] = [0, 1].map(|place| String::from_utf8_lossy(args.get(place)));
    format!(
        "ERR unknown subcommand or wrong number of arguments for '{subcommand}'. Try {} HELP.",
        container.to_ascii_uppercase()
    )
}

/// A canonical decimal number.
pub(in crate::worker) fn number(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}
