//! What a row of the table of families is made of, and the labels that rows share.

use super::expose::{Emit, Scrape};
use super::labels::{
    Disconnect, ErrorCode, Handshake, Label, Limit, LinkClose, Origin, Port, Refused, RequestClass, Wire,
};

/// Type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// A level.
    Gauge,
    /// A distribution in buckets.
    Histogram,
}

/// A label of a family.
#[derive(Clone, Copy, Debug)]
pub struct LabelName {
    /// The label's name.
    pub name: &'static str,
    /// What its values are.
    pub values: Values,
}

/// What the values of a label are.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    /// A closed list of values with their meanings.
    Fixed(fn() -> Vec<(&'static str, &'static str)>),
    /// Values known at run time, and what bounds them.
    Bounded(&'static str),
}

/// One row of the table.
#[derive(Debug)]
pub struct Family {
    /// Name as scraped.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// One sentence.
    pub help: &'static str,
    /// Labels in order.
    pub labels: &'static [LabelName],
    /// Emits the rows.
    pub read: fn(&Scrape<'_>, &mut Emit),
}

fn list<L: Label>() -> Vec<(&'static str, &'static str)> {
    L::ALL
        .iter()
        .map(|label| (label.name(), label.meaning()))
        .collect()
}

pub(super) const fn fixed(
    name: &'static str,
    values: fn() -> Vec<(&'static str, &'static str)>,
) -> LabelName {
    LabelName {
        name,
        values: Values::Fixed(values),
    }
}

const fn bounded(name: &'static str, what: &'static str) -> LabelName {
    LabelName {
        name,
        values: Values::Bounded(what),
    }
}

pub(super) const COMMAND: LabelName = bounded(
    "command",
    "names of the command table, subcommands as `config|get`; only touched ones, and `other` for unknown commands",
);
pub(super) const SHARD: LabelName = bounded(
    "shard",
    "shard numbers, pinned ones included; every shard has a row",
);
pub(super) const NODE: LabelName = bounded("node", "node names of the topology");
pub(super) const DB: LabelName = bounded(
    "db",
    "`db` and the number of the database on the node, as redis_exporter writes it",
);
pub(super) const WORKER: LabelName = bounded("worker", "numbers of the workers");
pub(super) const VERSION: LabelName = bounded("version", "a version text");
pub(super) const REVISION: LabelName = bounded("revision", "the source revision of the build, or `unknown`");
pub(super) const PROTOCOL: LabelName = fixed("protocol", list::<Wire>);
pub(super) const ORIGIN: LabelName = fixed("origin", list::<Origin>);
pub(super) const CODE: LabelName = fixed("code", list::<ErrorCode>);
pub(super) const CLASS: LabelName = fixed("class", list::<RequestClass>);
pub(super) const DISCONNECT: LabelName = fixed("reason", list::<Disconnect>);
pub(super) const HANDSHAKE: LabelName = fixed("result", list::<Handshake>);
pub(super) const RELOAD: LabelName = fixed("result", || {
    vec![
        ("ok", "the file is in force"),
        ("failed", "the file is wrong, and nothing was changed"),
    ]
});
pub(super) const CERTIFICATE: LabelName = fixed("certificate", || {
    vec![
        ("listeners", "the certificate of `[tls]`"),
        ("nodes", "the certificate that nodes are shown"),
        ("store", "the certificate that etcd is shown"),
    ]
});
pub(super) const LINK_CLOSE: LabelName = fixed("reason", list::<LinkClose>);
pub(super) const PORT: LabelName = fixed("listener", list::<Port>);
pub(super) const REFUSED: LabelName = fixed("kind", list::<Refused>);
pub(super) const USER: LabelName = bounded("user", "names of the users in the settings");
pub(super) const LIMIT: LabelName = fixed("limit", list::<Limit>);

pub(super) const fn counter(
    name: &'static str,
    labels: &'static [LabelName],
    help: &'static str,
    read: fn(&Scrape<'_>, &mut Emit),
) -> Family {
    Family {
        name,
        kind: Kind::Counter,
        help,
        labels,
        read,
    }
}

pub(super) const fn gauge(
    name: &'static str,
    labels: &'static [LabelName],
    help: &'static str,
    read: fn(&Scrape<'_>, &mut Emit),
) -> Family {
    Family {
        name,
        kind: Kind::Gauge,
        help,
        labels,
        read,
    }
}

pub(super) const fn histogram(
    name: &'static str,
    labels: &'static [LabelName],
    help: &'static str,
    read: fn(&Scrape<'_>, &mut Emit),
) -> Family {
    Family {
        name,
        kind: Kind::Histogram,
        help,
        labels,
        read,
    }
}
