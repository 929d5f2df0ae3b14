//! `--dry-run`, and the look at Postgres before a flusher starts: what can be seen without taking anything.
//!
//! What members there are is not shown, because only `TAKE` could, and it takes them. Statements are planned with an empty `delta`
//! (`EXPLAIN`), in a transaction that is rolled back: wrong names, types and rights show, data that will be refused does not.

use std::fmt::Write as _;

use tokio_postgres::types::{ToSql, Type};

use super::database::{Database, Failure};
use super::run::FlushError;
use super::settings::{OnBad, OnRollback, Settings};
use super::source::Source;
use super::worker::answer_limit;
use crate::config::units::format_duration;

/// Asks for all columns that are needed, by the rights that are needed.
const TABLES: [(&str, &str); 3] = [
    (
        "preshard_flush",
        "SELECT source, counter, shard, seq, at FROM preshard_flush WHERE source = '' AND counter = '' FOR UPDATE",
    ),
    (
        "preshard_flush",
        "EXPLAIN INSERT INTO preshard_flush (source, counter, shard, seq) VALUES ('', '', 0, 0) \
         ON CONFLICT (source, counter, shard) DO UPDATE SET seq = EXCLUDED.seq, at = now()",
    ),
    (
        "preshard_dead",
        "EXPLAIN INSERT INTO preshard_dead (source, counter, member, delta, batch, error) \
         VALUES ('', '', '', 0, '', '')",
    ),
];

/// Whether the tables are there and each statement can be planned: the plans, or what is wrong with what.
pub(super) async fn check_postgres(
    database: &Database,
    settings: &Settings,
) -> Result<Vec<String>, (String, Failure)> {
    let client = &database.client;
    for (table, question) in TABLES {
        let asked = database.limited(client.batch_execute(question)).await;
        asked.map_err(|failure| {
            let what =
                format!("the table {table} is not as it should be (preshard flush --init-sql makes it)");
            (what, failure)
        })?;
    }
    let mut plans = Vec::new();
    for counter in &settings.counters {
        let told = |failure| (format!("the statement of the counter {}", counter.name), failure);
        let question = format!("EXPLAIN (COSTS OFF) {}", counter.sql.as_str());
        let (members, deltas): (Vec<&str>, Vec<i64>) = (Vec::new(), Vec::new());
        database
            .limited(client.batch_execute("BEGIN"))
            .await
            .map_err(told)?;
        let parameters: [(&(dyn ToSql + Sync), Type); 2] =
            [(&members, Type::TEXT_ARRAY), (&deltas, Type::INT8_ARRAY)];
        let planned = database.limited(client.query_typed(&question, &parameters)).await;
        database.roll_back().await.map_err(told)?;
        let lines = planned.map_err(told)?;
        let lines = lines.iter().filter_map(|row| row.try_get::<_, String>(0).ok());
        plans.push(lines.collect::<Vec<_>>().join("\n"));
    }
    Ok(plans)
}

/// Says what a flusher would do.
pub(super) async fn rehearse(
    settings: &Settings,
    announce: &mut (dyn FnMut(&str) + Send),
) -> Result<(), FlushError> {
    let mut source = Source::new(settings.redis.clone());
    let database = Database::connect(&settings.postgres, answer_limit(settings.lease)).await;
    let database = database.map_err(|error| {
        tracing::warn!(event = "postgres_unreachable", %error);
        FlushError::Unreachable("Postgres")
    })?;
    let plans = check_postgres(&database, settings)
        .await
        .map_err(|(what, failure)| FlushError::Refused(format!("{what}: {failure}")))?;
    announce(&format!(
        "source {}: every {}, lease {}, about {} members in a transaction, {} workers",
        settings.source,
        format_duration(settings.every),
        format_duration(settings.lease),
        settings.count,
        settings.workers
    ));
    for (counter, plan) in settings.counters.iter().zip(plans) {
        let pending = source.pending(&counter.name).await.map_err(|error| {
            tracing::warn!(event = "preshard_lost", %error);
            FlushError::Unreachable("preshard")
        })?;
        let mut line = format!("counter {}:", counter.name);
        for (name, value) in pending {
            // Infallible: a String takes everything.
            let _ = match value {
                Some(value) => write!(line, " {name} {value}"),
                None => write!(line, " {name} -"),
            };
        }
        announce(&line);
        let (bad, rollback) = (
            match counter.on_bad {
                OnBad::DeadLetter => "go to preshard_dead",
                OnBad::Fail => "hold up their batch",
            },
            match counter.on_rollback {
                OnRollback::Apply => "applied",
                OnRollback::Park => "put into preshard_dead",
            },
        );
        announce(&format!(
            "  members are {}; those that Postgres refuses {bad}; what may have been counted is {rollback}",
            counter.member.as_str()
        ));
        for line in plan.lines() {
            announce(&format!("  {line}"));
        }
    }
    announce("nothing has been taken, nothing has been written");
    Ok(())
}
