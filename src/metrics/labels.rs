//! The values that a label can have, each with what it means.
//!
//! A label's values are an enum, so that a typo does not compile, that every value has a zero from the first
//! scrape and that no byte of a client ever becomes a label. The meanings also go to `docs/METRICS.md`.

use std::marker::PhantomData;
use std::ops::Index;

/// A closed set of label values.
pub trait Label: Copy + Sized + 'static {
    /// All values, in the order of [`Label::index`].
    const ALL: &'static [Self];
    /// Position of this value in [`Label::ALL`].
    fn index(self) -> usize;
    /// The value as it is written.
    fn name(self) -> &'static str;
    /// What the value means.
    fn meaning(self) -> &'static str;
}

/// One thing for each value of a label.
#[derive(Debug)]
pub struct By<L, T> {
    items: Box<[T]>,
    label: PhantomData<fn(L)>,
}

impl<L: Label, T: Default> Default for By<L, T> {
    fn default() -> Self {
        Self {
            items: L::ALL.iter().map(|_| T::default()).collect(),
            label: PhantomData,
        }
    }
}

impl<L: Label, T> Index<L> for By<L, T> {
    type Output = T;

    #[inline]
    fn index(&self, label: L) -> &T {
        &self.items[label.index()]
    }
}

macro_rules! label {
    ($(#[$doc:meta])* $label:ident { $($variant:ident $name:literal $meaning:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $label {
            $(#[doc = concat!("`", $name, "`: ", $meaning, ".")] $variant,)+
        }

        impl Label for $label {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            #[inline]
            fn index(self) -> usize {
                self as usize
            }

            fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)+ }
            }
        }
    };
}

label! {
    /// Protocol that a connection speaks.
    Wire {
        Resp2 "resp2" "RESP2",
        Resp3 "resp3" "RESP3, after `HELLO 3`",
    }
}

label! {
    /// Who made an error reply.
    Origin {
        Proxy "proxy" "preshard itself",
        Node "node" "a node, passed on",
    }
}

label! {
    /// The first word of an error reply, out of a fixed list.
    ErrorCode {
        Err "ERR" "an error without a word of its own",
        WrongType "WRONGTYPE" "the key holds another type",
        CrossSlot "CROSSSLOT" "the keys of one command are in different shards",
        Uncertain "UNCERTAIN" "sent to a node without an answer: it may have run",
        ClusterDown "CLUSTERDOWN" "the shard's node is not reachable: not run",
        TryAgain "TRYAGAIN" "not run now; worth another try",
        Oom "OOM" "a node is at its maxmemory",
        Loading "LOADING" "a node is loading its data",
        ReadOnly "READONLY" "a node is a replica",
        MasterDown "MASTERDOWN" "a node is a replica without its link",
        Busy "BUSY" "a script keeps a node busy",
        Misconf "MISCONF" "a node cannot save and refuses writes",
        NoReplicas "NOREPLICAS" "a node misses its replicas",
        NoScript "NOSCRIPT" "the script is not loaded",
        NoPerm "NOPERM" "the user may not do this",
        NoAuth "NOAUTH" "not authenticated",
        WrongPass "WRONGPASS" "wrong user or password",
        NoProto "NOPROTO" "unsupported protocol version",
        ExecAbort "EXECABORT" "a transaction was discarded",
        BusyGroup "BUSYGROUP" "the consumer group exists",
        NoGroup "NOGROUP" "the consumer group does not exist",
        Unsupported "UNSUPPORTED" "a command that is not served, whatever its reply says",
        Protocol "PROTOCOL" "a malformed request",
        Moved "MOVED" "a node is part of a Redis Cluster",
        Ask "ASK" "a node is part of a Redis Cluster",
        Other "other" "any other word",
    }
}

impl ErrorCode {
    /// Code of an error reply: its first word, with or without the frame's `-` in front of it, or after the
    /// length line of a RESP3 bulk error (`!21\r\nSYNTAX …`).
    #[must_use]
    pub fn of(reply: &[u8]) -> Self {
        let text = match reply {
            [b'-', rest @ ..] => rest,
            [b'!', rest @ ..] => rest
                .iter()
                .position(|&b| b == b'\n')
                .map_or(rest, |end| &rest[end + 1..]),
            _ => reply,
        };
        let end = text
            .iter()
            .position(|b| !b.is_ascii_uppercase())
            .unwrap_or(text.len());
        let word = &text[..end];
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.name().as_bytes() == word)
            .unwrap_or(Self::Other)
    }
}

label! {
    /// What kind of request took the time.
    RequestClass {
        Read "read" "one shard, read only",
        Write "write" "one shard, writing",
        Multi "multi" "several keys: of one shard, or split over shards",
        Blocking "blocking" "over a connection of its own: commands that may wait, `WATCH` and its `EXEC`",
        Fanout "fanout" "sent to every shard or node",
        Local "local" "answered by preshard alone",
        Admin "admin" "an admin command",
    }
}

impl RequestClass {
    /// That of a request to one shard.
    #[must_use]
    pub const fn of_one_key(writes: bool) -> Self {
        if writes { Self::Write } else { Self::Read }
    }
}

label! {
    /// Why a client's connection ended.
    Disconnect {
        Client "client" "the client closed it or its network failed",
        Idle "idle" "no request within `idle_timeout`",
        HandshakeTimeout "handshake_timeout" "no complete first request in time",
        ProtocolError "protocol_error" "a malformed request",
        TlsHello "tls_hello" "it spoke TLS to a port without TLS",
        OutputLimit "output_limit" "unread replies beyond `output_bytes_hard`",
        SlowSubscriber "slow_subscriber" "unread messages beyond `output_bytes_hard`",
        SubscriptionGap "subscription_gap" "it may have missed messages of a node, and `on_gap` is \"close\"",
        OutputStalled "output_stalled" "unread replies without progress for too long",
        Auth "auth" "not authenticated, or the right was taken away",
        Drain "drain" "the proxy stops",
        AdminKill "admin_kill" "closed by an admin or by `CLIENT KILL`",
        MaxClients "max_clients" "too many clients",
        PartialReply "partial_reply" "the node's link broke in the middle of a reply that was passed on",
        Memory "memory" "the process held too many request bytes",
        Fault "fault" "preshard's own fault, which is logged",
    }
}

label! {
    /// How the handshake of a client that came to a TLS port ended.
    Handshake {
        Done "done" "made: the client is served",
        Plain "plain" "the client does not speak TLS",
        Protocol "protocol" "no version, cipher or signature in common, or broken bytes",
        ClientCertificate "client_certificate" "the client showed no certificate, or one that is not trusted",
        OurCertificate "our_certificate" "the client does not trust preshard's certificate",
        Timeout "timeout" "not made within `handshake_timeout`",
        Closed "closed" "the client went away",
        TooMany "too_many" "too many handshakes at a time",
    }
}

label! {
    /// Why a connection to a node ended.
    LinkClose {
        Eof "eof" "the node closed it",
        Io "io" "the network failed",
        Timeout "timeout" "a reply did not come in time",
        BadReply "bad_reply" "a reply that is not RESP",
        MultiFailed "multi_failed" "the node refused a `MULTI`",
        SelectFailed "select_failed" "the node refused a `SELECT`",
        Identity "identity" "another server, another cluster or too few databases",
        ExtraReply "extra_reply" "a reply that nobody had asked for",
        Closed "closed" "preshard had no more use for it",
        Readdressed "readdressed" "the node has another address now, or has left",
    }
}

label! {
    /// What a user was refused for.
    Refused {
        Command "command" "the command",
        Key "key" "a key, or `SORT … BY` and `GET` for who may not use all keys",
        Channel "channel" "a channel or pattern",
        Right "right" "a word of `PRESHARD`",
    }
}

label! {
    /// Which way shards go.
    Direction {
        Forward "forward" "a move, to its target",
        Back "back" "a rollback, to where the shards were before",
    }
}

label! {
    /// How a cutover ended.
    Cutover {
        Moved "moved" "the node that they go to serves the shards",
        GivenUp "given_up" "nothing has moved; it is tried again",
        Failed "failed" "nothing has moved, and the move, or what is left of the way back, has failed",
        Cancelled "cancelled" "an operator stopped the move before the shards were held",
    }
}

label! {
    /// Where a password was given.
    Port {
        Data "data" "the data port",
        Admin "admin" "the admin port",
    }
}

label! {
    /// A limit that was reached.
    Limit {
        MaxClients "max_clients" "clients in all: the new one is refused",
        FileDescriptors "file_descriptors" "no file descriptor for a new connection: accepting pauses",
        Unauthenticated "unauthenticated" "size of requests before `AUTH`: closed",
        RequestArgs "request_args" "arguments of one request: closed",
        RequestBulk "request_bulk" "size of one argument: closed",
        RequestInline "request_inline" "size of an inline request: closed",
        RequestBytes "request_bytes" "request bytes held for one client: not read until they shrink",
        RequestBytesTotal "request_bytes_total" "request bytes held for all clients: the client that needs more is closed",
        InFlight "in_flight" "commands in flight of one client: not read until replies come",
        OutputSoft "output_soft" "unread reply bytes of one client: not read until it reads",
        OutputHard "output_hard" "unread reply bytes of one client: closed",
        NodeQueue "node_queue" "commands or bytes that wait for a node: refused",
        QueueWait "queue_wait" "time in the queue of a node: refused",
        LinkInFlight "link_in_flight" "commands or bytes in flight on one link: they wait",
        LateReplies "late_replies" "timed-out requests whose reply is still due on one link: the link is closed",
        KeysMax "keys_max" "keys of one request: refused",
        Dedicated "dedicated" "connections to one node that one client has for itself: refused",
        ScriptBytes "script_bytes" "bytes of script bodies that are kept: the one used longest ago is forgotten",
        ReplyBytes "reply_bytes" "size of a merged reply: refused",
        RequestTimeout "request_timeout" "time for a node's reply: answered `UNCERTAIN`",
        HoldMax "hold_max" "time held by a gate: refused",
        Subscriptions "subscriptions" "channels and patterns of one client, or the length of their names: refused",
        Publishers "publishers" "messages come faster than they can be delivered: publishers are not read, then refused",
        TrackingPrefixes "tracking_prefixes" "prefixes of one client, or their length: refused",
        TrackingKeys "tracking_keys" "keys that are tracked, or their bytes: one is invalidated to make room",
        TrackingHeld "tracking_held" "invalidations behind unanswered requests of one client: it is told to drop everything",
        TrackingNames "tracking_names" "keys that a node names at once: clients are told to drop everything",
        AdminRequests "admin_requests" "`PRESHARD` requests of the data port that wait: refused",
        AdminConnections "admin_connections" "connections to the admin port: the new one is refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<L: Label + PartialEq + std::fmt::Debug>() {
        for (position, label) in L::ALL.iter().enumerate() {
            assert_eq!(label.index(), position, "{label:?}");
            assert!(!label.meaning().is_empty());
        }
        let mut names: Vec<_> = L::ALL.iter().map(|label| label.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), L::ALL.len(), "two values have the same name");
    }

    #[test]
    fn every_value_has_its_own_place_and_name() {
        check::<Wire>();
        check::<Origin>();
        check::<ErrorCode>();
        check::<RequestClass>();
        check::<Disconnect>();
        check::<Handshake>();
        check::<LinkClose>();
        check::<Limit>();
    }

    #[test]
    fn the_code_is_the_first_word_of_the_error() {
        assert_eq!(ErrorCode::of(b"-ERR unknown command\r\n"), ErrorCode::Err);
        assert_eq!(ErrorCode::of(b"ERR without its dash"), ErrorCode::Err);
        assert_eq!(
            ErrorCode::of(b"-WRONGTYPE Operation against"),
            ErrorCode::WrongType
        );
        assert_eq!(ErrorCode::of(b"-OOM\r\n"), ErrorCode::Oom);
        assert_eq!(ErrorCode::of(b"!12\r\nNOSCRIPT No.\r\n"), ErrorCode::NoScript);
        assert_eq!(ErrorCode::of(b"!12"), ErrorCode::Other);
        for code in ErrorCode::ALL.iter().filter(|code| **code != ErrorCode::Other) {
            assert_eq!(
                ErrorCode::of(format!("-{} text\r\n", code.name()).as_bytes()),
                *code
            );
        }
    }

    #[test]
    fn words_outside_the_list_are_other() {
        for text in [
            "",
            "-",
            "!",
            "-\r\n",
            "-err lower",
            "-ERRO x",
            "-MYSCRIPT said no",
            "-ER",
            "-10001",
            "- ERR",
        ] {
            assert_eq!(ErrorCode::of(text.as_bytes()), ErrorCode::Other, "{text:?}");
        }
    }
}
