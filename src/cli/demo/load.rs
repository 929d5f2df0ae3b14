//! The guided load: what an application would send, every reply looked at.
//!
//! | step | sends | over |
//! |---|---|---|
//! | write | `SET user:N` and `RPUSH cart:{user:N}` (the hash tag puts both into one shard) | eight connections, pipelined |
//! | read | `GET user:N` | likewise |
//! | many keys | `MSET` and `MGET` of ten keys in ten shards | one connection |
//! | pinned | `SELECT 3`, then keys of a queue | one connection |

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use super::Failure;
use super::link::{Link, text};
use super::process::Stop;
use crate::resp::Value;

pub(super) const CONNECTIONS: usize = 8;
/// Users in one pipeline; some steps send two requests for each.
pub(super) const PIPELINE: usize = 100;
/// The database of the pinned part.
pub(super) const PINNED_DATABASE: u16 = 3;

const USERS: usize = 20_000;
const MANY: usize = 10;
const MANY_ROUNDS: usize = 500;
const JOBS: usize = 1_000;

/// How many requests took how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) requests: usize,
    pub(super) took: Duration,
}

impl Pace {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a figure for people"
    )]
    pub(super) fn per_second(self) -> u64 {
        (self.requests as f64 / self.took.as_secs_f64().max(1e-6)) as u64
    }
}

/// What the load did.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) write: Pace,
    pub(super) read: Pace,
    pub(super) many: Pace,
    pub(super) pinned: Pace,
}

/// Every key that the load wrote into database 0.
pub(super) fn sharded_keys() -> BTreeSet<String> {
    let users = (0..USERS).flat_map(|number| [user(number), cart(number)]);
    users.chain((0..MANY_ROUNDS * MANY).map(price)).collect()
}

/// Every key that the load wrote into the pinned database.
pub(super) fn pinned_keys() -> BTreeSet<String> {
    (0..JOBS).map(job).collect()
}

fn user(number: usize) -> String {
    format!("user:{number}")
}

fn cart(number: usize) -> String {
    format!("cart:{{user:{number}}}")
}

fn price(number: usize) -> String {
    format!("price:{number}")
}

fn job(number: usize) -> String {
    format!("job:{number}")
}

/// Sends all of it to the proxy at `address`.
pub(super) fn run(address: &str, stop: &Stop) -> Result<Done, Failure> {
    let write = spread(address, stop, |link, number| {
        link.push(&["SET", &user(number), &format!("name-{number}")]);
        link.push(&["RPUSH", &cart(number), "bread", "apples"]);
        vec![Value::OK, Value::Int(2)]
    })?;
    let read = spread(address, stop, |link, number| {
        link.push(&["GET", &user(number)]);
        vec![Value::bulk(format!("name-{number}"))]
    })?;
    Ok(Done {
        write,
        read,
        many: many(address, stop)?,
        pinned: pinned(address, stop)?,
    })
}

/// Every user's requests, over all connections at once. `push` adds them and tells the replies that must come.
fn spread(
    address: &str,
    stop: &Stop,
    push: impl Fn(&mut Link, usize) -> Vec<Value> + Sync,
) -> Result<Pace, Failure> {
    let start = Instant::now();
    let counts: Result<Vec<usize>, Failure> = thread::scope(|scope| {
        let push = &push;
        let running: Vec<_> = (0..CONNECTIONS)
            .map(|first| {
                let numbers: Vec<usize> = (first..USERS).step_by(CONNECTIONS).collect();
                scope.spawn(move || pipelined(address, stop, &numbers, push))
            })
            .collect();
        running
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .map_err(|_| Failure::Broken("a thread of the load panicked".to_owned()))?
            })
            .collect()
    });
    Ok(Pace {
        requests: counts?.iter().sum(),
        took: start.elapsed(),
    })
}

fn pipelined(
    address: &str,
    stop: &Stop,
    numbers: &[usize],
    push: impl Fn(&mut Link, usize) -> Vec<Value>,
) -> Result<usize, Failure> {
    let mut link = Link::connect(address)?;
    let mut requests = 0;
    for batch in numbers.chunks(PIPELINE) {
        stop.check()?;
        let expected: Vec<Value> = batch.iter().flat_map(|number| push(&mut link, *number)).collect();
        link.send()?;
        requests += expected.len();
        for wanted in expected {
            expect(&link.reply()?, &wanted)?;
        }
    }
    Ok(requests)
}

/// MSET and MGET of keys that live in different shards: one request, one reply, in the order asked.
fn many(address: &str, stop: &Stop) -> Result<Pace, Failure> {
    let mut link = Link::connect(address)?;
    let start = Instant::now();
    for round in 0..MANY_ROUNDS {
        stop.check()?;
        let numbers: Vec<usize> = (round * MANY..(round + 1) * MANY).collect();
        let keys: Vec<String> = numbers.iter().map(|number| price(*number)).collect();
        let values: Vec<String> = numbers.iter().map(|number| format!("{number} cents")).collect();
        let pairs = keys
            .iter()
            .zip(&values)
            .flat_map(|(key, value)| [key.as_str(), value.as_str()]);
        link.push(&std::iter::once("MSET").chain(pairs).collect::<Vec<_>>());
        link.push(
            &std::iter::once("MGET")
                .chain(keys.iter().map(String::as_str))
                .collect::<Vec<_>>(),
        );
        link.send()?;
        expect(&link.reply()?, &Value::OK)?;
        let wanted = values.into_iter().map(Value::bulk).collect();
        expect(&link.reply()?, &Value::Array(wanted))?;
    }
    Ok(Pace {
        requests: 2 * MANY_ROUNDS,
        took: start.elapsed(),
    })
}

/// A pinned database: one whole shard, where any keys are neighbours.
fn pinned(address: &str, stop: &Stop) -> Result<Pace, Failure> {
    let mut link = Link::connect(address)?;
    expect(&link.ask(&["SELECT", &PINNED_DATABASE.to_string()])?, &Value::OK)?;
    let start = Instant::now();
    for number in 0..JOBS {
        stop.check()?;
        // Two keys that share no hash tag, in one atomic command: refused in database 0, at home here.
        link.push(&["SET", "incoming", &number.to_string()]);
        link.push(&["RENAME", "incoming", &job(number)]);
        if number % PIPELINE == PIPELINE - 1 {
            link.send()?;
            for _ in 0..2 * PIPELINE {
                expect(&link.reply()?, &Value::OK)?;
            }
        }
    }
    Ok(Pace {
        requests: 2 * JOBS,
        took: start.elapsed(),
    })
}

fn expect(found: &Value, wanted: &Value) -> Result<(), Failure> {
    if found == wanted {
        return Ok(());
    }
    Err(Failure::Broken(format!(
        "a reply is wrong: '{}' instead of '{}'",
        text(found),
        text(wanted)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::slot;

    #[test]
    fn jobs_come_in_whole_pipelines() {
        assert_eq!(JOBS % PIPELINE, 0, "the last replies would not be looked at");
    }

    #[test]
    fn a_cart_lives_with_its_user() {
        assert!((0..100).all(|number| slot(user(number).as_bytes()) == slot(cart(number).as_bytes())));
        assert_eq!(sharded_keys().len(), 2 * USERS + MANY * MANY_ROUNDS);
    }
}
