//! What must be asked of the nodes so that a client hears what it subscribed to, and under which name it hears it.
//!
//! ```text
//!  client says (database 0 sharded, 1..=pinned)      nodes are asked                       heard as
//!  SUBSCRIBE news                                    SUBSCRIBE news                        news
//!  SUBSCRIBE __keyspace@0__:k  (k is in db 17)       SUBSCRIBE __keyspace@17__:k           __keyspace@0__:k
//!  SUBSCRIBE __keyevent@0__:del                      PSUBSCRIBE __keyevent@*__:del         __keyevent@0__:del
//!  PSUBSCRIBE __key*__:*                             PSUBSCRIBE __key*@*__:*               with the client's number
//! ```
//!
//! A node numbers its databases as `placement.db` says, the client numbers them as it selects them. So an event
//! gets the client's number before anything is compared, and one of a database that is not ours is dropped.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::ids::{DbIndex, NodeIndex};
use crate::topology::Topology;

const KEYSPACE: &[u8] = b"__keyspace@";
const KEYEVENT: &[u8] = b"__keyevent@";
const BEHIND: &[u8] = b"__:";

/// The three sorts of subscription; they know nothing of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::worker) enum Kind {
    /// `SUBSCRIBE`
    Channel,
    /// `PSUBSCRIBE`
    Pattern,
    /// `SSUBSCRIBE`
    Shard,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::Shard];

    pub(super) const fn subscribe(self) -> &'static str {
        match self {
            Self::Channel => "subscribe",
            Self::Pattern => "psubscribe",
            Self::Shard => "ssubscribe",
        }
    }

    pub(super) const fn unsubscribe(self) -> &'static str {
        match self {
            Self::Channel => "unsubscribe",
            Self::Pattern => "punsubscribe",
            Self::Shard => "sunsubscribe",
        }
    }

    pub(super) const fn message(self) -> &'static str {
        match self {
            Self::Channel => "message",
            Self::Pattern => "pmessage",
            Self::Shard => "smessage",
        }
    }
}

/// Which of the messages that an ask brings are for a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passes {
    /// Those that are no keyspace events.
    Plain,
    /// Keyspace events, if they match under the client's number.
    Events,
    /// All.
    All,
}

/// One subscription on every node.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked<'a> {
    pub(super) kind: Kind,
    pub(super) name: Cow<'a, [u8]>,
    pub(super) passes: Passes,
}

/// A channel of keyspace notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Event<'a> {
    prefix: &'static [u8],
    db: u16,
    /// What follows `__:`, a key or the name of an event.
    rest: &'a [u8],
}

impl<'a> Event<'a> {
    /// `None` for every other channel.
    fn parse(channel: &'a [u8]) -> Option<Self> {
        let (prefix, behind) = [KEYSPACE, KEYEVENT]
            .into_iter()
            .find_map(|prefix| Some((prefix, channel.strip_prefix(prefix)?)))?;
        let digits = behind.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let db = std::str::from_utf8(&behind[..digits]).ok()?.parse().ok()?;
        let rest = behind[digits..].strip_prefix(BEHIND)?;
        Some(Self { prefix, db, rest })
    }

    fn channel(prefix: &[u8], db: u16, rest: &[u8]) -> Vec<u8> {
        [prefix, db.to_string().as_bytes(), BEHIND, rest].concat()
    }
}

/// Whether a channel is one of keyspace notifications, which only nodes send.
pub(in crate::worker) fn is_event(channel: &[u8]) -> bool {
    Event::parse(channel).is_some()
}

/// The clients' numbers of the nodes' databases.
#[derive(Debug)]
pub(super) struct Databases(HashMap<(NodeIndex, DbIndex), u16>);

impl Databases {
    pub(super) fn new(topology: &Topology) -> Self {
        let shown = topology.placements_by_shard().map(|(shard, placement)| {
            let shown = topology.pinned_db(shard).unwrap_or(0);
            ((placement.node, placement.db), shown)
        });
        Self(shown.collect())
    }

    /// The channel as clients know it, and whether it is an event. `None` if it is an event of a foreign database.
    pub(super) fn shown<'a>(&self, node: NodeIndex, channel: &'a [u8]) -> Option<(Cow<'a, [u8]>, bool)> {
        let Some(event) = Event::parse(channel) else {
            return Some((Cow::Borrowed(channel), false));
        };
        let db = *self.0.get(&(node, DbIndex(event.db)))?;
        Some((Cow::Owned(Event::channel(event.prefix, db, event.rest)), true))
    }
}

/// What to ask of every node for one subscription. Nothing for events of a database that does not exist.
pub(super) fn asked<'a>(kind: Kind, name: &'a [u8], topology: &Topology) -> Vec<Asked<'a>> {
    let as_it_is = |passes| Asked {
        kind,
        name: Cow::Borrowed(name),
        passes,
    };
    match kind {
        Kind::Shard => vec![as_it_is(Passes::All)],
        Kind::Channel => match Event::parse(name) {
            None => vec![as_it_is(Passes::Plain)],
            Some(event) => asked_for_event(event, topology).into_iter().collect(),
        },
        Kind::Pattern if name.iter().all(|&byte| byte == b'*') => vec![as_it_is(Passes::All)],
        Kind::Pattern => asked_for_pattern(name),
    }
}

fn asked_for_event<'a>(event: Event<'_>, topology: &Topology) -> Option<Asked<'a>> {
    let shard = match event.db {
        0 if event.prefix == KEYSPACE => topology.shard_of_key(event.rest),
        0 => {
            // Any of our shards; which of its databases are ours only the node's number tells.
            let mut name = [event.prefix, b"*", BEHIND].concat();
            escape(event.rest, &mut name);
            return Some(Asked {
                kind: Kind::Pattern,
                name: Cow::Owned(name),
                passes: Passes::Events,
            });
        }
        db => topology.pinned_shard(db)?,
    };
    let name = Event::channel(event.prefix, topology.placement(shard).db.0, event.rest);
    Some(Asked {
        kind: Kind::Channel,
        name: Cow::Owned(name),
        passes: Passes::Events,
    })
}

fn asked_for_pattern(pattern: &[u8]) -> Vec<Asked<'_>> {
    let mut asked = Vec::with_capacity(2);
    let literal = pattern
        .iter()
        .position(|byte| b"*?[\\".contains(byte))
        .map_or(pattern, |end| &pattern[..end]);
    let meets = |prefix: &[u8]| literal.starts_with(prefix) || prefix.starts_with(literal);
    if !literal.starts_with(b"__key") {
        asked.push(Asked {
            kind: Kind::Pattern,
            name: Cow::Borrowed(pattern),
            passes: Passes::Plain,
        });
    }
    if meets(KEYSPACE) || meets(KEYEVENT) {
        asked.push(Asked {
            kind: Kind::Pattern,
            name: Cow::Owned(any_number(pattern, literal)),
            passes: Passes::Events,
        });
    } else if asked.is_empty() {
        // `__keys*`, for example: no event begins so, or it would have been met above.
        asked.push(Asked {
            kind: Kind::Pattern,
            name: Cow::Borrowed(pattern),
            passes: Passes::Plain,
        });
    }
    asked
}

/// A pattern that matches, whatever number a node gives its databases, every event that `pattern` matches under the
/// client's number.
fn any_number(pattern: &[u8], literal: &[u8]) -> Vec<u8> {
    let prefix = [KEYSPACE, KEYEVENT]
        .into_iter()
        .find(|prefix| literal.starts_with(prefix));
    let Some(prefix) = prefix else {
        return b"__key*@*__:*".to_vec();
    };
    let behind = &pattern[prefix.len()..];
    let number = behind
        .iter()
        .take_while(|byte| byte.is_ascii_digit() || matches!(byte, b'*' | b'?'))
        .count();
    // Only a number stands between: what follows it holds for every database.
    let rest = if number > 0 {
        behind[number..].strip_prefix(BEHIND)
    } else {
        None
    };
    [prefix, b"*", BEHIND, rest.unwrap_or(b"*")].concat()
}

/// Text as a pattern that matches only itself.
fn escape(text: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        if b"*?[\\".contains(&byte) {
            out.push(b'\\');
        }
        out.push(byte);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::command::glob_matches;
    use crate::topology::Node;

    fn topology() -> Topology {
        let node = |number: u16| Node {
            name: format!("node-{number}"),
            address: format!("127.0.0.1:{number}").parse().unwrap(),
        };
        Topology::seed("test".to_owned(), 8, 2, vec![node(1), node(2)]).unwrap()
    }

    fn texts(kind: Kind, name: &str) -> Vec<String> {
        let topology = topology();
        let asked = asked(kind, name.as_bytes(), &topology);
        let text = |asked: &Asked<'_>| {
            let name = String::from_utf8_lossy(&asked.name);
            format!("{:?} {name} {:?}", asked.kind, asked.passes)
        };
        asked.iter().map(text).collect()
    }

    #[test]
    fn ordinary_names_are_asked_as_they_are() {
        assert_eq!(texts(Kind::Channel, "news"), ["Channel news Plain"]);
        assert_eq!(
            texts(Kind::Shard, "__keyspace@0__:k"),
            ["Shard __keyspace@0__:k All"]
        );
        assert_eq!(texts(Kind::Pattern, "news.*"), ["Pattern news.* Plain"]);
        assert_eq!(texts(Kind::Pattern, "**"), ["Pattern ** All"]);
        assert_eq!(
            texts(Kind::Channel, "__keyspace@x__:k"),
            ["Channel __keyspace@x__:k Plain"]
        );
        assert_eq!(
            texts(Kind::Channel, "__keyspace@99999__:k"),
            ["Channel __keyspace@99999__:k Plain"]
        );
    }

    #[test]
    fn events_are_asked_with_the_numbers_of_nodes() {
        let shard = topology().shard_of_key(b"k");
        assert_eq!(
            texts(Kind::Channel, "__keyspace@0__:k"),
            [format!("Channel __keyspace@{shard}__:k Events")]
        );
        assert_eq!(
            texts(Kind::Channel, "__keyspace@2__:k"),
            ["Channel __keyspace@9__:k Events"]
        );
        assert_eq!(
            texts(Kind::Channel, "__keyevent@1__:del"),
            ["Channel __keyevent@8__:del Events"]
        );
        assert_eq!(texts(Kind::Channel, "__keyevent@3__:del"), [""; 0]);
        assert_eq!(
            texts(Kind::Channel, "__keyevent@0__:a*b"),
            ["Pattern __keyevent@*__:a\\*b Events"]
        );
        for (pattern, asked) in [
            ("__keyevent@*__:expired", "__keyevent@*__:expired"),
            ("__keyevent@0__:*", "__keyevent@*__:*"),
            ("__keyspace@?__:user:[ab]", "__keyspace@*__:user:[ab]"),
            ("__keyspace@[01]__:k", "__keyspace@*__:*"),
            ("__keyspace@*", "__keyspace@*__:*"),
            ("__key*__:*", "__key*@*__:*"),
        ] {
            assert_eq!(texts(Kind::Pattern, pattern), [format!("Pattern {asked} Events")]);
        }
        assert_eq!(
            texts(Kind::Pattern, "_*k"),
            ["Pattern _*k Plain", "Pattern __key*@*__:* Events"]
        );
    }

    #[test]
    fn events_of_foreign_databases_are_dropped() {
        let databases = Databases::new(&topology());
        let shown = |node, channel: &str| {
            let shown = databases.shown(NodeIndex(node), channel.as_bytes());
            shown.map(|(name, event)| (String::from_utf8_lossy(&name).into_owned(), event))
        };
        assert_eq!(
            shown(0, "__keyspace@3__:k"),
            Some(("__keyspace@0__:k".to_owned(), true))
        );
        assert_eq!(shown(1, "__keyspace@3__:k"), None, "shard 3 lives on node 0");
        assert_eq!(
            shown(1, "__keyevent@9__:del"),
            Some(("__keyevent@2__:del".to_owned(), true))
        );
        assert_eq!(shown(0, "__keyevent@10__:set"), None, "the metadata database");
        assert_eq!(shown(0, "news"), Some(("news".to_owned(), false)));
    }

    proptest! {
        /// Whatever a client's pattern matches under the client's number, some ask of it hears from the node.
        #[test]
        fn no_event_is_missed(
            pattern in "(__key(space|event)@|__key|_|)[0-3*?]{0,2}(__:)?[a\\[\\]*?]{0,4}",
            events in any::<bool>(),
            shard in 0_u16..10,
            rest in "[a\\[\\]]{0,3}",
        ) {
            let topology = topology();
            let prefix = if events { KEYEVENT } else { KEYSPACE };
            let pinned = topology.pinned_db(crate::ids::ShardId(shard)).unwrap_or(0);
            let shown = Event::channel(prefix, pinned, rest.as_bytes());
            let heard = Event::channel(prefix, shard, rest.as_bytes());
            let asked = asked(Kind::Pattern, pattern.as_bytes(), &topology);
            let hears = asked
                .iter()
                .any(|asked| asked.passes != Passes::Plain && glob_matches(&asked.name, &heard, false));
            if glob_matches(pattern.as_bytes(), &shown, false) {
                prop_assert!(hears, "{pattern} misses {}", String::from_utf8_lossy(&heard));
            }
        }
    }
}
