//! Walks over the target's databases that take parked expiries back, or park real ones.
//!
//! A parked expiry is one that is pushed away by a constant which no real one reaches ([`PARK_KEY_MS`]). So it is known by
//! its size, and no walk can do to a key twice what it does once. Each step is one script: the target does nothing else
//! between reading an expiry and setting it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::CopyError;
use super::link::cut;
use super::plan::CopyPlan;
use super::probe::{Facts, Keyspace, connect, keyspace};
use super::state::{Shared, Writer};
use crate::control::{AskError, NodeClient};
use crate::ids::DbIndex;
use crate::rdb::{Debt, Family, PARK_FIELD_MS, PARK_KEY_MS, Target};
use crate::resp::Value;

/// `KEYS`: what to look at; none: what `SCAN` gives. `ARGV`: the constant, `park` or `unpark`, the limit, whether the server
/// says expiries exactly, whether to name hashes, the cursor. Replies with a cursor, keys that stay parked, hashes, keys that are
/// not there or were parked within the limit, and keys whose expiry has become real.
const OF_KEYS: &str = r"
if redis.replicate_commands then redis.replicate_commands() end
local far, park, limit = tonumber(ARGV[1]), ARGV[2] == 'park', tonumber(ARGV[3])
local exact, fields = ARGV[4] == '1', ARGV[5] == '1'
local keys, cursor, now = KEYS, '0', 0
if #KEYS == 0 then
  local found = redis.call('SCAN', ARGV[6], 'COUNT', 250)
  cursor, keys = found[1], found[2]
end
if not exact then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local owed, hashes, gone, real = {}, {}, {}, {}
for _, key in ipairs(keys) do
  local at
  if exact then
    at = redis.call('PEXPIRETIME', key)
  else
    at = redis.call('PTTL', key)
    if at >= 0 then at = at + now end
  end
  if park then
    if at >= 0 and at < far then
      redis.call('PEXPIREAT', key, string.format('%.0f', at + far))
      if at <= limit then gone[#gone + 1] = key end
    end
  elseif at >= far then
    if at - far > limit then
      redis.call('PEXPIREAT', key, string.format('%.0f', at - far))
      real[#real + 1] = key
    else
      owed[#owed + 1] = key
    end
  end
  if at == -2 and #KEYS > 0 then gone[#gone + 1] = key end
  if fields and redis.call('TYPE', key).ok == 'hash' then hashes[#hashes + 1] = key end
end
return {cursor, owed, hashes, gone, real}";

/// The same for the fields of one hash. `ARGV`: the constant, `park` or `unpark`, the limit, the cursor. Replies with a cursor,
/// 1 if a field stays parked, fields that were parked within the limit, and 1 if the expiry of a field has become real.
const OF_FIELDS: &str = r"
local far, park, limit, key = tonumber(ARGV[1]), ARGV[2] == 'park', tonumber(ARGV[3]), KEYS[1]
local found = redis.call('HSCAN', key, ARGV[4], 'COUNT', 250, 'NOVALUES')
local names, owed, unsure, real = found[2], 0, {}, 0
for first = 1, #names, 200 do
  local last = math.min(first + 199, #names)
  local times = redis.call('HPEXPIRETIME', key, 'FIELDS', last - first + 1, unpack(names, first, last))
  for place, at in ipairs(times) do
    local to
    if park then
      if at >= 0 and at < far then
        to = at + far
        if at <= limit then unsure[#unsure + 1] = names[first + place - 1] end
      end
    elseif at >= far then
      if at - far > limit then
        to = at - far
        real = 1
      else
        owed = 1
      end
    end
    if to then
      redis.call('HPEXPIREAT', key, string.format('%.0f', to), 'FIELDS', 1, names[first + place - 1])
    end
  end
end
return {found[1], owed, unsure, real}";

/// Keys that one script gets by name.
const NAMED: usize = 250;

/// What a walk does to expiries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// Parks those that are real.
    Park,
    /// The same; keys that would expire before this moment of the target's clock count as gone.
    ParkUnless(i64),
    /// Makes parked ones real that come after this moment of the target's clock. The others are owed.
    Unpark(i64),
}

impl Walk {
    /// Makes all of them real.
    pub(super) const ALL: Self = Self::Unpark(-1);

    const fn words(self) -> (&'static str, i64) {
        match self {
            Self::Park => ("park", 0),
            Self::ParkUnless(moment) => ("park", moment),
            Self::Unpark(limit) => ("unpark", limit),
        }
    }
}

/// A connection to the target that walks.
#[derive(Debug)]
pub(super) struct Walker {
    client: NodeClient,
    target: Target,
    shared: Arc<Shared>,
    dbs: Vec<DbIndex>,
}

type Words<'a> = Vec<&'a [u8]>;

impl Walker {
    pub(super) async fn open(
        plan: &CopyPlan,
        facts: &Facts,
        shared: &Arc<Shared>,
    ) -> Result<Self, CopyError> {
        let client = connect(&plan.target, plan.limits.silence).await;
        let mut client = client.map_err(CopyError::of_target)?;
        match client.ask(&["CLIENT", "ID"]).await {
            Ok(Value::Int(id)) => shared.add_writer(Writer {
                run_id: facts.target_run_id.clone(),
                id,
            }),
            Ok(_) => return Err(CopyError::of_target(AskError::NotRedis)),
            Err(error) => return Err(CopyError::of_target(error)),
        }
        Ok(Self {
            client,
            target: facts.target,
            shared: Arc::clone(shared),
            dbs: plan.dbs.iter().map(|(_, db)| *db).collect(),
        })
    }

    /// Keeps the connection from being closed for idleness.
    pub(super) async fn ping(&mut self) -> Result<(), CopyError> {
        let answer = self.client.ask(&["PING"]).await;
        answer.map(|_| ()).map_err(CopyError::of_target)
    }

    /// Our databases that hold something.
    pub(super) async fn used(&mut self) -> Result<Vec<Keyspace>, CopyError> {
        let used = keyspace(&mut self.client).await.map_err(CopyError::of_target)?;
        let ours = used.into_iter().filter(|found| self.dbs.contains(&found.db));
        Ok(ours.collect())
    }

    /// Walks over all of our databases. What is owed is noted. Says how many keys it has looked at, about.
    pub(super) async fn walk(&mut self, walk: Walk) -> Result<u64, CopyError> {
        let mut seen = 0;
        for used in self.used().await? {
            if used.expires + used.field_expires == 0 {
                continue;
            }
            self.select(used.db).await?;
            let fields = used.field_expires > 0;
            let mut cursor = b"0".to_vec();
            loop {
                let (mode, limit) = walk.words();
                let limit = limit.to_string();
                let far = PARK_KEY_MS.to_string();
                let call = self.of_keys(
                    &[],
                    [far.as_bytes(), mode.as_bytes(), limit.as_bytes()],
                    fields,
                    &cursor,
                );
                let reply = self.script(&[call]).await?.pop();
                let seen = reply.and_then(read_keys).ok_or_else(not_redis)?;
                self.owe(used.db, seen.owed)?;
                for key in seen.hashes {
                    if self.walk_fields(&key, walk).await?.owed {
                        self.owe(used.db, vec![key])?;
                    }
                }
                cursor = seen.cursor;
                if cursor == b"0" {
                    break;
                }
            }
            seen += used.keys;
        }
        Ok(seen)
    }

    /// Looks at named keys only. What is not there, or parked within the limit, is said, what is a hash (where fields may
    /// expire), and what may expire from now on.
    pub(super) async fn visit(
        &mut self,
        keys: &[(DbIndex, Vec<u8>)],
        walk: Walk,
    ) -> Result<Visited, CopyError> {
        let mut visited = Visited::default();
        let (mode, limit) = walk.words();
        let (limit, far) = (limit.to_string(), PARK_KEY_MS.to_string());
        let fields = self.expires_fields();
        for of_db in keys.chunk_by(|(one, _), (other, _)| one == other) {
            let Some(db) = of_db.first().map(|(db, _)| *db) else {
                continue;
            };
            self.select(db).await?;
            for some in of_db.chunks(NAMED * 8) {
                let calls: Vec<Words<'_>> = some
                    .chunks(NAMED)
                    .map(|named| {
                        self.of_keys(
                            named,
                            [far.as_bytes(), mode.as_bytes(), limit.as_bytes()],
                            fields,
                            b"0",
                        )
                    })
                    .collect();
                for reply in self.script(&calls).await? {
                    let seen = read_keys(reply).ok_or_else(not_redis)?;
                    self.owe(db, seen.owed)?;
                    visited.gone.extend(seen.gone.into_iter().map(|key| (db, key)));
                    visited.real.extend(seen.real.into_iter().map(|key| (db, key)));
                    for key in seen.hashes {
                        let fields = self.walk_fields(&key, walk).await?;
                        if fields.owed {
                            self.owe(db, vec![key.clone()])?;
                        }
                        if !fields.unsure.is_empty() {
                            visited.fields.push((db, key.clone(), fields.unsure));
                        }
                        if fields.real {
                            visited.real.push((db, key.clone()));
                        }
                        visited.hashes.push((db, key));
                    }
                }
            }
        }
        Ok(visited)
    }

    /// Writes a note into the metadata database.
    pub(super) async fn note(
        &mut self,
        metadata: DbIndex,
        commands: &[crate::control::fence::Words],
    ) -> Result<(), CopyError> {
        self.select(metadata).await?;
        let calls: Vec<Words<'_>> = commands
            .iter()
            .map(|words| words.iter().map(Vec::as_slice).collect())
            .collect();
        self.script(&calls).await.map(|_| ())
    }

    /// Does to the fields of a hash what is done to keys.
    async fn walk_fields(&mut self, key: &[u8], walk: Walk) -> Result<OfFields, CopyError> {
        let (mode, limit) = walk.words();
        let (limit, far) = (limit.to_string(), PARK_FIELD_MS.to_string());
        let (mut cursor, mut fields) = (b"0".to_vec(), OfFields::default());
        loop {
            let call: Words<'_> = vec![
                b"EVAL",
                OF_FIELDS.as_bytes(),
                b"1",
                key,
                far.as_bytes(),
                mode.as_bytes(),
                limit.as_bytes(),
                &cursor,
            ];
            let reply = self.script(&[call]).await?.pop();
            let Some(Value::Array(parts)) = reply else {
                return Err(not_redis());
            };
            fields.owed |= matches!(parts.get(1), Some(Value::Int(1)));
            fields
                .unsure
                .extend(parts.get(2).and_then(list).ok_or_else(not_redis)?);
            fields.real |= matches!(parts.get(3), Some(Value::Int(1)));
            let next = parts.first().and_then(Value::as_bytes).map(<[u8]>::to_vec);
            cursor = next.ok_or_else(not_redis)?;
            if cursor == b"0" {
                break;
            }
        }
        Ok(fields)
    }

    fn owe(&self, db: DbIndex, keys: Vec<Vec<u8>>) -> Result<(), CopyError> {
        if keys.is_empty() {
            return Ok(());
        }
        self.shared
            .owe(keys.into_iter().map(|key| Debt { db, key }).collect())
    }

    async fn select(&mut self, db: DbIndex) -> Result<(), CopyError> {
        let selected = self.client.ask(&["SELECT", &db.to_string()]).await;
        selected.map(|_| ()).map_err(CopyError::of_target)
    }

    fn of_keys<'a>(
        &self,
        named: &'a [(DbIndex, Vec<u8>)],
        how: [&'a [u8]; 3],
        fields: bool,
        cursor: &'a [u8],
    ) -> Words<'a> {
        let yes = |is: bool| -> &'static [u8] { if is { b"1" } else { b"0" } };
        let mut words: Words<'a> = vec![b"EVAL", OF_KEYS.as_bytes()];
        words.push(count_of(named.len()));
        words.extend(named.iter().map(|(_, key)| key.as_slice()));
        words.extend(how);
        words.extend([yes(self.is_exact()), yes(fields), cursor]);
        words
    }

    async fn script(&mut self, calls: &[Words<'_>]) -> Result<Vec<Value>, CopyError> {
        // Whoever is cut off here leaves it counted: the target may still run it.
        self.shared.in_flight.fetch_add(1, Ordering::SeqCst);
        let replies = self.client.ask_all(calls).await.map_err(CopyError::of_target)?;
        self.shared.in_flight.fetch_sub(1, Ordering::SeqCst);
        let error = replies.iter().find_map(|reply| match reply {
            Value::Error(error) => Some(cut(error)),
            _ => None,
        });
        error.map_or(Ok(replies), |error| Err(CopyError::TargetRefused(error)))
    }

    /// `PEXPIRETIME` is there since 7.0.
    const fn is_exact(&self) -> bool {
        matches!(self.target.family, Family::Valkey) || self.target.major >= 7
    }

    const fn expires_fields(&self) -> bool {
        match self.target.family {
            Family::Redis => self.target.major > 7 || self.target.major == 7 && self.target.minor >= 4,
            Family::Valkey => self.target.major >= 9,
        }
    }
}

/// Numbers of keys up to [`NAMED`], as text.
fn count_of(count: usize) -> &'static [u8] {
    static TEXTS: std::sync::LazyLock<Vec<String>> =
        std::sync::LazyLock::new(|| (0..=NAMED).map(|count| count.to_string()).collect());
    TEXTS.get(count).map_or(b"0", |text| text.as_bytes())
}

fn not_redis() -> CopyError {
    CopyError::of_target(AskError::NotRedis)
}

/// What was seen of named keys.
#[derive(Debug, Default)]
pub(super) struct Visited {
    pub(super) gone: Vec<(DbIndex, Vec<u8>)>,
    pub(super) hashes: Vec<(DbIndex, Vec<u8>)>,
    /// Fields of hashes.
    pub(super) fields: Vec<(DbIndex, Vec<u8>, Vec<Vec<u8>>)>,
    /// Keys that may expire from now on, or fields of theirs. A key may stand here twice.
    pub(super) real: Vec<(DbIndex, Vec<u8>)>,
}

/// The replies of [`OF_FIELDS`] for one hash.
#[derive(Debug, Default)]
struct OfFields {
    owed: bool,
    unsure: Vec<Vec<u8>>,
    real: bool,
}

/// The reply of [`OF_KEYS`].
#[derive(Debug)]
struct OfKeys {
    cursor: Vec<u8>,
    owed: Vec<Vec<u8>>,
    hashes: Vec<Vec<u8>>,
    gone: Vec<Vec<u8>>,
    real: Vec<Vec<u8>>,
}

fn list(value: &Value) -> Option<Vec<Vec<u8>>> {
    match value {
        Value::Array(names) => names
            .iter()
            .map(|name| name.as_bytes().map(<[u8]>::to_vec))
            .collect(),
        _ => None,
    }
}

fn read_keys(reply: Value) -> Option<OfKeys> {
    let Value::Array(parts) = reply else { return None };
    match &parts[..] {
        [cursor, owed, hashes, gone, real] => Some(OfKeys {
            cursor: cursor.as_bytes()?.to_vec(),
            owed: list(owed)?,
            hashes: list(hashes)?,
            gone: list(gone)?,
            real: list(real)?,
        }),
        _ => None,
    }
}
