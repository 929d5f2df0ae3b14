//! redis-rs and fred through preshard: `preshard-matrix redis-rs|redis-rs-3|fred PORT DATABASE`.
//!
//! Like all clients of the matrix it prints `version`, `protocol` and one `did` for each thing that worked, and `ok`.
#![expect(
    clippy::unwrap_used,
    reason = "a client that meets an error should stop, loudly, where it is"
)]

mod fred_rs;
mod redis_rs;

/// The keys of a transaction: any two in a pinned database, two of one shard in the sharded one.
fn pair(prefix: &str, db: u8) -> (String, String) {
    match db {
        0 => (format!("{prefix}:{{t}}:a"), format!("{prefix}:{{t}}:b")),
        _ => (format!("{prefix}:t:a"), format!("{prefix}:other:b")),
    }
}

/// The protocol that preshard says a connection speaks.
fn protocol(info: &str) -> &str {
    info.split("resp=")
        .nth(1)
        .and_then(|rest| rest.split([' ', '\n']).next())
        .unwrap_or("?")
}

/// The exact version of a dependency, as the manifest names it.
fn version(package: &str) -> String {
    let manifest = include_str!("../Cargo.toml");
    let line = manifest
        .lines()
        .find(|line| line.starts_with(&format!("{package} =")))
        .unwrap();
    line.split("\"=")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .to_owned()
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let (port, db) = (arguments[2].parse().unwrap(), arguments[3].parse().unwrap());
    match arguments[1].as_str() {
        "redis-rs" => redis_rs::work(port, db, "").await,
        "redis-rs-3" => redis_rs::work(port, db, "?protocol=resp3").await,
        "fred" => fred_rs::work(port, db).await,
        other => panic!("no client '{other}'"),
    }
    println!("ok");
}
