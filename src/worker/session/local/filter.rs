//! Which clients are meant: the filters of `CLIENT KILL` and `CLIENT LIST`, of Redis 7 and 8 and of Valkey 9.
//!
//! All that are given must hold; each has the form `NAME value`, `ID` takes several. Filters that begin with `NOT-` must
//! not hold.

use std::collections::BTreeSet;

use super::number;
use crate::resp::Args;
use crate::worker::registry::{ClientFlags, ClientInfo, ClientType};

/// Which clients are meant.
#[derive(Debug, Default)]
pub(super) struct Filter {
    conditions: Vec<(bool, Condition)>,
    /// The client that asks, if it is not meant.
    skip: Option<u64>,
}

/// What may be asked of a client.
#[derive(Debug)]
enum Condition {
    Ids(BTreeSet<i64>),
    Address(String),
    LocalAddress(String),
    Ip(String),
    Type(ClientType),
    User(String),
    Name(String),
    LibName(String),
    LibVer(String),
    Flags(ClientFlags),
    Db(u16),
    /// No client of preshard has any: `CLIENT CAPA` is refused.
    Capa,
    AgeAtLeast(i64),
    IdleAtLeast(i64),
}

/// How many databases there are, and whether a name is a user's.
pub(super) type Known<'a> = (u16, &'a dyn Fn(&[u8]) -> bool);

impl Filter {
    /// The client that has this address.
    pub(super) fn of_address(address: &[u8]) -> Self {
        Self {
            conditions: vec![(true, Condition::Address(text(address)))],
            skip: None,
        }
    }

    /// The filters from argument 2 on. `own` is the client that asks, which is left out unless it says otherwise where
    /// `skips_own` holds.
    pub(super) fn parse(
        args: &Args<'_>,
        own: u64,
        skips_own: bool,
        known: Known<'_>,
    ) -> Result<Self, String> {
        let mut filter = Self {
            conditions: Vec::new(),
            skip: skips_own.then_some(own),
        };
        let mut at = 2;
        while let Some(word) = args.try_get(at) {
            let value = args.try_get(at + 1).ok_or("ERR syntax error")?;
            let word = word.to_ascii_lowercase();
            let (holds, name) = match word.strip_prefix(b"not-") {
                Some(name) => (false, name),
                None => (true, &word[..]),
            };
            at += 2;
            if name == b"skipme" && holds {
                filter.skip = match value.to_ascii_lowercase().as_slice() {
                    b"yes" => Some(own),
                    b"no" => None,
                    _ => return Err("ERR syntax error".to_owned()),
                };
                continue;
            }
            let condition = match (name, holds) {
                (b"id", _) => {
                    let mut ids = BTreeSet::from([client_id(value)?]);
                    while let Some(more) = args.try_get(at).filter(|more| number(more).is_some()) {
                        ids.insert(client_id(more)?);
                        at += 1;
                    }
                    Condition::Ids(ids)
                }
                (b"maxage", true) => Condition::AgeAtLeast(seconds("maxage", value)?),
                (b"idle", true) => Condition::IdleAtLeast(seconds("idle", value)?),
                _ => condition(name, value, known)?,
            };
            filter.conditions.push((holds, condition));
        }
        Ok(filter)
    }

    pub(super) fn matches(&self, info: &ClientInfo, now_ms: u64) -> bool {
        self.skip != Some(info.id)
            && self
                .conditions
                .iter()
                .all(|(holds, condition)| condition.matches(info, now_ms) == *holds)
    }
}

impl Condition {
    fn matches(&self, info: &ClientInfo, now_ms: u64) -> bool {
        match self {
            Self::Ids(ids) => i64::try_from(info.id).is_ok_and(|id| ids.contains(&id)),
            Self::Address(address) => *address == info.address,
            Self::LocalAddress(address) => *address == info.local_address,
            Self::Ip(ip) => info
                .address
                .rsplit_once(':')
                .is_some_and(|(host, _)| host == ip || host.trim_matches(['[', ']']) == ip),
            Self::Type(kind) => info.kind() == *kind,
            Self::User(user) => *info.names().user == **user,
            Self::Name(name) => info.names().name == *name,
            Self::LibName(name) => info.names().lib_name == *name,
            Self::LibVer(version) => info.names().lib_ver == *version,
            Self::Flags(flags) => info.flags().has_all(*flags),
            Self::Db(db) => info.db.load(std::sync::atomic::Ordering::Relaxed) == *db,
            Self::Capa => false,
            Self::AgeAtLeast(least) => info.age_seconds(now_ms) >= *least,
            Self::IdleAtLeast(least) => info.idle_seconds(now_ms) >= *least,
        }
    }
}

/// A filter that takes one value and may be denied.
fn condition(name: &[u8], value: &[u8], (dbs, is_user): Known<'_>) -> Result<Condition, String> {
    Ok(match name {
        b"addr" => Condition::Address(text(value)),
        b"laddr" => Condition::LocalAddress(text(value)),
        b"ip" => Condition::Ip(text(value)),
        b"type" => Condition::Type(client_type(value)?),
        b"user" if !is_user(value) => return Err(format!("ERR No such user '{}'", text(value))),
        b"user" => Condition::User(text(value)),
        b"name" => Condition::Name(text(value)),
        b"lib-name" => Condition::LibName(text(value)),
        b"lib-ver" => Condition::LibVer(text(value)),
        b"flags" => {
            let flags = std::str::from_utf8(value).ok().and_then(ClientFlags::parse);
            Condition::Flags(
                flags.ok_or_else(|| {
                    format!("ERR Unknown flags found in the provided filter: {}", text(value))
                })?,
            )
        }
        b"db" => {
            let db = number(value).ok_or("ERR DB is not an integer or out of range")?;
            let db = u16::try_from(db).ok().filter(|&db| db < dbs);
            Condition::Db(db.ok_or_else(|| format!("ERR DB number should be between 0 and {}", dbs - 1))?)
        }
        b"capa" => Condition::Capa,
        _ => return Err("ERR syntax error".to_owned()),
    })
}

fn client_id(value: &[u8]) -> Result<i64, String> {
    number(value)
        .filter(|&id| id > 0)
        .ok_or_else(|| "ERR client-id should be greater than 0".to_owned())
}

fn seconds(name: &str, value: &[u8]) -> Result<i64, String> {
    let seconds = number(value).ok_or_else(|| format!("ERR {name} is not an integer or out of range"))?;
    if seconds <= 0 {
        return Err(format!("ERR {name} should be greater than 0"));
    }
    Ok(seconds)
}

fn client_type(word: &[u8]) -> Result<ClientType, String> {
    ClientType::parse(word).ok_or_else(|| format!("ERR Unknown client type '{}'", text(word)))
}

fn text(word: &[u8]) -> String {
    String::from_utf8_lossy(word).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{RequestLimits, RequestScanner, write_request};
    use std::sync::atomic::Ordering::Relaxed;

    fn parse(line: &str, own: u64) -> Result<Filter, String> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut frame = Vec::new();
        write_request(&mut frame, &words);
        let mut ranges = Vec::new();
        let _ = RequestScanner::default().scan(&frame, &mut ranges, &RequestLimits::default());
        let known = |user: &[u8]| matches!(user, b"default" | b"app");
        Filter::parse(&Args::new(&frame, &ranges), own, true, (5, &known))
    }

    fn clients() -> Vec<ClientInfo> {
        let client = |id: u64, address: &str, connected_ms| {
            ClientInfo::new(
                id,
                address.to_owned(),
                "127.0.0.1:6380".to_owned(),
                0,
                connected_ms,
            )
        };
        let all = vec![
            client(1, "127.0.0.1:1001", 0),
            client(2, "10.0.0.2:1002", 5_000),
            client(3, "[::1]:1003", 9_500),
        ];
        all[1].sub.store(1, Relaxed);
        all[1].db.store(3, Relaxed);
        all[2].names().name = "web".to_owned();
        all[2].names().lib_name = "redis-py".to_owned();
        all[0].set_flags(ClientFlags::MULTI.with(ClientFlags::NO_TOUCH));
        all
    }

    #[test]
    fn filters_choose_and_combine() {
        let clients = clients();
        for (line, expected) in [
            ("CLIENT KILL ID 1 2 3", vec![1, 2]),
            ("CLIENT KILL ID 1 2 SKIPME no", vec![1, 2]),
            ("CLIENT KILL SKIPME no", vec![1, 2, 3]),
            ("CLIENT KILL SKIPME yes", vec![1, 2]),
            ("CLIENT KILL TYPE pubsub", vec![2]),
            ("CLIENT KILL TYPE NORMAL SKIPME no", vec![1, 3]),
            ("CLIENT KILL TYPE primary SKIPME no", vec![]),
            ("CLIENT KILL NOT-TYPE pubsub", vec![1]),
            ("CLIENT KILL TYPE normal ADDR 127.0.0.1:1001", vec![1]),
            ("CLIENT KILL LADDR 127.0.0.1:6380 SKIPME no", vec![1, 2, 3]),
            ("CLIENT KILL NOT-LADDR 127.0.0.1:6380 SKIPME no", vec![]),
            ("CLIENT KILL IP ::1 SKIPME no", vec![3]),
            ("CLIENT KILL NOT-IP 10.0.0.2 SKIPME no", vec![1, 3]),
            ("CLIENT KILL MAXAGE 5 SKIPME no", vec![1, 2]),
            ("CLIENT KILL IDLE 10 SKIPME no", vec![1]),
            ("CLIENT KILL USER default SKIPME no", vec![1, 2, 3]),
            ("CLIENT KILL USER app SKIPME no", vec![]),
            ("CLIENT KILL NAME web SKIPME no", vec![3]),
            ("CLIENT KILL NOT-NAME web NOT-ID 1", vec![2]),
            ("CLIENT KILL LIB-NAME redis-py SKIPME no", vec![3]),
            ("CLIENT KILL FLAGS xT SKIPME no", vec![1]),
            ("CLIENT KILL FLAGS N SKIPME no", vec![3]),
            ("CLIENT KILL NOT-FLAGS x SKIPME no", vec![2, 3]),
            ("CLIENT KILL DB 3", vec![2]),
            ("CLIENT KILL CAPA r SKIPME no", vec![]),
            ("CLIENT KILL NOT-CAPA r SKIPME no", vec![1, 2, 3]),
        ] {
            let filter = parse(line, 3).unwrap();
            let ids: Vec<u64> = clients
                .iter()
                .filter(|info| filter.matches(info, 10_000))
                .map(|info| info.id)
                .collect();
            assert_eq!(ids, expected, "{line}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_in_the_servers_words() {
        for (line, error) in [
            ("CLIENT KILL ID x", "ERR client-id should be greater than 0"),
            ("CLIENT KILL ID 1 0", "ERR client-id should be greater than 0"),
            ("CLIENT KILL ID 1 TYPE", "ERR syntax error"),
            ("CLIENT KILL TYPE foo", "ERR Unknown client type 'foo'"),
            ("CLIENT KILL USER nobody", "ERR No such user 'nobody'"),
            ("CLIENT KILL SKIPME maybe", "ERR syntax error"),
            ("CLIENT KILL NOT-SKIPME yes", "ERR syntax error"),
            ("CLIENT KILL NOT-MAXAGE 1", "ERR syntax error"),
            (
                "CLIENT KILL MAXAGE x",
                "ERR maxage is not an integer or out of range",
            ),
            ("CLIENT KILL IDLE 0", "ERR idle should be greater than 0"),
            (
                "CLIENT KILL FLAGS xQ",
                "ERR Unknown flags found in the provided filter: xQ",
            ),
            ("CLIENT KILL DB 9", "ERR DB number should be between 0 and 4"),
            ("CLIENT KILL FOO bar", "ERR syntax error"),
        ] {
            assert_eq!(parse(line, 1).unwrap_err(), error, "{line}");
        }
    }
}
