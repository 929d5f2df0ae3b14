//! The commands about channels, from a session's side.
//!
//! `SUBSCRIBE` and its like are answered when every node that can be reached has confirmed, in their turn among the
//! client's own; behind anything else they wait until that is answered, so that no message overtakes its confirmation.

use super::hub::{Hub, Request};
use super::names::{Kind, is_event};
use crate::command::{Local, PubSub, Spec};
use crate::metrics::{Limit, RequestClass};
use crate::resp::{self, Args, Value};
use crate::worker::engine::Engine;
use crate::worker::session::{Marks, Pause, Taken};

/// Channels and patterns of one client.
const SUBSCRIPTIONS_MAX: usize = 10_000;
/// Bytes of the name of a channel or a pattern.
const NAME_MAX: usize = 4096;
/// What a client is told that would publish a keyspace notification.
pub(in crate::worker) const ONLY_NODES_PUBLISH: &str =
    "ERR only nodes publish on the channels of keyspace notifications";

impl Engine {
    /// Handles a command about channels.
    pub(in crate::worker) fn handle_pubsub(
        &mut self,
        index: usize,
        spec: &'static Spec,
        pubsub: PubSub,
        args: &Args<'_>,
    ) -> Taken {
        match pubsub {
            PubSub::Subscribe => self.subscribe(index, spec, Kind::Channel, args),
            PubSub::Psubscribe => self.subscribe(index, spec, Kind::Pattern, args),
            PubSub::Ssubscribe => self.subscribe(index, spec, Kind::Shard, args),
            PubSub::Unsubscribe => self.unsubscribe(index, spec, Kind::Channel, args),
            PubSub::Punsubscribe => self.unsubscribe(index, spec, Kind::Pattern, args),
            PubSub::Sunsubscribe => self.unsubscribe(index, spec, Kind::Shard, args),
            PubSub::Publish => self.publish(index, spec, Kind::Channel, args),
            PubSub::Spublish => self.publish(index, spec, Kind::Shard, args),
            PubSub::Channels => self.answer_with(index, spec, &self.names(Kind::Channel, args)),
            PubSub::Shardchannels => self.answer_with(index, spec, &self.names(Kind::Shard, args)),
            PubSub::Numsub => self.answer_with(index, spec, &self.numbers(Kind::Channel, args)),
            PubSub::Shardnumsub => self.answer_with(index, spec, &self.numbers(Kind::Shard, args)),
            PubSub::Numpat => {
                let patterns = self.shared.channels.names(Kind::Pattern, None).len();
                self.answer_with(
                    index,
                    spec,
                    &Value::Int(i64::try_from(patterns).unwrap_or(i64::MAX)),
                )
            }
        }
    }

    /// A request of a client of RESP2 that has subscribed: few mean anything. `None` for those that go on as usual.
    pub(in crate::worker) fn while_subscribed(
        &mut self,
        index: usize,
        spec: &'static Spec,
        args: &Args<'_>,
    ) -> Option<Taken> {
        use crate::command::Class;
        match spec.class {
            Class::PubSub(
                PubSub::Subscribe
                | PubSub::Psubscribe
                | PubSub::Ssubscribe
                | PubSub::Unsubscribe
                | PubSub::Punsubscribe
                | PubSub::Sunsubscribe,
            )
            | Class::Local(Local::Quit | Local::Reset) => return None,
            // Its shape tells that it answers no message.
            Class::Local(Local::Ping) if args.len() <= 2 => {
                self.count_request(index, spec);
                let mut reply = b"*2\r\n$4\r\npong\r\n".to_vec();
                resp::write_bulk(&mut reply, args.try_get(1).unwrap_or_default());
                self.answer(index, &reply, RequestClass::Local);
            }
            Class::Local(Local::Ping) => return None,
            _ => {
                let line = format!(
                    "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed \
                     in this context",
                    spec.name
                );
                self.answer_error(index, &line);
            }
        }
        Some(Taken::Yes)
    }

    fn subscribe(&mut self, index: usize, spec: &'static Spec, kind: Kind, args: &Args<'_>) -> Taken {
        if self.must_wait_to_subscribe(index) {
            return self.wait_for_answers(index);
        }
        let names = || (1..args.len()).map(|place| args.get(place));
        let has: usize = self.pubsub.hub.count(index).iter().sum();
        let memory = self.held_bytes + self.pubsub.hub.bytes() + Hub::cost(names());
        let refusal = if names().any(|name| name.len() > NAME_MAX) {
            self.metrics.limits[Limit::Subscriptions].inc();
            Some(format!(
                "ERR the name of a channel or pattern is longer than {NAME_MAX} bytes"
            ))
        } else if has + names().count() > SUBSCRIPTIONS_MAX {
            self.metrics.limits[Limit::Subscriptions].inc();
            Some(format!(
                "ERR more than {SUBSCRIPTIONS_MAX} channels and patterns of one client"
            ))
        } else if memory > self.settings.limits.request_memory {
            self.metrics.limits[Limit::RequestBytesTotal].inc();
            Some("ERR subscriptions need more than request_memory_max".to_owned())
        } else {
            None
        };
        if let Some(line) = refusal {
            self.answer_error(index, &line);
            return Taken::Yes;
        }
        let client = &self.clients[index];
        let (who, protocol) = ((index, client.generation), client.protocol);
        let request = self.pubsub.hub.subscribe(who, kind, names(), protocol);
        self.answer_or_wait(index, spec, request, args)
    }

    fn unsubscribe(&mut self, index: usize, spec: &'static Spec, kind: Kind, args: &Args<'_>) -> Taken {
        if self.must_wait_to_subscribe(index) {
            return self.wait_for_answers(index);
        }
        let names = (1..args.len()).map(|place| args.get(place));
        let client = &self.clients[index];
        let (who, protocol) = ((index, client.generation), client.protocol);
        let request = self.pubsub.hub.unsubscribe(who, kind, names, protocol);
        self.answer_or_wait(index, spec, request, args)
    }

    /// Whether the client has asked for something else that is not answered.
    fn must_wait_to_subscribe(&self, index: usize) -> bool {
        self.clients[index].slots.len() > self.pubsub.hub.waiting(index)
    }

    fn answer_or_wait(
        &mut self,
        index: usize,
        spec: &'static Spec,
        request: Request,
        args: &Args<'_>,
    ) -> Taken {
        self.count_request(index, spec);
        if request.waits {
            let seq = self.push_slot(index, spec.id, args.frame().len(), RequestClass::Local);
            // As in Redis: who wants no replies hears of its subscriptions all the same.
            if let Some(slot) = self.clients[index].slots.back_mut() {
                slot.marks.unset(Marks::SILENT);
            }
            self.pubsub.hub.wait(request, seq);
        } else {
            self.answer_aloud(index, &request.reply, RequestClass::Local);
        }
        self.show_subscriptions(index);
        self.wake_feeds();
        self.answer_subscribers();
        Taken::Yes
    }

    /// A client has left, or is reset.
    pub(in crate::worker) fn forget_listener(&mut self, index: usize) {
        self.stop_tracking(index);
        self.pubsub.hub.leave(index);
        self.wake_feeds();
        self.answer_subscribers();
    }

    fn publish(&mut self, index: usize, spec: &'static Spec, kind: Kind, args: &Args<'_>) -> Taken {
        let channel = args.get(1);
        if kind == Kind::Channel && is_event(channel) {
            self.answer_error(index, ONLY_NODES_PUBLISH);
            return Taken::Yes;
        }
        if let Some(taken) = self.publisher_waits(index) {
            return taken;
        }
        let pinned = self.topology.pinned_shard(self.clients[index].db);
        let shard = pinned.unwrap_or_else(|| self.topology.shard_of_key(channel));
        self.start_publish(index, spec, shard, (kind, channel), args.frame())
    }

    /// While messages come faster than they can be delivered, publishers are not read.
    fn publisher_waits(&mut self, index: usize) -> Option<Taken> {
        let client = &mut self.clients[index];
        let waker = client.waker.as_ref();
        if !self.shared.channels.must_wait(self.worker, index, waker) {
            return None;
        }
        self.metrics.limits[Limit::Publishers].inc();
        if client.refuse_when_full {
            client.refuse_when_full = false;
            let line = "TRYAGAIN preshard: subscribers are behind with what was published; it has not run";
            self.answer_error(index, line);
            return Some(Taken::Yes);
        }
        if client.pause != Pause::Queue {
            client.pause = Pause::Queue;
            client.paused_at = self.now;
        }
        Some(Taken::NotNow)
    }

    fn names(&self, kind: Kind, args: &Args<'_>) -> Value {
        let names = self.shared.channels.names(kind, args.try_get(2));
        Value::Array(names.iter().map(|name| Value::bulk(&**name)).collect())
    }

    fn numbers(&self, kind: Kind, args: &Args<'_>) -> Value {
        let names = (2..args.len()).map(|place| args.get(place));
        let pairs = names.flat_map(|name| {
            let clients = self.shared.channels.clients(kind, name);
            [
                Value::bulk(name),
                Value::Int(i64::try_from(clients).unwrap_or(i64::MAX)),
            ]
        });
        Value::Array(pairs.collect())
    }

    fn answer_with(&mut self, index: usize, spec: &'static Spec, value: &Value) -> Taken {
        self.count_request(index, spec);
        let mut reply = self.spares.take();
        value.encode(self.clients[index].protocol, &mut reply);
        self.answer(index, &reply, RequestClass::Local);
        self.spares.give(reply);
        Taken::Yes
    }
}
